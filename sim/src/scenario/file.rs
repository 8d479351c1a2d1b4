//! What may be written in a scenario file: the types are exactly its RON. Nothing else derives `Deserialize` from it.
//!
//! Values are strings of a known form ([`Text`]), each with its mark, so that problems found later can still point
//! at it. Unknown fields are refused.

use std::collections::BTreeMap;

use podwire_models::base::{Namespace, ObjectKey, ObjectName, Ratio, Selector};
use podwire_models::control::dns::flavour::Flavour;
use podwire_models::kernel::release::Release;
use serde::Deserialize;

use super::address::{ObjectRef, Target, Thing};
use super::expect::Expectation;
use super::reader::Spans;
use super::text::{Addresses, Cidrs, Delay, Frequency, Moment, Range, Rate, Size, Text};

/// A whole scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename = "Scenario", deny_unknown_fields)]
pub struct ScenarioFile {
    /// Version of the language; 1.
    #[serde(default = "one")]
    pub version: u64,
    /// What it shows, in one sentence.
    pub title: Text<String>,
    /// Where all chance comes from.
    #[serde(default = "one")]
    pub seed: u64,
    /// The machines and the networks between them.
    #[serde(default)]
    pub cluster: ClusterFile,
    /// Files with Kubernetes objects, relative to this one.
    #[serde(default)]
    pub manifests: Vec<Text<String>>,
    /// Kubernetes objects written right here, as YAML.
    pub objects: Option<Text<String>>,
    /// Who listens where, besides the `containerPort`s of the manifests.
    #[serde(default)]
    pub listen: Vec<Listen>,
    /// What is done when.
    #[serde(default)]
    pub timeline: Vec<Entry>,
    /// The run goes on at least until here.
    pub until: Option<Text<Moment>>,
    /// What must be true.
    #[serde(default)]
    pub expect: Vec<Expectation>,
    /// Finds marks in the text.
    #[serde(skip)]
    pub spans: Spans,
}

const fn one() -> u64 {
    1
}

/// The machines and the networks between them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename = "Cluster", deny_unknown_fields, default)]
pub struct ClusterFile {
    /// Which network plugin with which settings.
    pub profile: Option<Text<String>>,
    /// Which Kubernetes release, `1.36`.
    pub kubernetes: Option<Text<String>>,
    /// Release of the nodes' kernels, `5.4`.
    pub kernel: Option<Text<Release>>,
    /// The machines; two if none are given.
    pub nodes: Vec<Node>,
    /// Range of pod addresses; two of them, with a comma, for dual stack.
    pub pod_cidr: Option<Text<Cidrs>>,
    /// Range of Service addresses.
    pub service_cidr: Option<Text<Cidrs>>,
    /// Length of the prefix each node gets from `pod_cidr`.
    pub node_mask: Option<u8>,
    /// MTU of pods, if not what the profile derives from the underlay's.
    pub mtu: Option<u32>,
    /// The network between the machines.
    pub underlay: Underlay,
    /// Machines outside the cluster.
    pub hosts: Vec<Host>,
    /// Settings of kube-proxy.
    pub kube_proxy: KubeProxy,
    /// Names outside, and what the name service can take.
    pub dns: Dns,
    /// How long reactions of the control plane take, if not as long as usual: `{"proxy_sync": "100ms..2s"}`.
    pub delays: BTreeMap<String, Text<Range>>,
    /// Whether policies are asked about what a node sends its own pods, as Cilium does with `--allow-localhost=policy`: `"policy"`; or not,
    /// `"always"`.
    pub allow_localhost: Option<Text<AllowLocalhost>>,
}

/// When a pod's own node is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowLocalhost {
    /// Whatever the policies say.
    Always,
    /// Where the policies allow it.
    Policy,
}

impl std::str::FromStr for AllowLocalhost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "always" => Ok(Self::Always),
            "policy" => Ok(Self::Policy),
            _ => Err("expected always or policy"),
        }
    }
}

/// The nodes' `resolv.conf`, the names outside, and what the replicas of `CoreDNS` can take.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Name servers of the nodes.
    pub upstream: Vec<Text<std::net::IpAddr>>,
    /// Search list of the nodes.
    pub search: Vec<Text<String>>,
    /// Names outside and their addresses.
    pub names: BTreeMap<String, Text<Addresses>>,
    /// Address of `NodeLocal DNSCache` on every node, `169.254.20.10`.
    pub node_local: Option<Text<std::net::IpAddr>>,
    /// How long a replica works on one question.
    pub service_time: Option<Text<Delay>>,
    /// With how many questions waiting a replica is killed.
    pub memory: Option<u32>,
}

/// A machine of the cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Name.
    pub name: Text<ObjectName>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Text<String>>,
    /// Further labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Address, if not the next one of the underlay.
    pub ip: Option<Text<Addresses>>,
    /// Range of its pods, if not the next one of the cluster's.
    pub pod_cidr: Option<Text<Cidrs>>,
    /// Release of its kernel, if not that of all nodes.
    pub kernel: Option<Text<Release>>,
    /// Kernel settings that differ from the default.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Further interfaces, `eth1` and on.
    #[serde(default)]
    pub nics: Vec<Nic>,
}

/// A further interface of a node, in a network that has a switch of its own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// Its address, with the length of its network's prefix: `10.9.0.2/24`.
    pub ip: Text<ipnet::IpNet>,
    /// Whether the node's default route leaves by it.
    #[serde(default)]
    pub default_route: bool,
}

/// The network between the machines.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Underlay {
    /// Time a frame takes from machine to machine.
    pub latency: Option<Text<Delay>>,
    /// Rate of each machine's wire.
    pub bandwidth: Option<Text<Rate>>,
    /// MTU of each machine's wire.
    pub mtu: Option<u32>,
    /// Chance that a frame is lost.
    pub loss: Option<Text<Ratio>>,
    /// Pairs of machines that differ from that.
    pub links: Vec<Link>,
}

/// A pair of machines whose connection differs from the others'.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// One machine.
    pub from: Text<ObjectName>,
    /// The other.
    pub to: Text<ObjectName>,
    /// Time a frame takes.
    pub latency: Option<Text<Delay>>,
    /// Rate.
    pub bandwidth: Option<Text<Rate>>,
    /// Chance that a frame is lost.
    pub loss: Option<Text<Ratio>>,
    /// Largest packet.
    pub mtu: Option<u32>,
}

/// A machine outside the cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Name.
    pub name: Text<ObjectName>,
    /// Address; two of them, with a comma, for both families.
    pub ip: Text<Addresses>,
    /// Zone it is in.
    pub zone: Option<Text<String>>,
    /// Node through which it reaches the cluster's own networks.
    pub via: Option<Text<ObjectName>>,
    /// TCP ports on which it answers.
    #[serde(default)]
    pub tcp: Vec<u16>,
    /// UDP ports on which it answers.
    #[serde(default)]
    pub udp: Vec<u16>,
}

/// Settings of kube-proxy, under their own names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KubeProxy {
    /// `--cluster-cidr`.
    pub cluster_cidr: Option<Text<Cidrs>>,
    /// `--detect-local-mode`.
    pub detect_local_mode: Option<Text<String>>,
    /// `--masquerade-all`.
    pub masquerade_all: bool,
    /// `--nodeport-addresses`.
    pub nodeport_addresses: Option<Text<String>>,
    /// `--conntrack-tcp-be-liberal`.
    pub conntrack_tcp_be_liberal: bool,
    /// Whether its rules clear its mark before they masquerade, as since 1.16.13, 1.17.9 and 1.18.6.
    pub clears_mark: Option<bool>,
}

/// Who listens where.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Labels of the pods.
    pub pods: Text<Selector>,
    /// Their namespace; all of them if not given.
    pub namespace: Option<Text<Namespace>>,
    /// Address the sockets are bound to; all of them if not given.
    pub address: Option<Text<std::net::IpAddr>>,
    /// TCP ports.
    #[serde(default)]
    pub tcp: Vec<u16>,
    /// UDP ports.
    #[serde(default)]
    pub udp: Vec<u16>,
    /// SCTP ports.
    #[serde(default)]
    pub sctp: Vec<u16>,
    /// How long an answer takes.
    pub service_time: Option<ServiceTime>,
    /// Bytes of an answer over TCP, if not the usual number.
    pub answer: Option<Text<Size>>,
}

/// How long an answer takes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub enum ServiceTime {
    /// Always the same time.
    Fixed(Text<Delay>),
}

/// When a step is done.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Entry {
    /// Once.
    At {
        /// When.
        at: Text<Moment>,
        /// What.
        step: Step,
    },
    /// Again and again.
    Every {
        /// How often.
        every: Text<Delay>,
        /// First time.
        from: Text<Moment>,
        /// Not after this moment.
        until: Text<Moment>,
        /// What.
        step: Step,
    },
}

impl Entry {
    /// Returns what is done.
    pub const fn step(&self) -> &Step {
        match self {
            Self::At { step, .. } | Self::Every { step, .. } => step,
        }
    }

    /// Returns when it is done for the first time.
    pub const fn from(&self) -> &Text<Moment> {
        match self {
            Self::At { at: from, .. } | Self::Every { from, .. } => from,
        }
    }
}

/// What is done.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Step {
    /// Objects are created or replaced (`kubectl apply`).
    Apply {
        /// A file with them, relative to this one.
        manifest: Option<Text<String>>,
        /// Or the objects themselves, as YAML.
        objects: Option<Text<String>>,
    },
    /// An object is deleted (`kubectl delete`).
    Delete {
        /// Which.
        object: Text<ObjectRef>,
    },
    /// Fields of an object are set (`kubectl patch`).
    Patch {
        /// Kind, as in manifests or as `kubectl` abbreviates it.
        kind: Text<String>,
        /// Namespace and name.
        name: Text<ObjectKey>,
        /// Path of each field, `spec.selector.app`, and its new value; `None` removes it.
        set: BTreeMap<String, serde_json::Value>,
    },
    /// Labels of an object are set (`kubectl label`).
    Label {
        /// Which.
        object: Text<ObjectRef>,
        /// Each label and its new value; `None` removes it.
        labels: BTreeMap<String, Option<String>>,
    },
    /// A workload gets another number of pods (`kubectl scale`).
    Scale {
        /// Which.
        object: Text<ObjectRef>,
        /// How many.
        replicas: u32,
    },
    /// A workload's pods are replaced, a few at a time (`kubectl rollout restart`).
    Rollout {
        /// Which.
        object: Text<ObjectRef>,
    },
    /// A node takes no more pods (`kubectl cordon`).
    Cordon {
        /// Which.
        node: Text<ObjectName>,
    },
    /// It takes pods again (`kubectl uncordon`).
    Uncordon {
        /// Which.
        node: Text<ObjectName>,
    },
    /// A node takes no more pods, and those it has are evicted (`kubectl drain --ignore-daemonsets --delete-emptydir-data`).
    Drain {
        /// Which.
        node: Text<ObjectName>,
        /// Those that no controller replaces too (`--force`).
        #[serde(default)]
        force: bool,
    },
    /// Pods are deleted, one after the other, whichever it hits; their controllers replace them.
    Churn {
        /// How many, in the mean.
        rate: Text<Frequency>,
        /// For how long.
        #[serde(rename = "for")]
        lasts: Text<Delay>,
        /// Only those of a namespace; all but `kube-system` if not given.
        namespace: Option<Text<Namespace>>,
    },
    /// Somebody tries to reach something.
    Probe(Probe),
    /// Somebody tries to reach something many times, and only numbers are told of it.
    Load(Load),
    /// Something breaks.
    Fault(Fault),
    /// A command is run and its output becomes part of the story.
    Exec {
        /// Where.
        on: Text<Thing>,
        /// The command, as typed in a shell.
        command: Text<String>,
    },
    /// A sentence for the story.
    Note {
        /// The sentence.
        text: Text<String>,
    },
}

/// An attempt to reach something.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Its name.
    pub id: Text<String>,
    /// Who tries.
    pub from: Text<Thing>,
    /// To reach what.
    pub to: Text<Target>,
    /// How; TCP if not given.
    pub protocol: Option<Text<ProbeProtocol>>,
    /// Bytes the request carries.
    pub payload: Option<Text<Size>>,
    /// How many requests, one after another; 1 if not given.
    pub count: Option<u32>,
    /// Time between them.
    pub interval: Option<Text<Delay>>,
    /// How long the client waits.
    pub timeout: Option<Text<Delay>>,
    /// How long it may take in all, the look-up included (`curl --max-time`).
    pub deadline: Option<Text<Delay>>,
    /// How many requests on one connection, over TCP; 1 if not given.
    pub requests: Option<u32>,
    /// Time between an answer and the next request on the connection.
    pub pause: Option<Text<Delay>>,
    /// Source port, if not an ephemeral one.
    pub source_port: Option<u16>,
    /// Whose resolver it uses: `glibc`, `musl`, `musl-1.2.3` or `go`; glibc if not given.
    pub resolver: Option<Text<Flavour>>,
    /// Source port of its questions about names, if its resolver keeps one.
    pub resolver_port: Option<u16>,
    /// How long its program keeps an answer about a name, whatever its time to live.
    pub cache: Option<Text<Delay>>,
    /// Only this address family.
    pub family: Option<ProbeFamily>,
    /// Time to live of its packets, if not the system's default.
    pub ttl: Option<u8>,
    /// Whether it must work, or must not.
    pub must: Option<Must>,
}

/// Attempts at a steady rate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Its name.
    pub id: Text<String>,
    /// Who tries; the pods of a workload take turns.
    pub from: Text<Thing>,
    /// To reach what.
    pub to: Text<Target>,
    /// How; TCP if not given.
    pub protocol: Option<Text<ProbeProtocol>>,
    /// Bytes a request carries.
    pub payload: Option<Text<Size>>,
    /// How many attempts a second.
    pub rate: u32,
    /// For how long.
    #[serde(rename = "for")]
    pub lasts: Text<Delay>,
    /// How long the client waits.
    pub timeout: Option<Text<Delay>>,
    /// Whether every attempt must work, or must not.
    pub must: Option<Must>,
}

/// Protocol of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProbeProtocol {
    /// A connection with one request and its answer.
    #[default]
    Tcp,
    /// One datagram and its answer.
    Udp,
    /// An association with one request and its answer.
    Sctp,
    /// An echo request and its reply.
    Icmp,
}

impl std::str::FromStr for ProbeProtocol {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            "icmp" => Ok(Self::Icmp),
            _ => Err("expected tcp, udp, sctp or icmp"),
        }
    }
}

/// Address family of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum ProbeFamily {
    /// IPv4 only.
    #[serde(rename = "IPv4", alias = "V4")]
    V4,
    /// IPv6 only.
    #[serde(rename = "IPv6", alias = "V6")]
    V6,
}

/// What a probe must do for the scenario to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Must {
    /// Connect every time.
    Work,
    /// Fail every time.
    Fail,
}

/// Something breaks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Its name.
    pub id: Text<String>,
    /// What breaks.
    pub fault: FaultKind,
    /// For how long; for ever if not given.
    #[serde(rename = "for")]
    pub lasts: Option<Text<Delay>>,
}

/// What breaks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum FaultKind {
    /// Frames between two machines are lost.
    LinkDown {
        /// One machine: a node or a host.
        from: Text<ObjectName>,
        /// The other.
        to: Text<ObjectName>,
        /// Only those that go from the first to the second.
        #[serde(default)]
        one_way: bool,
    },
    /// A machine is switched off.
    NodeDown {
        /// Which.
        node: Text<ObjectName>,
    },
    /// A pod's processes and its network are gone; its object stays.
    PodKill {
        /// Which.
        pod: Text<Thing>,
    },
    /// A kernel setting has another value.
    Sysctl {
        /// In which namespace.
        on: Text<Thing>,
        /// `net.ipv4.ip_forward`.
        name: Text<String>,
        /// `0`.
        value: Text<String>,
    },
    /// A node's FORWARD chain drops what no rule of it accepts (`iptables -P FORWARD DROP`).
    ForwardDrop {
        /// Which.
        node: Text<ObjectName>,
    },
    /// Ports of a node's bridges no longer send a frame back the way it came (`hairpin off`).
    HairpinOff {
        /// Which.
        node: Text<ObjectName>,
    },
    /// A node loses its route to a range.
    RouteLost {
        /// Which.
        node: Text<ObjectName>,
        /// The range, as `ip route` shows it.
        to: Text<Cidrs>,
    },
    /// kube-proxy of a node does nothing any more: the rules stay as they are.
    KubeProxyDown {
        /// Which.
        node: Text<ObjectName>,
    },
    /// A node's container runtime has lost its network configuration: no pod starts there, and the node is not ready.
    CniMissing {
        /// Which.
        node: Text<ObjectName>,
    },
    /// CNI DEL fails on a node: addresses of pods that go stay taken.
    IpLeak {
        /// Which.
        node: Text<ObjectName>,
    },
    /// The next TCP segments with data from one machine to another come a second time.
    Duplicate {
        /// Sending machine.
        from: Text<ObjectName>,
        /// Receiving machine.
        to: Text<ObjectName>,
        /// How much later.
        after: Text<Delay>,
        /// How many; one if not given.
        count: Option<u32>,
    },
    /// kube-proxy of a node cannot delete entries of connection tracking.
    NoConntrackCleanup {
        /// Which.
        node: Text<ObjectName>,
    },
    /// What pods send from a node to the outside is masqueraded with source ports of a small range only.
    SnatPorts {
        /// Which.
        node: Text<ObjectName>,
        /// First and last port, `40000-40003`.
        ports: Text<String>,
    },
    /// Packets that reach a node at one moment are tracked by several processors at once.
    ConntrackRace {
        /// Which.
        node: Text<ObjectName>,
    },
    /// A firewall between the machines drops packets. What is not given is not looked at.
    Acl {
        /// Sending machine.
        from: Option<Text<ObjectName>>,
        /// Receiving machine.
        to: Option<Text<ObjectName>>,
        /// Transport protocol, as the underlay sees it.
        protocol: Option<Text<ProbeProtocol>>,
        /// Destination port, as the underlay sees it.
        port: Option<u16>,
    },
}
