//! A real Prometheus: Debian's package, or whatever is first in the PATH.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::admin::Admin;
use crate::support::{ports, wait};

const HOW: &str = "install it with: apt-get install -y prometheus (macOS: brew install prometheus)";

/// A Prometheus that scrapes. It ends when this is dropped.
pub struct Prometheus {
    api: Admin,
    child: Child,
    directory: TempDir,
}

impl Prometheus {
    /// With the shipped configuration and rules, but another job: `targets`, scraped each second.
    pub fn start(targets: &[SocketAddr]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut configuration = crate::yaml("prometheus/prometheus.yaml")?;
        for interval in ["scrape_interval", "evaluation_interval"] {
            configuration["global"][interval] = "1s".into();
        }
        configuration["rule_files"] = serde_json::json!([crate::shipped("prometheus/weir-alerts.yaml")]);
        let jobs = configuration["scrape_configs"].as_array_mut().context("no scrape_configs")?;
        jobs.retain(|job| job["job_name"] == "envoy");
        let [job] = jobs.as_mut_slice() else { bail!("no job is called envoy") };
        job["static_configs"][0]["targets"] = targets.iter().map(ToString::to_string).collect();
        let file = directory.path().join("prometheus.yaml");
        std::fs::write(&file, serde_yaml_ng::to_string(&configuration)?)?;

        let address = ports::free();
        let log = File::create(directory.path().join("log"))?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start prometheus; {HOW}"))?;
        let prometheus = Self { api: Admin { address }, child, directory };
        let ready = wait::until(wait::LIMIT, || prometheus.api.get("/-/ready").map_err(|error| error.to_string()));
        match ready {
            Ok(_) => Ok(prometheus),
            Err(reason) => bail!("{reason}\n{}", prometheus.log()),
        }
    }

    /// How many series an instant query finds.
    ///
    /// # Errors
    /// When it is no valid query.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let path = format!("/api/v1/query?query={}", encode(expression));
        let answer = self.api.get(&path).with_context(|| format!("query: {expression}"))?;
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(answer["status"] == "success", "{expression}: {answer}");
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// The rules as Prometheus holds them.
    pub fn rules(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.api.get("/api/v1/rules")?)?)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs `promtool` in a folder.
pub fn promtool(folder: &Path, arguments: &[&str]) -> Result<Output> {
    let run = Command::new("promtool").current_dir(folder).args(arguments).stdin(Stdio::null()).output();
    run.with_context(|| format!("cannot start promtool, which comes with Prometheus; {HOW}"))
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
