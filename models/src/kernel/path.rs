//! The order of stages.
/// ICMP token buckets and cached path MTUs.
#[derive(Clone, Debug, Default)]
pub struct IcmpState;
