//! The kinds of objects, and what becomes of each: modelled, without meaning for the network, or
//! not modelled.

use std::sync::Arc;

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, autoscaling::v2 as autoscaling,
    batch::v1 as batch, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, networking::v1 as networking, policy::v1 as policy,
    rbac::v1 as rbac, scheduling::v1 as scheduling, storage::v1 as storage,
};

use super::coverage::{self, Table};
use super::crd;
use super::schema;
use super::tree::Node;
use crate::problem::Problem;

/// Checks a document against the schema of its kind.
pub(super) type Check = fn(&Node, &str, &Arc<str>, &mut Vec<Problem>);

/// What becomes of the objects of a kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Treatment {
    /// They are read into the model.
    Modelled(Shape, Table),
    /// No packet can notice them: why.
    NoMeaning(&'static str),
    /// They matter and are not modelled: why, or what happens instead.
    Gap(&'static str),
}

/// How an object of a modelled kind is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Node,
    Namespace,
    Pod,
    Workload(podwire_models::api::WorkloadKind),
    Service,
    EndpointSlice,
    Endpoints,
    NetworkPolicy,
    ClusterPolicy(podwire_models::api::ClusterPolicyKind),
    Webhooks(podwire_models::api::WebhookKind),
}

/// One kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Group and version.
    pub(super) api_version: &'static str,
    /// The kind.
    pub(super) kind: &'static str,
    /// Whether its objects live in a namespace.
    pub(super) namespaced: bool,
    /// What becomes of them.
    pub(super) treatment: Treatment,
    /// How they are checked; `None` if there is no schema at hand.
    pub(super) check: Option<Check>,
}

macro_rules! row {
    ($api:literal $kind:literal $type:ty, $namespaced:literal, $treatment:expr) => {
        Row {
            api_version: $api,
            kind: $kind,
            namespaced: $namespaced,
            treatment: $treatment,
            check: Some(|node, kind, source, problems| {
                schema::check::<$type>(node, kind, source, problems);
            }),
        }
    };
}

const fn bare(
    api_version: &'static str,
    kind: &'static str,
    namespaced: bool,
    treatment: Treatment,
) -> Row {
    Row {
        api_version,
        kind,
        namespaced,
        treatment,
        check: None,
    }
}

use Treatment::{Gap, Modelled, NoMeaning};
use podwire_models::api::{ClusterPolicyKind as P, WebhookKind as H, WorkloadKind as W};

const ACCESS: &str = "says who may use the API";
const DATA: &str = "is data for containers";
const DISKS: &str = "is about disks";
const RECORD: &str = "is a record of what happened";
const PLAN: &str = "is about which pods may be made, not about where packets go";
const EXTEND: &str = "changes what the API server accepts";
const ADMIN: &str = "a version of cluster-wide policies that is not modelled: it is written as `AdminNetworkPolicy` of v1alpha1 or `ClusterNetworkPolicy` of v1alpha2";

/// Every kind that is known.
pub(super) const KINDS: &[Row] = &[
    row!("v1" "Node" core::Node, false, Modelled(Shape::Node, coverage::NODE)),
    row!("v1" "Namespace" core::Namespace, false, Modelled(Shape::Namespace, coverage::NAMESPACE)),
    row!("v1" "Pod" core::Pod, true, Modelled(Shape::Pod, coverage::POD)),
    row!("v1" "Service" core::Service, true, Modelled(Shape::Service, coverage::SERVICE)),
    row!("v1" "Endpoints" core::Endpoints, true, Modelled(Shape::Endpoints, coverage::ENDPOINTS)),
    row!("v1" "ReplicationController" core::ReplicationController, true, Modelled(Shape::Workload(W::ReplicationController), coverage::REPLICA_SET)),
    row!("apps/v1" "Deployment" apps::Deployment, true, Modelled(Shape::Workload(W::Deployment), coverage::DEPLOYMENT)),
    row!("apps/v1" "ReplicaSet" apps::ReplicaSet, true, Modelled(Shape::Workload(W::ReplicaSet), coverage::REPLICA_SET)),
    row!("apps/v1" "StatefulSet" apps::StatefulSet, true, Modelled(Shape::Workload(W::StatefulSet), coverage::STATEFUL_SET)),
    row!("apps/v1" "DaemonSet" apps::DaemonSet, true, Modelled(Shape::Workload(W::DaemonSet), coverage::DAEMON_SET)),
    row!("batch/v1" "Job" batch::Job, true, Modelled(Shape::Workload(W::Job), coverage::JOB)),
    row!("batch/v1" "CronJob" batch::CronJob, true, Modelled(Shape::Workload(W::CronJob), coverage::CRON_JOB)),
    row!("discovery.k8s.io/v1" "EndpointSlice" discovery::EndpointSlice, true, Modelled(Shape::EndpointSlice, coverage::ENDPOINT_SLICE)),
    row!("networking.k8s.io/v1" "NetworkPolicy" networking::NetworkPolicy, true, Modelled(Shape::NetworkPolicy, coverage::NETWORK_POLICY)),
    row!("policy.networking.k8s.io/v1alpha1" "AdminNetworkPolicy" crd::AdminNetworkPolicy, false, Modelled(Shape::ClusterPolicy(P::AdminNetworkPolicy), coverage::CLUSTER_POLICY)),
    row!("policy.networking.k8s.io/v1alpha1" "BaselineAdminNetworkPolicy" crd::BaselineAdminNetworkPolicy, false, Modelled(Shape::ClusterPolicy(P::BaselineAdminNetworkPolicy), coverage::CLUSTER_POLICY)),
    row!("policy.networking.k8s.io/v1alpha2" "ClusterNetworkPolicy" crd::ClusterNetworkPolicy, false, Modelled(Shape::ClusterPolicy(P::ClusterNetworkPolicy), coverage::CLUSTER_POLICY)),
    row!("networking.k8s.io/v1" "Ingress" networking::Ingress, true, Gap("no ingress controller is modelled: the Services behind it can be reached directly")),
    row!("networking.k8s.io/v1" "IngressClass" networking::IngressClass, false, Gap("no ingress controller is modelled")),
    row!("networking.k8s.io/v1" "IPAddress" networking::IPAddress, false, NoMeaning("records an address that its Service carries itself")),
    row!("networking.k8s.io/v1" "ServiceCIDR" networking::ServiceCIDR, false, Gap("the range of Service addresses is an option (`--service-cidr`)")),
    row!("admissionregistration.k8s.io/v1" "ValidatingWebhookConfiguration" admission::ValidatingWebhookConfiguration, false, Modelled(Shape::Webhooks(H::Validating), coverage::VALIDATING_WEBHOOKS)),
    row!("admissionregistration.k8s.io/v1" "MutatingWebhookConfiguration" admission::MutatingWebhookConfiguration, false, Modelled(Shape::Webhooks(H::Mutating), coverage::MUTATING_WEBHOOKS)),
    row!("v1" "ConfigMap" core::ConfigMap, true, NoMeaning(DATA)),
    row!("v1" "Secret" core::Secret, true, NoMeaning(DATA)),
    row!("v1" "ServiceAccount" core::ServiceAccount, true, NoMeaning(ACCESS)),
    row!("v1" "PersistentVolume" core::PersistentVolume, false, NoMeaning(DISKS)),
    row!("v1" "PersistentVolumeClaim" core::PersistentVolumeClaim, true, NoMeaning(DISKS)),
    row!("v1" "LimitRange" core::LimitRange, true, NoMeaning(PLAN)),
    row!("v1" "ResourceQuota" core::ResourceQuota, true, NoMeaning(PLAN)),
    bare("v1", "Event", true, NoMeaning(RECORD)),
    bare("v1", "ComponentStatus", false, NoMeaning(RECORD)),
    bare("v1", "Binding", true, NoMeaning(RECORD)),
    bare(
        "v1",
        "PodTemplate",
        true,
        NoMeaning("makes no pods by itself"),
    ),
    bare("events.k8s.io/v1", "Event", true, NoMeaning(RECORD)),
    bare("apps/v1", "ControllerRevision", true, NoMeaning(RECORD)),
    row!("coordination.k8s.io/v1" "Lease" coordination::Lease, true, NoMeaning(RECORD)),
    row!("autoscaling/v2" "HorizontalPodAutoscaler" autoscaling::HorizontalPodAutoscaler, true, Gap("nothing is scaled by load: the number of pods is what its target says")),
    bare(
        "autoscaling/v1",
        "HorizontalPodAutoscaler",
        true,
        Gap("nothing is scaled by load: the number of pods is what its target says"),
    ),
    row!("policy/v1" "PodDisruptionBudget" policy::PodDisruptionBudget, true, NoMeaning(PLAN)),
    row!("rbac.authorization.k8s.io/v1" "Role" rbac::Role, true, NoMeaning(ACCESS)),
    row!("rbac.authorization.k8s.io/v1" "RoleBinding" rbac::RoleBinding, true, NoMeaning(ACCESS)),
    row!("rbac.authorization.k8s.io/v1" "ClusterRole" rbac::ClusterRole, false, NoMeaning(ACCESS)),
    row!("rbac.authorization.k8s.io/v1" "ClusterRoleBinding" rbac::ClusterRoleBinding, false, NoMeaning(ACCESS)),
    row!("scheduling.k8s.io/v1" "PriorityClass" scheduling::PriorityClass, false, NoMeaning(PLAN)),
    row!("storage.k8s.io/v1" "StorageClass" storage::StorageClass, false, NoMeaning(DISKS)),
    bare(
        "storage.k8s.io/v1",
        "VolumeAttachment",
        false,
        NoMeaning(DISKS),
    ),
    bare("storage.k8s.io/v1", "CSIDriver", false, NoMeaning(DISKS)),
    bare("storage.k8s.io/v1", "CSINode", false, NoMeaning(DISKS)),
    bare(
        "storage.k8s.io/v1",
        "CSIStorageCapacity",
        true,
        NoMeaning(DISKS),
    ),
    bare(
        "storage.k8s.io/v1",
        "VolumeAttributesClass",
        false,
        NoMeaning(DISKS),
    ),
    bare("node.k8s.io/v1", "RuntimeClass", false, NoMeaning(PLAN)),
    bare(
        "certificates.k8s.io/v1",
        "CertificateSigningRequest",
        false,
        NoMeaning(ACCESS),
    ),
    bare(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        false,
        NoMeaning(EXTEND),
    ),
    bare(
        "apiregistration.k8s.io/v1",
        "APIService",
        false,
        NoMeaning(EXTEND),
    ),
    bare(
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicy",
        false,
        NoMeaning(EXTEND),
    ),
    bare(
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicyBinding",
        false,
        NoMeaning(EXTEND),
    ),
    bare(
        "flowcontrol.apiserver.k8s.io/v1",
        "FlowSchema",
        false,
        NoMeaning(ACCESS),
    ),
    bare(
        "flowcontrol.apiserver.k8s.io/v1",
        "PriorityLevelConfiguration",
        false,
        NoMeaning(ACCESS),
    ),
    bare(
        "kustomize.config.k8s.io/v1beta1",
        "Kustomization",
        true,
        Gap("is an input of `kustomize build`: give podwire its output"),
    ),
];

/// What is known about the kinds of other people's groups, by the end of the group.
const GROUPS: &[(&str, &str)] = &[
    (
        "gateway.networking.k8s.io",
        "no Gateway API implementation is modelled: the Services behind it can be reached directly",
    ),
    ("policy.networking.k8s.io", ADMIN),
    (
        "cilium.io",
        "Cilium's own kinds are not modelled: its policies are not enforced",
    ),
    (
        "projectcalico.org",
        "Calico's own kinds are not modelled: its policies are not enforced",
    ),
    (
        "antrea.io",
        "Antrea's own kinds are not modelled: its policies are not enforced",
    ),
    ("k8s.ovn.org", "OVN-Kubernetes' own kinds are not modelled"),
    (
        "istio.io",
        "no service mesh is modelled: traffic goes from pod to pod",
    ),
    (
        "linkerd.io",
        "no service mesh is modelled: traffic goes from pod to pod",
    ),
    (
        "metallb.io",
        "MetalLB is not modelled: give load balancer addresses in `status.loadBalancer`",
    ),
    (
        "k8s.cni.cncf.io",
        "pods have one network: Multus is not modelled",
    ),
    ("traefik.io", "no ingress controller is modelled"),
    ("traefik.containo.us", "no ingress controller is modelled"),
    ("route.openshift.io", "no ingress controller is modelled"),
    ("multicluster.x-k8s.io", "one cluster is modelled"),
    (
        "serving.knative.dev",
        "Knative is not modelled: this makes no pods",
    ),
    (
        "monitoring.coreos.com",
        "is about watching, not about where packets go",
    ),
    (
        "cert-manager.io",
        "is about certificates, not about where packets go",
    ),
    ("argoproj.io", "is not modelled: this makes no pods"),
];

/// Says why objects of a foreign group are not modelled.
pub(super) fn foreign(group: &str) -> &'static str {
    let known = GROUPS.iter().find(|(end, _)| {
        group
            .strip_suffix(end)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    known.map_or(
        "a kind that podwire does not know: whatever it does is not done",
        |(_, why)| why,
    )
}

/// Whether a group belongs to Kubernetes itself, so that all of its kinds are known.
pub(super) fn built_in(group: &str) -> bool {
    let known = KINDS.iter().any(|row| group_of(row.api_version) == group);
    matches!(
        group,
        "extensions" | "resource.k8s.io" | "internal.apiserver.k8s.io"
    ) || (known
        && !matches!(
            group,
            "policy.networking.k8s.io" | "kustomize.config.k8s.io"
        ))
}

/// Returns the group of an `apiVersion`; the core group is empty.
pub(super) fn group_of(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

/// Finds a kind by both its names.
pub(super) fn find(api_version: &str, kind: &str) -> Option<&'static Row> {
    KINDS
        .iter()
        .find(|row| row.api_version == api_version && row.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_groups_are_known_by_their_end() {
        assert!(foreign("networking.istio.io").contains("service mesh"));
        assert!(foreign("crd.projectcalico.org").contains("Calico"));
        assert!(foreign("notcilium.io").contains("does not know"));
        assert!(built_in("") && built_in("apps") && !built_in("cilium.io"));
    }
}
