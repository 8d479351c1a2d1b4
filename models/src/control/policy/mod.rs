//! Who may talk to whom: what policies mean, for one connection and for all of them.
//!
//! Reading order: [`ports`] (sets of ports), [`meaning`] (two ends and a rule), [`verdict`] (one connection,
//! explained), [`reach`] (all pairs at once, as classes of ends that no policy tells apart), [`agent`] (who enforces it).
//!
//! # Fidelity
//! Where the API leaves a choice, this is what kube-network-policies and most other implementations do:
//! - a block of addresses matches pods by their address too (`NetworkPolicy` `ipBlock`, `networks`);
//! - pods with `hostNetwork` are no subjects and match no selector; their traffic is their node's, which blocks of
//!   addresses and `nodes` peers match;
//! - a named port of a peer that is not a pod with a network of its own allows nothing;
//! - rules without ports speak of ICMP and other protocols too, rules with ports do not;
//! - of two cluster policies with one priority, the first by name is asked first.
//!
//! Sources: the documentation in `kubernetes/api` `networking/v1/types.go` and in
//! `kubernetes-sigs/network-policy-api` `apis/v1alpha1`, `apis/v1alpha2`.

pub mod ports;
pub mod meaning;
pub mod verdict;
pub mod reach;
pub mod agent;

pub use meaning::{Direction, Party, Policies};
pub use ports::{Connections, Flow, PortSet};
