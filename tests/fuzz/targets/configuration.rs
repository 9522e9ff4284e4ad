//! A plugin's configuration: JSON, or a `google.protobuf.Struct`.

use weir::base::time::Time;
use weir::config::{Config, parse};
use weir::engine::Engine;
use weir::retry::Request;

/// Whatever bytes.
pub fn json(data: &[u8]) {
    check(data);
}

/// A Struct whose fields are the input: what begins with the tag of a field is read as protobuf, not as JSON.
pub fn structured(data: &[u8]) {
    check(data);
    // Two fields: `role`, so that it is not refused at once, and `retry`, a Struct of the input.
    let mut value = vec![0x2a];
    varint(&mut value, data.len());
    value.extend_from_slice(data);
    let mut entry = vec![0x0a, 5];
    entry.extend_from_slice(b"retry");
    entry.push(0x12);
    varint(&mut entry, value.len());
    entry.extend_from_slice(&value);
    let mut whole = vec![0x0a];
    varint(&mut whole, entry.len());
    whole.extend_from_slice(&entry);
    check(&whole);
}

fn varint(bytes: &mut Vec<u8>, mut number: usize) {
    while number > 127 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn check(data: &[u8]) {
    match parse(data) {
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 4_000, "{} bytes", text.len());
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
        // What is accepted works.
        Ok(Config { policy: Some(policy), .. }) => {
            let mut engine = Engine::new(policy.clone());
            let now = Time::from_nanos(1_800_000_000_000_000_000);
            for cluster in ["orders", "", "outbound|80||orders.default.svc.cluster.local"] {
                let cluster = engine.cluster_id(cluster);
                let request = Request { method: b"GET", grpc: false, idempotency_key: false, attempt: 1 };
                let admission = engine.admit(cluster, &request, true, now, now);
                assert!(engine.retry_headers(cluster, &admission).len() < 10);
            }
            engine.reconfigure(policy, now);
        }
        Ok(_) => {}
    }
}
