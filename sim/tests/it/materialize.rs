//! Scripts that build a cluster for real: what is in them, and that they are whole.

use podwire::lab::{Lab, Plan};
use podwire::materialize::{self, Prefix};
use podwire_models::api::Objects;
use podwire_models::cluster::Cluster;
use podwire_models::control::cni::Cni;
use podwire_models::kernel::config::Change;
use podwire_models::kernel::netfilter::nft::{NftCommand, NftFamily, TableId};

fn scripts(cni: Cni, prefix: &str) -> materialize::Scripts {
    let mut plan = Plan::default();
    plan.site.cni = cni;
    let lab = Lab::build(Objects::default(), plan);
    let prefix: Prefix = prefix.parse().unwrap();
    materialize::scripts(&lab.machines.cluster, &prefix)
}

#[test]
fn the_same_cluster_gives_the_same_scripts() {
    for cni in Cni::ALL {
        assert_eq!(scripts(cni, "podwire"), scripts(cni, "podwire"));
    }
}

#[test]
fn every_namespace_has_the_prefix_and_is_taken_away() {
    let scripts = scripts(Cni::Kindnet, "lesson");
    let made: Vec<&str> = scripts
        .build
        .lines()
        .filter_map(|line| line.strip_prefix("ip netns add "))
        .collect();
    assert!(made.len() >= 3, "{made:?}");
    for name in made {
        assert!(name.starts_with("lesson-"), "{name}");
        assert!(
            scripts.teardown.contains(&format!("  {name} \\\n")),
            "{name}"
        );
    }
}

#[test]
fn tunnels_know_their_peers() {
    let build = scripts(Cni::FlannelVxlan, "podwire").build;
    for wanted in ["type vxlan id 1 local ", "fdb append ", "nud permanent"] {
        assert!(build.contains(wanted), "{wanted}");
    }
}

#[test]
fn tables_of_nftables_are_made_as_nft_lists_them() {
    let mut cluster = Cluster::default();
    let node = cluster.add_netns("node/a");
    let table = TableId::new(NftFamily::Ip, "cni_hostport");
    let command = NftCommand::AddTable {
        table,
        comment: Some("CNI portmap plugin".into()),
    };
    let change = Change::Nft(vec![command]);
    cluster.configure(node, &change).unwrap();
    let build = materialize::scripts(&cluster, &"podwire".parse().unwrap()).build;
    let wanted =
        " nft -f - <<'EOF'\ntable ip cni_hostport {\n\tcomment \"CNI portmap plugin\"\n}\nEOF\n";
    assert!(build.contains(wanted), "{build}");
}
