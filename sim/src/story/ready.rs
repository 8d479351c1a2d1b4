//! Who is attached and ready, and the endpoints that follow from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::{Dice, ObjectKey};
use podwire_models::control::readiness;
use podwire_models::wire::{Action, Code};

use super::run::{Run, Task};
use crate::controllers::dirty::Dirty;
use crate::controllers::reactions::Reaction;
use crate::lab::answers;

impl<D: Dice> Run<'_, D> {
    /// Makes a pod's network, and starts its programs. A pod that has one keeps it: while a fault kept a pod away, its controller may
    /// have made another of the same name.
    pub(super) fn attach(&mut self, key: &ObjectKey) {
        if self.simulation.machines.pods.contains_key(key) {
            return;
        }
        let Some(pod) = self.lab.objects.pods.get(key).cloned() else {
            return;
        };
        let mut errors = Vec::new();
        let machines = &mut self.simulation.machines;
        machines.attach(&pod, &self.lab.plan.site, &mut errors);
        for error in errors {
            self.note(Action::Note {
                text: error.to_string(),
            });
        }
        // The lab answers where a pod is, and the simulation has the machines.
        let attached = self.simulation.machines.pods.get(key).cloned();
        if let Some(attached) = attached {
            let node = format!("node/{}", attached.node);
            for id in [
                Some(attached.netns),
                self.simulation.machines.cluster.named(&node),
            ] {
                let netns = id.and_then(|id| self.simulation.machines.cluster.netns(id));
                let Some(netns) = netns else { continue };
                if netns.id == attached.netns {
                    let on = attached.node.as_str();
                    self.names.name_netns(netns.id, Some(on), &netns.name);
                }
                for device in netns.devices.iter().flatten() {
                    self.names.name_device(netns.id, device.index, &device.name);
                }
            }
            Arc::make_mut(&mut self.lab.machines.pods).insert(key.clone(), attached);
        }
        self.lab.start_pod(&pod, &mut self.simulation);
    }

    /// What the kubelet's event says of a pod whose readiness probe fails.
    pub(super) fn unhealthy(&self, key: &ObjectKey) -> Option<String> {
        let pod = self.lab.objects.pods.get(key)?;
        let machines = &self.simulation.machines;
        let gate = self.lab.gate();
        if let Some(failing) = self.lab.kept_out(gate.as_ref(), pod) {
            let says = (failing.probe.handler).timed_out(*pod.pod_ips.first()?, failing.port?);
            let code = Code::NpProbeBlocked;
            return Some(format!("Pod/{key}: Unhealthy: {says} ({code})"));
        }
        let failing = readiness::failing(&pod.spec, |port| answers(machines, pod, port))?;
        let says = failing.says(*pod.pod_ips.first()?);
        Some(format!("Pod/{key}: Unhealthy: {says}"))
    }

    /// Whether something keeps a pod from answering.
    pub(super) fn is_gone(&self, key: &ObjectKey) -> bool {
        let netns = self.lab.objects.pods.get(key).and_then(|pod| {
            let machines = &self.simulation.machines;
            machines.netns_of(pod)
        });
        let crashed = self.lab.crashes.get(key).is_some_and(|crash| crash.down);
        crashed || netns.is_none_or(|netns| self.simulation.machines.cluster.is_off(netns))
    }

    /// Pods whose readiness probes find listeners of the story are ready before it begins.
    pub(super) fn ask_again(&mut self) {
        let machines = &self.simulation.machines;
        let mut answered = Vec::new();
        for shortfall in &self.lab.shortfalls {
            let pods = self.lab.objects.pods.values();
            let pod = pods.filter(|_| shortfall.code == Code::PodUnready);
            let mut pod = pod.filter(|pod| shortfall.object == format!("Pod/{}", pod.key));
            if let Some(pod) = pod.next()
                && readiness::failing(&pod.spec, |port| answers(machines, pod, port)).is_none()
            {
                answered.push(pod.key.clone());
            }
        }
        if answered.is_empty() {
            return;
        }
        for key in answered {
            let object = format!("Pod/{key}");
            let shortfalls = &mut self.lab.shortfalls;
            shortfalls.retain(|one| one.code != Code::PodUnready || one.object != object);
            if let Some(pod) = self.lab.objects.pods.get_mut(&key) {
                pod.ready = Some(true);
            }
        }
        self.lab.refresh_slices(&Dirty::All);
        self.lab.program(&mut self.simulation.machines, &Dirty::All);
        self.lab.serve_health(&mut self.simulation);
        self.names();
    }

    pub(super) fn ready(&mut self, key: &ObjectKey, ready: bool) {
        let gate = self.lab.gate();
        let pod = self.lab.objects.pods.get(key);
        let kept_out = pod.is_some_and(|pod| self.lab.kept_out(gate.as_ref(), pod).is_some());
        if kept_out {
            self.lab.shut.insert(key.clone());
        } else {
            self.lab.shut.remove(key);
        }
        // Whoever noticed notices too late: it is the other way round by now.
        let gone = self.is_gone(key);
        if if ready { gone } else { !gone && !kept_out } {
            return;
        }
        if ready && let Some(event) = self.unhealthy(key) {
            return self.note(Action::Changed { what: event });
        }
        if kept_out
            && !ready
            && let Some(event) = self.unhealthy(key)
        {
            self.note(Action::Changed { what: event });
        }
        let Some(pod) = self.lab.objects.pods.get_mut(key) else {
            return;
        };
        if pod.ready == Some(ready) {
            return;
        }
        pod.ready = Some(ready);
        let pod = pod.clone();
        self.touch_pod(&pod);
        let word = if ready { "ready" } else { "not ready" };
        let what = format!("Pod/{key} is {word}");
        self.note(Action::Changed { what });
        self.plan_slices();
    }

    /// Where policies are asked about kubelets' probes: whose kubelet is kept out now, and whose no longer?
    pub(super) fn kubelets_ask(&mut self) {
        if !self.lab.plan.site.nodes_policed {
            return;
        }
        let gate = self.lab.gate();
        let mut noticed = Vec::new();
        for (key, pod) in &self.lab.objects.pods {
            let kept_out = self.lab.kept_out(gate.as_ref(), pod);
            match kept_out {
                Some(failing) if pod.ready == Some(true) => {
                    let probe = failing.probe;
                    let seconds = probe.period.saturating_mul(probe.failure_threshold);
                    noticed.push((key.clone(), seconds, false));
                }
                None if self.lab.shut.contains(key) => {
                    let probes = pod.spec.running().filter_map(|c| c.readiness.as_ref());
                    let seconds = probes.map(|probe| probe.period).max().unwrap_or(0);
                    noticed.push((key.clone(), seconds, true));
                }
                Some(_) | None => {}
            }
        }
        for (key, seconds, ready) in noticed {
            let after = Duration::from_secs(seconds.into());
            self.plan_after(after, Task::Ready(key, ready));
        }
    }

    /// The `EndpointSlice` controller looks at the Services it has heard of.
    pub(super) fn slices(&mut self) {
        let dirty = std::mem::take(&mut self.memory.endpoints);
        let changed = self.lab.refresh_slices(&dirty);
        let before = self.count_endpoints(&changed);
        for (service, before) in before {
            let Some(ready) = self.ready.get(&service).copied() else {
                continue;
            };
            if before != Some(ready) {
                let what = format!("EndpointSlices of {service}: {ready} ready");
                self.note(Action::Changed { what });
            }
        }
        if !changed.is_empty() {
            self.memory.rules.merge(changed);
            self.plan_rules();
        }
        self.plan_reaction(Reaction::ZoneSync, Task::Names);
    }

    /// Counts the ready endpoints of Services, and returns how many they had before.
    pub(super) fn count_endpoints(&mut self, of: &Dirty) -> BTreeMap<ObjectKey, Option<u64>> {
        let services = match of {
            Dirty::Some(services) => services.clone(),
            Dirty::All => self.all_services(),
        };
        let mut counts = BTreeMap::new();
        let mut before = BTreeMap::new();
        for service in services {
            let there = self.lab.objects.services.contains_key(&service);
            let mut slices = self.lab.slices_of(&service).peekable();
            let known = there || slices.peek().is_some();
            let endpoints = slices.flat_map(|slice| &slice.endpoints);
            let ready = endpoints.filter(|endpoint| endpoint.is_ready());
            let addresses = ready.filter_map(|endpoint| endpoint.addresses.first());
            let count = addresses.collect::<BTreeSet<&IpAddr>>().len() as u64;
            counts.insert(service.clone(), count);
            let was = if known {
                self.ready.insert(service.clone(), count)
            } else {
                self.ready.remove(&service)
            };
            before.insert(service, was.or_else(|| there.then_some(0)));
        }
        self.endpoints.push((self.simulation.now(), counts));
        before
    }

    /// Services that there are, those of which only slices are there, and those that were there.
    fn all_services(&self) -> BTreeSet<ObjectKey> {
        let named = self.lab.slices.iter().filter_map(|slice| {
            let name = slice.service_name()?.parse().ok()?;
            Some(ObjectKey::new(slice.key.namespace.clone(), name))
        });
        let there = self.lab.objects.services.keys();
        let known = there.chain(self.ready.keys()).cloned();
        known.chain(named).collect()
    }
}
