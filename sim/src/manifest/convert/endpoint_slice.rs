//! Endpoint slices, and the older Endpoints, which become slices.

use std::net::IpAddr;
use std::sync::Arc;

use podwire_models::api::endpoint_slice::{MANAGED_BY_LABEL, SERVICE_NAME_LABEL};
use podwire_models::api::{AddressType, Endpoint, EndpointPort, EndpointSlice, TargetRef};
use podwire_models::base::{Family, ObjectKey};

use super::super::reader::{Maybe, Reader, flag, items, text};
use super::super::tree::Node;
use super::Meta;
use crate::problem::ProblemCode;

const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";

const TYPES: &[(&str, AddressType)] = &[
    ("IPv4", AddressType::Ipv4),
    ("IPv6", AddressType::Ipv6),
    ("FQDN", AddressType::Fqdn),
];

pub(super) fn read(reader: &mut Reader<'_>, root: &Arc<Node>, meta: Meta) -> EndpointSlice {
    if root.get("addressType").is_none() {
        reader.missing(root, "addressType");
    }
    let address_type = reader
        .word(root.get("addressType"), "`addressType`", TYPES)
        .unwrap_or(AddressType::Ipv4);
    let endpoints = items(root.get("endpoints"))
        .iter()
        .map(|node| endpoint(reader, node, address_type))
        .collect();
    EndpointSlice {
        key: meta.key,
        labels: meta.labels,
        annotations: meta.annotations,
        address_type,
        endpoints,
        ports: ports(reader, root.get("ports")),
        origin: meta.origin,
    }
}

fn endpoint(reader: &mut Reader<'_>, node: &Arc<Node>, address_type: AddressType) -> Endpoint {
    let list = items(node.get("addresses"));
    if list.is_empty() {
        reader.missing(node, "addresses");
    }
    let mut addresses = Vec::new();
    let mut names = Vec::new();
    for item in list {
        match address_type.family() {
            None => names.extend(text(Some(item))),
            Some(family) => addresses.extend(address(reader, item, family)),
        }
    }
    let condition = |field: &str| {
        flag(
            node.get("conditions")
                .and_then(|conditions| conditions.get(field)),
        )
    };
    let hints = |field: &str| {
        let list = items(node.get("hints").and_then(|hints| hints.get(field)));
        list.iter()
            .filter_map(|hint| text(hint.get("name")))
            .collect()
    };
    Endpoint {
        addresses,
        names,
        ready: condition("ready"),
        serving: condition("serving"),
        terminating: condition("terminating"),
        hostname: text(node.get("hostname")),
        node_name: reader.parse(node.get("nodeName"), ProblemCode::ManBadName, "`nodeName`"),
        zone: text(node.get("zone")),
        for_zones: hints("forZones"),
        for_nodes: hints("forNodes"),
        target_ref: target_ref(reader, node.get("targetRef")),
        origin: reader.origin(node),
    }
}

fn address(reader: &mut Reader<'_>, item: &Arc<Node>, family: Family) -> Option<IpAddr> {
    let address = reader.ip(Some(item), "one of `addresses`")?;
    if Family::of(address) == family {
        return Some(address);
    }
    let title = format!("an address of a slice of type {family} is of the other family");
    reader.note(
        ProblemCode::ManContradiction,
        item,
        title,
        format!("must be {family}"),
    );
    None
}

fn target_ref(reader: &mut Reader<'_>, node: Maybe<'_>) -> Option<TargetRef> {
    let node = node?;
    let name = reader.parse(
        node.get("name"),
        ProblemCode::ManBadName,
        "the name of the target",
    )?;
    let namespace = reader.parse(
        node.get("namespace"),
        ProblemCode::ManBadName,
        "the namespace of the target",
    );
    let key = ObjectKey::new(namespace.unwrap_or_default(), name);
    Some(TargetRef {
        kind: text(node.get("kind"))?,
        key,
    })
}

fn ports(reader: &mut Reader<'_>, list: Maybe<'_>) -> Vec<EndpointPort> {
    let mut ports = Vec::new();
    for node in items(list) {
        ports.push(EndpointPort {
            name: text(node.get("name")).unwrap_or_else(|| "".into()),
            protocol: reader.protocol(node.get("protocol")),
            port: reader.port(node.get("port"), "`port`"),
            app_protocol: text(node.get("appProtocol")),
        });
    }
    ports
}

/// Whether the slice was made from Endpoints here.
pub(in super::super) fn mirrored(slice: &EndpointSlice) -> bool {
    slice.labels.get(MANAGED_BY_LABEL) == Some(MIRRORING)
}

/// Makes slices of Endpoints as the `EndpointSliceMirroring` controller does: one for each subset and
/// family. Whether a Service asks for it is checked when all objects are known.
pub(super) fn mirror(reader: &mut Reader<'_>, root: &Arc<Node>, meta: &Meta) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    for subset in items(root.get("subsets")) {
        let ports = ports(reader, subset.get("ports"));
        let mut endpoints = Vec::new();
        for (field, ready) in [("addresses", true), ("notReadyAddresses", false)] {
            for node in items(subset.get(field)) {
                endpoints.extend(mirrored_endpoint(reader, node, ready));
            }
        }
        for family in Family::ALL {
            let of_family = |endpoint: &&Endpoint| {
                endpoint
                    .addresses
                    .iter()
                    .all(|ip| Family::of(*ip) == family)
            };
            let endpoints: Vec<Endpoint> = endpoints.iter().filter(of_family).cloned().collect();
            if !endpoints.is_empty() {
                slices.push(slice(meta, slices.len(), family, endpoints, ports.clone()));
            }
        }
    }
    slices
}

fn mirrored_endpoint(reader: &mut Reader<'_>, node: &Arc<Node>, ready: bool) -> Option<Endpoint> {
    let address = reader.ip(node.get("ip"), "the `ip` of an endpoint")?;
    let mut endpoint = Endpoint::new(address);
    endpoint.ready = Some(ready);
    endpoint.serving = None;
    endpoint.terminating = None;
    endpoint.hostname = text(node.get("hostname"));
    endpoint.node_name = reader.parse(node.get("nodeName"), ProblemCode::ManBadName, "`nodeName`");
    endpoint.target_ref = target_ref(reader, node.get("targetRef"));
    endpoint.origin = reader.origin(node);
    Some(endpoint)
}

fn slice(
    meta: &Meta,
    number: usize,
    family: Family,
    endpoints: Vec<Endpoint>,
    ports: Vec<EndpointPort>,
) -> EndpointSlice {
    let name = format!("{}-mirror-{number}", meta.key.name);
    let name = name.parse().unwrap_or_else(|_| meta.key.name.clone());
    let mut labels = meta.labels.clone();
    labels.insert(SERVICE_NAME_LABEL, meta.key.name.as_str());
    labels.insert(MANAGED_BY_LABEL, MIRRORING);
    EndpointSlice {
        key: ObjectKey::new(meta.key.namespace.clone(), name),
        labels,
        annotations: meta.annotations.clone(),
        address_type: family.into(),
        endpoints,
        ports,
        origin: meta.origin,
    }
}
