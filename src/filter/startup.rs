//! The line in Envoy's log that says which roles were found, and what they can do together.

use super::Vm;
use super::abi::{self, Level};
use super::telemetry::record;
use crate::config::{Mode, Role, Via};
use crate::engine::host::Update;

/// Which build this is. `postlink/postlink.mjs` puts the commit in the place of the mark.
#[cfg(weir_module)]
const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit @weir-commit)");
#[cfg(not(weir_module))]
const BUILD: &str = env!("CARGO_PKG_VERSION");

/// The line last written is kept here, so that one VM writes it for all of them.
const KEY: &str = "weir/startup";

/// Ticks that the roles must stay the same before they are announced: Envoy attaches them one by one.
const SETTLED_TICKS: u32 = 10;

/// The roles that are attached, in the order of [`Role`], the mode, and what steers requests.
type Found = ([bool; 3], Mode, Option<Via>);

/// What this VM found so far.
#[derive(Debug, Default)]
pub(super) struct Line {
    found: Option<Found>,
    ticks: u32,
    /// The name of the gauge that says the same as the line, once that is written.
    info: Option<String>,
}

impl Vm {
    /// Writes the line, once per set of roles and mode, and sets the gauge `weir_info`.
    pub(super) fn announce(&mut self) {
        let roles = [Role::Decide, Role::Watch, Role::Guard].map(|role| self.has_role(role));
        let found = (roles, self.worker.mode(), self.worker.steers_via());
        let line = &mut self.startup;
        if line.found != Some(found) {
            if let Some(info) = &line.info {
                record(info, 0);
            }
            *line = Line { found: Some(found), ..Line::default() };
        }
        if line.info.is_some() {
            return;
        }
        line.ticks += 1;
        // The main thread's VM ticks too; it may have only some of the roles for a moment longer than the workers.
        if line.ticks < SETTLED_TICKS {
            return;
        }
        let (text, info) = written(found);
        record(&info, 1);
        line.info = Some(info);
        let mut differs = false;
        let update = abi::update(KEY, &mut |known| {
            differs = known != Some(text.as_bytes());
            differs.then(|| text.as_bytes().to_vec())
        });
        if differs && update != Update::Unread {
            abi::log(Level::Info, &text);
        }
    }
}

/// The line, and the name of the gauge, `weir_info.version.0.1.0.mode.enforce.roles.decide_watch_guard`: labels are in names, see
/// [`crate::metrics`].
fn written(([decide, watch, guard], mode, steering): Found) -> (String, String) {
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
        (_, true, _) => "only safe ones, each charged to the budget, the routes' own too",
        (_, false, _) => "only safe ones, on permission (attach role guard to charge each, the routes' own too)",
    };
    let hosts = match (decide, steering) {
        (false, _) => "left to Envoy (attach role decide)",
        (true, None) => "reported, not steered around (steering is off)",
        (true, Some(Via::OverrideHost)) => "steered around while out, where clusters have override_host",
        (true, Some(Via::StatefulSession)) => "steered around while out, where routes have stateful_session",
    };
    let mode = if mode == Mode::Shadow { "shadow" } else { "enforce" };
    let info = [concat!("weir_info.version.", env!("CARGO_PKG_VERSION"), ".mode."), mode, ".roles.", &roles.join("_")];
    let roles = roles.join(", ");
    (format!("weir {BUILD}: roles {roles}; signals {signals}; retries {retries}; hosts {hosts}"), info.concat())
}
