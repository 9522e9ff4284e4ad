//! `weir check FILE...`: is this a policy, what does it mean, how many attempts does it allow, and does what is set up around
//! it go together?

mod bounds;
mod catalogue;
mod explain;
mod file;
pub mod find;
mod finding;
mod lines;
mod node;
mod output;
mod rules;
mod setup;
mod tell;
pub mod words;

use std::process::ExitCode;

use weir::config::Policy;

use bounds::Around;
use catalogue::Level;
use file::File;
use finding::Finding;
use node::Node;
use output::Format;
use setup::{Refused, Setup};
use tell::{is_alone, sum, tell};

/// Checks policies, and all that is set up around them.
///
/// A policy that is valid is explained in words, with how many attempts one request can come to.
///
/// FILE is the plugin's configuration, as JSON or YAML, or a file that has it inside: an Envoy bootstrap or config_dump, resources
/// of Istio, Envoy Gateway and the Gateway API. Of a folder, all YAML and JSON is read. Give all files of a set-up at once: what
/// is missing can be told only then. One file is explained; of several, only findings are told.
///
/// Exit status: 0 if it is valid; 1 if Weir, Envoy or the control plane refuses something of it; 2 if the command line is wrong or
/// a file cannot be read; with --strict, 3 if there are warnings.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// What to check; - is standard input
    #[arg(value_name = "FILE", required_unless_present_any = ["admin", "rules"])]
    files: Vec<String>,
    /// A running Envoy's admin interface, whose config_dump is checked
    #[arg(long, value_name = "URL")]
    admin: Vec<String>,
    /// Warnings fail
    #[arg(long)]
    strict: bool,
    /// Leave out a warning or note that is as you want it, by its name, such as unsafe-methods. A comment in a file does so for that
    /// file: # weir check: allow unsafe-methods
    #[arg(long, value_name = "RULE,...", value_delimiter = ',')]
    allow: Vec<String>,
    /// How findings are written
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    format: Format,
    /// Print all rules, as a page of Markdown
    #[arg(long)]
    rules: bool,
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

const EXAMPLES: &str = "Examples:
  weir check policy.yaml
  weir check --strict --format github deploy/
  weir check decide.yaml attempts.yaml traffic.yaml
  weir check --admin http://127.0.0.1:9901
  kubectl exec deploy/storefront -c istio-proxy -- \\
    pilot-agent request GET config_dump | weir check -";

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

/// Checks the files and prints the findings. Returns the exit status of `weir check`.
pub fn run(arguments: &Arguments) -> ExitCode {
    if arguments.rules {
        crate::print(&catalogue::page());
        return ExitCode::SUCCESS;
    }
    check(arguments).unwrap_or_else(|error| {
        eprintln!("weir: {error}");
        ExitCode::from(2)
    })
}

/// Checks the files and prints the findings, or fails if the command line is wrong or a file cannot be read.
fn check(arguments: &Arguments) -> Result<ExitCode, String> {
    let mut findings = Vec::new();
    let files = match read(arguments, &mut findings)? {
        Ok(files) => files,
        Err(status) => return Ok(status),
    };
    let (setup, refused) = Setup::new(&files);
    let around = around(arguments, &setup);
    findings.extend(refused.iter().map(of_refused));
    findings.extend(rules::of_setup(&setup));
    of_policies(&setup, &around, &mut findings);
    let left_out = leave_out(&mut findings, &allowed(arguments, &files)?);
    // The gravest first, and else in the order of the files and their lines.
    let order = |name: &str| files.iter().position(|file| file.name == name);
    findings.sort_by_key(|finding| (finding.rule.level, order(&finding.file), finding.line));

    if arguments.format != Format::Text {
        crate::print(&output::write(&findings, arguments.format));
    } else if refused.is_empty() {
        crate::print(&tell(arguments, &setup, &around, &findings, left_out));
    } else {
        tell_refused(&refused);
        let others: Vec<&Finding> = findings.iter().filter(|finding| finding.rule.id != "invalid-policy").collect();
        if !arguments.quiet && (setup.files.len() > 1 || !others.is_empty()) {
            crate::print(&format!("{}{}", output::text_of(others), sum(&setup, &findings, left_out)));
        }
    }
    Ok(status(arguments, &findings))
}

/// Makes a finding of a configuration that the module refuses.
fn of_refused(refused: &Refused<'_>) -> Finding {
    let node = Node { file: refused.file, place: refused.place.clone(), value: &serde_json::Value::Null };
    Finding::new("invalid-policy", &node, refused.error.clone(), "put right what the module names")
}

/// Adds what there is to say about the policies, and looks only once at one that stands in several places.
fn of_policies(setup: &Setup<'_>, around: &Around, findings: &mut Vec<Finding>) {
    let native = setup.files.iter().any(|file| file.document.outlier_detection);
    let mut told: Vec<&Policy> = Vec::new();
    for (plugin, policy) in setup.policies() {
        rules::policy::nulls(plugin, findings);
        if !told.contains(&policy) {
            told.push(policy);
            rules::policy::check(plugin, policy, around, native, findings);
        }
    }
}

/// Takes out the warnings and notes that are allowed, and returns how many these were.
fn leave_out(findings: &mut Vec<Finding>, allowed: &[(Option<&str>, &str)]) -> usize {
    let before = findings.len();
    findings.retain(|finding| {
        let by = |(file, rule): &(Option<&str>, &str)| {
            *rule == finding.rule.id && file.is_none_or(|file| file == finding.file)
        };
        finding.rule.level == Level::Error || !allowed.iter().any(by)
    });
    before - findings.len()
}

/// Prints, to standard error, what the module refuses and why.
fn tell_refused(refused: &[Refused<'_>]) {
    for Refused { file, place, error } in refused {
        match file.line(place).filter(|_| !place.is_empty()) {
            Some(line) => eprintln!("weir: {}:{line}: {place}: {error}", file.name),
            None if place.is_empty() => eprintln!("weir: {}: {error}", file.name),
            None => eprintln!("weir: {}: {place}: {error}", file.name),
        }
    }
}

/// Returns the exit status that the findings come to.
fn status(arguments: &Arguments, findings: &[Finding]) -> ExitCode {
    let any = |level: Level| findings.iter().any(|finding| finding.rule.level == level);
    if any(Level::Error) {
        ExitCode::FAILURE
    } else if arguments.strict && any(Level::Warning) {
        ExitCode::from(3)
    } else {
        ExitCode::SUCCESS
    }
}

/// All that is to be checked. What cannot be understood is an exit status, already told.
fn read(arguments: &Arguments, findings: &mut Vec<Finding>) -> Result<Result<Vec<File>, ExitCode>, String> {
    let mut files = Vec::new();
    for (path, in_folder) in file::expand(&arguments.files).map_err(|error| error.to_string())? {
        let bytes = find::read(&path).map_err(|error| format!("{path}: {error}"))?;
        if bytes.trim_ascii().is_empty() && !in_folder {
            // The module takes nothing for the defaults. Here it is mostly what a command before the pipe failed to write.
            return Err(format!("{} is empty; to have the defaults explained, write {{}}", name(&path)));
        }
        match File::new(&path, &bytes) {
            Ok(file) if in_folder => {
                if file.is_chart() {
                    let templates = path.replace("Chart.yaml", "templates");
                    findings.push(Finding::unread(&templates, "templates of a chart are not YAML, and were left out"));
                }
                // What a folder has besides is none of our business.
                if file.is_of_use() {
                    files.push(file);
                }
            }
            Ok(file) => files.push(file),
            Err(error) if in_folder => findings.push(Finding::unread(&path, &error)),
            Err(error) => {
                eprintln!("weir: {}: {error}", name(&path));
                return Ok(Err(ExitCode::FAILURE));
            }
        }
    }
    for admin in &arguments.admin {
        files.push(File::new(admin, &file::config_dump(admin)?).map_err(|error| format!("{admin}: {error}"))?);
    }
    if files.is_empty() {
        return Err(format!("there is nothing to check in {}", arguments.files.join(", ")));
    }
    Ok(Ok(files))
}

/// The warnings and notes that nobody wants to hear, each for one file or for all.
fn allowed<'a>(arguments: &'a Arguments, files: &'a [File]) -> Result<Vec<(Option<&'a str>, &'a str)>, String> {
    let mut all: Vec<(Option<&str>, &str)> = arguments.allow.iter().map(|rule| (None, rule.as_str())).collect();
    for file in files {
        all.extend(file.allowed.iter().map(|rule| (Some(file.name.as_str()), rule.as_str())));
    }
    for (file, rule) in &all {
        let place = file.map_or("--allow".to_owned(), |file| format!("{file}: allow"));
        match catalogue::level_of(rule) {
            None => return Err(format!("{place}: there is no rule {rule:?}; weir check --rules prints all")),
            Some(Level::Error) => return Err(format!("{place}: {rule:?} is an error, which cannot be allowed")),
            Some(Level::Warning | Level::Note) => {}
        }
    }
    Ok(all)
}

fn name(file: &str) -> &str {
    if file == "-" { "standard input" } else { file }
}

/// What is around Weir.
fn around(arguments: &Arguments, setup: &Setup<'_>) -> Around {
    let mut roles = Roles::default();
    arguments.roles.iter().for_each(|role| roles.insert(role));
    if arguments.roles.is_empty() {
        setup.plugins.iter().for_each(|plugin| roles.insert(plugin.config.role.name()));
        if is_alone(setup) {
            roles = Roles { decide: true, watch: true, guard: true };
        }
    }
    let route = setup.files.iter().filter_map(|file| file.document.route_retries).max();
    let replaced = arguments.route_retries.is_none() && rules::envoy::replaces_those_of_routes(setup);
    Around { client: arguments.client_retries, route: arguments.route_retries.or(route).unwrap_or(0), replaced, roles }
}
