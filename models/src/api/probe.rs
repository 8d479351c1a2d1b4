//! Probes of containers: `v1` Probe. Leaves out: what an answer says (paths, headers, gRPC services).

use std::net::IpAddr;
use std::sync::Arc;

use super::PortRef;
use crate::base::OriginId;

/// A question that the kubelet asks a container again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub handler: Handler,
    /// Seconds from the container's start to the first question.
    pub initial_delay: u32,
    /// Seconds from question to question.
    pub period: u32,
    /// Seconds after which a question has failed.
    pub timeout: u32,
    /// So many answers in a row make the container ready.
    pub success_threshold: u32,
    /// So many failures in a row make it unready.
    pub failure_threshold: u32,
    /// Where it was written.
    pub origin: OriginId,
}

impl Probe {
    /// `initialDelaySeconds`, if the input does not say.
    pub const INITIAL_DELAY: u32 = 0;
    /// `periodSeconds`, if the input does not say.
    pub const PERIOD: u32 = 10;
    /// `timeoutSeconds`, if the input does not say.
    pub const TIMEOUT: u32 = 1;
    /// `successThreshold`, if the input does not say.
    pub const SUCCESS_THRESHOLD: u32 = 1;
    /// `failureThreshold`, if the input does not say.
    pub const FAILURE_THRESHOLD: u32 = 3;

    /// Returns a probe with the times that the API server fills in (`SetDefaults_Probe`).
    pub const fn new(handler: Handler) -> Self {
        Self {
            handler,
            initial_delay: Self::INITIAL_DELAY,
            period: Self::PERIOD,
            timeout: Self::TIMEOUT,
            success_threshold: Self::SUCCESS_THRESHOLD,
            failure_threshold: Self::FAILURE_THRESHOLD,
            origin: OriginId::NONE,
        }
    }
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handler {
    /// An HTTP request.
    HttpGet {
        /// The port, or its name.
        port: PortRef,
        /// The path.
        path: Arc<str>,
        /// Another host than the pod.
        host: Option<Arc<str>>,
        /// `HTTPS`, if asked for.
        scheme: Option<Arc<str>>,
    },
    /// A TCP connection.
    TcpSocket {
        /// The port, or its name.
        port: PortRef,
        /// Another host than the pod.
        host: Option<Arc<str>>,
    },
    /// A gRPC health check.
    Grpc {
        /// The port.
        port: u16,
    },
    /// A command that runs in the container.
    Exec {
        /// The command, for people to read.
        command: Vec<Arc<str>>,
    },
}

impl Handler {
    /// Returns the port that the kubelet connects to in the pod; nothing if it asks somebody else, or no port.
    pub fn port(&self) -> Option<PortRef> {
        match self {
            Self::HttpGet {
                port, host: None, ..
            }
            | Self::TcpSocket { port, host: None } => Some(port.clone()),
            Self::Grpc { port } => Some(PortRef::Number(*port)),
            Self::HttpGet { .. } | Self::TcpSocket { .. } | Self::Exec { .. } => None,
        }
    }

    /// Returns the field of the probe with the port, as in a manifest.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::HttpGet { .. } => "httpGet.port",
            Self::TcpSocket { .. } => "tcpSocket.port",
            Self::Grpc { .. } => "grpc.port",
            Self::Exec { .. } => "exec.command",
        }
    }

    /// Returns what the kubelet says of a connection that nobody answers.
    pub fn timed_out(&self, ip: IpAddr, port: u16) -> String {
        let at = std::net::SocketAddr::new(ip, port);
        match self {
            Self::HttpGet { path, scheme, .. } => {
                let scheme = scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
                format!(
                    "Readiness probe failed: Get \"{scheme}://{at}{path}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
                )
            }
            Self::TcpSocket { .. } => format!("Readiness probe failed: dial tcp {at}: i/o timeout"),
            Self::Grpc { .. } => format!(
                "Readiness probe failed: timeout: failed to connect service \"{at}\" within 1s: context deadline exceeded"
            ),
            Self::Exec { .. } => "Readiness probe failed".to_owned(),
        }
    }

    /// Returns what the kubelet says of a refused connection.
    pub fn refused(&self, ip: IpAddr, port: u16) -> String {
        let at = std::net::SocketAddr::new(ip, port);
        match self {
            Self::HttpGet { path, scheme, .. } => {
                let scheme = scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
                format!(
                    "Readiness probe failed: Get \"{scheme}://{at}{path}\": dial tcp {at}: connect: connection refused"
                )
            }
            Self::TcpSocket { .. } => {
                format!("Readiness probe failed: dial tcp {at}: connect: connection refused")
            }
            Self::Grpc { .. } => format!(
                "Readiness probe failed: timeout: failed to connect service \"{at}\": connection refused"
            ),
            Self::Exec { .. } => "Readiness probe failed".to_owned(),
        }
    }
}
