//! The commands of a guide, as they stand in it.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Each block of code in a language, in a section of a page, less what is in sections of its own below.
fn blocks(page: &str, section: &str, language: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).context(page.to_owned())?;
    let from = |marks: &&str| text.split_once(&format!("\n{marks} {section}\n"));
    let (_, rest) = ["##", "###"].iter().find_map(from).with_context(|| format!("{page}: no {section}"))?;
    let section = ["\n## ", "\n### "].iter().filter_map(|next| rest.split(next).next()).min_by_key(|part| part.len());
    let section = section.unwrap_or_default();
    let fence = format!("```{language}\n");
    let blocks = section.split(&fence).skip(1).filter_map(|block| block.split("```").next());
    Ok(blocks.map(str::to_owned).collect())
}

/// The first block of code in a language, in a section of a page.
pub fn block(page: &str, section: &str, language: &str) -> Result<String> {
    blocks(page, section, language)?.into_iter().next().with_context(|| format!("{page}: no {language} in {section}"))
}

/// Each command of the shell in a section of a page, in order.
pub fn commands(page: &str, section: &str) -> Result<Vec<String>> {
    let mut commands = Vec::new();
    for block in blocks(page, section, "sh")? {
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
