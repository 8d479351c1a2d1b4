//! Whether containers are ready: the kubelet's prober (`pkg/kubelet/prober`), as a function of what listens.
//!
//! The life of a container with a readiness probe of its defaults (`initialDelaySeconds` 0, `periodSeconds` 10,
//! `successThreshold` 1, `failureThreshold` 3), whose process listens from the start and later no more:
//!
//! | after | what | ready |
//! |---|---|---|
//! | 0 | the container runs; the kubelet asks at once (`initialDelaySeconds` later, if given) | no |
//! | 0 | the first answer; with `successThreshold` n, the answer n − 1 periods later | yes |
//! | then | a question every `periodSeconds` | yes |
//! | x | the process stops listening | yes |
//! | next question | the first failure | yes |
//! | 2 periods later | the third failure in a row (`failureThreshold` − 1 periods after the first) | no |
//!
//! A container without a readiness probe is ready as soon as it runs; a pod is ready when all its containers are.
//!
//! # Fidelity
//! What a process answers is not known: who listens on the port of an `httpGet`, `tcpSocket` or `grpc` probe answers it
//! well, whatever its path, and commands (`exec`) and probes of other hosts succeed. A container that declares no port
//! at all is believed to listen where its own probe asks. Probes send no packets: whoever asks looks at listeners, and at
//! policies where a plugin does not let a pod's own node through (`lab::kubelet`). Startup and liveness probes are not modelled, so nothing is restarted.

use std::net::IpAddr;
use std::time::Duration;

use crate::api::probe::Probe;
use crate::api::{Container, ContainerPort, PodSpec, PortRef};
use crate::base::Protocol;

/// A readiness probe that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing<'a> {
    /// The container that is asked.
    pub container: &'a Container,
    /// The question.
    pub probe: &'a Probe,
    /// The port on which nobody listens; nothing if no container's port has the name.
    pub port: Option<u16>,
}

impl Failing<'_> {
    /// Returns what the kubelet's event says.
    pub fn says(&self, ip: IpAddr) -> String {
        match (self.port, self.probe.handler.port()) {
            (Some(port), _) => self.probe.handler.refused(ip, port),
            (None, name) => {
                let name = name.map_or_else(String::new, |name| name.to_string());
                format!("Readiness probe errored: couldn't find port: {name}")
            }
        }
    }
}

/// Returns the first readiness probe that fails; `listens` tells whether somebody listens on a TCP port of the pod's
/// address.
pub fn failing(spec: &PodSpec, listens: impl Fn(u16) -> bool) -> Option<Failing<'_>> {
    spec.running().find_map(|container| {
        let probe = container.readiness.as_ref()?;
        let port = match probe.handler.port()? {
            PortRef::Number(number) => Some(number),
            PortRef::Name(name) => {
                let named = |port: &&ContainerPort| port.name.as_ref() == Some(&name);
                container.ports.iter().find(named).map(|p| p.container_port)
            }
        };
        let answers = match port {
            Some(port) => container.ports.is_empty() || listens(port),
            None => false,
        };
        (!answers).then_some(Failing {
            container,
            probe,
            port,
        })
    })
}

/// Whether a container of the pod declares that it listens on a TCP port.
pub fn declares(spec: &PodSpec, port: u16) -> bool {
    spec.ports()
        .any(|p| p.protocol == Protocol::Tcp && p.container_port == port)
}

/// Returns how long after their start the containers of a pod have answered often enough, if they answer.
pub fn first_ready(spec: &PodSpec) -> Duration {
    let after = |probe: &Probe| {
        let periods = probe.success_threshold.saturating_sub(1);
        let seconds = probe
            .initial_delay
            .saturating_add(periods.saturating_mul(probe.period));
        Duration::from_secs(seconds.into())
    };
    let probes = spec.running().filter_map(|c| c.readiness.as_ref());
    probes.map(after).max().unwrap_or(Duration::ZERO)
}

/// Returns the moment, counted from the start of the containers, at which the kubelet finds a pod unready whose process
/// stops answering at `stopped`; nothing if no probe asks.
pub fn unready_after(spec: &PodSpec, stopped: Duration) -> Option<Duration> {
    let after = |probe: &Probe| {
        probe.handler.port()?;
        let period = Duration::from_secs(probe.period.max(1).into());
        let first = Duration::from_secs(probe.initial_delay.into());
        // The first question at or after the moment.
        let late = stopped.saturating_sub(first);
        let whole = late.as_nanos().div_ceil(period.as_nanos());
        let asked = u32::try_from(whole).ok()?;
        let failures = probe.failure_threshold.max(1) - 1;
        first.checked_add(period.checked_mul(asked.checked_add(failures)?)?)
    };
    let probes = spec.running().filter_map(|c| c.readiness.as_ref());
    probes.filter_map(after).min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::api::probe::Handler;
    use crate::base::OriginId;

    fn spec(probe: Probe) -> PodSpec {
        let port = ContainerPort {
            name: Some("http".into()),
            container_port: 8080,
            host_port: None,
            host_ip: None,
            protocol: Protocol::Tcp,
            origin: OriginId::NONE,
        };
        PodSpec {
            containers: vec![Container {
                ports: vec![port],
                readiness: Some(probe),
                ..Container::default()
            }],
            ..PodSpec::default()
        }
    }

    fn asks(port: PortRef) -> PodSpec {
        spec(Probe::new(Handler::TcpSocket { port, host: None }))
    }

    fn fails(spec: &PodSpec) -> bool {
        failing(spec, |port| declares(spec, port)).is_some()
    }

    #[test]
    fn a_probe_asks_whoever_listens() {
        assert!(!fails(&asks(PortRef::Number(8080))));
        assert!(!fails(&asks(PortRef::Name("http".into()))));
        assert!(fails(&asks(PortRef::Number(8081))));
        assert!(fails(&asks(PortRef::Name("web".into()))));
        let mut quiet = asks(PortRef::Number(8081));
        for container in &mut quiet.containers {
            container.ports.clear();
        }
        assert!(!fails(&quiet), "nothing is known of its ports");
        let command = Handler::Exec {
            command: vec!["true".into()],
        };
        assert!(!fails(&spec(Probe::new(command))));
    }

    #[test]
    fn times_follow_from_the_fields() {
        let seconds = Duration::from_secs;
        let mut probe = Probe::new(Handler::Grpc { port: 8080 });
        assert_eq!(first_ready(&spec(probe.clone())), Duration::ZERO);
        // Between two and three periods, plus the rest of the one that runs.
        let at = |stopped| unready_after(&spec(probe.clone()), seconds(stopped));
        assert_eq!(at(30), Some(seconds(50)));
        assert_eq!(at(31), Some(seconds(60)));
        probe.initial_delay = 5;
        probe.success_threshold = 3;
        probe.period = 2;
        probe.failure_threshold = 1;
        assert_eq!(first_ready(&spec(probe.clone())), seconds(9));
        assert_eq!(unready_after(&spec(probe), seconds(10)), Some(seconds(11)));
        assert_eq!(first_ready(&PodSpec::default()), Duration::ZERO);
        assert_eq!(unready_after(&PodSpec::default(), seconds(1)), None);
    }
}
