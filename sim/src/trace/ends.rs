//! How packets end: each one that is sent is delivered, dropped or refused, once. A packet is what a sender's socket or kernel has
//! sent; what flooding and fragmentation make of it are its copies, and each of these ends once. Pieces that are put together again
//! are one copy from then on; those that were flooded elsewhere end there.
//!
//! ARP is not counted: nobody sends it, and everybody hears it.

use std::net::IpAddr;

use podwire_models::base::{FxIndexMap, Time};
use podwire_models::wire::{Action, Code, Head, PacketId, Place, Step};

/// What is wrong about how packets end. Always a defect of podwire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndsError {
    /// One copy has two ends.
    #[error("packet {} ({head}) ended with {first} and, at {at}, with {again}", .packet.0)]
    Twice {
        /// Which packet.
        packet: PacketId,
        /// Its headers.
        head: String,
        /// How it had ended.
        first: Code,
        /// How it ended again.
        again: Code,
        /// When.
        at: Time,
    },
    /// It has no end.
    #[error("packet {}, sent at {at}, has not ended", .packet.0)]
    Never {
        /// Which packet.
        packet: PacketId,
        /// When it was sent.
        at: Time,
        /// By whom.
        place: Place,
    },
}

/// Packets on their way, and how the others have ended.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    open: FxIndexMap<PacketId, Open>,
    /// By number of the packet.
    ended: Vec<Option<Code>>,
    /// The packet of which a copy ended last, and when.
    latest: Option<(PacketId, Time)>,
    wrong: Option<EndsError>,
}

#[derive(Clone, Debug)]
struct Open {
    sent: Time,
    place: Place,
    /// How many copies have not ended.
    copies: u32,
    /// What was cut of it: itself, and the packets of tunnels that carry it.
    cuts: Vec<Cut>,
}

/// A whole that was cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    whole: Whole,
    pieces: u32,
}

/// What a whole and what is put together again have in common: nobody translates addresses of pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Whole {
    src: IpAddr,
    dst: IpAddr,
    len: u32,
}

impl Whole {
    const fn of(head: &Head) -> Option<Self> {
        match *head {
            Head::Ip { src, dst, len, .. } => Some(Self { src, dst, len }),
            Head::Arp { .. } => None,
        }
    }

    /// Whether another one is a piece of this.
    fn is_whole_of(&self, other: &Self) -> bool {
        (self.src, self.dst) == (other.src, other.dst) && self.len > other.len
    }
}

impl Open {
    /// A whole, or a piece of one, becomes more pieces.
    fn cut(&mut self, head: &Head, pieces: u32) {
        let Some(whole) = Whole::of(head) else { return };
        if let Some(cut) = self
            .cuts
            .iter_mut()
            .find(|cut| cut.whole.is_whole_of(&whole))
        {
            cut.pieces = (cut.pieces + pieces).saturating_sub(1);
        } else if let Some(cut) = self.cuts.iter_mut().find(|cut| cut.whole == whole) {
            cut.pieces = pieces;
        } else {
            self.cuts.push(Cut { whole, pieces });
        }
    }

    /// The pieces of a whole become one copy.
    fn put_together(&mut self, head: &Head) {
        let whole = Whole::of(head);
        let cut = self.cuts.iter().find(|cut| Some(cut.whole) == whole);
        let pieces = cut.map_or(self.copies, |cut| cut.pieces);
        self.copies = (self.copies + 1).saturating_sub(pieces).max(1);
    }
}

impl Ends {
    /// Takes note of a step.
    pub fn see(&mut self, at: Time, place: Place, step: &Step) {
        let Some(head) = &step.packet else { return };
        let packet = head.id();
        if matches!(head, Head::Arp { .. }) {
            // A tunnel's packet was sent, and a question comes out of it.
            self.end(packet, 1, Code::Ok);
            return;
        }
        match &step.action {
            Action::Sent => {
                // A tunnel sends the same packet once more, in another coat.
                let copies = 1;
                let open = Open {
                    sent: at,
                    place,
                    copies,
                    cuts: Vec::new(),
                };
                self.open.entry(packet).or_insert(open);
            }
            Action::Fragmented { pieces: more, .. } | Action::Flooded { ports: more } => {
                if let Some(open) = self.open.get_mut(&packet) {
                    if matches!(step.action, Action::Fragmented { .. }) {
                        open.cut(head, *more);
                    }
                    open.copies = (open.copies + more).saturating_sub(1);
                    if open.copies == 0 {
                        self.end(packet, 0, Code::Ok);
                    }
                }
            }
            Action::Reassembled => {
                // All pieces are there.
                if let Some(open) = self.open.get_mut(&packet) {
                    open.put_together(head);
                }
            }
            // Whoever gives up waiting gives up all pieces.
            Action::Dropped {
                code: code @ Code::FragmentLost,
            } => self.end(packet, u32::MAX, *code),
            // The error of a system call, and an answer, may tell the sender of an end that was.
            Action::Failed { .. } | Action::Answered { .. }
                if self.latest == Some((packet, at)) => {}
            Action::Failed { code, .. } => self.end(packet, 1, *code),
            Action::Answered { .. } => self.end(packet, 1, Code::Ok),
            Action::Dropped { code } | Action::Rejected { code, .. } => {
                self.must_end(at, head, *code);
            }
            Action::Delivered { .. } => self.must_end(at, head, Code::Ok),
            Action::Received
            | Action::Routed { .. }
            | Action::RoutedLocal
            | Action::Examined { .. }
            | Action::Matched { .. }
            | Action::Admitted
            | Action::NotEnforced { .. }
            | Action::Tracked { .. }
            | Action::Translated { .. }
            | Action::Resolving { .. }
            | Action::Resolved { .. }
            | Action::Switched { .. }
            | Action::Encapsulated { .. }
            | Action::Decapsulated { .. }
            | Action::Transmitted { .. }
            | Action::State { .. }
            | Action::App { .. }
            | Action::ProbeStarted { .. }
            | Action::ProbeEnded { .. }
            | Action::LoadCounted { .. }
            | Action::Changed { .. }
            | Action::FaultBegan { .. }
            | Action::FaultEnded { .. }
            | Action::Note { .. }
            | Action::Output { .. } => {}
        }
    }

    /// Copies of a packet end, if any are on their way.
    fn end(&mut self, packet: PacketId, copies: u32, code: Code) {
        let Some(open) = self.open.get_mut(&packet) else {
            return;
        };
        open.copies = open.copies.saturating_sub(copies);
        if open.copies == 0 {
            self.open.swap_remove(&packet);
            let place = usize::try_from(packet.0).unwrap_or(usize::MAX);
            if self.ended.len() <= place {
                self.ended.resize(place.saturating_add(1), None);
            }
            if let Some(ended) = self.ended.get_mut(place) {
                *ended = Some(code);
            }
        }
    }

    fn must_end(&mut self, at: Time, head: &Head, again: Code) {
        let packet = head.id();
        self.latest = Some((packet, at));
        if self.open.contains_key(&packet) {
            return self.end(packet, 1, again);
        }
        if self.wrong.is_some() {
            return;
        }
        let place = usize::try_from(packet.0).unwrap_or(usize::MAX);
        // Of a packet that could not be sent there is nothing to know.
        if let Some(first) = self.ended.get(place).copied().flatten() {
            self.wrong = Some(EndsError::Twice {
                packet,
                head: head.to_string(),
                first,
                again,
                at,
            });
        }
    }

    /// Returns whether some packet is on its way.
    pub fn waiting(&self) -> bool {
        !self.open.is_empty()
    }

    /// Returns the first packet with two ends.
    pub fn twice(&self) -> Option<&EndsError> {
        self.wrong.as_ref()
    }

    /// Returns the first packet that is still on its way.
    pub fn unfinished(&self) -> Option<EndsError> {
        let first = self.open.iter().min_by_key(|(packet, _)| **packet);
        first.map(|(packet, open)| EndsError::Never {
            packet: *packet,
            at: open.sent,
            place: open.place,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use podwire_models::wire::{Transport, Udp};

    fn about(action: Action) -> Step {
        let packet = Head::Ip {
            id: PacketId(7),
            src: "10.0.0.1".parse().unwrap(),
            dst: "10.0.0.2".parse().unwrap(),
            ttl: 64,
            len: 28,
            transport: Transport::Udp(Udp::default()),
            says: None,
        };
        Step {
            packet: Some(packet),
            action,
            by: None,
        }
    }

    fn seen(steps: Vec<Action>) -> Ends {
        let mut ends = Ends::default();
        for action in steps {
            ends.see(Time(1), Place::CLUSTER, &about(action));
        }
        ends
    }

    const fn dropped(code: Code) -> Action {
        Action::Dropped { code }
    }

    #[test]
    fn a_packet_without_an_end_is_noticed() {
        let ends = seen(vec![Action::Sent, Action::Received]);
        assert!(ends.waiting());
        let wrong = ends.unfinished().unwrap();
        assert_eq!(
            wrong.to_string(),
            format!("packet 7, sent at {}, has not ended", Time(1))
        );
        let ends = seen(vec![Action::Sent, dropped(Code::LinkDown)]);
        assert_eq!((ends.waiting(), ends.unfinished()), (false, None));
    }

    #[test]
    fn a_packet_with_two_ends_is_noticed() {
        let ends = seen(vec![
            Action::Sent,
            dropped(Code::LinkDown),
            dropped(Code::NodeDown),
        ]);
        let wrong = ends.twice().unwrap();
        assert!(
            matches!(
                wrong,
                EndsError::Twice {
                    first: Code::LinkDown,
                    again: Code::NodeDown,
                    ..
                }
            ),
            "{wrong}"
        );
    }

    #[test]
    fn each_copy_ends() {
        let flooded = |ends: usize| {
            let mut steps = vec![Action::Sent, Action::Flooded { ports: 3 }];
            steps.extend(vec![dropped(Code::NotForUs); ends]);
            seen(steps)
        };
        assert!(flooded(2).waiting());
        assert!(!flooded(3).waiting());
        assert_eq!(flooded(3).twice(), None);
        assert!(flooded(4).twice().is_some());
        let nowhere = seen(vec![Action::Sent, Action::Flooded { ports: 0 }]);
        assert!(!nowhere.waiting());
    }

    #[test]
    fn pieces_end_together_or_each_for_itself() {
        let cut = Action::Fragmented {
            pieces: 3,
            mtu: 576,
        };
        let whole = seen(vec![
            Action::Sent,
            cut.clone(),
            Action::Reassembled,
            dropped(Code::NfDrop),
        ]);
        assert!(!whole.waiting() && whole.twice().is_none());
        let lost = seen(vec![
            Action::Sent,
            cut,
            dropped(Code::LinkLoss),
            dropped(Code::FragmentLost),
        ]);
        assert!(!lost.waiting() && lost.twice().is_none());
    }

    #[test]
    fn pieces_that_were_flooded_end_elsewhere_too() {
        let flooded = |ends: usize| {
            let cut = Action::Fragmented {
                pieces: 3,
                mtu: 576,
            };
            let mut steps = vec![Action::Sent, cut];
            steps.extend(vec![Action::Flooded { ports: 2 }; 3]);
            steps.extend([Action::Reassembled, dropped(Code::NfDrop)]);
            steps.extend(vec![dropped(Code::NotForUs); ends]);
            seen(steps)
        };
        assert!(flooded(2).waiting());
        assert!(!flooded(3).waiting());
        assert_eq!(flooded(3).twice(), None);
        assert!(flooded(4).twice().is_some());
    }

    #[test]
    fn who_refuses_a_piece_may_tell() {
        let answer = Head::Arp {
            id: PacketId(8),
            op: podwire_models::wire::ArpOp::Reply,
            sender: "10.0.0.2".parse().unwrap(),
            sender_mac: podwire_models::base::Mac::default(),
            target: "10.0.0.1".parse().unwrap(),
        };
        let refused = || Action::Rejected {
            code: Code::RouteNone,
            with: String::new(),
        };
        let mut ends = seen(vec![
            Action::Sent,
            Action::Fragmented {
                pieces: 2,
                mtu: 576,
            },
        ]);
        for _ in 0..2 {
            for action in [
                refused(),
                Action::Answered {
                    with: answer.clone(),
                },
            ] {
                ends.see(Time(9), Place::CLUSTER, &about(action));
            }
        }
        assert!(!ends.waiting() && ends.twice().is_none());
    }

    #[test]
    fn who_drops_may_tell() {
        let told = seen(vec![
            Action::Sent,
            dropped(Code::NfDrop),
            Action::Failed {
                code: Code::NfDrop,
                errno: podwire_models::base::Errno::EPERM,
            },
        ]);
        assert!(!told.waiting() && told.twice().is_none());
    }
}
