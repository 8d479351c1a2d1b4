//! Commands that send packets and say what came back: `ping`, `traceroute`, `curl`, `dig`.
//!
//! # Fidelity
//! Lines are those of iputils, of Dmitry Butskoy's traceroute with `-n` and one probe per hop, and of curl, as far as
//! what they say exists here. A name is looked up by curl and dig only; the others want an address. The body that curl prints
//! is the name of the pod that answered, and what kube-proxy says on its health check ports.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use podwire_models::base::Errno;
use podwire_models::wire::{IcmpError, L4};

use crate::attempt::{AttemptError, Request, Source};
use crate::lab::Lab;
use crate::program::Program;
use crate::scenario::address::Target;
use crate::traffic::icmp::{
    HopAnswer, Ping, PingOutcome, PingSettings, TraceMethod, Traceroute, TracerouteSettings,
};
use crate::traffic::{self, Outcome, ProbeOutcome, ProbeResult};

mod dig;

pub use dig::Dig;

/// A command that sends packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `ping [-c COUNT] ADDRESS`
    Ping {
        /// Requests.
        count: u16,
        /// To whom.
        remote: IpAddr,
    },
    /// `traceroute [-n] [-I] [-m HOPS] ADDRESS`
    Traceroute {
        /// Echo requests rather than datagrams.
        echo: bool,
        /// Largest time to live.
        hops: u8,
        /// To whom.
        remote: IpAddr,
    },
    /// `curl [-s] [-m SECONDS] URL`
    Curl {
        /// What is asked for.
        url: Target,
        /// Host and port, for messages.
        host: (String, u16),
        /// How long it may take.
        timeout: Duration,
    },
    /// `dig NAME [TYPE] [@SERVER] [+short] [+search] [-x ADDRESS]`
    Dig(Dig),
}

impl Tool {
    /// How the commands are written, for messages.
    pub const KNOWN: &str = "ping [-c COUNT] ADDRESS, traceroute [-n] [-I] [-m HOPS] ADDRESS, curl [-s] [-m SECONDS] URL, dig NAME [TYPE] [@ADDRESS] [+short] [+search] [-x ADDRESS]";

    /// Reads a command from its words; nothing if it is another one.
    ///
    /// # Errors
    /// What is wrong with its arguments.
    pub fn parse(words: &[&str]) -> Option<Result<Self, String>> {
        let (name, rest) = words.split_first()?;
        match *name {
            "ping" => Some(Self::ping(rest)),
            "traceroute" => Some(Self::traceroute(rest)),
            "curl" => Some(Self::curl(rest)),
            "dig" => Some(Dig::parse(rest).map(Self::Dig)),
            _ => None,
        }
    }

    fn ping(words: &[&str]) -> Result<Self, String> {
        let mut options = Options::new("ping", words);
        let count = options.number("-c")?.unwrap_or(1);
        options.flag("-n");
        let remote = options.address()?;
        Ok(Self::Ping { count, remote })
    }

    fn traceroute(words: &[&str]) -> Result<Self, String> {
        let mut options = Options::new("traceroute", words);
        options.flag("-n");
        let echo = options.flag("-I");
        let hops = options.number("-m")?.unwrap_or(30);
        let remote = options.address()?;
        Ok(Self::Traceroute { echo, hops, remote })
    }

    fn curl(words: &[&str]) -> Result<Self, String> {
        let mut options = Options::new("curl", words);
        options.flag("-s");
        let seconds: u32 = options.number("-m")?.unwrap_or(5);
        let word = options.only()?;
        let whole = if word.contains("://") {
            word
        } else {
            format!("http://{word}")
        };
        match whole.parse() {
            Ok(Target::Url {
                tls,
                host,
                port,
                path,
            }) => Ok(Self::Curl {
                host: (host.clone(), port),
                url: Target::Url {
                    tls,
                    host,
                    port,
                    path,
                },
                timeout: Duration::from_secs(seconds.into()),
            }),
            Ok(_) | Err(_) => Err(format!("curl: `{whole}` is no URL such as http://cart:80/")),
        }
    }

    /// Returns the program, and whether it receives what raw ICMP sockets receive.
    ///
    /// # Errors
    /// If there is nobody of that name.
    pub fn program(&self, lab: &Lab, source: &Source) -> Result<(Program, bool), AttemptError> {
        Ok(match self {
            Self::Ping { count, remote } => {
                let settings = PingSettings {
                    count: *count,
                    ..PingSettings::default()
                };
                let ping = Ping::new(*remote, settings);
                (Program::Ping(Box::new(ping)), true)
            }
            Self::Traceroute { echo, hops, remote } => {
                let settings = TracerouteSettings {
                    method: if *echo {
                        TraceMethod::Echo
                    } else {
                        TraceMethod::Udp
                    },
                    max_hops: *hops,
                    ..TracerouteSettings::default()
                };
                let traceroute = Traceroute::new(*remote, settings);
                (Program::Traceroute(Box::new(traceroute)), true)
            }
            Self::Curl { url, timeout, .. } => {
                let request = Request::new(url.clone(), L4::Tcp, *timeout);
                let probe = lab.probe(source, &request)?;
                (Program::Probe(Box::new(probe)), false)
            }
            Self::Dig(dig) => {
                let settings = dig.settings(&source.resolv_conf);
                (
                    Program::Dig(Box::new(traffic::dig::Dig::new(settings))),
                    false,
                )
            }
        })
    }

    /// Whether the command has ended with this outcome of its program: curl looks a name up first.
    pub const fn ends(&self, outcome: &Outcome) -> bool {
        match self {
            Self::Ping { .. } => matches!(outcome, Outcome::Ping(_)),
            Self::Traceroute { .. } => matches!(outcome, Outcome::Traceroute(_)),
            Self::Curl { .. } => matches!(outcome, Outcome::Probe(_)),
            Self::Dig(_) => matches!(outcome, Outcome::Dig(_)),
        }
    }

    /// Returns what the command prints in the end.
    pub fn output(&self, outcome: &Outcome) -> String {
        match (self, outcome) {
            (Self::Ping { remote, .. }, Outcome::Ping(ping)) => pinged(*remote, ping),
            (Self::Traceroute { hops, remote, .. }, Outcome::Traceroute(found)) => {
                let mut text = format!(
                    "traceroute to {remote} ({remote}), {hops} hops max, 60 byte packets\n"
                );
                for hop in found {
                    let mark = match hop.answer {
                        HopAnswer::Router | HopAnswer::Destination | HopAnswer::Silence => "",
                        HopAnswer::Unreachable(error) => unreachable_mark(error),
                    };
                    // Writing to a string cannot fail.
                    let _ = match hop.from {
                        Some(from) => {
                            writeln!(text, "{:2}  {from}  {} ms{mark}", hop.ttl, millis(hop.rtt))
                        }
                        None => writeln!(text, "{:2}  *", hop.ttl),
                    };
                }
                text
            }
            (Self::Curl { host, .. }, Outcome::Probe(probe)) => curled(host, probe),
            (Self::Dig(dig), Outcome::Dig(found)) => dig.output(found),
            (_, other) => format!("{other}\n"),
        }
    }
}

/// Milliseconds with three decimals.
fn millis(time: Duration) -> String {
    let micros = time.as_micros();
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

fn pinged(remote: IpAddr, ping: &PingOutcome) -> String {
    let mut text = format!("PING {remote} ({remote}) 56(84) bytes of data.\n");
    let mut received = 0_u32;
    for answer in &ping.answers {
        // Writing to a string cannot fail.
        let _ = match answer.error {
            None => {
                received += 1;
                let (from, seq, ttl) = (answer.from, answer.seq, answer.ttl);
                let time = millis(answer.rtt);
                writeln!(
                    text,
                    "64 bytes from {from}: icmp_seq={seq} ttl={ttl} time={time} ms"
                )
            }
            Some(error) => {
                let says = ping_words(error);
                writeln!(text, "From {} icmp_seq={} {says}", answer.from, answer.seq)
            }
        };
    }
    let sent = u32::from(ping.sent);
    let lost = 100 * sent.saturating_sub(received) / sent.max(1);
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n--- {remote} ping statistics ---\n{sent} packets transmitted, {received} received, {lost}% packet loss\n"
    );
    text
}

/// What ping calls an error (`pr_icmph` of iputils).
fn ping_words(error: IcmpError) -> String {
    match error {
        IcmpError::NetUnreachable => "Destination Net Unreachable".to_owned(),
        IcmpError::HostUnreachable => "Destination Host Unreachable".to_owned(),
        IcmpError::ProtoUnreachable => "Destination Protocol Unreachable".to_owned(),
        IcmpError::PortUnreachable => "Destination Port Unreachable".to_owned(),
        IcmpError::FragmentationNeeded { mtu } => {
            format!("Frag needed and DF set (mtu = {mtu})")
        }
        IcmpError::NetProhibited => "Destination Net Prohibited".to_owned(),
        IcmpError::HostProhibited => "Destination Host Prohibited".to_owned(),
        IcmpError::AdminProhibited => "Packet filtered".to_owned(),
        IcmpError::PolicyFail => "Destination unreachable: Failed policy".to_owned(),
        IcmpError::RejectRoute => "Destination unreachable: Reject route".to_owned(),
        IcmpError::TimeExceeded => "Time to live exceeded".to_owned(),
    }
}

/// The mark traceroute puts behind an answer that says the rest cannot be reached.
const fn unreachable_mark(error: IcmpError) -> &'static str {
    match error {
        IcmpError::NetUnreachable => " !N",
        IcmpError::HostUnreachable => " !H",
        IcmpError::ProtoUnreachable => " !P",
        IcmpError::FragmentationNeeded { .. } => " !F",
        IcmpError::AdminProhibited
        | IcmpError::NetProhibited
        | IcmpError::HostProhibited
        | IcmpError::PolicyFail
        | IcmpError::RejectRoute => " !X",
        IcmpError::PortUnreachable | IcmpError::TimeExceeded => "",
    }
}

fn curled((host, port): &(String, u16), probe: &ProbeOutcome) -> String {
    let after = probe.after.as_millis();
    match (probe.result, probe.errno) {
        (ProbeResult::Connected, _) => match &probe.http {
            Some(answer) => answer.body.clone(),
            None => format!("{}\n", probe.server.as_deref().unwrap_or_default()),
        },
        (ProbeResult::DnsFailure, _) => format!("curl: (6) Could not resolve host: {host}\n"),
        (ProbeResult::Timeout, None) => {
            format!("curl: (28) Connection timed out after {after} milliseconds\n")
        }
        (ProbeResult::Reset, _) | (_, Some(Errno::EPIPE)) => {
            "curl: (56) Recv failure: Connection reset by peer\n".to_owned()
        }
        (ProbeResult::Refused | ProbeResult::Unreachable | ProbeResult::Timeout, _) => format!(
            "curl: (7) Failed to connect to {host} port {port} after {after} ms: Couldn't connect to server\n"
        ),
    }
}

/// The words behind a command's name, as they are used up.
struct Options<'a> {
    command: &'a str,
    words: Vec<&'a str>,
}

impl<'a> Options<'a> {
    fn new(command: &'a str, words: &[&'a str]) -> Self {
        Self {
            command,
            words: words.to_vec(),
        }
    }

    fn flag(&mut self, name: &str) -> bool {
        let before = self.words.len();
        self.words.retain(|word| *word != name);
        self.words.len() != before
    }

    fn number<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(position) = self.words.iter().position(|word| *word == name) else {
            return Ok(None);
        };
        self.words.remove(position);
        let value = (position < self.words.len()).then(|| self.words.remove(position));
        let number = value.and_then(|value| value.parse().ok());
        let wrong = || format!("{}: {name} takes a number", self.command);
        number.map(Some).ok_or_else(wrong)
    }

    fn only(&self) -> Result<String, String> {
        match self.words.as_slice() {
            [word] if !word.starts_with('-') => Ok((*word).to_owned()),
            _ => Err(format!(
                "{} is not called like that here; there are: {}",
                self.command,
                Tool::KNOWN
            )),
        }
    }

    fn address(&self) -> Result<IpAddr, String> {
        let word = self.only()?;
        let wrong = |_| format!("{}: `{word}` is no address", self.command);
        word.parse().map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(text: &str) -> Option<Result<Tool, String>> {
        let words: Vec<&str> = text.split_whitespace().collect();
        Tool::parse(&words)
    }

    #[test]
    fn commands_are_read_or_refused_with_their_form() {
        let remote = "10.0.0.1".parse().unwrap();
        assert_eq!(
            read("ping -c 3 10.0.0.1"),
            Some(Ok(Tool::Ping { count: 3, remote }))
        );
        assert_eq!(
            read("traceroute -n -m 4 10.0.0.1"),
            Some(Ok(Tool::Traceroute {
                echo: false,
                hops: 4,
                remote
            }))
        );
        assert!(matches!(read("curl cart:80"), Some(Ok(Tool::Curl { .. }))));
        assert_eq!(read("ip route"), None);
        for wrong in [
            "ping",
            "ping -c x 10.0.0.1",
            "ping cart",
            "traceroute -Q 10.0.0.1",
        ] {
            assert!(read(wrong).unwrap().is_err(), "{wrong}");
        }
    }

    #[test]
    fn milliseconds_have_three_decimals() {
        assert_eq!(millis(Duration::from_micros(1_005)), "1.005");
    }
}
