//! Does Weir do harm? Situations that ordinary services have, each in a real Envoy with Weir at its defaults beside the same
//! Envoy without it, in the same moment: what went wrong is counted, and with Weir it must not be more.

mod body;
mod client;
mod measure;
mod replica;
mod sentinel;
mod setup;
mod situation;
mod situations;
mod table;
mod trial;

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use setup::Shipped;
use situation::Situation;
use table::Found;

const HELP: &str = "\
Does Weir do harm? Counts what goes wrong in ordinary situations, with Weir at its defaults and without it.

usage: ./build.sh compare harm [NAME...] [--short] [--seed N] [--jobs N] [--log] [--markdown] [--list]

  NAME        only the situations whose names contain it
  --short     those that CI runs
  --seed N    at which moments things happen; default 1
  --jobs N    how many situations at the same time; default 4
  --log       print what Weir says in each that is worse
  --markdown  write the table to docs/harm.md
  --list      say what there is, and run nothing

Ends with 0 if nothing is worse with Weir, with 1 if something is, with 2 if something could not run.";

/// Where `--markdown` writes.
const PAGE: &str = "docs/harm.md";

struct Options {
    names: Vec<String>,
    short: bool,
    seed: u64,
    jobs: usize,
    log: bool,
    markdown: bool,
}

/// Whether nothing was worse.
pub fn run(runtime: &Runtime, arguments: &[String], about_machine: &str) -> Result<bool> {
    let mut options = Options { names: Vec::new(), short: false, seed: 1, jobs: 4, log: false, markdown: false };
    let mut list = false;
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64> {
            let value = arguments.next().with_context(|| format!("{argument} wants a number"))?;
            value.parse().with_context(|| format!("{argument} wants a number, not {value:?}"))
        };
        match argument.as_str() {
            "--short" => options.short = true,
            "--seed" => options.seed = number()?,
            "--jobs" => options.jobs = usize::try_from(number()?)?.clamp(1, 64),
            "--log" => options.log = true,
            "--markdown" => options.markdown = true,
            "--list" => list = true,
            "--help" | "-h" | "help" => {
                println!("{HELP}");
                return Ok(true);
            }
            flag if flag.starts_with('-') => bail!("unknown argument {flag:?}\n\n{HELP}"),
            name => options.names.push(name.to_owned()),
        }
    }
    let wanted = |situation: &Situation| {
        (!options.short || situation.short)
            && (options.names.is_empty() || options.names.iter().any(|name| situation.name.contains(name.as_str())))
    };
    let situations: Vec<_> = situations::all().into_iter().filter(wanted).map(Arc::new).collect();
    if situations.is_empty() {
        bail!("no situation is named like {}; --list names them", options.names.join(", "));
    }
    if list {
        println!("{}", table::list(&situations));
        return Ok(true);
    }
    let All { found, failed } = runtime.block_on(all(&situations, &options))?;
    println!("\n{}", table::summary(&found));
    if options.markdown {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
        std::fs::create_dir_all(path.parent().context("a page has a folder")?)?;
        std::fs::write(&path, table::markdown(&found, about_machine))
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("{PAGE} is written.");
    }
    if !failed.is_empty() {
        bail!("could not run: {}", failed.join(", "));
    }
    Ok(!found.iter().any(Found::is_worse))
}

/// What was found, and the names of what could not run.
struct All {
    found: Vec<Found>,
    failed: Vec<&'static str>,
}

async fn all(situations: &[Arc<Situation>], options: &Options) -> Result<All> {
    let shipped = Arc::new(Shipped::read()?);
    println!("{}", table::header());
    let (began, mut found, mut failed) = (Instant::now(), Vec::new(), Vec::new());
    // One that cannot run keeps those from it that run in the same Envoy: then each of these runs by itself.
    let mut batches: VecDeque<&[Arc<Situation>]> = situations.chunks(options.jobs).collect();
    while let Some(batch) = batches.pop_front() {
        let show = progress(batch, found.len() + failed.len(), situations.len(), began);
        let ended = tokio::select! {
            ended = undisturbed(&shipped, batch, options.seed) => ended,
            () = show => unreachable!("progress is shown until the end"),
        };
        clear();
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) if batch.len() == 1 => {
                println!("{}", table::failed(batch[0].name, &error));
                failed.push(batch[0].name);
                continue;
            }
            Err(_) => {
                batch.chunks(1).rev().for_each(|alone| batches.push_front(alone));
                continue;
            }
        };
        for one in ended {
            println!("{}", table::text(&one));
            if options.log && one.is_worse() {
                one.log.iter().for_each(|line| println!("    {line}"));
            }
            found.push(one);
        }
    }
    Ok(All { found, failed })
}

/// How often something is run again, since the machine stood still meanwhile.
const AGAIN: usize = 2;

/// Runs them, and once more those that say little.
async fn undisturbed(shipped: &Arc<Shipped>, batch: &[Arc<Situation>], seed: u64) -> Result<Vec<Found>> {
    let run = async |situations: &[Arc<Situation>]| -> Result<Vec<Found>> {
        let outcomes = trial::run(Arc::clone(shipped), situations, seed).await?;
        Ok(outcomes.into_iter().map(Found::new).collect())
    };
    let mut found = run(batch).await?;
    for _ in 0..AGAIN {
        let doubtful: Vec<_> = (0..found.len()).filter(|index| found[*index].is_doubtful()).collect();
        if doubtful.is_empty() {
            break;
        }
        let again: Vec<_> = doubtful.iter().map(|index| Arc::clone(&batch[*index])).collect();
        for (index, one) in doubtful.into_iter().zip(run(&again).await?) {
            found[index] = one;
        }
    }
    Ok(found)
}

/// One line that says what runs, where somebody looks.
async fn progress(batch: &[Arc<Situation>], done: usize, of: usize, began: Instant) {
    let names = batch.iter().map(|situation| situation.name).collect::<Vec<_>>().join(", ");
    loop {
        if std::io::stdout().is_terminal() {
            let line = format!("{done} of {of}, {} s: {names}", began.elapsed().as_secs());
            // A longer line would not be overwritten by the next.
            print!("\r\x1b[2K{}", line.chars().take(99).collect::<String>());
            let _ = std::io::stdout().flush();
        }
        sleep(Duration::from_millis(500)).await;
    }
}

fn clear() {
    if std::io::stdout().is_terminal() {
        print!("\r\x1b[2K");
    }
}
