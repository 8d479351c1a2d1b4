//! Pods come and go for ten minutes on fifty nodes while everything breaks that stories can break, and nothing that is true of
//! every cluster becomes untrue. Each seed draws which families of faults there are at all. Attempts are few, and most faults of a
//! seed touch no packet: what each does to packets is tested elsewhere.
//!
//! `PODWIRE_CHURN_SEED=17` runs that seed alone and says more, `PODWIRE_CHURN_SEEDS=1000` so many.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use podwire::engine::dice::Seeded;
use podwire::scenario;
use podwire::story::{Ran, resolve, run};
use podwire_models::base::{Dice as _, Purpose, Stream};

/// How many seeds run where nobody says otherwise.
const SEEDS: u64 = 24;
const NODES: u64 = 50;
/// Seconds of simulated time.
const LASTS: u64 = 600;

struct Draw(Seeded);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0.pick(Stream::new(Purpose::Churn, u64::MAX), n)
    }

    fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }

    fn node(&mut self) -> String {
        format!("n{:02}", self.below(NODES))
    }

    fn two_nodes(&mut self) -> (String, String) {
        let one = self.below(NODES);
        let other = (one + 1 + self.below(NODES - 1)) % NODES;
        (format!("n{one:02}"), format!("n{other:02}"))
    }
}

/// A family of faults: how one of it is written.
type Family = (&'static str, fn(&mut Draw) -> String);

/// All families there are: the rows of the table of faults in `docs/scenario.md`. Delay, loss, bandwidth and MTU are settings of the
/// underlay there, and drawn as such.
const FAMILIES: [Family; 15] = [
    ("LinkDown", |draw| {
        let (one, other) = draw.two_nodes();
        let one_way = draw.percent(50);
        format!("LinkDown(\"{one}\", \"{other}\", one_way: {one_way})")
    }),
    ("NodeDown", |draw| format!("NodeDown(\"{}\")", draw.node())),
    ("PodKill", |draw| {
        format!("PodKill(\"pod/shop/store-{}\")", draw.below(STORES))
    }),
    ("Sysctl", |draw| {
        let (name, value) = draw.of(&[
            ("net.ipv4.ip_forward", "0"),
            ("net.netfilter.nf_conntrack_max", "3"),
            ("net.ipv4.conf.all.rp_filter", "1"),
            ("net.ipv4.ip_default_ttl", "2"),
            ("net.netfilter.nf_conntrack_tcp_loose", "0"),
        ]);
        format!("Sysctl(\"node/{}\", \"{name}\", \"{value}\")", draw.node())
    }),
    ("ForwardDrop", |draw| {
        format!("ForwardDrop(\"{}\")", draw.node())
    }),
    ("HairpinOff", |draw| {
        format!("HairpinOff(\"{}\")", draw.node())
    }),
    ("RouteLost", |draw| {
        let (to, node) = (draw.below(NODES), draw.node());
        // A node has no route to its own range.
        let to = if node == format!("n{to:02}") {
            (to + 1) % NODES
        } else {
            to
        };
        format!("RouteLost(\"{node}\", \"10.244.{to}.0/24\")")
    }),
    ("CniMissing", |draw| {
        format!("CniMissing(\"{}\")", draw.node())
    }),
    ("IpLeak", |draw| format!("IpLeak(\"{}\")", draw.node())),
    ("KubeProxyDown", |draw| {
        format!("KubeProxyDown(\"{}\")", draw.node())
    }),
    ("NoConntrackCleanup", |draw| {
        format!("NoConntrackCleanup(\"{}\")", draw.node())
    }),
    ("Duplicate", |draw| {
        let (one, other) = draw.two_nodes();
        let count = 1 + draw.below(3);
        format!("Duplicate(from: \"{one}\", to: \"{other}\", after: \"5ms\", count: {count})")
    }),
    ("SnatPorts", |draw| {
        format!("SnatPorts(\"{}\", \"40000-40003\")", draw.node())
    }),
    ("ConntrackRace", |draw| {
        format!("ConntrackRace(\"{}\")", draw.node())
    }),
    ("Acl", |draw| {
        let (from, l4) = (draw.node(), draw.of(&["tcp", "udp"]));
        format!("Acl(from: \"{from}\", protocol: \"{l4}\")")
    }),
];

/// Pods with names of their own, that faults can name.
const STORES: u64 = 30;
/// Workloads: kind, name, replicas. Together they have 500 pods.
const WORKLOADS: [(&str, &str, u64); 11] = [
    ("Deployment", "web", 60),
    ("Deployment", "cart", 60),
    ("Deployment", "api", 50),
    ("Deployment", "search", 50),
    ("Deployment", "users", 50),
    ("Deployment", "mail", 40),
    ("Deployment", "ads", 40),
    ("Deployment", "tax", 40),
    ("ReplicaSet", "batch", 30),
    ("StatefulSet", "store", STORES),
    ("DaemonSet", "agent", NODES),
];

fn objects(draw: &mut Draw) -> String {
    let mut text = String::new();
    // Rules that differ from node to node are much more work.
    let local = draw.percent(3);
    for (kind, name, replicas) in WORKLOADS {
        let replicas = match kind {
            "DaemonSet" => String::new(),
            _ => format!("  replicas: {replicas}\n"),
        };
        let more = draw.of(&[
            "",
            ", readinessProbe: {tcpSocket: {port: 8080}, initialDelaySeconds: 1}",
            ", lifecycle: {preStop: {sleep: {seconds: 2}}}",
        ]);
        writeln!(
            text,
            "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n{replicas}  \
             selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec: \
             {{containers: [{{name: main, image: x, ports: [{{containerPort: 8080}}, {{containerPort: 5353, protocol: \
             UDP}}]{more}}}]}}\n---"
        )
        .unwrap();
        let sort = draw.of(&[
            "",
            "",
            "sessionAffinity: ClientIP, ",
            "type: NodePort, ",
            "publishNotReadyAddresses: true, ",
        ]);
        let sort = if local && name == "api" {
            "internalTrafficPolicy: Local, "
        } else {
            sort
        };
        // Some Services have a port more.
        let udp = if draw.percent(30) {
            ", {name: udp, port: 53, protocol: UDP, targetPort: 5353}"
        } else {
            ""
        };
        writeln!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{sort}selector: {{app: \
             {name}}}, ports: [{{name: tcp, port: 80, targetPort: 8080}}{udp}]}}\n---"
        )
        .unwrap();
    }
    if draw.percent(20) {
        text += "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: carts, namespace: shop}\nspec: \
                 {podSelector: {matchLabels: {app: cart}}, ingress: [{from: [{podSelector: {matchLabels: {app: \
                 web}}}]}]}\n---\n";
    }
    text
}

/// The scenario of a seed, and the families of faults it has.
fn drawn(seed: u64) -> (String, Vec<&'static str>) {
    let mut draw = Draw(Seeded::new(seed));
    let profile = draw.of(&[
        "kindnet",
        "bridge",
        "flannel-vxlan",
        "flannel-host-gw",
        "calico",
    ]);
    let bridges = matches!(profile, "bridge" | "flannel-vxlan" | "flannel-host-gw");
    let nodes: Vec<String> = (0..NODES)
        .map(|n| format!("Node(name: \"n{n:02}\")"))
        .collect();
    let nodes = nodes.join(", ");
    let (one, other) = draw.two_nodes();
    let underlay = match draw.below(8) {
        0 => "loss: \"1%\"".to_owned(),
        1 => "latency: \"2ms\"".to_owned(),
        2 => "bandwidth: \"100Mbit\"".to_owned(),
        3 => format!("links: [Link(from: \"{one}\", to: \"{other}\", mtu: 1000)]"),
        _ => String::new(),
    };
    let objects = objects(&mut draw);
    let mut timeline = format!("At(\"1s\", Churn(\"50/m\", \"{}s\")),\n", LASTS - 10);
    for n in 0..8 {
        let from = draw.of(&["deploy/shop/web", "deploy/shop/api", "sts/shop/store"]);
        let (_, to, _) = draw.of(&WORKLOADS);
        let (port, protocol) = draw.of(&[(80, "tcp"), (80, "tcp"), (53, "udp")]);
        let every = 8 + draw.below(12);
        let target = match draw.below(5) {
            4 => format!("host/out:{port}"),
            0 => format!("{to}.shop:{port}"),
            1 => format!(
                "pod/shop/store-{}:{}",
                draw.below(STORES),
                if port == 80 { 8080 } else { 5353 }
            ),
            _ => format!("svc/shop/{to}:{port}"),
        };
        let payload = draw.of(&["100B", "100B", "3000B"]);
        let start = 1 + draw.below(every);
        writeln!(
            timeline,
            "Every(\"{every}s\", from: \"{start}s\", until: \"{}s\", Probe(id: \"p{n}\", from: \"{from}\", to: \"{target}\", \
             protocol: \"{protocol}\", payload: \"{payload}\", timeout: \"3s\")),",
            LASTS - 20
        )
        .unwrap();
    }
    let mut families = Vec::new();
    for (name, fault) in FAMILIES {
        // Only bridges have hairpins.
        if draw.percent(25) || (name == "HairpinOff" && !bridges) {
            continue;
        }
        families.push(name);
        for n in 0..=draw.below(3) {
            let (at, lasts) = (draw.below(LASTS * 900), 200 + draw.below(60_000));
            let fault = fault(&mut draw);
            writeln!(
                timeline,
                "At(\"{at}ms\", Fault(id: \"{name}{n}\", {fault}, for: \"{lasts}ms\")),"
            )
            .unwrap();
        }
    }
    for _ in 0..draw.below(4) {
        let at = 10 + draw.below(LASTS - 60);
        let step = draw.of(&[
            "Rollout(\"deploy/shop/api\")",
            "Scale(\"deploy/shop/web\", 140)",
            "Scale(\"deploy/shop/web\", 160)",
            "Rollout(\"sts/shop/store\")",
        ]);
        writeln!(timeline, "At(\"{at}s\", {step}),").unwrap();
    }
    let text = format!(
        "Scenario(title: \"pods come and go\", seed: {seed}, cluster: Cluster(profile: \"{profile}\", underlay: Underlay({underlay}), \
         nodes: [{nodes}], hosts: [Host(name: \"out\", ip: \"203.0.113.10\", tcp: [80], udp: [53])]),\n\
         objects: r##\"\n{objects}\"##,\ntimeline: [\n{timeline}], until: \"{LASTS}s\", expect: [Always(Consistent)])"
    );
    (text, families)
}

/// Runs a seed twice; says what is wrong, if anything.
fn tried(seed: u64) -> Result<Ran, String> {
    let (text, families) = drawn(seed);
    let wrong = |what: String| {
        format!(
            "seed {seed} ({}): {what}\n  again: PODWIRE_CHURN_SEED={seed} cargo test -p podwire --test it churn",
            families.join(", ")
        )
    };
    let file = scenario::read("churn.ron", &text).map_err(|found| wrong(format!("{found:?}")))?;
    let (story, problems) = resolve(&file, &[]);
    if !problems.is_empty() {
        return Err(wrong(format!("{problems:?}")));
    }
    let ran = run(&story, seed);
    // A fault that is drawn may come where nothing passes.
    let missed = |text: &str| text.ends_with("touches something");
    let mut expected = ran.expectations.iter();
    let unheld = expected.find(|held| !held.held && !missed(&held.text));
    if let Some(held) = unheld {
        return Err(wrong(format!("{}: {}", held.text, held.why)));
    }
    let again = run(&story, seed);
    if again.fingerprint != ran.fingerprint {
        return Err(wrong("two runs differ".to_owned()));
    }
    Ok(ran)
}

fn asked(name: &str) -> Option<u64> {
    let (_, value) = std::env::vars().find(|(found, _)| found == name)?;
    Some(value.parse().unwrap())
}

#[test]
fn pods_come_and_go_and_what_is_true_stays_true() {
    if let Some(seed) = asked("PODWIRE_CHURN_SEED") {
        println!("{}", drawn(seed).0);
        let ran = tried(seed).unwrap_or_else(|wrong| panic!("{wrong}"));
        println!("{} records", ran.trace.records.len());
        return;
    }
    let seeds = asked("PODWIRE_CHURN_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(1);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let wrong: Vec<String> = thread::scope(|scope| {
        let work = || {
            let mut wrong = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed > seeds {
                    return wrong;
                }
                wrong.extend(tried(seed).err());
            }
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all.into_iter()
            .flat_map(|one| one.join().unwrap())
            .collect()
    });
    assert!(
        wrong.is_empty(),
        "{} of {seeds} seeds:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
