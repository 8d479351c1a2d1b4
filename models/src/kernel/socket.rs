//! Sockets: who listens where, and which connections exist.
//!
//! The kernel only needs to know who gets a packet; what TCP or an application then does lives with whoever owns
//! the socket.

use std::net::IpAddr;

use crate::base::{Errno, Family, FxIndexMap};
use crate::wire::{FiveTuple, L4};

/// Identifies a socket of one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u32);

/// A local or remote end.
pub type End = (IpAddr, u16);

/// Sockets bound to one port: their address (`None` is all addresses).
type Bound = Vec<(Option<IpAddr>, SocketId)>;

/// Sockets of a namespace.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    next: u32,
    /// Bound, unconnected sockets: (protocol, port) to those bound there, most specific address first.
    listeners: FxIndexMap<(L4, u16), Bound>,
    /// Connected sockets by the flow they send.
    connected: FxIndexMap<FiveTuple, SocketId>,
}

/// What a lookup finds for an arriving packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This socket takes it.
    Socket(SocketId),
    /// A process listens on the port, but on another address.
    BoundElsewhere(IpAddr),
    /// Nobody.
    Nobody,
}

impl Sockets {
    /// Binds a socket to a port on one address, on all of one family (`0.0.0.0`, `::`), or on all (`None`).
    ///
    /// # Errors
    /// EADDRINUSE if the port is taken on that address, or on all.
    pub fn bind(&mut self, l4: L4, addr: Option<IpAddr>, port: u16) -> Result<SocketId, Errno> {
        let id = SocketId(self.next);
        let bound = self.listeners.entry((l4, port)).or_default();
        let clash = |other: &Option<IpAddr>| match (addr, other) {
            (Some(a), Some(b)) => {
                let any = a.is_unspecified() || b.is_unspecified();
                a == *b || any && Family::of(a) == Family::of(*b)
            }
            (None, _) | (_, None) => true,
        };
        if bound.iter().any(|(other, _)| clash(other)) {
            return Err(Errno::EADDRINUSE);
        }
        bound.push((addr, id));
        self.next += 1;
        Ok(id)
    }

    /// Makes a connected socket.
    ///
    /// # Errors
    /// EADDRNOTAVAIL if the same connection exists.
    pub fn connect(&mut self, l4: L4, local: End, remote: End) -> Result<SocketId, Errno> {
        if self.connected.contains_key(&flow(l4, local, remote)) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let id = SocketId(self.next);
        self.next += 1;
        self.connected.insert(flow(l4, local, remote), id);
        Ok(id)
    }

    /// Closes a bound socket.
    pub fn unbind(&mut self, socket: SocketId) {
        self.listeners.retain(|_, bound| {
            bound.retain(|(_, id)| *id != socket);
            !bound.is_empty()
        });
    }

    /// Closes the connected socket with these ends.
    pub fn disconnect(&mut self, l4: L4, local: End, remote: End) {
        self.connected.swap_remove(&flow(l4, local, remote));
    }

    /// Returns who gets a packet for `local` from `remote`.
    pub fn lookup(&self, l4: L4, local: End, remote: End) -> Found {
        if let Some(id) = self.connected.get(&flow(l4, local, remote)) {
            return Found::Socket(*id);
        }
        let bound = self
            .listeners
            .get(&(l4, local.1))
            .map_or(&[][..], Vec::as_slice);
        let fits = |(addr, _): &&(Option<IpAddr>, SocketId)| match addr {
            Some(any) if any.is_unspecified() => Family::of(*any) == Family::of(local.0),
            Some(addr) => *addr == local.0,
            None => true,
        };
        if let Some((_, id)) = bound.iter().find(fits) {
            return Found::Socket(*id);
        }
        match bound.first() {
            Some((Some(addr), _)) => Found::BoundElsewhere(*addr),
            Some((None, _)) | None => Found::Nobody,
        }
    }

    /// Returns the connected socket of an outgoing packet's ends, for errors that concern it.
    pub fn connected(&self, l4: L4, local: End, remote: End) -> Option<SocketId> {
        self.connected.get(&flow(l4, local, remote)).copied()
    }

    /// Returns whether any connection has this local end, whoever is at the other.
    pub fn uses_local(&self, l4: L4, local: End) -> bool {
        self.connected
            .keys()
            .any(|flow| flow.l4 == l4 && (flow.src, flow.sport) == local)
    }

    /// Returns whether a local port is used by any connection to `remote` or by a listener.
    pub fn port_taken(&self, l4: L4, local: End, remote: End) -> bool {
        self.connected.contains_key(&flow(l4, local, remote))
            || self.listeners.contains_key(&(l4, local.1))
    }

    /// Returns whether a socket bound to this port on all addresses of a family would clash with another one
    /// (`inet_csk_bind_conflict`, without `SO_REUSEADDR`).
    pub fn bind_conflict(&self, l4: L4, family: Family, port: u16) -> bool {
        let clash = |(addr, _): &(Option<IpAddr>, SocketId)| {
            addr.is_none_or(|addr| Family::of(addr) == family)
        };
        let bound = self.listeners.get(&(l4, port));
        bound.is_some_and(|bound| bound.iter().any(clash))
            || self
                .connected
                .keys()
                .any(|flow| (flow.l4, Family::of(flow.src), flow.sport) == (l4, family, port))
    }

    /// Returns the bound sockets, for `ss -l`: protocol, address (`None` is all), port.
    pub fn listening(&self) -> impl Iterator<Item = (L4, Option<IpAddr>, u16)> {
        self.listeners
            .iter()
            .flat_map(|(&(l4, port), bound)| bound.iter().map(move |(addr, _)| (l4, *addr, port)))
    }

    /// Returns the bound, unconnected sockets.
    pub fn bound(&self) -> impl Iterator<Item = SocketId> {
        self.listeners.values().flatten().map(|(_, id)| *id)
    }
}

/// The flow that the socket with these ends sends.
const fn flow(l4: L4, local: End, remote: End) -> FiveTuple {
    FiveTuple {
        l4,
        src: local.0,
        sport: local.1,
        dst: remote.0,
        dport: remote.1,
        request: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_port_is_taken_by_listeners_and_connections_of_its_family() {
        let mut sockets = Sockets::default();
        let ends = ((ip("10.0.0.1"), 40000), (ip("10.0.0.2"), 80));
        sockets.connect(L4::Tcp, ends.0, ends.1).expect("free");
        sockets.bind(L4::Tcp, None, 80).expect("free");
        sockets.bind(L4::Tcp, Some(ip("::1")), 81).expect("free");
        let taken = |family, port| sockets.bind_conflict(L4::Tcp, family, port);
        assert!(taken(Family::V4, 40000), "a connection has it");
        assert!(!taken(Family::V6, 40000), "of the other family");
        assert!(taken(Family::V4, 80) && taken(Family::V6, 80), "both");
        assert!(!taken(Family::V4, 81) && taken(Family::V6, 81));
        assert!(!sockets.bind_conflict(L4::Udp, Family::V4, 80));
    }

    #[test]
    fn bound_to_loopback_refuses_the_pod_address() {
        let mut sockets = Sockets::default();
        sockets
            .bind(L4::Tcp, Some(ip("127.0.0.1")), 80)
            .expect("free");
        let remote = (ip("10.244.1.9"), 40000);
        let found = sockets.lookup(L4::Tcp, (ip("10.244.1.2"), 80), remote);
        assert_eq!(found, Found::BoundElsewhere(ip("127.0.0.1")));
        assert_eq!(sockets.bind(L4::Tcp, None, 80), Err(Errno::EADDRINUSE));
    }
}
