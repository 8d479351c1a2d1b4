//! Link-layer addresses, address families, and arithmetic on prefixes over `std::net` and `ipnet`.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;

/// An Ethernet address (IEEE 802 MAC-48).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Hash for Mac {
    /// As one word: every bridged frame is looked up by this.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [o0, o1, o2, o3, o4, o5] = self.0;
        state.write_u64(u64::from_be_bytes([0, 0, o0, o1, o2, o3, o4, o5]));
    }
}

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// `00:00:00:00:00:00`, the address of a loopback device.
    pub const ZERO: Self = Self([0; 6]);

    /// Returns whether the group bit is set (multicast and broadcast).
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Returns a locally administered unicast address made from a stable hash, as the kernel draws one at random.
    pub const fn from_hash(hash: u64) -> Self {
        let b = hash.to_be_bytes();
        Self([(b[0] & 0xfc) | 0x02, b[1], b[2], b[3], b[4], b[5]])
    }

    /// Returns the group address an IPv6 multicast destination maps to (RFC 2464 §7).
    pub const fn ipv6_multicast(group: Ipv6Addr) -> Self {
        let o = group.octets();
        Self([0x33, 0x33, o[12], o[13], o[14], o[15]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, octet) in self.0.iter().enumerate() {
            write!(f, "{}{octet:02x}", if n == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is not a MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address such as 02:42:ac:12:00:02")]
pub struct ParseMacError(pub String);

impl FromStr for Mac {
    type Err = ParseMacError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let error = || ParseMacError(s.to_owned());
        let mut octets = [0; 6];
        let mut parts = s.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(error)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() {
            Err(error())
        } else {
            Ok(Self(octets))
        }
    }
}

/// An IP address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Family {
    /// IPv4 (RFC 791).
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6 (RFC 8200).
    #[serde(rename = "IPv6")]
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Returns the family of a prefix.
    pub const fn of_net(net: IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// Returns the length of an address in bits.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// Returns `0.0.0.0` or `::`.
    pub const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// Returns the prefix that contains every address, `0.0.0.0/0` or `::/0`.
    pub fn any(self) -> IpNet {
        match self {
            Self::V4 => IpNet::V4(Ipv4Net::default()),
            Self::V6 => IpNet::V6(Ipv6Net::default()),
        }
    }
}

/// Returns the prefix that contains exactly this address, `/32` or `/128`.
pub fn host_net(addr: IpAddr) -> IpNet {
    IpNet::from(addr)
}

/// Returns an address as a number, for arithmetic inside one family.
pub fn to_bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// Returns the address of `family` with this number, if there is one.
pub fn from_bits(family: Family, bits: u128) -> Option<IpAddr> {
    match family {
        Family::V4 => u32::try_from(bits)
            .ok()
            .map(|b| IpAddr::V4(Ipv4Addr::from_bits(b))),
        Family::V6 => Some(IpAddr::V6(Ipv6Addr::from_bits(bits))),
    }
}

/// Returns the `n`-th address of a prefix (0 is the network address), if the prefix has that many.
pub fn nth_addr(net: IpNet, n: u128) -> Option<IpAddr> {
    let bits = to_bits(net.network()).checked_add(n)?;
    from_bits(Family::of_net(net), bits).filter(|a| net.contains(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_reads_what_it_prints() {
        let mac = Mac::from_hash(0xdead_beef_1234_5678);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        assert!(!mac.is_multicast());
        assert!("02:42:ac".parse::<Mac>().is_err());
    }

    #[test]
    fn nth_address_stays_inside() {
        let net: IpNet = "10.244.1.0/30".parse().expect("a prefix");
        assert_eq!(
            nth_addr(net, 1),
            Some("10.244.1.1".parse().expect("an address"))
        );
        assert_eq!(nth_addr(net, 4), None);
    }
}
