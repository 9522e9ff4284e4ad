//! What there is to say about what was checked, in words.

use std::fmt::Write as _;

use weir::config::{Config, Policy, Role};

use super::bounds::{self, Around};
use super::catalogue::Level;
use super::finding::Finding;
use super::setup::{Plugin, Setup};
use super::{Arguments, explain, output, words};

/// Whether it is one policy, with nothing around it.
pub(super) fn is_alone(setup: &Setup<'_>) -> bool {
    matches!((setup.files, setup.plugins.as_slice()),
        ([file], [plugin]) if file.document.bare && plugin.config.role == Role::Decide)
}

/// What there is to say, in words.
pub(super) fn tell(
    arguments: &Arguments,
    setup: &Setup<'_>,
    around: &Around,
    findings: &[Finding],
    left_out: usize,
) -> String {
    let mut out = String::new();
    let one = setup.files.len() == 1;
    for Plugin { file, place, config, .. } in &setup.plugins {
        let place = match (place.as_str(), one) {
            ("", _) => file.name.clone(),
            (place, true) => place.to_owned(),
            (place, false) => format!("{}: {place}", file.name),
        };
        let _ = writeln!(out, "{place}: valid, role {}", described(config));
    }
    if setup.plugins.is_empty() {
        let files: Vec<String> = setup.files.iter().map(|file| file.name.clone()).collect();
        let _ = writeln!(
            out,
            "{}: there is no Wasm plugin in it that could be Weir; what is set up beside it was checked",
            if files.is_empty() { "nothing".to_owned() } else { files.join(", ") }
        );
    }
    if arguments.quiet {
        return out;
    }
    if one {
        explain(&mut out, arguments, setup, around);
    }
    if !findings.is_empty() {
        let _ = writeln!(out, "\nFindings");
        out.push_str(&output::text_of(findings));
    }
    out.push_str(&sum(setup, findings, left_out));
    out
}

/// How many files and findings there are.
pub(super) fn sum(setup: &Setup<'_>, findings: &[Finding], left_out: usize) -> String {
    let count = |level: Level| findings.iter().filter(|finding| finding.rule.level == level).count() as u64;
    format!(
        "\n{}: {}, {}, {}{}\n",
        words::count(setup.files.len() as u64, "file"),
        words::count(count(Level::Error), "error"),
        words::count(count(Level::Warning), "warning"),
        words::count(count(Level::Note), "note"),
        if left_out > 0 { format!(", {left_out} allowed") } else { String::new() }
    )
}

/// What the policies of one file mean.
fn explain(out: &mut String, arguments: &Arguments, setup: &Setup<'_>, around: &Around) {
    let mut policies = setup.policies().map(|(_, policy)| policy);
    let first = policies.next();
    let differ = policies.any(|policy| Some(policy) != first);
    let mut told: Vec<&Policy> = Vec::new();
    for (plugin, policy) in setup.policies() {
        // The same policy on each of many listeners is told once.
        if told.contains(&policy) {
            continue;
        }
        told.push(policy);
        if differ {
            let _ = writeln!(out, "\n{}", plugin.place);
        }
        explain::policy(out, policy, around.roles, &arguments.rates);
        bounds::tell(out, policy, around, &arguments.rates);
    }
    if told.is_empty() && !setup.plugins.is_empty() {
        let _ = writeln!(out, "\nThere is no policy in it: that belongs to role decide.");
    } else if is_alone(setup) && arguments.roles.is_empty() {
        let _ = writeln!(
            out,
            "\nThe file says nothing of watch and guard; this is what holds with all three roles. Ask with --roles for others."
        );
    }
}

fn described(config: &Config) -> String {
    let failures = if config.only_failures { ", told of failures only" } else { "" };
    let empty = if config.role == Role::Decide && config.policy.as_ref() == Some(&Policy::default()) {
        ", all settings at their defaults"
    } else {
        ""
    };
    [config.role.name(), failures, empty].concat()
}
