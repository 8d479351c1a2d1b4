//! Floor 2: Kubernetes objects, desired state, one kind per file.
