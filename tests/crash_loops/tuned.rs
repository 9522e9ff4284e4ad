//! Envoy with all that it brings along for a crash loop, tuned by hand: what Weir is compared with, in the comparisons and in the
//! demo.

use serde_json::{Value, json};

pub const NAME: &str = "Envoy, tuned by hand";

/// In Envoy's words.
pub const EXPLAINED: &str = "2 retries on reset,gateway-error after up to 10 ms; retry_budget 20 percent; outlier_detection: \
                             consecutive_5xx 5, base_ejection_time 5s, max_ejection_percent 50";

pub const RETRY_ON: &str = "reset,gateway-error";

pub fn retry_budget() -> Value {
    json!({"budget_percent": {"value": 20}, "min_retry_concurrency": 3})
}

pub fn outlier_detection() -> Value {
    json!({"consecutive_5xx": 5, "base_ejection_time": "5s", "max_ejection_percent": 50})
}
