//! The programs that run in pods and on hosts: one enum over the state machines of [`crate::traffic`].

use std::sync::Arc;

use podwire_models::base::{Dice, ObjectKey, ObjectName};
use podwire_models::control::dns::records::Zone;
use podwire_models::wire::{DnsResponse, RecordType};

use crate::simulation::Behaviour;
use crate::traffic::coredns::{self, NameServer};
use crate::traffic::dig::Dig;
use crate::traffic::icmp::{Ping, Traceroute};
use crate::traffic::probe::Probe;
use crate::traffic::sctp::SctpServer;
use crate::traffic::tcp::{TcpClient, TcpServer};
use crate::traffic::udp::{UdpClient, UdpServer};
use crate::traffic::{AppEvent, Ctx};

/// A program.
#[derive(Clone, Debug)]
pub enum Program {
    /// Answers requests over TCP.
    TcpServer(Box<TcpServer>),
    /// Answers datagrams.
    UdpServer(UdpServer),
    /// Answers requests over SCTP.
    SctpServer(Box<SctpServer>),
    /// Answers questions about names.
    NameServer(NameServer, Arc<Zone>),
    /// A node's kube-proxy, asked for its health.
    Health(Box<Health>),
    /// One request over TCP.
    TcpClient(Box<TcpClient>),
    /// One datagram.
    UdpClient(UdpClient),
    /// A name or address, then one of the clients, or an echo.
    Probe(Box<Probe>),
    /// `ping`.
    Ping(Box<Ping>),
    /// `traceroute`.
    Traceroute(Box<Traceroute>),
    /// `dig`.
    Dig(Box<Dig>),
}

/// One of the ports on which a node's kube-proxy answers load balancers.
#[derive(Clone, Debug)]
pub struct Health {
    /// The node.
    pub node: ObjectName,
    /// The Service it speaks of, and its port; nothing for kube-proxy itself.
    pub about: (Option<ObjectKey>, u16),
    /// The web server.
    pub server: TcpServer,
}

/// The zone, as the name server asks it.
struct Answers<'a>(&'a Zone);

impl coredns::Zone for Answers<'_> {
    fn answer(&self, name: &str, record_type: RecordType) -> DnsResponse {
        self.0.answer(name, record_type)
    }
}

impl Behaviour for Program {
    fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        match self {
            Self::TcpServer(server) => server.handle(event, cx),
            Self::UdpServer(server) => server.handle(event, cx),
            Self::SctpServer(server) => server.handle(event, cx),
            Self::NameServer(server, zone) => server.handle(event, &Answers(zone), cx),
            Self::Health(health) => health.server.handle(event, cx),
            Self::TcpClient(client) => client.handle(event, cx),
            Self::UdpClient(client) => client.handle(event, cx),
            Self::Probe(probe) => probe.handle(event, cx),
            Self::Ping(ping) => ping.handle(event, cx),
            Self::Traceroute(traceroute) => traceroute.handle(event, cx),
            Self::Dig(dig) => dig.handle(event, cx),
        }
    }
}
