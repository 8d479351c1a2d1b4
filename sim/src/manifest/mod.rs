//! Reading Kubernetes objects from YAML and JSON.

pub mod tree;
mod schema;
mod yaml;
