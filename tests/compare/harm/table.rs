//! What was found, for the terminal and for the docs.

use std::fmt::Write;

use super::measure::{Count, Measure};
use super::situation::Situation;
use super::trial::Outcome;

/// One thing that was counted, on both sides.
pub struct Row {
    pub measure: Measure,
    pub without: Count,
    pub with: Count,
    /// How much more it may be.
    pub allowed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Worse,
    Same,
    Better,
}

impl Row {
    pub fn verdict(&self) -> Verdict {
        // The loads are the same, but clients that come back may come more often.
        let scaled = |count: Count, of: u64| (count.number * of).checked_div(count.of).unwrap_or(0);
        let of = self.without.of;
        let (without, with) = (self.without.number, scaled(self.with, of.max(1)));
        if with > without + self.allowed {
            Verdict::Worse
        } else if with + self.allowed < without && !matches!(self.measure, Measure::Attempts) {
            Verdict::Better
        } else {
            Verdict::Same
        }
    }

    /// Whether there is anything to say.
    fn says(&self) -> bool {
        match self.measure {
            Measure::Attempts => {
                self.verdict() == Verdict::Worse || cell(self.measure, self.with) != cell(self.measure, self.without)
            }
            _ => self.without.number + self.with.number > 0,
        }
    }
}

pub struct Found {
    pub name: &'static str,
    pub about: &'static str,
    pub rows: Vec<Row>,
    pub log: Vec<String>,
    /// Requests that had nothing to do with it, and had to wait: the machine stood still meanwhile.
    waited: usize,
}

impl Found {
    pub fn new(outcome: Outcome) -> Self {
        let situation = &outcome.situation;
        let row = |measure: &Measure| {
            let (without, with) = (measure.count(situation, &outcome.without), measure.count(situation, &outcome.with));
            Row { measure: *measure, without, with, allowed: measure.allowance(situation, without) }
        };
        let rows = situation.measures.iter().map(row).collect();
        Self { name: situation.name, about: situation.about, rows, log: outcome.log, waited: outcome.waited }
    }

    pub fn is_worse(&self) -> bool {
        self.rows.iter().any(|row| row.verdict() == Verdict::Worse)
    }

    /// Whether it is worse, or says nothing, since the machine stood still.
    pub fn is_doubtful(&self) -> bool {
        self.waited > 0 && (self.is_worse() || self.waited >= SAYS_NOTHING)
    }

    pub fn is_better(&self) -> bool {
        self.waited == 0 && !self.is_worse() && self.rows.iter().any(|row| row.verdict() == Verdict::Better)
    }

    fn said(&self) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.says()).collect()
    }
}

/// Of twenty a second on either side.
const SAYS_NOTHING: usize = 15;

/// How wide a column is.
const NAME: usize = 30;
const COUNTED: usize = 28;
const CELL: usize = 14;

pub fn header() -> String {
    let line =
        format!("{:<NAME$}{:<COUNTED$}{:>CELL$}{:>CELL$}", "situation", "what went wrong", "without Weir", "with Weir");
    format!("{line}\n{}", "-".repeat(NAME + COUNTED + 2 * CELL + 10))
}

pub fn text(found: &Found) -> String {
    let mut text = String::new();
    let rows = found.said();
    if rows.is_empty() {
        return format!("{:<NAME$}{:<COUNTED$}{:>CELL$}{:>CELL$}", found.name, "nothing", "-", "-");
    }
    for (number, row) in rows.into_iter().enumerate() {
        let (separator, name) = if number == 0 { ("", found.name) } else { ("\n", "") };
        let (without, with) = (cell(row.measure, row.without), cell(row.measure, row.with));
        let _ = write!(
            text,
            "{separator}{name:<NAME$}{:<COUNTED$}{without:>CELL$}{with:>CELL$}{}",
            row.measure.to_string(),
            match row.verdict() {
                Verdict::Worse if found.waited > 0 => "   WORSE, but the machine stood still meanwhile".to_owned(),
                Verdict::Worse => format!("   WORSE (at most {} more)", row.allowed),
                Verdict::Better if found.waited == 0 => "   better".to_owned(),
                Verdict::Better | Verdict::Same => String::new(),
            },
        );
    }
    text
}

/// What could not run.
pub fn failed(name: &str, error: &anyhow::Error) -> String {
    format!("{name:<NAME$}COULD NOT RUN: {error:#}")
}

fn cell(measure: Measure, count: Count) -> String {
    match measure {
        Measure::Attempts => format!("{:.2}", count.number as f64 / count.of.max(1) as f64),
        _ => format!("{} of {}", count.number, count.of),
    }
}

/// The page in the docs.
pub fn markdown(found: &[Found], machine: &str) -> String {
    let (worse, better) = (count(found, Found::is_worse), count(found, Found::is_better));
    let mut page = format!(
        "<!-- Written by `./build.sh compare harm --markdown`. -->\n\
         # What Weir does to services that are well, or that Envoy alone would carry\n\n\
         Nobody puts into every request's path what makes a healthy service fail. So each row below is a situation that ordinary\n\
         services have. It runs in two real Envoys beside each other, in the same moment, with the same requests:\n\n\
         - **without Weir**: with the retries that Istio gives by default. These are `connect-failure,refused-stream,unavailable,cancelled`,\n\
           two of them, to another host.\n\
         - **with Weir**: at its defaults, with all three roles, as `envoy/envoy.yaml` attaches them.\n\n\
         ## How to read the table\n\n\
         The numbers are what went wrong: how many requests, of how many. What is not named in a row did not happen on either side.\n\n\
         Two runs of the same thing differ a little. A row is **worse** where there is more of it with Weir than without, by more than\n\
         this:\n\n\
         {}\n\
         ## Try it\n\n\
         ```sh\n\
         ./build.sh compare harm                # all of it; fails if a situation is worse\n\
         ./build.sh compare harm NAME --log     # the situations whose names contain NAME, and what Weir said\n\
         ./build.sh compare harm --seed 7       # at other moments\n\
         ./build.sh compare harm --markdown     # writes this page\n\
         ```\n\n\
         ## What was found\n\n\
         {machine}: {} situations, {worse} worse with Weir, {better} better.\n\n\
         | situation | what went wrong | without Weir | with Weir | |\n|---|---|---:|---:|---|\n",
        Measure::ALLOWANCES,
        found.len(),
    );
    for found in found {
        let rows = found.said();
        let column = |cell: &dyn Fn(&Row) -> String| rows.iter().map(|row| cell(row)).collect::<Vec<_>>().join("<br>");
        let counted = if rows.is_empty() { "nothing".to_owned() } else { column(&|row| row.measure.to_string()) };
        let verdict = |row: &Row| match row.verdict() {
            Verdict::Worse if found.waited > 0 => "**worse** (disturbed)".to_owned(),
            Verdict::Worse => "**worse**".to_owned(),
            Verdict::Better if found.waited == 0 => "better".to_owned(),
            Verdict::Better | Verdict::Same => String::new(),
        };
        let _ = writeln!(
            page,
            "| `{}`: {} | {counted} | {} | {} | {} |",
            found.name,
            found.about,
            column(&|row| cell(row.measure, row.without)),
            column(&|row| cell(row.measure, row.with)),
            column(&verdict),
        );
    }
    page
}

/// How it ended, in a few lines.
pub fn summary(found: &[Found]) -> String {
    let worse: Vec<_> = found.iter().filter(|found| found.is_worse()).map(|found| found.name).collect();
    let better = count(found, Found::is_better);
    if worse.is_empty() {
        return format!("{} situations: none is worse with Weir, {better} are better.", found.len());
    }
    format!("{} situations: {} WORSE with Weir, {better} better.\n  {}", found.len(), worse.len(), worse.join("\n  "))
}

fn count(found: &[Found], which: impl Fn(&Found) -> bool) -> usize {
    found.iter().filter(|found| which(found)).count()
}

/// The list of all, one sentence each.
pub fn list(situations: &[std::sync::Arc<Situation>]) -> String {
    let line = |situation: &std::sync::Arc<Situation>| format!("{:<NAME$}{}", situation.name, situation.about);
    situations.iter().map(line).collect::<Vec<_>>().join("\n")
}
