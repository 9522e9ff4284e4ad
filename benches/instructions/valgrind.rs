//! Counts the instructions of all cases, and compares them with those that are kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cases::{ALL, NOTHING};

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");
const HEAD: &str =
    "# Instructions per call, as `./build.sh bench accept` counted them; `./build.sh bench check` compares.";
const CALLS: u64 = 500;
/// A count may grow by so much (in percent), or by so many instructions, before that is a failure.
const TOLERANCE: u64 = 10;
const FEW: u64 = 5;

/// Instructions per call, by case.
type Counts = BTreeMap<String, u64>;

pub fn print() -> Result<()> {
    let Some(counts) = count_all(ALL.iter().flat_map(|row| row.names()))? else { return Ok(()) };
    let of = |case: Option<&str>| case.and_then(|case| counts.get(case)).copied();
    println!("\nInstructions per call ({}, compiled for size)", compiler()?);
    println!("{:<46} {:>9} {:>9} {:>9} {:>12}", "", "Weir", "tower", "governor", "Weir/theirs");
    for row in ALL {
        let (ours, tower, governor) = (of(Some(row.ours)), of(row.tower), of(row.governor));
        let show = |count: Option<u64>| count.map_or(String::new(), |count| count.to_string());
        let ratio = tower.or(governor).map(|theirs| ours.unwrap_or_default() as f64 / theirs as f64);
        let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        println!("{:<46} {:>9} {:>9} {:>9} {ratio:>12}", row.ours, show(ours), show(tower), show(governor));
    }
    Ok(())
}

pub fn accept() -> Result<()> {
    let Some(counts) = count_all(ALL.iter().map(|row| row.ours))? else { bail!("there is no valgrind") };
    let mut text = format!("{HEAD}\n# {}\n", compiler()?);
    for row in ALL {
        writeln!(text, "{:>9} {}", counts.get(row.ours).context("not counted")?, row.ours)?;
    }
    std::fs::write(KEPT, text)?;
    println!("Wrote {KEPT}");
    Ok(())
}

pub fn check() -> Result<()> {
    let text = std::fs::read_to_string(KEPT).context(KEPT)?;
    let compiler = compiler()?;
    if !text.lines().any(|line| line.strip_prefix("# ") == Some(&compiler)) {
        println!("NOT CHECKED: the counts kept are of another compiler than {compiler}: see ./build.sh bench accept");
        return Ok(());
    }
    let mut kept = Counts::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (count, case) = line.trim_start().split_once(' ').with_context(|| format!("{KEPT}: {line}"))?;
        kept.insert(case.to_owned(), count.parse().with_context(|| format!("{KEPT}: {line}"))?);
    }
    let Some(counts) = count_all(ALL.iter().map(|row| row.ours))? else { return Ok(()) };
    let mut grew = 0;
    for (case, &count) in &counts {
        let &kept = kept.get(case).with_context(|| format!("{case} is not in {KEPT}: see ./build.sh bench accept"))?;
        let slack = (kept * TOLERANCE / 100).max(FEW);
        if count > kept + slack {
            println!("{case}: {count} instructions, {kept} are kept");
            grew += 1;
        } else if count + slack < kept {
            println!("{case}: only {count} instructions, {kept} are kept: ./build.sh bench accept keeps it so");
        }
    }
    ensure!(grew == 0, "{grew} of {} counts grew by more than {TOLERANCE} percent", counts.len());
    println!("None of {} counts of instructions grew by more than {TOLERANCE} percent.", counts.len());
    Ok(())
}

/// Counts differ between compilers, and between machines.
fn compiler() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("rustc")?;
    Ok(format!("{} {}", String::from_utf8(output.stdout)?.trim(), std::env::consts::ARCH))
}

/// `None` where there is no valgrind.
fn count_all<'a>(cases: impl Iterator<Item = &'a str> + Send) -> Result<Option<Counts>> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("NOT COUNTED: there is no valgrind here");
        return Ok(None);
    }
    let nothing = count(NOTHING)?;
    let (todo, counts) = (Mutex::new(cases), Mutex::new(Counts::new()));
    let next = || todo.lock().ok().and_then(|mut todo| todo.next());
    let work = || -> Result<()> {
        while let Some(case) = next() {
            let count = count(case)?.saturating_sub(nothing);
            counts.lock().map_err(|_| anyhow::anyhow!("{case}"))?.insert(case.to_owned(), count);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        work()?;
        other.join().map_err(|_| anyhow::anyhow!("a thread failed"))?
    })?;
    Ok(counts.into_inner().ok())
}

/// Instructions per call, with those of the loop.
fn count(case: &str) -> Result<u64> {
    let (once, twice) = (collect(case, CALLS)?, collect(case, 2 * CALLS)?);
    Ok(twice.saturating_sub(once).div_ceil(CALLS))
}

fn collect(case: &str, calls: u64) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe()?);
    let output = valgrind.args(["run", case, &calls.to_string()]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{case}: {said}");
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    collected.and_then(|(_, count)| count.trim().parse().ok()).with_context(|| format!("{case}: {said}"))
}
