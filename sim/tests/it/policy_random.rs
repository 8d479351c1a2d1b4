//! Random clusters with random policies of all kinds, as manifests; and which fields they used.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;

use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// Makes clusters, and counts what is in them.
pub(crate) struct Generator {
    rng: ChaCha8Rng,
    /// How often each field, or each form of one, was written.
    pub(crate) used: BTreeMap<String, u64>,
}

const SPACES: [&str; 3] = ["x", "y", "z"];
const KEYS: [&str; 3] = ["app", "tier", "env"];
const VALUES: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 3] = ["web", "dns", "admin"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
/// Ports that occur; their neighbours are asked about too.
pub(crate) const PORTS: [u16; 6] = [1, 53, 80, 81, 8080, 65535];
const BLOCKS: [(&str, &[&str]); 7] = [
    ("10.244.0.0/16", &["10.244.1.0/24", "10.244.0.2/32"]),
    ("10.244.1.0/24", &["10.244.1.2/31"]),
    ("0.0.0.0/0", &["10.0.0.0/8", "203.0.113.0/24"]),
    ("203.0.113.0/24", &["203.0.113.128/25"]),
    ("172.18.0.0/16", &["172.18.0.2/32"]),
    ("fd00::/16", &["fd00:1::/64"]),
    ("::/0", &["fd00::/8"]),
];

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            used: BTreeMap::new(),
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.rng).unwrap()
    }

    fn used(&mut self, what: impl Into<String>) {
        *self.used.entry(what.into()).or_insert(0) += 1;
    }

    fn several<T>(&mut self, most: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.rng.random_range(1..=most);
        (0..count).map(|_| one(self)).collect()
    }

    /// A cluster of two nodes and a few pods, with a few policies.
    pub(crate) fn cluster(&mut self) -> Vec<Value> {
        let mut all = Vec::new();
        for n in 0..2 {
            let mut labels = self.labels();
            labels.insert(
                "kubernetes.io/hostname".to_owned(),
                json!(format!("node-{n}")),
            );
            all.push(json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": format!("node-{n}"), "labels": labels},
                "status": {"addresses": [
                    {"type": "InternalIP", "address": format!("172.18.0.{}", n + 2)},
                    {"type": "InternalIP", "address": format!("fd00:18::{}", n + 2)},
                ]},
            }));
        }
        for space in SPACES {
            if self.chance(80) {
                let labels = self.labels();
                all.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space, "labels": labels}}));
            }
        }
        let pods = self.rng.random_range(2..=5);
        for n in 0..pods {
            let pod = self.pod(n);
            all.push(pod);
        }
        let policies = self.rng.random_range(1..=4);
        let mut priorities: Vec<u32> = (0..8).collect();
        let mut baseline = false;
        for n in 0..policies {
            let at = self.rng.random_range(0..priorities.len());
            let priority = priorities.remove(at);
            let policy = match self.rng.random_range(0..6) {
                0..=2 => self.network_policy(n),
                3 => self.admin_policy(n, priority),
                4 if !baseline => {
                    baseline = true;
                    self.baseline_policy()
                }
                _ => self.cluster_policy(n, priority),
            };
            all.push(policy);
        }
        all
    }

    fn labels(&mut self) -> Map<String, Value> {
        let mut labels = Map::new();
        for key in KEYS {
            if self.chance(60) {
                labels.insert(key.to_owned(), json!(self.pick(&VALUES)));
            }
        }
        labels
    }

    fn pod(&mut self, n: usize) -> Value {
        let node = self.rng.random_range(0..2);
        let host = self.chance(12);
        let mut ips = vec![if host {
            format!("172.18.0.{}", node + 2)
        } else {
            format!("10.244.{node}.{}", n + 2)
        }];
        if self.chance(40) {
            self.used("pod: two families");
            ips.push(if host {
                format!("fd00:18::{}", node + 2)
            } else {
                format!("fd00:{node}::{}", n + 2)
            });
        }
        if host {
            self.used("pod: hostNetwork");
        }
        let ports: Vec<Value> = NAMES
            .into_iter()
            .filter_map(|name| {
                let port = PORTS[1 + self.rng.random_range(0..4)];
                let protocol = self.pick(&PROTOCOLS);
                self.chance(50)
                    .then(|| json!({"name": name, "containerPort": port, "protocol": protocol}))
            })
            .collect();
        let ips: Vec<Value> = ips.into_iter().map(|ip| json!({"ip": ip})).collect();
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("p{n}"), "namespace": self.pick(&SPACES), "labels": self.labels()},
            "spec": {
                "nodeName": format!("node-{node}"), "hostNetwork": host,
                "containers": [{"name": "main", "image": "x", "ports": ports}],
            },
            "status": {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips},
        })
    }

    fn selector(&mut self, what: &str, namespaces: bool) -> Value {
        let mut selector = Map::new();
        if self.chance(25) {
            self.used(format!("{what}: {{}}"));
            return json!({});
        }
        if namespaces && self.chance(25) {
            self.used(format!("{what}: metadata.name"));
            let name = self.pick(&SPACES);
            return json!({"matchLabels": {"kubernetes.io/metadata.name": name}});
        }
        if self.chance(60) {
            self.used(format!("{what}: matchLabels"));
            let (key, value) = (self.pick(&KEYS), self.pick(&VALUES));
            selector.insert("matchLabels".to_owned(), json!({key: value}));
        }
        if selector.is_empty() || self.chance(30) {
            let operator = self.pick(&["In", "NotIn", "Exists", "DoesNotExist"]);
            self.used(format!("{what}: {operator}"));
            let key = self.pick(&KEYS);
            let mut expression = json!({"key": key, "operator": operator});
            if matches!(operator, "In" | "NotIn") {
                expression["values"] = json!(self.several(2, |g| g.pick(&VALUES)));
            }
            selector.insert("matchExpressions".to_owned(), json!([expression]));
        }
        Value::Object(selector)
    }

    fn network_policy(&mut self, n: usize) -> Value {
        let mut spec = Map::new();
        spec.insert(
            "podSelector".to_owned(),
            self.selector("np.podSelector", false),
        );
        let types: Option<&[&str]> = match self.rng.random_range(0..4) {
            0 => None,
            1 => Some(&["Ingress"]),
            2 => Some(&["Egress"]),
            _ => Some(&["Ingress", "Egress"]),
        };
        self.used(format!("np.policyTypes: {types:?}"));
        if let Some(types) = types {
            spec.insert("policyTypes".to_owned(), json!(types));
        }
        for side in ["ingress", "egress"] {
            let rules = match self.rng.random_range(0..8) {
                0 | 1 => continue,
                2 => json!([]),
                _ => json!(self.several(2, |g| g.np_rule(side))),
            };
            self.used(format!(
                "np.{side}: {}",
                rules.as_array().map_or(0, Vec::len)
            ));
            spec.insert(side.to_owned(), rules);
        }
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": format!("np-{n}"), "namespace": self.pick(&SPACES)},
            "spec": spec,
        })
    }

    fn np_rule(&mut self, side: &str) -> Value {
        let mut rule = Map::new();
        if self.chance(80) {
            let field = if side == "ingress" { "from" } else { "to" };
            let peers = self.several(2, Self::np_peer);
            rule.insert(field.to_owned(), json!(peers));
        } else {
            self.used(format!("np.{side} rule without peers"));
        }
        if self.chance(60) {
            let ports = self.several(2, Self::np_port);
            rule.insert("ports".to_owned(), json!(ports));
        } else {
            self.used(format!("np.{side} rule without ports"));
        }
        Value::Object(rule)
    }

    fn block(&mut self) -> Value {
        let (cidr, holes) = self.pick(&BLOCKS);
        if self.chance(50) {
            self.used("np.ipBlock.except");
            let hole = self.pick(holes);
            return json!({"cidr": cidr, "except": [hole]});
        }
        self.used("np.ipBlock.cidr");
        json!({"cidr": cidr})
    }

    fn np_peer(&mut self) -> Value {
        match self.rng.random_range(0..5) {
            0 => json!({"ipBlock": self.block()}),
            1 => json!({"podSelector": self.selector("np.peer.podSelector", false)}),
            2 => json!({"namespaceSelector": self.selector("np.peer.namespaceSelector", true)}),
            _ => {
                self.used("np.peer: both selectors");
                json!({
                    "podSelector": self.selector("np.peer.podSelector", false),
                    "namespaceSelector": self.selector("np.peer.namespaceSelector", true),
                })
            }
        }
    }

    fn range(&mut self) -> (u16, u16) {
        let (a, b) = (self.pick(&PORTS), self.pick(&PORTS));
        (a.min(b), a.max(b))
    }

    fn np_port(&mut self) -> Value {
        let mut port = Map::new();
        if self.chance(75) {
            let protocol = self.pick(&PROTOCOLS);
            self.used(format!("np.port.protocol: {protocol}"));
            port.insert("protocol".to_owned(), json!(protocol));
        } else {
            self.used("np.port without protocol");
        }
        match self.rng.random_range(0..4) {
            0 => {
                self.used("np.port without port");
                port.entry("protocol").or_insert(json!("UDP"));
            }
            1 => {
                self.used("np.port: number");
                port.insert("port".to_owned(), json!(self.pick(&PORTS)));
            }
            2 => {
                self.used("np.port: name");
                port.insert("port".to_owned(), json!(self.pick(&NAMES)));
            }
            _ => {
                self.used("np.port.endPort");
                let (first, last) = self.range();
                port.insert("port".to_owned(), json!(first));
                port.insert("endPort".to_owned(), json!(last));
            }
        }
        Value::Object(port)
    }

    fn pod_set(&mut self, what: &str) -> Value {
        if self.chance(50) {
            return json!({"namespaces": self.selector(&format!("{what}.namespaces"), true)});
        }
        json!({"pods": {
            "namespaceSelector": self.selector(&format!("{what}.pods.namespaceSelector"), true),
            "podSelector": self.selector(&format!("{what}.pods.podSelector"), false),
        }})
    }

    /// A peer, and whether its destination can have named ports.
    fn cluster_peer(&mut self, what: &str, side: &str) -> (Value, bool) {
        if side == "egress" && self.chance(40) {
            if self.chance(50) {
                self.used(format!("{what}.networks"));
                let nets = self.several(2, |g| g.pick(&BLOCKS).0);
                return (json!({"networks": nets}), false);
            }
            let nodes = self.selector(&format!("{what}.nodes"), false);
            return (json!({"nodes": nodes}), false);
        }
        (self.pod_set(what), true)
    }

    fn cluster_rules(&mut self, what: &str, side: &str, actions: &[&str], ports: &str) -> Value {
        let rules = self.several(3, |g| {
            let action = g.pick(actions);
            g.used(format!("{what}.{side}.action: {action}"));
            let peers = g.several(2, |g| g.cluster_peer(&format!("{what}.peer"), side));
            let names = peers.iter().all(|(_, names)| *names);
            let peers: Vec<Value> = peers.into_iter().map(|(peer, _)| peer).collect();
            let field = if side == "ingress" { "from" } else { "to" };
            let mut rule = json!({"action": action, field: peers});
            if g.chance(60) {
                let entries = g.several(2, |g| match ports {
                    "ports" => g.admin_port(names),
                    _ => g.protocol(names),
                });
                rule[ports] = json!(entries);
            } else {
                g.used(format!("{what}.{side} rule without ports"));
            }
            rule
        });
        json!(rules)
    }

    fn admin_port(&mut self, names: bool) -> Value {
        let protocol = self.pick(&PROTOCOLS);
        match self.rng.random_range(0..3) {
            0 if names => {
                self.used("anp.namedPort");
                json!({"namedPort": self.pick(&NAMES)})
            }
            1 => {
                self.used("anp.portRange");
                let (start, end) = self.range();
                json!({"portRange": {"protocol": protocol, "start": start, "end": end}})
            }
            _ => {
                self.used("anp.portNumber");
                json!({"portNumber": {"protocol": protocol, "port": self.pick(&PORTS)}})
            }
        }
    }

    fn protocol(&mut self, names: bool) -> Value {
        let protocol = self.pick(&PROTOCOLS).to_lowercase();
        match self.rng.random_range(0..4) {
            0 if names => {
                self.used("cnp.destinationNamedPort");
                json!({"destinationNamedPort": self.pick(&NAMES)})
            }
            1 => {
                self.used("cnp.destinationPort.range");
                let (start, end) = self.range();
                json!({protocol: {"destinationPort": {"range": {"start": start, "end": end}}}})
            }
            2 => {
                self.used("cnp.protocol without port");
                json!({protocol: {}})
            }
            _ => {
                self.used("cnp.destinationPort.number");
                json!({protocol: {"destinationPort": {"number": self.pick(&PORTS)}}})
            }
        }
    }

    fn spec(&mut self, what: &str, actions: &[&str], ports: &str) -> Value {
        let mut spec = json!({"subject": self.pod_set(&format!("{what}.subject"))});
        for side in ["ingress", "egress"] {
            if self.chance(70) {
                spec[side] = self.cluster_rules(what, side, actions, ports);
            }
        }
        spec
    }

    fn admin_policy(&mut self, n: usize, priority: u32) -> Value {
        let mut spec = self.spec("anp", &["Allow", "Deny", "Pass"], "ports");
        spec["priority"] = json!(2 * priority);
        json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy",
            "metadata": {"name": format!("anp-{n}")}, "spec": spec,
        })
    }

    fn baseline_policy(&mut self) -> Value {
        let spec = self.spec("banp", &["Allow", "Deny"], "ports");
        json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "BaselineAdminNetworkPolicy",
            "metadata": {"name": "default"}, "spec": spec,
        })
    }

    fn cluster_policy(&mut self, n: usize, priority: u32) -> Value {
        let tier = self.pick(&["Admin", "Baseline"]);
        self.used(format!("cnp.tier: {tier}"));
        let mut spec = self.spec("cnp", &["Accept", "Deny", "Pass"], "protocols");
        // The baseline policy of v1alpha1 has no number and comes first.
        spec["priority"] = json!(2 * priority + 1);
        spec["tier"] = json!(tier);
        json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": format!("cnp-{n}")}, "spec": spec,
        })
    }
}
