//! Kubernetes objects as desired state: one kind per file, only the fields that a packet can notice.
//! Reading order: the store, then node, namespace, pod, probe, workload, service, slices, policy, ingress.
//! Leaves out: everything without network meaning (volumes, images' content, RBAC …). The manifest
//! reader lists what was left out of a given input.

use std::collections::BTreeMap;
use std::fmt;

use crate::base::{Labels, Namespace, ObjectKey, ObjectName, OriginId};

pub mod cluster_policy;
pub mod endpoint_slice;
pub mod ingress;
pub mod namespace;
pub mod network_policy;
pub mod node;
pub mod pod;
pub mod probe;
pub mod service;
pub mod webhook;
pub mod workload;

pub use cluster_policy::{
    ClusterAction, ClusterPeer, ClusterPolicy, ClusterPolicyKind, ClusterPort, ClusterRule, PodSet,
    Tier,
};
pub use endpoint_slice::{AddressType, Endpoint, EndpointPort, EndpointSlice, TargetRef};
pub use ingress::Ingress;
pub use network_policy::{
    IpBlock, NetworkPolicy, PolicyPeer, PolicyPort, PolicyPorts, PolicyRule, PolicyTypes,
};
pub use node::{Node, Taint, TaintEffect};
pub use pod::{
    Container, ContainerPort, DnsConfig, DnsPolicy, OwnerRef, Phase, Pod, PodSpec, RestartPolicy,
    Toleration,
};
pub use service::{
    ClusterIp, IngressIp, IpFamilyPolicy, IpMode, Service, ServicePort, ServiceType,
    SessionAffinity, TrafficDistribution, TrafficPolicy,
};
pub use webhook::{WebhookConfiguration, WebhookKind};
pub use workload::{PodTemplate, Share, Strategy, Workload, WorkloadKind};

/// A port named by its number or by the name a container gave it (`intstr.IntOrString`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortRef {
    /// By number.
    Number(u16),
    /// By name.
    Name(std::sync::Arc<str>),
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The kinds of objects that can be in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Node.
    Node,
    /// `v1` Namespace.
    Namespace,
    /// `v1` Pod.
    Pod,
    /// One of the kinds that make pods.
    Workload(WorkloadKind),
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` `EndpointSlice`.
    EndpointSlice,
    /// `networking.k8s.io/v1` `NetworkPolicy`.
    NetworkPolicy,
    /// One of the kinds of policies of the whole cluster.
    ClusterPolicy(ClusterPolicyKind),
    /// `networking.k8s.io/v1` Ingress.
    Ingress,
    /// One of the kinds of `admissionregistration.k8s.io/v1` that name webhooks.
    WebhookConfiguration(WebhookKind),
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 19] = [
        Self::Node,
        Self::Namespace,
        Self::Pod,
        Self::Workload(WorkloadKind::Deployment),
        Self::Workload(WorkloadKind::ReplicaSet),
        Self::Workload(WorkloadKind::ReplicationController),
        Self::Workload(WorkloadKind::StatefulSet),
        Self::Workload(WorkloadKind::DaemonSet),
        Self::Workload(WorkloadKind::Job),
        Self::Workload(WorkloadKind::CronJob),
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::ClusterPolicy(ClusterPolicyKind::AdminNetworkPolicy),
        Self::ClusterPolicy(ClusterPolicyKind::BaselineAdminNetworkPolicy),
        Self::ClusterPolicy(ClusterPolicyKind::ClusterNetworkPolicy),
        Self::Ingress,
        Self::WebhookConfiguration(WebhookKind::Mutating),
        Self::WebhookConfiguration(WebhookKind::Validating),
    ];

    /// Returns the name of the kind as objects write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Workload(kind) => kind.as_str(),
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterPolicy(kind) => kind.as_str(),
            Self::Ingress => "Ingress",
            Self::WebhookConfiguration(kind) => kind.as_str(),
        }
    }

    /// Whether objects of this kind live in a namespace.
    pub const fn namespaced(self) -> bool {
        !matches!(
            self,
            Self::Node | Self::Namespace | Self::ClusterPolicy(_) | Self::WebhookConfiguration(_)
        )
    }

    /// Returns the kind of a name as `kubectl` takes it: `Service`, `services`, `svc`, `deploy` …
    pub fn from_word(word: &str) -> Option<Self> {
        let lower = word.to_ascii_lowercase();
        let short = match lower.as_str() {
            "no" => "node",
            "ns" => "namespace",
            "po" => "pod",
            "deploy" => "deployment",
            "rs" => "replicaset",
            "rc" => "replicationcontroller",
            "sts" => "statefulset",
            "ds" => "daemonset",
            "cj" => "cronjob",
            "svc" => "service",
            "netpol" => "networkpolicy",
            "anp" => "adminnetworkpolicy",
            "banp" => "baselineadminnetworkpolicy",
            "cnp" => "clusternetworkpolicy",
            "ing" => "ingress",
            other => other,
        };
        Self::ALL.into_iter().find(|kind| {
            let name = kind.as_str().to_ascii_lowercase();
            let plural = match name.strip_suffix('y') {
                Some(stem) => format!("{stem}ies"),
                None if name.ends_with('s') => format!("{name}es"),
                None => format!("{name}s"),
            };
            short == name || short == plural
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Names one object of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// What it is.
    pub kind: Kind,
    /// The namespace it lives in; `None` for kinds of the whole cluster.
    pub namespace: Option<Namespace>,
    /// Its name.
    pub name: ObjectName,
}

impl ObjectRef {
    /// Names an object that lives in a namespace.
    pub fn namespaced(kind: Kind, key: &ObjectKey) -> Self {
        Self {
            kind,
            namespace: Some(key.namespace.clone()),
            name: key.name.clone(),
        }
    }

    /// Names an object of the whole cluster.
    pub const fn cluster(kind: Kind, name: ObjectName) -> Self {
        Self {
            kind,
            namespace: None,
            name,
        }
    }

    /// Returns the key, in the namespace `default` if there is none.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(
            self.namespace.clone().unwrap_or_default(),
            self.name.clone(),
        )
    }
}

impl fmt::Display for ObjectRef {
    /// `Service/shop/cart`, or `Node//node-a` for an object of the whole cluster.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.kind, self.name),
            None => write!(f, "{}//{}", self.kind, self.name),
        }
    }
}

/// One object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A machine.
    Node(Node),
    /// A namespace.
    Namespace(namespace::Namespace),
    /// A pod.
    Pod(Pod),
    /// Something that makes pods.
    Workload(Workload),
    /// A Service.
    Service(Service),
    /// A part of a Service's endpoints.
    EndpointSlice(EndpointSlice),
    /// A policy.
    NetworkPolicy(NetworkPolicy),
    /// A policy of the whole cluster.
    ClusterPolicy(ClusterPolicy),
    /// An Ingress.
    Ingress(Ingress),
    /// Webhooks.
    WebhookConfiguration(WebhookConfiguration),
}

impl Object {
    /// Names the object.
    pub fn reference(&self) -> ObjectRef {
        match self {
            Self::Node(node) => ObjectRef::cluster(Kind::Node, node.name.clone()),
            Self::Namespace(namespace) => {
                ObjectRef::cluster(Kind::Namespace, namespace.name.clone())
            }
            Self::Pod(pod) => ObjectRef::namespaced(Kind::Pod, &pod.key),
            Self::Workload(workload) => {
                ObjectRef::namespaced(Kind::Workload(workload.kind), &workload.key)
            }
            Self::Service(service) => ObjectRef::namespaced(Kind::Service, &service.key),
            Self::EndpointSlice(slice) => ObjectRef::namespaced(Kind::EndpointSlice, &slice.key),
            Self::NetworkPolicy(policy) => ObjectRef::namespaced(Kind::NetworkPolicy, &policy.key),
            Self::ClusterPolicy(policy) => {
                ObjectRef::cluster(Kind::ClusterPolicy(policy.kind), policy.name.clone())
            }
            Self::Ingress(ingress) => ObjectRef::namespaced(Kind::Ingress, &ingress.key),
            Self::WebhookConfiguration(webhooks) => ObjectRef::cluster(
                Kind::WebhookConfiguration(webhooks.kind),
                webhooks.name.clone(),
            ),
        }
    }

    /// Returns where the object was written.
    pub const fn origin(&self) -> OriginId {
        match self {
            Self::Node(node) => node.origin,
            Self::Namespace(namespace) => namespace.origin,
            Self::Pod(pod) => pod.origin,
            Self::Workload(workload) => workload.origin,
            Self::Service(service) => service.origin,
            Self::EndpointSlice(slice) => slice.origin,
            Self::NetworkPolicy(policy) => policy.origin,
            Self::ClusterPolicy(policy) => policy.origin,
            Self::Ingress(ingress) => ingress.origin,
            Self::WebhookConfiguration(webhooks) => webhooks.origin,
        }
    }

    /// Returns the object's labels.
    pub const fn labels(&self) -> &Labels {
        match self {
            Self::Node(node) => &node.labels,
            Self::Namespace(namespace) => &namespace.labels,
            Self::Pod(pod) => &pod.labels,
            Self::Workload(workload) => &workload.labels,
            Self::Service(service) => &service.labels,
            Self::EndpointSlice(slice) => &slice.labels,
            Self::NetworkPolicy(policy) => &policy.labels,
            Self::ClusterPolicy(policy) => &policy.labels,
            Self::Ingress(ingress) => &ingress.labels,
            Self::WebhookConfiguration(webhooks) => &webhooks.labels,
        }
    }

    /// Returns the object's labels, to change them.
    pub const fn labels_mut(&mut self) -> &mut Labels {
        match self {
            Self::Node(node) => &mut node.labels,
            Self::Namespace(namespace) => &mut namespace.labels,
            Self::Pod(pod) => &mut pod.labels,
            Self::Workload(workload) => &mut workload.labels,
            Self::Service(service) => &mut service.labels,
            Self::EndpointSlice(slice) => &mut slice.labels,
            Self::NetworkPolicy(policy) => &mut policy.labels,
            Self::ClusterPolicy(policy) => &mut policy.labels,
            Self::Ingress(ingress) => &mut ingress.labels,
            Self::WebhookConfiguration(webhooks) => &mut webhooks.labels,
        }
    }
}

/// The key before which none of a namespace comes: names begin with a letter or a digit.
fn first_in(namespace: &Namespace) -> ObjectKey {
    let first: ObjectName = "0".parse().expect("a digit is a name");
    ObjectKey::new(namespace.clone(), first)
}

/// All objects of a cluster, sorted by kind and key: what the API server holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Machines.
    pub nodes: BTreeMap<ObjectName, Node>,
    /// Namespaces that were written down. One that is only used by name is not here.
    pub namespaces: BTreeMap<ObjectName, namespace::Namespace>,
    /// Pods.
    pub pods: BTreeMap<ObjectKey, Pod>,
    /// What makes pods.
    pub workloads: BTreeMap<(WorkloadKind, ObjectKey), Workload>,
    /// Services.
    pub services: BTreeMap<ObjectKey, Service>,
    /// Endpoints of Services.
    pub endpoint_slices: BTreeMap<ObjectKey, EndpointSlice>,
    /// Policies.
    pub network_policies: BTreeMap<ObjectKey, NetworkPolicy>,
    /// Policies of the whole cluster.
    pub cluster_policies: BTreeMap<(ClusterPolicyKind, ObjectName), ClusterPolicy>,
    /// Ingresses.
    pub ingresses: BTreeMap<ObjectKey, Ingress>,
    /// Webhooks, those that may change objects first.
    pub webhooks: BTreeMap<(WebhookKind, ObjectName), WebhookConfiguration>,
}

impl Objects {
    /// Whether another state of the cluster is the same to policy agents, who look neither at readiness nor at deletion of pods.
    pub fn same_to_policies(&self, other: &Self) -> bool {
        let pods = self.pods.values().zip(other.pods.values());
        self.nodes == other.nodes
            && self.namespaces == other.namespaces
            && self.network_policies == other.network_policies
            && self.cluster_policies == other.cluster_policies
            && self.pods.len() == other.pods.len()
            && { pods }.all(|(pod, other)| pod.same_to_policies(other))
    }

    /// Returns the pods of one namespace.
    pub fn pods_in(&self, namespace: &Namespace) -> impl Iterator<Item = &Pod> {
        let pods = self.pods.range(first_in(namespace)..).map(|(_, pod)| pod);
        pods.take_while(move |pod| pod.key.namespace == *namespace)
    }

    /// Returns the Services of one namespace.
    pub fn services_in(&self, namespace: &Namespace) -> impl Iterator<Item = &Service> {
        let services = self.services.range(first_in(namespace)..);
        let services = services.map(|(_, service)| service);
        services.take_while(move |service| service.key.namespace == *namespace)
    }

    /// Puts an object in, and returns the one of the same kind and name that was there.
    pub fn insert(&mut self, object: Object) -> Option<Object> {
        match object {
            Object::Node(node) => self.nodes.insert(node.name.clone(), node).map(Object::Node),
            Object::Namespace(namespace) => self
                .namespaces
                .insert(namespace.name.clone(), namespace)
                .map(Object::Namespace),
            Object::Pod(pod) => self.pods.insert(pod.key.clone(), pod).map(Object::Pod),
            Object::Workload(workload) => {
                let key = (workload.kind, workload.key.clone());
                self.workloads.insert(key, workload).map(Object::Workload)
            }
            Object::Service(service) => self
                .services
                .insert(service.key.clone(), service)
                .map(Object::Service),
            Object::EndpointSlice(slice) => self
                .endpoint_slices
                .insert(slice.key.clone(), slice)
                .map(Object::EndpointSlice),
            Object::NetworkPolicy(policy) => self
                .network_policies
                .insert(policy.key.clone(), policy)
                .map(Object::NetworkPolicy),
            Object::ClusterPolicy(policy) => self
                .cluster_policies
                .insert((policy.kind, policy.name.clone()), policy)
                .map(Object::ClusterPolicy),
            Object::Ingress(ingress) => self
                .ingresses
                .insert(ingress.key.clone(), ingress)
                .map(Object::Ingress),
            Object::WebhookConfiguration(webhooks) => self
                .webhooks
                .insert((webhooks.kind, webhooks.name.clone()), webhooks)
                .map(Object::WebhookConfiguration),
        }
    }

    /// Takes an object out.
    pub fn remove(&mut self, object: &ObjectRef) -> Option<Object> {
        let key = object.key();
        match object.kind {
            Kind::Node => self.nodes.remove(&object.name).map(Object::Node),
            Kind::Namespace => self.namespaces.remove(&object.name).map(Object::Namespace),
            Kind::Pod => self.pods.remove(&key).map(Object::Pod),
            Kind::Workload(kind) => self.workloads.remove(&(kind, key)).map(Object::Workload),
            Kind::Service => self.services.remove(&key).map(Object::Service),
            Kind::EndpointSlice => self.endpoint_slices.remove(&key).map(Object::EndpointSlice),
            Kind::NetworkPolicy => self
                .network_policies
                .remove(&key)
                .map(Object::NetworkPolicy),
            Kind::ClusterPolicy(kind) => self
                .cluster_policies
                .remove(&(kind, object.name.clone()))
                .map(Object::ClusterPolicy),
            Kind::Ingress => self.ingresses.remove(&key).map(Object::Ingress),
            Kind::WebhookConfiguration(kind) => self
                .webhooks
                .remove(&(kind, object.name.clone()))
                .map(Object::WebhookConfiguration),
        }
    }

    /// Returns a copy of an object.
    pub fn get(&self, object: &ObjectRef) -> Option<Object> {
        let key = object.key();
        match object.kind {
            Kind::Node => self.nodes.get(&object.name).cloned().map(Object::Node),
            Kind::Namespace => self
                .namespaces
                .get(&object.name)
                .cloned()
                .map(Object::Namespace),
            Kind::Pod => self.pods.get(&key).cloned().map(Object::Pod),
            Kind::Workload(kind) => self
                .workloads
                .get(&(kind, key))
                .cloned()
                .map(Object::Workload),
            Kind::Service => self.services.get(&key).cloned().map(Object::Service),
            Kind::EndpointSlice => self
                .endpoint_slices
                .get(&key)
                .cloned()
                .map(Object::EndpointSlice),
            Kind::NetworkPolicy => self
                .network_policies
                .get(&key)
                .cloned()
                .map(Object::NetworkPolicy),
            Kind::ClusterPolicy(kind) => self
                .cluster_policies
                .get(&(kind, object.name.clone()))
                .cloned()
                .map(Object::ClusterPolicy),
            Kind::Ingress => self.ingresses.get(&key).cloned().map(Object::Ingress),
            Kind::WebhookConfiguration(kind) => self
                .webhooks
                .get(&(kind, object.name.clone()))
                .cloned()
                .map(Object::WebhookConfiguration),
        }
    }

    /// Returns the names of all objects.
    pub fn references(&self) -> std::collections::BTreeSet<ObjectRef> {
        let of = |kind: Kind, key: &ObjectKey| ObjectRef::namespaced(kind, key);
        let nodes = self.nodes.keys();
        let namespaces = self.namespaces.keys();
        nodes
            .map(|name| ObjectRef::cluster(Kind::Node, name.clone()))
            .chain(namespaces.map(|name| ObjectRef::cluster(Kind::Namespace, name.clone())))
            .chain(self.pods.keys().map(|key| of(Kind::Pod, key)))
            .chain(
                self.workloads
                    .keys()
                    .map(|(kind, key)| of(Kind::Workload(*kind), key)),
            )
            .chain(self.services.keys().map(|key| of(Kind::Service, key)))
            .chain(
                self.endpoint_slices
                    .keys()
                    .map(|key| of(Kind::EndpointSlice, key)),
            )
            .chain(
                self.network_policies
                    .keys()
                    .map(|key| of(Kind::NetworkPolicy, key)),
            )
            .chain(
                self.cluster_policies.keys().map(|(kind, name)| {
                    ObjectRef::cluster(Kind::ClusterPolicy(*kind), name.clone())
                }),
            )
            .chain(self.ingresses.keys().map(|key| of(Kind::Ingress, key)))
            .chain(self.webhooks.keys().map(|(kind, name)| {
                ObjectRef::cluster(Kind::WebhookConfiguration(*kind), name.clone())
            }))
            .collect()
    }

    /// Takes all objects out, by kind and name.
    pub fn into_objects(self) -> Vec<Object> {
        let Self {
            nodes,
            namespaces,
            pods,
            workloads,
            services,
            endpoint_slices,
            network_policies,
            cluster_policies,
            ingresses,
            webhooks,
        } = self;
        let nodes = nodes.into_values().map(Object::Node);
        nodes
            .chain(namespaces.into_values().map(Object::Namespace))
            .chain(pods.into_values().map(Object::Pod))
            .chain(workloads.into_values().map(Object::Workload))
            .chain(services.into_values().map(Object::Service))
            .chain(endpoint_slices.into_values().map(Object::EndpointSlice))
            .chain(network_policies.into_values().map(Object::NetworkPolicy))
            .chain(cluster_policies.into_values().map(Object::ClusterPolicy))
            .chain(ingresses.into_values().map(Object::Ingress))
            .chain(webhooks.into_values().map(Object::WebhookConfiguration))
            .collect()
    }

    /// Whether the object is there.
    pub fn contains(&self, object: &ObjectRef) -> bool {
        self.get(object).is_some()
    }

    /// Returns the labels of a namespace. Every namespace has its own name as a label.
    pub fn namespace_labels(&self, namespace: &Namespace) -> Labels {
        let mut labels = self
            .namespaces
            .get(namespace.as_str())
            .map(|namespace| namespace.labels.clone())
            .unwrap_or_default();
        labels.insert(namespace::NAME_LABEL, namespace.as_str());
        labels
    }
}

impl FromIterator<Object> for Objects {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
        let mut all = Self::default();
        for object in objects {
            all.insert(object);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_the_words_kubectl_takes() {
        assert_eq!(Kind::from_word("svc"), Some(Kind::Service));
        assert_eq!(Kind::from_word("Services"), Some(Kind::Service));
        assert_eq!(
            Kind::from_word("networkpolicies"),
            Some(Kind::NetworkPolicy)
        );
        assert_eq!(Kind::from_word("ingresses"), Some(Kind::Ingress));
        assert_eq!(
            Kind::from_word("deploy"),
            Some(Kind::Workload(WorkloadKind::Deployment))
        );
        assert_eq!(Kind::from_word("configmap"), None);
    }

    #[test]
    fn every_namespace_is_labelled_with_its_name() {
        let labels = Objects::default().namespace_labels(&Namespace::default());
        assert_eq!(labels.to_string(), "kubernetes.io/metadata.name=default");
    }
}
