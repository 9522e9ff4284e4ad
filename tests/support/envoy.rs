//! Starts a real Envoy, waits until it serves, and ends it with the value that stands for it.
//!
//! ```ignore
//! let envoy = Launch::file("envoy/envoy.yaml").concurrency(2).start()?;
//! let attempts = envoy.admin.stats("^wasmcustom[.]weir_attempts_total")?;
//! ```

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::admin::Admin;
use super::delay::Takes;
use super::{ports, wait};

/// The version that `build.sh` downloads and that everything is measured with.
pub const PINNED_VERSION: &str = "1.40.0";

/// The Envoy binary: `WEIR_ENVOY`, else the one that `build.sh` downloaded.
pub fn binary() -> PathBuf {
    std::env::var_os("WEIR_ENVOY")
        .map_or_else(|| target().join("envoy").join(PINNED_VERSION).join("envoy"), PathBuf::from)
}

/// The module: `WEIR_WASM`, else the one that `build.sh` built.
pub fn module() -> PathBuf {
    std::env::var_os("WEIR_WASM").map_or_else(|| target().join("weir.wasm"), PathBuf::from)
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target")
}

/// The version that the Envoy binary says it has, such as `1.40.0`.
pub fn version() -> Result<String> {
    let output = Command::new(binary()).arg("--version").output().with_context(|| missing(&binary()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
    let version = text.split("version:").nth(1).and_then(|rest| rest.split('/').nth(1));
    version.map(str::to_owned).ok_or_else(|| anyhow!("envoy --version said {text:?}"))
}

fn missing(binary: &Path) -> String {
    format!("cannot run Envoy at {}: set WEIR_ENVOY, or let ./build.sh envoy --version download it", binary.display())
}

/// How to start an Envoy.
pub struct Launch {
    config: Config,
    concurrency: u32,
    log_level: String,
    arguments: Vec<String>,
    hot_restart: bool,
}

enum Config {
    File(PathBuf),
    Json(Value),
    Yaml(String),
}

impl Launch {
    /// From a file, as it is shipped. Paths in it are relative to the top of the repository.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(Config::File(path.into()))
    }

    /// From a bootstrap composed here.
    pub fn json(bootstrap: Value) -> Self {
        Self::new(Config::Json(bootstrap))
    }

    /// From the text of a bootstrap.
    pub fn yaml(text: impl Into<String>) -> Self {
        Self::new(Config::Yaml(text.into()))
    }

    fn new(config: Config) -> Self {
        Self { config, concurrency: 1, log_level: "info".to_owned(), arguments: Vec::new(), hot_restart: false }
    }

    /// Number of worker threads; 1 unless told.
    pub fn concurrency(mut self, workers: u32) -> Self {
        self.concurrency = workers;
        self
    }

    /// `info` unless told; also takes `trace`, `debug`, `warn`.
    pub fn log_level(mut self, level: &str) -> Self {
        level.clone_into(&mut self.log_level);
        self
    }

    /// One more command line argument.
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// As the n-th process, from 0, of those that take over from each other; `id` is theirs alone on this machine.
    pub fn hot_restart(mut self, id: u32, epoch: u32) -> Self {
        self.hot_restart = true;
        self.argument("--base-id").argument(id.to_string()).argument("--restart-epoch").argument(epoch.to_string())
    }

    /// Starts Envoy and waits until it accepts requests. Whatever admin address the configuration has is replaced by
    /// a free port.
    ///
    /// # Errors
    /// With the end of Envoy's log, if it ends instead, as it does for a configuration that it refuses.
    pub fn start(self) -> Result<Envoy> {
        let _core = Core::take();
        let mut envoy = self.spawn()?;
        envoy.wait_ready()?;
        Ok(envoy)
    }

    /// Starts Envoy, and does not wait.
    ///
    /// # Errors
    /// If there is no Envoy.
    pub fn spawn(self) -> Result<Envoy> {
        let directory = tempfile::Builder::new().prefix("weir-envoy-").tempdir()?;
        let config = match self.config {
            Config::File(path) => path,
            Config::Json(value) => write(&directory, "envoy.json", &serde_json::to_string_pretty(&value)?)?,
            Config::Yaml(text) => write(&directory, "envoy.yaml", &text)?,
        };
        let admin = ports::free();
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": admin.port()}});
        let log = directory.path().join("envoy.log");
        let output = File::create(&log)?;
        let mut command = Command::new(binary());
        // Hot restart shares memory with other Envoys of this machine, and ends this one with the thread that starts it.
        if !self.hot_restart {
            command.arg("--disable-hot-restart");
        }
        let mut child = command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .arg("--config-path")
            .arg(&config)
            // Merged over the file.
            .arg("--config-yaml")
            .arg(json!({"admin": {"address": address}}).to_string())
            .args(["--concurrency", &self.concurrency.to_string(), "--log-level", &self.log_level])
            // Access logs reach their files soon: the default is ten seconds.
            .args(["--file-flush-interval-msec", "20"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| missing(&binary()))?;
        let watchdog = watch_over(&child).inspect_err(|_| drop(child.kill()))?;
        let takes_part = Takes::part(child.id());
        Ok(Envoy { admin: Admin { address: admin }, child, watchdog, log, directory, _takes_part: takes_part })
    }
}

/// A core for an Envoy that starts. To compile the module keeps one busy; if more started at once than there are cores, each
/// would be ready later, and whatever else is tested meanwhile would wait.
struct Core;

static CORES_TAKEN: Mutex<usize> = Mutex::new(0);
static CORE_FREE: Condvar = Condvar::new();

impl Core {
    fn take() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let taken = CORES_TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = CORE_FREE.wait_while(taken, |taken| *taken >= cores);
        *taken.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        *CORES_TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        CORE_FREE.notify_one();
    }
}

fn write(directory: &TempDir, name: &str, text: &str) -> Result<PathBuf> {
    let path = directory.path().join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

/// Ends Envoy when this process ends without having dropped it (a signal, an abort): the shell's standard input is a
/// pipe whose other end only this process holds.
fn watch_over(envoy: &Child) -> Result<Child> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "read -r _; kill -9 \"$0\"", &envoy.id().to_string()]);
    Ok(shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// A running Envoy. It ends when this is dropped.
pub struct Envoy {
    pub admin: Admin,
    child: Child,
    watchdog: Child,
    log: PathBuf,
    directory: TempDir,
    _takes_part: Takes,
}

impl Envoy {
    /// Process id, for whoever measures it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A directory that lives as long as this Envoy, for its log files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// All that Envoy has logged so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of the log.
    pub fn log_end(&self) -> String {
        tail(&self.log())
    }

    /// Waits for a line of the log that holds all of `parts`, and returns it.
    pub fn wait_for_log(&self, parts: &[&str]) -> Result<String> {
        let found = wait::until(wait::LIMIT, || {
            let log = self.log();
            let line = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
            line.map(str::to_owned).ok_or_else(|| format!("no line of Envoy's log holds {parts:?}:\n{}", tail(&log)))
        });
        found.map_err(anyhow::Error::msg)
    }

    /// Waits until Envoy knows that its connections to a host are gone.
    pub fn wait_for_disconnect(&self, host: SocketAddr) -> Result<()> {
        let line = format!("::{host}::cx_active::");
        let gone = wait::until(wait::LIMIT, || {
            let text = self.admin.get("/clusters").map_err(|error| error.to_string())?;
            let found = text.lines().find_map(|known| known.split_once(&line)).map(|(_, count)| count.to_owned());
            if found.as_deref() == Some("0") { Ok(()) } else { Err(format!("connections to {host}: {found:?}")) }
        });
        gone.map_err(anyhow::Error::msg)
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn wait_ready(&mut self) -> Result<()> {
        let ended = wait::until(wait::LIMIT, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(Some(status)),
            Ok(None) if self.admin.is_ready() => Ok(None),
            Ok(None) => Err("Envoy is not ready".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        match ended {
            Ok(None) => Ok(()),
            Ok(Some(status)) => bail!("Envoy ended ({status}):\n{}", self.log_end()),
            Err(reason) => bail!("{reason}; its log ends:\n{}", self.log_end()),
        }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // First the watchdog, so that it cannot end another process that was given the same id.
        for child in [&mut self.watchdog, &mut self.child] {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The end of a log, without the list of its extensions with which Envoy starts.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("]   ")).collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
