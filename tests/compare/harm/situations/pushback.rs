//! Answers that say no: from one replica of several, or from all.

use serde_json::json;

use super::super::measure::Measure;
use super::super::replica::{ASKS, Mood};
use super::super::setup::Setup;
use super::super::situation::{Load, Situation};

pub fn all() -> Vec<Situation> {
    vec![
        busy("one-busy-503", "One of four replicas answers 503 with retry-after; Envoy retries 5xx.")
            .mood(0, Mood::Says(503, Some(("retry-after", "2"))), 1.0..20.0)
            .setup(retries_5xx),
        busy("one-busy-overloaded", "One of four replicas answers 503 with x-envoy-overloaded; Envoy retries 5xx.")
            .mood(0, Mood::Says(503, Some(("x-envoy-overloaded", "true"))), 1.0..20.0)
            .setup(retries_5xx),
        busy("one-busy-429", "One of four replicas answers 429; Envoy retries 429.")
            .mood(0, Mood::Says(429, Some(("retry-after", "2"))), 1.0..20.0)
            .setup(|setup| {
                setup.without_weir(&json!({"retry_on": "retriable-status-codes,connect-failure",
                    "retriable_status_codes": [429]}));
                Ok(())
            }),
        Situation::new("all-busy", "All replicas answer 503 with retry-after for 2 s.")
            .load(Load::get(40))
            .all_in_mood(Mood::Says(503, Some(("retry-after", "1"))), 2.0..4.0)
            .seconds(7.0),
        Situation::new("all-503", "All replicas answer 503 for 2 s.")
            .load(Load::get(30))
            .load(Load::post(10))
            .all_in_mood(Mood::Says(503, None), 2.0..4.0)
            .seconds(7.0),
        Situation::new("canary-500", "One of four replicas, a canary, answers 500.")
            .load(Load::get(30))
            .load(Load::post(10))
            .mood(0, Mood::Says(500, None), 1.0..20.0),
        Situation::new(
            "errors-are-usual",
            "Three in ten requests are answered 500, by whatever replica; the others are well.",
        )
        .load(Load::get(12).asks(ASKS, 500).expects(500).not_judged())
        .load(Load::get(28))
        .load(Load::post(10))
        .measure(Measure::Starved)
        .short(),
        Situation::new(
            "rate-limited",
            "Envoy's own rate limit lets 30 requests of 50 a second pass, and answers 429 to the others.",
        )
        .load(Load::get(40))
        .load(Load::post(10))
        .setup(|setup| {
            setup.filter(json!({"name": "rate_limit", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
                "stat_prefix": "rate_limit",
                "token_bucket": {"max_tokens": 30, "tokens_per_fill": 30, "fill_interval": "1s"},
                "filter_enabled": {"default_value": {"numerator": 100}},
                "filter_enforced": {"default_value": {"numerator": 100}},
            }}));
            Ok(())
        })
        .measure(Measure::Starved),
        Situation::new(
            "one-path-503",
            "One path is always answered 503, by every replica: under maintenance. Others are well.",
        )
        .load(Load::get(20).path("/closed").asks(ASKS, 503).expects(503).not_judged())
        .load(Load::get(30))
        .load(Load::post(10))
        .measure(Measure::Starved),
        Situation::new(
            "most-paths-503",
            "Three quarters of the requests are answered 503, by every replica; the others are well.",
        )
        .load(Load::get(45).path("/closed").asks(ASKS, 503).expects(503).not_judged())
        .load(Load::get(10))
        .load(Load::post(5))
        .measure(Measure::Starved),
        Situation::new("one-path-resets", "One request in ten makes whatever replica it meets reset the connection.")
            .load(Load::get(4).path("/poison").asks(ASKS, 1).not_judged())
            .load(Load::get(26))
            .load(Load::post(10))
            .measure(Measure::Starved)
            .seconds(8.0),
        Situation::new("not-found", "Half of the requests are answered 404, 401 or 409.")
            .load(Load::get(10).asks(ASKS, 404).expects(404))
            .load(Load::get(10).asks(ASKS, 401).expects(401))
            .load(Load::post(10).asks(ASKS, 409).expects(409))
            .load(Load::get(30))
            .short(),
    ]
}

fn busy(name: &'static str, about: &'static str) -> Situation {
    Situation::new(name, about).load(Load::get(60)).seconds(7.0)
}

fn retries_5xx(setup: &mut Setup) -> anyhow::Result<()> {
    setup.without_weir(&json!({"retry_on": "5xx,connect-failure,refused-stream"}));
    Ok(())
}
