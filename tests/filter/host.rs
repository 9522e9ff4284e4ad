//! The fake host itself: what it refuses, and what it notices.

use super::fake_host::{End, Fault, Headers, Host, HostCall, decode_pairs, encode_pairs, malformed_pairs};
use super::{Attached, DECIDE, Level, WATCH};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn header_pairs_survive_the_encoding() {
    let headers: Headers = [(":method", "GET"), ("x", ""), ("x", "again"), ("", "\0")].into_iter().collect();
    assert_eq!(decode_pairs(&encode_pairs(&headers)), Some(headers));
    assert_eq!(decode_pairs(b""), Some(Headers::default()));
    let sound = malformed_pairs().iter().filter(|pairs| decode_pairs(pairs).is_some()).count();
    assert_eq!(sound, 2, "the empty one, and the one whose value is no text");
}

#[test]
fn setting_a_header_leaves_one_value() {
    let mut headers: Headers = [("a", "1"), ("b", "2"), ("A", "3"), ("b", "4")].into_iter().collect();
    headers.set("B", "5");
    assert_eq!(headers, [("a", "1"), ("b", "5"), ("a", "3")].into_iter().collect());
    headers.remove("a");
    headers.set("c", "6");
    assert_eq!(headers, [("b", "5"), ("c", "6")].into_iter().collect());
}

#[test]
fn the_log_phase_of_a_root_leaves_nothing_behind() {
    let host = Host::new();
    let watch = host.start(WATCH);
    host.attempt_log(watch, &End::new().cluster("left behind").code(200));
    assert!(host.configure(watch));
    host.attempt_log(watch, &End::new().code(200));
    host.tick(watch);
    assert_eq!(super::attempts(&host, "left behind"), super::of([("answered", 1)]));
}

#[test]
fn faults_are_made_and_counted() {
    let at = Attached::new(Level::Decide);
    at.host
        .fault(|call| (call.call == HostCall::GetProperty && call.key == "xds.cluster_name").then_some(Fault::Nothing));
    let stream = at.host.request(at.decide).cluster("no name").begin();
    assert_eq!(stream.edits(), []);
    assert_eq!(at.host.faults(), 1);
    at.host.no_faults();
    assert!(!at.host.request(at.decide).cluster("no name").begin().edits().is_empty());
    at.host.start(DECIDE);
}
