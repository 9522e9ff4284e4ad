//! The adapter for Envoy: callbacks in, decisions and events out. It reads, applies, counts and logs. It decides nothing but
//! when to write a line that is about no request (`startup`, `entries`).
//!
//! Envoy runs one VM per worker thread, and all three roles in it. So there is one [`Vm`] per thread, with one [`Worker`]. A
//! *context* is Envoy's word for a plugin's root, and under it a request, an attempt or a log entry, which its role handles. The SDK
//! keeps contexts by Envoy's numbers and calls them. They hold their number and their role alone: an attempt has to find its request,
//! so what Weir knows is in the [`Vm`]. A context is over when it is dropped. Envoy says that twice, as "done" and directly afterwards
//! as "delete"; only the second is exported, which the SDK needs. Nor is any callback exported that is not implemented here
//! (`postlink/postlink.mjs`): Envoy then makes none, and a streamed body costs nothing.
//!
//! Nothing here may panic, and whatever cannot be known is left alone: the request goes on as if Weir were not there.

mod abi;
mod entries;
mod host;
pub mod metrics;
mod roots;
mod startup;
mod telemetry;

use std::cell::RefCell;
use std::mem::ManuallyDrop;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::Action;

use crate::config::Role;
use crate::engine::decision::{RequestDecision, Then};
use crate::engine::host::StreamId;
use crate::engine::worker::Worker;
use abi::{Lent, lend};
use host::Envoy;
use telemetry::Telemetry;

proxy_wasm::main! {{
    abi::start_log();
    #[cfg(not(weir_module))]
    start_anew();
    proxy_wasm::set_root_context(|id| Box::new(Plugin(id)));
    proxy_wasm::set_http_context(|id, root| {
        let role = with_vm(|vm| vm.role_of_root(root));
        Box::new(Stream { id, role })
    });
}}

/// A context's number.
type ContextId = u32;

/// All that one thread of Envoy holds.
#[derive(Default)]
struct Vm {
    /// One for each plugin: a handful.
    roots: Vec<(ContextId, roots::Root)>,
    /// The root whose policy is in force.
    in_force: ContextId,
    worker: Worker,
    telemetry: Telemetry,
    startup: startup::Line,
    entries: entries::Entries,
}

thread_local! {
    /// Never dropped: a module ends with its memory, and what would drop all this is more than a kilobyte.
    static VM: ManuallyDrop<RefCell<Vm>> = ManuallyDrop::new(RefCell::default());
}

/// Envoy starts a VM once. Tests start many on one thread, and none shall know what another has seen.
#[cfg(not(weir_module))]
fn start_anew() {
    VM.with(|vm| _ = vm.try_borrow_mut().map(|mut vm| *vm = Vm::default()));
}

/// Runs a callback on this worker's VM, and tells what happened meanwhile. Should Envoy ever call back while a callback runs,
/// the inner one does nothing.
fn with_vm<R: Default>(callback: impl FnOnce(&mut Vm) -> R) -> R {
    let run = |vm: &mut Vm| {
        let result = callback(vm);
        vm.telemetry.report(&mut vm.worker);
        result
    };
    VM.with(|vm| vm.try_borrow_mut().map(|mut vm| run(&mut vm)).unwrap_or_default())
}

/// A plugin's root context: the module attached at one place.
struct Plugin(ContextId);

impl Context for Plugin {}

impl RootContext for Plugin {
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
                vm.worker.on_attempt_log(&Envoy::of(self.0));
            }
        });
    }
}

impl Drop for Plugin {
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
    /// Request headers: of a request for `decide`, of an attempt for `guard`.
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        lend(Lent::Request);
        let (stream, host) = (StreamId(self.id), Envoy::of(self.id));
        let stops = match self.role {
            Some(Role::Decide) => with_vm(|vm| {
                match vm.worker.on_request_headers(stream, &host) {
                    RequestDecision::Forward(edits) => {
                        host::edit_request(stream, &edits);
                        return false;
                    }
                    RequestDecision::Reply(reply) if host::reply(&reply) => return true,
                    RequestDecision::Reply(_) => {}
                }
                vm.worker.on_reply_refused();
                false
            }),
            Some(Role::Guard) => with_vm(|vm| host::send_attempt(&vm.worker.on_attempt_headers(stream, &host))),
            Some(Role::Watch) | None => false,
        };
        // Envoy takes `Pause` for what it calls `StopAllIterationAndWatermark`: a body waits as well, unless the plugin's
        // configuration sets `allow_on_headers_stop_iteration`.
        if stops { Action::Pause } else { Action::Continue }
    }

    /// Response headers: of a request for `decide`, of an attempt for `guard`.
    fn on_http_response_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        lend(Lent::Response);
        let (stream, host) = (StreamId(self.id), Envoy::of(self.id));
        with_vm(|vm| match self.role {
            Some(Role::Decide) => host::edit_response(&vm.worker.on_response_headers(stream, &host, end_of_stream)),
            Some(Role::Guard) => host::edit_response(&vm.worker.on_attempt_response(stream, &host, end_of_stream)),
            Some(Role::Watch) | None => {}
        });
        Action::Continue
    }

    /// A request ended (`decide`), or an attempt did (`watch`).
    fn on_log(&mut self) {
        lend(Lent::All);
        let host = Envoy::of(self.id);
        with_vm(|vm| match self.role {
            Some(Role::Decide) => {
                if let Some(verdict) = vm.worker.on_request_end(StreamId(self.id), &host) {
                    host::log_verdict(verdict);
                }
            }
            Some(Role::Watch) => vm.worker.on_attempt_log(&host),
            Some(Role::Guard) | None => {}
        });
    }
}

impl Drop for Stream {
    /// A request or an attempt is over.
    fn drop(&mut self) {
        lend(Lent::Nothing);
        let stream = StreamId(self.id);
        with_vm(|vm| match self.role {
            Some(Role::Decide) => vm.worker.on_request_done(stream),
            Some(Role::Guard) => vm.worker.on_attempt_end(stream, &Envoy::of(self.id)),
            Some(Role::Watch) | None => {}
        });
    }
}

impl Vm {
    /// The timer of a root.
    fn tick(&mut self, root: ContextId) {
        self.worker.on_tick(&Envoy::of(root));
        self.telemetry.report(&mut self.worker);
        self.telemetry.report_totals(&self.worker);
        self.announce();
        // There may be many roots, one for each role of each listener, and each has a timer.
        if self.roots.first().is_some_and(|(first, _)| *first == root) {
            self.entries.on_tick(&self.worker, &mut self.telemetry.log);
        }
        // Last, since it acts for other contexts.
        for stream in self.worker.paused_alone() {
            if !abi::act_for(stream.0) {
                continue;
            }
            match self.worker.on_pause_over(stream, &Envoy::of(stream.0)) {
                Some(Then::Send) => abi::resume_request(),
                Some(Then::Reply(reply)) => _ = host::reply(&reply),
                Some(Then::Pause) | None => {}
            }
        }
    }
}
