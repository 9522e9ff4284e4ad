//! Roots: one per plugin in a VM, each with its role.

use super::abi::{self, Level};
use super::entries::Entries;
use super::host::Envoy;
use super::metrics::CONFIGURATION_REFUSED;
use super::{ContextId, Vm, telemetry};
use crate::config::{self, Policy, Role};
use crate::engine::worker::Attachments;

/// Ten times a second: how soon a worker writes down what no further event explains.
const TICK_MILLISECONDS: u32 = 100;

/// A plugin's root context.
#[derive(Debug, Default)]
pub(super) struct Root {
    /// Known once it is configured; `None` after a mistake, and requests then pass.
    role: Option<Role>,
    /// Its configuration was not understood.
    refused: bool,
    /// Of a `watch`: an access-log filter keeps from it what went well.
    only_failures: bool,
    /// Of a `decide` that was understood: its policy, as it was given.
    policy: Option<Vec<u8>>,
}

impl Vm {
    /// Takes a plugin's configuration.
    ///
    /// A mistake in it must not take the service down. Were it refused, a new proxy of Istio would answer 500 to everything, and
    /// one of Envoy Gateway would take no connection. So the policy in force stays, and where there is none yet, requests pass
    /// as if Weir were not there. An error line and a gauge say so.
    pub(super) fn configure(&mut self, root: ContextId) {
        let bytes = abi::plugin_configuration();
        let (configured, policy) = match config::parse(bytes.as_deref().unwrap_or_default()) {
            Ok(config) => {
                let policy = config.policy.as_ref().map(|_| bytes.as_deref().unwrap_or_default().to_vec());
                let role = Some(config.role);
                (Root { role, refused: false, only_failures: config.only_failures, policy }, config.policy)
            }
            Err(error) => {
                let stays = error.is_in_policy() && self.has_role(Role::Decide);
                let then = if stays { "the policy in force stays" } else { "requests pass as if Weir were not there" };
                abi::log(Level::Error, &format!("weir: configuration refused: {error}; until it is right, {then}"));
                (Root { role: stays.then_some(Role::Decide), refused: true, ..Root::default() }, None)
            }
        };
        match self.roots.iter_mut().find(|(id, _)| *id == root) {
            Some((_, root)) => *root = configured,
            None => self.roots.push((root, configured)),
        }
        self.attach();
        if let Some(policy) = policy {
            self.put_in_force(policy, root);
        }
        abi::set_tick_period(TICK_MILLISECONDS);
    }

    fn put_in_force(&mut self, policy: Policy, root: ContextId) {
        self.entries = Entries::default();
        self.worker.configure(policy, &Envoy::of(root));
        self.telemetry.enter_mode(&mut self.worker);
        self.in_force = root;
    }

    /// A root is gone. If its policy is in force, the newest of those that are left takes its place: where a policy is taken back
    /// while the one before still drains, Envoy goes on with that one's root, and does not configure it again.
    pub(super) fn root_done(&mut self, root: ContextId) {
        self.roots.retain(|(id, _)| *id != root);
        self.attach();
        if self.in_force != root {
            return;
        }
        let policy = |root: &Root| config::parse(root.policy.as_deref()?).ok()?.policy;
        let left = self.roots.iter().rev().find_map(|(id, root)| Some((*id, policy(root)?)));
        if let Some((left, policy)) = left {
            self.put_in_force(policy, left);
        }
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
            decide: self.has_role(Role::Decide),
            watch: self.has_role(Role::Watch),
            only_failures: self.roots.iter().any(|(_, root)| root.only_failures),
            guard: self.has_role(Role::Guard),
        });
        telemetry::record(CONFIGURATION_REFUSED, self.roots.iter().any(|(_, root)| root.refused).into());
    }
}
