//! How a packet goes through a base chain (`nft_do_chain`).
//!
//! No expression changes anything, so the rule that decides is found first, and what it says is done afterwards.

use std::net::IpAddr;

use super::super::chain::{AddrType, ChainPolicy, NatRandom, NatRange, PortRange};
use super::super::walk::{Ending, Flow, Walk, first_ports, holds, l4_of};
use super::super::{Live, NfVerdict};
use super::{Base, ChainRef, End, Nft, NftChain, NftMatch, NftRule, NftTable, NftVerdict, TableId};
use crate::base::{Dice, Errno, Mac};
use crate::kernel::{Cx, Netns};
use crate::wire::{
    Action, Body, Code, Decider, DeciderKind, DevIndex, Frame, Head, Manip, Packet, Place,
    Recorder, Stage, Step,
};

impl End {
    fn of<T>(self, (source, destination): (T, T)) -> T {
        match self {
            Self::Source => source,
            Self::Destination => destination,
        }
    }
}

/// What conditions look at.
struct Seen<'a> {
    ns: &'a Netns,
    packet: Option<&'a Packet>,
    /// Hardware addresses: source, destination.
    macs: Option<(Mac, Mac)>,
    inn: Option<DevIndex>,
    out: Option<DevIndex>,
}

impl Seen<'_> {
    fn holds(&self, condition: &NftMatch) -> bool {
        let addr = |end: End| self.packet.map(|packet| end.of((packet.src, packet.dst)));
        match condition {
            NftMatch::Address { end, net } => addr(*end).is_some_and(|addr| {
                addr.is_ipv4() == net.value.addr().is_ipv4()
                    && holds(Some(*net), |net| net.contains(&addr))
            }),
            NftMatch::Port { l4, end, ports } => {
                let packet = self.packet.filter(|p| l4_of(p.transport) == *l4);
                let port = packet.and_then(first_ports).map(|both| end.of(both));
                port.is_some_and(|port| holds(Some(*ports), |range| range.contains(port)))
            }
            NftMatch::Fib { end, kind } => addr(*end)
                .is_some_and(|addr| holds(Some(*kind), |kind| fib_type(self.ns, addr) == kind)),
            NftMatch::InDevice(name) => self.is_device(self.inn, &name.value) != name.negated,
            NftMatch::OutDevice(name) => self.is_device(self.out, &name.value) != name.negated,
            NftMatch::Ether { end, mac } => {
                let own = self.macs.map(|both| end.of(both));
                own.is_some_and(|own| holds(Some(*mac), |mac| mac == own))
            }
        }
    }

    fn is_device(&self, dev: Option<DevIndex>, pattern: &str) -> bool {
        let device = dev.and_then(|dev| self.ns.device(dev));
        let name = device.map_or("", |device| &device.name);
        match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        }
    }
}

/// Returns the type of an address (`nft_fib4_eval_type`, `nft_fib6_eval_type`): one, other than with `-m addrtype`.
fn fib_type(ns: &Netns, addr: IpAddr) -> AddrType {
    if addr.is_ipv4() {
        return ns.addr_type(addr);
    }
    match ns.route(addr) {
        _ if addr.is_multicast() => AddrType::Multicast,
        _ if addr.is_unspecified() => AddrType::Unspec,
        Ok(hop) if hop.local => AddrType::Local,
        Ok(_) => AddrType::Unicast,
        Err(Errno::EINVAL) => AddrType::Blackhole,
        Err(Errno::EACCES) => AddrType::Prohibit,
        Err(_) => AddrType::Unreachable,
    }
}

/// One way through the chains of a table.
struct Way<'a, 'c, D, R> {
    id: &'a TableId,
    table: &'a NftTable,
    seen: Seen<'a>,
    live: &'a mut Live,
    place: Place,
    /// What a trace calls the packet.
    head: Option<Head>,
    cx: &'a mut Cx<'c, D, R>,
}

impl<'a, D: Dice, R: Recorder> Way<'a, '_, D, R> {
    /// Returns the rule that decides, and the chain it is in; none if the end is reached.
    fn decider(&mut self, name: &'a str, chain: &'a NftChain) -> Option<(&'a str, &'a NftRule)> {
        let mut examined = 0;
        let mut decided = None;
        for rule in &chain.rules {
            examined += 1;
            if !rule.matches.iter().all(|m| self.seen.holds(m)) {
                continue;
            }
            self.matched(name, rule);
            let below = rule
                .leads_to()
                .and_then(|to| self.table.chains.get_key_value(to));
            match (&rule.verdict, below) {
                (NftVerdict::Return, _) => break,
                (NftVerdict::Jump(_) | NftVerdict::Goto(_), Some((to, chain))) => {
                    decided = self.decider(to, chain);
                    if decided.is_some() || matches!(rule.verdict, NftVerdict::Goto(_)) {
                        break;
                    }
                }
                (NftVerdict::Jump(_) | NftVerdict::Goto(_), None) => {}
                (
                    NftVerdict::Accept
                    | NftVerdict::Drop
                    | NftVerdict::Dnat { .. }
                    | NftVerdict::Masquerade,
                    _,
                ) => {
                    decided = Some((name, rule));
                    break;
                }
            }
        }
        self.live.examined += u64::from(examined);
        self.step(|id| Action::Examined {
            chain: format!("{id} {name}"),
            rules: examined,
        });
        decided
    }

    fn matched(&mut self, chain: &str, rule: &NftRule) {
        let by = || decider(self.id, chain, rule);
        let by = R::ENABLED.then(by);
        let head = self.head.clone();
        let id = self.id;
        self.cx.step(self.place, || Step {
            packet: head,
            action: Action::Matched {
                chain: format!("{id} {chain}"),
                target: rule.verdict.to_string(),
            },
            by,
        });
    }

    fn step(&mut self, action: impl FnOnce(&TableId) -> Action) {
        let (head, id) = (self.head.clone(), self.id);
        self.cx.step(self.place, || Step {
            packet: head,
            action: action(id),
            by: None,
        });
    }
}

fn decider(id: &TableId, chain: &str, rule: &NftRule) -> Decider {
    Decider::new(DeciderKind::Rule, format!("{id} {chain} {rule}"))
}

/// What becomes of a packet that no rule decided about.
fn policy<R: Recorder>(id: &TableId, chain: &str, base: Option<Base>) -> Result<(), Box<Ending>> {
    match base.map(|base| base.policy) {
        Some(ChainPolicy::Accept) | None => Ok(()),
        Some(ChainPolicy::Drop) => Err(Box::new(Ending::new(
            NfVerdict::Drop(Code::NfPolicyDrop),
            R::ENABLED.then(|| {
                let text = format!("{id} {chain} policy drop");
                Decider::new(DeciderKind::ChainPolicy, text)
            }),
        ))),
    }
}

impl Nft {
    fn chain(&self, place: ChainRef) -> Option<(&TableId, &NftTable, &str, &NftChain)> {
        let (id, table) = self.tables.get_index(place.table as usize)?;
        let (name, chain) = table.chains.get_index(place.chain as usize)?;
        Some((id, table, name, chain))
    }
}

impl<'w, D: Dice, R: Recorder> Walk<'w, '_, D, R> {
    /// Goes through a base chain.
    pub(in super::super) fn nft_chain(
        &mut self,
        nft: &'w Nft,
        place: ChainRef,
    ) -> Result<(), Box<Ending>> {
        let Some((id, table, name, chain)) = nft.chain(place) else {
            return Ok(());
        };
        let place = self.place();
        let head = R::ENABLED.then(|| Head::of(&self.skb.packet));
        let mut way = Way {
            id,
            table,
            seen: Seen {
                ns: self.ns,
                packet: Some(&self.skb.packet),
                macs: None,
                inn: self.skb.in_dev,
                out: self.skb.out_dev,
            },
            live: &mut *self.live,
            place,
            head,
            cx: &mut *self.cx,
        };
        let Some((chain, rule)) = way.decider(name, chain) else {
            return policy::<R>(id, name, chain.base);
        };
        let by = || R::ENABLED.then(|| decider(id, chain, rule));
        let flow = match &rule.verdict {
            NftVerdict::Drop => {
                let dropped = NfVerdict::Drop(Code::NfDrop);
                return Err(Box::new(Ending::new(dropped, by())));
            }
            NftVerdict::Dnat { addr, port } => {
                let range = NatRange {
                    addrs: Some((*addr, *addr)),
                    ports: port.map(PortRange::one),
                    random: NatRandom::No,
                    persistent: false,
                };
                self.set_up(Manip::Destination, &range, None)
            }
            NftVerdict::Masquerade => self.masquerade(None, NatRandom::No, Code::NfDrop),
            NftVerdict::Accept | NftVerdict::Return | NftVerdict::Jump(_) | NftVerdict::Goto(_) => {
                Flow::Accept
            }
        };
        match flow {
            Flow::End(ending) => Err(ending),
            Flow::Accept | Flow::Back => Ok(()),
        }
    }
}

impl Netns {
    /// What family `bridge` says about a frame that comes in by a port, which is where it ends if the answer is no.
    pub(in super::super::super) fn nft_admits<D: Dice, R: Recorder>(
        &mut self,
        port: DevIndex,
        frame: &Frame,
        cx: &mut Cx<'_, D, R>,
    ) -> bool {
        let has = |nft: &Nft| nft.of_bridges().next().is_some();
        let asked = self.netfilter.as_ref().and_then(|n| n.nft.as_deref());
        if !asked.is_some_and(has) {
            return true;
        }
        let Some(mut netfilter) = self.netfilter.take() else {
            return true;
        };
        let place = self.place(Some(port), Stage::Bridge);
        let ended = match &netfilter.nft {
            Some(nft) => bridge_chains(self, nft, &mut netfilter.live, (port, frame), place, cx),
            None => Ok(()),
        };
        self.netfilter = Some(netfilter);
        let Err(ending) = ended else { return true };
        if let NfVerdict::Drop(code) = ending.verdict {
            cx.step(place, || Step {
                packet: Some(Head::of_frame(frame)),
                action: Action::Dropped { code },
                by: ending.by,
            });
        }
        false
    }
}

fn bridge_chains<D: Dice, R: Recorder>(
    ns: &Netns,
    nft: &Nft,
    live: &mut Live,
    (port, frame): (DevIndex, &Frame),
    place: Place,
    cx: &mut Cx<'_, D, R>,
) -> Result<(), Box<Ending>> {
    for at in nft.of_bridges() {
        let Some((id, table, name, chain)) = nft.chain(at) else {
            continue;
        };
        let packet = match &frame.body {
            Body::Ip(packet) => Some(&**packet),
            Body::Arp(_) => None,
        };
        let mut way = Way {
            id,
            table,
            seen: Seen {
                ns,
                packet,
                macs: Some((frame.src, frame.dst)),
                inn: Some(port),
                out: None,
            },
            live: &mut *live,
            place,
            head: R::ENABLED.then(|| Head::of_frame(frame)),
            cx: &mut *cx,
        };
        match way.decider(name, chain) {
            None => policy::<R>(id, name, chain.base)?,
            Some((chain, rule)) if rule.verdict == NftVerdict::Drop => {
                let by = R::ENABLED.then(|| decider(id, chain, rule));
                let dropped = NfVerdict::Drop(Code::NfDrop);
                return Err(Box::new(Ending::new(dropped, by)));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
