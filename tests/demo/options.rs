//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const HELP: &str = "\
Shows what Weir does for clients of four replicas that crash-loop, behind a real Envoy.

usage: ./build.sh demo [--seconds N] [--rate N] [--seed N] [--json FILE] [--html FILE]

  --seconds N   length of each of the four runs; default 20, at most 600
  --rate N      requests per second, whatever becomes of them; default 250, at most 5000
  --seed N      which crashes and which requests; default 1
  --json FILE   write the numbers of the table, and more, to FILE
  --html FILE   where to put the page that shows it; default target/demo.html

Ends with 0 if Weir helped, with 1 if it did not, with 2 if the demo could not run.";

#[derive(Clone, Debug)]
pub struct Options {
    pub seconds: u64,
    pub rate: u64,
    pub seed: u64,
    pub json: Option<PathBuf>,
    pub html: PathBuf,
}

impl Options {
    /// `None` if the arguments only ask for help, which is then printed.
    pub fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut options = Self { seconds: 20, rate: 250, seed: 1, json: None, html: "target/demo.html".into() };
        while let Some(flag) = arguments.next() {
            match flag.as_str() {
                "--seconds" => options.seconds = number(&flag, arguments.next())?,
                "--rate" => options.rate = number(&flag, arguments.next())?,
                "--seed" => options.seed = number(&flag, arguments.next())?,
                "--json" => options.json = Some(arguments.next().context("--json wants a file")?.into()),
                "--html" => options.html = arguments.next().context("--html wants a file")?.into(),
                "--help" | "-h" | "help" => {
                    println!("{HELP}");
                    return Ok(None);
                }
                _ => bail!("unknown argument {flag:?}\n\n{HELP}"),
            }
        }
        ensure!((1..=600).contains(&options.seconds), "--seconds: want 1 to 600, got {}", options.seconds);
        ensure!((1..=5000).contains(&options.rate), "--rate: want 1 to 5000, got {}", options.rate);
        Ok(Some(options))
    }

    /// What to type to repeat it.
    pub fn command(&self) -> String {
        format!("./build.sh demo --seconds {} --rate {} --seed {}", self.seconds, self.rate, self.seed)
    }

    /// How long the load lasts in each run.
    pub fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn number(flag: &str, value: Option<String>) -> Result<u64> {
    let value = value.with_context(|| format!("{flag} wants a number"))?;
    value.parse().with_context(|| format!("{flag}: want a number, got {value:?}"))
}
