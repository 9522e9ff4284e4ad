//! Patterns with `*`, for names of clusters and of routes.

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
    /// What stands between two stars may be taken where it is found first, since any later place leaves less for the rest.
    /// So there is nothing to backtrack to.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.matches_bytes(name.as_bytes())
    }

    /// The same for a name as a host tells it.
    #[must_use]
    pub fn matches_bytes(&self, mut name: &[u8]) -> bool {
        let pattern = self.0.as_bytes();
        let mut pieces = pattern.split(|byte| *byte == b'*');
        let prefix = pieces.next().unwrap_or_default();
        let Some(suffix) = pieces.next_back() else { return name == pattern };
        let Some(rest) = name.strip_prefix(prefix).and_then(|name| name.strip_suffix(suffix)) else { return false };
        name = rest;
        for piece in pieces.filter(|piece| !piece.is_empty()) {
            let Some(place) = name.windows(piece.len()).position(|part| part == piece) else { return false };
            name = name.get(place + piece.len()..).unwrap_or_default();
        }
        true
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
