//! The contexts that Envoy creates, as the SDK's traits have them: a plugin's root, and under it what its role handles.
//!
//! The SDK keeps them by Envoy's numbers and calls them. They hold their number and their role: an attempt has to find its
//! request, so what Weir knows is in the one [`Vm`](super::Vm) of the thread. A context is over when it is dropped. Envoy says
//! that twice, as "done" and directly afterwards as "delete"; only the second is exported, which the SDK needs. Nor is any
//! callback exported that is not implemented here (`postlink/postlink.mjs`): Envoy then makes none, and a streamed body costs
//! nothing.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::Action;

use super::abi::{self, Lent, lend};
use super::{ContextId, with_vm};
use crate::config::Role;

proxy_wasm::main! {{
    abi::start_log();
    #[cfg(not(weir_module))]
    super::start_anew();
    proxy_wasm::set_root_context(|id| Box::new(Root(id)));
    proxy_wasm::set_http_context(|id, root| {
        let role = with_vm(|vm| vm.role_of_root(root));
        Box::new(Stream { id, role })
    });
}}

/// A plugin: the module attached at one place.
struct Root(ContextId);

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        lend(Lent::Nothing);
        with_vm(|vm| vm.configure(self.0));
        true
    }

    fn on_tick(&mut self) {
        lend(Lent::Nothing);
        with_vm(|vm| vm.tick(self.0));
    }

    /// Envoy lends an access logger its root, instead of making a context for each entry.
    fn on_log(&mut self) {
        lend(Lent::All);
        with_vm(|vm| {
            if vm.role_of_root(self.0) == Some(Role::Watch) {
                vm.log(self.0, Role::Watch);
            }
        });
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        with_vm(|vm| vm.root_done(self.0));
    }
}

/// A request (role `decide`), an attempt (`guard`), or the log entry of an attempt (`watch`) where an Envoy makes a context
/// for it.
struct Stream {
    id: ContextId,
    /// `None` where its plugin was not configured when it began: it passes.
    role: Option<Role>,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        lend(Lent::Request);
        let Some(role) = self.role else { return Action::Continue };
        // Envoy takes `Pause` for what it calls `StopAllIterationAndWatermark`: a body waits as well, unless the plugin's
        // configuration sets `allow_on_headers_stop_iteration`.
        if with_vm(|vm| vm.request_headers(self.id, role)) { Action::Pause } else { Action::Continue }
    }

    fn on_http_response_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        lend(Lent::Response);
        if let Some(role) = self.role {
            with_vm(|vm| vm.response_headers(self.id, role, end_of_stream));
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        lend(Lent::All);
        if let Some(role) = self.role {
            with_vm(|vm| vm.log(self.id, role));
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        lend(Lent::Nothing);
        if let Some(role) = self.role {
            with_vm(|vm| vm.stream_done(self.id, role));
        }
    }
}
