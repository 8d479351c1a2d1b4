//! What follows from a write: objects as the API server keeps them, controllers that make and delete pods, kubelets that
//! start and stop them, and in the end endpoints, rules and names. When each acts is in [`crate::controllers`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use podwire_models::api::{
    ClusterIp, Kind, Node, Object, ObjectRef, Phase, Pod, Service, Workload, WorkloadKind,
};
use podwire_models::base::{Dice, Namespace, ObjectKey, Time};
use podwire_models::cluster::settle::{self, Shortfall};
use podwire_models::control::{endpoints, readiness, rollout, termination};
use podwire_models::wire::{Action, Code};

use super::run::{Run, Task};
use super::writes::Change;
use crate::controllers::dirty::Dirty;
use crate::controllers::reactions::Reaction;
use crate::controllers::{NETWORK_RETRY, SANDBOX_RETRY};
use crate::program::Program;

/// Names a workload.
type WorkloadId = (WorkloadKind, ObjectKey);

/// What controllers remember.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// Workloads whose controller has something to look at.
    active: BTreeSet<WorkloadId>,
    /// Pods of earlier templates.
    outdated: BTreeMap<WorkloadId, BTreeSet<ObjectKey>>,
    /// Names that some pod has or had.
    used: BTreeSet<ObjectKey>,
    /// Services whose slices have to be looked at.
    pub(super) endpoints: Dirty,
    /// Services whose rules have to be written.
    pub(super) rules: Dirty,
    /// How often something changed that policy agents look at.
    policies: u64,
    /// Up to which of these changes they know them.
    heard: u64,
    /// Since when pods are ready that became so in the story.
    ready_since: BTreeMap<ObjectKey, Time>,
}

impl Memory {
    pub(super) fn of(pods: impl Iterator<Item = ObjectKey>) -> Self {
        Self {
            used: pods.collect(),
            ..Self::default()
        }
    }
}

impl<D: Dice> Run<'_, D> {
    /// The API server writes, and everybody hears of it.
    pub(super) fn carry_out(&mut self, what: String, changes: Vec<Change>) {
        self.changed(what);
        for change in changes {
            match change {
                Change::Put(object) => self.put(*object),
                Change::Remove(object) => self.remove(&object),
            }
        }
    }

    pub(super) fn changed(&mut self, what: String) {
        self.note(Action::Changed { what });
    }

    fn put(&mut self, object: Object) {
        match object {
            Object::Service(service) => self.put_service(service),
            Object::Pod(pod) => self.put_pod(pod),
            Object::Workload(workload) => self.put_workload(workload),
            Object::Node(node) => self.put_node(node),
            Object::EndpointSlice(_) => {
                self.lab.objects.insert(object);
                self.memory.endpoints = Dirty::All;
                self.plan_slices();
            }
            Object::WebhookConfiguration(_) => {
                self.lab.objects.insert(object);
            }
            Object::Namespace(_)
            | Object::NetworkPolicy(_)
            | Object::ClusterPolicy(_)
            | Object::Ingress(_) => {
                self.lab.objects.insert(object);
                self.plan_policies();
            }
        }
    }

    /// A Service keeps the addresses and node ports it was given, unless the new text names others.
    fn put_service(&mut self, mut service: Service) {
        let key = service.key.clone();
        let before = self.lab.objects.services.get(&key).cloned();
        if let Some(old) = self.lab.objects.services.get(&service.key) {
            if service.cluster_ip == ClusterIp::Unassigned {
                service.cluster_ip = old.cluster_ip.clone();
            }
            for port in &mut service.ports {
                let same = old
                    .ports
                    .iter()
                    .find(|p| (p.port, p.protocol) == (port.port, port.protocol));
                port.node_port = port.node_port.or_else(|| same.and_then(|p| p.node_port));
            }
        }
        let objects = &mut self.lab.objects;
        objects.services.insert(service.key.clone(), service);
        let shortfalls = self.lab.shortfalls.len();
        let shortfalls_of = &mut self.lab.shortfalls;
        let given = settle::settle_services(objects, &self.lab.plan.site, shortfalls_of);
        for service in given.into_iter().chain([key.clone()]) {
            self.touch_service(service);
        }
        self.tell_shortfalls(shortfalls);
        self.plan_slices();
        let after = self.lab.objects.services.get(&key);
        let same = before
            .zip(after)
            .is_some_and(|(before, after)| before.same_to_proxies(after));
        if !same {
            self.plan_rules();
        }
    }

    /// What kubelet and the scheduler have filled in stays; a pod that is new is started.
    fn put_pod(&mut self, mut pod: Pod) {
        let Some(old) = self.lab.objects.pods.get(&pod.key) else {
            self.create(pod);
            return;
        };
        pod.node_name.clone_from(&old.node_name);
        pod.pod_ips.clone_from(&old.pod_ips);
        pod.uid.clone_from(&old.uid);
        (pod.ready, pod.phase, pod.deleting) = (old.ready, old.phase, old.deleting);
        let old = old.clone();
        self.touch_pod(&old);
        self.touch_pod(&pod);
        // It may want other ports of its node.
        self.lab.allocators.look_again();
        self.lab.objects.pods.insert(pod.key.clone(), pod);
        self.plan_slices();
    }

    fn put_workload(&mut self, workload: Workload) {
        let id = (workload.kind, workload.key.clone());
        if let Some(old) = self.lab.objects.workloads.get(&id)
            && old.template.without_origins() != workload.template.without_origins()
        {
            let pods = rollout::owned(old, &self.lab.objects);
            let keys = pods.into_iter().map(|pod| pod.key.clone());
            let outdated: BTreeSet<ObjectKey> = keys.collect();
            self.memory
                .outdated
                .entry(id.clone())
                .or_default()
                .extend(outdated);
        }
        self.lab.objects.workloads.insert(id.clone(), workload);
        self.activate(id);
    }

    pub(super) fn put_node(&mut self, mut node: Node) {
        if let Some(old) = self.lab.objects.nodes.get(&node.name) {
            node.pod_cidrs.clone_from(&old.pod_cidrs);
            node.internal_ips.clone_from(&old.internal_ips);
        }
        self.lab.objects.nodes.insert(node.name.clone(), node);
        // kube-proxy watches its Node, and its health follows at once.
        self.lab.serve_health(&mut self.simulation);
        self.touch_all();
        self.plan_slices();
        self.place_pending();
    }

    fn remove(&mut self, object: &ObjectRef) {
        if !self.lab.objects.contains(object) {
            self.changed(format!("{object} is not there any more"));
            return;
        }
        match object.kind {
            Kind::Pod => self.delete_pod(&object.key()),
            Kind::Service => {
                self.lab.objects.remove(object);
                self.touch_service(object.key());
                self.plan_slices();
                self.plan_rules();
            }
            Kind::EndpointSlice => {
                self.lab.objects.remove(object);
                self.memory.endpoints = Dirty::All;
                self.plan_slices();
            }
            Kind::Workload(kind) => {
                let removed = self.lab.objects.workloads.remove(&(kind, object.key()));
                let owned = removed
                    .map(|workload| self.owned(&workload))
                    .unwrap_or_default();
                for pod in owned {
                    self.delete_pod(&pod);
                }
            }
            Kind::Namespace => {
                let inside = |other: &ObjectRef| {
                    let space = other.namespace.as_ref().map(Namespace::as_str);
                    space == Some(object.name.as_str())
                };
                let all = self.lab.objects.references();
                for other in all.iter().filter(|other| inside(other)) {
                    self.remove(other);
                }
                self.lab.objects.remove(object);
            }
            Kind::Node => {
                self.lab.objects.remove(object);
                self.touch_all();
                self.plan_policies();
            }
            Kind::WebhookConfiguration(_) => {
                self.lab.objects.remove(object);
            }
            Kind::NetworkPolicy | Kind::ClusterPolicy(_) | Kind::Ingress => {
                self.lab.objects.remove(object);
                self.plan_policies();
            }
        }
    }

    fn owned(&self, workload: &Workload) -> Vec<ObjectKey> {
        let pods = rollout::owned(workload, &self.lab.objects);
        pods.into_iter().map(|pod| pod.key.clone()).collect()
    }

    // ---- controllers ----

    fn activate(&mut self, id: WorkloadId) {
        self.memory.active.insert(id);
        self.plan_reaction_once(Reaction::ControllerSync, Task::Workloads);
    }

    /// Lets the controllers of workloads look at their pods.
    pub(super) fn workloads(&mut self) {
        let now = self.simulation.now();
        for id in std::mem::take(&mut self.memory.active) {
            let Some(workload) = self.lab.objects.workloads.get(&id) else {
                continue;
            };
            let wait = Duration::from_secs(workload.min_ready_seconds.into());
            let ready_since = &self.memory.ready_since;
            let available = |pod: &Pod| {
                let since = ready_since.get(&pod.key);
                let long = since.is_none_or(|since| now.since(*since) >= wait);
                pod.ready == Some(true) && (wait.is_zero() || long)
            };
            let none = BTreeSet::new();
            let known = rollout::Known {
                outdated: self.memory.outdated.get(&id).unwrap_or(&none),
                used: &self.memory.used,
                available: &available,
            };
            let step = rollout::step(workload, &self.lab.objects, &known);
            for pod in step.delete {
                self.delete_pod(&pod);
            }
            for pod in step.create {
                self.create(pod);
            }
        }
    }

    /// A pod's owners look at it, and if it is ready once more when it has been for long enough to be available.
    pub(super) fn became_ready(&mut self, pod: &Pod) {
        self.wake_owners(pod);
        if pod.ready != Some(true) {
            return;
        }
        let now = self.simulation.now();
        self.memory.ready_since.insert(pod.key.clone(), now);
        let owners = rollout::owners(pod, &self.lab.objects).into_iter();
        let owners = owners.filter(|w| w.min_ready_seconds > 0);
        let waits: BTreeSet<u32> = owners.map(|w| w.min_ready_seconds).collect();
        for seconds in waits {
            let wait = Duration::from_secs(seconds.into());
            self.plan_after(wait, Task::Available(pod.key.clone()));
        }
    }

    /// Lets the controllers that own a pod look again.
    pub(super) fn wake_owners(&mut self, pod: &Pod) {
        let owners = rollout::owners(pod, &self.lab.objects).into_iter();
        let owners = owners.filter(|w| w.owner.is_none());
        let ids: Vec<WorkloadId> = owners.map(|w| (w.kind, w.key.clone())).collect();
        for id in ids {
            self.activate(id);
        }
    }

    // ---- kubelet ----

    fn create(&mut self, pod: Pod) {
        self.changed(format!("Pod/{} is created", pod.key));
        let key = pod.key.clone();
        self.memory.used.insert(key.clone());
        self.lab.allocators.admit(&pod);
        self.lab.objects.pods.insert(key.clone(), pod);
        self.plan_reaction(Reaction::PodStart, Task::Begin(key));
    }

    /// Takes out what kept a pod from starting so far.
    fn take_shortfalls_of(&mut self, key: &ObjectKey) -> Vec<Shortfall> {
        let object = format!("Pod/{key}");
        let starting = |one: &Shortfall| one.object == object && one.code != Code::PodUnready;
        let (known, others) = std::mem::take(&mut self.lab.shortfalls)
            .into_iter()
            .partition(starting);
        self.lab.shortfalls = others;
        known
    }

    /// A pod has not started: its kubelet tries again, as long as the story goes on for another reason. One without a node waits
    /// until a node changes.
    fn try_again(&mut self, key: &ObjectKey) {
        let Some(pod) = self.lab.objects.pods.get(key) else {
            return;
        };
        let Some(node) = pod.node_name.as_ref().filter(|_| self.goes_on()) else {
            return;
        };
        let wait = if self.lab.allocators.uninitialized.contains(node) {
            NETWORK_RETRY
        } else {
            SANDBOX_RETRY
        };
        self.plan_after(wait, Task::Begin(key.clone()));
    }

    /// Pods that wait for an address from the beginning on are tried again too.
    pub(super) fn start_waiting(&mut self) {
        let pods = self.lab.objects.pods.values();
        let waiting = pods.filter(|pod| pod.pod_ips.is_empty() && !pod.ended());
        let waiting: Vec<ObjectKey> = waiting.map(|pod| pod.key.clone()).collect();
        for key in waiting {
            self.try_again(&key);
        }
    }

    /// The scheduler looks again at pods that have no node.
    pub(super) fn place_pending(&mut self) {
        let pods = self.lab.objects.pods.values();
        let pending = pods.filter(|pod| pod.node_name.is_none() && !pod.ended() && !pod.deleting);
        let pending: Vec<ObjectKey> = pending.map(|pod| pod.key.clone()).collect();
        for key in pending {
            self.plan_reaction(Reaction::PodStart, Task::Begin(key));
        }
    }

    /// A pod is scheduled, gets its network, and its programs start.
    pub(super) fn begin_pod(&mut self, key: &ObjectKey) {
        // It may have been deleted, or started by another try.
        let over = |pod: &Pod| {
            let runs = pod.phase == Phase::Running && !pod.pod_ips.is_empty();
            pod.deleting || runs
        };
        if self.lab.objects.pods.get(key).is_none_or(over) {
            return;
        }
        if self.lab.in_full {
            self.lab.allocators.look_again();
        }
        let known = self.take_shortfalls_of(key);
        let before = self.lab.shortfalls.len();
        settle::settle_pod(
            &mut self.lab.objects,
            key,
            &mut self.lab.allocators,
            &mut self.lab.shortfalls,
        );
        let lacks = self.lab.shortfalls.get(before..).unwrap_or_default();
        if known != lacks {
            self.tell_shortfalls(before);
        }
        let Some(pod) = self.lab.objects.pods.get_mut(key) else {
            return;
        };
        if pod.pod_ips.is_empty() {
            return self.try_again(key);
        }
        pod.ready = Some(false);
        let pod = pod.clone();
        self.touch_pod(&pod);
        let ips: Vec<String> = pod.pod_ips.iter().map(ToString::to_string).collect();
        let node = pod.node_name.as_ref().map(ToString::to_string);
        let what = format!(
            "Pod/{key} runs on {} as {}",
            node.unwrap_or_default(),
            ips.join(", ")
        );
        self.changed(what);
        self.attach(key);
        self.serve_listeners(key);
        let spec = self.lab.objects.pods.get(key).map(|pod| &pod.spec);
        let asked = spec.map_or(Duration::ZERO, |spec| readiness::first_ready(spec));
        if asked.is_zero() {
            self.ready(key, true);
        } else {
            self.plan_after(asked, Task::Ready(key.clone(), true));
        }
        if let Some(pod) = self.lab.objects.pods.get(key).cloned() {
            self.became_ready(&pod);
        }
    }

    pub(super) fn delete_pod(&mut self, key: &ObjectKey) {
        let Some(pod) = self.lab.objects.pods.get_mut(key) else {
            return;
        };
        if pod.deleting {
            return;
        }
        pod.deleting = true;
        let pod = pod.clone();
        self.touch_pod(&pod);
        self.changed(format!("Pod/{key} is being deleted"));
        self.plan_slices();
        let ends = self.takes(Reaction::KubeletWatch) + termination::ends_after(&pod.spec);
        self.plan_after(ends, Task::Terminate(key.clone()));
        self.wake_owners(&pod);
    }

    /// A deleted pod's programs get SIGTERM, after its hooks: they no longer listen.
    pub(super) fn terminate_pod(&mut self, key: &ObjectKey) {
        let pod = self.lab.objects.pods.get(key);
        if let Some(netns) = pod.and_then(|pod| self.lab.machines.netns_of(pod)) {
            let served = [format!("server {key}/"), format!("server {key} ")];
            let own = |name: &str| served.iter().any(|served| name.starts_with(served));
            for app in self.simulation.apps_in(netns, own) {
                self.simulation.stop_listening(app);
            }
        }
        self.plan_reaction(Reaction::PodTeardown, Task::Stop(key.clone()));
    }

    /// A deleted pod's programs have ended: its network goes, its addresses are free, its object is gone.
    pub(super) fn stop_pod(&mut self, key: &ObjectKey) {
        self.simulation.lose_pod(key);
        self.simulation.machines.detach(key);
        Arc::make_mut(&mut self.lab.machines.pods).remove(key);
        let gone = self.lab.objects.pods.remove(key);
        // A pod that gets its name is one of the template as it is now.
        for outdated in self.memory.outdated.values_mut() {
            outdated.remove(key);
        }
        self.changed(format!("Pod/{key} is gone"));
        self.plan_slices();
        if let Some(pod) = gone {
            self.lab.allocators.release(&pod);
            self.touch_pod(&pod);
            self.wake_owners(&pod);
            for ip in &pod.pod_ips {
                self.lab.gone.insert(*ip, pod.clone());
            }
        }
    }

    fn tell_shortfalls(&mut self, from: usize) {
        let new: Vec<String> = self
            .lab
            .shortfalls
            .iter()
            .skip(from)
            .map(|s| format!("{}: {} ({})", s.object, s.says, s.code))
            .collect();
        for what in new {
            self.changed(what);
        }
    }

    // ---- what follows ----

    /// A pod is not as it was: the Services whose endpoint it is or was have to be looked at, as soon as anybody looks.
    pub(super) fn touch_pod(&mut self, pod: &Pod) {
        let services = endpoints::services_of(pod, &self.lab.objects);
        for service in services {
            self.memory.endpoints.add(service.key.clone());
        }
    }

    /// A Service is not as it was.
    fn touch_service(&mut self, service: ObjectKey) {
        self.memory.endpoints.add(service.clone());
        self.memory.rules.add(service);
    }

    /// A node is not as it was.
    fn touch_all(&mut self) {
        self.lab.allocators.look_again();
        self.memory.endpoints = Dirty::All;
        self.memory.rules = Dirty::All;
    }

    /// The `EndpointSlice` controller looks at pods and Services.
    pub(super) fn plan_slices(&mut self) {
        self.plan_reaction_once(Reaction::EndpointSync, Task::Slices);
        self.plan_policies();
    }

    /// Agents hear of policies, and of the pods and namespaces that policies look at.
    fn plan_policies(&mut self) {
        let objects = &self.lab.objects;
        let any = !objects.network_policies.is_empty() || !objects.cluster_policies.is_empty();
        if any || self.lab.policed {
            self.memory.policies += 1;
            self.plan_reaction_once(Reaction::PolicySync, Task::Policies);
        }
    }

    /// Agents have heard of all there is.
    pub(super) fn policies(&mut self) {
        self.lab.enforce(&mut self.simulation.machines);
        self.memory.heard = self.memory.policies;
        let what = "policy agents on every node know the policies";
        self.changed(what.to_owned());
        self.kubelets_ask();
    }

    /// Returns the latest change that policy agents have not heard of.
    pub(super) fn unheard(&self) -> Option<u64> {
        (self.memory.heard < self.memory.policies).then_some(self.memory.policies)
    }

    /// Whether nothing has changed since that change that policy agents look at.
    pub(super) const fn is_latest(&self, change: u64) -> bool {
        self.memory.policies == change
    }

    /// kube-proxy hears of a change of a Service, or of its slices, and writes its rules when it may.
    pub(super) fn plan_rules(&mut self) {
        let now = self.simulation.now();
        let version = self.lab.plan.version;
        let lasts = self.takes(Reaction::ProxySync);
        if let Some(begins) = self.proxies.hear(now, lasts, version) {
            self.plan_after(begins.since(now) + lasts, Task::Rules);
        }
    }

    /// `CoreDNS` answers from what Services and slices are now.
    pub(super) fn names(&mut self) {
        self.lab.refresh_zone();
        let zone = Arc::clone(&self.lab.zone);
        self.simulation.for_each_program(|program| {
            if let Program::NameServer(_, answers) = program {
                *answers = Arc::clone(&zone);
            }
        });
    }
}
