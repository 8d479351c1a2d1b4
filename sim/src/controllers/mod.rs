//! Who reacts to a change, and after how long. What each of them then does is a function of `podwire-models`; here is
//! only the time line. A pod whose network is gone, for instance:
//!
//! | after | who | does | until then |
//! |---|---|---|---|
//! | 0 | the pod | stops answering | |
//! | [`PLEG_RELIST`] | kubelet | notices, and the pod is no longer ready | |
//! | [`ENDPOINT_SYNC`] | `EndpointSlice` controller | takes the endpoint out | every node still chooses it |
//! | [`PROXY_SYNC`], but [`runner::MIN_SYNC`] after the time before | kube-proxy, on every node | rewrites its chains | this node still chooses it |
//!
//! A pod that is deleted, by hand or by its controller:
//!
//! | after | who | does | until then |
//! |---|---|---|---|
//! | 0 | API server | notes that the pod is being deleted | |
//! | [`ENDPOINT_SYNC`] | `EndpointSlice` controller | takes the endpoint out of the ready ones | every node still chooses it |
//! | [`CONTROLLER_SYNC`] | the workload's controller | makes another pod | |
//! | [`KUBELET_WATCH`] + what its hooks take (`podwire_models::control::termination`) | kubelet | sends SIGTERM: the programs no longer listen, and end what they have begun | the pod answers |
//! | + [`POD_TEARDOWN`] | kubelet | takes the network away | the pod refuses |
//! | [`ENDPOINT_SYNC`] + [`PROXY_SYNC`], but [`runner::MIN_SYNC`] after the time before | kube-proxy, on every node | rewrites its chains | this node still chooses it |
//! | [`CONTROLLER_SYNC`] + [`POD_START`] | kubelet of the new pod | its containers run, and are asked whether they are ready | |
//! | + what its readiness probes say (`podwire_models::control::readiness`) | kubelet of the new pod | the pod is ready | |
//!
//! # Fidelity
//! Programs close their listening sockets at SIGTERM at once, and what they have begun takes no longer than [`POD_TEARDOWN`].
//! Every delay is one number unless a scenario gives it a range ([`reactions`]); in a real cluster it varies, and the nodes differ.

use std::time::Duration;

use podwire_models::control::proxy::Version;

pub mod dirty;
pub mod reactions;
pub mod runner;

/// From a container's end to kubelet's notice: PLEG's relist period (`pkg/kubelet/pleg/generic.go`).
pub const PLEG_RELIST: Duration = Duration::from_secs(1);

/// From a written workload, or a change of its pods, to what its controller does: watch and work queue.
pub const CONTROLLER_SYNC: Duration = Duration::from_millis(50);

/// From a pod's deletion to what its kubelet does about it: its watch.
pub const KUBELET_WATCH: Duration = Duration::from_millis(20);

/// From SIGTERM to the end of a pod's network: programs that end soon, CNI DEL.
pub const POD_TEARDOWN: Duration = Duration::from_millis(80);

/// From changed Services or slices to the answers of `CoreDNS`: its watch (plugin `kubernetes`).
pub const ZONE_SYNC: Duration = Duration::from_millis(50);

/// From a new pod to its first ready moment: scheduling, sandbox, CNI ADD and containers whose images are there.
pub const POD_START: Duration = Duration::from_secs(2);

/// From a pod that could not be started to its kubelet's next try: `backOffPeriod` (`pkg/kubelet/kubelet.go`).
///
/// # Fidelity
/// The real one is up to half as long again, by chance.
pub const SANDBOX_RETRY: Duration = Duration::from_secs(10);

/// The same where the network of the node is not ready: `backOffOnTransientErrorPeriod` (`pkg/kubelet/pod_workers.go`).
pub const NETWORK_RETRY: Duration = Duration::from_secs(1);

/// From a change of pods or Services to the slices that say so: watch and work queue.
pub const ENDPOINT_SYNC: Duration = Duration::from_millis(50);

/// From changed slices or Services to changed rules: watch, and one synchronisation of a kube-proxy that was idle.
pub const PROXY_SYNC: Duration = Duration::from_millis(100);

/// From a changed policy, pod or namespace to agents that judge by it: watch and work queue (Felix reacts within tens
/// of milliseconds, kube-network-policies looks its objects up when a packet comes).
pub const POLICY_SYNC: Duration = Duration::from_millis(50);

/// From a node's last lease to its pods no longer being ready: `--node-monitor-grace-period`, 50 s since 1.32.
pub const fn node_grace(version: Version) -> Duration {
    match version {
        Version::V1_30 | Version::V1_31 => Duration::from_secs(40),
        Version::V1_32 | Version::V1_33 | Version::V1_34 => Duration::from_secs(50),
    }
}

/// From a container's end to its next start, when it has ended so many times: at once, then 10 s, doubled each time, at
/// most 5 min (`CrashLoopBackOff`, `pkg/kubelet/kubelet.go`: `backOffPeriod`, `MaxContainerBackOff`).
///
/// # Fidelity
/// A container that has run for ten minutes begins anew in the real kubelet.
pub fn back_off(times: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(10);
    const MOST: Duration = Duration::from_secs(300);
    match times {
        0 | 1 => Duration::ZERO,
        _ => FIRST
            .saturating_mul(1_u32.checked_shl(times - 2).unwrap_or(u32::MAX))
            .min(MOST),
    }
}
