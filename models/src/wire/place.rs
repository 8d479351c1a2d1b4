//! Where a step happened: which namespace, which device, which stage of the kernel's path.

use std::fmt;

use serde::Serialize;

/// Identifies a network namespace of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct NetnsId(pub u32);

/// Identifies a device inside its namespace: its interface index, starting with 1 for `lo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct DevIndex(pub u32);

impl DevIndex {
    /// The loopback device.
    pub const LO: Self = Self(1);

    /// Returns the position in a list of devices ordered by index.
    pub const fn position(self) -> usize {
        (self.0 as usize).saturating_sub(1)
    }
}

/// A spot in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// Which namespace; `None` for things of the whole cluster (an API write, a fault).
    pub netns: Option<NetnsId>,
    /// Which device, where one is involved.
    pub dev: Option<DevIndex>,
    /// Which stage.
    pub stage: Stage,
}

impl Place {
    /// The whole cluster rather than a spot in it.
    pub const CLUSTER: Self = Self {
        netns: None,
        dev: None,
        stage: Stage::ControlPlane,
    };
}

/// Stages of the path a packet takes, in the words of the netfilter diagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Stage {
    /// An application or its socket.
    Socket,
    /// A frame comes in from a device.
    Receive,
    /// A bridge decides where a frame goes.
    Bridge,
    /// Hook PREROUTING.
    Prerouting,
    /// The routing decision.
    Routing,
    /// Hook INPUT.
    Input,
    /// Hook FORWARD.
    Forward,
    /// Hook OUTPUT.
    Output,
    /// Hook POSTROUTING.
    Postrouting,
    /// Neighbour resolution (ARP, NDP).
    Neighbour,
    /// Encapsulation and decapsulation.
    Tunnel,
    /// A frame leaves through a device.
    Transmit,
    /// The wire between two devices.
    Wire,
    /// Controllers, agents, API objects.
    ControlPlane,
}

impl Stage {
    /// Returns the name as printed in traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Socket => "SOCKET",
            Self::Receive => "RECEIVE",
            Self::Bridge => "BRIDGE",
            Self::Prerouting => "PREROUTING",
            Self::Routing => "ROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
            Self::Neighbour => "NEIGHBOUR",
            Self::Tunnel => "TUNNEL",
            Self::Transmit => "TRANSMIT",
            Self::Wire => "WIRE",
            Self::ControlPlane => "CONTROL",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
