//! What is checked: files, folders, and what an Envoy says of itself.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use super::find::{self, Document, Source};
use super::lines::Lines;

/// A file, and what stands in it.
pub struct File {
    /// Its name, as given.
    pub name: String,
    pub document: Document,
    /// The findings that a comment of it allows.
    pub allowed: Vec<String>,
    lines: Lines,
}

/// What such a comment begins with.
const ALLOW: &str = "# weir check: allow ";

impl File {
    /// Reads what a file holds.
    pub fn new(name: &str, bytes: &[u8]) -> Result<Self, String> {
        let document = find::find(bytes)?;
        let name = if name == "-" { "standard input" } else { name };
        let text = String::from_utf8_lossy(bytes);
        let comments = text.lines().filter_map(|line| line.split_once(ALLOW));
        let rules = comments.flat_map(|(_, rules)| rules.split([',', ' '])).filter(|rule| !rule.is_empty());
        let allowed = rules.map(str::to_owned).collect();
        Ok(Self { name: name.to_owned(), document, allowed, lines: Lines::of(bytes) })
    }

    /// Whether it is about a chart that has templates beside it.
    pub fn is_chart(&self) -> bool {
        let path = Path::new(&self.name);
        path.ends_with("Chart.yaml") && path.with_file_name("templates").is_dir()
    }

    /// Whether it has anything to do with Weir or what may stand around it.
    pub fn is_of_use(&self) -> bool {
        let policy = |found: &find::Found| matches!(&found.source, Source::Text(text) if find::looks_like_policy(text));
        if self.document.bare { self.document.found.iter().any(policy) } else { true }
    }

    /// The line of a place.
    pub fn line(&self, place: &str) -> Option<usize> {
        let (document, rest) = match place.strip_prefix("document ") {
            Some(rest) => {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                let (number, rest) = rest.split_at(digits);
                (number.parse::<usize>().ok()?.checked_sub(1)?, rest.strip_prefix('.').unwrap_or(rest))
            }
            None => (0, place),
        };
        self.lines.at(document, rest)
    }
}

/// The files that these arguments name: files themselves, and of folders whatever is YAML or JSON.
pub fn expand(paths: &[String]) -> io::Result<Vec<(String, bool)>> {
    let mut all = Vec::new();
    for path in paths {
        if path != "-" && Path::new(path).is_dir() {
            let mut found = Vec::new();
            walk(Path::new(path), &mut found)
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
            found.sort();
            all.extend(found.into_iter().map(|path| (path.display().to_string(), true)));
        } else {
            all.push((path.clone(), false));
        }
    }
    let mut known = HashSet::new();
    all.retain(|(path, _)| known.insert(path.clone()));
    Ok(all)
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            // What Helm makes YAML of is not YAML yet.
            let is_template = path.ends_with("templates") && folder.join("Chart.yaml").is_file();
            if !is_template {
                walk(&path, found)?;
            }
        } else if path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json") {
            found.push(path);
        }
    }
    Ok(())
}

/// What a running Envoy says of its configuration.
pub fn config_dump(admin: &str) -> Result<Vec<u8>, String> {
    let url = format!("{}/config_dump", admin.trim_end_matches('/'));
    crate::http::get(&url)
}
