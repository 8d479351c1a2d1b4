//! The namespaces of a recorded case, and the names the recording has for what is random.

use std::collections::BTreeMap;

use podwire_models::base::Mac;
use podwire_models::cluster::machine::Host;
use podwire_models::cluster::{Cluster, Lane, WireKind};
use podwire_models::control::cni::plugin::{Answer, Call, Plugin};
use podwire_models::kernel::config::{Change, NewLink, NewLinkKind};
use podwire_models::wire::NetnsId;
use serde_json::Value;

use super::shell;

/// A case's machines.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) hosts: BTreeMap<String, Host>,
    ids: BTreeMap<String, NetnsId>,
    labels: Labels,
}

/// Names of the recording for hardware addresses and veth devices.
#[derive(Default)]
struct Labels {
    of: BTreeMap<String, String>,
    /// Hardware addresses that were given a name before they were seen.
    made: u8,
}

impl Labels {
    fn name(&mut self, actual: &str, label: &str) {
        if self.of.contains_key(actual) {
            return;
        }
        // A later device of that name gets a number.
        let (inner, end) = label.rsplit_once('>').unwrap();
        let mut wanted = label.to_owned();
        let mut number = 1;
        while self.of.values().any(|known| *known == wanted) {
            number += 1;
            wanted = format!("{inner}#{number}>{end}");
        }
        self.of.insert(actual.to_owned(), wanted);
    }

    /// Replaces what is random by the recording's names.
    fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (actual, label) in &self.of {
            text = text.replace(actual.as_str(), label);
        }
        text
    }

    /// Replaces the recording's names by what stands for them here.
    fn show(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        // Hardware addresses first: their names have those of devices in them.
        let mut known: Vec<(&String, &String)> = self.of.iter().collect();
        known.sort_by_key(|(_, label)| std::cmp::Reverse(label.len()));
        for (actual, label) in known {
            text = text.replace(label.as_str(), actual);
        }
        while let Some(start) = text.find("<mac:") {
            let end = start + text[start..].find('>').unwrap() + 1;
            let label = text[start..end].to_owned();
            self.made += 1;
            let mac = Mac([2, 0, 0, 0, 0, self.made]).to_string();
            text = text.replace(&label, &mac);
            self.of.insert(mac, label);
        }
        text
    }
}

impl World {
    /// Makes the namespaces of a case and carries out its setup.
    pub(crate) fn new(case: &Value) -> Result<Self, String> {
        let mut world = Self {
            cluster: Cluster::default(),
            hosts: BTreeMap::new(),
            ids: BTreeMap::new(),
            labels: Labels::default(),
        };
        for node in case["nodes"].as_array().unwrap() {
            let name = node.as_str().unwrap();
            let id = world.add(name);
            world.hosts.insert(name.to_owned(), Host::new(id));
        }
        for (pod, node) in case["pods"].as_object().unwrap() {
            let id = world.add(pod);
            let host = world.hosts.get_mut(node.as_str().unwrap()).unwrap();
            host.paths.insert(format!("/var/run/netns/{pod}"), id);
        }
        world.add("ext");
        if case["topology"] != "single" {
            let lan = world.add("lan");
            for command in ["ip link add br0 type bridge", "ip link set br0 up"] {
                shell::run(&mut world.cluster, lan, command)?;
            }
        }
        for step in case["setup"].as_array().unwrap() {
            world.shell(step[0].as_str().unwrap(), step[1].as_str().unwrap())?;
        }
        Ok(world)
    }

    fn add(&mut self, name: &str) -> NetnsId {
        let id = self.cluster.add_netns(name);
        self.ids.insert(name.to_owned(), id);
        let netns = self.cluster.netns_mut(id).unwrap();
        netns.sysctls.set("net.ipv4.icmp_ratelimit", 0).unwrap();
        id
    }

    pub(crate) fn id(&self, name: &str) -> NetnsId {
        self.ids[name]
    }

    /// Carries out a command of the setup or of a SHELL step; `-` is the harness's own word.
    pub(crate) fn shell(&mut self, ns: &str, line: &str) -> Result<(), String> {
        if ns == "-" {
            self.cable(line);
            return Ok(());
        }
        let line = self.labels.show(line);
        shell::run(&mut self.cluster, self.ids[ns], &line)
    }

    /// `veth pair A/x <-> B/y`, and perhaps `, B/y is a port of the L2 bridge B/br0 …`.
    fn cable(&mut self, line: &str) {
        let (pair, port) = line.split_once(',').unwrap_or((line, ""));
        let ends = pair.strip_prefix("veth pair ").unwrap().split(" <-> ");
        let ends: Vec<_> = ends
            .map(|end| {
                let (ns, dev) = end.trim().split_once('/').unwrap();
                let id = self.ids[ns];
                let link = Change::AddLink(NewLink {
                    name: dev.into(),
                    mac: None,
                    mtu: 1500,
                    kind: NewLinkKind::Veth,
                });
                self.cluster.configure(id, &link).unwrap();
                let netns = self.cluster.netns(id).unwrap();
                (id, netns.device_named(dev).unwrap().index)
            })
            .collect();
        self.cluster
            .plug(ends[0], ends[1], WireKind::Veth, Lane::default());
        if port.contains("is a port of the L2 bridge") {
            let (ns, dev) = port
                .trim()
                .split_once(' ')
                .unwrap()
                .0
                .split_once('/')
                .unwrap();
            let changes = [
                Change::SetMaster {
                    dev: dev.into(),
                    master: Some("br0".into()),
                },
                Change::SetUp {
                    dev: dev.into(),
                    up: true,
                },
            ];
            for change in changes {
                self.cluster.configure(self.ids[ns], &change).unwrap();
            }
        }
    }

    /// Makes a recorded call again, on a node, with `previous` for its `prevResult`. None: no such plugin here.
    pub(crate) fn call(
        &mut self,
        node: &str,
        recorded: &Value,
        previous: Option<&Value>,
    ) -> Option<Answer> {
        let plugin = Plugin::named(recorded["plugin"].as_str().unwrap())?;
        let mut stdin = recorded["stdin"].clone();
        if let (Some(own), Some(theirs)) = (previous, stdin.get_mut("prevResult")) {
            *theirs = own.clone();
        }
        let stdin = if stdin.is_null() {
            String::new()
        } else {
            self.labels.show(&stdin.to_string())
        };
        let args = recorded["env"]["CNI_ARGS"].as_str().unwrap_or("");
        let args = self.labels.show(args);
        let env = |name: &str| recorded["env"][name].as_str().unwrap_or("");
        let call = Call {
            command: env("CNI_COMMAND"),
            container_id: env("CNI_CONTAINERID"),
            netns: env("CNI_NETNS"),
            ifname: env("CNI_IFNAME"),
            args: &args,
            path: "/opt/cni/bin",
            stdin: &stdin,
        };
        let host = self.hosts.get_mut(node).unwrap();
        let answer = plugin.call(&call, &mut host.of(&mut self.cluster));
        self.name_veths();
        Some(answer)
    }

    /// Names the veth devices of nodes after what is at the other end.
    fn name_veths(&mut self) {
        for host in self.hosts.values() {
            let node = self.cluster.netns(host.node).unwrap();
            for device in node.devices.iter().flatten() {
                let peer = self.cluster.peer((node.id, device.index));
                if let Some((id, index)) = peer.filter(|_| device.name.starts_with("veth")) {
                    let pod = self.cluster.netns(id).unwrap();
                    let inner = &pod.device(index).unwrap().name;
                    self.labels
                        .name(&device.name, &format!("<veth:{}/{inner}>", pod.name));
                }
            }
        }
    }

    /// Names the hardware addresses there are, as the harness did at every capture.
    pub(crate) fn name_macs(&mut self) {
        let mut found = Vec::new();
        for netns in self.cluster.iter() {
            for device in netns.devices.iter().flatten() {
                let follows = matches!(
                    &device.kind,
                    podwire_models::kernel::link::DeviceKind::Bridge(bridge) if !bridge.fixed_mac && bridge.had_port
                );
                if device.mac != Mac::ZERO && !follows {
                    let name = self.labels.hide(&device.name);
                    let label = format!("<mac:{}/{name}>", netns.name);
                    found.push((device.mac.to_string(), label));
                }
            }
        }
        for (mac, label) in found {
            self.labels.name(&mac, &label);
        }
    }

    /// Replaces what is random by the recording's names.
    pub(crate) fn hide(&self, value: &Value) -> Value {
        let hidden = self.labels.hide(&value.to_string());
        serde_json::from_str(&hidden).unwrap()
    }
}

/// Whether two texts are the same, where `<mac:?>` and `<veth:?>` stand for anything.
pub(crate) fn same(wanted: &Value, here: &Value) -> bool {
    match (wanted, here) {
        (Value::String(wanted), Value::String(here)) => same_text(wanted, here),
        (Value::Array(wanted), Value::Array(here)) => {
            wanted.len() == here.len() && wanted.iter().zip(here).all(|(w, h)| same(w, h))
        }
        (Value::Object(wanted), Value::Object(here)) => {
            let name = wanted.get("ifname").or_else(|| wanted.get("name"));
            let bridge = name.is_some_and(|n| n.as_str().is_some_and(|n| !n.starts_with("<veth")));
            let any_port = |w: &Value, h: &Value| bridge && port_mac(w) && port_mac(h);
            let key = |(key, w): (&String, &Value)| {
                here.get(key).is_some_and(|h| any_port(w, h) || same(w, h))
            };
            wanted.len() == here.len() && wanted.iter().all(key)
        }
        (wanted, here) => wanted == here,
    }
}

fn same_text(wanted: &str, here: &str) -> bool {
    for unknown in ["<mac:?>", "<veth:?>"] {
        if let Some((before, after)) = wanted.split_once(unknown) {
            return here.len() >= before.len() + after.len()
                && here.starts_with(before)
                && here.ends_with(after);
        }
    }
    wanted == here
}

/// The hardware address of a port on a node; which of them a bridge takes is a matter of chance.
fn port_mac(value: &Value) -> bool {
    let text = value.as_str().unwrap_or("");
    text.starts_with("<mac:node") && text.contains("/<veth:")
}
