//! Requests from h2load (of nghttp2), which speaks HTTP/1.1 and HTTP/2, and what they cost Envoy.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::upstream::LARGE;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub http2: bool,
    /// A large body each way, streamed.
    pub large: bool,
}

impl Shape {
    pub const ALL: [Self; 4] = [
        Self { http2: false, large: false },
        Self { http2: true, large: false },
        Self { http2: false, large: true },
        Self { http2: true, large: true },
    ];

    pub fn name(self) -> String {
        let protocol = if self.http2 { "HTTP/2" } else { "HTTP/1.1" };
        if self.large {
            format!("{protocol}, POST with {} KiB each way", LARGE / 1024)
        } else {
            format!("{protocol}, GET")
        }
    }

    pub fn path(self) -> &'static str {
        match (self.http2, self.large) {
            (false, false) => "/h1/small",
            (false, true) => "/h1/large",
            (true, false) => "/h2/small",
            (true, true) => "/h2/large",
        }
    }
}

/// What to send it with.
pub struct Load<'a> {
    pub port: u16,
    pub shape: Shape,
    pub requests: u32,
    /// Requests per second; `None` is as many as possible.
    pub rate: Option<u32>,
    /// A file with a URI per line, instead of the shape's one.
    pub uris: Option<&'a Path>,
    /// A header that each request bears besides.
    pub header: Option<&'a str>,
}

pub struct Outcome {
    /// CPU time of the whole process, in microseconds per request.
    pub cpu: f64,
    /// Requests per second.
    pub throughput: f64,
    /// In microseconds; only of loads with a rate.
    pub latencies: Vec<f64>,
}

/// How many requests are under way at a time.
const CONCURRENT: u32 = 16;

impl Load<'_> {
    /// Sends them all, and fails if one does.
    pub fn run(&self, envoy: u32, directory: &Path) -> Result<Outcome> {
        let (connections, streams) = if self.shape.http2 { (CONCURRENT / 4, 4) } else { (CONCURRENT, 1) };
        let log = directory.join("h2load.log");
        let mut command = Command::new("h2load");
        command.args(["-t1", "-c", &connections.to_string(), "-m", &streams.to_string()]);
        command.args(["-n", &self.requests.to_string()]);
        if !self.shape.http2 {
            command.arg("--h1");
        }
        if self.shape.large {
            let body = directory.join("body");
            if !body.exists() {
                std::fs::write(&body, vec![b'.'; LARGE])?;
            }
            command.arg("-d").arg(body);
        }
        if let Some(rate) = self.rate {
            let _ = std::fs::remove_file(&log);
            command.args(["--rps", &(rate / connections).to_string(), "--log-file"]).arg(&log);
        }
        if let Some(header) = self.header {
            command.args(["-H", header]);
        }
        let base = format!("http://127.0.0.1:{}", self.port);
        match self.uris {
            Some(file) => command.args(["-B", &base, "-i"]).arg(file),
            None => command.arg(format!("{base}{}", self.shape.path())),
        };
        let before = cpu_nanos(envoy)?;
        let output = command.output().context("cannot run h2load")?;
        let after = cpu_nanos(envoy)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let succeeded = format!("{} succeeded, 0 failed, 0 errored", self.requests);
        let ok = format!("{} 2xx", self.requests);
        ensure!(
            text.contains(&succeeded) && text.contains(&ok),
            "not all of the requests to port {} were answered:\n{text}",
            self.port
        );
        let throughput = text
            .lines()
            .find_map(|line| line.strip_prefix("finished in ")?.split(", ").nth(1)?.split(' ').next()?.parse().ok())
            .context("h2load does not say how fast it was")?;
        let latencies = if self.rate.is_some() {
            let log = std::fs::read_to_string(&log)?;
            log.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect()
        } else {
            Vec::new()
        };
        Ok(Outcome { cpu: (after - before) as f64 / 1_000.0 / f64::from(self.requests), throughput, latencies })
    }
}

/// The CPU time of all threads of a process so far, in nanoseconds: what the scheduler counted, which is exact however busy
/// the machine is with other things.
pub fn cpu_nanos(process: u32) -> Result<u64> {
    let mut nanos = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task")).context("CPU times are read from /proc")? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        nanos += text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(nanos)
}

/// Megabytes of memory that a process has.
pub fn resident_megabytes(process: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
