//! Every setting of a policy, in a table for each of its objects: its name, its kind, its range and its default.
//!
//! [`super::settings`] reads a policy by these tables, so that a setting stands here once. What a setting means is said where
//! its type is: [`RetryPolicy`](super::RetryPolicy), [`OutlierPolicy`], [`BreakerPolicy`],
//! [`SteeringPolicy`](super::SteeringPolicy) and [`IncidentPolicy`](super::IncidentPolicy).

use std::time::Duration;

use super::retry::GrpcCode;
use crate::base::percent::Percent;
use crate::circuit::BreakerPolicy;
use crate::outlier::detector::{Detector, OutlierPolicy};
use crate::outlier::host::LENGTH;
use crate::retry::budget::BudgetPolicy;

/// An object: its fields in the order of the alphabet, as errors list them.
pub(super) struct Section {
    pub fields: &'static [Field],
    /// All fields must be there.
    pub complete: bool,
    /// Which time must not be longer than which, whether given here or inherited.
    pub order: Option<Order>,
}

/// A field of an object.
pub(super) struct Field {
    pub name: &'static str,
    pub kind: Kind,
}

/// What a field may hold, and where [`super::settings::Settings`] keeps it.
pub(super) enum Kind {
    /// A number in units of `unit`.
    Number { at: Number, unit: Unit, from: u32, to: u32, default: u32 },
    /// One of these words, kept as its place among them. The first is the default.
    Word(Number, &'static [&'static str]),
    /// An object that is on by default, and can be switched off: kept as [`ON`] or [`OFF`].
    Section(Number, &'static Section),
    /// As `Section`, but off by default; or a duration in place of the object, kept in milliseconds.
    SectionOrTime(Number, &'static Section),
    /// An object that can not be switched off.
    Object(&'static Section),
    /// Names, each kept once, in their order; and the default.
    Names(Names, Token, &'static [&'static str]),
    /// Response statuses, ascending, each kept once.
    Statuses,
    /// gRPC statuses that Envoy can retry.
    GrpcCodes,
    /// The header that names hosts.
    HostsHeader,
    /// What is read elsewhere.
    Other,
}

/// How a number is written, and in which unit it is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// A whole number.
    One,
    /// A number with at most two decimals, in hundredths: basis points of what is given in percent.
    Hundredth,
    /// A number with at most four decimals, in ten-thousandths: basis points of a share.
    TenThousandth,
    /// A duration, in milliseconds.
    Millisecond,
}

impl Unit {
    /// How many of them are 1; nothing for durations.
    pub(super) const fn scale(self) -> u32 {
        match self {
            Self::One | Self::Millisecond => 1,
            Self::Hundredth => 100,
            Self::TenThousandth => 10_000,
        }
    }
}

/// What names are made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Method,
    Header,
}

/// An object that is switched off, and one that is not.
pub(super) const OFF: u32 = 0;
pub(super) const ON: u32 = u32::MAX;

/// A time that may not be longer than another one while none of `unless_zero` is 0.
pub(super) struct Order {
    pub shorter: (Number, &'static str),
    pub longer: (Number, &'static str),
    pub unless_zero: &'static [Number],
    pub why: &'static str,
}

/// The settings that are kept as numbers: durations, shares, and whether sections are on, too.
#[derive(Clone, Copy)]
pub(super) enum Number {
    AlreadyRetried,
    BaseEjectionTime,
    BreakerInterval,
    BreakerPercent,
    Budget,
    BudgetInterval,
    BudgetPercent,
    CircuitBreaker,
    DetectionInterval,
    Error,
    ErrorCount,
    ErrorPercent,
    ExplorePercent,
    Factor,
    FloorCount,
    FloorInterval,
    IncidentInterval,
    Incidents,
    LongestTimeout,
    MaxEjectionPercent,
    MaxEjectionTime,
    MaxRetries,
    MinRequests,
    MinRetryRate,
    Mode,
    OpenTime,
    OutlierDetection,
    PerTryTimeout,
    ProbeSuccesses,
    Quantile,
    Refused,
    RefusedCount,
    RefusedPercent,
    Reset,
    ResetCount,
    ResetPercent,
    Retry,
    ShortestTimeout,
    Steering,
    Timeout,
    TimeoutCount,
    TimeoutPercent,
    Via,
}

/// How many [`Number`]s there are.
pub(super) const NUMBERS: usize = Number::Via as usize + 1;

/// The settings that are lists of names.
#[derive(Clone, Copy)]
pub(super) enum Names {
    IdempotencyKeyHeaders,
    IdempotentMethods,
    NotProcessedHeaders,
}

/// How many [`Names`] there are.
pub(super) const NAMES: usize = Names::NotProcessedHeaders as usize + 1;

/// Durations, in milliseconds.
const SECOND: u32 = 1_000;
pub(super) const HOUR: u32 = 3_600 * SECOND;
const DAY: u32 = 24 * HOUR;

pub(super) static POLICY: Section = Section::new(&[
    Field::section("circuitBreaker", Number::CircuitBreaker, &CIRCUIT_BREAKER),
    Field::other("clusters"),
    Field::section("incidents", Number::Incidents, &INCIDENTS),
    Field::word("mode", Number::Mode, &["enforce", "shadow"]),
    Field::section("outlierDetection", Number::OutlierDetection, &OUTLIER_DETECTION),
    Field::section("retry", Number::Retry, &RETRY),
    Field::other("role"),
    Field::section("steering", Number::Steering, &STEERING),
]);

/// An entry of `clusters`.
pub(super) static CLUSTER: Section = Section::new(&[
    Field::section("circuitBreaker", Number::CircuitBreaker, &CIRCUIT_BREAKER),
    Field::other("match"),
    Field::section("outlierDetection", Number::OutlierDetection, &OUTLIER_DETECTION),
    Field::section("retry", Number::Retry, &RETRY),
    Field::other("route"),
    Field::other("steering"),
]);

/// With the roles that have no policy.
pub(super) static WATCH: Section = Section::new(&[Field::other("only"), Field::other("role")]);
pub(super) static GUARD: Section = Section::new(&[Field::other("role")]);

static RETRY: Section = Section {
    fields: &[
        Field::word("alreadyRetried", Number::AlreadyRetried, &["unprocessed", "any", "none"]),
        Field::section("budget", Number::Budget, &BUDGET),
        Field { name: "grpcStatusCodes", kind: Kind::GrpcCodes },
        Field {
            name: "idempotencyKeyHeaders",
            kind: Kind::Names(Names::IdempotencyKeyHeaders, Token::Header, &["idempotency-key"]),
        },
        Field {
            name: "idempotentMethods",
            kind: Kind::Names(
                Names::IdempotentMethods,
                Token::Method,
                &["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"],
            ),
        },
        // 0 is fine with any budget: it switches retries off in an incident, without touching the rest.
        Field::whole("maxRetries", Number::MaxRetries, 0, 10, 2),
        Field::section("minRetryRate", Number::MinRetryRate, &MIN_RETRY_RATE),
        Field { name: "notProcessedHeaders", kind: Kind::Names(Names::NotProcessedHeaders, Token::Header, &[]) },
        Field { name: "perTryTimeout", kind: Kind::SectionOrTime(Number::PerTryTimeout, &PER_TRY_TIMEOUT) },
        Field { name: "statusCodes", kind: Kind::Statuses },
    ],
    complete: false,
    // A floor that an interval of the budget cannot reach is none, see `MinRetryRate::interval`.
    order: Some(Order {
        shorter: (Number::FloorInterval, "minRetryRate.interval"),
        longer: (Number::BudgetInterval, "budget.interval"),
        unless_zero: &[Number::Budget, Number::MinRetryRate, Number::FloorCount],
        why: ": not every interval can reach the floor",
    }),
};

static BUDGET: Section = Section::new(&[
    Field::time("interval", Number::BudgetInterval, SECOND, HOUR, BudgetPolicy::DEFAULT.interval),
    Field::percent("percent", Number::BudgetPercent, 0, BudgetPolicy::DEFAULT.percent),
]);

static MIN_RETRY_RATE: Section = Section {
    fields: &[
        Field::whole("count", Number::FloorCount, 0, 1_000_000, BudgetPolicy::DEFAULT.min_retry_rate.count),
        Field::time("interval", Number::FloorInterval, SECOND, HOUR, BudgetPolicy::DEFAULT.min_retry_rate.interval),
    ],
    // One says nothing without the other, and an inherited other half is not what the author had in mind.
    complete: true,
    order: None,
};

static PER_TRY_TIMEOUT: Section =
    Section { fields: &[Field { name: "adaptive", kind: Kind::Object(&ADAPTIVE) }], complete: true, order: None };

static ADAPTIVE: Section = Section {
    fields: &[
        Field::number("factor", Number::Factor, Unit::Hundredth, (100, 10_000), 300),
        Field::time("max", Number::LongestTimeout, 1, HOUR, Duration::from_secs(10)),
        Field::time("min", Number::ShortestTimeout, 1, HOUR, Duration::from_millis(50)),
        Field::number("quantile", Number::Quantile, Unit::TenThousandth, (5_000, 9_990), 9_900),
    ],
    complete: false,
    order: Some(Order {
        shorter: (Number::ShortestTimeout, "min"),
        longer: (Number::LongestTimeout, "max"),
        unless_zero: &[],
        why: "",
    }),
};

static OUTLIER_DETECTION: Section = Section {
    fields: &[
        // The shortest ejection: less than a round trip or two would be none.
        Field::time("baseEjectionTime", Number::BaseEjectionTime, 10, HOUR, OutlierPolicy::DEFAULT.base_ejection_time),
        Field::section("error", Number::Error, &ERROR),
        Field::time("interval", Number::DetectionInterval, SECOND, HOUR, OutlierPolicy::DEFAULT.interval),
        // 0 ejects nothing, and still reports what would have been ejected.
        Field::percent(
            "maxEjectionPercent",
            Number::MaxEjectionPercent,
            0,
            OutlierPolicy::DEFAULT.max_ejection_percent,
        ),
        Field::time("maxEjectionTime", Number::MaxEjectionTime, 10, DAY, OutlierPolicy::DEFAULT.max_ejection_time),
        Field::whole("probeSuccesses", Number::ProbeSuccesses, 1, 100, OutlierPolicy::DEFAULT.probe_successes),
        Field::section("refused", Number::Refused, &REFUSED),
        Field::section("reset", Number::Reset, &RESET),
        Field::section("timeout", Number::Timeout, &TIMEOUT),
    ],
    complete: false,
    order: Some(Order {
        shorter: (Number::BaseEjectionTime, "baseEjectionTime"),
        longer: (Number::MaxEjectionTime, "maxEjectionTime"),
        unless_zero: &[],
        why: "",
    }),
};

static ERROR: Section = Section::new(&detector(Number::ErrorCount, Number::ErrorPercent, OutlierPolicy::DEFAULT.error));
static REFUSED: Section =
    Section::new(&detector(Number::RefusedCount, Number::RefusedPercent, OutlierPolicy::DEFAULT.refused));
static RESET: Section = Section::new(&detector(Number::ResetCount, Number::ResetPercent, OutlierPolicy::DEFAULT.reset));
static TIMEOUT: Section =
    Section::new(&detector(Number::TimeoutCount, Number::TimeoutPercent, OutlierPolicy::DEFAULT.timeout));

const fn detector(count: Number, percent: Number, default: Detector) -> [Field; 2] {
    [Field::whole("count", count, 1, LENGTH, default.count), Field::percent("percent", percent, 0, default.percent)]
}

static CIRCUIT_BREAKER: Section = Section::new(&[
    Field::time("interval", Number::BreakerInterval, SECOND, HOUR, BreakerPolicy::DEFAULT.interval),
    Field::whole("minRequests", Number::MinRequests, 1, 1_000_000, BreakerPolicy::DEFAULT.min_requests),
    // Workers exchange their records ten times a second.
    Field::time("openTime", Number::OpenTime, 100, HOUR, BreakerPolicy::DEFAULT.open_time),
    Field::percent("percent", Number::BreakerPercent, 1, BreakerPolicy::DEFAULT.percent),
]);

static STEERING: Section = Section::new(&[
    Field::percent("explorePercent", Number::ExplorePercent, 0, Percent::saturating(500)),
    Field { name: "header", kind: Kind::HostsHeader },
    Field::word("via", Number::Via, &["override_host", "stateful_session"]),
]);

static INCIDENTS: Section =
    Section::new(&[Field::time("interval", Number::IncidentInterval, SECOND, HOUR, Duration::from_secs(10))]);

/// The words for [`super::Role`], in its order.
pub(super) const ROLES: &[&str] = &["decide", "watch", "guard"];

/// What `statusCodes` is by default.
pub(super) const STATUSES: [u16; 3] = [502, 503, 504];
/// The words for [`GrpcCode`], in its order.
pub(super) const GRPC_CODES: &[&str] = &[
    GrpcCode::Cancelled.name(),
    GrpcCode::DeadlineExceeded.name(),
    GrpcCode::Internal.name(),
    GrpcCode::Unavailable.name(),
];

impl Section {
    const fn new(fields: &'static [Field]) -> Self {
        Self { fields, complete: false, order: None }
    }
}

impl Field {
    const fn number(name: &'static str, at: Number, unit: Unit, (from, to): (u32, u32), default: u32) -> Self {
        Self { name, kind: Kind::Number { at, unit, from, to, default } }
    }

    const fn whole(name: &'static str, at: Number, from: u32, to: u32, default: u32) -> Self {
        Self::number(name, at, Unit::One, (from, to), default)
    }

    /// A percentage, from `least` percent on.
    const fn percent(name: &'static str, at: Number, least: u32, default: Percent) -> Self {
        Self::number(name, at, Unit::Hundredth, (least * 100, 10_000), default.basis_points())
    }

    const fn time(name: &'static str, at: Number, from: u32, to: u32, default: Duration) -> Self {
        Self::number(name, at, Unit::Millisecond, (from, to), default.as_millis() as u32)
    }

    const fn word(name: &'static str, at: Number, words: &'static [&'static str]) -> Self {
        Self { name, kind: Kind::Word(at, words) }
    }

    /// An object that is on by default.
    const fn section(name: &'static str, at: Number, section: &'static Section) -> Self {
        Self { name, kind: Kind::Section(at, section) }
    }

    const fn other(name: &'static str) -> Self {
        Self { name, kind: Kind::Other }
    }
}
