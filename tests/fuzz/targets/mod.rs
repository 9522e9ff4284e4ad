//! The fuzz targets, as plain functions: libFuzzer drives them in `tests/fuzz`, and `tests/fuzz.rs` replays what it kept.

mod callbacks;
mod choices;
mod configuration;
mod headers;
mod records;
mod signals;
#[path = "../../support/sim_host.rs"]
mod sim_host;

/// What takes any bytes, and panics where the module would do wrong with them.
pub type Target = fn(&[u8]);

/// All of them, by the name of their binary and of their corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("attempt", signals::attempt),
    ("budget", records::budget),
    ("callbacks", |data| in_a_vm(|| callbacks::run(data))),
    ("circuit", records::circuit),
    ("configuration", configuration::json),
    ("configuration_struct", configuration::structured),
    ("exchange", records::exchange),
    ("headers", headers::headers),
    ("incident", records::incident),
    ("properties", headers::properties),
    ("proxy_status", signals::proxy_status),
];

/// The target of that name.
#[allow(dead_code, reason = "the replay takes them all")]
pub fn find(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// Runs with a VM and a host of its own: both belong to a thread.
fn in_a_vm(run: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}
