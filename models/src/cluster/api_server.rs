//! The API server as packets see it: the Service `default/kubernetes`, its endpoints, and the machines behind them.
//!
//! Every cluster has the Service at the first address of its Service range; the API server itself writes it and its
//! slice (`pkg/controlplane/controller/kubernetesservice`, `pkg/controlplane/reconcilers`). Endpoints are the
//! control-plane nodes, port 6443 as kubeadm has it. A cluster without such nodes has a managed control plane, whose
//! endpoints are machines outside the cluster.
//!
//! # Fidelity
//! Where a managed control plane is cannot be known from the objects: unless the input has the slice, it is one host
//! named `kube-apiserver`, port 443, at an address reserved for documentation (RFC 5737, RFC 3849). What the API
//! server says is not modelled: it answers whatever it is asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::install::{OutsideHost, Site};
use crate::api::endpoint_slice::SERVICE_NAME_LABEL;
use crate::api::{
    AddressType, ClusterIp, Endpoint, EndpointPort, EndpointSlice, Node, Objects, PortRef, Service,
    ServicePort,
};
use crate::base::addr::nth_addr;
use crate::base::{Family, Labels, ObjectKey, OriginId, Protocol};

/// What the API server is called where it is nobody's pod: the host outside, and the program.
pub const NAME: &str = "kube-apiserver";

/// Labels of nodes that run the control plane; the second one until Kubernetes 1.24.
const CONTROL_PLANE: [&str; 2] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
];

fn key() -> ObjectKey {
    let namespace = "default".parse().expect("a literal name");
    ObjectKey::new(namespace, "kubernetes".parse().expect("a literal name"))
}

fn port(number: u16, target: u16) -> ServicePort {
    ServicePort {
        name: Some("https".into()),
        protocol: Protocol::Tcp,
        port: number,
        target_port: PortRef::Number(target),
        node_port: None,
        app_protocol: None,
        origin: OriginId::NONE,
    }
}

/// Adds the Service and its slice, as far as the input lacks them. A Service range whose first address somebody else
/// has keeps it so.
pub(super) fn add(objects: &mut Objects, site: &Site) {
    let key = key();
    let outside = control_plane(objects).next().is_none();
    if !objects.services.contains_key(&key) {
        let first = site.service_cidrs.first().and_then(|net| nth_addr(*net, 1));
        let taken = |ip: &IpAddr| {
            objects
                .services
                .values()
                .any(|s| s.cluster_ips().contains(ip))
        };
        let Some(ip) = first.filter(|ip| !taken(ip)) else {
            return;
        };
        let mut service = Service::new(key.clone());
        service.labels.insert("component", "apiserver");
        service.labels.insert("provider", "kubernetes");
        service.cluster_ip = ClusterIp::Addresses(vec![ip]);
        service.ip_families = vec![Family::of(ip)];
        service.ports = vec![port(443, if outside { 443 } else { 6443 })];
        objects.services.insert(key.clone(), service);
    }
    let has_slice = |slice: &EndpointSlice| {
        slice.key.namespace == key.namespace && slice.service_name() == Some(key.name.as_str())
    };
    if objects.endpoint_slices.values().any(has_slice) {
        return;
    }
    let slice = objects.services.get(&key).and_then(|s| slice(s, objects));
    if let Some(slice) = slice {
        objects.endpoint_slices.insert(slice.key.clone(), slice);
    }
}

fn control_plane(objects: &Objects) -> impl Iterator<Item = &Node> {
    let has_role = |node: &&Node| CONTROL_PLANE.iter().any(|l| node.labels.get(l).is_some());
    objects.nodes.values().filter(has_role)
}

fn slice(service: &Service, objects: &Objects) -> Option<EndpointSlice> {
    if service.selector.is_some() {
        return None;
    }
    let family = Family::of(*service.cluster_ips().first()?);
    let of_family = |node: &Node| {
        let mut ips = node.internal_ips.iter();
        ips.find(|ip| Family::of(**ip) == family).copied()
    };
    let mut endpoints: Vec<Endpoint> = control_plane(objects)
        .filter_map(of_family)
        .map(Endpoint::new)
        .collect();
    if endpoints.is_empty() {
        endpoints.push(Endpoint::new(match family {
            Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        }));
    }
    let mut labels = Labels::default();
    labels.insert(SERVICE_NAME_LABEL, service.key.name.as_str());
    let ports = service.ports.iter().map(|port| EndpointPort {
        name: port.name.clone().unwrap_or_else(|| "".into()),
        protocol: port.protocol,
        port: match &port.target_port {
            PortRef::Number(number) => Some(*number),
            PortRef::Name(_) => Some(6443),
        },
        app_protocol: None,
    });
    Some(EndpointSlice {
        key: service.key.clone(),
        labels,
        annotations: Labels::default(),
        address_type: AddressType::from(family),
        endpoints,
        ports: ports.collect(),
        origin: service.origin,
    })
}

/// Returns where the API server listens: address and port of each endpoint of `default/kubernetes`.
pub fn endpoints(objects: &Objects) -> Vec<(IpAddr, u16)> {
    let key = key();
    let slices = objects.endpoint_slices.values().filter(|slice| {
        slice.key.namespace == key.namespace && slice.service_name() == Some(key.name.as_str())
    });
    let mut found = Vec::new();
    for slice in slices {
        for ip in slice.endpoints.iter().flat_map(|e| &e.addresses) {
            let ports = slice.ports.iter().filter(|p| p.protocol == Protocol::Tcp);
            found.extend(ports.filter_map(|p| Some((*ip, p.port?))));
        }
    }
    found
}

/// Returns the machines outside that the API server runs on: one for each endpoint that no node, pod or host has.
pub fn hosts(objects: &Objects, site: &Site) -> Vec<OutsideHost> {
    let mut added: Vec<OutsideHost> = Vec::new();
    for (ip, _) in endpoints(objects) {
        let inside = objects.nodes.values().any(|n| n.internal_ips.contains(&ip))
            || objects.pods.values().any(|p| p.pod_ips.contains(&ip));
        let hosts = || site.hosts.iter().chain(&added);
        if inside || hosts().any(|host| host.ip == ip) {
            continue;
        }
        let free = |name: &Arc<str>| hosts().all(|host| host.name != *name);
        let numbered = (2_u32..).map(|n| Arc::from(format!("{NAME}-{n}")));
        let name = std::iter::once(Arc::from(NAME)).chain(numbered).find(free);
        if let Some(name) = name {
            let origin = OriginId::NONE;
            added.push(OutsideHost {
                name,
                ip,
                via: None,
                origin,
            });
        }
    }
    added
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn with_nodes(labels: &[&str]) -> Objects {
        let mut objects = Objects::default();
        for (n, label) in (1..).zip(labels) {
            let mut node = Node::new(format!("node-{n}").parse().unwrap());
            node.internal_ips.push(IpAddr::from([172, 18, 0, n]));
            node.labels.insert(*label, "");
            objects.nodes.insert(node.name.clone(), node);
        }
        objects
    }

    #[test]
    fn control_plane_nodes_are_the_endpoints() {
        let mut objects = with_nodes(&[CONTROL_PLANE[0], "worker", CONTROL_PLANE[0]]);
        let site = Site::default();
        add(&mut objects, &site);
        let wanted = [1, 3].map(|n| (IpAddr::from([172, 18, 0, n]), 6443));
        assert_eq!(endpoints(&objects), wanted);
        assert_eq!(hosts(&objects, &site), []);
        let service = objects.services.get(&key()).unwrap();
        assert_eq!(service.cluster_ips(), [IpAddr::from([10, 96, 0, 1])]);
    }

    #[test]
    fn without_such_nodes_it_is_a_host_outside() {
        let mut objects = with_nodes(&["worker"]);
        let mut site = Site::default();
        add(&mut objects, &site);
        let found = hosts(&objects, &site);
        assert_eq!(found.len(), 1);
        assert_eq!(&*found.first().unwrap().name, NAME);
        site.hosts.extend(found);
        assert_eq!(hosts(&objects, &site), [], "it is there once");
    }

    #[test]
    fn what_the_input_says_stays() {
        let mut objects = with_nodes(&[CONTROL_PLANE[0]]);
        let mut other = Service::new(ObjectKey::new(
            "shop".parse().unwrap(),
            "cart".parse().unwrap(),
        ));
        other.cluster_ip = ClusterIp::Addresses(vec![IpAddr::from([10, 96, 0, 1])]);
        objects.services.insert(other.key.clone(), other);
        add(&mut objects, &Site::default());
        assert_eq!(objects.services.len(), 1);
        assert_eq!(endpoints(&objects), []);
    }
}
