//! The table of contexts, against the standard library's.

use std::collections::HashMap;

use property::{Digits, for_all};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::base::contexts::Contexts;

// The crate links only with a host beside it.
mod fake_host;
mod property;

#[test]
fn empty() {
    let mut contexts = Contexts::<u8>::default();
    assert!(contexts.is_empty());
    assert_eq!(contexts.get(1), None);
    assert_eq!(contexts.get_mut(1), None);
    assert_eq!(contexts.remove(1), None);
}

/// As Envoy numbers them: upwards, most of them gone soon, some of them never.
#[test]
fn any_order_of_events() {
    for_all(40, 400, |numbers| {
        let mut contexts = Contexts::default();
        let mut expected = HashMap::new();
        let mut next = 0_u32;
        for digits in numbers {
            let mut digits = Digits(*digits);
            for _ in 0..digits.below(6) {
                next += digits.below(3) as u32 + 1;
                contexts.insert(next, u64::from(next));
                expected.insert(next, u64::from(next));
            }
            for _ in 0..digits.below(8) {
                let id = next.saturating_sub(digits.below(30) as u32);
                assert_eq!(contexts.remove(id), expected.remove(&id), "{id}");
            }
            let id = next.saturating_sub(digits.below(100) as u32);
            contexts.insert(id, 0);
            expected.insert(id, 0);
            if let Some(value) = contexts.get_mut(id) {
                *value += 7;
            }
            *expected.get_mut(&id).unwrap() += 7;
            assert_eq!((contexts.len(), contexts.is_empty()), (expected.len(), expected.is_empty()));
            for id in next.saturating_sub(120)..=next {
                assert_eq!(contexts.get(id), expected.get(&id), "{id}");
            }
        }
        for (id, value) in &expected {
            assert_eq!(contexts.get(*id), Some(value));
        }
        for (id, value) in expected {
            assert_eq!(contexts.remove(id), Some(value));
        }
        assert!(contexts.is_empty());
    });
}

/// Of a table that had many, few that are left are found as fast as any: nothing that was removed leaves a trace.
#[test]
fn the_whole_range_of_numbers() {
    let ids = [0, 1, 2, u32::MAX, u32::MAX - 1, 1 << 31, (1 << 31) + 1, 0x9E37_79B9];
    let mut contexts = Contexts::default();
    for round in 0..3 {
        for id in ids {
            contexts.insert(id, id ^ round);
        }
        for id in ids {
            assert_eq!(contexts.remove(id), Some(id ^ round));
            assert_eq!(contexts.remove(id), None);
        }
    }
}
