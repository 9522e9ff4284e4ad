//! Why a configuration was refused: where, what was given, and what was expected.

use std::{fmt, mem};

use super::excerpt::quote;
use super::reader::push_all;

/// Why a configuration was refused.
///
/// One line of printable ASCII: the path, the value given where there is one, and what was expected. Safe to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(
    // One word, which a function returns in a register: it saves the module kilobytes.
    Box<Mistake>,
);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mistake {
    /// Where it is, as far as it is known: within which object or list is added from the inside out.
    path: String,
    reason: String,
    in_policy: bool,
}

impl ConfigError {
    #[cold]
    #[inline(never)]
    pub(super) fn new(reason: &[&str]) -> Self {
        let mut mistake = Mistake { path: String::new(), reason: String::new(), in_policy: false };
        push_all(&mut mistake.reason, reason);
        Self(Box::new(mistake))
    }

    /// Whether the role was understood, [`Role::Decide`](super::Role::Decide), and the mistake is in its policy.
    #[must_use]
    pub fn is_in_policy(&self) -> bool {
        self.0.in_policy
    }

    pub(super) fn in_policy(mut self) -> Self {
        self.0.in_policy = true;
        self
    }

    /// The path so far is within this field.
    #[cold]
    #[inline(never)]
    pub(super) fn in_field(self, name: &str) -> Self {
        let plain = name.len() <= 80 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if plain && !name.is_empty() { self.within(&[name]) } else { self.within(&[&quote(name)]) }
    }

    /// The path so far is within this place.
    #[cold]
    #[inline(never)]
    pub(super) fn within(mut self, place: &[&str]) -> Self {
        let inner = mem::take(&mut self.0.path);
        push_all(&mut self.0.path, place);
        let dot = if inner.is_empty() || inner.starts_with('[') { "" } else { "." };
        push_all(&mut self.0.path, &[dot, &inner]);
        self
    }

    /// The mistake is in what may be switched off: if it is that value itself, and not in it, this is said, too.
    #[cold]
    #[inline(never)]
    pub(super) fn of_switch(mut self) -> Self {
        if self.0.path.is_empty() {
            self.0.reason.push_str("; \"off\", false or null switch it off");
        }
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mistake { path, reason, .. } = &*self.0;
        f.write_str(if path.is_empty() { "configuration" } else { path })?;
        f.write_str(": ")?;
        f.write_str(reason)
    }
}

impl std::error::Error for ConfigError {}
