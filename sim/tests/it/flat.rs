//! Every pod reaches every pod with no address rewritten: over all pairs of 40 nodes with 30 pods each, for each
//! profile; and a missing route is named.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;
use std::sync::Arc;

use podwire::flat::{Broken, flat_network};
use podwire::lab::{Lab, Plan};
use podwire_models::api::{Objects, Pod, PodSpec};
use podwire_models::base::{ObjectKey, Time};
use podwire_models::control::cni::Cni;
use podwire_models::kernel::config::Change;
use podwire_models::wire::Code;

fn lab(cni: Cni, nodes: u32, pods: u32) -> Lab {
    let mut objects = Objects::default();
    for n in 0..nodes * pods {
        let key = ObjectKey::new("flat".parse().unwrap(), format!("p{n:05}").parse().unwrap());
        let pod = Pod::new(key, Arc::new(PodSpec::default()));
        objects.pods.insert(pod.key.clone(), pod);
    }
    let mut plan = Plan {
        nodes,
        ..Plan::default()
    };
    plan.site.cni = cni;
    Lab::build(objects, plan)
}

fn addresses(lab: &Lab) -> Vec<(ObjectKey, Vec<IpAddr>)> {
    let mine = lab
        .objects
        .pods
        .values()
        .filter(|pod| pod.key.namespace.as_str() == "flat");
    mine.map(|pod| (pod.key.clone(), pod.pod_ips.clone()))
        .collect()
}

fn all_pairs(cni: Cni) {
    let lab = lab(cni, 40, 30);
    let pairs = flat_network(&lab.machines, &addresses(&lab), Time::ZERO);
    assert_eq!(
        pairs.map_err(|culprit| culprit.to_string()),
        Ok(1200 * 1199),
        "{cni}"
    );
}

#[test]
fn kindnet_is_flat() {
    all_pairs(Cni::Kindnet);
}

#[test]
fn bridge_is_flat() {
    all_pairs(Cni::Bridge);
}

#[test]
fn flannel_vxlan_is_flat() {
    all_pairs(Cni::FlannelVxlan);
}

#[test]
fn flannel_host_gw_is_flat() {
    all_pairs(Cni::FlannelHostGw);
}

#[test]
fn calico_is_flat() {
    all_pairs(Cni::Calico);
}

#[test]
fn a_missing_route_is_named() {
    for cni in Cni::ALL {
        let mut lab = lab(cni, 3, 2);
        let node = lab.machines.nodes.values().next().unwrap().netns;
        let range = lab
            .objects
            .nodes
            .values()
            .nth(1)
            .unwrap()
            .pod_cidrs
            .first()
            .copied()
            .unwrap();
        let netns = lab.machines.cluster.netns_mut(node).unwrap();
        netns
            .apply(&Change::DeleteRoute {
                dst: range,
                dev: None,
                metric: 0,
            })
            .unwrap();
        let culprit = flat_network(&lab.machines, &addresses(&lab), Time::ZERO).unwrap_err();
        assert!(range.contains(&culprit.ip), "{cni}: {culprit}");
        // Without the route the packet goes to the router of the underlay, masqueraded or refused there.
        match culprit.what {
            Broken::Lost { code, place, .. } => {
                assert_eq!(
                    (code, place.as_str()),
                    (Code::RouteNone, "underlay"),
                    "{cni}"
                );
            }
            Broken::Rewritten { seen } => panic!("{cni}: rewritten to {seen:?}"),
            Broken::Vanished => panic!("{cni}: vanished"),
        }
    }
}
