//! How long the machine lets this process wait for a processor. What a test says about time is said about Weir, so a limit is
//! extended by the time in which nobody could have done anything. On a machine with nothing else to do, that is next to nothing.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A watch that is looked at this often sees each delay that matters.
const TICK: Duration = Duration::from_millis(5);

/// By how much the threads that do nothing but sleep for a tick woke too late so far, each on its own: microseconds.
fn meters() -> &'static [AtomicU64] {
    static METERS: OnceLock<&'static [AtomicU64]> = OnceLock::new();
    METERS.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let meters: &'static [AtomicU64] = (0..cores).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak();
        for meter in meters {
            std::thread::spawn(move || {
                loop {
                    let began = Instant::now();
                    std::thread::sleep(TICK);
                    let late = began.elapsed().saturating_sub(TICK);
                    meter.fetch_add(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
                }
            });
        }
        meters
    })
}

fn read() -> Vec<u64> {
    meters().iter().map(|meter| meter.load(Ordering::Relaxed)).collect()
}

/// Measures how long something takes, and how much of that the machine was away.
#[derive(Clone, Debug)]
pub struct Watch {
    began: Instant,
    meters: Vec<u64>,
}

impl Watch {
    pub fn start() -> Self {
        Self { meters: read(), began: Instant::now() }
    }

    pub fn read(&self) -> Taken {
        let elapsed = self.began.elapsed();
        let late = read().iter().zip(&self.meters).map(|(now, then)| now - then).max().unwrap_or_default();
        Taken { elapsed, delayed: Duration::from_micros(late).min(elapsed) }
    }
}

/// What something took.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// By the clock.
    pub elapsed: Duration,
    /// For so long of it, this process waited for a processor.
    pub delayed: Duration,
}

impl Taken {
    /// Whether it took no longer than this, but for the delay.
    pub fn is_within(self, limit: Duration) -> bool {
        self.elapsed <= limit + self.delayed
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:.3?}, of which the machine was away for {:.3?}", self.elapsed, self.delayed)
    }
}

/// Sleeps until so much time has passed in which others could do something.
pub fn sleep(time: Duration) {
    let watch = Watch::start();
    loop {
        let taken = watch.read();
        let left = (time + taken.delayed).saturating_sub(taken.elapsed);
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left);
    }
}
