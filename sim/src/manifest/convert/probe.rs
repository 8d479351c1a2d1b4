//! Readiness probes of containers.

use std::sync::Arc;

use podwire_models::api::probe::{Handler, Probe};

use super::super::reader::{Maybe, Reader, text, texts};
use super::super::tree::Node;
use crate::problem::ProblemCode;

/// Reads a probe, with the API server's defaults; `None` if there is none.
pub(super) fn read(reader: &mut Reader<'_>, node: Maybe<'_>) -> Option<Probe> {
    let node = node?;
    let handler = handler(reader, node)?;
    let mut time = |field: &str, default: u32| {
        let found = reader.count(node.get(field), &format!("`{field}`"));
        // 0 is what the API server takes for "not given".
        found.filter(|number| *number > 0).unwrap_or(default)
    };
    Some(Probe {
        initial_delay: time("initialDelaySeconds", Probe::INITIAL_DELAY),
        period: time("periodSeconds", Probe::PERIOD),
        timeout: time("timeoutSeconds", Probe::TIMEOUT),
        success_threshold: time("successThreshold", Probe::SUCCESS_THRESHOLD),
        failure_threshold: time("failureThreshold", Probe::FAILURE_THRESHOLD),
        origin: reader.origin(node),
        ..Probe::new(handler)
    })
}

fn handler(reader: &mut Reader<'_>, node: &Node) -> Option<Handler> {
    if let Some(http) = node.get("httpGet") {
        return Some(Handler::HttpGet {
            port: port(reader, http)?,
            path: text(http.get("path")).unwrap_or_else(|| "/".into()),
            host: text(http.get("host")),
            scheme: text(http.get("scheme")),
        });
    }
    if let Some(tcp) = node.get("tcpSocket") {
        return Some(Handler::TcpSocket {
            port: port(reader, tcp)?,
            host: text(tcp.get("host")),
        });
    }
    if let Some(grpc) = node.get("grpc") {
        if grpc.get("port").is_none() {
            reader.missing(grpc, "port");
        }
        let port = reader.port(grpc.get("port"), "the `port` of a probe")?;
        return Some(Handler::Grpc { port });
    }
    if let Some(exec) = node.get("exec") {
        return Some(Handler::Exec {
            command: texts(exec.get("command")),
        });
    }
    let title = "a probe must say what it asks";
    let label = "needs `httpGet`, `tcpSocket`, `grpc` or `exec`";
    reader.note(ProblemCode::ManMissingField, node, title, label);
    None
}

fn port(reader: &mut Reader<'_>, node: &Arc<Node>) -> Option<podwire_models::api::PortRef> {
    if node.get("port").is_none() {
        reader.missing(node, "port");
    }
    reader.port_ref(node.get("port"), "the `port` of a probe")
}
