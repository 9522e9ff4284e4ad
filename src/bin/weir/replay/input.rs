//! Log files: plain, gzip, or standard input, read side by side in the order of time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};

use flate2::read::MultiGzDecoder;
use indicatif::{ProgressBar, ProgressStyle};

/// The most bytes of a line that is read; a longer one is skipped.
const LONGEST_LINE: usize = 1 << 20;

/// A log file that is read line by line.
pub struct Input {
    /// The name of the file in the report.
    pub name: String,
    /// The number of lines that were read so far.
    pub lines: u64,
    reader: Box<dyn BufRead>,
    line: Vec<u8>,
}

/// What a file is called in the report.
pub fn shown(name: &str) -> &str {
    if name == "-" { "standard input" } else { name }
}

/// What a file has next.
pub enum Next<'a> {
    /// A line without its end.
    Line(&'a [u8]),
    /// A line that is longer than any.
    TooLong,
    /// No more.
    End,
}

impl Input {
    /// Opens a file; `-` is standard input. What begins like gzip is taken for it, whatever its name.
    pub fn open(name: &str, progress: &ProgressBar) -> io::Result<Self> {
        let raw: Box<dyn Read> = if name == "-" {
            Box::new(io::stdin().lock())
        } else {
            let file = File::open(name)?;
            progress.inc_length(file.metadata().map_or(0, |metadata| metadata.len()));
            Box::new(file)
        };
        let mut buffered = BufReader::with_capacity(1 << 16, progress.wrap_read(raw));
        let gzip = buffered.fill_buf()?.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn BufRead> = if gzip {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(buffered)))
        } else {
            Box::new(buffered)
        };
        Ok(Self { name: shown(name).to_owned(), lines: 0, reader, line: Vec::new() })
    }

    /// The next line that is not empty.
    pub fn next(&mut self) -> io::Result<Next<'_>> {
        loop {
            self.line.clear();
            let read = self.reader.by_ref().take(LONGEST_LINE as u64 + 1).read_until(b'\n', &mut self.line)?;
            if read == 0 {
                return Ok(Next::End);
            }
            self.lines += 1;
            if self.line.last() != Some(&b'\n') && read > LONGEST_LINE {
                self.skip_line()?;
                return Ok(Next::TooLong);
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        Ok(Next::Line(self.line.trim_ascii()))
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.reader.fill_buf()?;
            let (used, done) = match buffer.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.reader.consume(used);
            if done {
                return Ok(());
            }
        }
    }
}

/// A bar of bytes, where somebody looks.
pub fn progress(wanted: bool) -> ProgressBar {
    if !wanted || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style);
    }
    bar
}
