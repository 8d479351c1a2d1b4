//! The command line. Only this module prints; everything below returns values.
//!
//! Reading order: this file (the commands and how they end), `input` (from `-f` and the options of the cluster to a
//! settled cluster), then one file per command.
//!
//! Leaves out: nothing is read from the environment but what the terminal needs (`NO_COLOR`), and there is no
//! configuration file: a command line says everything.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

mod bench;
mod choice;
mod diff;
mod exec;
mod explain;
mod explore;
mod file;
mod get;
mod init;
mod input;
mod manual;
mod materialize;
mod progress;
mod reach;
mod scenario;
mod selftest;
mod table;
mod trace;

/// What `podwire --help` says below the commands.
const OVERVIEW: &str = "\
Examples:
  kubectl get nodes,pods,svc,endpointslices,netpol -A -o yaml > cluster.yaml
  podwire get endpoints -f cluster.yaml
  podwire trace -f cluster.yaml --from deploy/shop/frontend --to svc/shop/cart:7070
  podwire reach -f cluster.yaml --to deploy/shop/cart
  podwire exec node/node-a -f cluster.yaml -- iptables-save
  podwire run scenarios/service/clusterip.ron
  podwire explain SVC_NO_ENDPOINTS

Exit codes:
  0  all well
  1  an expectation, test or comparison did not hold
  2  the input is wrong; what and where is on stderr
  3  a defect of podwire itself";

/// A deterministic Kubernetes cluster-network simulator: what happens to every packet, and why.
#[derive(Debug, Parser)]
#[command(name = "podwire", version, after_help = OVERVIEW)]
#[command(
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(scenario::RunArgs),
    Test(scenario::TestArgs),
    Init(init::InitArgs),
    Trace(trace::TraceArgs),
    Reach(reach::ReachArgs),
    Diff(diff::DiffArgs),
    Get(get::GetArgs),
    Exec(exec::ExecArgs),
    Explain(explain::ExplainArgs),
    Materialize(materialize::MaterializeArgs),
    Bench(bench::BenchArgs),
    Selftest(selftest::SelftestArgs),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
}

/// In which form a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exit {
    /// All well.
    #[default]
    Well,
    /// An expectation, test or comparison did not hold.
    Failed,
    /// The input is wrong.
    BadInput,
    /// A defect of podwire itself.
    Defect,
}

impl Exit {
    /// Returns the exit code of the process.
    pub const fn code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Failed => 1,
            Self::BadInput => 2,
            Self::Defect => 3,
        }
    }
}

/// What a command has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// For the standard output; with ANSI colours where there are any.
    pub stdout: String,
    /// For the standard error.
    pub stderr: String,
    /// How it ended.
    pub exit: Exit,
}

impl Report {
    /// Returns the report of a command that went well.
    const fn well(stdout: String) -> Self {
        Self {
            stdout,
            stderr: String::new(),
            exit: Exit::Well,
        }
    }

    /// Returns the report of a command whose input is wrong.
    fn bad_input(says: impl std::fmt::Display) -> Self {
        Self {
            stdout: String::new(),
            stderr: format!("error: {says}\n"),
            exit: Exit::BadInput,
        }
    }
}

/// Runs the command that the process was started with, and prints what it has to say. Colours go to terminals only,
/// and never if `NO_COLOR` is set; whoever closes a pipe early has seen enough.
pub fn main() -> ExitCode {
    report_defects();
    let report = run(std::env::args_os());
    let printed = write(&mut anstream::stdout(), &report.stdout);
    // There is nowhere left to say that the standard error is closed.
    let _ = write(&mut anstream::stderr(), &report.stderr);
    match printed {
        Ok(()) => ExitCode::from(report.exit.code()),
        Err(error) => {
            let _ = write(
                &mut anstream::stderr(),
                &format!("error: cannot write the output: {error}\n"),
            );
            ExitCode::from(Exit::BadInput.code())
        }
    }
}

fn write(to: &mut impl Write, text: &str) -> std::io::Result<()> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Lets a panic end the process with what to report, whether or not it could be caught: release builds abort.
#[expect(
    clippy::exit,
    reason = "where panics abort, nothing else can choose the exit code"
)]
fn report_defects() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        let says = format!(
            "\npodwire {} has a defect: the message above is not your input's fault.\n\
             Please report the message, the command line and the input files.\n",
            env!("CARGO_PKG_VERSION")
        );
        let _ = write(&mut anstream::stderr(), &says);
        std::process::exit(i32::from(Exit::Defect.code()));
    }));
}

/// Runs the command of a command line (whose first word is the program's name), without printing anything.
pub fn run<W: Into<OsString> + Clone>(words: impl IntoIterator<Item = W>) -> Report {
    let done = match Cli::try_parse_from(words) {
        Ok(cli) => match cli.command {
            Command::Run(args) => Ok(scenario::run(&args)),
            Command::Test(args) => scenario::test(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Selftest(args) => Ok(selftest::run(&args)),
            Command::Materialize(args) => materialize::run(&args),
            Command::Init(args) => init::run(&args),
            Command::Trace(args) => trace::run(&args),
            Command::Reach(args) => reach::run(&args),
            Command::Diff(args) => diff::run(&args),
            Command::Get(args) => get::run(&args),
            Command::Exec(args) => exec::run(&args),
            Command::Explain(args) => explain::run(&args),
            Command::Completions(args) => Ok(manual::completions(&args, Cli::command())),
            Command::Man(args) => manual::page(&args, Cli::command()),
        },
        Err(error) => Ok(usage(&error)),
    };
    done.unwrap_or_else(|report| report)
}

/// What clap has to say: help and versions on the standard output, mistakes on the standard error.
fn usage(error: &clap::Error) -> Report {
    let text = error.render().ansi().to_string();
    if error.use_stderr() {
        Report {
            stderr: text,
            exit: Exit::BadInput,
            ..Report::default()
        }
    } else {
        Report::well(text)
    }
}

/// A command either has something to say, or its input is wrong.
type Done = Result<Report, Report>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_commands_is_consistent() {
        Cli::command().debug_assert();
    }
}
