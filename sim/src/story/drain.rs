//! Nodes that take no more pods, and those whose pods are moved away: what `kubectl cordon` and `kubectl drain` do.
//!
//! # Fidelity
//! All pods of a node are evicted at the same moment. `PodDisruptionBudget`s are not looked at: no eviction is refused.

use podwire_models::api::{Pod, WorkloadKind};
use podwire_models::base::{Dice, ObjectKey, ObjectName};

use super::run::Run;

impl<D: Dice> Run<'_, D> {
    /// Keeps new pods away from a node, or no longer.
    pub(super) fn cordon(&mut self, name: &ObjectName, shut: bool) {
        let Some(mut node) = self.lab.objects.nodes.get(name).cloned() else {
            return;
        };
        if node.unschedulable == shut {
            return;
        }
        node.unschedulable = shut;
        let word = if shut { "cordoned" } else { "uncordoned" };
        self.changed(format!("Node/{name} is {word}"));
        self.put_node(node);
    }

    /// Cordons a node and evicts its pods, as far as controllers replace them or somebody insists.
    pub(super) fn drain(&mut self, name: &ObjectName, force: bool) {
        self.cordon(name, true);
        let daemon = |pod: &Pod| {
            let owner = pod.owner.as_ref();
            owner.is_some_and(|owner| &*owner.kind == WorkloadKind::DaemonSet.as_str())
        };
        let pods = self.lab.objects.pods.values();
        let here = pods.filter(|pod| pod.node_name.as_ref() == Some(name) && !pod.deleting);
        let evicted: Vec<(ObjectKey, bool)> = here
            .filter(|pod| !daemon(pod) && !pod.ended())
            .map(|pod| (pod.key.clone(), pod.owner.is_some()))
            .collect();
        if let Some((alone, _)) = evicted.iter().find(|(_, owned)| !owned && !force) {
            return self.changed(format!(
                "Node/{name} is not drained: cannot delete Pods that declare no controller (use --force to override): {alone}"
            ));
        }
        for (key, _) in evicted {
            self.changed(format!("Pod/{key} is evicted"));
            self.delete_pod(&key);
        }
    }
}
