//! The ends of a connection as people type them: `deploy/shop/cart`, `ns/shop`, `svc/shop/cart`, `203.0.113.10`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use podwire_models::api::{Kind, Objects, Pod, PortRef, Service, WorkloadKind};
use podwire_models::base::{Namespace, ObjectKey, ObjectName, Protocol};

use podwire_models::control::policy::Flow;

use super::Peer;

/// Somebody who can be an end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All pods of a namespace.
    Namespace(Namespace),
    /// One pod.
    Pod(ObjectKey),
    /// All pods of a workload.
    Workload(WorkloadKind, ObjectKey),
    /// The pods behind a Service, as a destination.
    Service(ObjectKey),
    /// A node.
    Node(ObjectName),
    /// An address.
    Address(IpAddr),
}

/// A port as people type it: `80`, `53/UDP`, `icmp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(pub Flow);

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        super::flow(text).map(Self)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an end looks like.
pub const FORMS: &str = "pod/NS/NAME, deploy/NS/NAME (and other workloads), svc/NS/NAME, ns/NAME, node/NAME or an address";

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is none of: {FORMS}");
        if let Ok(ip) = text.parse() {
            return Ok(Self::Address(ip));
        }
        let (word, rest) = text.split_once('/').ok_or_else(wrong)?;
        let kind = Kind::from_word(word).ok_or_else(wrong)?;
        let name = |text: &str| {
            text.parse::<ObjectName>()
                .map_err(|error| format!("`{text}`: {error}"))
        };
        let key = || {
            let (namespace, own) = rest.split_once('/').ok_or_else(wrong)?;
            let namespace = namespace
                .parse()
                .map_err(|error| format!("`{namespace}`: {error}"))?;
            Ok::<_, String>(ObjectKey::new(namespace, name(own)?))
        };
        match kind {
            Kind::Namespace => rest
                .parse()
                .map(Self::Namespace)
                .map_err(|error| format!("`{rest}`: {error}")),
            Kind::Pod => Ok(Self::Pod(key()?)),
            Kind::Workload(kind) => Ok(Self::Workload(kind, key()?)),
            Kind::Service => Ok(Self::Service(key()?)),
            Kind::Node => Ok(Self::Node(name(rest)?)),
            Kind::EndpointSlice
            | Kind::NetworkPolicy
            | Kind::ClusterPolicy(_)
            | Kind::Ingress
            | Kind::WebhookConfiguration(_) => Err(wrong()),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "ns/{name}"),
            Self::Pod(key) => write!(f, "pod/{key}"),
            Self::Workload(kind, key) => {
                write!(f, "{}/{key}", kind.as_str().to_ascii_lowercase())
            }
            Self::Service(key) => write!(f, "svc/{key}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Address(ip) => write!(f, "{ip}"),
        }
    }
}

impl End {
    /// Returns the pods that are meant.
    pub fn pods<'o>(&self, objects: &'o Objects) -> Vec<&'o Pod> {
        let alive = objects.pods.values().filter(|pod| !pod.ended());
        match self {
            Self::Namespace(name) => alive.filter(|pod| pod.key.namespace == *name).collect(),
            Self::Pod(key) => alive.filter(|pod| pod.key == *key).collect(),
            Self::Workload(kind, key) => {
                let meant = Peer::Workload {
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                    kind: kind.as_str().into(),
                };
                alive
                    .filter(|pod| Peer::of(pod, objects) == meant)
                    .collect()
            }
            Self::Service(key) => {
                let selector = objects
                    .services
                    .get(key)
                    .and_then(|service| service.selector.as_ref())
                    .filter(|selector| !selector.is_empty());
                alive
                    .filter(|pod| pod.key.namespace == key.namespace)
                    .filter(|pod| selector.is_some_and(|selector| selector.matches(&pod.labels)))
                    .collect()
            }
            Self::Node(_) | Self::Address(_) => Vec::new(),
        }
    }

    /// Returns the addresses that are meant.
    pub fn addresses(&self, objects: &Objects) -> Vec<IpAddr> {
        match self {
            Self::Address(ip) => vec![*ip],
            Self::Node(name) => {
                let node = objects.nodes.get(name);
                node.map(|node| node.internal_ips.clone())
                    .unwrap_or_default()
            }
            Self::Namespace(_) | Self::Pod(_) | Self::Workload(..) | Self::Service(_) => {
                let pods = self.pods(objects).into_iter();
                pods.flat_map(|pod| pod.pod_ips.iter().copied()).collect()
            }
        }
    }

    /// Returns the port on a pod behind a port of this: a Service's are translated.
    pub fn port_on(
        &self,
        pod: Option<&Pod>,
        port: u16,
        protocol: Protocol,
        objects: &Objects,
    ) -> u16 {
        let service = match self {
            Self::Service(key) => objects.services.get(key),
            Self::Namespace(_)
            | Self::Pod(_)
            | Self::Workload(..)
            | Self::Node(_)
            | Self::Address(_) => None,
        };
        let target = service.and_then(|service| target(service, pod?, port, protocol));
        target.unwrap_or(port)
    }

    /// Returns the peers of an answer that are meant; none if there is nobody like that.
    pub fn peers(&self, objects: &Objects, peers: &[Peer]) -> BTreeSet<Peer> {
        if let Self::Address(ip) = self {
            let pod = objects.pods.values().find(|pod| pod.pod_ips.contains(ip));
            if let Some(pod) = pod {
                return BTreeSet::from([Peer::of(pod, objects)]);
            }
            let holds = |peer: &&Peer| match peer {
                Peer::Outside(first, last) => {
                    first.is_ipv4() == ip.is_ipv4() && first <= ip && ip <= last
                }
                Peer::Workload { .. } => false,
            };
            return peers.iter().filter(holds).cloned().collect();
        }
        let pods = self.pods(objects).into_iter();
        pods.map(|pod| Peer::of(pod, objects)).collect()
    }
}

fn target(service: &Service, pod: &Pod, port: u16, protocol: Protocol) -> Option<u16> {
    let port = service
        .ports
        .iter()
        .find(|own| own.port == port && own.protocol == protocol)?;
    match &port.target_port {
        PortRef::Number(number) => Some(*number),
        PortRef::Name(name) => Some(pod.port_named(name, protocol)?.container_port),
    }
}
