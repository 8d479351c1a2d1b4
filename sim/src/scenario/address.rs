//! Names of things as users type them, in scenarios and on the command line: who sends ([`Thing`]), to where
//! ([`Target`]), and which object is meant ([`ObjectRef`]).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use podwire_models::base::{Namespace, ObjectKey, ObjectName};

/// Something that can send: `pod/shop/cart-0`, `deploy/shop/cart` (any of its pods), `node/node-a`, `host/browser`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// One pod.
    Pod(ObjectKey),
    /// Any pod of a workload; the kind is spelled as in manifests, `Deployment`.
    Workload {
        /// Kind.
        kind: &'static str,
        /// Namespace and name.
        key: ObjectKey,
    },
    /// A machine of the cluster.
    Node(ObjectName),
    /// A machine outside.
    Host(ObjectName),
}

/// Something that can be sent to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// `svc/shop/cart:7070`, by its first cluster address.
    Service {
        /// Namespace and name.
        key: ObjectKey,
        /// One of its ports.
        port: Option<PortRef>,
    },
    /// `pod/shop/cart-0:7070`, by its address.
    Pod {
        /// Namespace and name.
        key: ObjectKey,
        /// Port.
        port: Option<PortRef>,
    },
    /// `node/node-a:30080`, by its address.
    Node {
        /// Name.
        name: ObjectName,
        /// Port.
        port: Option<u16>,
    },
    /// `host/browser:80`, by its address.
    Host {
        /// Name.
        name: ObjectName,
        /// Port.
        port: Option<u16>,
    },
    /// `10.244.2.5:80`, `[fd00::5]:80`, or without a port where the protocol has none.
    Address {
        /// Address.
        ip: IpAddr,
        /// Port.
        port: Option<u16>,
    },
    /// `cart.shop:7070`: the name is looked up first.
    Name {
        /// DNS name as typed.
        name: String,
        /// Port.
        port: Option<u16>,
    },
    /// `http://cart.shop:7070/items`.
    Url {
        /// Whether it is `https`.
        tls: bool,
        /// DNS name or address as typed.
        host: String,
        /// Port, 80 or 443 if not given.
        port: u16,
        /// Path, at least `/`.
        path: String,
    },
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortRef {
    /// By number.
    Number(u16),
    /// By the name it has in the Service or container.
    Name(String),
}

/// An object of the API server: `svc/shop/cart`, `node/node-a`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Kind, spelled as in manifests.
    pub kind: &'static str,
    /// Namespace; nothing for kinds that belong to none.
    pub namespace: Option<Namespace>,
    /// Name.
    pub name: ObjectName,
}

/// A text that names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not one of the forms.
    #[error("`{found}` does not name {wanted}")]
    Form {
        /// As typed.
        found: String,
        /// What it should name, with examples.
        wanted: &'static str,
    },
    /// A part is no Kubernetes name.
    #[error("`{part}` is not a name: {error}")]
    Name {
        /// The part.
        part: String,
        /// Why not.
        error: podwire_models::base::NameError,
    },
    /// What follows the colon is no port.
    #[error("`{0}` is not a port")]
    Port(String),
}

const THINGS: &str =
    "a sender such as pod/NAMESPACE/NAME, deploy/NAMESPACE/NAME, node/NAME or host/NAME";
const TARGETS: &str = "a target such as svc/NAMESPACE/NAME:PORT, pod/NAMESPACE/NAME:PORT, IP:PORT, NAME:PORT or http://HOST/";
const OBJECTS: &str = "an object such as svc/NAMESPACE/NAME or node/NAME";

/// Kinds with what `kubectl` calls them; whether they belong to a namespace; whether they run pods.
const KINDS: &[(&str, &[&str], bool, bool)] = &[
    ("Pod", &["pod", "pods", "po"], true, false),
    (
        "Deployment",
        &["deploy", "deployment", "deployments"],
        true,
        true,
    ),
    (
        "ReplicaSet",
        &["rs", "replicaset", "replicasets"],
        true,
        true,
    ),
    (
        "StatefulSet",
        &["sts", "statefulset", "statefulsets"],
        true,
        true,
    ),
    ("DaemonSet", &["ds", "daemonset", "daemonsets"], true, true),
    ("Job", &["job", "jobs"], true, true),
    ("CronJob", &["cj", "cronjob", "cronjobs"], true, true),
    ("Service", &["svc", "service", "services"], true, false),
    (
        "EndpointSlice",
        &["endpointslice", "endpointslices"],
        true,
        false,
    ),
    (
        "NetworkPolicy",
        &["netpol", "networkpolicy", "networkpolicies"],
        true,
        false,
    ),
    ("Ingress", &["ing", "ingress", "ingresses"], true, false),
    ("ConfigMap", &["cm", "configmap", "configmaps"], true, false),
    (
        "Namespace",
        &["ns", "namespace", "namespaces"],
        false,
        false,
    ),
    ("Node", &["no", "node", "nodes"], false, false),
];

/// Returns the kind that `kubectl` understands by a word, in its manifest spelling.
pub fn kind_of(word: &str) -> Option<&'static str> {
    row(word).map(|(kind, ..)| *kind)
}

fn row(word: &str) -> Option<&'static (&'static str, &'static [&'static str], bool, bool)> {
    let lower = word.to_ascii_lowercase();
    KINDS
        .iter()
        .find(|(_, words, ..)| words.contains(&lower.as_str()))
}

fn name(part: &str) -> Result<ObjectName, AddressError> {
    part.parse().map_err(|error| AddressError::Name {
        part: part.to_owned(),
        error,
    })
}

fn namespace(part: &str) -> Result<Namespace, AddressError> {
    part.parse().map_err(|error| AddressError::Name {
        part: part.to_owned(),
        error,
    })
}

/// Reads `NAMESPACE/NAME`, or `NAME` in namespace `default`.
fn key(text: &str) -> Result<ObjectKey, AddressError> {
    let (space, object) = text.split_once('/').unwrap_or(("default", text));
    Ok(ObjectKey::new(namespace(space)?, name(object)?))
}

fn port(text: &str) -> Result<u16, AddressError> {
    text.parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| AddressError::Port(text.to_owned()))
}

fn port_ref(text: &str) -> Result<PortRef, AddressError> {
    let looks_named = text.contains(|c: char| c.is_ascii_alphabetic());
    if looks_named {
        Ok(PortRef::Name(text.to_owned()))
    } else {
        port(text).map(PortRef::Number)
    }
}

impl FromStr for Thing {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let form = || AddressError::Form {
            found: text.to_owned(),
            wanted: THINGS,
        };
        let (word, rest) = text.split_once('/').ok_or_else(form)?;
        if word == "host" {
            return name(rest).map(Self::Host);
        }
        match row(word) {
            Some(("Pod", ..)) => key(rest).map(Self::Pod),
            Some(("Node", ..)) => name(rest).map(Self::Node),
            Some((kind, _, _, true)) => Ok(Self::Workload {
                kind,
                key: key(rest)?,
            }),
            _ => Err(form()),
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => write!(f, "pod/{key}"),
            Self::Workload { kind, key } => write!(f, "{}/{key}", short(kind)),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Host(name) => write!(f, "host/{name}"),
        }
    }
}

/// Returns the word `kubectl` users type for a kind.
fn short(kind: &str) -> String {
    let row = KINDS.iter().find(|(known, ..)| *known == kind);
    let word = row.and_then(|(_, words, ..)| words.first());
    word.map_or_else(|| kind.to_ascii_lowercase(), |word| (*word).to_owned())
}

impl FromStr for Target {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let form = || AddressError::Form {
            found: text.to_owned(),
            wanted: TARGETS,
        };
        if let Some((scheme, rest)) = text.split_once("://") {
            return url(scheme, rest).unwrap_or_else(|| Err(form()));
        }
        if let Some((word, rest)) = text.split_once('/') {
            let (rest, port_text) = match rest.rsplit_once(':') {
                Some((rest, port)) => (rest, Some(port)),
                None => (rest, None),
            };
            let number = || port_text.map(port).transpose();
            let named = || port_text.map(port_ref).transpose();
            return match (word, row(word)) {
                ("host", _) => Ok(Self::Host {
                    name: name(rest)?,
                    port: number()?,
                }),
                (_, Some(("Service", ..))) => Ok(Self::Service {
                    key: key(rest)?,
                    port: named()?,
                }),
                (_, Some(("Pod", ..))) => Ok(Self::Pod {
                    key: key(rest)?,
                    port: named()?,
                }),
                (_, Some(("Node", ..))) => Ok(Self::Node {
                    name: name(rest)?,
                    port: number()?,
                }),
                _ => Err(form()),
            };
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Address {
                ip: address.ip(),
                port: Some(address.port()),
            });
        }
        if let Ok(ip) = text.parse() {
            return Ok(Self::Address { ip, port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, text)) => (host, Some(port(text)?)),
            None => (text, None),
        };
        if is_dns_name(host) {
            Ok(Self::Name {
                name: host.to_owned(),
                port,
            })
        } else {
            Err(form())
        }
    }
}

/// Reads what follows `http://`; nothing if it is no URL of ours.
fn url(scheme: &str, rest: &str) -> Option<Result<Target, AddressError>> {
    let tls = match scheme {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let default = if tls { 443 } else { 80 };
    let in_brackets = authority
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'));
    let (host, number) = match in_brackets {
        Some((host, "")) => (host, None),
        Some((host, after)) => (host, Some(after.strip_prefix(':')?)),
        None => match authority.rsplit_once(':') {
            Some((host, number)) => (host, Some(number)),
            None => (authority, None),
        },
    };
    if !is_dns_name(host) && host.parse::<IpAddr>().is_err() {
        return None;
    }
    let path = path.to_owned();
    let number = number.map_or(Ok(default), port);
    Some(number.map(|port| Target::Url {
        tls,
        host: host.to_owned(),
        port,
        path,
    }))
}

fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn suffix<P: fmt::Display>(port: Option<&P>) -> String {
            port.map(|port| format!(":{port}")).unwrap_or_default()
        }
        match self {
            Self::Service { key, port } => write!(f, "svc/{key}{}", suffix(port.as_ref())),
            Self::Pod { key, port } => write!(f, "pod/{key}{}", suffix(port.as_ref())),
            Self::Node { name, port } => write!(f, "node/{name}{}", suffix(port.as_ref())),
            Self::Host { name, port } => write!(f, "host/{name}{}", suffix(port.as_ref())),
            Self::Address {
                ip,
                port: Some(port),
            } => SocketAddr::new(*ip, *port).fmt(f),
            Self::Address { ip, port: None } => ip.fmt(f),
            Self::Name { name, port } => write!(f, "{name}{}", suffix(port.as_ref())),
            Self::Url {
                tls,
                host,
                port,
                path,
            } => {
                let (scheme, default) = if *tls { ("https", 443) } else { ("http", 80) };
                let host = if host.contains(':') {
                    format!("[{host}]")
                } else {
                    host.clone()
                };
                let shown = (*port != default).then_some(port);
                write!(f, "{scheme}://{host}{}{path}", suffix(shown))
            }
        }
    }
}

impl FromStr for ObjectRef {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let form = || AddressError::Form {
            found: text.to_owned(),
            wanted: OBJECTS,
        };
        let (word, rest) = text.split_once('/').ok_or_else(form)?;
        match row(word).ok_or_else(form)? {
            (kind, _, false, _) => Ok(Self {
                kind,
                namespace: None,
                name: name(rest)?,
            }),
            (kind, _, true, _) => {
                let (space, object) = rest.split_once('/').unwrap_or(("default", rest));
                Ok(Self {
                    kind,
                    namespace: Some(namespace(space)?),
                    name: name(object)?,
                })
            }
        }
    }
}

impl fmt::Display for ObjectRef {
    /// `Service/shop/cart`, `Node//node-a`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}")?;
        }
        write!(f, "/{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn targets_read_what_they_print() {
        for text in [
            "svc/shop/cart:7070",
            "svc/shop/cart:http",
            "pod/shop/cart-0",
            "node/node-a:30080",
            "host/browser:80",
            "10.244.2.5:80",
            "[fd00::5]:80",
            "10.244.2.5",
            "cart.shop:7070",
            "example.com.",
            "http://cart.shop:7070/",
            "https://[fd00::5]/items",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        let default: Target = "http://cart".parse().unwrap();
        assert_eq!(default.to_string(), "http://cart/");
        for bad in [
            "",
            "cart:0",
            "cart:99999",
            "deploy/shop/cart:80",
            "ftp://cart/",
            "a b:80",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn things_read_what_they_print() {
        for text in [
            "pod/shop/cart-0",
            "deploy/shop/cart",
            "node/node-a",
            "host/browser",
        ] {
            assert_eq!(text.parse::<Thing>().unwrap().to_string(), text);
        }
        assert!("svc/shop/cart".parse::<Thing>().is_err());
        assert!("pod/Shop/cart".parse::<Thing>().is_err());
        assert!("cart".parse::<Thing>().is_err());
    }

    #[test]
    fn objects_have_their_manifest_kind() {
        let object: ObjectRef = "svc/shop/cart".parse().unwrap();
        assert_eq!(object.to_string(), "Service/shop/cart");
        let node: ObjectRef = "nodes/node-a".parse().unwrap();
        assert_eq!(node.to_string(), "Node//node-a");
    }
}
