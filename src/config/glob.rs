//! Patterns with `*`, for names of clusters.

/// A pattern in which `*` stands for any run of characters, the empty one too, and all else for itself.
///
/// Envoy's cluster names hold `|`, `.` and `_` (`outbound|80||orders.shop.svc.cluster.local`), so none of them is special,
/// and nothing is escaped: a literal `*` does not occur in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// The pattern `pattern`; every string is one.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// Whether the whole of `name` fits.
    ///
    /// Linear in the length of pattern and name: what stands between two stars may be taken where it is found first, since
    /// any later place leaves less for the rest. So there is nothing to backtrack to.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let Some((prefix, rest)) = self.0.split_once('*') else { return name == self.0 };
        let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(name) = name.strip_prefix(prefix) else { return false };
        let Some(mut name) = name.strip_suffix(suffix) else { return false };
        for piece in middle.split('*') {
            let Some((_, after)) = name.split_once(piece) else { return false };
            name = after;
        }
        true
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
