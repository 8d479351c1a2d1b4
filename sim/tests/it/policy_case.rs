//! Cases of policies as the oracle collections write them: a cluster, steps that change it, and who may talk to whom
//! after each.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use podwire::manifest;
use podwire::problem::Severity;
use podwire::source::{OriginTable, Source};
use podwire_models::api::Objects;
use podwire_models::base::Protocol;
use serde_json::{Value, json};

/// The JSON files of a collection.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_case = |path: &PathBuf| path.extension().is_some_and(|end| end == "json");
    let mut files: Vec<PathBuf> = entries.filter(is_case).collect();
    files.sort();
    files
}

/// One line of what is expected.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    pub(crate) allowed: bool,
}

impl Row {
    fn read(row: &Value) -> Self {
        Self {
            source: row[0].as_str().unwrap().to_owned(),
            destination: row[1].as_str().unwrap().to_owned(),
            port: u16::try_from(row[2].as_u64().unwrap()).unwrap(),
            protocol: row[3].as_str().unwrap().parse().unwrap(),
            allowed: row[4].as_bool().unwrap(),
        }
    }
}

/// A case that is being replayed.
pub(crate) struct Case {
    pub(crate) name: String,
    /// What the API server holds, as manifests.
    state: BTreeMap<(String, String, String), Value>,
    steps: Vec<Value>,
}

impl Case {
    pub(crate) fn open(path: &Path) -> Self {
        let case: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let mut this = Self {
            name: case["name"].as_str().unwrap().to_owned(),
            state: BTreeMap::new(),
            steps: case["steps"].as_array().unwrap().clone(),
        };
        let cluster = &case["cluster"];
        for list in ["namespaces", "nodes", "pods", "services"] {
            for item in cluster[list].as_array().into_iter().flatten() {
                this.put(match list {
                    "namespaces" => namespace(&item["name"], &item["labels"]),
                    "nodes" => node(item),
                    "pods" => pod(item),
                    _ => service(item),
                });
            }
        }
        this
    }

    fn put(&mut self, object: Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        let space = match text(&metadata["namespace"]) {
            space if space.is_empty() && object["kind"] == "NetworkPolicy" => "default".to_owned(),
            space => space,
        };
        let key = (text(&object["kind"]), space, text(&metadata["name"]));
        self.state.insert(key, object);
    }

    fn act(&mut self, action: &Value) {
        let text = |field: &str| action[field].as_str().unwrap_or_default().to_owned();
        let key = || {
            let space = match text("namespace") {
                space if space.is_empty() && text("kind") == "NetworkPolicy" => {
                    "default".to_owned()
                }
                space => space,
            };
            (text("kind"), space, text("name"))
        };
        match (text("op").as_str(), text("kind").as_str()) {
            ("apply", _) => self.put(action["object"].clone()),
            ("delete", _) => {
                assert!(
                    self.state.remove(&key()).is_some(),
                    "{}: {action}",
                    self.name
                );
            }
            ("create", "Namespace") => self.put(namespace(&action["name"], &action["labels"])),
            ("create", "Pod") => self.put(pod(&action["pod"])),
            ("set-labels", _) => {
                let object = self.state.get_mut(&key()).unwrap();
                object["metadata"]["labels"] = action["labels"].clone();
            }
            _ => panic!("{}: no such action: {action}", self.name),
        }
    }

    /// Replays the case: the objects after each step, and what is expected of them.
    pub(crate) fn replay(mut self, mut see: impl FnMut(&str, Objects, Vec<Row>)) {
        for step in std::mem::take(&mut self.steps) {
            for action in step["actions"].as_array().into_iter().flatten() {
                self.act(action);
            }
            let rows = step["expect"].as_array().into_iter().flatten();
            see(&self.name, self.objects(), rows.map(Row::read).collect());
        }
    }

    fn objects(&self) -> Objects {
        let texts = self.state.values().map(Value::to_string);
        let text = texts.collect::<Vec<_>>().join("\n---\n");
        let sources = [Source::new("case.yaml", text)];
        let (all, problems) = manifest::read(&sources, &mut OriginTable::default());
        let errors: Vec<_> = problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", self.name);
        assert!(
            all.not_modelled.is_empty(),
            "{}: {:?}",
            self.name,
            all.not_modelled
        );
        all.objects.into_iter().collect()
    }
}

fn namespace(name: &Value, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn node(node: &Value) -> Value {
    let addresses = node["ips"].as_array().into_iter().flatten();
    let addresses: Vec<Value> = addresses
        .map(|ip| json!({"type": "InternalIP", "address": ip}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node["name"], "labels": node["labels"]},
        "status": {"addresses": addresses},
    })
}

fn pod(pod: &Value) -> Value {
    let mut containers = pod["containers"].as_array().cloned().unwrap_or_default();
    let declared: Vec<(u64, String)> = containers
        .iter()
        .flat_map(|container| container["ports"].as_array().cloned().unwrap_or_default())
        .map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            (port["containerPort"].as_u64().unwrap(), protocol)
        })
        .collect();
    let more: Vec<Value> = pod["listen"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pair| {
            let key = (
                pair[0].as_u64().unwrap(),
                pair[1].as_str().unwrap().to_owned(),
            );
            !declared.contains(&key)
        })
        .map(|pair| json!({"containerPort": pair[0], "protocol": pair[1]}))
        .collect();
    containers.push(json!({"name": "listens-on-more", "ports": more}));
    for container in &mut containers {
        container["image"] = json!("server");
    }
    let labels = pod.get("labels").cloned().unwrap_or_else(|| json!({}));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod["name"], "namespace": pod["namespace"], "labels": labels},
        "spec": {
            "nodeName": pod["node"],
            "hostNetwork": pod["hostNetwork"].as_bool().unwrap_or(false),
            "containers": containers,
        },
        "status": {
            "phase": "Running", "podIP": pod["ip"], "podIPs": [{"ip": pod["ip"]}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn service(service: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": service["name"], "namespace": service["namespace"]},
        "spec": {
            "type": service["type"], "selector": service["selector"],
            "ports": service["ports"].as_array().unwrap().iter().map(|port| {
                let mut port = port.clone();
                if port["name"].is_null() {
                    let protocol = port["protocol"].as_str().unwrap_or("TCP").to_lowercase();
                    port["name"] = json!(format!("{protocol}-{}", port["port"]));
                }
                port
            }).collect::<Vec<_>>(),
        },
    })
}
