//! Roots: one per plugin in a VM, each with its role.

use super::host::Envoy;
use super::{ContextId, Vm};
use crate::config::{self, Role};
use crate::engine::worker::Attachments;
use crate::host::{self as abi, Level};

/// Ten times a second: how soon a worker writes down what no further event explains.
const TICK_MILLISECONDS: u32 = 100;

/// A plugin's root context.
#[derive(Debug, Default)]
pub(super) struct Root {
    /// Known once it is configured.
    role: Option<Role>,
    /// Of a `watch`: an access-log filter keeps from it what went well.
    only_failures: bool,
}

impl Vm {
    /// Takes a plugin's configuration. `false` refuses it, and Envoy then refuses the listener.
    pub(super) fn configure(&mut self, root: ContextId) -> bool {
        let bytes = abi::plugin_configuration();
        let config = match config::parse(bytes.as_deref().unwrap_or_default()) {
            Ok(config) => config,
            Err(error) => {
                abi::log(Level::Error, &format!("weir: configuration refused: {error}"));
                return false;
            }
        };
        let configured = Root { role: Some(config.role), only_failures: config.only_failures };
        match self.roots.iter_mut().find(|(id, _)| *id == root) {
            Some((_, root)) => *root = configured,
            None => self.roots.push((root, configured)),
        }
        self.attach();
        if let Some(policy) = config.policy {
            if policy.mode != self.worker.mode() {
                self.telemetry.leave_mode(&mut self.worker);
            }
            self.worker.configure(policy, &Envoy::of(root));
        }
        abi::set_tick_period(TICK_MILLISECONDS);
        true
    }

    /// A root is gone.
    pub(super) fn root_done(&mut self, root: ContextId) {
        self.roots.retain(|(id, _)| *id != root);
        self.attach();
    }

    /// The role of a root.
    pub(super) fn role_of_root(&self, root: ContextId) -> Option<Role> {
        self.roots.iter().find(|(id, _)| *id == root).and_then(|(_, root)| root.role)
    }

    pub(super) fn has_role(&self, role: Role) -> bool {
        self.roots.iter().any(|(_, root)| root.role == Some(role))
    }

    fn attach(&mut self) {
        self.worker.attach(Attachments {
            watch: self.has_role(Role::Watch),
            only_failures: self.roots.iter().any(|(_, root)| root.only_failures),
            guard: self.has_role(Role::Guard),
        });
    }
}
