//! The line in Envoy's log that says which roles were found, and what they can do together.

use super::Vm;
use super::host::update;
use crate::config::{Mode, Role, Via};
use crate::engine::host::Update;
use crate::host::{self as abi, Level};

/// The line last written is kept here, so that one VM writes it for all of them.
const KEY: &str = "weir/startup";

/// Ticks that the roles must stay the same before they are announced: Envoy attaches them one by one.
const SETTLED_TICKS: u32 = 10;

/// What this VM found so far.
#[derive(Debug, Default)]
pub(super) struct Line {
    text: String,
    ticks: u32,
    done: bool,
}

impl Vm {
    /// Writes the line, once per set of roles and mode.
    pub(super) fn announce(&mut self) {
        let roles = [Role::Decide, Role::Watch, Role::Guard].map(|role| self.has_role(role));
        let text = line(roles, self.worker.mode(), self.worker.steers_via());
        let line = &mut self.startup;
        if line.text != text {
            *line = Line { text, ..Line::default() };
        }
        if line.done {
            return;
        }
        line.ticks += 1;
        // The main thread's VM ticks too; it may have only some of the roles for a moment longer than the workers.
        if line.ticks < SETTLED_TICKS {
            return;
        }
        line.done = true;
        let text = line.text.as_bytes();
        let mut differs = false;
        let update = update(KEY, &mut |known| {
            differs = known != Some(text);
            differs.then(|| text.to_vec())
        });
        if differs && update != Update::Unread {
            abi::log(Level::Info, &line.text);
        }
    }
}

fn line([decide, watch, guard]: [bool; 3], mode: Mode, steering: Option<Via>) -> String {
    let mut roles = Vec::new();
    roles.extend(decide.then_some("decide"));
    roles.extend(watch.then_some("watch"));
    roles.extend(guard.then_some("guard"));
    let signals = match (decide, watch) {
        (_, true) => "of every attempt",
        (true, false) => "of each request's last attempt (attach role watch for all)",
        _ => "none (attach role decide or watch)",
    };
    let retries = match (decide, guard, mode) {
        (false, ..) => "left to the routes (attach role decide)",
        (_, _, Mode::Shadow) => "decided and counted, not carried out (mode shadow)",
        (_, true, _) => {
            "safe by method and signal, each charged to the budget; pushback and unsafe ones of the routes' own are stopped"
        }
        (_, false, _) => {
            "safe by method and signal, on permission (attach role guard to charge each, and to stop the routes' own)"
        }
    };
    let hosts = match (decide, steering) {
        (false, _) => "left to Envoy (attach role decide)",
        (true, None) => "judged and reported, not steered around (steering is off)",
        (true, Some(Via::OverrideHost)) => {
            "steered around while they are out, in clusters with the policy override_host"
        }
        (true, Some(Via::StatefulSession)) => {
            "steered around while they are out, on routes with the filter stateful_session"
        }
    };
    format!(
        "weir {}: roles {}; signals {signals}; retries {retries}; hosts {hosts}",
        env!("CARGO_PKG_VERSION"),
        roles.join(", ")
    )
}
