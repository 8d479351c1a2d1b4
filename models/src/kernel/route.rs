//! Routing tables of one namespace: `local` first, then `main`, the longest prefix wins, then the lowest metric.
//!
//! Leaves out: policy routing (`ip rule`), multipath, the route cache other than path MTUs (see `path`).
//! Source: `net/ipv4/fib_trie.c`, `ip-route(8)`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use ipnet::IpNet;

use super::Netns;
use super::config::RouteKind;
use super::link::{DeviceKind, Scope};
use super::netfilter::chain::AddrType;
use crate::base::addr::{from_bits, host_net, to_bits};
use crate::base::{Errno, Family, OriginId};
use crate::wire::DevIndex;

/// An entry of a routing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Type.
    pub kind: RouteKind,
    /// Destination prefix.
    pub dst: IpNet,
    /// Next router, if the destination is not on the link.
    pub gateway: Option<IpAddr>,
    /// Output device.
    pub dev: Option<DevIndex>,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// Metric; lower wins.
    pub metric: u32,
    /// Scope.
    pub scope: Scope,
    /// Whether the gateway is taken to be on the link.
    pub onlink: bool,
    /// Whether the kernel made it for an address (`proto kernel`).
    pub kernel: bool,
    /// MTU, if lower than the device's.
    pub mtu: Option<u32>,
    /// The object it was made from.
    pub origin: OriginId,
}

/// Table local or main.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    Local,
    Main,
}

impl Table {
    const fn of(kind: RouteKind) -> Self {
        match kind {
            RouteKind::Local | RouteKind::Broadcast => Self::Local,
            RouteKind::Unicast
            | RouteKind::Blackhole
            | RouteKind::Unreachable
            | RouteKind::Prohibit => Self::Main,
        }
    }
}

/// Tables of fewer routes take no more memory than they need: there is one in every pod.
const FEW: usize = 16;

/// What a network is found by: its table, its length, its first address.
type Key = (Table, u8, u128);

fn key_of(route: &Route) -> Key {
    let (len, start) = (route.dst.prefix_len(), to_bits(route.dst.network()));
    (Table::of(route.kind), len, start)
}

/// Both tables of one family.
#[derive(Clone, Debug)]
struct Prefixes {
    family: Family,
    /// Routes in the order of their keys; those of one network lowest metric first.
    own: Vec<Route>,
    /// Routes of table main that other namespaces have as well.
    shared: Option<Arc<Shared>>,
    /// Networks of `shared` that do not count here, in order: they are gone, or among the own ones.
    hidden: Vec<Key>,
    /// What look-ups search; worked out when first asked for after a change.
    compiled: OnceLock<Box<Compiled>>,
}

/// Routes of table main that many namespaces have alike, one for each network, in the order of their keys: the routes of
/// nodes to the pods of all others. Kept once.
#[derive(Clone, Debug)]
pub struct Shared {
    routes: Vec<Route>,
    ranges: Ranges,
    /// For each route the one whose network its own lies in.
    around: Vec<u32>,
    /// Length of the longest prefix.
    longest: u8,
}

impl Shared {
    /// Returns routes to share among namespaces that have the same devices for them; `None` if two are to the same
    /// network, or one is not of this family and table main.
    pub fn new(family: Family, mut routes: Vec<Route>) -> Option<Self> {
        routes.sort_by_key(key_of);
        let fits = |r: &Route| {
            Table::of(r.kind) == Table::Main
                && Family::of_net(r.dst) == family
                && r.dst == r.dst.trunc()
        };
        let mut pairs = routes.iter().zip(routes.iter().skip(1));
        if !routes.iter().all(fits) || pairs.any(|(a, b)| key_of(a) == key_of(b)) {
            return None;
        }
        let ranges = ranges(&routes, Table::Main, family);
        let longest = routes.last().map_or(0, |route| route.dst.prefix_len());
        let mut shared = Self {
            routes,
            ranges,
            around: Vec::new(),
            longest,
        };
        let around = |r: &Route| {
            let start = to_bits(r.dst.network());
            let shorter = (0..r.dst.prefix_len()).rev();
            let mut keys = shorter.map(|len| (Table::Main, len, start & !host(family.bits(), len)));
            let found = keys.find_map(|key| shared.position(key));
            found
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(NO_ROUTE)
        };
        shared.around = shared.routes.iter().map(around).collect();
        Some(shared)
    }

    fn position(&self, key: Key) -> Option<usize> {
        self.routes.binary_search_by_key(&key, key_of).ok()
    }

    fn exactly(&self, key: Key) -> Option<&Route> {
        self.routes.get(self.position(key)?)
    }

    /// Returns the longest prefix with an address that is not hidden.
    fn lookup(&self, dst: IpAddr, hidden: &[Key]) -> Option<&Route> {
        let mut entry = self.ranges.find(dst)? as usize;
        loop {
            let route = self.routes.get(entry)?;
            if hidden.binary_search(&key_of(route)).is_err() {
                return Some(route);
            }
            entry = *self.around.get(entry)? as usize;
        }
    }
}

/// Ranges of addresses that have the same route: a look-up is a binary search. Entries are positions among the own routes.
#[derive(Clone, Debug)]
struct Compiled {
    /// Of table local.
    local: Ranges,
    /// Of table local and, where it says nothing, of table main.
    both: Ranges,
}

/// Works out the ranges of the networks of one table, each with the position of its first route.
fn ranges(routes: &[Route], table: Table, family: Family) -> Ranges {
    let mut prefixes: Vec<(u128, u8, u32)> = Vec::new();
    for (position, route) in (0..).zip(routes) {
        let (of, len, start) = key_of(route);
        let known = prefixes
            .last()
            .is_some_and(|last| (last.0, last.1) == (start, len));
        if of == table && !known {
            prefixes.push((start, len, position));
        }
    }
    Ranges::of(prefixes, family)
}

impl Prefixes {
    const fn new(family: Family) -> Self {
        Self {
            family,
            own: Vec::new(),
            shared: None,
            hidden: Vec::new(),
            compiled: OnceLock::new(),
        }
    }

    #[inline]
    fn compiled(&self) -> &Compiled {
        self.compiled.get_or_init(|| {
            let local = ranges(&self.own, Table::Local, self.family);
            let main = ranges(&self.own, Table::Main, self.family);
            Box::new(Compiled {
                both: main.behind(&local, self.family),
                local,
            })
        })
    }

    #[inline]
    fn lookup(&self, dst: IpAddr) -> Option<&Route> {
        let entry = self.compiled().both.find(dst);
        let own = entry.and_then(|entry| self.own.get(entry as usize));
        let Some(shared) = &self.shared else {
            return own;
        };
        let enough = |own: &Route| {
            Table::of(own.kind) == Table::Local || own.dst.prefix_len() >= shared.longest
        };
        if own.is_some_and(enough) {
            return own;
        }
        let theirs = shared.lookup(dst, &self.hidden);
        let len = |route: Option<&Route>| route.map(|route| route.dst.prefix_len());
        if len(own) >= len(theirs) { own } else { theirs }
    }

    #[inline]
    fn lookup_local(&self, dst: IpAddr) -> Option<&Route> {
        let entry = self.compiled().local.find(dst)?;
        self.own.get(entry as usize)
    }

    fn hides(&self, key: Key) -> bool {
        self.hidden.binary_search(&key).is_ok()
    }

    /// Returns where the routes of a network are among the own ones; a shared one is made an own one first.
    fn at(&mut self, key: Key) -> Range<usize> {
        self.changed();
        let start = self.own.partition_point(|route| key_of(route) < key);
        let shared = self.shared.as_ref().and_then(|shared| shared.exactly(key));
        if let (Some(route), Err(position)) = (shared, self.hidden.binary_search(&key)) {
            self.own.insert(start, route.clone());
            self.hidden.insert(position, key);
        }
        let end = self.own.partition_point(|route| key_of(route) <= key);
        start..end
    }

    fn routes_of(&mut self, key: Key) -> &[Route] {
        let range = self.at(key);
        self.own.get(range).unwrap_or_default()
    }

    /// Adds a route behind those of its network before which it does not come.
    fn insert(&mut self, route: Route, before: impl Fn(&Route, &Route) -> bool) {
        let range = self.at(key_of(&route));
        let routes = self.own.get(range.clone()).unwrap_or_default();
        let position = routes.partition_point(|r| before(r, &route));
        if self.own.len() < FEW {
            self.own.reserve_exact(1);
        }
        self.own.insert(range.start + position, route);
    }

    fn retain(&mut self, keep: impl Fn(&Route) -> bool) {
        self.changed();
        if !self.shown().all(&keep) {
            self.own = self.shown().chain(&self.own).cloned().collect();
            self.own.sort_by_key(key_of);
            self.shared = None;
            self.hidden = Vec::new();
        }
        self.own.retain(keep);
    }

    fn changed(&mut self) {
        self.compiled.take();
    }

    /// Returns the shared routes that count here.
    fn shown(&self) -> impl Iterator<Item = &Route> {
        let shared = self.shared.iter().flat_map(|shared| &shared.routes);
        shared.filter(|route| !self.hides(key_of(route)))
    }

    fn iter(&self, table: Table) -> impl Iterator<Item = &Route> {
        let all = self.own.iter().chain(self.shown());
        all.filter(move |route| Table::of(route.kind) == table)
    }
}

/// Where each range of addresses begins, and which entry of the table its longest prefix is.
#[derive(Clone, Debug)]
enum Ranges {
    V4(Vec<(u32, u32)>),
    V6(Vec<(u128, u32)>),
}

/// Stands for "no route" among the ranges.
const NO_ROUTE: u32 = u32::MAX;

impl Ranges {
    /// Works out the ranges of prefixes, each with its first address, its length and its entry.
    fn of(mut prefixes: Vec<(u128, u8, u32)>, family: Family) -> Self {
        prefixes.sort_unstable();
        let mut ranges: Vec<(u128, u32)> = vec![(0, NO_ROUTE)];
        let mut open: Vec<(u128, u32)> = Vec::new();
        for (start, len, entry) in prefixes {
            close(&mut open, Some(start), &mut ranges);
            begin(&mut ranges, start, entry);
            open.push((start | host(family.bits(), len), entry));
        }
        close(&mut open, None, &mut ranges);
        Self::new(ranges, family)
    }

    fn new(ranges: Vec<(u128, u32)>, family: Family) -> Self {
        match family {
            Family::V4 => {
                let narrow = |(start, entry)| Some((u32::try_from(start).ok()?, entry));
                Self::V4(ranges.into_iter().filter_map(narrow).collect())
            }
            Family::V6 => Self::V6(ranges),
        }
    }

    /// Returns what `first` says, and where it says nothing what these ranges say.
    fn behind(&self, first: &Self, family: Family) -> Self {
        let mut starts: Vec<u128> = self.starts().chain(first.starts()).collect();
        starts.sort_unstable();
        starts.dedup();
        let mut ranges: Vec<(u128, u32)> = Vec::with_capacity(starts.len());
        for start in starts {
            let at = from_bits(family, start);
            let entry = at.and_then(|at| first.find(at).or_else(|| self.find(at)));
            let entry = entry.unwrap_or(NO_ROUTE);
            if ranges.last().is_none_or(|(_, last)| *last != entry) {
                ranges.push((start, entry));
            }
        }
        Self::new(ranges, family)
    }

    fn starts(&self) -> Box<dyn Iterator<Item = u128> + '_> {
        match self {
            Self::V4(ranges) => Box::new(ranges.iter().map(|(start, _)| u128::from(*start))),
            Self::V6(ranges) => Box::new(ranges.iter().map(|(start, _)| *start)),
        }
    }

    #[inline]
    fn find(&self, dst: IpAddr) -> Option<u32> {
        let entry = match (self, dst) {
            (Self::V4(ranges), IpAddr::V4(dst)) => containing(ranges, dst.to_bits()),
            (Self::V6(ranges), IpAddr::V6(dst)) => containing(ranges, dst.to_bits()),
            (Self::V4(_), IpAddr::V6(_)) | (Self::V6(_), IpAddr::V4(_)) => None,
        };
        entry.filter(|entry| *entry != NO_ROUTE)
    }
}

/// Ends the ranges that end before `start`, or all; what they lie in goes on behind them.
fn close(open: &mut Vec<(u128, u32)>, start: Option<u128>, ranges: &mut Vec<(u128, u32)>) {
    while let Some(&(last, _)) = open.last()
        && start.is_none_or(|start| last < start)
    {
        open.pop();
        let around = open.last().map_or(NO_ROUTE, |(_, entry)| *entry);
        if let Some(next) = last.checked_add(1) {
            begin(ranges, next, around);
        }
    }
}

fn begin(ranges: &mut Vec<(u128, u32)>, start: u128, entry: u32) {
    match ranges.last_mut() {
        Some(last) if last.0 == start => last.1 = entry,
        Some(_) | None => ranges.push((start, entry)),
    }
}

#[inline]
fn containing<K: Copy + Ord>(ranges: &[(K, u32)], dst: K) -> Option<u32> {
    let after = ranges.partition_point(|(start, _)| *start <= dst);
    ranges.get(after.checked_sub(1)?).map(|(_, entry)| *entry)
}

/// Returns the bits behind the first `len` of `width`.
const fn host(width: u8, len: u8) -> u128 {
    match 128 - (width - len) as u32 {
        128 => 0,
        shift => u128::MAX >> shift,
    }
}

/// The routing tables.
#[derive(Clone, Debug)]
pub struct Fib {
    v4: Prefixes,
    v6: Prefixes,
    /// Routes of tables that no rule leads to, with the number of the table.
    others: Vec<(u32, Route)>,
}

impl Default for Fib {
    fn default() -> Self {
        Self {
            v4: Prefixes::new(Family::V4),
            v6: Prefixes::new(Family::V6),
            others: Vec::new(),
        }
    }
}

/// A route cannot be added twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteExists;

impl Fib {
    const fn of(&self, family: Family) -> &Prefixes {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    const fn of_mut(&mut self, family: Family) -> &mut Prefixes {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Returns the route to a destination: local table first, then the longest prefix of the main table.
    pub fn lookup(&self, dst: IpAddr) -> Option<&Route> {
        self.of(Family::of(dst)).lookup(dst)
    }

    /// Returns the route to a destination in table local.
    pub fn lookup_local(&self, dst: IpAddr) -> Option<&Route> {
        self.of(Family::of(dst)).lookup_local(dst)
    }

    /// Returns whether some route to a destination leads out by a device, however short its prefix (`RT6_LOOKUP_F_IFACE`).
    pub fn leads_by(&self, dst: IpAddr, dev: DevIndex) -> bool {
        let routes = self.of(Family::of(dst));
        let mut all = routes.iter(Table::Local).chain(routes.iter(Table::Main));
        all.any(|route| route.dev == Some(dev) && route.dst.contains(&dst))
    }

    /// Adds a route; local and broadcast routes go to the local table.
    ///
    /// # Errors
    /// If the prefix has a route with that metric already.
    pub fn add(&mut self, route: Route) -> Result<(), RouteExists> {
        let local = Table::of(route.kind) == Table::Local;
        let same = |r: &Route| r.metric == route.metric && (!local || r.dev == route.dev);
        if self.routes_of(&route).iter().any(same) {
            return Err(RouteExists);
        }
        self.insert(route, |r, new| r.metric <= new.metric);
        Ok(())
    }

    /// Adds a route of the kernel's own behind those that its prefix has with that metric (`NLM_F_APPEND`).
    ///
    /// # Errors
    /// If the device has such a route already.
    pub(super) fn append(&mut self, route: Route) -> Result<(), RouteExists> {
        let same = |r: &Route| r.metric == route.metric && r.dev == route.dev;
        if self.routes_of(&route).iter().any(same) {
            return Err(RouteExists);
        }
        self.insert(route, |r, new| r.metric <= new.metric);
        Ok(())
    }

    /// Adds a route in front of those that its prefix has with that metric (`ip route prepend`).
    ///
    /// # Errors
    /// If the very same is there.
    pub fn prepend(&mut self, route: Route) -> Result<(), RouteExists> {
        let hop = |r: &Route| (r.metric, r.gateway, r.dev, r.scope, r.src);
        if self.routes_of(&route).iter().any(|r| hop(r) == hop(&route)) {
            return Err(RouteExists);
        }
        self.insert(route, |r, new| r.metric < new.metric);
        Ok(())
    }

    fn routes_of(&mut self, route: &Route) -> &[Route] {
        self.of_mut(Family::of_net(route.dst))
            .routes_of(key_of(route))
    }

    fn insert(&mut self, route: Route, before: impl Fn(&Route, &Route) -> bool) {
        self.of_mut(Family::of_net(route.dst)).insert(route, before);
    }

    /// Has these routes, which others have as well, but for networks that it has own routes to or that are `hidden`.
    pub fn share(&mut self, family: Family, shared: Arc<Shared>, hidden: &[IpNet]) {
        let table = self.of_mut(family);
        let key = |net: &IpNet| (Table::Main, net.prefix_len(), to_bits(net.network()));
        let own = table.own.iter().map(key_of);
        let hidden = hidden.iter().filter(|net| Family::of_net(**net) == family);
        let mut hidden: Vec<Key> = own.chain(hidden.map(key)).collect();
        hidden.retain(|key| shared.exactly(*key).is_some());
        hidden.sort_unstable();
        hidden.dedup();
        table.changed();
        table.hidden = hidden;
        table.shared = Some(shared);
    }

    /// Adds a route to a table that is neither main nor local. No look-up finds it.
    ///
    /// # Errors
    /// If the prefix has a route with that metric in that table already.
    pub fn add_to(&mut self, table: u32, route: Route) -> Result<(), RouteExists> {
        let same =
            |(of, r): &(u32, Route)| (*of, r.dst, r.metric) == (table, route.dst, route.metric);
        if self.others.iter().any(same) {
            return Err(RouteExists);
        }
        self.others.push((table, route));
        Ok(())
    }

    /// Returns the routes of tables that are neither main nor local.
    pub fn others(&self) -> &[(u32, Route)] {
        &self.others
    }

    /// Removes the first route of the main table with this prefix and metric, of one device or of whichever; returns
    /// whether there was one.
    pub fn remove(&mut self, dst: IpNet, dev: Option<DevIndex>, metric: u32) -> bool {
        let dst = dst.trunc();
        let table = self.of_mut(Family::of_net(dst));
        let range = table.at((Table::Main, dst.prefix_len(), to_bits(dst.network())));
        let routes = table.own.get(range.clone()).unwrap_or_default();
        let wanted = |r: &Route| r.metric == metric && (dev.is_none() || r.dev == dev);
        let position = routes.iter().position(wanted);
        if let Some(position) = position {
            table.own.remove(range.start + position);
        }
        position.is_some()
    }

    /// Keeps only the routes for which `keep` holds.
    pub fn retain(&mut self, keep: impl Fn(&Route) -> bool) {
        for table in [&mut self.v4, &mut self.v6] {
            table.retain(&keep);
        }
        self.others.retain(|(_, route)| keep(route));
    }

    /// Returns the routes of the main table, in the order `ip route` prints them (shortest prefix first).
    pub fn main(&self, family: Family) -> Vec<&Route> {
        let mut routes: Vec<&Route> = self.of(family).iter(Table::Main).collect();
        routes.sort_by_key(|r| {
            (
                r.dst.prefix_len() != 0,
                to_bits(r.dst.network()),
                r.dst,
                r.metric,
            )
        });
        routes
    }

    /// Returns the routes of the local table.
    pub fn local(&self, family: Family) -> Vec<&Route> {
        let mut routes: Vec<&Route> = self.of(family).iter(Table::Local).collect();
        routes.sort_by_key(|r| (to_bits(r.dst.network()), r.dst));
        routes
    }
}

/// Outcome of a routing decision for a packet that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Output device (`lo` for this machine).
    pub dev: DevIndex,
    /// The gateway, or the destination itself.
    pub next_hop: IpAddr,
    /// Source a local process would use.
    pub src: IpAddr,
    /// Whether the destination is this machine.
    pub local: bool,
    /// MTU of route and device.
    pub mtu: u32,
    /// The object the route was made from.
    pub origin: OriginId,
}

impl Netns {
    /// Returns the type of an address, as `-m addrtype` and the routing code see it.
    pub fn addr_type(&self, addr: IpAddr) -> AddrType {
        if addr.is_multicast() {
            return AddrType::Multicast;
        }
        match addr {
            IpAddr::V4(a) if a.is_broadcast() => return AddrType::Broadcast,
            IpAddr::V4(a) if a.is_unspecified() => return AddrType::Broadcast,
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        let route = match addr {
            // inet_addr_type asks table local only; what is not there is unicast.
            IpAddr::V4(_) => match self.fib.lookup_local(addr) {
                None => return AddrType::Unicast,
                found => found,
            },
            IpAddr::V6(_) => self.fib.lookup(addr),
        };
        match route.map(|route| route.kind) {
            None => AddrType::Unreachable,
            Some(RouteKind::Unicast) => AddrType::Unicast,
            Some(RouteKind::Local) => AddrType::Local,
            Some(RouteKind::Broadcast) => AddrType::Broadcast,
            Some(RouteKind::Blackhole) => AddrType::Blackhole,
            Some(RouteKind::Unreachable) => AddrType::Unreachable,
            Some(RouteKind::Prohibit) => AddrType::Prohibit,
        }
    }

    /// Returns whether an address is one of this namespace's own.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        self.fib
            .lookup_local(addr)
            .is_some_and(|route| route.kind == RouteKind::Local)
    }

    /// Decides where a packet to `dst` goes.
    ///
    /// # Errors
    /// ENETUNREACH without a route, and what blackhole (EINVAL), unreachable (EHOSTUNREACH) and prohibit (EACCES)
    /// routes give a local process.
    pub fn route(&self, dst: IpAddr) -> Result<Hop, Errno> {
        let mut hop = self.hop(self.fib.lookup(dst), dst)?;
        if hop.src.is_unspecified() && !hop.local {
            let src = match dst {
                IpAddr::V4(_) => self.select_addr(hop.dev, hop.next_hop, Family::V4),
                IpAddr::V6(to) => self.select_addr_v6(hop.dev, to),
            };
            hop.src = src.unwrap_or(hop.src);
        }
        Ok(hop)
    }

    /// As [`Netns::route`] for a packet that has its source already: where the route names none, none is looked
    /// for.
    #[inline]
    pub(super) fn route_onward(&self, dst: IpAddr) -> Result<Hop, Errno> {
        self.hop(self.fib.lookup(dst), dst)
    }

    /// What a route says; its source is unspecified where the route names none.
    #[inline]
    pub(super) fn hop(&self, route: Option<&Route>, dst: IpAddr) -> Result<Hop, Errno> {
        let route = route.ok_or(Errno::ENETUNREACH)?;
        match route.kind {
            RouteKind::Blackhole => return Err(Errno::EINVAL),
            RouteKind::Unreachable => return Err(Errno::EHOSTUNREACH),
            RouteKind::Prohibit => return Err(Errno::EACCES),
            RouteKind::Local => {
                return Ok(Hop {
                    dev: DevIndex::LO,
                    next_hop: dst,
                    src: route.src.unwrap_or(dst),
                    local: true,
                    mtu: self.device(DevIndex::LO).map_or(65536, |lo| lo.mtu),
                    origin: route.origin,
                });
            }
            RouteKind::Unicast | RouteKind::Broadcast => {}
        }
        let dev = route.dev.ok_or(Errno::ENETUNREACH)?;
        let device = self
            .device(dev)
            .filter(|d| d.up)
            .ok_or(Errno::ENETUNREACH)?;
        let next_hop = route.gateway.unwrap_or(dst);
        let mtu = route.mtu.unwrap_or(device.mtu).min(device.mtu);
        let src = route.src.unwrap_or_else(|| Family::of(dst).unspecified());
        Ok(Hop {
            dev,
            next_hop,
            src,
            local: false,
            mtu,
            origin: route.origin,
        })
    }

    /// Returns the source address a local process gets for a destination.
    ///
    /// # Errors
    /// As [`Netns::route`]; EADDRNOTAVAIL if no device has an address of the family.
    pub fn source_for(&self, dst: IpAddr) -> Result<IpAddr, Errno> {
        let src = self.route(dst)?.src;
        if src.is_unspecified() {
            Err(Errno::EADDRNOTAVAIL)
        } else {
            Ok(src)
        }
    }

    /// Returns the address MASQUERADE takes for packets that leave by `dev` towards `next_hop`.
    pub fn masquerade_source(
        &self,
        dev: DevIndex,
        next_hop: IpAddr,
        dst: IpAddr,
    ) -> Option<IpAddr> {
        match dst {
            IpAddr::V4(_) => self.select_addr(dev, next_hop, Family::V4),
            IpAddr::V6(dst) => self.select_addr_v6(dev, dst),
        }
    }

    /// Chooses an IPv6 source among the addresses of all devices (RFC 6724 §5, `ipv6_dev_get_saddr`): the destination
    /// itself, else one of its scope, of the device, sharing most with it; of equals the first.
    ///
    /// # Fidelity
    /// Addresses are never deprecated, temporary or of a mobile home; all have the same label.
    pub(super) fn select_addr_v6(&self, dev: DevIndex, dst: Ipv6Addr) -> Option<IpAddr> {
        let narrow = dst.is_unicast_link_local();
        let mut best: Option<((bool, bool, bool, u32), Ipv6Addr)> = None;
        for device in self.devices.iter().flatten() {
            if narrow && device.index != dev {
                continue;
            }
            for own in &device.addrs {
                let IpAddr::V6(addr) = own.net.addr() else {
                    continue;
                };
                if addr.is_loopback() && !dst.is_loopback() {
                    continue;
                }
                let same_scope = addr.is_unicast_link_local() == narrow;
                let common = (addr.to_bits() ^ dst.to_bits()).leading_zeros();
                let rank = (addr == dst, same_scope, device.index == dev, common);
                if best.is_none_or(|(least, _)| rank > least) {
                    best = Some((rank, addr));
                }
            }
        }
        best.map(|(_, addr)| IpAddr::V6(addr))
    }

    /// `inet_select_addr` of `net/ipv4/devinet.c`: the primary address of the device whose subnet contains the
    /// next hop, else its first primary address, else the first global address of any device.
    fn select_addr(&self, dev: DevIndex, next_hop: IpAddr, family: Family) -> Option<IpAddr> {
        let of = |dev: DevIndex, wide: bool| {
            let addrs = self.device(dev).map_or(&[][..], |d| d.addrs.as_slice());
            addrs.iter().filter(move |a| {
                Family::of_net(a.net) == family
                    && !a.secondary
                    && (a.scope == Scope::Global || (!wide && a.scope == Scope::Link))
            })
        };
        let in_subnet = of(dev, false).find(|a| a.net.contains(&next_hop));
        let on_device = || of(dev, true).next().or_else(|| of(dev, false).next());
        let anywhere = || {
            self.devices
                .iter()
                .flatten()
                .find_map(|device| of(device.index, true).next())
        };
        in_subnet
            .or_else(on_device)
            .or_else(anywhere)
            .map(|a| a.net.addr())
    }
}

impl Netns {
    /// Whether a device has a carrier: a bridge has one if one of its ports is up (`br_stp_if.c`).
    ///
    /// # Fidelity
    /// Cables of other devices are always plugged in.
    fn has_carrier(&self, dev: DevIndex) -> bool {
        let Some(DeviceKind::Bridge(bridge)) = self.device(dev).map(|device| &device.kind) else {
            return true;
        };
        let mut ports = bridge.ports.iter();
        ports.any(|port| self.device(*port).is_some_and(|port| port.up))
    }

    /// Returns the line `ip route` prints for a route.
    pub fn route_text(&self, route: &Route) -> String {
        RouteText { netns: self, route }.to_string()
    }
}

struct RouteText<'a> {
    netns: &'a Netns,
    route: &'a Route,
}

impl fmt::Display for RouteText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self.route;
        f.write_str(match r.kind {
            RouteKind::Unicast => "",
            RouteKind::Local => "local ",
            RouteKind::Broadcast => "broadcast ",
            RouteKind::Blackhole => "blackhole ",
            RouteKind::Unreachable => "unreachable ",
            RouteKind::Prohibit => "prohibit ",
        })?;
        if r.dst.prefix_len() == 0 {
            f.write_str("default")?;
        } else if r.dst == host_net(r.dst.addr()) {
            write!(f, "{}", r.dst.addr())?;
        } else {
            write!(f, "{}", r.dst.trunc())?;
        }
        if let Some(gateway) = r.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(device) = r.dev.and_then(|dev| self.netns.device(dev)) {
            write!(f, " dev {}", device.name)?;
        }
        if r.kernel {
            f.write_str(" proto kernel")?;
        }
        match r.scope {
            Scope::Global => {}
            Scope::Site => f.write_str(" scope site")?,
            Scope::Link => f.write_str(" scope link")?,
            Scope::Host => f.write_str(" scope host")?,
        }
        if let Some(src) = r.src {
            write!(f, " src {src}")?;
        }
        if r.metric != 0 {
            write!(f, " metric {}", r.metric)?;
        }
        if let Some(mtu) = r.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if r.onlink {
            f.write_str(" onlink")?;
        }
        let down = |dev: DevIndex| r.kind != RouteKind::Local && !self.netns.has_carrier(dev);
        if r.dev.is_some_and(down) {
            f.write_str(" linkdown")?;
        }
        Ok(())
    }
}
