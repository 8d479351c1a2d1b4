//! kube-proxy mode iptables: `KUBE-SERVICES`, `KUBE-SVC-*`, `KUBE-SEP-*` and all the rest, to the letter
//! (`pkg/proxy/iptables/proxier.go`). The result is what `iptables-save` shows after a full sync on a machine
//! where nobody else has written rules.
//!
//! # Fidelity
//! Service ports are visited by name; the real program walks a Go map, so the order between service ports inside
//! `KUBE-SERVICES`, `KUBE-NODEPORTS`, `KUBE-EXTERNAL-SERVICES` and `KUBE-PROXY-FIREWALL` differs from run to run there.
//! Chains come sorted by name, as `iptables-save` prints them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use data_encoding::BASE32;
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::{
    Categories, DetectLocalMode, EndpointView, Flags, NodePortAddresses, NodeView, PortView,
    ServiceView, Version, categorize,
};
use crate::base::addr::host_net;
use crate::base::{Family, OriginId, Protocol};
use crate::kernel::netfilter::chain::{
    AddrType, Chain, ChainPolicy, CtStates, MarkMask, Match, NatRandom, NatRange, Not, PortRange,
    Probability, RecentOp, RejectWith, Rule, Ruleset, Table, TableRules, Target,
};
use crate::wire::{IcmpError, L4};

/// With more endpoints than this in all, endpoint rules carry no comments.
pub(super) const LARGE_CLUSTER_ENDPOINTS: usize = 1000;

pub(super) const SERVICES: &str = "KUBE-SERVICES";
pub(super) const EXTERNAL_SERVICES: &str = "KUBE-EXTERNAL-SERVICES";
pub(super) const NODEPORTS: &str = "KUBE-NODEPORTS";
const POSTROUTING: &str = "KUBE-POSTROUTING";
const MARK_MASQ: &str = "KUBE-MARK-MASQ";
const FORWARD: &str = "KUBE-FORWARD";
pub(super) const PROXY_FIREWALL: &str = "KUBE-PROXY-FIREWALL";
const FIREWALL: &str = "KUBE-FIREWALL";
const CANARY: &str = "KUBE-PROXY-CANARY";

/// Returns all rules kube-proxy writes on a node for the family of the view.
pub fn ruleset(view: &ServiceView, node: &NodeView, flags: &Flags, version: Version) -> Ruleset {
    let mut writer = Writer::new(view.family, !view.is_large(), (node, flags, version));
    writer.fixed_chains();
    for port in &view.ports {
        ServiceWriter::new(&mut writer, port).write();
    }
    writer.nodeports_tail();
    writer.finish()
}

/// Returns what service ports have in the tables filter and nat: chains of their own, and their rules in those of all.
pub(super) fn rules_of_ports(
    family: Family,
    ports: &[PortView],
    comments: bool,
    on: (&NodeView, &Flags, Version),
) -> (Chains, Chains) {
    let mut writer = Writer::new(family, comments, on);
    for port in ports {
        ServiceWriter::new(&mut writer, port).write();
    }
    (writer.filter, writer.nat)
}

/// Whether kube-proxy writes the same rules on every node: nothing in Services or flags asks which node it is.
pub fn same_on_every_node(view: &ServiceView, flags: &Flags) -> bool {
    let addresses = match flags.nodeport_addresses {
        NodePortAddresses::All => true,
        NodePortAddresses::Primary | NodePortAddresses::Within(_) => false,
    };
    let local = match flags.detect_local_mode {
        DetectLocalMode::NodeCidr => false,
        DetectLocalMode::ClusterCidr
        | DetectLocalMode::BridgeInterface(_)
        | DetectLocalMode::InterfaceNamePrefix(_) => true,
    };
    addresses && local && !view.ports.iter().any(PortView::asks_for_node)
}

/// Whether kube-proxy's rules translate what is sent to an address of a Service.
pub fn translates(rules: &Ruleset, ip: IpAddr) -> bool {
    let table = rules.tables.get(&Table::Nat);
    let chain = table.and_then(|table| table.chains.get(SERVICES));
    let is_for = |rule: &Rule| rule.destination == Some(Not::is(host_net(ip)));
    chain.is_some_and(|chain| chain.rules.iter().any(is_for))
}

/// Returns the first 16 characters of the base32 SHA-256 of `text`.
pub fn hash16(text: &str) -> String {
    let mut hash = BASE32.encode(&Sha256::digest(text.as_bytes()));
    hash.truncate(16);
    hash
}

/// Returns `--probability` of one chance in `n`: kube-proxy prints ten decimals (`%0.10f`), and iptables rounds what
/// it reads to 31 bits.
///
/// # Panics
/// If `n` is zero.
pub fn one_in(n: u64) -> Probability {
    const SCALE: u64 = 10_000_000_000;
    let (decimals, rest) = (SCALE / n, SCALE % n);
    let up = match (2 * rest).cmp(&n) {
        std::cmp::Ordering::Less => 0,
        std::cmp::Ordering::Equal => decimals & 1,
        std::cmp::Ordering::Greater => 1,
    };
    let scaled = u128::from(decimals + up) << 31;
    let rounded = (scaled + u128::from(SCALE / 2)) / u128::from(SCALE);
    Probability(u32::try_from(rounded).unwrap_or(u32::MAX))
}

pub(super) type Chains = BTreeMap<Arc<str>, Vec<Rule>>;

/// Which addresses take node port traffic (`NewNodePortAddresses`); a family without a range of its own takes all.
pub(super) fn nodeport_nets(family: Family, node: &NodeView, flags: &Flags) -> Option<Vec<IpNet>> {
    let nets: Vec<IpNet> = match &flags.nodeport_addresses {
        NodePortAddresses::All => return None,
        NodePortAddresses::Primary => node.ips.iter().copied().map(host_net).collect(),
        NodePortAddresses::Within(nets) => nets.clone(),
    };
    let nets: Vec<IpNet> = nets
        .into_iter()
        .filter(|net| Family::of_net(*net) == family)
        .collect();
    let all = nets.is_empty() || nets.iter().any(|net| net.prefix_len() == 0);
    (!all).then_some(nets)
}

/// Whether kube-proxy lets addresses of 127.0.0.0/8 be routed on a node (`net.ipv4.conf.all.route_localnet=1`), so that
/// node ports answer on them.
pub fn routes_localnet(family: Family, node: &NodeView, flags: &Flags) -> bool {
    let nets = nodeport_nets(family, node, flags);
    localhost_nodeports(family, nets.as_deref(), flags)
}

/// Only IPv4 can lead loopback traffic elsewhere, and only if its node port addresses include loopback.
fn localhost_nodeports(family: Family, nets: Option<&[IpNet]>, flags: &Flags) -> bool {
    let included = nets.is_none_or(|nets| nets.iter().any(|net| net.addr().is_loopback()));
    family == Family::V4 && flags.localhost_nodeports && included
}

/// How traffic of local pods is told apart; nothing where the mode cannot.
#[derive(Clone, Debug)]
enum Detector {
    None,
    Source(IpNet),
    Interface(Arc<str>),
}

impl Detector {
    fn new(family: Family, node: &NodeView, flags: &Flags) -> Self {
        let of_family = |nets: &[IpNet]| {
            let mut nets = nets.iter().copied();
            nets.find(|net| Family::of_net(*net) == family)
                .map_or(Self::None, Self::Source)
        };
        match &flags.detect_local_mode {
            DetectLocalMode::ClusterCidr => of_family(&flags.cluster_cidr),
            DetectLocalMode::NodeCidr => of_family(&node.pod_cidrs),
            DetectLocalMode::BridgeInterface(name) => Self::Interface(Arc::clone(name)),
            DetectLocalMode::InterfaceNamePrefix(prefix) => {
                Self::Interface(format!("{prefix}+").into())
            }
        }
    }

    /// Adds "is local" or "is not local" to a rule; `None` where nothing can be told.
    fn apply(&self, mut rule: Rule, local: bool) -> Option<Rule> {
        match self {
            Self::None => return None,
            Self::Source(net) => {
                rule.source = Some(Not {
                    negated: !local,
                    value: *net,
                });
            }
            Self::Interface(name) => {
                rule.in_interface = Some(Not {
                    negated: !local,
                    value: Arc::clone(name),
                });
            }
        }
        Some(rule)
    }
}

/// Rules under construction.
struct Writer<'a> {
    family: Family,
    node: &'a NodeView,
    flags: &'a Flags,
    version: Version,
    mark: u32,
    comments: bool,
    detector: Detector,
    /// Ranges of addresses that take node port traffic; `None` is all.
    nodeport_nets: Option<Vec<IpNet>>,
    /// Whether loopback addresses take node port traffic.
    localhost_nodeports: bool,
    filter: Chains,
    nat: Chains,
}

impl<'a> Writer<'a> {
    fn new(
        family: Family,
        comments: bool,
        (node, flags, version): (&'a NodeView, &'a Flags, Version),
    ) -> Self {
        let nodeport_nets = nodeport_nets(family, node, flags);
        Self {
            localhost_nodeports: localhost_nodeports(family, nodeport_nets.as_deref(), flags),
            nodeport_nets,
            family,
            node,
            flags,
            version,
            mark: 1_u32
                .checked_shl(u32::from(flags.masquerade_bit))
                .unwrap_or(0),
            comments,
            detector: Detector::new(family, node, flags),
            filter: BTreeMap::new(),
            nat: BTreeMap::new(),
        }
    }
}

impl Writer<'_> {
    fn filter(&mut self, chain: &str, rule: Rule) {
        push(self.filter.entry(chain.into()).or_default(), rule);
    }

    fn nat(&mut self, chain: &str, rule: Rule) {
        push(self.nat.entry(chain.into()).or_default(), rule);
    }

    /// Chains that are there whatever the Services.
    fn fixed_chains(&mut self) {
        for chain in [
            SERVICES,
            EXTERNAL_SERVICES,
            NODEPORTS,
            FORWARD,
            PROXY_FIREWALL,
            CANARY,
        ] {
            self.filter.entry(chain.into()).or_default();
        }
        for chain in [SERVICES, NODEPORTS, POSTROUTING, MARK_MASQ, CANARY] {
            self.nat.entry(chain.into()).or_default();
        }
        self.jumps();
        self.forward();
        self.masquerade();
    }

    /// Jumps from the built-in chains, in the order in which they end up: each was prepended.
    fn jumps(&mut self) {
        let firewall = ("kubernetes load balancer firewall", PROXY_FIREWALL, true);
        let health = ("kubernetes health check service ports", NODEPORTS, false);
        let external = (
            "kubernetes externally-visible service portals",
            EXTERNAL_SERVICES,
            true,
        );
        let forwarding = ("kubernetes forwarding rules", FORWARD, false);
        let portals = ("kubernetes service portals", SERVICES, true);
        self.filter.entry(FIREWALL.into()).or_default();
        if self.localhost_nodeports {
            let block = Rule {
                source: Some(Not::except(loopback_net())),
                destination: Some(Not::is(loopback_net())),
                matches: vec![
                    Match::Comment("block incoming localnet connections".into()),
                    Match::CtState(Not::except(
                        CtStates::RELATED
                            .or(CtStates::ESTABLISHED)
                            .or(CtStates::DNAT),
                    )),
                ],
                target: Some(Target::Drop),
                ..Rule::default()
            };
            self.filter(FIREWALL, block);
        }
        for chain in ["INPUT", "OUTPUT"] {
            self.filter(chain, plain(Vec::new(), jump(FIREWALL)));
        }
        for (chain, jumps) in [
            ("INPUT", &[firewall, health, external][..]),
            ("FORWARD", &[firewall, forwarding, portals, external]),
            ("OUTPUT", &[firewall, portals]),
        ] {
            for (comment, target, new_only) in jumps.iter().copied() {
                let state = new_only.then_some(Match::CtState(Not::is(CtStates::NEW)));
                let matches = state.into_iter().chain([Match::Comment(comment.into())]);
                self.filter(chain, plain(matches.collect(), jump(target)));
            }
        }
        for (chain, comment, target) in [
            ("PREROUTING", "kubernetes service portals", SERVICES),
            ("OUTPUT", "kubernetes service portals", SERVICES),
            ("POSTROUTING", "kubernetes postrouting rules", POSTROUTING),
        ] {
            self.nat(chain, commented(comment, jump(target)));
        }
    }

    fn forward(&mut self) {
        if !self.flags.conntrack_tcp_be_liberal {
            let mut matches = vec![Match::CtState(Not::is(CtStates::INVALID))];
            if self.version >= Version::V1_32 {
                matches.push(Match::Nfacct("ct_state_invalid_dropped_pkts".into()));
            }
            self.filter(FORWARD, plain(matches, Target::Drop));
        }
        let marked = Match::Mark(Not::is(self.masquerade_mark()));
        let mut rule = commented("kubernetes forwarding rules", Target::Accept);
        rule.matches.push(marked);
        self.filter(FORWARD, rule);
        let mut rule = commented("kubernetes forwarding conntrack rule", Target::Accept);
        let states = CtStates::RELATED.or(CtStates::ESTABLISHED);
        rule.matches.push(Match::CtState(Not::is(states)));
        self.filter(FORWARD, rule);
    }

    fn masquerade(&mut self) {
        let mark = self.masquerade_mark();
        self.nat(MARK_MASQ, plain(Vec::new(), Target::Mark(mark)));
        if self.flags.clears_mark {
            let unmarked = vec![Match::Mark(Not::except(mark))];
            self.nat(POSTROUTING, plain(unmarked, Target::Return));
            let clear = MarkMask {
                value: self.mark,
                mask: 0,
            };
            self.nat(POSTROUTING, plain(Vec::new(), Target::Mark(clear)));
        }
        let random = if self.flags.random_fully {
            NatRandom::RandomFully
        } else {
            NatRandom::No
        };
        let target = Target::Masquerade {
            ports: None,
            random,
        };
        let mut rule = commented("kubernetes service traffic requiring SNAT", target);
        if !self.flags.clears_mark {
            rule.matches.push(Match::Mark(Not::is(mark)));
        }
        self.nat(POSTROUTING, rule);
    }

    const fn masquerade_mark(&self) -> MarkMask {
        MarkMask {
            value: self.mark,
            mask: self.mark,
        }
    }

    /// The call of `KUBE-NODEPORTS`, behind all Services.
    fn nodeports_tail(&mut self) {
        let comment =
            "kubernetes service nodeports; NOTE: this must be the last rule in this chain";
        let to = |addr: IpAddr| Rule {
            destination: Some(Not::is(host_net(addr))),
            ..commented(comment, jump(NODEPORTS))
        };
        let Some(nets) = &self.nodeport_nets else {
            let mut rule = commented(comment, jump(NODEPORTS));
            rule.matches.push(local_destination());
            rule.destination = match self.family {
                Family::V6 => Some(Not::except(host_net(Ipv6Addr::LOCALHOST.into()))),
                Family::V4 if self.localhost_nodeports => None,
                Family::V4 => Some(Not::except(loopback_net())),
            };
            self.nat(SERVICES, rule);
            return;
        };
        let takes = |addr: &&IpAddr| {
            nets.iter().any(|net| net.contains(*addr))
                && (self.localhost_nodeports || !addr.is_loopback())
        };
        let local = &self.node.local_addresses;
        let addresses: Vec<IpAddr> = local.iter().filter(takes).copied().collect();
        for addr in addresses {
            self.nat(SERVICES, to(addr));
        }
    }

    fn finish(mut self) -> Ruleset {
        let mangle = BTreeMap::from([(Arc::from(CANARY), Vec::new())]);
        let all = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
        let nat = ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"];
        let filter = ["INPUT", "FORWARD", "OUTPUT"];
        let tables = [
            (Table::Mangle, table(&all, mangle)),
            (Table::Nat, table(&nat, std::mem::take(&mut self.nat))),
            (
                Table::Filter,
                table(&filter, std::mem::take(&mut self.filter)),
            ),
        ];
        Ruleset {
            tables: tables.into(),
        }
    }
}

/// A table: built-in chains in the order of hooks, then the others by name.
fn table(built_in: &[&str], mut rules: Chains) -> TableRules {
    let mut table = TableRules::default();
    for name in built_in {
        let chain = Chain {
            policy: Some(ChainPolicy::Accept),
            rules: Arc::new(rules.remove(*name).unwrap_or_default()),
        };
        table.chains.insert((*name).into(), chain);
    }
    for (name, mut rules) in rules {
        rules.shrink_to_fit();
        let (policy, rules) = (None, Arc::new(rules));
        table.chains.insert(name, Chain { policy, rules });
    }
    table
}

/// Writes the rules of one service port.
struct ServiceWriter<'w, 'a, 'p> {
    to: &'w mut Writer<'a>,
    port: &'p PortView,
    name: String,
    endpoints: Categories<'p>,
    chains: ChainNames,
}

/// The chains of one service port; all share one hash.
struct ChainNames {
    cluster: String,
    local: String,
    external: String,
    firewall: String,
}

impl<'w, 'a, 'p> ServiceWriter<'w, 'a, 'p> {
    fn new(to: &'w mut Writer<'a>, port: &'p PortView) -> Self {
        let name = port.to_string();
        let hash = hash16(&format!("{name}{}", port.protocol.lower()));
        Self {
            endpoints: categorize(port, to.node, to.version),
            to,
            port,
            name,
            chains: ChainNames {
                cluster: format!("KUBE-SVC-{hash}"),
                local: format!("KUBE-SVL-{hash}"),
                external: format!("KUBE-EXT-{hash}"),
                firewall: format!("KUBE-FW-{hash}"),
            },
        }
    }

    fn write(mut self) {
        self.cluster_ip();
        self.external_ips();
        self.load_balancer();
        self.node_port();
        self.health_check();
        self.internal_chain();
        self.external_chain();
        self.firewall_chain();
        if self.port.uses_cluster_endpoints() {
            let endpoints = std::mem::take(&mut self.endpoints.cluster);
            self.balance(&self.chains.cluster.clone(), &endpoints);
        }
        if self.port.uses_local_endpoints() {
            let endpoints = std::mem::take(&mut self.endpoints.local);
            self.balance(&self.chains.local.clone(), &endpoints);
        }
        self.endpoint_chains();
    }

    fn has_internal(&self) -> bool {
        self.endpoints.any && !(self.port.internal_local && self.endpoints.local.is_empty())
    }

    fn has_external(&self) -> bool {
        self.endpoints.any && !(self.port.external_local && self.endpoints.local.is_empty())
    }

    fn uses_firewall(&self) -> bool {
        self.endpoints.any
            && !self.port.load_balancer_vips.is_empty()
            && !self.port.source_ranges.is_empty()
    }

    const fn policy_chain(&self, local: bool) -> &String {
        if local {
            &self.chains.local
        } else {
            &self.chains.cluster
        }
    }

    fn internal_policy_chain(&self) -> &str {
        self.policy_chain(self.port.internal_local)
    }

    /// A rule with a comment, from this service port.
    fn rule(&self, comment: &str, target: Target) -> Rule {
        Rule {
            origin: self.port.origin,
            ..commented(comment, target)
        }
    }

    /// A rule for one address of the Service.
    fn to_address(&self, comment: &str, addr: IpAddr, target: Target) -> Rule {
        let mut rule = self.rule(comment, target);
        rule.destination = Some(Not::is(host_net(addr)));
        self.dport(rule, self.port.port)
    }

    fn dport(&self, rule: Rule, port: u16) -> Rule {
        transport(rule, self.port.protocol, Some(port))
    }

    /// What becomes of traffic that has no endpoint: refused if there is none anywhere, lost if only none here.
    fn refuse(&self) -> (String, Target) {
        if self.endpoints.any {
            (
                format!("{} has no local endpoints", self.name),
                Target::Drop,
            )
        } else {
            let reject = Target::Reject(RejectWith::Icmp(IcmpError::PortUnreachable));
            (format!("{} has no endpoints", self.name), reject)
        }
    }

    fn cluster_ip(&mut self) {
        let addr = self.port.cluster_ip;
        if self.has_internal() {
            let comment = format!("{} cluster IP", self.name);
            let rule = self.to_address(&comment, addr, jump(self.internal_policy_chain()));
            self.to.nat(SERVICES, rule);
        } else {
            let (comment, target) = self.refuse();
            let rule = self.to_address(&comment, addr, target);
            self.to.filter(SERVICES, rule);
        }
    }

    fn external_ips(&mut self) {
        let comment = format!("{} external IP", self.name);
        for addr in &self.port.external_ips {
            if self.endpoints.any {
                let rule = self.to_address(&comment, *addr, jump(&self.chains.external));
                self.to.nat(SERVICES, rule);
            }
            self.refuse_external(*addr);
        }
    }

    fn refuse_external(&mut self, addr: IpAddr) {
        if !self.has_external() {
            let (comment, target) = self.refuse();
            let rule = self.to_address(&comment, addr, target);
            self.to.filter(EXTERNAL_SERVICES, rule);
        }
    }

    fn load_balancer(&mut self) {
        let comment = format!("{} loadbalancer IP", self.name);
        for addr in &self.port.load_balancer_vips {
            let firewall = self.uses_firewall();
            let chain = if firewall {
                &self.chains.firewall
            } else {
                &self.chains.external
            };
            if self.endpoints.any {
                let rule = self.to_address(&comment, *addr, jump(chain));
                self.to.nat(SERVICES, rule);
            }
            if firewall {
                let comment = format!(
                    "{} traffic not accepted by {}",
                    self.name, self.chains.firewall
                );
                let rule = self.to_address(&comment, *addr, Target::Drop);
                self.to.filter(PROXY_FIREWALL, rule);
            }
        }
        for addr in &self.port.load_balancer_vips {
            self.refuse_external(*addr);
        }
    }

    fn node_port(&mut self) {
        let Some(number) = self.port.node_port else {
            return;
        };
        if self.endpoints.any {
            let rule = self.dport(self.rule(&self.name, jump(&self.chains.external)), number);
            let counted = self.to.version >= Version::V1_32 && self.to.localhost_nodeports;
            if counted {
                let mut counting = rule.clone();
                counting.destination = Some(Not::is(loopback_net()));
                let counter = Match::Nfacct("localhost_nps_accepted_pkts".into());
                counting.matches.push(counter);
                self.to.nat(NODEPORTS, counting);
            }
            self.to.nat(NODEPORTS, rule);
        }
        if !self.has_external() {
            let (comment, target) = self.refuse();
            let mut rule = self.rule(&comment, target);
            rule.matches.push(local_destination());
            let rule = self.dport(rule, number);
            self.to.filter(EXTERNAL_SERVICES, rule);
        }
    }

    fn health_check(&mut self) {
        if let Some(number) = self.port.health_check_node_port {
            let comment = format!("{} health check node port", self.name);
            let rule = self.rule(&comment, Target::Accept);
            self.to
                .filter(NODEPORTS, transport(rule, Protocol::Tcp, Some(number)));
        }
    }

    /// First rule of the chain that the cluster address leads to: who is masqueraded.
    fn internal_chain(&mut self) {
        if !self.has_internal() {
            return;
        }
        let comment = format!("{} cluster IP", self.name);
        let rule = self.to_address(&comment, self.port.cluster_ip, jump(MARK_MASQ));
        let rule = if self.to.flags.masquerade_all {
            Some(rule)
        } else {
            self.to.detector.apply(rule, false)
        };
        let chain = self.internal_policy_chain().to_owned();
        if let Some(rule) = rule {
            self.to.nat(&chain, rule);
        }
    }

    /// `KUBE-EXT-*`: where all ways in from outside meet.
    fn external_chain(&mut self) {
        if !self.endpoints.any || !self.port.externally_accessible() {
            return;
        }
        let chain = self.chains.external.clone();
        let say = |what: &str| format!("{what} for {} external destinations", self.name);
        let cluster = || jump(&self.chains.cluster);
        let mut rules = Vec::new();
        if self.port.external_local {
            let pods = self.rule(&say("pod traffic"), cluster());
            rules.extend(self.to.detector.apply(pods, true));
            let mut masquerade = self.rule(&say("masquerade LOCAL traffic"), jump(MARK_MASQ));
            masquerade.matches.push(local_source());
            let mut route = self.rule(&say("route LOCAL traffic"), cluster());
            route.matches.push(local_source());
            rules.extend([masquerade, route]);
        } else {
            rules.push(self.rule(&say("masquerade traffic"), jump(MARK_MASQ)));
        }
        if self.has_external() {
            rules.push(Rule {
                origin: self.port.origin,
                ..plain(
                    Vec::new(),
                    jump(self.policy_chain(self.port.external_local)),
                )
            });
        }
        for rule in rules {
            self.to.nat(&chain, rule);
        }
    }

    /// `KUBE-FW-*`: who may use the load balancer's addresses.
    fn firewall_chain(&mut self) {
        if !self.uses_firewall() {
            return;
        }
        let comment = format!("{} loadbalancer IP", self.name);
        let from = |net: IpNet| Rule {
            source: Some(Not::is(net)),
            ..self.rule(&comment, jump(&self.chains.external))
        };
        let ranges = &self.port.source_ranges;
        let mut rules: Vec<Rule> = ranges.iter().map(|net| from(net.trunc())).collect();
        let node = self.to.node.ip(self.to.family);
        if node.is_some_and(|ip| ranges.iter().any(|net| net.contains(&ip))) {
            let vips = self.port.load_balancer_vips.iter();
            rules.extend(vips.map(|vip| from(host_net(*vip))));
        }
        let rest = format!(
            "other traffic to {} will be dropped by {PROXY_FIREWALL}",
            self.name
        );
        rules.push(Rule {
            target: None,
            ..self.rule(&rest, Target::Return)
        });
        for rule in rules {
            self.to.nat(&self.chains.firewall, rule);
        }
    }

    /// Shares connections among endpoints: those a client has been to first, then one chance in as many as are left.
    fn balance(&mut self, chain: &str, endpoints: &[&EndpointView]) {
        for endpoint in endpoints {
            if let Some(seconds) = self.port.affinity_seconds {
                let sep = self.endpoint_chain(endpoint);
                let mut rule = self.towards(endpoint);
                rule.matches.push(Match::Recent {
                    name: sep.into(),
                    op: Not::is(RecentOp::Rcheck),
                    seconds: Some(seconds),
                    reap: true,
                });
                self.to.nat(chain, rule);
            }
        }
        let mut left = u64::try_from(endpoints.len()).unwrap_or(u64::MAX);
        for endpoint in endpoints {
            let mut rule = self.towards(endpoint);
            if left > 1 {
                push(&mut rule.matches, Match::Random(Not::is(one_in(left))));
            }
            left -= 1;
            self.to.nat(chain, rule);
        }
    }

    fn towards(&self, endpoint: &EndpointView) -> Rule {
        let comment = format!("{} -> {}", self.name, endpoint.text);
        self.endpoint_rule(endpoint, &comment, jump(&self.endpoint_chain(endpoint)))
    }

    /// A rule about one endpoint; without a comment in a large cluster.
    fn endpoint_rule(&self, endpoint: &EndpointView, comment: &str, target: Target) -> Rule {
        let rule = if self.to.comments {
            commented(comment, target)
        } else {
            plain(Vec::new(), target)
        };
        Rule {
            origin: endpoint.origin.or(self.port.origin),
            ..rule
        }
    }

    fn endpoint_chain(&self, endpoint: &EndpointView) -> String {
        let protocol = self.port.protocol.lower();
        let hash = hash16(&format!("{}{protocol}{}", self.name, endpoint.text));
        format!("KUBE-SEP-{hash}")
    }

    /// `KUBE-SEP-*`: masquerade of what comes back to its sender, and the translation itself.
    fn endpoint_chains(&mut self) {
        for endpoint in std::mem::take(&mut self.endpoints.reachable) {
            let chain = self.endpoint_chain(endpoint);
            let addr = endpoint.addr.ip();
            let mut hairpin = self.endpoint_rule(endpoint, &self.name, jump(MARK_MASQ));
            hairpin.source = Some(Not::is(host_net(addr)));
            let target = Target::Dnat(NatRange {
                addrs: Some((addr, addr)),
                ports: Some(PortRange::one(endpoint.addr.port())),
                random: NatRandom::No,
                persistent: false,
            });
            let mut translate = self.endpoint_rule(endpoint, &self.name, target);
            if self.port.affinity_seconds.is_some() {
                translate.matches.push(Match::Recent {
                    name: chain.as_str().into(),
                    op: Not::is(RecentOp::Set),
                    seconds: None,
                    reap: false,
                });
            }
            let translate = transport(translate, self.port.protocol, None);
            self.to.nat(&chain, hairpin);
            self.to.nat(&chain, translate);
        }
    }
}

/// Adds to a list that stays short: most chains and lists of matches do, and there are very many.
fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() < 4 {
        list.reserve_exact(1);
    }
    list.push(item);
}

fn jump(chain: &str) -> Target {
    Target::Jump(chain.into())
}

fn plain(matches: Vec<Match>, target: Target) -> Rule {
    Rule {
        matches,
        target: Some(target),
        origin: OriginId::NONE,
        ..Rule::default()
    }
}

fn commented(comment: &str, target: Target) -> Rule {
    plain(vec![Match::Comment(comment.into())], target)
}

/// `-p protocol -m protocol [--dport port]`.
fn transport(mut rule: Rule, protocol: Protocol, dport: Option<u16>) -> Rule {
    let dport = dport.map(|port| Not::is(PortRange::one(port)));
    let sport = None;
    let (l4, found) = match protocol {
        Protocol::Tcp => (
            L4::Tcp,
            Match::Tcp {
                sport,
                dport,
                flags: None,
            },
        ),
        Protocol::Udp => (L4::Udp, Match::Udp { sport, dport }),
        Protocol::Sctp => (L4::Sctp, Match::Sctp { sport, dport }),
    };
    rule.protocol = Some(Not::is(l4));
    push(&mut rule.matches, found);
    rule
}

const fn local_destination() -> Match {
    Match::AddrType {
        src: None,
        dst: Some(Not::is(AddrType::Local)),
        limit_in: false,
    }
}

const fn local_source() -> Match {
    Match::AddrType {
        src: Some(Not::is(AddrType::Local)),
        dst: None,
        limit_in: false,
    }
}

fn loopback_net() -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::new_assert(
        std::net::Ipv4Addr::new(127, 0, 0, 0),
        8,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_every_cluster() {
        for (input, hash) in [
            ("default/kubernetes:httpstcp", "NPX46M4PTMTKRN6Y"),
            ("kube-system/kube-dns:dnsudp", "TCOU7JCQXEZGVUNU"),
            ("kube-system/kube-dns:dns-tcptcp", "ERIFXISQEP7F7OF4"),
            ("ns1/svc1:p80tcp10.180.0.1:80", "SXIVWICOYRO3J4NJ"),
            ("default/webtcp", "LOLE4ISW44XBNF3G"),
            ("default/web:httptcp10.244.1.10:8080", "GWQABTP5GBYXHJY5"),
            ("default/web:httptcp[fd00::1]:8080", "WCULYWWGDC2GGMCE"),
        ] {
            assert_eq!(hash16(input), hash);
        }
    }

    #[test]
    fn probabilities_round_as_printed() {
        // iptables-save shows 0.50000000000 and 0.33333333349.
        assert_eq!(one_in(2), Probability(1 << 30));
        assert_eq!(one_in(3), Probability(715_827_883));
    }
}
