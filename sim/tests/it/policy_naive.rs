//! What policies mean, once more: one packet at a time, straight from the text of the API, over the manifests as they
//! are written. Slow, and with nothing in common with the code it is compared with.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

/// One end of a connection.
pub(crate) struct End<'w> {
    pub(crate) ip: IpAddr,
    /// The pod with this address that has a network of its own.
    pod: Option<&'w Value>,
    /// The node with this address.
    node: Option<&'w Value>,
}

/// All objects of a cluster.
pub(crate) struct World<'w>(pub(crate) &'w [Value]);

/// A protocol and a port, or neither.
pub(crate) type Packet<'p> = Option<(&'p str, u16)>;

fn list<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    value[field].as_array().into_iter().flatten()
}

fn is(text: &Value, wanted: &str) -> bool {
    text.as_str() == Some(wanted)
}

impl<'w> World<'w> {
    fn kind(&self, kind: &'static str) -> impl Iterator<Item = &'w Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    pub(crate) fn end(&self, ip: IpAddr) -> End<'w> {
        let has = |status: &Value, field: &str, key: &str| {
            list(status, field).any(|one| one[key].as_str().unwrap().parse() == Ok(ip))
        };
        let host = |pod: &Value| pod["spec"]["hostNetwork"] == true;
        let pod = self
            .kind("Pod")
            .find(|pod| !host(pod) && has(&pod["status"], "podIPs", "ip"));
        let node = self
            .kind("Node")
            .find(|node| has(&node["status"], "addresses", "address"));
        End { ip, pod, node }
    }

    /// The value of a label of a pod's namespace. Every namespace has its own name as a label.
    fn namespace_label(&self, pod: &Value, key: &str) -> Option<String> {
        let name = pod["metadata"]["namespace"].as_str().unwrap();
        if key == "kubernetes.io/metadata.name" {
            return Some(name.to_owned());
        }
        let namespace = self
            .kind("Namespace")
            .find(|namespace| is(&namespace["metadata"]["name"], name))?;
        let labels = &namespace["metadata"]["labels"];
        labels[key].as_str().map(str::to_owned)
    }

    fn in_namespace(&self, selector: &Value, pod: &Value) -> bool {
        selects(selector, |key| self.namespace_label(pod, key))
    }

    /// `subject`, `from` and `to` of the cluster kinds.
    fn pod_set(&self, set: &Value, pod: &Value) -> bool {
        if !set["namespaces"].is_null() {
            return self.in_namespace(&set["namespaces"], pod);
        }
        let both = &set["pods"];
        !both.is_null()
            && self.in_namespace(&both["namespaceSelector"], pod)
            && selects(&both["podSelector"], |key| pod_label(pod, key))
    }

    /// Whether a connection may be opened.
    pub(crate) fn allows(
        &self,
        source: &End<'w>,
        destination: &End<'w>,
        packet: Packet<'_>,
    ) -> bool {
        // "A pod cannot block access to itself."
        if source.ip == destination.ip {
            return true;
        }
        // "Traffic to and from the node where a Pod is running is always allowed."
        let runs_on = |pod: &End<'w>, node: &End<'w>| match (pod.pod, node.node) {
            (Some(pod), Some(node)) => pod["spec"]["nodeName"] == node["metadata"]["name"],
            _ => false,
        };
        if runs_on(source, destination) || runs_on(destination, source) {
            return true;
        }
        self.direction("egress", source, destination, destination, packet)
            && self.direction("ingress", destination, source, destination, packet)
    }

    fn direction(
        &self,
        side: &'static str,
        subject: &End<'w>,
        other: &End<'w>,
        destination: &End<'w>,
        packet: Packet<'_>,
    ) -> bool {
        // No policy is about nodes, host-network pods, or the outside.
        let Some(pod) = subject.pod else {
            return true;
        };
        if let Some(verdict) = self.tier("Admin", side, pod, other, destination, packet) {
            return verdict;
        }
        let isolating: Vec<&Value> = self
            .kind("NetworkPolicy")
            .filter(|policy| policy["metadata"]["namespace"] == pod["metadata"]["namespace"])
            .filter(|policy| isolates(policy, side))
            .filter(|policy| selects(&policy["spec"]["podSelector"], |key| pod_label(pod, key)))
            .collect();
        if !isolating.is_empty() {
            return isolating.iter().any(|policy| {
                list(&policy["spec"], side)
                    .any(|rule| self.np_rule(policy, rule, side, other, destination, packet))
            });
        }
        self.tier("Baseline", side, pod, other, destination, packet)
            .unwrap_or(true)
    }

    fn np_rule(
        &self,
        policy: &Value,
        rule: &Value,
        side: &str,
        other: &End<'w>,
        destination: &End<'w>,
        packet: Packet<'_>,
    ) -> bool {
        let peers = &rule[if side == "ingress" { "from" } else { "to" }];
        let peers = peers.as_array().filter(|peers| !peers.is_empty());
        let is_peer = peers.is_none_or(|peers| {
            peers.iter().any(|peer| {
                if !peer["ipBlock"].is_null() {
                    return in_block(&peer["ipBlock"], other.ip);
                }
                let Some(pod) = other.pod else {
                    return false;
                };
                let space = if peer["namespaceSelector"].is_null() {
                    pod["metadata"]["namespace"] == policy["metadata"]["namespace"]
                } else {
                    self.in_namespace(&peer["namespaceSelector"], pod)
                };
                space
                    && (peer["podSelector"].is_null()
                        || selects(&peer["podSelector"], |key| pod_label(pod, key)))
            })
        });
        let ports = rule["ports"].as_array().filter(|ports| !ports.is_empty());
        let is_port = ports.is_none_or(|ports| {
            packet.is_some_and(|(protocol, port)| {
                ports.iter().any(|entry| {
                    if entry["protocol"].as_str().unwrap_or("TCP") != protocol {
                        return false;
                    }
                    match (&entry["port"], &entry["endPort"]) {
                        (Value::Null, _) => true,
                        (Value::String(name), _) => {
                            named(destination, name).any(|found| found == (protocol, port))
                        }
                        (first, Value::Null) => first == port,
                        (first, last) => {
                            let port = u64::from(port);
                            first.as_u64().unwrap() <= port && port <= last.as_u64().unwrap()
                        }
                    }
                })
            })
        });
        is_peer && is_port
    }

    /// The verdict of a tier, if it has one.
    fn tier(
        &self,
        tier: &str,
        side: &'static str,
        pod: &Value,
        other: &End<'w>,
        destination: &End<'w>,
        packet: Packet<'_>,
    ) -> Option<bool> {
        let of_tier = |policy: &&Value| match policy["kind"].as_str().unwrap() {
            "AdminNetworkPolicy" => tier == "Admin",
            "BaselineAdminNetworkPolicy" => tier == "Baseline",
            "ClusterNetworkPolicy" => policy["spec"]["tier"] == tier,
            _ => false,
        };
        let mut policies: Vec<&Value> = self.0.iter().filter(of_tier).collect();
        policies.sort_by_key(|policy| policy["spec"]["priority"].as_u64().unwrap_or(0));
        for policy in policies {
            if !self.pod_set(&policy["spec"]["subject"], pod) {
                continue;
            }
            for rule in list(&policy["spec"], side) {
                let peers = if side == "ingress" { "from" } else { "to" };
                let is_peer = list(rule, peers).any(|peer| self.cluster_peer(peer, other));
                if is_peer && cluster_port(rule, destination, packet) {
                    return match rule["action"].as_str().unwrap() {
                        "Allow" | "Accept" => Some(true),
                        "Deny" => Some(false),
                        _ => None,
                    };
                }
            }
        }
        None
    }

    fn cluster_peer(&self, peer: &Value, other: &End<'w>) -> bool {
        if let Some(networks) = peer["networks"].as_array() {
            return networks.iter().any(|net| {
                let net: IpNet = net.as_str().unwrap().parse().unwrap();
                net.contains(&other.ip)
            });
        }
        if !peer["nodes"].is_null() {
            return other.pod.is_none()
                && other.node.is_some_and(|node| {
                    selects(&peer["nodes"], |key| {
                        node["metadata"]["labels"][key].as_str().map(str::to_owned)
                    })
                });
        }
        other.pod.is_some_and(|pod| self.pod_set(peer, pod))
    }
}

fn pod_label(pod: &Value, key: &str) -> Option<String> {
    pod["metadata"]["labels"][key].as_str().map(str::to_owned)
}

/// `metav1.LabelSelector`: everything written must hold.
fn selects(selector: &Value, label: impl Fn(&str) -> Option<String>) -> bool {
    let exact = selector["matchLabels"].as_object();
    let exact = exact.is_none_or(|wanted| {
        wanted
            .iter()
            .all(|(key, value)| label(key).as_deref() == value.as_str())
    });
    exact
        && list(selector, "matchExpressions").all(|expression| {
            let found = label(expression["key"].as_str().unwrap());
            let listed = |value: &str| list(expression, "values").any(|one| is(one, value));
            match expression["operator"].as_str().unwrap() {
                "In" => found.is_some_and(|value| listed(&value)),
                "NotIn" => found.is_none_or(|value| !listed(&value)),
                "Exists" => found.is_some(),
                _ => found.is_none(),
            }
        })
}

/// `policyTypes`, and what is meant where it is left out.
fn isolates(policy: &Value, side: &str) -> bool {
    let spec = &policy["spec"];
    match spec["policyTypes"]
        .as_array()
        .filter(|types| !types.is_empty())
    {
        Some(types) => types
            .iter()
            .any(|one| one.as_str().unwrap().eq_ignore_ascii_case(side)),
        None => side == "ingress" || list(spec, "egress").next().is_some(),
    }
}

fn in_block(block: &Value, ip: IpAddr) -> bool {
    let within = |net: &Value| {
        let net: IpNet = net.as_str().unwrap().parse().unwrap();
        net.contains(&ip)
    };
    within(&block["cidr"]) && !list(block, "except").any(within)
}

/// The ports that the containers of a pod call by a name.
fn named<'e>(end: &End<'e>, name: &'e str) -> impl Iterator<Item = (&'e str, u16)> {
    let containers = end
        .pod
        .into_iter()
        .flat_map(|pod| list(&pod["spec"], "containers"));
    containers
        .flat_map(|container| list(container, "ports"))
        .filter(move |port| is(&port["name"], name))
        .map(|port| {
            let number = port["containerPort"].as_u64().unwrap();
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            (protocol, u16::try_from(number).unwrap())
        })
}

/// `ports` of v1alpha1, `protocols` of v1alpha2.
fn cluster_port(rule: &Value, destination: &End<'_>, packet: Packet<'_>) -> bool {
    let entries: Vec<&Value> = list(rule, "ports").chain(list(rule, "protocols")).collect();
    if entries.is_empty() {
        return true;
    }
    let Some((protocol, port)) = packet else {
        return false;
    };
    let inside = |range: &Value| {
        let port = u64::from(port);
        range["start"].as_u64().unwrap() <= port && port <= range["end"].as_u64().unwrap()
    };
    entries.into_iter().any(|entry| {
        for field in ["namedPort", "destinationNamedPort"] {
            if let Some(name) = entry[field].as_str() {
                return named(destination, name).any(|found| found == (protocol, port));
            }
        }
        let of = |entry: &Value| entry["protocol"].as_str().unwrap_or("TCP") == protocol;
        if !entry["portNumber"].is_null() {
            return of(&entry["portNumber"]) && entry["portNumber"]["port"] == port;
        }
        if !entry["portRange"].is_null() {
            return of(&entry["portRange"]) && inside(&entry["portRange"]);
        }
        let transport = &entry[protocol.to_lowercase()];
        if transport.is_null() {
            return false;
        }
        let wanted = &transport["destinationPort"];
        if wanted.is_null() {
            return true;
        }
        if wanted["range"].is_null() {
            wanted["number"] == port
        } else {
            inside(&wanted["range"])
        }
    })
}
