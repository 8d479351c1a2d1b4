//! Where the texts come from that are changed: the repository's own scenarios and manifests.

use std::fs;
use std::path::{Path, PathBuf};

/// Files that are longer say nothing more.
const LONGEST: u64 = 16_000;

fn below(directory: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            below(&path, endings, found);
        } else if path
            .extension()
            .is_some_and(|ending| endings.iter().any(|e| ending == *e))
            && path.metadata().unwrap().len() < LONGEST
        {
            found.push(path);
        }
    }
}

/// Returns the texts of all scenarios or manifests.
pub(crate) fn texts(endings: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let mut found = Vec::new();
    below(&root, endings, &mut found);
    let texts = found.iter().map(|path| fs::read(path).unwrap());
    texts
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
}
