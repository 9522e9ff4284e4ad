//! The sliding window against one that keeps every time stamp; time.

mod fake_host;
mod property;

use std::time::Duration;

use property::{Digits, for_all};
use weir::base::bytes::{Reader, Writer};
use weir::base::time::{Clock, Time};
use weir::base::window::{Edge, SLOTS, Window};

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const INTERVAL: Duration = Duration::from_secs(10);
const SLOT: u64 = INTERVAL.as_nanos() as u64 / SLOTS as u64;
/// Some day in 2026, at the start of a slot.
const START: u64 = 1_770_000_000_000_000_000;
const WEEK: u64 = 7 * 24 * 3_600 * 1_000_000_000;

fn at(after_start: u64) -> Time {
    Time::from_nanos(START + after_start)
}

fn held(window: &Window, now: Time) -> (u64, u64) {
    (window.at_least(now), window.at_most(now))
}

/// Every event, with its time.
#[derive(Default)]
struct Naive(Vec<(u64, u32)>);

impl Naive {
    /// Events in `(now - interval, now]`.
    fn within(&self, now: u64, interval: u64) -> u64 {
        self.0.iter().filter(|(time, _)| time + interval > now).map(|(_, events)| u64::from(*events)).sum()
    }
}

#[test]
fn holds_what_the_interval_held_to_a_slot() {
    for_all(2_000, 60, |numbers| {
        let (mut window, mut naive, mut now) = (Window::new(INTERVAL), Naive::default(), START);
        for &number in numbers {
            let mut digits = Digits(number);
            now += digits.gap(SLOT);
            let events = digits.below(4) as u32;
            window.add(Time::from_nanos(now), events);
            naive.0.push((now, events));

            now += digits.gap(SLOT);
            let (at_least, at_most) = held(&window, Time::from_nanos(now));
            let interval = INTERVAL.as_nanos() as u64;
            assert!(at_least <= naive.within(now, interval), "counts what is too old");
            assert!(at_most >= naive.within(now, interval), "misses what is not too old");
            assert!(at_least >= naive.within(now, interval - SLOT), "forgets more than a slot too soon");
            assert!(at_most <= naive.within(now, interval + SLOT), "forgets more than a slot too late");
        }
    });
}

#[test]
fn an_event_leaves_at_the_boundary() {
    let mut window = Window::new(INTERVAL);
    window.add(at(0), 1);
    assert_eq!(held(&window, at(0)), (1, 1));
    assert_eq!(held(&window, at(10 * SLOT - 1)), (1, 1));
    // Exactly an interval old: outside of the true window, in a slot that is still there.
    assert_eq!(held(&window, at(10 * SLOT)), (0, 1));
    assert_eq!(held(&window, at(11 * SLOT - 1)), (0, 1));
    assert_eq!(held(&window, at(11 * SLOT)), (0, 0));
}

#[test]
fn an_idle_week_and_the_end_of_time_are_gaps_like_others() {
    let mut window = Window::new(INTERVAL);
    window.add(at(0), 7);
    assert_eq!(held(&window, at(WEEK)), (0, 0));
    window.add(at(WEEK), 1);
    assert_eq!(held(&window, at(WEEK)), (1, 1));
    window.add(Time::from_nanos(u64::MAX), 2);
    assert_eq!(held(&window, Time::from_nanos(u64::MAX)), (2, 2));
}

#[test]
fn stands_still_while_time_is_back_a_little() {
    let mut window = Window::new(INTERVAL);
    window.add(at(10 * SLOT), 1);
    for back in [9 * SLOT, 5 * SLOT, 0] {
        window.add(at(back), 1);
        assert_eq!(window.at_least(at(back)), window.at_most(at(19 * SLOT)), "all in the newest slot");
    }
    assert_eq!(held(&window, at(20 * SLOT)), (0, 4));
}

#[test]
fn moves_back_with_its_counts_when_time_is_back_a_lot() {
    let mut window = Window::new(INTERVAL);
    let hour = 360 * SLOT;
    window.add(at(hour), 1);
    window.add(at(hour + 5 * SLOT), 2);
    // Not an instant is lost, also if the new time is at the end of its slot.
    for now in [SLOT - 1, SLOT] {
        window.current(at(now));
        assert_eq!(held(&window, at(now)), (3, 3));
    }
    // The five slots between them stay between them, and all is gone soon, not in an hour.
    assert_eq!(held(&window, at(6 * SLOT)), (2, 3));
    assert_eq!(held(&window, at(12 * SLOT)), (0, 0));
}

#[test]
fn merges_slot_by_slot() {
    for_all(500, 40, |numbers| {
        let (mut one, mut two, mut both) = (Window::new(INTERVAL), Window::new(INTERVAL), Window::new(INTERVAL));
        let mut now = START;
        for &number in numbers {
            let mut digits = Digits(number);
            now += digits.gap(SLOT);
            let time = Time::from_nanos(now);
            both.add(time, 1);
            if digits.below(2) == 0 { one.add(time, 1) } else { two.add(time, 1) }
        }
        let now = Time::from_nanos(now);
        one.merge(&two, Edge::Start, now);
        both.current(now);
        assert_eq!(one, both);
    });
}

#[test]
fn another_interval_rounds_to_the_chosen_edge() {
    let intervals = [1, 3, 10, 60, 3_600].map(Duration::from_secs);
    for_all(1_000, 30, |numbers| {
        let mut digits = Digits(numbers[0]);
        let (from, to) = (digits.pick(&intervals), digits.pick(&intervals));
        let (mut window, mut naive, mut now) = (Window::new(from), Naive::default(), START);
        for &number in &numbers[1..] {
            now += Digits(number).gap(from.as_nanos() as u64 / 10);
            window.add(Time::from_nanos(now), 1);
            naive.0.push((now, 1));
        }
        let time = Time::from_nanos(now);
        let (early, late) =
            (window.clone().with_interval(to, Edge::Start, time), window.clone().with_interval(to, Edge::End, time));
        now += Digits(numbers[0]).gap(to.as_nanos() as u64 / 10);
        let time = Time::from_nanos(now);
        assert_eq!(early.interval(), to);
        assert!(early.at_least(time) <= naive.within(now, to.as_nanos() as u64));
        // What the old window forgot is gone.
        assert!(late.at_most(time) >= naive.within(now, from.min(to).as_nanos() as u64));
    });
}

#[test]
fn any_bytes_make_a_window_that_is_safe_to_use() {
    for_all(500, 12, |numbers| {
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        if numbers[0] % 2 == 0 {
            bytes.resize(Window::ENCODED_BYTES, 0xff);
        }
        let Some(mut window) = Window::decode(&mut Reader::from(&bytes[..])) else { return };
        for now in [0, START, START + WEEK, u64::MAX, START] {
            let now = Time::from_nanos(now);
            window.add(now, u32::MAX);
            assert!(window.at_least(now) >= u64::from(u32::MAX) && window.at_most(now) >= window.at_least(now));
            let other = window.clone().with_interval(INTERVAL, Edge::End, now);
            window.merge(&other, Edge::Start, now);
        }
    });
}

#[test]
fn bytes_are_read_back() {
    let mut window = Window::new(INTERVAL);
    (0..15).for_each(|slot| window.add(at(slot * SLOT), slot as u32));
    let mut bytes = Vec::new();
    window.encode(&mut Writer::from(&mut bytes));
    assert_eq!(bytes.len(), Window::ENCODED_BYTES);
    assert_eq!(Window::decode(&mut Reader::from(&bytes[..])), Some(window));
    assert_eq!(Window::decode(&mut Reader::from(&bytes[1..])), None, "too few");
    bytes[..8].fill(0);
    assert_eq!(Window::decode(&mut Reader::from(&bytes[..])), None, "slots without length");
}

#[test]
fn any_interval_is_safe() {
    for interval in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let mut window = Window::new(interval);
        for now in [0, 1, START, u64::MAX] {
            window.add(Time::from_nanos(now), 1);
            assert!(window.at_least(Time::from_nanos(now)) >= 1);
        }
    }
}

#[test]
fn the_clock_never_goes_back_nor_stands_still() {
    let mut clock = Clock::default();
    assert_eq!(clock.read(START), at(0), "the first reading is taken as it is");
    assert_eq!(clock.read(START + 5), at(5));
    let hour = 3_600_000_000_000;
    assert_eq!(clock.read(START + 5 - hour), at(5), "back an hour");
    assert_eq!(clock.read(START + 8 - hour), at(8), "and on from there");
    assert_eq!(clock.read(START + 8), at(8 + hour), "a step ahead is believed");
    assert_eq!(clock.read(u64::MAX), Time::from_nanos(u64::MAX), "saturated, not wrapped");
    assert_eq!(clock.read(0), Time::from_nanos(u64::MAX));
}
