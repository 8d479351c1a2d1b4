//! What makes pods.

use std::sync::Arc;

use podwire_models::api::{PodTemplate, RestartPolicy, Share, Strategy, Workload, WorkloadKind};
use podwire_models::base::{Labels, OriginId, Selector};

use super::super::reader::{Reader, Warn as _, flag, integer, text};
use super::super::tree::Node;
use super::{Meta, pod};
use crate::limits::PODS;
use crate::problem::ProblemCode;

pub(super) fn read(
    reader: &mut Reader<'_>,
    root: &Arc<Node>,
    kind: WorkloadKind,
    meta: Meta,
) -> Workload {
    let empty = PodTemplate {
        labels: Labels::default(),
        annotations: Labels::default(),
        node_name: None,
        hostname: None,
        spec: Arc::default(),
        origin: OriginId::NONE,
    };
    let mut workload = Workload {
        kind,
        key: meta.key,
        uid: meta.uid,
        labels: meta.labels,
        annotations: meta.annotations,
        owner: meta.owner,
        replicas: 1,
        completions: None,
        selector: None,
        template: empty,
        strategy: Strategy::default(),
        min_ready_seconds: 0,
        service_name: None,
        ordinals_start: 0,
        schedule: None,
        suspend: false,
        origin: meta.origin,
    };
    match root.get("spec") {
        Some(spec) => fill(reader, &mut workload, spec),
        None => reader.missing(root, "spec"),
    }
    workload
}

fn fill(reader: &mut Reader<'_>, workload: &mut Workload, spec: &Arc<Node>) {
    match workload.kind {
        WorkloadKind::Deployment => {
            replicas(reader, workload, spec);
            min_ready(reader, workload, spec);
            workload.strategy = strategy(reader, spec.get("strategy"));
        }
        WorkloadKind::ReplicaSet => {
            replicas(reader, workload, spec);
            min_ready(reader, workload, spec);
        }
        WorkloadKind::DaemonSet => replicas(reader, workload, spec),
        WorkloadKind::StatefulSet => {
            replicas(reader, workload, spec);
            workload.service_name = text(spec.get("serviceName"));
            let start = spec
                .get("ordinals")
                .and_then(|ordinals| ordinals.get("start"));
            workload.ordinals_start = reader.count(start, "`ordinals.start`").unwrap_or(0);
        }
        WorkloadKind::ReplicationController => {
            workload.replicas = pods(reader, spec.get("replicas"), "`replicas`").unwrap_or(1);
            if let Some(template) = pod::template(reader, spec) {
                workload.template = template;
            }
            let labels = match spec.get("selector") {
                Some(selector) => reader.labels(Some(selector)),
                None => workload.template.labels.clone(),
            };
            workload.selector = Some(Selector::labels(labels));
            check(reader, workload, spec);
        }
        WorkloadKind::Job => job(reader, workload, spec),
        WorkloadKind::CronJob => {
            workload.schedule = text(spec.get("schedule"));
            if workload.schedule.is_none() {
                reader.missing(spec, "schedule");
            }
            match spec
                .get("jobTemplate")
                .and_then(|template| template.get("spec"))
            {
                Some(job_spec) => job(reader, workload, job_spec),
                None => reader.missing(spec, "jobTemplate"),
            }
            workload.suspend = flag(spec.get("suspend")).unwrap_or(false);
        }
    }
}

/// Reads how many pods are wanted.
fn pods(reader: &mut Reader<'_>, node: Option<&Arc<Node>>, what: &str) -> Option<u32> {
    let count = reader.count(node, what)?;
    if u64::from(count) > PODS {
        let title = format!("{what} asks for {count} pods");
        let most = format!("{PODS} are the most that are simulated");
        reader.note(ProblemCode::ManTooMany, node?, title, most);
        return None;
    }
    Some(count)
}

fn replicas(reader: &mut Reader<'_>, workload: &mut Workload, spec: &Arc<Node>) {
    workload.replicas = pods(reader, spec.get("replicas"), "`replicas`").unwrap_or(1);
    workload.selector = reader.selector(spec.get("selector"));
    if workload.selector.is_none() {
        reader.missing(spec, "selector");
    }
    if let Some(template) = pod::template(reader, spec) {
        workload.template = template;
        check(reader, workload, spec);
    }
}

fn min_ready(reader: &mut Reader<'_>, workload: &mut Workload, spec: &Arc<Node>) {
    let seconds = reader.count(spec.get("minReadySeconds"), "`minReadySeconds`");
    workload.min_ready_seconds = seconds.unwrap_or(0);
}

fn strategy(reader: &mut Reader<'_>, node: Option<&Arc<Node>>) -> Strategy {
    let Some(node) = node else {
        return Strategy::default();
    };
    let kinds = [("RollingUpdate", false), ("Recreate", true)];
    let recreate = reader.word(node.get("type"), "`strategy.type`", &kinds);
    if recreate == Some(true) {
        if let Some(other) = node.get("rollingUpdate") {
            let title = "`rollingUpdate` is not allowed with `type: Recreate`";
            reader.note(ProblemCode::ManContradiction, other, title, "");
        }
        return Strategy::Recreate;
    }
    let given = node.get("rollingUpdate");
    let mut limit = |field: &str| {
        let node = given.and_then(|given| given.get(field));
        share(reader, node, field).unwrap_or(Share::Percent(25))
    };
    let (max_surge, max_unavailable) = (limit("maxSurge"), limit("maxUnavailable"));
    let none = |share| matches!(share, Share::Number(0) | Share::Percent(0));
    if none(max_surge) && none(max_unavailable) {
        let title = "`maxSurge` and `maxUnavailable` must not both be 0";
        reader.note(
            ProblemCode::ManContradiction,
            given.unwrap_or(node),
            title,
            "no pod could ever be replaced",
        );
    }
    Strategy::RollingUpdate {
        max_surge,
        max_unavailable,
    }
}

/// A number, or a number with `%`.
fn share(reader: &mut Reader<'_>, node: Option<&Arc<Node>>, field: &str) -> Option<Share> {
    let node = node?;
    let share = match integer(Some(node)) {
        Some(number) => u32::try_from(number).ok().map(Share::Number),
        None => text(Some(node))
            .and_then(|text| text.strip_suffix('%')?.parse().ok())
            .map(Share::Percent),
    };
    let fits = match share {
        Some(Share::Percent(percent)) => percent <= 100 || field == "maxSurge",
        Some(Share::Number(_)) => true,
        None => false,
    };
    if !fits {
        let title = format!("`{field}` is a number of pods or a share of them");
        reader.note(ProblemCode::ManBadValue, node, title, "as in 2 or \"25%\"");
    }
    share.filter(|_| fits)
}

fn job(reader: &mut Reader<'_>, workload: &mut Workload, spec: &Arc<Node>) {
    workload.replicas = pods(reader, spec.get("parallelism"), "`parallelism`").unwrap_or(1);
    workload.completions = reader.count(spec.get("completions"), "`completions`");
    workload.suspend = flag(spec.get("suspend")).unwrap_or(false);
    workload.selector = reader.selector(spec.get("selector"));
    let Some(template) = pod::template(reader, spec) else {
        return;
    };
    if template.spec.restart_policy == RestartPolicy::Always {
        let title = "the pods of a job need `restartPolicy: Never` or `restartPolicy: OnFailure`";
        let place = restart_policy(spec);
        reader.note(
            ProblemCode::ManContradiction,
            place,
            title,
            "these would never be done",
        );
    }
    workload.template = template;
}

fn restart_policy(spec: &Arc<Node>) -> &Arc<Node> {
    let pod = spec
        .get("template")
        .and_then(|template| template.get("spec"));
    pod.and_then(|pod| pod.get("restartPolicy"))
        .or(pod)
        .unwrap_or(spec)
}

/// Checks that a workload selects its own pods, and that these run for ever.
fn check(reader: &mut Reader<'_>, workload: &Workload, spec: &Arc<Node>) {
    let Some(selector) = &workload.selector else {
        return;
    };
    let place = spec.get("selector").unwrap_or(spec);
    // The pods are what the template says in any case, so that a mismatch need not stop anybody.
    if selector.is_empty() {
        let title = "`selector` must not be empty";
        reader.note(
            ProblemCode::ManBadValue,
            place,
            title,
            "selects every pod of the namespace",
        );
    } else if !selector.matches(&workload.template.labels) {
        let template = spec
            .get("template")
            .and_then(|template| template.get("metadata"));
        let labels = template
            .and_then(|metadata| metadata.get("labels"))
            .or(template);
        let there = labels
            .or_else(|| spec.get("template"))
            .map(|node| node.span.spot(reader.source));
        let title = "`selector` does not match the labels of the `template`";
        let problem = reader.note(
            ProblemCode::ManSelectorMismatch,
            place,
            title,
            format!("selects `{selector}`"),
        );
        let label = format!("the pods have `{}`", workload.template.labels);
        problem.also.extend(there.map(|spot| (spot, label)));
        problem.warn();
    }
    if workload.template.spec.restart_policy != RestartPolicy::Always {
        let title = format!(
            "the pods of a {} need `restartPolicy: Always`",
            workload.kind
        );
        reader.note(
            ProblemCode::ManContradiction,
            restart_policy(spec),
            title,
            "only jobs have others",
        );
    }
}
