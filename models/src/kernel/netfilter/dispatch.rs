//! Which rules of a chain a packet can match at all, looked up by where it goes instead of found by trying each.
//!
//! A rule that asks for one destination address, or first of all for one destination port, says no to every other packet
//! before any of its conditions could change anything. Leaving it out is not noticed, but for the number of rules the
//! kernel would have looked at, and that is the position of the last one.

use std::net::IpAddr;
use std::sync::Arc;

use super::chain::{Chain, Match, Not, PortRange, Rule};
use crate::base::FxIndexMap;
use crate::wire::L4;

/// From how many rules on that ask for an address or port a chain is worth looking them up.
const WORTH: usize = 4;

/// The rules of one chain by what they ask of a packet's destination, as positions in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dispatch {
    by_address: FxIndexMap<IpAddr, Vec<u32>>,
    by_port: FxIndexMap<(L4, u16), Vec<u32>>,
    others: Vec<u32>,
}

/// What a rule asks of a destination.
enum Asks {
    Address(IpAddr),
    Port(L4, u16),
    Neither,
}

impl Asks {
    fn of(rule: &Rule) -> Self {
        if let Some(Not {
            negated: false,
            value: net,
        }) = rule.destination
            && net.prefix_len() == net.max_prefix_len()
        {
            return Self::Address(net.addr());
        }
        let first = rule.matches.iter().find(|m| !m.always());
        let one = |l4, dport: Option<Not<PortRange>>| match dport {
            Some(Not {
                negated: false,
                value: PortRange { first, last },
            }) if first == last => Self::Port(l4, first),
            Some(_) | None => Self::Neither,
        };
        match first {
            Some(Match::Tcp { dport, .. }) => one(L4::Tcp, *dport),
            Some(Match::Udp { dport, .. }) => one(L4::Udp, *dport),
            Some(Match::Sctp { dport, .. }) => one(L4::Sctp, *dport),
            Some(_) | None => Self::Neither,
        }
    }
}

impl Dispatch {
    /// Sorts the rules of a chain; `None` if that is not worth it.
    pub(super) fn of(chain: &Chain) -> Option<Arc<Self>> {
        let mut sorted = Self::default();
        for (position, rule) in (0..).zip(chain.rules.iter()) {
            let list = match Asks::of(rule) {
                Asks::Address(address) => sorted.by_address.entry(address).or_default(),
                Asks::Port(l4, port) => sorted.by_port.entry((l4, port)).or_default(),
                Asks::Neither => &mut sorted.others,
            };
            list.push(position);
        }
        (chain.rules.len() - sorted.others.len() >= WORTH).then(|| Arc::new(sorted))
    }

    /// Returns the positions of the rules that a packet to this address and port can match, in order. A packet without
    /// a port to look at, as a later fragment, has none.
    pub(super) fn candidates(&self, to: IpAddr, port: Option<(L4, u16)>) -> Candidates<'_> {
        let by_address = self.by_address.get(&to).map_or(&[][..], Vec::as_slice);
        let by_port = port.and_then(|port| self.by_port.get(&port));
        let by_port = by_port.map_or(&[][..], Vec::as_slice);
        Candidates([by_address, by_port, &self.others])
    }
}

/// Positions out of several lists in order.
pub(super) struct Candidates<'d>([&'d [u32]; 3]);

impl Iterator for Candidates<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let next = |list: &&mut &[u32]| list.first().copied().unwrap_or(u32::MAX);
        let list = self.0.iter_mut().min_by_key(next)?;
        let (first, rest) = list.split_first()?;
        *list = rest;
        Some(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netfilter::chain::{Ruleset, Table};

    fn chain(lines: &str) -> Chain {
        let text = format!("*filter\n:X - [0:0]\n{lines}\nCOMMIT\n");
        let rules: Ruleset = text.parse().expect("rules");
        let table = rules.tables.get(&Table::Filter).expect("the table");
        table.chains.get("X").expect("the chain").clone()
    }

    #[test]
    fn only_what_can_match_is_tried_and_in_order() {
        let chain = chain(
            "-A X -d 10.0.0.1/32 -j ACCEPT\n\
             -A X -d 10.0.0.0/24 -j ACCEPT\n\
             -A X ! -d 10.0.0.2/32 -j ACCEPT\n\
             -A X -p tcp -m tcp --dport 80 -j ACCEPT\n\
             -A X -p tcp -m tcp --dport 80:81 -j ACCEPT\n\
             -A X -d 10.0.0.1/32 -p tcp -m tcp --dport 443 -j ACCEPT\n\
             -A X -p udp -m udp --dport 80 -j ACCEPT\n\
             -A X -p tcp -m statistic --mode random --probability 0.5 -m tcp --dport 22 -j ACCEPT",
        );
        let dispatch = Dispatch::of(&chain).expect("five rules ask for an address or port");
        let to = |address: &str, port| {
            let address = address.parse().expect("an address");
            dispatch.candidates(address, port).collect::<Vec<u32>>()
        };
        assert_eq!(to("10.0.0.1", Some((L4::Tcp, 80))), [0, 1, 2, 3, 4, 5, 7]);
        assert_eq!(to("10.0.0.2", Some((L4::Udp, 80))), [1, 2, 4, 6, 7]);
        assert_eq!(to("10.0.0.3", None), [1, 2, 4, 7]);
    }

    #[test]
    fn few_rules_are_tried_one_by_one() {
        let chain = chain("-A X -d 10.0.0.1/32 -j ACCEPT\n-A X -j DROP");
        assert_eq!(Dispatch::of(&chain), None);
    }
}
