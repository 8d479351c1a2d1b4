//! A route lookup returns the longest matching prefix with the lowest metric: the same as a naive search.

use ipnet::IpNet;
use podwire_models::base::{Family, OriginId};
use podwire_models::kernel::config::RouteKind;
use podwire_models::kernel::link::Scope;
use podwire_models::kernel::route::{Fib, Route, Shared};
use podwire_models::wire::DevIndex;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

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

/// Something that happens to a table.
#[derive(Clone, Debug)]
enum Deed {
    Add(IpNet, u32),
    Remove(prop::sample::Index),
    DeviceGone(u32),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (prefix(), 0_u32..3).prop_map(|(dst, metric)| Deed::Add(dst, metric)),
        3 => any::<prop::sample::Index>().prop_map(Deed::Remove),
        1 => (0_u32..12).prop_map(Deed::DeviceGone),
    ]
}

proptest! {
    /// Shared routes are as good as own ones: whatever happens to the table later, look-ups and listings are those of a
    /// table that had them added one by one.
    #[test]
    fn shared_routes_are_as_good_as_own_ones(
        networks in prop::collection::btree_set(prefix(), 0..20),
        own in prop::collection::btree_set(prefix(), 0..6),
        hide in 0_usize..3,
        deeds in prop::collection::vec(deed(), 0..12),
        to in prop::collection::vec(prop_oneof![v4(), v6()], 1..20),
    ) {
        let (mut shares, mut literal) = (Fib::default(), Fib::default());
        for (dst, dev) in own.iter().zip(20..) {
            shares.add(route(*dst, 0, dev)).unwrap();
            literal.add(route(*dst, 0, dev)).unwrap();
        }
        let hidden: Vec<IpNet> = networks.iter().take(hide).copied().collect();
        for family in Family::ALL {
            let of = networks.iter().zip(0_u32..).filter(|(dst, _)| Family::of_net(**dst) == family);
            let routes: Vec<Route> = of.map(|(dst, n)| route(*dst, 0, n % 12)).collect();
            for route in &routes {
                if !hidden.contains(&route.dst) && !own.contains(&route.dst) {
                    literal.add(route.clone()).unwrap();
                }
            }
            let shared = Shared::new(family, routes).unwrap();
            shares.share(family, Arc::new(shared), &hidden);
        }
        for deed in deeds {
            match deed {
                Deed::Add(dst, metric) => {
                    let route = route(dst, metric, 40);
                    prop_assert_eq!(shares.add(route.clone()), literal.add(route));
                }
                Deed::Remove(index) => {
                    let all: Vec<Route> = Family::ALL.into_iter().flat_map(|f| literal.main(f)).cloned().collect();
                    if !all.is_empty() {
                        let gone = index.get(&all);
                        prop_assert!(literal.remove(gone.dst, None, gone.metric));
                        prop_assert!(shares.remove(gone.dst, None, gone.metric));
                    }
                }
                Deed::DeviceGone(dev) => {
                    literal.retain(|r| r.dev != Some(DevIndex(dev)));
                    shares.retain(|r| r.dev != Some(DevIndex(dev)));
                }
            }
            for family in Family::ALL {
                prop_assert_eq!(shares.main(family), literal.main(family));
            }
            for dst in &to {
                prop_assert_eq!(shares.lookup(*dst), literal.lookup(*dst));
                for dev in 0..12 {
                    let dev = DevIndex(dev);
                    prop_assert_eq!(shares.leads_by(*dst, dev), literal.leads_by(*dst, dev));
                }
            }
        }
    }
}
