//! `podwire run` and `podwire test`: scenarios, and whether what they expect holds.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::choice::Choice;
use super::explain::pretty;
use super::explore as told_ways;
use super::file::write_whole;
use super::progress::Progress;
use super::{Done, Exit, Format, Report};
use crate::controllers::reactions::{Reaction, Span};
use crate::manifest::load;
use crate::problem::{self, Problem, ProblemCode, Sources};
use crate::render::{Detail, Style, text};
use crate::scenario;
use crate::scenario::text::Range;
use crate::source::Source;
use crate::story::explore::{Explored, explore};
use crate::story::vacuity::{self, Vacuous};
use crate::story::{self, Ran, Story};

const RUN: &str = "\
Examples:
  podwire run scenarios/service/clusterip.ron
  podwire run scenarios/service/clusterip.ron --detail detailed
  podwire run scenarios/dns/search_list.ron --twice --seed 7
  podwire run scenarios/faults/*.ron -o json
  podwire run scenarios/lifecycle/rollout_with_prestop.ron --explore
  podwire run scenarios/lifecycle/rollout_with_prestop.ron --delay proxy_sync=2s";

const TEST: &str = "\
Examples:
  podwire test scenarios
  podwire test scenarios --update
  podwire test scenarios --junit verdicts.xml
  podwire test scenarios/service scenarios/dns -o json";

/// Run scenarios: print what happened, check what was expected
///
/// The last line is the fingerprint of everything that happened: the same scenario and seed have the same one on
/// every machine. Exit code 1 if an expectation did not hold.
#[derive(Debug, Args)]
#[command(after_help = RUN)]
pub(super) struct RunArgs {
    /// Scenario files
    #[arg(required = true, value_name = "SCENARIO.ron", value_hint = clap::ValueHint::FilePath)]
    scenarios: Vec<PathBuf>,
    /// Seed of everything that is left to chance [default: the scenario's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Run each scenario twice, and compare the fingerprints
    #[arg(long)]
    twice: bool,
    /// Do not look for what could be left out of a scenario without any outcome being another
    #[arg(long)]
    no_vacuity: bool,
    /// Try shorter and longer delays of the control plane, and packets of one moment in turn and at once, and list the different
    /// outcomes, each with the fewest changes that lead to it
    #[arg(long, conflicts_with_all = ["twice", "detail"])]
    explore: bool,
    /// How long a reaction of the control plane takes, or between which times: `proxy_sync=2s`, `endpoint_sync=20ms..1s`
    #[arg(long = "delay", value_name = "NAME=TIME", value_parser = delay)]
    delays: Vec<(Reaction, Span)>,
    /// In which form to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
    /// Which steps the text shows: minimal, summary or detailed
    #[arg(long, value_name = "LEVEL", default_value = "summary", value_parser = Choice::new(super::trace::details, super::trace::detail), hide_possible_values = true)]
    detail: Detail,
}

/// Run every scenario below some directories, and say which expectations did not hold
///
/// Where a file `NAME.golden` lies next to `NAME.ron`, the story must also be told as it is there; `--update` writes it.
/// Scenarios in a directory named `problems` show what is said about wrong input: they pass if they are refused.
#[derive(Debug, Args)]
#[command(after_help = TEST)]
pub(super) struct TestArgs {
    /// Scenario files, or directories that are searched for `*.ron`
    #[arg(required = true, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
    /// Keep what each scenario tells now in a file next to it (`NAME.golden`), to compare with from now on
    #[arg(long)]
    update: bool,
    /// Write the verdicts to a file as `JUnit` XML too, as CI systems read it
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Do not look for what could be left out of scenarios without any outcome being another
    #[arg(long)]
    no_vacuity: bool,
    /// In which form to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

/// A scenario that was read, or what is wrong with it; and what is to be said in any case.
pub(super) struct Read {
    pub(super) story: Option<Story>,
    pub(super) said: String,
}

/// Reads a scenario and the files it names.
pub(super) fn read(path: &Path) -> Read {
    let name = path.to_string_lossy().into_owned();
    let mut sources = Sources::default();
    let (files, mut problems) = load::load(std::slice::from_ref(&name));
    let Some(file) = files.first() else {
        return refused(&problems, &sources);
    };
    sources.add(Arc::clone(&file.name), Arc::clone(&file.text));
    let parsed = match scenario::read(&file.name, &file.text) {
        Ok(parsed) => parsed,
        Err(found) => return refused(&found, &sources),
    };
    let directory = path.parent().unwrap_or_else(|| Path::new(""));
    let mut inputs = Vec::new();
    for wanted in story::files(&parsed) {
        let found = directory.join(&**wanted).to_string_lossy().into_owned();
        let (texts, unreadable) = load::load(&[&found]);
        // What cannot be read is told where the scenario asks for it.
        problems.extend(unreadable.into_iter().map(|problem| {
            let reason = problem.label.clone();
            let named = parsed.spans.spot(wanted.mark);
            if problem.code == ProblemCode::FileUnreadable {
                problem.at(named, "named here").note(reason)
            } else {
                problem
            }
        }));
        // Under the name as written, a scenario tells the same wherever it lies.
        inputs.extend(texts.into_iter().map(|input| {
            let below = Path::new(&*input.name).strip_prefix(&found).ok();
            let below = below.filter(|below| !below.as_os_str().is_empty());
            let name = match below {
                Some(below) => Path::new(wanted.as_str()).join(below),
                None => PathBuf::from(wanted.as_str()),
            };
            Source::new(name.to_string_lossy(), input.text)
        }));
    }
    for input in &inputs {
        sources.add(Arc::clone(&input.name), Arc::clone(&input.text));
    }
    if story::unusable(&problems) {
        return refused(&problems, &sources);
    }
    let (story, found) = story::resolve(&parsed, &inputs);
    problems.extend(found);
    if story::unusable(&problems) {
        return refused(&problems, &sources);
    }
    Read {
        story: Some(story),
        said: problem::render_styled(&problems, &sources),
    }
}

fn refused(problems: &[Problem], sources: &Sources) -> Read {
    Read {
        story: None,
        said: problem::render_styled(problems, sources),
    }
}

pub(super) fn run(args: &RunArgs) -> Report {
    let mut report = Report::default();
    let mut all = Vec::new();
    for path in &args.scenarios {
        let Read { story, said } = read(path);
        report.stderr += &said;
        let Some(mut story) = story else {
            report.exit = Exit::BadInput;
            continue;
        };
        for (reaction, span) in &args.delays {
            story.lab.plan.reactions.set(*reaction, *span);
        }
        let seed = args.seed.unwrap_or(story.seed);
        if args.explore {
            let found = explored(path, &story, seed);
            if report.exit == Exit::Well && !found.held() {
                report.exit = Exit::Failed;
            }
            match args.output {
                Format::Text => report.stdout += &told_ways::text(&story.title, &found),
                Format::Json => all.push(told_ways::json(&path.to_string_lossy(), seed, &found)),
            }
            continue;
        }
        let ran = story::explained(&story, seed);
        let again = args.twice.then(|| story::run(&story, seed).fingerprint);
        let same = again.is_none_or(|again| again == ran.fingerprint);
        if !same {
            let says = "two runs have different fingerprints: please report this scenario";
            line(
                &mut report.stderr,
                format_args!("error: {}: {says}", path.display()),
            );
        }
        if report.exit == Exit::Well && !(ran.held() && same) {
            report.exit = Exit::Failed;
        }
        let vacuous = if args.no_vacuity {
            Vec::new()
        } else {
            vacuity::find(&story, seed, &ran)
        };
        match args.output {
            Format::Text => {
                report.stdout += &told(&story, &ran, args.detail);
                for one in &vacuous {
                    line(
                        &mut report.stderr,
                        format_args!("note: {}: {one}", path.display()),
                    );
                }
            }
            Format::Json => all.push(json_of(path, &story, (&ran, &vacuous), seed)),
        }
    }
    if args.output == Format::Json {
        let schema = if args.explore {
            "podwire.explore/v1"
        } else {
            "podwire.run/v1"
        };
        report.stdout = pretty(&json!({ "schema": schema, "scenarios": all }));
    }
    report
}

/// Reads `proxy_sync=2s`.
fn delay(text: &str) -> Result<(Reaction, Span), String> {
    let (name, time) = text
        .split_once('=')
        .ok_or_else(|| "expected NAME=TIME, as in proxy_sync=2s".to_owned())?;
    let reaction = Reaction::named(name).ok_or_else(|| {
        let known: Vec<&str> = Reaction::ALL.iter().map(|one| one.name()).collect();
        format!("there is no delay `{name}`; there are {}", known.join(", "))
    })?;
    let range: Range = time.parse().map_err(|error| format!("{error}"))?;
    Ok((reaction, range.0))
}

fn explored(path: &Path, story: &Story, seed: u64) -> Explored {
    let mut progress = Progress::new();
    let found = explore(story, seed, |ways| {
        progress.say(format_args!("{}: {ways} ways tried", path.display()));
    });
    progress.end();
    found
}

fn told(story: &Story, ran: &Ran, detail: Detail) -> String {
    let mut said = format!("{}\n\n", story.title);
    said += &text::trace(&ran.trace, detail, Style::Ansi);
    if !ran.expectations.is_empty() {
        said.push('\n');
    }
    for expectation in &ran.expectations {
        let word = if expectation.held { "holds" } else { "FAILS" };
        line(&mut said, format_args!("{word}  {}", expectation.text));
        if !expectation.held {
            line(&mut said, format_args!("       {}", expectation.why));
        }
    }
    for failed in &ran.blockers {
        let (probe, at, code) = (&failed.probe, failed.at, failed.code);
        line(
            &mut said,
            format_args!("\nwhy {probe} failed at {at} ({code})"),
        );
        for blocker in &failed.why {
            said += &blocker.text();
        }
    }
    if !ran.blockers.is_empty() {
        said.push('\n');
    }
    line(&mut said, format_args!("fingerprint: {}", ran.fingerprint));
    said
}

fn json_of(path: &Path, story: &Story, (ran, vacuous): (&Ran, &[Vacuous]), seed: u64) -> Value {
    let expectations: Vec<Value> = ran
        .expectations
        .iter()
        .map(|one| json!({ "expectation": one.text, "held": one.held, "why": one.why }))
        .collect();
    let failures: Vec<Value> = ran
        .blockers
        .iter()
        .map(|failed| {
            json!({
                "probe": failed.probe,
                "at_ns": failed.at.0,
                "code": failed.code.name(),
                "why": failed.why,
            })
        })
        .collect();
    json!({
        "path": path.to_string_lossy(),
        "title": story.title,
        "seed": seed,
        "held": ran.held(),
        "expectations": expectations,
        "failures": failures,
        "vacuous": vacuous.iter().map(json_of_vacuous).collect::<Vec<Value>>(),
        "fingerprint": ran.fingerprint.to_string(),
    })
}

fn json_of_vacuous(one: &Vacuous) -> Value {
    json!({ "code": one.name(), "says": one.to_string() })
}

pub(super) fn test(args: &TestArgs) -> Done {
    let mut paths = Vec::new();
    for path in &args.paths {
        below(path, &mut paths)
            .map_err(|error| Report::bad_input(format!("`{}`: {error}", path.display())))?;
    }
    if paths.is_empty() {
        return Err(Report::bad_input("there is no scenario (*.ron) there"));
    }
    let (mut progress, all) = (Progress::new(), paths.len());
    let mut vacuous: Vec<(PathBuf, Vec<Vacuous>)> = Vec::new();
    let verdicts: Vec<(PathBuf, Result<(), String>)> = (1..)
        .zip(paths)
        .map(|(n, path): (usize, PathBuf)| {
            progress.say(format_args!("{n} of {all}: {}", path.display()));
            let verdict = judge(&path, args.update, |story, ran| {
                if !args.no_vacuity {
                    vacuous.push((path.clone(), vacuity::find(story, story.seed, ran)));
                }
            });
            (path, verdict)
        })
        .collect();
    progress.end();
    let failed = verdicts
        .iter()
        .filter(|(_, verdict)| verdict.is_err())
        .count();
    if let Some(file) = &args.junit {
        write_whole(file, &junit(&verdicts, failed))
            .map_err(|error| Report::bad_input(format!("`{}`: {error}", file.display())))?;
    }
    let stdout = match args.output {
        Format::Text => summary(&verdicts, failed),
        Format::Json => {
            let all: Vec<Value> = verdicts
                .iter()
                .map(|(path, verdict)| {
                    let found = vacuous.iter().filter(|(of, _)| of == path);
                    let found = found.flat_map(|(_, found)| found).map(json_of_vacuous);
                    json!({
                        "path": path.to_string_lossy(),
                        "passed": verdict.is_ok(),
                        "why": verdict.as_ref().err(),
                        "vacuous": found.collect::<Vec<Value>>(),
                    })
                })
                .collect();
            pretty(&json!({ "schema": "podwire.test/v1", "failed": failed, "scenarios": all }))
        }
    };
    let mut stderr = String::new();
    if args.output == Format::Text {
        for (path, found) in &vacuous {
            for one in found {
                line(&mut stderr, format_args!("note: {}: {one}", path.display()));
            }
        }
    }
    Ok(Report {
        exit: if failed == 0 {
            Exit::Well
        } else {
            Exit::Failed
        },
        stderr,
        ..Report::well(stdout)
    })
}

fn summary(verdicts: &[(PathBuf, Result<(), String>)], failed: usize) -> String {
    let mut said = String::new();
    for (path, verdict) in verdicts {
        match verdict {
            Ok(()) => line(&mut said, format_args!("ok      {}", path.display())),
            Err(why) => line(
                &mut said,
                format_args!("FAILED  {}\n{}", path.display(), why.trim_end()),
            ),
        }
    }
    let passed = verdicts.len() - failed;
    line(&mut said, format_args!("{passed} passed, {failed} failed"));
    said
}

/// Runs a scenario, and says why it does not pass.
fn judge(path: &Path, update: bool, held: impl FnOnce(&Story, &Ran)) -> Result<(), String> {
    let wrong = path.iter().any(|part| part == "problems");
    let Read { story, said } = read(path);
    match story {
        None if wrong => Ok(()),
        None => Err(said),
        Some(_) if wrong => Err("nothing was found to be wrong with it".to_owned()),
        Some(story) => {
            let ran = story::run(&story, story.seed);
            let mut failures = String::new();
            for one in ran.expectations.iter().filter(|one| !one.held) {
                line(&mut failures, format_args!("  {}: {}", one.text, one.why));
            }
            if !ran.held() {
                return Err(failures);
            }
            held(&story, &ran);
            compare(&path.with_extension("golden"), &plain(&story, &ran), update)
        }
    }
}

/// Returns the story without colours, as a golden file has it.
fn plain(story: &Story, ran: &Ran) -> String {
    let told = told(story, ran, Detail::Summary);
    anstream::adapter::strip_str(&told).to_string()
}

/// Compares what is told with the golden file, if there is one, or writes it.
fn compare(golden: &Path, told: &str, update: bool) -> Result<(), String> {
    let unusable = |error: std::io::Error| format!("  `{}`: {error}\n", golden.display());
    if update {
        return write_whole(golden, told).map_err(unusable);
    }
    let before = match std::fs::read_to_string(golden) {
        Ok(before) => before,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(error)),
    };
    let mut lines = before.lines().zip(told.lines()).zip(1_usize..);
    match lines.find(|((was, is), _)| was != is) {
        None if before == told => Ok(()),
        Some(((was, is), number)) => Err(format!(
            "  {}:{number}: the story is told otherwise (--update accepts it)\n  was {was}\n  is  {is}\n",
            golden.display()
        )),
        None => Err(format!(
            "  {}: the story has another length (--update accepts it)\n",
            golden.display()
        )),
    }
}

/// Returns the verdicts as `JUnit` XML: one test case per scenario.
fn junit(verdicts: &[(PathBuf, Result<(), String>)], failed: usize) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let count = verdicts.len();
    line(
        &mut xml,
        format_args!("<testsuite name=\"podwire\" tests=\"{count}\" failures=\"{failed}\">"),
    );
    for (path, verdict) in verdicts {
        let name = escaped(&path.to_string_lossy());
        match verdict {
            Ok(()) => line(
                &mut xml,
                format_args!("  <testcase classname=\"podwire\" name=\"{name}\"/>"),
            ),
            Err(why) => {
                let why = escaped(&anstream::adapter::strip_str(why).to_string());
                line(
                    &mut xml,
                    format_args!(
                        "  <testcase classname=\"podwire\" name=\"{name}\">\n    <failure message=\"an expectation did not hold\">{why}</failure>\n  </testcase>"
                    ),
                );
            }
        }
    }
    xml += "</testsuite>\n";
    xml
}

/// Returns a text as XML 1.0 can hold it.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\n' | '\t' => safe.push(letter),
            other if other.is_control() => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

/// Finds all scenarios below a path, in the order of their names.
fn below(path: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        std::fs::metadata(path)?;
        found.push(path.to_owned());
        return Ok(());
    }
    let mut inside = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        // A link to a directory could lead back up.
        let directory = entry.file_type()?.is_dir();
        if directory
            || entry
                .path()
                .extension()
                .is_some_and(|ending| ending == "ron")
        {
            inside.push(entry.path());
        }
    }
    inside.sort();
    inside.iter().try_for_each(|path| below(path, found))
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    writeln!(text, "{content}").expect("a String takes everything");
}
