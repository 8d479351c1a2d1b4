//! Programs that keep the answers to their questions about names: a JVM, a pool of connections, nscd.
//!
//! # Fidelity
//! Kept is what was found, and for how long the program says; the time to live of the records is not looked at, as in a JVM
//! (`networkaddress.cache.ttl`). Failures are not kept.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::{Dice, Time};
use podwire_models::control::dns::records::Zone;
use podwire_models::wire::{RecordData, RecordType};

use super::run::Run;
use crate::attempt::{Kept, Request};
use crate::scenario::address::Target;
use crate::traffic::Outcome;
use crate::traffic::lookup::LookupOutcome;

/// What a program has learned about a name.
#[derive(Clone, Debug)]
struct Learned {
    name: Arc<str>,
    ips: Vec<IpAddr>,
    at: Time,
    until: Time,
}

/// Answers, by who keeps them and what was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Caches(BTreeMap<(Arc<str>, String), Learned>);

/// The name that a request asks for.
fn asked(request: &Request) -> Option<&str> {
    let name = match &request.target {
        Target::Name { name, .. } | Target::Url { host: name, .. } => name,
        Target::Service { .. }
        | Target::Pod { .. }
        | Target::Node { .. }
        | Target::Host { .. }
        | Target::Address { .. } => return None,
    };
    name.parse::<IpAddr>().is_err().then_some(name.as_str())
}

/// The same request for an address.
fn with_address(request: &Request, ip: IpAddr) -> Request {
    let mut request = request.clone();
    if let Target::Name { name, .. } | Target::Url { host: name, .. } = &mut request.target {
        *name = ip.to_string();
    }
    request
}

impl Caches {
    /// What is asked for with what the program knows, and the answer it uses.
    pub(super) fn use_for(
        &self,
        who: &Arc<str>,
        request: &Request,
        now: Time,
    ) -> Option<(Request, Kept)> {
        request.resolver.keeps?;
        let key = (Arc::clone(who), asked(request)?.to_owned());
        let learned = self.0.get(&key).filter(|learned| now < learned.until)?;
        let ip = *learned.ips.first()?;
        let kept = Kept {
            name: Arc::clone(&learned.name),
            ip,
            age: now.since(learned.at),
        };
        Some((with_address(request, ip), kept))
    }

    /// Keeps an answer that came at a moment.
    fn learn(
        &mut self,
        who: &Arc<str>,
        request: &Request,
        found: &LookupOutcome,
        (at, keeps): (Time, Duration),
    ) {
        let (Some(asked), Ok(ips), Some(name)) =
            (asked(request), &found.addresses, found.name.clone())
        else {
            return;
        };
        let learned = Learned {
            name,
            ips: ips.clone(),
            at,
            until: at + keeps,
        };
        self.0.insert((Arc::clone(who), asked.to_owned()), learned);
    }
}

/// Whether a name has an address by now.
pub(super) fn has(zone: &Zone, name: &str, ip: IpAddr) -> bool {
    let wanted = if ip.is_ipv4() {
        RecordType::A
    } else {
        RecordType::Aaaa
    };
    let answer = zone.answer(name, wanted);
    let mut data = answer.answers.iter().map(|record| &record.data);
    data.any(|data| matches!(data, RecordData::Address(other) if *other == ip))
}

impl<D: Dice> Run<'_, D> {
    /// Lets a program keep what an attempt has found out about its name.
    pub(super) fn keep(&mut self, who: &Arc<str>, request: &Request, began: Time, all: &[Outcome]) {
        let Some(keeps) = request.resolver.keeps else {
            return;
        };
        let found = all.iter().find_map(|outcome| match outcome {
            Outcome::Lookup(found) => Some(found),
            Outcome::Probe(_) | Outcome::Ping(_) | Outcome::Traceroute(_) | Outcome::Dig(_) => None,
        });
        if let Some(found) = found {
            let at = began + found.after;
            self.caches.learn(who, request, found, (at, keeps));
        }
    }
}
