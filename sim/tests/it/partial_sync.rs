//! What kube-proxy writes when one Service changes is what it would write for all Services anew.
#![allow(clippy::unwrap_used, reason = "tests")]

use podwire::bench::scale;
use podwire::controllers::dirty::Dirty;
use podwire::lab::Lab;
use podwire_models::api::TrafficPolicy;
use podwire_models::base::{Family, ObjectKey};
use podwire_models::cluster::install::Machines;
use podwire_models::kernel::netfilter::chain::Ruleset;
use proptest::prelude::*;

/// What happens to a Service, and the pods behind it.
#[derive(Clone, Debug)]
enum Deed {
    /// Every so many of its pods are not ready any more, or ready again.
    Ready { every: usize, ready: bool },
    /// Its port is another.
    Port(u16),
    /// It has a node port, or none.
    NodePort(Option<u16>),
    /// Traffic from inside stays on the node.
    Local,
    /// It is deleted.
    Delete,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (1_usize..4, any::<bool>()).prop_map(|(every, ready)| Deed::Ready { every, ready }),
        1 => (80_u16..84).prop_map(Deed::Port),
        1 => prop::option::of(30_000_u16..30_010).prop_map(Deed::NodePort),
        1 => Just(Deed::Local),
        1 => Just(Deed::Delete),
    ]
}

fn happen(lab: &mut Lab, key: &ObjectKey, deed: &Deed) {
    let Some(service) = lab.objects.services.get_mut(key) else {
        return;
    };
    match deed {
        Deed::Ready { every, ready } => {
            let selector = service.selector.clone().unwrap();
            let pods = lab.objects.pods.values_mut();
            let behind = pods
                .filter(|pod| pod.key.namespace == key.namespace && selector.matches(&pod.labels));
            behind
                .step_by(*every)
                .for_each(|pod| pod.ready = Some(*ready));
        }
        Deed::Port(port) => service.ports.iter_mut().for_each(|p| p.port = *port),
        Deed::NodePort(port) => service.ports.iter_mut().for_each(|p| p.node_port = *port),
        Deed::Local => service.internal_traffic_policy = TrafficPolicy::Local,
        Deed::Delete => {
            lab.objects.services.remove(key);
        }
    }
}

fn rules(machines: &Machines, family: Family) -> Vec<&Ruleset> {
    let nodes = machines
        .nodes
        .values()
        .filter_map(|m| machines.cluster.netns(m.netns));
    nodes
        .map(|node| node.rules(family).unwrap().ruleset())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn a_partial_sync_writes_what_a_full_one_does(
        pods in prop_oneof![Just(60_u32), Just(1_100_u32), Just(1_030_u32)],
        deeds in prop::collection::vec((0_u32..12, deed()), 1..10),
    ) {
        let sizes = scale::Sizes { nodes: 12, pods, services: 12, seed: 1 };
        let mut lab = scale::cluster(scale::objects(&sizes));
        let mut machines = lab.machines.clone();
        for (n, deed) in deeds {
            let key = ObjectKey::new("team-0".parse().unwrap(), format!("service-{n}").parse().unwrap());
            happen(&mut lab, &key, &deed);
            let mut dirty = Dirty::default();
            dirty.add(key);
            let mut anew = lab.clone();
            let mut other = machines.clone();
            let mut changed = lab.refresh_slices(&dirty);
            changed.merge(dirty);
            lab.program(&mut machines, &changed);
            anew.refresh_slices(&Dirty::All);
            prop_assert_eq!(&anew.slices, &lab.slices);
            anew.program(&mut other, &Dirty::All);
            for family in [Family::V4, Family::V6] {
                for (partial, full) in rules(&machines, family).into_iter().zip(rules(&other, family)) {
                    prop_assert_eq!(partial, full, "{:?}", deed);
                }
            }
        }
    }
}
