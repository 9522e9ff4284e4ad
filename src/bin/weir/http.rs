//! Asks a proxy's admin interface, over plain HTTP.

use std::time::Duration;

/// More is no answer of an admin interface.
const MOST_BYTES: u64 = 256 << 20;

/// The body of what a URL answers. `127.0.0.1:9901` is taken for `http://127.0.0.1:9901`.
pub fn get(url: &str) -> Result<Vec<u8>, String> {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    if !url.starts_with("http://") {
        return Err(format!("{url}: Envoy's admin interface speaks plain HTTP: write http://"));
    }
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build();
    let fail = |error: ureq::Error| match error {
        ureq::Error::Io(error) => format!("{url}: {error}"),
        error => format!("{url}: {error}"),
    };
    let mut response = ureq::Agent::new_with_config(agent).get(&url).call().map_err(fail)?;
    response.body_mut().with_config().limit(MOST_BYTES).read_to_vec().map_err(fail)
}
