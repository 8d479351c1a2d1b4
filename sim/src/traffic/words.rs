//! What an application found out, in words for a trace.

use std::fmt;
use std::net::SocketAddr;

use super::icmp::HopAnswer;
use super::{End, Outcome, ProbeOutcome};

fn end((ip, port): End) -> SocketAddr {
    SocketAddr::new(ip, port)
}

impl fmt::Display for ProbeOutcome {
    /// `connected: shop/cart answered from 10.244.1.3:8080 and saw 10.244.0.3:51230`, `refused: ECONNREFUSED`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.result)?;
        if let Some(server) = &self.server {
            write!(f, ": {server} answered")?;
        }
        if let Some(answer) = &self.http {
            write!(f, ": HTTP {}", answer.status)?;
        }
        if let Some(from) = self.backend {
            write!(f, " from {}", end(from))?;
        }
        if let Some(seen) = self.seen_source {
            write!(f, " and saw {}", end(seen))?;
        }
        if let Some(errno) = self.errno {
            write!(f, ": {errno}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe(outcome) => write!(f, "{outcome}"),
            Self::Lookup(lookup) => {
                match &lookup.addresses {
                    Ok(addresses) => {
                        let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                        let name = lookup.name.as_deref().unwrap_or("the name");
                        write!(f, "{name} is {}", all.join(", "))?;
                    }
                    Err(failure) => write!(f, "no address: {}", failure.code)?,
                }
                write!(f, ", {} queries", lookup.queries)
            }
            Self::Ping(ping) => write!(
                f,
                "{}: {} of {} requests answered",
                ping.probe.result,
                ping.answers.len(),
                ping.sent
            ),
            Self::Dig(dig) => match &dig.answer {
                Some(answer) => {
                    let code = answer.dns.response.as_ref().map(|response| response.code);
                    let count = answer.dns.response.as_ref().map_or(0, |r| r.answers.len());
                    let code = code.map_or_else(String::new, |code| code.to_string());
                    write!(f, "{code} for {}, {count} records", answer.dns.name)
                }
                None => f.write_str("no servers could be reached"),
            },
            Self::Traceroute(hops) => {
                for (n, hop) in hops.iter().enumerate() {
                    let comma = if n == 0 { "" } else { ", " };
                    write!(f, "{comma}{} ", hop.ttl)?;
                    match (hop.from, &hop.answer) {
                        (_, HopAnswer::Silence) | (None, _) => f.write_str("*")?,
                        (Some(from), _) => write!(f, "{from}")?,
                    }
                }
                Ok(())
            }
        }
    }
}
