//! What retries, in each row of a comparison.

use serde_json::{Value, json};

use super::crash_loops::tuned;
use super::support::bootstrap::Attach;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    None,
    /// Istio's default since 1.24.
    Istio,
    /// Istio's default up to 1.23: 503 as well.
    Istio123,
    /// What is usually written into a VirtualService, under Istio's limits.
    RetryOn,
    /// Envoy's `retry_budget`.
    Budget,
    /// The same over an interval.
    BudgetInterval,
    /// Envoy with all that it brings along for a crash loop, tuned by hand.
    Tuned,
    /// Weir, where only an HTTP filter can be attached.
    Decide,
    /// Weir at all three places. In the comparisons of retries without its circuit breaker, which would end an outage
    /// before it cost anything.
    Weir,
    /// Weir at all three places, as it is by default.
    Breaker,
}

/// Weir's defaults, which the promises are about.
pub const WEIR_PERCENT: u64 = 20;
pub const WEIR_INTERVAL_SECONDS: usize = 10;
pub const WEIR_FLOOR_PER_SECOND: u64 = 10;

const ON_ALL: &str = "5xx,reset,connect-failure";
const ISTIO_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

impl Policy {
    /// The rows of the comparisons of retries.
    pub const RETRIES: [Self; 8] = [
        Self::None,
        Self::Istio,
        Self::Istio123,
        Self::RetryOn,
        Self::Budget,
        Self::BudgetInterval,
        Self::Decide,
        Self::Weir,
    ];

    /// The rows where a circuit breaker has a say as well.
    pub const OUTAGES: [Self; 9] = [
        Self::None,
        Self::Istio,
        Self::Istio123,
        Self::RetryOn,
        Self::Budget,
        Self::BudgetInterval,
        Self::Decide,
        Self::Weir,
        Self::Breaker,
    ];

    /// The rows of the incident. Istio's default of 1.24 would do there what that of 1.23 does: no replica answers 503.
    pub const INCIDENT: [Self; 4] = [Self::None, Self::Istio123, Self::Tuned, Self::Weir];

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no retries",
            Self::Istio => "Istio's default (1.24)",
            Self::Istio123 => "Istio's default (to 1.23)",
            Self::RetryOn => "Istio, 5xx and resets",
            Self::Budget => "Envoy retry_budget",
            Self::BudgetInterval => "  with budget_interval",
            Self::Tuned => tuned::NAME,
            Self::Decide => "Weir, decide alone",
            Self::Weir => "Weir",
            Self::Breaker => "  with its circuit breaker",
        }
    }

    /// What the name stands for, in Envoy's words.
    pub fn explained(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Istio => "2 retries on connect-failure,refused-stream,unavailable,cancelled; max_retries 4294967295",
            Self::Istio123 => "the same, and on 503",
            Self::RetryOn => "2 retries on 5xx,reset,connect-failure; max_retries 4294967295",
            Self::Budget => {
                "2 retries on 5xx,reset,connect-failure; budget_percent 20, min_retry_concurrency 3 (Envoy's defaults)"
            }
            Self::BudgetInterval => "the same, and budget_interval 10s",
            Self::Tuned => tuned::EXPLAINED,
            Self::Decide => "circuitBreaker null, else at its defaults, where only an HTTP filter can be attached",
            Self::Weir => "decide, watch and guard; circuitBreaker null, else at their defaults: 20 percent of 10 s",
            Self::Breaker => "the same, with circuitBreaker at its defaults as well",
        }
    }

    /// The class of its colour in the picture of the incident.
    pub fn class(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Istio | Self::Istio123 => "istio",
            Self::RetryOn => "usual",
            Self::Budget | Self::BudgetInterval => "budget",
            Self::Tuned => "tuned",
            Self::Decide | Self::Weir | Self::Breaker => "weir",
        }
    }

    pub fn is_weir(self) -> bool {
        matches!(self, Self::Decide | Self::Weir | Self::Breaker)
    }

    /// Weir's configuration in the comparisons of retries.
    pub fn weir(self) -> Value {
        match self {
            Self::Breaker => json!({"role": "decide"}),
            _ => json!({"role": "decide", "circuitBreaker": null}),
        }
    }

    pub fn attach(self) -> Attach {
        match self {
            Self::Weir | Self::Breaker => Attach::GUARD,
            Self::Decide => Attach::DECIDE,
            _ => Attach::NOWHERE,
        }
    }

    /// The route's `retry_policy`. All retries go to another host, as Istio has it. Weir's is the one that `envoy/envoy.yaml` has
    /// in the cluster, and who tunes Envoy by hand has retries wait no longer.
    pub fn retry_policy(self) -> Value {
        let previous_hosts = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
        let mut policy = json!({
            "retry_host_predicate":
                [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": previous_hosts}}],
            "host_selection_retry_max_attempts": 5,
        });
        if self.is_weir() || self == Self::Tuned {
            policy["retry_back_off"] = json!({"base_interval": "0.010s"});
        }
        let retry_on = match self {
            Self::None => return Value::Null,
            Self::Decide | Self::Weir | Self::Breaker => return policy,
            Self::Istio | Self::Istio123 => ISTIO_ON,
            Self::RetryOn | Self::Budget | Self::BudgetInterval => ON_ALL,
            Self::Tuned => tuned::RETRY_ON,
        };
        policy["retry_on"] = json!(retry_on);
        policy["num_retries"] = json!(2);
        if self == Self::Istio123 {
            policy["retriable_status_codes"] = json!([503]);
        }
        policy
    }

    /// The cluster's circuit breaker: what limits retries, and nothing else in the way.
    pub fn thresholds(self) -> Value {
        let mut thresholds = json!({
            "max_connections": u32::MAX, "max_pending_requests": u32::MAX, "max_requests": u32::MAX,
            "max_retries": u32::MAX,
        });
        if matches!(self, Self::Budget | Self::BudgetInterval | Self::Tuned) {
            thresholds["retry_budget"] = tuned::retry_budget();
        }
        if self == Self::BudgetInterval {
            thresholds["retry_budget"]["budget_interval"] = json!("10s");
        }
        thresholds
    }
}
