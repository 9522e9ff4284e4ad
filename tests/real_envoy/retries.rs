use crate::case::Case;
pub fn all() -> Vec<Case> { Vec::new() }
