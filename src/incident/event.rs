//! What is reported of an incident, and its line in the log.

use super::Milliseconds;
use super::pattern::{Key, Pattern};
use crate::base::text::printable;

/// How far an incident got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The pattern shows for the first time.
    Open,
    /// The incident goes on.
    Update,
    /// The incident is over.
    Over,
}

/// An incident that opens, goes on, or is over: something to report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether the incident opens, goes on or is over.
    pub state: State,
    /// What happened.
    pub pattern: Pattern,
    /// The host it happened to; `None` for the whole cluster.
    pub host: Option<Box<str>>,
    /// The number of incidents of this pattern that are open now.
    pub open: u64,
    /// The evidence, by the [keys](Pattern::keys) of the pattern.
    pub numbers: Vec<u64>,
}

impl Event {
    pub(super) fn new(state: State, pattern: Pattern, host: Option<&str>, numbers: &[u64]) -> Self {
        Self { state, pattern, host: host.map(Into::into), open: 0, numbers: numbers.into() }
    }

    /// The evidence: keys and numbers. The last one, how long the incident lasted, is left out when it has just opened.
    pub fn evidence(&self) -> impl Iterator<Item = (Key, u64)> {
        let keys = self.pattern.keys();
        let shown = if self.state == State::Open { keys.len().saturating_sub(1) } else { keys.len() };
        keys.iter().zip(&self.numbers).take(shown).map(|(key, number)| (*key, *number))
    }

    /// The line for the log: `state=open pattern=restart cluster="orders" host="10.0.3.7:8080" … look_at="…"`.
    #[must_use]
    pub fn line(&self, cluster: &str) -> String {
        let state = match self.state {
            State::Open => "open",
            State::Update => "update",
            State::Over => "over",
        };
        let mut line = String::new();
        append(&mut line, &["weir: incident state=", state, " pattern=", self.pattern.name()]);
        append(
            &mut line,
            &[" cluster=\"", &printable(cluster), "\" host=\"", self.host.as_deref().unwrap_or("*"), "\""],
        );
        for ((key, is_time), number) in self.evidence() {
            append(&mut line, &[" ", key, "="]);
            if is_time { append_time(&mut line, number) } else { append_number(&mut line, number) }
        }
        append(&mut line, &[" look_at=\"", self.pattern.advice(), "\""]);
        line
    }
}

fn append(text: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| text.push_str(part));
}

fn append_number(text: &mut String, number: u64) {
    append(text, &[&number.to_string()]);
}

/// Appends a time in seconds, with three digits.
fn append_time(text: &mut String, time: Milliseconds) {
    append_number(text, time / 1_000);
    append(text, &["."]);
    [time / 100 % 10, time / 10 % 10, time % 10].iter().for_each(|digit| append_number(text, *digit));
    append(text, &["s"]);
}
