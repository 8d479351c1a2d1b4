//! Values written as text: lengths of time, rates, sizes, address ranges, and [`Text`], which reads them.

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration;

use crate::controllers::reactions::Span;
use ipnet::IpNet;
use podwire_models::base::Time;
use serde::{Deserialize, Deserializer, de};

/// A value that is written as a string, with the number of that string in its file.
///
/// A string that cannot be read does not stop the reader: it is put on a list, so that all of them are reported at
/// once. Files with such strings are refused, so nobody ever sees one without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<T> {
    value: Option<T>,
    /// Where it is written.
    pub mark: Mark,
}

/// The how-many-eth [`Text`] of its file; what RON forgets and reading again finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u32);

impl<T> Text<T> {
    /// Returns a value that is a part of what is written at `mark`.
    pub const fn new(value: T, mark: Mark) -> Self {
        Self {
            value: Some(value),
            mark,
        }
    }
}

impl<T> Deref for Text<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value
            .as_ref()
            .expect("files with values that cannot be read are refused")
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_str(AnyString)?;
        READING.with_borrow_mut(|reading| {
            let mark = Mark(reading.next);
            reading.next += 1;
            if reading.stop_at == Some(mark) {
                return Err(de::Error::custom("this one"));
            }
            let value = match text.parse::<T>() {
                Ok(value) => Some(value),
                Err(error) => {
                    reading.bad.push((mark, error.to_string()));
                    None
                }
            };
            Ok(Self { value, mark })
        })
    }
}

struct AnyString;

impl de::Visitor<'_> for AnyString {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

thread_local! {
    /// What is going on while a file is read: serde hands values no context of their own.
    static READING: RefCell<Reading> = const { RefCell::new(Reading::new()) };
}

#[derive(Default)]
struct Reading {
    next: u32,
    stop_at: Option<Mark>,
    bad: Vec<(Mark, String)>,
}

impl Reading {
    const fn new() -> Self {
        Self {
            next: 0,
            stop_at: None,
            bad: Vec::new(),
        }
    }
}

/// Reads with fresh numbers, failing on purpose at `stop_at`; also returns the strings that could not be read, each
/// with the reason.
pub(super) fn reading<T>(
    stop_at: Option<Mark>,
    read: impl FnOnce() -> T,
) -> (T, Vec<(Mark, String)>) {
    READING.set(Reading {
        stop_at,
        ..Reading::new()
    });
    let result = read();
    (result, READING.take().bad)
}

/// A length of time: `"1500ms"`, `"1.5s"`, `"1m30s"`. Units are ns, us, ms, s, m, h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delay(pub Duration);

/// A text that is not a length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a length of time such as \"1500ms\" or \"5s\"")]
pub struct DelayError(String);

impl FromStr for Delay {
    type Err = DelayError;

    fn from_str(text: &str) -> Result<Self, DelayError> {
        let error = || DelayError(text.to_owned());
        let mut total: u64 = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
            let (unit, after) = split(after, |c| !c.is_ascii_digit() && c != '.');
            let nanos = match unit {
                "ns" => 1,
                "us" | "µs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => return Err(error()),
            };
            let part = scaled(number, nanos).ok_or_else(error)?;
            total = total.checked_add(part).ok_or_else(error)?;
            rest = after;
        }
        if text.is_empty() {
            Err(error())
        } else {
            Ok(Self(Duration::from_nanos(total)))
        }
    }
}

/// A length of time, or a shortest and a longest one: `"50ms"`, `"20ms..2s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range(pub Span);

/// A text that is not a range of times.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a length of time such as \"50ms\" nor a range such as \"20ms..2s\"")]
pub struct RangeError(String);

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let error = || RangeError(text.to_owned());
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let time = |text: &str| text.trim().parse().map(|time: Delay| time.0);
        let least = time(least).map_err(|_| error())?;
        let most = time(most).map_err(|_| error())?;
        let longest = Duration::from_secs(3600);
        if least > most || most > longest {
            return Err(error());
        }
        Ok(Self(Span { least, most }))
    }
}

/// A moment: a length of time since the start of the scenario.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Time);

impl FromStr for Moment {
    type Err = DelayError;

    fn from_str(text: &str) -> Result<Self, DelayError> {
        text.parse().map(|delay: Delay| Self(Time::ZERO + delay.0))
    }
}

/// A rate in bits per second: `"10Gbit"`, `"100Mbit"`, as `tc` writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

/// A text that is not a rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a rate such as \"10Gbit\" or \"100Mbit\"")]
pub struct RateError(String);

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let error = || RateError(text.to_owned());
        let (number, unit) = split(text, |c| c.is_ascii_digit() || c == '.');
        let bits = match unit.to_ascii_lowercase().as_str() {
            "bit" => 1,
            "kbit" => 1_000,
            "mbit" => 1_000_000,
            "gbit" => 1_000_000_000,
            "tbit" => 1_000_000_000_000,
            _ => return Err(error()),
        };
        scaled(number, bits)
            .filter(|rate| *rate > 0)
            .map(Self)
            .ok_or_else(error)
    }
}

/// How often something happens: `"5/s"`, `"50/m"`, `"100/h"`; at most a million times a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frequency {
    times: u32,
    per: Duration,
}

/// A text that says nothing of how often something happens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not how often something happens, such as \"5/s\" or \"50/m\": once an hour at least, a million times a second at most"
)]
pub struct FrequencyError(String);

impl Frequency {
    /// Returns the mean time from one time to the next.
    pub fn mean(self) -> Duration {
        self.per / self.times
    }

    /// Returns how often it happens within a time, in the mean.
    pub const fn within(self, time: Duration) -> u128 {
        time.as_nanos() * self.times as u128 / self.per.as_nanos()
    }
}

impl fmt::Display for Frequency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{unit}", self.times)
    }
}

impl FromStr for Frequency {
    type Err = FrequencyError;

    fn from_str(text: &str) -> Result<Self, FrequencyError> {
        let error = || FrequencyError(text.to_owned());
        let (times, unit) = text.split_once('/').ok_or_else(error)?;
        let per = Duration::from_secs(match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(error()),
        });
        let times: u32 = times.parse().map_err(|_| error())?;
        let frequency = Self { times, per };
        let most = per.as_micros();
        (times > 0 && u128::from(times) <= most)
            .then_some(frequency)
            .ok_or_else(error)
    }
}

/// A size in bytes: `"1400B"`, `"64KiB"`, `"1MB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size such as \"1400B\" or \"64KiB\"")]
pub struct SizeError(String);

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = || SizeError(text.to_owned());
        let (number, unit) = split(text, |c| c.is_ascii_digit() || c == '.');
        let bytes = match unit {
            "B" => 1,
            "kB" | "KB" => 1_000,
            "KiB" => 1 << 10,
            "MB" => 1_000_000,
            "MiB" => 1 << 20,
            "GB" => 1_000_000_000,
            "GiB" => 1 << 30,
            _ => return Err(error()),
        };
        scaled(number, bytes).map(Self).ok_or_else(error)
    }
}

/// One or two address ranges, separated by a comma, as kubeadm writes dual-stack clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cidrs(pub Vec<IpNet>);

/// A text that is not a list of address ranges.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrsError {
    /// Not a prefix.
    #[error("`{0}` is not an address range such as \"10.244.0.0/16\"")]
    Form(String),
    /// Bits set behind the prefix.
    #[error("`{found}` has bits set behind its prefix: the range is `{truncated}`")]
    Bits {
        /// As written.
        found: IpNet,
        /// What was probably meant.
        truncated: IpNet,
    },
}

impl FromStr for Cidrs {
    type Err = CidrsError;

    fn from_str(text: &str) -> Result<Self, CidrsError> {
        let one = |part: &str| {
            let error = |_| CidrsError::Form(part.trim().to_owned());
            let net: IpNet = part.trim().parse().map_err(error)?;
            let truncated = net.trunc();
            if truncated == net {
                Ok(net)
            } else {
                Err(CidrsError::Bits {
                    found: net,
                    truncated,
                })
            }
        };
        text.split(',').map(one).collect::<Result<_, _>>().map(Self)
    }
}

/// One or two addresses, separated by a comma.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(pub Vec<IpAddr>);

/// A text that is not a list of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IP address")]
pub struct AddressesError(String);

impl FromStr for Addresses {
    type Err = AddressesError;

    fn from_str(text: &str) -> Result<Self, AddressesError> {
        let one = |part: &str| {
            part.trim()
                .parse()
                .map_err(|_| AddressesError(part.trim().to_owned()))
        };
        text.split(',').map(one).collect::<Result<_, _>>().map(Self)
    }
}

/// Splits where the characters stop to be of one kind.
fn split(text: &str, kind: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !kind(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// Returns a decimal number times a scale, if the result is whole.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.is_empty() && number.contains('.') || part.len() > 12 {
        return None;
    }
    let denominator = 10_u128.pow(u32::try_from(part.len()).ok()?);
    let digits: u128 = format!("{whole}{part}").parse().ok()?;
    let product = digits.checked_mul(u128::from(scale))?;
    (!whole.is_empty() && product % denominator == 0)
        .then(|| u64::try_from(product / denominator).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn lengths_of_time() {
        let read = |text: &str| text.parse().map(|delay: Delay| delay.0.as_nanos());
        assert_eq!(read("1500ms"), Ok(1_500_000_000));
        assert_eq!(read("1.5s"), Ok(1_500_000_000));
        assert_eq!(read("1m30s"), Ok(90_000_000_000));
        assert_eq!(read("0s"), Ok(0));
        for bad in [
            "",
            "5",
            "s",
            "1.s",
            ".5s",
            "5 s",
            "-1s",
            "0.1ns",
            "99999999999h",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_and_sizes() {
        assert_eq!("10Gbit".parse(), Ok(Rate(10_000_000_000)));
        assert_eq!("2.5Gbit".parse(), Ok(Rate(2_500_000_000)));
        assert!("10".parse::<Rate>().is_err());
        assert!("0bit".parse::<Rate>().is_err());
        assert_eq!("1400B".parse(), Ok(Size(1400)));
        assert_eq!("64KiB".parse(), Ok(Size(65536)));
        assert!("1400".parse::<Size>().is_err());
    }

    #[test]
    fn how_often() {
        let read = |text: &str| text.parse::<Frequency>();
        let fifty = read("50/m").unwrap();
        assert_eq!(fifty.mean(), Duration::from_millis(1200));
        assert_eq!(fifty.within(Duration::from_secs(600)), 500);
        assert_eq!(fifty.to_string(), "50/m");
        assert_eq!(read("1000000/s").unwrap().mean(), Duration::from_micros(1));
        for bad in [
            "",
            "5",
            "5s",
            "/s",
            "0/s",
            "-1/s",
            "1.5/s",
            "5/d",
            "1000001/s",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_say_what_was_meant() {
        assert_eq!("10.0.0.0/8,fd00::/48".parse::<Cidrs>().unwrap().0.len(), 2);
        let error = "10.244.1.0/16".parse::<Cidrs>().unwrap_err().to_string();
        assert!(error.ends_with("the range is `10.244.0.0/16`"), "{error}");
        assert!("10.0.0.0".parse::<Cidrs>().is_err());
    }
}
