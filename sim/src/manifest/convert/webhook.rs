//! Admission webhooks.

use std::sync::Arc;

use podwire_models::api::webhook::{
    FailurePolicy, Webhook, WebhookConfiguration, WebhookKind, WebhookRule, WebhookService,
};
use podwire_models::base::ObjectKey;

use super::super::reader::{Maybe, Reader, items, text, texts};
use super::super::tree::Node;
use super::Meta;
use crate::problem::ProblemCode;

pub(super) fn read(
    reader: &mut Reader<'_>,
    root: &Arc<Node>,
    kind: WebhookKind,
    meta: Meta,
) -> WebhookConfiguration {
    let webhooks = items(root.get("webhooks"));
    WebhookConfiguration {
        kind,
        name: meta.key.name,
        labels: meta.labels,
        annotations: meta.annotations,
        webhooks: webhooks.iter().map(|node| webhook(reader, node)).collect(),
        origin: meta.origin,
    }
}

fn webhook(reader: &mut Reader<'_>, node: &Arc<Node>) -> Webhook {
    if node.get("name").is_none() {
        reader.missing(node, "name");
    }
    let policy = reader.word(
        node.get("failurePolicy"),
        "`failurePolicy`",
        &[
            ("Fail", FailurePolicy::Fail),
            ("Ignore", FailurePolicy::Ignore),
        ],
    );
    let timeout = reader.count(node.get("timeoutSeconds"), "`timeoutSeconds`");
    let client = node.get("clientConfig");
    if client.is_none() {
        reader.missing(node, "clientConfig");
    }
    let client = client.and_then(|client| client.get("service"));
    Webhook {
        name: text(node.get("name")).unwrap_or_else(|| "".into()),
        service: service(reader, client),
        rules: items(node.get("rules"))
            .iter()
            .map(|rule| WebhookRule {
                groups: texts(rule.get("apiGroups")),
                resources: texts(rule.get("resources")),
                operations: texts(rule.get("operations")),
            })
            .collect(),
        failure_policy: policy.unwrap_or(FailurePolicy::Fail),
        timeout: timeout.unwrap_or(Webhook::TIMEOUT).clamp(1, 30),
        namespaces: reader
            .selector(node.get("namespaceSelector"))
            .unwrap_or_default(),
        objects: reader
            .selector(node.get("objectSelector"))
            .unwrap_or_default(),
        origin: reader.origin(node),
    }
}

fn service(reader: &mut Reader<'_>, node: Maybe<'_>) -> Option<WebhookService> {
    let node = node?;
    let bad = ProblemCode::ManBadName;
    let name = reader.parse(node.get("name"), bad, "the Service's `name`")?;
    let namespace = reader.parse(node.get("namespace"), bad, "the Service's `namespace`")?;
    let port = reader.port(node.get("port"), "the Service's `port`");
    Some(WebhookService {
        key: ObjectKey::new(namespace, name),
        port: port.unwrap_or(Webhook::PORT),
        path: text(node.get("path")).unwrap_or_else(|| "/".into()),
    })
}
