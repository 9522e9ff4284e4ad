//! Header maps, and the encoding in which the ABI passes a whole one.

/// A header map: names in lower case, in order, a name perhaps more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, Vec<u8>)>);

impl Headers {
    /// The first value of a name, as the ABI gives it.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..])
    }

    /// The first value of a name as text.
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// Adds a value; keeps those that are there.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.0.push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
    }

    /// Leaves one value of a name, where the first was, or else at the end.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let name = name.to_ascii_lowercase();
        match self.0.iter().position(|(key, _)| *key == name) {
            Some(first) => {
                self.0[first].1 = value.as_ref().to_vec();
                let mut index = 0;
                self.0.retain(|(key, _)| {
                    index += 1;
                    index <= first + 1 || *key != name
                });
            }
            None => self.add(&name, value),
        }
    }

    /// Removes all values of a name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut headers = Self::default();
        for (name, value) in pairs {
            headers.add(name.as_ref(), value);
        }
        headers
    }
}

/// A count, the lengths of each name and value, then each of them with a NUL behind it.
pub fn encode_pairs(headers: &Headers) -> Vec<u8> {
    let mut bytes = (headers.0.len() as u32).to_le_bytes().to_vec();
    for (name, value) in &headers.0 {
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend((value.len() as u32).to_le_bytes());
    }
    for (name, value) in &headers.0 {
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.extend(value);
        bytes.push(0);
    }
    bytes
}

/// The reverse; `None` where a real host would find fault with it.
pub fn decode_pairs(bytes: &[u8]) -> Option<Headers> {
    fn number(bytes: &[u8], at: usize) -> Option<usize> {
        bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk) as usize)
    }
    if bytes.is_empty() {
        return Some(Headers::default());
    }
    let count = number(bytes, 0)?;
    let mut at = count.checked_mul(8)?.checked_add(4)?;
    let text = |length: usize, at: &mut usize| {
        let end = at.checked_add(length)?;
        let text = bytes.get(*at..end)?;
        (bytes.get(end) == Some(&0)).then(|| *at = end + 1)?;
        Some(text.to_vec())
    };
    let mut headers = Headers::default();
    for pair in 0..count {
        let name = String::from_utf8(text(number(bytes, 4 + pair * 8)?, &mut at)?).ok()?;
        let value = text(number(bytes, 8 + pair * 8)?, &mut at)?;
        headers.add(&name, value);
    }
    (at == bytes.len()).then_some(headers)
}

/// Encodings that no host should send.
pub fn malformed_pairs() -> Vec<Vec<u8>> {
    let good = encode_pairs(&[(":method", "GET"), ("x", ""), ("", "y")].into_iter().collect());
    let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|length| good[..length].to_vec()).collect();
    for (offset, number) in [(0, u32::MAX), (0, 4), (0, 1 << 29), (4, u32::MAX), (8, u32::MAX), (8, 1 << 31), (12, 9)] {
        let mut bytes = good.clone();
        bytes[offset..offset + 4].copy_from_slice(&number.to_le_bytes());
        bad.push(bytes);
    }
    bad.push([&good[..], b"more"].concat());
    bad.push(vec![0xff; 64]);
    bad.push(good.iter().map(|byte| if *byte == b'G' { 0xff } else { *byte }).collect());
    bad
}
