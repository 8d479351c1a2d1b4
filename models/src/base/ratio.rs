//! Exact chances: `n` of `d`, always in lowest terms. No floats, so the same on every machine.

use std::fmt;
use std::ops::{Add, Mul};
use std::str::FromStr;

use serde::Serialize;

/// A fraction between 0 and 1, in lowest terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ratio {
    numerator: u128,
    denominator: u128,
}

const fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Ratio {
    /// Never.
    pub const ZERO: Self = Self {
        numerator: 0,
        denominator: 1,
    };
    /// Always.
    pub const ONE: Self = Self {
        numerator: 1,
        denominator: 1,
    };

    /// Returns `numerator` of `denominator`.
    ///
    /// # Panics
    /// If the denominator is zero or the fraction exceeds one.
    pub const fn new(numerator: u128, denominator: u128) -> Self {
        assert!(
            denominator > 0 && numerator <= denominator,
            "a chance lies between 0 and 1"
        );
        let d = gcd(numerator, denominator);
        Self {
            numerator: numerator / d,
            denominator: denominator / d,
        }
    }

    /// Returns the upper number, in lowest terms.
    pub const fn numerator(self) -> u128 {
        self.numerator
    }

    /// Returns the lower number, in lowest terms.
    pub const fn denominator(self) -> u128 {
        self.denominator
    }

    /// Returns the chance that it does not happen.
    #[must_use]
    pub const fn complement(self) -> Self {
        Self::new(self.denominator - self.numerator, self.denominator)
    }
}

impl Mul for Ratio {
    type Output = Self;
    /// Chance that both happen, where they are independent. Both fractions are shortened crosswise first.
    fn mul(self, rhs: Self) -> Self {
        let a = gcd(self.numerator, rhs.denominator);
        let b = gcd(rhs.numerator, self.denominator);
        Self::new(
            (self.numerator / a).saturating_mul(rhs.numerator / b),
            (self.denominator / b).saturating_mul(rhs.denominator / a),
        )
    }
}

impl Add for Ratio {
    type Output = Self;
    /// Chance that one or the other happens, where they exclude each other.
    fn add(self, rhs: Self) -> Self {
        let d = gcd(self.denominator, rhs.denominator);
        let common = (self.denominator / d).saturating_mul(rhs.denominator);
        let left = self.numerator.saturating_mul(rhs.denominator / d);
        let right = rhs.numerator.saturating_mul(self.denominator / d);
        Self::new(left.saturating_add(right).min(common), common)
    }
}

impl PartialOrd for Ratio {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ratio {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let left = self.numerator.saturating_mul(other.denominator);
        left.cmp(&other.numerator.saturating_mul(self.denominator))
    }
}

impl fmt::Display for Ratio {
    /// `1/3`; `0` and `1` stand alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.denominator == 1 {
            write!(f, "{}", self.numerator)
        } else {
            write!(f, "{}/{}", self.numerator, self.denominator)
        }
    }
}

impl Serialize for Ratio {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is not a chance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a chance such as \"1/3\" or \"0.5%\"")]
pub struct ParseRatioError(pub String);

impl FromStr for Ratio {
    type Err = ParseRatioError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let error = || ParseRatioError(s.to_owned());
        let number = |t: &str| t.parse::<u64>().map_err(|_| error()).map(u128::from);
        let (n, d) = if let Some((n, d)) = s.split_once('/') {
            (number(n)?, number(d)?)
        } else if let Some(percent) = s.strip_suffix('%') {
            let (whole, part) = percent.split_once('.').unwrap_or((percent, ""));
            if part.len() > 9 {
                return Err(error());
            }
            let scale = 10_u128.pow(u32::try_from(part.len()).map_err(|_| error())?);
            let part = if part.is_empty() { 0 } else { number(part)? };
            (number(whole)? * scale + part, 100 * scale)
        } else {
            (number(s)?, 1)
        };
        if d == 0 || n > d {
            Err(error())
        } else {
            Ok(Self::new(n, d))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirds_add_up_to_one() {
        let third = Ratio::new(1, 3);
        let second = third.complement() * Ratio::new(1, 2);
        assert_eq!(second, third);
        assert_eq!(third + second + third, Ratio::ONE);
    }

    #[test]
    fn reads_fractions_and_percent() {
        assert_eq!("0.5%".parse(), Ok(Ratio::new(1, 200)));
        assert_eq!("2/6".parse(), Ok(Ratio::new(1, 3)));
        assert!("4/3".parse::<Ratio>().is_err());
    }
}
