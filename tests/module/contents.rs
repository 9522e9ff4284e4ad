//! What the module consists of: what it asks of Envoy, what Envoy may call, and what must not be in it.

use super::graph::Module;
use super::{bytes, named, shipped};
use wasmparser::{Parser, Payload};

/// More is not loaded by everybody: see docs/limits.md.
const MOST_BYTES: usize = 200_000;

#[test]
fn it_is_small_and_has_no_names() {
    let shipped = bytes(shipped());
    assert!(shipped.len() <= MOST_BYTES, "{} bytes", shipped.len());
    let module = Module::read(&shipped).expect("a module");
    assert_eq!(module.custom_sections, Vec::<String>::new());
    // The one that has names is the same otherwise.
    let with_names = bytes(super::shipped().with_extension("names.wasm"));
    assert!(
        without_custom_sections(&with_names) == without_custom_sections(&shipped),
        "they differ in more than names"
    );
    let named = named();
    assert_eq!(module.functions.len(), named.functions.len());
    assert_eq!(module.exports, named.exports);
    assert!(named.custom_sections.iter().any(|name| name == "name"));
}

/// The bytes of what runs.
fn without_custom_sections(module: &[u8]) -> Vec<&[u8]> {
    let sections = Parser::new(0).parse_all(module).map(|payload| payload.expect("a module"));
    sections
        .filter(|payload| !matches!(payload, Payload::CustomSection(_)))
        .filter_map(|payload| payload.as_section())
        .map(|(_, range)| &module[range])
        .collect()
}

/// Properties of a mirrored request that crash Envoy when they are read (docs/envoy-notes.md), and one that is an
/// error for hosts without metadata. A path is written with NULs. `destination.address` is one of them, and only role `decide` asks
/// for it, which sees no mirrored request; the fake host complains where another one does.
#[test]
fn it_names_no_property_that_crashes_envoy() {
    let shipped = bytes(shipped());
    for path in
        [&b"source\0"[..], b"source.", b"destination.", b"upstream_host_metadata", b"connection\0", b"address\0"]
    {
        let found = shipped.windows(path.len()).any(|window| window == path);
        assert!(!found, "the module contains {:?}", String::from_utf8_lossy(path));
    }
    for rest in shipped.windows(64).filter_map(|window| window.strip_prefix(b"destination\0")) {
        assert!(rest.starts_with(b"address"), "the module contains destination.{:?}", String::from_utf8_lossy(rest));
    }
    // Those that it does read are found so.
    for path in [&b"xds\0cluster_name"[..], b"upstream\0address"] {
        assert!(shipped.windows(path.len()).any(|window| window == path), "the search finds nothing");
    }
}

#[test]
fn it_asks_only_what_it_says_it_asks() {
    let mut imports = named().imports;
    imports.sort();
    // SECURITY.md lists them in other words: no file, no network, no environment, no bodies.
    let known = [
        "continue_stream",
        "define_metric",
        "get_buffer_bytes",
        "get_current_time_nanoseconds",
        "get_header_map_pairs",
        "get_header_map_value",
        "get_property",
        "get_shared_data",
        "increment_metric",
        "log",
        "record_metric",
        "remove_header_map_value",
        "replace_header_map_value",
        "send_local_response",
        "set_effective_context",
        "set_property",
        "set_shared_data",
        "set_tick_period_milliseconds",
    ];
    assert_eq!(imports, known.map(|name| format!("env.proxy_{name}")));
}

#[test]
fn envoy_gives_it_no_bodies() {
    let exports = named().exports;
    // An Envoy makes no callback that is not there. The SDK has 18 more.
    let known = [
        "_initialize",
        "malloc",
        "proxy_abi_version_0_2_1",
        "proxy_on_configure",
        "proxy_on_context_create",
        "proxy_on_delete",
        "proxy_on_log",
        "proxy_on_request_headers",
        "proxy_on_response_headers",
        "proxy_on_tick",
    ];
    assert_eq!(exports.keys().collect::<Vec<_>>(), known.iter().collect::<Vec<_>>());
    for part in ["body", "trailers", "data", "http_call", "grpc", "queue"] {
        assert!(exports.keys().all(|name| !name.contains(part)), "{exports:?}");
    }
    assert!(exports.contains_key("proxy_on_request_headers"));
}

/// Where it was built stays out of it; `./build.sh reproduce` shows the rest.
/// A panic traps, and nobody reads where it stood: `postlink/postlink.mjs` leaves the names of files out.
#[test]
fn it_does_not_say_where_it_would_panic() {
    let shipped = bytes(shipped());
    let place = shipped.windows(3).position(|window| window == b".rs");
    let around = place.map(|place| String::from_utf8_lossy(&shipped[place.saturating_sub(40)..place + 3]));
    assert_eq!(around, None);
}

#[test]
fn it_names_no_folder_of_this_machine() {
    let shipped = bytes(shipped());
    let home = std::env::var("HOME").unwrap_or_default();
    let here = env!("CARGO_MANIFEST_DIR");
    for folder in [&home, here, "/home/", "/root/", "/Users/", "/tmp/", ".rustup"] {
        if folder.len() > 1 {
            let found = shipped.windows(folder.len()).any(|window| window == folder.as_bytes());
            assert!(!found, "the module contains {folder:?}");
        }
    }
}
