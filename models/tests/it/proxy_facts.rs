//! kube-proxy's rules against what the real program (1.30.3) wrote for the same objects.

use std::sync::Arc;

use podwire_models::api::{
    ClusterIp, Endpoint, EndpointPort, EndpointSlice, IngressIp, IpMode, Node, PortRef, Service,
    ServicePort, ServiceType, SessionAffinity, Taint, TaintEffect, TrafficPolicy,
};
use podwire_models::base::{Family, Labels, OriginId, Protocol};
use podwire_models::control::proxy::health;
use podwire_models::control::proxy::iptables::{ruleset, same_on_every_node};
use podwire_models::control::proxy::{
    DetectLocalMode, Flags, NodePortAddresses, NodeView, ServiceView, Version, categorize,
};
use podwire_models::kernel::netfilter::chain::{Ruleset, Table, Target};

const SERVICE_ORIGIN: OriginId = OriginId(7);
const ENDPOINT_ORIGIN: OriginId = OriginId(8);

fn service(key: &str, ip: &str, port_name: &str, port: u16) -> Service {
    let mut service = Service::new(key.parse().unwrap());
    service.cluster_ip = ClusterIp::Addresses(vec![ip.parse().unwrap()]);
    service.ports.push(ServicePort {
        name: Some(port_name.into()),
        protocol: Protocol::Tcp,
        port,
        target_port: PortRef::Number(port),
        node_port: None,
        app_protocol: None,
        origin: SERVICE_ORIGIN,
    });
    service
}

/// A slice of endpoints written `node address`.
fn slice(service: &Service, port: u16, endpoints: &[&str]) -> EndpointSlice {
    let endpoints = endpoints.iter().map(|text| {
        let (node, address) = text.split_once(' ').unwrap();
        let mut endpoint = Endpoint::new(address.parse().unwrap());
        endpoint.node_name = Some(node.parse().unwrap());
        endpoint.origin = ENDPOINT_ORIGIN;
        endpoint
    });
    EndpointSlice {
        key: service.key.clone(),
        labels: Labels::from_iter([("kubernetes.io/service-name", service.key.name.as_str())]),
        annotations: Labels::default(),
        address_type: Family::V4.into(),
        endpoints: endpoints.collect(),
        ports: vec![EndpointPort {
            name: service.ports[0].name.clone().unwrap(),
            protocol: Protocol::Tcp,
            port: Some(port),
            app_protocol: None,
        }],
        origin: OriginId::NONE,
    }
}

fn node() -> NodeView {
    let mut node = Node::new("node-a".parse().unwrap());
    node.internal_ips = vec!["192.168.50.11".parse().unwrap()];
    node.labels.insert("topology.kubernetes.io/zone", "eu-1a");
    let local = ["127.0.0.1", "192.168.50.11"].map(|ip| ip.parse().unwrap());
    NodeView::new(&node, local.to_vec())
}

fn flags() -> Flags {
    Flags {
        cluster_cidr: vec!["10.244.0.0/16".parse().unwrap()],
        ..Flags::default()
    }
}

fn rules_of(service: &Service, slice: &EndpointSlice, family: Family, version: Version) -> Ruleset {
    let view = ServiceView::new([service], [slice], family);
    ruleset(&view, &node(), &flags(), version)
}

/// The saved rules that depend on Services.
fn service_rules(rules: &Ruleset, family: Family) -> Vec<String> {
    let fixed = ["FIREWALL ", "FORWARD ", "MARK-MASQ ", "POSTROUTING "];
    let of_service = |line: &&str| {
        let chain = line.strip_prefix("-A KUBE-");
        chain.is_some_and(|rest| !fixed.iter().any(|name| rest.starts_with(name)))
    };
    let text = rules.save(family);
    text.lines().filter(of_service).map(str::to_owned).collect()
}

#[test]
fn session_affinity_as_the_real_program_writes_it() {
    let mut lobby = service("game/lobby", "10.96.90.1", "tcp", 7777);
    lobby.session_affinity = SessionAffinity::ClientIp {
        timeout_seconds: 10_800,
    };
    let endpoints = [
        "node-b 10.244.2.100",
        "node-a 10.244.1.100",
        "node-a 10.244.1.101",
    ];
    let rules = rules_of(
        &lobby,
        &slice(&lobby, 7777, &endpoints),
        Family::V4,
        Version::V1_30,
    );
    let real = [
        r#"-A KUBE-SEP-72ZZFSP7LAECBSTV -s 10.244.2.100/32 -m comment --comment "game/lobby:tcp" -j KUBE-MARK-MASQ"#,
        r#"-A KUBE-SEP-72ZZFSP7LAECBSTV -p tcp -m comment --comment "game/lobby:tcp" -m recent --set --name KUBE-SEP-72ZZFSP7LAECBSTV --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.244.2.100:7777"#,
        r#"-A KUBE-SEP-KRISTZJMG473BXFA -s 10.244.1.100/32 -m comment --comment "game/lobby:tcp" -j KUBE-MARK-MASQ"#,
        r#"-A KUBE-SEP-KRISTZJMG473BXFA -p tcp -m comment --comment "game/lobby:tcp" -m recent --set --name KUBE-SEP-KRISTZJMG473BXFA --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.244.1.100:7777"#,
        r#"-A KUBE-SEP-KVJ7J5YAQBVUMJQE -s 10.244.1.101/32 -m comment --comment "game/lobby:tcp" -j KUBE-MARK-MASQ"#,
        r#"-A KUBE-SEP-KVJ7J5YAQBVUMJQE -p tcp -m comment --comment "game/lobby:tcp" -m recent --set --name KUBE-SEP-KVJ7J5YAQBVUMJQE --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.244.1.101:7777"#,
        r#"-A KUBE-SERVICES -d 10.96.90.1/32 -p tcp -m comment --comment "game/lobby:tcp cluster IP" -m tcp --dport 7777 -j KUBE-SVC-J63VRTGZYL4TFK4E"#,
        r#"-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"#,
        r#"-A KUBE-SVC-J63VRTGZYL4TFK4E ! -s 10.244.0.0/16 -d 10.96.90.1/32 -p tcp -m comment --comment "game/lobby:tcp cluster IP" -m tcp --dport 7777 -j KUBE-MARK-MASQ"#,
        r#"-A KUBE-SVC-J63VRTGZYL4TFK4E -m comment --comment "game/lobby:tcp -> 10.244.1.100:7777" -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-KRISTZJMG473BXFA --mask 255.255.255.255 --rsource -j KUBE-SEP-KRISTZJMG473BXFA"#,
        r#"-A KUBE-SVC-J63VRTGZYL4TFK4E -m comment --comment "game/lobby:tcp -> 10.244.1.101:7777" -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-KVJ7J5YAQBVUMJQE --mask 255.255.255.255 --rsource -j KUBE-SEP-KVJ7J5YAQBVUMJQE"#,
        r#"-A KUBE-SVC-J63VRTGZYL4TFK4E -m comment --comment "game/lobby:tcp -> 10.244.2.100:7777" -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-72ZZFSP7LAECBSTV --mask 255.255.255.255 --rsource -j KUBE-SEP-72ZZFSP7LAECBSTV"#,
        r#"-A KUBE-SVC-J63VRTGZYL4TFK4E -m comment --comment "game/lobby:tcp -> 10.244.1.100:7777" -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-KRISTZJMG473BXFA"#,
        r#"-A KUBE-SVC-J63VRTGZYL4TFK4E -m comment --comment "game/lobby:tcp -> 10.244.1.101:7777" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-KVJ7J5YAQBVUMJQE"#,
        r#"-A KUBE-SVC-J63VRTGZYL4TFK4E -m comment --comment "game/lobby:tcp -> 10.244.2.100:7777" -j KUBE-SEP-72ZZFSP7LAECBSTV"#,
    ];
    assert_eq!(service_rules(&rules, Family::V4), real);
}

#[test]
fn external_policy_local_without_local_endpoints() {
    let (gateway, slice) = gateway();
    let rules = rules_of(&gateway, &slice, Family::V4, Version::V1_30);
    let real = [
        r#"-A KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment "edge/gw-elsewhere:http has no local endpoints" -m addrtype --dst-type LOCAL -m tcp --dport 30283 -j DROP"#,
        r#"-A KUBE-EXT-JD6AHEENVVN6EQCH -s 10.244.0.0/16 -m comment --comment "pod traffic for edge/gw-elsewhere:http external destinations" -j KUBE-SVC-JD6AHEENVVN6EQCH"#,
        r#"-A KUBE-EXT-JD6AHEENVVN6EQCH -m comment --comment "masquerade LOCAL traffic for edge/gw-elsewhere:http external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ"#,
        r#"-A KUBE-EXT-JD6AHEENVVN6EQCH -m comment --comment "route LOCAL traffic for edge/gw-elsewhere:http external destinations" -m addrtype --src-type LOCAL -j KUBE-SVC-JD6AHEENVVN6EQCH"#,
        r#"-A KUBE-NODEPORTS -p tcp -m comment --comment "edge/gw-elsewhere:http" -m tcp --dport 30283 -j KUBE-EXT-JD6AHEENVVN6EQCH"#,
        r#"-A KUBE-SEP-I5O54PJO37X3NKBQ -s 10.244.2.115/32 -m comment --comment "edge/gw-elsewhere:http" -j KUBE-MARK-MASQ"#,
        r#"-A KUBE-SEP-I5O54PJO37X3NKBQ -p tcp -m comment --comment "edge/gw-elsewhere:http" -m tcp -j DNAT --to-destination 10.244.2.115:8080"#,
        r#"-A KUBE-SEP-PBETXZBB3RENNRTC -s 10.244.2.114/32 -m comment --comment "edge/gw-elsewhere:http" -j KUBE-MARK-MASQ"#,
        r#"-A KUBE-SEP-PBETXZBB3RENNRTC -p tcp -m comment --comment "edge/gw-elsewhere:http" -m tcp -j DNAT --to-destination 10.244.2.114:8080"#,
        r#"-A KUBE-SERVICES -d 10.96.102.1/32 -p tcp -m comment --comment "edge/gw-elsewhere:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-JD6AHEENVVN6EQCH"#,
        r#"-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"#,
        r#"-A KUBE-SVC-JD6AHEENVVN6EQCH ! -s 10.244.0.0/16 -d 10.96.102.1/32 -p tcp -m comment --comment "edge/gw-elsewhere:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ"#,
        r#"-A KUBE-SVC-JD6AHEENVVN6EQCH -m comment --comment "edge/gw-elsewhere:http -> 10.244.2.114:8080" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-PBETXZBB3RENNRTC"#,
        r#"-A KUBE-SVC-JD6AHEENVVN6EQCH -m comment --comment "edge/gw-elsewhere:http -> 10.244.2.115:8080" -j KUBE-SEP-I5O54PJO37X3NKBQ"#,
    ];
    assert_eq!(service_rules(&rules, Family::V4), real);
}

fn gateway() -> (Service, EndpointSlice) {
    let mut gateway = service("edge/gw-elsewhere", "10.96.102.1", "http", 80);
    gateway.service_type = ServiceType::NodePort;
    gateway.external_traffic_policy = TrafficPolicy::Local;
    gateway.ports[0].node_port = Some(30283);
    let slice = slice(
        &gateway,
        8080,
        &["node-b 10.244.2.114", "node-b 10.244.2.115"],
    );
    (gateway, slice)
}

#[test]
fn a_family_without_endpoints_is_refused() {
    let mut empty = service("v6/dual-empty6", "fd00:96::ad01", "http", 80);
    empty.service_type = ServiceType::NodePort;
    empty.ports[0].node_port = Some(30674);
    let slice = slice(&empty, 8080, &["node-a 10.244.1.9"]);
    let rules = rules_of(&empty, &slice, Family::V6, Version::V1_30);
    let real = [
        r#"-A KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment "v6/dual-empty6:http has no endpoints" -m addrtype --dst-type LOCAL -m tcp --dport 30674 -j REJECT --reject-with icmp6-port-unreachable"#,
        r#"-A KUBE-SERVICES -d fd00:96::ad01/128 -p tcp -m comment --comment "v6/dual-empty6:http has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp6-port-unreachable"#,
        r#"-A KUBE-SERVICES ! -d ::1/128 -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"#,
    ];
    assert_eq!(service_rules(&rules, Family::V6), real);
}

#[test]
fn every_jump_has_a_chain_and_every_service_rule_an_origin() {
    let (gateway, slice) = gateway();
    let rules = rules_of(&gateway, &slice, Family::V4, Version::default());
    for table in rules.tables.values() {
        for (name, chain) in &table.chains {
            for rule in chain.rules.iter() {
                if let Some(Target::Jump(target)) = &rule.target {
                    assert!(
                        table.chains.contains_key(target),
                        "{name} jumps to {target}"
                    );
                }
                let endpoint = name.starts_with("KUBE-SEP-");
                let service = ["KUBE-SVC-", "KUBE-EXT-"]
                    .iter()
                    .any(|p| name.starts_with(p));
                if endpoint {
                    assert_eq!(rule.origin, ENDPOINT_ORIGIN);
                }
                assert!(!service || !rule.origin.is_none());
            }
        }
    }
}

#[test]
fn newer_releases_count_what_they_drop_and_accept() {
    let (gateway, slice) = gateway();
    let save = |version| rules_of(&gateway, &slice, Family::V4, version).save(Family::V4);
    let count = |version| save(version).matches("-m nfacct").count();
    assert_eq!(count(Version::V1_31), 0);
    assert_eq!(count(Version::V1_32), 2);
}

#[test]
fn node_port_addresses_name_them_one_by_one_and_close_loopback() {
    let (gateway, slice) = gateway();
    let view = ServiceView::new([&gateway], [&slice], Family::V4);
    let flags = Flags {
        nodeport_addresses: NodePortAddresses::Within(vec!["192.168.0.0/16".parse().unwrap()]),
        ..flags()
    };
    let rules = ruleset(&view, &node(), &flags, Version::V1_30);
    let text = rules.save(Family::V4);
    assert!(text.contains("-A KUBE-SERVICES -d 192.168.50.11/32 -m comment"));
    assert!(!text.contains("--dst-type LOCAL -j KUBE-NODEPORTS"));
    let firewall = &rules.tables[&Table::Filter].chains["KUBE-FIREWALL"];
    assert_eq!(*firewall.rules, []);
}

type Change = fn(&mut Service, &mut EndpointSlice, &mut Flags);

/// Everything that may make the rules of two nodes differ, one at a time: whoever says that they are the same may write
/// them once for all nodes.
#[test]
fn rules_that_ask_for_no_node_are_the_same_on_every_node() {
    let other = || {
        let mut node = Node::new("node-b".parse().unwrap());
        node.internal_ips = vec!["192.168.50.12".parse().unwrap()];
        node.labels.insert("topology.kubernetes.io/zone", "eu-1b");
        node.pod_cidrs = vec!["10.244.2.0/24".parse().unwrap()];
        let local = ["127.0.0.1", "192.168.50.12"].map(|ip| ip.parse().unwrap());
        NodeView::new(&node, local.to_vec())
    };
    let with = |change: &dyn Fn(&mut Service, &mut EndpointSlice, &mut Flags)| {
        let (mut gateway, _) = gateway();
        let mut slice = slice(&gateway, 80, &["node-a 10.244.1.2", "node-b 10.244.2.2"]);
        let mut flags = flags();
        gateway.external_traffic_policy = TrafficPolicy::Cluster;
        change(&mut gateway, &mut slice, &mut flags);
        let view = ServiceView::new([&gateway], [&slice], Family::V4);
        let [here, there] =
            [node(), other()].map(|node| ruleset(&view, &node, &flags, Version::V1_34));
        (same_on_every_node(&view, &flags), here == there)
    };
    assert_eq!(with(&|_, _, _| {}), (true, true));
    let changes: [(&str, Change); 7] = [
        ("policy outside", |s, _, _| {
            s.external_traffic_policy = TrafficPolicy::Local;
        }),
        ("policy inside", |s, _, _| {
            s.internal_traffic_policy = TrafficPolicy::Local;
        }),
        ("hints", |_, slice, _| {
            for (endpoint, zone) in slice.endpoints.iter_mut().zip(["eu-1a", "eu-1b"]) {
                endpoint.for_zones = vec![zone.into()];
            }
        }),
        ("two slices", |_, slice, _| {
            let mut again = slice.endpoints[0].clone();
            again.node_name = Some("node-b".parse().unwrap());
            again.origin = SERVICE_ORIGIN;
            slice.endpoints.push(again);
        }),
        ("source ranges", |s, _, _| {
            s.service_type = ServiceType::LoadBalancer;
            s.ingress = vec![IngressIp {
                ip: Some("203.0.113.7".parse().unwrap()),
                hostname: None,
                ip_mode: IpMode::Vip,
            }];
            s.load_balancer_source_ranges = vec!["192.168.50.11/32".parse().unwrap()];
        }),
        ("node's range", |_, _, flags| {
            flags.detect_local_mode = DetectLocalMode::NodeCidr;
        }),
        ("node's address", |_, _, flags| {
            flags.nodeport_addresses = NodePortAddresses::Primary;
        }),
    ];
    for (what, change) in changes {
        assert_eq!(with(&change), (false, false), "{what}");
    }
}

#[test]
fn more_than_a_thousand_endpoints_lose_their_comments() {
    let web = service("default/web", "10.96.0.9", "http", 80);
    let addresses: Vec<String> = (0..1001)
        .map(|n| format!("node-a 10.244.{}.{}", n / 250, n % 250 + 1))
        .collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let rules = rules_of(
        &web,
        &slice(&web, 80, &addresses),
        Family::V4,
        Version::V1_30,
    );
    let saved = service_rules(&rules, Family::V4);
    let sep: Vec<_> = saved
        .iter()
        .filter(|line| line.starts_with("-A KUBE-SEP"))
        .collect();
    assert_eq!(sep.len(), 2 * 1001);
    assert!(sep.iter().all(|line| !line.contains("--comment")));
}

#[test]
fn the_last_resort_is_who_still_answers() {
    let web = service("default/web", "10.96.0.9", "http", 80);
    let mut slice = slice(&web, 80, &["node-a 10.244.1.2", "node-b 10.244.2.2"]);
    for endpoint in &mut slice.endpoints {
        endpoint.ready = Some(false);
        endpoint.terminating = Some(true);
    }
    let used = |slice: &EndpointSlice| -> Vec<Arc<str>> {
        let view = ServiceView::new([&web], [slice], Family::V4);
        let found = categorize(&view.ports[0], &node(), Version::default());
        found.cluster.iter().map(|e| Arc::clone(&e.text)).collect()
    };
    assert_eq!(used(&slice).len(), 2);
    slice.endpoints[1].terminating = Some(false);
    slice.endpoints[1].ready = Some(true);
    assert_eq!(used(&slice), [Arc::from("10.244.2.2:80")]);
}

#[test]
fn zone_hints_need_the_annotation_only_in_old_releases() {
    let mut web = service("default/web", "10.96.0.9", "http", 80);
    let mut slice = slice(&web, 80, &["node-a 10.244.1.2", "node-b 10.244.2.2"]);
    for (endpoint, zone) in slice.endpoints.iter_mut().zip(["eu-1a", "eu-1b"]) {
        endpoint.for_zones = vec![zone.into()];
    }
    let count = |web: &Service, version| {
        let view = ServiceView::new([web], [&slice], Family::V4);
        categorize(&view.ports[0], &node(), version).cluster.len()
    };
    assert_eq!(count(&web, Version::V1_30), 2);
    assert_eq!(count(&web, Version::V1_31), 1);
    web.annotations
        .insert("service.kubernetes.io/topology-mode", "Auto");
    assert_eq!(count(&web, Version::V1_30), 1);
}

#[test]
fn health_checks_count_ready_endpoints_of_the_node_where_node_ports_are() {
    let mut gateway = service("edge/gw", "10.96.90.2", "http", 80);
    gateway.service_type = ServiceType::LoadBalancer;
    gateway.external_traffic_policy = TrafficPolicy::Local;
    gateway.health_check_node_port = Some(32_000);
    let endpoints = [
        "node-a 10.244.1.9",
        "node-a 10.244.1.10",
        "node-b 10.244.2.9",
    ];
    let mut slice = slice(&gateway, 80, &endpoints);
    // About to go: it still takes connections, but does not count.
    slice.endpoints[1].ready = Some(false);
    slice.endpoints[1].serving = Some(true);
    slice.endpoints[1].terminating = Some(true);
    let views = [ServiceView::new([&gateway], [&slice], Family::V4)];
    let mut object = Node::new("node-a".parse().unwrap());
    let within = Flags {
        nodeport_addresses: NodePortAddresses::Within(vec!["192.168.0.0/16".parse().unwrap()]),
        ..flags()
    };
    let ask = |object: &Node, flags: &Flags, path: &str| -> Vec<(u16, Option<usize>, u16)> {
        let servers = health::servers(&views, object, &node(), flags);
        let line = format!("GET {path} HTTP/1.1");
        let told = servers.iter().map(|server| {
            let addrs = server.addrs.as_ref().map(Vec::len);
            (server.port, addrs, server.pages.answer(&line).status)
        });
        told.collect()
    };
    let well = [(10_256, None, 200), (32_000, None, 200)];
    assert_eq!(ask(&object, &flags(), "/healthz"), well);
    let narrow = [(10_256, None, 200), (32_000, Some(1), 200)];
    assert_eq!(ask(&object, &within, "/healthz"), narrow);
    let weight = "X-Load-Balancing-Endpoint-Weight: 1".to_owned();
    let servers = health::servers(&views, &object, &node(), &flags());
    let answer = servers[1].pages.answer("GET / HTTP/1.1");
    assert!(answer.headers.contains(&weight), "{answer:?}");
    object.taints.push(Taint {
        key: "ToBeDeletedByClusterAutoscaler".into(),
        value: "".into(),
        effect: TaintEffect::NoSchedule,
    });
    let leaving = [(10_256, None, 503), (32_000, None, 200)];
    assert_eq!(ask(&object, &flags(), "/healthz"), leaving);
    assert_eq!(ask(&object, &flags(), "/livez")[0].2, 200);
}
