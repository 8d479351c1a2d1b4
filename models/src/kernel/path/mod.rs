//! The order of stages a packet crosses, written as the netfilter diagram reads.
//!
//! ```text
//!  receive ─► bridge? ─► PREROUTING ─► routing ─┬─► INPUT ─► socket
//!                                               └─► FORWARD ─┐
//!  send ─► routing ─► OUTPUT ─► (re-routing) ────────────────┴─► POSTROUTING ─► neighbour ─► transmit
//! ```
//!
//! Reading order: [`input`] (from the device to the socket or to forwarding), [`output`] (from a socket or from
//! forwarding to the device), [`bridging`] (between ports of a bridge), [`arp`] (who has this address), [`icmp`]
//! (errors and answers the kernel makes).
//!
//! Leaves out: XFRM, tc, XDP, policy routing, multicast routing, IP options. Source: `net/ipv4/ip_input.c`,
//! `ip_forward.c`, `ip_output.c`, `net/bridge/br_input.c`, `br_netfilter_hooks.c`.

pub mod input;
pub mod output;
pub mod bridging;
pub mod arp;
pub mod icmp;

pub use icmp::IcmpState;

use super::netfilter::NfVerdict;
use super::netfilter::chain::Hook;
use super::{Cx, KernelTimer, Netns, Skb};
use crate::base::{Dice, Errno};
use crate::wire::{
    Action, Code, Decider, DeciderKind, DevIndex, Frame, Head, Packet, Recorder, Stage, Step,
};

/// What a hook's rules said about a packet, once a refusal has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filtered {
    /// Goes on.
    Passes,
    /// Ended here.
    Ended(Code),
}

impl Netns {
    /// Runs what sits at a hook, which records its own steps; a refusal is answered.
    pub(super) fn filter<D: Dice, R: Recorder>(
        &mut self,
        hook: Hook,
        skb: &mut Skb,
        cx: &mut Cx<'_, D, R>,
    ) -> Filtered {
        if self.netfilter.is_none() {
            return Filtered::Passes;
        }
        match self.run_hook(hook, skb, cx) {
            NfVerdict::Accept => Filtered::Passes,
            NfVerdict::Drop(code) => Filtered::Ended(code),
            NfVerdict::Reject(with, code) => {
                self.refuse(skb, with, cx);
                Filtered::Ended(code)
            }
        }
    }

    /// Reports the silent end of a packet.
    pub(super) fn drop_packet<D: Dice, R: Recorder>(
        &self,
        packet: &Packet,
        dev: Option<DevIndex>,
        stage: Stage,
        code: Code,
        by: Option<Decider>,
        cx: &mut Cx<'_, D, R>,
    ) {
        cx.step(self.place(dev, stage), || Step {
            packet: Some(Head::of(packet)),
            action: Action::Dropped { code },
            by,
        });
    }

    /// Reports the silent end of a frame.
    pub(super) fn drop_frame<D: Dice, R: Recorder>(
        &self,
        frame: &Frame,
        dev: DevIndex,
        stage: Stage,
        code: Code,
        cx: &mut Cx<'_, D, R>,
    ) {
        cx.step(self.place(Some(dev), stage), || Step {
            packet: Some(Head::of_frame(frame)),
            action: Action::Dropped { code },
            by: None,
        });
    }

    /// Reports that a system call fails.
    pub(super) fn fail<D: Dice, R: Recorder>(
        &self,
        packet: &Packet,
        code: Code,
        errno: Errno,
        by: Option<Decider>,
        cx: &mut Cx<'_, D, R>,
    ) -> Errno {
        cx.step(self.place(None, Stage::Socket), || Step {
            packet: Some(Head::of(packet)),
            action: Action::Failed { code, errno },
            by,
        });
        errno
    }

    /// Calls back a timer that this namespace asked for with [`super::Effect::Timer`].
    pub fn timer<D: Dice, R: Recorder>(&mut self, timer: KernelTimer, cx: &mut Cx<'_, D, R>) {
        match timer {
            KernelTimer::NeighbourProbe {
                dev,
                addr,
                generation,
            } => {
                self.neighbour_timer(dev, addr, generation, cx);
            }
            KernelTimer::Reassembly { src, dst, ident } => {
                self.reassembly_timer((src, dst, ident), cx);
            }
        }
    }

    /// Everything that waits here ends: the machine is switched off, or the namespace goes.
    pub fn lose_waiting<D: Dice, R: Recorder>(&mut self, code: Code, cx: &mut Cx<'_, D, R>) {
        self.lose_unresolved(None, code, cx);
        self.lose_pieces(cx);
    }

    /// What waits for a neighbour behind a device ends: the device goes.
    pub fn lose_behind<D: Dice, R: Recorder>(
        &mut self,
        dev: DevIndex,
        code: Code,
        cx: &mut Cx<'_, D, R>,
    ) {
        self.lose_unresolved(Some(dev), code, cx);
    }

    /// Returns the setting that decided, for a trace.
    pub(super) fn sysctl_says(name: &str, value: i64) -> Decider {
        Decider::new(DeciderKind::Sysctl, format!("{name} = {value}"))
    }
}
