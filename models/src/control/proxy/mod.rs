//! kube-proxy: what all of its modes agree on (`pkg/proxy/{serviceport,endpointslicecache,topology}.go`).
//!
//! [`ServiceView`] is what kube-proxy has read from the API for one family: the same on every node, so it can be
//! held once. [`categorize`] says which endpoints one node uses. [`iptables`] writes the rules, [`partial`] those of one Service that changed,
//! [`health`] answers load balancers.
//! Leaves out: modes ipvs and nftables, `service-proxy-name` of other
//! proxies than the default one.

pub mod iptables;
pub mod partial;
pub mod cleanup;
pub mod health;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::api::{
    Endpoint, EndpointSlice, IpMode, Node, Service, ServicePort, ServiceType, SessionAffinity,
    TrafficPolicy,
};
use crate::base::{Family, ObjectKey, ObjectName, OriginId, Protocol};

/// Releases of kube-proxy whose rules differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named after the Kubernetes release")]
pub enum Version {
    V1_30,
    V1_31,
    V1_32,
    V1_33,
    #[default]
    V1_34,
}

/// Flags of kube-proxy that shape its rules, with its defaults.
#[allow(
    clippy::struct_excessive_bools,
    reason = "one field per flag, as kube-proxy has them"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    /// `--cluster-cidr`, at most one per family.
    pub cluster_cidr: Vec<IpNet>,
    /// `--detect-local-mode`.
    pub detect_local_mode: DetectLocalMode,
    /// `--masquerade-all`.
    pub masquerade_all: bool,
    /// `--nodeport-addresses`.
    pub nodeport_addresses: NodePortAddresses,
    /// `--iptables-localhost-nodeports`.
    pub localhost_nodeports: bool,
    /// `--iptables-masquerade-bit`, 0 to 31.
    pub masquerade_bit: u8,
    /// `--conntrack-tcp-be-liberal`.
    pub conntrack_tcp_be_liberal: bool,
    /// Whether its rules clear its mark before they masquerade (1.16.13, 1.17.9, 1.18.6 and later; kubernetes 92035).
    pub clears_mark: bool,
    /// Whether the node's iptables knows `--random-fully` (1.6.2 and later).
    pub random_fully: bool,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            cluster_cidr: Vec::new(),
            detect_local_mode: DetectLocalMode::default(),
            masquerade_all: false,
            nodeport_addresses: NodePortAddresses::default(),
            localhost_nodeports: true,
            masquerade_bit: 14,
            conntrack_tcp_be_liberal: false,
            clears_mark: true,
            random_fully: true,
        }
    }
}

/// How kube-proxy tells traffic of local pods (`--detect-local-mode`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DetectLocalMode {
    /// By the cluster's pod range; no detection in a family without one.
    #[default]
    ClusterCidr,
    /// By the node's own pod range.
    NodeCidr,
    /// By the bridge it comes from (`--pod-bridge-interface`).
    BridgeInterface(Arc<str>),
    /// By the beginning of the device's name (`--pod-interface-name-prefix`).
    InterfaceNamePrefix(Arc<str>),
}

/// Which addresses of a node take node port traffic (`--nodeport-addresses`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All local addresses.
    #[default]
    All,
    /// The node's primary addresses (`primary`, 1.33 and later).
    Primary,
    /// Addresses in these ranges.
    Within(Vec<IpNet>),
}

/// What kube-proxy knows of the node it runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Name.
    pub name: ObjectName,
    /// Zone.
    pub zone: Option<Arc<str>>,
    /// Primary addresses, at most one per family.
    pub ips: Vec<IpAddr>,
    /// Addresses of all devices, in the order of the devices; for [`NodePortAddresses::Within`].
    pub local_addresses: Vec<IpAddr>,
    /// Pod ranges.
    pub pod_cidrs: Vec<IpNet>,
}

impl NodeView {
    /// Returns what kube-proxy knows from the Node object, with the addresses of its devices.
    pub fn new(node: &Node, local_addresses: Vec<IpAddr>) -> Self {
        Self {
            name: node.name.clone(),
            zone: node.zone().filter(|zone| !zone.is_empty()).map(Into::into),
            ips: node.internal_ips.clone(),
            local_addresses,
            pod_cidrs: node.pod_cidrs.clone(),
        }
    }

    /// Returns the primary address of a family.
    pub fn ip(&self, family: Family) -> Option<IpAddr> {
        self.ips
            .iter()
            .copied()
            .find(|ip| Family::of(*ip) == family)
    }
}

/// All service ports of one family, by name: the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// The family.
    pub family: Family,
    /// Service ports, by namespace, name, port name, protocol.
    pub ports: Vec<PortView>,
}

/// One port of one Service, with everything that decides its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortView {
    /// The Service.
    pub service: ObjectKey,
    /// Name of the port; empty if it has none.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Cluster address.
    pub cluster_ip: IpAddr,
    /// Port on cluster, external and load balancer addresses.
    pub port: u16,
    /// Port on the nodes.
    pub node_port: Option<u16>,
    /// External addresses.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses that nodes catch.
    pub load_balancer_vips: Vec<IpAddr>,
    /// Sources the load balancer addresses accept; empty is everybody.
    pub source_ranges: Vec<IpNet>,
    /// Whether traffic from outside stays on the node.
    pub external_local: bool,
    /// Whether traffic from inside stays on the node.
    pub internal_local: bool,
    /// Seconds for which a client keeps its endpoint.
    pub affinity_seconds: Option<u32>,
    /// Port for the load balancer's health checks.
    pub health_check_node_port: Option<u16>,
    /// Whether the annotation `topology-mode` asks for hints to be followed (needed until 1.30).
    pub hints_wanted: bool,
    /// Endpoints in the order of their text `ip:port`, duplicates of several slices included.
    pub endpoints: Vec<EndpointView>,
    /// Where the port was written.
    pub origin: OriginId,
}

/// One endpoint of one service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// Address and port.
    pub addr: SocketAddr,
    /// The same as text, which orders endpoints and names chains.
    pub text: Arc<str>,
    /// Node it is on.
    pub node: Option<ObjectName>,
    /// The pod, where it is one.
    pub pod: Option<ObjectKey>,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it answers.
    pub serving: bool,
    /// Whether it is about to go.
    pub terminating: bool,
    /// Zones it is meant for.
    pub for_zones: Vec<Arc<str>>,
    /// Nodes it is meant for.
    pub for_nodes: Vec<Arc<str>>,
    /// Where it was written.
    pub origin: OriginId,
}

impl PortView {
    /// Whether rules for the port depend on the node they are for: for policies Local, hints, the node's own address
    /// among the sources, and endpoints that several slices name.
    fn asks_for_node(&self) -> bool {
        let hinted = |e: &EndpointView| !e.for_zones.is_empty() || !e.for_nodes.is_empty();
        let pairs = self.endpoints.iter().zip(self.endpoints.iter().skip(1));
        self.internal_local
            || self.external_local
            || !self.source_ranges.is_empty()
            || self.endpoints.iter().any(hinted)
            || pairs.into_iter().any(|(a, b)| a.text == b.text)
    }
}

impl ServiceView {
    /// Returns what kube-proxy knows once it has read these Services and slices.
    pub fn new<'a>(
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
        family: Family,
    ) -> Self {
        let mut of_service = BTreeMap::new();
        for slice in slices {
            let (Some(name), Some(_)) = (
                slice.service_name(),
                slice.address_type.family().filter(|f| *f == family),
            ) else {
                continue;
            };
            let key = (slice.key.namespace.as_str(), name);
            of_service.entry(key).or_insert_with(Vec::new).push(slice);
        }
        let mut ports = Vec::new();
        for service in services {
            let Some(cluster_ip) = served_ip(service, family) else {
                continue;
            };
            let key = (service.key.namespace.as_str(), service.key.name.as_str());
            let slices = of_service.get(&key).map_or(&[][..], Vec::as_slice);
            let each = service.ports.iter();
            ports.extend(each.map(|port| PortView::new(service, port, cluster_ip, slices)));
        }
        ports.sort_by(PortView::order);
        Self { family, ports }
    }

    /// Returns the number of endpoints, summed over service ports.
    pub fn endpoint_count(&self) -> usize {
        self.ports.iter().map(|port| port.endpoints.len()).sum()
    }
}

/// The cluster address for which kube-proxy writes rules, unless it skips the Service.
fn served_ip(service: &Service, family: Family) -> Option<IpAddr> {
    let foreign = service
        .labels
        .get("service.kubernetes.io/service-proxy-name")
        .is_some();
    if foreign || service.service_type == ServiceType::ExternalName {
        return None;
    }
    let mut ips = service.cluster_ips().iter().copied();
    ips.find(|ip| Family::of(*ip) == family)
}

impl PortView {
    fn new(
        service: &Service,
        port: &ServicePort,
        cluster_ip: IpAddr,
        slices: &[&EndpointSlice],
    ) -> Self {
        let family = Family::of(cluster_ip);
        let name = port.name.clone().unwrap_or_else(|| Arc::from(""));
        let external_local = external_local(service);
        let ours = |ip: &IpAddr| Family::of(*ip) == family;
        let vips = service
            .ingress
            .iter()
            .filter(|ingress| match ingress.ip_mode {
                IpMode::Vip => true,
                IpMode::Proxy => false,
            });
        Self {
            service: service.key.clone(),
            protocol: port.protocol,
            cluster_ip,
            port: port.port,
            node_port: port.node_port.filter(|number| *number != 0),
            external_ips: service.external_ips.iter().copied().filter(ours).collect(),
            load_balancer_vips: vips.filter_map(|ingress| ingress.ip).filter(ours).collect(),
            source_ranges: service
                .load_balancer_source_ranges
                .iter()
                .copied()
                .filter(|net| Family::of_net(*net) == family)
                .collect(),
            external_local,
            internal_local: service.internal_traffic_policy == TrafficPolicy::Local,
            affinity_seconds: match service.session_affinity {
                SessionAffinity::None => None,
                SessionAffinity::ClientIp { timeout_seconds } => Some(timeout_seconds),
            },
            health_check_node_port: service.health_check_node_port.filter(|number| {
                *number != 0 && external_local && service.service_type == ServiceType::LoadBalancer
            }),
            hints_wanted: hints_wanted(service),
            endpoints: endpoints(&name, port.protocol, slices),
            origin: port.origin.or(service.origin),
            name,
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        (&self.service, &self.name, self.protocol).cmp(&(
            &other.service,
            &other.name,
            other.protocol,
        ))
    }

    /// Whether it can be reached by any other way than its cluster address.
    pub fn externally_accessible(&self) -> bool {
        self.node_port.is_some()
            || !self.load_balancer_vips.is_empty()
            || !self.external_ips.is_empty()
    }

    /// Whether traffic of policy Cluster exists; external policy Local needs it for its short cut.
    pub fn uses_cluster_endpoints(&self) -> bool {
        !self.internal_local || self.externally_accessible()
    }

    /// Whether traffic of policy Local exists.
    pub fn uses_local_endpoints(&self) -> bool {
        self.internal_local || (self.external_local && self.externally_accessible())
    }
}

impl fmt::Display for PortView {
    /// `namespace/name:port`, as in comments and hashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if self.name.is_empty() {
            Ok(())
        } else {
            write!(f, ":{}", self.name)
        }
    }
}

/// `apiservice.ExternalPolicyLocal`: the policy only counts for Services reachable from outside.
fn external_local(service: &Service) -> bool {
    let accessible = match service.service_type {
        ServiceType::LoadBalancer | ServiceType::NodePort => true,
        ServiceType::ClusterIp => !service.external_ips.is_empty(),
        ServiceType::ExternalName => false,
    };
    accessible && service.external_traffic_policy == TrafficPolicy::Local
}

fn hints_wanted(service: &Service) -> bool {
    let value = service
        .annotations
        .get("service.kubernetes.io/topology-aware-hints")
        .or_else(|| {
            service
                .annotations
                .get("service.kubernetes.io/topology-mode")
        });
    value.is_some_and(|value| !matches!(value, "" | "disabled" | "Disabled"))
}

fn endpoints(name: &str, protocol: Protocol, slices: &[&EndpointSlice]) -> Vec<EndpointView> {
    let mut found = Vec::new();
    for slice in slices {
        let same =
            |port: &&crate::api::EndpointPort| *port.name == *name && port.protocol == protocol;
        let number = slice.ports.iter().find(same).and_then(|port| port.port);
        let Some(number) = number.filter(|number| *number != 0) else {
            continue;
        };
        found.extend(
            slice
                .endpoints
                .iter()
                .filter_map(|e| endpoint(e, number, slice)),
        );
    }
    found.sort_by(|a, b| a.text.cmp(&b.text));
    found
}

fn endpoint(endpoint: &Endpoint, port: u16, slice: &EndpointSlice) -> Option<EndpointView> {
    let addr = SocketAddr::new(*endpoint.addresses.first()?, port);
    Some(EndpointView {
        addr,
        text: addr.to_string().into(),
        node: endpoint.node_name.clone(),
        pod: endpoint
            .target_ref
            .as_ref()
            .map(|target| target.key.clone()),
        ready: endpoint.is_ready(),
        serving: endpoint.is_serving(),
        terminating: endpoint.is_terminating(),
        for_zones: endpoint.for_zones.clone(),
        for_nodes: endpoint.for_nodes.clone(),
        origin: endpoint.origin.or(slice.origin),
    })
}

impl EndpointView {
    /// Whether it is the last resort: answers, but is about to go.
    const fn is_fallback(&self) -> bool {
        self.serving && self.terminating
    }

    fn is_local(&self, node: &NodeView) -> bool {
        self.node.as_ref() == Some(&node.name)
    }
}

/// Which endpoints one node uses for one service port (`CategorizeEndpoints`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Categories<'a> {
    /// For policy Cluster.
    pub cluster: Vec<&'a EndpointView>,
    /// For policy Local.
    pub local: Vec<&'a EndpointView>,
    /// Both, each once.
    pub reachable: Vec<&'a EndpointView>,
    /// Whether there are any, on whatever node.
    pub any: bool,
}

/// Returns which endpoints a node uses for a service port.
pub fn categorize<'a>(port: &'a PortView, node: &NodeView, version: Version) -> Categories<'a> {
    let endpoints = distinct(port, node);
    let pick = |wanted: &dyn Fn(&EndpointView) -> bool| -> Vec<&'a EndpointView> {
        endpoints.iter().copied().filter(|e| wanted(e)).collect()
    };
    let mut found = Categories::default();
    if port.uses_cluster_endpoints() {
        let topology = topology(port, &endpoints, node, version);
        found.cluster = pick(&|e| e.ready && topology.allows(e, node));
        if found.cluster.is_empty() {
            found.cluster = pick(&EndpointView::is_fallback);
        }
        found.any = !found.cluster.is_empty();
    }
    if port.uses_local_endpoints() {
        found.any |= endpoints.iter().any(|e| e.ready || e.is_fallback());
        found.local = pick(&|e| e.ready && e.is_local(node));
        if found.local.is_empty() {
            found.local = pick(&|e| e.is_fallback() && e.is_local(node));
        }
    }
    let used: BTreeSet<&str> = found
        .cluster
        .iter()
        .chain(&found.local)
        .map(|e| &*e.text)
        .collect();
    found.reachable = pick(&|e| used.contains(&*e.text));
    found
}

/// Endpoints that several slices name count once; one on this node wins.
fn distinct<'a>(port: &'a PortView, node: &NodeView) -> Vec<&'a EndpointView> {
    let mut found: Vec<&EndpointView> = Vec::with_capacity(port.endpoints.len());
    for endpoint in &port.endpoints {
        match found.last_mut() {
            Some(last) if last.text == endpoint.text => {
                if endpoint.is_local(node) {
                    *last = endpoint;
                }
            }
            _ => found.push(endpoint),
        }
    }
    found
}

/// How hints narrow the endpoints of policy Cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    None,
    SameZone,
    SameNode,
}

impl Topology {
    fn allows(self, endpoint: &EndpointView, node: &NodeView) -> bool {
        match self {
            Self::None => true,
            Self::SameZone => hinted(&endpoint.for_zones, node.zone.as_deref()),
            Self::SameNode => hinted(&endpoint.for_nodes, Some(node.name.as_str())),
        }
    }
}

fn hinted(hints: &[Arc<str>], place: Option<&str>) -> bool {
    place.is_some_and(|place| hints.iter().any(|hint| **hint == *place))
}

/// Hints count only if every ready endpoint has some and one of them means this node.
fn topology(
    port: &PortView,
    endpoints: &[&EndpointView],
    node: &NodeView,
    version: Version,
) -> Topology {
    if version == Version::V1_30 && !port.hints_wanted {
        return Topology::None;
    }
    let ready = || endpoints.iter().filter(|e| e.ready);
    let usable = |topology: Topology, has_hints: fn(&EndpointView) -> bool| {
        ready().all(|e| has_hints(e)) && ready().any(|e| topology.allows(e, node))
    };
    if version >= Version::V1_34 && usable(Topology::SameNode, |e| !e.for_nodes.is_empty()) {
        Topology::SameNode
    } else if usable(Topology::SameZone, |e| !e.for_zones.is_empty()) {
        Topology::SameZone
    } else {
        Topology::None
    }
}
