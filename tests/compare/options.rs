//! The command line.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
Compares Weir with the retries of Envoy and Istio, in real Envoys. Under five minutes for all.

usage: ./build.sh compare [outage] [herd] [safety] [recovery] [--seed N] [--json FILE]

  outage        every host refuses, then resets, then answers 503: attempts per request
  herd          1,000 requests fail in the same millisecond: retries that reach the upstream
  safety        10,000 POSTs through a reset storm: requests processed twice
  recovery      after ten seconds of overload: how long until the requests are answered again
  --seed N      which requests the reset storm hits; default 1
  --json FILE   write all numbers to FILE

Ends with 0 if Weir kept what it promises, with 1 if not, with 2 if something could not run.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Outage,
    Herd,
    Safety,
    Recovery,
}

impl Comparison {
    const ALL: [Self; 4] = [Self::Outage, Self::Herd, Self::Safety, Self::Recovery];

    pub fn name(self) -> &'static str {
        match self {
            Self::Outage => "outage",
            Self::Herd => "herd",
            Self::Safety => "safety",
            Self::Recovery => "recovery",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    pub comparisons: Vec<Comparison>,
    pub seed: u64,
    pub json: Option<PathBuf>,
    arguments: Vec<String>,
}

impl Options {
    /// `None` if the arguments only ask for help, which is then printed.
    pub fn from_arguments(arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let arguments: Vec<String> = arguments.collect();
        let mut options = Self { comparisons: Vec::new(), seed: 1, json: None, arguments: arguments.clone() };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--seed" => {
                    let value = arguments.next().context("--seed wants a number")?;
                    options.seed = value.parse().with_context(|| format!("--seed: want a number, got {value:?}"))?;
                }
                "--json" => options.json = Some(arguments.next().context("--json wants a file")?.into()),
                "--help" | "-h" | "help" => {
                    println!("{HELP}");
                    return Ok(None);
                }
                name => match Comparison::ALL.into_iter().find(|comparison| comparison.name() == name) {
                    Some(comparison) => options.comparisons.push(comparison),
                    None => bail!("unknown argument {name:?}\n\n{HELP}"),
                },
            }
        }
        if options.comparisons.is_empty() {
            options.comparisons.extend(Comparison::ALL);
        }
        Ok(Some(options))
    }

    /// What to type to repeat it.
    pub fn command(&self) -> String {
        [vec!["./build.sh compare".to_owned()], self.arguments.clone()].concat().join(" ")
    }
}
