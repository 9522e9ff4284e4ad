//! The sliding window: what was counted within the last interval, in ten slots.
//!
//! A slot is a tenth of the interval; the slots lie on a grid that starts at the Unix epoch, so that windows of different
//! workers have the same slots. The ring holds eleven of them: the one that `now` is in, and the ten before.
//!
//! ```text
//!           now - interval                                   now
//!     oldest     |                                       newest
//!     |----------'--|-------------|-- ... --|-------------|---'
//!     |          |  |<------------- inside ------------------>|   no event that is too old
//!     |          |<-------- the true sliding window --------->|
//!     |<-------------------- around ------------------------->|   every event that is not too old
//! ```
//!
//! The true sliding window is half-open, `(now - interval, now]`: an event leaves it exactly `interval` after it happened.
//! It starts somewhere within the oldest slot, so what it holds lies between what is [`inside`](Window::inside) and what is
//! [`around`](Window::around). A caller that needs a guarantee takes the side that is safe for it; the two differ by one slot.
//!
//! Everything is O(slots), also after an idle week: a gap longer than the window clears it, however long it was.
//!
//! **When time steps back**, the window never ages faster than time passes. Back by no more than the interval, it stands
//! still until time has caught up. Back by more, it could stand still for an hour: the slots move to the new time and keep
//! their counts. A jump ahead cannot be told from a gap, and is one.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::base::bytes::{Reader, Writer};
use crate::base::time::{Time, nanos};

/// The number of slots in an interval.
pub const SLOTS: usize = 10;
/// The slot that is under way, and the slots of the interval before it.
const RING: usize = SLOTS + 1;

/// A sliding window of counts; `S` is what is counted in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window<S = u32> {
    /// The length of a slot in nanoseconds.
    slot: NonZeroU64,
    /// The number of the newest slot, counted from the epoch.
    newest: u64,
    /// The slots, the newest first.
    slots: [S; RING],
}

/// Where to put the events of a slot of which only the slot is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The events go to its first moment: they leave the window too early rather than too late.
    Start,
    /// The events go to its last moment: they leave the window too late rather than too early.
    End,
}

impl<S: Default> Window<S> {
    /// An empty window over `interval`, rounded down to ten nanoseconds, and at least that.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        let slot = nanos(interval) / SLOTS as u64;
        Self { slot: NonZeroU64::new(slot).unwrap_or(NonZeroU64::MIN), newest: 0, slots: Default::default() }
    }

    /// The interval that the window covers.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(self.slot.get().saturating_mul(SLOTS as u64))
    }

    /// The slot that `now` is in, to count in.
    pub fn current(&mut self, now: Time) -> &mut S {
        self.advance(now);
        let [newest, ..] = &mut self.slots;
        newest
    }

    /// Lets time pass, or step back. A window in which nothing is counted must still be advanced before it is read: it notices
    /// a step back here only.
    pub fn advance(&mut self, now: Time) {
        let slot = now.as_nanos() / self.slot;
        if slot != self.newest {
            self.move_to(slot);
        }
    }

    /// The end of the slot that `now` is in.
    #[must_use]
    pub fn slot_ends(&self, now: Time) -> Time {
        let slot = (now.as_nanos() / self.slot).saturating_add(1);
        Time::from_nanos(slot.saturating_mul(self.slot.get()))
    }

    /// The slots that are within the last interval as a whole, the newest first.
    pub fn inside(&self, now: Time) -> impl Iterator<Item = &S> {
        self.slots.iter().take(SLOTS.saturating_sub(self.age(now)))
    }

    /// The slots that are within the last interval at least in part, the newest first.
    pub fn around(&self, now: Time) -> impl Iterator<Item = &S> {
        self.slots.iter().take(RING.saturating_sub(self.age(now)))
    }

    /// The slots that were over at `moment`, the newest first; at most an interval of them. The window must have been
    /// [advanced](Self::advance).
    pub fn over_by(&self, moment: Time) -> impl Iterator<Item = &S> {
        let current = moment.as_nanos() / self.slot;
        let later = usize::try_from(self.newest.saturating_add(1).saturating_sub(current)).unwrap_or(usize::MAX);
        self.slots.iter().skip(later).take(SLOTS)
    }

    /// The number of slots since the newest.
    fn age(&self, now: Time) -> usize {
        let age = (now.as_nanos() / self.slot).saturating_sub(self.newest);
        usize::try_from(age).unwrap_or(usize::MAX)
    }

    fn move_to(&mut self, slot: u64) {
        if slot > self.newest {
            let passed = usize::try_from(slot - self.newest).map_or(RING, |passed| passed.min(RING));
            for place in (0..RING).rev() {
                let newer = place.checked_sub(passed).and_then(|newer| self.slots.get_mut(newer)).map(std::mem::take);
                if let Some(slot) = self.slots.get_mut(place) {
                    *slot = newer.unwrap_or_default();
                }
            }
            self.newest = slot;
        } else if self.newest - slot > SLOTS as u64 {
            // The next slot, not this one, of which a part may have passed: the counts would age by that part.
            self.newest = slot.saturating_add(1);
        }
    }
}

impl Window {
    /// Counts `events` that happen now. A slot holds at most `u32::MAX`.
    pub fn add(&mut self, now: Time, events: u32) {
        let slot = self.current(now);
        *slot = slot.saturating_add(events);
    }

    /// The least number of events that the last interval can have held: those [`inside`](Self::inside).
    #[must_use]
    pub fn at_least(&self, now: Time) -> u64 {
        self.inside(now).map(|&count| u64::from(count)).sum()
    }

    /// The largest number of events that the last interval can have held: those [`around`](Self::around).
    #[must_use]
    pub fn at_most(&self, now: Time) -> u64 {
        self.around(now).map(|&count| u64::from(count)).sum()
    }

    /// Whether nothing is counted in any slot, old ones included.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(|&count| count == 0)
    }

    /// Counts `events` that happened at an earlier `moment`. Events that are too old are dropped, and events that seem to be in
    /// the future are counted now.
    pub fn add_at(&mut self, moment: Time, events: u32, now: Time) {
        self.advance(now);
        let age = self.newest.saturating_sub(moment.as_nanos() / self.slot);
        if let Some(slot) = self.slots.get_mut(usize::try_from(age).unwrap_or(usize::MAX)) {
            *slot = slot.saturating_add(events);
        }
    }

    /// Adds what `other` counted to the slots of the same time. If its slots have another length, `edge` says where their
    /// events go.
    pub fn merge(&mut self, other: &Self, edge: Edge, now: Time) {
        for (age, &events) in (0..).zip(&other.slots) {
            let start = other.newest.saturating_sub(age).saturating_mul(other.slot.get());
            let moment = match edge {
                Edge::Start => start,
                Edge::End => start.saturating_add(other.slot.get() - 1),
            };
            self.add_at(Time::from_nanos(moment), events, now);
        }
    }

    /// The counts of this window in one over `interval`; unchanged if that is the interval of this window.
    #[must_use]
    pub fn with_interval(self, interval: Duration, edge: Edge, now: Time) -> Self {
        let mut window = Self::new(interval);
        if window.slot == self.slot {
            return self;
        }
        window.merge(&self, edge, now);
        window
    }

    /// The number of bytes of an encoded window.
    pub const ENCODED_BYTES: usize = 8 + 8 + 4 * RING;

    /// Writes the window: the length of a slot in nanoseconds and the number of the newest slot (u64), then the counts, the
    /// newest first (u32).
    pub fn encode(&self, record: &mut Writer<'_>) {
        record.u64s([self.slot.get(), self.newest]);
        self.slots.iter().for_each(|count| record.u32(*count));
    }

    /// Reads a window. `None` if there are too few bytes, or the slots have no length. Any other bytes make a window that is
    /// safe to use: nothing overflows, and what it counted leaves it in time.
    pub fn decode(record: &mut Reader<'_>) -> Option<Self> {
        let (slot, newest) = (NonZeroU64::new(record.u64()?)?, record.u64()?);
        let mut slots = [0; RING];
        for count in &mut slots {
            *count = record.u32()?;
        }
        Some(Self { slot, newest, slots })
    }
}
