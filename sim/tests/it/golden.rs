//! Every scenario as it is told: run twice with the same bytes, the second time with controllers that look at everything, every
//! expectation and every invariant held, and the same as last time.
//! Those in `problems/` must be refused, and their golden is the diagnostic.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use podwire::problem::{self, Sources};
use podwire::render::{Detail, Style, text};
use podwire::scenario;
use podwire::scenario::expect::{Expectation, Invariant};
use podwire::source::Source;
use podwire::story::{Ran, Story, files, resolve, run};

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All scenarios below a directory, in the order of their names.
pub(crate) fn scenarios(directory: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            scenarios(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "ron") {
            found.push(path);
        }
    }
}

/// Reads a scenario and its manifests, or says what is wrong with them.
pub(crate) fn story(path: &Path) -> Result<Story, String> {
    let name = path
        .strip_prefix(root().join("scenarios"))
        .unwrap()
        .to_str()
        .unwrap();
    story_of(name, &fs::read_to_string(path).unwrap())
}

/// The same for the text of a scenario that lies at `name`, below all of them.
pub(crate) fn story_of(name: &str, content: &str) -> Result<Story, String> {
    let path = root().join("scenarios").join(name);
    let mut sources = Sources::default();
    sources.add(name, content);
    let file = scenario::read(name, content).map_err(|found| problem::render(&found, &sources))?;
    let mut inputs = Vec::new();
    for wanted in files(&file) {
        let content = fs::read_to_string(path.parent().unwrap().join(wanted.as_str())).unwrap();
        sources.add(wanted.as_str(), content.as_str());
        inputs.push(Source::new(wanted.as_str(), content));
    }
    let (story, problems) = resolve(&file, &inputs);
    if problems.is_empty() {
        Ok(story)
    } else {
        Err(problem::render(&problems, &sources))
    }
}

/// What the command line says of a scenario that must be refused, with exit code 2 and nothing on the standard output.
fn refusal(name: &Path) -> String {
    let path = Path::new("../scenarios").join(name).with_extension("ron");
    let report = podwire::cli::run(["podwire", "run", path.to_str().unwrap()]);
    assert_eq!(report.exit.code(), 2, "{}: {report:?}", path.display());
    assert_eq!(report.stdout, "", "{}", path.display());
    anstream::adapter::strip_str(&report.stderr).to_string()
}

fn told(story: &Story, ran: &Ran) -> String {
    let mut told = format!("{}\n\n", story.title);
    told += &text::trace(&ran.trace, Detail::Summary, Style::Plain);
    told.push('\n');
    for held in &ran.expectations {
        let word = if held.held { "held" } else { "FAILED" };
        let why = if held.why.is_empty() {
            String::new()
        } else {
            format!(": {}", held.why)
        };
        writeln!(told, "{word}  {}{why}", held.text).unwrap();
    }
    writeln!(told, "fingerprint {}", ran.fingerprint).unwrap();
    told
}

/// Runs a story with controllers that look at everything each time, and find the same as those that look at what changed. Somebody
/// looks whether the invariants of every cluster hold, which changes nothing.
fn in_full(story: &Story) -> Ran {
    let mut in_full = story.clone();
    in_full.lab.in_full = true;
    let consistent = Expectation::Always(Invariant::Consistent);
    in_full.expect.insert(0, consistent);
    let mut ran = run(&in_full, story.seed);
    let held = ran.expectations.remove(0);
    assert!(held.held, "{}: {}", story.title, held.why);
    ran
}

#[test]
fn scenarios_are_told_as_before() {
    let top = root().join("scenarios");
    let mut paths = Vec::new();
    scenarios(&top, &mut paths);
    assert!(!paths.is_empty());
    let only: Option<&str> = None;
    let mut failed = Vec::new();
    for path in &paths {
        let name = path.strip_prefix(&top).unwrap().with_extension("");
        if only.is_some_and(|only| !name.to_str().unwrap().contains(only)) {
            continue;
        }
        let refused = name.starts_with("problems");
        let made = if refused {
            Err(refusal(&name))
        } else {
            story(path)
        };
        let golden = match made {
            Ok(story) => {
                let ran = run(&story, story.seed);
                let again = told(&story, &in_full(&story));
                let told = told(&story, &ran);
                assert_eq!(told, again, "{}: two runs differ", name.display());
                if !ran.held() {
                    failed.push(format!("{}\n{told}", name.display()));
                    continue;
                }
                told
            }
            Err(diagnostic) if refused => diagnostic,
            Err(diagnostic) => {
                failed.push(format!("{}\n{diagnostic}", name.display()));
                continue;
            }
        };
        let directory = root().join("snapshots").join(name.parent().unwrap());
        let directory = directory.to_str().unwrap();
        let stem = name.file_name().unwrap().to_str().unwrap();
        insta::with_settings!({
            snapshot_path => directory,
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(stem, golden);
        });
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
