//! A case: rules, settings and packets, and how it is written to a file.

use podwire_models::base::{Family, Mac};
use podwire_models::kernel::netfilter::chain::Table;
use podwire_models::kernel::netfilter::nft::NftCommand;
use podwire_models::wire::{Body, Frame, Packet};

use super::bytes;
use super::router::unhex;

/// Leaves out tables that say nothing, and chains that nobody reaches.
fn brief(rules: &str) -> String {
    let mut text = String::new();
    for table in rules.split_inclusive("COMMIT\n") {
        if !table.contains("\n-A") && !table.contains(" DROP [") {
            continue;
        }
        for line in table.lines() {
            let name = line
                .strip_prefix(':')
                .and_then(|rest| rest.split_once(" - "));
            let unused = name.is_some_and(|(name, _)| {
                let words = |l: &&str| l.starts_with("-A") && l.split(' ').any(|w| w == name);
                !table.lines().any(|l| words(&l))
            });
            if !unused {
                text = text + line + "\n";
            }
        }
    }
    text
}

/// Adds the tables that a set of rules does not name, empty.
pub(crate) fn complete(rules: &str) -> String {
    let mut text = rules.to_owned();
    for table in Table::PRINTED {
        let head = format!("*{}\n", table.name());
        if !text.contains(&head) {
            text += &head;
            for hook in table.hooks() {
                text = text + ":" + hook.name() + " ACCEPT [0:0]\n";
            }
            text += "COMMIT\n";
        }
    }
    text
}

/// Where a packet enters the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// By device a0, from 10.1.0.0/24.
    A,
    /// By device b0, from 10.2.0.0/24.
    B,
    /// From a process of its own.
    Local,
}

/// A packet and where it enters.
#[derive(Clone, Debug)]
pub(crate) struct Shot {
    pub port: Port,
    pub packet: Packet,
}

/// Rules, settings, packets.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub family: Family,
    pub rules: String,
    /// Tables of nftables, made after the rules.
    pub nft: Vec<NftCommand>,
    pub sysctls: Vec<(String, i64)>,
    pub shots: Vec<Shot>,
}

pub(crate) const fn mac(side: u8, end: u8) -> Mac {
    Mac([2, 0, 0, 0, side, end])
}

impl Shot {
    pub(crate) const fn family(&self) -> Family {
        self.packet.family()
    }

    /// Returns the frame that enters by a device.
    pub(crate) fn frame(&self) -> Frame {
        let side = if self.port == Port::B { 2 } else { 1 };
        Frame {
            src: mac(side, 2),
            dst: mac(side, 1),
            body: Body::Ip(Box::new(self.packet.clone())),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        // The MAC header of a local packet is cut off again.
        match self.port {
            Port::A | Port::B => bytes::encode(&self.frame()),
            Port::Local => bytes::encode_packet(&self.packet),
        }
    }
}

impl Case {
    /// Writes the case: settings, rules, an empty line, one packet a line.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.sysctls {
            text += &format!("# sysctl {name}={value}\n");
        }
        for command in &self.nft {
            text += &format!("# nft {command}\n");
        }
        text += &brief(&self.rules);
        text.push('\n');
        for shot in &self.shots {
            let hex: String = shot.bytes().iter().map(|b| format!("{b:02x}")).collect();
            let says = bytes::describe(&shot.frame());
            text += &format!("{} {hex} # {says}\n", shot.port.name());
        }
        text
    }

    /// Reads what [`Self::text`] wrote, without nftables.
    pub(crate) fn read(text: &str) -> Self {
        let (head, shots) = text
            .split_once("\n\n")
            .expect("an empty line ends the rules");
        let mut sysctls = Vec::new();
        for line in head.lines() {
            if let Some((name, value)) = line
                .strip_prefix("# sysctl ")
                .and_then(|rest| rest.split_once('='))
            {
                sysctls.push((name.to_owned(), value.parse().unwrap()));
            }
        }
        let shots: Vec<Shot> = shots
            .lines()
            .enumerate()
            .map(|(n, line)| {
                let mut words = line.split(' ');
                let port = match words.next() {
                    Some("a0") => Port::A,
                    Some("b0") => Port::B,
                    Some("local") => Port::Local,
                    other => panic!("no port {other:?}"),
                };
                let bytes = unhex(words.next().unwrap());
                let start = if port == Port::Local { 0 } else { 14 };
                let mut packet = bytes::decode_packet(&bytes[start..]).unwrap();
                packet.id.0 = n as u64 + 1;
                packet.flow.0 = n as u64 + 1;
                Shot { port, packet }
            })
            .collect();
        Self {
            family: shots.first().map_or(Family::V4, Shot::family),
            rules: head.to_owned() + "\n",
            nft: Vec::new(),
            sysctls,
            shots,
        }
    }
}
