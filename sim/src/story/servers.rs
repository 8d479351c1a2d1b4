//! The servers that a scenario asks for beside those of its pods.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::{Dice, ObjectKey};
use podwire_models::wire::{Action, L4, NetnsId};

use super::resolve::Server;
use super::run::Run;
use crate::program::Program;
use crate::traffic::{sctp, tcp, udp};

impl<D: Dice> Run<'_, D> {
    /// Starts the servers that the scenario itself asks for.
    pub(super) fn serve_more(&mut self) {
        let pods: Vec<ObjectKey> = self.lab.objects.pods.keys().cloned().collect();
        for pod in pods {
            self.serve_listeners(&pod);
        }
        for (host, l4, port) in &self.story.hosts {
            let netns = self.lab.machines.hosts.get(host.as_str()).copied();
            if let Some(netns) = netns {
                self.serve_port(
                    netns,
                    &host.as_str().into(),
                    *l4,
                    None,
                    *port,
                    (Duration::ZERO, None),
                );
            }
        }
    }

    /// Starts the servers that the scenario wants in a pod.
    pub(super) fn serve_listeners(&mut self, key: &ObjectKey) {
        let Some(pod) = self.lab.objects.pods.get(key).cloned() else {
            return;
        };
        let story = self.story;
        for server in &story.listen {
            let listen = &server.pods;
            let here = listen.namespace.as_ref();
            if listen.pods.matches(&pod.labels)
                && here.is_none_or(|n| **n == pod.key.namespace)
                && let Some(netns) = self.lab.machines.netns_of(&pod)
            {
                self.serve(netns, &pod.key.to_string().into(), server);
            }
        }
    }

    pub(super) fn serve(&mut self, netns: NetnsId, name: &Arc<str>, server: &Server) {
        let address = server.pods.address.as_deref().copied();
        let tcp = server.pods.tcp.iter().map(|port| (L4::Tcp, *port));
        let udp = server.pods.udp.iter().map(|port| (L4::Udp, *port));
        let sctp = server.pods.sctp.iter().map(|port| (L4::Sctp, *port));
        for (l4, port) in tcp.chain(udp).chain(sctp) {
            let answer = server.pods.answer.as_ref().map(|size| size.0);
            let answer = answer.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
            let how = (server.service_time, answer);
            self.serve_port(netns, name, l4, address, port, how);
        }
    }

    pub(super) fn serve_port(
        &mut self,
        netns: NetnsId,
        name: &Arc<str>,
        l4: L4,
        address: Option<IpAddr>,
        port: u16,
        (service_time, answer): (Duration, Option<u32>),
    ) {
        let mtu = self.simulation.mtu_of(netns);
        let program = match l4 {
            L4::Tcp => {
                let mut settings = tcp::ServerSettings::new(Arc::clone(name));
                settings.service_time = service_time;
                settings.mtu = mtu;
                settings.response_len = answer.unwrap_or(settings.response_len);
                Program::TcpServer(Box::new(tcp::TcpServer::new(settings)))
            }
            L4::Udp => {
                let mut settings = udp::ServerSettings::new(Arc::clone(name));
                settings.service_time = service_time;
                settings.mtu = mtu;
                Program::UdpServer(udp::UdpServer::new(settings))
            }
            L4::Sctp => {
                let mut settings = sctp::ServerSettings::new(Arc::clone(name));
                settings.service_time = service_time;
                settings.mtu = mtu;
                Program::SctpServer(Box::new(sctp::SctpServer::new(settings)))
            }
            L4::Icmp => return,
        };
        let app = self
            .simulation
            .add_app(netns, &format!("server {name} {port}/{l4}"), program);
        if let Err(errno) = self.simulation.listen(app, l4, address, port) {
            let text = format!("{name} cannot listen on {port}/{l4}: {errno}");
            self.note(Action::Note { text });
        }
    }
}
