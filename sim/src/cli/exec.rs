//! `podwire exec`: what the usual tools print inside a pod or on a node.
//!
//! # Fidelity
//! The commands read the state of the simulated kernel. They take the options that select what is printed; options
//! that change anything are not there, and output that real kernels fill with things nothing here has is left out.

use clap::{Args, ValueEnum};

use podwire_models::base::{Family, Time};
use podwire_models::control::proxy::{NodeView, ServiceView, iptables};
use podwire_models::kernel::Netns;
use podwire_models::kernel::netfilter::chain::{Ruleset, Table};
use podwire_models::wire::{L4, NoRecorder};

use super::input::{InputArgs, Session};
use super::table;
use super::{Done, Report};
use crate::engine::dice::Seeded;
use crate::problem::suggestion;
use crate::scenario::Thing;
use crate::scenario::text::Moment;
use crate::story;
use crate::tool::Tool as Active;
use crate::trace::TraceRecorder;

/// Seconds after which a command that has not ended is given up.
const PATIENCE: u64 = 3600;
/// What is said then.
const LATE: &str = "the command had not ended after an hour\n";

const EXAMPLES: &str = "\
Commands:
  iptables-save [-t TABLE]      rules of the packet filter, IPv4
  ip6tables-save [-t TABLE]     the same, IPv6
  ip [-4|-6] route [show table main|local]
  ip [-4|-6] addr
  ip link
  ip neigh
  bridge fdb
  conntrack -L
  ss -l [-t] [-u] [-n]          what listens
  sysctl -a | sysctl NAME…
  ping [-c COUNT] ADDRESS
  traceroute [-n] [-I] [-m HOPS] ADDRESS
  curl [-s] [-m SECONDS] URL
  dig NAME [TYPE] [@ADDRESS] [+short] [+search] [-x ADDRESS]

Examples:
  podwire exec node/node-a -f shop.yaml -- iptables-save
  podwire exec node/node-a -f shop.yaml --component kube-proxy -- iptables-save
  podwire exec pod/shop/cart-0 -f shop.yaml -- ip route
  podwire exec deploy/shop/cart -f shop.yaml -- ss -ltn
  podwire exec pod/shop/client -f shop.yaml -- curl http://cart:80/
  podwire exec pod/shop/client -f shop.yaml -- dig +search cart
  podwire exec node/node-a -f scenarios/lifecycle/pod_killed.ron --at 5200ms -- conntrack -L";

/// Run a look-alike of a usual tool inside a pod, on a node or on an outside host
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExecArgs {
    /// Where: pod/NAMESPACE/NAME, deploy/NAMESPACE/NAME (its first pod), node/NAME or host/NAME
    #[arg(value_name = "THING")]
    thing: Thing,
    /// Of iptables-save, print only what this component wrote, as if it were alone on the node
    #[arg(long, value_name = "NAME")]
    component: Option<Component>,
    /// At which moment of a scenario's story, after everything that is done then [default: before the story begins]
    #[arg(long, value_name = "TIME")]
    at: Option<Moment>,
    #[command(flatten)]
    input: InputArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Who writes rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Component {
    /// kube-proxy in iptables mode.
    KubeProxy,
}

/// A command that exists here, read from its words.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tool {
    Save {
        family: Family,
        table: Option<Table>,
        component: Option<Component>,
    },
    Route {
        family: Family,
        local: bool,
    },
    Addr,
    Link,
    Neigh,
    Fdb,
    Conntrack,
    Listening {
        tcp: bool,
        udp: bool,
    },
    AllSysctls,
    Sysctls {
        names: Vec<String>,
        bare: bool,
    },
}

/// Names of the commands, for messages.
const TOOLS: [&str; 7] = [
    "iptables-save",
    "ip6tables-save",
    "ip",
    "bridge",
    "conntrack",
    "ss",
    "sysctl",
];

pub(super) fn run(args: &ExecArgs) -> Done {
    let words: Vec<&str> = args.command.iter().map(String::as_str).collect();
    if let Some(active) = Active::parse(&words) {
        return send(args, &active.map_err(Report::bad_input)?);
    }
    let mut tool = Tool::read(&words).map_err(Report::bad_input)?;
    if let Tool::Save { component, .. } = &mut tool {
        *component = component.or(args.component);
    } else if args.component.is_some() {
        return Err(Report::bad_input(
            "--component goes with iptables-save and ip6tables-save only",
        ));
    }
    let (session, machines, now) = if let Some(told) = args.input.story(args.at)? {
        let now = told.at;
        let session = told.session();
        let machines = session.lab.machines.clone();
        (session, machines, now)
    } else {
        let session = args.input.settle()?;
        let dice = Seeded::new(session.seed);
        let machines = session.lab.start(dice, TraceRecorder::new()).machines;
        (session, machines, Time::ZERO)
    };
    let (netns, note) = session.netns(&args.thing)?;
    let Some(netns) = machines.cluster.netns(netns) else {
        return Err(Report::bad_input(format!("{} does not run", args.thing)));
    };
    let stdout = tool.output(netns, now, &args.thing, &session)?;
    let note = note.map_or_else(String::new, |note| note + "\n");
    Ok(Report {
        stderr: note + &session.notes(),
        ..Report::well(stdout)
    })
}

/// Runs a command that sends packets in a cluster where nothing else happens.
fn send(args: &ExecArgs, tool: &Active) -> Done {
    if args.component.is_some() {
        return Err(Report::bad_input(
            "--component goes with iptables-save and ip6tables-save only",
        ));
    }
    let wrong = |error: crate::attempt::AttemptError| Report::bad_input(error.to_string());
    if let Some(told) = args.input.story(args.at)? {
        let command = args.command.join(" ");
        let asked = (&args.thing, command.as_str(), tool);
        let printed = story::moment::command(&told.story, told.seed, told.at, asked);
        let printed = printed.map_err(wrong)?;
        return Ok(Report {
            stderr: if printed.is_some() {
                told.said
            } else {
                LATE.to_owned()
            },
            ..Report::well(printed.unwrap_or_default())
        });
    }
    let session = args.input.settle()?;
    let lab = &session.lab;
    let source = lab.source(&args.thing).map_err(wrong)?;
    let (program, raw) = tool.program(lab, &source).map_err(wrong)?;
    let mut simulation = lab.start(Seeded::new(session.seed), NoRecorder);
    let name = format!("command {}", args.command.join(" "));
    let app = simulation.add_app(source.netns, &name, program);
    if raw {
        simulation.listen_raw(app);
    }
    simulation.start_at(Time::ZERO, app);
    let limit = Time::from_secs(PATIENCE);
    let stdout = loop {
        let mut outcomes = simulation.outcomes(app).iter();
        if let Some(outcome) = outcomes.find(|outcome| tool.ends(outcome)) {
            break tool.output(outcome);
        }
        if !simulation.step(limit) {
            break String::new();
        }
    };
    Ok(Report {
        stderr: if stdout.is_empty() {
            LATE.to_owned()
        } else {
            session.notes()
        },
        ..Report::well(stdout)
    })
}

impl Tool {
    fn read(words: &[&str]) -> Result<Self, String> {
        let (name, rest) = words.split_first().ok_or("which command?")?;
        let wrong =
            |word: &str| format!("`{name}` does not know `{word}` here; see `podwire exec --help`");
        match *name {
            "iptables-save" => Self::save(Family::V4, rest).map_err(|word| wrong(&word)),
            "ip6tables-save" => Self::save(Family::V6, rest).map_err(|word| wrong(&word)),
            "ip" => Self::ip(rest).map_err(|word| wrong(&word)),
            "bridge" => match rest {
                ["fdb"] | ["fdb", "show" | "list"] => Ok(Self::Fdb),
                _ => Err(wrong(&rest.join(" "))),
            },
            "conntrack" => match rest {
                ["-L" | "--dump"] | ["-L" | "--dump", "conntrack"] => Ok(Self::Conntrack),
                _ => Err(wrong(&rest.join(" "))),
            },
            "ss" => Self::ss(rest).map_err(|word| wrong(&word)),
            "sysctl" => match rest {
                ["-a" | "--all"] => Ok(Self::AllSysctls),
                ["-n", names @ ..] => Ok(Self::sysctls(names, true)),
                [] => Err("sysctl: which setting? `sysctl -a` prints all".to_owned()),
                [option, ..] if option.starts_with('-') => Err(wrong(option)),
                names => Ok(Self::sysctls(names, false)),
            },
            other => {
                let near = suggestion(other, TOOLS);
                let near =
                    near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                Err(format!(
                    "there is no command `{other}` here{near}\nthere are: {}",
                    TOOLS.join(", ")
                ))
            }
        }
    }

    fn save(family: Family, words: &[&str]) -> Result<Self, String> {
        let (mut table, mut component) = (None, None);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (option, given) = word.split_once('=').unwrap_or((word, ""));
            let mut value = || match given {
                "" => words.next().copied().unwrap_or_default(),
                given => given,
            };
            match option {
                "-t" | "--table" => {
                    let name = value();
                    let named = Table::PRINTED.into_iter().find(|t| t.name() == name);
                    table = Some(named.ok_or_else(|| format!("{option} {name}"))?);
                }
                "--component" => match value() {
                    "kube-proxy" => component = Some(Component::KubeProxy),
                    other => return Err(format!("{option} {other}")),
                },
                other => return Err(other.to_owned()),
            }
        }
        Ok(Self::Save {
            family,
            table,
            component,
        })
    }

    /// Reads what follows `ip`, whose words may be shortened.
    fn ip(words: &[&str]) -> Result<Self, String> {
        let (family, words) = match words {
            ["-4", rest @ ..] => (Family::V4, rest),
            ["-6", rest @ ..] => (Family::V6, rest),
            rest => (Family::V4, rest),
        };
        let Some((object, rest)) = words.split_first() else {
            return Err(String::new());
        };
        let is = |full: &str| !object.is_empty() && full.starts_with(object);
        let rest = match rest {
            ["show" | "list" | "ls" | "s" | "sh", rest @ ..] => rest,
            rest => rest,
        };
        match rest {
            [] if is("address") => Ok(Self::Addr),
            [] if is("link") => Ok(Self::Link),
            [] if is("neighbour") || is("neighbor") => Ok(Self::Neigh),
            [] | ["table", "main"] if is("route") => Ok(Self::Route {
                family,
                local: false,
            }),
            ["table", "local"] if is("route") => Ok(Self::Route {
                family,
                local: true,
            }),
            _ => Err(words.join(" ")),
        }
    }

    fn ss(words: &[&str]) -> Result<Self, String> {
        let (mut listening, mut tcp, mut udp) = (false, false, false);
        for word in words {
            let long = match *word {
                "--listening" => "l",
                "--tcp" => "t",
                "--udp" => "u",
                "--numeric" => "n",
                other => other.strip_prefix('-').ok_or_else(|| other.to_owned())?,
            };
            for letter in long.chars() {
                match letter {
                    'l' => listening = true,
                    't' => tcp = true,
                    'u' => udp = true,
                    'n' => {}
                    _ => return Err((*word).to_owned()),
                }
            }
        }
        if !listening {
            return Err(words.join(" ") + " (without -l)");
        }
        let both = tcp == udp;
        Ok(Self::Listening {
            tcp: tcp || both,
            udp: udp || both,
        })
    }

    fn sysctls(names: &[&str], bare: bool) -> Self {
        let names = names.iter().map(|name| name.replace('/', "."));
        Self::Sysctls {
            names: names.collect(),
            bare,
        }
    }

    fn output(
        &self,
        netns: &Netns,
        now: Time,
        thing: &Thing,
        session: &Session,
    ) -> Result<String, Report> {
        Ok(match self {
            Self::Save {
                family,
                table,
                component,
            } => {
                let rules = match component {
                    Some(Component::KubeProxy) => Some(kube_proxy(thing, *family, session)?),
                    None => netns
                        .netfilter
                        .as_ref()
                        .and_then(|filter| filter.rules(*family))
                        .map(|rules| rules.ruleset().clone()),
                };
                rules.map_or_else(String::new, |rules| save(&rules, *family, *table))
            }
            Self::Route {
                family,
                local: false,
            } => netns.show_route(*family),
            Self::Route {
                family,
                local: true,
            } => netns.show_route_local(*family),
            Self::Addr => netns.show_addr(),
            Self::Link => netns.show_link(),
            Self::Neigh => netns.show_neigh(now),
            Self::Fdb => netns.show_fdb(),
            Self::Conntrack => netns
                .conntrack
                .as_ref()
                .map_or_else(String::new, |table| table.list(now)),
            Self::Listening { tcp, udp } => listening(netns, *tcp, *udp),
            Self::AllSysctls => netns.show_sysctl(),
            Self::Sysctls { names, bare } => {
                let mut text = String::new();
                for name in names {
                    let Some(value) = netns.sysctls.text(name) else {
                        return Err(Report::bad_input(format!(
                            "sysctl: there is no setting `{name}` here; `sysctl -a` prints all"
                        )));
                    };
                    if !bare {
                        text = text + name + " = ";
                    }
                    text = text + &value + "\n";
                }
                text
            }
        })
    }
}

fn save(rules: &Ruleset, family: Family, table: Option<Table>) -> String {
    let Some(table) = table else {
        return rules.save(family);
    };
    let mut text = String::new();
    if let Some(rules) = rules.tables.get(&table) {
        rules.save(table, family, &mut text);
    }
    text
}

/// Returns the rules kube-proxy writes on a node for the Services of the input, as if it were alone there.
fn kube_proxy(thing: &Thing, family: Family, session: &Session) -> Result<Ruleset, Report> {
    let lab = &session.lab;
    let node = match thing {
        Thing::Node(name) => lab
            .objects
            .nodes
            .get(name)
            .zip(lab.machines.nodes.get(name)),
        Thing::Pod(_) | Thing::Workload { .. } | Thing::Host(_) => None,
    };
    let Some((node, machine)) = node else {
        let says = format!("kube-proxy runs on nodes, not on {thing}");
        return Err(Report::bad_input(says));
    };
    let mut flags = lab.plan.flags.clone();
    if flags.cluster_cidr.is_empty() {
        flags.cluster_cidr.clone_from(&lab.plan.site.pod_cidrs);
    }
    let services = lab.objects.services.values();
    let given = services.filter(|service| session.services.contains(&service.key));
    let view = ServiceView::new(given, &lab.slices, family);
    let node = NodeView::new(node, session.addresses_of(machine.netns, family));
    Ok(iptables::ruleset(&view, &node, &flags, lab.plan.version))
}

/// Returns what `ss -ln` prints: every bound socket.
fn listening(netns: &Netns, tcp: bool, udp: bool) -> String {
    let mut rows: Vec<[String; 6]> = Vec::new();
    for (l4, addr, port) in netns.sockets.listening() {
        let (name, state, backlog) = match l4 {
            L4::Tcp if tcp => ("tcp", "LISTEN", "4096"),
            L4::Udp if udp => ("udp", "UNCONN", "0"),
            L4::Tcp | L4::Udp | L4::Sctp | L4::Icmp => continue,
        };
        let local = match addr {
            None => format!("*:{port}"),
            Some(ip) => std::net::SocketAddr::new(ip, port).to_string(),
        };
        let cells = [name, state, "0", backlog, &local, "*:*"];
        rows.push(cells.map(str::to_owned));
    }
    let header = [
        "Netid",
        "State",
        "Recv-Q",
        "Send-Q",
        "Local Address:Port",
        "Peer Address:Port",
    ];
    if tcp == udp {
        return table::text(&header, rows);
    }
    let rows = rows.into_iter().map(|[_, rest @ ..]| rest);
    let [_, header @ ..] = header;
    table::text(&header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_as_people_type_them() {
        let read = |text: &str| Tool::read(&text.split(' ').collect::<Vec<_>>());
        assert_eq!(read("ip a"), Ok(Tool::Addr));
        assert_eq!(read("ip addr show"), Ok(Tool::Addr));
        let v6 = Tool::Route {
            family: Family::V6,
            local: true,
        };
        assert_eq!(read("ip -6 r show table local"), Ok(v6));
        assert_eq!(read("ip neigh"), Ok(Tool::Neigh));
        let tcp = Tool::Listening {
            tcp: true,
            udp: false,
        };
        assert_eq!(read("ss -ltn"), Ok(tcp.clone()));
        assert_eq!(read("ss -l -t --numeric"), Ok(tcp));
        assert!(read("ss -tn").is_err());
        assert!(read("ip route add 10.0.0.0/8").is_err());
        assert!(read("iptables-save -t nonsense").is_err());
        let error = read("iptable-save").expect_err("there is none");
        assert!(error.contains("did you mean `iptables-save`"), "{error}");
    }
}
