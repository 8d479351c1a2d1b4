//! Worlds in which something does not fit: datagrams and segments larger than a link on their way takes.

use podwire::traffic::probe::Discovery;
use podwire_models::control::cni::Cni;

use super::worlds::{Flow, Stack, World, manifests};

/// What is turned: a name, the families, the profile, each change with the machine it is made on, clients, targets.
struct Turned {
    name: &'static str,
    stack: Stack,
    cni: Cni,
    changes: &'static [(&'static str, &'static str)],
    from: &'static [&'static str],
    to: &'static [&'static str],
}

const POD: &[&str] = &["pod/shop/a1"];
const EVERYBODY: &[&str] = &["pod/shop/a1", "node/node-a", "host/browser"];
const SERVERS: &[&str] = &["pod/shop/b2:8080", "node/node-a:30084"];
const NARROW: (&str, &str) = ("node/node-b", "{dev:pod/shop/b2} mtu 1400");

const TURNED: &[Turned] = &[
    Turned {
        name: "MTU, as it is",
        stack: Stack::V4,
        cni: Cni::Kindnet,
        changes: &[],
        from: EVERYBODY,
        to: SERVERS,
    },
    Turned {
        name: "MTU, narrow behind a node",
        stack: Stack::V4,
        cni: Cni::Kindnet,
        changes: &[NARROW],
        from: EVERYBODY,
        to: SERVERS,
    },
    Turned {
        name: "MTU, tunnel",
        stack: Stack::V4,
        cni: Cni::FlannelVxlan,
        changes: &[],
        from: EVERYBODY,
        to: SERVERS,
    },
    Turned {
        name: "MTU, narrow tunnel",
        stack: Stack::V4,
        cni: Cni::FlannelVxlan,
        changes: &[("node/node-a", "flannel.1 mtu 1300")],
        from: EVERYBODY,
        to: SERVERS,
    },
    Turned {
        name: "MTU, black hole",
        stack: Stack::V4,
        cni: Cni::Kindnet,
        changes: &[NARROW, ("node/node-b", "filter -A OUTPUT -p icmp -j DROP")],
        from: EVERYBODY,
        to: SERVERS,
    },
    Turned {
        name: "MTU, narrow port of the switch",
        stack: Stack::V4,
        cni: Cni::Kindnet,
        changes: &[
            ("underlay", "net.bridge.bridge-nf-call-iptables=0"),
            ("underlay", "n1 mtu 1400"),
        ],
        from: POD,
        to: SERVERS,
    },
    Turned {
        name: "MTU, narrow for who sends",
        stack: Stack::V4,
        cni: Cni::Kindnet,
        changes: &[("pod/shop/a1", "eth0 mtu 1400")],
        from: POD,
        to: SERVERS,
    },
    Turned {
        name: "MTU, narrow for who takes it",
        stack: Stack::V4,
        cni: Cni::Kindnet,
        changes: &[("node/node-a", "{dev:pod/shop/a1} mtu 1400")],
        from: POD,
        to: SERVERS,
    },
    Turned {
        name: "MTU, bridge",
        stack: Stack::V4,
        cni: Cni::Bridge,
        changes: &[("pod/shop/a1", "eth0 mtu 1400")],
        from: EVERYBODY,
        to: SERVERS,
    },
    Turned {
        name: "MTU, narrow port of a bridge",
        stack: Stack::V4,
        cni: Cni::Bridge,
        // A bridge's own MTU follows those of its ports.
        changes: &[
            ("node/node-a", "{dev:pod/shop/a2} mtu 1400"),
            ("node/node-a", "cni0 mtu 1400"),
        ],
        from: EVERYBODY,
        to: &["pod/shop/a2:8080"],
    },
    Turned {
        name: "MTU, IPv6, as it is",
        stack: Stack::V6,
        cni: Cni::Kindnet,
        changes: &[],
        from: EVERYBODY,
        to: SERVERS,
    },
    Turned {
        name: "MTU, IPv6, narrow behind a node",
        stack: Stack::V6,
        cni: Cni::Kindnet,
        changes: &[NARROW],
        from: EVERYBODY,
        to: SERVERS,
    },
    Turned {
        name: "MTU, IPv6, black hole",
        stack: Stack::V6,
        cni: Cni::Kindnet,
        changes: &[
            NARROW,
            (
                "node/node-b",
                "filter -A OUTPUT -p icmpv6 -m icmp6 --icmpv6-type 2 -j DROP",
            ),
        ],
        from: EVERYBODY,
        to: SERVERS,
    },
];

pub(super) fn worlds() -> Vec<World> {
    let world = |turned: &Turned| {
        let mut flows = Vec::new();
        for from in turned.from {
            for to in turned.to {
                // The kernel does not forget what it learned about its own IPv6 addresses when it is told to.
                let remembered = turned.stack == Stack::V6
                    && from.starts_with("node/")
                    && to.starts_with("node/");
                let header = if turned.stack == Stack::V4 { 28 } else { 48 };
                for (packet, discovery) in [
                    (1300, Discovery::Do),
                    (1301, Discovery::Want),
                    (1400, Discovery::Do),
                    (1401, Discovery::Want),
                    (1401, Discovery::Dont),
                    (1451, Discovery::Do),
                    (1500, Discovery::Want),
                    (1501, Discovery::Want),
                    (1501, Discovery::Do),
                    (4000, Discovery::Dont),
                ] {
                    if remembered {
                        continue;
                    }
                    let flow = Flow::new(from, "udp", to);
                    flows.push(flow.carrying(packet - header, discovery));
                }
                for bytes in [1200, 9000] {
                    flows.push(Flow::new(from, "tcp", to).carrying(bytes, Discovery::Want));
                }
            }
        }
        World {
            name: turned.name.to_owned(),
            cni: turned.cni,
            stack: turned.stack,
            hairpin: true,
            one_by_one: true,
            manifests: manifests(),
            changes: turned
                .changes
                .iter()
                .map(|(at, what)| ((*at).to_owned(), (*what).to_owned()))
                .collect(),
            flows,
        }
    };
    TURNED.iter().map(world).collect()
}
