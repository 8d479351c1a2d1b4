//! Kernel settings.
/// Kernel settings.
#[derive(Clone, Debug, Default)]
pub struct Sysctls;
