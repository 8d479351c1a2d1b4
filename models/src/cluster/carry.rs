//! A frame crosses a wire: how long it takes, and what may happen to it on the way.

use super::{Cluster, WireEnd, WireKind};
use crate::base::{Dice, Purpose, Ratio, Stream, Time};
use crate::wire::size::{ETHERNET_MIN, ETHERNET_OVERHEAD};
use crate::wire::{
    Action, Body, Code, Decider, DeciderKind, Frame, Head, Place, Recorder, Stage, Step,
};

/// What became of a frame put on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// It arrives there, then.
    Arrives {
        /// Device it arrives at.
        at: WireEnd,
        /// When its last bit is there.
        when: Time,
    },
    /// It never arrives.
    Lost(Code),
}

impl Cluster {
    /// Puts a frame on the wire behind `from`.
    ///
    /// A lane sends one frame at a time, in order; a frame waits until those before it are sent. Serialisation
    /// counts preamble, frame check sequence and inter-frame gap (IEEE 802.3).
    ///
    /// # Fidelity
    /// Queues in front of a wire have no limit, so nothing is tail-dropped.
    pub fn carry<D: Dice, R: Recorder>(
        &mut self,
        from: WireEnd,
        frame: &Frame,
        now: Time,
        dice: &mut D,
        recorder: &mut R,
    ) -> Carried {
        match self.try_carry(from, frame, now, dice) {
            Ok((at, when)) => Carried::Arrives { at, when },
            Err((code, decider)) => {
                if R::ENABLED {
                    let place = Place {
                        netns: Some(from.0),
                        dev: Some(from.1),
                        stage: Stage::Wire,
                    };
                    let packet = Some(Head::of_frame(frame));
                    let action = Action::Dropped { code };
                    recorder.record(
                        place,
                        Step {
                            packet,
                            action,
                            by: Some(decider),
                        },
                    );
                }
                Carried::Lost(code)
            }
        }
    }

    fn try_carry<D: Dice>(
        &mut self,
        from: WireEnd,
        frame: &Frame,
        now: Time,
        dice: &mut D,
    ) -> Result<(WireEnd, Time), (Code, Decider)> {
        let wire_says = |text: &str| Decider::new(DeciderKind::Wire, text);
        let unplugged = || (Code::DeviceDown, wire_says("no wire behind this device"));
        let (id, side) = self.wire_behind(from).ok_or_else(unplugged)?;
        let wire = self.wires.get_mut(id.0 as usize);
        let wire = wire.ok_or_else(unplugged)?;
        let to = wire
            .ends
            .get(usize::from(1 - side))
            .copied()
            .ok_or_else(unplugged)?;
        let lane = wire
            .lanes
            .get_mut(usize::from(side))
            .ok_or_else(unplugged)?;
        if !lane.up {
            return Err((Code::LinkDown, wire_says("the link is down")));
        }
        let mut pair = match wire.kind {
            WireKind::Underlay if !self.links.is_empty() => self.links.of(frame, to),
            WireKind::Underlay | WireKind::Veth => None,
        };
        // A pair's own loss, rate and MTU count once: towards the switch, or where a broadcast leaves it.
        let own = pair
            .as_mut()
            .filter(|_| side == TO_SWITCH || frame.dst.is_multicast());
        let (mut loss, mut key) = (lane.loss, u64::from(id.0) << 1 | u64::from(side));
        if let Some(pair) = &own
            && let Some(pairs) = pair.link.loss
        {
            (loss, key) = (pairs, pair.key);
        }
        if loss != Ratio::ZERO && dice.chance(Stream::new(Purpose::Loss, key), loss) {
            let text = format!("the link loses {loss} of its frames");
            return Err((Code::LinkLoss, Decider::new(DeciderKind::Wire, text)));
        }
        if let Some(mtu) = own.as_ref().and_then(|pair| pair.too_large(frame)) {
            let text = format!("the link between the two machines carries packets of {mtu} bytes");
            return Err((Code::MtuExceeded, Decider::new(DeciderKind::Wire, text)));
        }
        if wire.kind == WireKind::Underlay
            && let Body::Ip(packet) = &frame.body
            && let Some(acl) = self.acls.iter_mut().find(|acl| acl.matches(packet))
        {
            acl.touched += 1;
            let text = format!("underlay firewall rule {}", acl.id);
            return Err((Code::AclDenied, Decider::new(DeciderKind::Fault, text)));
        }
        if self
            .powered_off
            .get(to.0.0 as usize)
            .copied()
            .unwrap_or(true)
        {
            return Err((
                Code::NodeDown,
                wire_says("the machine at the other end is off"),
            ));
        }
        let start = lane.busy_until.max(now);
        let busy = lane.bandwidth.map_or(0, |rate| serialise(frame, rate));
        let sent = Time(start.0.saturating_add(busy));
        lane.busy_until = sent;
        lane.carried += 1;
        let Some(pair) = pair else {
            return Ok((to, sent + lane.latency));
        };
        let mut there = sent;
        if let (Some(rate), true) = (pair.link.bandwidth, side == TO_SWITCH) {
            let start = pair.busy_until.max(now);
            pair.busy_until = Time(start.0.saturating_add(serialise(frame, rate)));
            there = there.max(pair.busy_until);
        }
        let latency = match pair.link.latency {
            None => lane.latency,
            Some(whole) if side == TO_SWITCH => whole / 2,
            Some(whole) if frame.dst.is_multicast() => whole.saturating_sub(lane.latency),
            Some(whole) => whole.saturating_sub(whole / 2),
        };
        Ok((to, there + latency))
    }
}

/// The direction of an underlay's cable from the machine to the switch: the machine is its first end.
const TO_SWITCH: u8 = 0;

/// Returns for how many nanoseconds a frame occupies a wire of `rate` bits per second, rounded up.
fn serialise(frame: &Frame, rate: u64) -> u64 {
    let bytes = frame.len().max(ETHERNET_MIN) + ETHERNET_OVERHEAD;
    (u64::from(bytes) * 8 * 1_000_000_000).div_ceil(rate.max(1))
}
