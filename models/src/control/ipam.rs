//! Who gets which address: pod ranges for nodes (`nodeipam/ipam/cidrset`), pod addresses on a node (`host-local`),
//! Service addresses and node ports (API server).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::cni::plugin::host_local::{RangeConfig, RangeSet};
use crate::base::Family;
use crate::base::addr::{from_bits, nth_addr, to_bits};
use crate::base::hash::stable_hash;

/// No range is left (event `CIDRNotAvailable`), or no address (`host-local`: no IP addresses available in range).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// No pod range for another node.
    #[error("CIDR allocation failed; there are no remaining CIDRs left to allocate in {0}")]
    NodeCidr(IpNet),
    /// No address for another pod.
    #[error("no IP addresses available in range set: {0}")]
    PodIp(IpNet),
    /// No address for another Service.
    #[error("range is full: {0}")]
    ServiceIp(IpNet),
}

/// Hands out pod ranges to nodes: the next free one after the last handed out, round and round
/// (`CidrSet.AllocateNext`).
#[derive(Clone, Debug)]
pub struct NodeCidrs {
    cluster: IpNet,
    mask: u8,
    used: BTreeSet<u128>,
    next: u128,
}

impl NodeCidrs {
    /// Divides `cluster` into ranges of `mask` bits (24 for IPv4, 64 for IPv6 by default).
    pub const fn new(cluster: IpNet, mask: u8) -> Self {
        Self {
            cluster,
            mask,
            used: BTreeSet::new(),
            next: 0,
        }
    }

    /// Divides `cluster` as kube-controller-manager does by default.
    pub const fn with_default_mask(cluster: IpNet) -> Self {
        match Family::of_net(cluster) {
            Family::V4 => Self::new(cluster, 24),
            Family::V6 => Self::new(cluster, 64),
        }
    }

    fn count(&self) -> u128 {
        let bits = self.mask.saturating_sub(self.cluster.prefix_len());
        1_u128 << bits.min(16)
    }

    fn step(&self) -> u128 {
        1_u128
            << (Family::of_net(self.cluster)
                .bits()
                .saturating_sub(self.mask))
            .min(127)
    }

    /// Marks a range that a node has already.
    pub fn occupy(&mut self, range: IpNet) {
        if self.cluster.contains(&range.network()) {
            let offset = to_bits(range.network()) - to_bits(self.cluster.network());
            self.used.insert(offset / self.step());
        }
    }

    /// Returns the next free range.
    ///
    /// # Errors
    /// If none is left.
    pub fn allocate(&mut self) -> Result<IpNet, Exhausted> {
        let exhausted = Exhausted::NodeCidr(self.cluster);
        if self.mask < self.cluster.prefix_len() {
            return Err(exhausted);
        }
        let count = self.count();
        let free = (0..count)
            .map(|n| (self.next + n) % count)
            .find(|n| !self.used.contains(n));
        let index = free.ok_or(exhausted)?;
        self.used.insert(index);
        self.next = (index + 1) % count;
        let bits = to_bits(self.cluster.network()) + index * self.step();
        let addr = from_bits(Family::of_net(self.cluster), bits).ok_or(exhausted)?;
        IpNet::new(addr, self.mask).map_err(|_| exhausted)
    }
}

/// Addresses of one node's pod range, in the order of `host-local`: upward from the last one handed out, wrapping, without
/// network address, gateway (the first) and broadcast address.
#[derive(Clone, Debug)]
pub struct HostLocal {
    range: IpNet,
    leases: BTreeMap<IpAddr, Arc<str>>,
    last: Option<IpAddr>,
}

impl HostLocal {
    /// Returns the pool of a range.
    pub const fn new(range: IpNet) -> Self {
        Self {
            range,
            leases: BTreeMap::new(),
            last: None,
        }
    }

    /// Returns the range.
    pub const fn range(&self) -> IpNet {
        self.range
    }

    /// Returns the gateway: the first address.
    pub fn gateway(&self) -> Option<IpAddr> {
        nth_addr(self.range, 1)
    }

    /// Marks an address that a pod has already.
    pub fn occupy(&mut self, addr: IpAddr, owner: &str) {
        if self.range.contains(&addr) {
            self.leases.insert(addr, owner.into());
            self.last = self.last.max(Some(addr));
        }
    }

    /// Returns the next free address.
    ///
    /// # Errors
    /// If all are taken, or the range is too small to hand out any.
    pub fn allocate(&mut self, owner: &str) -> Result<IpAddr, Exhausted> {
        let exhausted = Exhausted::PodIp(self.range);
        let subnet = Some(self.range.trunc());
        let config = RangeConfig {
            subnet,
            ..RangeConfig::default()
        };
        let set = RangeSet::new(&[config]).map_err(|_| exhausted)?;
        let mut turn = set.after(self.last);
        let found = turn.find(|(ip, _)| !self.leases.contains_key(ip));
        let (found, _) = found.ok_or(exhausted)?;
        self.leases.insert(found, owner.into());
        self.last = Some(found);
        Ok(found)
    }

    /// Gives the addresses of an owner back; they are handed out again only after the cursor has wrapped.
    pub fn release(&mut self, owner: &str) {
        self.leases.retain(|_, of| &**of != owner);
    }

    /// An owner goes without giving its addresses back: they stay taken, and nobody has them.
    pub fn leak(&mut self, owner: &str) {
        for of in self.leases.values_mut().filter(|of| ***of == *owner) {
            *of = "".into();
        }
    }

    /// Returns how many addresses are taken by nobody.
    pub fn leaked(&self) -> usize {
        self.leases.values().filter(|of| of.is_empty()).count()
    }

    /// Returns who has which address.
    pub fn leases(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.leases.iter().map(|(ip, of)| (*ip, &**of))
    }
}

/// Hands out Service addresses.
///
/// # Fidelity
/// The API server draws at random from the upper part of the range (KEP-3070); here the address depends on the
/// Service's name, so that it never changes when other Services come and go.
#[derive(Clone, Debug)]
pub struct ServiceIps {
    range: IpNet,
    used: BTreeSet<IpAddr>,
}

impl ServiceIps {
    /// Returns the pool of a range.
    pub const fn new(range: IpNet) -> Self {
        Self {
            range,
            used: BTreeSet::new(),
        }
    }

    /// Returns the range.
    pub const fn range(&self) -> IpNet {
        self.range
    }

    /// Marks an address that a Service has already.
    pub fn occupy(&mut self, addr: IpAddr) {
        self.used.insert(addr);
    }

    /// Returns an address for the Service of that name.
    ///
    /// # Errors
    /// If all are taken.
    pub fn allocate(&mut self, name: &str) -> Result<IpAddr, Exhausted> {
        let exhausted = Exhausted::ServiceIp(self.range);
        let host = Family::of_net(self.range).bits() - self.range.prefix_len();
        let size = (1_u128 << host.min(16)).saturating_sub(2);
        // The lower part is for addresses chosen by hand: min(max(16, size/16), 256).
        let band = (size / 16).clamp(16, 256).min(size / 2);
        let room = size.saturating_sub(band).max(1);
        let start = u128::from(stable_hash(name.as_bytes())) % room;
        let tries = (0..room).map(|n| 1 + band + (start + n) % room);
        let addr = tries
            .filter_map(|n| nth_addr(self.range, n))
            .find(|a| !self.used.contains(a));
        let addr = addr.ok_or(exhausted)?;
        self.used.insert(addr);
        Ok(addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    #[test]
    fn a_slash_16_has_room_for_256_nodes() {
        let mut cidrs = NodeCidrs::with_default_mask(net("10.244.0.0/16"));
        for n in 0..256 {
            assert_eq!(cidrs.allocate(), Ok(net(&format!("10.244.{n}.0/24"))));
        }
        assert!(cidrs.allocate().is_err());
    }

    #[test]
    fn a_released_address_comes_back_only_after_the_cursor_wraps() {
        let mut pool = HostLocal::new(net("10.244.1.0/29"));
        let all: Vec<_> = (0..5).map(|n| pool.allocate(&format!("p{n}"))).collect();
        let want: Vec<IpAddr> = (2..7)
            .map(|n| format!("10.244.1.{n}").parse().expect("an address"))
            .collect();
        assert_eq!(
            all.into_iter().collect::<Result<Vec<_>, _>>(),
            Ok(want.clone())
        );
        assert!(pool.allocate("late").is_err());
        pool.leak("p4");
        pool.release("p4");
        assert!(pool.allocate("late").is_err(), "nobody gives it back");
        assert_eq!(pool.leaked(), 1);
        pool.release("p3");
        pool.release("p0");
        assert_eq!(pool.allocate("x").ok(), want.first().copied());
        assert_eq!(pool.allocate("y").ok(), want.get(3).copied());
    }
}
