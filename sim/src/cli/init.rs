//! `podwire init`: a first scenario, from the manifests somebody has.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use clap::Args;

use podwire_models::api::{Pod, Service};
use podwire_models::base::Protocol;

use super::{Done, Report, file};
use crate::lab::Lab;
use crate::manifest::load;
use crate::problem::{self, Sources};
use crate::scenario;
use crate::source::Source;
use crate::story::{self, Attempted, Story};
use crate::traffic::ProbeResult;

const EXAMPLES: &str = "\
Examples:
  podwire init -f shop.yaml
  podwire init -f manifests/ --out scenarios/shop.ron && podwire test scenarios/shop.ron";

/// Write a first scenario: one attempt at every port of every Service, and what came of it
///
/// The scenario passes `podwire test` as it is. Where an attempt fails today, its expectation says so: change it to what
/// you want, and the test tells when it is true.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InitArgs {
    /// Kubernetes objects: a YAML or JSON file, or a directory (read recursively)
    #[arg(short, long, required = true, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    filename: Vec<String>,
    /// Where to write the scenario; nothing is overwritten [default: the standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &InitArgs) -> Done {
    if args.filename.iter().any(|name| name == "-") {
        return Err(Report::bad_input(
            "a scenario refers to files, so -f takes no `-` here",
        ));
    }
    let (files, problems) = load::load(&args.filename);
    if story::unusable(&problems) {
        return Err(Report::bad_input(problem::render_styled(
            &problems,
            &Sources::default(),
        )));
    }
    let directory = args.out.as_deref().and_then(Path::parent);
    let inputs: Vec<Source> = files
        .into_iter()
        .map(|file| Source::new(relative(&file.name, directory), file.text))
        .collect();
    let draft = Draft::of(&inputs)?;
    let text = draft.text();
    match &args.out {
        None => Ok(Report::well(text)),
        Some(path) => {
            write_new(path, &text)
                .map_err(|error| Report::bad_input(format!("`{}`: {error}", path.display())))?;
            let says = format!(
                "{} attempts in {}; `podwire test {}` runs them\n",
                draft.attempts.len(),
                path.display(),
                path.display()
            );
            Ok(Report {
                stderr: says,
                ..Report::default()
            })
        }
    }
}

/// Returns the way from a directory to a file.
fn relative(file: &str, directory: Option<&Path>) -> String {
    let Some(directory) = directory else {
        return file.to_owned();
    };
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (file, directory) = (whole(Path::new(file)), whole(directory));
    let shared = file
        .components()
        .zip(directory.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = directory
        .components()
        .skip(shared)
        .map(|_| Component::ParentDir);
    let down = file.components().skip(shared);
    let way: PathBuf = up.chain(down).collect();
    way.to_string_lossy().into_owned()
}

/// Writes a file that must not be there yet; a half-written one never stays.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    if path.try_exists()? {
        return Err(std::io::Error::new(
            std::io::ErrorKind::AlreadyExists,
            "is there already, and is not overwritten",
        ));
    }
    file::Draft::new(path, text)?.keep()
}

/// A scenario in the making.
struct Draft {
    manifests: Vec<String>,
    attempts: Vec<Attempt>,
}

struct Attempt {
    id: String,
    from: String,
    to: String,
    protocol: Protocol,
    /// What came of it.
    found: Option<(ProbeResult, String)>,
}

impl Draft {
    fn of(inputs: &[Source]) -> Result<Self, Report> {
        let mut draft = Self {
            manifests: inputs.iter().map(|input| input.name.to_string()).collect(),
            attempts: Vec::new(),
        };
        let story = draft.story(inputs)?;
        draft.plan(&story.lab);
        let story = draft.story(inputs)?;
        let ran = story::run(&story, story.seed);
        for attempt in &mut draft.attempts {
            let of = |made: &&Attempted| made.probe == attempt.id;
            let made = ran.attempts.iter().find(of);
            let ended = made.and_then(|made| made.ended.as_ref());
            attempt.found = ended.map(|(outcome, code)| (outcome.result, code.to_string()));
        }
        Ok(draft)
    }

    /// Reads the draft as it stands.
    fn story(&self, inputs: &[Source]) -> Result<Story, Report> {
        let text = self.text();
        let mut sources = Sources::default();
        sources.add("scenario", text.as_str());
        for input in inputs {
            sources.add(input.name.clone(), input.text.clone());
        }
        let refused = |problems: &[problem::Problem]| Report {
            stderr: problem::render_styled(problems, &sources),
            exit: super::Exit::BadInput,
            ..Report::default()
        };
        let file = scenario::read("scenario", &text).map_err(|found| refused(&found))?;
        let (story, problems) = story::resolve(&file, inputs);
        if story::unusable(&problems) {
            return Err(refused(&problems));
        }
        Ok(story)
    }

    /// One attempt at each port of each Service that the manifests make.
    fn plan(&mut self, lab: &Lab) {
        let services = lab.objects.services.values();
        for service in services.filter(|service| service.key.namespace.as_str() != "kube-system") {
            let Some(from) = sender(lab, service).filter(|_| !service.cluster_ips().is_empty())
            else {
                continue;
            };
            for port in &service.ports {
                let id = format!("{}-{}", service.key.name, port.port);
                let taken = self
                    .attempts
                    .iter()
                    .filter(|a| a.id.starts_with(&id))
                    .count();
                self.attempts.push(Attempt {
                    id: if taken == 0 {
                        id
                    } else {
                        format!("{id}-{}", taken + 1)
                    },
                    from: from.clone(),
                    to: format!("svc/{}:{}", service.key, port.port),
                    protocol: port.protocol,
                    found: None,
                });
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::from(
            "// Question: does everybody reach every Service?\n\
             // Answer:   see `expect`: what came of each attempt when this was written.\n\
             Scenario(\n    title: \"Every Service is tried once\",\n    manifests: [\n",
        );
        for manifest in &self.manifests {
            line(&mut text, format_args!("        {manifest:?},"));
        }
        text += "    ],\n    timeline: [\n";
        for (n, attempt) in self.attempts.iter().enumerate() {
            let protocol = match attempt.protocol {
                Protocol::Tcp => "",
                Protocol::Udp => ", protocol: \"udp\"",
                Protocol::Sctp => ", protocol: \"sctp\"",
            };
            let (id, from, to) = (&attempt.id, &attempt.from, &attempt.to);
            let at = 10 * (n + 1);
            line(
                &mut text,
                format_args!(
                    "        At(\"{at}s\", Probe(id: {id:?}, from: {from:?}, to: {to:?}{protocol})),"
                ),
            );
        }
        text += "    ],\n    expect: [\n";
        for attempt in &self.attempts {
            let Some((result, code)) = &attempt.found else {
                continue;
            };
            let id = &attempt.id;
            let is = word(*result);
            let code = match result {
                ProbeResult::Connected => String::new(),
                ProbeResult::Refused
                | ProbeResult::Unreachable
                | ProbeResult::Timeout
                | ProbeResult::Reset
                | ProbeResult::DnsFailure => format!(", code: {code:?}"),
            };
            line(
                &mut text,
                format_args!("        Outcome(probe: {id:?}, is: {is}{code}),"),
            );
        }
        text += "    ],\n)\n";
        text
    }
}

/// Returns somebody who is not behind the Service himself, as a scenario names him.
fn sender(lab: &Lab, service: &Service) -> Option<String> {
    let behind = |pod: &Pod| {
        let selector = service.selector.as_ref();
        pod.key.namespace == service.key.namespace
            && selector.is_some_and(|selector| selector.matches(&pod.labels))
    };
    let mut running: Vec<&Pod> = lab
        .objects
        .pods
        .values()
        .filter(|pod| !pod.pod_ips.is_empty() && pod.key.namespace.as_str() != "kube-system")
        .collect();
    running.sort_by_key(|pod| (behind(pod), pod.key.namespace != service.key.namespace));
    let pod = running.first()?;
    let namespace = &pod.key.namespace;
    let deployment = pod
        .owner
        .as_ref()
        .filter(|owner| &*owner.kind == "ReplicaSet")
        .and_then(|owner| Some(owner.name.as_str().rsplit_once('-')?.0))
        .filter(|name| {
            !lab.pods_of("Deployment", namespace.as_str(), name)
                .is_empty()
        });
    Some(match deployment {
        Some(name) => format!("deploy/{namespace}/{name}"),
        None => format!("pod/{}", pod.key),
    })
}

/// The word of the language for a result.
const fn word(result: ProbeResult) -> &'static str {
    match result {
        ProbeResult::Connected => "Connected",
        ProbeResult::Refused => "Refused",
        ProbeResult::Unreachable => "Unreachable",
        ProbeResult::Timeout => "Timeout",
        ProbeResult::Reset => "Reset",
        ProbeResult::DnsFailure => "DnsFailure",
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    writeln!(text, "{content}").expect("a String takes everything");
}
