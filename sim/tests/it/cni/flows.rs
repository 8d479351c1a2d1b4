//! The probes of a FLOWS step, sent through the replayed namespaces: what clients and servers saw.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podwire::engine::Seeded;
use podwire::program::Program;
use podwire::simulation::{AppId, Behaviour, Simulation};
use podwire::traffic::tcp::{TcpClient, TcpServer};
use podwire::traffic::udp::UdpServer;
use podwire::traffic::{Action, AppEvent, Ctx, End, Outcome, ProbeResult, tcp, udp};
use podwire_models::base::{Dice, Errno, Family};
use podwire_models::cluster::install::Machines;
use podwire_models::wire::{
    Data, Icmp, IcmpError, L4, Message, NoRecorder, Packet, PacketId, Payload, QuotedTransport,
    Transport, Udp,
};
use serde_json::{Map, Value, json};

use super::world::World;

/// An application of a probe, and what it saw.
#[derive(Clone)]
enum App {
    Server(Server),
    Tcp(Box<TcpProbe>),
    Udp(UdpProbe),
}

/// A server as podwire has it, whose packets are looked at.
#[derive(Clone)]
struct Server {
    /// Namespace and port.
    name: String,
    inner: Box<Program>,
    /// The first packet of the running probe.
    seen: Option<(End, IpAddr, u8)>,
}

#[derive(Clone)]
struct TcpProbe {
    inner: TcpClient,
    local: Option<End>,
}

/// One datagram, with the socket options of the recording.
#[derive(Clone)]
struct UdpProbe {
    remote: End,
    size: u32,
    /// `IP_PMTUDISC_DO` or `IP_PMTUDISC_DONT`; not set is the kernel's default.
    df: Option<bool>,
    /// TTL; 0 is the kernel's default.
    ttl: u8,
    local: Option<End>,
    mtu: Option<u32>,
    reply: Option<(String, u8)>,
    failed: Option<Errno>,
    error: Option<Errno>,
    icmp: Option<(IpAddr, IcmpError)>,
}

impl Behaviour for App {
    fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        match self {
            Self::Server(server) => {
                if let AppEvent::Packet(packet) = &event
                    && let Some((sport, _)) = packet.ports()
                {
                    let first = ((packet.src, sport), packet.dst, packet.ttl);
                    server.seen.get_or_insert(first);
                }
                server.inner.handle(event, cx);
            }
            Self::Tcp(probe) => {
                if let AppEvent::Opened { local, .. } = &event {
                    probe.local = Some(*local);
                }
                probe.inner.handle(event, cx);
            }
            Self::Udp(probe) => probe.handle(event, cx),
        }
    }
}

impl UdpProbe {
    fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>) {
        match event {
            AppEvent::Start => cx.actions.push(Action::Open {
                l4: L4::Udp,
                remote: self.remote,
                connected: true,
                port: None,
            }),
            AppEvent::Opened { local, mtu, .. } => self.send(local, mtu, cx),
            AppEvent::OpenFailed { errno } | AppEvent::SendFailed { errno, .. } => {
                self.failed = Some(errno);
            }
            AppEvent::Error { errno, mtu, .. } => {
                self.error = Some(errno);
                self.mtu = mtu.or(self.mtu);
            }
            AppEvent::Packet(packet) => self.packet(&packet),
            AppEvent::Timer(_) => {}
        }
    }

    fn send<D: Dice>(&mut self, local: End, mtu: u32, cx: &mut Ctx<'_, D>) {
        (self.local, self.mtu) = (Some(local), Some(mtu));
        let message = Message::Request("ping".into());
        let mut packet = Packet {
            id: PacketId(0),
            flow: cx.flow,
            src: local.0,
            dst: self.remote.0,
            ttl: self.ttl,
            tos: 0,
            df: true,
            fragment: None,
            transport: Transport::Udp(Udp {
                sport: local.1,
                dport: self.remote.1,
            }),
            payload: Payload::Data(Data {
                len: self.size,
                message,
            }),
        };
        let fits = packet.len() <= mtu;
        if self.df == Some(true) && !fits {
            self.failed = Some(Errno::EMSGSIZE);
            return;
        }
        packet.df = self.remote.0.is_ipv6() || self.df.unwrap_or(fits);
        cx.actions.push(Action::Send(Box::new(packet)));
    }

    fn packet(&mut self, packet: &Packet) {
        let own = self.local.map(|local| (local.1, self.remote.1));
        if let Transport::Icmp(Icmp::Error { kind, about }) = &packet.transport {
            let QuotedTransport::Udp { sport, dport } = about.transport else {
                return;
            };
            if own == Some((sport, dport)) && about.dst == self.remote.0 {
                self.icmp.get_or_insert((packet.src, *kind));
            }
        } else if let Some(Message::Response { server, .. }) = packet.message()
            && self.reply.is_none()
        {
            self.reply = Some((server.to_string(), packet.ttl));
        }
    }
}

type Probing = Simulation<App, Seeded, NoRecorder>;

/// Sends the probes of a step, one after the other, and returns what each saw in the recording's words.
pub(crate) fn run(world: &World, step: &Value, probes: &[Value]) -> Vec<Value> {
    let machines = Machines {
        cluster: world.cluster.clone(),
        ..Machines::default()
    };
    let mut simulation = Simulation::new(machines, Seeded::new(1), NoRecorder);
    let mut servers = Vec::new();
    for (ns, ports) in step["servers"].as_object().unwrap() {
        for port in ports.as_array().unwrap() {
            let number = u16::try_from(port[1].as_u64().unwrap()).unwrap();
            let answer: Arc<str> = format!("{ns}:{number}").into();
            let (l4, program) = if port[0] == "tcp" {
                let settings = tcp::ServerSettings::new(answer);
                (
                    L4::Tcp,
                    Program::TcpServer(Box::new(TcpServer::new(settings))),
                )
            } else {
                let settings = udp::ServerSettings::new(answer);
                (L4::Udp, Program::UdpServer(UdpServer::new(settings)))
            };
            let server = App::Server(Server {
                name: ns.clone(),
                inner: Box::new(program),
                seen: None,
            });
            let app = simulation.add_app(world.id(ns), &format!("{ns}:{number}/{l4:?}"), server);
            simulation.listen(app, l4, None, number).unwrap();
            servers.push(app);
        }
    }
    let mut seen = Vec::new();
    for probe in probes {
        seen.push(if probe["kind"] == "hops" {
            hops(&mut simulation, world, probe)
        } else {
            one(&mut simulation, world, &servers, probe)
        });
    }
    seen
}

fn end_of(probe: &Value) -> End {
    let dst = probe["dst"].as_str().unwrap().parse().unwrap();
    let port = u16::try_from(probe["port"].as_u64().unwrap()).unwrap();
    (dst, port)
}

/// Lets an application run for as long as the recorded one waited.
fn wait(simulation: &mut Probing, world: &World, probe: &Value, name: &str, app: App) -> AppId {
    let raw = matches!(app, App::Udp(_));
    let netns = world.id(probe["src"].as_str().unwrap());
    let default = if probe["kind"] == "tcp" { 1.5 } else { 0.8 };
    let seconds = probe["opts"]["timeout"].as_f64().unwrap_or(default);
    let id = simulation.add_app(netns, name, app);
    if raw {
        simulation.listen_raw(id);
    }
    simulation.start_at(simulation.now(), id);
    // A little longer, for what the application says when its time is over.
    let limit = simulation.now() + Duration::from_secs_f64(seconds) + Duration::from_millis(50);
    simulation.run_until(limit);
    id
}

fn datagram(probe: &Value, ttl: u8) -> App {
    App::Udp(UdpProbe {
        remote: end_of(probe),
        size: probe["opts"]["size"]
            .as_u64()
            .map_or(16, |n| u32::try_from(n).unwrap()),
        df: probe["opts"]["df"].as_bool(),
        ttl,
        local: None,
        mtu: None,
        reply: None,
        failed: None,
        error: None,
        icmp: None,
    })
}

fn one(simulation: &mut Probing, world: &World, servers: &[AppId], probe: &Value) -> Value {
    simulation.for_each_program(|app| {
        if let App::Server(server) = app {
            server.seen = None;
        }
    });
    let name = format!("probe {} {}", probe["step"], probe["i"]);
    let app = if probe["kind"] == "tcp" {
        let timeout = probe["opts"]["timeout"].as_f64().unwrap_or(1.5);
        let settings = tcp::ClientSettings {
            timeout: Some(Duration::from_secs_f64(timeout)),
            ..tcp::ClientSettings::default()
        };
        App::Tcp(Box::new(TcpProbe {
            inner: TcpClient::new(end_of(probe), settings),
            local: None,
        }))
    } else {
        datagram(probe, 0)
    };
    let id = wait(simulation, world, probe, &name, app);
    let mut told = Map::new();
    let mut tell = |key: &str, value: Value| {
        told.insert(key.to_owned(), value);
    };
    let local = match simulation.machine(id).unwrap() {
        App::Tcp(client) => {
            let Some(Outcome::Probe(outcome)) = simulation.outcomes(id).first() else {
                return json!({"result": "timeout"});
            };
            let result = match (outcome.result, outcome.errno) {
                (ProbeResult::Connected, _) => "ok".to_owned(),
                (_, Some(errno)) => errno.to_string(),
                (_, None) => "timeout".to_owned(),
            };
            tell("result", result.into());
            if let Some(server) = &outcome.server {
                tell("answered_by", (**server).into());
            }
            client.local
        }
        App::Udp(client) => {
            let result = match (&client.reply, client.failed, &client.icmp) {
                (Some(_), _, _) => "ok".to_owned(),
                (None, Some(errno), _) => format!("local_{errno}"),
                (None, None, Some(_)) => "icmp_error".to_owned(),
                (None, None, None) => "timeout".to_owned(),
            };
            tell("result", result.into());
            if let Some((server, ttl)) = &client.reply {
                tell("answered_by", server.as_str().into());
                tell("reply_ttl", (*ttl).into());
            }
            if let Some(mtu) = client.mtu {
                tell("path_mtu_after", mtu.into());
            }
            if client.icmp.is_some() {
                tell("icmp", icmp(client));
            }
            client.local
        }
        App::Server(_) => unreachable!("a probe is a client"),
    };
    for server in servers {
        if let Some(App::Server(server)) = simulation.machine(*server)
            && let Some(((src, sport), dst, ttl)) = server.seen
        {
            tell("server", server.name.as_str().into());
            tell("src_seen", src.to_string().into());
            tell("dst_seen", dst.to_string().into());
            tell("ttl_seen", ttl.into());
            tell("sport_kept", (local.map(|l| l.1) == Some(sport)).into());
        }
    }
    Value::Object(told)
}

/// The ICMP error a datagram met.
fn icmp(client: &UdpProbe) -> Value {
    let Some((from, kind)) = client.icmp else {
        return Value::Null;
    };
    let family = Family::of(client.remote.0);
    let (kind_number, code) = kind.type_and_code(family);
    let origin = match family {
        Family::V4 => "icmp",
        Family::V6 => "icmp6",
    };
    let errno = client
        .error
        .map_or_else(String::new, |errno| errno.to_string());
    let mut told = json!({
        "errno": errno,
        "type": kind_number,
        "code": code,
        "origin": origin,
        "from": from.to_string(),
    });
    if let IcmpError::FragmentationNeeded { mtu } = kind {
        told["info"] = mtu.into();
    }
    told
}

/// Datagrams with a growing TTL, as many as were recorded.
fn hops(simulation: &mut Probing, world: &World, probe: &Value) -> Value {
    let mut found = Vec::new();
    for hop in probe["hops"].as_array().unwrap() {
        let ttl = u8::try_from(hop["ttl"].as_u64().unwrap()).unwrap();
        let name = format!("probe {} {} {ttl}", probe["step"], probe["i"]);
        let id = wait(simulation, world, probe, &name, datagram(probe, ttl));
        let Some(App::Udp(client)) = simulation.machine(id) else {
            continue;
        };
        let mut told = match &client.reply {
            Some((server, _)) => json!({"reached": server}),
            None if client.icmp.is_some() => icmp(client),
            None => json!({}),
        };
        told["ttl"] = ttl.into();
        found.push(told);
    }
    json!({"hops": found})
}

/// Says whether a probe saw what the recorded one saw, in what is compared.
pub(crate) fn difference(recorded: &Value, here: &Value) -> Option<String> {
    let keys = [
        "result",
        "answered_by",
        "server",
        "src_seen",
        "dst_seen",
        "ttl_seen",
        "reply_ttl",
        "sport_kept",
        "path_mtu_after",
        "icmp",
        "hops",
    ];
    let differs = |key: &&&str| !recorded[**key].is_null() && recorded[**key] != here[**key];
    let wrong: Vec<String> = keys
        .iter()
        .filter(differs)
        .map(|key| format!("{key} {} here {}", recorded[*key], here[*key]))
        .collect();
    // A server that saw a datagram nobody recorded is wrong too; of a connection a server hears when it is made.
    let unseen =
        recorded["kind"] == "udp" && recorded["server"].is_null() && !here["server"].is_null();
    let unseen = unseen.then(|| format!("server none here {}", here["server"]));
    let all: Vec<String> = wrong.into_iter().chain(unseen).collect();
    (!all.is_empty()).then(|| all.join(", "))
}
