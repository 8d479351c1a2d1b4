//! Where a Service's traffic can go: `discovery.k8s.io/v1` `EndpointSlice`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::base::{Family, Labels, ObjectKey, ObjectName, OriginId, Protocol};

/// The label that names the Service a slice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The label that names who keeps a slice up to date.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// The label that tells kube-proxy to leave a headless Service's slice alone.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Some of a Service's endpoints: all of one family and with the same ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its labels: [`SERVICE_NAME_LABEL`] says whose it is.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// What the endpoints' addresses are.
    pub address_type: AddressType,
    /// The endpoints, in their order.
    pub endpoints: Vec<Endpoint>,
    /// The ports that each of them has.
    pub ports: Vec<EndpointPort>,
    /// Where it was written; a slice of the controller has its Service's.
    pub origin: OriginId,
}

impl EndpointSlice {
    /// Returns the name of the Service it belongs to.
    pub fn service_name(&self) -> Option<&str> {
        self.labels.get(SERVICE_NAME_LABEL)
    }
}

/// What the addresses of a slice are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressType {
    /// IPv4 addresses.
    Ipv4,
    /// IPv6 addresses.
    Ipv6,
    /// DNS names, which kube-proxy ignores.
    Fqdn,
}

impl AddressType {
    /// Returns the address family; none for DNS names.
    pub const fn family(self) -> Option<Family> {
        match self {
            Self::Ipv4 => Some(Family::V4),
            Self::Ipv6 => Some(Family::V6),
            Self::Fqdn => None,
        }
    }
}

impl From<Family> for AddressType {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ipv4,
            Family::V6 => Self::Ipv6,
        }
    }
}

impl fmt::Display for AddressType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
            Self::Fqdn => "FQDN",
        })
    }
}

/// One place where traffic can go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses. kube-proxy uses the first only.
    pub addresses: Vec<IpAddr>,
    /// Its DNS names, in a slice of type `FQDN`.
    pub names: Vec<Arc<str>>,
    /// Whether it takes new traffic; `None` counts as yes.
    pub ready: Option<bool>,
    /// Whether it would answer, terminating or not; `None` counts as `ready`.
    pub serving: Option<bool>,
    /// Whether it is on its way out; `None` counts as no.
    pub terminating: Option<bool>,
    /// Its name below a headless Service.
    pub hostname: Option<Arc<str>>,
    /// The node it is on.
    pub node_name: Option<ObjectName>,
    /// The zone it is in.
    pub zone: Option<Arc<str>>,
    /// Zones whose clients should use it; empty if nobody said.
    pub for_zones: Vec<Arc<str>>,
    /// Nodes whose clients should use it; empty if nobody said.
    pub for_nodes: Vec<Arc<str>>,
    /// What it is.
    pub target_ref: Option<TargetRef>,
    /// Where it was written; an endpoint of the controller has its pod's.
    pub origin: OriginId,
}

impl Endpoint {
    /// Returns an endpoint that is ready, at this address.
    pub fn new(address: IpAddr) -> Self {
        Self {
            addresses: vec![address],
            names: Vec::new(),
            ready: Some(true),
            serving: Some(true),
            terminating: Some(false),
            hostname: None,
            node_name: None,
            zone: None,
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
            target_ref: None,
            origin: OriginId::NONE,
        }
    }

    /// Whether it takes new traffic.
    pub fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// Whether it would answer, terminating or not.
    pub fn is_serving(&self) -> bool {
        self.serving.unwrap_or_else(|| self.is_ready())
    }

    /// Whether it is on its way out.
    pub fn is_terminating(&self) -> bool {
        self.terminating.unwrap_or(false)
    }
}

/// The object behind an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetRef {
    /// Its kind, mostly `Pod`.
    pub kind: Arc<str>,
    /// Namespace and name.
    pub key: ObjectKey,
}

/// One port of all endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointPort {
    /// The name of the Service port it belongs to; empty if that has none.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The number; all ports if `None`, which kube-proxy ignores.
    pub port: Option<u16>,
    /// A hint about what is spoken.
    pub app_protocol: Option<Arc<str>>,
}
