//! What there is without Weir, by its published rules.

use std::collections::BTreeMap;
use std::time::Duration;

use weir::base::random::Random;
use weir::signal::Signal;

use super::{Proxy, Request, Setup};

/// Who decides about retries and hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    None,
    /// Istio's default since 1.24: two retries, of what was not processed, at another host.
    /// <https://istio.io/latest/docs/concepts/traffic-management/#retries>,
    /// <https://github.com/istio/istio/blob/1.24.0/pilot/pkg/networking/core/route/retry/retry.go>
    Istio,
    /// The same up to 1.23: of 503, too.
    Istio123,
    /// Envoy: two retries on `5xx,reset,connect-failure`, as far as `retry_budget` allows by its defaults: as many at a time as
    /// 20 percent of the active requests, or three.
    /// <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/cluster/v3/circuit_breaker.proto>
    Budget,
    /// The same, and `outlier_detection` by its defaults.
    /// <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier>,
    /// <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/cluster/v3/outlier_detection.proto>
    Outliers,
    /// Linkerd: GETs are retried as far as the budget of a service profile allows by its defaults (a fifth of the requests of ten
    /// seconds and ten per second), and seven failures in a row take a host out.
    /// <https://linkerd.io/2/reference/service-profiles/#retry-budgets>,
    /// <https://linkerd.io/2/reference/circuit-breaking/>
    Linkerd,
    /// Weir at its defaults, all three roles.
    Weir,
    /// The same with a floor of one retry in ten seconds instead of ten in one.
    WeirLowFloor,
}

impl Policy {
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::Istio,
        Self::Istio123,
        Self::Budget,
        Self::Outliers,
        Self::Linkerd,
        Self::Weir,
        Self::WeirLowFloor,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "no retries",
            Self::Istio => "Istio's default (1.24)",
            Self::Istio123 => "Istio's default (to 1.23)",
            Self::Budget => "Envoy `retry_budget`",
            Self::Outliers => "Envoy `retry_budget`, `outlier_detection`",
            Self::Linkerd => "Linkerd, budget and failure accrual",
            Self::Weir => "**Weir**",
            Self::WeirLowFloor => "Weir, `minRetryRate` 1 in 10 s",
        }
    }

    pub const fn is_weir(self) -> bool {
        matches!(self, Self::Weir | Self::WeirLowFloor)
    }

    /// Whether its proxies have anything to do when nothing arrives.
    pub(super) const fn ticks(self) -> bool {
        matches!(self, Self::Outliers | Self::Weir | Self::WeirLowFloor)
    }

    /// The module's configuration, where it has Weir.
    pub(super) const fn configuration(self) -> Option<&'static str> {
        match self {
            Self::Weir => Some("{}"),
            Self::WeirLowFloor => Some(r#"{"retry": {"minRetryRate": {"count": 1, "interval": "10s"}}}"#),
            _ => None,
        }
    }

    /// A proxy without Weir.
    pub(super) fn proxy(self, setup: &Setup) -> Option<Box<dyn Proxy>> {
        let native =
            |retries, on| Native { hosts: setup.hosts, retries, on, budget: false, active: (0, 0), outliers: None };
        let proxy: Box<dyn Proxy> = match self {
            Self::None => Box::new(native(0, |_| false)),
            Self::Istio => Box::new(native(2, |signal| signal == Signal::Refused)),
            Self::Istio123 => Box::new(native(2, |signal| matches!(signal, Signal::Refused | Signal::Error))),
            Self::Budget => Box::new(Native { budget: true, ..native(2, |signal| signal != Signal::Answered) }),
            Self::Outliers => {
                let outliers = Some(OutlierDetection::default());
                Box::new(Native { budget: true, outliers, ..native(2, |signal| signal != Signal::Answered) })
            }
            Self::Linkerd => Box::new(Linkerd::new(setup.hosts)),
            Self::Weir | Self::WeirLowFloor => return None,
        };
        Some(proxy)
    }
}

/// An Envoy.
struct Native {
    hosts: usize,
    retries: u32,
    on: fn(Signal) -> bool,
    budget: bool,
    /// Attempts under way; retries under way or in back-off.
    active: (u64, u64),
    outliers: Option<OutlierDetection>,
}

/// `min_retry_concurrency` and `budget_percent`.
const MIN_CONCURRENCY: u64 = 3;
const BUDGET_PERCENT: u64 = 20;

impl Proxy for Native {
    fn arrives(&mut self, _: &mut Request, _: Duration) {}

    fn picks(&mut self, request: &Request, _: Duration, random: &mut Random) -> Option<usize> {
        self.active.0 += 1;
        let mut host = request.any_other(self.hosts, random);
        // At most a tenth are out.
        while self.outliers.as_ref().is_some_and(|outliers| outliers.is_out(host)) {
            host = request.any_other(self.hosts, random);
        }
        Some(host)
    }

    fn ended(&mut self, request: &mut Request, signal: Signal, at: Duration, random: &mut Random) -> Option<Duration> {
        self.active.0 -= 1;
        if request.attempts > 1 {
            self.active.1 -= 1;
        }
        if let Some(outliers) = &mut self.outliers {
            outliers.ended(request.host, signal == Signal::Answered, self.hosts, at);
        }
        let most = (self.active.0 * BUDGET_PERCENT / 100).max(MIN_CONCURRENCY);
        let allowed = !self.budget || self.active.1 < most;
        if !(self.on)(signal) || request.attempts > self.retries || !allowed {
            return None;
        }
        self.active.1 += 1;
        Some(request.back_off(random))
    }

    fn tick(&mut self, at: Duration) {
        if let Some(outliers) = &mut self.outliers {
            outliers.sweep(self.hosts, at);
        }
    }
}

/// Envoy's, as it is enforced by default: `consecutive_5xx` and `success_rate`.
#[derive(Default)]
struct OutlierDetection {
    hosts: BTreeMap<usize, Monitor>,
    out: usize,
    swept: Duration,
}

#[derive(Default)]
struct Monitor {
    failed_in_a_row: u32,
    /// Since the last sweep: all, and those that were answered.
    attempts: (u32, u32),
    out_since: Option<Duration>,
    times: u32,
}

const CONSECUTIVE_5XX: u32 = 5;
const INTERVAL: Duration = Duration::from_secs(10);
const BASE_EJECTION_TIME: Duration = Duration::from_secs(30);
const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);
const MAX_EJECTION_PERCENT: usize = 10;
const SUCCESS_RATE_MINIMUM_HOSTS: usize = 5;
const SUCCESS_RATE_REQUEST_VOLUME: u32 = 100;
const SUCCESS_RATE_STDEV_FACTOR: f64 = 1.9;

impl OutlierDetection {
    fn is_out(&self, host: usize) -> bool {
        self.out > 0 && self.hosts.get(&host).is_some_and(|host| host.out_since.is_some())
    }

    fn ended(&mut self, host: usize, answered: bool, hosts: usize, at: Duration) {
        let monitor = self.hosts.entry(host).or_default();
        monitor.attempts.0 += 1;
        if answered {
            monitor.attempts.1 += 1;
            monitor.failed_in_a_row = 0;
            return;
        }
        monitor.failed_in_a_row += 1;
        if monitor.failed_in_a_row == CONSECUTIVE_5XX {
            monitor.failed_in_a_row = 0;
            self.eject(host, hosts, at);
        }
    }

    fn eject(&mut self, host: usize, hosts: usize, at: Duration) {
        let Some(monitor) = self.hosts.get_mut(&host).filter(|monitor| monitor.out_since.is_none()) else { return };
        if (self.out + 1) * 100 <= MAX_EJECTION_PERCENT * hosts {
            monitor.out_since = Some(at);
            monitor.times += 1;
            self.out += 1;
        }
    }

    fn sweep(&mut self, hosts: usize, at: Duration) {
        if at < self.swept + INTERVAL {
            return;
        }
        self.swept = at;
        let mut rates = Vec::new();
        for (host, monitor) in &mut self.hosts {
            let (attempts, answered) = std::mem::take(&mut monitor.attempts);
            match monitor.out_since {
                Some(since) => {
                    if at >= since + (BASE_EJECTION_TIME * monitor.times).min(MAX_EJECTION_TIME) {
                        monitor.out_since = None;
                        self.out -= 1;
                    }
                }
                None => {
                    monitor.times = monitor.times.saturating_sub(1);
                    if attempts >= SUCCESS_RATE_REQUEST_VOLUME {
                        rates.push((*host, f64::from(answered) / f64::from(attempts)));
                    }
                }
            }
        }
        if rates.len() < SUCCESS_RATE_MINIMUM_HOSTS {
            return;
        }
        let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / rates.len() as f64;
        let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / rates.len() as f64;
        let least = mean - SUCCESS_RATE_STDEV_FACTOR * variance.sqrt();
        for (host, _) in rates.into_iter().filter(|(_, rate)| *rate < least) {
            self.eject(host, hosts, at);
        }
    }
}

/// A Linkerd proxy. A connection that is refused is a 502 of that host, as it is for an HTTP/1.1 server outside of the mesh.
struct Linkerd {
    hosts: usize,
    endpoints: BTreeMap<usize, Endpoint>,
    /// In slots of a second: what requests paid in, less what retries took out.
    slots: [i64; 10],
    second: u64,
    /// No host is available before that.
    none_before: Duration,
}

#[derive(Default)]
struct Endpoint {
    failed_in_a_row: u32,
    /// Unavailable until then; `times` in a row.
    until: Option<Duration>,
    times: u32,
    /// The one request that finds out is under way.
    probed: bool,
}

const MAX_FAILURES: u32 = 7;
const MIN_PENALTY: Duration = Duration::from_secs(1);
const MAX_PENALTY: Duration = Duration::from_secs(60);
/// Up to half of the penalty comes on top.
const JITTER_PERCENT: u64 = 50;
/// `retryRatio` 0.2: a retry costs what five requests pay.
const PRICE: i64 = 5;
/// `minRetriesPerSecond` 10, over a `ttl` of 10 s.
const RESERVE: i64 = 10 * 10 * PRICE;

impl Linkerd {
    fn new(hosts: usize) -> Self {
        Self { hosts, endpoints: BTreeMap::new(), slots: [0; 10], second: 0, none_before: Duration::ZERO }
    }

    fn slot(&mut self, at: Duration) -> &mut i64 {
        while self.second < at.as_secs() {
            self.second += 1;
            self.slots[(self.second % 10) as usize] = 0;
        }
        &mut self.slots[(self.second % 10) as usize]
    }

    fn is_available(&self, host: usize, at: Duration) -> bool {
        self.endpoints.get(&host).is_none_or(|host| host.until.is_none_or(|until| at >= until && !host.probed))
    }
}

impl Proxy for Linkerd {
    fn arrives(&mut self, _: &mut Request, at: Duration) {
        *self.slot(at) += 1;
    }

    fn picks(&mut self, _: &Request, at: Duration, random: &mut Random) -> Option<usize> {
        if at < self.none_before {
            return None;
        }
        let any = |random: &mut Random| random.below(self.hosts as u64) as usize;
        let mut tries = (0..20).map(|_| any(random));
        let found = tries.find(|host| self.is_available(*host, at));
        let found = found.or_else(|| {
            let from = any(random);
            (0..self.hosts).map(|host| (from + host) % self.hosts).find(|host| self.is_available(*host, at))
        });
        let Some(host) = found else {
            // What is being probed is available when the probe ends, or a penalty later.
            let untils = self.endpoints.values().filter(|host| !host.probed).filter_map(|host| host.until);
            self.none_before = untils.min().unwrap_or_default();
            return None;
        };
        if let Some(endpoint) = self.endpoints.get_mut(&host) {
            endpoint.probed = endpoint.until.is_some();
        }
        Some(host)
    }

    fn ended(&mut self, request: &mut Request, signal: Signal, at: Duration, random: &mut Random) -> Option<Duration> {
        let endpoint = self.endpoints.entry(request.host).or_default();
        if signal == Signal::Answered {
            // What was sent before the host went out says nothing.
            if endpoint.until.is_none_or(|until| request.began >= until) {
                *endpoint = Endpoint::default();
                self.none_before = Duration::ZERO;
            }
            return None;
        }
        endpoint.failed_in_a_row += 1;
        let failed_probe = endpoint.until.is_some_and(|until| request.began >= until);
        if failed_probe || (endpoint.until.is_none() && endpoint.failed_in_a_row >= MAX_FAILURES) {
            let penalty = (MIN_PENALTY * (1 << endpoint.times.min(10))).min(MAX_PENALTY);
            let jitter = penalty * random.below(JITTER_PERCENT) as u32 / 100;
            (endpoint.until, endpoint.probed) = (Some(at + penalty + jitter), false);
            endpoint.times += 1;
        }
        let pays = |sum: i64| sum + RESERVE >= PRICE;
        self.slot(at);
        if !request.get || !pays(self.slots.iter().sum()) {
            return None;
        }
        *self.slot(at) -= PRICE;
        Some(Duration::ZERO)
    }

    fn tick(&mut self, _: Duration) {}
}
