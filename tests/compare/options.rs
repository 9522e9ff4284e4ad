//! The command line.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};

use super::crash_loops::schedule::Outage;
use super::incident::Setting;

const HELP: &str = "\
Compares Weir with the retries of Envoy and Istio, in real Envoys. Some five minutes for all.

usage: ./build.sh compare [outage] [herd] [safety] [recovery] [chain] [incident]
                          [--seed N] [--json FILE] [incident's]
       ./build.sh compare harm ...

  outage        every host refuses, then resets, then answers 503: attempts per request
  herd          1,000 requests fail in the same millisecond: retries that reach the upstream
  safety        10,000 POSTs through a reset storm: requests processed twice
  recovery      after ten seconds of overload: how long until the requests are answered again
  chain         Envoys one behind the other, each of which retries: attempts at the last upstream
  incident      replicas crash-loop: what clients get through, and what it costs
  harm          ordinary situations: is a service worse off with Weir? (by itself; has its own --help)
  --seed N      which requests the reset storm hits, when replicas crash; default 1
  --json FILE   write all numbers to FILE

For the incident alone:

  --rate N      requests a second under each policy; default 250, at most 5000
  --replicas N  default 4, from 2 to 50
  --workers N   of each Envoy; default 2, at most 16
  --seconds N   how long replicas crash; default 20, at most 600
  --hang        they hang where they would refuse connections
  --stall       they hang in place of the resets as well
  --collect     they refuse, and stop once a second before each crash, for longer and longer
  --weir JSON   Weir's configuration, instead of its defaults
  --svg FILE    draw it
  --logs DIR    leave each Envoy's log of attempts there

Ends with 0 if Weir kept what it promises, with 1 if not, with 2 if something could not run.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Outage,
    Herd,
    Safety,
    Recovery,
    Chain,
    Incident,
}

impl Comparison {
    const ALL: [Self; 6] = [Self::Outage, Self::Herd, Self::Safety, Self::Recovery, Self::Chain, Self::Incident];

    pub fn name(self) -> &'static str {
        match self {
            Self::Outage => "outage",
            Self::Herd => "herd",
            Self::Safety => "safety",
            Self::Recovery => "recovery",
            Self::Chain => "chain",
            Self::Incident => "incident",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    pub comparisons: Vec<Comparison>,
    pub seed: u64,
    pub incident: Setting,
    pub json: Option<PathBuf>,
    arguments: Vec<String>,
}

impl Options {
    /// `None` if the arguments only ask for help, which is then printed.
    pub fn from_arguments(arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let arguments: Vec<String> = arguments.collect();
        let mut options = Self {
            comparisons: Vec::new(),
            seed: 1,
            incident: Setting::default(),
            json: None,
            arguments: arguments.clone(),
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--seed" => options.seed = number(&argument, arguments.next(), 0..=u64::MAX)?,
                "--rate" => options.incident.rate = number(&argument, arguments.next(), 1..=5000)?,
                "--replicas" => options.incident.replicas = number(&argument, arguments.next(), 2..=50)?,
                "--workers" => options.incident.workers = number(&argument, arguments.next(), 1..=16)?,
                "--seconds" => options.incident.seconds = number(&argument, arguments.next(), 1..=600)?,
                "--hang" => options.incident.outage = Outage::Hangs,
                "--stall" => options.incident.outage = Outage::Stalls,
                "--collect" => options.incident.outage = Outage::Collects,
                "--weir" => {
                    let text = arguments.next().context("--weir wants JSON")?;
                    options.incident.weir = serde_json::from_str(&text).context("--weir wants JSON")?;
                }
                "--svg" => options.incident.picture = Some(arguments.next().context("--svg wants a file")?.into()),
                "--logs" => options.incident.logs = Some(arguments.next().context("--logs wants a directory")?.into()),
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
        options.incident.seed = options.seed;
        Ok(Some(options))
    }

    /// What to type to repeat it.
    pub fn command(&self) -> String {
        [vec!["./build.sh compare".to_owned()], self.arguments.clone()].concat().join(" ")
    }
}

fn number<T>(flag: &str, value: Option<String>, range: RangeInclusive<T>) -> Result<T>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    let value = value.with_context(|| format!("{flag} wants a number"))?;
    let number = value.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| anyhow!("{flag}: want a number from {} to {}, got {value:?}", range.start(), range.end()))
}
