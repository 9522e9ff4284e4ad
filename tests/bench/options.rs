//! The command line.

use anyhow::{Result, bail};

use super::cost::Effort;

const HELP: &str = "\
Measures what Weir costs, in a real Envoy.

usage: ./build.sh bench [quick] [cost] [latency] [calls] [steps] [growth] [core] [fleet] [check] [accept]

  cost      CPU time per request beside no filter, Envoy's own retries, an empty filter and a Lua filter
  latency   p50, p99 and p99.9 at a fixed rate
  calls     how often a request crosses between Envoy and the module
  steps     what each of Weir's host calls costs in a real request, added to a filter with its callbacks alone
  growth    the same cost with up to 10,000 hosts and 1,000 clusters, and with 1,000 hosts while one is out; memory, size,
            time to the first request
  core      the core natively, in time and in instructions (needs valgrind), beside tower's budget and governor
  fleet     1 to 10,000 proxies, 10 to 10,000 hosts, simulated: load and recovery beside Envoy's, Istio's and Linkerd's rules
  check     fails where the core takes over a tenth more instructions than benches/instructions.txt says
  accept    writes that file
  quick     fewer rounds: a third of the time, and wider spreads

Without names: all but steps, fleet, check and accept. Ends with 1 if a promise of docs/cost.md is broken beyond doubt.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Cost,
    Latency,
    Calls,
    Steps,
    Growth,
}

pub struct Options {
    pub parts: Vec<Part>,
    pub effort: Effort,
    pub quick: bool,
    arguments: Vec<String>,
}

impl Options {
    /// `None` if the arguments only ask for help, which is then printed.
    pub fn from_arguments(arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let arguments: Vec<String> = arguments.collect();
        let mut options = Self { parts: Vec::new(), effort: Effort::FULL, quick: false, arguments: arguments.clone() };
        for argument in &arguments {
            match argument.as_str() {
                "quick" => (options.effort, options.quick) = (Effort::QUICK, true),
                "cost" => options.parts.push(Part::Cost),
                "latency" => options.parts.push(Part::Latency),
                "calls" => options.parts.push(Part::Calls),
                "steps" => options.parts.push(Part::Steps),
                "growth" => options.parts.push(Part::Growth),
                "--help" | "-h" | "help" => {
                    println!("{HELP}");
                    return Ok(None);
                }
                other => bail!("unknown argument {other:?}\n\n{HELP}"),
            }
        }
        if options.parts.is_empty() {
            options.parts.extend([Part::Calls, Part::Cost, Part::Latency, Part::Growth]);
        }
        Ok(Some(options))
    }

    /// What to type to repeat it.
    pub fn command(&self) -> String {
        [vec!["./build.sh bench".to_owned()], self.arguments.clone()].concat().join(" ")
    }
}
