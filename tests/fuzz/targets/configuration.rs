//! A plugin's configuration: JSON, or a `google.protobuf.Struct`.

use weir::base::time::Time;
use weir::config::{Config, parse};
use weir::engine::decision::RequestDecision;
use weir::engine::host::{Change, HeaderMap, Host, Key, Lengths, Property, Stranded, StreamId, Update};
use weir::engine::worker::Worker;

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
            let (mut worker, mut site) = (Worker::default(), Site { cluster: "" });
            worker.configure(policy.clone(), &site);
            let clusters = ["orders", "", "outbound|80||orders.default.svc.cluster.local"];
            for (stream, cluster) in (1..).map(StreamId).zip(clusters) {
                site.cluster = cluster;
                if let RequestDecision::Forward(edits) = worker.on_request_headers(stream, &site) {
                    assert!(edits.retry.len() < 10);
                }
                worker.on_response_headers(stream, &site, true);
                worker.on_request_end(stream, &site);
                worker.on_request_done(stream);
            }
            worker.on_tick(&site);
            worker.configure(policy, &site);
        }
        Ok(_) => {}
    }
}

/// A proxy with GETs for one cluster after the other, all answered by one host. It keeps no records.
struct Site {
    cluster: &'static str,
}

impl Host for Site {
    type Bytes = Vec<u8>;

    fn now(&self) -> Option<Time> {
        Some(Time::from_nanos(1_800_000_000_000_000_000))
    }

    fn property(&self, property: Property) -> Option<Vec<u8>> {
        match property {
            Property::Cluster => Some(self.cluster.into()),
            Property::UpstreamAddress => Some(b"10.0.0.1:80".to_vec()),
            Property::Code => Some(200_u64.to_le_bytes().to_vec()),
            Property::AttemptCount => Some(1_u64.to_le_bytes().to_vec()),
            _ => None,
        }
    }

    fn property_of(&self, _: StreamId, _: Property) -> Result<Option<Vec<u8>>, Stranded> {
        Ok(None)
    }

    fn header(&self, _: HeaderMap, _: &str) -> Option<Vec<u8>> {
        None
    }

    fn each_header(&self, _: Lengths, visit: &mut dyn FnMut(&[u8], &[u8])) {
        visit(b":method", b"GET");
    }

    fn update(&self, _: &Key<'_>, change: &mut Change<'_>) -> Update {
        change(None);
        Update::Done
    }

    fn put(&self, _: &Key<'_>, _: &[u8]) {}
}
