//! `dig`, as that of BIND 9.18 reads its words and prints.
//!
//! # Fidelity
//! It is `dig +noedns`, and the line with the date is left out. The server's authority section is not modelled, so the
//! SOA record that comes with NXDOMAIN and NODATA is missing. `MSG SIZE` is the simulated message's, whose names are
//! short where they repeat. A server is given by its address.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use podwire_models::base::Errno;
use podwire_models::control::dns::flavour::Flavour;
use podwire_models::control::dns::records::reverse_name;
use podwire_models::control::dns::resolver::ResolvConf;
use podwire_models::wire::{DnsRecord, DnsResponse, RecordType, ResponseCode};

use crate::traffic::dig::{DigAnswer, DigFailure, DigOutcome, DigSettings};

/// The version whose output is printed.
const VERSION: &str = "9.18.49";

/// What `dig` was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dig {
    /// The words behind `dig`.
    words: String,
    name: String,
    record_type: RecordType,
    server: Option<IpAddr>,
    /// `+short`
    short: bool,
    /// `+search`
    search: bool,
}

impl Dig {
    /// Reads the words behind `dig`.
    pub(super) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut dig = Self {
            words: words.join(" "),
            name: String::new(),
            record_type: RecordType::A,
            server: None,
            short: false,
            search: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let upper = word.to_ascii_uppercase();
            let named = RecordType::ALL.into_iter().find(|t| t.to_string() == upper);
            let about = |what: &str| format!("dig: {what}");
            if let Some(server) = word.strip_prefix('@') {
                let wrong = |_| about(&format!("`@{server}`: a server is given by its address"));
                dig.server = Some(server.parse().map_err(wrong)?);
            } else if *word == "-x" {
                let address = words.next().and_then(|word| word.parse().ok());
                let address = address.ok_or_else(|| about("-x takes an address"))?;
                dig.name = reverse_name(address);
                dig.record_type = RecordType::Ptr;
            } else if *word == "-t" {
                let wanted = words.next().map(|word| word.to_ascii_uppercase());
                let known = |t: &RecordType| Some(t.to_string()) == wanted;
                let found = RecordType::ALL.into_iter().find(known);
                dig.record_type = found.ok_or_else(|| about(&unknown_type()))?;
            } else if let Some(option) = word.strip_prefix('+') {
                match option {
                    "short" => dig.short = true,
                    "noshort" => dig.short = false,
                    "search" => dig.search = true,
                    "nosearch" => dig.search = false,
                    // This is how it is here.
                    "noedns" | "nocookie" | "cmd" => {}
                    _ => return Err(about(&format!("there is no `+{option}` here"))),
                }
            } else if word.starts_with('-') {
                return Err(about(&format!("there is no `{word}` here")));
            } else if let Some(named) = named {
                dig.record_type = named;
            } else if dig.name.is_empty() {
                dig.name = (*word).to_ascii_lowercase();
            } else {
                return Err(about(&format!(
                    "`{word}`: one name is asked at a time; {}",
                    unknown_type()
                )));
            }
        }
        if dig.name.is_empty() {
            return Err("dig: which name?".to_owned());
        }
        Ok(dig)
    }

    /// Returns the question as a pod with this `resolv.conf` asks it.
    pub(super) fn settings(&self, conf: &ResolvConf) -> DigSettings {
        let loopback = [
            IpAddr::from([127, 0, 0, 1]),
            std::net::Ipv6Addr::LOCALHOST.into(),
        ];
        let servers: &[IpAddr] = match &self.server {
            Some(server) => std::slice::from_ref(server),
            None if conf.nameservers.is_empty() => &loopback,
            None => &conf.nameservers,
        };
        let servers = servers.iter().map(|ip| (*ip, 53)).collect();
        DigSettings::new(self.names(conf), self.record_type, servers)
    }

    /// The name alone; with `+search` and fewer dots than `ndots`, below each domain of the search list before.
    fn names(&self, conf: &ResolvConf) -> Vec<Arc<str>> {
        let dots = self.name.bytes().filter(|byte| *byte == b'.').count();
        if self.search && dots < conf.ndots {
            return conf.candidates(&self.name, Flavour::Glibc);
        }
        let dot = if self.name.ends_with('.') { "" } else { "." };
        vec![format!("{}{dot}", self.name).into()]
    }

    /// Returns what is printed.
    pub(super) fn output(&self, outcome: &DigOutcome) -> String {
        let mut text = String::new();
        for ((server, port), failure) in &outcome.failures {
            let says = match failure {
                DigFailure::TimedOut => "timed out".to_owned(),
                DigFailure::Errno(errno) => errno_words(*errno),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, ";; communications error to {server}#{port}: {says}");
        }
        let answer = outcome.answer.as_ref();
        let response = answer.and_then(|answer| Some((answer, answer.dns.response.as_ref()?)));
        match response {
            Some((_, response)) if self.short => {
                for record in &response.answers {
                    let _ = writeln!(text, "{}", record.data);
                }
                return text;
            }
            Some((answer, response)) => {
                self.greet(&mut text);
                told(&mut text, answer, response);
            }
            None => {
                self.greet(&mut text);
                text.push_str(";; no servers could be reached\n");
            }
        }
        text.push('\n');
        text
    }

    fn greet(&self, text: &mut String) {
        let _ = writeln!(text, "\n; <<>> DiG {VERSION} <<>> {}", self.words);
        if self.server.is_some() {
            text.push_str("; (1 server found)\n");
        }
        text.push_str(";; global options: +cmd\n");
    }
}

fn unknown_type() -> String {
    let all = RecordType::ALL.map(|t| t.to_string());
    format!("the types are {}", all.join(", "))
}

/// The words of `isc_result_totext`.
fn errno_words(errno: Errno) -> String {
    match errno {
        Errno::ECONNREFUSED => "connection refused".to_owned(),
        Errno::EHOSTUNREACH | Errno::EHOSTDOWN => "host unreachable".to_owned(),
        Errno::ENETUNREACH | Errno::ENONET => "network unreachable".to_owned(),
        Errno::EPERM | Errno::EACCES => "permission denied".to_owned(),
        Errno::ETIMEDOUT => "timed out".to_owned(),
        Errno::EADDRINUSE
        | Errno::EADDRNOTAVAIL
        | Errno::EAGAIN
        | Errno::ECONNRESET
        | Errno::EINVAL
        | Errno::EMSGSIZE
        | Errno::ENOBUFS
        | Errno::ENOPROTOOPT
        | Errno::EOPNOTSUPP
        | Errno::EPIPE => errno.to_string(),
    }
}

fn told(text: &mut String, answer: &DigAnswer, response: &DnsResponse) {
    let (dns, code) = (&answer.dns, response.code);
    text.push_str(";; Got answer:\n");
    if dns.name.ends_with(".local.") {
        text.push_str(
            ";; WARNING: .local is reserved for Multicast DNS\n\
             ;; You are currently testing what happens when an mDNS query is leaked to DNS\n",
        );
    }
    let authoritative = match code {
        ResponseCode::NoError | ResponseCode::NxDomain => " aa",
        ResponseCode::ServFail | ResponseCode::Refused => "",
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        ";; ->>HEADER<<- opcode: QUERY, status: {code}, id: {}\n\
         ;; flags: qr{authoritative} rd; QUERY: 1, ANSWER: {}, AUTHORITY: 0, ADDITIONAL: 0\n\
         ;; WARNING: recursion requested but not available\n",
        dns.id,
        response.answers.len()
    );
    let mut question = Columns::default();
    question.put(&dns.name, 32);
    question.put("IN", 40);
    question.put(&dns.record_type.to_string(), 0);
    let _ = writeln!(text, ";; QUESTION SECTION:\n;{}\n", question.line);
    if !response.answers.is_empty() {
        text.push_str(";; ANSWER SECTION:\n");
        for answer in &response.answers {
            let _ = writeln!(text, "{}", record(answer));
        }
        text.push('\n');
    }
    let (server, port) = answer.server;
    let _ = writeln!(
        text,
        ";; Query time: {} msec\n;; SERVER: {server}#{port}({server}) (UDP)\n;; MSG SIZE  rcvd: {}",
        answer.after.as_millis(),
        dns.len()
    );
}

fn record(record: &DnsRecord) -> String {
    let mut line = Columns::default();
    line.put(&record.name, 24);
    line.put(&record.ttl.to_string(), 32);
    line.put("IN", 40);
    line.put(&record.data.record_type().to_string(), 48);
    line.put(&record.data.to_string(), 0);
    line.line
}

/// A line whose words begin at columns, by tabs where one fits (`indent` of `lib/dns/masterdump.c`).
#[derive(Debug, Default)]
struct Columns {
    line: String,
    column: usize,
}

impl Columns {
    /// Puts a word, and goes on to a column, at least one further; 0 ends the line.
    fn put(&mut self, word: &str, next: usize) {
        self.line.push_str(word);
        self.column += word.len();
        if next == 0 {
            return;
        }
        let to = next.max(self.column + 1);
        let tabs = to / 8 - self.column / 8;
        if tabs > 0 {
            self.line.push_str(&"\t".repeat(tabs));
            self.column = to / 8 * 8;
        }
        self.line.push_str(&" ".repeat(to - self.column));
        self.column = to;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use podwire_models::wire::{Dns, RecordData};

    use podwire_models::control::dns::options::ResolverOptions;

    use super::*;

    fn read(text: &str) -> Result<Dig, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        Dig::parse(&words)
    }

    /// What the real command (9.18.49 of Debian, `+noedns`) printed of a server that answered so, but for the date.
    #[test]
    fn prints_what_the_real_one_prints() {
        let outcome = |id, name: &str, data: RecordData| {
            let record_type = data.record_type();
            let answers = vec![DnsRecord {
                name: name.into(),
                ttl: 30,
                data,
            }];
            let response = DnsResponse {
                code: ResponseCode::NoError,
                answers,
            };
            let dns = Dns {
                id,
                name: name.into(),
                record_type,
                response: Some(response),
            };
            DigOutcome {
                failures: Vec::new(),
                answer: Some(DigAnswer {
                    dns: Arc::new(dns),
                    server: ("127.0.0.1".parse().unwrap(), 5399),
                    after: Duration::from_micros(4100),
                }),
            }
        };
        let ip = RecordData::Address("10.96.0.17".parse().unwrap());
        let found = outcome(39313, "cart.shop.svc.cluster.local.", ip);
        let dig = read("@127.0.0.1 cart.shop.svc.cluster.local").unwrap();
        let wanted = "
; <<>> DiG 9.18.49 <<>> @127.0.0.1 cart.shop.svc.cluster.local
; (1 server found)
;; global options: +cmd
;; Got answer:
;; WARNING: .local is reserved for Multicast DNS
;; You are currently testing what happens when an mDNS query is leaked to DNS
;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 39313
;; flags: qr aa rd; QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 0
;; WARNING: recursion requested but not available

;; QUESTION SECTION:
;cart.shop.svc.cluster.local.\tIN\tA

;; ANSWER SECTION:
cart.shop.svc.cluster.local. 30\tIN\tA\t10.96.0.17

;; Query time: 4 msec
;; SERVER: 127.0.0.1#5399(127.0.0.1) (UDP)
";
        let printed = dig.output(&found);
        let size = printed.strip_prefix(wanted).unwrap();
        assert!(
            size.starts_with(";; MSG SIZE  rcvd: ") && size.ends_with("\n\n"),
            "{size}"
        );
        assert_eq!(read("+short cart").unwrap().output(&found), "10.96.0.17\n");
        let srv = RecordData::Srv {
            priority: 0,
            weight: 100,
            port: 80,
            target: "cart.shop.svc.cluster.local.".into(),
        };
        let found = outcome(1, "_http._tcp.cart.shop.svc.cluster.local.", srv);
        let printed = read("x SRV").unwrap().output(&found);
        for line in [
            ";_http._tcp.cart.shop.svc.cluster.local.\tIN SRV",
            "_http._tcp.cart.shop.svc.cluster.local.\t30 IN SRV 0 100 80 cart.shop.svc.cluster.local.",
        ] {
            assert!(printed.lines().any(|printed| printed == line), "{printed}");
        }
        let ip = RecordData::Address("10.96.0.1".parse().unwrap());
        let found = outcome(1, "kubernetes.default.svc.cluster.local.", ip);
        let printed = read("x").unwrap().output(&found);
        for line in [
            ";kubernetes.default.svc.cluster.local. IN A",
            "kubernetes.default.svc.cluster.local. 30 IN A\t10.96.0.1",
        ] {
            assert!(printed.lines().any(|printed| printed == line), "{printed}");
        }
    }

    #[test]
    fn words_are_read_as_the_real_one_reads_them() {
        let dig = read("-x 10.96.0.17 @10.96.0.10").unwrap();
        assert_eq!(dig.name, "17.0.96.10.in-addr.arpa.");
        assert_eq!(dig.record_type, RecordType::Ptr);
        assert_eq!(dig.server, Some("10.96.0.10".parse().unwrap()));
        let dig = read("+search +short Cart aaaa").unwrap();
        assert_eq!(
            (dig.name.as_str(), dig.record_type),
            ("cart", RecordType::Aaaa)
        );
        for wrong in [
            "",
            "A",
            "x y",
            "@kube-dns x",
            "-x cart",
            "+trace x",
            "-4 x",
            "x MX",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_search_list_counts_with_search_only() {
        let conf = ResolvConf {
            nameservers: Vec::new(),
            search: vec!["shop.svc.cluster.local".into(), "svc.cluster.local".into()],
            ndots: 2,
            options: ResolverOptions::default(),
        };
        let names = |text: &str| -> Vec<String> {
            let settings = read(text).unwrap().settings(&conf);
            settings.names.iter().map(ToString::to_string).collect()
        };
        assert_eq!(names("cart"), ["cart."]);
        let all = [
            "cart.shop.svc.cluster.local.",
            "cart.svc.cluster.local.",
            "cart.",
        ];
        assert_eq!(names("+search cart"), all);
        assert_eq!(names("+search cart."), ["cart."]);
        assert_eq!(
            names("+search SRV a.b.c"),
            ["a.b.c."],
            "as many dots as ndots"
        );
        let settings = read("cart").unwrap().settings(&conf);
        assert_eq!(settings.servers.len(), 2, "loopback of both families");
    }
}
