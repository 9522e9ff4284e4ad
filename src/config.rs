//! stub
#![allow(missing_docs)]
use crate::percent::Percent;
use std::time::Duration;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Decide,
    Watch,
    Guard,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    Shadow,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlreadyRetried {
    Unprocessed,
    Any,
    None,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerTryTimeout {
    Fixed(Duration),
    Adaptive { quantile: Percent, factor_percent: u32, min: Duration, max: Duration },
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcCode {
    Unavailable,
}
impl GrpcCode {
    pub fn code(self) -> u32 {
        14
    }
    pub fn name(self) -> &'static str {
        "unavailable"
    }
}
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    pub max_retries: u32,
    pub idempotent_methods: Vec<String>,
    pub idempotency_key_headers: Vec<String>,
    pub status_codes: Vec<u16>,
    pub grpc_status_codes: Vec<GrpcCode>,
    pub per_try_timeout: Option<PerTryTimeout>,
    pub already_retried: AlreadyRetried,
}
#[derive(Clone, Debug)]
pub struct ClusterPolicy {
    pub retry: Option<RetryPolicy>,
}
#[derive(Clone, Debug)]
pub struct Policy {
    pub mode: Mode,
    pub d: ClusterPolicy,
}
impl Default for Policy {
    fn default() -> Self {
        Policy {
            mode: Mode::Enforce,
            d: ClusterPolicy {
                retry: Some(RetryPolicy {
                    max_retries: 2,
                    idempotent_methods: ["GET", "HEAD", "PUT", "DELETE"].map(String::from).to_vec(),
                    idempotency_key_headers: vec!["idempotency-key".into()],
                    status_codes: vec![502, 503, 504],
                    grpc_status_codes: vec![],
                    per_try_timeout: None,
                    already_retried: AlreadyRetried::Unprocessed,
                }),
            },
        }
    }
}
impl Policy {
    pub fn index_for(&self, _c: &str) -> usize {
        0
    }
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterPolicy> {
        std::iter::once(&self.d)
    }
}
pub struct Config {
    pub role: Role,
    pub policy: Option<Policy>,
}
pub fn parse(b: &[u8]) -> Result<Config, String> {
    let s = std::str::from_utf8(b).unwrap_or("");
    if s.contains("watch") {
        Ok(Config { role: Role::Watch, policy: None })
    } else if s.contains("guard") {
        Ok(Config { role: Role::Guard, policy: None })
    } else if s.contains("bad") {
        Err("bad".into())
    } else {
        Ok(Config { role: Role::Decide, policy: Some(Policy::default()) })
    }
}
