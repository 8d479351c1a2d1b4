//! Pods come and go: one pod after the other that a controller has made is deleted, and its controller makes another. Which one
//! it hits is left to chance, and so is how long until the next: up to twice the mean.

use std::time::Duration;

use podwire_models::base::{Dice, Namespace, ObjectKey, Purpose, Stream, Time};
use podwire_models::control::rollout;
use podwire_models::wire::Action;

use super::run::{Run, Task};
use crate::scenario::text::Frequency;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Churn {
    /// How many pods are deleted, in the mean.
    pub rate: Frequency,
    /// For how long.
    pub lasts: Duration,
    /// Only those of a namespace; all but `kube-system` if not given.
    pub namespace: Option<Namespace>,
}

impl Churn {
    /// Whether it can hit pods of a namespace.
    pub(super) fn concerns(&self, namespace: &Namespace) -> bool {
        match &self.namespace {
            Some(only) => namespace == only,
            None => namespace.as_str() != "kube-system",
        }
    }
}

/// A churn that is under way.
#[derive(Clone, Debug)]
pub(super) struct Churning {
    asked: Churn,
    ends: Time,
}

impl<D: Dice> Run<'_, D> {
    pub(super) fn begin_churn(&mut self, asked: Churn) {
        let number = self.churns.len();
        let what = format!("pods come and go: {} for {:?}", asked.rate, asked.lasts);
        self.note(Action::Changed { what });
        let ends = self.simulation.now() + asked.lasts;
        self.churns.push(Churning { asked, ends });
        self.plan_churn(number);
    }

    /// Plans when the next pod is deleted.
    fn plan_churn(&mut self, number: usize) {
        let Some(churn) = self.churns.get(number) else {
            return;
        };
        let (mean, ends) = (churn.asked.rate.mean(), churn.ends);
        let longest = u64::try_from(mean.as_nanos() * 2).unwrap_or(u64::MAX);
        let wait = self
            .simulation
            .dice
            .pick(stream(number), longest.saturating_add(1));
        let next = self.simulation.now() + Duration::from_nanos(wait);
        if next < ends {
            self.plan(next, Task::ChurnMore(number));
        }
    }

    /// Deletes the next pod.
    pub(super) fn churn_more(&mut self, number: usize) {
        if let Some(pod) = self.hit(number) {
            self.delete_pod(&pod);
        }
        self.plan_churn(number);
    }

    /// The pod it hits.
    fn hit(&mut self, number: usize) -> Option<ObjectKey> {
        let asked = &self.churns.get(number)?.asked;
        let objects = &self.lab.objects;
        let pods = objects.pods.values();
        let pods = pods.filter(|pod| !pod.deleting && asked.concerns(&pod.key.namespace));
        let replaced = pods.filter(|pod| rollout::is_replaced(pod, objects));
        let keys: Vec<&ObjectKey> = replaced.map(|pod| &pod.key).collect();
        if keys.is_empty() {
            return None;
        }
        let hit = self.simulation.dice.pick(stream(number), keys.len() as u64);
        keys.get(usize::try_from(hit).ok()?).copied().cloned()
    }
}

const fn stream(number: usize) -> Stream {
    Stream::new(Purpose::Churn, number as u64)
}
