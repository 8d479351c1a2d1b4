//! Pods and the specs of pods, in templates too.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use podwire_models::api::{
    Container, ContainerPort, DnsConfig, DnsPolicy, Phase, Pod, PodSpec, PodTemplate,
    RestartPolicy, Toleration,
};
use podwire_models::base::ObjectName;
use podwire_models::control::termination;

use super::super::reader::{
    Maybe, Reader, Warn as _, annotations, flag, integer, items, text, texts,
};
use super::super::tree::Node;
use super::Meta;
use super::node::EFFECTS;
use super::{probe, sysctl};
use crate::problem::ProblemCode;

const PHASES: &[(&str, Phase)] = &[
    ("Pending", Phase::Pending),
    ("Running", Phase::Running),
    ("Succeeded", Phase::Succeeded),
    ("Failed", Phase::Failed),
    ("Unknown", Phase::Unknown),
];

const RESTART: &[(&str, RestartPolicy)] = &[
    ("Always", RestartPolicy::Always),
    ("OnFailure", RestartPolicy::OnFailure),
    ("Never", RestartPolicy::Never),
];

const DNS: &[(&str, DnsPolicy)] = &[
    ("ClusterFirst", DnsPolicy::ClusterFirst),
    (
        "ClusterFirstWithHostNet",
        DnsPolicy::ClusterFirstWithHostNet,
    ),
    ("Default", DnsPolicy::Default),
    ("None", DnsPolicy::None),
];

pub(super) fn read(reader: &mut Reader<'_>, root: &Arc<Node>, meta: Meta) -> Pod {
    let (node_name, hostname, spec) = spec(reader, root);
    let status = root.get("status");
    let get = |field: &str| status.and_then(|status| status.get(field));
    let condition = items(get("conditions"))
        .iter()
        .find(|condition| text(condition.get("type")).as_deref() == Some("Ready"));
    Pod {
        uid: meta.uid,
        labels: meta.labels,
        annotations: meta.annotations,
        owner: meta.owner,
        node_name,
        hostname,
        ready: condition.map(|condition| text(condition.get("status")).as_deref() == Some("True")),
        pod_ips: addresses(reader, status),
        phase: reader
            .word(get("phase"), "`phase`", PHASES)
            .unwrap_or_default(),
        deleting: meta.deleting,
        origin: meta.origin,
        ..Pod::new(meta.key, Arc::new(spec))
    }
}

/// Returns the addresses of a status: `podIPs`, or `podIP` if there are none.
fn addresses(reader: &mut Reader<'_>, status: Maybe<'_>) -> Vec<IpAddr> {
    let get = |field: &str| status.and_then(|status| status.get(field));
    let all = items(get("podIPs"));
    let all: Vec<IpAddr> = all
        .iter()
        .filter_map(|item| reader.ip(item.get("ip"), "one of `podIPs`"))
        .collect();
    if all.is_empty() {
        reader.ip(get("podIP"), "`podIP`").into_iter().collect()
    } else {
        all
    }
}

/// Reads a template; `None` if there is none.
pub(super) fn template(reader: &mut Reader<'_>, owner: &Node) -> Option<PodTemplate> {
    let Some(template) = owner.get("template") else {
        reader.missing(owner, "template");
        return None;
    };
    let metadata = template.get("metadata");
    let get = |field: &str| metadata.and_then(|node| node.get(field));
    let (node_name, hostname, spec) = spec(reader, template);
    Some(PodTemplate {
        labels: reader.labels(get("labels")),
        annotations: annotations(get("annotations")),
        node_name,
        hostname,
        spec: Arc::new(spec),
        origin: reader.origin(template),
    })
}

type Spec = (Option<ObjectName>, Option<Arc<str>>, PodSpec);

fn spec(reader: &mut Reader<'_>, owner: &Arc<Node>) -> Spec {
    let Some(spec) = owner.get("spec") else {
        reader.missing(owner, "spec");
        return (None, None, PodSpec::default());
    };
    let host_network = flag(spec.get("hostNetwork")).unwrap_or(false);
    if items(spec.get("containers")).is_empty() {
        reader.missing(spec, "containers");
    }
    let mut names = BTreeMap::new();
    let containers = containers(reader, spec.get("containers"), host_network, &mut names);
    let init_containers =
        self::containers(reader, spec.get("initContainers"), host_network, &mut names);
    let dns_policy = reader
        .word(spec.get("dnsPolicy"), "`dnsPolicy`", DNS)
        .unwrap_or_default();
    let dns_config = dns_config(reader, spec.get("dnsConfig"));
    if dns_policy == DnsPolicy::None
        && dns_config
            .as_ref()
            .is_none_or(|dns| dns.nameservers.is_empty())
    {
        let place = spec.get("dnsPolicy").unwrap_or(spec);
        let title = "`dnsPolicy: None` needs `dnsConfig.nameservers`";
        reader.note(
            ProblemCode::ManContradiction,
            place,
            title,
            "there would be no name server at all",
        );
    }
    let read = PodSpec {
        containers,
        init_containers,
        host_network,
        subdomain: reader.dns_label(spec.get("subdomain"), "`subdomain`"),
        set_hostname_as_fqdn: flag(spec.get("setHostnameAsFQDN")).unwrap_or(false),
        dns_policy,
        dns_config,
        host_aliases: host_aliases(reader, spec.get("hostAliases")),
        node_selector: reader.labels(spec.get("nodeSelector")),
        tolerations: items(spec.get("tolerations"))
            .iter()
            .filter_map(|item| toleration(reader, item))
            .collect(),
        sysctls: sysctl::all(reader, spec, host_network),
        restart_policy: reader
            .word(spec.get("restartPolicy"), "`restartPolicy`", RESTART)
            .unwrap_or_default(),
        termination_grace_period_seconds: reader.count(
            spec.get("terminationGracePeriodSeconds"),
            "`terminationGracePeriodSeconds`",
        ),
    };
    let node_name = reader.parse(spec.get("nodeName"), ProblemCode::ManBadName, "`nodeName`");
    let hostname = reader.dns_label(spec.get("hostname"), "`hostname`");
    (node_name, hostname, read)
}

/// Nothing here depends on the name of a container, so that this need not stop anybody.
fn nameless(reader: &mut Reader<'_>, node: &Node) -> Arc<str> {
    if !node.entries().is_empty() {
        let title = "a container has no `name`";
        reader
            .note(
                ProblemCode::ManMissingField,
                node,
                title,
                "`name` must be here",
            )
            .warn();
    }
    "".into()
}

fn containers(
    reader: &mut Reader<'_>,
    list: Maybe<'_>,
    host_network: bool,
    names: &mut BTreeMap<Arc<str>, Arc<Node>>,
) -> Vec<Container> {
    let mut containers = Vec::new();
    for node in items(list) {
        let name = reader.dns_label(node.get("name"), "the name of a container");
        let name = name.unwrap_or_else(|| nameless(reader, node));
        let place = node.get("name").unwrap_or(node);
        if let Some(first) = names.insert(Arc::clone(&name), Arc::clone(place))
            && !name.is_empty()
        {
            let title = format!("two containers are called `{name}`");
            let spot = first.span.spot(reader.source);
            let problem = reader.note(ProblemCode::ManDuplicateEntry, place, title, "again here");
            problem.also.push((spot, "first here".to_owned()));
        }
        containers.push(Container {
            name,
            image: text(node.get("image")).unwrap_or_else(|| "".into()),
            ports: ports(reader, node.get("ports"), host_network),
            command: texts(node.get("command")),
            args: texts(node.get("args")),
            env: env(node.get("env")),
            sidecar: text(node.get("restartPolicy")).as_deref() == Some("Always"),
            readiness: probe::read(reader, node.get("readinessProbe")),
            pre_stop_seconds: pre_stop(reader, node.get("lifecycle")),
            origin: reader.origin(node),
        });
    }
    containers
}

/// How long the hook before SIGTERM sleeps.
fn pre_stop(reader: &mut Reader<'_>, lifecycle: Maybe<'_>) -> Option<u32> {
    let hook = lifecycle.and_then(|lifecycle| lifecycle.get("preStop"))?;
    if let Some(sleep) = hook.get("sleep") {
        return reader.count(sleep.get("seconds"), "`seconds` of a hook");
    }
    let command = texts(hook.get("exec")?.get("command"));
    termination::sleeps(command.iter().map(|word| &**word))
}

fn env(list: Maybe<'_>) -> Vec<(Arc<str>, Arc<str>)> {
    let pair = |node: &Arc<Node>| {
        let plain = node.get("valueFrom").is_none();
        let value = text(node.get("value")).or_else(|| plain.then(|| "".into()));
        Some((text(node.get("name"))?, value?))
    };
    items(list).iter().filter_map(pair).collect()
}

fn ports(reader: &mut Reader<'_>, list: Maybe<'_>, host_network: bool) -> Vec<ContainerPort> {
    let mut ports: Vec<ContainerPort> = Vec::new();
    for node in items(list) {
        if node.get("containerPort").is_none() {
            reader.missing(node, "containerPort");
        }
        let name = reader.port_name(node.get("name"), "the `name` of a port");
        let host_port = reader.port_or_none(node.get("hostPort"), "`hostPort`");
        let Some(container_port) = reader.port(node.get("containerPort"), "`containerPort`") else {
            continue;
        };
        if name.is_some() && ports.iter().any(|other| other.name == name) {
            let title = "two ports of a container have one name";
            reader.note(
                ProblemCode::ManDuplicateEntry,
                node.get("name").unwrap_or(node),
                title,
                "again here",
            );
        }
        if host_network && host_port.is_some_and(|port| port != container_port) {
            let title = "with `hostNetwork`, `hostPort` must be equal to `containerPort`";
            let place = node.get("hostPort").unwrap_or(node);
            reader.note(
                ProblemCode::ManContradiction,
                place,
                title,
                format!("must be {container_port}"),
            );
        }
        ports.push(ContainerPort {
            name,
            container_port,
            host_port,
            host_ip: reader.ip(node.get("hostIP"), "`hostIP`"),
            protocol: reader.protocol(node.get("protocol")),
            origin: reader.origin(node),
        });
    }
    ports
}

fn dns_config(reader: &mut Reader<'_>, node: Maybe<'_>) -> Option<DnsConfig> {
    let node = node?;
    let servers = reader.ips(node.get("nameservers"), "one of `nameservers`");
    for (field, most) in [("nameservers", 3), ("searches", 32)] {
        let list = items(node.get(field));
        if let Some(extra) = list.get(most) {
            let title = format!("`{field}` takes at most {most} entries");
            reader.note(ProblemCode::ManBadValue, extra, title, "one too many");
        }
    }
    let option = |node: &Arc<Node>| Some((text(node.get("name"))?, text(node.get("value"))));
    Some(DnsConfig {
        nameservers: servers,
        searches: texts(node.get("searches")),
        options: items(node.get("options"))
            .iter()
            .filter_map(option)
            .collect(),
    })
}

fn host_aliases(reader: &mut Reader<'_>, list: Maybe<'_>) -> Vec<(IpAddr, Vec<Arc<str>>)> {
    let alias = |node: &Arc<Node>| {
        Some((
            reader.ip(node.get("ip"), "the `ip` of a host alias")?,
            texts(node.get("hostnames")),
        ))
    };
    items(list).iter().filter_map(alias).collect()
}

fn toleration(reader: &mut Reader<'_>, node: &Arc<Node>) -> Option<Toleration> {
    let words = [("Equal", false), ("Exists", true)];
    let exists = match node.get("operator") {
        Some(operator) => reader.word(Some(operator), "`operator`", &words)?,
        None => false,
    };
    let key = text(node.get("key"));
    if key.is_none() && !exists {
        let title = "a toleration without `key` needs `operator: Exists`";
        reader.note(
            ProblemCode::ManContradiction,
            node,
            title,
            "tolerates nothing",
        );
        return None;
    }
    let value = text(node.get("value"));
    if exists && value.is_some() {
        let title = "a toleration with `operator: Exists` takes no `value`";
        reader.note(
            ProblemCode::ManContradiction,
            node.get("value").unwrap_or(node),
            title,
            "must be empty",
        );
    }
    Some(Toleration {
        key,
        value: (!exists).then(|| value.unwrap_or_else(|| "".into())),
        effect: reader.word(node.get("effect"), "`effect`", EFFECTS),
        seconds: integer(node.get("tolerationSeconds")),
    })
}
