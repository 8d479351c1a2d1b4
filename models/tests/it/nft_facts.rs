//! Tables of nftables that plugins make, and what they do to frames: `macspoofchk` of `bridge`, as libvirt and `ebtables` have it.

use podwire_models::base::Mac;
use podwire_models::cluster::Cluster;
use podwire_models::cluster::machine::Host;
use podwire_models::control::cni::plugin::{Answer, Call, Plugin};
use podwire_models::kernel::config::{Change, NewLinkKind};
use podwire_models::kernel::link::DeviceKind;
use podwire_models::kernel::netfilter::nft::Nft;
use podwire_models::wire::{Action, Code, L4, Transport, Udp};

use super::harness::Net;

/// A node with a container, and what a runtime calls.
struct Runtime {
    cluster: Cluster,
    host: Host,
}

impl Runtime {
    fn new() -> Self {
        let mut cluster = Cluster::default();
        let mut host = Host::new(cluster.add_netns("node"));
        let pod = cluster.add_netns("pod");
        host.paths.insert("/var/run/netns/pod".to_owned(), pod);
        Self { cluster, host }
    }

    fn call(&mut self, command: &str, plugin: Plugin, stdin: &str) -> Answer {
        let call = Call {
            command,
            container_id: "c0ffee",
            netns: "/var/run/netns/pod",
            ifname: "eth0",
            args: "",
            path: "/opt/cni/bin",
            stdin,
        };
        plugin.call(&call, &mut self.host.of(&mut self.cluster))
    }

    fn ruleset(&self) -> String {
        let node = self.cluster.netns(self.host.node).unwrap();
        let nft = node.netfilter.as_ref().and_then(|n| n.nft());
        nft.map_or_else(String::new, Nft::list)
    }
}

const CHECKED: &str = r#"{"cniVersion": "1.0.0", "name": "n", "type": "bridge", "bridge": "br0", "macspoofchk": true,
    "args": {"cni": {"mac": "02:00:00:00:00:07"}}, "ipam": {"type": "IPAM"}}"#;

/// The network configuration without addresses.
fn checked() -> String {
    CHECKED.replace(r#", "ipam": {"type": "IPAM"}"#, "")
}

#[test]
fn a_container_with_macspoofchk_has_its_chains_until_it_goes() {
    let mut runtime = Runtime::new();
    let added = runtime.call("ADD", Plugin::Bridge, &checked());
    assert_eq!(added.exit, 0, "{added:?}");
    let result = added.stdout.unwrap();
    let dev = result["interfaces"][1]["name"].as_str().unwrap();
    let base = "\tchain PREROUTING {
\t\ttype filter hook prerouting priority dstnat; policy accept;
";
    let wanted = format!(
        "table bridge nat {{
{base}\t\tiifname \"{dev}\" jump cni-br-iface-c0ffee-eth0 comment \"macspoofchk-c0ffee-eth0\"
\t}}

\tchain cni-br-iface-c0ffee-eth0 {{
\t\tjump cni-br-iface-c0ffee-eth0-mac comment \"macspoofchk-c0ffee-eth0\"
\t}}

\tchain cni-br-iface-c0ffee-eth0-mac {{
\t\tether saddr 02:00:00:00:00:07 return comment \"macspoofchk-c0ffee-eth0\"
\t\tdrop comment \"macspoofchk-c0ffee-eth0\"
\t}}
}}
"
    );
    assert_eq!(runtime.ruleset(), wanted);
    assert_eq!(runtime.call("DEL", Plugin::Bridge, &checked()).exit, 0);
    let left = format!("table bridge nat {{\n{base}\t}}\n}}\n");
    assert_eq!(runtime.ruleset(), left);
}

#[test]
fn what_a_failed_attachment_made_is_taken_away() {
    let mut runtime = Runtime::new();
    let wrong = CHECKED.replace("IPAM", "host-local");
    assert_eq!(runtime.call("ADD", Plugin::Bridge, &wrong).exit, 1);
    assert!(!runtime.ruleset().contains("c0ffee"));
}

/// A datagram from pod 1 to pod 2; returns whether it arrived.
fn says(net: &mut Net) -> bool {
    let udp = Transport::Udp(Udp {
        sport: 5000,
        dport: 53,
    });
    let packet = net.packet("10.0.0.2", "10.0.0.3", udp, 8);
    assert_eq!(net.send(1, packet), Ok(()));
    let arrived = !net.delivered.is_empty();
    net.delivered.clear();
    arrived
}

#[test]
fn frames_with_a_foreign_source_end_at_the_port_and_are_not_learned() {
    let mut net = Net::default();
    net.add("node/n");
    net.link(0, "br0", 1500, NewLinkKind::Bridge);
    for (pod, host) in [(2, "veth0"), (3, "veth1")] {
        let at = net.add(&format!("pod/{pod}"));
        net.veth((at, "eth0"), (0, host));
        net.master(0, host, "br0");
        net.addr(at, "eth0", &format!("10.0.0.{pod}/24"));
        net.listen(at, L4::Udp, 53);
    }
    let own = net.netns[1].device_named("eth0").unwrap().mac;
    let table = format!("iifname veth0 ether saddr != {own} drop");
    net.apply(0, &spoof_check(&table));
    assert!(says(&mut net));
    let foreign = Mac([2, 0, 0, 0, 0, 9]);
    let dev = "eth0".into();
    net.apply(1, &Change::SetMac { dev, mac: foreign });
    net.steps.clear();
    assert!(!says(&mut net));
    let dropped = |action: &Action| *action == Action::Dropped { code: Code::NfDrop };
    assert!(net.steps.iter().any(|(_, step)| dropped(&step.action)));
    let DeviceKind::Bridge(bridge) = &net.netns[0].device_named("br0").unwrap().kind else {
        panic!("a bridge");
    };
    assert!(!bridge.fdb.contains_key(&foreign));
}

fn spoof_check(rule: &str) -> Change {
    use podwire_models::kernel::netfilter::chain::{ChainPolicy, Hook};
    use podwire_models::kernel::netfilter::nft::{Base, BaseKind, NftCommand, NftFamily, TableId};
    let table = TableId::new(NftFamily::Bridge, "nat");
    let base = Base {
        kind: BaseKind::Filter,
        hook: Hook::Prerouting,
        priority: -300,
        policy: ChainPolicy::Accept,
    };
    Change::Nft(vec![
        NftCommand::AddTable {
            table: table.clone(),
            comment: None,
        },
        NftCommand::AddChain {
            table: table.clone(),
            chain: "PREROUTING".into(),
            base: Some(base),
            comment: None,
        },
        NftCommand::SetRules {
            table,
            chain: "PREROUTING".into(),
            rules: vec![rule.parse().unwrap()],
        },
    ])
}
