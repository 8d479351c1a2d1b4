//! Sets of ports, and what may pass between two ends: exact, with union, intersection and difference.

#![expect(
    clippy::indexing_slicing,
    reason = "one set for each of the three protocols"
)]

use std::fmt;

use crate::base::Protocol;

/// Some ports of one protocol: inclusive ranges, sorted, with gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// No port.
    pub const NONE: Self = Self(Vec::new());

    /// Returns every port, 1 to 65535.
    pub fn all() -> Self {
        Self(vec![(1, u16::MAX)])
    }

    /// Returns the ports from one to another, both included; none if `last < first`.
    pub fn range(first: u16, last: u16) -> Self {
        let first = first.max(1);
        if first > last {
            return Self::NONE;
        }
        Self(vec![(first, last)])
    }

    /// Returns the ranges in order.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Whether no port is in it.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every port is in it.
    pub fn is_all(&self) -> bool {
        *self.0 == [(1, u16::MAX)]
    }

    /// Whether a port is in it.
    pub fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= port);
        let before = after.checked_sub(1).and_then(|before| self.0.get(before));
        before.is_some_and(|(_, last)| *last >= port)
    }

    /// Returns how many ports are in it.
    pub fn len(&self) -> u32 {
        let size = |(first, last): &(u16, u16)| u32::from(*last - *first) + 1;
        self.0.iter().map(size).sum()
    }

    /// Returns what is in this or the other.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut ranges: Vec<(u16, u16)> = self.0.iter().chain(&other.0).copied().collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// Returns what is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(&&(a, b)), Some(&&(c, d))) = (left.peek(), right.peek()) {
            if a.max(c) <= b.min(d) {
                both.push((a.max(c), b.min(d)));
            }
            if b < d {
                left.next();
            } else {
                right.next();
            }
        }
        Self(both)
    }

    /// Returns what is in this and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.intersection(&other.complement())
    }

    fn complement(&self) -> Self {
        let mut gaps = Vec::with_capacity(self.0.len() + 1);
        let mut next = 1_u32;
        for (first, last) in &self.0 {
            if let (Ok(from), Ok(to)) = (u16::try_from(next), u16::try_from(u32::from(*first) - 1))
                && from <= to
            {
                gaps.push((from, to));
            }
            next = u32::from(*last) + 1;
        }
        if let Ok(from) = u16::try_from(next) {
            gaps.push((from, u16::MAX));
        }
        Self(gaps)
    }
}

impl fmt::Display for PortSet {
    /// `80,8080-8090`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (first, last)) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{first}")?;
            if last != first {
                write!(f, "-{last}")?;
            }
        }
        Ok(())
    }
}

/// What may pass in one direction between two ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connections {
    ports: [PortSet; 3],
    other: bool,
}

/// One connection, or the part of it that policies look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flow {
    /// To a port.
    Port(Protocol, u16),
    /// Of a protocol without ports: ICMP and the rest.
    Other,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(protocol, port) => write!(f, "{}/{port}", protocol.upper()),
            Self::Other => f.write_str("ICMP"),
        }
    }
}

impl Connections {
    /// Nothing.
    pub const NONE: Self = Self {
        ports: [PortSet::NONE, PortSet::NONE, PortSet::NONE],
        other: false,
    };

    /// Returns everything, ICMP included.
    pub fn all() -> Self {
        Self {
            ports: [PortSet::all(), PortSet::all(), PortSet::all()],
            other: true,
        }
    }

    /// Returns some ports of one protocol.
    pub fn of(protocol: Protocol, ports: PortSet) -> Self {
        let mut all = Self::NONE;
        all.ports[index(protocol)] = ports;
        all
    }

    /// Returns the ports of one protocol.
    pub const fn ports(&self, protocol: Protocol) -> &PortSet {
        &self.ports[index(protocol)]
    }

    /// Whether protocols without ports may pass.
    pub const fn other(&self) -> bool {
        self.other
    }

    /// Whether nothing may pass.
    pub fn is_empty(&self) -> bool {
        !self.other && !self.has_ports()
    }

    /// Whether some port of some protocol may be reached.
    pub fn has_ports(&self) -> bool {
        self.ports.iter().any(|ports| !ports.is_empty())
    }

    /// Whether all ports of all three protocols may be reached.
    pub fn all_ports(&self) -> bool {
        self.ports.iter().all(PortSet::is_all)
    }

    /// Whether a connection may pass.
    pub fn contains(&self, flow: Flow) -> bool {
        match flow {
            Flow::Port(protocol, port) => self.ports(protocol).contains(port),
            Flow::Other => self.other,
        }
    }

    /// Whether everything in the other is in this.
    pub fn includes(&self, other: &Self) -> bool {
        other.difference(self).is_empty()
    }

    fn with(&self, other: &Self, ports: fn(&PortSet, &PortSet) -> PortSet, rest: bool) -> Self {
        Self {
            ports: std::array::from_fn(|n| ports(&self.ports[n], &other.ports[n])),
            other: rest,
        }
    }

    /// Returns what is in this or the other.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.with(other, PortSet::union, self.other || other.other)
    }

    /// Returns what is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.with(other, PortSet::intersection, self.other && other.other)
    }

    /// Returns what is in this and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.with(other, PortSet::difference, self.other && !other.other)
    }
}

const fn index(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    }
}

impl fmt::Display for Connections {
    /// `TCP 80,443; UDP 53`, `all`, or `none`. A set that is all ports but not ICMP prints `all` too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all_ports() {
            return f.write_str("all");
        }
        if !self.has_ports() {
            return f.write_str(if self.other { "ICMP" } else { "none" });
        }
        let mut separator = "";
        for protocol in Protocol::ALL {
            let ports = self.ports(protocol);
            if ports.is_all() {
                write!(f, "{separator}{}", protocol.upper())?;
            } else if !ports.is_empty() {
                write!(f, "{separator}{} {ports}", protocol.upper())?;
            } else {
                continue;
            }
            separator = "; ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_operations_are_those_of_sets() {
        let edges = [1_u16, 2, 3, 5, 9, 10, 65534, 65535];
        let mut sets = vec![PortSet::NONE, PortSet::all()];
        for a in edges {
            for b in edges {
                sets.push(PortSet::range(a, b).union(&PortSet::range(7, 8)));
            }
        }
        let ports = [1_u16, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 65533, 65534, 65535];
        for a in &sets {
            for b in &sets {
                let (union, both, less) = (a.union(b), a.intersection(b), a.difference(b));
                for port in ports {
                    let (x, y) = (a.contains(port), b.contains(port));
                    assert_eq!(union.contains(port), x || y, "{a} + {b}: {port}");
                    assert_eq!(both.contains(port), x && y, "{a} & {b}: {port}");
                    assert_eq!(less.contains(port), x && !y, "{a} - {b}: {port}");
                }
                assert_eq!(a.len() + b.len(), union.len() + both.len());
            }
        }
    }

    #[test]
    fn touching_ranges_are_one() {
        let set = PortSet::range(80, 80).union(&PortSet::range(81, 90));
        assert_eq!(set.ranges(), [(80, 90)]);
        assert_eq!(PortSet::all().difference(&set).to_string(), "1-79,91-65535");
    }
}
