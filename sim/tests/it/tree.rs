//! The files of this repository, for tests about its shape.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// Returns the names in the root, sorted.
pub(crate) fn top_level() -> Vec<String> {
    names(&root())
}

/// Returns all files whose path ends with `end`, as paths from the root, sorted. What is built is not among them.
pub(crate) fn files_with(end: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(&root(), "", &mut found);
    found.retain(|path| path.ends_with(end));
    found
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn walk(dir: &Path, prefix: &str, found: &mut Vec<String>) {
    for name in names(dir) {
        if matches!(name.as_str(), ".git" | "target") {
            continue;
        }
        let path = dir.join(&name);
        if path.is_dir() {
            walk(&path, &format!("{prefix}{name}/"), found);
        } else {
            found.push(format!("{prefix}{name}"));
        }
    }
}
