//! Files that are no files, and directories without end.

use std::fs;
use std::os::unix::fs::symlink;

use super::{POD, directory, full, refused, shell, text, well};

#[test]
fn what_is_no_file() {
    let dir = directory("no file");
    let line = |rest: &str| shell(&dir, rest);
    let cases = [
        ("mkfifo pipe; podwire get pods -f pipe", "it is a pipe"),
        (
            "mkdir -p d; mkfifo d/x.yaml; podwire get pods -f d",
            "it is a pipe",
        ),
        ("mkfifo p.ron; podwire run p.ron", "it is a pipe"),
        ("podwire get pods -f /dev/zero", "FILE_TOO_LARGE"),
        ("podwire get pods -f /dev/null", "FILE_EMPTY"),
        ("podwire get pods -f /proc/self/mem", "FILE_UNREADABLE"),
        ("podwire get pods -f not-there.yaml", "not-there.yaml"),
        ("podwire get pods -f ''", "FILE_UNREADABLE"),
        (
            "podwire get pods -f \"$(printf 'x%.0s' {1..5000})\"",
            "FILE_UNREADABLE",
        ),
        ("podwire get pods -f - <&-", "FILE_EMPTY"),
        ("podwire get pods -f d -f .", "it is a pipe"),
        ("podwire run .", "error["),
        ("podwire explain \"$(printf '\\033[31m')\"", "error"),
        ("podwire run x.ron/y.ron", "FILE_UNREADABLE"),
    ];
    for (command, says) in cases {
        refused(command, &line(command), says);
    }
    fs::write(dir.join("good"), POD).unwrap();
    well(
        "a pipe of the shell's",
        &line("podwire get pods -f <(cat good)"),
    );
    well("the same twice", &line("podwire get pods -f good -f good"));
}

#[test]
fn links() {
    let dir = directory("links");
    fs::create_dir_all(dir.join("a/b")).unwrap();
    symlink("../..", dir.join("a/b/up")).unwrap();
    symlink("self.yaml", dir.join("self.yaml")).unwrap();
    symlink("/not/there", dir.join("dangling.yaml")).unwrap();
    let done = shell(&dir, "podwire get pods -f .");
    refused("links", &done, "FILE_LOOP");
    let says = text(&done.stderr);
    assert!(
        says.contains("self.yaml") && says.contains("dangling.yaml"),
        "{says}"
    );
    let maze = directory("maze");
    for n in 0..40 {
        let (here, next) = (format!("d{n}"), format!("../d{}", n + 1));
        fs::create_dir_all(maze.join(&here)).unwrap();
        symlink(&next, maze.join(&here).join("one")).unwrap();
        symlink(&next, maze.join(&here).join("other")).unwrap();
    }
    fs::create_dir_all(maze.join("d40")).unwrap();
    fs::write(maze.join("d40/x.yaml"), POD).unwrap();
    well("a maze", &shell(&maze, "podwire get pods -f d0"));
    let judged = shell(&dir, "podwire test .");
    refused("no scenario", &judged, "there is no scenario");
}

#[test]
fn what_may_not_be_read() {
    let dir = directory("rights");
    fs::write(dir.join("x.yaml"), POD).unwrap();
    // The superuser may read everything.
    let line = "chmod 0 x.yaml; [ $(id -u) != 0 ] || { echo error: FILE_UNREADABLE >&2; exit 2; }; podwire get pods -f x.yaml";
    refused("rights", &shell(&dir, line), "FILE_UNREADABLE");
}

#[test]
fn many_files() {
    let dir = directory("many files");
    let many = if full() { 20_000 } else { 300 };
    for n in 0..many {
        let pod = POD.replace("web", &format!("web{n}"));
        fs::write(dir.join(format!("{n}.yaml")), pod).unwrap();
    }
    well("many files", &shell(&dir, "podwire get pods -f ."));
    let dir = directory("deep");
    let mut deep = dir.clone();
    for _ in 0..200 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("x.yaml"), POD).unwrap();
    well("deep", &shell(&dir, "podwire get pods -f ."));
}
