//! Policies: the one whose edit lets the connection pass.

use std::sync::Arc;

use podwire_models::api::{Kind, NetworkPolicy, Object, ObjectRef, Pod, PolicyRule, Service};
use podwire_models::base::label::Requirement;
use podwire_models::base::{OriginId, Protocol};
use podwire_models::control::policy::verdict::{Lack, NearMiss, Outcome, Side};
use podwire_models::control::policy::{Direction, Flow, Policies};
use podwire_models::wire::{Code, Head, Transport};

use super::{Case, Finding, World, evidence, maker, service};
use crate::attempt;
use crate::controllers::reactions::Reaction;
use crate::reach::explain;

/// Whether a code means that a policy decided.
pub(super) const fn decides(code: Code) -> bool {
    matches!(
        code,
        Code::NpIngressDefaultDeny
            | Code::NpEgressDefaultDeny
            | Code::CnpIngressDeny
            | Code::CnpEgressDeny
    )
}

/// A policy dropped the packet.
pub(super) fn denied(case: &Case<'_>, code: Code) -> Option<Finding> {
    let record = case.last(code)?;
    let Some(Head::Ip {
        src,
        dst,
        transport,
        ..
    }) = &record.step.packet
    else {
        return None;
    };
    let flow = match transport {
        Transport::Tcp(tcp) => Flow::Port(Protocol::Tcp, tcp.dport),
        Transport::Udp(udp) => Flow::Port(Protocol::Udp, udp.dport),
        Transport::Sctp(sctp) => Flow::Port(Protocol::Sctp, sctp.dport),
        Transport::Icmp(_) => Flow::Other,
    };
    let policies = Policies::new(Arc::new(case.lab.objects.clone()));
    let (source, destination) = (policies.party(*src), policies.party(*dst));
    let verdict = policies.verdict(&source, &destination, flow);
    let side = verdict.denied_by()?;
    let other = match side.direction {
        Direction::Ingress => source.pod(),
        Direction::Egress => destination.pod(),
    };
    let end = explain::end(side, case.origins);
    let asks_a_name = matches!(flow, Flow::Port(_, 53)) && side.direction == Direction::Egress;
    let dns = "add an egress rule that allows UDP and TCP port 53 to the DNS pods".to_owned();
    let fix = other_port(side, flow).or_else(|| end.nearest.clone());
    let fix = fix.filter(|_| !asks_a_name);
    let fix = fix.or_else(|| asks_a_name.then_some(dns));
    let fix = fix.unwrap_or_else(|| match flow {
        Flow::Port(protocol, port) => {
            format!(
                "add an {} rule that allows {protocol} port {port}",
                side.direction
            )
        }
        Flow::Other => format!("add an {} rule that allows this", side.direction),
    });
    match &side.outcome {
        Outcome::Cluster(policy, _, _) => {
            let object = Object::ClusterPolicy((*policy).clone()).reference();
            let key = (policy.kind, policy.name.clone());
            let repaired = case.repair(|world| {
                world.objects.cluster_policies.remove(&key);
            });
            let fix = code.page().fix.to_owned();
            Some(
                Finding::of(code, &object, policy.origin)
                    .saying(end.says, fix)
                    .repaired(repaired),
            )
        }
        Outcome::Isolated(near) => {
            if let (Some(near), Some(other)) = (near, other)
                && let Some(finding) = drifted(case, code, near, other)
            {
                return Some(finding);
            }
            let (policy, origin) = blamed(side, near.as_ref())?;
            let object = ObjectRef::namespaced(Kind::NetworkPolicy, &policy.key);
            let direction = side.direction;
            let repaired = case.repair(|world| open(world, policy, direction));
            Some(
                Finding::of(code, &object, origin)
                    .saying(end.says, fix)
                    .repaired(repaired),
            )
        }
        Outcome::NoSubject | Outcome::Exempt(_) | Outcome::Network(..) | Outcome::Open => None,
    }
}

/// No pod of a Service is ready: policies keep their kubelets out.
pub(super) fn keeps_kubelet_out(case: &Case<'_>, service: &Service, pod: &Pod) -> Option<Finding> {
    let gate = case.lab.gate()?;
    let port = case.lab.kept_out(Some(&gate), pod)?.port?;
    let (policies, node, ip) = gate.asked_by_kubelet(case.lab, pod)?;
    let (source, destination) = (policies.party(node), policies.party(ip));
    let flow = Flow::Port(Protocol::Tcp, port);
    let verdict = policies.verdict(&source, &destination, flow);
    let side = verdict.denied_by()?;
    let (object, origin) = denier(side)?;
    let says = format!(
        "no pod behind Service {} may be used: the kubelet asks pod {} on port {port} from {node}, {object} denies that, and this network \
         plugin does not spare a pod's own node (allow_localhost: \"policy\")",
        service.key.name, pod.key.name
    );
    let code = Code::NpProbeBlocked;
    let fix = format!(
        "let an ingress rule allow ipBlock {node}/{} on port {port}, or let the plugin always allow a pod's own node",
        if node.is_ipv4() { 32 } else { 128 }
    );
    let see = format!(
        "kubectl -n {} describe pod {}",
        pod.key.namespace, pod.key.name
    );
    Some(
        Finding::of(code, &object, origin)
            .saying(says, fix)
            .shown_by(see),
    )
}

/// The policy that stops something at one end.
fn denier(side: &Side<'_>) -> Option<(ObjectRef, OriginId)> {
    match &side.outcome {
        Outcome::Cluster(policy, _, _) => {
            let object = Object::ClusterPolicy((*policy).clone());
            Some((object.reference(), policy.origin))
        }
        Outcome::Isolated(near) => {
            let (policy, origin) = blamed(side, near.as_ref())?;
            let object = ObjectRef::namespaced(Kind::NetworkPolicy, &policy.key);
            Some((object, origin))
        }
        Outcome::NoSubject | Outcome::Exempt(_) | Outcome::Network(..) | Outcome::Open => None,
    }
}

/// A policy denies what was let in: the agents had not heard of it, or of the pods.
pub(super) fn late(case: &Case<'_>) -> Option<Finding> {
    let records = case.attempted.trace.records.iter();
    let outcome = &case.attempted.outcome;
    let (client, server, flow) = attempt::ends(records, case.request.l4, outcome)?;
    let policies = Policies::new(Arc::new(case.lab.objects.clone()));
    let (source, destination) = (policies.party(client), policies.party(server));
    let verdict = policies.verdict(&source, &destination, flow);
    let side = verdict.denied_by()?;
    let code = case.attempted.code;
    let (object, origin) = denier(side)?;
    let says = format!(
        "{object} denies it, and the agent of the node did not know that yet: agents program a policy, or what it says of a new pod, \
         {:?} after the API server has it; a connection that was let in goes on",
        case.lab.plan.reactions.span(Reaction::PolicySync).most
    );
    let fix = code.page().fix.to_owned();
    Some(Finding::of(code, &object, origin).saying(says, fix))
}

/// A rule that names the other end, and another port.
fn other_port(side: &Side<'_>, flow: Flow) -> Option<String> {
    let (Outcome::Isolated(Some(near)), Flow::Port(protocol, port)) = (&side.outcome, flow) else {
        return None;
    };
    let [Lack::Port(listed)] = near.lacks.as_slice() else {
        return None;
    };
    let listed = if listed.is_empty() {
        "a port by a name that the pod does not have".to_owned()
    } else {
        format!("{listed} only")
    };
    Some(format!(
        "rule {} of {} lets it pass on {listed}: list {protocol} port {port} in its ports (policies see the pod's port, not the Service's)",
        near.rule + 1,
        near.policy.key.name
    ))
}

/// The policy that was nearest to allowing it, else the first that isolates the pod.
fn blamed<'a>(
    side: &Side<'a>,
    near: Option<&NearMiss<'a>>,
) -> Option<(&'a NetworkPolicy, OriginId)> {
    match near {
        Some(near) => Some((near.policy, near.origin)),
        None => side.isolating.first().map(|first| (*first, first.origin)),
    }
}

/// Lets a policy allow everything in one direction.
fn open(world: &mut World, policy: &NetworkPolicy, direction: Direction) {
    let everything = PolicyRule {
        peers: Vec::new(),
        ports: Vec::new(),
        origin: OriginId::NONE,
    };
    if let Some(policy) = world.objects.network_policies.get_mut(&policy.key) {
        match direction {
            Direction::Ingress => policy.ingress.push(everything),
            Direction::Egress => policy.egress.push(everything),
        }
    }
}

/// The rule is right and the other pod's label is the odd one out.
fn drifted(case: &Case<'_>, code: Code, near: &NearMiss<'_>, other: &Pod) -> Option<Finding> {
    let [Lack::PodLabel(Requirement::Is(key, wanted), Some(found))] = near.lacks.as_slice() else {
        return None;
    };
    let given = &case.world.objects;
    let (object, origin) = maker(other, given);
    let policy = ObjectRef::namespaced(Kind::NetworkPolicy, &near.policy.key);
    let aside = [&object, &policy];
    let (wanted_uses, found_uses) = (
        evidence::uses(given, key, wanted, &aside),
        evidence::uses(given, key, found, &aside),
    );
    if wanted_uses <= found_uses {
        return None;
    }
    // A label of the pod's own beside others that have the wanted one: it was never meant.
    let others = case.lab.objects.pods.values();
    let mut others = others.filter(|pod| maker(pod, given).0 != object);
    if found_uses > 0 && others.any(|pod| pod.labels.get(key) == Some(&**wanted)) {
        return None;
    }
    let place = case.origins.text(near.origin);
    let says = format!(
        "its pods have {key}={found}; {policy} ({place}) allows {key}={wanted}, as others call it too"
    );
    let requirement = Requirement::Is(Arc::clone(key), Arc::clone(wanted));
    let repaired = case.repair(|world| service::relabel(world, &object, &[requirement]));
    Some(
        Finding::of(code, &object, origin)
            .saying(says, format!("give the pods the label {key}={wanted}"))
            .repaired(repaired),
    )
}
