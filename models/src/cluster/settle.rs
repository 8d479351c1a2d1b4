//! What the control plane fills in: nodes, ranges, addresses, pods, endpoints. From objects as somebody wrote them to
//! objects as a settled cluster has them. What objects say already is taken at its word.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::api_server;
use super::install::Site;
use crate::api::{
    ClusterIp, Container, ContainerPort, Node, Objects, Phase, Pod, PodSpec, PodTemplate, PortRef,
    Service, ServicePort, ServiceType, Share, Strategy, Workload, WorkloadKind,
};
use crate::base::addr::nth_addr;
use crate::base::{
    Family, FxIndexMap, Labels, ObjectKey, ObjectName, OriginId, Protocol, Selector,
};
use crate::control::ipam::{HostLocal, NodeCidrs, ServiceIps};
use crate::control::scheduler::{self, Loads};
use crate::control::{readiness, workloads};
use crate::wire::Code;

/// Something the control plane could not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// How it ends.
    pub code: Code,
    /// Which object, `Pod/shop/cart-0`.
    pub object: String,
    /// What the event on the object says.
    pub says: String,
    /// Where the object was written.
    pub origin: OriginId,
}

/// State of the allocators, so that later pods go on where earlier ones stopped.
#[derive(Clone, Debug, Default)]
pub struct Allocators {
    pools: BTreeMap<ObjectName, Vec<HostLocal>>,
    /// What the scheduler knows of the nodes; nothing if it has to look at all pods.
    loads: Option<Loads>,
    /// Nodes whose container runtime has no network configuration (`/etc/cni/net.d` is empty).
    pub uninitialized: BTreeSet<ObjectName>,
    /// Nodes on which CNI DEL fails and nobody tries again: addresses of pods that go stay taken.
    pub leaking: BTreeSet<ObjectName>,
}

/// What kubelet's event says of a pod on a node whose runtime has no network configuration.
const NETWORK_NOT_READY: &str = "NetworkNotReady: network is not ready: container runtime network not ready: NetworkReady=false \
                                 reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized";

/// Fills in everything a settled cluster has; `nodes` machines are made up if the input has none.
pub fn settle(objects: &mut Objects, site: &Site, nodes: u32) -> (Allocators, Vec<Shortfall>) {
    let mut shortfalls = Vec::new();
    settle_nodes(objects, site, nodes, &mut shortfalls);
    add_dns(objects, site);
    api_server::add(objects, site);
    settle_services(objects, site, &mut shortfalls);
    let mut allocators = Allocators::default();
    settle_pods(objects, &mut allocators, &mut shortfalls);
    (allocators, shortfalls)
}

fn settle_nodes(objects: &mut Objects, site: &Site, wanted: u32, shortfalls: &mut Vec<Shortfall>) {
    if objects.nodes.is_empty() {
        for n in 0..wanted {
            if let Ok(name) = node_name(n).parse::<ObjectName>() {
                let node = Node::new(name.clone());
                objects.nodes.insert(name, node);
            }
        }
    }
    for node in objects.nodes.values_mut() {
        label_node(node);
    }
    for range in &site.pod_cidrs {
        let mut cidrs = NodeCidrs::with_default_mask(*range);
        let family = Family::of_net(*range);
        for node in objects.nodes.values() {
            for taken in &node.pod_cidrs {
                cidrs.occupy(*taken);
            }
        }
        for node in objects.nodes.values_mut() {
            if node.pod_cidrs.iter().any(|r| Family::of_net(*r) == family) {
                continue;
            }
            match cidrs.allocate() {
                Ok(range) => node.pod_cidrs.push(range),
                Err(why) => shortfalls.push(Shortfall {
                    code: Code::CidrExhausted,
                    object: format!("Node//{}", node.name),
                    says: format!("CIDRNotAvailable: {why}"),
                    origin: node.origin,
                }),
            }
        }
    }
    for subnet in &site.underlay.subnets {
        let family = Family::of_net(*subnet);
        let mut taken: BTreeSet<IpAddr> = objects
            .nodes
            .values()
            .flat_map(|node| node.internal_ips.clone())
            .collect();
        let mut next = 2;
        for node in objects.nodes.values_mut() {
            if node.internal_ips.iter().any(|ip| Family::of(*ip) == family) {
                continue;
            }
            while let Some(ip) = nth_addr(*subnet, next) {
                next += 1;
                if taken.insert(ip) {
                    node.internal_ips.push(ip);
                    break;
                }
            }
        }
    }
}

/// The labels kubelet gives its node, where the input does not have them.
fn label_node(node: &mut Node) {
    let name = node.name.to_string();
    let mut label = |key: &str, value: &str| {
        if node.labels.get(key).is_none() {
            node.labels.insert(key, value);
        }
    };
    label("kubernetes.io/hostname", &name);
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        label(&format!("{prefix}/os"), "linux");
        label(&format!("{prefix}/arch"), "amd64");
    }
}

/// `node-a` to `node-z`, then `node-27` and so on.
fn node_name(n: u32) -> String {
    match u8::try_from(n) {
        Ok(n) if n < 26 => format!("node-{}", char::from(b'a' + n)),
        Ok(_) | Err(_) => format!("node-{}", n + 1),
    }
}

/// `CoreDNS` and its Service, as kubeadm installs them, unless the input has a `kube-dns` Service.
fn add_dns(objects: &mut Objects, site: &Site) {
    let key = |name: &str| {
        let namespace = "kube-system".parse().expect("a literal name");
        ObjectKey::new(namespace, name.parse().expect("a literal name"))
    };
    let service_key = key("kube-dns");
    if objects.services.contains_key(&service_key) {
        return;
    }
    let mut labels = Labels::default();
    labels.insert("k8s-app", "kube-dns");
    let port = |name: &str, protocol, number: u16| ServicePort {
        name: Some(name.into()),
        protocol,
        port: number,
        target_port: PortRef::Number(number),
        node_port: None,
        app_protocol: None,
        origin: OriginId::NONE,
    };
    let container_port = |name: &str, protocol, number: u16| ContainerPort {
        name: Some(name.into()),
        container_port: number,
        host_port: None,
        host_ip: None,
        protocol,
        origin: OriginId::NONE,
    };
    let ports = [
        ("dns", Protocol::Udp, 53),
        ("dns-tcp", Protocol::Tcp, 53),
        ("metrics", Protocol::Tcp, 9153),
    ];
    let mut service = Service::new(service_key);
    service.labels = labels.clone();
    service.selector = Some(Selector::labels(labels.clone()));
    service.ports = ports
        .map(|(name, protocol, n)| port(name, protocol, n))
        .to_vec();
    let tenth = site
        .service_cidrs
        .iter()
        .filter_map(|range| nth_addr(*range, 10));
    service.cluster_ip = ClusterIp::Addresses(tenth.collect());
    objects.services.insert(service.key.clone(), service);
    let spec = PodSpec {
        containers: vec![Container {
            name: "coredns".into(),
            ports: ports
                .map(|(name, protocol, n)| container_port(name, protocol, n))
                .to_vec(),
            ..Container::default()
        }],
        dns_policy: crate::api::DnsPolicy::Default,
        tolerations: vec![crate::api::Toleration {
            key: Some("node-role.kubernetes.io/control-plane".into()),
            value: None,
            effect: None,
            seconds: None,
        }],
        ..PodSpec::default()
    };
    let workload = Workload {
        kind: WorkloadKind::Deployment,
        key: key("coredns"),
        uid: None,
        labels: labels.clone(),
        annotations: Labels::default(),
        owner: None,
        replicas: 2,
        completions: None,
        selector: Some(Selector::labels(labels.clone())),
        template: PodTemplate {
            labels,
            annotations: Labels::default(),
            node_name: None,
            hostname: None,
            spec: Arc::new(spec),
            origin: OriginId::NONE,
        },
        // kubeadm's manifest says so.
        strategy: Strategy::RollingUpdate {
            max_surge: Share::Percent(25),
            max_unavailable: Share::Number(1),
        },
        min_ready_seconds: 0,
        service_name: None,
        ordinals_start: 0,
        schedule: None,
        suspend: false,
        origin: OriginId::NONE,
    };
    objects
        .workloads
        .insert((workload.kind, workload.key.clone()), workload);
}

/// Gives Services the addresses and node ports they lack; returns those that were given any.
pub fn settle_services(
    objects: &mut Objects,
    site: &Site,
    shortfalls: &mut Vec<Shortfall>,
) -> Vec<ObjectKey> {
    let mut given = Vec::new();
    let mut pools: Vec<ServiceIps> = site
        .service_cidrs
        .iter()
        .map(|range| ServiceIps::new(*range))
        .collect();
    let mut node_ports: Vec<u16> = Vec::new();
    for service in objects.services.values() {
        for ip in service.cluster_ips() {
            for pool in &mut pools {
                pool.occupy(*ip);
            }
        }
        node_ports.extend(service.ports.iter().filter_map(|port| port.node_port));
    }
    for service in objects.services.values_mut() {
        if service.service_type == ServiceType::ExternalName {
            continue;
        }
        let lacks = service.cluster_ip == ClusterIp::Unassigned;
        if lacks {
            assign_cluster_ips(service, &mut pools, shortfalls);
        }
        let before = node_ports.len();
        let exposed = match service.service_type {
            ServiceType::NodePort => true,
            ServiceType::LoadBalancer => service.allocate_load_balancer_node_ports,
            ServiceType::ClusterIp | ServiceType::ExternalName => false,
        };
        if exposed {
            assign_node_ports(service, &mut node_ports);
        }
        if lacks || node_ports.len() > before {
            given.push(service.key.clone());
        }
    }
    given
}

fn assign_cluster_ips(
    service: &mut Service,
    pools: &mut [ServiceIps],
    shortfalls: &mut Vec<Shortfall>,
) {
    let dual = service.ip_families.len() > 1
        || matches!(
            service.ip_family_policy,
            Some(
                crate::api::IpFamilyPolicy::PreferDualStack
                    | crate::api::IpFamilyPolicy::RequireDualStack
            )
        );
    let wanted: Vec<Family> = if service.ip_families.is_empty() {
        let all = pools.iter().map(|pool| Family::of_net(pool.range()));
        all.take(if dual { 2 } else { 1 }).collect()
    } else {
        service.ip_families.clone()
    };
    let mut ips = Vec::new();
    for family in wanted {
        let pool = pools
            .iter_mut()
            .find(|pool| Family::of_net(pool.range()) == family);
        match pool.map(|pool| pool.allocate(&service.key.to_string())) {
            Some(Ok(ip)) => ips.push(ip),
            Some(Err(why)) => shortfalls.push(Shortfall {
                code: Code::IpamExhausted,
                object: format!("Service/{}", service.key),
                says: why.to_string(),
                origin: service.origin,
            }),
            None => {}
        }
    }
    service.cluster_ip = ClusterIp::Addresses(ips);
}

/// Node ports from 30000 to 32767; where the search begins depends on the Service's name alone.
fn assign_node_ports(service: &mut Service, taken: &mut Vec<u16>) {
    for port in &mut service.ports {
        if port.node_port.is_some() {
            continue;
        }
        let name = format!("{}:{}/{}", service.key, port.port, port.protocol);
        let start = crate::base::hash::stable_hash(name.as_bytes()) % 2768;
        let candidates =
            (0..2768_u64).filter_map(|n| u16::try_from(30000 + (start + n) % 2768).ok());
        port.node_port = candidates
            .into_iter()
            .find(|number| !taken.contains(number));
        taken.extend(port.node_port);
    }
}

/// Pods that workloads want and the input does not have, then nodes and addresses for all.
fn settle_pods(
    objects: &mut Objects,
    allocators: &mut Allocators,
    shortfalls: &mut Vec<Shortfall>,
) {
    for pod in missing_pods(objects) {
        objects.pods.insert(pod.key.clone(), pod);
    }
    for (name, node) in &objects.nodes {
        let pools = node
            .pod_cidrs
            .iter()
            .map(|range: &IpNet| HostLocal::new(*range))
            .collect();
        allocators.pools.insert(name.clone(), pools);
    }
    for pod in objects.pods.values() {
        if pod.spec.host_network || pod.ended() {
            continue;
        }
        for ip in &pod.pod_ips {
            // Some plugins lend addresses of one node to pods of another.
            let holds = |node: &Node| node.pod_cidrs.iter().any(|range| range.contains(ip));
            let own = pod
                .node_name
                .as_ref()
                .and_then(|name| objects.nodes.get(name));
            let lender = own
                .filter(|node| holds(node))
                .or_else(|| objects.nodes.values().find(|node| holds(node)));
            let name = lender.map(|node| &node.name);
            let pools = name.and_then(|name| allocators.pools.get_mut(name));
            for pool in pools.into_iter().flatten() {
                pool.occupy(*ip, &pod.key.to_string());
            }
        }
    }
    let mut loads = Loads::new(&objects.nodes, objects.pods.values());
    let keys: Vec<ObjectKey> = objects.pods.keys().cloned().collect();
    for key in keys {
        settle_one(objects, &key, allocators, &mut loads, shortfalls);
    }
    allocators.loads = Some(loads);
}

/// Returns the pods of workloads that no pod of the input belongs to.
fn missing_pods(objects: &Objects) -> Vec<Pod> {
    let mut missing = Vec::new();
    for workload in objects.workloads.values() {
        let owned = |pod: &Pod| {
            let by_owner = pod.owner.as_ref().is_some_and(|owner| {
                *owner.kind == *workload.kind.as_str() && owner.name == workload.key.name
            });
            let by_labels = || {
                workload
                    .selector
                    .as_ref()
                    .is_some_and(|s| s.matches(&pod.labels))
                    && !workload.selector.as_ref().is_some_and(Selector::is_empty)
            };
            pod.key.namespace == workload.key.namespace && (by_owner || by_labels())
        };
        // A ReplicaSet of a Deployment in the input is the Deployment's business.
        let child = workload.owner.is_some();
        if child || objects.pods.values().any(owned) {
            continue;
        }
        missing.extend(workloads::pods_of(workload, &objects.nodes));
    }
    missing
}

/// Gives one pod a node and addresses, if it can.
pub fn settle_pod(
    objects: &mut Objects,
    key: &ObjectKey,
    allocators: &mut Allocators,
    shortfalls: &mut Vec<Shortfall>,
) {
    let known = allocators.loads.take();
    let mut loads = known.unwrap_or_else(|| Loads::new(&objects.nodes, objects.pods.values()));
    settle_one(objects, key, allocators, &mut loads, shortfalls);
    allocators.loads = Some(loads);
}

fn settle_one(
    objects: &mut Objects,
    key: &ObjectKey,
    allocators: &mut Allocators,
    loads: &mut Loads,
    shortfalls: &mut Vec<Shortfall>,
) {
    let Some(pod) = objects.pods.get(key) else {
        return;
    };
    if pod.ended() {
        return;
    }
    let object = format!("Pod/{key}");
    let (origin, spec) = (pod.origin, Arc::clone(&pod.spec));
    let node = match scheduler::place(pod, &objects.nodes, loads) {
        Ok(node) => node,
        Err(why) => {
            let says = format!("FailedScheduling: {why}");
            shortfalls.push(Shortfall {
                code: Code::PodPending,
                object,
                says,
                origin,
            });
            return;
        }
    };
    if pod.node_name.is_none() {
        loads.add(&node, pod);
    }
    let node_ips = objects
        .nodes
        .get(&node)
        .map(|n| n.internal_ips.clone())
        .unwrap_or_default();
    let mut ips = pod.pod_ips.clone();
    if ips.is_empty() && spec.host_network {
        ips = node_ips;
    } else if ips.is_empty() && allocators.uninitialized.contains(&node) {
        shortfalls.push(Shortfall {
            code: Code::CniUninitialized,
            object: object.clone(),
            says: NETWORK_NOT_READY.to_owned(),
            origin,
        });
    } else if ips.is_empty() {
        for pool in allocators.pools.get_mut(&node).into_iter().flatten() {
            match pool.allocate(&key.to_string()) {
                Ok(ip) => ips.push(ip),
                Err(why) => {
                    let leaked = match pool.leaked() {
                        0 => String::new(),
                        leaked => format!(", {leaked} of them are of pods that are gone"),
                    };
                    let says = format!("FailedCreatePodSandBox: {why}{leaked}");
                    let (code, object) = (Code::IpamExhausted, object.clone());
                    shortfalls.push(Shortfall {
                        code,
                        object,
                        says,
                        origin,
                    });
                }
            }
        }
    }
    if let Some(pod) = objects.pods.get_mut(key) {
        pod.node_name = Some(node);
        pod.pod_ips = ips;
        if pod.pod_ips.is_empty() {
            pod.ready = Some(false);
        } else {
            pod.phase = Phase::Running;
            let failing = readiness::failing(&spec, |port| readiness::declares(&spec, port));
            pod.ready = Some(pod.ready.unwrap_or_else(|| failing.is_none()));
            if pod.ready == Some(false)
                && let Some(failing) = failing
                && let Some(ip) = pod.pod_ips.first()
            {
                shortfalls.push(Shortfall {
                    code: Code::PodUnready,
                    object,
                    says: format!("Unhealthy: {}", failing.says(*ip)),
                    origin: failing.probe.origin,
                });
            }
        }
    }
    note_port_conflicts(key, &spec, origin, shortfalls);
}

/// Two containers of a pod that declare the same port cannot both listen.
fn note_port_conflicts(
    key: &ObjectKey,
    spec: &PodSpec,
    origin: OriginId,
    shortfalls: &mut Vec<Shortfall>,
) {
    let mut first: FxIndexMap<(Protocol, u16), Arc<str>> = FxIndexMap::default();
    for container in spec.running() {
        for port in &container.ports {
            let number = (port.protocol, port.container_port);
            match first.get(&number) {
                Some(other) if *other != container.name => shortfalls.push(Shortfall {
                    code: Code::PortConflict,
                    object: format!("Pod/{key}"),
                    says: format!(
                        "containers {other} and {} both want port {} {}",
                        container.name, number.1, number.0
                    ),
                    origin: port.origin.or(origin),
                }),
                Some(_) => {}
                None => {
                    first.insert(number, Arc::clone(&container.name));
                }
            }
        }
    }
}

impl Allocators {
    /// A pod has come that may have been given a node already.
    pub fn admit(&mut self, pod: &Pod) {
        let node = pod.node_name.as_ref().filter(|_| !pod.ended());
        if let (Some(loads), Some(node)) = (&mut self.loads, node) {
            loads.add(node, pod);
        }
    }

    /// Gives a deleted pod's addresses back, and its place on its node.
    pub fn release(&mut self, pod: &Pod) {
        let owner = pod.key.to_string();
        let pools = self.pools.values_mut().flatten();
        let lends = |pool: &&mut HostLocal| pod.pod_ips.iter().any(|ip| pool.range().contains(ip));
        let node = pod.node_name.as_ref();
        let leaks = node.is_some_and(|node| self.leaking.contains(node));
        for pool in pools.filter(lends) {
            if leaks {
                pool.leak(&owner);
            } else {
                pool.release(&owner);
            }
        }
        let node = pod.node_name.as_ref().filter(|_| !pod.ended());
        if let (Some(loads), Some(node)) = (&mut self.loads, node) {
            loads.remove(node, pod);
        }
    }

    /// Returns how many addresses of a node are taken and nobody has them.
    pub fn leaked(&self, node: &ObjectName) -> usize {
        let pools = self.pools.get(node).into_iter().flatten();
        pools.map(HostLocal::leaked).sum()
    }

    /// Nodes have come or gone: the scheduler looks at all pods again.
    pub fn look_again(&mut self) {
        self.loads = None;
    }
}
