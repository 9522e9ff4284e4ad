//! A share of a whole, in integers.
//!
//! Ratios are kept in basis points (hundredths of a percent), never as floating point: they compare exactly, are never
//! NaN, and 0.3, 30, 60 and 75 percent mean what they say.

/// A percentage between 0 and 100, to a hundredth of a percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u32);

impl Percent {
    /// The whole.
    pub const MAX: Self = Self(10_000);

    /// The percentage of a number of basis points (hundredths of a percent), 0 to 10,000. `None` above.
    #[must_use]
    pub const fn from_basis_points(basis_points: u32) -> Option<Self> {
        if basis_points <= Self::MAX.0 { Some(Self(basis_points)) } else { None }
    }

    /// As [`Self::from_basis_points`], and the whole above.
    #[must_use]
    pub const fn saturating(basis_points: u32) -> Self {
        if basis_points < Self::MAX.0 { Self(basis_points) } else { Self::MAX }
    }

    /// The percentage in basis points, 0 to 10,000.
    #[must_use]
    pub const fn basis_points(self) -> u32 {
        self.0
    }

    /// The percentage that is missing to the whole.
    #[must_use]
    pub const fn rest(self) -> Self {
        Self(Self::MAX.0 - self.0)
    }

    /// This percentage of `whole`, rounded down.
    #[must_use]
    pub const fn of(self, whole: u64) -> u64 {
        // In two parts, neither of which can overflow: exact, and without division of 128 bits.
        let (all, share) = (Self::MAX.0 as u64, self.0 as u64);
        whole / all * share + whole % all * share / all
    }
}
