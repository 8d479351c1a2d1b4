//! Worlds in which one thing is turned, with the flows that show it: the kernel says what becomes of them.

use podwire_models::control::cni::Cni;

use super::worlds::{Flow, Stack, World, manifests, pod, service};

const A: &str = "node/node-a";
const B: &str = "node/node-b";
/// A pod, the node it is on, and a machine outside.
const CLIENTS: &[&str] = &["pod/shop/a1", "node/node-a", "host/browser"];
/// A pod on the other node, a Service on both, and node ports of both traffic policies.
const SERVERS: &[&str] = &[
    "pod/shop/b1:8080",
    "svc/shop/many:80",
    "node/node-a:30080",
    "node/node-b:30080",
    "node/node-b:30081",
];

/// What is turned: a name, the profile, and each change with the machine it is made on.
type Turned = (&'static str, Cni, &'static [(&'static str, &'static str)]);

const RULES: &[Turned] = &[
    (
        "new ones dropped while forwarded",
        Cni::Kindnet,
        &[(A, "filter -A FORWARD -m conntrack --ctstate NEW -j DROP")],
    ),
    (
        "new ones dropped, tunnel",
        Cni::FlannelVxlan,
        &[(B, "filter -A FORWARD -m conntrack --ctstate NEW -j DROP")],
    ),
    (
        "answers dropped while forwarded",
        Cni::Kindnet,
        &[(
            A,
            "filter -A FORWARD -m conntrack --ctstate ESTABLISHED -j DROP",
        )],
    ),
    (
        "reset on output",
        Cni::Kindnet,
        &[(
            A,
            "filter -A OUTPUT -p tcp -j REJECT --reject-with tcp-reset",
        )],
    ),
    (
        "reset while forwarded",
        Cni::Kindnet,
        &[(
            B,
            "filter -A FORWARD -p tcp -j REJECT --reject-with tcp-reset",
        )],
    ),
    (
        "dropped on output",
        Cni::Kindnet,
        &[(A, "filter -A OUTPUT -d {pod/shop/b1} -j DROP")],
    ),
    (
        "refused on input",
        Cni::Kindnet,
        &[(
            B,
            "filter -A INPUT -p udp -j REJECT --reject-with icmp-port-unreachable",
        )],
    ),
    (
        "error through NAT",
        Cni::Kindnet,
        &[(
            B,
            "filter -A FORWARD -d {pod/shop/b1} -j REJECT --reject-with icmp-host-prohibited",
        )],
    ),
    (
        "error through NAT and tunnel",
        Cni::FlannelVxlan,
        &[(
            B,
            "filter -A FORWARD -d {pod/shop/b1} -j REJECT --reject-with icmp-admin-prohibited",
        )],
    ),
    (
        "sent from the other node's address",
        Cni::Kindnet,
        &[(
            A,
            "nat -A POSTROUTING -d {pod/shop/b1} -j SNAT --to-source {node/node-b}",
        )],
    ),
    (
        "invalid ones dropped",
        Cni::Kindnet,
        &[
            (
                A,
                "nat -A POSTROUTING -d {pod/shop/b1} -j SNAT --to-source {node/node-b}",
            ),
            (
                B,
                "filter -A FORWARD -m conntrack --ctstate INVALID -j DROP",
            ),
        ],
    ),
    (
        "mangle drops",
        Cni::Kindnet,
        &[(A, "mangle -A PREROUTING -p udp -j DROP")],
    ),
    (
        "raw drops",
        Cni::Kindnet,
        &[(A, "raw -A PREROUTING -s {pod/shop/a1} -p tcp -j DROP")],
    ),
    (
        "everything masqueraded where it starts",
        Cni::Kindnet,
        &[(A, "nat -A POSTROUTING -j MASQUERADE")],
    ),
    (
        "everything masqueraded where it ends",
        Cni::Kindnet,
        &[(B, "nat -A POSTROUTING -j MASQUERADE --random-fully")],
    ),
    (
        "everything masqueraded, bridge",
        Cni::Bridge,
        &[(A, "nat -A POSTROUTING -j MASQUERADE")],
    ),
];

/// Sources that cannot be, and those that cannot come from there.
const MARTIANS: &[Turned] = &[
    (
        "sent from loopback",
        Cni::Kindnet,
        &[(
            A,
            "nat -A POSTROUTING -d {pod/shop/b1} -j SNAT --to-source 127.0.0.5",
        )],
    ),
    (
        "sent from this network",
        Cni::Kindnet,
        &[(
            A,
            "nat -A POSTROUTING -d {pod/shop/b1} -j SNAT --to-source 0.1.2.3",
        )],
    ),
    (
        "sent from multicast",
        Cni::Kindnet,
        &[(
            A,
            "nat -A POSTROUTING -d {pod/shop/b1} -j SNAT --to-source 224.0.0.5",
        )],
    ),
    (
        "sent from reserved",
        Cni::Kindnet,
        &[(
            A,
            "nat -A POSTROUTING -d {pod/shop/b1} -j SNAT --to-source 240.0.0.1",
        )],
    ),
    (
        "sent from everybody",
        Cni::Kindnet,
        &[(
            A,
            "nat -A POSTROUTING -d {pod/shop/b1} -j SNAT --to-source 255.255.255.255",
        )],
    ),
    (
        "sent from a broadcast",
        Cni::Kindnet,
        &[(
            A,
            "nat -A POSTROUTING -d {pod/shop/b1} -j SNAT --to-source 172.18.255.255",
        )],
    ),
    (
        "sent from nobody outside",
        Cni::Kindnet,
        &[(
            A,
            "nat -A POSTROUTING -d {pod/shop/b1} -j SNAT --to-source 203.0.113.77",
        )],
    ),
    (
        "sent from the other node's pods, strict",
        Cni::Kindnet,
        &[
            (
                A,
                "nat -A POSTROUTING -d {pod/shop/b1} -j SNAT --to-source 10.244.1.77",
            ),
            (B, "net.ipv4.conf.all.rp_filter=1"),
        ],
    ),
    (
        "sent from the other node's pods, loose",
        Cni::Kindnet,
        &[
            (
                A,
                "nat -A POSTROUTING -d {pod/shop/b1} -j SNAT --to-source 10.244.1.77",
            ),
            (B, "net.ipv4.conf.all.rp_filter=2"),
        ],
    ),
    (
        "sent from nowhere, loose",
        Cni::FlannelVxlan,
        &[
            (
                A,
                "nat -A POSTROUTING -d {pod/shop/b1} -j SNAT --to-source 192.0.2.77",
            ),
            (B, "net.ipv4.conf.all.rp_filter=2"),
        ],
    ),
    (
        "sent from the tunnel's pods, strict",
        Cni::FlannelVxlan,
        &[
            (
                A,
                "nat -A POSTROUTING -d {pod/shop/b1} -j SNAT --to-source 10.244.1.77",
            ),
            (B, "net.ipv4.conf.all.rp_filter=1"),
        ],
    ),
];

const SETTINGS: &[Turned] = &[
    (
        "a pod's packets live for one hop",
        Cni::Kindnet,
        &[("pod/shop/a1", "net.ipv4.ip_default_ttl=1")],
    ),
    (
        "a pod's packets live for two hops",
        Cni::FlannelVxlan,
        &[("pod/shop/a1", "net.ipv4.ip_default_ttl=2")],
    ),
    (
        "a server's packets live for one hop",
        Cni::Kindnet,
        &[("pod/shop/b1", "net.ipv4.ip_default_ttl=1")],
    ),
    (
        "outside packets live for two hops",
        Cni::Kindnet,
        &[("host/browser", "net.ipv4.ip_default_ttl=2")],
    ),
    (
        "rp_filter loose",
        Cni::Kindnet,
        &[
            (A, "net.ipv4.conf.all.rp_filter=2"),
            (B, "net.ipv4.conf.all.rp_filter=2"),
        ],
    ),
    (
        "rp_filter strict, tunnel",
        Cni::FlannelVxlan,
        &[
            (A, "net.ipv4.conf.all.rp_filter=1"),
            (B, "net.ipv4.conf.all.rp_filter=1"),
        ],
    ),
    (
        "no forwarding where it starts",
        Cni::Kindnet,
        &[(A, "net.ipv4.ip_forward=0")],
    ),
    (
        "one device does not forward",
        Cni::Kindnet,
        &[(A, "net.ipv4.conf.eth0.forwarding=0")],
    ),
    (
        "no forwarding, tunnel",
        Cni::FlannelVxlan,
        &[(B, "net.ipv4.ip_forward=0")],
    ),
    ("a node's device down", Cni::Kindnet, &[(B, "down eth0")]),
    (
        "the tunnel's device down",
        Cni::FlannelVxlan,
        &[(A, "down flannel.1")],
    ),
    (
        "a pod's device down",
        Cni::Kindnet,
        &[("pod/shop/b1", "down eth0")],
    ),
];

/// Translations made by hand, to and from ports that nobody has.
const BY_HAND: &[Turned] = &[
    (
        "translated by hand",
        Cni::Kindnet,
        &[(
            A,
            "nat -A PREROUTING -p tcp -m tcp --dport 8099 -j DNAT --to-destination {pod/shop/b2}:8080",
        )],
    ),
    (
        "translated by hand, bridge",
        Cni::Bridge,
        &[(
            A,
            "nat -A PREROUTING -p udp -m udp --dport 8099 -j DNAT --to-destination {pod/shop/b2}:8080",
        )],
    ),
    (
        "translated by hand on output",
        Cni::Kindnet,
        &[(
            A,
            "nat -A OUTPUT -p udp -m udp --dport 8099 -j DNAT --to-destination {pod/shop/b2}:8080",
        )],
    ),
    (
        "translated to the loopback, tcp",
        Cni::Kindnet,
        &[(
            A,
            "nat -A PREROUTING -p tcp -m tcp --dport 8099 -j DNAT --to-destination 127.0.0.1:9090",
        )],
    ),
    (
        "translated to the loopback, udp",
        Cni::Kindnet,
        &[(
            A,
            "nat -A PREROUTING -p udp -m udp --dport 8099 -j DNAT --to-destination 127.0.0.1:9090",
        )],
    ),
    (
        "translated to the loopback, forbidden",
        Cni::Kindnet,
        &[
            (
                A,
                "nat -A PREROUTING -p tcp -m tcp --dport 8099 -j DNAT --to-destination 127.0.0.1:9090",
            ),
            (A, "net.ipv4.conf.all.route_localnet=0"),
        ],
    ),
];

/// Addresses from outside, ports of nodes, Services that choose otherwise.
fn ways_in() -> String {
    let mut text = manifests();
    let port = "{port: 80, targetPort: 8080}";
    text += &service("ext", "many", "externalIPs: [198.51.100.5]", port);
    text += &service(
        "cut",
        "far",
        "externalIPs: [198.51.100.6]\n  externalTrafficPolicy: Local\n  type: NodePort",
        port,
    );
    text += &service(
        "lb",
        "many",
        "type: LoadBalancer\n  loadBalancerSourceRanges: [10.244.0.0/24]",
        port,
    );
    text += "status: {loadBalancer: {ingress: [{ip: 198.51.100.9}]}}\n";
    text += &pod("a9", "node-a", "door", false, 8181).replace(
        "containerPort: 8181, ",
        "containerPort: 8181, hostPort: 7070, ",
    );
    text
}

pub(super) fn worlds() -> Vec<World> {
    let world = |(name, cni, changes): &Turned, from: &[&str], to: &[&str]| World {
        name: (*name).to_owned(),
        cni: *cni,
        stack: Stack::V4,
        hairpin: true,
        one_by_one: false,
        manifests: manifests(),
        changes: changes
            .iter()
            .map(|(at, what)| ((*at).to_owned(), (*what).to_owned()))
            .collect(),
        flows: flows(from, to),
    };
    let mut all = Vec::new();
    for turned in RULES.iter().chain(SETTINGS).chain(MARTIANS) {
        let mut world = world(turned, CLIENTS, SERVERS);
        // The router outside knows no way to pods of the bridge, and says so only a few times.
        world
            .flows
            .retain(|flow| flow.from != "host/browser" || flow.to.contains("node/"));
        all.push(world);
    }
    let closed = ["pod/shop/b1:8099", "pod/shop/a2:8099", "pod/shop/b2:8080"];
    for turned in BY_HAND {
        all.push(world(turned, &["pod/shop/a1", "node/node-a"], &closed));
    }
    let doors = [
        "198.51.100.5:80",
        "198.51.100.6:80",
        "198.51.100.9:80",
        "node/node-a:7070",
        "svc/shop/ext:80",
    ];
    for (name, cni) in [
        ("ways in, kindnet", Cni::Kindnet),
        ("ways in, tunnel", Cni::FlannelVxlan),
        ("ways in, bridge", Cni::Bridge),
    ] {
        let turned = (name, cni, &[] as &[(&str, &str)]);
        let from = ["pod/shop/a1", "pod/shop/b2", "node/node-a", "node/node-b"];
        let mut world = world(&turned, &from, &doors);
        world.manifests = ways_in();
        // Who is not translated leaves for the router, which tells a source only five times that there is no way.
        world.flows.retain(|flow| flow.proto == "tcp");
        all.push(world);
    }
    all
}

/// Everybody of `from` to everybody of `to`, over both protocols.
fn flows(from: &[&str], to: &[&str]) -> Vec<Flow> {
    let mut all = Vec::new();
    for from in from {
        for to in to {
            for proto in ["tcp", "udp"] {
                all.push(Flow::new(from, proto, to));
            }
        }
    }
    all
}
