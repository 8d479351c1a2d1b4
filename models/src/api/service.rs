//! Services: `v1` Service, everything that the `EndpointSlice` controller and kube-proxy look at.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::PortRef;
use crate::base::{Family, Labels, ObjectKey, OriginId, Protocol, Selector};

/// A name and an address for a set of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its own labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// How it is exposed.
    pub service_type: ServiceType,
    /// Its addresses inside the cluster.
    pub cluster_ip: ClusterIp,
    /// The families it has or should have, the primary one first; empty if not said.
    pub ip_families: Vec<Family>,
    /// How many families it should have; `None` if not said.
    pub ip_family_policy: Option<IpFamilyPolicy>,
    /// Which pods are behind it; `None` if somebody else keeps its endpoints.
    pub selector: Option<Selector>,
    /// Where the selector was written.
    pub selector_origin: OriginId,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Further addresses that nodes accept for it.
    pub external_ips: Vec<IpAddr>,
    /// The address asked of the load balancer (`spec.loadBalancerIP`).
    pub load_balancer_ip: Option<IpAddr>,
    /// Where its load balancer is (`status.loadBalancer.ingress`).
    pub ingress: Vec<IngressIp>,
    /// Who may use the load balancer; everybody if empty.
    pub load_balancer_source_ranges: Vec<IpNet>,
    /// Which endpoints outside traffic may go to.
    pub external_traffic_policy: TrafficPolicy,
    /// Which endpoints inside traffic may go to.
    pub internal_traffic_policy: TrafficPolicy,
    /// Whether a client stays with its endpoint.
    pub session_affinity: SessionAffinity,
    /// Whether endpoints that are not ready count as ready.
    pub publish_not_ready_addresses: bool,
    /// Where nodes answer a load balancer's health checks (`externalTrafficPolicy: Local`).
    pub health_check_node_port: Option<u16>,
    /// Whether a load balancer Service gets node ports.
    pub allocate_load_balancer_node_ports: bool,
    /// Which load balancer implementation is responsible.
    pub load_balancer_class: Option<Arc<str>>,
    /// The DNS name that an `ExternalName` Service stands for.
    pub external_name: Option<Arc<str>>,
    /// Which endpoints are preferred.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Where it was written.
    pub origin: OriginId,
}

impl Service {
    /// Whether another state of the Service is the same to kube-proxy, which looks neither at selectors nor at metadata.
    pub fn same_to_proxies(&self, other: &Self) -> bool {
        let seen = |service: &Self| {
            let mut seen = service.clone();
            seen.labels = Labels::default();
            seen.annotations = Labels::default();
            seen.selector = None;
            seen.selector_origin = OriginId::NONE;
            seen.origin = OriginId::NONE;
            for port in &mut seen.ports {
                port.origin = OriginId::NONE;
                port.target_port = PortRef::Number(0);
            }
            seen
        };
        seen(self) == seen(other)
    }

    /// Returns a `ClusterIP` Service without an address, a selector or ports.
    pub const fn new(key: ObjectKey) -> Self {
        Self {
            key,
            labels: Labels::new(),
            annotations: Labels::new(),
            service_type: ServiceType::ClusterIp,
            cluster_ip: ClusterIp::Unassigned,
            ip_families: Vec::new(),
            ip_family_policy: None,
            selector: None,
            selector_origin: OriginId::NONE,
            ports: Vec::new(),
            external_ips: Vec::new(),
            load_balancer_ip: None,
            ingress: Vec::new(),
            load_balancer_source_ranges: Vec::new(),
            external_traffic_policy: TrafficPolicy::Cluster,
            internal_traffic_policy: TrafficPolicy::Cluster,
            session_affinity: SessionAffinity::None,
            publish_not_ready_addresses: false,
            health_check_node_port: None,
            allocate_load_balancer_node_ports: true,
            load_balancer_class: None,
            external_name: None,
            traffic_distribution: None,
            origin: OriginId::NONE,
        }
    }

    /// Returns its addresses inside the cluster; none if headless or not yet assigned.
    pub fn cluster_ips(&self) -> &[IpAddr] {
        match &self.cluster_ip {
            ClusterIp::Unassigned | ClusterIp::Headless => &[],
            ClusterIp::Addresses(addresses) => addresses,
        }
    }

    /// Whether it has a name only, and no address of its own.
    pub fn headless(&self) -> bool {
        self.cluster_ip == ClusterIp::Headless
    }

    /// Returns the port of this number and protocol.
    pub fn port(&self, number: u16, protocol: Protocol) -> Option<&ServicePort> {
        self.ports
            .iter()
            .find(|port| port.port == number && port.protocol == protocol)
    }
}

/// How a Service is exposed (`spec.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceType {
    /// Inside the cluster only.
    #[default]
    ClusterIp,
    /// On a port of every node too.
    NodePort,
    /// At a load balancer too.
    LoadBalancer,
    /// An alias for a DNS name.
    ExternalName,
}

impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        })
    }
}

/// The addresses of a Service inside the cluster (`spec.clusterIP`, `spec.clusterIPs`).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClusterIp {
    /// To be allocated (also an `ExternalName` Service, which never gets one).
    #[default]
    Unassigned,
    /// `None`: DNS answers with the endpoints themselves.
    Headless,
    /// One address per family, the primary one first.
    Addresses(Vec<IpAddr>),
}

/// How many address families a Service should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamilyPolicy {
    /// One.
    SingleStack,
    /// Two if the cluster has two.
    PreferDualStack,
    /// Two.
    RequireDualStack,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; a Service with one port may leave it out.
    pub name: Option<Arc<str>>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port at the Service's addresses.
    pub port: u16,
    /// The port of the pods.
    pub target_port: PortRef,
    /// The port of the nodes, if asked for or allocated.
    pub node_port: Option<u16>,
    /// A hint about what is spoken.
    pub app_protocol: Option<Arc<str>>,
    /// Where it was written.
    pub origin: OriginId,
}

/// A place where a load balancer takes traffic for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressIp {
    /// Its address, if it has one.
    pub ip: Option<IpAddr>,
    /// Its DNS name, if it has one.
    pub hostname: Option<Arc<str>>,
    /// Whether nodes take the address as their own.
    pub ip_mode: IpMode,
}

/// What nodes do with a load balancer's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpMode {
    /// They translate it themselves.
    #[default]
    Vip,
    /// They leave it to the load balancer, which is a proxy.
    Proxy,
}

/// Which endpoints a Service's traffic may go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    /// All of them.
    #[default]
    Cluster,
    /// Those on the node that takes the traffic.
    Local,
}

impl fmt::Display for TrafficPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        })
    }
}

/// Whether a client stays with the endpoint it had before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionAffinity {
    /// No.
    #[default]
    None,
    /// By the client's address.
    ClientIp {
        /// How long after the last packet.
        timeout_seconds: u32,
    },
}

/// Which endpoints are preferred (`spec.trafficDistribution`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficDistribution {
    /// Those in the client's zone (`PreferClose` is the older name).
    PreferSameZone,
    /// Those on the client's node, then those in its zone.
    PreferSameNode,
}
