//! Where in a file things stand: the line of each value, by its place.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, Span, SpannedEventReceiver};

/// Larger files are made by programs, and nobody looks for a line in them.
const MOST_BYTES: usize = 4 << 20;

/// The lines of a file's values, by document and place, as [`super::find`] writes places.
#[derive(Debug, Default)]
pub struct Lines(HashMap<(usize, String), usize>);

impl Lines {
    /// Of YAML, and so of JSON. What cannot be read has no lines.
    pub fn of(bytes: &[u8]) -> Self {
        let mut walk = Walk::default();
        if let (true, Ok(text)) = (bytes.len() <= MOST_BYTES, std::str::from_utf8(bytes)) {
            // What was read before an error has its lines.
            drop(Parser::new_from_str(text).load(&mut walk, true));
        }
        Self(walk.lines)
    }

    /// The line of a place in a document, or of the closest thing around it that has one.
    pub fn at(&self, document: usize, place: &str) -> Option<usize> {
        let mut place = place;
        loop {
            if let Some(line) = self.0.get(&(document, place.to_owned())) {
                return Some(*line);
            }
            if place.is_empty() {
                return None;
            }
            place = place.rfind(['.', '[']).and_then(|end| place.get(..end)).unwrap_or_default();
        }
    }
}

/// Where the parser is.
#[derive(Default)]
struct Walk {
    lines: HashMap<(usize, String), usize>,
    document: usize,
    open: Vec<Around>,
}

/// A sequence or a mapping that has begun.
struct Around {
    place: String,
    /// How many items came before; `None` in a mapping.
    item: Option<usize>,
    /// The key whose value comes next.
    key: Option<String>,
}

impl Walk {
    /// A value begins: where it stands, or `None` if it is a key.
    fn place(&mut self, scalar: Option<&str>, line: usize) -> Option<String> {
        let Some(around) = self.open.last_mut() else {
            self.lines.insert((self.document, String::new()), line);
            return Some(String::new());
        };
        let place = match (&mut around.item, around.key.take()) {
            (Some(item), _) => {
                *item += 1;
                format!("{}[{}]", around.place, *item - 1)
            }
            (None, Some(key)) if around.place.is_empty() => key,
            (None, Some(key)) => format!("{}.{key}", around.place),
            (None, None) => {
                let key = scalar.unwrap_or_default();
                around.key = Some(key.to_owned());
                let place = if around.place.is_empty() { key.to_owned() } else { format!("{}.{key}", around.place) };
                self.lines.insert((self.document, place), line);
                return None;
            }
        };
        // That of its key, where it has one.
        self.lines.entry((self.document, place.clone())).or_insert(line);
        Some(place)
    }
}

impl<'input> SpannedEventReceiver<'input> for Walk {
    fn on_event(&mut self, event: Event<'input>, span: Span) {
        let line = span.start.line();
        match event {
            Event::DocumentEnd => self.document += 1,
            Event::Scalar(text, ..) => drop(self.place(Some(&text), line)),
            Event::Alias(_) => drop(self.place(None, line)),
            Event::SequenceStart(..) => {
                let place = self.place(None, line).unwrap_or_default();
                self.open.push(Around { place, item: Some(0), key: None });
            }
            Event::MappingStart(..) => {
                let place = self.place(None, line).unwrap_or_default();
                self.open.push(Around { place, item: None, key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => drop(self.open.pop()),
            _ => {}
        }
    }
}
