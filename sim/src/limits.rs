//! How much is taken in. No input is trusted, and none may exhaust the machine that reads it: what is larger is refused
//! with a problem that says so. `docs/security.md` lists what is not limited.

/// Bytes of one file.
pub const FILE_BYTES: u64 = 256 << 20;

/// Bytes of all files of one command.
pub const INPUT_BYTES: u64 = 1 << 30;

/// Values of one file of manifests: mappings, lists, texts, numbers.
pub const FILE_VALUES: usize = 8_000_000;

/// Problems of one input that are shown; how many more there are is said.
pub const PROBLEMS: usize = 100;

/// Bytes of the lines that are shown around a problem.
pub const SHOWN_BYTES: usize = 64 << 10;

/// Nodes of a cluster: as many as Kubernetes supports ("Considerations for large clusters").
pub const NODES: usize = 5_000;

/// Pods that the workloads of an input ask for. Kubernetes supports 150,000.
pub const PODS: u64 = 200_000;

/// Attempts and other steps of a scenario. All that an attempt does is kept: 200 KiB, and as much for every 8 KiB of
/// its payload.
pub const ATTEMPTS: u128 = 20_000;
