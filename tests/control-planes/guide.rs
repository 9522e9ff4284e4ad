//! The commands of a guide, as they stand in it.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Each command of the shell in a section of a page, in order.
pub fn commands(page: &str, section: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).context(page.to_owned())?;
    let (_, rest) = text.split_once(&format!("\n## {section}\n")).with_context(|| format!("{page}: no {section}"))?;
    let section = rest.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    let mut commands = Vec::new();
    for block in blocks {
        let mut command = String::new();
        for line in block.lines().filter(|line| !line.is_empty()) {
            command.push_str(line);
            if line.ends_with('\\') {
                command.push('\n');
            } else {
                commands.push(std::mem::take(&mut command));
            }
        }
        ensure!(command.is_empty(), "{page}: {command} goes on");
    }
    Ok(commands)
}
