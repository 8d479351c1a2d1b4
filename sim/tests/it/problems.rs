//! Every broken input has a golden diagnostic: `scenarios/problems/manifests/ports.yaml` is refused
//! as `snapshots/problems/manifests/ports.snap` says.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Compares what is said about an input with its golden.
fn golden(folder: &str, input: &Path, said: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(workspace().join("snapshots/problems").join(folder));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.remove_input_file();
    let name = input.file_stem().unwrap().to_str().unwrap();
    settings.bind(|| insta::assert_snapshot!(name, said));
}

#[test]
fn manifests() {
    let folder = workspace().join("scenarios/problems/manifests");
    let mut inputs: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 12);
    for input in &inputs {
        let (_, _, said) = crate::manifests::read(input);
        let here = format!("{}/", workspace().display());
        golden("manifests", input, &said.replace(&here, ""));
    }
}
