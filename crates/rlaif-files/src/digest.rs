//! Keys of contents, as results on the disk have them.

use sha2::{Digest as _, Sha256};

/// The SHA-256 hash of several parts, each with its length before it, so that no two lists of parts
/// run together into the same bytes.
///
/// ```
/// use rlaif_files::Digest;
///
/// let hash = |parts: &[&str]| Digest::of(parts.iter().map(|part| part.as_bytes())).hex(8);
/// assert_eq!(hash(&["ab", "c"]).len(), 16);
/// assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
/// ```
#[derive(Debug, Default)]
pub struct Digest(Sha256);

impl Digest {
    /// Returns the hash of `parts`.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut digest = Self::default();
        parts.into_iter().for_each(|part| digest.add(part));
        digest
    }

    /// Returns the hash of parts of which some may be absent: an absent part differs from an empty one.
    pub fn of_optional<'a>(parts: impl IntoIterator<Item = Option<&'a [u8]>>) -> Self {
        let mut digest = Self::default();
        for part in parts {
            match part {
                Some(part) => digest.add(part),
                // No part is so long.
                None => digest.0.update(u64::MAX.to_le_bytes()),
            }
        }
        digest
    }

    /// Adds a part.
    pub fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    /// Returns the hash.
    #[must_use]
    pub fn bytes(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    /// Returns the first `bytes` of the hash in hexadecimal digits, two for each.
    ///
    /// # Panics
    /// If `bytes` is more than 32, the length of the hash.
    #[must_use]
    pub fn hex(self, bytes: usize) -> String {
        hex(&self.bytes()[..bytes])
    }
}

/// Returns `bytes` in hexadecimal digits, two for each.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|half| DIGITS[usize::from(half)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_bytes() {
        assert_eq!(hex(&[0, 0x0f, 0xa0, 0xff]), "000fa0ff");
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::default().hex(32), empty, "the hash of nothing");
    }

    #[test]
    fn an_absent_part_is_no_empty_part() {
        let hash = |parts: &[Option<&str>]| {
            Digest::of_optional(parts.iter().map(|part| part.map(str::as_bytes))).bytes()
        };
        let all =
            [hash(&[]), hash(&[None]), hash(&[Some("")]), hash(&[None, None]), hash(&[Some("a")])];
        let different: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert_eq!(hash(&[Some("a"), Some("b")]), Digest::of([b"a".as_slice(), b"b"]).bytes());
    }
}
