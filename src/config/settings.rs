//! Reads a policy by the tables of [`super::table`]: what is given is laid over what is set already, the defaults or, for an entry
//! of `clusters`, the top level.

use std::time::Duration;

use super::json::Json;
use super::table::{self, Field, Kind, Names, Number, OFF, ON, Order, POLICY, Section, Token, Unit};
use super::{
    AlreadyRetried, ClusterPolicy, ConfigError, GrpcCode, IncidentPolicy, Mode, PerTryTimeout, RetryPolicy,
    SteeringPolicy, Via, duration,
};
use crate::base::percent::Percent;
use crate::circuit::BreakerPolicy;
use crate::outlier::detector::{Detector, OutlierPolicy};
use crate::retry::RETRY_GRPC_ON;
use crate::retry::budget::{BudgetPolicy, MinRetryRate};
use crate::retry::latency::AdaptiveTimeout;

/// Most items in a list of codes, and of names. Lists and names are bounded since every entry of `clusters` has a copy.
const MAX_CODES: usize = 200;
const MAX_NAMES: usize = 32;

/// All settings of a policy, as they were given.
#[derive(Clone)]
pub(super) struct Settings {
    numbers: [u32; table::NUMBERS],
    names: [Vec<String>; table::NAMES],
    statuses: Vec<u16>,
    /// Places among [`table::GRPC_CODES`].
    grpc_codes: Vec<u16>,
    hosts_header: String,
}

impl Default for Settings {
    fn default() -> Self {
        let mut settings = Self {
            numbers: [0; table::NUMBERS],
            names: [const { Vec::new() }; table::NAMES],
            statuses: Vec::new(),
            grpc_codes: Vec::new(),
            hosts_header: String::new(),
        };
        settings.reset(&POLICY);
        settings
    }
}

impl Settings {
    /// Gives what is in `section` its defaults.
    fn reset(&mut self, section: &Section) {
        for field in section.fields {
            match field.kind {
                Kind::Number { at, default, .. } => self.set(at, default),
                Kind::Word(at, _) => self.set(at, 0),
                Kind::Section(at, section) => {
                    self.set(at, ON);
                    self.reset(section);
                }
                Kind::SectionOrTime(at, section) => {
                    self.set(at, OFF);
                    self.reset(section);
                }
                Kind::Object(section) => self.reset(section),
                Kind::Names(list, _, default) => {
                    self.set_names(list, default.iter().map(|name| (*name).to_owned()).collect())
                }
                Kind::Statuses => self.statuses = table::STATUSES.to_vec(),
                Kind::GrpcCodes => self.grpc_codes = Vec::new(),
                Kind::HostsHeader => self.hosts_header = "x-weir-hosts".to_owned(),
                Kind::Other => {}
            }
        }
    }

    /// Replaces what `given`, an object as `section` describes it, says otherwise.
    pub(super) fn overlay(&mut self, section: &Section, given: &Json) -> Result<(), ConfigError> {
        given.only(section.fields)?;
        self.read_fields(section, given)
    }

    fn read_fields(&mut self, section: &Section, given: &Json) -> Result<(), ConfigError> {
        for field in section.fields {
            match given.field(field.name) {
                Some(given) => self.read(field, given),
                None if section.complete => Err(ConfigError::new(&["missing"])),
                None => Ok(()),
            }
            .map_err(|error| error.in_field(field.name))?;
        }
        // Checked on the result, since either side may be inherited.
        section.order.as_ref().map_or(Ok(()), |order| self.check(order))
    }

    fn read(&mut self, field: &Field, given: &Json) -> Result<(), ConfigError> {
        match field.kind {
            Kind::Number { at, unit, from, to, .. } => self.set(at, given.number(unit, from, to)?),
            Kind::Word(at, words) => self.set(at, given.word(words)?),
            Kind::Section(at, section) | Kind::SectionOrTime(at, section) => {
                let or_time = matches!(field.kind, Kind::SectionOrTime(..));
                let state = if given.is_off() {
                    OFF
                } else if or_time && !matches!(given, Json::Object(_)) {
                    given.number(Unit::Millisecond, 1, table::HOUR).map_err(ConfigError::of_switch)?
                } else {
                    // What is switched on again starts from its defaults.
                    if self.get(at) != ON {
                        self.reset(section);
                    }
                    given.only(section.fields).map_err(ConfigError::of_switch)?;
                    self.read_fields(section, given)?;
                    ON
                };
                self.set(at, state);
            }
            Kind::Object(section) => self.overlay(section, given)?,
            Kind::Names(list, token, _) => {
                let mut names = Vec::new();
                given.each(MAX_NAMES, &mut |item| {
                    let name = item.name(token)?;
                    if !names.contains(&name) {
                        names.push(name);
                    }
                    Ok(())
                })?;
                self.set_names(list, names);
            }
            Kind::Statuses => self.statuses = codes(given, status_code)?,
            Kind::GrpcCodes => self.grpc_codes = codes(given, grpc_code)?,
            Kind::HostsHeader => self.hosts_header = hosts_header(given)?,
            Kind::Other => {}
        }
        Ok(())
    }

    fn check(&self, order: &Order) -> Result<(), ConfigError> {
        let [shorter, longer] = [order.shorter, order.longer].map(|(at, _)| self.get(at));
        if shorter <= longer || order.unless_zero.iter().any(|at| self.get(*at) == 0) {
            return Ok(());
        }
        let [one, other] = [shorter, longer].map(|millis| duration::text_of_millis(millis.into()));
        let reason = [order.shorter.1, " (", &one, ") is longer than ", order.longer.1, " (", &other, ")", order.why];
        Err(ConfigError::new(&reason))
    }

    /// The policy for a cluster.
    pub(super) fn cluster(&self, steered: bool) -> ClusterPolicy {
        ClusterPolicy {
            retry: self.is_on(Number::Retry).then(|| self.retry()),
            budget: self.budget(),
            outlier_detection: self.is_on(Number::OutlierDetection).then(|| self.outlier_detection()),
            circuit_breaker: self.is_on(Number::CircuitBreaker).then(|| BreakerPolicy {
                percent: self.percent(Number::BreakerPercent),
                min_requests: self.get(Number::MinRequests),
                interval: self.time(Number::BreakerInterval),
                open_time: self.time(Number::OpenTime),
            }),
            steered,
        }
    }

    pub(super) fn retry(&self) -> RetryPolicy {
        let grpc_code = |code: &u16| GrpcCode::ALL.get(usize::from(*code)).copied();
        RetryPolicy {
            max_retries: self.get(Number::MaxRetries),
            budget: self.budget(),
            idempotent_methods: self.names(Names::IdempotentMethods),
            idempotency_key_headers: self.names(Names::IdempotencyKeyHeaders),
            not_processed_headers: self.names(Names::NotProcessedHeaders),
            status_codes: self.statuses.clone(),
            grpc_status_codes: self.grpc_codes.iter().filter_map(grpc_code).collect(),
            per_try_timeout: match self.get(Number::PerTryTimeout) {
                OFF => None,
                ON => Some(PerTryTimeout::Adaptive(AdaptiveTimeout {
                    quantile: self.percent(Number::Quantile),
                    factor_percent: self.get(Number::Factor),
                    min: self.time(Number::ShortestTimeout),
                    max: self.time(Number::LongestTimeout),
                })),
                _ => Some(PerTryTimeout::Fixed(self.time(Number::PerTryTimeout))),
            },
            already_retried: match self.get(Number::AlreadyRetried) {
                0 => AlreadyRetried::Unprocessed,
                1 => AlreadyRetried::Any,
                _ => AlreadyRetried::None,
            },
        }
    }

    #[inline(never)]
    fn budget(&self) -> Option<BudgetPolicy> {
        self.is_on(Number::Budget).then(|| BudgetPolicy {
            percent: self.percent(Number::BudgetPercent),
            interval: self.time(Number::BudgetInterval),
            min_retry_rate: MinRetryRate {
                count: if self.is_on(Number::MinRetryRate) { self.get(Number::FloorCount) } else { 0 },
                interval: self.time(Number::FloorInterval),
            },
        })
    }

    fn outlier_detection(&self) -> OutlierPolicy {
        OutlierPolicy {
            interval: self.time(Number::DetectionInterval),
            refused: self.detector(Number::Refused, Number::RefusedCount, Number::RefusedPercent),
            reset: self.detector(Number::Reset, Number::ResetCount, Number::ResetPercent),
            timeout: self.detector(Number::Timeout, Number::TimeoutCount, Number::TimeoutPercent),
            error: self.detector(Number::Error, Number::ErrorCount, Number::ErrorPercent),
            base_ejection_time: self.time(Number::BaseEjectionTime),
            max_ejection_time: self.time(Number::MaxEjectionTime),
            max_ejection_percent: self.percent(Number::MaxEjectionPercent),
            probe_successes: self.get(Number::ProbeSuccesses),
        }
    }

    fn detector(&self, state: Number, count: Number, percent: Number) -> Detector {
        if self.is_on(state) {
            Detector { count: self.get(count), percent: self.percent(percent) }
        } else {
            Detector::OFF
        }
    }

    pub(super) fn mode(&self) -> Mode {
        if self.get(Number::Mode) == 0 { Mode::Enforce } else { Mode::Shadow }
    }

    pub(super) fn steering(&self) -> Option<SteeringPolicy> {
        let (via, header) = if self.get(Number::Via) == 0 {
            (Via::OverrideHost, &*self.hosts_header)
        } else {
            (Via::StatefulSession, RETRY_GRPC_ON)
        };
        self.is_on(Number::Steering).then(|| SteeringPolicy {
            via,
            header: header.to_owned(),
            explore_percent: self.percent(Number::ExplorePercent),
        })
    }

    pub(super) fn incidents(&self) -> Option<IncidentPolicy> {
        self.is_on(Number::Incidents).then(|| IncidentPolicy { interval: self.get(Number::IncidentInterval).into() })
    }

    fn is_on(&self, state: Number) -> bool {
        self.get(state) != OFF
    }

    #[inline(never)]
    fn get(&self, at: Number) -> u32 {
        // There is a number for each: the other branch is never taken.
        self.numbers.get(at as usize).copied().unwrap_or_default()
    }

    fn set(&mut self, at: Number, number: u32) {
        if let Some(place) = self.numbers.get_mut(at as usize) {
            *place = number;
        }
    }

    fn names(&self, list: Names) -> Vec<String> {
        self.names.get(list as usize).cloned().unwrap_or_default()
    }

    fn set_names(&mut self, list: Names, names: Vec<String>) {
        if let Some(place) = self.names.get_mut(list as usize) {
            *place = names;
        }
    }

    #[inline(never)]
    fn percent(&self, at: Number) -> Percent {
        Percent::saturating(self.get(at))
    }

    #[inline(never)]
    fn time(&self, at: Number) -> Duration {
        Duration::from_millis(self.get(at).into())
    }
}

/// The items of `list` in ascending order, each once.
fn codes(list: &Json, read: fn(&Json) -> Result<u32, ConfigError>) -> Result<Vec<u16>, ConfigError> {
    let mut codes = Vec::new();
    list.each(MAX_CODES, &mut |item| {
        let code = read(item)? as u16;
        // Not `sort`, which costs the module 3 kB for a handful of numbers.
        if let Err(place) = codes.binary_search(&code) {
            codes.insert(place, code);
        }
        Ok(())
    })?;
    Ok(codes)
}

const PUSHBACK: &str = "is a pushback, which is never retried: remove it";

fn status_code(item: &Json) -> Result<u32, ConfigError> {
    match item.number(Unit::One, 400, 599)? {
        429 => Err(item.refuse(&[PUSHBACK])),
        status => Ok(status),
    }
}

fn grpc_code(item: &Json) -> Result<u32, ConfigError> {
    match item {
        Json::Text(text) if text == "resource-exhausted" => Err(item.refuse(&[PUSHBACK])),
        _ => item.word(table::GRPC_CODES),
    }
}

fn hosts_header(given: &Json) -> Result<String, ConfigError> {
    let name = given.name(Token::Header)?;
    // Weir removes it from requests and overwrites it: it must not be one that means something to anybody else.
    let taken = ["x-envoy-", "x-forwarded-", "x-request-id"];
    if !name.starts_with("x-") || taken.iter().any(|taken| name.starts_with(taken)) {
        return Err(given.expecting(
            "is no header for hosts",
            "one that begins with x-, and not with x-envoy-, x-forwarded- or x-request-id",
        ));
    }
    Ok(name)
}
