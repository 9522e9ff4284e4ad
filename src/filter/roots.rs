//! Roots: one per plugin in a VM, each with its role.

use super::{ContextId, Vm};
use crate::config::{self, Role};
use crate::host::{self, Level};

/// Ten times a second: how soon a worker writes down what no further event explains.
const TICK_MILLISECONDS: u32 = 100;

/// A plugin's root context.
#[derive(Debug, Default)]
pub(super) struct Root {
    /// Known once it is configured.
    pub(super) role: Option<Role>,
    /// Of a `watch`: an access-log filter keeps from it what went well.
    pub(super) only_failures: bool,
}

impl Vm {
    /// Takes a plugin's configuration. `false` refuses it, and Envoy then refuses the listener.
    pub(super) fn configure(&mut self, root: ContextId) -> bool {
        let bytes = host::plugin_configuration();
        let config = match config::parse(bytes.as_deref().unwrap_or_default()) {
            Ok(config) => config,
            Err(error) => {
                host::log(Level::Error, &format!("weir: configuration refused: {error}"));
                return false;
            }
        };
        let configured = Root { role: Some(config.role), only_failures: config.only_failures };
        match self.roots.iter_mut().find(|(id, _)| *id == root) {
            Some((_, root)) => *root = configured,
            None => self.roots.push((root, configured)),
        }
        if let Some(policy) = config.policy {
            let now = self.wall_clock();
            if policy.mode != self.engine.mode() {
                self.leave_mode();
            }
            self.engine.reconfigure(policy, now);
            self.close_accounts();
        }
        host::set_tick_period(TICK_MILLISECONDS);
        true
    }

    pub(super) fn tick(&mut self, _root: ContextId) {
        self.last_attempt = None;
        self.engine.attempts.settle(&mut self.ended);
        self.count_ended();
        self.publish_accounts();
        self.exchange_all();
        self.exchange_circuits();
        self.exchange_incidents();
        self.log_what_was_left_out();
        self.announce();
        // Last, since it acts for other contexts.
        self.release_held_back();
    }
}
