//! What a node's network plugin or its administrator left behind is changed: chains, bridge ports, routes. Each change is a
//! command, and has one that undoes it.

use std::sync::Arc;

use ipnet::IpNet;
use podwire_models::base::{Family, ObjectName};
use podwire_models::cluster::install::Machines;
use podwire_models::control::cni::NodeNet;
use podwire_models::kernel::Netns;
use podwire_models::kernel::config::{Change, NewRoute};
use podwire_models::kernel::link::PortFlags;
use podwire_models::kernel::netfilter::chain::{
    ChainPolicy, NatRandom, Not, PortRange, Rule, Table, Target,
};
use podwire_models::kernel::route::Route;
use podwire_models::wire::{L4, NetnsId};

/// Commands, and those that undo them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Commands {
    pub(super) done: Vec<Change>,
    pub(super) undo: Vec<Change>,
}

pub(super) fn netns<'m>(machines: &'m Machines, node: &ObjectName) -> Result<&'m Netns, String> {
    let machine = machines.nodes.get(node);
    let netns = machine.and_then(|machine| machines.cluster.netns(machine.netns));
    netns.ok_or_else(|| format!("there is no node/{node}"))
}

pub(super) fn id(machines: &Machines, node: &ObjectName) -> Option<NetnsId> {
    machines.nodes.get(node).map(|machine| machine.netns)
}

/// `iptables -P FORWARD DROP`, for both families that have rules.
pub(super) fn forward_drop(netns: &Netns) -> Commands {
    let policy = |family, policy| Change::Chain {
        family,
        table: Table::Filter,
        chain: "FORWARD".into(),
        policy: Some(policy),
    };
    let has_rules = |family: &Family| {
        let netfilter = netns.netfilter.as_ref();
        netfilter.is_some_and(|netfilter| netfilter.rules(*family).is_some())
    };
    let families = || Family::ALL.into_iter().filter(has_rules);
    Commands {
        done: families().map(|f| policy(f, ChainPolicy::Drop)).collect(),
        undo: families().map(|f| policy(f, ChainPolicy::Accept)).collect(),
    }
}

/// `bridge link set dev … hairpin off`, for every port that has it on.
pub(super) fn hairpin_off(netns: &Netns) -> Result<Commands, String> {
    let mut commands = Commands::default();
    for device in netns.devices.iter().flatten().filter(|d| d.port.hairpin) {
        let set = |hairpin| Change::SetPort {
            dev: device.name.clone(),
            flags: PortFlags {
                hairpin,
                ..device.port
            },
        };
        commands.done.push(set(false));
        commands.undo.push(set(true));
    }
    if commands.done.is_empty() {
        return Err(format!(
            "no port of a bridge of {} has hairpin on",
            netns.name
        ));
    }
    Ok(commands)
}

/// `ip route del …`.
pub(super) fn route_lost(netns: &Netns, to: IpNet) -> Result<Commands, String> {
    let all = netns.fib.main(Family::of_net(to));
    let route = all
        .into_iter()
        .find(|route| route.dst.trunc() == to.trunc());
    let route = route.ok_or_else(|| format!("{} has no route to {to}", netns.name))?;
    let name = |route: &Route| {
        let device = route.dev.and_then(|dev| netns.device(dev));
        device.map(|device| device.name.clone())
    };
    Ok(Commands {
        done: vec![Change::DeleteRoute {
            dst: route.dst,
            dev: None,
            metric: route.metric,
        }],
        undo: vec![Change::AddRoute(NewRoute {
            kind: route.kind,
            dst: route.dst,
            gateway: route.gateway,
            dev: name(route),
            src: route.src,
            metric: route.metric,
            scope: route.scope,
            onlink: route.onlink,
            mtu: route.mtu,
            origin: route.origin,
        })],
    })
}

/// `iptables -t nat -I POSTROUTING -s PODS ! -d PODS-OF-ALL -p tcp -j MASQUERADE --to-ports …`, and the same for UDP: the rule of
/// an administrator, before those of the plugin.
pub(super) fn snat_ports(node: &NodeNet, ports: PortRange) -> Commands {
    let mut commands = Commands::default();
    for own in &node.pod_cidrs {
        let family = Family::of_net(*own);
        let mut all = node.cluster_cidrs.iter();
        let all = all.find(|range| Family::of_net(**range) == family);
        for l4 in [L4::Udp, L4::Tcp] {
            let rule = Box::new(Rule {
                source: Some(Not::is(*own)),
                destination: all.map(|range| Not::except(*range)),
                protocol: Some(Not::is(l4)),
                target: Some(Target::Masquerade {
                    ports: Some(ports),
                    random: NatRandom::No,
                }),
                ..Rule::default()
            });
            let (table, chain): (_, Arc<str>) = (Table::Nat, "POSTROUTING".into());
            commands.undo.push(Change::DeleteRule {
                family,
                table,
                chain: Arc::clone(&chain),
                rule: rule.clone(),
            });
            commands.done.push(Change::Rule {
                family,
                table,
                chain,
                at: Some(0),
                rule,
            });
        }
    }
    commands
}

/// Carries commands out.
pub(super) fn carry_out(
    machines: &mut Machines,
    id: NetnsId,
    commands: &[Change],
) -> Result<(), String> {
    let netns = machines.cluster.netns_mut(id);
    let netns = netns.ok_or_else(|| "the machine is not there".to_owned())?;
    for command in commands {
        netns.apply(command).map_err(|error| error.to_string())?;
    }
    Ok(())
}
