//! How the real plugin tells of rules that are missing: the arguments it gives to `iptables`, as Go prints a list of lists.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::{Forwarding, MULTIPORT, PortMapping, Snat, trim_comment};
use crate::base::{Family, Protocol};

const fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

fn list(rules: &[String]) -> String {
    let each: Vec<String> = rules.iter().map(|rule| format!("[{rule}]")).collect();
    format!("[{}]", each.join(" "))
}

/// The rules of a container's chain.
pub(super) fn container_rules(address: IpNet, wanted: &Forwarding<'_>) -> String {
    let family = Family::of_net(address);
    let fits = |mapping: &&PortMapping| {
        mapping
            .host_ip
            .is_none_or(|host_ip| Family::of(host_ip) == family)
    };
    let mut rules = Vec::new();
    for mapping in wanted.mappings.iter().filter(fits) {
        let mut base = format!(
            "-p {} --dport {}",
            name(mapping.protocol),
            mapping.host_port
        );
        if let Some(host_ip) = mapping.host_ip.filter(|ip| !ip.is_unspecified()) {
            base = format!("{base} -d {host_ip}");
        }
        let mark = wanted.marking.chain();
        let source = match wanted.snat {
            Snat::Never => None,
            Snat::All => Some(family.any()),
            Snat::Needed => Some(address),
        };
        rules.extend(source.map(|source| format!("{base} -s {source} -j {mark}")));
        if wanted.snat == Snat::Needed && family == Family::V4 {
            rules.push(format!("{base} -s 127.0.0.1 -j {mark}"));
        }
        let to = SocketAddr::new(address.addr(), mapping.container_port);
        rules.push(format!("{base} -j DNAT --to-destination {to}"));
    }
    list(&rules)
}

/// The rules that lead to it, without that; `conditions` in the words of the configuration.
pub(super) fn entries(wanted: &Forwarding<'_>, conditions: &[String]) -> String {
    let (network, id) = (wanted.network, wanted.container_id);
    let comment = trim_comment(&format!("dnat name: \"{network}\" id: \"{id}\""));
    let mut rules = Vec::new();
    for protocol in [Protocol::Sctp, Protocol::Tcp, Protocol::Udp] {
        let of = wanted.mappings.iter().filter(|m| m.protocol == protocol);
        let ports: Vec<String> = of.map(|m| m.host_port.to_string()).collect();
        for ports in ports.chunks(MULTIPORT) {
            let (protocol, ports) = (name(protocol), ports.join(","));
            let mut rule = format!(
                "-m comment --comment {comment} -m multiport -p {protocol} --destination-ports {ports}"
            );
            for word in conditions {
                rule = rule + " " + word;
            }
            rules.push(rule);
        }
    }
    list(&rules)
}
