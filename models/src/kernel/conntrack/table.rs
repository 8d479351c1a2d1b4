//! The table of connections: a slab of entries, found by either of their tuples (`nf_conntrack_core.c`).
//!
//! There are no timers: an entry whose time is up is treated as absent by whoever meets it, and is swept when the
//! table is full (`full.rs`). A first packet's entry waits in a single pending place until the packet leaves the namespace or
//! reaches a socket; a packet that is dropped before leaves nothing.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Duration;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use super::full::Chains;
use super::state::{CtSettings, Effect, Proto};
use super::{CtInfo, CtRef, Direction};
use crate::base::{Family, FxIndexMap, Time, hash};
use crate::kernel::release::{ClashResolution, Release};
use crate::wire::{DevIndex, FiveTuple, Icmp, L4, Manip, Packet, TcpFlags, Transport};

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The tuple of its first packet, before any translation.
    pub original: FiveTuple,
    /// The tuple its answers have on the wire.
    pub reply: FiveTuple,
    /// State of its protocol.
    pub proto: Proto,
    /// When it ends, unless refreshed.
    pub expires: Time,
    /// Mark of the connection (`CONNMARK`).
    pub mark: u32,
    /// Whether an answer was seen.
    pub replied: bool,
    /// ASSURED: never evicted early.
    pub assured: bool,
    /// Found by its answers only, and never refreshed (`IPS_NAT_CLASH`).
    pub(super) clashed: bool,
    /// What translation was set up.
    pub(super) nat: Nat,
    /// Device a masquerading translation took its address from.
    pub(super) masquerade: Option<DevIndex>,
}

/// Translation of an entry (`IPS_*_NAT`, `IPS_*_NAT_DONE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "status bits of the kernel")]
pub(super) struct Nat {
    /// The rules for the source were consulted.
    pub src_done: bool,
    /// The rules for the destination were consulted.
    pub dst_done: bool,
    /// The source is translated.
    pub src: bool,
    /// The destination is translated.
    pub dst: bool,
}

impl Entry {
    /// Returns the tuple of one direction.
    pub const fn tuple(&self, dir: Direction) -> FiveTuple {
        match dir {
            Direction::Original => self.original,
            Direction::Reply => self.reply,
        }
    }

    /// Whether the rules for this end were consulted.
    pub const fn is_set_up(&self, manip: Manip) -> bool {
        match manip {
            Manip::Source => self.nat.src_done,
            Manip::Destination => self.nat.dst_done,
        }
    }

    /// Whether this end is translated.
    pub const fn is_translated(&self, manip: Manip) -> bool {
        match manip {
            Manip::Source => self.nat.src,
            Manip::Destination => self.nat.dst,
        }
    }
}

/// Counters of the table (`conntrack -S`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CtStats {
    /// Packets that could not be attached.
    pub invalid: u64,
    /// Entries inserted.
    pub insert: u64,
    /// Entries that could not be inserted because a tuple was taken.
    pub insert_failed: u64,
    /// Clashes that were resolved.
    pub clash_resolve: u64,
    /// Packets dropped because the table was full.
    pub drop: u64,
    /// Entries evicted to make room.
    pub early_drop: u64,
}

#[derive(Clone, Debug)]
struct Slot {
    generation: u32,
    entry: Option<Entry>,
}

impl Slot {
    fn has(&self, tuple: &FiveTuple, dir: Direction) -> bool {
        self.entry
            .as_ref()
            .is_some_and(|entry| entry.tuple(dir) == *tuple)
    }
}

/// Which slot a tuple leads to, and in which direction. The tuples themselves are in the slots alone, so that a look-up
/// reads the memory that is needed next in any case.
#[derive(Clone, Debug, Default)]
struct Index(HashTable<(u32, Direction)>);

impl Index {
    fn hash(tuple: &FiveTuple) -> u64 {
        FxBuildHasher.hash_one(tuple)
    }

    fn get(&self, tuple: &FiveTuple, slots: &[Slot]) -> Option<(u32, Direction)> {
        let is_it = |(slot, dir): &(u32, Direction)| {
            let place = slots.get(*slot as usize);
            place.is_some_and(|place| place.has(tuple, *dir))
        };
        self.0.find(Self::hash(tuple), is_it).copied()
    }

    /// Leads the tuple of an entry in its slot there.
    fn insert(&mut self, tuple: &FiveTuple, to: (u32, Direction), slots: &[Slot]) {
        let hash = |(slot, dir): &(u32, Direction)| {
            let entry = slots.get(*slot as usize).and_then(|at| at.entry.as_ref());
            entry.map_or(0, |entry| Self::hash(&entry.tuple(*dir)))
        };
        self.0.insert_unique(Self::hash(tuple), to, hash);
    }

    /// Forgets that a tuple leads there; it may never have done so.
    fn remove(&mut self, tuple: &FiveTuple, to: (u32, Direction)) {
        if let Ok(found) = self.0.find_entry(Self::hash(tuple), |other| *other == to) {
            found.remove();
        }
    }
}

/// Connection tracking table.
#[derive(Clone, Debug)]
pub struct Conntrack {
    /// Settings.
    pub settings: CtSettings,
    /// Counters.
    pub stats: CtStats,
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: Index,
    /// Connections whose source is translated, by that source, the oldest first (`nf_nat_bysource`).
    sources: FxIndexMap<(L4, IpAddr, u16), Vec<u32>>,
    /// The unconfirmed entry of the packet being processed, or the one it just ended.
    pending: Option<Entry>,
    pending_generation: u32,
    /// Whether the pending entry has ended: it must not be inserted again.
    pending_ended: bool,
    /// No entry ends before this moment.
    earliest: Time,
    /// The hash chains, once somebody had to know them.
    pub(super) chains: Option<Chains>,
    /// When entries that can go are collected, if a packet was dropped for want of room.
    pub(super) collects_at: Option<Time>,
    /// What becomes of a packet whose entry is there already when it is to be inserted.
    pub(in crate::kernel) clashes: ClashResolution,
    /// Packets that come at one moment do not see each other's entries; how many of them have clashed so far.
    race: Option<Box<Race>>,
}

/// Two processors work on what comes in at one moment: neither finds what the other has not inserted yet.
#[derive(Clone, Debug, Default)]
struct Race {
    /// The moment.
    at: Time,
    /// Entries inserted at this moment.
    fresh: Vec<u32>,
    /// How many packets found a tuple taken when theirs was to be inserted.
    clashes: u64,
}

impl Default for Conntrack {
    fn default() -> Self {
        Self::new(CtSettings::default())
    }
}

/// What tracking says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracked {
    /// It belongs to an entry.
    Entry(CtRef, CtInfo),
    /// It belongs to none, and cannot begin one.
    Invalid,
    /// It is not tracked at all (neighbour discovery).
    Untracked,
    /// There is no room for its entry: it must be dropped.
    Full,
}

const fn source_of(tuple: &FiveTuple) -> (L4, IpAddr, u16) {
    (tuple.l4, tuple.src, tuple.sport)
}

/// Whether some TCP sends segments with these flags (`tcp_valid_flags` of `nf_conntrack_proto_tcp.c`).
const fn tcp_flags_make_sense(flags: TcpFlags) -> bool {
    let (fin, syn, rst) = (TcpFlags::FIN.0, TcpFlags::SYN.0, TcpFlags::RST.0);
    let (ack, urg) = (TcpFlags::ACK.0, TcpFlags::URG.0);
    let bits = flags.0 & (fin | syn | rst | ack | urg);
    bits == syn
        || bits == syn | urg
        || bits == syn | ack
        || bits == rst
        || bits == rst | ack
        || bits == fin | ack
        || bits == fin | ack | urg
        || bits == ack
        || bits == ack | urg
}

fn senseless(packet: &Packet) -> bool {
    packet.payload.has_wrong_checksum()
        || matches!(packet.transport, Transport::Tcp(tcp) if !tcp_flags_make_sense(tcp.flags))
}

impl Conntrack {
    /// Returns an empty table.
    pub fn new(settings: CtSettings) -> Self {
        Self {
            settings,
            stats: CtStats::default(),
            slots: Vec::new(),
            free: Vec::new(),
            index: Index::default(),
            sources: FxIndexMap::default(),
            pending: None,
            pending_generation: 0,
            pending_ended: false,
            earliest: Time::MAX,
            chains: None,
            collects_at: None,
            clashes: Release::CURRENT.clash_resolution(),
            race: None,
        }
    }

    /// Lets packets that come at one moment race, or no longer.
    pub fn set_racing(&mut self, racing: bool) {
        self.race = racing.then(Box::default);
    }

    /// Returns how many packets have clashed since the race began.
    pub fn raced(&self) -> u64 {
        self.race.as_ref().map_or(0, |race| race.clashes)
    }

    /// Whether an entry was inserted at this very moment by a packet that runs beside this one. Once it has been
    /// answered, whoever comes now comes later.
    fn is_unseen(&self, ct: CtRef, dir: Direction, now: Time) -> bool {
        let answered = self.get(ct).is_none_or(|entry| entry.replied);
        dir == Direction::Original
            && !answered
            && self
                .race
                .as_ref()
                .is_some_and(|race| race.at == now && race.fresh.contains(&ct.slot))
    }

    /// Returns how many entries there are; some of them may have ended unnoticed (`nf_conntrack_count`).
    pub const fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns an entry, confirmed or pending.
    pub fn get(&self, ct: CtRef) -> Option<&Entry> {
        if ct.is_pending() {
            return self
                .pending
                .as_ref()
                .filter(|_| ct.generation == self.pending_generation);
        }
        self.slots
            .get(ct.slot as usize)
            .filter(|slot| slot.generation == ct.generation)
            .and_then(|slot| slot.entry.as_ref())
    }

    /// Returns an entry, to change what does not name it.
    pub(super) fn get_mut(&mut self, ct: CtRef) -> Option<&mut Entry> {
        if ct.is_pending() {
            let current = self.pending_generation;
            return self.pending.as_mut().filter(|_| ct.generation == current);
        }
        self.slots
            .get_mut(ct.slot as usize)
            .filter(|slot| slot.generation == ct.generation)
            .and_then(|slot| slot.entry.as_mut())
    }

    /// Sets the mark of a connection.
    pub(in crate::kernel) fn set_mark(&mut self, ct: CtRef, mark: u32) {
        if let Some(entry) = self.get_mut(ct) {
            entry.mark = mark;
        }
    }

    /// Returns the entries that have not ended, in the order of their places.
    pub fn iter(&self, now: Time) -> impl Iterator<Item = &Entry> {
        self.slots
            .iter()
            .filter_map(|slot| slot.entry.as_ref())
            .filter(move |entry| entry.expires > now && !entry.clashed)
    }

    /// Returns the entry and direction a tuple belongs to; removes the entry if its time is up.
    pub fn lookup(&mut self, tuple: &FiveTuple, now: Time) -> Option<(CtRef, Direction)> {
        let (slot, dir) = self.index.get(tuple, &self.slots)?;
        let place = self.slots.get(slot as usize)?;
        let entry = place.entry.as_ref()?;
        if entry.expires > now {
            let generation = place.generation;
            Some((CtRef { slot, generation }, dir))
        } else {
            self.remove(slot);
            None
        }
    }

    /// Returns the translations that the source of a tuple has already, the newest first.
    pub(super) fn translations_of(&self, tuple: &FiveTuple, now: Time) -> Vec<(IpAddr, u16)> {
        let slots = self.sources.get(&source_of(tuple)).into_iter().flatten();
        let entries = slots
            .rev()
            .filter_map(|slot| self.slots.get(*slot as usize));
        let entries = entries.filter_map(|place| place.entry.as_ref());
        entries
            .filter(|entry| entry.expires > now)
            .map(|entry| (entry.reply.dst, entry.reply.dport))
            .collect()
    }

    /// Whether another connection's packets carry this tuple (`nf_conntrack_tuple_taken`). One with the same first tuple
    /// is this connection itself, of which another packet was faster.
    pub(super) fn is_taken(&mut self, tuple: &FiveTuple, but: CtRef, now: Time) -> bool {
        self.lookup(tuple, now).is_some_and(|(found, _)| {
            let original = |ct| self.get(ct).map(|entry| entry.original);
            found != but && original(found) != original(but)
        })
    }

    /// Attaches a packet to its connection, and begins one where it can (`nf_conntrack_in`).
    pub fn track(&mut self, packet: &Packet, now: Time) -> Tracked {
        match packet.transport {
            Transport::Icmp(Icmp::Error { about, .. }) => {
                let inverse = FiveTuple::of_quoted(&about).map(FiveTuple::reply);
                return match inverse.and_then(|tuple| self.lookup(&tuple, now)) {
                    Some((ct, Direction::Original)) => Tracked::Entry(ct, CtInfo::Related),
                    Some((ct, Direction::Reply)) => Tracked::Entry(ct, CtInfo::RelatedReply),
                    None => self.invalid(),
                };
            }
            Transport::Icmp(
                Icmp::NeighbourSolicitation { .. } | Icmp::NeighbourAdvertisement { .. },
            ) => return Tracked::Untracked,
            Transport::Icmp(Icmp::EchoRequest { .. } | Icmp::EchoReply { .. })
            | Transport::Tcp(_)
            | Transport::Udp(_)
            | Transport::Sctp(_) => {}
        }
        let Some(tuple) = FiveTuple::of(packet) else {
            return Tracked::Untracked;
        };
        match self.lookup(&tuple, now) {
            Some(_) if senseless(packet) => self.invalid(),
            Some((ct, dir)) if !self.is_unseen(ct, dir, now) => {
                self.continued(ct, dir, packet, now)
            }
            Some(_) | None => self.begun(tuple, packet, now),
        }
    }

    fn invalid(&mut self) -> Tracked {
        self.stats.invalid += 1;
        Tracked::Invalid
    }

    fn continued(&mut self, ct: CtRef, dir: Direction, packet: &Packet, now: Time) -> Tracked {
        let Some(slot) = self.slots.get_mut(ct.slot as usize) else {
            return Tracked::Untracked;
        };
        let Some(entry) = slot.entry.as_mut() else {
            return Tracked::Untracked;
        };
        let replied = entry.replied;
        let seen = replied || dir == Direction::Reply;
        // The kernel notes the answer after TCP has looked at it, and before UDP does.
        let handler_sees = match entry.proto {
            Proto::Tcp(_) => replied,
            Proto::Udp { .. } | Proto::Icmp | Proto::Sctp(_) => seen,
        };
        let effect = entry.proto.packet(
            packet,
            dir,
            handler_sees,
            &mut entry.assured,
            false,
            &self.settings,
            now,
        );
        let info = match (dir, seen) {
            (Direction::Reply, _) => CtInfo::EstablishedReply,
            (Direction::Original, true) => CtInfo::Established,
            (Direction::Original, false) => CtInfo::New,
        };
        match effect {
            Effect::Refresh(_) if entry.clashed => {
                (entry.assured, entry.replied) = (false, seen);
                Tracked::Entry(ct, info)
            }
            Effect::Refresh(timeout) => {
                entry.expires = now + timeout;
                entry.replied = seen;
                self.earliest = self.earliest.min(entry.expires);
                Tracked::Entry(ct, info)
            }
            Effect::Keep => {
                entry.replied = seen;
                Tracked::Entry(ct, info)
            }
            Effect::Invalid => self.invalid(),
            Effect::Kill => {
                let mut ended = entry.clone();
                ended.replied = seen;
                self.remove(ct.slot);
                let name = self.put_pending(ended);
                self.pending_ended = true;
                Tracked::Entry(name, info)
            }
            Effect::Reopen => {
                self.remove(ct.slot);
                match FiveTuple::of(packet) {
                    Some(tuple) => self.begun(tuple, packet, now),
                    None => Tracked::Untracked,
                }
            }
        }
    }

    fn begun(&mut self, tuple: FiveTuple, packet: &Packet, now: Time) -> Tracked {
        // Memory is asked for first: what could begin nothing is dropped, too, and evicts others.
        if !self.make_room(&tuple, now) {
            self.stats.drop += 1;
            return Tracked::Full;
        }
        if senseless(packet) {
            return self.invalid();
        }
        let Some(mut proto) = Proto::begin(packet, &self.settings, now) else {
            return self.invalid();
        };
        let (dir, mut assured) = (Direction::Original, false);
        let effect = proto.packet(packet, dir, false, &mut assured, true, &self.settings, now);
        let Effect::Refresh(timeout) = effect else {
            return self.invalid();
        };
        let entry = Entry {
            original: tuple,
            reply: tuple.reply(),
            proto,
            expires: now + timeout,
            mark: 0,
            replied: false,
            assured: false,
            clashed: false,
            nat: Nat::default(),
            masquerade: None,
        };
        Tracked::Entry(self.put_pending(entry), CtInfo::New)
    }

    fn put_pending(&mut self, entry: Entry) -> CtRef {
        self.pending = Some(entry);
        self.pending_ended = false;
        self.pending_generation = self.pending_generation.wrapping_add(1);
        CtRef {
            slot: CtRef::PENDING,
            generation: self.pending_generation,
        }
    }

    /// Whether the time of an entry may be up.
    pub(super) fn may_have_ended(&self, now: Time) -> bool {
        self.earliest <= now
    }

    /// Returns the entry at a place.
    pub(super) fn place(&self, slot: u32) -> Option<&Entry> {
        self.slots.get(slot as usize)?.entry.as_ref()
    }

    /// Returns every entry with its place.
    pub(super) fn places(&self) -> impl Iterator<Item = (u32, &Entry)> {
        let all = (0..).zip(&self.slots);
        all.filter_map(|(n, slot)| slot.entry.as_ref().map(|entry| (n, entry)))
    }

    /// Removes every entry whose time is up.
    pub fn sweep(&mut self, now: Time) {
        self.remove_where(|entry| entry.expires <= now);
        let each = self.slots.iter().filter_map(|slot| slot.entry.as_ref());
        self.earliest = each.map(|entry| entry.expires).min().unwrap_or(Time::MAX);
    }

    /// Removes the entries that `condition` holds for, and returns how many.
    pub(super) fn remove_where(&mut self, condition: impl Fn(&Entry) -> bool) -> usize {
        let doomed: Vec<u32> = (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.entry.as_ref().is_some_and(&condition))
            .map(|(n, _)| n)
            .collect();
        for slot in &doomed {
            self.remove(*slot);
        }
        doomed.len()
    }

    pub(super) fn remove(&mut self, slot: u32) {
        let Some(place) = self.slots.get_mut(slot as usize) else {
            return;
        };
        if let Some(entry) = place.entry.take() {
            place.generation = place.generation.wrapping_add(1);
            if let Some(chains) = &mut self.chains {
                chains.remove(slot, &entry);
            }
            for dir in [Direction::Original, Direction::Reply] {
                self.index.remove(&entry.tuple(dir), (slot, dir));
            }
            let source = source_of(&entry.original);
            if entry.nat.src
                && let Some(slots) = self.sources.get_mut(&source)
            {
                slots.retain(|other| *other != slot);
                if slots.is_empty() {
                    self.sources.swap_remove(&source);
                }
            }
            self.free.push(slot);
        }
    }

    /// Inserts the pending entry of a packet that has made it (`__nf_conntrack_confirm`); returns its lasting name,
    /// or nothing if a tuple is taken and the packet must be dropped.
    pub fn confirm(&mut self, ct: CtRef, now: Time) -> Option<CtRef> {
        if !ct.is_pending() || ct.generation != self.pending_generation {
            return Some(ct);
        }
        let (original, reply) = match &self.pending {
            Some(entry) if !self.pending_ended => (entry.original, entry.reply),
            Some(_) | None => return Some(ct),
        };
        let winner = self.lookup(&original, now);
        if let Some((winner, _)) = winner.or_else(|| self.lookup(&reply, now)) {
            return self.resolve_clash(winner, now);
        }
        let entry = self.pending.take()?;
        let ct = self.insert(entry)?;
        if let Some(race) = &mut self.race {
            if race.at != now {
                race.fresh.clear();
                race.at = now;
            }
            race.fresh.push(ct.slot);
        }
        // Of a flow from a socket to itself both tuples are one.
        if original != reply {
            let to = (ct.slot, Direction::Original);
            self.index.insert(&original, to, &self.slots);
        }
        let to = (ct.slot, Direction::Reply);
        self.index.insert(&reply, to, &self.slots);
        Some(ct)
    }

    /// Gives an entry its place; its tuples do not lead to it yet.
    fn insert(&mut self, entry: Entry) -> Option<CtRef> {
        self.stats.insert += 1;
        self.earliest = self.earliest.min(entry.expires);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                entry: None,
            });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 connections")
        });
        let place = self.slots.get_mut(slot as usize)?;
        if entry.nat.src {
            let slots = self.sources.entry(source_of(&entry.original)).or_default();
            slots.push(slot);
        }
        if let Some(chains) = &mut self.chains {
            chains.insert(slot, &entry);
        }
        place.entry = Some(entry);
        let generation = place.generation;
        Some(CtRef { slot, generation })
    }

    /// The pending entry's tuple is taken by the entry `winner` (`nf_ct_resolve_clash`): returns the entry the packet
    /// goes on with, if any.
    fn resolve_clash(&mut self, winner: CtRef, now: Time) -> Option<CtRef> {
        /// How long an entry lives that only its answers find (`nf_ct_resolve_clash_harder`).
        const SHORT: Duration = Duration::from_secs(1);
        if let Some(race) = &mut self.race {
            race.clashes += 1;
        }
        let (won, lost) = (self.get(winner)?, self.pending.as_ref()?);
        let may_clash = matches!(lost.proto, Proto::Udp { .. });
        let translated = |entry: &Entry| entry.nat.src || entry.nat.dst;
        let alike = won.original == lost.original && won.reply == lost.reply;
        let merged = match self.clashes {
            ClashResolution::Untranslated => alike && !translated(won),
            ClashResolution::Alike | ClashResolution::Both => alike,
        };
        if may_clash && merged {
            self.stats.clash_resolve += 1;
            return Some(winner);
        }
        let reply = lost.reply;
        let harder = may_clash && self.clashes == ClashResolution::Both;
        if !harder || self.lookup(&reply, now).is_some() {
            self.stats.insert_failed += 1;
            return None;
        }
        let mut entry = self.pending.take()?;
        entry.clashed = true;
        entry.expires = now + SHORT;
        self.stats.clash_resolve += 1;
        let ct = self.insert(entry)?;
        let to = (ct.slot, Direction::Reply);
        self.index.insert(&reply, to, &self.slots);
        Some(ct)
    }

    /// Forgets every connection whose masquerading took its address from `dev` (its link went down or its address
    /// changed), and returns how many.
    pub fn flush_masquerade(&mut self, dev: DevIndex) -> usize {
        self.remove_where(|entry| entry.masquerade == Some(dev))
    }
}

/// Returns a hash of a tuple that is the same on every machine.
pub(super) fn tuple_hash(tuple: &FiveTuple) -> u64 {
    let bits = |addr| {
        let bits = crate::base::addr::to_bits(addr);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "both halves are taken, one after the other"
        )]
        let halves = (bits as u64, (bits >> 64) as u64);
        hash::combine(halves.0, halves.1)
    };
    let ports = u64::from(tuple.sport) << 32 | u64::from(tuple.dport);
    let number = u64::from(tuple.l4.number(Family::of(tuple.src)));
    hash::combine(
        hash::combine(bits(tuple.src), bits(tuple.dst)),
        hash::combine(ports, number),
    )
}
