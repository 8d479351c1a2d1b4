//! From the command line to a settled cluster: which objects, on which network, with which kube-proxy.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, Parser, ValueEnum};
use ipnet::IpNet;
use serde_json::{Value, json};

use podwire_models::api::{ObjectRef, Objects};
use podwire_models::base::addr::{host_net, nth_addr};
use podwire_models::base::{Family, ObjectKey, ObjectName, OriginId, Time};
use podwire_models::cluster::install::{OutsideHost, Site};
use podwire_models::control::cni::Cni;
use podwire_models::control::proxy::{DetectLocalMode, Flags, NodePortAddresses, Version};
use podwire_models::wire::{Code, NetnsId};

use super::choice::Choice;
use super::{Exit, Report};
use crate::attempt::{Attempted, Request};
use crate::controllers::reactions::Reactions;
use crate::lab::{Lab, Plan};
use crate::manifest::{self, NotModelled, load};
use crate::problem::{self, Severity, Sources, suggestion};
use crate::scenario::Thing;
use crate::scenario::text::{Cidrs, Moment};
use crate::source::OriginTable;
use crate::story::{self, Story};
use crate::why::{self, Blocker, World};

/// What is simulated. Objects are taken at their word where they carry state (pod addresses, node names, cluster
/// addresses, EndpointSlices); what is missing is filled in as the control plane would, the same way every time.
#[derive(Debug, Args)]
pub(super) struct InputArgs {
    /// Kubernetes objects: a YAML or JSON file, a directory (read recursively), or `-` for the standard input
    ///
    /// Takes what `kubectl get … -o yaml`, `kustomize build` and `helm template` print. May be given several times.
    /// `trace`, `get` and `exec` take one scenario (.ron) instead.
    #[arg(
        short,
        long,
        required = true,
        value_name = "PATH",
        value_hint = clap::ValueHint::AnyPath,
        help_heading = "Input"
    )]
    filename: Vec<String>,
    #[command(flatten)]
    options: Options,
}

/// A command line without options of the cluster.
#[derive(Debug, Parser)]
struct Bare {
    #[command(flatten)]
    options: Options,
}

fn is_scenario(name: &str) -> bool {
    let ending = Path::new(name).extension();
    ending.is_some_and(|ending| ending == "ron")
}

/// The options of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct Options {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    proxy: ProxyArgs,
}

/// The cluster around the objects.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Cluster")]
struct ClusterArgs {
    /// Kubernetes release, where releases behave differently: 1.30 to 1.34
    #[arg(long, value_name = "VERSION", default_value = "1.34", value_parser = Choice::new(versions, version), hide_possible_values = true)]
    kubernetes: Version,
    /// How many nodes to make up if the input has none
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=5000))]
    nodes: u32,
    /// Network plugin: kindnet, bridge, flannel-vxlan, flannel-host-gw or calico
    #[arg(long, value_name = "NAME", default_value = "kindnet", value_parser = Choice::new(profiles, cni), hide_possible_values = true)]
    profile: Cni,
    /// Seed of everything that is left to chance [default: 1, or the scenario's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Range of all pod addresses, one per family [default: that of the nodes, or 10.244.0.0/16]
    #[arg(long, value_name = "CIDR[,CIDR]")]
    pod_cidr: Option<Cidrs>,
    /// Range of Service addresses, one per family [default: 10.96.0.0/16]
    #[arg(long, value_name = "CIDR[,CIDR]")]
    service_cidr: Option<Cidrs>,
    /// A host outside the cluster, used as `host/NAME`; with a node, that is its way to pods and Services
    #[arg(long, value_name = "NAME=IP[,via=NODE]")]
    host: Vec<HostArg>,
    /// Another address of a node, besides those of its object: on a device of its own, eth1 and so on
    #[arg(long, value_name = "NODE=IP/LEN", value_parser = node_address)]
    node_address: Vec<(ObjectName, IpNet)>,
}

fn node_address(text: &str) -> Result<(ObjectName, IpNet), String> {
    let wrong = || format!("`{text}` is not of the form NODE=IP/LEN, as in node-a=172.16.5.11/24");
    let (node, address) = text.split_once('=').ok_or_else(wrong)?;
    let node = node.parse().map_err(|_| wrong())?;
    Ok((node, address.parse().map_err(|_| wrong())?))
}

/// Flags of kube-proxy, under the names it gives them.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "kube-proxy")]
struct ProxyArgs {
    /// Range of pod addresses that kube-proxy is told [default: the range of all pod addresses]
    #[arg(long, value_name = "CIDR[,CIDR]")]
    cluster_cidr: Option<Cidrs>,
    /// How traffic of local pods is told from other traffic
    #[arg(long, value_name = "MODE", value_enum, default_value_t = LocalMode::ClusterCidr)]
    detect_local_mode: LocalMode,
    /// The pods' bridge, for `--detect-local-mode=BridgeInterface`
    #[arg(
        long,
        value_name = "DEVICE",
        required_if_eq("detect_local_mode", "BridgeInterface")
    )]
    pod_bridge_interface: Option<String>,
    /// How names of the pods' devices begin, for `--detect-local-mode=InterfaceNamePrefix`
    #[arg(
        long,
        value_name = "PREFIX",
        required_if_eq("detect_local_mode", "InterfaceNamePrefix")
    )]
    pod_interface_name_prefix: Option<String>,
    /// Masquerade all Service traffic
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_possible_values = true, action = clap::ArgAction::Set)]
    masquerade_all: bool,
    /// Which addresses of a node take node port traffic: `primary`, or ranges [default: all]
    #[arg(long, value_name = "CIDR,…", value_parser = nodeport_addresses)]
    nodeport_addresses: Option<NodePortAddresses>,
    /// Whether node ports answer on loopback addresses
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", hide_possible_values = true, action = clap::ArgAction::Set)]
    iptables_localhost_nodeports: bool,
    /// Which bit of the packet mark says "masquerade"
    #[arg(long, value_name = "BIT", default_value_t = 14, value_parser = clap::value_parser!(u8).range(0..=31))]
    iptables_masquerade_bit: u8,
    /// Do not drop packets that connection tracking calls invalid
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_possible_values = true, action = clap::ArgAction::Set)]
    conntrack_tcp_be_liberal: bool,
}

/// Values of `--detect-local-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LocalMode {
    /// By the cluster's pod range.
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    /// By the node's own pod range.
    #[value(name = "NodeCIDR")]
    NodeCidr,
    /// By the bridge it comes from.
    #[value(name = "BridgeInterface")]
    BridgeInterface,
    /// By the beginning of the device's name.
    #[value(name = "InterfaceNamePrefix")]
    InterfaceNamePrefix,
}

/// `browser=203.0.113.7`, `office=172.18.0.9,via=node-a`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HostArg(OutsideHost);

impl FromStr for HostArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted =
            || format!("expected NAME=IP[,via=NODE] such as browser=203.0.113.7, not `{text}`");
        let (name, rest) = text.split_once('=').ok_or_else(wanted)?;
        let (ip, via) = match rest.split_once(',') {
            None => (rest, None),
            Some((ip, more)) => (ip, Some(more.strip_prefix("via=").ok_or_else(wanted)?)),
        };
        let via = via.map(|node| node.parse().map_err(|error| format!("`{node}`: {error}")));
        let name: ObjectName = name.parse().map_err(|error| format!("`{name}`: {error}"))?;
        Ok(Self(OutsideHost {
            name: name.as_str().into(),
            ip: ip.parse().map_err(|_| wanted())?,
            via: via.transpose()?,
            origin: OriginId::NONE,
        }))
    }
}

fn versions() -> Vec<&'static str> {
    vec!["1.30", "1.31", "1.32", "1.33", "1.34"]
}

fn profiles() -> Vec<&'static str> {
    Cni::ALL.map(Cni::name).to_vec()
}

fn version(text: &str) -> Result<Version, String> {
    let mut parts = text.strip_prefix('v').unwrap_or(text).split('.');
    match (parts.next(), parts.next()) {
        (Some("1"), Some("30")) => Ok(Version::V1_30),
        (Some("1"), Some("31")) => Ok(Version::V1_31),
        (Some("1"), Some("32")) => Ok(Version::V1_32),
        (Some("1"), Some("33")) => Ok(Version::V1_33),
        (Some("1"), Some("34")) => Ok(Version::V1_34),
        _ => Err("the releases modelled are 1.30, 1.31, 1.32, 1.33 and 1.34".to_owned()),
    }
}

fn cni(text: &str) -> Result<Cni, String> {
    text.parse().map_err(|_| {
        let names = Cni::ALL.map(Cni::name);
        let near = suggestion(text, names);
        let near = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
        format!("{near}the profiles are {}", names.join(", "))
    })
}

fn nodeport_addresses(text: &str) -> Result<NodePortAddresses, String> {
    if text == "primary" {
        return Ok(NodePortAddresses::Primary);
    }
    let ranges: Cidrs = text
        .parse()
        .map_err(|error: crate::scenario::text::CidrsError| error.to_string())?;
    Ok(NodePortAddresses::Within(ranges.0))
}

impl ProxyArgs {
    fn flags(&self) -> Flags {
        let name = |name: &Option<String>| Arc::from(name.as_deref().unwrap_or_default());
        let detect_local_mode = match self.detect_local_mode {
            LocalMode::ClusterCidr => DetectLocalMode::ClusterCidr,
            LocalMode::NodeCidr => DetectLocalMode::NodeCidr,
            LocalMode::BridgeInterface => {
                DetectLocalMode::BridgeInterface(name(&self.pod_bridge_interface))
            }
            LocalMode::InterfaceNamePrefix => {
                DetectLocalMode::InterfaceNamePrefix(name(&self.pod_interface_name_prefix))
            }
        };
        Flags {
            cluster_cidr: self.cluster_cidr.clone().map(|c| c.0).unwrap_or_default(),
            detect_local_mode,
            masquerade_all: self.masquerade_all,
            nodeport_addresses: self.nodeport_addresses.clone().unwrap_or_default(),
            localhost_nodeports: self.iptables_localhost_nodeports,
            masquerade_bit: self.iptables_masquerade_bit,
            conntrack_tcp_be_liberal: self.conntrack_tcp_be_liberal,
            ..Flags::default()
        }
    }
}

/// A cluster that was read and settled, and what is to be said about that.
#[derive(Debug)]
pub(super) struct Session {
    /// The cluster.
    pub(super) lab: Lab,
    /// Places of the input.
    pub(super) origins: OriginTable,
    /// What matters to packets and is not modelled.
    pub(super) not_modelled: Vec<NotModelled>,
    /// What was concluded from the input rather than said by it.
    pub(super) assumptions: Vec<String>,
    /// Services of the input; the cluster may have others that it cannot do without.
    pub(super) services: BTreeSet<ObjectKey>,
    /// Seed of everything that is left to chance.
    pub(super) seed: u64,
    /// The objects of the input, before the control plane filled in anything.
    given: Objects,
    /// Warnings about the input.
    warnings: String,
}

impl InputArgs {
    /// Returns the scenario that is given in place of objects, and the seed if one is given.
    ///
    /// # Errors
    /// If something else is given too: a scenario says itself what its cluster is.
    fn scenario(&self) -> Result<Option<(&Path, Option<u64>)>, Report> {
        let path = match self.filename.as_slice() {
            [only] if is_scenario(only) => Path::new(only),
            all => match all.iter().find(|name| is_scenario(name)) {
                Some(scenario) => {
                    return Err(Report::bad_input(format!(
                        "`{scenario}` is a scenario, which says itself what its objects are: give nothing else with -f"
                    )));
                }
                None => return Ok(None),
            },
        };
        let seed = self.options.cluster.seed;
        let plain = Bare::parse_from(["podwire"]).options;
        let given = Options {
            cluster: ClusterArgs {
                seed: None,
                ..self.options.cluster.clone()
            },
            proxy: self.options.proxy.clone(),
        };
        if given != plain {
            return Err(Report::bad_input(
                "the options of the cluster go with objects; a scenario says itself what its cluster is",
            ));
        }
        Ok(Some((path, seed)))
    }

    /// Reads the scenario that is given in place of objects, if it is one.
    pub(super) fn story(&self, at: Option<Moment>) -> Result<Option<Told>, Report> {
        let Some((path, seed)) = self.scenario()? else {
            if at.is_some() {
                let says =
                    "--at is a moment of a scenario (-f SCENARIO.ron); objects alone have no story";
                return Err(Report::bad_input(says));
            }
            return Ok(None);
        };
        let super::scenario::Read { story, said } = super::scenario::read(path);
        let Some(story) = story else {
            return Err(Report {
                stderr: said,
                exit: Exit::BadInput,
                ..Report::default()
            });
        };
        Ok(Some(Told {
            seed: seed.unwrap_or(story.seed),
            at: at.map_or(Time::ZERO, |at| at.0),
            story,
            said,
        }))
    }

    /// Reads the objects and settles the cluster. What is wrong with the input is all said at once.
    pub(super) fn settle(&self) -> Result<Session, Report> {
        self.options.settle(&self.filename, &Edits::default())
    }
}

/// A story, and a moment of it.
#[derive(Debug)]
pub(super) struct Told {
    /// The story.
    pub(super) story: Story,
    /// The seed it is told with.
    pub(super) seed: u64,
    /// The moment.
    pub(super) at: Time,
    /// Warnings about the input.
    pub(super) said: String,
}

impl Told {
    /// Returns the cluster as it is at that moment.
    pub(super) fn session(self) -> Session {
        let lab = story::moment::cluster(&self.story, self.seed, self.at);
        Session {
            given: lab.objects.clone(),
            services: lab.objects.services.keys().cloned().collect(),
            lab,
            origins: self.story.origins,
            not_modelled: Vec::new(),
            assumptions: Vec::new(),
            seed: self.seed,
            warnings: self.said,
        }
    }
}

/// What is done to the objects after they were read.
#[derive(Clone, Debug, Default)]
pub(super) struct Edits {
    /// Files whose objects take the place of those of the same name.
    pub(super) apply: Vec<String>,
    /// Objects that are taken out.
    pub(super) delete: Vec<ObjectRef>,
}

/// What was read from some files.
struct Input {
    objects: Objects,
    not_modelled: Vec<NotModelled>,
    said: String,
}

/// Reads objects from files.
fn read(filenames: &[String], origins: &mut OriginTable) -> Result<Input, Report> {
    if let Some(scenario) = filenames.iter().find(|name| is_scenario(name)) {
        return Err(Report::bad_input(format!(
            "`{scenario}` is a scenario, which `podwire run`, `trace`, `get` and `exec` take; here -f takes Kubernetes objects"
        )));
    }
    let (files, mut problems) = load::load(filenames);
    let mut sources = Sources::default();
    for file in &files {
        sources.add(Arc::clone(&file.name), Arc::clone(&file.text));
    }
    let (manifests, found) = manifest::read(&files, origins);
    problems.extend(found);
    let said = problem::render_styled(&problems, &sources);
    let wrong = |p: &problem::Problem| p.severity == Severity::Error;
    if problems.iter().any(wrong) {
        return Err(Report {
            stderr: said,
            exit: Exit::BadInput,
            ..Report::default()
        });
    }
    Ok(Input {
        objects: manifests.objects.into_iter().collect(),
        not_modelled: manifests.not_modelled,
        said,
    })
}

impl Options {
    /// Reads the objects, edits them, and settles the cluster.
    pub(super) fn settle(&self, filenames: &[String], edits: &Edits) -> Result<Session, Report> {
        let mut origins = OriginTable::default();
        let Input {
            mut objects,
            mut not_modelled,
            mut said,
        } = read(filenames, &mut origins)?;
        if !edits.apply.is_empty() {
            let more = read(&edits.apply, &mut origins)?;
            for object in more.objects.into_objects() {
                objects.insert(object);
            }
            not_modelled.extend(more.not_modelled);
            said.push_str(&more.said);
        }
        for object in &edits.delete {
            if objects.remove(object).is_none() {
                return Err(Report::bad_input(format!("--delete: there is no {object}")));
            }
        }
        for (node, _) in &self.cluster.node_address {
            let made_up = objects.nodes.is_empty();
            if !made_up && !objects.nodes.contains_key(node) {
                let says = format!("--node-address: there is no node `{node}` in the input");
                return Err(Report::bad_input(says));
            }
        }
        for via in self
            .cluster
            .host
            .iter()
            .filter_map(|host| host.0.via.as_ref())
        {
            if !objects.nodes.is_empty() && !objects.nodes.contains_key(via) {
                let says = format!("--host: there is no node `{via}` in the input");
                return Err(Report::bad_input(says));
            }
        }
        let services = objects.services.keys().cloned().collect();
        let mut assumptions = Vec::new();
        let plan = self.plan(&objects, &mut assumptions);
        Ok(Session {
            given: objects.clone(),
            lab: Lab::build(objects, plan),
            origins,
            not_modelled,
            assumptions,
            services,
            seed: self.cluster.seed.unwrap_or(1),
            warnings: said,
        })
    }

    fn plan(&self, objects: &Objects, assumptions: &mut Vec<String>) -> Plan {
        let args = &self.cluster;
        let mut site = Site {
            cni: args.profile,
            hosts: args.host.iter().map(|host| host.0.clone()).collect(),
            more_addresses: args.node_address.clone(),
            ..Site::default()
        };
        if let Some(cidrs) = &args.service_cidr {
            site.service_cidrs.clone_from(&cidrs.0);
        }
        if let Some(cidrs) = &args.pod_cidr {
            site.pod_cidrs.clone_from(&cidrs.0);
        } else {
            let given = objects.nodes.values().flat_map(|node| &node.pod_cidrs);
            let given: Vec<IpNet> = given.copied().collect();
            widen(&mut site.pod_cidrs, &given, (16, 48), |range| {
                assumptions.push(format!(
                    "all pods are in {range}, which covers the nodes' podCIDRs (--pod-cidr says otherwise)"
                ));
            });
        }
        let given = objects.nodes.values().flat_map(|node| &node.internal_ips);
        let given: Vec<IpNet> = given.map(|ip| host_net(*ip)).collect();
        widen(&mut site.underlay.subnets, &given, (24, 64), |range| {
            assumptions.push(format!("the nodes are on one network, {range}"));
        });
        Plan {
            site,
            flags: self.proxy.flags(),
            version: args.kubernetes,
            nodes: args.nodes,
            reactions: Reactions::default(),
        }
    }
}

/// Replaces the range of each family by one that covers what is given, unless it does already. A range that is made
/// is at most as long as the length of its family, and its first address is free for a router.
fn widen(ranges: &mut Vec<IpNet>, given: &[IpNet], longest: (u8, u8), mut made: impl FnMut(IpNet)) {
    for family in Family::ALL {
        let of_family = |net: &&IpNet| Family::of_net(**net) == family;
        let nets: Vec<&IpNet> = given.iter().filter(of_family).collect();
        let covers = |range: &IpNet| nets.iter().all(|net| range.contains(*net));
        let Some(first) = nets.first() else {
            continue;
        };
        if ranges.iter().any(covers) {
            continue;
        }
        let longest = match family {
            Family::V4 => longest.0,
            Family::V6 => longest.1,
        };
        let taken = |range: &IpNet| {
            let router = nth_addr(*range, 1);
            router.is_some_and(|ip| nets.iter().any(|net| **net == host_net(ip)))
        };
        let mut range = first.trunc();
        while range.prefix_len() > longest || !covers(&range) || taken(&range) {
            match range.supernet() {
                Some(wider) => range = wider,
                None => break,
            }
        }
        ranges.retain(|old| Family::of_net(*old) != family);
        ranges.push(range);
        made(range);
    }
}

impl Session {
    /// Returns what was noticed on the way, for people: warnings, what the control plane could not do, what was
    /// concluded, what is not modelled.
    pub(super) fn notes(&self) -> String {
        let mut text = self.warnings.clone();
        for shortfall in &self.lab.shortfalls {
            let place = self.place(shortfall.origin);
            let (code, object, says) = (shortfall.code, &shortfall.object, &shortfall.says);
            line(
                &mut text,
                format_args!("warning[{code}]: {object}{place}: {says}"),
            );
        }
        for assumption in &self.assumptions {
            line(&mut text, format_args!("assumed: {assumption}"));
        }
        if !self.not_modelled.is_empty() {
            line(
                &mut text,
                format_args!("not modelled ({}):", self.not_modelled.len()),
            );
        }
        for gap in &self.not_modelled {
            let place = self.place(gap.origin);
            line(
                &mut text,
                format_args!("  {} of {}{place}: {}", gap.what, gap.object, gap.why),
            );
        }
        text
    }

    /// Returns what stands in the way of an attempt; nothing if it succeeded.
    pub(super) fn why(
        &self,
        from: &Thing,
        request: &Request,
        attempted: &Attempted,
    ) -> Option<Vec<Blocker>> {
        if attempted.code == Code::Ok {
            return None;
        }
        let world = World {
            objects: self.given.clone(),
            plan: self.lab.plan.clone(),
        };
        let (lab, origins) = (&self.lab, &self.origins);
        Some(why::blockers(
            &world, lab, origins, from, request, attempted, self.seed,
        ))
    }

    /// Returns the warnings about the input alone, where the rest is in the JSON.
    pub(super) fn warnings(&self) -> &str {
        &self.warnings
    }

    /// Returns the list of what is not modelled, as every JSON has it.
    pub(super) fn not_modelled_json(&self) -> Vec<Value> {
        let gaps = self.not_modelled.iter();
        gaps.map(|gap| {
            json!({
                "what": gap.what,
                "object": &*gap.object,
                "origin": self.origins.text(gap.origin),
                "why": gap.why,
            })
        })
        .collect()
    }

    /// Returns ` (shop.yaml:40)`, or nothing.
    fn place(&self, origin: OriginId) -> String {
        let place = self.origins.get(origin);
        place.map_or_else(String::new, |origin| format!(" ({origin})"))
    }

    /// Returns the namespace of a thing, and what it was taken to mean if that is not clear.
    pub(super) fn netns(&self, thing: &Thing) -> Result<(NetnsId, Option<String>), Report> {
        let machines = &self.lab.machines;
        let found = match thing {
            Thing::Node(name) => machines.nodes.get(name).map(|node| (node.netns, None)),
            Thing::Host(name) => machines.hosts.get(name.as_str()).map(|host| (*host, None)),
            Thing::Pod(key) => {
                let pod = self.lab.objects.pods.get(key);
                pod.and_then(|pod| machines.netns_of(pod))
                    .map(|n| (n, None))
            }
            Thing::Workload { kind, key } => {
                let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
                let pods = self.lab.pods_of(kind, namespace, name);
                let first = pods.first();
                first.and_then(|pod| {
                    let said = format!("{thing}: this is pod/{}", pod.key);
                    Some((machines.netns_of(pod)?, Some(said)))
                })
            }
        };
        found.ok_or_else(|| self.unknown(thing))
    }

    fn unknown(&self, thing: &Thing) -> Report {
        let typed = thing.to_string();
        let known = self.things();
        let unplaced = match thing {
            Thing::Pod(key) => self.lab.objects.pods.contains_key(key),
            Thing::Workload { kind, key } => {
                let mut all = self.lab.objects.workloads.keys();
                all.any(|(of, known)| of.as_str() == *kind && known == key)
            }
            Thing::Node(_) | Thing::Host(_) => false,
        };
        if unplaced {
            let notes = self.notes();
            let says = match thing {
                Thing::Workload { .. } => format!("no pod of {typed} runs"),
                Thing::Pod(_) | Thing::Node(_) | Thing::Host(_) => format!("{typed} does not run"),
            };
            return Report::bad_input(format!("{says}\n{notes}").trim_end());
        }
        let near = suggestion(&typed, known.iter().map(String::as_str));
        let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        let word = typed.split('/').next().unwrap_or_default();
        let same: Vec<&str> = known
            .iter()
            .map(String::as_str)
            .filter(|name| name.split('/').next() == Some(word))
            .take(20)
            .collect();
        let list = if same.is_empty() {
            format!("there is no {word} at all")
        } else {
            format!("there are: {}", same.join(", "))
        };
        Report::bad_input(format!("there is no `{typed}`{near}\n{list}"))
    }

    /// Returns everything that can be named as a sender, workloads included.
    fn things(&self) -> Vec<String> {
        let lab = &self.lab;
        let pods = lab.objects.pods.keys().cloned().map(Thing::Pod);
        let nodes = lab.machines.nodes.keys().cloned().map(Thing::Node);
        let workloads = lab
            .objects
            .workloads
            .keys()
            .map(|(kind, key)| Thing::Workload {
                kind: kind.as_str(),
                key: key.clone(),
            });
        let hosts = lab.machines.hosts.keys().map(|name| format!("host/{name}"));
        let named = pods.chain(nodes).chain(workloads).map(|t| t.to_string());
        named.chain(hosts).collect()
    }

    /// Returns the addresses of a node's devices, of one family.
    pub(super) fn addresses_of(&self, node: NetnsId, family: Family) -> Vec<IpAddr> {
        let netns = self.lab.machines.cluster.netns(node);
        let devices = netns.into_iter().flat_map(|n| n.devices.iter().flatten());
        let addrs = devices.flat_map(|device| &device.addrs);
        let addrs = addrs.map(|addr| addr.net.addr());
        addrs.filter(|ip| Family::of(*ip) == family).collect()
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    writeln!(text, "{content}").expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn widened(range: &str, given: &[&str]) -> String {
        let mut ranges = vec![range.parse().unwrap()];
        let given: Vec<IpNet> = given.iter().map(|net| net.parse().unwrap()).collect();
        widen(&mut ranges, &given, (24, 64), |_| {});
        ranges.first().unwrap().to_string()
    }

    #[test]
    fn a_range_is_made_where_the_usual_one_does_not_cover_the_input() {
        let usual = "172.18.0.0/16";
        assert_eq!(widened(usual, &["172.18.0.3/32"]), usual);
        assert_eq!(widened(usual, &["10.0.0.5/32"]), "10.0.0.0/24");
        assert_eq!(
            widened(usual, &["10.0.0.5/32", "10.0.1.5/32"]),
            "10.0.0.0/23"
        );
        // The first address would be the router's.
        assert_eq!(widened(usual, &["10.0.5.1/32"]), "10.0.4.0/23");
    }

    #[test]
    fn releases_are_read_as_kubectl_writes_them() {
        assert_eq!(version("v1.30.3"), Ok(Version::V1_30));
        assert_eq!(version("1.34"), Ok(Version::V1_34));
        assert!(version("1.29").is_err());
    }
}
