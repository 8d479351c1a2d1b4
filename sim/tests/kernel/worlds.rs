//! Worlds: a cluster, what is changed in it, and the flows that are tried.

use std::time::Duration;

use podwire::attempt::Request;
use podwire::lab::{Lab, Plan};
use podwire::manifest;
use podwire::source::{OriginTable, Source};
use podwire::traffic::probe::Discovery;
use podwire_models::api::Objects;
use podwire_models::base::{Family, OriginId};
use podwire_models::cluster::install::{OutsideHost, Site};
use podwire_models::control::cni::Cni;
use podwire_models::kernel::config::Change;
use podwire_models::kernel::netfilter::chain::Table;
use podwire_models::kernel::netfilter::save::parse_rule;
use podwire_models::wire::L4;

/// The families a cluster has; flows use the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stack {
    V4,
    V6,
    /// Both, and flows over IPv6.
    Dual,
}

impl Stack {
    pub(super) const fn family(self) -> Family {
        match self {
            Self::V4 => Family::V4,
            Self::V6 | Self::Dual => Family::V6,
        }
    }

    /// What `kind` gives its clusters.
    fn site(self) -> Site {
        let mut site = Site::default();
        let v6 = [
            (&mut site.pod_cidrs, "fd00:10:244::/56"),
            (&mut site.service_cidrs, "fd00:10:96::/112"),
            (&mut site.underlay.subnets, "fc00:f853:ccd:e793::/64"),
        ];
        for (nets, range) in v6 {
            match self {
                Self::V4 => continue,
                Self::V6 => nets.clear(),
                Self::Dual => {}
            }
            nets.push(range.parse().unwrap());
        }
        site
    }
}

/// An attempt: who, over what, to whom, and how much.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flow {
    pub(super) from: String,
    pub(super) proto: &'static str,
    pub(super) to: String,
    /// Bytes of the request; as many as usual if not given.
    pub(super) bytes: Option<u32>,
    pub(super) discovery: Discovery,
}

impl Flow {
    pub(super) fn new(from: &str, proto: &'static str, to: &str) -> Self {
        Self {
            from: from.to_owned(),
            proto,
            to: to.to_owned(),
            bytes: None,
            discovery: Discovery::Want,
        }
    }

    pub(super) fn carrying(mut self, bytes: u32, discovery: Discovery) -> Self {
        self.bytes = Some(bytes);
        self.discovery = discovery;
        self
    }

    pub(super) fn l4(&self) -> L4 {
        if self.proto == "tcp" {
            L4::Tcp
        } else {
            L4::Udp
        }
    }

    /// What the simulated client is told.
    pub(super) fn request(&self, lab: &Lab, world: &World) -> Request {
        let (ip, port) = resolve(lab, world.stack.family(), &self.to);
        let target = socket(&ip, port).parse().unwrap();
        let mut request = Request::new(target, self.l4(), world.patience());
        request.bytes = self.bytes;
        request.socket.discovery = self.discovery;
        request
    }
}

impl std::fmt::Display for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            from, proto, to, ..
        } = self;
        write!(f, "{from} > {proto} {to}")?;
        match self.bytes {
            Some(bytes) => write!(f, ", {bytes} bytes, {:?}", self.discovery),
            None => Ok(()),
        }
    }
}

/// An address with a port, IPv6 in brackets.
fn socket(ip: &str, port: u16) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

impl World {
    /// How long clients wait: longer than a neighbour's failure takes to be told, unless it is not about that.
    pub(super) const fn patience(&self) -> Duration {
        Duration::from_millis(if self.one_by_one { 1200 } else { 4200 })
    }
}

/// A cluster, and what is changed in it before it is built.
#[derive(Clone)]
pub(super) struct World {
    pub(super) name: String,
    pub(super) cni: Cni,
    pub(super) stack: Stack,
    pub(super) hairpin: bool,
    /// Whether each flow begins as if nobody had been there before, and the next waits for its end.
    pub(super) one_by_one: bool,
    /// Its objects, as YAML.
    pub(super) manifests: String,
    /// Namespace, and `NAME=VALUE`, `down DEVICE`, `DEVICE mtu BYTES`, or a rule with its table
    /// (`filter -A FORWARD -j DROP`, put first). A name in braces is replaced by its address.
    pub(super) changes: Vec<(String, String)>,
    pub(super) flows: Vec<Flow>,
}

const WORLD: &str = "\
apiVersion: v1
kind: Node
metadata: {name: node-a}
---
apiVersion: v1
kind: Node
metadata: {name: node-b}
";

pub(super) fn pod(name: &str, node: &str, app: &str, host: bool, port: u16) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}
spec:
  nodeName: {node}
  hostNetwork: {host}
  containers:
    - name: main
      image: registry.k8s.io/e2e-test-images/agnhost:2.53
      ports: [{{containerPort: {port}, protocol: TCP}}, {{containerPort: {port}, protocol: UDP}}]
"
    )
}

pub(super) fn service(name: &str, app: &str, more: &str, ports: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{app: {app}}}
  {more}
  ports: [{ports}]
"
    )
}

pub(super) fn manifests() -> String {
    let both = |node_port: Option<u16>, target: u16| {
        let port = |name: &str, protocol: &str| {
            let node_port = node_port.map_or_else(String::new, |p| format!(", nodePort: {p}"));
            format!(
                "{{name: {name}, port: 80, targetPort: {target}, protocol: {protocol}{node_port}}}"
            )
        };
        port("t", "TCP") + ", " + &port("u", "UDP")
    };
    let mut text = WORLD.to_owned();
    for (name, node, app) in [
        ("a1", "node-a", "solo"),
        ("a2", "node-a", "many"),
        ("b1", "node-b", "many"),
        ("b2", "node-b", "far"),
    ] {
        text += &pod(name, node, app, false, 8080);
    }
    text += &pod("hn", "node-b", "host", true, 9090);
    text += &service("many", "many", "type: NodePort", &both(Some(30080), 8080));
    text += &service("solo", "solo", "type: ClusterIP", &both(None, 8080));
    text += &service("none", "nobody", "type: NodePort", &both(Some(30082), 8080));
    text += &service("shut", "many", "type: ClusterIP", &both(None, 8099));
    text += &service("host", "host", "type: NodePort", &both(Some(30083), 9090));
    let local = "type: NodePort\n  externalTrafficPolicy: Local";
    text += &service("local", "far", local, &both(Some(30081), 8080));
    text += &service("far", "far", "type: NodePort", &both(Some(30084), 8080));
    let inner = "type: ClusterIP\n  internalTrafficPolicy: Local";
    text += &service("inner", "far", inner, &both(None, 8080));
    let sticky = "type: ClusterIP\n  sessionAffinity: ClientIP";
    text += &service("sticky", "many", sticky, &both(None, 8080));
    text
}

/// Everybody to everywhere: pods, host-network pods, nodes and a machine outside, to pods, Services, node ports of
/// both policies, closed ports and addresses nobody has.
pub(super) fn everywhere(family: Family) -> Vec<Flow> {
    let from = [
        "pod/shop/a1",
        "pod/shop/b2",
        "node/node-a",
        "node/node-b",
        "host/browser",
    ];
    let nobody = match family {
        Family::V4 => [
            "127.0.0.1:30080",
            "10.96.99.99:80",
            "172.18.0.77:80",
            "203.0.113.7:81",
        ],
        Family::V6 => [
            "[::1]:30080",
            "[fd00:10:96::9999]:80",
            "[fc00:f853:ccd:e793::77]:80",
            "[2001:db8:7::7]:81",
        ],
    };
    let somebody = [
        "pod/shop/a2:8080",
        "pod/shop/b1:8080",
        "pod/shop/b1:8099",
        "svc/shop/many:80",
        "svc/shop/solo:80",
        "svc/shop/none:80",
        "svc/shop/shut:80",
        "svc/shop/host:80",
        "svc/shop/local:80",
        "svc/shop/inner:80",
        "svc/shop/sticky:80",
        "node/node-a:30080",
        "node/node-b:30080",
        "node/node-a:30081",
        "node/node-b:30081",
        "node/node-a:30082",
        "node/node-a:30083",
        "node/node-b:30083",
        "node/node-b:9090",
        "node/node-a:30099",
    ];
    let mut flows = Vec::new();
    for from in from {
        for to in somebody.into_iter().chain(nobody) {
            // The router tells a source only five times in a row that there is no route (`ip_error`).
            let inside = ["svc", "pod", "10.96", "[fd00:10:96"]
                .iter()
                .any(|start| to.starts_with(start));
            let asked = to.contains("many") || to.contains("b1:8080");
            if from == "host/browser" && inside && !asked {
                continue;
            }
            for proto in ["tcp", "udp"] {
                flows.push(Flow::new(from, proto, to));
            }
        }
    }
    flows
}

pub(super) fn worlds() -> Vec<World> {
    let mut all = profiles();
    all.extend(super::designed::worlds());
    all.extend(super::twins6::worlds());
    all.extend(super::mtu::worlds());
    all
}

/// Every profile as it is, and with one thing turned, each with all flows.
pub(super) fn profiles() -> Vec<World> {
    let world = |name: &str, cni: Cni, changes: &[(&'static str, &str)]| World {
        name: name.to_owned(),
        cni,
        stack: Stack::V4,
        hairpin: true,
        one_by_one: false,
        manifests: manifests(),
        changes: changes
            .iter()
            .map(|(at, what)| ((*at).to_owned(), (*what).to_owned()))
            .collect(),
        flows: everywhere(Family::V4),
    };
    let mut all: Vec<World> = Cni::ALL
        .into_iter()
        .map(|cni| world(cni.name(), cni, &[]))
        .collect();
    all.push(World {
        hairpin: false,
        ..world("bridge, hairpin off", Cni::Bridge, &[])
    });
    all.push(world(
        "bridge, nf-call off",
        Cni::Bridge,
        &[
            ("node/node-a", "net.bridge.bridge-nf-call-iptables=0"),
            ("node/node-b", "net.bridge.bridge-nf-call-iptables=0"),
        ],
    ));
    all.push(world(
        "ip_forward off",
        Cni::Kindnet,
        &[("node/node-b", "net.ipv4.ip_forward=0")],
    ));
    all.push(world(
        "rp_filter strict",
        Cni::Kindnet,
        &[("node/node-a", "net.ipv4.conf.all.rp_filter=1")],
    ));
    all.push(world(
        "route_localnet",
        Cni::Kindnet,
        &[("node/node-a", "net.ipv4.conf.all.route_localnet=1")],
    ));
    all.push(world(
        "forward drops",
        Cni::Bridge,
        &[("node/node-b", "filter -A FORWARD -p tcp -j DROP")],
    ));
    all.push(world(
        "postrouting loses",
        Cni::FlannelVxlan,
        &[("node/node-a", "mangle -A POSTROUTING -o eth0 -j DROP")],
    ));
    for world in &mut all {
        // Elsewhere the outside router knows the way to pods; here it may tell so only once.
        let told = |flow: &Flow| {
            flow.to.contains("svc") || (flow.proto == "udp" && flow.to.starts_with("pod"))
        };
        if world.cni == Cni::Bridge {
            world
                .flows
                .retain(|flow| flow.from != "host/browser" || !told(flow));
        }
    }
    for with in [
        "icmp-net-unreachable",
        "icmp-host-unreachable",
        "icmp-proto-unreachable",
        "icmp-port-unreachable",
        "icmp-net-prohibited",
        "icmp-host-prohibited",
        "icmp-admin-prohibited",
    ] {
        let rule = format!("filter -A FORWARD -d 10.244.1.0/24 -j REJECT --reject-with {with}");
        let output = format!("filter -A OUTPUT -d 10.244.1.0/24 -j REJECT --reject-with {with}");
        let mut world = world(with, Cni::Kindnet, &[]);
        let node = || "node/node-a".to_owned();
        world.changes = vec![(node(), rule), (node(), output)];
        world.flows.retain(refused);
        all.push(world);
    }
    all
}

/// What shows how a refusal is told.
pub(super) fn refused(flow: &Flow) -> bool {
    let from = ["pod/shop/a1", "node/node-a", "host/browser"];
    let to = ["b1:8080", "local:80", "node-a:30080"];
    from.contains(&&*flow.from) && to.iter().any(|to| flow.to.contains(to))
}

/// Builds the simulated one.
pub(super) fn build(world: &World) -> (Lab, OriginTable) {
    let mut origins = OriginTable::default();
    let mut text = world.manifests.clone();
    if world.stack == Stack::Dual {
        text = text.replace(
            "  selector:",
            "  ipFamilyPolicy: RequireDualStack\n  selector:",
        );
    }
    let sources = [Source::new("world.yaml", text.as_str())];
    let (read, problems) = manifest::read(&sources, &mut origins);
    assert!(problems.is_empty(), "{problems:?}");
    let objects: Objects = read.objects.into_iter().collect();
    let mut plan = Plan {
        site: world.stack.site(),
        ..Plan::default()
    };
    plan.site.cni = world.cni;
    plan.site.hairpin = world.hairpin;
    plan.site.hosts.push(OutsideHost {
        name: "browser".into(),
        ip: match world.stack.family() {
            Family::V4 => "203.0.113.7".parse().unwrap(),
            Family::V6 => "2001:db8:7::7".parse().unwrap(),
        },
        via: None,
        origin: OriginId::NONE,
    });
    let mut lab = Lab::build(objects, plan);
    let all: Vec<String> = lab
        .machines
        .cluster
        .iter()
        .map(|n| n.name.to_string())
        .collect();
    for name in all {
        // Many flows at once would soon be refused in silence.
        let family = world.stack.family();
        change(&mut lab, family, &name, "net.ipv4.icmp_ratemask=0");
        change(&mut lab, family, &name, "net.ipv4.icmp_ratelimit=0");
    }
    for (at, what) in &world.changes {
        change(&mut lab, world.stack.family(), at, what);
    }
    (lab, origins)
}

fn change(lab: &mut Lab, family: Family, at: &str, what: &str) {
    let id = lab
        .machines
        .cluster
        .named(at)
        .unwrap_or_else(|| panic!("no {at}"));
    let what = filled(lab, family, what);
    let netns = lab.machines.cluster.netns_mut(id).unwrap();
    netns.apply(&change_of(family, &what)).unwrap();
}

/// Reads one of a world's changes, filled in.
pub(super) fn change_of(family: Family, what: &str) -> Change {
    if let Some((dev, mtu)) = what.split_once(" mtu ") {
        Change::SetMtu {
            dev: dev.into(),
            mtu: mtu.parse().unwrap(),
        }
    } else if let Some(dev) = what.strip_prefix("down ") {
        Change::SetUp {
            dev: dev.into(),
            up: false,
        }
    } else if let Some((table, _)) = what.split_once(" -A ") {
        let line = &what[table.len() + 1..];
        let (chain, rule) = parse_rule(line).unwrap();
        Change::Rule {
            family,
            table: Table::PRINTED
                .into_iter()
                .find(|t| t.name() == table)
                .unwrap(),
            chain: chain.as_str().into(),
            at: Some(0),
            rule: Box::new(rule),
        }
    } else {
        let (name, value) = what.split_once('=').unwrap();
        Change::Sysctl {
            name: name.into(),
            value: value.parse().unwrap(),
        }
    }
}

/// Puts addresses where names stand in braces, as in `-d {pod/shop/b1}`, and a pod's device on its node for
/// `{dev:pod/shop/b1}`.
pub(super) fn filled(lab: &Lab, family: Family, what: &str) -> String {
    let mut text = String::new();
    for part in what.split_inclusive('}') {
        match part.split_once('{') {
            Some((before, name)) => {
                let name = name.trim_end_matches('}');
                text += before;
                match name.strip_prefix("dev:pod/") {
                    Some(pod) => {
                        let found = lab.machines.pods.iter();
                        let mut found = found.filter(|(key, _)| key.to_string() == pod);
                        text += &found.next().unwrap().1.host_dev;
                    }
                    None => text += &resolve(lab, family, &format!("{name}:0")).0,
                }
            }
            None => text += part,
        }
    }
    text
}

/// Returns the address and port a target stands for.
pub(super) fn resolve(lab: &Lab, family: Family, target: &str) -> (String, u16) {
    let of = |ips: &[std::net::IpAddr]| {
        let found = ips.iter().find(|ip| Family::of(**ip) == family);
        found
            .unwrap_or_else(|| panic!("no address of {target}"))
            .to_string()
    };
    let (who, port) = target.rsplit_once(':').unwrap();
    let port = port.parse().unwrap();
    let words: Vec<&str> = who.split('/').collect();
    let ip = match *words.as_slice() {
        ["pod", namespace, name] => {
            let named = |key: &str| key == format!("{namespace}/{name}");
            let pod = lab
                .objects
                .pods
                .values()
                .find(|pod| named(&pod.key.to_string()));
            of(&pod.unwrap().pod_ips)
        }
        ["svc", namespace, name] => {
            let named = |key: &str| key == format!("{namespace}/{name}");
            let service = lab
                .objects
                .services
                .values()
                .find(|s| named(&s.key.to_string()));
            of(service.unwrap().cluster_ips())
        }
        ["node", name] => {
            let node = lab
                .objects
                .nodes
                .values()
                .find(|node| node.name.as_str() == name);
            of(&node.unwrap().internal_ips)
        }
        _ => who.trim_matches(['[', ']']).to_owned(),
    };
    (ip, port)
}
