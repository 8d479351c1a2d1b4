//! `podwire completions` and `podwire man`: what packagers install beside the binary.

use clap::Args;
use clap_complete::Shell;

use super::{Done, Report};

const COMPLETIONS: &str = "\
Examples:
  podwire completions bash > ~/.local/share/bash-completion/completions/podwire
  podwire completions fish > ~/.config/fish/completions/podwire.fish";

const MAN: &str = "\
Examples:
  podwire man > podwire.1
  podwire man exec | man -l -";

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Print a manual page
#[derive(Debug, Args)]
#[command(after_help = MAN)]
pub(super) struct ManArgs {
    /// Of which command; of podwire itself if not given
    command: Option<String>,
}

pub(super) fn completions(args: &CompletionsArgs, mut podwire: clap::Command) -> Report {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut podwire, "podwire", &mut script);
    Report::well(String::from_utf8_lossy(&script).into_owned())
}

pub(super) fn page(args: &ManArgs, mut podwire: clap::Command) -> Done {
    podwire.build();
    let command = match &args.command {
        None => podwire,
        Some(name) => podwire
            .find_subcommand(name)
            .cloned()
            .ok_or_else(|| Report::bad_input(format!("there is no command `{name}`")))?,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(Report::bad_input)?;
    Ok(Report::well(String::from_utf8_lossy(&page).into_owned()))
}
