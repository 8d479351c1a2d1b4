//! What a kubelet's probes come to where policies are asked about them.
//!
//! Every plugin must let a pod's own node through, as kubelets ask their pods from there. Not all do always: Cilium with
//! `--allow-localhost=policy` asks its policies (`daemon/cmd/daemon_main.go`), and plugins forget addresses of nodes
//! (kubernetes/kubernetes 111581, cilium/cilium 37317).

use std::net::IpAddr;
use std::sync::Arc;

use podwire_models::api::Pod;
use podwire_models::base::{Family, Protocol};
use podwire_models::cluster::settle::Shortfall;
use podwire_models::control::policy::agent::Enforcer;
use podwire_models::control::policy::{Flow, Policies};
use podwire_models::control::readiness::{self, Failing};
use podwire_models::wire::Code;

use super::Lab;
use crate::controllers::dirty::Dirty;

/// The policies, where they are asked about what a node sends its own pods.
#[derive(Clone, Debug)]
pub struct Gate(Policies);

impl Gate {
    /// Returns the policies, and the addresses between which a kubelet asks its pod.
    pub fn asked_by_kubelet(&self, lab: &Lab, pod: &Pod) -> Option<(&Policies, IpAddr, IpAddr)> {
        let (node, ip) = lab.kubelet_and(pod)?;
        Some((&self.0, node, ip))
    }
}

impl Lab {
    /// Returns the policies that kubelets' probes meet; nothing where a pod's own node is let through.
    pub fn gate(&self) -> Option<Gate> {
        let objects = &self.objects;
        let any = !objects.network_policies.is_empty() || !objects.cluster_policies.is_empty();
        let asked = match self.plan.site.cni.enforcer() {
            Enforcer::KubeNetworkPolicies => self.plan.site.nodes_policed && any,
            // Felix sits where a node's own packets do not pass.
            Enforcer::Felix | Enforcer::Nobody => false,
        };
        asked.then(|| Gate(Policies::new(Arc::new(objects.clone())).asked_about_nodes()))
    }

    /// Whether policies keep a kubelet from a TCP port of its pod.
    pub fn keeps_out(&self, gate: Option<&Gate>, pod: &Pod, port: u16) -> bool {
        let ends = self.kubelet_and(pod);
        gate.zip(ends).is_some_and(|(Gate(policies), (node, ip))| {
            let (node, pod) = (policies.party(node), policies.party(ip));
            let flow = Flow::Port(Protocol::Tcp, port);
            !policies.verdict(&node, &pod, flow).allowed()
        })
    }

    /// Returns the addresses between which a kubelet asks a pod.
    fn kubelet_and(&self, pod: &Pod) -> Option<(IpAddr, IpAddr)> {
        let ip = pod.pod_ips.first().copied()?;
        let node = self.objects.nodes.get(pod.node_name.as_ref()?)?;
        let mut own = node.internal_ips.iter().copied();
        let own = own.find(|own| Family::of(*own) == Family::of(ip))?;
        (!pod.spec.host_network).then_some((own, ip))
    }

    /// Returns the first readiness probe of a pod that policies keep from its answer.
    pub fn kept_out<'p>(&self, gate: Option<&Gate>, pod: &'p Pod) -> Option<Failing<'p>> {
        gate?;
        readiness::failing(&pod.spec, |port| !self.keeps_out(gate, pod, port))
            .filter(|failing| failing.port.is_some())
    }

    /// Pods whose kubelets policies keep out are not ready from the beginning on.
    pub(super) fn close_gate(&mut self) {
        let Some(gate) = self.gate() else { return };
        let mut shut = Vec::new();
        for pod in self.objects.pods.values() {
            if let Some(failing) = self.kept_out(Some(&gate), pod)
                && let (Some(ip), Some(port)) = (pod.pod_ips.first(), failing.port)
            {
                let says = failing.probe.handler.timed_out(*ip, port);
                shut.push((pod.key.clone(), says, failing.probe.origin));
            }
        }
        if shut.is_empty() {
            return;
        }
        for (key, says, origin) in shut {
            let object = format!("Pod/{key}");
            if let Some(pod) = self.objects.pods.get_mut(&key) {
                pod.ready = Some(false);
            }
            self.shortfalls.retain(|one| one.object != object);
            self.shortfalls.push(Shortfall {
                code: Code::NpProbeBlocked,
                object,
                says: format!("Unhealthy: {says}"),
                origin,
            });
            self.shut.insert(key);
        }
        self.refresh_slices(&Dirty::All);
        self.refresh_zone();
    }
}
