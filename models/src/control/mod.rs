//! Floor 3: desired → programmed, as functions. What a node, a pod, a zone should have; never by when (the
//! `controllers` of the simulator decide that). File names are component names.
//!
//! Reading order: [`workloads`] (controllers make pods), [`scheduler`] (pods get nodes), [`ipam`] (nodes and pods
//! get addresses), [`cni`] (what a plugin leaves behind), [`readiness`] (what the kubelet's probes find), [`termination`] (when a pod stops), [`admission`] (who is asked before a write), [`endpoints`] (Services get pods), [`proxy`] (rules for Services),
//! [`dns`] (names), [`policy`] (who may talk to whom).

pub mod workloads;
pub mod rollout;
pub mod scheduler;
pub mod ipam;
pub mod cni;
pub mod readiness;
pub mod admission;
pub mod termination;
pub mod endpoints;
pub mod proxy;
pub mod dns;
pub mod policy;
