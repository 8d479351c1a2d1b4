//! `dig`: one question about one name, asked of one server after the other: of the first one three times, of each
//! other once, under one number and from a new port each time. Measured with dig 9.18.49; `bin/dig/dighost.c` of BIND.
//!
//! # Fidelity
//! UDP without EDNS (`+noedns`). A name is asked as it stands, or with `+search` below one domain after the other
//! while the answer is NXDOMAIN.

use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::{Dice, Errno, Time};
use podwire_models::wire::{Dns, L4, Message, Packet, RecordType};

use super::udp::datagram;
use super::{Action, AppEvent, Ctx, End, Outcome, Timer, Timers, Token, data};

/// What is asked, of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigSettings {
    /// Fully qualified names, each tried if the one before does not exist.
    pub names: Vec<Arc<str>>,
    /// Type of the records.
    pub record_type: RecordType,
    /// Servers in order.
    pub servers: Vec<End>,
    /// Wait for each answer (`+time`).
    pub timeout: Duration,
    /// How often the first server is asked (`+tries`); each other one is asked once.
    pub tries: u32,
}

impl DigSettings {
    /// Returns a question with the defaults: 5 s, three tries.
    pub const fn new(names: Vec<Arc<str>>, record_type: RecordType, servers: Vec<End>) -> Self {
        Self {
            names,
            record_type,
            servers,
            timeout: Duration::from_secs(5),
            tries: 3,
        }
    }
}

/// Why a server gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigFailure {
    /// Nothing came back in time.
    TimedOut,
    /// The system reported an error.
    Errno(Errno),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigAnswer {
    /// The message.
    pub dns: Arc<Dns>,
    /// Who was asked.
    pub server: End,
    /// Time since the question.
    pub after: Duration,
}

/// What `dig` came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigOutcome {
    /// Servers that did not answer, in order.
    pub failures: Vec<(End, DigFailure)>,
    /// The answer that counts: the last one.
    pub answer: Option<DigAnswer>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Idle,
    Opening(End),
    Waiting { local: End, remote: End },
    Finished,
}

/// `dig`.
#[derive(Clone, Debug)]
pub struct Dig {
    settings: DigSettings,
    state: State,
    /// Which of the names.
    name: usize,
    /// How many questions about this name were sent or could not be.
    asked: usize,
    id: u16,
    sent: Time,
    failures: Vec<(End, DigFailure)>,
    timers: Timers,
    timeout: Timer,
}

impl Dig {
    /// Returns a command that asks when it is started.
    pub const fn new(settings: DigSettings) -> Self {
        Self {
            settings,
            state: State::Idle,
            name: 0,
            asked: 0,
            id: 0,
            sent: Time::ZERO,
            failures: Vec::new(),
            timers: Timers::of(0),
            timeout: Timer(None),
        }
    }

    /// Returns whether nothing more will happen.
    pub const fn finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// Handles one event.
    pub fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        match event {
            AppEvent::Start => self.ask_for_name(cx),
            AppEvent::Opened { local, .. } => self.send(local, cx),
            AppEvent::OpenFailed { errno } | AppEvent::SendFailed { errno, .. } => {
                self.failed(DigFailure::Errno(errno), cx);
            }
            AppEvent::Error { errno, fatal, .. } => {
                if fatal && errno != Errno::EMSGSIZE {
                    self.failed(DigFailure::Errno(errno), cx);
                }
            }
            AppEvent::Packet(packet) => self.packet(&packet, cx),
            AppEvent::Timer(token) => self.timer(token, cx),
        }
    }

    /// Begins with the current name, under a new number.
    fn ask_for_name<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let id = cx.identifier(cx.flow, 16);
        self.id = u16::try_from(id).unwrap_or_default();
        self.asked = 0;
        self.ask(cx);
    }

    /// Opens a socket to the next server, a new one for each question.
    fn ask<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        let again = usize::try_from(self.settings.tries.saturating_sub(1)).unwrap_or(usize::MAX);
        match self.settings.servers.get(self.asked.saturating_sub(again)) {
            Some(remote) => {
                self.state = State::Opening(*remote);
                cx.act(Action::Open {
                    l4: L4::Udp,
                    remote: *remote,
                    connected: true,
                    port: None,
                });
            }
            None => self.finish(None, cx),
        }
    }

    fn send<D: Dice>(&mut self, local: End, cx: &mut Ctx<'_, D>) {
        let (State::Opening(remote), Some(name)) = (self.state, self.settings.names.get(self.name))
        else {
            return;
        };
        self.state = State::Waiting { local, remote };
        self.sent = cx.now;
        let dns = Dns {
            id: self.id,
            name: Arc::clone(name),
            record_type: self.settings.record_type,
            response: None,
        };
        let payload = data(dns.len(), Message::Dns(Arc::new(dns)));
        self.timeout
            .set(&mut self.timers, self.settings.timeout, cx.actions);
        cx.send(datagram(cx.flow, (local, remote), 1500, payload));
    }

    fn close<D: Dice>(&mut self, cx: &mut Ctx<'_, D>) {
        self.timeout.cancel(cx.actions);
        if let State::Waiting { local, remote } = self.state {
            cx.act(Action::Close {
                l4: L4::Udp,
                local,
                remote,
            });
        }
    }

    fn failed<D: Dice>(&mut self, failure: DigFailure, cx: &mut Ctx<'_, D>) {
        let (State::Opening(remote) | State::Waiting { remote, .. }) = self.state else {
            return;
        };
        self.failures.push((remote, failure));
        self.close(cx);
        self.asked += 1;
        self.ask(cx);
    }

    fn timer<D: Dice>(&mut self, token: Token, cx: &mut Ctx<'_, D>) {
        if self.timeout.fired(token) {
            self.failed(DigFailure::TimedOut, cx);
        }
    }

    fn packet<D: Dice>(&mut self, packet: &Packet, cx: &mut Ctx<'_, D>) {
        let (State::Waiting { remote, .. }, Some(Message::Dns(dns))) =
            (self.state, packet.message())
        else {
            return;
        };
        let ours = self.settings.names.get(self.name) == Some(&dns.name)
            && dns.id == self.id
            && dns.record_type == self.settings.record_type;
        let Some(response) = dns.response.as_ref().filter(|_| ours) else {
            return;
        };
        let unknown = response.code == podwire_models::wire::ResponseCode::NxDomain;
        if unknown && self.name + 1 < self.settings.names.len() {
            self.close(cx);
            self.name += 1;
            return self.ask_for_name(cx);
        }
        let answer = DigAnswer {
            dns: Arc::clone(dns),
            server: remote,
            after: cx.now.since(self.sent),
        };
        self.finish(Some(answer), cx);
    }

    fn finish<D: Dice>(&mut self, answer: Option<DigAnswer>, cx: &mut Ctx<'_, D>) {
        self.close(cx);
        self.state = State::Finished;
        cx.done(Outcome::Dig(DigOutcome {
            failures: std::mem::take(&mut self.failures),
            answer,
        }));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use podwire_models::base::NoChance;
    use podwire_models::wire::{DnsResponse, ResponseCode};

    use super::*;
    use crate::traffic::coredns::{self, NameServer};
    use crate::traffic::pipe::{Fate, Machine, Pipe, Side, Silence};

    impl Machine for Dig {
        fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
            self.handle(event, cx);
        }
    }

    /// Knows `b.` only.
    struct Server(NameServer);

    impl Machine for Server {
        fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
            let zone = |name: &str, _: RecordType| DnsResponse {
                code: if name == "b." {
                    ResponseCode::NoError
                } else {
                    ResponseCode::NxDomain
                },
                answers: Vec::new(),
            };
            self.0.handle(event, &zone, cx);
        }
    }

    fn dig(names: &[&str]) -> Dig {
        let names = names.iter().map(|name| Arc::from(*name)).collect();
        let servers = ["10.96.0.10", "10.96.0.11"].map(|ip| (ip.parse().unwrap(), 53));
        Dig::new(DigSettings::new(names, RecordType::A, servers.to_vec()))
    }

    fn outcome(done: &[(Time, Outcome)]) -> &DigOutcome {
        let [(_, Outcome::Dig(outcome))] = done else {
            panic!("one outcome: {done:?}")
        };
        outcome
    }

    #[test]
    fn a_search_goes_on_while_the_name_does_not_exist() {
        let server = Server(NameServer::new(coredns::ServerSettings::default()));
        let pipe = Pipe::new(dig(&["a.", "b.", "c."]), server, |_, _, _| Fate::Pass).run();
        let answer = outcome(&pipe.done).answer.as_ref().unwrap();
        assert_eq!(&*answer.dns.name, "b.");
        assert!(pipe.left.finished());
    }

    #[test]
    fn the_first_server_is_asked_three_times_and_each_other_once() {
        let pipe = Pipe::new(dig(&["a.", "b."]), Silence, |_, _, _| Fate::Pass).run();
        let outcome = outcome(&pipe.done);
        assert_eq!(outcome.answer, None);
        let asked: Vec<String> = outcome.failures.iter().map(|f| f.0.0.to_string()).collect();
        let first = "10.96.0.10";
        assert_eq!(asked, [first, first, first, "10.96.0.11"]);
        let wanted = [0, 5000, 10_000, 15_000];
        assert_eq!(pipe.millis(Side::Left, |_| true), wanted);
    }
}
