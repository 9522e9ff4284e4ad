//! Callbacks in orders that no Envoy makes, for contexts that do not exist, while host calls fail: nothing panics, and no
//! request is stopped without a reply of the module's own. What the sequences are made of is the fuzz target's.

use super::callbacks;
use super::fake_host::Random;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[cfg(not(target_arch = "wasm32"))]
proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 1_000, failure_persistence: None, ..Default::default() })]

    /// Found by chance, and made as short as still breaks it. (A panic inside a callback aborts instead: fuzz that one.)
    #[test]
    fn any_sequence_of_callbacks_is_survived(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..4_000),
    ) {
        say_which(&bytes);
        callbacks::run(&bytes);
    }
}

#[test]
fn seeded_sequences_of_callbacks_are_survived() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let bytes: Vec<u8> = (0..random.below(4_000)).map(|_| random.below(256) as u8).collect();
        callbacks::run(&bytes);
    }
}

/// A panic inside a callback aborts the whole test run; this names the sequence even then.
#[cfg(not(target_arch = "wasm32"))]
fn say_which(sequence: &[u8]) {
    use std::cell::RefCell;
    use std::io::Write;
    use std::sync::Once;
    thread_local! {
        static SEQUENCE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            SEQUENCE.with_borrow(|sequence| {
                if !sequence.is_empty() {
                    // Straight to stderr: what the test harness captures is lost in an abort.
                    let _ = writeln!(std::io::stderr(), "{info}\nin {sequence:?}");
                }
            });
            before(info);
        }));
    });
    SEQUENCE.set(sequence.to_vec());
}
