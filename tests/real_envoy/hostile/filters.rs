//! Another filter that removes or rewrites what Weir sets, before it or behind it.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Site, generous};
use crate::alone::Test;
use crate::support::client::{Request, exchange};
use crate::support::upstream::{Step, answer, http1};

pub const TESTS: &[Test] = &[
    ("hostile::filter_behind_removes_headers", || beside(1, REMOVE, Some(1))),
    ("hostile::filter_behind_rewrites_headers", || beside(1, REWRITE, None)),
    ("hostile::filter_before_rewrites_headers", || beside(0, REWRITE, Some(3))),
];

const REMOVE: &str = r#"
function envoy_on_request(handle)
  for _, name in ipairs({"x-envoy-retry-on", "x-envoy-max-retries", "x-weir-hosts", "x-request-id", "x-envoy-attempt-count"}) do
    handle:headers():remove(name)
  end
end
function envoy_on_response(handle)
  handle:headers():remove("x-envoy-ratelimited")
end
"#;

const REWRITE: &str = r#"
function envoy_on_request(handle)
  handle:headers():replace("x-envoy-retry-on", "5xx")
  handle:headers():replace("x-envoy-max-retries", "1")
  handle:headers():replace("x-weir-hosts", "127.0.0.1:1,nonsense,")
  handle:headers():replace("x-request-id", "the same for all")
  handle:headers():replace("x-envoy-attempt-count", "junk")
end
function envoy_on_response(handle)
  handle:headers():replace("x-envoy-ratelimited", "junk")
  handle:headers():replace("retry-after", "junk")
end
"#;

/// A Lua filter at that position among the filters, where `decide` is at 0. GETs are reset until the third attempt; the
/// request goes on, with as many attempts as the headers say that the router gets, and the books agree.
fn beside(position: usize, script: &'static str, attempts: Option<usize>) -> Result<()> {
    let upstream = http1(|request| match request.header("x-envoy-attempt-count") {
        Some("3") => answer(200, &[], ""),
        _ => vec![Step::Rst],
    });
    let site = Site::start_with(&upstream, &generous(), &Value::Null, &Value::Null, |listener| {
        let filters = &mut listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"];
        if let Some(filters) = filters.as_array_mut() {
            filters.insert(
                position,
                json!({"name": "lua", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                    "default_source_code": {"inline_string": script},
                }}),
            );
        }
    })?;
    const REQUESTS: usize = 10;
    for _ in 0..REQUESTS {
        let response = exchange(site.address, &Request::get("/"))?;
        ensure!(matches!(response.status, 200 | 503), "{response:?}");
        ensure!(attempts != Some(3) || response.status == 200, "{response:?}");
    }
    if let Some(attempts) = attempts {
        ensure!(upstream.count() == REQUESTS * attempts, "{} attempts", upstream.count());
    }
    let tally = site.settled()?;
    ensure!(tally.requests == REQUESTS, "{tally:?}");
    // POSTs are still sent once, whatever the other filter asks of the router: `guard` stops the rest.
    let before = upstream.count();
    for _ in 0..REQUESTS {
        exchange(site.address, &Request::post("/"))?;
    }
    ensure!(upstream.count() == before + REQUESTS, "{} attempts for {REQUESTS} POSTs", upstream.count() - before);
    site.settled()?;
    Ok(())
}
