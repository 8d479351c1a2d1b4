//! Faults of the timeline: how they begin and end, what they touch, and who notices.

use std::time::Duration;

use podwire_models::api::{Taint, TaintEffect};
use podwire_models::base::{Dice, ObjectKey, ObjectName};
use podwire_models::control::readiness;
use podwire_models::wire::{Action, Code, Counted};

use super::run::{Run, Task};
use crate::controllers;
use crate::controllers::dirty::Dirty;
use crate::controllers::reactions::Reaction;
use crate::fault::{Fault, Undo};
use crate::scenario::text::Mark;
use crate::trace::record::Record;
use crate::why::Blocker;

/// A fault that is in force.
pub(super) struct Active {
    fault: Fault,
    undo: Undo,
    since: usize,
    mark: Mark,
}

impl<D: Dice> Run<'_, D> {
    pub(super) fn begin(&mut self, id: String, fault: Fault, lasts: Option<Duration>, mark: Mark) {
        self.check_flat();
        let since = self.simulation.recorder.records().len();
        if let Fault::PodKill { pod } = &fault {
            self.simulation.lose_pod(pod);
        }
        match fault.begin(&id, &mut self.simulation.machines) {
            Ok(undo) => {
                if let Undo::Power(all) = &undo {
                    self.simulation.lose_machines(all);
                }
                let what = fault.words();
                let began = Action::FaultBegan {
                    fault: id.clone(),
                    what,
                };
                self.note(began);
                self.react(&fault, false);
                if let Some(lasts) = lasts {
                    self.plan_after(lasts, Task::End(id.clone()));
                }
                let active = Active {
                    fault,
                    undo,
                    since,
                    mark,
                };
                self.faults.insert(id, active);
            }
            Err(why) => {
                let text = format!("fault {id} cannot begin: {why}");
                self.note(Action::Note { text });
            }
        }
    }

    /// Where the fault that is in force was written that made the object of a blocker what it is.
    pub(super) fn fault_behind(&self, blocker: &Blocker) -> Option<String> {
        let object = blocker.object.as_deref()?;
        let code = blocker.code.parse().ok()?;
        let mut active = self.faults.iter();
        let (_, active) = active.find(|(id, active)| active.fault.is_behind(id, object, code))?;
        Some(self.story.spans.origin(active.mark).to_string())
    }

    /// Counts the packets of an attempt of a load that faults touched.
    pub(super) fn touch(&mut self, records: &[Record]) {
        for (id, active) in &self.faults {
            let pod = active.fault.pod();
            let pod = pod.and_then(|pod| self.lab.objects.pods.get(pod));
            let count = active.fault.seen(&self.simulation.machines, records, pod);
            *self.touched.entry(id.clone()).or_default() += count;
        }
    }

    pub(super) fn count_touched(&mut self, id: &str) -> u64 {
        let Some(active) = self.faults.get(id) else {
            return 0;
        };
        let records = self.simulation.recorder.records();
        let since = records.get(active.since..).unwrap_or_default();
        let pod = active.fault.pod();
        let pod = pod.and_then(|pod| self.lab.objects.pods.get(pod));
        let machines = &self.simulation.machines;
        let count = active.fault.touched(id, machines, since, pod);
        let count = count + self.objects_touched(&active.fault);
        let all = self.touched.entry(id.to_owned()).or_default();
        *all += count;
        *all
    }

    pub(super) fn end(&mut self, id: &str) {
        let touched = self.count_touched(id);
        let Some(active) = self.faults.remove(id) else {
            return;
        };
        active.undo.end(&mut self.simulation.machines);
        if let Undo::Attach(pod) = &active.undo {
            self.attach(pod);
        }
        let fault = id.to_owned();
        let of = match &active.fault {
            Fault::CniMissing { .. } => Counted::Pods,
            Fault::IpLeak { .. } => Counted::Addresses,
            Fault::LinkDown { .. }
            | Fault::NodeDown { .. }
            | Fault::PodKill { .. }
            | Fault::Sysctl { .. }
            | Fault::ForwardDrop { .. }
            | Fault::HairpinOff { .. }
            | Fault::RouteLost { .. }
            | Fault::KubeProxyDown { .. }
            | Fault::NoConntrackCleanup { .. }
            | Fault::SnatPorts { .. }
            | Fault::Duplicate { .. }
            | Fault::ConntrackRace { .. }
            | Fault::Acl(_) => Counted::Packets,
        };
        self.note(Action::FaultEnded { fault, touched, of });
        self.react(&active.fault, true);
    }

    /// Counts what a fault of the control plane has touched.
    fn objects_touched(&self, fault: &Fault) -> u64 {
        if let Fault::IpLeak { node } = fault {
            return self.lab.allocators.leaked(node) as u64;
        }
        let Fault::CniMissing { node } = fault else {
            return 0;
        };
        let waiting = self.lab.shortfalls.iter().filter(|shortfall| {
            let mut pods = self.lab.objects.pods.values();
            shortfall.code == Code::CniUninitialized
                && pods.any(|pod| {
                    pod.node_name.as_ref() == Some(node)
                        && shortfall.object == format!("Pod/{}", pod.key)
                })
        });
        waiting.count() as u64
    }

    /// A node's kubelet finds that there is no network configuration, or that it is back: the node is ready or not, and the scheduler
    /// hears of it by a taint.
    fn network_plugin(&mut self, name: &ObjectName, there: bool) {
        let taint = Taint {
            key: "node.kubernetes.io/not-ready".into(),
            value: "".into(),
            effect: TaintEffect::NoSchedule,
        };
        let allocators = &mut self.lab.allocators;
        let missing = &mut allocators.uninitialized;
        if there {
            missing.remove(name);
        } else {
            missing.insert(name.clone());
        }
        allocators.look_again();
        if let Some(node) = self.lab.objects.nodes.get_mut(name) {
            node.ready = Some(there);
            node.taints.retain(|one| *one != taint);
            if !there {
                node.taints.push(taint);
            }
        }
        let word = if there { "ready" } else { "not ready" };
        self.note(Action::Changed {
            what: format!("Node/{name} is {word}"),
        });
        if there {
            self.place_pending();
        }
    }

    /// Lets controllers notice that pods have gone, or are back.
    pub(super) fn react(&mut self, fault: &Fault, ended: bool) {
        match fault {
            Fault::PodKill { pod } => {
                let spec = self.lab.objects.pods.get(pod).map(|pod| &pod.spec);
                let asked = spec.map_or(Duration::ZERO, |spec| readiness::first_ready(spec));
                let after = if ended {
                    self.takes(Reaction::PodStart) + asked
                } else {
                    self.takes(Reaction::PlegRelist)
                };
                self.plan_after(after, Task::Ready(pod.clone(), ended));
            }
            Fault::NodeDown { node } => {
                let pods = self.lab.objects.pods.values();
                let here = pods.filter(|pod| pod.node_name.as_ref() == Some(node));
                let keys: Vec<ObjectKey> = here.map(|pod| pod.key.clone()).collect();
                let grace = controllers::node_grace(self.lab.plan.version);
                let after = if ended {
                    self.takes(Reaction::PlegRelist)
                } else {
                    grace
                };
                for key in keys {
                    self.plan_after(after, Task::Ready(key, ended));
                }
            }
            Fault::KubeProxyDown { node } => {
                if ended {
                    // It starts, and synchronises at once.
                    self.lab.stopped.remove(node);
                    self.memory.rules = Dirty::All;
                    self.plan_reaction_once(Reaction::ProxySync, Task::Rules);
                } else {
                    self.lab.stopped.insert(node.clone());
                }
            }
            Fault::CniMissing { node } => self.network_plugin(node, ended),
            Fault::IpLeak { node } => {
                let leaking = &mut self.lab.allocators.leaking;
                if ended {
                    leaking.remove(node);
                } else {
                    leaking.insert(node.clone());
                }
            }
            Fault::NoConntrackCleanup { node } => {
                if ended {
                    // It starts anew, and looks at all there is.
                    self.lab.uncleaned.remove(node);
                    self.memory.rules = Dirty::All;
                    self.plan_reaction_once(Reaction::ProxySync, Task::Rules);
                } else {
                    self.lab.uncleaned.insert(node.clone());
                }
            }
            Fault::LinkDown { .. }
            | Fault::Sysctl { .. }
            | Fault::ForwardDrop { .. }
            | Fault::HairpinOff { .. }
            | Fault::RouteLost { .. }
            | Fault::SnatPorts { .. }
            | Fault::Duplicate { .. }
            | Fault::ConntrackRace { .. }
            | Fault::Acl(_) => {}
        }
    }
}
