//! `podwire get`: the objects of the settled cluster, as `kubectl get` shows them.
//!
//! # Fidelity
//! The columns are those of `kubectl`; AGE is left out, since a settled cluster has none.

use std::fmt::Display;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use podwire_models::api::{
    ClusterIp, EndpointSlice, NetworkPolicy, Node, Phase, Pod, Service, ServiceType,
};
use podwire_models::base::{Labels, Namespace, Selector};

use super::explain::pretty;
use super::input::{InputArgs, Session};
use super::table;
use super::{Done, Report};
use crate::manifest::print;
use crate::scenario::text::Moment;

const EXAMPLES: &str = "\
Examples:
  podwire get pods -f shop.yaml -o wide
  podwire get endpoints -f shop.yaml -n shop
  kubectl get nodes,pods,svc -A -o yaml | podwire get svc -f -
  podwire get endpointslices -f shop.yaml -n shop -o yaml
  podwire get endpoints -f scenarios/lifecycle/pod_killed.ron --at 7s
  podwire get pods -f shop.yaml -o json | jq -r '.items[].ips[0]'";

/// Show objects of the settled cluster, as kubectl does: which pod got which address, which endpoints a Service has
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GetArgs {
    /// Which kind
    #[arg(value_name = "KIND")]
    kind: Kind,
    /// Only the object with this name
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only objects of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<Namespace>,
    /// In which form to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,
    /// At which moment of a scenario's story, after everything that is done then [default: before the story begins]
    #[arg(long, value_name = "TIME")]
    at: Option<Moment>,
    #[command(flatten)]
    input: InputArgs,
}

/// Kinds that can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Pods, with their addresses and nodes.
    #[value(aliases = ["pod", "po"])]
    Pods,
    /// Services, with their addresses and ports.
    #[value(aliases = ["service", "svc"])]
    Services,
    /// Nodes, with their addresses and pod ranges.
    #[value(aliases = ["node", "no"])]
    Nodes,
    /// Ready endpoints of Services.
    #[value(aliases = ["endpoint", "ep"])]
    Endpoints,
    /// `EndpointSlices`: those given and those of the controller.
    #[value(aliases = ["endpointslice"])]
    Endpointslices,
    /// `NetworkPolicies`.
    #[value(aliases = ["networkpolicy", "netpol"])]
    Networkpolicies,
}

/// Forms of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table.
    Text,
    /// A table with more columns.
    Wide,
    /// For programs.
    Json,
    /// As manifests, which every command takes with -f: kubectl's own form.
    Yaml,
}

/// Objects of one kind: the columns of their table (the last ones only if it is wide), and each object as a row and
/// as JSON.
struct Listing {
    header: &'static [&'static str],
    wide: &'static [&'static str],
    items: Vec<Item>,
}

struct Item {
    /// `None` for objects of the whole cluster.
    namespace: Option<String>,
    name: String,
    cells: Vec<String>,
    json: Value,
    manifest: Value,
}

pub(super) fn run(args: &GetArgs) -> Done {
    let session = match args.input.story(args.at)? {
        Some(told) => told.session(),
        None => args.input.settle()?,
    };
    let mut listing = Listing::of(args.kind, &session);
    listing.items.retain(|item| {
        let here = args.namespace.as_ref().map(Namespace::as_str);
        let named = args.name.as_deref().is_none_or(|name| name == item.name);
        named && (here.is_none() || item.namespace.is_none() || item.namespace.as_deref() == here)
    });
    if let (Some(name), true) = (&args.name, listing.items.is_empty()) {
        return Err(Report::bad_input(format!(
            "there is no object named `{name}`"
        )));
    }
    Ok(match args.output {
        Output::Text => listing.report(false, &session),
        Output::Wide => listing.report(true, &session),
        Output::Yaml => Report {
            stderr: session.notes(),
            ..Report::well(listing.yaml(args.name.is_some()))
        },
        Output::Json => Report {
            stderr: session.warnings().to_owned(),
            ..Report::well(listing.json(args.kind, &session))
        },
    })
}

impl Listing {
    fn of(kind: Kind, session: &Session) -> Self {
        let objects = &session.lab.objects;
        match kind {
            Kind::Pods => Self {
                header: &["NAME", "READY", "STATUS"],
                wide: &["IP", "NODE"],
                items: objects.pods.values().map(pod).collect(),
            },
            Kind::Services => Self {
                header: &["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)"],
                wide: &["SELECTOR"],
                items: objects.services.values().map(service).collect(),
            },
            Kind::Nodes => Self {
                header: &["NAME", "STATUS"],
                wide: &["INTERNAL-IP", "POD-CIDR", "ZONE"],
                items: objects.nodes.values().map(node).collect(),
            },
            Kind::Endpoints => Self {
                header: &["NAME", "ENDPOINTS"],
                wide: &[],
                items: objects
                    .services
                    .values()
                    .filter(|service| service.service_type != ServiceType::ExternalName)
                    .map(|service| endpoints(service, &session.lab.slices))
                    .collect(),
            },
            Kind::Endpointslices => Self {
                header: &["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS"],
                wide: &["CONDITIONS"],
                items: session.lab.slices.iter().map(slice).collect(),
            },
            Kind::Networkpolicies => Self {
                header: &["NAME", "POD-SELECTOR"],
                wide: &["POLICY-TYPES"],
                items: objects.network_policies.values().map(policy).collect(),
            },
        }
    }

    fn report(self, wide: bool, session: &Session) -> Report {
        let stderr = session.notes();
        if self.items.is_empty() {
            return Report {
                stderr: "No resources found.\n".to_owned() + &stderr,
                ..Report::default()
            };
        }
        let namespaced = self.items.iter().any(|item| item.namespace.is_some());
        let mut header: Vec<&str> = Vec::new();
        header.extend(namespaced.then_some("NAMESPACE"));
        header.extend(self.header);
        if wide {
            header.extend(self.wide);
        }
        let columns = header.len();
        let rows = self.items.into_iter().map(|item| {
            let cells = item.namespace.into_iter().chain([item.name]);
            cells.chain(item.cells).take(columns)
        });
        Report {
            stderr,
            ..Report::well(table::text(&header, rows))
        }
    }

    /// One object by its name, or a list.
    fn yaml(self, named: bool) -> String {
        let mut manifests: Vec<Value> = self.items.into_iter().map(|item| item.manifest).collect();
        let value = match (named, manifests.len()) {
            (true, 1) => manifests.remove(0),
            _ => print::list(manifests),
        };
        print::text(&value)
    }

    fn json(self, kind: Kind, session: &Session) -> String {
        let kind = kind.to_possible_value().map(|v| v.get_name().to_owned());
        let items: Vec<Value> = self.items.into_iter().map(|item| item.json).collect();
        pretty(&json!({
            "schema": "podwire.get/v1",
            "kind": kind,
            "items": items,
            "not_modelled": session.not_modelled_json(),
            "assumptions": session.assumptions,
        }))
    }
}

fn pod(pod: &Pod) -> Item {
    let phase = match pod.phase {
        _ if pod.deleting => "Terminating",
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Completed",
        Phase::Failed => "Failed",
        Phase::Unknown => "Unknown",
    };
    let containers = pod.spec.running().count();
    let ready = pod.ready.unwrap_or(pod.phase == Phase::Running);
    let up = if ready { containers } else { 0 };
    let node = pod.node_name.as_ref().map(ToString::to_string);
    let cells = [
        format!("{up}/{containers}"),
        phase.to_owned(),
        joined(&pod.pod_ips),
        node.clone().unwrap_or_else(none),
    ];
    Item {
        namespace: Some(pod.key.namespace.to_string()),
        name: pod.key.name.to_string(),
        cells: cells.into(),
        manifest: print::pod(pod),
        json: json!({
            "namespace": pod.key.namespace.as_str(),
            "name": pod.key.name.as_str(),
            "labels": labels(&pod.labels),
            "status": phase,
            "ready": ready,
            "ips": pod.pod_ips,
            "node": node,
            "host_network": pod.spec.host_network,
        }),
    }
}

fn service(service: &Service) -> Item {
    let addresses = match &service.cluster_ip {
        ClusterIp::Addresses(ips) => joined(ips),
        ClusterIp::Headless | ClusterIp::Unassigned => "None".to_owned(),
    };
    let balancers = service.ingress.iter().filter_map(|ingress| ingress.ip);
    let external: Vec<_> = balancers
        .chain(service.external_ips.iter().copied())
        .collect();
    let outside = match &service.external_name {
        Some(name) if service.service_type == ServiceType::ExternalName => name.to_string(),
        Some(_) | None => joined(&external),
    };
    let ports: Vec<String> = service
        .ports
        .iter()
        .map(|port| {
            let node_port = port.node_port.map_or_else(String::new, |n| format!(":{n}"));
            format!("{}{node_port}/{}", port.port, port.protocol.upper())
        })
        .collect();
    let ports_json: Vec<Value> = service
        .ports
        .iter()
        .map(|port| {
            json!({
                "name": port.name.as_deref(),
                "protocol": port.protocol.upper(),
                "port": port.port,
                "target_port": port.target_port.to_string(),
                "node_port": port.node_port,
            })
        })
        .collect();
    let selector = service.selector.as_ref();
    let cells = [
        service.service_type.to_string(),
        addresses,
        outside,
        joined(&ports),
        selector.map_or_else(none, selected),
    ];
    Item {
        namespace: Some(service.key.namespace.to_string()),
        name: service.key.name.to_string(),
        cells: cells.into(),
        manifest: print::service(service),
        json: json!({
            "namespace": service.key.namespace.as_str(),
            "name": service.key.name.as_str(),
            "type": service.service_type.to_string(),
            "cluster_ips": service.cluster_ips(),
            "headless": service.headless(),
            "external_ips": external,
            "external_name": service.external_name.as_deref(),
            "ports": ports_json,
            "selector": selector.map(selected),
            "external_traffic_policy": service.external_traffic_policy.to_string(),
            "internal_traffic_policy": service.internal_traffic_policy.to_string(),
        }),
    }
}

fn node(node: &Node) -> Item {
    let ready = if node.ready.unwrap_or(true) {
        "Ready"
    } else {
        "NotReady"
    };
    let cordoned = if node.unschedulable {
        ",SchedulingDisabled"
    } else {
        ""
    };
    let cells = [
        format!("{ready}{cordoned}"),
        joined(&node.internal_ips),
        joined(&node.pod_cidrs),
        node.zone().map_or_else(none, str::to_owned),
    ];
    let ranges: Vec<String> = node.pod_cidrs.iter().map(ToString::to_string).collect();
    Item {
        namespace: None,
        name: node.name.to_string(),
        cells: cells.into(),
        manifest: print::node(node),
        json: json!({
            "name": node.name.as_str(),
            "labels": labels(&node.labels),
            "ready": node.ready.unwrap_or(true),
            "unschedulable": node.unschedulable,
            "internal_ips": node.internal_ips,
            "pod_cidrs": ranges,
            "zone": node.zone(),
        }),
    }
}

/// The addresses of a Service that are ready, as an Endpoints object lists them.
fn endpoints(service: &Service, slices: &[EndpointSlice]) -> Item {
    let name = service.key.name.as_str();
    let mine = slices.iter().filter(|slice| {
        slice.key.namespace == service.key.namespace && slice.service_name() == Some(name)
    });
    let (mut ready, mut other) = (Vec::new(), Vec::new());
    for slice in mine {
        for endpoint in &slice.endpoints {
            let list = if endpoint.is_ready() {
                &mut ready
            } else {
                &mut other
            };
            for ip in &endpoint.addresses {
                let ports = slice.ports.iter().filter_map(|port| port.port);
                let before = list.len();
                list.extend(ports.map(|port| std::net::SocketAddr::new(*ip, port).to_string()));
                if list.len() == before {
                    list.push(ip.to_string());
                }
            }
        }
    }
    Item {
        namespace: Some(service.key.namespace.to_string()),
        name: name.to_owned(),
        cells: vec![joined(&ready)],
        manifest: print::endpoints(service, slices),
        json: json!({
            "namespace": service.key.namespace.as_str(),
            "name": name,
            "ready": ready,
            "not_ready": other,
        }),
    }
}

fn slice(slice: &EndpointSlice) -> Item {
    let ports: Vec<String> = slice
        .ports
        .iter()
        .filter_map(|port| port.port.map(|number| number.to_string()))
        .collect();
    let addresses: Vec<String> = slice
        .endpoints
        .iter()
        .flat_map(|endpoint| {
            let names = endpoint.names.iter().map(ToString::to_string);
            endpoint
                .addresses
                .iter()
                .map(ToString::to_string)
                .chain(names)
        })
        .collect();
    let conditions: Vec<&str> = slice
        .endpoints
        .iter()
        .map(
            |endpoint| match (endpoint.is_ready(), endpoint.is_terminating()) {
                (_, true) if endpoint.is_serving() => "serving+terminating",
                (_, true) => "terminating",
                (true, false) => "ready",
                (false, false) => "unready",
            },
        )
        .collect();
    let endpoints: Vec<Value> = slice
        .endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "addresses": endpoint.addresses,
                "ready": endpoint.is_ready(),
                "serving": endpoint.is_serving(),
                "terminating": endpoint.is_terminating(),
                "node": endpoint.node_name.as_ref().map(ToString::to_string),
                "zone": endpoint.zone.as_deref(),
                "for_zones": endpoint.for_zones.iter().map(|zone| &**zone).collect::<Vec<_>>(),
                "pod": endpoint.target_ref.as_ref().map(|target| target.key.to_string()),
            })
        })
        .collect();
    let ports_json: Vec<Value> = slice
        .ports
        .iter()
        .map(|port| json!({ "name": &*port.name, "protocol": port.protocol.upper(), "port": port.port }))
        .collect();
    let cells = [
        slice.address_type.to_string(),
        joined(&ports),
        joined(&addresses),
        joined(&conditions),
    ];
    Item {
        namespace: Some(slice.key.namespace.to_string()),
        name: slice.key.name.to_string(),
        cells: cells.into(),
        manifest: print::endpoint_slice(slice),
        json: json!({
            "namespace": slice.key.namespace.as_str(),
            "name": slice.key.name.as_str(),
            "service": slice.service_name(),
            "address_type": slice.address_type.to_string(),
            "ports": ports_json,
            "endpoints": endpoints,
        }),
    }
}

fn policy(policy: &NetworkPolicy) -> Item {
    let mut types = Vec::new();
    types.extend(policy.policy_types.ingress.then_some("Ingress"));
    types.extend(policy.policy_types.egress.then_some("Egress"));
    let pods = selected(&policy.pod_selector);
    let cells = [pods.clone(), joined(&types)];
    Item {
        namespace: Some(policy.key.namespace.to_string()),
        name: policy.key.name.to_string(),
        cells: cells.into(),
        manifest: print::network_policy(policy),
        json: json!({
            "namespace": policy.key.namespace.as_str(),
            "name": policy.key.name.as_str(),
            "pod_selector": pods,
            "policy_types": types,
            "ingress_rules": policy.ingress.len(),
            "egress_rules": policy.egress.len(),
        }),
    }
}

fn none() -> String {
    "<none>".to_owned()
}

fn joined(things: &[impl Display]) -> String {
    if things.is_empty() {
        return none();
    }
    let texts: Vec<String> = things.iter().map(ToString::to_string).collect();
    texts.join(",")
}

fn labels(labels: &Labels) -> Value {
    let entries = labels.iter();
    entries
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect()
}

fn selected(selector: &Selector) -> String {
    if selector.is_empty() {
        return none();
    }
    selector.to_string()
}
