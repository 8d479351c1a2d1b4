//! Output that cannot be written, and ends that come too early.

use std::fs;
use std::path::Path;

use super::{POD, directory, shell, text, well};

const SCENARIO: &str = "Scenario(title: \"x\", cluster: Cluster(profile: \"kindnet\", nodes: [Node(name: \"node-a\")]),
    timeline: [At(\"1s\", Probe(id: \"p\", from: \"node/node-a\", to: \"10.0.0.1:80\"))])";

fn ready(test: &str) -> std::path::PathBuf {
    let dir = directory(test);
    fs::write(dir.join("x.yaml"), POD).unwrap();
    fs::write(dir.join("x.ron"), SCENARIO).unwrap();
    dir
}

/// What lies in a directory, but the input.
fn made(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("x.")).collect();
    names.sort();
    names
}

#[test]
fn nobody_reads_to_the_end() {
    let dir = ready("closed");
    for command in [
        "podwire run x.ron --detail detailed",
        "podwire get pods -f x.yaml -o json",
        "podwire exec node/node-a -f x.yaml -- iptables-save",
        "podwire man",
        "podwire completions bash",
        "podwire --help",
    ] {
        let line = format!("set -o pipefail; {command} | head -c 1 | wc -c");
        let done = shell(&dir, &line);
        well(command, &done);
        assert_eq!(text(&done.stdout).trim(), "1", "{command}");
        assert_eq!(text(&done.stderr), "", "{command}");
        well(command, &shell(&dir, &format!("{command} >&-")));
    }
}

#[test]
fn a_disk_that_is_full() {
    let dir = ready("full");
    for command in [
        "podwire get pods -f x.yaml",
        "podwire run x.ron",
        "podwire man",
        "podwire test x.ron --junit /dev/full",
        "podwire init -f x.yaml > /dev/full",
    ] {
        let done = shell(&dir, &format!("{command} > /dev/full"));
        assert_eq!(done.status.code(), Some(2), "{command}");
        let says = text(&done.stderr);
        assert!(
            says.contains("No space left on device"),
            "{command}: {says}"
        );
    }
    assert!(
        Path::new("/dev/full")
            .metadata()
            .is_ok_and(|full| !full.is_file())
    );
    // A limit is a disk that is full after some bytes; the signal of it is not waited for.
    for command in [
        "podwire init -f x.yaml --out made.ron",
        "podwire materialize -f x.yaml --out made",
        "podwire test x.ron --junit made.xml",
        "podwire test x.ron --update",
    ] {
        let line = format!("trap '' XFSZ; ulimit -f 0; {command}");
        let done = shell(&dir, &line);
        assert!(
            matches!(done.status.code(), Some(1 | 2)),
            "{command}: {done:?}"
        );
        let left: Vec<String> = made(&dir)
            .into_iter()
            .filter(|name| name != "made")
            .collect();
        assert!(left.is_empty(), "{command} left {left:?}");
        assert!(made(&dir.join(".")).len() <= 1, "{command}");
    }
    assert_eq!(made(&dir.join("made")), [""; 0]);
    assert!(!dir.join("x.golden").exists());
}

#[test]
fn what_is_there_is_not_spoilt() {
    let dir = ready("there");
    fs::write(dir.join("made.ron"), "mine").unwrap();
    let done = shell(&dir, "podwire init -f x.yaml --out made.ron");
    assert_eq!(done.status.code(), Some(2));
    assert_eq!(fs::read_to_string(dir.join("made.ron")).unwrap(), "mine");
    for (command, says) in [
        (
            "podwire init -f x.yaml --out no/such/made.ron",
            "No such file",
        ),
        (
            "podwire test x.ron --junit no/such/made.xml",
            "No such file",
        ),
        ("podwire materialize -f x.yaml --out x.yaml", "exists"),
        ("podwire test x.ron --junit .", "directory"),
    ] {
        let done = shell(&dir, command);
        assert_eq!(done.status.code(), Some(2), "{command}");
        assert!(
            text(&done.stderr).contains(says),
            "{command}: {}",
            text(&done.stderr)
        );
    }
    let done = shell(&dir, "podwire test x.ron --junit made.xml");
    well("junit", &done);
    assert_eq!(made(&dir), ["made.ron", "made.xml"]);
}

#[test]
fn an_interrupt_leaves_nothing_half_done() {
    let dir = ready("interrupt");
    let many: String = (0..2000)
        .map(|n| format!("---\n{}", POD.replace("web", &format!("web{n}"))))
        .collect();
    fs::write(dir.join("x.many.yaml"), many).unwrap();
    for delay in ["0.01", "0.1", "0.3"] {
        let line = format!(
            "timeout -s INT {delay} {} materialize -f x.many.yaml --out made; echo $?",
            env!("CARGO_BIN_EXE_podwire")
        );
        let done = shell(&dir, &line);
        let code = text(&done.stdout);
        assert!(matches!(code.trim(), "124" | "0"), "{code}");
        let whole = |name: &str| {
            let script = fs::read_to_string(dir.join("made").join(name));
            script.is_err() || script.is_ok_and(|script| script.ends_with('\n'))
        };
        assert!(whole("build.sh") && whole("teardown.sh"));
    }
}
