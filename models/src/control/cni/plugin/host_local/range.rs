//! Ranges of addresses, and the order in which they are handed out.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::base::Family;
use crate::base::addr::{from_bits, to_bits};

/// A range as it was configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeConfig {
    /// The subnet.
    pub subnet: Option<IpNet>,
    /// The first address, inclusive.
    pub start: Option<IpAddr>,
    /// The last address, inclusive.
    pub end: Option<IpAddr>,
    /// The gateway, which is never handed out.
    pub gateway: Option<IpAddr>,
}

/// A range with everything filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    subnet: IpNet,
    start: IpAddr,
    end: IpAddr,
    gateway: IpAddr,
}

/// The next address, of the same family; the highest of all is followed by the lowest.
fn next(ip: IpAddr) -> IpAddr {
    from_bits(Family::of(ip), to_bits(ip).wrapping_add(1)).unwrap_or(match ip {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    })
}

impl Range {
    /// Fills in what a configuration leaves out, and checks the rest. A gateway outside of the subnet is allowed.
    ///
    /// # Errors
    /// If the range holds no addresses or does not lie in its subnet, in the words of the plugin.
    pub fn new(config: &RangeConfig) -> Result<Self, String> {
        let Some(subnet) = config.subnet else {
            return Err("IP <nil> not v4 nor v6".to_owned());
        };
        let bits = Family::of_net(subnet).bits();
        if subnet.prefix_len() > bits - 2 {
            return Err(format!("Network {subnet} too small to allocate from"));
        }
        if subnet.addr().to_canonical().is_ipv4() != subnet.addr().is_ipv4() {
            return Err("IPNet IP and Mask version mismatch".to_owned());
        }
        if subnet.addr() != subnet.network() {
            return Err(format!(
                "Network has host bits set. For a subnet mask of length {} the network address is {}",
                subnet.prefix_len(),
                subnet.network()
            ));
        }
        let first = next(subnet.network());
        let within = |ip: IpAddr, start: Option<IpAddr>, end: Option<IpAddr>| {
            subnet.contains(&ip) && start.is_none_or(|s| ip >= s) && end.is_none_or(|e| ip <= e)
        };
        if let Some(start) = config.start.filter(|s| !within(*s, Some(*s), config.end)) {
            return Err(format!("RangeStart {start} not in network {subnet}"));
        }
        let start = config.start.unwrap_or(first);
        if let Some(end) = config.end.filter(|e| !within(*e, Some(start), Some(*e))) {
            return Err(format!("RangeEnd {end} not in network {subnet}"));
        }
        let last = to_bits(subnet.broadcast()) - u128::from(subnet.addr().is_ipv4());
        let last = from_bits(Family::of_net(subnet), last).unwrap_or(first);
        Ok(Self {
            subnet,
            start,
            end: config.end.unwrap_or(last),
            gateway: config.gateway.unwrap_or(first),
        })
    }

    /// Returns the gateway.
    pub const fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// Returns the length of the subnet's prefix.
    pub fn prefix_len(&self) -> u8 {
        self.subnet.prefix_len()
    }

    /// Returns whether the address may come from this range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.subnet.contains(&ip) && ip >= self.start && ip <= self.end
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start)
            || self.contains(other.end)
            || other.contains(self.start)
            || other.contains(self.end)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

/// Ranges of one family, of which a container gets one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    /// Checks the ranges of a set.
    ///
    /// # Errors
    /// If there is none, or they are wrong by themselves or together, in the words of the plugin.
    pub fn new(configs: &[RangeConfig]) -> Result<Self, String> {
        let ranges: Vec<Range> = configs.iter().map(Range::new).collect::<Result<_, _>>()?;
        let Some(first) = ranges.first() else {
            return Err("empty range set".to_owned());
        };
        if ranges
            .iter()
            .any(|r| r.start.is_ipv4() != first.start.is_ipv4())
        {
            return Err("mixed address families".to_owned());
        }
        for (n, one) in ranges.iter().enumerate() {
            if let Some(other) = ranges.iter().skip(n + 1).find(|r| one.overlaps(r)) {
                return Err(format!("subnets {one} and {other} overlap"));
            }
        }
        Ok(Self(ranges))
    }

    /// Returns whether the addresses are of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.0.first().is_some_and(|r| r.start.is_ipv4())
    }

    /// Returns whether any range of this set overlaps one of the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|r| other.0.iter().any(|o| r.overlaps(o)))
    }

    /// Returns the range an address is of.
    pub fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|r| r.contains(ip))
    }

    /// Returns the addresses in the order in which they are tried: from the one after the last one handed out, through all
    /// ranges, and once around.
    pub fn after(&self, last: Option<IpAddr>) -> Turn<'_> {
        let index = last.and_then(|ip| self.0.iter().position(|r| r.contains(ip)));
        Turn {
            ranges: &self.0,
            index: index.unwrap_or(0),
            current: last.filter(|_| index.is_some()),
            start: None,
        }
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// One turn through the ranges of a set, without their gateways.
#[derive(Clone, Debug)]
pub struct Turn<'a> {
    ranges: &'a [Range],
    index: usize,
    current: Option<IpAddr>,
    start: Option<IpAddr>,
}

impl<'a> Iterator for Turn<'a> {
    type Item = (IpAddr, &'a Range);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut range = self.ranges.get(self.index)?;
            let ip = match self.current {
                None => range.start,
                Some(ip) if ip == range.end => {
                    self.index = (self.index + 1) % self.ranges.len();
                    range = self.ranges.get(self.index)?;
                    range.start
                }
                Some(ip) => next(ip),
            };
            self.current = Some(ip);
            match self.start {
                None => self.start = Some(ip),
                Some(start) if start == ip => return None,
                Some(_) => {}
            }
            if ip != range.gateway {
                return Some((ip, range));
            }
        }
    }
}
