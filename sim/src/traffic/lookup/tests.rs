//! Sequences and time limits, as measured with glibc 2.36 and musl 1.2.3.

#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    clippy::wildcard_enum_match_arm,
    clippy::match_wildcard_for_single_variants,
    reason = "tests"
)]

use podwire_models::base::NoChance;
use podwire_models::control::dns::options::ResolverOptions;

use super::go::GoLookup;
use super::*;
use crate::traffic::coredns::{self, NameServer};
use crate::traffic::pipe::{Fate, Machine, Pipe, Side, Silence};

impl Machine for Lookup {
    fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
        self.handle(event, cx);
    }
}

impl Machine for GoLookup {
    fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
        self.handle(event, cx);
    }
}

/// A server that knows one name with an IPv4 address; answers everything else with one code.
#[derive(Clone)]
struct Server(NameServer, &'static str, ResponseCode);

impl Machine for Server {
    fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
        let (known, otherwise) = (self.1, self.2);
        let zone = move |name: &str, record_type: RecordType| {
            let mut response = DnsResponse {
                code: if name == known {
                    ResponseCode::NoError
                } else {
                    otherwise
                },
                answers: Vec::new(),
            };
            if name == known && record_type == RecordType::A {
                response.answers.push(DnsRecord {
                    name: name.into(),
                    ttl: 30,
                    data: RecordData::Address("10.96.4.5".parse().unwrap()),
                });
            }
            response
        };
        self.0.handle(event, &zone, cx);
    }
}

fn server(known: &'static str, otherwise: ResponseCode) -> Server {
    Server(
        NameServer::new(coredns::ServerSettings::default()),
        known,
        otherwise,
    )
}

fn lookup(flavour: Flavour, servers: usize, names: &[&str]) -> Lookup {
    let all = ["10.96.0.10", "10.96.0.11", "10.96.0.12"].map(|ip| ip.parse().unwrap());
    let names: Vec<Arc<str>> = names.iter().map(|n| Arc::from(*n)).collect();
    Lookup::new(
        &names,
        LookupSettings::new(flavour, all.get(..servers).unwrap()),
    )
}

fn outcome<R: Machine, F: FnMut(usize, Side, &Packet) -> Fate>(
    pipe: &Pipe<Lookup, R, F>,
) -> &LookupOutcome {
    match pipe.outcome() {
        Outcome::Lookup(outcome) => outcome,
        other => panic!("a lookup: {other:?}"),
    }
}

const WEB: [&str; 5] = [
    "web.default.svc.cluster.local.",
    "web.svc.cluster.local.",
    "web.cluster.local.",
    "web.corp.example.",
    "web.",
];

const fn pass(_: usize, _: Side, _: &Packet) -> Fate {
    Fate::Pass
}

#[test]
fn a_and_aaaa_leave_together_from_one_port() {
    for flavour in [Flavour::Glibc, Flavour::OldMusl] {
        let known = server("web.cluster.local.", ResponseCode::NxDomain);
        let pipe = Pipe::new(lookup(flavour, 1, &WEB), known, pass).run();
        let asked: Vec<_> = pipe
            .sent
            .iter()
            .filter(|(_, side, _)| *side == Side::Left)
            .collect();
        assert_eq!(asked.len(), 6);
        let ports: Vec<_> = asked.iter().map(|(_, _, p)| p.ports().unwrap().0).collect();
        assert_eq!(ports, [40_001, 40_001, 40_002, 40_002, 40_003, 40_003]);
        let types: Vec<_> = asked
            .iter()
            .filter_map(|(_, _, p)| match p.message() {
                Some(Message::Dns(dns)) => Some(dns.record_type),
                _ => None,
            })
            .collect();
        assert_eq!(
            types.first_chunk(),
            Some(&[RecordType::A, RecordType::Aaaa])
        );
        let found = outcome(&pipe);
        assert_eq!(found.name.as_deref(), Some("web.cluster.local."));
        assert_eq!(found.addresses, Ok(vec!["10.96.4.5".parse().unwrap()]));
        assert_eq!((found.queries, pipe.closed), (6, 3));
    }
}

#[test]
fn a_dead_server() {
    let cases: [(Flavour, usize, &[&str], &[u64], u64); 6] = [
        (Flavour::Glibc, 1, &WEB, &[0, 5, 10, 15], 20),
        (Flavour::Glibc, 1, &["web.x."], &[0, 5], 10),
        (Flavour::Glibc, 2, &["web.x."], &[0, 5, 10, 15], 20),
        (Flavour::OldMusl, 1, &WEB, &[0, 2], 5),
        (Flavour::OldMusl, 2, &["web.x."], &[0, 2], 5),
        // Five dots: the name as given first, then the first search domain.
        (
            Flavour::Glibc,
            1,
            &["a.b.c.d.e.f.", "a.b.c.d.e.f.x.", "a.b.c.d.e.f.y."],
            &[0, 5, 10, 15],
            20,
        ),
    ];
    for (flavour, servers, names, sends, end) in cases {
        let pipe = Pipe::new(lookup(flavour, servers, names), Silence, pass).run();
        let mut seconds: Vec<_> = pipe
            .millis(Side::Left, |_| true)
            .iter()
            .map(|ms| ms / 1000)
            .collect();
        seconds.dedup();
        assert_eq!(seconds, sends, "{flavour:?} {names:?}");
        assert_eq!(pipe.done_millis(), end * 1000);
        let failure = outcome(&pipe).addresses.clone().unwrap_err();
        assert_eq!((failure.eai, failure.code), (Eai::Again, Code::DnsTimeout));
    }
}

#[test]
fn a_refusing_server() {
    let refuse = |_, _, _: &Packet| Fate::Fail {
        errno: Errno::ECONNREFUSED,
        mtu: None,
    };
    let pipe = Pipe::new(lookup(Flavour::Glibc, 1, &WEB), Silence, refuse).run();
    assert!(pipe.done_millis() < 10);
    assert_eq!(
        outcome(&pipe).addresses.clone().unwrap_err().code,
        Code::DnsRefused
    );
    // An unconnected socket hears nothing of it.
    let pipe = Pipe::new(lookup(Flavour::OldMusl, 1, &WEB), Silence, refuse).run();
    assert_eq!(pipe.done_millis(), 5000);
}

#[test]
fn nodata_goes_on_with_glibc_and_ends_with_musl() {
    let empty = server("web.cluster.local.", ResponseCode::NoError);
    let pipe = Pipe::new(lookup(Flavour::Glibc, 1, &WEB), empty.clone(), pass).run();
    assert!(outcome(&pipe).addresses.is_ok());
    let pipe = Pipe::new(lookup(Flavour::OldMusl, 1, &WEB), empty, pass).run();
    let found = outcome(&pipe);
    assert_eq!(
        (found.addresses.clone().unwrap_err().code, found.queries),
        (Code::DnsNoData, 2)
    );
}

#[test]
fn a_name_nobody_knows() {
    let none = server("none.", ResponseCode::NxDomain);
    for flavour in [Flavour::Glibc, Flavour::OldMusl] {
        let pipe = Pipe::new(lookup(flavour, 1, &WEB), none.clone(), pass).run();
        let found = outcome(&pipe);
        let failure = found.addresses.clone().unwrap_err();
        assert_eq!(
            (failure.eai, failure.code),
            (Eai::NoName, Code::DnsNxDomain)
        );
        assert_eq!(found.queries, 10);
    }
}

#[test]
fn servfail_is_asked_twice_then_the_search_goes_on_with_glibc() {
    let failing = server("web.svc.cluster.local.", ResponseCode::ServFail);
    let pipe = Pipe::new(lookup(Flavour::Glibc, 1, &WEB), failing.clone(), pass).run();
    let found = outcome(&pipe);
    assert_eq!((found.addresses.is_ok(), found.queries), (true, 6));
    let pipe = Pipe::new(lookup(Flavour::OldMusl, 1, &WEB), failing, pass).run();
    let found = outcome(&pipe);
    assert_eq!(found.addresses.clone().unwrap_err().code, Code::DnsServFail);
    // Each of the two queries: once and two more times at once, and all of that again at 2.5 s.
    assert_eq!((found.queries, pipe.done_millis()), (12, 5000));
}

#[test]
fn one_lost_answer_costs_five_seconds() {
    let known = server("web.", ResponseCode::NxDomain);
    let lose = |n, _, _: &Packet| if n == 1 { Fate::Lose } else { Fate::Pass };
    let pipe = Pipe::new(lookup(Flavour::Glibc, 1, &["web."]), known, lose).run();
    assert_eq!(pipe.millis(Side::Left, |_| true), [0, 0, 5000, 5000]);
    assert!(outcome(&pipe).addresses.is_ok());
}

#[test]
fn precedence_of_rfc_6724() {
    let mut ips = ["fd00::1", "10.0.0.1", "2001:db8::1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
    sort_addresses(&mut ips);
    assert_eq!(
        ips.map(|ip| ip.to_string()),
        ["2001:db8::1", "10.0.0.1", "10.0.0.2", "fd00::1"]
    );
}

fn go(names: &[&str], options: ResolverOptions) -> GoLookup {
    let names: Vec<Arc<str>> = names.iter().map(|n| Arc::from(*n)).collect();
    let server = ["10.96.0.10".parse().unwrap()];
    let settings = LookupSettings {
        timeout: options.timeout,
        attempts: options.attempts,
        pair: options.pair,
        ..LookupSettings::new(Flavour::Go, &server)
    };
    GoLookup::with_owner(&names, settings, 0)
}

#[test]
fn go_has_a_socket_for_each_question_and_goes_on_after_silence() {
    let known = server("web.svc.cluster.local.", ResponseCode::NxDomain);
    let pipe = Pipe::new(go(&WEB, ResolverOptions::default()), known, pass).run();
    let asked = pipe.sent.iter().filter(|(_, side, _)| *side == Side::Left);
    let ports: Vec<_> = asked.map(|(_, _, p)| p.ports().unwrap().0).collect();
    assert_eq!(ports, [40_001, 40_002, 40_003, 40_004]);
    assert_eq!(pipe.closed, 4);
    assert!(matches!(pipe.outcome(), Outcome::Lookup(found) if found.addresses.is_ok()));
    // Each candidate costs two attempts of five seconds; the search list is not cut short.
    let pipe = Pipe::new(go(&WEB, ResolverOptions::default()), Silence, pass).run();
    assert_eq!(pipe.done_millis(), 50_000);
    // One lost question is asked again alone.
    let known = server("web.", ResponseCode::NxDomain);
    let lose = |n, _, _: &Packet| if n == 1 { Fate::Lose } else { Fate::Pass };
    let pipe = Pipe::new(go(&["web."], ResolverOptions::default()), known, lose).run();
    assert_eq!(pipe.millis(Side::Left, |_| true), [0, 0, 5000]);
}

#[test]
fn single_request_asks_in_turn() {
    for (pair, ports) in [
        (Pair::InTurn, [40_001, 40_001]),
        (Pair::Reopened, [40_001, 40_002]),
    ] {
        let known = server("web.", ResponseCode::NxDomain);
        let mut glibc = lookup(Flavour::Glibc, 1, &["web."]);
        glibc.settings.pair = pair;
        let pipe = Pipe::new(glibc, known, pass).run();
        let sides: Vec<_> = pipe.sent.iter().map(|(_, side, _)| *side).collect();
        assert_eq!(sides, [Side::Left, Side::Right, Side::Left, Side::Right]);
        let asked = pipe.sent.iter().filter(|(_, side, _)| *side == Side::Left);
        let from: Vec<_> = asked.map(|(_, _, p)| p.ports().unwrap().0).collect();
        assert_eq!(from, ports);
        assert!(outcome(&pipe).addresses.is_ok());
    }
}
