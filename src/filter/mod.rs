//! The adapter for Envoy: callbacks in, decisions and events out. It reads, applies, counts and logs, and decides nothing.
//!
//! Envoy runs one VM per worker thread, and all three roles in it. So there is one [`Vm`] per thread, with one
//! [`Worker`]; a context, which is Envoy's word for a plugin's root, a request or an attempt, is a number that it hands out.
//!
//! Nothing here may panic, and whatever cannot be known is left alone: the request goes on as if Weir were not there.

mod abi;
mod apply;
mod contexts;
mod entries;
mod host;
pub mod metrics;
mod roots;
mod startup;
mod telemetry;

use std::cell::RefCell;
use std::mem::ManuallyDrop;

use crate::config::Role;
use crate::engine::decision::{RequestDecision, Then};
use crate::engine::host::StreamId;
use crate::engine::worker::Worker;
use host::Envoy;
use telemetry::Telemetry;

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
        vm.telemetry.tell(&mut vm.worker);
        result
    };
    VM.with(|vm| vm.try_borrow_mut().map(|mut vm| run(&mut vm)).unwrap_or_default())
}

impl Vm {
    /// A request or an attempt is over.
    fn stream_done(&mut self, context: ContextId, role: Role) {
        match role {
            Role::Decide => self.worker.on_request_done(StreamId(context)),
            Role::Guard => self.worker.on_attempt_end(StreamId(context), &Envoy::of(context)),
            Role::Watch => {}
        }
    }

    /// Request headers: of a request for `decide`, of an attempt for `guard`. Whether they stop here.
    fn request_headers(&mut self, context: ContextId, role: Role) -> bool {
        let (stream, host) = (StreamId(context), Envoy::of(context));
        match role {
            Role::Decide => {
                match self.worker.on_request_headers(stream, &host) {
                    RequestDecision::Forward(edits) => {
                        apply::to_request(stream, &edits);
                        return false;
                    }
                    RequestDecision::Reply(reply) if apply::reply(&reply) => return true,
                    RequestDecision::Reply(_) => {}
                }
                self.worker.on_reply_refused();
                false
            }
            Role::Guard => apply::to_attempt(&self.worker.on_attempt_headers(stream, &host)),
            Role::Watch => false,
        }
    }

    /// Response headers: of a request for `decide`, of an attempt for `guard`.
    fn response_headers(&mut self, context: ContextId, role: Role, end_of_stream: bool) {
        let (stream, host) = (StreamId(context), Envoy::of(context));
        match role {
            Role::Decide => apply::to_response(&self.worker.on_response_headers(stream, &host, end_of_stream)),
            Role::Guard => apply::to_response(&self.worker.on_attempt_response(stream, &host, end_of_stream)),
            Role::Watch => {}
        }
    }

    /// A request ended (`decide`), or an attempt did (`watch`).
    fn log(&mut self, context: ContextId, role: Role) {
        let host = Envoy::of(context);
        match role {
            Role::Decide => {
                if let Some(verdict) = self.worker.on_request_end(StreamId(context), &host) {
                    apply::verdict(verdict);
                }
            }
            Role::Watch => self.worker.on_attempt_log(&host),
            Role::Guard => {}
        }
    }

    /// The timer of a root.
    fn tick(&mut self, root: ContextId) {
        self.worker.on_tick(&Envoy::of(root));
        self.telemetry.tell(&mut self.worker);
        self.telemetry.tell_totals(&self.worker);
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
                Some(Then::Reply(reply)) => _ = apply::reply(&reply),
                Some(Then::Pause) | None => {}
            }
        }
    }
}
