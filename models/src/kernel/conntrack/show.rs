//! What `conntrack(8)` prints and deletes.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;

use super::{Conntrack, Entry};
use crate::base::{Family, Time};
use crate::wire::{FiveTuple, L4};

/// Which entries are meant (`conntrack -D -p … --orig-dst … --reply-src …`): all that fit every given value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CtFilter {
    /// `-p`.
    pub l4: Option<L4>,
    /// `-f ipv4|ipv6`.
    pub family: Option<Family>,
    /// `--orig-src`.
    pub orig_src: Option<IpAddr>,
    /// `--orig-dst`.
    pub orig_dst: Option<IpAddr>,
    /// `--orig-port-dst`.
    pub orig_dport: Option<u16>,
    /// `--reply-src`.
    pub reply_src: Option<IpAddr>,
    /// `--reply-port-src`.
    pub reply_sport: Option<u16>,
}

impl CtFilter {
    /// Whether an entry is meant.
    pub fn fits(&self, entry: &Entry) -> bool {
        fn same<T: PartialEq>(wanted: Option<T>, found: T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        let (original, reply) = (&entry.original, &entry.reply);
        same(self.l4, original.l4)
            && same(self.family, Family::of(original.src))
            && same(self.orig_src, original.src)
            && same(self.orig_dst, original.dst)
            && same(self.orig_dport, original.dport)
            && same(self.reply_src, reply.src)
            && same(self.reply_sport, reply.sport)
    }
}

impl Conntrack {
    /// Deletes entries (`conntrack -D`), and returns how many.
    pub fn delete(&mut self, filter: &CtFilter) -> usize {
        self.remove_where(|entry| filter.fits(entry))
    }

    /// Deletes the entries a program has picked from the table, and returns how many.
    pub fn delete_where(&mut self, picked: impl Fn(&Entry) -> bool) -> usize {
        self.remove_where(picked)
    }

    /// Returns what `conntrack -L` prints, one line each.
    pub fn list(&self, now: Time) -> String {
        let mut text = String::new();
        for entry in self.iter(now) {
            text += &entry.line(now);
            text.push('\n');
        }
        text
    }
}

impl Entry {
    /// Returns the connection in a few words, for a trace: protocol, state, both ways, and how long it is believed.
    pub fn brief(&self, now: Time) -> String {
        let mut text = format!("{} ", self.original.l4);
        if let Some(state) = self.proto.state_name() {
            text += state;
            text.push(' ');
        }
        push_ends(&mut text, &self.original);
        text += if self.replied {
            ", answers "
        } else {
            ", unanswered, "
        };
        push_ends(&mut text, &self.reply);
        // Writing to a string cannot fail.
        let _ = write!(text, ", {} s", self.expires.since(now).as_secs());
        text
    }

    /// Returns the line `conntrack -L` prints.
    pub fn line(&self, now: Time) -> String {
        let family = Family::of(self.original.src);
        let name = match (self.original.l4, family) {
            (L4::Icmp, Family::V6) => "icmpv6".to_owned(),
            (l4, _) => l4.to_string(),
        };
        let left = self.expires.since(now).as_secs();
        let mut line = format!("{name:<8} {} {left} ", self.original.l4.number(family));
        if let Some(state) = self.proto.state_name() {
            line += state;
            line.push(' ');
        }
        push_tuple(&mut line, &self.original);
        if !self.replied {
            line += "[UNREPLIED] ";
        }
        push_tuple(&mut line, &self.reply);
        if self.assured {
            line += "[ASSURED] ";
        }
        // Writing to a string cannot fail.
        let _ = write!(line, "mark={} use=1", self.mark);
        line
    }
}

fn push_ends(text: &mut String, tuple: &FiveTuple) {
    // Writing to a string cannot fail.
    let _ = match tuple.l4 {
        L4::Icmp => write!(text, "{} > {} id {}", tuple.src, tuple.dst, tuple.sport),
        L4::Tcp | L4::Udp | L4::Sctp => write!(
            text,
            "{} > {}",
            SocketAddr::new(tuple.src, tuple.sport),
            SocketAddr::new(tuple.dst, tuple.dport)
        ),
    };
}

fn push_tuple(line: &mut String, tuple: &FiveTuple) {
    let family = Family::of(tuple.src);
    // Writing to a string cannot fail.
    let _ = match (tuple.l4, family) {
        (L4::Icmp, Family::V6) => {
            let kind = if tuple.request { 128 } else { 129 };
            let (src, dst, id) = (tuple.src, tuple.dst, tuple.sport);
            write!(line, "src={src} dst={dst} type={kind} code=0 id={id} ")
        }
        (L4::Icmp, Family::V4) | (L4::Tcp | L4::Udp | L4::Sctp, _) => write!(line, "{tuple} "),
    };
}
