//! `podwire bench`: how fast podwire is on this machine.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};

use super::{Done, Format, Report};
use crate::bench::{self, Sizes};

const EXAMPLES: &str = "\
Examples:
  podwire bench w1
  podwire bench w1 --nodes 64 --services 1000
  podwire bench w2 --services 10
  podwire bench scale --nodes 1000 --pods 30000 --services 1000
  podwire bench rollout
  podwire bench reach --pods 50000
  podwire bench w1 -o json | jq .cpu_seconds";

/// Measure podwire on this machine: packets, device transmissions, events, seconds, memory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BenchArgs {
    /// Which workload
    #[arg(value_name = "WORKLOAD")]
    workload: Workload,
    /// Nodes: 16, 5,000 for `scale`, or 1,000 for `rollout`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5000))]
    nodes: Option<u32>,
    /// Pods on each node, each the source of one flow
    #[arg(long, value_name = "N", default_value_t = Sizes::default().pods_per_node, value_parser = clap::value_parser!(u32).range(1..=200))]
    pods_per_node: u32,
    /// Pods of the workloads `scale`, `rollout` and `reach`: 150,000, or 30,000 for `rollout`; for `reach`, nodes, namespaces and
    /// policies follow from it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pods: Option<u32>,
    /// Pods that the workload `rollout` replaces
    #[arg(long, value_name = "N", default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rolled: u32,
    /// Services that kube-proxy programs on every node
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=50_000))]
    services: Option<u32>,
    /// How many packets are delivered before the measurement ends
    #[arg(long, value_name = "N", default_value_t = Sizes::default().packets)]
    packets: u64,
    /// Seed of everything that is left to chance
    #[arg(long, value_name = "N", default_value_t = Sizes::default().seed)]
    seed: u64,
    /// In which form to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

/// Workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// Pods of different nodes send datagrams to each other.
    W1,
    /// Pods connect to Services whose pods are on other nodes, over VXLAN; 10,000 Services if `--services` is not given.
    W2,
    /// A cluster at the published limits is set up, changed and copied: 5,000 nodes and 10,000 Services if they are not given.
    Scale,
    /// A cluster is settled from manifests, and Deployments replace 3,000 pods: 1,000 nodes, 30,000 pods and 1,000 Services if
    /// they are not given.
    Rollout,
    /// Who may talk to whom, for all pairs of pods.
    Reach,
}

pub(super) fn run(args: &BenchArgs) -> Done {
    let sizes = Sizes {
        nodes: args.nodes.unwrap_or_else(|| match args.workload {
            Workload::W1 | Workload::W2 | Workload::Reach => Sizes::default().nodes,
            Workload::Scale => 5_000,
            Workload::Rollout => 1_000,
        }),
        pods_per_node: args.pods_per_node,
        services: args.services.unwrap_or(match args.workload {
            Workload::W1 | Workload::Reach => 0,
            Workload::W2 | Workload::Scale => 10_000,
            Workload::Rollout => 1_000,
        }),
        packets: args.packets,
        seed: args.seed,
    };
    let pods = args.pods.unwrap_or(match args.workload {
        Workload::W1 | Workload::W2 | Workload::Scale | Workload::Reach => 150_000,
        Workload::Rollout => 30_000,
    });
    let json = match args.workload {
        Workload::W1 => serde_json::to_value(bench::w1(&sizes)),
        Workload::W2 => serde_json::to_value(bench::w2(&sizes)),
        Workload::Scale => serde_json::to_value(bench::scale::scale(&bench::scale::Sizes {
            nodes: sizes.nodes,
            pods,
            services: sizes.services,
            seed: args.seed,
        })),
        Workload::Rollout => {
            serde_json::to_value(bench::rollout::rollout(&bench::rollout::Sizes {
                nodes: sizes.nodes,
                pods,
                services: sizes.services,
                rolled: args.rolled,
                seed: args.seed,
            }))
        }
        Workload::Reach => serde_json::to_value(bench::reach::reach(pods)),
    };
    let json = json.map_err(Report::bad_input)?;
    Ok(Report::well(match args.output {
        Format::Json => super::explain::pretty(&json),
        Format::Text => text(&json),
    }))
}

/// Returns one line for each number.
fn text(json: &serde_json::Value) -> String {
    let mut text = String::new();
    for (name, value) in json.as_object().into_iter().flatten() {
        if name == "schema" {
            continue;
        }
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        writeln!(text, "{:<16} {value}", name.replace('_', " "))
            .expect("a String takes everything");
    }
    text
}
