//! States, timeouts and INVALID, as measured on Linux.

use podwire_models::base::Family;
use podwire_models::kernel::conntrack::Tracked;
use podwire_models::kernel::netfilter::NfVerdict;
use podwire_models::wire::{Code, TcpFlags as F};

use crate::nf::{Router, answer, tcp, udp};

const TRACKING: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
";

const A: (&str, u16) = ("10.244.1.2", 40000);
const B: (&str, u16) = ("10.244.2.2", 80);

/// A connection between A (sequence 100) and B (sequence 500), seen from the middle.
struct Talk {
    router: Router,
}

const INVALID: NfVerdict = NfVerdict::Drop(Code::CtInvalid);

impl Talk {
    fn new() -> Self {
        Self {
            router: Router::new(TRACKING),
        }
    }

    fn established() -> Self {
        let mut talk = Self::new();
        talk.a(F::SYN, 100, 0).unwrap();
        talk.b(F::SYN_ACK, 500, 101).unwrap();
        talk.a(F::ACK, 101, 501).unwrap();
        talk
    }

    fn a(&mut self, flags: F, seq: u32, ack: u32) -> Result<(), NfVerdict> {
        self.router.out(tcp(A, B, flags, seq, ack)).map(|_| ())
    }

    fn b(&mut self, flags: F, seq: u32, ack: u32) -> Result<(), NfVerdict> {
        self.router.back(tcp(B, A, flags, seq, ack)).map(|_| ())
    }

    /// Seconds left, state, and what is in brackets.
    fn entry(&self) -> String {
        let list = self.router.list();
        let words: Vec<&str> = list.split_whitespace().collect();
        let flags = words.iter().filter(|w| w.starts_with('['));
        words[2..4]
            .iter()
            .chain(flags)
            .copied()
            .collect::<Vec<_>>()
            .join(" ")
    }
}

#[test]
fn a_connection_opens_and_closes() {
    let mut talk = Talk::new();
    talk.a(F::SYN, 100, 0).unwrap();
    assert_eq!(talk.entry(), "120 SYN_SENT [UNREPLIED]");
    talk.b(F::SYN_ACK, 500, 101).unwrap();
    assert_eq!(talk.entry(), "60 SYN_RECV");
    talk.a(F::ACK, 101, 501).unwrap();
    assert_eq!(talk.entry(), "432000 ESTABLISHED [ASSURED]");
    talk.a(F::FIN_ACK, 101, 501).unwrap();
    assert_eq!(talk.entry(), "120 FIN_WAIT [ASSURED]");
    talk.b(F::ACK, 501, 102).unwrap();
    assert_eq!(talk.entry(), "60 CLOSE_WAIT [ASSURED]");
    talk.b(F::FIN_ACK, 501, 102).unwrap();
    assert_eq!(talk.entry(), "30 LAST_ACK [ASSURED]");
    talk.a(F::ACK, 102, 502).unwrap();
    assert_eq!(talk.entry(), "120 TIME_WAIT [ASSURED]");
    talk.a(F::SYN, 7000, 0).unwrap();
    assert_eq!(
        talk.entry(),
        "120 SYN_SENT [UNREPLIED]",
        "the tuple is used again"
    );
}

#[test]
fn a_refused_syn_leaves_nothing_and_a_lost_one_stays_two_minutes() {
    let mut talk = Talk::new();
    talk.a(F::SYN, 100, 0).unwrap();
    talk.router.wait(60_000);
    talk.a(F::SYN, 100, 0).unwrap();
    assert_eq!(talk.entry(), "120 SYN_SENT [UNREPLIED]", "restarted");
    talk.b(F::RST_ACK, 0, 101).unwrap();
    assert_eq!(talk.router.list(), "");
}

#[test]
fn a_reset_closes() {
    let mut talk = Talk::established();
    talk.b(F::RST_ACK, 501, 101).unwrap();
    assert_eq!(talk.entry(), "10 CLOSE [ASSURED]");
}

#[test]
fn simultaneous_open() {
    let mut talk = Talk::new();
    talk.a(F::SYN, 100, 0).unwrap();
    talk.b(F::SYN, 500, 0).unwrap();
    assert_eq!(talk.entry(), "120 SYN_SENT2");
}

#[test]
fn what_no_connection_explains_is_invalid() {
    for flags in [F::RST, F::SYN_ACK, F::FIN_ACK] {
        assert_eq!(Talk::new().a(flags, 100, 500), Err(INVALID), "lone {flags}");
    }
    let mut talk = Talk::new();
    talk.a(F::ACK, 100, 500).unwrap();
    assert_eq!(talk.entry(), "300 ESTABLISHED [UNREPLIED]", "picked up");
    let mut talk = Talk::new();
    let table = talk.router.netns.conntrack.as_mut().unwrap();
    assert!(table.settings.set("nf_conntrack_tcp_loose", 0));
    assert_eq!(talk.a(F::ACK, 100, 500), Err(INVALID));
    assert_eq!(
        talk.router
            .out(answer(&udp("1.1.1.1", 1, "2.2.2.2", 2)))
            .map(|_| ()),
        Ok(())
    );
    let reply = answer(&crate::nf::ping("10.244.1.2", "8.8.8.8", 1));
    assert_eq!(talk.router.out(reply).map(|_| ()), Err(INVALID));
}

#[test]
fn what_is_out_of_window_is_invalid_unless_liberal() {
    let far = 10_000_000;
    let cases = [
        ("sequence far right", F::ACK, 101 + far, 501, true),
        (
            "acknowledges what was never sent",
            F::ACK,
            101,
            501 + far,
            true,
        ),
        ("reset right of the window", F::RST, 101 + far, 0, true),
        ("reset left of the window", F::RST, 60, 0, false),
    ];
    for (what, flags, seq, ack, liberal_lets_through) in cases {
        let mut talk = Talk::established();
        assert_eq!(talk.a(flags, seq, ack), Err(INVALID), "{what}");
        assert_eq!(talk.a(F::ACK, 101, 501), Ok(()), "in window");
        let mut talk = Talk::established();
        let table = talk.router.netns.conntrack.as_mut().unwrap();
        table.settings.tcp_be_liberal = true;
        assert_eq!(
            talk.a(flags, seq, ack).is_ok(),
            liberal_lets_through,
            "{what}"
        );
    }
}

/// By the source of both releases (commit 6e250dcbff1d).
#[test]
fn what_comes_long_after_its_turn_is_invalid_before_6_1() {
    for (release, taken) in [((6, 0), Err(INVALID)), ((6, 1), Ok(()))] {
        let mut talk = Talk::established();
        let release = podwire_models::kernel::release::Release::new(release.0, release.1);
        talk.router.netns.set_release(release);
        let behind = 101_u32.wrapping_sub(10_000_000);
        assert_eq!(talk.a(F::ACK, behind, 501), taken, "{release}");
        assert_eq!(talk.a(F::ACK, 101, 501), Ok(()), "in window");
    }
}

#[test]
fn udp_becomes_a_stream_after_two_seconds() {
    let mut router = Router::new(TRACKING);
    let query = udp("10.244.1.2", 5000, "10.244.2.2", 53);
    let left = |router: &Router| router.list().split_whitespace().nth(2).map(str::to_owned);
    router.out(query.clone()).unwrap();
    router.back(answer(&query)).unwrap();
    assert_eq!(left(&router).as_deref(), Some("30"));
    assert!(!router.list().contains("ASSURED"));
    router.wait(2_001);
    router.out(query).unwrap();
    assert_eq!(left(&router).as_deref(), Some("120"));
    assert!(router.list().contains("ASSURED"));
    router.wait(120_000);
    assert_eq!(router.list(), "");
}

const FULL: Result<(), NfVerdict> = Err(NfVerdict::Drop(Code::CtTableFull));

/// `sim/tests/kernel/full.rs` asks the kernel.
#[test]
fn a_full_table_evicts_what_is_not_assured() {
    let mut router = Router::new(TRACKING);
    let query = |n: u32| {
        udp(
            "10.244.1.2",
            (n & 0xffff) as u16,
            &format!("10.9.0.{}", n >> 16),
            53,
        )
    };
    let table = |router: &mut Router| router.netns.conntrack.take().unwrap();
    let mut full = table(&mut router);
    let now = podwire_models::base::Time::from_secs(1);
    for n in 0..full.settings.max {
        let Tracked::Entry(ct, _) = full.track(&query(n), now) else {
            panic!("there is room");
        };
        full.confirm(ct, now).unwrap();
    }
    for port in 1..=50 {
        let newcomer = full.track(&udp("10.244.1.3", port, "10.244.2.2", 53), now);
        assert!(matches!(newcomer, Tracked::Entry(..)), "{newcomer:?}");
    }
    assert!(full.stats.early_drop > 0);
    assert!(full.len() < full.settings.max as usize);
}

#[test]
fn a_full_table_drops_what_would_begin_a_connection() {
    let mut router = Router::new(TRACKING);
    router.netns.conntrack.as_mut().unwrap().settings.max = 4;
    let query = |port| udp("10.244.1.2", port, "10.244.2.2", 53);
    for port in 1..=4 {
        router.out(query(port)).unwrap();
    }
    // Eight of 262,144 buckets are searched for somebody to evict: of four nobody is found.
    assert_eq!(router.out(query(9)).map(|_| ()), FULL);
    router.back(answer(&query(1))).unwrap();
    router.out(query(1)).unwrap();
    let what = router.out(tcp(A, B, F::RST, 100, 0)).map(|_| ());
    assert_eq!(what, FULL, "memory is asked for before sense");
    router.netns.conntrack.as_mut().unwrap().settings.max = 0;
    router.out(query(9)).unwrap();
    router.netns.conntrack.as_mut().unwrap().settings.max = 5;
    assert_eq!(router.out(query(10)).map(|_| ()), FULL);
    router.wait(121_000);
    assert!(router.out(query(10)).is_ok(), "the old ones have ended");
}

#[test]
fn a_minute_after_a_full_table_those_who_can_go_have_gone() {
    let mut router = Router::new(TRACKING);
    router.netns.conntrack.as_mut().unwrap().settings.max = 200;
    router.netns.conntrack.as_mut().unwrap().settings.udp = 1000;
    let query = |port| udp("10.244.1.2", port, "10.244.2.2", 53);
    for port in 1..=200 {
        router.out(query(port)).unwrap();
    }
    assert_eq!(router.out(query(999)).map(|_| ()), FULL);
    assert_eq!(router.list().lines().count(), 200);
    router.wait(60_000);
    router.out(query(999)).unwrap();
    // As long as there are 95 % of what is permitted, one more goes.
    assert_eq!(router.list().lines().count(), 189 + 1);
}

#[test]
fn settings_come_from_sysctls() {
    use podwire_models::kernel::config::Change;
    let mut router = Router::new(TRACKING);
    let change = Change::Sysctl {
        name: "net.netfilter.nf_conntrack_tcp_timeout_established".into(),
        value: 86_400,
    };
    router.netns.apply(&change).unwrap();
    router.netns.flush_rules(Family::V4);
    router.load(TRACKING);
    let settings = &router.netns.conntrack.as_ref().unwrap().settings;
    assert_eq!(
        settings.get("nf_conntrack_tcp_timeout_established"),
        Some(86_400)
    );
}
