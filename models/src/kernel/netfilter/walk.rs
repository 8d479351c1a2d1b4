//! How a packet goes through the rules of one hook: the reference, rule by rule, as the kernel does
//! (`ipt_do_table`, `xt_*.c`, `nf_nat_inet_fn`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::agent::{Agent, Ruling};
use super::chain::{
    AddrType, Chain, ChainPolicy, ConnmarkOp, CtStates, Hook, MarkMask, Match, NatRandom, NatRange,
    Not, PortEnd, PortRange, Probability, RejectWith, Rule, Table, Target,
};
use super::nft::{Lookup, Nft};
use super::stages::Stop;
use super::{Known, Live, NfVerdict, Rules, TableIndex, save};
use crate::base::{Dice, Family, FxIndexMap, Purpose, Ratio, Stream, hash};
use crate::kernel::conntrack::nat::NULL_BINDING;
use crate::kernel::conntrack::{Conntrack, CtInfo, Entry, Tracked};
use crate::kernel::{Cx, Netns, Skb};
use crate::wire::{
    Action, Code, Decider, DeciderKind, DevIndex, Icmp, L4, Manip, Packet, Payload, Place,
    Recorder, Stage, Step, TcpFlags, Transport,
};

/// One packet at one hook.
pub(super) struct Walk<'w, 'c, D, R> {
    /// The namespace; its filter and connection tracking are taken out of it for the time being.
    pub ns: &'w Netns,
    /// The rules of the packet's family.
    pub rules: &'w Rules,
    /// Lists and counters.
    pub live: &'w mut Live,
    /// Tables of nftables, if anybody has made any.
    pub nft: Option<&'w Nft>,
    /// Who else is asked, if anybody.
    pub agent: Option<&'w dyn Agent>,
    /// Connection tracking, where some rule needs it.
    pub ct: Option<&'w mut Conntrack>,
    /// Where we are.
    pub hook: Hook,
    /// The packet.
    pub skb: &'w mut Skb,
    /// Its states for `--ctstate`, once asked for; forgotten when a translation is chosen.
    pub states: Option<CtStates>,
    /// The world outside.
    pub cx: &'w mut Cx<'c, D, R>,
}

/// The table a packet goes through, with what was looked up in it beforehand.
#[derive(Clone, Copy)]
struct Within<'w> {
    table: Table,
    chains: &'w FxIndexMap<Arc<str>, Chain>,
    index: &'w TableIndex,
}

impl Within<'_> {
    fn is_empty(self, chain: u32) -> bool {
        let index = self.index.chains.get(chain as usize);
        index.is_none_or(|index| index.rules.is_empty())
    }
}

/// How the way through a chain ends.
pub(super) enum Flow {
    /// At its end, or by RETURN: the calling chain goes on.
    Back,
    /// With a verdict for the table.
    Accept,
    /// The packet ends here.
    End(Box<Ending>),
}

/// How a packet ends, and which rule did it. Rare, so behind a pointer: what goes on is handed up through every chain.
pub(super) struct Ending {
    pub verdict: NfVerdict,
    pub by: Option<Decider>,
}

impl Ending {
    pub(super) const fn new(verdict: NfVerdict, by: Option<Decider>) -> Self {
        Self { verdict, by }
    }

    const fn drop(code: Code) -> Self {
        Self::new(NfVerdict::Drop(code), None)
    }
}

impl<'w, D: Dice, R: Recorder> Walk<'w, '_, D, R> {
    /// Does everything that sits at the hook.
    pub(super) fn run(mut self) -> NfVerdict {
        match self.stages() {
            Ok(()) => NfVerdict::Accept,
            Err(ending) => self.end(*ending),
        }
    }

    fn stages(&mut self) -> Result<(), Box<Ending>> {
        let stops = match self.nft {
            None => self.hook.stops(),
            Some(nft) => nft.stops(self.rules.family, self.hook),
        };
        for (_, stop) in stops {
            match *stop {
                Stop::Table(table) => self.table(table)?,
                Stop::Track => self.track()?,
                Stop::Ask => self.ask()?,
                Stop::Nat(manip) => self.nat(manip)?,
                Stop::Confirm => self.confirm()?,
                Stop::Chain(place) => self.nft.map_or(Ok(()), |nft| self.nft_chain(nft, place))?,
            }
        }
        Ok(())
    }

    /// Asks the agent, if it sits here.
    fn ask(&mut self) -> Result<(), Box<Ending>> {
        let Some(agent) = self.agent.filter(|agent| agent.sits_at(self.hook)) else {
            return Ok(());
        };
        let place = self.place();
        let packet = &self.skb.packet;
        match agent.decide(packet, self.skb.ct_info) {
            Ruling::Silent => {}
            Ruling::Pass(reasons) => {
                for by in reasons {
                    self.cx
                        .step(place, || Step::about(packet, Action::Admitted).by(by));
                }
            }
            Ruling::NotEnforced(by) => {
                let action = Action::NotEnforced {
                    code: Code::NpNotEnforced,
                };
                self.cx.step(place, || Step::about(packet, action).by(by));
            }
            Ruling::Drop(code, by) => {
                return Err(Box::new(Ending::new(NfVerdict::Drop(code), Some(by))));
            }
        }
        Ok(())
    }

    /// Records how the packet ended.
    fn end(self, ending: Ending) -> NfVerdict {
        let place = self.place();
        let packet = &self.skb.packet;
        let family = packet.family();
        self.cx.step(place, || {
            let action = match ending.verdict {
                NfVerdict::Drop(code) => Action::Dropped { code },
                NfVerdict::Reject(with, code) => Action::Rejected {
                    code,
                    with: save::reject_name(with, family),
                },
                NfVerdict::Accept => Action::Note {
                    text: "accepted".to_owned(),
                },
            };
            let step = Step::about(packet, action);
            match ending.by {
                Some(by) => step.by(by),
                None => step,
            }
        });
        ending.verdict
    }

    pub(super) fn place(&self) -> Place {
        let (dev, stage) = match self.hook {
            Hook::Prerouting => (self.skb.in_dev, Stage::Prerouting),
            Hook::Input => (self.skb.in_dev, Stage::Input),
            Hook::Forward => (self.skb.in_dev, Stage::Forward),
            Hook::Output => (self.skb.out_dev, Stage::Output),
            Hook::Postrouting => (self.skb.out_dev, Stage::Postrouting),
        };
        self.ns.place(dev, stage)
    }

    // ---- rules ----

    /// Goes through the built-in chain of a table.
    fn table(&mut self, table: Table) -> Result<(), Box<Ending>> {
        let rules = self.rules;
        let index = rules.index.get(table as usize);
        let start = index.and_then(|index| index.hooks.get(self.hook as usize).copied().flatten());
        let Some(start) = start else {
            return Ok(());
        };
        let (Some(chains), Some(index)) = (rules.source.tables.get(&table), index) else {
            return Ok(());
        };
        let within = Within {
            table,
            chains: &chains.chains,
            index,
        };
        let Some((name, chain)) = within.chains.get_index(start as usize) else {
            return Ok(());
        };
        match self.chain(within, start) {
            Flow::Accept => Ok(()),
            Flow::End(ending) => Err(ending),
            Flow::Back if chain.policy == Some(ChainPolicy::Drop) => Err(Box::new(Ending::new(
                NfVerdict::Drop(Code::NfPolicyDrop),
                R::ENABLED.then(|| {
                    let text = format!("{} {name} policy DROP", table.name());
                    Decider::new(DeciderKind::ChainPolicy, text)
                }),
            ))),
            Flow::Back => Ok(()),
        }
    }

    /// Goes through one chain.
    fn chain(&mut self, within: Within<'w>, n: u32) -> Flow {
        let Some((name, chain)) = within.chains.get_index(n as usize) else {
            return Flow::Back;
        };
        let Some(index) = within.index.chains.get(n as usize) else {
            return Flow::Back;
        };
        let named = (n, &**name);
        match &index.dispatch {
            Some(dispatch) if !self.live.literal => {
                let port = first_ports(&self.skb.packet).map(|(_, dport)| dport);
                let port = port.map(|port| (l4_of(self.skb.packet.transport), port));
                let candidates = dispatch.candidates(self.skb.packet.dst, port);
                let tried = candidates.filter_map(|position| {
                    let at = position as usize;
                    Some((position, (chain.rules.get(at)?, index.rules.get(at)?)))
                });
                self.rules_of(within, named, chain.rules.len(), tried)
            }
            Some(_) | None => {
                let tried = (0..).zip(chain.rules.iter().zip(&index.rules));
                self.rules_of(within, named, chain.rules.len(), tried)
            }
        }
    }

    /// Tries rules of a chain that has `count` of them, each with its position.
    fn rules_of<'r>(
        &mut self,
        within: Within<'w>,
        (n, name): (u32, &str),
        count: usize,
        tried: impl Iterator<Item = (u32, (&'r Rule, &'r Known))>,
    ) -> Flow {
        let table = within.table;
        let quiet = !R::ENABLED && self.live.counters.is_none();
        let mut examined = u32::try_from(count).unwrap_or(u32::MAX);
        let mut flow = Flow::Back;
        for (position, (rule, known)) in tried {
            // Nobody looks whether it matches, and there is nothing to do in that chain.
            if quiet && known.idles && within.is_empty(known.jump) {
                continue;
            }
            if !self.matches(rule, known) {
                continue;
            }
            if let Some(counters) = &mut self.live.counters {
                let key = (self.rules.family, table, n, position);
                *counters.entry(key).or_insert(0) += 1;
            }
            let Some(target) = &rule.target else { continue };
            self.matched(table, name, rule, target);
            match self.target(within, name, rule, target, known.jump) {
                Some(Flow::Back) if matches!(target, Target::Jump(_)) => {}
                Some(end) => {
                    examined = position + 1;
                    flow = end;
                    break;
                }
                None => {}
            }
        }
        self.live.examined += u64::from(examined);
        let (place, packet) = (self.place(), &self.skb.packet);
        self.cx.step(place, || {
            let chain = format!("{} {name}", table.name());
            Step::about(
                packet,
                Action::Examined {
                    chain,
                    rules: examined,
                },
            )
        });
        flow
    }

    /// Records that a rule matched.
    fn matched(&mut self, table: Table, chain: &str, rule: &Rule, target: &Target) {
        let (place, packet) = (self.place(), &self.skb.packet);
        let family = self.rules.family;
        self.cx.step(place, || {
            let action = Action::Matched {
                chain: format!("{} {chain}", table.name()),
                target: save::target_text(target, family),
            };
            Step::about(packet, action).by(decider(chain, rule, family))
        });
    }

    /// Does what a rule says. `None` goes on with the next rule.
    fn target(
        &mut self,
        within: Within<'w>,
        chain: &str,
        rule: &Rule,
        target: &Target,
        jump: u32,
    ) -> Option<Flow> {
        let family = self.rules.family;
        let by = || R::ENABLED.then(|| decider(chain, rule, family));
        match target {
            Target::Accept => Some(Flow::Accept),
            Target::Drop => Some(Flow::End(Box::new(Ending::new(
                NfVerdict::Drop(rule.end_code()),
                by(),
            )))),
            Target::Reject(with) => Some(Flow::End(Box::new(Ending::new(
                self.reject(*with, rule),
                by(),
            )))),
            Target::Return => Some(Flow::Back),
            Target::Jump(_) | Target::Goto(_) => Some(self.chain(within, jump)),
            Target::Mark(mark) => {
                self.skb.mark = set_xmark(self.skb.mark, *mark);
                None
            }
            Target::Connmark(op) => {
                self.connmark(*op);
                None
            }
            Target::Dnat(range) => Some(self.set_up(Manip::Destination, range, None)),
            Target::Snat(range) => Some(self.set_up(Manip::Source, range, None)),
            Target::Masquerade { ports, random } => {
                self.skb.out_dev?;
                Some(self.masquerade(*ports, *random, rule.end_code()))
            }
            Target::Redirect { ports, random } => {
                let Some(to) = self.redirect_address() else {
                    return Some(Flow::End(Box::new(Ending::drop(rule.end_code()))));
                };
                let range = NatRange {
                    addrs: Some((to, to)),
                    ports: *ports,
                    random: *random,
                    persistent: false,
                };
                Some(self.set_up(Manip::Destination, &range, None))
            }
            Target::Notrack => {
                if self.skb.ct.is_none() {
                    self.skb.ct_info = CtInfo::Untracked;
                    self.states = None;
                }
                None
            }
            Target::Log { .. } => None,
            Target::Tcpmss(limit) => {
                self.clamp_mss(*limit);
                None
            }
        }
    }

    /// A TCP reset only answers TCP, and never answers a reset; errors never answer errors.
    fn reject(&self, with: RejectWith, rule: &Rule) -> NfVerdict {
        let code = rule.end_code();
        let answerable = match (with, self.skb.packet.transport) {
            (RejectWith::TcpReset, Transport::Tcp(tcp)) => !tcp.flags.contains(TcpFlags::RST),
            (RejectWith::TcpReset, _) | (_, Transport::Icmp(Icmp::Error { .. })) => false,
            (RejectWith::Icmp(_), _) => true,
        };
        if answerable {
            NfVerdict::Reject(with, code)
        } else {
            NfVerdict::Drop(code)
        }
    }

    fn redirect_address(&self) -> Option<IpAddr> {
        let family = self.rules.family;
        if self.hook == Hook::Output {
            return Some(match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
                Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
            });
        }
        let device = self.ns.device(self.skb.in_dev?)?;
        let mut addrs = device.addrs.iter().map(|a| a.net.addr());
        addrs.find(|a| Family::of(*a) == family)
    }

    fn clamp_mss(&mut self, limit: Option<u16>) {
        let mtu = |dev: Option<DevIndex>| dev.and_then(|d| self.ns.device(d)).map(|d| d.mtu);
        let headers = crate::wire::size::ip_header(self.rules.family) + 20;
        let smallest = [mtu(self.skb.in_dev), mtu(self.skb.out_dev)];
        let path = smallest.into_iter().flatten().min().unwrap_or(u32::MAX);
        let clamped = u16::try_from(path.saturating_sub(headers)).unwrap_or(u16::MAX);
        let limit = limit.unwrap_or(clamped);
        // A SYN without the option gets one, with what RFC 9293 §3.7.1 takes for granted.
        let granted = match self.rules.family {
            Family::V4 => 536,
            Family::V6 => 1220,
        };
        let empty = self.skb.packet.payload.is_empty();
        if let Transport::Tcp(tcp) = &mut self.skb.packet.transport {
            tcp.mss = match tcp.mss {
                Some(mss) => Some(mss.min(limit)),
                None if empty => Some(limit.min(granted)),
                None => None,
            };
        }
    }

    fn connmark(&mut self, op: ConnmarkOp) {
        let (Some(ct), Some(table)) = (self.skb.ct, &mut self.ct) else {
            return;
        };
        let old = table.get(ct).map_or(0, |entry| entry.mark);
        match op {
            ConnmarkOp::Set(mark) => table.set_mark(ct, set_xmark(old, mark)),
            ConnmarkOp::Save { nfmask, ctmask } => {
                table.set_mark(ct, (old & !ctmask) ^ (self.skb.mark & nfmask));
            }
            ConnmarkOp::Restore { nfmask, ctmask } => {
                self.skb.mark = (self.skb.mark & !nfmask) ^ (old & ctmask);
            }
        }
    }

    // ---- connection tracking and translation ----

    /// The conntrack hook.
    fn track(&mut self) -> Result<(), Box<Ending>> {
        let Some(table) = &mut self.ct else {
            return Ok(());
        };
        if self.skb.ct.is_some() {
            return Ok(());
        }
        // What came back over `lo` stays untracked.
        let tracked = if self.skb.ct_info == CtInfo::Untracked {
            Tracked::Untracked
        } else {
            table.track(&self.skb.packet, self.cx.now)
        };
        let info = match tracked {
            Tracked::Entry(ct, info) => {
                self.skb.ct = Some(ct);
                info
            }
            Tracked::Invalid => CtInfo::Invalid,
            Tracked::Untracked => CtInfo::Untracked,
            Tracked::Full => {
                let max = table.settings.max;
                return Err(Box::new(Ending::new(
                    NfVerdict::Drop(Code::CtTableFull),
                    R::ENABLED.then(|| {
                        let text = format!("net.netfilter.nf_conntrack_max = {max}");
                        Decider::new(DeciderKind::Sysctl, text)
                    }),
                )));
            }
        };
        self.skb.ct_info = info;
        self.states = None;
        let place = self.place();
        let (packet, by) = (&self.skb.packet, self.entry_decider());
        self.cx.step(place, || {
            let state = info.name().to_owned();
            let step = Step::about(packet, Action::Tracked { state });
            match by {
                Some(by) => step.by(by),
                None => step,
            }
        });
        Ok(())
    }

    fn entry(&self) -> Option<&Entry> {
        self.ct.as_ref()?.get(self.skb.ct?)
    }

    fn entry_decider(&self) -> Option<Decider> {
        if !R::ENABLED {
            return None;
        }
        let brief = self.entry()?.brief(self.cx.now);
        Some(Decider::new(DeciderKind::Conntrack, brief))
    }

    /// The nat hook: the first packet of a connection asks the rules, all are rewritten.
    fn nat(&mut self, manip: Manip) -> Result<(), Box<Ending>> {
        let Some(ct) = self.skb.ct else {
            return Ok(());
        };
        let info = self.skb.ct_info;
        // A reset that answers for a rule is related to a connection that is new (`nf_nat_inet_fn`).
        let error = matches!(self.skb.packet.transport, Transport::Icmp(_));
        let asks = ct.is_pending()
            && (info == CtInfo::New || (info.is_related() && !error))
            && self.entry().is_some_and(|entry| !entry.is_set_up(manip));
        if asks {
            self.look_up(manip)?;
            if self.set_up_with(manip, &NULL_BINDING, None).is_err() {
                return Err(Box::new(Ending::drop(Code::NatNoPort)));
            }
        }
        let Some(table) = &self.ct else {
            return Ok(());
        };
        if let Some(done) = table.translate(ct, info, manip, &mut self.skb.packet) {
            if let Payload::Vxlan(vxlan) = &mut self.skb.packet.payload
                && self.ns.release.translation_spoils_checksums()
            {
                // `udp_manip_pkt` reckons with the checksum of the packet inside.
                vxlan.wrong_checksum |= vxlan.offloaded;
            }
            let place = self.place();
            let (packet, by) = (&self.skb.packet, self.entry_decider());
            self.cx.step(place, || {
                let action = Action::Translated {
                    manip: done.manip,
                    from: done.from,
                    to: done.to,
                    undo: done.undo,
                };
                let step = Step::about(packet, action);
                match by {
                    Some(by) => step.by(by),
                    None => step,
                }
            });
        }
        Ok(())
    }

    /// The first packet of a connection asks for a translation, until there is one.
    fn look_up(&mut self, manip: Manip) -> Result<(), Box<Ending>> {
        let Some(nft) = self.nft else {
            return self.table(Table::Nat);
        };
        for (_, lookup) in nft.lookups(self.rules.family, self.hook) {
            match *lookup {
                Lookup::Iptables => self.table(Table::Nat)?,
                Lookup::Chain(place) => self.nft_chain(nft, place)?,
            }
            if self.entry().is_some_and(|entry| entry.is_set_up(manip)) {
                break;
            }
        }
        Ok(())
    }

    /// Chooses the address of the device the packet leaves by.
    pub(super) fn masquerade(
        &mut self,
        ports: Option<PortRange>,
        random: NatRandom,
        otherwise: Code,
    ) -> Flow {
        let Some(out) = self.skb.out_dev else {
            return Flow::Back;
        };
        if self.skb.packet.src.is_unspecified() {
            return Flow::Accept;
        }
        let next_hop = self.skb.next_hop.unwrap_or(self.skb.packet.dst);
        let source = self
            .ns
            .masquerade_source(out, next_hop, self.skb.packet.dst);
        let Some(source) = source else {
            return Flow::End(Box::new(Ending::drop(otherwise)));
        };
        let range = NatRange {
            addrs: Some((source, source)),
            ports,
            random,
            persistent: false,
        };
        self.set_up(Manip::Source, &range, Some(out))
    }

    /// A nat target: chooses the translation, and ends the table.
    pub(super) fn set_up(
        &mut self,
        manip: Manip,
        range: &NatRange,
        masquerade: Option<DevIndex>,
    ) -> Flow {
        match self.set_up_with(manip, range, masquerade) {
            Ok(()) => Flow::Accept,
            Err(ending) => Flow::End(ending),
        }
    }

    fn set_up_with(
        &mut self,
        manip: Manip,
        range: &NatRange,
        masquerade: Option<DevIndex>,
    ) -> Result<(), Box<Ending>> {
        let (Some(ct), Some(table)) = (self.skb.ct, &mut self.ct) else {
            return Ok(());
        };
        self.states = None;
        let stream = Stream::new(Purpose::NatPort, self.skb.packet.flow.0);
        let (now, dice) = (self.cx.now, &mut *self.cx.dice);
        table
            .set_up(ct, manip, range, masquerade, now, |n| dice.pick(stream, n))
            .map_err(|_| Box::new(Ending::drop(Code::NatNoPort)))
    }

    /// The packet has made it: its connection becomes real.
    fn confirm(&mut self) -> Result<(), Box<Ending>> {
        let (Some(ct), Some(table)) = (self.skb.ct, &mut self.ct) else {
            return Ok(());
        };
        if self.skb.ct_info.is_related() {
            return Ok(());
        }
        match table.confirm(ct, self.cx.now) {
            Some(lasting) => {
                self.skb.ct = Some(lasting);
                Ok(())
            }
            None => Err(Box::new(Ending::drop(Code::CtInsertClash))),
        }
    }

    // ---- matches ----

    /// Whether all conditions of a rule hold.
    fn matches(&mut self, rule: &Rule, known: &Known) -> bool {
        known.states.is_none_or(|wanted| {
            let found = self.ct_states();
            holds(Some(wanted), |wanted| wanted.intersects(found))
        }) && (!known.header || self.header(rule))
            && (!known.extensions || rule.matches.iter().all(|m| self.extension(m)))
    }

    /// Whether the conditions on addresses, interfaces and the protocol hold.
    fn header(&self, rule: &Rule) -> bool {
        let packet = &self.skb.packet;
        holds(rule.source, |net| net.contains(&packet.src))
            && holds(rule.destination, |net| net.contains(&packet.dst))
            && holds(rule.in_interface.as_ref().map(by_ref), |name| {
                self.is_device(self.skb.in_dev, name)
            })
            && holds(rule.out_interface.as_ref().map(by_ref), |name| {
                self.is_device(self.skb.out_dev, name)
            })
            && holds(rule.protocol, |l4| l4 == l4_of(packet.transport))
    }

    fn is_device(&self, dev: Option<DevIndex>, pattern: &str) -> bool {
        let name = dev
            .and_then(|dev| self.ns.device(dev))
            .map_or("", |device| &device.name);
        match pattern.strip_suffix('+') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        }
    }

    /// Whether a match extension holds.
    fn extension(&mut self, m: &Match) -> bool {
        match m {
            Match::Comment(_) | Match::Nfacct(_) => true,
            Match::RpFilter { loose, invert, .. } => self.has_path_back(*loose) != *invert,
            Match::Tcp {
                sport,
                dport,
                flags,
            } => match self.skb.packet.transport {
                Transport::Tcp(tcp) => {
                    self.ports(*sport, *dport)
                        && holds(*flags, |(mask, wanted)| tcp.flags.0 & mask == wanted)
                }
                Transport::Udp(_) | Transport::Sctp(_) | Transport::Icmp(_) => false,
            },
            Match::Udp { sport, dport } => {
                matches!(self.skb.packet.transport, Transport::Udp(_)) && self.ports(*sport, *dport)
            }
            Match::Sctp { sport, dport } => {
                matches!(self.skb.packet.transport, Transport::Sctp(_))
                    && self.ports(*sport, *dport)
            }
            Match::Icmp(wanted) => {
                let Some((kind, code)) = icmp_type(self.skb.packet.transport, self.rules.family)
                else {
                    return false;
                };
                holds(Some(*wanted), |(k, c)| {
                    k == kind && c.is_none_or(|c| c == code)
                })
            }
            Match::Multiport { end, ports } => {
                let Some((sport, dport)) = first_ports(&self.skb.packet) else {
                    return false;
                };
                let has = |port: u16| ports.value.iter().any(|range| range.contains(port));
                let found = match end {
                    PortEnd::Source => has(sport),
                    PortEnd::Destination => has(dport),
                    PortEnd::Either => has(sport) || has(dport),
                };
                found != ports.negated
            }
            Match::Mark(mark) => holds(Some(*mark), |m| self.skb.mark & m.mask == m.value),
            Match::Connmark(mark) => {
                let Some(entry) = self.entry() else {
                    return false;
                };
                holds(Some(*mark), |m| entry.mark & m.mask == m.value)
            }
            Match::CtState(states) => {
                let found = self.ct_states();
                holds(Some(*states), |wanted| wanted.intersects(found))
            }
            Match::CtOrigDstPort(port) => {
                let Some(entry) = self.entry() else {
                    return false;
                };
                // Where there are no ports the kernel compares what lies in their place: type and code.
                let dport = match (entry.original.l4, self.rules.family) {
                    (L4::Icmp, Family::V4) => 8 << 8,
                    (L4::Icmp, Family::V6) => 128 << 8,
                    (L4::Tcp | L4::Udp | L4::Sctp, _) => entry.original.dport,
                };
                holds(Some(*port), |range| range.contains(dport))
            }
            Match::CtOrigDst(net) => {
                let Some(entry) = self.entry() else {
                    return false;
                };
                holds(Some(*net), |net| net.contains(&entry.original.dst))
            }
            Match::AddrType { src, dst, limit_in } => {
                let only = if *limit_in { self.skb.in_dev } else { None };
                let packet = &self.skb.packet;
                holds(*src, |t| has_type(self.ns, packet.src, only, t))
                    && holds(*dst, |t| has_type(self.ns, packet.dst, only, t))
            }
            Match::Random(chance) => {
                let key = hash::combine(
                    self.skb.packet.flow.0,
                    hash::stable_hash(self.ns.name.as_bytes()),
                );
                let stream = Stream::new(Purpose::LoadBalance, key);
                let ratio = chance.value.ratio();
                self.cx.dice.chance(stream, ratio) != chance.negated
            }
            Match::Recent {
                name,
                op,
                seconds,
                reap,
            } => {
                let (src, now) = (self.skb.packet.src, self.cx.now);
                let found = self
                    .live
                    .recent
                    .ask(name, op.value, *seconds, *reap, src, now);
                found != op.negated
            }
            Match::Physdev {
                inn,
                out,
                is_bridged,
            } => {
                let skb = &self.skb;
                let bridged = skb.phys_in.is_some() && skb.phys_out.is_some();
                holds(inn.as_ref().map(by_ref), |name| {
                    self.is_device(skb.phys_in, name)
                }) && holds(out.as_ref().map(by_ref), |name| {
                    self.is_device(skb.phys_out, name)
                }) && holds(*is_bridged, |()| bridged)
            }
        }
    }

    /// Whether answers to the packet's source would leave by the device it came in by, or by any (`xt_rpfilter`).
    fn has_path_back(&self, loose: bool) -> bool {
        let dev = self.skb.in_dev;
        let back = || self.ns.route(self.skb.packet.src);
        dev == Some(DevIndex::LO)
            || back().is_ok_and(|hop| !hop.local && (loose || Some(hop.dev) == dev))
    }

    fn ports(&self, sport: Option<Not<PortRange>>, dport: Option<Not<PortRange>>) -> bool {
        first_ports(&self.skb.packet).is_some_and(|(s, d)| {
            holds(sport, |range| range.contains(s)) && holds(dport, |range| range.contains(d))
        })
    }

    /// Returns the packet's states as `--ctstate` sees them.
    fn ct_states(&mut self) -> CtStates {
        match self.states {
            Some(states) => states,
            None => *self.states.insert(self.find_states()),
        }
    }

    fn find_states(&self) -> CtStates {
        let state = match self.skb.ct_info {
            CtInfo::Untracked => CtStates::UNTRACKED,
            CtInfo::Invalid => CtStates::INVALID,
            CtInfo::New => CtStates::NEW,
            CtInfo::Established | CtInfo::EstablishedReply => CtStates::ESTABLISHED,
            CtInfo::Related | CtInfo::RelatedReply => CtStates::RELATED,
        };
        let Some(entry) = self.entry() else {
            return state;
        };
        let virtual_state = |manip, name| {
            if entry.is_translated(manip) {
                name
            } else {
                CtStates::default()
            }
        };
        state
            .or(virtual_state(Manip::Source, CtStates::SNAT))
            .or(virtual_state(Manip::Destination, CtStates::DNAT))
    }
}

/// Returns a packet's ports, unless it is a later fragment: those do not carry them.
pub(super) fn first_ports(packet: &Packet) -> Option<(u16, u16)> {
    let later = packet.fragment.is_some_and(|fragment| fragment.offset > 0);
    packet.ports().filter(|_| !later)
}

/// Whether a condition holds; one that is not given always does.
pub(super) fn holds<T>(wanted: Option<Not<T>>, test: impl FnOnce(T) -> bool) -> bool {
    wanted.is_none_or(|wanted| test(wanted.value) != wanted.negated)
}

fn by_ref(name: &Not<Arc<str>>) -> Not<&str> {
    Not {
        negated: name.negated,
        value: &name.value,
    }
}

fn decider(chain: &str, rule: &Rule, family: Family) -> Decider {
    let text = save::rule_line(chain, rule, family);
    Decider::new(DeciderKind::Rule, text).from(rule.origin)
}

const fn set_xmark(old: u32, mark: MarkMask) -> u32 {
    (old & !mark.mask) ^ mark.value
}

pub(super) const fn l4_of(transport: Transport) -> L4 {
    match transport {
        Transport::Tcp(_) => L4::Tcp,
        Transport::Udp(_) => L4::Udp,
        Transport::Sctp(_) => L4::Sctp,
        Transport::Icmp(_) => L4::Icmp,
    }
}

const fn icmp_type(transport: Transport, family: Family) -> Option<(u8, u8)> {
    let Transport::Icmp(icmp) = transport else {
        return None;
    };
    Some(match (icmp, family) {
        (Icmp::EchoRequest { .. }, Family::V4) => (8, 0),
        (Icmp::EchoRequest { .. }, Family::V6) => (128, 0),
        (Icmp::EchoReply { .. }, Family::V4) => (0, 0),
        (Icmp::EchoReply { .. }, Family::V6) => (129, 0),
        (Icmp::Error { kind, .. }, family) => kind.type_and_code(family),
        (Icmp::NeighbourSolicitation { .. }, _) => (135, 0),
        (Icmp::NeighbourAdvertisement { .. }, _) => (136, 0),
    })
}

impl PortRange {
    /// Whether the range holds a port.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl Probability {
    const ONE: u128 = 1 << 31;

    /// Returns what iptables stores for a chance written with ten decimals, as kube-proxy writes 1/n.
    pub fn one_of(n: u32) -> Self {
        const SCALE: u128 = 10_000_000_000;
        let n = u128::from(n.max(1));
        let written = (SCALE + n / 2) / n;
        let stored = (written * Self::ONE + SCALE / 2) / SCALE;
        Self(u32::try_from(stored).unwrap_or(1 << 31))
    }

    /// Returns the chance: exactly 1/n where the stored value is what kube-proxy's 1/n becomes, so that all
    /// endpoints of a Service are equally likely; else the stored value over 2^31.
    ///
    /// # Fidelity
    /// In the kernel the roundings of 1/n favour one endpoint over another by parts in a thousand million.
    pub fn ratio(self) -> Ratio {
        let stored = u128::from(self.0).min(Self::ONE);
        if stored == 0 {
            return Ratio::ZERO;
        }
        let n = (Self::ONE + stored / 2) / stored;
        // Beyond this, several n are stored alike.
        let whole = u32::try_from(n).is_ok_and(|n| n <= 32_768 && Self::one_of(n) == self);
        if whole {
            Ratio::new(1, n)
        } else {
            Ratio::new(stored, Self::ONE)
        }
    }
}

/// Whether an address is of a type, anywhere or on one device only (`xt_addrtype`).
fn has_type(ns: &Netns, addr: IpAddr, only: Option<DevIndex>, wanted: AddrType) -> bool {
    match addr {
        IpAddr::V4(_) => addr_type(ns, addr, only) == wanted,
        IpAddr::V6(v6) => has_type_v6(ns, v6, only, wanted),
    }
}

/// In IPv6 the types are no partition: a local address is unicast too.
fn has_type_v6(ns: &Netns, addr: Ipv6Addr, only: Option<DevIndex>, wanted: AddrType) -> bool {
    let ip = IpAddr::V6(addr);
    match wanted {
        AddrType::Unspec => addr.is_unspecified(),
        AddrType::Multicast => addr.is_multicast(),
        AddrType::Unicast => !addr.is_multicast() && !addr.is_unspecified(),
        AddrType::Local => addr_type(ns, ip, only) == AddrType::Local,
        AddrType::Unreachable => match only {
            Some(dev) => !ns.fib.leads_by(ip, dev),
            None => ns.route(ip).is_err(),
        },
        AddrType::Broadcast | AddrType::Anycast | AddrType::Blackhole | AddrType::Prohibit => false,
    }
}

/// Returns the type of an address, or what it is on one device only (`--limit-iface-in`).
fn addr_type(ns: &Netns, addr: IpAddr, only: Option<DevIndex>) -> AddrType {
    let kind = ns.addr_type(addr);
    let elsewhere = only.and_then(|dev| ns.device(dev)).is_some_and(|device| {
        kind == AddrType::Local && device.addrs.iter().all(|own| own.net.addr() != addr)
    });
    let other_link = kind == AddrType::Broadcast
        && only.is_some()
        && ns
            .fib
            .lookup_local(addr)
            .is_some_and(|route| route.dev != only);
    if elsewhere || other_link {
        AddrType::Unicast
    } else {
        kind
    }
}
