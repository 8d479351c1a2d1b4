//! Routing tables.
/// Routing tables of a namespace.
#[derive(Clone, Debug, Default)]
pub struct Fib;
