//! Envoy's response flags.

/// Envoy's response flags as the attribute `response.flags` has them: one bit each, in the order of Envoy's `CoreResponseFlag`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u64);

impl Flags {
    /// No healthy upstream (UH).
    pub const NO_HEALTHY_UPSTREAM: Self = Self(1 << 1);
    /// Request timeout (UT).
    pub const TIMEOUT: Self = Self(1 << 2);
    /// Local reset (LR).
    pub const LOCAL_RESET: Self = Self(1 << 3);
    /// Remote reset of the stream (UR).
    pub const REMOTE_RESET: Self = Self(1 << 4);
    /// Connection failure (UF).
    pub const CONNECTION_FAILURE: Self = Self(1 << 5);
    /// Connection termination (UC).
    pub const CONNECTION_TERMINATION: Self = Self(1 << 6);
    /// Overflow of a circuit breaker (UO).
    pub const OVERFLOW: Self = Self(1 << 7);
    /// Downstream connection termination (DC).
    pub const DOWNSTREAM_TERMINATION: Self = Self(1 << 14);
    /// Retried as often as it may be (URX).
    pub const RETRIES_USED_UP: Self = Self(1 << 15);
    /// Idle timeout (SI).
    pub const IDLE_TIMEOUT: Self = Self(1 << 16);
    /// Downstream protocol error (DPE).
    pub const DOWNSTREAM_PROTOCOL_ERROR: Self = Self(1 << 18);
    /// The upstream's maximal stream duration reached (UMSDR).
    pub const MAX_DURATION: Self = Self(1 << 19);
    /// Upstream protocol error (UPE).
    pub const UPSTREAM_PROTOCOL_ERROR: Self = Self(1 << 23);
    /// Downstream remote reset (DR).
    pub const DOWNSTREAM_RESET: Self = Self(1 << 28);

    /// The connection or the stream broke.
    pub const BROKEN: Self = Self(
        Self::LOCAL_RESET.0 | Self::REMOTE_RESET.0 | Self::CONNECTION_TERMINATION.0 | Self::UPSTREAM_PROTOCOL_ERROR.0,
    );
    /// It did not end by itself.
    pub const CUT: Self = Self(Self::BROKEN.0 | Self::LATE.0);
    pub(super) const LATE: Self = Self(Self::TIMEOUT.0 | Self::IDLE_TIMEOUT.0 | Self::MAX_DURATION.0);
    const CLIENT_GONE: Self =
        Self(Self::DOWNSTREAM_TERMINATION.0 | Self::DOWNSTREAM_RESET.0 | Self::DOWNSTREAM_PROTOCOL_ERROR.0);
    pub(super) const NOT_SENT: Self = Self(Self::OVERFLOW.0 | Self::NO_HEALTHY_UPSTREAM.0);

    /// Whether any of `flags` is set.
    #[must_use]
    pub const fn any(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    /// Whether none is set at all.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the client went away first.
    #[must_use]
    pub const fn client_gone(self) -> bool {
        self.any(Self::CLIENT_GONE)
    }
}
