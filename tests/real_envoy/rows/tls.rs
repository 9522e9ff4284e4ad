//! TLS towards an upstream. The one upstream that speaks it is an Envoy as well.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::envoy::Launch;
use crate::support::ports;
use crate::support::upstream::Upstream;

/// A cluster that speaks TLS and asks for no certificate in particular.
pub fn any() -> Value {
    socket(&json!({}))
}

/// A cluster that trusts only somebody who is not the server.
pub fn client() -> Value {
    static STRANGER: OnceLock<String> = OnceLock::new();
    let stranger = STRANGER.get_or_init(|| certificate().0);
    socket(&json!({"validation_context": {"trusted_ca": {"inline_string": stranger}}}))
}

fn socket(context: &Value) -> Value {
    json!({"transport_socket": {"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": context,
    }}})
}

/// An upstream with a certificate of its own.
///
/// # Panics
/// When Envoy does not start.
pub fn server() -> Upstream {
    let (chain, key) = certificate();
    let address = ports::free();
    let mut listener = bootstrap::listener(Listener {
        name: "tls",
        port: address.port(),
        attach: Attach::NOWHERE,
        policy: &Value::Null,
        routes: vec![json!({"match": {"prefix": "/"}, "direct_response": {"status": 200}})],
        logs: None,
        manager: Value::Null,
    });
    listener["filter_chains"][0]["transport_socket"] = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificates": [
            {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}},
        ]},
    }});
    let envoy = Launch::json(bootstrap::bootstrap(&[listener], &[])).start().expect("an Envoy that serves TLS");
    Upstream::elsewhere(address, std::sync::Mutex::new(envoy))
}

/// A new certificate that signs itself, and its key.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["weir.test".to_owned()]).expect("a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem())
}
