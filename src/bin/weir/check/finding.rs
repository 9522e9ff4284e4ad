//! Something that is told about a set-up, by a rule with a name that stays.

use super::catalogue::{Rule, rule};
use super::node::Node;

/// Something found.
#[derive(Debug)]
pub struct Finding {
    pub rule: &'static Rule,
    pub file: String,
    pub line: Option<usize>,
    /// Where in the document, as a path.
    pub place: String,
    pub text: String,
    /// What to do about it, in the words of the resource it is in.
    pub todo: String,
}

impl Finding {
    pub fn new(id: &str, node: &Node<'_>, text: impl Into<String>, todo: impl Into<String>) -> Self {
        Self {
            rule: rule(id),
            file: node.file.name.clone(),
            line: node.file.line(&node.place),
            place: node.place.clone(),
            text: text.into(),
            todo: todo.into(),
        }
    }

    /// About a file that cannot be read.
    pub fn unread(file: &str, why: &str) -> Self {
        let todo = "check what is made of it, or name the files to check".to_owned();
        Self {
            rule: rule("not-read"),
            file: file.to_owned(),
            line: None,
            place: String::new(),
            text: why.to_owned(),
            todo,
        }
    }
}
