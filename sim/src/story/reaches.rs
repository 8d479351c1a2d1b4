//! Expectations about who may talk to whom: looked at in the objects as they are at one moment.

use std::sync::Arc;

use podwire_models::base::{Dice, Family};
use podwire_models::control::policy::{Connections, Flow, Policies};

use super::run::Run;
use crate::reach::diff::Difference;
use crate::reach::end::{End, Port};
use crate::reach::{Filter, Peer, Reachability, complete, explain, one_port};
use crate::scenario::expect::{Expectation, Reaching};

/// What was found for an expectation: why it does not hold, if it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) why: Vec<String>,
}

/// Most reasons that are told of one expectation.
const MOST: usize = 5;

impl<D: Dice> Run<'_, D> {
    /// Looks at what an expectation is about, now.
    pub(super) fn reaches(&self, expected: &Expectation) -> Found {
        let mut why = match expected {
            Expectation::Allows(reaching) => self.pairs(reaching, true),
            Expectation::Denies(reaching) => self.pairs(reaching, false),
            Expectation::OnlyAllowed { among, .. } => self.only(among),
            Expectation::Outcome { .. }
            | Expectation::Share { .. }
            | Expectation::Endpoints(_)
            | Expectation::Touched { .. }
            | Expectation::Within { .. }
            | Expectation::Unchanged { .. }
            | Expectation::Always(_) => Vec::new(),
        };
        let more = why.len().saturating_sub(MOST);
        why.truncate(MOST);
        if more > 0 {
            why.push(format!("and {more} more"));
        }
        Found { why }
    }

    /// Returns who may talk to whom, now.
    pub(super) fn reachability(&self) -> Reachability {
        Reachability::of(&self.lab.objects, &Filter::default())
    }

    fn pairs(&self, reaching: &Reaching, wanted: bool) -> Vec<String> {
        let (objects, _) = complete(&self.lab.objects);
        let policies = Policies::new(Arc::new(objects));
        let objects = policies.objects();
        let (from, to, Port(flow)) = (&*reaching.from, &*reaching.to, &*reaching.port);
        let (sources, destinations) = (from.addresses(objects), to.addresses(objects));
        let cni = self.lab.plan.site.cni;
        let mut why = Vec::new();
        for (end, addresses) in [(from, &sources), (to, &destinations)] {
            if addresses.is_empty() {
                why.push(format!("{end} is nobody, or has no address"));
            }
        }
        if !wanted && !cni.enforces_policies() {
            why.push(format!("NP_NOT_ENFORCED: {cni} enforces no policies"));
        }
        for source in &sources {
            for destination in &destinations {
                if source == destination || Family::of(*source) != Family::of(*destination) {
                    continue;
                }
                let (client, server) = (policies.party(*source), policies.party(*destination));
                let flow = translated(to, *flow, &policies, *destination);
                let verdict = policies.verdict(&client, &server, flow);
                if verdict.allowed() != wanted {
                    let ends = explain::ends(&verdict, &self.names.origins);
                    let reasons = ends.iter().filter(|end| end.allowed != wanted);
                    let lines: Vec<String> = reasons.map(reason).collect();
                    let name = |party: &podwire_models::control::policy::Party<'_>| {
                        party
                            .pod()
                            .map_or_else(|| party.ip.to_string(), |pod| format!("pod/{}", pod.key))
                    };
                    why.push(format!(
                        "{} > {} {flow}: {}",
                        name(&client),
                        name(&server),
                        lines.join("; ")
                    ));
                }
            }
        }
        why.dedup();
        why
    }

    /// Whatever may be reached among some pods on a port that is declared is mentioned by an `Allows`.
    fn only(&self, among: &End) -> Vec<String> {
        let (objects, _) = complete(&self.lab.objects);
        let filter = Filter {
            listening: true,
            ..Filter::default()
        };
        let answer = Reachability::of(&self.lab.objects, &filter);
        let peers = among.peers(&objects, &answer.peers);
        let mut mentioned: Vec<(Vec<Peer>, Vec<Peer>, Connections)> = Vec::new();
        for expected in &self.story.expect {
            if let Expectation::Allows(Reaching { from, to, port, .. }) = expected {
                let of = |end: &End| -> Vec<Peer> {
                    end.peers(&objects, &answer.peers).into_iter().collect()
                };
                let mut set = Connections::NONE;
                if let Flow::Port(protocol, number) = port.0 {
                    let pods = to.pods(&objects);
                    let targets = pods
                        .iter()
                        .map(|pod| to.port_on(Some(*pod), number, protocol, &objects));
                    for target in targets {
                        set = set.union(&one_port(Some(protocol), target));
                    }
                }
                mentioned.push((of(from), of(to), set));
            }
        }
        let mut why = Vec::new();
        for row in &answer.rows {
            if !peers.contains(&row.source) || !peers.contains(&row.destination) {
                continue;
            }
            let mut left = row.allowed.union(&row.partly);
            for (from, to, set) in &mentioned {
                if from.contains(&row.source) && to.contains(&row.destination) {
                    left = left.difference(set);
                }
            }
            if left.has_ports() {
                why.push(format!(
                    "{} > {}: {left} is allowed too",
                    row.source, row.destination
                ));
            }
        }
        why
    }
}

/// Says why one end decided as it did.
fn reason(end: &explain::End) -> String {
    let place = match end.origin.as_str() {
        "" => String::new(),
        origin => format!(" ({origin})"),
    };
    let near = end
        .nearest
        .as_ref()
        .map_or_else(String::new, |near| format!("; {near}"));
    format!("{}: {}{place}{near}", end.direction, end.says)
}

fn translated(to: &End, flow: Flow, policies: &Policies, destination: std::net::IpAddr) -> Flow {
    match flow {
        Flow::Port(protocol, port) => {
            let pod = policies.party(destination).pod();
            Flow::Port(
                protocol,
                to.port_on(pod, port, protocol, policies.objects()),
            )
        }
        Flow::Other => flow,
    }
}

/// Says what changed between two moments.
pub(super) fn changed(before: &Reachability, after: &Reachability) -> Vec<String> {
    let difference = Difference::between(before, after);
    let added = difference.added.iter().map(|peer| format!("{peer} is new"));
    let removed = difference
        .removed
        .iter()
        .map(|peer| format!("{peer} is gone"));
    let changes = difference.changes.iter().map(|change| {
        let (from, to) = (&change.source, &change.destination);
        format!("{from} > {to}: was {}, is {}", change.before, change.after)
    });
    let mut why: Vec<String> = added.chain(removed).chain(changes).collect();
    let more = why.len().saturating_sub(MOST);
    why.truncate(MOST);
    if more > 0 {
        why.push(format!("and {more} more"));
    }
    why
}
