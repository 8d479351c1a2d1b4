//! Programs that end by themselves: the kubelet notices, and starts them again, each time later than before.

use std::time::Duration;

use podwire_models::base::{Dice, ObjectKey};
use podwire_models::wire::Action;

use super::run::{Run, Task};
use crate::controllers;
use crate::controllers::reactions::Reaction;
use crate::lab::Crashes;
use crate::program::Program;
use crate::traffic::coredns::Crash;

impl<D: Dice> Run<'_, D> {
    /// Finds name servers that have ended since the last time.
    pub(super) fn look_at_name_servers(&mut self) {
        if !self.lab.plan.site.dns.can_crash() {
            return;
        }
        let ended = self
            .simulation
            .programs()
            .filter_map(|(app, netns, program)| {
                let Program::NameServer(server, _) = program else {
                    return None;
                };
                let crash = server.crash()?;
                let pods = self.simulation.machines.pods.iter();
                let mut here = pods.filter(|(_, attached)| attached.netns == netns);
                let (key, _) = here.next()?;
                Some((app, key.clone(), crash))
            });
        let ended: Vec<_> = ended.collect();
        for (app, pod, why) in ended {
            if self.buried.insert(app) {
                self.simulation.stop_listening(app);
                self.crashed(&pod, why);
            }
        }
    }

    fn crashed(&mut self, pod: &ObjectKey, why: Crash) {
        let before = self.lab.crashes.get(pod);
        let times = before.map_or(0, |crash| crash.times) + 1;
        let down = true;
        self.lab
            .crashes
            .insert(pod.clone(), Crashes { why, times, down });
        let says = match why {
            Crash::OutOfMemory => "is killed: out of memory (OOMKilled)",
            Crash::Loop => "ends: plugin/loop: Loop detected for zone \".\" (Error)",
        };
        let what = format!("Pod/{pod}: container coredns {says}");
        self.note(Action::Changed { what });
        let noticed = self.takes(Reaction::PlegRelist);
        self.plan_after(noticed, Task::Ready(pod.clone(), false));
        // A story does not go on for the sake of a loop that never ends.
        if self.goes_on() {
            let after = noticed + controllers::back_off(times);
            self.plan_after(after, Task::Restart(pod.clone()));
        }
    }

    /// The container runs again; its probe is asked a little later.
    pub(super) fn restart(&mut self, key: &ObjectKey) {
        let Some(pod) = self.lab.objects.pods.get(key).cloned() else {
            return;
        };
        if let Some(crash) = self.lab.crashes.get_mut(key) {
            crash.down = false;
        }
        let what = format!("Pod/{key}: container coredns is started again");
        self.note(Action::Changed { what });
        self.lab.start_pod(&pod, &mut self.simulation);
        let asked = Duration::from_secs(1);
        self.plan_after(asked, Task::Ready(key.clone(), true));
    }
}
