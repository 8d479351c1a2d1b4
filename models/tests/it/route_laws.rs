//! A route lookup returns the longest matching prefix with the lowest metric: the same as a naive search.

use ipnet::IpNet;
use podwire_models::base::OriginId;
use podwire_models::kernel::config::RouteKind;
use podwire_models::kernel::link::Scope;
use podwire_models::kernel::route::{Fib, Route};
use podwire_models::wire::DevIndex;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn v4() -> impl Strategy<Value = IpAddr> {
    // Few distinct bits, so that prefixes meet.
    (0_u32..64).prop_map(|n| IpAddr::V4(Ipv4Addr::from(0x0af4_0000 | (n & 7) << 8 | n << 2)))
}

fn v6() -> impl Strategy<Value = IpAddr> {
    (0_u128..64).prop_map(|n| IpAddr::V6(Ipv6Addr::from(0xfd00_u128 << 112 | (n & 7) << 64 | n)))
}

fn prefix() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (v4(), 0_u8..=32).prop_map(|(a, len)| IpNet::new(a, len).unwrap().trunc()),
        (v6(), 0_u8..=128).prop_map(|(a, len)| IpNet::new(a, len).unwrap().trunc()),
    ]
}

fn route(dst: IpNet, metric: u32, dev: u32) -> Route {
    Route {
        kind: RouteKind::Unicast,
        dst,
        gateway: None,
        dev: Some(DevIndex(dev)),
        src: None,
        metric,
        scope: Scope::Link,
        onlink: false,
        kernel: false,
        mtu: None,
        origin: OriginId::NONE,
    }
}

proptest! {
    #[test]
    fn lookup_equals_naive_search(
        prefixes in prop::collection::vec((prefix(), 0_u32..3), 0..40),
        gone in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        dst in prop_oneof![v4(), v6()],
    ) {
        let mut fib = Fib::default();
        let mut naive: Vec<Route> = Vec::new();
        for (n, (dst, metric)) in prefixes.into_iter().enumerate() {
            let route = route(dst, metric, u32::try_from(n).unwrap());
            let exists = naive.iter().any(|r| r.dst == dst && r.metric == metric);
            prop_assert_eq!(fib.add(route.clone()).is_err(), exists);
            if !exists {
                naive.push(route);
            }
        }
        for index in gone {
            if naive.is_empty() {
                break;
            }
            let removed = naive.remove(index.index(naive.len()));
            prop_assert!(fib.remove(removed.dst, None, removed.metric));
        }
        let best = naive
            .iter()
            .filter(|r| r.dst.contains(&dst))
            .min_by_key(|r| (std::cmp::Reverse(r.dst.prefix_len()), r.metric));
        prop_assert_eq!(fib.lookup(dst), best);
    }
}
