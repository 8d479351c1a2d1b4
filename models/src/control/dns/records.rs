//! The cluster's zone: Kubernetes DNS specification 1.1.0, as `CoreDNS`' `kubernetes` plugin answers it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::settings::DnsSettings;
use crate::api::{EndpointSlice, Service, ServiceType};
use crate::base::{Family, Namespace};
use crate::wire::{DnsRecord, DnsResponse, RecordData, RecordType, ResponseCode};

/// Seconds a record may be kept (`ttl 30` of kubeadm's Corefile).
pub const TTL: u32 = 30;

/// The records of a cluster's zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    domain: String,
    records: BTreeMap<String, Vec<RecordData>>,
    /// Names that exist because something below them does.
    nodes: BTreeSet<String>,
    /// Names outside, as the servers upstream know them; nobody is there if there are none.
    outside: BTreeMap<String, Vec<RecordData>>,
}

impl Zone {
    /// Returns the zone of these Services and slices below `domain` (`cluster.local`).
    pub fn new<'a>(
        domain: &str,
        namespaces: impl IntoIterator<Item = &'a Namespace>,
        services: impl IntoIterator<Item = &'a Service>,
        slices: &[&EndpointSlice],
    ) -> Self {
        let mut zone = Self {
            domain: format!("{domain}."),
            ..Self::default()
        };
        zone.nodes.insert(zone.domain.clone());
        zone.nodes.insert(format!("svc.{domain}."));
        for namespace in namespaces {
            zone.nodes.insert(format!("{namespace}.svc.{domain}."));
        }
        for service in services {
            zone.add_service(domain, service, slices);
        }
        zone
    }

    /// Returns the zone with what is answered about names outside of the cluster.
    #[must_use]
    pub fn with_outside(mut self, settings: &DnsSettings) -> Self {
        let reachable = settings.forwards_to_itself().is_none();
        for (name, ips) in settings.names.iter().filter(|_| reachable) {
            let name = format!("{}.", name.to_ascii_lowercase().trim_end_matches('.'));
            let data = ips.iter().map(|ip| RecordData::Address(*ip));
            self.outside.insert(name, data.collect());
        }
        self
    }

    fn add_service(&mut self, domain: &str, service: &Service, slices: &[&EndpointSlice]) {
        let key = &service.key;
        self.nodes
            .insert(format!("{}.svc.{domain}.", key.namespace));
        let name = format!("{}.{}.svc.{domain}.", key.name, key.namespace);
        if service.service_type == ServiceType::ExternalName {
            if let Some(target) = &service.external_name {
                let target = format!("{}.", target.trim_end_matches('.'));
                self.add(&name, RecordData::Cname(target.into()));
            }
            return;
        }
        if service.headless() {
            let of_service = |slice: &&&EndpointSlice| {
                slice.key.namespace == key.namespace
                    && slice.service_name() == Some(key.name.as_str())
            };
            for slice in slices.iter().filter(of_service) {
                self.add_headless(&name, slice);
            }
            return;
        }
        for ip in service.cluster_ips() {
            self.add(&name, RecordData::Address(*ip));
            self.add(&reverse_name(*ip), RecordData::Ptr(name.as_str().into()));
        }
        for port in &service.ports {
            if let Some(port_name) = &port.name {
                let srv = format!("_{port_name}._{}.{name}", port.protocol.lower());
                self.nodes
                    .insert(format!("_{}.{name}", port.protocol.lower()));
                let target = name.as_str().into();
                let data = RecordData::Srv {
                    priority: 0,
                    weight: 100,
                    port: port.port,
                    target,
                };
                self.add(&srv, data);
            }
        }
    }

    fn add_headless(&mut self, name: &str, slice: &EndpointSlice) {
        for endpoint in &slice.endpoints {
            if endpoint.ready == Some(false) {
                continue;
            }
            for ip in &endpoint.addresses {
                let dashed = || ip.to_string().replace(['.', ':'], "-");
                let host = endpoint
                    .hostname
                    .as_ref()
                    .map_or_else(dashed, ToString::to_string);
                let full = format!("{host}.{name}");
                self.add(name, RecordData::Address(*ip));
                self.add(&full, RecordData::Address(*ip));
                if endpoint.hostname.is_some() {
                    self.add(&reverse_name(*ip), RecordData::Ptr(full.as_str().into()));
                }
                for port in &slice.ports {
                    if let (false, Some(number)) = (port.name.is_empty(), port.port) {
                        let below = format!("_{}.{name}", port.protocol.lower());
                        self.nodes.insert(below.clone());
                        let target = full.as_str().into();
                        let data = RecordData::Srv {
                            priority: 0,
                            weight: 100,
                            port: number,
                            target,
                        };
                        self.add(&format!("_{}.{below}", port.name), data);
                    }
                }
            }
        }
    }

    fn add(&mut self, name: &str, data: RecordData) {
        let records = self.records.entry(name.to_owned()).or_default();
        if !records.contains(&data) {
            records.push(data);
        }
    }

    /// Answers a question about a fully qualified, lower-case name.
    ///
    /// # Fidelity
    /// Names outside the cluster are forwarded; here those of the settings are answered at once, and if there are none, all are
    /// SERVFAIL, as with nobody upstream.
    pub fn answer(&self, name: &str, record_type: RecordType) -> DnsResponse {
        let inside = name.ends_with(&format!(".{}", self.domain)) || name == self.domain;
        let reverse = name.ends_with(".in-addr.arpa.") || name.ends_with(".ip6.arpa.");
        let forwarded = !inside && !reverse;
        if forwarded && self.outside.is_empty() {
            return DnsResponse {
                code: ResponseCode::ServFail,
                answers: Vec::new(),
            };
        }
        let known = if forwarded {
            &self.outside
        } else {
            &self.records
        };
        let Some(records) = known.get(name) else {
            let below = format!(".{name}");
            let exists = self.nodes.contains(name)
                || forwarded && self.outside.keys().any(|known| known.ends_with(&below));
            let code = if exists {
                ResponseCode::NoError
            } else {
                ResponseCode::NxDomain
            };
            return DnsResponse {
                code,
                answers: Vec::new(),
            };
        };
        let owner: Arc<str> = name.into();
        let wanted = |data: &&RecordData| match data {
            RecordData::Address(ip) => record_type == RecordType::of_addresses(Family::of(*ip)),
            RecordData::Cname(_) => {
                matches!(
                    record_type,
                    RecordType::Cname | RecordType::A | RecordType::Aaaa
                )
            }
            RecordData::Srv { .. } => record_type == RecordType::Srv,
            RecordData::Ptr(_) => record_type == RecordType::Ptr,
            RecordData::Txt(_) => record_type == RecordType::Txt,
        };
        let record = |data: &RecordData| DnsRecord {
            name: Arc::clone(&owner),
            ttl: TTL,
            data: data.clone(),
        };
        let answers = records.iter().filter(wanted).map(record).collect();
        DnsResponse {
            code: ResponseCode::NoError,
            answers,
        }
    }

    /// Returns all names that have records.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.records.keys().map(String::as_str)
    }
}

/// Returns the name of an address in the reverse tree (RFC 1035 §3.5, RFC 3596 §2.5).
pub fn reverse_name(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|o| [o & 15, o >> 4]);
            let text: Vec<String> = nibbles.map(|n| format!("{n:x}")).collect();
            format!("{}.ip6.arpa.", text.join("."))
        }
    }
}
