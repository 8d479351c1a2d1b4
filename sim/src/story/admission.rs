//! Writes that webhooks are asked about: the API server calls them over the network, and writes when they have answered.
//!
//! # Fidelity
//! Only writes of the timeline wait for webhooks: pods that controllers make, and what controllers change, do not. All webhooks of a write
//! are called at once, those that may change the object too. An API server on a node goes through the Service's address and that node's
//! rules; one outside goes to a ready pod (`--enable-aggregator-routing`, as managed control planes have it).

use std::collections::BTreeSet;
use std::time::Duration;

use podwire_models::api::webhook::{FailurePolicy, Operation, WebhookService};
use podwire_models::api::{EndpointPort, ObjectRef, Service};
use podwire_models::base::{Dice, Labels};
use podwire_models::cluster::api_server;
use podwire_models::control::admission;
use podwire_models::wire::{Action, Code, L4};

use super::resolve::Attempt;
use super::run::{Attempted, Run};
use super::writes::Change;
use crate::attempt::Request;
use crate::scenario::address::{PortRef, Target, Thing};
use crate::traffic::ProbeResult;

/// A write that waits.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    what: String,
    changes: Vec<Change>,
    calls: Vec<Call>,
}

/// A webhook that is called.
#[derive(Clone, Debug)]
struct Call {
    /// Number of the attempt.
    attempt: usize,
    name: String,
    service: WebhookService,
    policy: FailurePolicy,
    timeout: u32,
}

impl<D: Dice> Run<'_, D> {
    /// A write reaches the API server.
    pub(super) fn write(&mut self, what: String, changes: Vec<Change>) {
        let calls = self.call_webhooks(&changes);
        if calls.is_empty() {
            return self.carry_out(what, changes);
        }
        self.admissions.push(Admission {
            what,
            changes,
            calls,
        });
        self.decide();
    }

    /// Whether an attempt is the API server's call of a webhook; returns the webhook's name.
    pub(super) fn called(&self, attempt: usize) -> Option<&str> {
        let mut calls = self.admissions.iter().flat_map(|waiting| &waiting.calls);
        let call = calls.find(|call| call.attempt == attempt)?;
        Some(&call.name)
    }

    /// Writes what all webhooks have been asked about.
    pub(super) fn decide(&mut self) {
        if self.admissions.is_empty() {
            return;
        }
        let waits = |waiting: &Admission| {
            let mut calls = waiting.calls.iter();
            calls.any(|call| self.open.contains(&call.attempt))
        };
        let (waiting, decided): (Vec<_>, Vec<_>) = std::mem::take(&mut self.admissions)
            .into_iter()
            .partition(waits);
        self.admissions = waiting;
        for Admission {
            what,
            changes,
            calls,
        } in decided
        {
            let failed = calls.iter().find_map(|call| {
                let why = failure(call, self.attempts.get(call.attempt))?;
                Some((call.policy, why))
            });
            match failed {
                Some((FailurePolicy::Fail, why)) => {
                    let what = format!("refused: {what}: Internal error occurred: {why}");
                    self.note(Action::Changed { what });
                }
                Some((FailurePolicy::Ignore, why)) => {
                    self.note(Action::Changed {
                        what: format!("{why}: ignored (failurePolicy)"),
                    });
                    self.carry_out(what, changes);
                }
                None => self.carry_out(what, changes),
            }
        }
    }

    fn call_webhooks(&mut self, changes: &[Change]) -> Vec<Call> {
        let objects = &self.lab.objects;
        if objects.webhooks.is_empty() {
            return Vec::new();
        }
        let mut seen = BTreeSet::new();
        let mut wanted = Vec::new();
        for change in changes {
            let (object, labels, operation) = match change {
                Change::Put(object) => {
                    let name = object.reference();
                    let there = objects.contains(&name);
                    let operation = if there {
                        Operation::Update
                    } else {
                        Operation::Create
                    };
                    (name, object.labels().clone(), operation)
                }
                Change::Remove(name) => (name.clone(), self.labels_of(name), Operation::Delete),
            };
            for (of, webhook) in admission::asked(objects, &object, &labels, operation) {
                if let Some(service) = &webhook.service
                    && seen.insert((of.kind, of.name.clone(), webhook.name.clone()))
                {
                    wanted.push((webhook.clone(), service.clone()));
                }
            }
        }
        let mut calls = Vec::new();
        for (webhook, service) in wanted {
            let name = webhook.name.to_string();
            let attempt = self.attempts.len();
            let Some((from, target)) = self.way_to(&service) else {
                continue;
            };
            let patience = Duration::from_secs(webhook.timeout.into());
            let mut request = Request::new(target, L4::Tcp, patience);
            request.deadline = Some(patience);
            let id = format!("webhook {name}");
            let call = Attempt {
                id: id.clone(),
                from,
                request,
                payload: None,
                requests: None,
                must: None,
            };
            self.make_attempt(&call, &format!("{id} #{attempt}"), None);
            calls.push(Call {
                attempt,
                name,
                service,
                policy: webhook.failure_policy,
                timeout: webhook.timeout,
            });
        }
        calls
    }

    fn labels_of(&self, object: &ObjectRef) -> Labels {
        let object = self.lab.objects.get(object);
        object.map_or_else(Labels::default, |object| object.labels().clone())
    }

    /// From where the API server calls a webhook, and whom; nothing if nobody knows where the API server is.
    fn way_to(&self, service: &WebhookService) -> Option<(Thing, Target)> {
        let objects = &self.lab.objects;
        let (own, _) = api_server::endpoints(objects).into_iter().next()?;
        let key = service.key.clone();
        let mut nodes = objects.nodes.values();
        if let Some(node) = nodes.find(|node| node.internal_ips.contains(&own)) {
            let port = Some(PortRef::Number(service.port));
            return Some((
                Thing::Node(node.name.clone()),
                Target::Service { key, port },
            ));
        }
        let mut hosts = self.lab.plan.site.hosts.iter();
        let host = hosts.find(|host| host.ip == own)?;
        let from = Thing::Host(host.name.parse().ok()?);
        let found = objects.services.get(&key);
        let target = found.and_then(|found| self.ready_endpoint(found, service.port));
        // Without an endpoint it fails as its address does.
        let port = Some(PortRef::Number(service.port));
        Some((from, target.unwrap_or(Target::Service { key, port })))
    }

    fn ready_endpoint(&self, service: &Service, port: u16) -> Option<Target> {
        let wanted = service.ports.iter().find(|one| one.port == port)?;
        self.lab.slices_of(&service.key).find_map(|slice| {
            let named = |one: &&EndpointPort| {
                Some(&*one.name) == Some(wanted.name.as_deref().unwrap_or(""))
            };
            let port = slice.ports.iter().find(named)?.port?;
            let mut ready = slice.endpoints.iter().filter(|one| one.is_ready());
            let ip = ready.find_map(|one| one.addresses.first().copied())?;
            Some(Target::Address {
                ip,
                port: Some(port),
            })
        })
    }
}

/// Returns what the API server says of a webhook that has not answered; nothing if it has.
fn failure(call: &Call, attempted: Option<&Attempted>) -> Option<String> {
    let ended = attempted.and_then(|attempted| attempted.ended.as_ref());
    let (why, code) = match ended {
        Some((outcome, code)) => match outcome.result {
            ProbeResult::Connected => return None,
            ProbeResult::Timeout => ("context deadline exceeded", *code),
            ProbeResult::Refused => ("connect: connection refused", *code),
            ProbeResult::Reset => ("read: connection reset by peer", *code),
            ProbeResult::Unreachable => ("connect: no route to host", *code),
            ProbeResult::DnsFailure => ("no such host", *code),
        },
        None => ("service not found", Code::SvcNoEndpoints),
    };
    let WebhookService { key, port, path } = &call.service;
    Some(format!(
        "failed calling webhook \"{}\": failed to call webhook: Post \"https://{}.{}.svc:{port}{path}?timeout={}s\": {why} ({code})",
        call.name, key.name, key.namespace, call.timeout
    ))
}
