//! Carries out a [`Change`] on a namespace, with the consequences the kernel adds by itself: routes for addresses,
//! a bridge's hardware address, the end of everything that belonged to a deleted device.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::Netns;
use super::bridge::{Bridge, FdbEntry};
use super::config::{Change, ConfigError, NewLink, NewLinkKind, NewRoute, RouteKind};
use super::link::{Device, DeviceKind, DeviceStats, IfAddr, PortFlags, Scope, VxlanDevice};
use super::neighbour::{NeighbourKey, NeighbourTable};
use super::path::IcmpState;
use super::release::Release;
use super::route::{Fib, Route};
use super::socket::Sockets;
use super::sysctl::Sysctls;
use crate::base::addr::host_net;
use crate::base::hash::stable_hash;
use crate::base::{Family, FxIndexMap, Mac, OriginId, Time};
use crate::wire::{DevIndex, NetnsId};

impl Netns {
    /// Returns a namespace with nothing but loopback, up, with 127.0.0.1/8 and `::1/128`.
    ///
    /// # Fidelity
    /// A new namespace of Linux has `lo` down; whoever makes one for a pod brings it up at once.
    pub fn new(id: NetnsId, name: Arc<str>) -> Self {
        let mut netns = Self {
            id,
            name,
            // Most namespaces are pods, with lo and eth0.
            devices: Vec::with_capacity(2),
            dev_names: FxIndexMap::default(),
            fib: Fib::default(),
            neighbours: NeighbourTable::default(),
            sysctls: Sysctls::default(),
            netfilter: None,
            conntrack: None,
            sockets: Sockets::default(),
            release: Release::CURRENT,
            sctp: false,
            icmp: IcmpState::default(),
        };
        netns.push_device("lo".into(), Mac::ZERO, 65536, DeviceKind::Loopback);
        if let Some(lo) = netns.device_mut(DevIndex::LO) {
            lo.up = true;
        }
        netns.add_loopback_addrs();
        netns
    }

    /// What `lo` gets when it comes up (`inetdev_event`, `init_loopback`), unless it has it.
    fn add_loopback_addrs(&mut self) {
        for addr in ["127.0.0.1/8", "::1/128"] {
            let net: IpNet = addr.parse().expect("a literal prefix");
            let addrs = self.device(DevIndex::LO).map_or(&[][..], |lo| &lo.addrs);
            let has_v4 = net.addr().is_ipv4() && addrs.iter().any(|a| a.net.addr().is_ipv4());
            if !has_v4 {
                let _ = self.add_addr("lo", net, Scope::Host, OriginId::NONE);
            }
        }
    }

    fn push_device(&mut self, name: Arc<str>, mac: Mac, mtu: u32, kind: DeviceKind) -> DevIndex {
        let index = DevIndex(u32::try_from(self.devices.len() + 1).expect("few devices"));
        self.dev_names.insert(Arc::clone(&name), index);
        self.devices.push(Some(Device {
            index,
            name,
            mac,
            mtu,
            up: false,
            master: None,
            port: PortFlags::default(),
            addrs: Vec::new(),
            promisc: false,
            link_local: None,
            kind,
            stats: DeviceStats::default(),
        }));
        index
    }

    /// Makes a change.
    ///
    /// # Errors
    /// As the tool that makes the change on a real machine; nothing is changed then.
    pub fn apply(&mut self, change: &Change) -> Result<(), ConfigError> {
        match change {
            Change::AddLink(link) => self.add_link(link),
            Change::DeleteLink { dev } => self.delete_link(dev),
            Change::SetUp { dev, up } => self.set_up(dev, *up),
            Change::SetMtu { dev, mtu } => {
                let device = self.named_mut(dev)?;
                device.mtu = *mtu;
                if let DeviceKind::Bridge(bridge) = &mut device.kind {
                    bridge.fixed_mtu = true;
                }
                Ok(())
            }
            Change::SetMac { dev, mac } => self.set_mac(dev, *mac),
            Change::SetPromisc { dev, on } => {
                self.named_mut(dev)?.promisc = *on;
                Ok(())
            }
            Change::SetMaster { dev, master } => self.set_master(dev, master.as_ref()),
            Change::SetPort { dev, flags } => {
                self.named_mut(dev)?.port = *flags;
                Ok(())
            }
            Change::AddAddr {
                dev,
                net,
                scope,
                origin,
            } => self.add_addr(dev, *net, *scope, *origin),
            Change::DeleteAddr { dev, net } => self.delete_addr(dev, *net),
            Change::AddRoute(route) => {
                let route = self.new_route(route)?;
                let exists = ConfigError::Exists(format!("route {}", route.dst));
                self.fib.add(route).map_err(|_| exists)
            }
            Change::PrependRoute(route) => {
                let route = self.new_route(route)?;
                let exists = ConfigError::Exists(format!("route {}", route.dst));
                self.fib.prepend(route).map_err(|_| exists)
            }
            Change::AddTableRoute { table, route } => {
                let route = self.new_route(route)?;
                let exists = ConfigError::Exists(format!("route {}", route.dst));
                self.fib.add_to(*table, route).map_err(|_| exists)
            }
            Change::DeleteRoute { dst, dev, metric } => {
                let missing = || ConfigError::Missing(format!("route {dst}"));
                let dev = dev.as_ref().map(|dev| self.index_of(dev)).transpose()?;
                if self.fib.remove(*dst, dev, *metric) {
                    Ok(())
                } else {
                    Err(missing())
                }
            }
            Change::SetNeighbour {
                dev,
                addr,
                mac,
                origin,
            } => {
                let dev = self.index_of(dev)?;
                self.neighbours.set_permanent(dev, *addr, *mac, *origin);
                Ok(())
            }
            Change::DeleteNeighbour { dev, addr } => {
                let dev = self.index_of(dev)?;
                let gone = self
                    .neighbours
                    .entries
                    .shift_remove(&NeighbourKey(dev, *addr));
                gone.map(|_| ())
                    .ok_or_else(|| ConfigError::Missing(format!("neighbour {addr}")))
            }
            Change::AddFdb { dev, mac, dst } => {
                self.vxlan_mut(dev)?.fdb.push((*mac, *dst));
                Ok(())
            }
            Change::DeleteFdb { dev, mac } => {
                self.vxlan_mut(dev)?.fdb.retain(|(known, _)| known != mac);
                Ok(())
            }
            Change::Sysctl { name, value } => {
                self.sysctls
                    .set(name, *value)
                    .map_err(|why| ConfigError::sysctl(name, &value.to_string(), why))?;
                self.configure_tracking();
                Ok(())
            }
            Change::Chain {
                family,
                table,
                chain,
                policy,
            } => self.add_chain(*family, *table, chain, *policy),
            Change::Rule {
                family,
                table,
                chain,
                at,
                rule,
            } => self.add_rule(*family, *table, chain, *at, (**rule).clone()),
            Change::DeleteRule {
                family,
                table,
                chain,
                rule,
            } => self.delete_rule(*family, *table, chain, rule),
            Change::Nft(commands) => self.apply_nft(commands),
        }
    }

    /// A device that goes down takes its routes in table main along; one that comes up gets back those of its
    /// addresses only (`fib_disable_ip`, `fib_add_ifaddr`).
    fn set_up(&mut self, dev: &Arc<str>, up: bool) -> Result<(), ConfigError> {
        let device = self.named_mut(dev)?;
        let changes = device.up != up;
        device.up = up;
        if !up {
            // `addrconf_ifdown`: IPv6 addresses do not outlive it (keep_addr_on_down=0).
            device.addrs.retain(|addr| addr.net.addr().is_ipv4());
            device.link_local = None;
        }
        let (index, addrs) = (device.index, device.addrs.clone());
        if up {
            for addr in addrs {
                self.add_addr_routes(index, addr.net, addr.origin);
            }
            if changes && index == DevIndex::LO {
                self.add_loopback_addrs();
            }
            return Ok(());
        }
        // `fib_sync_down_dev`: only the IPv4 addresses themselves stay.
        self.fib.retain(|r| {
            let v4 = matches!(r.dst, IpNet::V4(_));
            r.dev != Some(index) || (v4 && r.kind == RouteKind::Local)
        });
        if let Some(conntrack) = &mut self.conntrack {
            conntrack.flush_masquerade(index);
        }
        Ok(())
    }

    fn index_of(&self, dev: &Arc<str>) -> Result<DevIndex, ConfigError> {
        self.dev_names
            .get(dev)
            .copied()
            .ok_or_else(|| ConfigError::NoDevice(Arc::clone(dev)))
    }

    fn named_mut(&mut self, dev: &Arc<str>) -> Result<&mut Device, ConfigError> {
        let index = self.index_of(dev)?;
        self.device_mut(index)
            .ok_or_else(|| ConfigError::NoDevice(Arc::clone(dev)))
    }

    fn vxlan_mut(&mut self, dev: &Arc<str>) -> Result<&mut VxlanDevice, ConfigError> {
        match &mut self.named_mut(dev)?.kind {
            DeviceKind::Vxlan(vxlan) => Ok(vxlan),
            DeviceKind::Loopback
            | DeviceKind::Veth
            | DeviceKind::Physical
            | DeviceKind::Dummy
            | DeviceKind::Bridge(_) => {
                Err(ConfigError::Invalid(format!("{dev} is not a VXLAN device")))
            }
        }
    }

    fn bridge_mut(&mut self, dev: DevIndex) -> Option<(&mut Bridge, &mut Mac)> {
        match self.device_mut(dev) {
            Some(Device {
                kind: DeviceKind::Bridge(bridge),
                mac,
                ..
            }) => Some((bridge, mac)),
            Some(_) | None => None,
        }
    }

    fn add_link(&mut self, link: &NewLink) -> Result<(), ConfigError> {
        if self.dev_names.contains_key(&link.name) {
            return Err(ConfigError::Exists(format!("device {}", link.name)));
        }
        if link.name.len() > 15 || link.name.is_empty() {
            let text = format!("device name \"{}\" is not of 1 to 15 characters", link.name);
            return Err(ConfigError::Invalid(text));
        }
        let kind = match &link.kind {
            NewLinkKind::Veth => DeviceKind::Veth,
            NewLinkKind::Physical => DeviceKind::Physical,
            NewLinkKind::Dummy => DeviceKind::Dummy,
            NewLinkKind::Bridge => DeviceKind::Bridge(Box::new(Bridge {
                fixed_mac: link.mac.is_some(),
                ..Bridge::default()
            })),
            NewLinkKind::Vxlan {
                vni,
                local,
                dstport,
                dev,
                learning,
            } => {
                let dev = dev.as_ref().map(|dev| self.index_of(dev)).transpose()?;
                DeviceKind::Vxlan(Box::new(VxlanDevice {
                    vni: *vni,
                    local: *local,
                    dstport: *dstport,
                    dev,
                    learning: *learning,
                    fdb: Vec::new(),
                }))
            }
        };
        let hash = stable_hash(format!("{}/{}", self.name, link.name).as_bytes());
        let mac = link.mac.unwrap_or_else(|| Mac::from_hash(hash));
        self.push_device(Arc::clone(&link.name), mac, link.mtu, kind);
        Ok(())
    }

    fn delete_link(&mut self, dev: &Arc<str>) -> Result<(), ConfigError> {
        let index = self.index_of(dev)?;
        if let Some(master) = self.device(index).and_then(|d| d.master) {
            self.leave_bridge(index, master);
        }
        for port in self.devices.iter_mut().flatten() {
            port.master = port.master.filter(|master| *master != index);
        }
        if let Some(slot) = self.devices.get_mut(index.position()) {
            *slot = None;
        }
        self.dev_names.shift_remove(dev);
        self.sysctls.forget(dev);
        self.fib.retain(|route| route.dev != Some(index));
        self.neighbours
            .entries
            .retain(|NeighbourKey(on, _), _| *on != index);
        Ok(())
    }

    fn set_master(&mut self, dev: &Arc<str>, master: Option<&Arc<str>>) -> Result<(), ConfigError> {
        let port = self.index_of(dev)?;
        let bridge = master.map(|name| self.index_of(name)).transpose()?;
        if let Some(old) = self.device(port).and_then(|d| d.master) {
            self.leave_bridge(port, old);
        }
        let Some(index) = bridge else { return Ok(()) };
        let mac = self.device(port).map_or(Mac::ZERO, |d| d.mac);
        let not_a_bridge = || ConfigError::Invalid("master is not a bridge".to_owned());
        let (bridge, _) = self.bridge_mut(index).ok_or_else(not_a_bridge)?;
        bridge.ports.push(port);
        bridge.had_port = true;
        let entry = FdbEntry {
            port,
            permanent: true,
            seen: Time::ZERO,
        };
        bridge.fdb.insert(mac, entry);
        if let Some(device) = self.device_mut(port) {
            device.master = Some(index);
        }
        self.choose_bridge_mac(index);
        self.choose_bridge_mtu(index);
        Ok(())
    }

    fn leave_bridge(&mut self, port: DevIndex, bridge: DevIndex) {
        if let Some((state, _)) = self.bridge_mut(bridge) {
            state.ports.retain(|p| *p != port);
            state.fdb.retain(|_, entry| entry.port != port);
        }
        if let Some(device) = self.device_mut(port) {
            device.master = None;
            device.port = PortFlags::default();
        }
        self.choose_bridge_mac(bridge);
        self.choose_bridge_mtu(bridge);
    }

    fn set_mac(&mut self, dev: &Arc<str>, mac: Mac) -> Result<(), ConfigError> {
        let device = self.named_mut(dev)?;
        let changes = device.mac != mac;
        device.mac = mac;
        let index = device.index;
        if let DeviceKind::Bridge(bridge) = &mut device.kind {
            bridge.fixed_mac = true;
        }
        if changes {
            self.neighbours.address_changed(index);
        }
        Ok(())
    }

    /// A bridge takes the smallest MTU of its ports, and 1500 without any (`br_mtu_auto_adjust`).
    fn choose_bridge_mtu(&mut self, bridge: DevIndex) {
        let Some((state, _)) = self.bridge_mut(bridge) else {
            return;
        };
        if state.fixed_mtu {
            return;
        }
        let ports = state.ports.clone();
        let smallest = ports.iter().filter_map(|p| self.device(*p)).map(|d| d.mtu);
        let mtu = smallest.min().unwrap_or(1500);
        if let Some(device) = self.device_mut(bridge) {
            device.mtu = mtu;
        }
    }

    /// A bridge without a fixed address takes the lowest of its ports (`br_stp_recalculate_bridge_id`).
    fn choose_bridge_mac(&mut self, bridge: DevIndex) {
        let Some((state, _)) = self.bridge_mut(bridge) else {
            return;
        };
        if state.fixed_mac {
            return;
        }
        let ports = state.ports.clone();
        let lowest = ports
            .iter()
            .filter_map(|p| self.device(*p))
            .map(|d| d.mac)
            .min()
            .unwrap_or(Mac::ZERO);
        if let Some((_, mac)) = self.bridge_mut(bridge)
            && *mac != lowest
        {
            *mac = lowest;
            self.neighbours.address_changed(bridge);
        }
    }

    fn add_addr(
        &mut self,
        dev: &str,
        net: IpNet,
        scope: Scope,
        origin: OriginId,
    ) -> Result<(), ConfigError> {
        let index = self.index_of(&dev.into())?;
        let device = self
            .device_mut(index)
            .ok_or_else(|| ConfigError::NoDevice(dev.into()))?;
        if device.addrs.iter().any(|a| a.net == net) {
            return Err(ConfigError::Exists(format!("address {net}")));
        }
        let v4 = matches!(net, IpNet::V4(_));
        let secondary = v4
            && device
                .addrs
                .iter()
                .any(|a| a.net.trunc() == net.trunc() && !a.secondary && a.scope == scope);
        device.addrs.push(IfAddr {
            net,
            scope,
            secondary,
            origin,
        });
        self.add_addr_routes(index, net, origin);
        Ok(())
    }

    /// The routes the kernel adds for an address (`fib_add_ifaddr`): the address itself, its subnet, and the
    /// subnet's broadcast address. A second address of a subnet finds the subnet's routes in place.
    fn add_addr_routes(&mut self, dev: DevIndex, net: IpNet, origin: OriginId) {
        let loopback = dev == DevIndex::LO;
        // A secondary address speaks by its primary one.
        let addrs = self.device(dev).map_or(&[][..], |d| &d.addrs);
        let secondary = addrs.iter().any(|a| a.net == net && a.secondary);
        let primary = |a: &&IfAddr| secondary && !a.secondary && a.net.trunc() == net.trunc();
        let src = addrs.iter().find(primary).map_or(net, |a| a.net).addr();
        let route = |kind, dst, scope, metric| Route {
            kind,
            dst,
            gateway: None,
            dev: Some(dev),
            src: Some(src).filter(IpAddr::is_ipv4),
            metric,
            scope,
            onlink: false,
            kernel: true,
            mtu: None,
            origin,
        };
        let mut routes = vec![route(
            RouteKind::Local,
            host_net(net.addr()),
            Scope::Host,
            0,
        )];
        match net {
            IpNet::V4(v4) if loopback => {
                routes.push(route(
                    RouteKind::Local,
                    IpNet::V4(v4.trunc()),
                    Scope::Host,
                    0,
                ));
                let last = IpAddr::V4(v4.broadcast());
                routes.push(route(RouteKind::Broadcast, host_net(last), Scope::Link, 0));
            }
            IpNet::V4(v4) if v4.prefix_len() < 32 => {
                routes.push(route(
                    RouteKind::Unicast,
                    IpNet::V4(v4.trunc()),
                    Scope::Link,
                    0,
                ));
                if v4.prefix_len() < 31 {
                    let last = IpAddr::V4(v4.broadcast());
                    routes.push(route(RouteKind::Broadcast, host_net(last), Scope::Link, 0));
                }
            }
            // A prefix of one address has its route too (`addrconf_prefix_route`).
            IpNet::V6(v6) if !loopback => {
                routes.push(route(
                    RouteKind::Unicast,
                    IpNet::V6(v6.trunc()),
                    Scope::Global,
                    256,
                ));
            }
            IpNet::V4(_) | IpNet::V6(_) => {}
        }
        for route in routes {
            // A route that is there already serves this address too.
            let _ = self.fib.append(route);
        }
    }

    fn delete_addr(&mut self, dev: &Arc<str>, net: IpNet) -> Result<(), ConfigError> {
        let index = self.index_of(dev)?;
        let device = self.named_mut(dev)?;
        let Some(position) = device.addrs.iter().position(|a| a.net == net) else {
            return Err(ConfigError::Missing(format!("address {net}")));
        };
        let removed = device.addrs.remove(position);
        if !removed.secondary {
            // promote_secondaries=0: the others of the subnet go along.
            let subnet = net.trunc();
            device
                .addrs
                .retain(|a| !a.secondary || a.net.trunc() != subnet);
        }
        let remaining = device.addrs.clone();
        let v4 = |net: IpNet| matches!(net, IpNet::V4(_));
        if v4(net) && !remaining.iter().any(|a| v4(a.net)) {
            // `fib_inetaddr_event`: with its last address a device loses all its routes.
            self.fib.retain(|r| r.dev != Some(index) || !v4(r.dst));
        }
        self.fib.retain(|r| !r.kernel || r.dev != Some(index));
        for addr in remaining {
            self.add_addr_routes(index, addr.net, addr.origin);
        }
        let src = net.addr();
        let mut others = self.devices.iter().flatten().flat_map(|d| &d.addrs);
        if !others.any(|a| a.net.addr() == src) {
            self.fib.retain(|r| r.src != Some(src));
        }
        Ok(())
    }

    /// Returns the route that a wish for one comes to.
    ///
    /// # Errors
    /// As `ip route add`.
    pub(crate) fn new_route(&self, new: &NewRoute) -> Result<Route, ConfigError> {
        let dev = new.dev.as_ref().map(|dev| self.index_of(dev)).transpose()?;
        if let Some(dev) = dev.filter(|dev| self.device(*dev).is_some_and(|d| !d.up)) {
            let name = self
                .device(dev)
                .map_or_else(|| "".into(), |d| Arc::clone(&d.name));
            return Err(ConfigError::NetworkDown(name));
        }
        if let Some(gateway @ IpAddr::V4(_)) = new.gateway.filter(|_| !new.onlink) {
            match new.scope {
                Scope::Global | Scope::Site => {}
                // The gateway would have to be of a narrower scope than the link it is on.
                Scope::Link => return Err(ConfigError::InvalidGateway(gateway)),
                Scope::Host => {
                    let text = "Route with host scope can not have a gateway.";
                    return Err(ConfigError::Invalid(text.to_owned()));
                }
            }
        }
        let dev = match (new.gateway, dev) {
            (Some(gateway), wanted) if !new.onlink => Some(self.link_of_gateway(gateway, wanted)?),
            (_, dev) => dev,
        };
        let needs_dev = new.kind == RouteKind::Unicast;
        if needs_dev && dev.is_none() {
            return Err(ConfigError::Invalid(
                "a route needs a gateway or a device".to_owned(),
            ));
        }
        let v6 = matches!(new.dst, IpNet::V6(_));
        Ok(Route {
            kind: new.kind,
            dst: new.dst.trunc(),
            gateway: new.gateway,
            dev,
            src: new.src,
            metric: if v6 && new.metric == 0 {
                1024
            } else {
                new.metric
            },
            scope: new.scope,
            onlink: new.onlink,
            kernel: false,
            mtu: new.mtu,
            origin: new.origin,
        })
    }

    /// A gateway must be a neighbour: its route must be a link route, by the device asked for.
    fn link_of_gateway(
        &self,
        gateway: IpAddr,
        wanted: Option<DevIndex>,
    ) -> Result<DevIndex, ConfigError> {
        let invalid = || ConfigError::InvalidGateway(gateway);
        let mut route = self.fib.lookup(gateway).ok_or_else(invalid)?;
        if wanted.is_some() && route.kind == RouteKind::Unicast {
            // Only the routes of that device are asked (`fib_check_nh`).
            let routes = self.fib.main(Family::of(gateway)).into_iter();
            let of_dev = routes.filter(|r| r.dev == wanted && r.dst.contains(&gateway));
            let longest = of_dev.max_by_key(|r| r.dst.prefix_len());
            route = longest.ok_or_else(invalid)?;
        }
        let on_link = route.kind == RouteKind::Unicast && route.gateway.is_none();
        route.dev.filter(|_| on_link).ok_or_else(invalid)
    }

    /// Returns the subnet-directed broadcast addresses of a device.
    #[inline]
    pub(super) fn is_broadcast_of(&self, dev: DevIndex, addr: Ipv4Addr) -> bool {
        let of = |a: &IfAddr| match a.net {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        };
        let addrs = self.device(dev).map_or(&[][..], |d| d.addrs.as_slice());
        let hits = |net: Ipv4Net| net.prefix_len() < 31 && net.broadcast() == addr;
        addr.is_broadcast() || addrs.iter().filter_map(of).any(hits)
    }
}
