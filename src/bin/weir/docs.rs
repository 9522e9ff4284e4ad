//! `weir docs LINK`: the documentation, for who has the program and nothing else. Findings of `weir check` and alerts link to its pages.

use std::collections::HashMap;
use std::process::ExitCode;

/// Prints a page of the documentation, or a section of it.
///
/// LINK is the name of a page, with the section after a #, as in the findings of weir check, in the runbook_url of an alert and in
/// the links of the pages themselves. Without it, all pages are listed. Exit status: 0; 2 if there is no such page or section.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  weir docs
  weir docs rollout
  weir docs docs/checks.md#max-retries-low
  weir docs settings | less")]
pub struct Arguments {
    /// What to print: a page, or a section of one, as pages name each other
    #[arg(value_name = "LINK")]
    link: Option<String>,
}

/// Files of the repository, with their paths in it.
macro_rules! pages {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../", $path)))),*]
    };
}

const PAGES: &[(&str, &str)] = pages![
    "README.md",
    "docs/signals.md",
    "docs/safety.md",
    "docs/budget.md",
    "docs/outlier-detection.md",
    "docs/circuit-breaker.md",
    "docs/roles.md",
    "docs/faq.md",
    "docs/glossary.md",
    "docs/peers.md",
    "docs/benchmarks.md",
    "docs/cost.md",
    "docs/fleets.md",
    "docs/harm.md",
    "docs/limits.md",
    "docs/compatibility.md",
    "docs/stability.md",
    "docs/install.md",
    "docs/release.md",
    "docs/install-envoy.md",
    "envoy/README.md",
    "envoy/helm/README.md",
    "envoy/istio/README.md",
    "envoy/gateway/README.md",
    "docs/migration.md",
    "docs/policies.md",
    "docs/rollout.md",
    "docs/rollback.md",
    "docs/upgrade.md",
    "docs/sizing.md",
    "docs/failure.md",
    "docs/troubleshooting.md",
    "docs/settings.md",
    "docs/metrics.md",
    "docs/logs.md",
    "docs/incidents.md",
    "docs/alerts.md",
    "docs/command-line.md",
    "docs/checks.md",
    "docs/envoy-notes.md",
    "docs/cost-notes.md",
    "docs/proxy-wasm-host.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "SUPPORT.md",
];

/// Prints the page or section that the link names, or the list of all pages. Returns the exit status of `weir docs`.
pub fn run(arguments: &Arguments) -> ExitCode {
    let Some(link) = &arguments.link else {
        let names = PAGES.iter().map(|(path, text)| vec![name(path).to_owned(), title(text)]);
        let mut out = String::new();
        crate::check::words::table(&mut out, &names.collect::<Vec<_>>());
        crate::print(&out);
        return ExitCode::SUCCESS;
    };
    match find(link) {
        Ok(text) => {
            crate::print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("weir: {error}");
            ExitCode::from(2)
        }
    }
}

/// `docs/checks.md` is the page `checks`.
fn name(path: &str) -> &str {
    let path = path.strip_suffix(".md").unwrap_or(path);
    path.strip_prefix("docs/").unwrap_or(path)
}

fn title(text: &str) -> String {
    let title = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or_default();
    title.replace('`', "")
}

/// What a link leads to: `checks`, `docs/checks.md#budget-off`, `https://docs.example.com/weir/docs/alerts.html#weircrashloop`.
fn find(link: &str) -> Result<String, String> {
    let (page, section) = link.split_once('#').map_or((link, None), |(page, section)| (page, Some(section)));
    let wanted = page.trim_end_matches('/');
    let wanted = wanted.strip_suffix(".md").or_else(|| wanted.strip_suffix(".html")).unwrap_or(wanted);
    let wanted = wanted.trim_start_matches("../").trim_start_matches("./");
    // A link may say more of the path than the page's name does, or less.
    let is = |path: &str| {
        let path = path.strip_suffix(".md").unwrap_or(path);
        let ends = |long: &str, short: &str| {
            long.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
        };
        !wanted.is_empty() && (ends(path, wanted) || path.contains('/') && ends(wanted, path))
    };
    let by_name = PAGES.iter().find(|(path, _)| name(path) == wanted);
    let Some((path, text)) = by_name.or_else(|| PAGES.iter().find(|(path, _)| is(path))) else {
        return Err(format!("there is no page {page:?} in the documentation; weir docs lists all"));
    };
    let Some(wanted) = section.filter(|section| !section.is_empty()) else { return Ok((*text).to_owned()) };
    self::section(text, wanted)
        .ok_or_else(|| format!("{path} has no section {wanted:?}; weir docs {} prints all of it", name(path)))
}

/// From a heading to the next one that is no deeper, or the line that has this anchor.
fn section(text: &str, wanted: &str) -> Option<String> {
    let (mut times, mut found, mut out, mut code) = (HashMap::new(), None, String::new(), false);
    for line in text.lines() {
        code ^= line.trim_start().starts_with("```");
        let depth = line.bytes().take_while(|byte| *byte == b'#').count();
        if !code && depth > 0 && line.get(depth..).is_some_and(|rest| rest.starts_with(' ')) {
            if found.is_some_and(|own| depth <= own) {
                break;
            }
            let anchor = slug(line.get(depth..).unwrap_or_default(), &mut times);
            if found.is_none() && anchor == wanted {
                found = Some(depth);
            }
        }
        if found.is_some() {
            out.push_str(line);
            out.push('\n');
        } else if line.contains(&format!("<a id=\"{wanted}\">")) {
            return Some(format!("{line}\n"));
        }
    }
    found.map(|_| format!("{}\n", out.trim_end()))
}

/// The anchor of a heading, as forges and mdBook make it.
fn slug(title: &str, times: &mut HashMap<String, usize>) -> String {
    let kept = title.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
    let times = times.entry(slug.clone()).or_insert(0);
    *times += 1;
    if *times == 1 { slug } else { format!("{slug}-{}", *times - 1) }
}
