//! Waiting for a condition, with a limit. Nothing here sleeps for a fixed time and hopes.

use std::time::{Duration, Instant};

/// How long a test waits for something that normally takes milliseconds. Generous, since a wait that succeeds costs nothing,
/// and a machine of two cores with other work beside may take a thousand times as long.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Tries `probe` until it succeeds, at most for [`LIMIT`].
pub fn until_ok<T>(mut probe: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    until(LIMIT, || probe().map_err(|error| format!("{error:#}"))).map_err(anyhow::Error::msg)
}

/// Asks `probe` until it answers, at most for `limit`. A probe that says no says why: the last reason is the error.
pub fn until<T>(limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(reason) if Instant::now() >= deadline => return Err(format!("waited {limit:?}: {reason}")),
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
