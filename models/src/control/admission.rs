//! Which webhooks the API server asks before a write (`k8s.io/apiserver/pkg/admission/plugin/webhook`).
//!
//! # Fidelity
//! Versions and subresources of rules are not looked at, and CEL conditions hold. What a webhook answers is not known: whoever answers
//! says yes, and changes nothing.

use crate::api::webhook::{Operation, Webhook, WebhookConfiguration, WebhookRule};
use crate::api::{Kind, ObjectRef, Objects, WorkloadKind};
use crate::base::Labels;

/// Returns the webhooks that are asked about a write, those that may change the object first; `labels` are the object's.
pub fn asked<'o>(
    objects: &'o Objects,
    object: &ObjectRef,
    labels: &Labels,
    operation: Operation,
) -> Vec<(&'o WebhookConfiguration, &'o Webhook)> {
    // Nobody is asked about those who are asked: a wrong one could not be taken away again.
    if matches!(object.kind, Kind::WebhookConfiguration(_)) {
        return Vec::new();
    }
    let space = match (&object.namespace, object.kind) {
        (Some(namespace), _) => Some(objects.namespace_labels(namespace)),
        (None, Kind::Namespace) => Some(labels.clone()),
        (None, _) => None,
    };
    let all = objects.webhooks.values();
    all.flat_map(|of| of.webhooks.iter().map(move |webhook| (of, webhook)))
        .filter(|(_, webhook)| {
            let here = space.as_ref();
            here.is_none_or(|labels| webhook.namespaces.matches(labels))
                && webhook.objects.matches(labels)
                && webhook
                    .rules
                    .iter()
                    .any(|rule| speaks_of(rule, object.kind, operation))
        })
        .collect()
}

fn speaks_of(rule: &WebhookRule, kind: Kind, operation: Operation) -> bool {
    let (group, resource) = resource(kind);
    let has = |words: &[std::sync::Arc<str>], word: &str| {
        words
            .iter()
            .any(|found| &**found == word || matches!(&**found, "*" | "*/*"))
    };
    has(&rule.groups, group)
        && has(&rule.resources, resource)
        && has(&rule.operations, operation.as_str())
}

/// Returns the API group and resource of a kind.
const fn resource(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Node => ("", "nodes"),
        Kind::Namespace => ("", "namespaces"),
        Kind::Pod => ("", "pods"),
        Kind::Workload(WorkloadKind::Deployment) => ("apps", "deployments"),
        Kind::Workload(WorkloadKind::ReplicaSet) => ("apps", "replicasets"),
        Kind::Workload(WorkloadKind::StatefulSet) => ("apps", "statefulsets"),
        Kind::Workload(WorkloadKind::DaemonSet) => ("apps", "daemonsets"),
        Kind::Workload(WorkloadKind::ReplicationController) => ("", "replicationcontrollers"),
        Kind::Workload(WorkloadKind::Job) => ("batch", "jobs"),
        Kind::Workload(WorkloadKind::CronJob) => ("batch", "cronjobs"),
        Kind::Service => ("", "services"),
        Kind::EndpointSlice => ("discovery.k8s.io", "endpointslices"),
        Kind::NetworkPolicy => ("networking.k8s.io", "networkpolicies"),
        Kind::ClusterPolicy(_) => ("policy.networking.k8s.io", "*"),
        Kind::Ingress => ("networking.k8s.io", "ingresses"),
        Kind::WebhookConfiguration(_) => ("admissionregistration.k8s.io", "*"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::api::webhook::{FailurePolicy, WebhookKind};
    use crate::base::{ObjectKey, OriginId, Selector};

    fn objects(rule: (&str, &str, &str)) -> Objects {
        let words = |text: &str| text.split(' ').map(Into::into).collect();
        let webhook = Webhook {
            name: "validate.example.com".into(),
            service: None,
            rules: vec![WebhookRule {
                groups: words(rule.0),
                resources: words(rule.1),
                operations: words(rule.2),
            }],
            failure_policy: FailurePolicy::Fail,
            timeout: Webhook::TIMEOUT,
            namespaces: Selector::default(),
            objects: Selector::default(),
            origin: OriginId::NONE,
        };
        let configuration = WebhookConfiguration {
            kind: WebhookKind::Validating,
            name: "validate".parse().unwrap(),
            labels: Labels::default(),
            annotations: Labels::default(),
            webhooks: vec![webhook],
            origin: OriginId::NONE,
        };
        let mut objects = Objects::default();
        objects.insert(crate::api::Object::WebhookConfiguration(configuration));
        objects
    }

    fn is_asked(rule: (&str, &str, &str), kind: Kind, operation: Operation) -> bool {
        let key: ObjectKey = "shop/cart".parse().unwrap();
        let object = ObjectRef::namespaced(kind, &key);
        !asked(&objects(rule), &object, &Labels::default(), operation).is_empty()
    }

    #[test]
    fn rules_speak_of_groups_resources_and_operations() {
        let deployments = Kind::Workload(WorkloadKind::Deployment);
        let create = Operation::Create;
        assert!(is_asked(
            ("apps", "deployments", "CREATE UPDATE"),
            deployments,
            create
        ));
        assert!(is_asked(("*", "*", "*"), Kind::Pod, Operation::Delete));
        assert!(!is_asked(
            ("apps", "deployments", "UPDATE"),
            deployments,
            create
        ));
        assert!(!is_asked(("batch", "*", "*"), deployments, create));
        assert!(!is_asked(
            ("apps", "statefulsets", "*"),
            deployments,
            create
        ));
        let itself = Kind::WebhookConfiguration(WebhookKind::Validating);
        assert!(!is_asked(("*", "*", "*"), itself, create));
    }
}
