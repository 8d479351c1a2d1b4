//! Services and their endpoints.

use std::collections::BTreeMap;

use podwire_models::api::{
    ClusterIp, Endpoint, EndpointPort, EndpointSlice, IpFamilyPolicy, IpMode, PortRef, Service,
    ServicePort, ServiceType, SessionAffinity, TrafficDistribution, TrafficPolicy,
};
use podwire_models::base::{Family, ObjectName};
use serde_json::{Value, json};

use super::{labels, tidy};

pub(super) fn written(service: &Service) -> Value {
    let ips: Vec<String> = match &service.cluster_ip {
        ClusterIp::Unassigned => Vec::new(),
        ClusterIp::Headless => vec!["None".to_owned()],
        ClusterIp::Addresses(ips) => ips.iter().map(ToString::to_string).collect(),
    };
    let ingress: Vec<Value> = service
        .ingress
        .iter()
        .map(|place| {
            let mode = match place.ip_mode {
                IpMode::Vip => "VIP",
                IpMode::Proxy => "Proxy",
            };
            let mode = place.ip.map(|_| mode);
            json!({ "ip": place.ip, "hostname": place.hostname.as_deref(), "ipMode": mode })
        })
        .collect();
    tidy(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service.key.name.as_str(),
            "namespace": service.key.namespace.as_str(),
            "labels": labels(&service.labels),
            "annotations": labels(&service.annotations),
        },
        "spec": spec(service, &ips),
        "status": { "loadBalancer": { "ingress": ingress } },
    }))
}

fn spec(service: &Service, ips: &[String]) -> Value {
    let family_policy = service.ip_family_policy.map(|policy| match policy {
        IpFamilyPolicy::SingleStack => "SingleStack",
        IpFamilyPolicy::PreferDualStack => "PreferDualStack",
        IpFamilyPolicy::RequireDualStack => "RequireDualStack",
    });
    let distribution = service.traffic_distribution.map(|wanted| match wanted {
        TrafficDistribution::PreferSameZone => "PreferSameZone",
        TrafficDistribution::PreferSameNode => "PreferSameNode",
    });
    let outside = match service.service_type {
        ServiceType::NodePort | ServiceType::LoadBalancer => true,
        ServiceType::ClusterIp | ServiceType::ExternalName => !service.external_ips.is_empty(),
    };
    let outside = outside || service.external_traffic_policy != TrafficPolicy::Cluster;
    let alias = service.service_type == ServiceType::ExternalName;
    let (affinity, timeout) = match service.session_affinity {
        SessionAffinity::None => ("None", None),
        SessionAffinity::ClientIp { timeout_seconds } => ("ClientIP", Some(timeout_seconds)),
    };
    let families: Vec<String> = service
        .ip_families
        .iter()
        .map(ToString::to_string)
        .collect();
    let sources: Vec<String> = service
        .load_balancer_source_ranges
        .iter()
        .map(ToString::to_string)
        .collect();
    json!({
        "type": service.service_type.to_string(),
        "clusterIP": ips.first(),
        "clusterIPs": ips,
        "ipFamilies": families,
        "ipFamilyPolicy": family_policy,
        "selector": service.selector.as_ref().map(|selector| labels(&selector.match_labels)),
        "ports": service.ports.iter().map(port).collect::<Vec<Value>>(),
        "externalIPs": service.external_ips,
        "loadBalancerIP": service.load_balancer_ip,
        "loadBalancerSourceRanges": sources,
        "externalTrafficPolicy": outside.then(|| service.external_traffic_policy.to_string()),
        "internalTrafficPolicy": (!alias).then(|| service.internal_traffic_policy.to_string()),
        "sessionAffinity": affinity,
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": timeout } },
        "publishNotReadyAddresses": service.publish_not_ready_addresses.then_some(true),
        "healthCheckNodePort": service.health_check_node_port,
        "allocateLoadBalancerNodePorts":
            (!service.allocate_load_balancer_node_ports).then_some(false),
        "loadBalancerClass": service.load_balancer_class.as_deref(),
        "externalName": service.external_name.as_deref(),
        "trafficDistribution": distribution,
    })
}

fn port(port: &ServicePort) -> Value {
    let target = match &port.target_port {
        PortRef::Number(number) => json!(number),
        PortRef::Name(name) => json!(&**name),
    };
    json!({
        "name": port.name.as_deref(),
        "protocol": port.protocol.upper(),
        "port": port.port,
        "targetPort": target,
        "nodePort": port.node_port,
        "appProtocol": port.app_protocol.as_deref(),
    })
}

pub(super) fn slice(slice: &EndpointSlice) -> Value {
    let endpoints: Vec<Value> = slice.endpoints.iter().map(endpoint).collect();
    let mut written = tidy(json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": slice.key.name.as_str(),
            "namespace": slice.key.namespace.as_str(),
            "labels": labels(&slice.labels),
            "annotations": labels(&slice.annotations),
        },
        "addressType": slice.address_type.to_string(),
        "ports": slice.ports.iter().map(endpoint_port).collect::<Vec<Value>>(),
    }));
    // The list must be there, even if nobody is in it.
    if let Value::Object(fields) = &mut written {
        let endpoints = endpoints.into_iter().map(tidy).collect();
        fields.insert("endpoints".to_owned(), endpoints);
    }
    written
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let names = endpoint.names.iter().map(ToString::to_string);
    let addresses = endpoint.addresses.iter().map(ToString::to_string);
    let hints = |names: &[std::sync::Arc<str>]| {
        let names = names.iter().map(|name| json!({ "name": &**name }));
        names.collect::<Vec<Value>>()
    };
    json!({
        "addresses": addresses.chain(names).collect::<Vec<String>>(),
        "conditions": {
            "ready": endpoint.ready,
            "serving": endpoint.serving,
            "terminating": endpoint.terminating,
        },
        "hostname": endpoint.hostname.as_deref(),
        "nodeName": endpoint.node_name.as_ref().map(ObjectName::as_str),
        "zone": endpoint.zone.as_deref(),
        "hints": {
            "forZones": hints(&endpoint.for_zones),
            "forNodes": hints(&endpoint.for_nodes),
        },
        "targetRef": target(endpoint),
    })
}

fn target(endpoint: &Endpoint) -> Option<Value> {
    let target = endpoint.target_ref.as_ref()?;
    let (name, namespace) = (target.key.name.as_str(), target.key.namespace.as_str());
    Some(json!({ "kind": &*target.kind, "name": name, "namespace": namespace }))
}

fn endpoint_port(port: &EndpointPort) -> Value {
    json!({
        "name": &*port.name,
        "protocol": port.protocol.upper(),
        "port": port.port,
        "appProtocol": port.app_protocol.as_deref(),
    })
}

/// Endpoints with one list of ports are one subset, as the Endpoints controller packs them.
pub(super) fn endpoints(service: &Service, slices: &[EndpointSlice]) -> Value {
    let primary = service.cluster_ips().first().map(|ip| Family::of(*ip));
    let primary = primary.or_else(|| service.ip_families.first().copied());
    let name = service.key.name.as_str();
    let mine = slices.iter().filter(|slice| {
        slice.key.namespace == service.key.namespace
            && slice.service_name() == Some(name)
            && primary.is_none_or(|family| slice.address_type.family() == Some(family))
    });
    let mut subsets: BTreeMap<&[EndpointPort], [Vec<Value>; 2]> = BTreeMap::new();
    for slice in mine {
        for endpoint in &slice.endpoints {
            let [ready, other] = subsets.entry(&slice.ports).or_default();
            let list = if endpoint.is_ready() { ready } else { other };
            let node = endpoint.node_name.as_ref().map(ObjectName::as_str);
            let hostname = endpoint.hostname.as_deref();
            let address = |ip: &std::net::IpAddr| json!({ "ip": ip, "hostname": hostname, "nodeName": node, "targetRef": target(endpoint) });
            list.extend(endpoint.addresses.iter().map(address));
        }
    }
    let subset = |(ports, [ready, other]): (&[EndpointPort], [Vec<Value>; 2])| {
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| {
                let name = (!port.name.is_empty()).then(|| port.name.to_string());
                json!({ "name": name, "protocol": port.protocol.upper(), "port": port.port })
            })
            .collect();
        json!({ "addresses": ready, "notReadyAddresses": other, "ports": ports })
    };
    let subsets: Vec<Value> = subsets.into_iter().map(subset).collect();
    tidy(json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": { "name": name, "namespace": service.key.namespace.as_str() },
        "subsets": subsets,
    }))
}
