//! The important worlds once more over IPv6, on clusters with one family and with two.

use podwire_models::base::Family;
use podwire_models::control::cni::Cni;

use super::worlds::{Flow, Stack, World, everywhere, manifests, refused};

const A: &str = "node/node-a";
const B: &str = "node/node-b";

/// What is turned: a name, the families, the profile, and each change with the machine it is made on.
type Turned = (
    &'static str,
    Stack,
    Cni,
    &'static [(&'static str, &'static str)],
);

/// With all flows.
const PROFILES: &[Turned] = &[
    ("IPv6, kindnet", Stack::V6, Cni::Kindnet, &[]),
    ("IPv6, bridge", Stack::V6, Cni::Bridge, &[]),
    ("IPv6 of two, kindnet", Stack::Dual, Cni::Kindnet, &[]),
    ("IPv6 of two, calico", Stack::Dual, Cni::Calico, &[]),
    ("IPv6, bridge, hairpin off", Stack::V6, Cni::Bridge, &[]),
    (
        "IPv6, bridge, nf-call off",
        Stack::V6,
        Cni::Bridge,
        &[
            (A, "net.bridge.bridge-nf-call-ip6tables=0"),
            (B, "net.bridge.bridge-nf-call-ip6tables=0"),
        ],
    ),
    (
        "IPv6, forwarding off",
        Stack::V6,
        Cni::Kindnet,
        &[(B, "net.ipv6.conf.all.forwarding=0")],
    ),
    (
        "IPv6, forward drops",
        Stack::V6,
        Cni::Bridge,
        &[(B, "filter -A FORWARD -p tcp -j DROP")],
    ),
];

/// With the flows that show one thing.
const RULES: &[Turned] = &[
    (
        "IPv6, reset on output",
        Stack::V6,
        Cni::Kindnet,
        &[(
            A,
            "filter -A OUTPUT -p tcp -j REJECT --reject-with tcp-reset",
        )],
    ),
    (
        "IPv6, reset while forwarded",
        Stack::V6,
        Cni::Kindnet,
        &[(
            B,
            "filter -A FORWARD -p tcp -j REJECT --reject-with tcp-reset",
        )],
    ),
    (
        "IPv6, refused on input",
        Stack::Dual,
        Cni::Kindnet,
        &[(
            B,
            "filter -A INPUT -p udp -j REJECT --reject-with icmp6-port-unreachable",
        )],
    ),
    (
        "IPv6, error through NAT",
        Stack::V6,
        Cni::Kindnet,
        &[(
            B,
            "filter -A FORWARD -d {pod/shop/b1} -j REJECT --reject-with icmp6-adm-prohibited",
        )],
    ),
    (
        "IPv6, sent from the other node's address",
        Stack::V6,
        Cni::Kindnet,
        &[(
            A,
            "nat -A POSTROUTING -d {pod/shop/b1} -j SNAT --to-source {node/node-b}",
        )],
    ),
    (
        "IPv6, everything masqueraded",
        Stack::Dual,
        Cni::Kindnet,
        &[(A, "nat -A POSTROUTING -j MASQUERADE")],
    ),
    (
        "IPv6, new ones dropped while forwarded",
        Stack::V6,
        Cni::Kindnet,
        &[(A, "filter -A FORWARD -m conntrack --ctstate NEW -j DROP")],
    ),
    (
        "IPv6, a node's device down",
        Stack::V6,
        Cni::Kindnet,
        &[(B, "down eth0")],
    ),
    (
        "IPv6, a pod's device down",
        Stack::V6,
        Cni::Kindnet,
        &[("pod/shop/b1", "down eth0")],
    ),
    (
        "IPv6, translated by hand",
        Stack::V6,
        Cni::Kindnet,
        &[(
            A,
            "nat -A PREROUTING -p tcp -m tcp --dport 8099 -j DNAT --to-destination [{pod/shop/b2}]:8080",
        )],
    ),
];

/// What `REJECT` can say.
const REFUSALS: &[&str] = &[
    "icmp6-no-route",
    "icmp6-adm-prohibited",
    "icmp6-port-unreachable",
    "icmp6-addr-unreachable",
    "icmp6-policy-fail",
    "icmp6-reject-route",
];

pub(super) fn worlds() -> Vec<World> {
    let world = |(name, stack, cni, changes): &Turned| World {
        name: (*name).to_owned(),
        cni: *cni,
        stack: *stack,
        hairpin: !name.ends_with("hairpin off"),
        one_by_one: false,
        manifests: manifests(),
        changes: changes
            .iter()
            .map(|(at, what)| ((*at).to_owned(), (*what).to_owned()))
            .collect(),
        flows: everywhere(Family::V6),
    };
    let mut all: Vec<World> = PROFILES.iter().map(world).collect();
    for turned in RULES {
        let mut world = world(turned);
        let to = [
            "pod/shop/b1:8080",
            "pod/shop/b1:8099",
            "svc/shop/many:80",
            "node/node-a:30080",
            "node/node-b:30081",
        ];
        let shows = |flow: &Flow| {
            ["pod/shop/a1", A, "host/browser"].contains(&&*flow.from) && to.contains(&&*flow.to)
        };
        world.flows.retain(shows);
        all.push(world);
    }
    for with in REFUSALS {
        let mut world = world(&(with, Stack::V6, Cni::Kindnet, &[]));
        for chain in ["FORWARD", "OUTPUT"] {
            let rule =
                format!("filter -A {chain} -d {{pod/shop/b1}} -j REJECT --reject-with {with}");
            world.changes.push((A.to_owned(), rule));
        }
        world.flows.retain(refused);
        all.push(world);
    }
    all
}
