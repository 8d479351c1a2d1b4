//! From objects to a running cluster: settled, installed, programmed, with a server behind every declared port.
//!
//! Reading order: this file, then `proxies` (how the nodes come by their rules), `kubelet` (probes that policies keep out).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use podwire_models::api::{EndpointSlice, Objects, Pod, Service};
use podwire_models::base::{Dice, Namespace, ObjectKey, ObjectName, Protocol};
use podwire_models::cluster::api_server;
use podwire_models::cluster::install::{InstallError, Machines, Site};
use podwire_models::cluster::settle::{self, Allocators, Shortfall};
use podwire_models::control::dns::records::Zone;
use podwire_models::control::endpoints;
use podwire_models::control::policy::Policies;
use podwire_models::control::policy::agent::NodeAgent;
use podwire_models::control::proxy::{Flags, NodeView, ServiceView, Version, health};
use podwire_models::control::readiness;
use podwire_models::kernel::netfilter::agent::Agent;
use podwire_models::wire::{Code, L4, NetnsId};

use crate::controllers::dirty::Dirty;
use crate::controllers::reactions::Reactions;
use crate::program::{Health, Program};
use crate::simulation::{Simulation, Witness};
use crate::source::OriginTable;
use crate::trace::names::Names;
use crate::traffic::coredns::{self, Crash, NameServer};
use crate::traffic::{sctp, tcp, udp};

pub mod kubelet;
mod proxies;

/// How a cluster is to be built.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Underlay, plugin, ranges, outside hosts.
    pub site: Site,
    /// kube-proxy's flags; the cluster's pod ranges are its `--cluster-cidr` unless one is given.
    pub flags: Flags,
    /// Kubernetes release.
    pub version: Version,
    /// How long reactions of the control plane take.
    pub reactions: Reactions,
    /// How many nodes to make up if the objects have none; 0 is two.
    pub nodes: u32,
}

/// A settled cluster, before anything moves.
#[derive(Clone, Debug)]
pub struct Lab {
    /// How it was built.
    pub plan: Plan,
    /// Its objects, with everything the control plane filled in.
    pub objects: Objects,
    /// Its endpoint slices: those of the input and those of the controller.
    pub slices: Vec<EndpointSlice>,
    /// How many of them are those of the input; they come first.
    written: usize,
    /// Its machines, programmed.
    pub machines: Machines,
    /// State of the allocators.
    pub allocators: Allocators,
    /// What the control plane could not do.
    pub shortfalls: Vec<Shortfall>,
    /// The cluster's names.
    pub zone: Arc<Zone>,
    /// What kube-proxy wrote its rules from the last time, by family.
    programmed: Vec<ServiceView>,
    /// Nodes whose kube-proxy does nothing.
    pub stopped: BTreeSet<ObjectName>,
    /// Nodes whose kube-proxy cannot delete entries of connection tracking.
    pub uncleaned: BTreeSet<ObjectName>,
    /// Whether controllers and kube-proxies look at everything each time, as if nobody had told them what changed. It takes
    /// longer and changes nothing else: this is the reference.
    pub in_full: bool,
    /// Whether agents on the nodes know of policies.
    pub policed: bool,
    /// What they know.
    enforced: Option<Arc<Policies>>,
    /// Pods whose readiness probes policies keep out.
    pub shut: BTreeSet<ObjectKey>,
    /// Pods that were deleted, by the addresses they had.
    pub gone: BTreeMap<IpAddr, Pod>,
    /// Name servers that have ended by themselves.
    pub crashes: BTreeMap<ObjectKey, Crashes>,
    /// How often the slices have changed.
    pub revision: u64,
    /// From which revision of the slices each node's kube-proxy wrote its rules the last time.
    pub synced: BTreeMap<ObjectName, u64>,
}

/// How a pod's program has ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crashes {
    /// Why, the last time.
    pub why: Crash,
    /// How often.
    pub times: u32,
    /// Whether it has not been started again since.
    pub down: bool,
}

impl Lab {
    /// Builds a cluster.
    pub fn build(mut objects: Objects, mut plan: Plan) -> Self {
        let wanted = if plan.nodes == 0 { 2 } else { plan.nodes };
        let (allocators, mut shortfalls) = settle::settle(&mut objects, &plan.site, wanted);
        let control_plane = api_server::hosts(&objects, &plan.site);
        plan.site.hosts.extend(control_plane);
        let slices = all_slices(&objects);
        let (mut machines, errors) = Machines::install(&objects, &plan.site);
        shortfalls.extend(errors.into_iter().map(refused));
        let zone = zone(&objects, &slices, &plan.site);
        let enforced = program_agents(&mut machines, &objects, &plan.site, false);
        let mut lab = Self {
            plan,
            written: objects.endpoint_slices.len(),
            objects,
            slices,
            machines,
            allocators,
            shortfalls,
            zone: Arc::new(zone),
            programmed: Vec::new(),
            stopped: BTreeSet::new(),
            uncleaned: BTreeSet::new(),
            in_full: false,
            policed: enforced.is_some(),
            enforced,
            gone: BTreeMap::new(),
            crashes: BTreeMap::new(),
            revision: 0,
            synced: BTreeMap::new(),
            shut: BTreeSet::new(),
        };
        lab.close_gate();
        let mut machines = std::mem::take(&mut lab.machines);
        lab.program(&mut machines, &Dirty::All);
        lab.machines = machines;
        lab
    }

    /// Tells the agents on all nodes which policies there are, and who has which address and labels.
    pub fn enforce(&mut self, machines: &mut Machines) {
        let same = |known: &Arc<Policies>| self.objects.same_to_policies(known.objects());
        if self.enforced.as_ref().is_some_and(same) && !self.in_full {
            return;
        }
        let before = self.policed;
        self.enforced = program_agents(machines, &self.objects, &self.plan.site, before);
        self.policed = self.enforced.is_some();
    }

    /// Returns the names of all places, for traces.
    pub fn names(&self, origins: &OriginTable) -> Names {
        let mut names = Names::default();
        names.origins.clone_from(origins);
        let nodes = self.machines.nodes.iter();
        let pods = self.machines.pods.values();
        let pods = pods.map(|attached| (attached.netns, attached.node.as_str()));
        let places: BTreeMap<NetnsId, &str> = nodes
            .map(|(name, machine)| (machine.netns, name.as_str()))
            .chain(pods)
            .collect();
        for netns in self.machines.cluster.iter() {
            let node = places.get(&netns.id).copied();
            names.name_netns(netns.id, node, &netns.name);
            for device in netns.devices.iter().flatten() {
                names.name_device(netns.id, device.index, &device.name);
            }
        }
        names
    }

    /// Sets the cluster in motion: servers listen on every declared port of every running pod.
    pub fn start<D: Dice, R: Witness>(&self, dice: D, recorder: R) -> Simulation<Program, D, R> {
        let mut simulation = Simulation::new(self.machines.clone(), dice, recorder);
        for pod in self.objects.pods.values() {
            self.start_pod(pod, &mut simulation);
        }
        self.serve_api(&mut simulation);
        self.serve_health(&mut simulation);
        self.serve_node_caches(&mut simulation);
        simulation
    }

    /// Starts `NodeLocal DNSCache` on every node, where there is one.
    fn serve_node_caches<D: Dice, R: Witness>(&self, simulation: &mut Simulation<Program, D, R>) {
        let Some(ip) = self.plan.site.dns.node_local else {
            return;
        };
        for (name, machine) in self.machines.nodes.iter() {
            let server = NameServer::new(coredns::ServerSettings::default());
            let program = Program::NameServer(server, Arc::clone(&self.zone));
            let label = format!("node-cache on {name}");
            let app = simulation.add_app(machine.netns, &label, program);
            // A pod on the host's network may have the port already.
            let _ = simulation.listen(app, L4::Udp, Some(ip), 53);
            simulation.start_at(simulation.now(), app);
        }
    }

    /// Starts the API server where the endpoints of its Service are, unless they are pods that listen themselves.
    fn serve_api<D: Dice, R: Witness>(&self, simulation: &mut Simulation<Program, D, R>) {
        for (ip, port) in api_server::endpoints(&self.objects) {
            let mut nodes = self.objects.nodes.values();
            let node = nodes.find(|node| node.internal_ips.contains(&ip));
            let node = node.and_then(|node| self.machines.nodes.get(&node.name));
            let mut hosts = self.plan.site.hosts.iter();
            let host = hosts.find(|host| host.ip == ip);
            let host = host.and_then(|host| self.machines.hosts.get(&host.name).copied());
            let Some(netns) = node.map(|machine| machine.netns).or(host) else {
                continue;
            };
            let mut settings = tcp::ServerSettings::new(api_server::NAME.into());
            settings.mtu = simulation.mtu_of(netns);
            let server = tcp::TcpServer::new(settings);
            let label = format!("{} {ip} {port}", api_server::NAME);
            let program = Program::TcpServer(Box::new(server));
            let app = simulation.add_app(netns, &label, program);
            // The control plane's own pod may have the port already.
            let _ = simulation.listen(app, L4::Tcp, None, port);
        }
    }

    /// Lets every node's kube-proxy answer health checks by what it has programmed: ports open, close, and change their
    /// answers.
    pub fn serve_health<D: Dice, R: Witness>(&self, simulation: &mut Simulation<Program, D, R>) {
        let flags = proxies::flags(&self.plan);
        let mut wanted = BTreeMap::new();
        for (name, machine) in simulation.machines.nodes.iter() {
            let object = self.objects.nodes.get(name);
            let netns = simulation.machines.cluster.netns(machine.netns);
            if let (Some(object), Some(netns)) = (object, netns) {
                let addrs = netns.devices.iter().flatten().flat_map(|d| &d.addrs);
                let node = NodeView::new(object, addrs.map(|a| a.net.addr()).collect());
                for server in health::servers(&self.programmed, object, &node, &flags) {
                    let about = (server.service.clone(), server.port);
                    wanted.insert((name.clone(), about), (machine.netns, server));
                }
            }
        }
        let (mut listening, mut closed) = (Vec::new(), Vec::new());
        for (app, program) in simulation.programs_mut() {
            let Program::Health(known) = program else {
                continue;
            };
            let now = wanted.remove(&(known.node.clone(), known.about.clone()));
            if let Some((_, server)) = now {
                known.server.settings_mut().pages = Some(server.pages);
                listening.push((app, server.addrs, server.port));
            } else if self.objects.nodes.contains_key(&known.node) {
                closed.push(app);
            }
        }
        for app in closed {
            simulation.stop_listening(app);
        }
        for ((node, about), (netns, server)) in wanted {
            let name = format!("kube-proxy on {node}");
            let mut settings = tcp::ServerSettings::new(name.as_str().into());
            settings.mtu = simulation.mtu_of(netns);
            settings.pages = Some(server.pages);
            let label = format!("{name}, port {}", server.port);
            let program = Program::Health(Box::new(Health {
                node,
                about,
                server: tcp::TcpServer::new(settings),
            }));
            let app = simulation.add_app(netns, &label, program);
            listening.push((app, server.addrs, server.port));
        }
        for (app, addrs, port) in listening {
            let all = || vec![None];
            let addrs = addrs.map_or_else(all, |addrs| addrs.into_iter().map(Some).collect());
            for addr in addrs {
                // It may listen already; or a pod has the port, and then kube-proxy tries again the next time.
                let _ = simulation.listen(app, L4::Tcp, addr, port);
            }
        }
    }

    /// Starts the servers of one pod.
    pub fn start_pod<D: Dice, R: Witness>(
        &self,
        pod: &Pod,
        simulation: &mut Simulation<Program, D, R>,
    ) {
        let Some(netns) = self.machines.netns_of(pod) else {
            return;
        };
        let name: Arc<str> = pod.key.to_string().into();
        let dns = self.is_name_server(pod);
        for container in pod.spec.running() {
            for port in &container.ports {
                let label = format!(
                    "server {name}/{} {}/{}",
                    container.name, port.container_port, port.protocol
                );
                let (l4, program) = match port.protocol {
                    Protocol::Udp if dns && port.container_port == 53 => {
                        let server = NameServer::new(self.name_server());
                        (L4::Udp, Program::NameServer(server, Arc::clone(&self.zone)))
                    }
                    Protocol::Udp => {
                        let settings = udp::ServerSettings::new(Arc::clone(&name));
                        (L4::Udp, Program::UdpServer(udp::UdpServer::new(settings)))
                    }
                    Protocol::Tcp => {
                        let mut settings = tcp::ServerSettings::new(Arc::clone(&name));
                        settings.mtu = simulation.mtu_of(netns);
                        let server = tcp::TcpServer::new(settings);
                        (L4::Tcp, Program::TcpServer(Box::new(server)))
                    }
                    Protocol::Sctp => {
                        let mut settings = sctp::ServerSettings::new(Arc::clone(&name));
                        settings.mtu = simulation.mtu_of(netns);
                        let server = sctp::SctpServer::new(settings);
                        (L4::Sctp, Program::SctpServer(Box::new(server)))
                    }
                };
                let app = simulation.add_app(netns, &label, program);
                // The second container that wants a port cannot bind it; settling has reported the conflict.
                let _ = simulation.listen(app, l4, None, port.container_port);
                if dns && l4 == L4::Udp {
                    simulation.start_at(simulation.now(), app);
                }
            }
        }
    }

    /// What a replica of the name service can take.
    fn name_server(&self) -> coredns::ServerSettings {
        let dns = &self.plan.site.dns;
        coredns::ServerSettings {
            service_time: dns.service_time,
            memory: dns.memory,
            itself: dns.forwards_to_itself(),
        }
    }

    /// Whether somebody listens on a TCP port of a pod's address; in a cluster that is not in motion, whether one of its
    /// containers declares so.
    pub fn listens(&self, pod: &Pod, port: u16) -> bool {
        answers(&self.machines, pod, port) || readiness::declares(&pod.spec, port)
    }

    fn is_name_server(&self, pod: &Pod) -> bool {
        let of_system = pod.key.namespace.as_str() == "kube-system";
        let mut services = endpoints::services_of(pod, &self.objects);
        of_system && services.any(|service| service.key.name.as_str() == "kube-dns")
    }

    /// Returns the pod that has an address, or had it last, if it is being deleted or gone.
    pub fn leaving(&self, ip: IpAddr) -> Option<&Pod> {
        let mut pods = self.objects.pods.values();
        let there = pods.find(|pod| !pod.spec.host_network && pod.pod_ips.contains(&ip));
        match there {
            Some(pod) => Some(pod).filter(|pod| pod.deleting),
            None => self.gone.get(&ip),
        }
    }

    /// Writes the slices of Services that have to be looked at; returns those of which they are others than before.
    pub fn refresh_slices(&mut self, dirty: &Dirty) -> Dirty {
        let mut changed = Dirty::default();
        let Some(services) = dirty.services().filter(|_| !self.in_full) else {
            let slices = all_slices(&self.objects);
            if self.slices != slices {
                changed = Dirty::All;
                self.revision += 1;
            }
            self.written = self.objects.endpoint_slices.len();
            self.slices = slices;
            return changed;
        };
        for key in services {
            let mut written = self.objects.endpoint_slices.values();
            if written.any(|slice| is_for(slice, key)) {
                continue;
            }
            let service = self.objects.services.get(key);
            let new = service.map(|service| endpoints::slices_of(service, &self.objects));
            let new = new.unwrap_or_default();
            let place = self.place_of(key);
            if self.slices.get(place.clone()) != Some(&new) {
                self.slices.splice(place, new);
                changed.add(key.clone());
            }
        }
        self.revision += u64::from(!changed.is_empty());
        changed
    }

    /// Returns the slices of one Service.
    pub fn slices_of(&self, service: &ObjectKey) -> impl Iterator<Item = &EndpointSlice> {
        let written = self.slices.iter().take(self.written);
        let by_controller = self.slices.get(self.place_of(service)).unwrap_or_default();
        let written = written.filter(move |slice| is_for(slice, service));
        written.chain(by_controller)
    }

    /// Where the slices are that the controller writes for a Service, or would be.
    fn place_of(&self, service: &ObjectKey) -> Range<usize> {
        let names = (service.namespace.as_str(), service.name.as_str());
        let by_controller = self.slices.get(self.written..).unwrap_or_default();
        let before = |slice: &EndpointSlice| {
            let of = slice.service_name().unwrap_or_default();
            (slice.key.namespace.as_str(), of) < names
        };
        let start = self.written + by_controller.partition_point(before);
        let behind = self.slices.get(start..).unwrap_or_default().iter();
        start..start + behind.take_while(|slice| is_for(slice, service)).count()
    }

    /// Works out the names that follow from Services and slices as they are now.
    pub fn refresh_zone(&mut self) {
        self.zone = Arc::new(zone(&self.objects, &self.slices, &self.plan.site));
    }

    /// Returns the address of the cluster's name service.
    pub fn dns_ips(&self) -> Vec<IpAddr> {
        let mut services = self.objects.services.values();
        let kube_dns = services.find(|service| {
            service.key.namespace.as_str() == "kube-system"
                && service.key.name.as_str() == "kube-dns"
        });
        kube_dns
            .map(|service| service.cluster_ips().to_vec())
            .unwrap_or_default()
    }

    /// Returns the servers that kubelets name to their pods.
    pub fn cluster_dns(&self) -> Vec<IpAddr> {
        match self.plan.site.dns.node_local {
            Some(ip) => vec![ip],
            None => self.dns_ips(),
        }
    }

    /// Returns the running pods a workload owns, or the pod itself.
    pub fn pods_of(&self, kind: &str, namespace: &str, name: &str) -> Vec<&Pod> {
        let belongs = |pod: &&Pod| {
            if pod.key.namespace.as_str() != namespace || pod.pod_ips.is_empty() {
                return false;
            }
            if kind == "Pod" {
                return pod.key.name.as_str() == name;
            }
            pod.owner.as_ref().is_some_and(|owner| {
                let direct = *owner.kind == *kind && owner.name.as_str() == name;
                let by_replica_set = kind == "Deployment"
                    && &*owner.kind == "ReplicaSet"
                    && owner
                        .name
                        .as_str()
                        .rsplit_once('-')
                        .is_some_and(|(d, _)| d == name);
                direct || by_replica_set
            })
        };
        self.objects.pods.values().filter(belongs).collect()
    }

    /// Returns the Service with an address, and its port's number if the port is listed.
    pub fn service_at(&self, ip: IpAddr) -> Option<&Service> {
        self.objects
            .services
            .values()
            .find(|service| service.cluster_ips().contains(&ip))
    }
}

/// Whether a socket of a pod takes connections to a TCP port of its address.
pub fn answers(machines: &Machines, pod: &Pod, port: u16) -> bool {
    let netns = machines.netns_of(pod);
    let netns = netns.and_then(|id| machines.cluster.netns(id));
    let sockets = netns.into_iter().flat_map(|n| n.sockets.listening());
    let mut here = sockets.filter(|(l4, _, listening)| (*l4, *listening) == (L4::Tcp, port));
    here.any(|(_, address, _)| address.is_none_or(|address| pod.pod_ips.contains(&address)))
}

fn refused(error: InstallError) -> Shortfall {
    Shortfall {
        code: Code::DeviceDown,
        object: error.place.to_string(),
        says: error.error.to_string(),
        origin: error.origin,
    }
}

fn is_for(slice: &EndpointSlice, service: &ObjectKey) -> bool {
    slice.key.namespace == service.namespace && slice.service_name() == Some(service.name.as_str())
}

/// Returns the slices of the input and those the controller writes.
fn all_slices(objects: &Objects) -> Vec<EndpointSlice> {
    let mut slices: Vec<EndpointSlice> = objects.endpoint_slices.values().cloned().collect();
    slices.extend(endpoints::slices(objects));
    slices
}

fn zone(objects: &Objects, slices: &[EndpointSlice], site: &Site) -> Zone {
    let namespaces: Vec<Namespace> = objects
        .namespaces
        .keys()
        .filter_map(|name| name.as_str().parse().ok())
        .collect();
    let slices: Vec<&EndpointSlice> = slices.iter().collect();
    Zone::new(
        &site.domain,
        &namespaces,
        objects.services.values(),
        &slices,
    )
    .with_outside(&site.dns)
}

/// Gives every node its policy agent, if there are policies. `before` tells whether there were any; returns what
/// the agents know.
fn program_agents(
    machines: &mut Machines,
    objects: &Objects,
    site: &Site,
    before: bool,
) -> Option<Arc<Policies>> {
    let wanted = !objects.network_policies.is_empty() || !objects.cluster_policies.is_empty();
    if !wanted && !before {
        return None;
    }
    let policies = wanted.then(|| {
        let policies = Policies::new(Arc::new(objects.clone()));
        Arc::new(if site.nodes_policed {
            policies.asked_about_nodes()
        } else {
            policies
        })
    });
    for (name, machine) in machines.nodes.iter() {
        let agent = policies.as_ref().map(|policies| {
            let agent: Arc<dyn Agent> = Arc::new(NodeAgent {
                policies: Arc::clone(policies),
                enforcer: site.cni.enforcer(),
                node: name.clone(),
            });
            agent
        });
        if let Some(netns) = machines.cluster.netns_mut(machine.netns) {
            netns.set_agent(agent);
        }
    }
    policies
}
