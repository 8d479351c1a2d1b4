//! Pods.

use podwire_models::api::probe::{Handler, Probe};
use podwire_models::api::{
    Container, ContainerPort, DnsPolicy, Phase, Pod, PodSpec, PortRef, RestartPolicy, Toleration,
};
use podwire_models::base::ObjectName;
use serde_json::{Value, json};

use super::{labels, owners, ready, tidy};

pub(super) fn written(pod: &Pod) -> Value {
    let ips: Vec<Value> = pod.pod_ips.iter().map(|ip| json!({ "ip": ip })).collect();
    let phase = match pod.phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
        Phase::Unknown => "Unknown",
    };
    let mut spec = spec(&pod.spec);
    if let Value::Object(fields) = &mut spec {
        fields.insert(
            "nodeName".to_owned(),
            json!(pod.node_name.as_ref().map(ObjectName::as_str)),
        );
        fields.insert("hostname".to_owned(), json!(pod.hostname.as_deref()));
    }
    tidy(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.key.name.as_str(),
            "namespace": pod.key.namespace.as_str(),
            "uid": pod.uid.as_deref(),
            "labels": labels(&pod.labels),
            "annotations": labels(&pod.annotations),
            "ownerReferences": owners(pod.owner.as_ref()),
            "deletionTimestamp": pod.deleting.then_some("1970-01-01T00:00:00Z"),
        },
        "spec": spec,
        "status": {
            "phase": phase,
            "podIP": pod.pod_ips.first(),
            "podIPs": ips,
            "conditions": ready(pod.ready),
        },
    }))
}

fn spec(spec: &PodSpec) -> Value {
    let dns_policy = match spec.dns_policy {
        DnsPolicy::ClusterFirst => "ClusterFirst",
        DnsPolicy::ClusterFirstWithHostNet => "ClusterFirstWithHostNet",
        DnsPolicy::Default => "Default",
        DnsPolicy::None => "None",
    };
    let restart_policy = match spec.restart_policy {
        RestartPolicy::Always => "Always",
        RestartPolicy::OnFailure => "OnFailure",
        RestartPolicy::Never => "Never",
    };
    let dns_config = spec.dns_config.as_ref().map(|config| {
        let searches: Vec<&str> = config.searches.iter().map(|domain| &**domain).collect();
        let option = |(name, value): &(std::sync::Arc<str>, Option<std::sync::Arc<str>>)| {
            json!({ "name": &**name, "value": value.as_deref() })
        };
        let options: Vec<Value> = config.options.iter().map(option).collect();
        json!({ "nameservers": config.nameservers, "searches": searches, "options": options })
    });
    let aliases: Vec<Value> = spec
        .host_aliases
        .iter()
        .map(|(ip, names)| {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            json!({ "ip": ip, "hostnames": names })
        })
        .collect();
    let sysctls: Vec<Value> = spec
        .sysctls
        .iter()
        .map(|(name, value)| json!({ "name": &**name, "value": &**value }))
        .collect();
    let containers = |all: &[Container]| all.iter().map(container).collect::<Vec<Value>>();
    json!({
        "containers": containers(&spec.containers),
        "initContainers": containers(&spec.init_containers),
        "hostNetwork": spec.host_network.then_some(true),
        "subdomain": spec.subdomain.as_deref(),
        "setHostnameAsFQDN": spec.set_hostname_as_fqdn.then_some(true),
        "dnsPolicy": dns_policy,
        "dnsConfig": dns_config,
        "hostAliases": aliases,
        "nodeSelector": labels(&spec.node_selector),
        "tolerations": spec.tolerations.iter().map(toleration).collect::<Vec<Value>>(),
        "securityContext": { "sysctls": sysctls },
        "restartPolicy": restart_policy,
        "terminationGracePeriodSeconds": spec.termination_grace_period_seconds,
    })
}

fn container(container: &Container) -> Value {
    let words = |all: &[std::sync::Arc<str>]| {
        let all = all.iter().map(ToString::to_string);
        all.collect::<Vec<String>>()
    };
    let env: Vec<Value> = container
        .env
        .iter()
        .map(|(name, value)| json!({ "name": &**name, "value": &**value }))
        .collect();
    json!({
        "name": &*container.name,
        "image": &*container.image,
        "command": words(&container.command),
        "args": words(&container.args),
        "env": env,
        "ports": container.ports.iter().map(port).collect::<Vec<Value>>(),
        "restartPolicy": container.sidecar.then_some("Always"),
        "readinessProbe": container.readiness.as_ref().map(probe),
        "lifecycle": container
            .pre_stop_seconds
            .map(|seconds| json!({ "preStop": { "sleep": { "seconds": seconds } } })),
    })
}

fn probe(probe: &Probe) -> Value {
    let number = |port: &PortRef| match port {
        PortRef::Number(number) => json!(number),
        PortRef::Name(name) => json!(&**name),
    };
    let (field, handler) = match &probe.handler {
        Handler::HttpGet {
            port,
            path,
            host,
            scheme,
        } => (
            "httpGet",
            json!({ "port": number(port), "path": &**path, "host": host.as_deref(), "scheme": scheme.as_deref() }),
        ),
        Handler::TcpSocket { port, host } => (
            "tcpSocket",
            json!({ "port": number(port), "host": host.as_deref() }),
        ),
        Handler::Grpc { port } => ("grpc", json!({ "port": port })),
        Handler::Exec { command } => {
            let words: Vec<&str> = command.iter().map(|word| &**word).collect();
            ("exec", json!({ "command": words }))
        }
    };
    let other = |value: u32, usual: u32| (value != usual).then_some(value);
    json!({
        field: handler,
        "initialDelaySeconds": other(probe.initial_delay, Probe::INITIAL_DELAY),
        "periodSeconds": other(probe.period, Probe::PERIOD),
        "timeoutSeconds": other(probe.timeout, Probe::TIMEOUT),
        "successThreshold": other(probe.success_threshold, Probe::SUCCESS_THRESHOLD),
        "failureThreshold": other(probe.failure_threshold, Probe::FAILURE_THRESHOLD),
    })
}

fn port(port: &ContainerPort) -> Value {
    json!({
        "name": port.name.as_deref(),
        "containerPort": port.container_port,
        "hostPort": port.host_port,
        "hostIP": port.host_ip,
        "protocol": port.protocol.upper(),
    })
}

fn toleration(toleration: &Toleration) -> Value {
    let exists = toleration.value.is_none();
    json!({
        "key": toleration.key.as_deref(),
        "operator": if exists { "Exists" } else { "Equal" },
        "value": toleration.value.as_deref(),
        "effect": toleration.effect.map(|effect| effect.to_string()),
        "tolerationSeconds": toleration.seconds,
    })
}
