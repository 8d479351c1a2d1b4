//! Service + pods → `EndpointSlice`s, as the `EndpointSlice` controller of kube-controller-manager writes them
//! (`k8s.io/endpointslice/reconciler.go`).
//!
//! A Service without a selector gets none: somebody else writes its slices. A Service whose slices are part of the
//! input gets none either: what is written is taken at its word. Leaves out: the order in which slices fill up over
//! time (they are always packed anew, pods by name), the `Endpoints` objects of old, and topology hints by CPU share
//! (annotation `topology-mode: Auto`). Who could notice: somebody who counts slices after a rolling update.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::workloads::suffix;
use crate::api::endpoint_slice::{HEADLESS_LABEL, MANAGED_BY_LABEL, SERVICE_NAME_LABEL};
use crate::api::{
    Endpoint, EndpointPort, EndpointSlice, Node, Objects, Pod, PortRef, Service, ServiceType,
    TargetRef, TrafficDistribution,
};
use crate::base::hash::{combine, stable_hash};
use crate::base::{Family, Labels, ObjectKey, ObjectName};

/// Most endpoints in one slice (`--max-endpoints-per-slice`).
pub const MAX_ENDPOINTS_PER_SLICE: usize = 100;

/// Returns the slices the controller writes for all Services whose slices are not part of `objects` themselves.
pub fn slices(objects: &Objects) -> Vec<EndpointSlice> {
    let given: BTreeSet<(&str, &str)> = objects
        .endpoint_slices
        .values()
        .filter_map(|slice| Some((slice.key.namespace.as_str(), slice.service_name()?)))
        .collect();
    objects
        .services
        .values()
        .filter(|service| {
            !given.contains(&(service.key.namespace.as_str(), service.key.name.as_str()))
        })
        .flat_map(|service| slices_of(service, objects))
        .collect()
}

/// Returns the Services whose endpoint a pod is, or will be.
pub fn services_of<'a>(pod: &'a Pod, objects: &'a Objects) -> impl Iterator<Item = &'a Service> {
    let selects = |service: &&Service| {
        let selector = service.selector.as_ref();
        selector.is_some_and(|selector| !selector.is_empty() && selector.matches(&pod.labels))
    };
    objects.services_in(&pod.key.namespace).filter(selects)
}

/// Returns the slices the controller writes for one Service.
pub fn slices_of(service: &Service, objects: &Objects) -> Vec<EndpointSlice> {
    let Some(selector) = &service.selector else {
        return Vec::new();
    };
    if selector.is_empty() || service.service_type == ServiceType::ExternalName {
        return Vec::new();
    }
    let pods: Vec<&Pod> = objects
        .pods_in(&service.key.namespace)
        .filter(|pod| !pod.ended() && selector.matches(&pod.labels))
        .collect();
    let mut names = BTreeSet::new();
    families(service)
        .into_iter()
        .flat_map(|family| slices_of_family(service, &pods, objects, family, &mut names))
        .collect()
}

/// Returns the families a Service has: those it asks for, else those of its addresses, else IPv4.
pub fn families(service: &Service) -> Vec<Family> {
    if !service.ip_families.is_empty() {
        return service.ip_families.clone();
    }
    let mut found = Vec::new();
    for ip in service.cluster_ips() {
        if !found.contains(&Family::of(*ip)) {
            found.push(Family::of(*ip));
        }
    }
    if found.is_empty() {
        found.push(Family::V4);
    }
    found
}

/// Returns the addresses of a pod; a host-network pod has those of its node.
pub fn pod_ips<'a>(pod: &'a Pod, nodes: &'a BTreeMap<ObjectName, Node>) -> &'a [IpAddr] {
    if !pod.pod_ips.is_empty() || !pod.spec.host_network {
        return &pod.pod_ips;
    }
    let node = pod.node_name.as_ref().and_then(|name| nodes.get(name));
    node.map_or(&[], |node| &node.internal_ips)
}

fn slices_of_family(
    service: &Service,
    pods: &[&Pod],
    objects: &Objects,
    family: Family,
    names: &mut BTreeSet<String>,
) -> Vec<EndpointSlice> {
    let mut groups: BTreeMap<Vec<EndpointPort>, Vec<Endpoint>> = BTreeMap::new();
    for pod in pods {
        if let Some(endpoint) = endpoint(service, pod, &objects.nodes, family) {
            let ports = ports(service, pod);
            groups.entry(ports).or_default().push(endpoint);
        }
    }
    if groups.is_empty() {
        // The controller leaves an empty slice, so that readers can tell "none" from "not yet".
        groups.insert(Vec::new(), Vec::new());
    }
    let mut slices = Vec::new();
    for (ports, endpoints) in groups {
        let mut shares: Vec<Vec<Endpoint>> = endpoints
            .chunks(MAX_ENDPOINTS_PER_SLICE)
            .map(<[Endpoint]>::to_vec)
            .collect();
        if shares.is_empty() {
            shares.push(Vec::new());
        }
        for endpoints in shares {
            let Some(key) = name(service, family, slices.len(), names) else {
                continue;
            };
            slices.push(EndpointSlice {
                key,
                labels: labels(service),
                annotations: Labels::default(),
                address_type: family.into(),
                endpoints,
                ports: ports.clone(),
                origin: service.origin,
            });
        }
    }
    slices
}

/// One pod as an endpoint; `None` if it has no address of the family.
fn endpoint(
    service: &Service,
    pod: &Pod,
    nodes: &BTreeMap<ObjectName, Node>,
    family: Family,
) -> Option<Endpoint> {
    let addresses: Vec<IpAddr> = pod_ips(pod, nodes)
        .iter()
        .copied()
        .filter(|ip| Family::of(*ip) == family)
        .collect();
    if addresses.is_empty() {
        return None;
    }
    // A pod that has an address and of which nobody said otherwise passes its probes.
    let serving = pod.ready.unwrap_or(true);
    let node = pod.node_name.as_ref().and_then(|name| nodes.get(name));
    let zone: Option<Arc<str>> = node.and_then(Node::zone).map(Into::into);
    let ready = service.publish_not_ready_addresses || (serving && !pod.deleting);
    let (for_zones, for_nodes) = hints(service, ready, zone.as_ref(), pod);
    let hostname = pod
        .hostname
        .as_ref()
        .filter(|_| pod.spec.subdomain.as_deref() == Some(service.key.name.as_str()));
    Some(Endpoint {
        addresses,
        names: Vec::new(),
        ready: Some(ready),
        serving: Some(serving),
        terminating: Some(pod.deleting),
        hostname: hostname.cloned(),
        node_name: pod.node_name.clone(),
        zone,
        for_zones,
        for_nodes,
        target_ref: Some(TargetRef {
            kind: "Pod".into(),
            key: pod.key.clone(),
        }),
        origin: pod.origin,
    })
}

/// Hints that `trafficDistribution` asks for: the own zone, and the own node.
fn hints(
    service: &Service,
    ready: bool,
    zone: Option<&Arc<str>>,
    pod: &Pod,
) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
    let Some(distribution) = service.traffic_distribution.filter(|_| ready) else {
        return (Vec::new(), Vec::new());
    };
    let zones = zone.cloned().into_iter().collect();
    let nodes = match distribution {
        TrafficDistribution::PreferSameZone => Vec::new(),
        TrafficDistribution::PreferSameNode => {
            let name = pod.node_name.as_ref();
            name.map(|name| Arc::from(name.as_str()))
                .into_iter()
                .collect()
        }
    };
    (zones, nodes)
}

/// The ports of a pod behind a Service: numbers as they are, names looked up in the pod; a name that the pod does
/// not have is left out (`getEndpointPorts`).
fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let number = |target: &PortRef, protocol| match target {
        PortRef::Number(number) => Some(*number),
        PortRef::Name(name) => pod
            .port_named(name, protocol)
            .map(|port| port.container_port),
    };
    let each = |port: &crate::api::ServicePort| {
        Some(EndpointPort {
            name: port.name.clone().unwrap_or_else(|| Arc::from("")),
            protocol: port.protocol,
            port: Some(number(&port.target_port, port.protocol)?),
            app_protocol: port.app_protocol.clone(),
        })
    };
    service.ports.iter().filter_map(each).collect()
}

fn labels(service: &Service) -> Labels {
    let mut labels = service.labels.clone();
    labels.insert(SERVICE_NAME_LABEL, service.key.name.as_str());
    labels.insert(MANAGED_BY_LABEL, "endpointslice-controller.k8s.io");
    if service.headless() {
        labels.insert(HEADLESS_LABEL, "");
    }
    labels
}

/// `<service>-xxxxx`, never the same twice for one Service; the name is cut so that all fit in 63 characters.
fn name(
    service: &Service,
    family: Family,
    number: usize,
    taken: &mut BTreeSet<String>,
) -> Option<ObjectKey> {
    let prefix: String = format!("{}-", service.key.name).chars().take(58).collect();
    let seed = format!("{}/{family}/{number}", service.key);
    let mut hash = stable_hash(seed.as_bytes());
    let mut name = format!("{prefix}{}", suffix(hash, 5));
    while !taken.insert(name.clone()) {
        hash = combine(hash, 1);
        name = format!("{prefix}{}", suffix(hash, 5));
    }
    let name = name.parse().ok()?;
    Some(ObjectKey::new(service.key.namespace.clone(), name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::api::{ClusterIp, Container, ContainerPort, Object, PodSpec, ServicePort};
    use crate::base::{OriginId, Protocol, Selector};

    fn service(target_port: PortRef) -> Service {
        let mut service = Service::new("shop/web".parse().unwrap());
        service.selector = Some(Selector::labels(Labels::from_iter([("app", "web")])));
        service.cluster_ip = ClusterIp::Addresses(vec!["10.96.0.20".parse().unwrap()]);
        service.ports.push(ServicePort {
            name: Some("http".into()),
            protocol: Protocol::Tcp,
            port: 80,
            target_port,
            node_port: None,
            app_protocol: None,
            origin: OriginId::NONE,
        });
        service
    }

    fn pod(number: u8, port: u16) -> Pod {
        let container = Container {
            ports: vec![ContainerPort {
                name: Some("web".into()),
                container_port: port,
                host_port: None,
                host_ip: None,
                protocol: Protocol::Tcp,
                origin: OriginId::NONE,
            }],
            ..Container::default()
        };
        let spec = PodSpec {
            containers: vec![container],
            ..PodSpec::default()
        };
        let key = format!("shop/web-{number:03}").parse().unwrap();
        let mut pod = Pod::new(key, Arc::new(spec));
        pod.labels.insert("app", "web");
        pod.pod_ips = vec![IpAddr::from([10, 244, 1, number])];
        pod.node_name = Some("node-a".parse().unwrap());
        pod
    }

    fn cluster(service: Service, pods: impl IntoIterator<Item = Pod>) -> Objects {
        let pods = pods.into_iter().map(Object::Pod);
        pods.chain([Object::Service(service)]).collect()
    }

    #[test]
    fn named_ports_are_looked_up_pod_by_pod() {
        let service = service(PortRef::Name("web".into()));
        let objects = cluster(service, [pod(1, 8080), pod(2, 9090), pod(3, 8080)]);
        let slices = slices(&objects);
        let sizes: Vec<_> = slices
            .iter()
            .map(|slice| (slice.ports[0].port, slice.endpoints.len()))
            .collect();
        assert_eq!(sizes, [(Some(8080), 2), (Some(9090), 1)]);
        assert_ne!(slices[0].key, slices[1].key);
    }

    #[test]
    fn a_name_no_pod_has_leaves_no_port() {
        let objects = cluster(service(PortRef::Name("htttp".into())), [pod(1, 8080)]);
        let slices = slices(&objects);
        assert_eq!(slices[0].ports, []);
        assert_eq!(slices[0].endpoints.len(), 1);
    }

    #[test]
    fn conditions_follow_the_pod() {
        let mut unready = pod(1, 80);
        unready.ready = Some(false);
        let mut leaving = pod(2, 80);
        leaving.deleting = true;
        let mut objects = cluster(service(PortRef::Number(80)), [unready, leaving]);
        let seen = |objects: &Objects| -> Vec<_> {
            let slices = slices(objects);
            let endpoints = slices[0].endpoints.iter();
            endpoints
                .map(|e| (e.is_ready(), e.is_serving(), e.is_terminating()))
                .collect()
        };
        assert_eq!(seen(&objects), [(false, false, false), (false, true, true)]);
        let web = objects.services.values_mut().next().unwrap();
        web.publish_not_ready_addresses = true;
        assert_eq!(seen(&objects), [(true, false, false), (true, true, true)]);
    }

    #[test]
    fn a_hundred_per_slice_and_an_empty_one_for_none() {
        let pods = (1..=201).map(|number| pod(number, 80));
        let sizes = |objects: &Objects| -> Vec<_> {
            let slices = slices(objects);
            slices.iter().map(|slice| slice.endpoints.len()).collect()
        };
        let service = service(PortRef::Number(80));
        assert_eq!(sizes(&cluster(service.clone(), pods)), [100, 100, 1]);
        assert_eq!(sizes(&cluster(service, [])), [0]);
    }

    #[test]
    fn written_slices_are_taken_at_their_word() {
        let mut objects = cluster(service(PortRef::Number(80)), [pod(1, 80)]);
        let mut slice = slices(&objects).remove(0);
        slice.endpoints.clear();
        objects.insert(Object::EndpointSlice(slice));
        assert_eq!(slices(&objects), []);
    }

    #[test]
    fn hostname_only_for_the_service_named_as_subdomain() {
        let mut first = pod(1, 80);
        first.hostname = Some("web-0".into());
        let mut second = first.clone();
        second.key = "shop/web-002".parse().unwrap();
        let mut spec = PodSpec::clone(&first.spec);
        spec.subdomain = Some("web".into());
        first.spec = Arc::new(spec);
        let slices = slices(&cluster(service(PortRef::Number(80)), [first, second]));
        let hostnames: Vec<_> = slices[0]
            .endpoints
            .iter()
            .map(|e| e.hostname.as_deref())
            .collect();
        assert_eq!(hostnames, [Some("web-0"), None]);
    }
}
