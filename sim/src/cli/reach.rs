//! `podwire reach`: who may talk to whom, for the whole cluster or for one connection, explained.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use podwire_models::base::{Family, Protocol};
use podwire_models::control::policy::{Connections, Flow, Policies};
use serde_json::{Map, Value, json};

use super::explain::pretty;
use super::input::{InputArgs, Session};
use super::table;
use super::{Done, Exit, Report};
use crate::reach::end::End;
use crate::reach::{self, Filter, Peer, Reachability, Row, complete, explain, one_port, vacuity};

const EXAMPLES: &str = "\
Examples:
  podwire reach -f shop.yaml
  podwire reach -f shop.yaml --to deploy/shop/cart --port 7070
  podwire reach -f shop.yaml --from ns/dev -o csv
  podwire reach -f shop.yaml --explain deploy/shop/frontend svc/shop/cart 7070
  podwire reach -f shop.yaml --vacuous
  podwire reach -f shop.yaml --explain 203.0.113.10 deploy/shop/frontend 8080

Ends are pod/NS/NAME, deploy/NS/NAME (and other workloads), svc/NS/NAME, ns/NAME, node/NAME or an address.";

/// Show who may talk to whom on which ports, as the policies say: exact sets, for all pairs at once
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReachArgs {
    /// Only connections from these pods or addresses
    #[arg(long, value_name = "END")]
    from: Option<End>,
    /// Only connections to these pods or addresses
    #[arg(long, value_name = "END")]
    to: Option<End>,
    /// Only connections to this port: `80` of any protocol, `53/UDP`
    #[arg(long, value_name = "PORT", value_parser = port)]
    port: Option<(Option<Protocol>, u16)>,
    /// Only ports that containers of the destination declare
    #[arg(long)]
    listening: bool,
    /// Also list the name server that podwire adds if the input has none
    #[arg(long)]
    made_up: bool,
    /// Explain one connection: which policies were asked, which rule decided, and what was nearly enough
    #[arg(long, num_args = 3, value_names = ["FROM", "TO", "PORT"], conflicts_with_all = ["from", "to", "port", "listening"])]
    explain: Option<Vec<String>>,
    /// Instead, list policies and rules without effect
    #[arg(long, conflicts_with = "explain")]
    vacuous: bool,
    /// In which form to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
    #[command(flatten)]
    input: InputArgs,
}

/// Forms of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A grid; a list if there are many peers.
    #[value(alias = "text")]
    Table,
    /// For programs.
    Json,
    /// One line for each pair and protocol.
    Csv,
    /// A graph for Graphviz.
    Dot,
    /// A table for a pull request.
    Md,
}

fn port(text: &str) -> Result<(Option<Protocol>, u16), String> {
    if !text.contains('/')
        && let Some(port) = text.parse().ok().filter(|port| *port != 0_u16)
    {
        return Ok((None, port));
    }
    match reach::flow(text)? {
        Flow::Port(protocol, port) => Ok((Some(protocol), port)),
        Flow::Other => Err("a port is written `80` or `53/UDP`".to_owned()),
    }
}

pub(super) fn run(args: &ReachArgs) -> Done {
    let session = args.input.settle()?;
    if let Some(words) = &args.explain {
        return explain_one(words, args.output, &session);
    }
    let objects = &session.lab.objects;
    if args.vacuous {
        return Ok(vacuous(&session, args.output));
    }
    let mut filter = Filter {
        port: args.port.map(|(protocol, port)| one_port(protocol, port)),
        listening: args.listening,
        made_up: args.made_up,
        ..Filter::default()
    };
    if args.from.is_some() || args.to.is_some() {
        let everybody = Reachability::of(objects, &filter).peers;
        let (all, _) = complete(objects);
        let named = |end: &Option<End>| -> Result<Option<BTreeSet<Peer>>, Report> {
            let Some(end) = end else {
                return Ok(None);
            };
            let peers = end.peers(&all, &everybody);
            if peers.is_empty() {
                return Err(nobody(end, &everybody));
            }
            Ok(Some(peers))
        };
        filter.from = named(&args.from)?;
        filter.to = named(&args.to)?;
    }
    let answer = Reachability::of(objects, &filter);
    let mut notes = session.notes();
    for note in &answer.notes {
        writeln!(notes, "note: {note}").expect("writing to a string");
    }
    notes.push_str(&not_enforced(&session));
    let stdout = match args.output {
        Output::Table => text(&answer),
        Output::Json => pretty(&as_json(&answer, &session)),
        Output::Csv => csv(&answer),
        Output::Dot => dot(&answer),
        Output::Md => markdown(&answer),
    };
    Ok(Report {
        stderr: match args.output {
            Output::Json => session.warnings().to_owned(),
            Output::Table | Output::Csv | Output::Dot | Output::Md => notes,
        },
        ..Report::well(stdout)
    })
}

fn nobody(end: &End, peers: &[Peer]) -> Report {
    let names: Vec<String> = peers.iter().take(20).map(ToString::to_string).collect();
    Report::bad_input(format!(
        "{end} is nobody here\nthere are: {}",
        names.join(", ")
    ))
}

/// Says loudly that policies are there and nobody enforces them.
pub(super) fn not_enforced(session: &Session) -> String {
    let cni = session.lab.plan.site.cni;
    let objects = &session.lab.objects;
    let count = objects.network_policies.len() + objects.cluster_policies.len();
    if cni.enforces_policies() || count == 0 {
        return String::new();
    }
    format!(
        "warning[NP_NOT_ENFORCED]: the profile {cni} enforces no policies: all traffic flows as if the {count} \
         policies did not exist; what is shown is what they would allow\n"
    )
}

fn text(answer: &Reachability) -> String {
    const GRID: usize = 24;
    let peers: BTreeSet<&Peer> = answer
        .rows
        .iter()
        .flat_map(|row| [&row.source, &row.destination])
        .collect();
    let mut text = if answer.rows.is_empty() {
        "nobody may talk to anybody\n".to_owned()
    } else if peers.len() <= GRID {
        grid(answer, &peers)
    } else {
        list(answer)
    };
    let count = answer.rows.len();
    write!(
        text,
        "\n{count} pairs may talk, of {} peers in {} classes that no policy tells apart\n",
        answer.peers.len(),
        answer.classes
    )
    .expect("writing to a string");
    text
}

fn partly(row: &Row) -> String {
    match (row.allowed.has_ports(), row.partly.has_ports()) {
        (_, false) => row.allowed.to_string(),
        (false, true) => format!("some pods: {}", row.partly),
        (true, true) => format!("{} (some pods: {})", row.allowed, row.partly),
    }
}

/// Sources down, destinations across.
fn grid(answer: &Reachability, peers: &BTreeSet<&Peer>) -> String {
    let sources: Vec<&&Peer> = peers
        .iter()
        .filter(|peer| answer.rows.iter().any(|row| row.source == ***peer))
        .collect();
    let destinations: Vec<&&Peer> = peers
        .iter()
        .filter(|peer| answer.rows.iter().any(|row| row.destination == ***peer))
        .collect();
    let mut legend: Vec<String> = Vec::new();
    let mut cell = |source: &Peer, destination: &Peer| {
        if source == destination {
            return "=".to_owned();
        }
        let both = |row: &&Row| row.source == *source && row.destination == *destination;
        let Some(row) = answer.rows.iter().find(both) else {
            return "-".to_owned();
        };
        let says = partly(row);
        if says == "all" {
            return says;
        }
        let index = legend.iter().position(|known| *known == says);
        let index = index.unwrap_or_else(|| {
            legend.push(says);
            legend.len() - 1
        });
        letter(index)
    };
    let numbers: Vec<String> = (1..=destinations.len()).map(|n| n.to_string()).collect();
    let mut header = vec!["FROM \\ TO"];
    header.extend(numbers.iter().map(String::as_str));
    let rows: Vec<Vec<String>> = sources
        .iter()
        .map(|source| {
            let mut row = vec![source.to_string()];
            row.extend(destinations.iter().map(|to| cell(source, to)));
            row
        })
        .collect();
    let mut text = table::text(&header, rows);
    text.push('\n');
    for (number, peer) in numbers.iter().zip(&destinations) {
        writeln!(text, "{number:>4}  {peer}").expect("writing to a string");
    }
    if !legend.is_empty() {
        text.push('\n');
    }
    for (index, says) in legend.iter().enumerate() {
        writeln!(text, "{:>4}  {says}", letter(index)).expect("writing to a string");
    }
    text
}

/// `a`, `b`, … `z`, `aa`, …
fn letter(mut index: usize) -> String {
    let mut letters = Vec::new();
    loop {
        letters.push(char::from(b'a' + u8::try_from(index % 26).unwrap_or(0)));
        if index < 26 {
            break;
        }
        index = index / 26 - 1;
    }
    letters.iter().rev().collect()
}

fn list(answer: &Reachability) -> String {
    let rows = answer.rows.iter().map(|row| {
        [
            row.source.to_string(),
            row.destination.to_string(),
            partly(row),
        ]
    });
    table::text(&["FROM", "TO", "MAY"], rows)
}

/// Returns a set as the contract has it: `"all"`, or ranges by protocol.
pub(super) fn set_json(set: &Connections) -> Value {
    if set.all_ports() {
        return json!("all");
    }
    let mut map = Map::new();
    for protocol in Protocol::ALL {
        let ports = set.ports(protocol);
        if !ports.is_empty() {
            map.insert(protocol.upper().to_owned(), json!(ports.ranges()));
        }
    }
    Value::Object(map)
}

fn as_json(answer: &Reachability, session: &Session) -> Value {
    let peers: Vec<String> = answer.peers.iter().map(ToString::to_string).collect();
    let rows = |set: fn(&Row) -> &Connections| -> Vec<Value> {
        let some = answer.rows.iter().filter(|row| set(row).has_ports());
        let json = |row: &Row| {
            json!({
                "src": row.source.to_string(),
                "dst": row.destination.to_string(),
                "allowed": set_json(set(row)),
            })
        };
        some.map(json).collect()
    };
    let enforced = session.lab.plan.site.cni.enforces_policies();
    json!({
        "schema": "podwire.reach/v1",
        "peers": peers,
        "connections": rows(|row| &row.allowed),
        "between_some_pods": rows(|row| &row.partly),
        "classes": answer.classes,
        "enforced": enforced,
        "notes": answer.notes,
        "not_modelled": session.not_modelled_json(),
        "assumptions": session.assumptions,
    })
}

fn csv(answer: &Reachability) -> String {
    let mut text = "src,dst,pods,protocol,ports\n".to_owned();
    for row in &answer.rows {
        for (pods, set) in [("all", &row.allowed), ("some", &row.partly)] {
            for protocol in Protocol::ALL {
                let ports = set.ports(protocol);
                if !ports.is_empty() {
                    let (from, to, protocol) = (&row.source, &row.destination, protocol.upper());
                    writeln!(text, "{from},{to},{pods},{protocol},\"{ports}\"")
                        .expect("writing to a string");
                }
            }
        }
    }
    text
}

fn dot(answer: &Reachability) -> String {
    let mut text = "digraph reach {\n  rankdir=LR;\n  node [shape=box];\n".to_owned();
    for peer in &answer.peers {
        let style = match peer {
            Peer::Workload { .. } => "",
            Peer::Outside(..) => " [shape=ellipse]",
        };
        writeln!(text, "  \"{peer}\"{style};").expect("writing to a string");
    }
    for row in &answer.rows {
        let style = if row.allowed.has_ports() {
            ""
        } else {
            ", style=dashed"
        };
        let (from, to, says) = (&row.source, &row.destination, partly(row));
        writeln!(text, "  \"{from}\" -> \"{to}\" [label=\"{says}\"{style}];")
            .expect("writing to a string");
    }
    text.push_str("}\n");
    text
}

fn markdown(answer: &Reachability) -> String {
    let mut text = "| from | to | may |\n| --- | --- | --- |\n".to_owned();
    for row in &answer.rows {
        let (from, to, says) = (&row.source, &row.destination, partly(row));
        writeln!(text, "| {from} | {to} | {says} |").expect("writing to a string");
    }
    text
}

/// Lists policies and rules without effect.
fn vacuous(session: &Session, output: Output) -> Report {
    let findings = vacuity::find(&session.lab.objects);
    let stdout = match output {
        Output::Json => {
            let rows = findings.iter().map(|finding| {
                json!({
                    "code": finding.flaw.name(),
                    "object": finding.object.to_string(),
                    "rule": finding.rule,
                    "says": finding.says,
                    "origin": session.origins.text(finding.origin),
                })
            });
            pretty(&json!({
                "schema": "podwire.reach/v1",
                "vacuous": rows.collect::<Vec<Value>>(),
                "not_modelled": session.not_modelled_json(),
                "assumptions": session.assumptions,
            }))
        }
        Output::Table | Output::Csv | Output::Dot | Output::Md if findings.is_empty() => {
            "every policy and every rule has an effect\n".to_owned()
        }
        Output::Table | Output::Csv | Output::Dot | Output::Md => {
            let line = |finding: &vacuity::Finding| {
                format!("{}: {finding}\n", session.origins.text(finding.origin))
            };
            findings.iter().map(line).collect()
        }
    };
    Report {
        stderr: session.warnings().to_owned(),
        ..Report::well(stdout)
    }
}

/// A pair of addresses that was looked at.
struct Explained {
    title: String,
    allowed: bool,
    pairs: usize,
    ends: [explain::End; 2],
}

fn explain_one(words: &[String], output: Output, session: &Session) -> Done {
    let [from, to, port] = words else {
        return Err(Report::bad_input(
            "--explain takes three words: FROM TO PORT",
        ));
    };
    let end = |text: &String| text.parse::<End>().map_err(Report::bad_input);
    let (from, to) = (end(from)?, end(to)?);
    let flow = reach::flow(port).map_err(Report::bad_input)?;
    let (objects, notes) = complete(&session.lab.objects);
    let policies = Policies::new(Arc::new(objects));
    let objects = policies.objects();
    let mut found: Vec<Explained> = Vec::new();
    let (sources, destinations) = (from.addresses(objects), to.addresses(objects));
    for (end, addresses) in [(&from, &sources), (&to, &destinations)] {
        if addresses.is_empty() {
            return Err(Report::bad_input(format!(
                "{end} is nobody here, or has no address"
            )));
        }
    }
    for source in &sources {
        for destination in &destinations {
            if Family::of(*source) == Family::of(*destination) {
                let pair = look(&policies, [*source, *destination], &to, flow, session);
                let same = |known: &&mut Explained| known.ends == pair.ends;
                match found.iter_mut().find(same) {
                    Some(known) => known.pairs += 1,
                    None => found.push(pair),
                }
            }
        }
    }
    if found.is_empty() {
        return Err(Report::bad_input(format!(
            "{from} and {to} have no addresses of one family"
        )));
    }
    let stdout = match output {
        Output::Json => explained_json(&found, session),
        Output::Table | Output::Csv | Output::Dot | Output::Md => explained_text(&found),
    };
    let mut stderr = session.warnings().to_owned();
    for note in notes {
        writeln!(stderr, "note: {note}").expect("writing to a string");
    }
    stderr.push_str(&not_enforced(session));
    Ok(Report {
        stdout,
        stderr,
        exit: Exit::Well,
    })
}

fn look(
    policies: &Policies,
    [source, destination]: [IpAddr; 2],
    to: &End,
    flow: Flow,
    session: &Session,
) -> Explained {
    let (from, there) = (policies.party(source), policies.party(destination));
    let flow = match flow {
        Flow::Port(protocol, port) => {
            let objects = policies.objects();
            Flow::Port(protocol, to.port_on(there.pod(), port, protocol, objects))
        }
        Flow::Other => flow,
    };
    let verdict = policies.verdict(&from, &there, flow);
    let name = |party: &podwire_models::control::policy::Party<'_>| match party.pod() {
        Some(pod) => format!("pod/{} ({})", pod.key, party.ip),
        None => party.ip.to_string(),
    };
    Explained {
        title: format!("{} > {} {flow}", name(&from), name(&there)),
        allowed: verdict.allowed(),
        pairs: 1,
        ends: explain::ends(&verdict, &session.origins),
    }
}

fn explained_text(found: &[Explained]) -> String {
    let mut text = String::new();
    for pair in found {
        if !text.is_empty() {
            text.push('\n');
        }
        let verdict = reach::yes_or_no(pair.allowed);
        writeln!(text, "{}: {verdict}", pair.title).expect("writing to a string");
        if pair.pairs > 1 {
            writeln!(text, "  and so for {} pairs of addresses", pair.pairs)
                .expect("writing to a string");
        }
        for line in pair.ends.iter().flat_map(explain::End::lines) {
            writeln!(text, "  {line}").expect("writing to a string");
        }
    }
    text
}

fn explained_json(found: &[Explained], session: &Session) -> String {
    let pairs = found.iter().map(|pair| {
        json!({
            "connection": pair.title,
            "allowed": pair.allowed,
            "pairs": pair.pairs,
            "ends": pair.ends.iter().map(explain::End::json).collect::<Vec<Value>>(),
        })
    });
    pretty(&json!({
        "schema": "podwire.reach/v1",
        "explained": pairs.collect::<Vec<Value>>(),
        "not_modelled": session.not_modelled_json(),
        "assumptions": session.assumptions,
    }))
}
