//! Commands of the timeline: what they print, at once or when they have ended.

use podwire_models::base::{Dice, Time};
use podwire_models::kernel::Netns;
use podwire_models::wire::{Action, Place, Stage, Step};

use super::resolve::{Command, label};
use super::run::Run;
use crate::scenario::address::Thing;
use crate::simulation::AppId;
use crate::tool::Tool;

/// A command that sends packets.
pub(super) struct Running {
    app: AppId,
    place: Place,
    text: String,
    tool: Tool,
    /// What it printed, once it has ended.
    pub(super) output: Option<String>,
}

impl<D: Dice> Run<'_, D> {
    pub(super) fn exec(&mut self, on: &Thing, text: String, command: &Command) {
        let netns = self.lab.source(on).ok().map(|source| source.netns);
        let now = self.simulation.now();
        let space = netns.and_then(|id| self.simulation.machines.cluster.netns(id));
        let output = match space {
            Some(space) => show(space, command, now),
            None => format!("{on} is not there\n"),
        };
        let place = Place {
            netns,
            dev: None,
            stage: Stage::Socket,
        };
        let action = Action::Output {
            command: text,
            text: output,
        };
        self.simulation.note(place, Step::general(action));
    }

    /// Starts a command that sends packets; what it prints is told when it has ended.
    pub(super) fn tool(&mut self, on: &Thing, text: String, tool: Tool) {
        let made = self.lab.source(on).and_then(|source| {
            let (program, raw) = tool.program(&self.lab, &source)?;
            Ok((source, program, raw))
        });
        match made {
            Ok((source, program, raw)) => {
                let number = self.tools.len();
                let app = self.simulation.add_app(
                    source.netns,
                    &label("command", &text, number),
                    program,
                );
                if raw {
                    self.simulation.listen_raw(app);
                }
                let now = self.simulation.now();
                self.simulation.start_at(now, app);
                let place = Place {
                    netns: Some(source.netns),
                    dev: None,
                    stage: Stage::Socket,
                };
                self.tools.push(Running {
                    app,
                    place,
                    text,
                    tool,
                    output: None,
                });
            }
            Err(error) => {
                let text = format!("`{text}` cannot be run: {error}");
                self.note(Action::Note { text });
            }
        }
    }

    /// Tells what commands have printed that have ended.
    pub(super) fn look_at_tools(&mut self) {
        for running in self
            .tools
            .iter_mut()
            .filter(|running| running.output.is_none())
        {
            let mut outcomes = self.simulation.outcomes(running.app).iter();
            let Some(outcome) = outcomes.find(|outcome| running.tool.ends(outcome)) else {
                continue;
            };
            let text = running.tool.output(outcome);
            running.output = Some(text.clone());
            let command = running.text.clone();
            let action = Action::Output { command, text };
            self.simulation.note(running.place, Step::general(action));
        }
    }
}

fn show(netns: &Netns, command: &Command, now: Time) -> String {
    match command {
        Command::IptablesSave(family) => {
            let rules = netns.netfilter.as_ref().and_then(|nf| nf.rules(*family));
            rules.map_or_else(String::new, |rules| rules.ruleset().save(*family))
        }
        Command::Route(family) => netns.show_route(*family),
        Command::RouteLocal(family) => netns.show_route_local(*family),
        Command::Addr => netns.show_addr(),
        Command::Link => netns.show_link(),
        Command::Neigh => netns.show_neigh(now),
        Command::Fdb => netns.show_fdb(),
        Command::Sysctl(None) => netns.show_sysctl(),
        Command::Sysctl(Some(name)) => match netns.sysctls.text(name) {
            Some(value) => format!("{name} = {value}\n"),
            None => format!(
                "sysctl: cannot stat /proc/sys/{}: No such file or directory\n",
                name.replace('.', "/")
            ),
        },
        Command::Conntrack => {
            let table = netns.conntrack.as_ref();
            table.map_or_else(String::new, |table| table.list(now))
        }
    }
}
