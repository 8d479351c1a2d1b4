//! `why` names what was broken: real applications, each with one thing changed for the worse.

use std::sync::Arc;
use std::time::Duration;

use podwire::attempt::Request;
use podwire::fault::Fault;
use podwire::lab::{Lab, Plan};
use podwire::manifest;
use podwire::scenario::address::Thing;
use podwire::source::{OriginTable, Source};
use podwire::why::{Blocker, World, blockers};
use podwire_models::api::pod::DnsPolicy;
use podwire_models::api::{
    NetworkPolicy, Object, Objects, PolicyPeer, PolicyRule, PolicyTypes, PortRef, Service,
    Workload, WorkloadKind,
};
use podwire_models::base::{Labels, ObjectKey, OriginId, Protocol, Selector};
use podwire_models::cluster::Acl;
use podwire_models::wire::{Code, L4};

use crate::handbook;

/// One application.
pub(crate) struct App {
    pub(crate) world: World,
    pub(crate) origins: OriginTable,
}

pub(crate) fn read(file: &str) -> Option<App> {
    let path = handbook(&format!("real/{file}"))?;
    let text = std::fs::read_to_string(&path).unwrap();
    let mut origins = OriginTable::default();
    let (manifests, _) = manifest::read(&[Source::new(file, text)], &mut origins);
    let world = World {
        objects: manifests.objects.into_iter().collect(),
        plan: Plan::default(),
    };
    Some(App { world, origins })
}

/// A Service and the workload behind it, and who asks.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) service: ObjectKey,
    pub(crate) port: u16,
    pub(crate) server: ObjectKey,
    pub(crate) client: ObjectKey,
}

impl Path {
    pub(crate) fn server_label(&self) -> String {
        format!("Deployment/{}", self.server)
    }

    pub(crate) fn service_label(&self) -> String {
        format!("Service/{}", self.service)
    }

    pub(crate) fn client_label(&self) -> String {
        format!("Deployment/{}", self.client)
    }

    pub(crate) fn service<'w>(&self, world: &'w mut World) -> &'w mut Service {
        world.objects.services.get_mut(&self.service).unwrap()
    }

    pub(crate) fn server<'w>(&self, world: &'w mut World) -> &'w mut Workload {
        let key = (WorkloadKind::Deployment, self.server.clone());
        world.objects.workloads.get_mut(&key).unwrap()
    }

    pub(crate) fn client<'w>(&self, world: &'w mut World) -> &'w mut Workload {
        let key = (WorkloadKind::Deployment, self.client.clone());
        world.objects.workloads.get_mut(&key).unwrap()
    }
}

/// The TCP Services of an application whose target port one Deployment listens on.
pub(crate) fn paths(objects: &Objects) -> Vec<Path> {
    let deployments: Vec<&Workload> = objects
        .workloads
        .values()
        .filter(|workload| workload.kind == WorkloadKind::Deployment)
        .collect();
    let mut found = Vec::new();
    for service in objects.services.values() {
        let Some(selector) = &service.selector else {
            continue;
        };
        let port = service.ports.iter().find(|p| p.protocol == Protocol::Tcp);
        let server = deployments.iter().find(|w| {
            w.key.namespace == service.key.namespace && selector.matches(&w.template.labels)
        });
        let (Some(port), Some(server)) = (port, server) else {
            continue;
        };
        let listens = server
            .template
            .spec
            .ports()
            .any(|p| PortRef::Number(p.container_port) == port.target_port);
        let client = deployments
            .iter()
            .find(|w| w.key.namespace == service.key.namespace && w.key != server.key);
        if let (true, Some(client)) = (listens, client) {
            found.push(Path {
                service: service.key.clone(),
                port: port.port,
                server: server.key.clone(),
                client: client.key.clone(),
            });
        }
    }
    found
}

/// What `why` says about a client's request by name, in every way it can fail.
fn asked(app: &App, world: &World, path: &Path, faults: &[Fault]) -> Vec<Vec<Blocker>> {
    let mut lab = Lab::build(world.objects.clone(), world.plan.clone());
    for fault in faults {
        fault.begin("fault", &mut lab.machines).unwrap();
    }
    asked_in(app, world, path, &lab)
}

/// As [`asked`], in a cluster that was built already.
pub(crate) fn asked_in(app: &App, world: &World, path: &Path, lab: &Lab) -> Vec<Vec<Blocker>> {
    let from: Thing = format!("deploy/{}", path.client).parse().unwrap();
    let target = format!(
        "{}.{}:{}",
        path.service.name, path.service.namespace, path.port
    );
    let target = target.parse().unwrap();
    let request = Request::new(target, L4::Tcp, Duration::from_secs(5));
    let source = lab.source(&from).unwrap();
    let all = lab
        .explore(&source, &request, &app.origins, 1, 4096)
        .unwrap();
    all.iter()
        .filter(|attempted| attempted.code != Code::Ok)
        .map(|attempted| blockers(world, lab, &app.origins, &from, &request, attempted, 1))
        .collect()
}

/// A letter less in the middle.
pub(crate) fn misspelt(word: &str) -> String {
    let cut = word.len() / 2;
    word.char_indices()
        .filter(|(at, _)| *at != cut)
        .map(|(_, c)| c)
        .collect()
}

pub(crate) fn misspell_all(labels: &mut Labels) {
    let wrong: Vec<(Arc<str>, String)> = labels
        .pairs()
        .iter()
        .map(|(key, value)| (Arc::clone(key), misspelt(value)))
        .collect();
    for (key, value) in wrong {
        labels.insert(&*key, value.as_str());
    }
}

pub(crate) fn isolating(path: &Path, name: &str, labels: &Labels) -> NetworkPolicy {
    let key = ObjectKey::new(path.service.namespace.clone(), name.parse().unwrap());
    NetworkPolicy {
        key,
        labels: Labels::default(),
        annotations: Labels::default(),
        pod_selector: Selector::labels(labels.clone()),
        policy_types: PolicyTypes {
            ingress: false,
            egress: false,
        },
        ingress: Vec::new(),
        egress: Vec::new(),
        origin: OriginId::NONE,
    }
}

pub(crate) fn rule(pods: Labels) -> PolicyRule {
    PolicyRule {
        peers: vec![PolicyPeer::Pods {
            namespaces: None,
            pods: Some(Selector::labels(pods)),
            origin: OriginId::NONE,
        }],
        ports: Vec::new(),
        origin: OriginId::NONE,
    }
}

/// A way to break a path: its name, what it does, and the object that must be named.
type Mutation = (&'static str, fn(&Path, &mut World) -> String);

const MUTATIONS: &[Mutation] = &[
    ("selector", |path, world| {
        misspell_all(&mut path.service(world).selector.as_mut().unwrap().match_labels);
        path.service_label()
    }),
    ("selector asks for more", |path, world| {
        let selector = path.service(world).selector.as_mut().unwrap();
        selector.match_labels.insert("tier", "backend");
        path.service_label()
    }),
    ("label", |path, world| {
        let server = path.server(world);
        misspell_all(&mut server.template.labels);
        misspell_all(&mut server.selector.as_mut().unwrap().match_labels);
        path.server_label()
    }),
    ("port", |path, world| {
        path.service(world).ports[0].port += 1;
        path.service_label()
    }),
    ("target port", |path, world| {
        path.service(world).ports[0].target_port = PortRef::Number(path.port.wrapping_add(1111));
        path.service_label()
    }),
    ("protocol", |path, world| {
        path.service(world).ports[0].protocol = Protocol::Udp;
        path.service_label()
    }),
    ("named port", |path, world| {
        path.service(world).ports[0].target_port = PortRef::Name("http-web".into());
        path.service_label()
    }),
    ("container port", |path, world| {
        let spec = Arc::make_mut(&mut path.server(world).template.spec);
        for port in spec.containers.iter_mut().flat_map(|c| &mut c.ports) {
            port.container_port += 1000;
        }
        path.server_label()
    }),
    ("name of a container's port", |path, world| {
        let port = &mut path.service(world).ports[0];
        port.name = Some("web".into());
        port.target_port = PortRef::Name("web".into());
        let spec = Arc::make_mut(&mut path.server(world).template.spec);
        for port in spec.containers.iter_mut().flat_map(|c| &mut c.ports) {
            port.name = Some("wbe".into());
        }
        path.server_label()
    }),
    ("the client's label", |path, world| {
        let labels = path.server(world).template.labels.clone();
        let client = path.client(world).template.labels.clone();
        let mut policy = isolating(path, "drift", &labels);
        policy.policy_types.ingress = true;
        policy.ingress.push(rule(client));
        world.objects.insert(Object::NetworkPolicy(policy));
        let client = path.client(world);
        misspell_all(&mut client.template.labels);
        misspell_all(&mut client.selector.as_mut().unwrap().match_labels);
        path.client_label()
    }),
    ("namespace", |path, world| {
        let mut service = world.objects.services.remove(&path.service).unwrap();
        service.key.namespace = "elsewhere".parse().unwrap();
        let name = format!("Service/{}", service.key);
        world.objects.insert(Object::Service(service));
        name
    }),
    ("replicas", |path, world| {
        path.server(world).replicas = 0;
        path.server_label()
    }),
    ("policy without a rule", |path, world| {
        let labels = path.server(world).template.labels.clone();
        let mut policy = isolating(path, "closed", &labels);
        policy.policy_types.ingress = true;
        let name = format!("NetworkPolicy/{}", policy.key);
        world.objects.insert(Object::NetworkPolicy(policy));
        name
    }),
    ("policy with a typo", |path, world| {
        let labels = path.server(world).template.labels.clone();
        let mut client = path.client(world).template.labels.clone();
        misspell_all(&mut client);
        let mut policy = isolating(path, "typo", &labels);
        policy.policy_types.ingress = true;
        policy.ingress.push(rule(client));
        let name = format!("NetworkPolicy/{}", policy.key);
        world.objects.insert(Object::NetworkPolicy(policy));
        name
    }),
    ("egress policy forgot DNS", |path, world| {
        let (server, client) = (
            path.server(world).template.labels.clone(),
            path.client(world).template.labels.clone(),
        );
        let mut policy = isolating(path, "no-dns", &client);
        policy.policy_types.egress = true;
        policy.egress.push(rule(server));
        let name = format!("NetworkPolicy/{}", policy.key);
        world.objects.insert(Object::NetworkPolicy(policy));
        name
    }),
    ("dnsPolicy", |path, world| {
        let client = path.client(world);
        Arc::make_mut(&mut client.template.spec).dns_policy = DnsPolicy::Default;
        path.client_label()
    }),
    ("pods nowhere", |path, world| {
        let server = path.server(world);
        let spec = Arc::make_mut(&mut server.template.spec);
        spec.node_selector.insert("disk", "ssd");
        path.server_label()
    }),
];

fn every_mutation(file: &str) -> usize {
    let Some(app) = read(file) else { return 0 };
    let paths = paths(&app.world.objects);
    assert!(paths.len() > 4, "{} paths", paths.len());
    let mut seen = 0;
    for (number, path) in paths.iter().enumerate() {
        if number == 0 {
            let well = asked(&app, &app.world, path, &[]);
            assert!(well.is_empty(), "nothing is wrong with {path:?}: {well:?}");
        }
        for (turn, (what, mutate)) in MUTATIONS.iter().enumerate() {
            // Not every path with every mutation: a few of each.
            if (number + turn) % 3 != 0 {
                continue;
            }
            let mut world = app.world.clone();
            let culprit = mutate(path, &mut world);
            let found = asked(&app, &world, path, &[]);
            assert!(!found.is_empty(), "{what} at {path:?}: it still works");
            for blockers in &found {
                let objects: Vec<&str> = blockers
                    .iter()
                    .filter_map(|b| b.object.as_deref())
                    .collect();
                assert_eq!(
                    objects,
                    [culprit.as_str()],
                    "{what} at {path:?}: {blockers:#?}"
                );
            }
            seen += 1;
        }
    }
    seen
}

#[test]
fn names_what_is_broken_in_online_boutique() {
    let seen = every_mutation("online-boutique/kubernetes-manifests.yaml");
    assert!(seen == 0 || seen > 35, "{seen} broken clusters");
}

#[test]
fn names_what_is_broken_in_sock_shop() {
    let seen = every_mutation("sock-shop/complete-demo.yaml");
    assert!(seen == 0 || seen > 35, "{seen} broken clusters");
}

/// Faults of machines: the setting, the wire, the firewall, the machine.
#[test]
fn names_the_machine_that_is_broken() {
    let Some(app) = read("online-boutique/kubernetes-manifests.yaml") else {
        return;
    };
    let lab = Lab::build(app.world.objects.clone(), app.world.plan.clone());
    let node_of = |deployment: &ObjectKey| {
        let pods = lab.pods_of(
            "Deployment",
            deployment.namespace.as_str(),
            deployment.name.as_str(),
        );
        pods[0].node_name.clone().unwrap()
    };
    let all = paths(&app.world.objects);
    let path = all
        .iter()
        .find(|path| node_of(&path.client) != node_of(&path.server));
    let path = path.expect("two pods on different nodes");
    let (here, there) = (node_of(&path.client), node_of(&path.server));
    let ways = [
        (
            Fault::Sysctl {
                on: format!("node/{here}"),
                name: "net.ipv4.ip_forward".to_owned(),
                value: "0".to_owned(),
            },
            format!("Sysctl/{here}/net.ipv4.ip_forward"),
        ),
        (
            Fault::LinkDown {
                from: format!("node/{here}"),
                to: format!("node/{there}"),
                one_way: true,
            },
            format!("Link/{here}/{there}"),
        ),
        (
            Fault::Acl(Acl {
                id: "no-web".into(),
                from: None,
                to: None,
                l4: Some(L4::Tcp),
                port: None,
                touched: 0,
            }),
            "Fault//no-web".to_owned(),
        ),
        (
            Fault::NodeDown {
                node: there.clone(),
            },
            format!("Node//{there}"),
        ),
    ];
    for (fault, culprit) in ways {
        let found = asked(&app, &app.world, path, std::slice::from_ref(&fault));
        assert!(!found.is_empty(), "{}: it still works", fault.words());
        for blockers in &found {
            let first = blockers.first().and_then(|b| b.object.as_deref());
            assert_eq!(
                first,
                Some(culprit.as_str()),
                "{}: {blockers:#?}",
                fault.words()
            );
        }
    }
}

/// Probes of scenarios that fail name what the scenario is about.
#[cfg(feature = "cli")]
#[test]
fn names_what_scenarios_are_about() {
    let table = [
        ("service/selector_typo", "order", "Service/shop/cart"),
        ("service/target_port_closed", "order", "Service/shop/cart"),
        ("service/named_port_missing", "typo", "Service/shop/cart"),
        ("service/bound_to_localhost", "order", "Pod/shop/cart"),
        ("faults/link_down_both", "during", "Link/node-a/node-b"),
        ("faults/link_down_one_way", "during", "Link/node-b/node-a"),
        ("faults/vxlan_blocked", "during", "Fault//firewall"),
        (
            "cni/ip_forward_off",
            "during",
            "Sysctl/node-a/net.ipv4.ip_forward",
        ),
        (
            "cni/bridge_nf_call_off",
            "during",
            "Sysctl/node-a/net.bridge.bridge-nf-call-iptables",
        ),
        ("lifecycle/pod_killed", "soon", "Pod/shop/cart-1"),
        ("lifecycle/service_late", "before", "Service/shop/late"),
        (
            "policy/egress_forgot_dns",
            "by-name",
            "NetworkPolicy/default/only-web",
        ),
        ("failures/06-readiness", "broken", "Pod/shop/order"),
        (
            "failures/10-or_instead_of_and",
            "control",
            "NetworkPolicy/shop/both",
        ),
        (
            "failures/24-service_cidr_shadows",
            "broken",
            "Service/shop/taken",
        ),
        ("failures/34-udp_scaled_to_zero", "stale", "Node//node-a"),
        (
            "failures/40-ephemeral_ports",
            "broken",
            "Sysctl/pod/shop/client/net.ipv4.ip_local_port_range",
        ),
        ("failures/46-mtu", "one-more", "Cluster//mtu"),
        ("failures/46-mtu", "tcp-one-more", "Cluster//mtu"),
    ];
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    for (scenario, probe, object) in table {
        let path = root.join(format!("{scenario}.ron"));
        let path = path.to_str().unwrap();
        let report = podwire::cli::run(["podwire", "run", path, "-o", "json"]);
        let told: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
        let failures = told["scenarios"][0]["failures"].as_array().unwrap();
        let failure = failures.iter().find(|failure| failure["probe"] == probe);
        let failure = failure.unwrap_or_else(|| panic!("{scenario}: {probe} does not fail"));
        assert_eq!(
            failure["why"][0]["object"], object,
            "{scenario}: {failure:#}"
        );
    }
}
