//! Everything that can happen, and the loop that lets it happen: events by (time, sequence) over the machines of a
//! cluster and the applications in them.
//!
//! An event exists only where something can wait: a wire with a delay, a timer, an application. Crossing the stages
//! of a namespace, and a veth pair without delay, are plain calls.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use podwire_models::base::hash::stable_hash;
use podwire_models::base::shelf::Shelves;
use podwire_models::base::{Dice, Errno, Family, FxIndexMap, ObjectKey, Purpose, Stream, Time};
use podwire_models::cluster::WireEnd;
use podwire_models::cluster::carry::Carried;
use podwire_models::cluster::install::Machines;
use podwire_models::kernel::socket::SocketId;
use podwire_models::kernel::{Cx, Effect, KernelTimer, Netns};
use podwire_models::wire::{
    Action as StepAction, Body, Code, Decider, DeciderKind, FlowKey, Frame, Head, L4, NetnsId,
    NoRecorder, Packet, PacketId, Place, Recorder, Stage, Step,
};

use crate::engine::queue::{Handle, Queue};
use crate::trace::record::TraceRecorder;
use crate::traffic::{Action, AppEvent, Ctx, End, Outcome, Token};

/// A recorder that knows when, and because of what.
pub trait Witness: Recorder {
    /// From now on steps happen at `now`, because of `cause`.
    fn begin(&mut self, now: Time, cause: Option<u64>);
    /// The latest step, which is the cause of what is scheduled now.
    fn cause(&self) -> Option<u64>;
    /// A frame leaves one end of a wire at a time, and comes to the other.
    fn frame(&mut self, _from: (WireEnd, Time), _to: (WireEnd, Time), _frame: &Frame) {}
}

impl Witness for NoRecorder {
    fn begin(&mut self, _: Time, _: Option<u64>) {}
    fn cause(&self) -> Option<u64> {
        None
    }
}

impl Witness for TraceRecorder {
    fn begin(&mut self, now: Time, cause: Option<u64>) {
        Self::begin(self, now, cause);
    }
    fn cause(&self) -> Option<u64> {
        Self::cause(self)
    }
}

/// Everything that can ever happen.
#[derive(Clone, Debug)]
pub enum Event {
    /// A frame reaches the end of a wire.
    Arrive {
        /// Where.
        at: WireEnd,
        /// What.
        frame: Frame,
    },
    /// A timer of a kernel.
    Kernel {
        /// Whose.
        netns: NetnsId,
        /// Which.
        timer: Box<KernelTimer>,
    },
    /// A timer of an application or its sockets.
    App {
        /// Whose.
        app: AppId,
        /// Which.
        token: Token,
    },
    /// An application begins.
    Start {
        /// Which.
        app: AppId,
    },
}

/// Identifies an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(pub u32);

/// A client or server: any state machine of [`crate::traffic`].
pub trait Behaviour: Clone {
    /// Handles one event.
    fn handle<D: Dice>(&mut self, event: AppEvent, cx: &mut Ctx<'_, D>);
}

/// An application in a namespace.
#[derive(Clone, Debug)]
struct App<M> {
    netns: NetnsId,
    name: Arc<str>,
    flow: FlowKey,
    machine: M,
    /// In the order of their tokens: new ones come last.
    timers: Vec<(Token, Handle)>,
    outcomes: Vec<Outcome>,
    /// Whether it receives what raw ICMP sockets receive.
    raw: bool,
}

impl<M> App<M> {
    fn keep_timer(&mut self, token: Token, handle: Handle) {
        match self
            .timers
            .binary_search_by_key(&token, |(token, _)| *token)
        {
            Ok(position) => {
                if let Some(kept) = self.timers.get_mut(position) {
                    kept.1 = handle;
                }
            }
            Err(position) => self.timers.insert(position, (token, handle)),
        }
    }

    fn take_timer(&mut self, token: Token) -> Option<Handle> {
        let position = self
            .timers
            .binary_search_by_key(&token, |(token, _)| *token);
        position.ok().map(|position| self.timers.remove(position).1)
    }
}

/// Who owns a socket, and its ends.
#[derive(Clone, Copy, Debug)]
struct Owner {
    app: AppId,
    l4: L4,
    local: End,
    remote: Option<End>,
}

/// A cluster in motion: machines, applications, and what is to come. A copy shares what neither has changed since. `M` is the set of application machines, `D`
/// answers questions of chance, `R` watches.
#[derive(Clone, Debug)]
pub struct Simulation<M, D, R> {
    /// The machines.
    pub machines: Machines,
    /// Who answers questions of chance.
    pub dice: D,
    /// Who watches.
    pub recorder: R,
    queue: Queue<(Option<u64>, Event)>,
    now: Time,
    apps: Shelves<App<M>, 32>,
    owners: Arc<FxIndexMap<(NetnsId, SocketId), Owner>>,
    next_packet: u64,
    effects: Vec<Effect>,
    work: VecDeque<(NetnsId, Effect)>,
    inbox: VecDeque<(AppId, AppEvent)>,
    /// Empty; kept for its memory, as `effects` is.
    actions: Vec<Action>,
    events: u64,
}

impl<M: Behaviour, D: Dice, R: Witness> Simulation<M, D, R> {
    /// Returns a simulation at time zero in which nothing is about to happen.
    pub fn new(machines: Machines, dice: D, recorder: R) -> Self {
        Self {
            machines,
            dice,
            recorder,
            queue: Queue::new(),
            now: Time::ZERO,
            apps: Shelves::default(),
            owners: Arc::default(),
            next_packet: 0,
            effects: Vec::new(),
            work: VecDeque::new(),
            inbox: VecDeque::new(),
            actions: Vec::new(),
            events: 0,
        }
    }

    /// Returns the present moment.
    pub const fn now(&self) -> Time {
        self.now
    }

    /// Returns how many events have happened.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// Puts an application into a namespace. Its packets' draws depend on `name` alone.
    pub fn add_app(&mut self, netns: NetnsId, name: &str, machine: M) -> AppId {
        let id = AppId(u32::try_from(self.apps.len()).expect("fewer than 2^32 applications"));
        self.apps.push(App {
            netns,
            name: name.into(),
            flow: FlowKey(stable_hash(name.as_bytes())),
            machine,
            timers: Vec::new(),
            outcomes: Vec::new(),
            raw: false,
        });
        id
    }

    /// Lets an application receive what raw ICMP sockets receive.
    pub fn listen_raw(&mut self, app: AppId) {
        if let Some(app) = self.apps.get_mut(app.0 as usize) {
            app.raw = true;
        }
    }

    /// Binds a listening socket of an application.
    ///
    /// # Errors
    /// EADDRINUSE if somebody listens there already.
    pub fn listen(
        &mut self,
        app: AppId,
        l4: L4,
        addr: Option<IpAddr>,
        port: u16,
    ) -> Result<(), Errno> {
        let netns = self
            .apps
            .get(app.0 as usize)
            .map(|a| a.netns)
            .ok_or(Errno::EINVAL)?;
        self.load(netns, l4);
        let space = self
            .machines
            .cluster
            .netns_mut(netns)
            .ok_or(Errno::EINVAL)?;
        let socket = space.sockets.bind(l4, addr, port)?;
        let any = IpAddr::from([0, 0, 0, 0]);
        let local = (addr.unwrap_or(any), port);
        Arc::make_mut(&mut self.owners).insert(
            (netns, socket),
            Owner {
                app,
                l4,
                local,
                remote: None,
            },
        );
        Ok(())
    }

    /// Closes an application's listening sockets; connections stay.
    pub fn stop_listening(&mut self, app: AppId) {
        let Some(netns) = self.apps.get(app.0 as usize).map(|app| app.netns) else {
            return;
        };
        let Some(space) = self.machines.cluster.netns_mut(netns) else {
            return;
        };
        let bound: Vec<SocketId> = space.sockets.bound().collect();
        let owners = Arc::make_mut(&mut self.owners);
        for socket in bound {
            let listens = |owner: &Owner| owner.app == app && owner.remote.is_none();
            if owners.get(&(netns, socket)).is_some_and(listens) {
                owners.swap_remove(&(netns, socket));
                space.sockets.unbind(socket);
            }
        }
    }

    /// Returns the applications of a namespace whose names are meant.
    pub fn apps_in(&self, netns: NetnsId, meant: impl Fn(&str) -> bool) -> Vec<AppId> {
        let all = (0..).map(AppId).zip(self.apps.iter());
        let here = all.filter(|(_, app)| app.netns == netns && meant(&app.name));
        here.map(|(id, _)| id).collect()
    }

    /// Lets an application begin at a moment.
    pub fn start_at(&mut self, at: Time, app: AppId) {
        self.schedule(at, Event::Start { app });
    }

    /// Returns what an application has found out.
    pub fn outcomes(&self, app: AppId) -> &[Outcome] {
        self.apps
            .get(app.0 as usize)
            .map_or(&[], |a| a.outcomes.as_slice())
    }

    /// Returns the machine of an application.
    pub fn machine(&self, app: AppId) -> Option<&M> {
        self.apps.get(app.0 as usize).map(|a| &a.machine)
    }

    /// Returns all applications, where they are and what they are.
    pub fn programs(&self) -> impl Iterator<Item = (AppId, NetnsId, &M)> {
        let apps = (0..).map(AppId).zip(self.apps.iter());
        apps.map(|(id, app)| (id, app.netns, &app.machine))
    }

    /// Returns all applications with their machines.
    pub fn programs_mut(&mut self) -> impl Iterator<Item = (AppId, &mut M)> {
        (0..)
            .map(AppId)
            .zip(self.apps.iter_mut().map(|app| &mut app.machine))
    }

    /// Changes the machines of applications from outside: what a program was told by a watch, for instance.
    pub fn for_each_program(&mut self, change: impl FnMut(&mut M)) {
        self.apps
            .iter_mut()
            .map(|app| &mut app.machine)
            .for_each(change);
    }

    fn schedule(&mut self, at: Time, event: Event) -> Handle {
        self.queue.push(at, (self.recorder.cause(), event))
    }

    /// Lets the next event happen, if there is one before or at `limit`; returns whether there was.
    pub fn step(&mut self, limit: Time) -> bool {
        let Some((at, (cause, event))) = self.queue.pop_until(limit) else {
            return false;
        };
        assert!(at >= self.now, "time moves forward");
        self.now = at;
        self.events += 1;
        self.recorder.begin(at, cause);
        match event {
            Event::Arrive { at, frame } if self.machines.cluster.is_off(at.0) => {
                self.too_late(at, &frame);
            }
            Event::Arrive { at, frame } => self.arrive(at, frame),
            Event::Kernel { netns, timer } => {
                self.in_netns(netns, |netns, cx| netns.timer(*timer, cx));
            }
            Event::App { app, token } => {
                if let Some(state) = self.apps.get_mut(app.0 as usize) {
                    state.take_timer(token);
                }
                self.inbox.push_back((app, AppEvent::Timer(token)));
            }
            Event::Start { app } => self.inbox.push_back((app, AppEvent::Start)),
        }
        self.work_off();
        true
    }

    /// Lets everything happen up to a moment.
    pub fn run_until(&mut self, limit: Time) {
        while self.step(limit) {}
        self.now = self.now.max(limit);
    }

    /// Lets things happen until an application has found something out, nothing is left, or it is `limit`.
    pub fn run_until_outcome(&mut self, app: AppId, limit: Time) -> Option<&Outcome> {
        while self.outcomes(app).is_empty() && self.step(limit) {}
        self.outcomes(app).first()
    }

    /// Records a step of the simulation's own.
    pub fn note(&mut self, place: Place, step: Step) {
        if R::ENABLED {
            self.recorder.begin(self.now, None);
            self.recorder.record(place, step);
        }
    }

    /// Does something in a namespace, now, with all that follows at once.
    pub fn act<T>(
        &mut self,
        id: NetnsId,
        f: impl FnOnce(&mut Netns, &mut Cx<'_, D, R>) -> T,
    ) -> Option<T> {
        self.recorder.begin(self.now, None);
        let result = self.in_netns(id, f);
        self.work_off();
        result
    }

    /// A pod's network is about to go: what waits in it ends, and what waits for it on its node.
    pub fn lose_pod(&mut self, key: &ObjectKey) {
        let Some(attached) = self.machines.pods.get(key).cloned() else {
            return;
        };
        self.recorder.begin(self.now, None);
        self.lose_in(attached.netns, |netns, cx| {
            netns.lose_waiting(Code::PodGone, cx);
        });
        let node = self.machines.nodes.get(&attached.node).map(|m| m.netns);
        if let Some(node) = node {
            self.lose_in(node, |netns, cx| {
                let dev = netns.device_named(&attached.host_dev).map(|d| d.index);
                if let Some(dev) = dev {
                    netns.lose_behind(dev, Code::PodGone, cx);
                }
            });
        }
    }

    /// Machines have been switched off: what waits in them is lost with their memory.
    pub fn lose_machines(&mut self, all: &[NetnsId]) {
        self.recorder.begin(self.now, None);
        for id in all {
            self.lose_in(*id, |netns, cx| netns.lose_waiting(Code::NodeDown, cx));
        }
    }

    /// Lets packets end in a namespace, whether it is switched on or not. Nothing follows from it.
    fn lose_in(&mut self, id: NetnsId, f: impl FnOnce(&mut Netns, &mut Cx<'_, D, R>)) {
        if let Some(netns) = self.machines.cluster.netns_mut(id) {
            let mut cx = Cx {
                now: self.now,
                dice: &mut self.dice,
                recorder: &mut self.recorder,
                effects: &mut self.effects,
                next_packet: &mut self.next_packet,
            };
            f(netns, &mut cx);
        }
    }

    /// Does something in a namespace, and leaves its effects to the caller.
    fn inside<T>(
        &mut self,
        id: NetnsId,
        f: impl FnOnce(&mut Netns, &mut Cx<'_, D, R>) -> T,
    ) -> Option<T> {
        if self.machines.cluster.is_off(id) {
            return None;
        }
        let netns = self.machines.cluster.netns_mut(id)?;
        let mut cx = Cx {
            now: self.now,
            dice: &mut self.dice,
            recorder: &mut self.recorder,
            effects: &mut self.effects,
            next_packet: &mut self.next_packet,
        };
        Some(f(netns, &mut cx))
    }

    /// Does something in a namespace; its effects wait for their turn.
    fn in_netns<T>(
        &mut self,
        id: NetnsId,
        f: impl FnOnce(&mut Netns, &mut Cx<'_, D, R>) -> T,
    ) -> Option<T> {
        let result = self.inside(id, f);
        self.put_off(id);
        result
    }

    /// Lets the effects of a namespace wait for their turn.
    fn put_off(&mut self, id: NetnsId) {
        // Almost always there is one.
        if self.effects.len() == 1
            && let Some(effect) = self.effects.pop()
        {
            self.work.push_back((id, effect));
            return;
        }
        let effects = self.effects.drain(..);
        self.work.extend(effects.map(|effect| (id, effect)));
    }

    /// A frame comes in, and goes on through every wire that takes no time.
    fn arrive(&mut self, at: WireEnd, frame: Frame) {
        let mut next = Some((at, frame));
        while let Some(((id, dev), frame)) = next.take() {
            self.inside(id, |netns, cx| netns.receive(dev, frame, cx));
            // Almost always there is one effect, and nothing waits before it.
            if self.effects.len() == 1 && self.work.is_empty() {
                match self.effects.pop() {
                    Some(Effect::Transmit { dev, frame }) => next = self.carry((id, dev), frame),
                    Some(effect) => self.carry_out(id, effect),
                    None => {}
                }
            } else {
                self.put_off(id);
            }
        }
    }

    /// A frame was on its way when the machine it goes to was switched off.
    fn too_late(&mut self, (netns, dev): WireEnd, frame: &Frame) {
        if R::ENABLED {
            let place = Place {
                netns: Some(netns),
                dev: Some(dev),
                stage: Stage::Wire,
            };
            let step = Step {
                packet: Some(Head::of_frame(frame)),
                action: StepAction::Dropped {
                    code: Code::NodeDown,
                },
                by: None,
            };
            self.recorder.record(place, step);
        }
    }

    /// Carries out effects and hands events to applications until nothing is left to do now.
    fn work_off(&mut self) {
        loop {
            if let Some((netns, effect)) = self.work.pop_front() {
                self.carry_out(netns, effect);
            } else if let Some((app, event)) = self.inbox.pop_front() {
                self.handle(app, event);
            } else {
                return;
            }
        }
    }

    fn transmit(&mut self, from: WireEnd, frame: Frame) {
        if let Some((at, frame)) = self.carry(from, frame) {
            self.arrive(at, frame);
        }
    }

    /// Puts a frame on a wire; returns it with the other end if it is there at once.
    fn carry(&mut self, from: WireEnd, frame: Frame) -> Option<(WireEnd, Frame)> {
        let carried =
            self.machines
                .cluster
                .carry(from, &frame, self.now, &mut self.dice, &mut self.recorder);
        if let Carried::Arrives { at, when } = carried {
            self.recorder.frame((from, self.now), (at, when), &frame);
        }
        if let Carried::Arrives { at, when } = carried
            && let Some(after) = self.machines.cluster.copied_after(from, &frame)
        {
            let mut frame = frame.clone();
            if let Body::Ip(packet) = &mut frame.body {
                // It goes its own way, and ends on its own.
                self.next_packet += 1;
                packet.id = PacketId(self.next_packet);
            }
            self.schedule(when + after, Event::Arrive { at, frame });
        }
        match carried {
            Carried::Arrives { at, when } if when <= self.now => Some((at, frame)),
            Carried::Arrives { at, when } => {
                self.schedule(when, Event::Arrive { at, frame });
                None
            }
            Carried::Lost(_) => None,
        }
    }

    fn carry_out(&mut self, netns: NetnsId, effect: Effect) {
        match effect {
            Effect::Transmit { dev, frame } => self.transmit((netns, dev), frame),
            Effect::Deliver { socket, packet } => {
                if let Some(owner) = self.owners.get(&(netns, socket)) {
                    self.inbox.push_back((owner.app, AppEvent::Packet(packet)));
                }
            }
            Effect::SocketError {
                socket,
                errno,
                fatal,
                mtu,
            } => {
                let owner = self.owners.get(&(netns, socket));
                if let Some(Owner {
                    app,
                    local,
                    remote: Some(remote),
                    ..
                }) = owner.copied()
                {
                    let event = AppEvent::Error {
                        local,
                        remote,
                        errno,
                        fatal,
                        mtu,
                    };
                    self.inbox.push_back((app, event));
                }
            }
            Effect::IcmpReceived { packet } => {
                for (n, app) in self.apps.iter().enumerate() {
                    if app.raw && app.netns == netns {
                        let id = AppId(u32::try_from(n).expect("fewer than 2^32 applications"));
                        self.inbox.push_back((id, AppEvent::Packet(packet.clone())));
                    }
                }
            }
            Effect::Timer { after, timer } => {
                self.schedule(self.now + after, Event::Kernel { netns, timer });
            }
        }
    }

    fn handle(&mut self, id: AppId, event: AppEvent) {
        let Some(app) = self.apps.get_mut(id.0 as usize) else {
            return;
        };
        let mut actions = std::mem::take(&mut self.actions);
        let mut cx = Ctx {
            now: self.now,
            flow: app.flow,
            dice: &mut self.dice,
            actions: &mut actions,
        };
        app.machine.handle(event, &mut cx);
        for action in actions.drain(..) {
            self.perform(id, action);
        }
        self.actions = actions;
    }

    fn perform(&mut self, id: AppId, action: Action) {
        let Some((netns, flow)) = self.apps.get(id.0 as usize).map(|a| (a.netns, a.flow)) else {
            return;
        };
        match action {
            Action::Open {
                l4,
                remote,
                connected,
                port,
            } => {
                let event = match self.open(id, (netns, flow), l4, remote, connected, port) {
                    Ok((local, mtu)) => {
                        let syn = self.machines.cluster.netns(netns).map(Netns::syn_schedule);
                        AppEvent::Opened {
                            local,
                            mtu,
                            syn: syn.unwrap_or_default(),
                        }
                    }
                    Err(errno) => AppEvent::OpenFailed { errno },
                };
                self.inbox.push_back((id, event));
            }
            Action::Accept { local, remote } => {
                self.register(id, netns, L4::Tcp, local, remote);
            }
            Action::Close { l4, local, remote } => self.close(netns, l4, local, remote),
            Action::Send(packet) => self.send(id, netns, packet, false),
            Action::SendWhole(packet) => self.send(id, netns, packet, true),
            Action::Dropped { packet: _, code } => {
                let place = Place {
                    netns: Some(netns),
                    dev: None,
                    stage: Stage::Socket,
                };
                if R::ENABLED {
                    self.recorder
                        .record(place, Step::general(StepAction::Dropped { code }));
                }
            }
            Action::SetTimer { after, token } => {
                let handle = self.schedule(self.now + after, Event::App { app: id, token });
                if let Some(app) = self.apps.get_mut(id.0 as usize) {
                    app.keep_timer(token, handle);
                }
            }
            Action::CancelTimer { token } => {
                let handle = self.apps.get_mut(id.0 as usize);
                if let Some(handle) = handle.and_then(|a| a.take_timer(token)) {
                    self.queue.cancel(handle);
                }
            }
            Action::Done(outcome) => self.done(id, netns, *outcome),
        }
    }

    fn send(&mut self, id: AppId, netns: NetnsId, mut packet: Box<Packet>, whole: bool) {
        self.next_packet += 1;
        packet.id = PacketId(self.next_packet);
        let port = packet.ports().map_or(0, |(_, dport)| dport);
        let remote = (packet.dst, port);
        let sent = self.in_netns(netns, |netns, cx| {
            if whole {
                netns.send_whole(packet, cx)
            } else {
                netns.send(packet, cx)
            }
        });
        if let Some(Err(errno)) = sent {
            self.inbox
                .push_back((id, AppEvent::SendFailed { remote, errno }));
        }
    }

    fn done(&mut self, id: AppId, netns: NetnsId, outcome: Outcome) {
        let Some(app) = self.apps.get_mut(id.0 as usize) else {
            return;
        };
        if R::ENABLED {
            let place = Place {
                netns: Some(netns),
                dev: None,
                stage: Stage::Socket,
            };
            let what = format!("{}: {outcome}", app.name);
            self.recorder
                .record(place, Step::general(StepAction::App { what }));
        }
        app.outcomes.push(outcome);
    }

    /// `socket`, `bind` to a port that is given or ephemeral, and `connect`.
    fn open(
        &mut self,
        id: AppId,
        (netns, flow): (NetnsId, FlowKey),
        l4: L4,
        remote: End,
        connected: bool,
        wanted: Option<u16>,
    ) -> Result<(End, u32), Errno> {
        self.load(netns, l4);
        let space = self
            .machines
            .cluster
            .netns_mut(netns)
            .ok_or(Errno::ENETUNREACH)?;
        let source = space.source_for(remote.0)?;
        let mtu = space.path_mtu(remote.0, self.now);
        let port = match wanted {
            Some(port) if space.sockets.bind_conflict(l4, Family::of(source), port) => {
                return Err(Errno::EADDRINUSE);
            }
            Some(port) => port,
            None => {
                let (first, last) = space.sysctls.local_port_range();
                let size = u64::from(last.saturating_sub(first)) + 1;
                let stream = Stream::new(Purpose::SourcePort, flow.0);
                let start = self.dice.pick(stream, size);
                let number = |n| u16::try_from(u64::from(first) + (start + n) % size).ok();
                let free = |port: &u16| !space.sockets.port_taken(l4, (source, *port), remote);
                let mut ports = (0..size).filter_map(number);
                match ports.find(free) {
                    Some(port) => port,
                    None => return Err(self.exhausted(netns, (first, last))),
                }
            }
        };
        let local = (source, port);
        let (socket, peer) = if connected {
            (space.sockets.connect(l4, local, remote)?, Some(remote))
        } else {
            (space.sockets.bind(l4, Some(source), port)?, None)
        };
        Arc::make_mut(&mut self.owners).insert(
            (netns, socket),
            Owner {
                app: id,
                l4,
                local,
                remote: peer,
            },
        );
        Ok((local, mtu))
    }

    /// Every ephemeral port has a connection to this destination already (`__inet_hash_connect`).
    fn exhausted(&mut self, netns: NetnsId, (first, last): (u16, u16)) -> Errno {
        let errno = Errno::EADDRNOTAVAIL;
        if R::ENABLED {
            let code = Code::EphemeralExhausted;
            let text = format!("net.ipv4.ip_local_port_range = {first} {last}");
            let step = Step::general(StepAction::Failed { code, errno });
            let place = Place {
                netns: Some(netns),
                dev: None,
                stage: Stage::Socket,
            };
            let by = Decider::new(DeciderKind::Sysctl, text);
            self.recorder.record(place, step.by(by));
        }
        errno
    }

    /// The first SCTP socket of a machine loads the kernel's module.
    fn load(&mut self, netns: NetnsId, l4: L4) {
        let space = self.machines.cluster.netns(netns);
        if l4 == L4::Sctp && space.is_some_and(|space| !space.sctp) {
            self.machines.load_sctp(netns);
        }
    }

    fn register(&mut self, app: AppId, netns: NetnsId, l4: L4, local: End, remote: End) {
        let Some(space) = self.machines.cluster.netns_mut(netns) else {
            return;
        };
        if let Ok(socket) = space.sockets.connect(l4, local, remote) {
            let owner = Owner {
                app,
                l4,
                local,
                remote: Some(remote),
            };
            Arc::make_mut(&mut self.owners).insert((netns, socket), owner);
        }
    }

    fn close(&mut self, netns: NetnsId, l4: L4, local: End, remote: End) {
        let ends = |owner: &Owner| {
            owner.l4 == l4 && owner.local == local && owner.remote.is_none_or(|r| r == remote)
        };
        // Almost always it is connected, and the machine knows it.
        let space = self.machines.cluster.netns(netns);
        let connected = space.and_then(|space| space.sockets.connected(l4, local, remote));
        let connected = connected.filter(|socket| self.owners.contains_key(&(netns, *socket)));
        let owned = || {
            let mut all = self.owners.iter();
            let found = all.find(|((n, _), owner)| *n == netns && ends(owner));
            found.map(|(&(_, socket), _)| socket)
        };
        let Some(socket) = connected.or_else(owned) else {
            return;
        };
        Arc::make_mut(&mut self.owners).swap_remove(&(netns, socket));
        if let Some(space) = self.machines.cluster.netns_mut(netns) {
            if connected == Some(socket) {
                space.sockets.disconnect(l4, local, remote);
            } else {
                space.sockets.unbind(socket);
            }
        }
    }

    /// Returns the MTU of a namespace's first device that is not loopback.
    pub fn mtu_of(&self, netns: NetnsId) -> u32 {
        let netns = self.machines.cluster.netns(netns);
        let mut devices = netns
            .iter()
            .flat_map(|n| n.devices.iter().flatten())
            .skip(1);
        devices.next().map_or(1500, |device| device.mtu)
    }

    /// Returns how long until the next event, if there is one.
    pub fn idle_for(&self) -> Option<Duration> {
        self.queue.next_at().map(|at| at.since(self.now))
    }
}
