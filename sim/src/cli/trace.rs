//! `podwire trace`: one attempt, every outcome with its chance, and the way there and back.

use std::fmt::Write as _;
use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use podwire_models::base::Time;
use podwire_models::wire::{Code, L4};

use super::choice::Choice;
use super::input::{InputArgs, Session, Told};
use super::{Done, Format, Report};
use crate::attempt::{Attempted, Request};
use crate::cost::{self, Backend, Cost, CostModel};
use crate::render::json::StepJson;
use crate::render::{Detail, Style, text};
use crate::scenario::text::{Delay, Moment as MomentArg};
use crate::scenario::{Target, Thing};
use crate::story::{self, Moment};
use crate::why::{self, Blocker, World};

const EXAMPLES: &str = "\
Examples:
  podwire trace -f shop.yaml --from pod/shop/web-0 --to svc/shop/cart:7070
  podwire trace -f shop.yaml --from deploy/shop/web --to cart:7070 --detail detailed
  podwire trace -f shop.yaml --from node/node-a --to 10.96.0.10:53 --proto udp
  podwire trace -f shop.yaml --host lb=203.0.113.9 --from host/lb --to node/node-a:30080
  podwire trace -f shop.yaml --from pod/shop/web-0 --to pod/shop/cart-0 --proto icmp -o json
  podwire trace -f shop.yaml --from pod/shop/web-0 --to svc/shop/cart:7070 --cost nft --detail minimal
  podwire trace -f scenarios/lifecycle/pod_killed.ron --from pod/shop/client --to svc/shop/cart:80 --at 5200ms";

/// Follow one attempt: every outcome with its exact chance, and each step of every packet there and back
///
/// What is left to chance (which endpoint kube-proxy's rules pick) is tried in every way; outcomes that are alike are
/// told once, with their chances added. The last step of an attempt that fails says what decided it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TraceArgs {
    /// Who tries: pod/NAMESPACE/NAME, deploy/NAMESPACE/NAME (its first pod), node/NAME or host/NAME
    #[arg(long, value_name = "THING")]
    from: Thing,
    /// To reach whom: svc/NAMESPACE/NAME:PORT, pod/NAMESPACE/NAME:PORT, IP:PORT, DNSNAME:PORT or `http://HOST/PATH`
    #[arg(long, value_name = "TARGET")]
    to: Target,
    /// By which protocol
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    proto: Proto,
    /// How long the client waits
    #[arg(long, value_name = "TIME", default_value = "10s")]
    timeout: Delay,
    /// At which moment of a scenario's story, after everything that is done then; the story goes on meanwhile
    /// [default: before the story begins]
    #[arg(long, value_name = "TIME")]
    at: Option<MomentArg>,
    /// Estimate the CPU time that the packets would take on a real machine, with this back end of iptables: legacy or nft
    #[arg(long, value_name = "BACKEND")]
    cost: Option<BackendArg>,
    /// How many ways of chance are tried before giving up
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    /// In which form to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
    /// Which steps the text shows: minimal, summary or detailed
    #[arg(long, value_name = "LEVEL", default_value = "summary", value_parser = Choice::new(details, detail), hide_possible_values = true)]
    detail: Detail,
    #[command(flatten)]
    input: InputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Proto {
    /// A connection, a request, an answer.
    Tcp,
    /// A datagram and one back.
    Udp,
    /// An association.
    Sctp,
    /// An echo request.
    Icmp,
}

/// Values of `--cost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BackendArg {
    /// iptables-legacy.
    Legacy,
    /// iptables-nft, the default of current distributions.
    Nft,
}

impl From<BackendArg> for Backend {
    fn from(backend: BackendArg) -> Self {
        match backend {
            BackendArg::Legacy => Self::Legacy,
            BackendArg::Nft => Self::Nft,
        }
    }
}

/// Values of `--detail`.
pub(super) fn details() -> Vec<&'static str> {
    vec!["minimal", "summary", "detailed"]
}

/// Reads `--detail`.
pub(super) fn detail(text: &str) -> Result<Detail, String> {
    text.parse()
}

impl From<Proto> for L4 {
    fn from(proto: Proto) -> Self {
        match proto {
            Proto::Tcp => Self::Tcp,
            Proto::Udp => Self::Udp,
            Proto::Sctp => Self::Sctp,
            Proto::Icmp => Self::Icmp,
        }
    }
}

/// Everything that is said about an attempt.
#[derive(Serialize)]
struct TraceJson {
    schema: &'static str,
    from: String,
    to: String,
    /// The moment of the story, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_ns: Option<u64>,
    verdict: &'static str,
    outcomes: Vec<OutcomeJson>,
    not_modelled: Vec<Value>,
    assumptions: Vec<String>,
}

#[derive(Serialize)]
struct OutcomeJson {
    chance: String,
    result: &'static str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen_source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<Vec<Blocker>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Cost>,
    steps: Vec<StepJson>,
}

pub(super) fn run(args: &TraceArgs) -> Done {
    if let Some(told) = args.input.story(args.at)? {
        return in_story(args, told);
    }
    let session = args.input.settle()?;
    let (_, note) = session.netns(&args.from)?;
    let source = session.lab.source(&args.from).map_err(Report::bad_input)?;
    let request = Request::new(args.to.clone(), args.proto.into(), args.timeout.0);
    let found = session
        .lab
        .explore(
            &source,
            &request,
            &session.origins,
            session.seed,
            args.limit,
        )
        .map_err(Report::bad_input)?;
    let json = TraceJson {
        not_modelled: session.not_modelled_json(),
        assumptions: assumptions(&session, note.as_deref()),
        ..TraceJson::of(args, &request, &found, |attempted| {
            session.why(&args.from, &request, attempted)
        })
    };
    let stderr = match args.output {
        Format::Json => session.warnings().to_owned(),
        Format::Text => note.map_or_else(String::new, |note| note + "\n") + &session.notes(),
    };
    json.report(args, &found, stderr)
}

/// The same at a moment of a scenario's story.
fn in_story(args: &TraceArgs, told: Told) -> Done {
    let Told {
        story,
        seed,
        at: moment,
        said,
    } = told;
    let request = Request::new(args.to.clone(), args.proto.into(), args.timeout.0);
    let asked = (&args.from, &request);
    let Moment { lab, outcomes } =
        story::at(&story, seed, moment, asked, args.limit).map_err(Report::bad_input)?;
    let world = World {
        objects: lab.objects.clone(),
        plan: lab.plan.clone(),
    };
    let json = TraceJson {
        at_ns: Some(moment.0),
        ..TraceJson::of(args, &request, &outcomes, |attempted| {
            let (origins, from) = (&story.origins, &args.from);
            let blockers = || why::blockers(&world, &lab, origins, from, &request, attempted, seed);
            (attempted.code != Code::Ok).then(blockers)
        })
    };
    json.report(args, &outcomes, said)
}

fn assumptions(session: &Session, note: Option<&str>) -> Vec<String> {
    let noted = note.map(str::to_owned);
    noted
        .into_iter()
        .chain(session.assumptions.clone())
        .collect()
}

/// Returns the result all outcomes have, or that it depends.
fn verdict(found: &[Attempted]) -> &'static str {
    let mut results = found.iter().map(|attempted| attempted.outcome.result);
    match results.next() {
        Some(first) if results.all(|result| result == first) => first.name(),
        Some(_) | None => "depends",
    }
}

impl TraceJson {
    fn of(
        args: &TraceArgs,
        request: &Request,
        found: &[Attempted],
        why: impl Fn(&Attempted) -> Option<Vec<Blocker>>,
    ) -> Self {
        let to = match &args.to {
            Target::Url { .. } => args.to.to_string(),
            Target::Service { .. }
            | Target::Pod { .. }
            | Target::Node { .. }
            | Target::Host { .. }
            | Target::Address { .. }
            | Target::Name { .. } => format!("{}://{}", request.l4, args.to),
        };
        let outcome = |attempted: &Attempted| OutcomeJson {
            cost: args
                .cost
                .map(|backend| cost::of(&attempted.trace, &CostModel::new(backend.into()))),
            ..OutcomeJson::of(attempted, why(attempted))
        };
        Self {
            schema: "podwire.trace/v1",
            from: args.from.to_string(),
            to,
            at_ns: None,
            verdict: verdict(found),
            outcomes: found.iter().map(outcome).collect(),
            not_modelled: Vec::new(),
            assumptions: Vec::new(),
        }
    }

    fn report(&self, args: &TraceArgs, found: &[Attempted], stderr: String) -> Done {
        let stdout = match args.output {
            Format::Json => serde_json::to_string_pretty(self).map_err(Report::bad_input)? + "\n",
            Format::Text => self.text(found, args.detail),
        };
        Ok(Report {
            stderr,
            ..Report::well(stdout)
        })
    }

    fn text(&self, found: &[Attempted], detail: Detail) -> String {
        let at = self
            .at_ns
            .map_or_else(String::new, |at| format!(" at {}", Time(at)));
        let mut text = format!("{} to {}{at}: {}\n", self.from, self.to, self.verdict);
        for (said, attempted) in self.outcomes.iter().zip(found) {
            let steps = text::trace(&attempted.trace, detail, Style::Ansi);
            let cost = said.cost.as_ref().map_or_else(String::new, Cost::text);
            write!(text, "\n{}{cost}\n{steps}", said.text()).expect("a String takes everything");
        }
        text
    }
}

impl OutcomeJson {
    fn of(attempted: &Attempted, why: Option<Vec<Blocker>>) -> Self {
        let outcome = &attempted.outcome;
        let (records, names) = (&attempted.trace.records, &attempted.trace.names);
        let end = |end: (std::net::IpAddr, u16)| SocketAddr::from(end).to_string();
        Self {
            chance: attempted.chance.to_string(),
            result: outcome.result.name(),
            code: attempted.code.name(),
            errno: outcome.errno.map(|errno| errno.to_string()),
            pod: outcome.server.as_ref().map(ToString::to_string),
            backend: outcome.backend.map(end),
            seen_source: outcome.seen_source.map(|(ip, _)| ip.to_string()),
            http_status: outcome.http.as_ref().map(|answer| answer.status),
            why,
            cost: None,
            steps: records
                .iter()
                .map(|record| StepJson::of(record, names))
                .collect(),
        }
    }

    fn text(&self) -> String {
        let mut text = format!("chance {}: {} ({})", self.chance, self.result, self.code);
        if let Some(errno) = &self.errno {
            text = text + ", " + errno;
        }
        if let Some(pod) = &self.pod {
            text = text + ", answered by " + pod;
        }
        if let Some(status) = self.http_status {
            text = text + ", HTTP " + &status.to_string();
        }
        if let Some(backend) = &self.backend {
            text = text + " at " + backend;
        }
        if let Some(seen) = &self.seen_source {
            text = text + ", which saw " + seen;
        }
        text.push('\n');
        for blocker in self.why.iter().flatten() {
            text += &blocker.text();
        }
        text
    }
}
