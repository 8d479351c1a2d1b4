//! SCTP associations as seen from the middle (`nf_conntrack_proto_sctp.c`).
//!
//! # Fidelity
//! Verification tags have no field in packets here: a sender uses the right one as soon as the tracker has seen it
//! announced, and one that the tracker does not know is wrong (RFC 9260 §8.5). One chunk a packet.

use super::Direction;
use super::state::SctpState;
use crate::wire::SctpChunk;

/// What is known of an association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SctpTrack {
    /// State.
    pub state: SctpState,
    /// Whether the tag of each direction's packets is known: original, reply.
    tags: [bool; 2],
}

impl SctpTrack {
    /// Returns the association that begins with a chunk; `None` where none can (RFC 9260 §8.4).
    pub(super) const fn begin(chunk: SctpChunk) -> Option<Self> {
        use SctpChunk as C;
        let (state, tags) = match chunk {
            C::Init => (SctpState::Closed, [false, true]),
            C::ShutdownAck => (SctpState::ShutdownAckSent, [false, true]),
            C::Heartbeat => (SctpState::HeartbeatSent, [true, false]),
            C::HeartbeatAck => (SctpState::Closed, [true, true]),
            C::InitAck
            | C::CookieEcho
            | C::CookieAck
            | C::Data
            | C::Sack
            | C::Shutdown
            | C::ShutdownComplete
            | C::Abort => return None,
        };
        Some(Self { state, tags })
    }

    /// Takes a chunk of an association that is known; `None` where it does not belong. What is returned is whether
    /// the entry's time begins anew, and whether the association is established now.
    pub(super) fn chunk(&mut self, dir: Direction, chunk: SctpChunk) -> Option<(bool, bool)> {
        use SctpChunk as C;
        let (mine, other) = match dir {
            Direction::Original => (0, 1),
            Direction::Reply => (1, 0),
        };
        let known = self.tags.get(mine).copied().unwrap_or(false);
        match chunk {
            C::Init | C::ShutdownAck | C::Heartbeat | C::HeartbeatAck => {}
            C::InitAck
            | C::CookieEcho
            | C::CookieAck
            | C::Data
            | C::Sack
            | C::Shutdown
            | C::ShutdownComplete
            | C::Abort
                if known => {}
            C::InitAck
            | C::CookieEcho
            | C::CookieAck
            | C::Data
            | C::Sack
            | C::Shutdown
            | C::ShutdownComplete
            | C::Abort => return None,
        }
        let announces = matches!(chunk, C::Init | C::InitAck);
        let shows = matches!(chunk, C::Heartbeat | C::HeartbeatAck);
        if shows && let Some(tag) = self.tags.get_mut(mine) {
            *tag = true;
        }
        let old = self.state;
        let new = next(old, dir, chunk)?;
        if announces && let Some(tag) = self.tags.get_mut(other) {
            *tag = true;
        }
        self.state = new;
        // An INIT sent again must not keep the entry alive.
        let again = chunk == C::Init && old == SctpState::Closed && new == SctpState::Closed;
        let established = old != new && new == SctpState::Established;
        Some((!again, established))
    }
}

/// Returns the state after a chunk (`sctp_conntracks`).
const fn next(old: SctpState, dir: Direction, chunk: SctpChunk) -> Option<SctpState> {
    use Direction::{Original, Reply};
    use SctpChunk as C;
    use SctpState as S;
    Some(match (chunk, old, dir) {
        // Only heartbeats answer a heartbeat.
        (C::Heartbeat, S::HeartbeatSent, _) | (C::HeartbeatAck, S::HeartbeatSent, Original) => old,
        (C::HeartbeatAck, S::HeartbeatSent, Reply) => S::Established,
        (C::Data | C::Sack, ..) => old,
        (_, S::HeartbeatSent, Reply) => return None,
        (C::Init, S::HeartbeatSent, Original) => S::CookieWait,
        (C::ShutdownAck, S::HeartbeatSent, Original) => S::ShutdownAckSent,
        (_, S::HeartbeatSent, Original)
        | (C::Abort, ..)
        | (C::ShutdownComplete, S::ShutdownAckSent, _)
        | (C::Init, S::ShutdownSent | S::ShutdownRecd, Original) => S::Closed,
        (C::InitAck, S::Closed, Reply) => S::CookieWait,
        (C::CookieEcho, S::CookieWait, _) => S::CookieEchoed,
        (C::CookieAck, S::CookieEchoed, _) => S::Established,
        (C::Shutdown, S::Established, Original) => S::ShutdownSent,
        (C::Shutdown, S::Established, Reply) => S::ShutdownRecd,
        (C::ShutdownAck, S::ShutdownSent | S::ShutdownRecd, _) => S::ShutdownAckSent,
        (
            C::Init
            | C::InitAck
            | C::CookieEcho
            | C::CookieAck
            | C::Heartbeat
            | C::HeartbeatAck
            | C::Shutdown
            | C::ShutdownAck
            | C::ShutdownComplete,
            same,
            _,
        ) => same,
    })
}
