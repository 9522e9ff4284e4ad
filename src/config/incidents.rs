//! What the `incidents` section says: the time that their patterns are measured by.

use std::time::Duration;

use super::ConfigError;
use super::reader::{HOUR, Reader, SECOND};
use crate::base::time::millis;

/// How incidents are told. They concern what is told, and nothing that is done, so all clusters are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncidentPolicy {
    /// The time that patterns scale with (see [`crate::incident`]), in milliseconds: 1 s to 1 h. Default: 10 s.
    pub interval: u64,
}

impl Default for IncidentPolicy {
    fn default() -> Self {
        Self { interval: 10_000 }
    }
}

impl IncidentPolicy {
    /// Replaces what `section` (not off) says otherwise.
    pub(super) fn overlay(&mut self, section: &Reader<'_>) -> Result<(), ConfigError> {
        section.only(&["interval"])?;
        let mut interval = Duration::from_millis(self.interval);
        section.set_duration("interval", SECOND, HOUR, &mut interval)?;
        self.interval = millis(interval);
        Ok(())
    }
}
