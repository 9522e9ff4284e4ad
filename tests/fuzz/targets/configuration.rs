//! A plugin's configuration: JSON, or a `google.protobuf.Struct`.

use weir::config::{Config, parse};
use weir::engine::decision::RequestDecision;
use weir::engine::host::{HeaderMap, Property, StreamId};
use weir::engine::worker::Worker;

use super::sim_host::{Facts, SimHost};

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
            let (mut worker, host) = (Worker::default(), SimHost::default());
            host.set_time(1_800_000_000_000_000_000);
            worker.configure(policy.clone(), &host);
            let clusters = ["orders", "", "outbound|80||orders.default.svc.cluster.local"];
            for (stream, cluster) in (1..).map(StreamId).zip(clusters) {
                host.show(&answered_get(cluster));
                if let RequestDecision::Forward(edits) = worker.on_request_headers(stream, &host) {
                    assert!(edits.retry.len() < 10);
                }
                worker.on_response_headers(stream, &host, true);
                worker.on_request_end(stream, &host);
                worker.on_request_done(stream);
            }
            worker.on_tick(&host);
            worker.configure(policy, &host);
        }
        Ok(_) => {}
    }
}

/// A GET for a cluster, answered by its first attempt.
fn answered_get(cluster: &str) -> Facts {
    let mut facts = Facts::default();
    facts.set(Property::Cluster, cluster);
    facts.set(Property::UpstreamAddress, "10.0.0.1:80");
    facts.set_number(Property::Code, 200);
    facts.set_number(Property::AttemptCount, 1);
    facts.set_header(HeaderMap::Request, ":method", "GET");
    facts
}
