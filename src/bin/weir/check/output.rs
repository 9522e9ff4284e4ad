//! How findings are written: for people, and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::catalogue::{Level, RULES};
use super::finding::Finding;
use super::words::paragraph;

/// In which form findings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// A list of objects
    Json,
    /// Annotations in GitHub Actions
    Github,
    /// SARIF 2.1.0, for code scanning
    Sarif,
}

/// Writes them.
pub fn write(findings: &[Finding], format: Format) -> String {
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    match format {
        Format::Text => text_of(findings),
        Format::Json => pretty(&findings.iter().map(Finding::json).collect()),
        Format::Github => findings.iter().map(Finding::github).collect(),
        Format::Sarif => {
            let mut rules: Vec<Value> = Vec::new();
            for rule in RULES.iter().filter(|rule| findings.iter().any(|finding| finding.rule.id == rule.id)) {
                let link = rule.link();
                let help = format!("{} See {link}, or run weir docs checks#{}", rule.about, rule.id);
                let mut described = json!({"id": rule.id, "shortDescription": {"text": rule.about},
                    "help": {"text": help}, "defaultConfiguration": {"level": rule.level.name()}});
                // It has to be a whole address.
                if link.contains("://") {
                    described["helpUri"] = link.into();
                }
                rules.push(described);
            }
            pretty(&json!({
                "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
                "version": "2.1.0",
                "runs": [{
                    "tool": {"driver": {"name": "weir check", "version": env!("CARGO_PKG_VERSION"), "rules": rules}},
                    "results": findings.iter().map(Finding::sarif).collect::<Vec<_>>(),
                }],
            }))
        }
    }
}

/// Writes them for people.
pub fn text_of<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> String {
    findings.into_iter().map(text).collect()
}

fn text(finding: &Finding) -> String {
    use console::style;
    let level = match finding.rule.level {
        Level::Error => style("error").red().bold(),
        Level::Warning => style("warning").yellow().bold(),
        Level::Note => style("note").cyan().bold(),
    };
    let mut out = format!("{}: {level}[{}]\n", finding.position(), finding.rule.id);
    if finding.line.is_some() && !finding.place.is_empty() {
        paragraph(&mut out, 2, &format!("at {}", finding.place));
    }
    paragraph(&mut out, 2, &finding.text);
    paragraph(&mut out, 2, &format!("{}.", capital(&finding.todo)));
    let _ = writeln!(out, "  {}", style(finding.more()).dim());
    out
}

impl Finding {
    /// Where to read more: in the repository, or with the program alone.
    fn more(&self) -> String {
        format!("See {}, or run weir docs checks#{}", self.rule.link(), self.rule.id)
    }

    /// `envoy.yaml:17`.
    fn position(&self) -> String {
        match self.line {
            Some(line) => format!("{}:{line}", self.file),
            None if self.place.is_empty() => self.file.clone(),
            None => format!("{}: {}", self.file, self.place),
        }
    }

    fn json(&self) -> Value {
        json!({"id": self.rule.id, "level": self.rule.level.name(), "file": self.file, "line": self.line,
            "place": self.place, "text": self.text, "do": self.todo, "see": self.rule.link()})
    }

    /// What is wrong, with its full stop, unless the module's words end with a question.
    fn sentence(&self) -> String {
        if self.text.ends_with(['.', '?']) { self.text.clone() } else { format!("{}.", self.text) }
    }

    /// A command of GitHub's runners, which shows it beside the line.
    fn github(&self) -> String {
        let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
        let level = if self.rule.level == Level::Note { "notice" } else { self.rule.level.name() };
        let line = self.line.map(|line| format!(",line={line}")).unwrap_or_default();
        let file = property(&self.file);
        let text = data(&format!("{} {}. {}", self.sentence(), capital(&self.todo), self.more()));
        format!("::{level} file={file}{line},title=weir {}::{text}\n", self.rule.id)
    }

    fn sarif(&self) -> Value {
        let mut place = json!({"artifactLocation": {"uri": uri(&self.file)}});
        if let Some(line) = self.line {
            place["region"] = json!({"startLine": line});
        }
        let mut location = json!({"physicalLocation": place});
        if !self.place.is_empty() {
            location["logicalLocations"] = json!([{"fullyQualifiedName": self.place}]);
        }
        json!({"ruleId": self.rule.id, "level": self.rule.level.name(),
            "message": {"text": format!("{} {}.", self.sentence(), capital(&self.todo))}, "locations": [location]})
    }
}

/// A path as a URI has it.
fn uri(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                uri.push(char::from(byte))
            }
            _ => _ = write!(uri, "%{byte:02X}"),
        }
    }
    uri
}

pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
