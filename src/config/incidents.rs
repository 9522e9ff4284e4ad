//! What the `incidents` section says: the time that their patterns are measured by.

/// How incidents are told. They concern what is told, and nothing that is done, so all clusters are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncidentPolicy {
    /// The time that patterns scale with (see [`crate::incident`]), in milliseconds: 1 s to 1 h. Default: 10 s.
    pub interval: u64,
}
