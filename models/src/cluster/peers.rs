//! The routes of nodes to each other's pods. Every node has one to each of the others; where they are alike they are kept
//! once for all nodes, so that their memory grows with the nodes and not with their square.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Cluster;
use super::install::{Machine, Site};
use crate::base::Family;
use crate::kernel::Netns;
use crate::kernel::route::{Route, Shared};
use crate::wire::DevIndex;

/// Gives all nodes their routes to each other's pods, if they are the same but for each node's own; returns whether they
/// are. If not, nothing is changed: whoever adds them one by one learns why.
pub(super) fn share_routes(cluster: &mut Cluster, nodes: &[Machine], site: &Site) -> bool {
    let Some(routes) = resolved(cluster, nodes, site) else {
        return false;
    };
    let Some(wanted) = Wanted::of(&routes, site) else {
        return false;
    };
    let alike = nodes.iter().all(|node| {
        let netns = cluster.netns(node.netns);
        netns.is_some_and(|netns| wanted.fits(netns, node))
    });
    let of = |family| {
        let routes = routes.iter().filter(|r| Family::of_net(r.dst) == family);
        Shared::new(family, routes.cloned().collect()).map(Arc::new)
    };
    let (true, Some(v4), Some(v6)) = (alike, of(Family::V4), of(Family::V6)) else {
        return false;
    };
    for node in nodes {
        let Some(netns) = cluster.netns_mut(node.netns) else {
            continue;
        };
        let own: Vec<IpNet> = node.net.pod_cidrs.iter().map(IpNet::trunc).collect();
        for (family, shared) in [(Family::V4, &v4), (Family::V6, &v6)] {
            netns.fib.share(family, Arc::clone(shared), &own);
        }
    }
    true
}

/// The routes to the pods of every node as another node has them.
fn resolved(cluster: &Cluster, nodes: &[Machine], site: &Site) -> Option<Vec<Route>> {
    let (first, second) = (nodes.first()?, nodes.get(1)?);
    let mut routes = Vec::new();
    for peer in nodes {
        let other = if peer.netns == first.netns {
            second
        } else {
            first
        };
        let netns = cluster.netns(other.netns)?;
        for new in site.cni.routes_to(&other.net, &peer.net) {
            routes.push(netns.new_route(&new).ok()?);
        }
    }
    let mut ips = nodes.iter().flat_map(|node| &node.net.ips);
    let mut seen = BTreeSet::new();
    ips.all(|ip| seen.insert(*ip)).then_some(routes)
}

/// What routes want of a node.
struct Wanted {
    /// By which devices they lead, and into which subnet of the underlay if to a gateway there.
    ways: BTreeSet<(Option<DevIndex>, Option<IpNet>)>,
    /// Where they lead.
    to: BTreeSet<IpNet>,
}

impl Wanted {
    fn of(routes: &[Route], site: &Site) -> Option<Self> {
        let subnet = |gateway: IpAddr| {
            let mut subnets = site.underlay.subnets.iter();
            subnets.find(|subnet| subnet.contains(&gateway)).copied()
        };
        let mut ways = BTreeSet::new();
        for route in routes {
            let subnet = match route.gateway.filter(|_| !route.onlink) {
                Some(gateway) => Some(subnet(gateway)?),
                None => None,
            };
            ways.insert((route.dev, subnet));
        }
        let to = routes.iter().map(|route| route.dst).collect();
        Some(Self { ways, to })
    }

    /// Whether a node would have all these routes, but for those to its own pods, if it added them one by one: the same
    /// devices lead to the gateways, and no route of its own is in the way.
    fn fits(&self, netns: &Netns, node: &Machine) -> bool {
        let all = Family::ALL.into_iter();
        let mains: Vec<&Route> = all.flat_map(|family| netns.fib.main(family)).collect();
        let ways = self.ways.iter().all(|(dev, subnet)| {
            let up = dev
                .and_then(|dev| netns.device(dev))
                .is_some_and(|dev| dev.up);
            let Some(subnet) = subnet else { return up };
            let inside = |own: &&&Route| subnet.contains(&own.dst);
            let mut inside = mains.iter().filter(inside);
            let direct =
                |own: &&Route| own.dst == *subnet && own.gateway.is_none() && own.dev == *dev;
            up && inside.next().is_some_and(direct) && inside.next().is_none()
        });
        let own = |net: IpNet| node.net.pod_cidrs.iter().any(|range| range.trunc() == net);
        ways && mains
            .iter()
            .all(|r| !self.to.contains(&r.dst) || own(r.dst))
    }
}
