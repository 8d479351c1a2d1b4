//! The real router (`router.py`): takes rules and packets, gives counters and frames.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use podwire_models::base::Family;
use podwire_models::wire::Transport;
use serde_json::{Value, json};

use super::bytes;
use super::cases::{Case, Port, Shot, complete};

/// What one packet did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What a local sender was told; empty is success.
    pub errno: String,
    /// Packets matched by each rule of each chain so far, where not all are zero.
    pub counters: BTreeMap<String, Vec<u64>>,
    /// What came out, where.
    pub frames: Vec<String>,
    /// How many datagrams reached the listener at port 53.
    pub delivered: u64,
}

/// A namespace of the real kernel with two devices.
pub(crate) struct Router {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Router {
    pub(crate) fn start(name: &str, backend: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/router.py");
        let prefix = format!("podwire-{name}-{}", std::process::id());
        let mut child = Command::new("python3")
            .args([script, &prefix, backend])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is there");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut router = Self {
            child,
            input,
            output,
        };
        router.answer();
        router
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("router.py ended: {line:?}"))
    }

    fn ask(&mut self, command: &Value) -> Value {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{command}").unwrap();
        input.flush().unwrap();
        self.answer()
    }

    /// Replaces rules and settings; forgets connections.
    pub(crate) fn load(&mut self, case: &Case) -> Result<(), String> {
        let (v4, v6) = match case.family {
            Family::V4 => (complete(&case.rules), String::new()),
            Family::V6 => (String::new(), complete(&case.rules)),
        };
        let sysctl: BTreeMap<_, _> = case.sysctls.iter().cloned().collect();
        let nft: Vec<String> = case.nft.iter().map(ToString::to_string).collect();
        let nft = nft.join("\n");
        let command = json!({"op": "restore", "v4": v4, "v6": v6, "nft": nft, "sysctl": sysctl});
        match self.ask(&command).get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(()),
        }
    }

    /// Fills the table of connections; returns how many there may be, and how many there are.
    pub(crate) fn fill(&mut self, assured: bool) -> (u32, u32) {
        let answer = self.ask(&json!({"op": "fill", "assured": assured}));
        let number = |name: &str| u32::try_from(answer[name].as_u64().unwrap()).unwrap();
        (number("max"), number("count"))
    }

    /// Takes away some of the connections with which the table was filled.
    pub(crate) fn forget(&mut self, from: u32, count: u32) {
        self.ask(&json!({"op": "forget", "from": from, "count": count}));
    }

    /// Returns what `nft list ruleset` prints.
    pub(crate) fn nft(&mut self) -> String {
        let answer = self.ask(&json!({"op": "nft"}));
        answer["text"].as_str().unwrap().to_owned()
    }

    /// Sends one packet.
    pub(crate) fn send(&mut self, shot: &Shot) -> Seen {
        let dev = shot.port.name();
        let family = match shot.family() {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        let frame: String = shot.bytes().iter().map(|b| format!("{b:02x}")).collect();
        let command = json!({"op": "send", "dev": dev, "family": family, "frame": frame});
        let answer = self.ask(&command);
        let frames = answer["frames"].as_array().unwrap().iter().map(|pair| {
            let dev = pair[0].as_str().unwrap();
            let bytes = unhex(pair[1].as_str().unwrap());
            match bytes::decode(&bytes) {
                Some(frame) => format!("{dev}: {}", bytes::describe(&frame)),
                None => format!("{dev}: {bytes:02x?}"),
            }
        });
        let mut counters = BTreeMap::new();
        for (chain, counts) in answer["counters"].as_object().unwrap() {
            let counts: Vec<u64> = counts
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_u64().unwrap())
                .collect();
            if counts.iter().any(|n| *n > 0) {
                counters.insert(chain.clone(), counts);
            }
        }
        // A raw socket is told what a TCP socket is not: that its segment was dropped.
        let told = !matches!(shot.packet.transport, Transport::Tcp(_));
        let errno = answer["errno"].as_str().unwrap();
        Seen {
            errno: if told || errno != "EPERM" {
                errno.to_owned()
            } else {
                String::new()
            },
            frames: frames.collect(),
            counters,
            delivered: answer["delivered"].as_u64().unwrap(),
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: u8| (c as char).to_digit(16).unwrap() as u8;
    text.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

impl Port {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::A => "a0",
            Self::B => "b0",
            Self::Local => "local",
        }
    }
}
