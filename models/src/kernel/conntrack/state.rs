//! Per-protocol states and timeouts (`nf_conntrack_proto_tcp.c`, `_udp.c`, `_icmp.c`, `_sctp.c`).
//!
//! # Fidelity
//! The TCP window check leaves out selective acknowledgements and window scaling (windows here are in bytes
//! already). SCTP is in `sctp.rs`.

use std::time::Duration;

use super::Direction;
use super::sctp::SctpTrack;
use crate::base::Time;
use crate::wire::{Packet, Tcp, TcpFlags};

/// Settings of connection tracking (`net.netfilter.nf_conntrack_*`), with the kernel's defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CtSettings {
    /// `nf_conntrack_max`: how many connections at most.
    pub max: u32,
    /// `nf_conntrack_tcp_loose`: whether a connection may be picked up in its middle.
    pub tcp_loose: bool,
    /// `nf_conntrack_tcp_be_liberal`: whether segments out of window are let through, except a RST left of what was
    /// acknowledged.
    pub tcp_be_liberal: bool,
    /// Whether segments that come long after their turn are INVALID, as before kernel 6.1; not a setting.
    pub delayed_are_invalid: bool,
    /// `nf_conntrack_tcp_max_retrans`: unanswered retransmissions until the shorter timeout.
    pub tcp_max_retrans: u8,
    /// `nf_conntrack_tcp_timeout_*` by state, in seconds, in the order of [`TcpState`].
    pub tcp: [u32; TcpState::COUNT],
    /// `nf_conntrack_tcp_timeout_max_retrans`, in seconds.
    pub tcp_retrans: u32,
    /// `nf_conntrack_tcp_timeout_unacknowledged`, in seconds.
    pub tcp_unacknowledged: u32,
    /// `nf_conntrack_udp_timeout`, in seconds.
    pub udp: u32,
    /// `nf_conntrack_udp_timeout_stream`, in seconds.
    pub udp_stream: u32,
    /// `nf_conntrack_icmp_timeout`, in seconds.
    pub icmp: u32,
    /// `nf_conntrack_icmpv6_timeout`, in seconds.
    pub icmpv6: u32,
    /// `nf_conntrack_sctp_timeout_*` by state, in seconds, in the order of [`SctpState`].
    pub sctp: [u32; SctpState::COUNT],
}

impl Default for CtSettings {
    fn default() -> Self {
        Self {
            max: 262_144,
            tcp_loose: true,
            tcp_be_liberal: false,
            delayed_are_invalid: false,
            tcp_max_retrans: 3,
            tcp: [120, 60, 432_000, 120, 60, 30, 120, 10, 120],
            tcp_retrans: 300,
            tcp_unacknowledged: 300,
            udp: 30,
            udp_stream: 120,
            icmp: 30,
            icmpv6: 30,
            sctp: [10, 3, 3, 210, 3, 3, 3, 30],
        }
    }
}

impl CtSettings {
    /// Returns the field behind the last part of a sysctl's name (`nf_conntrack_udp_timeout`).
    fn timeout_mut(&mut self, name: &str) -> Option<&mut u32> {
        let name = name.strip_prefix("nf_conntrack_")?;
        match name {
            "max" => Some(&mut self.max),
            "udp_timeout" => Some(&mut self.udp),
            "udp_timeout_stream" => Some(&mut self.udp_stream),
            "icmp_timeout" => Some(&mut self.icmp),
            "icmpv6_timeout" => Some(&mut self.icmpv6),
            "tcp_timeout_max_retrans" => Some(&mut self.tcp_retrans),
            "tcp_timeout_unacknowledged" => Some(&mut self.tcp_unacknowledged),
            other => {
                if let Some(state) = other.strip_prefix("tcp_timeout_") {
                    let state = TcpState::ALL.iter().find(|s| s.timeout_name() == state)?;
                    self.tcp.get_mut(*state as usize)
                } else {
                    let state = other.strip_prefix("sctp_timeout_")?;
                    let state = SctpState::ALL.iter().find(|s| s.timeout_name() == state)?;
                    self.sctp.get_mut(*state as usize)
                }
            }
        }
    }

    /// Sets a value by the last part of its sysctl name (`nf_conntrack_max`); returns whether there is such a one
    /// and it takes that value.
    pub fn set(&mut self, name: &str, value: i64) -> bool {
        let Ok(value) = u32::try_from(value) else {
            return false;
        };
        match name {
            "nf_conntrack_tcp_loose" => self.tcp_loose = value != 0,
            "nf_conntrack_tcp_be_liberal" => self.tcp_be_liberal = value != 0,
            "nf_conntrack_tcp_max_retrans" => match u8::try_from(value) {
                Ok(value) => self.tcp_max_retrans = value,
                Err(_) => return false,
            },
            other => match self.timeout_mut(other) {
                Some(field) => *field = value,
                None => return false,
            },
        }
        true
    }

    /// Returns a value by the last part of its sysctl name.
    pub fn get(&self, name: &str) -> Option<i64> {
        match name {
            "nf_conntrack_tcp_loose" => Some(i64::from(self.tcp_loose)),
            "nf_conntrack_tcp_be_liberal" => Some(i64::from(self.tcp_be_liberal)),
            "nf_conntrack_tcp_max_retrans" => Some(i64::from(self.tcp_max_retrans)),
            other => self.clone().timeout_mut(other).map(|v| i64::from(*v)),
        }
    }

    fn tcp_timeout(&self, state: TcpState) -> u32 {
        self.tcp.get(state as usize).copied().unwrap_or(0)
    }
}

/// States of a TCP connection as seen from the middle (`enum tcp_conntrack`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TcpState {
    /// SYN seen.
    SynSent,
    /// SYN-ACK seen.
    SynRecv,
    /// ACK of the SYN-ACK seen.
    Established,
    /// FIN seen.
    FinWait,
    /// ACK of the FIN seen.
    CloseWait,
    /// FIN of the other side seen.
    LastAck,
    /// Last ACK seen.
    TimeWait,
    /// RST seen.
    Close,
    /// SYN from the other side seen: simultaneous open.
    SynSent2,
}

impl TcpState {
    /// How many states there are.
    pub const COUNT: usize = 9;
    /// Every state.
    pub const ALL: [Self; Self::COUNT] = [
        Self::SynSent,
        Self::SynRecv,
        Self::Established,
        Self::FinWait,
        Self::CloseWait,
        Self::LastAck,
        Self::TimeWait,
        Self::Close,
        Self::SynSent2,
    ];

    /// Returns the name `conntrack -L` prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::SynSent2 => "SYN_SENT2",
        }
    }

    const fn timeout_name(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynRecv => "syn_recv",
            Self::Established => "established",
            Self::FinWait => "fin_wait",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::TimeWait => "time_wait",
            Self::Close => "close",
            Self::SynSent2 => "syn_sent2",
        }
    }
}

/// States of an SCTP association (`enum sctp_conntrack`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named as in nf_conntrack_sctp.h")]
pub enum SctpState {
    Closed,
    CookieWait,
    CookieEchoed,
    Established,
    ShutdownSent,
    ShutdownRecd,
    ShutdownAckSent,
    HeartbeatSent,
}

impl SctpState {
    /// How many states there are.
    pub const COUNT: usize = 8;
    /// Every state.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Closed,
        Self::CookieWait,
        Self::CookieEchoed,
        Self::Established,
        Self::ShutdownSent,
        Self::ShutdownRecd,
        Self::ShutdownAckSent,
        Self::HeartbeatSent,
    ];

    /// Returns the name `conntrack -L` prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::CookieWait => "COOKIE_WAIT",
            Self::CookieEchoed => "COOKIE_ECHOED",
            Self::Established => "ESTABLISHED",
            Self::ShutdownSent => "SHUTDOWN_SENT",
            Self::ShutdownRecd => "SHUTDOWN_RECD",
            Self::ShutdownAckSent => "SHUTDOWN_ACK_SENT",
            Self::HeartbeatSent => "HEARTBEAT_SENT",
        }
    }

    const fn timeout_name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::CookieWait => "cookie_wait",
            Self::CookieEchoed => "cookie_echoed",
            Self::Established => "established",
            Self::ShutdownSent => "shutdown_sent",
            Self::ShutdownRecd => "shutdown_recd",
            Self::ShutdownAckSent => "shutdown_ack_sent",
            Self::HeartbeatSent => "heartbeat_sent",
        }
    }
}

/// What is known of one connection besides its tuples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// TCP.
    Tcp(TcpTrack),
    /// UDP: from when on it counts as a stream.
    Udp {
        /// Two seconds after its first packet.
        stream_from: Time,
    },
    /// ICMP echo.
    Icmp,
    /// SCTP.
    Sctp(SctpTrack),
}

/// What a packet does to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It belongs; the entry now lives this long.
    Refresh(Duration),
    /// It belongs and changes nothing.
    Keep,
    /// It does not belong: INVALID.
    Invalid,
    /// It belongs and ends the connection at once.
    Kill,
    /// It starts a new connection under the same tuple.
    Reopen,
}

/// One direction of a TCP connection (`struct ip_ct_tcp_state`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    end: u32,
    maxend: u32,
    maxwin: u32,
    maxack: Option<u32>,
    liberal: bool,
    close_init: bool,
    unacknowledged: bool,
}

/// What is known of a TCP connection (`struct ip_ct_tcp`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpTrack {
    /// State.
    pub state: TcpState,
    original: Seen,
    reply: Seen,
    retrans: u8,
    last: Option<Last>,
}

/// The last segment that counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    kind: Kind,
    dir: Direction,
    seq: u32,
    ack: u32,
    end: u32,
    window: u32,
}

/// What kind of segment (`get_conntrack_index`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
    None,
}

impl Kind {
    const fn of(flags: TcpFlags) -> Self {
        if flags.contains(TcpFlags::RST) {
            Self::Rst
        } else if flags.contains(TcpFlags::SYN_ACK) {
            Self::SynAck
        } else if flags.contains(TcpFlags::SYN) {
            Self::Syn
        } else if flags.contains(TcpFlags::FIN) {
            Self::Fin
        } else if flags.contains(TcpFlags::ACK) {
            Self::Ack
        } else {
            Self::None
        }
    }
}

/// An outcome of the transition table.
enum Next {
    To(TcpState),
    Ignore,
    Invalid,
}

/// The transition table `tcp_conntracks`.
const fn next(dir: Direction, kind: Kind, old: TcpState) -> Next {
    use Direction::{Original, Reply};
    use Next::{Ignore, Invalid, To};
    use TcpState as S;
    match (kind, dir) {
        (Kind::None, _) => Invalid,
        (Kind::Rst, _) => To(S::Close),
        (Kind::Syn, Original) => match old {
            S::SynSent | S::TimeWait | S::Close => To(S::SynSent),
            S::SynSent2 => To(S::SynSent2),
            S::SynRecv | S::Established | S::FinWait | S::CloseWait | S::LastAck => Ignore,
        },
        (Kind::Syn, Reply) => match old {
            S::SynSent | S::SynSent2 => To(S::SynSent2),
            S::TimeWait => To(S::SynSent),
            S::SynRecv | S::Established | S::FinWait | S::CloseWait | S::LastAck | S::Close => {
                Invalid
            }
        },
        (Kind::SynAck, Original) => match old {
            S::SynRecv | S::SynSent2 => To(S::SynRecv),
            S::SynSent
            | S::Established
            | S::FinWait
            | S::CloseWait
            | S::LastAck
            | S::TimeWait
            | S::Close => Invalid,
        },
        (Kind::SynAck, Reply) => match old {
            S::SynSent | S::SynSent2 => To(S::SynRecv),
            S::SynRecv
            | S::Established
            | S::FinWait
            | S::CloseWait
            | S::LastAck
            | S::TimeWait
            | S::Close => Ignore,
        },
        (Kind::Fin, _) => match old {
            S::SynSent | S::SynSent2 => Invalid,
            S::SynRecv | S::Established => To(S::FinWait),
            S::FinWait | S::CloseWait | S::LastAck => To(S::LastAck),
            S::TimeWait => To(S::TimeWait),
            S::Close => To(S::Close),
        },
        (Kind::Ack, _) => match (old, dir) {
            (S::SynSent | S::SynSent2, Original) => Invalid,
            (S::SynSent | S::SynSent2, Reply) => Ignore,
            (S::SynRecv, Reply) => To(S::SynRecv),
            (S::SynRecv, Original) | (S::Established, _) => To(S::Established),
            (S::FinWait | S::CloseWait, _) => To(S::CloseWait),
            (S::LastAck | S::TimeWait, _) => To(S::TimeWait),
            (S::Close, _) => To(S::Close),
        },
    }
}

/// Whether `a` lies before `b` in sequence space.
const fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

/// Whether `a` lies after `b` in sequence space.
const fn after(a: u32, b: u32) -> bool {
    before(b, a)
}

/// Returns the sequence number after the segment's last byte.
fn segment_end(tcp: &Tcp, len: u32) -> u32 {
    let flag = |bit| u32::from(tcp.flags.contains(bit));
    tcp.seq
        .wrapping_add(len)
        .wrapping_add(flag(TcpFlags::SYN))
        .wrapping_add(flag(TcpFlags::FIN))
}

/// Verdict of the window check.
enum Window {
    In,
    /// Old, but harmless: counts as part of the connection and changes nothing.
    Stale,
    Out,
}

impl TcpTrack {
    /// Returns the state of a connection whose first packet this is (`tcp_new`); `None` if it cannot begin one.
    fn new(tcp: &Tcp, len: u32, settings: &CtSettings) -> Option<Self> {
        let end = segment_end(tcp, len);
        let maxwin = tcp.window.max(1);
        let (state, original, reply) = match Kind::of(tcp.flags) {
            Kind::Syn => (
                TcpState::SynSent,
                Seen {
                    end,
                    maxend: end,
                    maxwin,
                    ..Seen::default()
                },
                Seen::default(),
            ),
            Kind::Ack if settings.tcp_loose => (
                TcpState::Established,
                Seen {
                    end,
                    maxend: end.wrapping_add(maxwin),
                    maxwin,
                    liberal: true,
                    ..Seen::default()
                },
                Seen {
                    liberal: true,
                    ..Seen::default()
                },
            ),
            Kind::Ack | Kind::SynAck | Kind::Fin | Kind::Rst | Kind::None => return None,
        };
        Some(Self {
            state,
            original,
            reply,
            retrans: 0,
            last: None,
        })
    }

    const fn seen(&self, dir: Direction) -> &Seen {
        match dir {
            Direction::Original => &self.original,
            Direction::Reply => &self.reply,
        }
    }

    const fn seen_mut(&mut self, dir: Direction) -> &mut Seen {
        match dir {
            Direction::Original => &mut self.original,
            Direction::Reply => &mut self.reply,
        }
    }

    const fn is_established(&self) -> bool {
        matches!(
            self.state,
            TcpState::Established | TcpState::FinWait | TcpState::CloseWait | TcpState::LastAck
        )
    }

    #[expect(clippy::too_many_arguments, reason = "what the kernel's handler gets")]
    /// Takes one segment (`nf_conntrack_tcp_packet`). `fresh` tells the segment that made the entry.
    fn segment(
        &mut self,
        tcp: &Tcp,
        len: u32,
        dir: Direction,
        replied: bool,
        assured: &mut bool,
        fresh: bool,
        settings: &CtSettings,
    ) -> Effect {
        let old = self.state;
        let kind = Kind::of(tcp.flags);
        let end = segment_end(tcp, len);
        let last = Last {
            kind,
            dir,
            seq: tcp.seq,
            ack: tcp.ack,
            end,
            window: tcp.window,
        };
        let mut new = match next(dir, kind, old) {
            _ if fresh => old,
            Next::Invalid => return Effect::Invalid,
            Next::Ignore => {
                if !self.answers_ignored_syn(kind, dir, tcp) {
                    self.last = Some(last);
                    return Effect::Keep;
                }
                TcpState::SynRecv
            }
            Next::To(state) => state,
        };
        if new == TcpState::SynSent && old >= TcpState::TimeWait && old != TcpState::SynSent2 {
            let aborted = self
                .last
                .is_some_and(|l| l.kind == Kind::Rst && l.dir == Direction::Original);
            if self.original.close_init || self.reply.close_init || aborted {
                return Effect::Reopen;
            }
            self.last = Some(last);
            return Effect::Keep;
        }
        let mut check = true;
        if new == TcpState::Close && kind == Kind::Rst {
            match self.reset(tcp, dir, *assured, replied) {
                Reset::Invalid => return Effect::Invalid,
                Reset::Close => {}
                Reset::Challenge => new = old,
                Reset::InWindow => check = false,
            }
        }
        if check && !fresh {
            match self.in_window(tcp, len, dir, kind, settings) {
                Window::In => {}
                Window::Stale => return Effect::Keep,
                Window::Out => return Effect::Invalid,
            }
        }
        self.last = Some(last);
        self.state = new;
        if new == TcpState::FinWait && old != TcpState::FinWait {
            self.seen_mut(dir).close_init = true;
        }
        let mut timeout = self.timeout(new, tcp, settings);
        if !replied {
            if kind == Kind::Rst {
                return Effect::Kill;
            }
            if new == TcpState::Established {
                timeout = timeout.min(settings.tcp_unacknowledged);
            }
        } else if matches!(old, TcpState::SynRecv | TcpState::Established)
            && new == TcpState::Established
        {
            *assured = true;
        }
        Effect::Refresh(seconds(timeout))
    }

    /// Whether this SYN-ACK acknowledges a SYN that was ignored before: then the connection is resynchronised.
    fn answers_ignored_syn(&mut self, kind: Kind, dir: Direction, tcp: &Tcp) -> bool {
        let Some(last) = self.last else { return false };
        let answers = kind == Kind::SynAck
            && last.kind == Kind::Syn
            && last.dir != dir
            && tcp.ack == last.end;
        if answers {
            *self.seen_mut(last.dir) = Seen {
                end: last.end,
                maxend: last.end,
                maxwin: last.window.max(1),
                ..Seen::default()
            };
            *self.seen_mut(dir) = Seen::default();
            self.state = TcpState::SynSent;
        }
        answers
    }

    fn timeout(&self, state: TcpState, tcp: &Tcp, settings: &CtSettings) -> u32 {
        let normal = settings.tcp_timeout(state);
        if self.retrans >= settings.tcp_max_retrans {
            normal.min(settings.tcp_retrans)
        } else if self.original.unacknowledged || self.reply.unacknowledged {
            normal.min(settings.tcp_unacknowledged)
        } else if tcp.window == 0 && !tcp.flags.contains(TcpFlags::RST) {
            normal.min(settings.tcp_retrans)
        } else {
            normal
        }
    }

    /// Judges a RST.
    fn reset(&self, tcp: &Tcp, dir: Direction, assured: bool, replied: bool) -> Reset {
        // The tuple of a connection that is closing may be in use again.
        if self.state >= TcpState::FinWait && self.state != TcpState::SynSent2 {
            return Reset::InWindow;
        }
        // What was acknowledged says nothing after a SYN that was let through.
        let after_syn = self.last.is_some_and(|last| last.kind == Kind::Syn);
        if let Some(maxack) = self.seen(dir.opposite()).maxack.filter(|_| !after_syn) {
            if tcp.seq == 0 && !self.is_established() {
                return Reset::Close;
            }
            if before(tcp.seq, maxack) {
                return Reset::Invalid;
            }
            if !self.is_established() || tcp.seq == maxack {
                return Reset::Close;
            }
            let train = self
                .last
                .is_some_and(|l| l.kind == Kind::Ack && l.dir == dir && l.end == tcp.seq);
            if !train {
                return Reset::Challenge;
            }
        }
        let let_through = self.last.is_some_and(|l| {
            ((replied && l.kind == Kind::Syn) || (!assured && l.kind == Kind::Ack))
                && tcp.ack == l.end
        });
        if let_through {
            Reset::InWindow
        } else {
            Reset::Close
        }
    }

    /// The window check (`tcp_in_window`).
    fn in_window(
        &mut self,
        tcp: &Tcp,
        len: u32,
        dir: Direction,
        kind: Kind,
        settings: &CtSettings,
    ) -> Window {
        let (mut sender, mut receiver) = (*self.seen(dir), *self.seen(dir.opposite()));
        let has = |flag| tcp.flags.contains(flag);
        let (mut seq, mut ack, win) = (tcp.seq, tcp.ack, tcp.window);
        let mut end = segment_end(tcp, len);
        let opening = matches!(self.state, TcpState::SynSent | TcpState::SynRecv);
        if sender.maxwin == 0 {
            sender.end = end;
            sender.maxwin = win.max(1);
            if has(TcpFlags::SYN) {
                sender.maxend = end;
                if !has(TcpFlags::ACK) {
                    self.store(dir, sender, receiver);
                    return Window::In;
                }
            } else {
                sender.maxend = end.wrapping_add(sender.maxwin);
                if receiver.maxwin == 0 {
                    receiver.end = ack;
                    receiver.maxend = ack;
                } else if ack == receiver.end.wrapping_add(1) {
                    receiver.end = ack;
                }
            }
        } else if has(TcpFlags::SYN) && after(end, sender.end) && opening {
            // RFC 9293 3.4.3: a later SYN begins anew.
            sender.end = end;
            sender.maxend = end;
            sender.maxwin = win.max(1);
            if dir == Direction::Reply && !has(TcpFlags::ACK) {
                self.store(dir, sender, receiver);
                return Window::In;
            }
        }
        if !has(TcpFlags::ACK) || (has(TcpFlags::RST) && ack == 0) {
            ack = receiver.end;
        }
        if has(TcpFlags::RST) && seq == 0 && self.state == TcpState::SynSent {
            seq = sender.end;
            end = sender.end;
        }
        let liberal = sender.liberal || receiver.liberal || settings.tcp_be_liberal;
        let out = || if liberal { Window::In } else { Window::Out };
        if !before(seq, sender.maxend.wrapping_add(1)) || !before(ack, receiver.end.wrapping_add(1))
        {
            return out();
        }
        let floor = sender.end.wrapping_sub(receiver.maxwin).wrapping_sub(1);
        let in_receive_window = receiver.maxwin == 0 || after(end, floor);
        let oldest = receiver
            .end
            .wrapping_sub(sender.maxwin.max(66_000))
            .wrapping_sub(1);
        if !in_receive_window || !after(ack, oldest) {
            if liberal {
                return Window::In;
            }
            return if settings.delayed_are_invalid {
                Window::Out
            } else {
                Window::Stale
            };
        }
        sender.maxwin = sender.maxwin.max(win);
        if after(end, sender.end) {
            sender.end = end;
            sender.unacknowledged = true;
        }
        if has(TcpFlags::ACK) && sender.maxack.is_none_or(|old| after(ack, old)) {
            sender.maxack = Some(ack);
        }
        if receiver.maxwin != 0 && after(end, sender.maxend) {
            receiver.maxwin = receiver
                .maxwin
                .wrapping_add(end.wrapping_sub(sender.maxend));
        }
        if after(ack.wrapping_add(win), receiver.maxend.wrapping_sub(1)) {
            receiver.maxend = ack.wrapping_add(win).wrapping_add(u32::from(win == 0));
        }
        if ack == receiver.end {
            receiver.unacknowledged = false;
        }
        if kind == Kind::Ack {
            let again = self.last.is_some_and(|l| {
                (l.dir, l.seq, l.ack, l.end, l.window) == (dir, seq, ack, end, win)
            });
            self.retrans = if again {
                self.retrans.saturating_add(1)
            } else {
                0
            };
        }
        self.store(dir, sender, receiver);
        Window::In
    }

    fn store(&mut self, dir: Direction, sender: Seen, receiver: Seen) {
        *self.seen_mut(dir) = sender;
        *self.seen_mut(dir.opposite()) = receiver;
    }
}

/// How a RST is judged.
enum Reset {
    /// Outside the window: an attack, or late.
    Invalid,
    /// Ends the connection.
    Close,
    /// May draw a challenge ACK: the state stays.
    Challenge,
    /// Answers a segment that was let through, or comes after the end: the window does not matter.
    InWindow,
}

fn seconds(secs: u32) -> Duration {
    Duration::from_secs(u64::from(secs))
}

impl Proto {
    /// Returns the state of a connection that begins with this packet; `None` if nothing can begin with it.
    pub(super) fn begin(packet: &Packet, settings: &CtSettings, now: Time) -> Option<Self> {
        use crate::wire::{Icmp, Transport};
        match packet.transport {
            Transport::Tcp(tcp) => {
                TcpTrack::new(&tcp, packet.payload.len(), settings).map(Self::Tcp)
            }
            Transport::Udp(_) => Some(Self::Udp {
                stream_from: now + Duration::from_secs(2),
            }),
            Transport::Sctp(sctp) => SctpTrack::begin(sctp.chunk).map(Self::Sctp),
            Transport::Icmp(Icmp::EchoRequest { .. }) => Some(Self::Icmp),
            Transport::Icmp(
                Icmp::EchoReply { .. }
                | Icmp::Error { .. }
                | Icmp::NeighbourSolicitation { .. }
                | Icmp::NeighbourAdvertisement { .. },
            ) => None,
        }
    }

    /// Takes one packet.
    #[expect(clippy::too_many_arguments, reason = "what the kernel's handlers get")]
    pub(super) fn packet(
        &mut self,
        packet: &Packet,
        dir: Direction,
        replied: bool,
        assured: &mut bool,
        fresh: bool,
        settings: &CtSettings,
        now: Time,
    ) -> Effect {
        use crate::base::Family;
        use crate::wire::Transport;
        match (self, packet.transport) {
            (Self::Tcp(track), Transport::Tcp(tcp)) => track.segment(
                &tcp,
                packet.payload.len(),
                dir,
                replied,
                assured,
                fresh,
                settings,
            ),
            (Self::Udp { stream_from }, _) => {
                if replied && now > *stream_from {
                    *assured = true;
                    Effect::Refresh(seconds(settings.udp_stream))
                } else {
                    Effect::Refresh(seconds(settings.udp))
                }
            }
            (Self::Icmp, _) => Effect::Refresh(seconds(match packet.family() {
                Family::V4 => settings.icmp,
                Family::V6 => settings.icmpv6,
            })),
            (Self::Sctp(track), Transport::Sctp(sctp)) => {
                let done = if fresh {
                    Some((true, false))
                } else {
                    track.chunk(dir, sctp.chunk)
                };
                let Some((refresh, established)) = done else {
                    return Effect::Invalid;
                };
                *assured |= established;
                if !refresh {
                    return Effect::Keep;
                }
                let timeout = settings
                    .sctp
                    .get(track.state as usize)
                    .copied()
                    .unwrap_or(0);
                Effect::Refresh(seconds(timeout))
            }
            (Self::Tcp(_) | Self::Sctp(_), _) => Effect::Invalid,
        }
    }

    /// Returns the name of the state as `conntrack -L` prints it, where the protocol has states.
    pub const fn state_name(&self) -> Option<&'static str> {
        match self {
            Self::Tcp(track) => Some(track.state.name()),
            Self::Sctp(track) => Some(track.state.name()),
            Self::Udp { .. } | Self::Icmp => None,
        }
    }
}
