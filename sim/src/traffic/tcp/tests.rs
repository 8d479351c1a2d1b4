//! Schedules and conversations, compared with what Linux does.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

use std::time::Duration;

use podwire_models::base::{Errno, NoChance};
use podwire_models::kernel::release::Release;
use podwire_models::wire::{Packet, TcpFlags, Transport};

use super::*;
use crate::traffic::pipe::{Fate, Machine, Pipe, Side, Silence, remote};
use crate::traffic::{AppEvent, Ctx, End, Outcome, ProbeOutcome, ProbeResult};

fn opened(local: End) -> AppEvent {
    AppEvent::Opened {
        local,
        mtu: 1500,
        syn: SynSchedule::default(),
    }
}

impl Machine for TcpClient {
    fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
        self.handle(event, cx);
    }
}

impl Machine for TcpServer {
    fn on(&mut self, event: AppEvent, cx: &mut Ctx<'_, NoChance>) {
        self.handle(event, cx);
    }
}

fn client(timeout: Option<Duration>) -> TcpClient {
    TcpClient::new(
        remote(),
        ClientSettings {
            timeout,
            ..ClientSettings::default()
        },
    )
}

fn server(response_len: u32) -> TcpServer {
    TcpServer::new(ServerSettings {
        response_len,
        ..ServerSettings::new("web-0".into())
    })
}

fn probe(outcome: &Outcome) -> &ProbeOutcome {
    let Outcome::Probe(probe) = outcome else {
        panic!("a probe: {outcome:?}");
    };
    probe
}

fn is_syn(packet: &Packet) -> bool {
    matches!(packet.transport, Transport::Tcp(tcp) if tcp.flags == TcpFlags::SYN)
}

fn has_data(packet: &Packet) -> bool {
    !packet.payload.is_empty()
}

#[test]
fn a_conversation_reads_as_in_a_capture() {
    let pipe = Pipe::new(client(None), server(200), |_, _, _| Fate::Pass).run();
    let story = "\
> SYN 0:0 len 0
< SYN,ACK 0:1 len 0
> ACK 1:1 len 0
> PSH,ACK 1:1 len 78
< ACK 1:79 len 0
< PSH,ACK 1:79 len 200
> ACK 79:201 len 0
> FIN,ACK 79:201 len 0
< FIN,ACK 201:80 len 0
> ACK 80:202 len 0";
    assert_eq!(pipe.story(), story);
    let outcome = probe(pipe.outcome());
    assert_eq!(outcome.result, ProbeResult::Connected);
    assert_eq!(outcome.server.as_deref(), Some("web-0"));
    assert_eq!(outcome.backend, Some(remote()));
    assert_eq!(outcome.after, Duration::from_micros(200));
    assert!(pipe.left.finished(), "after TIME-WAIT");
    assert_eq!(pipe.right.connections().count(), 0);
}

#[test]
fn syn_schedule_since_kernel_6_5() {
    let pipe = Pipe::new(client(None), Silence, |_, _, _| Fate::Pass).run();
    let seconds = [0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 67].map(|s| s * 1000);
    assert_eq!(pipe.millis(Side::Left, is_syn), seconds);
    assert_eq!(pipe.done_millis(), 131_000);
    assert_eq!(probe(pipe.outcome()).errno, Some(Errno::ETIMEDOUT));
}

#[test]
fn syn_schedule_before_kernel_6_5() {
    let pipe = Pipe::new(client(None), Silence, |_, _, _| Fate::Pass)
        .on(Release::new(6, 4))
        .run();
    let seconds = [0, 1, 3, 7, 15, 31, 63].map(|s| s * 1000);
    assert_eq!(pipe.millis(Side::Left, is_syn), seconds);
    assert_eq!(pipe.done_millis(), 127_000);
}

#[test]
fn the_application_stops_waiting_first() {
    let limit = Some(Duration::from_secs(5));
    let pipe = Pipe::new(client(limit), Silence, |_, _, _| Fate::Pass).run();
    assert_eq!(pipe.done_millis(), 5000);
    let outcome = probe(pipe.outcome());
    assert_eq!(
        (outcome.result, outcome.errno),
        (ProbeResult::Timeout, None)
    );
    assert!(pipe.left.finished());
}

#[test]
fn synack_schedule_and_end_of_a_half_open_connection() {
    let lose = |_, side, _: &Packet| match side {
        Side::Left => Fate::Pass,
        Side::Right => Fate::Lose,
    };
    let limit = Some(Duration::from_millis(500));
    let pipe = Pipe::new(client(limit), server(200), lose).run();
    let all = pipe.millis(Side::Right, |_| true);
    assert_eq!(all, [0, 1000, 3000, 7000, 15_000, 31_000]);
    assert_eq!(pipe.right.connections().count(), 0, "dropped after 63 s");
}

#[test]
fn errors_end_connect() {
    for (errno, result) in [
        (Errno::ECONNREFUSED, ProbeResult::Refused),
        (Errno::EHOSTUNREACH, ProbeResult::Unreachable),
        (Errno::ENETUNREACH, ProbeResult::Unreachable),
    ] {
        let fail = move |_, _, _: &Packet| Fate::Fail { errno, mtu: None };
        let pipe = Pipe::new(client(None), Silence, fail).run();
        let outcome = probe(pipe.outcome());
        assert_eq!((outcome.result, outcome.errno), (result, Some(errno)));
        assert_eq!(pipe.closed, 1);
    }
}

#[test]
fn nobody_listens() {
    let mut dead = server(200);
    let mut actions = Vec::new();
    dead.kill(&mut Ctx {
        now: podwire_models::base::Time::ZERO,
        flow: podwire_models::wire::FlowKey(1),
        dice: &mut NoChance,
        actions: &mut actions,
    });
    let pipe = Pipe::new(client(None), dead, |_, _, _| Fate::Pass).run();
    assert_eq!(pipe.story(), "> SYN 0:0 len 0\n< RST,ACK 0:1 len 0");
    assert_eq!(probe(pipe.outcome()).errno, Some(Errno::ECONNREFUSED));
}

#[test]
fn blocked_path_retransmits_and_gives_up_as_linux_does() {
    // Everything after the handshake is lost.
    let lose = |n, _, _: &Packet| if n < 3 { Fate::Pass } else { Fate::Lose };
    let pipe = Pipe::new(client(None), server(200), lose).run();
    let data = pipe.millis(Side::Left, has_data);
    assert_eq!(
        &data[..9],
        [0, 200, 400, 800, 1600, 3201, 6403, 12_806, 25_612]
    );
    let outcome = probe(pipe.outcome());
    assert_eq!(outcome.errno, Some(Errno::ETIMEDOUT));
    assert!(pipe.done_millis() >= 924_600, "{}", pipe.done_millis());
    assert_eq!(
        TcpSettings::default().give_up(15),
        Duration::from_millis(924_600)
    );
}

#[test]
fn soft_errors_only_name_the_end() {
    let fail = |n, side, _: &Packet| match (n < 3, side) {
        (true, _) => Fate::Pass,
        (false, Side::Left) => Fate::Fail {
            errno: Errno::EHOSTUNREACH,
            mtu: None,
        },
        (false, Side::Right) => Fate::Lose,
    };
    let pipe = Pipe::new(client(None), server(200), fail).run();
    assert_eq!(probe(pipe.outcome()).errno, Some(Errno::EHOSTUNREACH));
    assert!(pipe.done_millis() >= 924_600);
}

#[test]
fn any_single_loss_is_repaired() {
    for lost in 0..60 {
        let lose = move |n, _, _: &Packet| if n == lost { Fate::Lose } else { Fate::Pass };
        let pipe = Pipe::new(client(None), server(20_000), lose).run();
        let outcome = probe(pipe.outcome());
        assert_eq!(
            outcome.result,
            ProbeResult::Connected,
            "packet {lost}\n{}",
            pipe.story()
        );
        assert!(
            outcome.after < Duration::from_millis(1100),
            "packet {lost}: {outcome:?}"
        );
        assert!(pipe.left.finished());
        assert_eq!(pipe.right.connections().count(), 0, "packet {lost}");
    }
}

#[test]
fn periodic_loss_is_repaired() {
    for every in 3..12 {
        for first in 0..every {
            let lose = move |n: usize, _, _: &Packet| {
                if n % every == first {
                    Fate::Lose
                } else {
                    Fate::Pass
                }
            };
            let pipe = Pipe::new(client(None), server(60_000), lose).run();
            let outcome = probe(pipe.outcome());
            assert_eq!(outcome.result, ProbeResult::Connected, "{every}/{first}");
        }
    }
}

#[test]
fn segments_fit_the_path_and_the_first_window_is_ten() {
    let pipe = Pipe::new(client(None), server(100_000), |_, _, _| Fate::Pass).run();
    let sizes: Vec<u32> = pipe.sent.iter().map(|(_, _, p)| p.len()).collect();
    assert_eq!(sizes.iter().max(), Some(&1500));
    let big = |p: &Packet| p.payload.len() == 1448;
    let (first, _, _) = pipe.sent.iter().find(|(_, _, p)| big(p)).unwrap();
    let flight = pipe.sent.iter().filter(|(at, _, p)| at == first && big(p));
    assert_eq!(flight.count(), 10);
}

#[test]
fn a_smaller_path_lowers_the_segment_size() {
    let narrow = |_, _, p: &Packet| {
        if p.len() > 1450 {
            let (errno, mtu) = (Errno::EMSGSIZE, Some(1450));
            Fate::Fail { errno, mtu }
        } else {
            Fate::Pass
        }
    };
    let pipe = Pipe::new(client(None), server(20_000), narrow).run();
    assert_eq!(probe(pipe.outcome()).result, ProbeResult::Connected);
    assert!(
        pipe.done_millis() < 100,
        "no timeout needed: {}",
        pipe.done_millis()
    );

    // The error gets lost: a black hole, which no retransmission crosses.
    let hole = |_, _, p: &Packet| {
        if p.len() > 1450 {
            Fate::Lose
        } else {
            Fate::Pass
        }
    };
    let limit = Some(Duration::from_secs(5));
    let pipe = Pipe::new(client(limit), server(20_000), hole).run();
    assert_eq!(probe(pipe.outcome()).result, ProbeResult::Timeout);
}

#[test]
fn a_process_that_hangs_fills_its_queue() {
    let mut hung = TcpServer::new(ServerSettings {
        workers: 0,
        backlog: 1,
        ..ServerSettings::new("web-0".into())
    });
    for (port, answered) in [(1, true), (2, true), (3, false)] {
        let mut actions = Vec::new();
        let mut cx = Ctx {
            now: podwire_models::base::Time::ZERO,
            flow: podwire_models::wire::FlowKey(1),
            dice: &mut NoChance,
            actions: &mut actions,
        };
        let mut asking = client(None);
        let local = (crate::traffic::pipe::local(), port);
        asking.handle(AppEvent::Start, &mut cx);
        asking.handle(opened(local), &mut cx);
        for _ in 0..3 {
            for action in std::mem::take(cx.actions) {
                match action {
                    crate::traffic::Action::Send(packet) if packet.src == local.0 => {
                        hung.handle(AppEvent::Packet(packet), &mut cx);
                    }
                    crate::traffic::Action::Send(packet) => {
                        asking.handle(AppEvent::Packet(packet), &mut cx);
                    }
                    _ => {}
                }
            }
        }
        let state = if answered {
            TcpState::Established
        } else {
            TcpState::SynSent
        };
        assert_eq!(asking.tcp_state(), state);
    }
}

#[test]
fn service_takes_its_time_and_connections_are_kept() {
    let asking = TcpClient::new(
        remote(),
        ClientSettings {
            requests: 3,
            pause: Duration::from_secs(1),
            timeout: None,
            ..ClientSettings::default()
        },
    );
    let mut slow = server(200);
    slow.settings_mut().service_time = Duration::from_millis(20);
    let pipe = Pipe::new(asking, slow, |_, _, _| Fate::Pass).run();
    assert_eq!(pipe.millis(Side::Right, has_data), [20, 1040, 2060]);
    assert_eq!(probe(pipe.outcome()).result, ProbeResult::Connected);
    assert_eq!(pipe.millis(Side::Left, is_syn).len(), 1);
}

#[test]
fn rst_after_the_handshake_is_a_reset() {
    let mut killed = server(200);
    killed.settings_mut().workers = 0;
    let mut asking = client(None);
    let mut actions = Vec::new();
    // The process dies with the request unread.
    let mut cx = Ctx {
        now: podwire_models::base::Time::ZERO,
        flow: podwire_models::wire::FlowKey(1),
        dice: &mut NoChance,
        actions: &mut actions,
    };
    asking.handle(AppEvent::Start, &mut cx);
    let local = (crate::traffic::pipe::local(), 40_000);
    asking.handle(opened(local), &mut cx);
    for _ in 0..3 {
        let sent: Vec<_> = cx.actions.drain(..).collect();
        for action in sent {
            if let crate::traffic::Action::Send(packet) = action {
                if packet.src == local.0 {
                    killed.handle(AppEvent::Packet(packet), &mut cx);
                } else {
                    asking.handle(AppEvent::Packet(packet), &mut cx);
                }
            }
        }
    }
    killed.kill(&mut cx);
    let sent: Vec<_> = cx.actions.drain(..).collect();
    for action in sent {
        if let crate::traffic::Action::Send(packet) = action
            && packet.src != local.0
        {
            asking.handle(AppEvent::Packet(packet), &mut cx);
        }
    }
    let done = cx.actions.iter().find_map(|a| match a {
        crate::traffic::Action::Done(outcome) => match &**outcome {
            Outcome::Probe(probe) => Some(probe.errno),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(done, Some(Some(Errno::ECONNRESET)));
    assert!(asking.finished() && killed.finished());
}
