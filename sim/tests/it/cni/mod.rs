//! Recorded cases of CNI plugins, replayed (`oracle/cni`).

pub(crate) mod flows;
pub(crate) mod shell;
pub(crate) mod state;
pub(crate) mod world;
