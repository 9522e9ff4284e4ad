//! Host calls that fail: whichever, however, whenever. The module never panics, and requests go on.

use super::fake_host::{Call, End, Fault, Host, HostCall, Phase, Random, flag::*, malformed_pairs, status};
use super::{DECIDE, GUARD, WATCH};
use std::cell::Cell;
use std::rc::Rc;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Everything that can happen to the module, once; `fails` decides which host calls go wrong meanwhile. Nothing in it gives
/// a reason to stop a request, nor an attempt: that, only a host can do that lies, or keeps a request's headers to itself.
fn everything(mut fails: impl FnMut(&Call) -> Option<Fault> + 'static) {
    let host = Host::new();
    // What earlier faults did to a retry budget shall not count here.
    let cluster = format!("faulty at {}", host.now());
    let misled = Rc::new(Cell::new(false));
    let mislead = Rc::clone(&misled);
    host.fault(move |call| {
        let fault = fails(call)?;
        let lie = !matches!(fault, Fault::Status(_));
        mislead.set(mislead.get() || lie || call.call == HostCall::GetHeaderPairs);
        Some(fault)
    });
    let [decide, watch, guard] = [DECIDE, WATCH, GUARD].map(|role| host.start(role));
    // Of a configuration that cannot be read not even the role is known, and requests pass.
    let understood = host.metric("weir_configuration_refused") == 0;
    for (method, flags) in [("GET", UC), ("POST", UF), ("GET", UT), ("GET", 0)] {
        let request = host.request(decide).cluster(&cluster).method(method).header("x-weir-hosts", "a").begin();
        assert!(request.continued());
        for number in 1..=2 {
            let attempt = host.attempt(guard, &request, number).begin();
            assert!(attempt.continued() || misled.get(), "{method} {flags:#x} {number}: {:?}", attempt.local_reply());
            attempt.end();
            let end = End::of_attempt(&request, number).flags(flags);
            host.attempt_log(watch, &end.clone().failure_reason("Connection refused"));
            host.attempt_log_apart(watch, &end);
        }
        let attempt = host.attempt(guard, &request, 3).begin();
        assert!(attempt.response(503, [("retry-after", "1"), ("content-type", "application/grpc")]));
        attempt.end();
        host.attempt_log(watch, &End::of_attempt(&request, 3).code(503).header("proxy-status", "a; error=x"));
        assert!(request.response(503, [("retry-after", "1")]));
        request.end_with(&End::new().flags(UT).code(503).details("via_upstream").header("retry-after", "1"));
        host.tick(decide);
    }
    // As many as it takes to announce the roles.
    for _ in 0..4 {
        [decide, watch, guard].into_iter().for_each(|root| host.tick(root));
    }
    // Afterwards all is as it should be.
    host.no_faults();
    let request = host.request(decide).cluster("recovered").header("x-weir-hosts", "a").begin();
    if understood {
        assert_eq!(request.request_header("x-envoy-max-retries").as_deref(), Some("2"));
        assert_eq!(request.request_header("x-weir-hosts"), None);
    } else {
        assert!(request.continued());
    }
}

const PHASES: [Phase; 7] = [
    Phase::Create,
    Phase::Configure,
    Phase::Tick,
    Phase::RequestHeaders,
    Phase::ResponseHeaders,
    Phase::Log,
    Phase::Delete,
];

#[test]
fn nothing_is_stopped_where_nothing_fails() {
    everything(|_| None);
}

#[test]
fn every_call_fails_with_every_status_in_every_phase() {
    for call in HostCall::ALL {
        // Success that did nothing, too.
        let statuses = call.refusals().iter().map(|status| Fault::Status(*status));
        // Node is slow; that the statuses are told apart correctly does not depend on the machine.
        let few = if cfg!(target_arch = "wasm32") { 4 } else { usize::MAX };
        for fault in statuses.take(few).chain([Fault::Nothing]) {
            let always = fault.clone();
            everything(move |made| (made.call == call).then(|| always.clone()));
            for phase in PHASES {
                let fault = fault.clone();
                everything(move |made| (made.call == call && made.phase == Some(phase)).then(|| fault.clone()));
            }
        }
    }
}

#[test]
fn every_call_fails_now_and_then() {
    // The n-th call only, whichever it is; as long as there is an n-th.
    let mut number = 0;
    loop {
        let count = Rc::new(Cell::new(0));
        let counted = Rc::clone(&count);
        everything(move |made| {
            counted.set(counted.get() + 1);
            let status = made.call.refusals().first().map_or(Fault::Nothing, |status| Fault::Status(*status));
            (counted.get() == number + 1).then_some(status)
        });
        number += 1;
        if count.get() < number {
            return;
        }
    }
}

#[test]
fn every_value_is_nonsense() {
    let returning = [
        HostCall::GetBuffer,
        HostCall::GetProperty,
        HostCall::GetHeader,
        HostCall::GetHeaderPairs,
        HostCall::GetSharedData,
    ];
    for call in returning {
        let mut faults = vec![
            Fault::bytes(b""),
            Fault::bytes(b"\xff"),
            Fault::huge(),
            Fault::not_utf8(),
            Fault::Nothing,
            Fault::NoAddress(1 << 20),
            Fault::NoAddress(usize::MAX),
            Fault::bytes(&u64::MAX.to_le_bytes()),
            Fault::bytes(&[0; 8]),
            Fault::bytes(b"99999999999999999999"),
        ];
        faults.extend((0..9).map(Fault::Truncate));
        faults.extend(malformed_pairs().iter().map(|pairs| Fault::bytes(pairs)));
        for fault in faults {
            let mut random = Random::new(1);
            let once = fault.clone();
            everything(move |made| (made.call == call).then(|| once.clone()));
            everything(move |made| (made.call == call && random.below(2) == 0).then(|| fault.clone()));
        }
    }
}

#[test]
fn anything_fails_at_random() {
    for seed in 0..if cfg!(debug_assertions) { 100 } else { 3_000 } {
        let mut random = Random::new(seed);
        let one_in = 2 + random.below(20);
        everything(move |made| random.fault(made.call, one_in));
    }
}

#[test]
fn an_unreadable_request_is_not_repeatable() {
    let host = Host::new();
    let root = host.start(DECIDE);
    let sound = |method| host.request(root).cluster("unreadable").method(method).header("x-weir-hosts", "a").begin();
    let retry_on = |stream: &super::fake_host::Stream| stream.request_header("x-envoy-retry-on").unwrap_or_default();
    assert!(retry_on(&sound("GET")).contains(",reset,"));
    for fault in malformed_pairs().iter().map(|pairs| Fault::bytes(pairs)).chain([
        Fault::Status(status::BAD_ARGUMENT),
        Fault::Nothing,
        Fault::NoAddress(9),
        Fault::Truncate(3),
    ]) {
        // The encoding that is sound up to some header says GET; that is what a POST must not be taken for.
        let lies = matches!(&fault, Fault::Bytes(bytes) if bytes.windows(3).any(|part| part == b"GET"));
        host.fault(move |made| (made.call == HostCall::GetHeaderPairs).then(|| fault.clone()));
        let stream = sound("POST");
        assert!(stream.continued());
        assert!(lies || !retry_on(&stream).split(',').any(|word| word == "reset"), "{}", retry_on(&stream));
    }
}
