//! Services.

use std::sync::Arc;

use podwire_models::api::{
    ClusterIp, IngressIp, IpFamilyPolicy, IpMode, PortRef, Service, ServicePort, ServiceType,
    SessionAffinity, TrafficDistribution, TrafficPolicy,
};
use podwire_models::base::{Family, Selector, name};

use super::super::reader::{Reader, Warn as _, flag, integer, items, text};
use super::super::tree::Node;
use super::Meta;
use crate::problem::ProblemCode;

const TYPES: &[(&str, ServiceType)] = &[
    ("ClusterIP", ServiceType::ClusterIp),
    ("NodePort", ServiceType::NodePort),
    ("LoadBalancer", ServiceType::LoadBalancer),
    ("ExternalName", ServiceType::ExternalName),
];
const POLICIES: &[(&str, TrafficPolicy)] = &[
    ("Cluster", TrafficPolicy::Cluster),
    ("Local", TrafficPolicy::Local),
];
const FAMILIES: &[(&str, Family)] = &[("IPv4", Family::V4), ("IPv6", Family::V6)];
const FAMILY_POLICIES: &[(&str, IpFamilyPolicy)] = &[
    ("SingleStack", IpFamilyPolicy::SingleStack),
    ("PreferDualStack", IpFamilyPolicy::PreferDualStack),
    ("RequireDualStack", IpFamilyPolicy::RequireDualStack),
];
const DISTRIBUTIONS: &[(&str, TrafficDistribution)] = &[
    ("PreferClose", TrafficDistribution::PreferSameZone),
    ("PreferSameZone", TrafficDistribution::PreferSameZone),
    ("PreferSameNode", TrafficDistribution::PreferSameNode),
];
const IP_MODES: &[(&str, IpMode)] = &[("VIP", IpMode::Vip), ("Proxy", IpMode::Proxy)];

pub(super) fn read(reader: &mut Reader<'_>, root: &Arc<Node>, meta: Meta) -> Service {
    let mut service = Service::new(meta.key);
    service.labels = meta.labels;
    service.annotations = meta.annotations;
    service.origin = meta.origin;
    if let Some(spec) = root.get("spec") {
        fill(reader, &mut service, spec);
    } else {
        reader.missing(root, "spec");
    }
    let balancer = root
        .get("status")
        .and_then(|status| status.get("loadBalancer"));
    for item in items(balancer.and_then(|balancer| balancer.get("ingress"))) {
        service.ingress.push(IngressIp {
            ip: reader.ip(item.get("ip"), "the `ip` of the load balancer"),
            hostname: text(item.get("hostname")),
            ip_mode: reader
                .word(item.get("ipMode"), "`ipMode`", IP_MODES)
                .unwrap_or_default(),
        });
    }
    service
}

fn fill(reader: &mut Reader<'_>, service: &mut Service, spec: &Arc<Node>) {
    let get = |field: &str| spec.get(field);
    service.service_type = reader
        .word(get("type"), "`type`", TYPES)
        .unwrap_or_default();
    service.cluster_ip = cluster_ip(reader, spec);
    service.ip_families = items(get("ipFamilies"))
        .iter()
        .filter_map(|item| reader.word(Some(item), "one of `ipFamilies`", FAMILIES))
        .collect();
    service.ip_family_policy =
        reader.word(get("ipFamilyPolicy"), "`ipFamilyPolicy`", FAMILY_POLICIES);
    service.selector = get("selector")
        .filter(|node| !node.entries().is_empty())
        .map(|node| Selector::labels(reader.labels(Some(node))));
    service.selector_origin = get("selector").map_or(service.origin, |node| reader.origin(node));
    service.external_ips = reader.ips(get("externalIPs"), "one of `externalIPs`");
    service.load_balancer_ip = reader.ip(get("loadBalancerIP"), "`loadBalancerIP`");
    service.load_balancer_source_ranges = items(get("loadBalancerSourceRanges"))
        .iter()
        .filter_map(|item| reader.cidr(Some(item), "one of `loadBalancerSourceRanges`"))
        .collect();
    let external = reader.word(
        get("externalTrafficPolicy"),
        "`externalTrafficPolicy`",
        POLICIES,
    );
    service.external_traffic_policy = external.unwrap_or_default();
    let internal = reader.word(
        get("internalTrafficPolicy"),
        "`internalTrafficPolicy`",
        POLICIES,
    );
    service.internal_traffic_policy = internal.unwrap_or_default();
    service.session_affinity = session_affinity(reader, spec);
    service.publish_not_ready_addresses = flag(get("publishNotReadyAddresses")).unwrap_or(false);
    service.health_check_node_port =
        reader.port_or_none(get("healthCheckNodePort"), "`healthCheckNodePort`");
    service.allocate_load_balancer_node_ports =
        flag(get("allocateLoadBalancerNodePorts")).unwrap_or(true);
    service.load_balancer_class = text(get("loadBalancerClass"));
    service.external_name = text(get("externalName"));
    service.traffic_distribution = reader.word(
        get("trafficDistribution"),
        "`trafficDistribution`",
        DISTRIBUTIONS,
    );
    ports(reader, service, spec);
    check(reader, service, spec);
}

fn cluster_ip(reader: &mut Reader<'_>, spec: &Arc<Node>) -> ClusterIp {
    let (one, all) = (spec.get("clusterIP"), items(spec.get("clusterIPs")));
    let is_none = |node: &Arc<Node>| text(Some(node)).as_deref() == Some("None");
    if one.is_some_and(is_none) || all.first().is_some_and(is_none) {
        return ClusterIp::Headless;
    }
    let mut addresses: Vec<_> = all
        .iter()
        .filter_map(|item| reader.ip(Some(item), "one of `clusterIPs`"))
        .collect();
    if let Some(first) = reader.ip(one, "`clusterIP`") {
        match addresses.first() {
            None => addresses.push(first),
            Some(other) if *other == first => {}
            Some(other) => {
                let label = format!("`clusterIPs` begins with `{other}`");
                let title = "`clusterIP` must be the first of `clusterIPs`";
                reader.note(
                    ProblemCode::ManContradiction,
                    one.unwrap_or(spec),
                    title,
                    label,
                );
            }
        }
    }
    if addresses.is_empty() {
        ClusterIp::Unassigned
    } else {
        ClusterIp::Addresses(addresses)
    }
}

fn session_affinity(reader: &mut Reader<'_>, spec: &Arc<Node>) -> SessionAffinity {
    let words = [("None", false), ("ClientIP", true)];
    let config = spec
        .get("sessionAffinityConfig")
        .and_then(|config| config.get("clientIP"));
    let seconds = config.and_then(|config| config.get("timeoutSeconds"));
    if !reader
        .word(spec.get("sessionAffinity"), "`sessionAffinity`", &words)
        .unwrap_or(false)
    {
        return SessionAffinity::None;
    }
    let timeout = integer(seconds).unwrap_or(10_800);
    if let Ok(timeout_seconds @ 1..=86_400) = u32::try_from(timeout) {
        return SessionAffinity::ClientIp { timeout_seconds };
    }
    let title = "`timeoutSeconds` must be between 1 and 86400";
    reader.note(
        ProblemCode::ManBadValue,
        seconds.unwrap_or(spec),
        title,
        "at most a day",
    );
    SessionAffinity::None
}

fn ports(reader: &mut Reader<'_>, service: &mut Service, spec: &Arc<Node>) {
    let list = items(spec.get("ports"));
    for node in list {
        if node.get("port").is_none() {
            reader.missing(node, "port");
        }
        let name = reader.dns_label(node.get("name"), "the `name` of a port");
        if name.is_none() && list.len() > 1 && !node.entries().is_empty() {
            let title = "`name` is missing";
            let problem = reader.note(
                ProblemCode::ManMissingField,
                node,
                title,
                "`name` must be here",
            );
            problem
                .help
                .push("a Service with more than one port names each of them".to_owned());
            problem.warn();
        }
        let target = reader.port_ref(node.get("targetPort"), "`targetPort`");
        let node_port = node_port(reader, node);
        let Some(port) = reader.port(node.get("port"), "`port`") else {
            continue;
        };
        let read = ServicePort {
            name,
            protocol: reader.protocol(node.get("protocol")),
            port,
            target_port: target.unwrap_or(PortRef::Number(port)),
            node_port,
            app_protocol: text(node.get("appProtocol")),
            origin: reader.origin(node),
        };
        clash(reader, service, &read, node);
        service.ports.push(read);
    }
}

fn node_port(reader: &mut Reader<'_>, node: &Arc<Node>) -> Option<u16> {
    let place = node.get("nodePort");
    let port = reader.port_or_none(place, "`nodePort`")?;
    if !(30_000..=32_767).contains(&port) {
        let title = "`nodePort` is outside the range of node ports";
        reader.note(
            ProblemCode::ManPortRange,
            place.unwrap_or(node),
            title,
            "must be between 30000 and 32767",
        );
    }
    Some(port)
}

/// Notes what a port has in common with an earlier one and must not.
fn clash(reader: &mut Reader<'_>, service: &Service, new: &ServicePort, node: &Arc<Node>) {
    for old in &service.ports {
        let same_name = new.name.is_some() && old.name == new.name;
        let same_port = old.port == new.port && old.protocol == new.protocol;
        let same_node_port = new.node_port.is_some()
            && old.node_port == new.node_port
            && old.protocol == new.protocol;
        let (what, field) = match (same_name, same_port, same_node_port) {
            (true, ..) => ("two ports have one name", "name"),
            (_, true, _) => ("two ports have one number and protocol", "port"),
            (.., true) => ("two ports have one `nodePort` and protocol", "nodePort"),
            (false, false, false) => continue,
        };
        reader.note(
            ProblemCode::ManDuplicateEntry,
            node.get(field).unwrap_or(node),
            what,
            "again here",
        );
    }
}

/// Checks fields against each other.
fn check(reader: &mut Reader<'_>, service: &Service, spec: &Arc<Node>) {
    let place = |field: &str| spec.get(field).unwrap_or(spec);
    let exposed = match service.service_type {
        ServiceType::NodePort | ServiceType::LoadBalancer => true,
        ServiceType::ClusterIp | ServiceType::ExternalName => false,
    };
    if service.service_type == ServiceType::ExternalName {
        match &service.external_name {
            None => reader.missing(spec, "externalName"),
            Some(target) => {
                let bare = target.strip_suffix('.').unwrap_or(target);
                if let Err(error) = name::check_subdomain(&bare.to_ascii_lowercase()) {
                    let title = "`externalName` is not a DNS name";
                    reader.note(
                        ProblemCode::ManBadName,
                        place("externalName"),
                        title,
                        error.to_string(),
                    );
                }
            }
        }
        if service.cluster_ip != ClusterIp::Unassigned {
            let title = "a Service of type ExternalName takes no `clusterIP`";
            reader.note(
                ProblemCode::ManContradiction,
                place("clusterIP"),
                title,
                "must not be here",
            );
        }
        return;
    }
    if items(spec.get("ports")).is_empty() && !service.headless() {
        reader.missing(spec, "ports");
    }
    if exposed && service.headless() {
        let title = format!(
            "a Service of type {} cannot be headless",
            service.service_type
        );
        reader.note(
            ProblemCode::ManContradiction,
            place("clusterIP"),
            title,
            "must not be `None`",
        );
    }
    let fixed = items(spec.get("ports"))
        .iter()
        .filter_map(|port| port.get("nodePort"))
        .find(|port| integer(Some(port)) != Some(0));
    if let Some(node_port) = fixed.filter(|_| !exposed) {
        let title = "`nodePort` may not be used when `type` is ClusterIP";
        let problem = reader.note(
            ProblemCode::ManContradiction,
            node_port,
            title,
            "no node would listen",
        );
        problem
            .help
            .push("write `type: NodePort`, or leave `nodePort` out".to_owned());
    }
    if !exposed
        && service.external_ips.is_empty()
        && service.external_traffic_policy == TrafficPolicy::Local
    {
        let title =
            "`externalTrafficPolicy` needs `type` NodePort or LoadBalancer, or `externalIPs`";
        reader.note(
            ProblemCode::ManContradiction,
            place("externalTrafficPolicy"),
            title,
            "nothing comes from outside",
        );
    }
}
