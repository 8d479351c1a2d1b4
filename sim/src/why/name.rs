//! Names that were not found: the query or its answer was lost, or the name is not there.

use std::time::Duration;

use podwire_models::api::pod::DnsPolicy;
use podwire_models::api::{Kind, ObjectRef, Service};
use podwire_models::base::{Namespace, ObjectKey, OriginId, Time};
use podwire_models::control::dns::flavour::Flavour;
use podwire_models::wire::{Code, Head, RecordData, RecordType, Transport};

use super::{Case, Finding, machine, maker, pod_spec, policy, service};
use crate::engine::dice::Seeded;
use crate::lab::Lab;
use crate::problem::suggestion;
use crate::scenario::address::Target;
use crate::trace::record::{Record, TraceRecorder};
use crate::traffic::ProbeResult;
use crate::traffic::coredns::Crash;

/// A look-up failed.
pub(super) fn unresolved(case: &Case<'_>) -> Option<Finding> {
    if let Some(finding) = not_asked(case) {
        return Some(finding);
    }
    if let Some(finding) = crashed(case) {
        return Some(finding);
    }
    if let Some((record, code)) = lost(case) {
        if let Some(finding) = node_cache(case, record, code) {
            return Some(finding);
        }
        if policy::decides(code) {
            return policy::denied(case, code);
        }
        if matches!(code, Code::SvcNoEndpoints | Code::SvcNoLocalEndpoints) {
            let kube_dns = kube_dns(case)?;
            return Some(service::unusable(case, kube_dns, Some(53)));
        }
        return Some(machine::at(case, record, code));
    }
    // An upstream that cannot be asked answers SERVFAIL to the last candidate.
    let code = case.attempted.code;
    matches!(code, Code::DnsNxDomain | Code::DnsServFail).then(|| unknown(case))?
}

/// The client used an address that the name no longer has.
pub(super) fn stale(case: &Case<'_>) -> Option<Finding> {
    let kept = case.attempted.kept.as_ref()?;
    let keeps = case.request.resolver.keeps?;
    let pod = case.client()?;
    let (object, origin) = maker(pod, &case.world.objects);
    let wanted = if kept.ip.is_ipv4() {
        RecordType::A
    } else {
        RecordType::Aaaa
    };
    let answer = case.lab.zone.answer(&kept.name, wanted);
    let now: Vec<String> = answer
        .answers
        .iter()
        .filter_map(|record| {
            let RecordData::Address(ip) = &record.data else {
                return None;
            };
            Some(ip.to_string())
        })
        .collect();
    let now = if now.is_empty() {
        "has none by now".to_owned()
    } else {
        format!("is {} by now", now.join(", "))
    };
    let had = case.lab.gone.get(&kept.ip).map_or_else(String::new, |pod| {
        format!("; pod {} that had {} is gone", pod.key, kept.ip)
    });
    let says = format!(
        "its program keeps answers for {keeps:?}: {} was {} {:?} before, and {now}{had}",
        kept.name, kept.ip, kept.age
    );
    let fix = "let it ask again when a connection fails, or keep answers for less time (networkaddress.cache.ttl of a JVM); or give the Service an address of its own (clusterIP)".to_owned();
    let mut labels = kept.name.split('.');
    let see = match (labels.next(), labels.next()) {
        (Some(service), Some(namespace)) => format!(
            "kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={service}"
        ),
        _ => format!(
            "kubectl -n {} exec {} -- getent hosts {}",
            pod.key.namespace, pod.key.name, kept.name
        ),
    };
    Some(
        Finding::of(Code::DnsStaleAnswer, &object, origin)
            .saying(says, fix)
            .shown_by(see),
    )
}

/// Another resolver finds the name: what this one does otherwise is the cause.
pub(super) fn flavour(case: &Case<'_>) -> Option<Finding> {
    let (code, own) = (case.attempted.code, case.request.resolver.flavour);
    let ended = matches!(code, Code::DnsNoData | Code::DnsNxDomain);
    if !ended || !own.is_musl() {
        return None;
    }
    let mut request = case.request.clone();
    request.resolver.flavour = Flavour::Glibc;
    // A cluster of its own: in that of the attempt the sockets of its programs are open.
    let lab = Lab::build(case.world.objects.clone(), case.world.plan.clone());
    let source = lab.source(case.from).ok()?;
    let mut simulation = lab.start(Seeded::new(1), TraceRecorder::new());
    let limit = Time::ZERO + request.timeout + Duration::from_secs(60);
    let other = lab.attempt(&mut simulation, &source, &request, limit);
    if other.ok()?.result == ProbeResult::DnsFailure {
        return None;
    }
    let host = match &case.request.target {
        Target::Name { name, .. } | Target::Url { host: name, .. } => name.as_str(),
        Target::Service { .. }
        | Target::Pod { .. }
        | Target::Node { .. }
        | Target::Host { .. }
        | Target::Address { .. } => return None,
    };
    let dots = host.matches('.').count();
    let ndots = source.resolv_conf.ndots;
    let says = if code == Code::DnsNoData {
        let empty = answered_without_data(case).unwrap_or_else(|| "a name on the way".to_owned());
        format!(
            "its resolver is that of {own}: {empty} is there, but has no address (NODATA), and musl ends the search with that; glibc and Go go on to the next domain of the search list and find {host}"
        )
    } else {
        format!(
            "its resolver is that of {own}: {host} has {dots} dots, no fewer than ndots ({ndots}), so musl asks for it as it is only; glibc and Go then append the search list and find it"
        )
    };
    let fix = "ask for the full name with a dot at the end, or build the image on glibc".to_owned();
    let pod = case.client()?;
    let (object, origin) = maker(pod, &case.world.objects);
    Some(
        Finding::of(code, &object, origin)
            .saying(says, fix)
            .shown_by(format!(
                "kubectl -n {} exec {} -- ls /lib | grep ld-musl",
                pod.key.namespace, pod.key.name
            )),
    )
}

/// The last name that the servers know, and have no address for.
fn answered_without_data(case: &Case<'_>) -> Option<String> {
    let records = case.attempted.trace.records.iter().rev();
    records.into_iter().find_map(|record| {
        let Some(Head::Ip {
            says: Some(says), ..
        }) = &record.step.packet
        else {
            return None;
        };
        let name = says.split_whitespace().find(|word| word.ends_with('.'))?;
        says.ends_with("NOERROR 0").then(|| name.to_owned())
    })
}

/// A policy keeps a pod from `NodeLocal DNSCache`, whose pods have no addresses of their own.
fn node_cache(case: &Case<'_>, record: &Record, code: Code) -> Option<Finding> {
    let cache = case.lab.plan.site.dns.node_local?;
    let to = matches!(&record.step.packet, Some(Head::Ip { dst, .. }) if *dst == cache);
    let by = record.step.by.as_ref()?;
    let key = by.text.strip_prefix("NetworkPolicy/")?.split(": ").next()?;
    if !to || !policy::decides(code) {
        return None;
    }
    let key: ObjectKey = key.parse().ok()?;
    let written = case.world.objects.network_policies.get(&key)?;
    let object = ObjectRef::namespaced(Kind::NetworkPolicy, &key);
    let node = case.attempted.trace.names.node_at(&record.place)?;
    let says = format!(
        "it isolates the client for egress, and no policy has an ipBlock with {cache}, the server that the kubelet names: that is an address of {node} itself, where NodeLocal DNSCache listens. Its pods are on the host's network, so no podSelector ever matches them"
    );
    let fix = format!(
        "allow it by address: egress: [{{to: [{{ipBlock: {{cidr: {cache}/32}}}}], ports: [{{port: 53, protocol: UDP}}, {{port: 53, protocol: TCP}}]}}]"
    );
    let client = case.client()?;
    Some(
        Finding::of(code, &object, written.origin)
            .saying(says, fix)
            .shown_by(format!(
                "kubectl -n {} exec {} -- cat /etc/resolv.conf; kubectl -n kube-system get pods -l k8s-app=node-local-dns -o wide",
                client.key.namespace, client.key.name
            )),
    )
}

/// The name servers end by themselves.
fn crashed(case: &Case<'_>) -> Option<Finding> {
    let (key, crash) = case.lab.crashes.iter().next()?;
    let pod = case.lab.objects.pods.get(key)?;
    let (object, origin) = maker(pod, &case.world.objects);
    let dns = &case.lab.plan.site.dns;
    let (code, says, fix) = match crash.why {
        Crash::OutOfMemory => (
            Code::DnsOverload,
            format!(
                "its replicas are killed when more than {} questions wait, each works on one for {} ms, and those that are left get the questions of the others: {key} was killed {} times",
                dns.memory.unwrap_or(0),
                dns.service_time.as_millis(),
                crash.times
            ),
            "run more replicas with more memory, and ask less: lower ndots, full names with a dot at the end, NodeLocal DNSCache".to_owned(),
        ),
        Crash::Loop => (
            Code::DnsLoop,
            format!(
                "it forwards what it does not know to {}, the name server of its node's resolv.conf, and in its pod that is itself: the plugin loop ends it",
                dns.forwards_to_itself()?
            ),
            "let the kubelet's resolvConf name the file with the real servers (/run/systemd/resolve/resolv.conf), or name them in the Corefile".to_owned(),
        ),
    };
    let logs = format!("kubectl -n {} logs {} --previous", key.namespace, key.name);
    Some(
        Finding::of(code, &object, origin)
            .saying(says, fix)
            .shown_by(logs),
    )
}

fn kube_dns<'a>(case: &Case<'a>) -> Option<&'a Service> {
    let ips = case.lab.dns_ips();
    ips.first().and_then(|ip| case.lab.service_at(*ip))
}

/// The last packet to or from a name server that did not arrive.
fn lost<'a>(case: &Case<'a>) -> Option<(&'a Record, Code)> {
    case.attempted
        .trace
        .records
        .iter()
        .rev()
        .find_map(|record| {
            let code = record.step.action.ends_with()?;
            let Some(Head::Ip { transport, .. }) = &record.step.packet else {
                return None;
            };
            let ports = match transport {
                Transport::Udp(udp) => (udp.sport, udp.dport),
                Transport::Tcp(tcp) => (tcp.sport, tcp.dport),
                Transport::Sctp(_) | Transport::Icmp(_) => return None,
            };
            let about_names = ports.0 == 53 || ports.1 == 53;
            (code != Code::Ok && about_names).then_some((record, code))
        })
}

/// The pod does not ask the cluster's name servers at all.
fn not_asked(case: &Case<'_>) -> Option<Finding> {
    let pod = case.client()?;
    let (object, origin) = maker(pod, &case.world.objects);
    let policy = match pod.spec.dns_policy {
        DnsPolicy::Default => "Default",
        DnsPolicy::None => "None",
        DnsPolicy::ClusterFirst if pod.spec.host_network => "ClusterFirst with hostNetwork",
        DnsPolicy::ClusterFirst | DnsPolicy::ClusterFirstWithHostNet => return None,
    };
    let mut names = case.lab.dns_ips();
    names.extend(case.lab.cluster_dns());
    let own = pod
        .spec
        .dns_config
        .iter()
        .flat_map(|config| &config.nameservers);
    if own.into_iter().any(|ip| names.contains(ip)) {
        return None;
    }
    let says = format!(
        "its dnsPolicy is {policy}, so its pods ask the node's name servers, which know no Services"
    );
    let wanted = if pod.spec.host_network {
        DnsPolicy::ClusterFirstWithHostNet
    } else {
        DnsPolicy::ClusterFirst
    };
    let name = match wanted {
        DnsPolicy::ClusterFirstWithHostNet => "ClusterFirstWithHostNet",
        DnsPolicy::ClusterFirst | DnsPolicy::Default | DnsPolicy::None => "ClusterFirst",
    };
    let repaired = case.repair(|world| {
        let spec = pod_spec(world, &object);
        if let Some(spec) = spec {
            std::sync::Arc::make_mut(spec).dns_policy = wanted;
        }
    });
    Some(
        Finding::of(case.attempted.code, &object, origin)
            .saying(says, format!("set dnsPolicy to {name}"))
            .shown_by(format!(
                "kubectl -n {} exec {} -- cat /etc/resolv.conf",
                pod.key.namespace, pod.key.name
            ))
            .repaired(repaired),
    )
}

/// No Service has that name.
fn unknown(case: &Case<'_>) -> Option<Finding> {
    let host = match &case.request.target {
        Target::Name { name, .. } | Target::Url { host: name, .. } => name.as_str(),
        Target::Service { .. }
        | Target::Pod { .. }
        | Target::Node { .. }
        | Target::Host { .. }
        | Target::Address { .. } => return None,
    };
    let mut labels = host.split('.');
    let name = labels.next()?;
    let stated = labels.next();
    if labels.next().is_some_and(|third| third != "svc") {
        return None;
    }
    let own = case.client().map(|pod| &pod.key.namespace);
    let services = || case.lab.objects.services.values();
    let finding = |service: &Service, says: String, fix: String| {
        let object = ObjectRef::namespaced(Kind::Service, &service.key);
        Finding::of(Code::DnsNxDomain, &object, service.origin)
            .saying(says, fix)
            .shown_by(format!("kubectl get services -A | grep {name}"))
    };
    let in_namespace = |service: &&Service| match (stated, own) {
        (Some(stated), _) => service.key.namespace.as_str() == stated,
        (None, Some(own)) => service.key.namespace == *own,
        (None, None) => true,
    };
    if let Some(same) = services().find(|service| service.key.name.as_str() == name) {
        let asked = stated.map(str::to_owned);
        let asked = asked
            .or_else(|| own.map(Namespace::to_string))
            .unwrap_or_default();
        if same.key.namespace.as_str() == asked {
            let says = "the name server has not heard of it yet".to_owned();
            let fix = "wait until its watch has told it; clients should ask again".to_owned();
            return Some(finding(same, says, fix));
        }
        let says = format!(
            "it is in namespace {}, and the client looks for it in {asked}",
            same.key.namespace
        );
        let fix = format!("ask for {name}.{}", same.key.namespace);
        return Some(finding(same, says, fix));
    }
    let names: Vec<&str> = services()
        .filter(in_namespace)
        .map(|service| service.key.name.as_str())
        .collect();
    let near = suggestion(name, names);
    let mut candidates = services().filter(in_namespace);
    let Some((near, service)) = near.and_then(|near| {
        let service = candidates.find(|service| service.key.name.as_str() == near)?;
        Some((near, service))
    }) else {
        return missing(case, name, stated.or_else(|| own.map(Namespace::as_str))?);
    };
    let says = format!("no Service is called {name}; this one has the name most like it");
    let fix = format!("ask for {near}, or call the Service {name}");
    Some(finding(service, says, fix))
}

/// There is nothing of that name, nor of one like it.
fn missing(case: &Case<'_>, name: &str, namespace: &str) -> Option<Finding> {
    let namespace: Namespace = namespace.parse().ok()?;
    let mut services = case.lab.objects.services.keys();
    let exists = services.any(|key| key.namespace == namespace)
        || case
            .lab
            .objects
            .pods
            .keys()
            .any(|key| key.namespace == namespace);
    if !exists {
        return None;
    }
    let key = ObjectKey::new(namespace, name.parse().ok()?);
    let object = ObjectRef::namespaced(Kind::Service, &key);
    let says = format!("there is no Service {name} in namespace {}", key.namespace);
    let fix = "create it, or ask for a name that is there".to_owned();
    Some(
        Finding::of(case.attempted.code, &object, OriginId::NONE)
            .saying(says, fix)
            .shown_by(format!("kubectl -n {} get services", key.namespace)),
    )
}
