//! Schemas of kinds that `k8s-openapi` does not have: policies of the whole cluster, after the
//! custom resource definitions of `sigs.k8s.io/network-policy-api`.
//! Everything is optional here; what must be there is checked where it is read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::Deserialize;

macro_rules! schema {
    ($(#[$doc:meta])* $name:ident { $($field:ident $key:literal: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "read for its errors, then thrown away")]
        pub(super) struct $name {
            $(#[serde(rename = $key, default)] $field: Option<$type>,)*
        }
    };
}

schema!(
    /// `v1alpha1` `AdminNetworkPolicy`.
    AdminNetworkPolicy {
        api_version "apiVersion": String,
        kind "kind": String,
        metadata "metadata": ObjectMeta,
        spec "spec": AdminSpec,
        status "status": serde::de::IgnoredAny,
    }
);

schema!(
    /// `v1alpha1` `BaselineAdminNetworkPolicy`.
    BaselineAdminNetworkPolicy {
        api_version "apiVersion": String,
        kind "kind": String,
        metadata "metadata": ObjectMeta,
        spec "spec": BaselineSpec,
        status "status": serde::de::IgnoredAny,
    }
);

schema!(
    /// `v1alpha2` `ClusterNetworkPolicy`.
    ClusterNetworkPolicy {
        api_version "apiVersion": String,
        kind "kind": String,
        metadata "metadata": ObjectMeta,
        spec "spec": ClusterSpec,
        status "status": serde::de::IgnoredAny,
    }
);

schema!(AdminSpec {
    priority "priority": i32,
    subject "subject": Subject,
    ingress "ingress": Vec<AdminIngress>,
    egress "egress": Vec<AdminEgress>,
});

schema!(BaselineSpec {
    subject "subject": Subject,
    ingress "ingress": Vec<AdminIngress>,
    egress "egress": Vec<AdminEgress>,
});

schema!(ClusterSpec {
    tier "tier": String,
    priority "priority": i32,
    subject "subject": Subject,
    ingress "ingress": Vec<ClusterIngress>,
    egress "egress": Vec<ClusterEgress>,
});

schema!(Subject {
    namespaces "namespaces": LabelSelector,
    pods "pods": NamespacedPod,
});

schema!(NamespacedPod {
    namespace_selector "namespaceSelector": LabelSelector,
    pod_selector "podSelector": LabelSelector,
});

schema!(AdminIngress {
    name "name": String,
    action "action": String,
    from "from": Vec<Subject>,
    ports "ports": Vec<AdminPort>,
});

schema!(AdminEgress {
    name "name": String,
    action "action": String,
    to "to": Vec<EgressPeer>,
    ports "ports": Vec<AdminPort>,
});

schema!(ClusterIngress {
    name "name": String,
    action "action": String,
    from "from": Vec<Subject>,
    protocols "protocols": Vec<ClusterProtocol>,
});

schema!(ClusterEgress {
    name "name": String,
    action "action": String,
    to "to": Vec<EgressPeer>,
    protocols "protocols": Vec<ClusterProtocol>,
});

schema!(EgressPeer {
    namespaces "namespaces": LabelSelector,
    pods "pods": NamespacedPod,
    nodes "nodes": LabelSelector,
    networks "networks": Vec<String>,
    domain_names "domainNames": Vec<String>,
});

schema!(AdminPort {
    number "portNumber": PortNumber,
    named "namedPort": String,
    range "portRange": AdminRange,
});

schema!(PortNumber {
    protocol "protocol": String,
    port "port": i32,
});

schema!(AdminRange {
    protocol "protocol": String,
    start "start": i32,
    end "end": i32,
});

schema!(ClusterProtocol {
    tcp "tcp": Transport,
    udp "udp": Transport,
    sctp "sctp": Transport,
    named "destinationNamedPort": String,
});

schema!(Transport {
    destination "destinationPort": DestinationPort,
});

schema!(DestinationPort {
    number "number": i32,
    range "range": Range,
});

schema!(Range {
    start "start": i32,
    end "end": i32,
});
