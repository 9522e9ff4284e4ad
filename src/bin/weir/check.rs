//! `weir check FILE`: is this a policy, what does it mean, and how many attempts does it allow?

mod bounds;
mod explain;
pub mod find;
mod oddities;
pub mod words;

use std::fmt::Write as _;
use std::process::ExitCode;

use weir::config::{self, Config, Policy, Role};

use bounds::Around;
use find::{Found, Source};

/// Checks a policy, explains it in words, and says how many attempts one request can come to.
///
/// FILE is the plugin's configuration, as JSON or YAML, or a file that has it inside: an Envoy bootstrap, an EnvoyFilter, a
/// WasmPlugin or TrafficExtension, an EnvoyPatchPolicy or EnvoyExtensionPolicy. Exit status: 0 if it is valid, 1 if not, 2 if
/// the command line is wrong or the file cannot be read.
#[derive(clap::Args)]
pub struct Arguments {
    /// What to check; - is standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// How often the client itself retries
    #[arg(long, value_name = "N", default_value_t = 0)]
    client_retries: u32,
    /// `num_retries` of the route's own retry policy; by default that of the file if it has one, else 0
    #[arg(long, value_name = "N")]
    route_retries: Option<u32>,
    /// Where Weir is attached; by default at the places in the file, for a policy alone at all three
    #[arg(long, value_name = "ROLE,...", value_delimiter = ',', value_parser = ["decide", "watch", "guard"])]
    roles: Vec<String>,
    /// Requests a second of one Envoy for one cluster, for which the budget is told in numbers
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,10,100,1000",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rates: Vec<u32>,
    /// Only say whether it is valid
    #[arg(short, long)]
    quiet: bool,
}

/// Where Weir is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    decide: bool,
    watch: bool,
    guard: bool,
}

impl Roles {
    fn insert(&mut self, role: &str) {
        match role {
            "decide" => self.decide = true,
            "watch" => self.watch = true,
            _ => self.guard = true,
        }
    }

    /// In words.
    pub fn text(self) -> String {
        let names = [(self.decide, "decide"), (self.watch, "watch"), (self.guard, "guard")];
        names.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// Does it.
pub fn run(arguments: &Arguments) -> ExitCode {
    let bytes = match find::read(&arguments.file) {
        Ok(bytes) => bytes,
        Err(error) => {
            eprintln!("weir: {}: {error}", arguments.file);
            return ExitCode::from(2);
        }
    };
    match check(arguments, &bytes) {
        Ok(text) => {
            use std::io::Write as _;
            // Whoever reads it may have seen enough.
            drop(std::io::stdout().write_all(text.as_bytes()));
            ExitCode::SUCCESS
        }
        Err(errors) => {
            errors.iter().for_each(|error| eprintln!("weir: {}: {error}", name(&arguments.file)));
            ExitCode::FAILURE
        }
    }
}

fn name(file: &str) -> &str {
    if file == "-" { "standard input" } else { file }
}

/// What there is to say about a file, or what is wrong with it.
fn check(arguments: &Arguments, bytes: &[u8]) -> Result<String, Vec<String>> {
    let document = find::find(bytes).map_err(|error| vec![error])?;
    let (mut configs, mut errors) = (Vec::new(), Vec::new());
    for Found { place, source, .. } in &document.found {
        let parsed = match source {
            Source::Text(text) => config::parse(text).map_err(|error| error.to_string()),
            Source::Unreadable(why) => Err(why.clone()),
        };
        match parsed {
            Ok(config) => configs.push((place, config, source)),
            Err(error) if place.is_empty() => errors.push(error),
            Err(error) => errors.push(format!("{place}: {error}")),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }

    let mut attached = Roles::default();
    configs.iter().for_each(|(_, config, _)| attached.insert(config.role.name()));
    let mut roles = Roles::default();
    arguments.roles.iter().for_each(|role| roles.insert(role));
    let alone = document.bare && attached.decide;
    if arguments.roles.is_empty() {
        roles = if alone { Roles { decide: true, watch: true, guard: true } } else { attached };
    }

    let mut out = String::new();
    for (place, config, _) in &configs {
        let place = if place.is_empty() { name(&arguments.file) } else { place };
        let _ = writeln!(out, "{place}: valid, role {}", described(config));
    }
    if arguments.quiet {
        return Ok(out);
    }
    let around = Around {
        client: arguments.client_retries,
        route: arguments.route_retries.or(document.route_retries).unwrap_or(0),
        roles,
    };
    let mut policies = configs.iter().filter_map(|(_, config, _)| config.policy.as_ref());
    let first = policies.next();
    let differ = policies.any(|policy| Some(policy) != first);
    let mut told: Vec<&Policy> = Vec::new();
    for (place, config, source) in &configs {
        let Some(policy) = &config.policy else { continue };
        // The same policy on each of many listeners is told once.
        if told.contains(&policy) {
            continue;
        }
        told.push(policy);
        if differ {
            let _ = writeln!(out, "\n{place}");
        }
        let raw = match source {
            Source::Text(text) => serde_json::from_slice(text).unwrap_or_default(),
            Source::Unreadable(_) => serde_json::Value::Null,
        };
        // The module takes a string that holds the policy, too.
        let raw = match raw {
            serde_json::Value::String(text) => serde_json::from_str(&text).unwrap_or_default(),
            raw => raw,
        };
        explain::policy(&mut out, policy, &raw, roles, &arguments.rates);
        bounds::tell(&mut out, policy, &raw, &around, &arguments.rates);
        oddities::tell(&mut out, policy, &raw, &around, &document);
    }
    if told.is_empty() {
        let _ = writeln!(out, "\nThere is no policy in it: that belongs to role decide.");
    } else if alone && arguments.roles.is_empty() {
        let _ = writeln!(
            out,
            "\nThe file says nothing of watch and guard; this is what holds with all three roles. Ask with --roles for others."
        );
    }
    Ok(out)
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
