//! Callbacks in orders that no Envoy makes, for contexts that do not exist, while host calls fail: nothing panics, and no
//! request is stopped without a reply of the module's own.

use super::fake_host::{End, Host, Random, flag::*, raw};
use super::{DECIDE, GUARD, SHADOW, WATCH};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Few numbers, so that they meet; and some that nobody has.
const CONTEXTS: [u32; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, u32::MAX - 1, u32::MAX];
const CONFIGURATIONS: [&str; 8] =
    [DECIDE, WATCH, GUARD, SHADOW, "", "{", r#"{"role": "boss"}"#, r#"{"clusters": [{"match": "*", "retry": null}]}"#];

/// One callback, whatever `word` says.
fn callback(host: &Host, word: u64) {
    let mut random = Random::new(word);
    let context = random.pick(&CONTEXTS);
    let other = random.pick(&CONTEXTS);
    let mut end = End::new()
        .flags(random.pick(&[0, UC, UF, UT, UR, DC, UO, UPE, u64::MAX]))
        .details(random.pick(&[
            "",
            "via_upstream",
            "response_timeout",
            "upstream_reset_before_response_started{overflow}",
        ]))
        .property("upstream.request_attempt_count", random.below(4))
        .property("weir_request", &random.below(10).to_le_bytes()[..4])
        .request_header(":method", random.pick(&["GET", "POST", ""]))
        .request_header("x-envoy-attempt-count", random.pick(&["1", "2", "x"]))
        .request_header(":authority", random.pick(&["a", "a-shadow"]));
    if random.below(4) > 0 {
        end = end.cluster(&format!("nonsense {}", random.below(4)));
    }
    if random.below(2) > 0 {
        end = end.code(random.pick(&[0, 200, 429, 503, 99_999])).header("retry-after", "1");
    }
    host.dress(context, other, random.pick(&CONFIGURATIONS), &end);
    match random.below(12) {
        0 => raw::context_create(context, other),
        1 => raw::context_create(context, 0),
        2 => assert!(raw::vm_start(context, random.below(1 << 20) as usize)),
        3 => _ = raw::configure(context, random.below(100) as usize),
        4 => raw::tick(context),
        5 | 6 => {
            let action = raw::request_headers(context, random.below(1 << 32) as u32, random.below(2) == 0);
            let replied = host.local_replies(context) > 0;
            assert_eq!(action != raw::CONTINUE, replied, "stopped without a reply");
        }
        7 => assert_eq!(raw::response_headers(context, 0, random.below(2) == 0), raw::CONTINUE),
        8 => raw::log(context),
        9 => assert!(raw::done(context)),
        10 => raw::delete(context),
        _ => match random.below(3) {
            0 => host.set_time(host.now() + random.below(7_200_000_000_000) - 3_600_000_000_000),
            1 => host.set_shared("weir/startup", &random.below(1 << 40).to_le_bytes()),
            _ => host.clear_shared(),
        },
    }
}

/// A sequence of them. `faulty`: one host call in so many fails; zero for none.
fn sequence(words: &[u64], faulty: u64) {
    let host = Host::new();
    if faulty > 0 {
        let mut random = Random::new(faulty + words.len() as u64);
        // The reply itself arrives: whether the request was stopped for a reason is what is asked.
        host.fault(move |made| {
            let reply = made.call == super::fake_host::HostCall::SendLocalResponse;
            if reply { None } else { random.fault(faulty) }
        });
    }
    for word in words {
        callback(&host, *word);
    }
    host.no_faults();
    for context in CONTEXTS {
        raw::done(context);
        raw::delete(context);
    }
    let root = host.start(DECIDE);
    let request = host.request(root).cluster("after nonsense").begin();
    assert_eq!(request.request_header("x-envoy-max-retries").as_deref(), Some("2"));
}

#[cfg(not(target_arch = "wasm32"))]
proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_sequence_of_callbacks_is_survived(
        words in proptest::collection::vec(proptest::prelude::any::<u64>(), 0..400),
        faulty in 0..6_u64,
    ) {
        say_which(&format!("words {words:?}, faulty {faulty}"));
        sequence(&words, faulty);
    }
}

#[test]
fn seeded_sequences_of_callbacks_are_survived() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let words: Vec<u64> = (0..random.below(400)).map(|_| random.below(u64::MAX)).collect();
        sequence(&words, seed % 6);
    }
}

/// A panic inside a callback aborts the whole test run; this names the sequence even then.
#[cfg(not(target_arch = "wasm32"))]
fn say_which(sequence: &str) {
    use std::cell::RefCell;
    use std::io::Write;
    use std::sync::Once;
    thread_local! {
        static SEQUENCE: RefCell<String> = const { RefCell::new(String::new()) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            SEQUENCE.with_borrow(|sequence| {
                if !sequence.is_empty() {
                    // Straight to stderr: what the test harness captures is lost in an abort.
                    let _ = writeln!(std::io::stderr(), "{info}\nin {sequence}");
                }
            });
            before(info);
        }));
    });
    SEQUENCE.set(sequence.to_owned());
}
