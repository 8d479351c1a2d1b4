//! What kube-proxy says of itself, and of Services whose traffic stays on a node (`pkg/proxy/healthcheck`).
//!
//! # Fidelity
//! kube-proxy is in time with its rules here, so it is healthy unless its node is about to go. Leaves out: the time
//! stamps of `/healthz`, `Date` and the like, Node objects that take time to be deleted. On a dual-stack node two proxies
//! want a Service's port and one gets it: here always the first of IPv4 and IPv6 in which the Service exists.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::iptables::nodeport_nets;
use super::{EndpointView, Flags, NodeView, ServiceView};
use crate::api::Node;
use crate::base::{Family, ObjectKey};
use crate::wire::{HttpAnswer, HttpPages};

/// The port of `--healthz-bind-address`.
pub const HEALTHZ: u16 = 10256;

/// The cluster autoscaler is about to remove the node.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// One port on which a node's kube-proxy answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthServer {
    /// The Service it speaks of; nothing for kube-proxy itself.
    pub service: Option<ObjectKey>,
    /// The port.
    pub port: u16,
    /// Addresses it listens on; nothing is all.
    pub addrs: Option<Vec<IpAddr>>,
    /// What it answers.
    pub pages: HttpPages,
}

/// Returns everything a node's kube-proxy answers: first for itself, then for Services by name.
pub fn servers(
    views: &[ServiceView],
    object: &Node,
    node: &NodeView,
    flags: &Flags,
) -> Vec<HealthServer> {
    let eligible = object
        .taints
        .iter()
        .all(|taint| &*taint.key != TO_BE_DELETED);
    let mut found = vec![HealthServer {
        service: None,
        port: HEALTHZ,
        addrs: None,
        pages: own_pages(eligible),
    }];
    for view in views {
        for port in &view.ports {
            let Some(number) = port.health_check_node_port else {
                continue;
            };
            let known = |server: &HealthServer| server.service.as_ref() == Some(&port.service);
            if found.iter().any(known) {
                continue;
            }
            let ports = view.ports.iter().filter(|p| p.service == port.service);
            let endpoints = ports.flat_map(|port| &port.endpoints);
            let ready = |e: &&EndpointView| e.ready && e.is_local(node);
            let local: BTreeSet<IpAddr> = endpoints.filter(ready).map(|e| e.addr.ip()).collect();
            found.push(HealthServer {
                service: Some(port.service.clone()),
                port: number,
                addrs: addresses(view.family, node, flags),
                pages: HttpPages::Every(Arc::new(of_service(&port.service, local.len()))),
            });
        }
    }
    found
}

/// The addresses that take node port traffic; nothing is all.
fn addresses(family: Family, node: &NodeView, flags: &Flags) -> Option<Vec<IpAddr>> {
    let nets = nodeport_nets(family, node, flags)?;
    let local = node.local_addresses.iter().copied();
    let mut addrs: Vec<IpAddr> = local
        .filter(|addr| nets.iter().any(|net| net.contains(addr)))
        .collect();
    addrs.sort_unstable();
    addrs.dedup();
    Some(addrs)
}

/// `/healthz` looks at the node too, `/livez` at kube-proxy only.
fn own_pages(eligible: bool) -> HttpPages {
    let answer = |status| {
        Arc::new(HttpAnswer {
            status,
            headers: headers(),
            body: format!("{{\"nodeEligible\": {eligible}}}"),
        })
    };
    let health = if eligible { 200 } else { 503 };
    HttpPages::Paths(vec![
        ("/healthz".into(), answer(health)),
        ("/livez".into(), answer(200)),
    ])
}

fn of_service(service: &ObjectKey, local: usize) -> HttpAnswer {
    let mut headers = headers();
    headers.push(format!("X-Load-Balancing-Endpoint-Weight: {local}"));
    let (namespace, name) = (service.namespace.as_str(), service.name.as_str());
    HttpAnswer {
        status: if local > 0 { 200 } else { 503 },
        headers,
        body: format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\
             \"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": true\n}}"
        ),
    }
}

fn headers() -> Vec<String> {
    [
        "Content-Type: application/json",
        "X-Content-Type-Options: nosniff",
    ]
    .map(str::to_owned)
    .to_vec()
}
