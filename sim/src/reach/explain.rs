//! One connection in words: for each end the policies that were asked, the rule that decided and where it was
//! written, and what was nearly enough.

use podwire_models::api::{ClusterAction, ClusterPolicy, NetworkPolicy, ObjectRef};
use podwire_models::api::{Kind, Object};
use podwire_models::base::OriginId;
use podwire_models::control::policy::Direction;
use podwire_models::control::policy::meaning::{cluster_rules, rules};
use podwire_models::control::policy::verdict::{NearMiss, Outcome, Side, Verdict};
use serde_json::{Value, json};

use crate::source::OriginTable;

/// One end of a connection, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// `egress` or `ingress`.
    pub direction: Direction,
    /// Whether it lets the connection pass.
    pub allowed: bool,
    /// What decided, in a sentence.
    pub says: String,
    /// Where that was written; empty if nowhere.
    pub origin: String,
    /// The object that decided, as `NetworkPolicy/shop/allow-web`; empty if none did.
    pub object: String,
    /// The policies that were asked, in order, and what each said.
    pub asked: Vec<String>,
    /// What would have been enough.
    pub nearest: Option<String>,
}

/// Explains both ends of a connection, the source first.
pub fn ends(verdict: &Verdict<'_>, origins: &OriginTable) -> [End; 2] {
    [&verdict.egress, &verdict.ingress].map(|side| end(side, origins))
}

fn reference(policy: &NetworkPolicy) -> String {
    ObjectRef::namespaced(Kind::NetworkPolicy, &policy.key).to_string()
}

fn cluster_reference(policy: &ClusterPolicy) -> String {
    Object::ClusterPolicy(policy.clone())
        .reference()
        .to_string()
}

/// Explains one end.
pub fn end(side: &Side<'_>, origins: &OriginTable) -> End {
    let at = |origin: OriginId| origins.text(origin);
    let mut asked = Vec::new();
    for ask in &side.asked {
        let policy = ask.policy;
        let name = cluster_reference(policy);
        let (tier, priority) = (policy.tier, policy.priority);
        let said = match ask.rule {
            Some((rule, action)) => {
                format!(
                    "{} {}",
                    rule_name(policy, side.direction, rule),
                    verb(action)
                )
            }
            None => "no rule speaks of this".to_owned(),
        };
        let place = at(policy.origin);
        asked.push(format!(
            "{tier} tier: {name}, priority {priority} ({place}): {said}"
        ));
    }
    for policy in &side.isolating {
        let name = reference(policy);
        let place = at(policy.origin);
        asked.push(format!(
            "{name} ({place}) isolates the pod for {}",
            side.direction
        ));
    }
    let (says, origin, object, nearest) = match &side.outcome {
        Outcome::NoSubject => (
            "no policy is about nodes, pods with hostNetwork, or addresses outside".to_owned(),
            String::new(),
            String::new(),
            None,
        ),
        Outcome::Exempt(why) => (why.to_string(), String::new(), String::new(), None),
        Outcome::Open => (
            format!("no policy isolates the pod for {}", side.direction),
            String::new(),
            String::new(),
            None,
        ),
        Outcome::Network(policy, rule) => {
            let origin = rules(policy, side.direction)
                .get(*rule)
                .map_or(policy.origin, |rule| rule.origin);
            let says = format!("rule {} of {} allows it", rule + 1, policy.key.name);
            (says, at(origin), reference(policy), None)
        }
        Outcome::Cluster(policy, rule, action) => {
            let origin = cluster_rules(policy, side.direction)
                .get(*rule)
                .map_or(policy.origin, |rule| rule.origin);
            let name = rule_name(policy, side.direction, *rule);
            let says = format!("{name} of {} {}", policy.name, verb(*action));
            (says, at(origin), cluster_reference(policy), None)
        }
        Outcome::Isolated(near) => isolated(side, near.as_ref(), origins),
    };
    End {
        direction: side.direction,
        allowed: side.outcome.allows(),
        says,
        origin,
        object,
        asked,
        nearest,
    }
}

fn isolated(
    side: &Side<'_>,
    near: Option<&NearMiss<'_>>,
    origins: &OriginTable,
) -> (String, String, String, Option<String>) {
    let names: Vec<&str> = side
        .isolating
        .iter()
        .map(|policy| policy.key.name.as_str())
        .collect();
    let first = side.isolating.first();
    let says = match names.as_slice() {
        [one] => format!("{one} isolates the pod, and no rule of it allows this"),
        many => format!(
            "{} isolate the pod, and no rule of theirs allows this",
            many.join(", ")
        ),
    };
    let nearest = near.map(|near| {
        let other = match side.direction {
            Direction::Ingress => "the client",
            Direction::Egress => "the server",
        };
        let lacks: Vec<String> = near.lacks.iter().map(ToString::to_string).collect();
        format!(
            "rule {} of {} would admit this if {other} {} ({})",
            near.rule + 1,
            near.policy.key.name,
            lacks.join(" and "),
            origins.text(near.origin)
        )
    });
    let decisive = near.map(|near| near.policy).or_else(|| first.copied());
    let origin = near.map_or_else(
        || first.map_or(OriginId::NONE, |policy| policy.origin),
        |near| near.origin,
    );
    (
        says,
        origins.text(origin),
        decisive.map(reference).unwrap_or_default(),
        nearest,
    )
}

fn rule_name(policy: &ClusterPolicy, direction: Direction, rule: usize) -> String {
    let name = cluster_rules(policy, direction)
        .get(rule)
        .map(|rule| &rule.name);
    match name {
        Some(name) if !name.is_empty() => format!("rule {} (\"{name}\")", rule + 1),
        _ => format!("rule {}", rule + 1),
    }
}

const fn verb(action: ClusterAction) -> &'static str {
    match action {
        ClusterAction::Accept => "accepts it",
        ClusterAction::Deny => "denies it",
        ClusterAction::Pass => "passes it on",
    }
}

impl End {
    /// Returns the lines that people read.
    pub fn lines(&self) -> Vec<String> {
        let verdict = super::yes_or_no(self.allowed);
        let place = match self.origin.as_str() {
            "" => String::new(),
            origin => format!(" ({origin})"),
        };
        let mut lines = vec![format!(
            "{}: {verdict}: {}{place}",
            self.direction, self.says
        )];
        lines.extend(self.asked.iter().map(|line| format!("  asked: {line}")));
        lines.extend(self.nearest.iter().map(|near| format!("  nearest: {near}")));
        lines
    }

    /// Returns the same for programs.
    pub fn json(&self) -> Value {
        json!({
            "direction": self.direction.to_string(),
            "allowed": self.allowed,
            "says": self.says,
            "object": self.object,
            "origin": self.origin,
            "asked": self.asked,
            "nearest": self.nearest,
        })
    }
}
