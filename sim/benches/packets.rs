//! What one packet costs, and the parts of it: rules, routes, connections. Under `cargo test` each runs once.

#![allow(missing_docs, reason = "criterion writes the main function")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net};
use podwire::bench::Sizes;
use podwire::bench::w1::{cluster, w1};
use podwire_models::base::{NoChance, OriginId, Time};
use podwire_models::kernel::config::RouteKind;
use podwire_models::kernel::conntrack::{Conntrack, CtSettings, Tracked};
use podwire_models::kernel::link::Scope;
use podwire_models::kernel::netfilter::chain::Hook;
use podwire_models::kernel::route::{Fib, Route};
use podwire_models::kernel::{Cx, Skb};
use podwire_models::wire::{
    DevIndex, FlowKey, NoRecorder, Packet, PacketId, Payload, Transport, Udp,
};

fn datagram(src: [u8; 4], sport: u16, dst: IpAddr) -> Packet {
    Packet {
        id: PacketId(1),
        flow: FlowKey(1),
        src: src.into(),
        dst,
        ttl: 64,
        tos: 0,
        df: true,
        fragment: None,
        transport: Transport::Udp(Udp { sport, dport: 9 }),
        payload: Payload::Empty,
    }
}

/// The first packet of a connection to a Service: its rules looked up, and every rule tried until they come.
fn chain_walk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chain-walk");
    for services in [10, 1_000, 10_000] {
        let lab = cluster(&Sizes {
            nodes: 2,
            pods_per_node: 1,
            services,
            ..Sizes::default()
        });
        let mut addresses: Vec<IpAddr> = lab
            .objects
            .services
            .values()
            .filter_map(|service| service.cluster_ips().first().copied())
            .collect();
        addresses.sort_unstable();
        let middle = addresses
            .get(addresses.len() / 2)
            .copied()
            .expect("Services have addresses");
        let machine = lab.machines.nodes.values().next().expect("two nodes");
        let node = lab
            .machines
            .cluster
            .netns(machine.netns)
            .expect("nodes have namespaces");
        for way in ["looked-up", "literal"] {
            let mut node = node.clone();
            if let (Some(filter), "literal") = (&mut node.netfilter, way) {
                filter.walk_literally();
            }
            group.bench_function(BenchmarkId::new(way, services), |bencher| {
                let (mut effects, mut next_packet) = (Vec::new(), 0);
                let mut port = 1024;
                bencher.iter(|| {
                    port = if port == u16::MAX { 1024 } else { port + 1 };
                    let mut skb = Skb::new(datagram([10, 128, 0, 2], port, middle));
                    skb.in_dev = Some(DevIndex(2));
                    let mut cx = Cx {
                        now: Time(1),
                        dice: &mut NoChance,
                        recorder: &mut NoRecorder,
                        effects: &mut effects,
                        next_packet: &mut next_packet,
                    };
                    black_box(node.run_hook(Hook::Prerouting, &mut skb, &mut cx))
                });
            });
        }
    }
    group.finish();
}

/// Looks up destinations among 5,000 routes of six lengths.
fn longest_prefix(criterion: &mut Criterion) {
    let mut fib = Fib::default();
    let lengths = [8, 12, 16, 20, 24, 32].into_iter().cycle();
    for (n, len) in (0..5_000_u32).zip(lengths) {
        let net = Ipv4Net::new(Ipv4Addr::from(n.wrapping_mul(0x9e37_79b9)), len)
            .expect("at most 32 bits")
            .trunc();
        let route = Route {
            kind: RouteKind::Unicast,
            dst: IpNet::V4(net),
            gateway: None,
            dev: Some(DevIndex(2)),
            src: None,
            metric: 0,
            scope: Scope::Link,
            onlink: false,
            kernel: false,
            mtu: None,
            origin: OriginId::NONE,
        };
        // Short prefixes repeat; the first one stays.
        let _ = fib.add(route);
    }
    let mut n = 0_u32;
    criterion.bench_function("longest-prefix/5000", |bencher| {
        bencher.iter(|| {
            n = n.wrapping_add(1);
            let dst = IpAddr::V4(Ipv4Addr::from(n.wrapping_mul(0x9e37_79b9)));
            black_box(fib.lookup(dst).is_some())
        });
    });
}

/// Finds and refreshes the connection of a packet.
fn conntrack(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("conntrack");
    for connections in [10_000_u32, 100_000] {
        let mut table = Conntrack::new(CtSettings::default());
        let packet = |n: u32| {
            let host = IpAddr::V4(Ipv4Addr::from(0x0a80_0000 + n));
            datagram([10, 129, 0, 1], 40_000, host)
        };
        for n in 0..connections {
            if let Tracked::Entry(ct, _) = table.track(&packet(n), Time(1)) {
                table.confirm(ct, Time(1));
            }
        }
        let mut n = 0_u32;
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(connections), |bencher| {
            bencher.iter(|| {
                n = (n + 7919) % connections;
                black_box(table.track(&packet(n), Time(2)))
            });
        });
    }
    group.finish();
}

/// The whole way, with fewer packets than `podwire bench w1`.
fn end_to_end(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("w1");
    group.sample_size(10);
    for (nodes, packets) in [(2, 1_000), (16, 20_000)] {
        let sizes = Sizes {
            nodes,
            packets,
            ..Sizes::default()
        };
        group.throughput(Throughput::Elements(packets));
        group.bench_function(BenchmarkId::new("nodes", nodes), |bencher| {
            bencher.iter(|| w1(&sizes));
        });
    }
    group.finish();
}

criterion_group!(benches, chain_walk, longest_prefix, conntrack, end_to_end);
criterion_main!(benches);
