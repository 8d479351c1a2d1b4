//! Names: which records the cluster's zone has, and which questions a resolver asks.

pub mod flavour;
pub mod options;
pub mod records;
pub mod resolver;
pub mod settings;
