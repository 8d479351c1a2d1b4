//! Two ends and a pipe.

#![allow(clippy::unwrap_used, reason = "tests")]

use podwire_models::base::{Errno, NoChance};
use podwire_models::wire::{Packet, SctpChunk as C, Transport};

use super::*;
use crate::traffic::pipe::{Fate, Machine, Pipe, Side, Silence, remote};
use crate::traffic::{AppEvent, ProbeResult};

impl Machine for SctpClient {
    fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
        self.handle(event, cx);
    }
}

impl Machine for SctpServer {
    fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
        self.handle(event, cx);
    }
}

fn client(timeout: Option<Duration>) -> SctpClient {
    let settings = ClientSettings {
        timeout,
        ..ClientSettings::default()
    };
    SctpClient::new(remote(), settings)
}

fn server() -> SctpServer {
    SctpServer::new(ServerSettings::new("web-0".into()))
}

fn chunk(packet: &Packet) -> C {
    match packet.transport {
        Transport::Sctp(sctp) => sctp.chunk,
        Transport::Tcp(_) | Transport::Udp(_) | Transport::Icmp(_) => panic!("{packet:?}"),
    }
}

fn chunks(sent: &[(Time, Side, Packet)]) -> Vec<C> {
    sent.iter().map(|(_, _, packet)| chunk(packet)).collect()
}

const WHOLE: [C; 11] = [
    C::Init,
    C::InitAck,
    C::CookieEcho,
    C::CookieAck,
    C::Data,
    C::Sack,
    C::Data,
    C::Sack,
    C::Shutdown,
    C::ShutdownAck,
    C::ShutdownComplete,
];

#[test]
fn a_whole_association() {
    let pipe = Pipe::new(client(None), server(), |_, _, _: &Packet| Fate::Pass).run();
    assert_eq!(chunks(&pipe.sent), WHOLE);
    assert_eq!(pipe.probe().result, ProbeResult::Connected);
    assert_eq!(pipe.probe().server.as_deref(), Some("web-0"));
    assert_eq!((pipe.closed, pipe.right.associations()), (1, 0));
    assert!(pipe.left.finished());
}

#[test]
fn whatever_is_lost_once_is_sent_again() {
    for lost in 0..WHOLE.len() {
        let lose = |n, _, _: &Packet| if n == lost { Fate::Lose } else { Fate::Pass };
        let pipe = Pipe::new(client(None), server(), lose).run();
        let outcome = pipe.probe();
        assert_eq!(outcome.result, ProbeResult::Connected, "{lost}");
        assert!(pipe.left.finished(), "{lost}");
        // The last chunk has no answer: the server asks again, and hears from nobody here.
        let left = usize::from(lost == WHOLE.len() - 1);
        assert!(pipe.right.associations() <= left, "{lost}");
    }
}

#[test]
fn init_leaves_nine_times() {
    let pipe = Pipe::new(client(None), Silence, |_, _, _: &Packet| Fate::Pass).run();
    let seconds: Vec<u64> = pipe
        .millis(Side::Left, |_| true)
        .iter()
        .map(|ms| ms / 1000)
        .collect();
    assert_eq!(seconds, [0, 3, 9, 21, 45, 93, 153, 213, 273]);
    assert_eq!(pipe.done_millis(), 333_000);
    assert_eq!(pipe.probe().errno, Some(Errno::ETIMEDOUT));
}

#[test]
fn an_application_stops_waiting_without_a_word() {
    let limit = Some(Duration::from_secs(5));
    let pipe = Pipe::new(client(limit), Silence, |_, _, _: &Packet| Fate::Pass).run();
    assert_eq!(chunks(&pipe.sent), [C::Init, C::Init]);
    let outcome = pipe.probe();
    assert_eq!(
        (outcome.result, outcome.errno),
        (ProbeResult::Timeout, None)
    );
    assert_eq!((pipe.done_millis(), pipe.closed), (5000, 1));
}

#[test]
fn only_protocol_unreachable_ends_a_handshake() {
    let limit = Some(Duration::from_secs(5));
    let fail = |errno| move |_, _, _: &Packet| Fate::Fail { errno, mtu: None };
    let pipe = Pipe::new(client(limit), Silence, fail(Errno::ENOPROTOOPT)).run();
    assert_eq!(pipe.probe().errno, Some(Errno::ECONNREFUSED));
    assert_eq!((pipe.done_millis(), pipe.closed), (0, 1));
    let pipe = Pipe::new(client(limit), Silence, fail(Errno::ECONNREFUSED)).run();
    assert_eq!(pipe.probe().result, ProbeResult::Timeout);
    assert_eq!(pipe.done_millis(), 5000);
}

#[test]
fn a_server_that_forgot_aborts() {
    /// Knows nothing of an association once it is asked.
    struct Forgetful(SctpServer);
    impl Machine for Forgetful {
        fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
            if let AppEvent::Packet(packet) = &event
                && chunk(packet) == C::Data
            {
                self.0 = server();
            }
            self.0.handle(event, cx);
        }
    }
    let forgetful = Forgetful(server());
    let pipe = Pipe::new(client(None), forgetful, |_, _, _: &Packet| Fate::Pass).run();
    assert_eq!(chunks(&pipe.sent).last(), Some(&C::Abort));
    assert_eq!(pipe.probe().errno, Some(Errno::ECONNRESET));
    assert!(pipe.left.finished());
}
