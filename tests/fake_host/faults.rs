//! What can go wrong between the module and its host.

use super::state::{Current, Phase};
use std::rc::Rc;

/// The statuses of the ABI.
pub mod status {
    pub const OK: i32 = 0;
    pub const NOT_FOUND: i32 = 1;
    pub const BAD_ARGUMENT: i32 = 2;
    pub const SERIALIZATION_FAILURE: i32 = 3;
    pub const PARSE_FAILURE: i32 = 4;
    pub const INVALID_MEMORY_ACCESS: i32 = 6;
    pub const CAS_MISMATCH: i32 = 8;
    pub const INTERNAL_FAILURE: i32 = 10;
    /// All that are defined, and some that are not.
    pub const ALL_BUT_OK: [i32; 15] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 99, -1, i32::MIN];
}

/// The functions that the module calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostCall {
    Log,
    GetCurrentTime,
    SetTickPeriod,
    GetBuffer,
    GetProperty,
    SetProperty,
    GetHeaderPairs,
    GetHeader,
    ReplaceHeader,
    RemoveHeader,
    SendLocalResponse,
    SetEffectiveContext,
    ContinueStream,
    DefineMetric,
    IncrementMetric,
    RecordMetric,
    GetSharedData,
    SetSharedData,
}

impl HostCall {
    pub const ALL: [Self; 18] = [
        Self::Log,
        Self::GetCurrentTime,
        Self::SetTickPeriod,
        Self::GetBuffer,
        Self::GetProperty,
        Self::SetProperty,
        Self::GetHeaderPairs,
        Self::GetHeader,
        Self::ReplaceHeader,
        Self::RemoveHeader,
        Self::SendLocalResponse,
        Self::SetEffectiveContext,
        Self::ContinueStream,
        Self::DefineMetric,
        Self::IncrementMetric,
        Self::RecordMetric,
        Self::GetSharedData,
        Self::SetSharedData,
    ];

    /// What Envoy may say to this call as Weir makes it, other than yes (proxy-wasm-cpp-host `src/exports.cc`, Envoy
    /// `source/extensions/common/wasm/context.cc`). The SDK takes anything else for the end of the world, and panics. So only
    /// these are tried, and all that there are with the calls that are made past the SDK (`src/filter/abi/externs.rs`). The others take:
    ///
    /// - `BadArgument`: a header map that is not lent, a metric of no kind, a buffer of no kind. Weir asks for none.
    /// - `NotFound` for `set_property`: no stream. Weir has one.
    /// - `InvalidMemoryAccess`: a pointer out of the module, or an allocation that failed, which traps by itself.
    /// - `InternalFailure`, for each function that `capability_restriction_config` withholds: SECURITY.md lists what not to.
    /// - the rest: another host.
    pub const fn refusals(self) -> &'static [i32] {
        match self {
            Self::GetHeaderPairs | Self::GetProperty | Self::SetProperty | Self::SendLocalResponse => {
                &status::ALL_BUT_OK
            }
            Self::GetBuffer | Self::GetHeader | Self::GetSharedData | Self::RecordMetric => &[status::NOT_FOUND],
            Self::IncrementMetric => &[status::NOT_FOUND, status::BAD_ARGUMENT],
            Self::SetEffectiveContext => &[status::BAD_ARGUMENT],
            Self::SetSharedData => &[status::CAS_MISMATCH],
            Self::Log
            | Self::GetCurrentTime
            | Self::SetTickPeriod
            | Self::ReplaceHeader
            | Self::RemoveHeader
            | Self::ContinueStream
            | Self::DefineMetric => &[],
        }
    }
}

/// One call of the module: what a rule for faults decides by.
#[derive(Clone, Debug)]
pub struct Call {
    pub call: HostCall,
    /// The callback that makes it; `None` outside of all callbacks.
    pub phase: Option<Phase>,
    pub context: u32,
    /// Property path (with dots), header name, metric name or shared-data key; empty for the others.
    pub key: String,
}

impl Call {
    pub fn new(call: HostCall, current: Option<Current>, key: &str) -> Self {
        let (phase, context) = current.map_or((None, 0), |current| (Some(current.phase), current.context));
        Self { call, phase, context, key: key.to_owned() }
    }
}

/// How a call goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, nothing done, nothing returned.
    Status(i32),
    /// Success, and these bytes instead of the value (for calls that return bytes).
    Bytes(Rc<[u8]>),
    /// Success, and no more than this many bytes of the value.
    Truncate(usize),
    /// Success, without writing anything to where the results belong.
    Nothing,
    /// Success, this many bytes claimed, and no address.
    NoAddress(usize),
}

impl Fault {
    pub fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.into())
    }

    /// One mebibyte of text.
    pub fn huge() -> Self {
        Self::Bytes(vec![b'a'; 1 << 20].into())
    }

    /// Bytes that are no text.
    pub fn not_utf8() -> Self {
        Self::bytes(b"\xff\xfe\0\x80\xc3(")
    }
}

/// Faults drawn from a seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `bound`. SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Some fault of a call, for about one in `one_in`.
    pub fn fault(&mut self, call: HostCall, one_in: u64) -> Option<Fault> {
        if self.below(one_in) != 0 {
            return None;
        }
        Some(match self.below(16) {
            0..8 if !call.refusals().is_empty() => Fault::Status(self.pick(call.refusals())),
            0..=8 => Fault::bytes(b""),
            9 => Fault::not_utf8(),
            10 => Fault::huge(),
            11 | 12 => Fault::Truncate(self.below(12) as usize),
            13 => Fault::Nothing,
            14 => Fault::NoAddress(self.below(1 << 20) as usize),
            _ => Fault::Bytes((0..self.below(40)).map(|_| self.below(256) as u8).collect()),
        })
    }
}

/// Decides which calls go wrong.
pub type Rule = Box<dyn FnMut(&Call) -> Option<Fault>>;

#[derive(Default)]
pub struct Faults {
    pub rule: Option<Rule>,
    pub count: u64,
}
