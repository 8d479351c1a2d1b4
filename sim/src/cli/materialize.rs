//! `podwire materialize`: the cluster as network namespaces of a real machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::file::Draft;
use super::input::InputArgs;
use super::{Done, Report};
use crate::materialize::{self, Prefix};

const EXAMPLES: &str = "\
Examples:
  podwire materialize -f shop.yaml --out lab
  sudo sh lab/build.sh
  sudo ip netns exec podwire-pod.shop.cart-0 python3 -m http.server 7070 &
  sudo ip netns exec podwire-pod.shop.frontend-0 curl http://10.96.12.7:7070/
  sudo ip netns exec podwire-node.node-1 conntrack -L
  sudo sh lab/teardown.sh";

/// Write shell scripts that build the cluster in network namespaces of a real Linux machine
///
/// Two files are written: build.sh and teardown.sh. What they build is what podwire simulates: the same devices, addresses,
/// routes, tunnels, settings and rules. Nothing of the machine itself is touched.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct MaterializeArgs {
    #[command(flatten)]
    input: InputArgs,
    /// Directory for the scripts; made if it does not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What the names of the namespaces begin with
    #[arg(long, value_name = "WORD", default_value = "podwire")]
    prefix: Prefix,
}

pub(super) fn run(args: &MaterializeArgs) -> Done {
    let session = args.input.settle()?;
    let cluster = &session.lab.machines.cluster;
    let scripts = materialize::scripts(cluster, &args.prefix);
    let files = [
        ("build.sh", &scripts.build),
        ("teardown.sh", &scripts.teardown),
    ];
    write_all(&args.out, &files)
        .map_err(|error| Report::bad_input(format!("`{}`: {error}", args.out.display())))?;
    let dir = args.out.display();
    let says = format!(
        "{} namespaces: `sudo sh {dir}/build.sh` makes them, `sudo sh {dir}/teardown.sh` takes them away\n",
        cluster.iter().count()
    );
    Ok(Report {
        stderr: says + &session.notes(),
        ..Report::default()
    })
}

/// Writes all files or none: each under another name first.
fn write_all(dir: &Path, files: &[(&str, &String)]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let drafts: io::Result<Vec<Draft>> = files
        .iter()
        .map(|(name, text)| Draft::new(&dir.join(name), text))
        .collect();
    drafts?.into_iter().try_for_each(Draft::keep)
}
