//! How long the machine let this process and its Envoys wait for a processor. What a test says about time is said about Weir, so
//! a limit is extended by the time for which a thread was kept from its work. On a machine with nothing else to do, that is
//! next to nothing.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The other processes whose threads count.
static PROCESSES: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A process takes part in what is measured, from its start to its end.
pub struct Takes(u32);

impl Takes {
    pub fn part(process: u32) -> Self {
        PROCESSES.lock().unwrap_or_else(PoisonError::into_inner).insert(process);
        Self(process)
    }
}

impl Drop for Takes {
    fn drop(&mut self) {
        PROCESSES.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// For how long each thread could have run and did not, since it began: the kernel's own account, where it keeps one.
fn waits() -> HashMap<String, Duration> {
    let mut processes = PROCESSES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    processes.insert(std::process::id());
    let threads =
        processes.iter().filter_map(|process| std::fs::read_dir(format!("/proc/{process}/task")).ok()).flatten();
    let wait = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let waited = text.split(' ').nth(1)?.parse().ok()?;
        Some((thread.file_name().to_string_lossy().into_owned(), Duration::from_nanos(waited)))
    };
    threads.filter_map(|thread| wait(thread.ok()?)).collect()
}

/// By how much a thread that does nothing but sleep woke too late so far: also what no account has, as when the whole machine
/// stands still.
fn overslept() -> Duration {
    const TICK: Duration = Duration::from_millis(5);
    static LATE: AtomicU64 = AtomicU64::new(0);
    static SLEEPER: OnceLock<()> = OnceLock::new();
    SLEEPER.get_or_init(|| {
        std::thread::spawn(|| {
            loop {
                let began = Instant::now();
                std::thread::sleep(TICK);
                let late = began.elapsed().saturating_sub(TICK);
                LATE.fetch_add(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
    });
    Duration::from_micros(LATE.load(Ordering::Relaxed))
}

/// Measures how long something takes, and how much of that the machine was away.
#[derive(Clone, Debug)]
pub struct Watch {
    began: Instant,
    waits: HashMap<String, Duration>,
    overslept: Duration,
}

impl Watch {
    pub fn start() -> Self {
        Self { waits: waits(), overslept: overslept(), began: Instant::now() }
    }

    pub fn read(&self) -> Taken {
        let elapsed = self.began.elapsed();
        let since = |(thread, waited): (String, Duration)| {
            waited.saturating_sub(self.waits.get(&thread).copied().unwrap_or_default())
        };
        let waited = waits().into_iter().map(since).max().unwrap_or_default();
        let delayed = waited.max(overslept() - self.overslept);
        Taken { elapsed, delayed: delayed.min(elapsed) }
    }
}

/// What something took.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// By the clock.
    pub elapsed: Duration,
    /// For so long of it, some thread waited for a processor.
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
        write!(formatter, "{:.3?}, {:.3?} of which some thread waited for a processor", self.elapsed, self.delayed)
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
        std::thread::sleep(left.max(Duration::from_millis(1)));
    }
}
