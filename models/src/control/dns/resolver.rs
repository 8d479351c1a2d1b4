//! A pod's `resolv.conf`, and the questions a resolver makes of a name (`resolv.conf(5)`, kubelet `pkg/kubelet/network/dns`).
//! When it asks, and what it does about silence, is the business of the traffic room's lookup.

use std::net::IpAddr;
use std::sync::Arc;

use super::flavour::Flavour;
use super::options::ResolverOptions;
use super::settings::DnsSettings;
use crate::api::{DnsPolicy, PodSpec};
use crate::base::Namespace;

/// More search domains are cut off (`MaxDNSSearchPaths` of the kubelet).
const MAX_SEARCH: usize = 32;

/// Larger values count as this (`RES_MAXNDOTS` of glibc; musl and Go have the same).
const MAX_NDOTS: usize = 15;

/// What `/etc/resolv.conf` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// Name servers in order; at most three are used.
    pub nameservers: Vec<IpAddr>,
    /// Search list.
    pub search: Vec<Arc<str>>,
    /// `options ndots:`.
    pub ndots: usize,
    /// What else `options` says.
    pub options: ResolverOptions,
}

impl ResolvConf {
    /// Returns what kubelet writes for a pod: the cluster's name servers and search list with those of the node behind
    /// it, or the node's own file.
    pub fn of_pod(
        spec: &PodSpec,
        namespace: &Namespace,
        dns: &[IpAddr],
        domain: &str,
        node: &DnsSettings,
    ) -> Self {
        let cluster = || Self {
            nameservers: dns.to_vec(),
            search: [
                format!("{namespace}.svc.{domain}").into(),
                format!("svc.{domain}").into(),
                domain.into(),
            ]
            .into_iter()
            .chain(node.search.iter().cloned())
            .collect(),
            ndots: 5,
            options: ResolverOptions::default(),
        };
        let empty = || Self {
            nameservers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            options: ResolverOptions::default(),
        };
        let mut conf = match spec.dns_policy {
            DnsPolicy::ClusterFirst if spec.host_network => Self::of_node(node),
            DnsPolicy::ClusterFirst | DnsPolicy::ClusterFirstWithHostNet => cluster(),
            DnsPolicy::Default => Self::of_node(node),
            DnsPolicy::None => empty(),
        };
        if let Some(config) = &spec.dns_config {
            conf.nameservers.extend(&config.nameservers);
            conf.search.extend(config.searches.iter().cloned());
            let ndots = config.options.iter().find(|(name, _)| &**name == "ndots");
            let value = ndots.and_then(|(_, value)| value.as_ref()?.parse().ok());
            conf.ndots = value.unwrap_or(conf.ndots).min(MAX_NDOTS);
            conf.options = ResolverOptions::read(&config.options);
        }
        conf.nameservers.truncate(3);
        conf.search.truncate(MAX_SEARCH);
        conf
    }

    /// Returns the file of a node.
    pub fn of_node(node: &DnsSettings) -> Self {
        Self {
            nameservers: node.upstream.iter().take(3).copied().collect(),
            search: node.search.clone(),
            ndots: 1,
            options: ResolverOptions::default(),
        }
    }

    /// Returns the fully qualified names a resolver asks for, in order, until one exists. To a name with dots enough musl
    /// never appends anything (`name_from_dns_search`).
    pub fn candidates(&self, name: &str, flavour: Flavour) -> Vec<Arc<str>> {
        let name = name.to_ascii_lowercase();
        if name.ends_with('.') {
            return vec![name.into()];
        }
        let dots = name.bytes().filter(|b| *b == b'.').count();
        let absolute: Arc<str> = format!("{name}.").into();
        let searched = self.search.iter().map(|domain| {
            let domain = domain.trim_end_matches('.');
            format!("{name}.{domain}.").into()
        });
        if dots >= self.ndots && flavour.is_musl() {
            vec![absolute]
        } else if dots >= self.ndots {
            std::iter::once(absolute).chain(searched).collect()
        } else {
            searched.chain(std::iter::once(absolute)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_dots_ask_for_the_name_itself_first() {
        let namespace = "default".parse().expect("a name");
        let conf = ResolvConf::of_pod(
            &PodSpec::default(),
            &namespace,
            &[],
            "cluster.local",
            &DnsSettings::default(),
        );
        let of = |name: &str| {
            conf.candidates(name, Flavour::Glibc)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of("web").first().map(String::as_str),
            Some("web.default.svc.cluster.local.")
        );
        assert_eq!(of("api.example.com").len(), 4);
        assert_eq!(
            of("a.b.c.d.e.com").first().map(String::as_str),
            Some("a.b.c.d.e.com.")
        );
        assert_eq!(of("web.other.svc.cluster.local.").len(), 1);
        assert_eq!(conf.candidates("a.b.c.d.e.com", Flavour::Musl).len(), 1);
    }
}
