//! Packets that are too large for the way: the MTU of pods, what is put around their packets, and what a link carries.

use std::net::IpAddr;

use podwire_models::base::Family;
use podwire_models::base::OriginId;
use podwire_models::wire::{Code, DeciderKind, Head};

use super::{Case, Finding};
use crate::trace::record::Record;

/// A link carries less than what pods may send: either the pods' MTU or the link is to blame.
pub(super) fn too_large(case: &Case<'_>, record: &Record) -> Option<Finding> {
    let by = record.step.by.as_ref();
    let by = by.filter(|by| by.kind == DeciderKind::Wire)?;
    let carries = number(&by.text)?;
    let Some(Head::Ip { dst, says, .. }) = &record.step.packet else {
        return None;
    };
    let site = &case.lab.plan.site;
    let near = case.attempted.trace.names.node_at(&record.place)?;
    let far = machine(case, *dst)?;
    let tunnelled = says
        .as_deref()
        .is_some_and(|says| says.starts_with("vxlan"));
    let overhead = if tunnelled {
        site.cni.overhead(Family::of(*dst))
    } else {
        0
    };
    let usual = site
        .underlay
        .mtu
        .saturating_sub(site.cni.overhead(Family::of(*dst)));
    let pods = site.pod_mtu.unwrap_or(usual);
    let whole = pods + overhead;
    let around = match overhead {
        0 => String::new(),
        bytes => format!(", with the tunnel's {bytes} bytes around them {whole}"),
    };
    let fits = carries.saturating_sub(overhead);
    let link = format!("Link/{near}/{far}");
    let pods_are_wrong = site.pod_mtu.is_some_and(|mtu| mtu > usual);
    let (object, says) = if pods_are_wrong {
        let says = format!(
            "pods are told to send packets of up to {pods} bytes{around}, and the link between {near} and {far} carries {carries}: larger ones are lost without a word, small ones arrive"
        );
        ("Cluster//mtu".to_owned(), says)
    } else {
        let says = format!(
            "it carries packets of {carries} bytes, and pods send up to {pods}{around}: larger ones are lost without a word, small ones arrive"
        );
        (link, says)
    };
    let fix = format!(
        "set the MTU of pods to {fits}, or let the link between {near} and {far} carry {whole}"
    );
    let client = case.client();
    let kubectl = client.map(|pod| {
        let (namespace, name) = (&pod.key.namespace, &pod.key.name);
        format!("kubectl -n {namespace} exec {name} -- ip link show eth0")
    });
    Some(Finding {
        code: Code::MtuExceeded,
        object: Some(object),
        origin: OriginId::NONE,
        says,
        fix,
        kubectl,
        repaired: None,
    })
}

/// The only number in a text.
fn number(text: &str) -> Option<u32> {
    let mut words = text.split(|c: char| !c.is_ascii_digit());
    words.find_map(|word| word.parse().ok())
}

/// The machine behind an address of the underlay, or the node of the pod that has it.
fn machine(case: &Case<'_>, ip: IpAddr) -> Option<String> {
    let objects = &case.lab.objects;
    let mut nodes = objects.nodes.values();
    let node = nodes.find(|node| node.internal_ips.contains(&ip));
    let of_pod = || {
        let mut pods = objects.pods.values();
        let pod = pods.find(|pod| pod.pod_ips.contains(&ip))?;
        pod.node_name.as_ref().map(ToString::to_string)
    };
    let host = || {
        let mut hosts = case.lab.plan.site.hosts.iter();
        hosts
            .find(|host| host.ip == ip)
            .map(|host| host.name.to_string())
    };
    let node = node.map(|node| node.name.to_string());
    node.or_else(of_pod).or_else(host)
}
