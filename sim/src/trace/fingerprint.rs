//! A short name for everything that happened: two runs with the same fingerprint are the same run.
//!
//! FNV-1a with 128 bits over a canonical form of each record, folded to 64. Names are hashed rather than numbers,
//! so numbering namespaces or origins differently changes nothing. Not cryptographic: nobody forges traces.

use std::fmt;
use std::io;

use super::names::Names;
use super::record::{Record, Trace};

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

/// The hash of a stream of events; prints as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u128);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(OFFSET)
    }
}

impl Fingerprint {
    /// Returns the fingerprint of a trace.
    pub fn of(trace: &Trace) -> Self {
        let mut fingerprint = Self::default();
        for record in &trace.records {
            fingerprint.add(record, &trace.names);
        }
        fingerprint
    }

    /// Adds one record.
    pub fn add(&mut self, record: &Record, names: &Names) {
        self.number(record.at.0);
        self.number(record.seq);
        self.number(record.cause.map_or(0, |cause| cause + 1));
        self.text(names.node_at(&record.place).unwrap_or_default());
        self.text(names.netns_at(&record.place).unwrap_or_default());
        self.text(names.device_at(&record.place).unwrap_or_default());
        self.text(record.place.stage.name());
        self.value(&record.step.packet);
        self.value(&record.step.action);
        if let Some(by) = &record.step.by {
            self.value(&by.kind);
            self.text(&by.text);
            self.text(&names.origin_text(by.origin).unwrap_or_default());
        }
        self.bytes(b"\n");
    }

    /// Adds bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(PRIME);
        }
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    /// Adds a text and its end.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
        self.bytes(&[0]);
    }

    fn value(&mut self, value: &impl serde::Serialize) {
        serde_json::to_writer(&mut *self, value).expect("steps have names and numbers only");
        self.bytes(&[0]);
    }

    /// Returns the 64 bits that are printed.
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    pub const fn folded(self) -> u64 {
        (self.0 >> 64) as u64 ^ self.0 as u64
    }
}

impl io::Write for Fingerprint {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.folded())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwire_models::base::Time;
    use podwire_models::wire::{Action, NetnsId, Place, Stage, Step};

    fn trace(netns: u32, name: &str, text: &str) -> Trace {
        let mut names = Names::default();
        names.name_netns(NetnsId(netns), Some("node-a"), name);
        let place = Place {
            netns: Some(NetnsId(netns)),
            dev: None,
            stage: Stage::Socket,
        };
        let step = Step::general(Action::App { what: text.into() });
        Trace {
            records: vec![Record {
                at: Time(5),
                seq: 0,
                cause: None,
                place,
                step,
            }],
            names,
        }
    }

    #[test]
    fn depends_on_names_not_on_numbers() {
        let of = |n, name, text| Fingerprint::of(&trace(n, name, text)).to_string();
        assert_eq!(of(1, "pod/a/b", "x"), of(7, "pod/a/b", "x"));
        assert_ne!(of(1, "pod/a/b", "x"), of(1, "pod/a/c", "x"));
        assert_ne!(of(1, "pod/a/b", "x"), of(1, "pod/a/b", "y"));
        assert_eq!(
            of(1, "pod/a/b", "x"),
            "045c416dd05b50d9",
            "changing this changes every recorded fingerprint"
        );
    }

    #[test]
    fn is_fnv() {
        let mut fingerprint = Fingerprint::default();
        fingerprint.bytes(b"a");
        assert_eq!(fingerprint.0, 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }
}
