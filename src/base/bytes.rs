//! The records that workers share, as bytes: one reader and one writer for all of them.
//!
//! A record starts with its [`Format`]. Numbers are little-endian, and a text has its length before it. Anybody may have
//! written what is read: another version of the module, or another plugin. So each read returns `None` where the bytes end
//! too early, and a record that does not read to its end is no record.

use super::time::Time;

/// The first bytes of a record: three letters that name it, and the version of what follows.
pub type Format = [u8; 4];

/// Reads a record from its front.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader of what follows the format. `None` if the record has another format.
    #[must_use]
    pub fn new(record: &'a [u8], format: &Format) -> Option<Self> {
        record.strip_prefix(format).map(Self)
    }

    /// Whether all was read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    /// Reads a number of two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    /// Reads a number of four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// Reads a number of eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// Reads `N` numbers of eight bytes.
    pub fn u64s<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut numbers = [0; N];
        self.fill(&mut numbers).then_some(numbers)
    }

    /// Reads as many numbers as there are. (The same code for each count of them.)
    #[inline(never)]
    fn fill(&mut self, numbers: &mut [u64]) -> bool {
        numbers.iter_mut().all(|number| self.u64().map(|read| *number = read).is_some())
    }

    /// Reads a moment: nanoseconds since the Unix epoch, in eight bytes.
    pub fn time(&mut self) -> Option<Time> {
        self.u64().map(Time::from_nanos)
    }

    /// Reads a text of at most 255 bytes. `None` also if it is not UTF-8.
    pub fn text(&mut self) -> Option<&'a str> {
        let length = self.u8()?;
        let (text, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }
}

/// A reader of the rest of a record, whose format was read.
impl<'a> From<&'a [u8]> for Reader<'a> {
    fn from(rest: &'a [u8]) -> Self {
        Self(rest)
    }
}

/// Writes a record to its end.
#[derive(Debug)]
pub struct Writer<'a>(&'a mut Vec<u8>);

impl<'a> Writer<'a> {
    /// A writer that replaces what is in `record`, and has written the format. `bytes` says how many there will be about.
    pub fn new(record: &'a mut Vec<u8>, format: &Format, bytes: usize) -> Self {
        record.clear();
        record.reserve(bytes);
        record.extend_from_slice(format);
        Self(record)
    }

    /// Writes a byte.
    pub fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    /// Writes a number of two bytes.
    pub fn u16(&mut self, number: u16) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Writes a number of four bytes.
    pub fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Writes numbers of eight bytes. To extend a record costs as much as the bytes, so all numbers are written at once.
    pub fn u64s<const N: usize>(&mut self, numbers: [u64; N]) {
        self.0.extend_from_slice(numbers.map(u64::to_le_bytes).as_flattened());
    }

    /// Writes moments: nanoseconds since the Unix epoch, in eight bytes each.
    pub fn times<const N: usize>(&mut self, times: [Time; N]) {
        self.u64s(times.map(Time::as_nanos));
    }

    /// Writes a text; of a longer one, its first 255 bytes, which then may not read as a text.
    pub fn text(&mut self, text: &str) {
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        self.u8(length);
        self.0.extend_from_slice(text.as_bytes().get(..usize::from(length)).unwrap_or_default());
    }
}

/// A writer that goes on at the end of `record`.
impl<'a> From<&'a mut Vec<u8>> for Writer<'a> {
    fn from(record: &'a mut Vec<u8>) -> Self {
        Self(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut record = vec![1, 2, 3];
        let mut writer = Writer::new(&mut record, b"wrx\x01", 0);
        writer.u8(1);
        writer.u16(0x0203);
        writer.u32(0x0405_0607);
        writer.u64s([8, u64::MAX]);
        writer.times([Time::from_nanos(9)]);
        writer.text("10.0.0.1:80");
        assert_eq!(record[..11], [b'w', b'r', b'x', 1, 1, 3, 2, 7, 6, 5, 4]);
        let mut reader = Reader::new(&record, b"wrx\x01").unwrap();
        assert_eq!((reader.u8(), reader.u16(), reader.u32()), (Some(1), Some(0x0203), Some(0x0405_0607)));
        assert_eq!((reader.u64s(), reader.time()), (Some([8, u64::MAX]), Some(Time::from_nanos(9))));
        assert!(!reader.is_empty());
        assert_eq!(reader.text(), Some("10.0.0.1:80"));
        assert!(reader.is_empty());
    }

    #[test]
    fn what_ends_too_early_or_is_no_text_is_not_read() {
        let record = [7; 7];
        for length in 0..record.len() {
            let reader = Reader::from(&record[..length]);
            assert_eq!(reader.clone().u8().is_some(), length >= 1);
            assert_eq!(reader.clone().u16().is_some(), length >= 2);
            assert_eq!(reader.clone().u32().is_some(), length >= 4);
            assert_eq!(reader.clone().u64(), None);
            assert_eq!(reader.clone().u64s::<0>(), Some([]));
            assert_eq!(reader.clone().text(), None);
        }
        assert_eq!(Reader::from(&[0, 1][..]).text(), Some(""));
        assert_eq!(Reader::from(&[1, 0xff][..]).text(), None);
        assert!(Reader::new(b"wrx\x02", b"wrx\x01").is_none());
        assert!(Reader::new(b"wrx", b"wrx\x01").is_none());
    }

    #[test]
    fn a_text_that_is_too_long_is_cut() {
        let mut record = Vec::new();
        Writer::from(&mut record).text(&"a".repeat(300));
        let mut reader = Reader::from(&record[..]);
        assert_eq!(reader.text().map(str::len), Some(255));
        assert!(reader.is_empty());
    }
}
