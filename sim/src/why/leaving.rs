//! Pods that end before every node knows.

use podwire_models::api::{Kind, ObjectRef, Pod};
use podwire_models::base::OriginId;
use podwire_models::control::termination;
use podwire_models::wire::Code;

use super::{Case, Finding, maker};
use crate::attempt;
use crate::controllers::reactions::Reaction;
use crate::controllers::runner::MIN_SYNC;

/// A node's rules still lead to a pod that is being deleted, or gone.
pub(super) fn lagging(case: &Case<'_>) -> Option<Finding> {
    let trace = &case.attempted.trace;
    let (record, pod) = attempt::lagging(trace.records.iter(), case.lab)?;
    let node = trace.names.node_at(&record.place)?;
    let code = case.attempted.code;
    if code == Code::StaleRules {
        let object = ObjectRef::cluster(Kind::Node, node.parse().ok()?);
        let ip = pod.pod_ips.first()?;
        let says = format!(
            "kube-proxy on {node} has stopped: its rules still lead to {ip}, which pod {} had",
            pod.key
        );
        let fix = format!(
            "restart kube-proxy on {node}, after a look at its log; a pod that is gone cannot be helped by hooks"
        );
        let see = format!(
            "kubectl -n kube-system logs --tail=50 $(kubectl -n kube-system get pods -l k8s-app=kube-proxy --field-selector spec.nodeName={node} -o name)"
        );
        let finding = Finding::of(code, &object, OriginId::NONE);
        return Some(finding.saying(says, fix).shown_by(see));
    }
    let (made_by, origin) = maker(pod, &case.world.objects);
    let takes = |reaction| case.lab.plan.reactions.span(reaction).most;
    let rules = takes(Reaction::EndpointSync) + takes(Reaction::ProxySync);
    let usual = rules.saturating_sub(takes(Reaction::KubeletWatch));
    let most = usual + MIN_SYNC;
    let hook = termination::ends_after(&pod.spec);
    let listened = if has_hook(pod) {
        format!(
            "its preStop hook lets it listen for {hook:?} after its deletion, which is not enough"
        )
    } else {
        "it has no preStop hook, so it stops listening as soon as its kubelet hears of its deletion"
            .to_owned()
    };
    let says = format!(
        "pod {} was deleted while the rules of {node} still lead to it: {listened}; the nodes need {usual:?} longer, and up to {most:?} where kube-proxy has just written",
        pod.key
    );
    let fix = "add a preStop hook to its containers that sleeps longer: lifecycle: {preStop: {sleep: {seconds: 5}}}";
    let finding = Finding::of(code, &made_by, origin);
    Some(finding.saying(says, fix.to_owned()))
}

/// A node's rules lead to the address of a pod that is gone, which another pod has now.
pub(super) fn reused(case: &Case<'_>) -> Option<Finding> {
    let trace = &case.attempted.trace;
    let (record, gone, now) = attempt::reused(trace.records.iter(), case.lab)?;
    let node = trace.names.node_at(&record.place)?;
    let ip = now.pod_ips.first()?;
    let object = ObjectRef::cluster(Kind::Node, node.parse().ok()?);
    let stopped = case.lab.stopped.iter().any(|name| name.as_str() == node);
    let lags = if stopped {
        "has stopped"
    } else {
        "lags behind"
    };
    let says = format!(
        "{ip} was pod {}'s, which is gone, and is pod {}'s now; kube-proxy on {node} {lags}, and its rules still lead there",
        gone.key, now.key
    );
    let fix = format!(
        "let kube-proxy on {node} write its rules (restart it), and give nodes ranges in which addresses come back late"
    );
    let finding = Finding::of(case.attempted.code, &object, OriginId::NONE).saying(says, fix);
    Some(finding.shown_by(format!("kubectl get pods -A -o wide | grep {ip}")))
}

fn has_hook(pod: &Pod) -> bool {
    let mut containers = pod.spec.running();
    containers.any(|container| container.pre_stop_seconds.is_some())
}
