//! Keys that never show.

use secrecy::{ExposeSecret, SecretString};

/// The least characters of a key that no usual text holds by chance.
const SHORTEST: usize = 8;

/// Source of settings that are kept out of files: an environment variable's value by its name.
///
/// `std::env::var(name).ok()` as a function, or any other store that a program keeps its keys in.
pub type EnvVars<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// An API key, a token or the like. Its `Debug` is redacted, there is no way to serialise it, and its
/// memory is overwritten when it is dropped.
///
/// ```
/// use rlaif_http::Secret;
/// let key = Secret::from_environment("KEY", &|_| Some("sk-123".to_owned()))?;
/// assert_eq!(format!("{key:?}"), "Secret(redacted)");
/// assert_eq!(key.redact("no such key: sk-123"), "no such key: [redacted]");
/// # Ok::<(), rlaif_http::BadSecret>(())
/// ```
#[derive(Clone)]
pub struct Secret(SecretString);

/// A key that is not there, or that no request can carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}, which should hold a key, {problem}")]
pub struct BadSecret {
    /// The intended source of the key: a variable, a file.
    pub origin: String,
    /// The fault of the key, as a predicate: `is not set`.
    pub problem: &'static str,
}

impl Secret {
    /// The secret in `text`, without white space around it; `origin` names its source.
    ///
    /// # Errors
    /// [`BadSecret`] when it is empty or cannot stand in a header.
    pub fn new(text: &str, origin: &str) -> Result<Self, BadSecret> {
        let refused = |problem| BadSecret { origin: origin.to_owned(), problem };
        let text = text.trim();
        if text.is_empty() {
            return Err(refused("is empty"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(refused("has characters that no header may have, such as a line end"));
        }
        Ok(Self(text.into()))
    }

    /// The value of the environment variable `name`, without white space around it.
    ///
    /// # Errors
    /// [`BadSecret`] when it is not set, empty, or cannot stand in a header.
    pub fn from_environment(name: &str, environment: EnvVars<'_>) -> Result<Self, BadSecret> {
        // A key pasted in place of its name must not appear in a log.
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let any = |is: fn(&char) -> bool| name.chars().filter(is).count();
        let (lower, upper) = (any(char::is_ascii_lowercase), any(char::is_ascii_uppercase));
        let digits = any(char::is_ascii_digit);
        let named = (1..=64).contains(&name.len())
            && name.chars().all(letters)
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && digits < 8
            && (lower == 0 || digits == 0 || (upper == 0 && digits < 3));
        if !named {
            return Err(BadSecret {
                origin: "(not shown)".to_owned(),
                problem: "does not look like the name of a variable; put the key into an \
                          environment variable and its name here",
            });
        }
        let unset = || BadSecret { origin: name.to_owned(), problem: "is not set" };
        Self::new(&environment(name).ok_or_else(unset)?, name)
    }

    /// The secret itself, for a request and nothing else.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// `text` without this secret, which servers like to repeat in their errors. A text with the
    /// secret in a disguise is left out as a whole.
    ///
    /// For what is shown, never for what is read: a short key may be part of any number. One that is
    /// so short that any word may have it is cut out where it is a word of its own.
    pub fn redact(&self, text: &str) -> String {
        let key = self.expose();
        let mut cleared = String::with_capacity(text.len());
        let mut rest = 0;
        for (at, _) in text.match_indices(key) {
            let part_of_a_word = key.len() < SHORTEST
                && (text[..at].ends_with(char::is_alphanumeric)
                    || text[at + key.len()..].starts_with(char::is_alphanumeric));
            if !part_of_a_word {
                cleared.push_str(&text[rest..at]);
                cleared.push_str("[redacted]");
                rest = at + key.len();
            }
        }
        cleared.push_str(&text[rest..]);
        if self.is_in(&cleared) { "[redacted]".to_owned() } else { cleared }
    }

    /// Tells whether `text` holds this secret: as it is, reversed, in other letters, with something
    /// between them, in hexadecimal or in base 64. Not for one so short that any text may have it.
    pub fn is_in(&self, text: &str) -> bool {
        let bare = |text: &str| -> String {
            text.chars()
                .filter(char::is_ascii_alphanumeric)
                .map(|c| c.to_ascii_lowercase())
                .collect()
        };
        let key = bare(self.expose());
        if key.len() < SHORTEST {
            return self.expose().len() >= SHORTEST && text.contains(self.expose());
        }
        let text = bare(text);
        let hex: String = self.expose().bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut disguises = vec![key.chars().rev().collect(), hex, key];
        // Base 64 of a text that has the key anywhere: three ways in which it falls into groups.
        for (before, affected) in [(0, 0), (1, 2), (2, 3)] {
            let bytes: Vec<u8> =
                std::iter::repeat_n(0, before).chain(self.expose().bytes()).collect();
            let encoded = base64(&bytes);
            disguises.push(bare(encoded.get(affected..encoded.len() - 3).unwrap_or_default()));
        }
        disguises.iter().any(|disguise| disguise.len() >= SHORTEST && text.contains(disguise))
    }
}

/// Base 64 without padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        (0..=group.len())
            .map(|n| char::from(DIGITS[(bits >> (18 - 6 * n) & 63) as usize]))
            .collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_trimmed_checked_and_never_printed() {
        let secret = Secret::new(" sk-secret\n", "KEY").unwrap();
        assert_eq!(secret.expose(), "sk-secret");
        assert!(!format!("{secret:?} {secret:#?}").contains("sk-"));
        assert_eq!(secret.redact("you sent sk-secret!"), "you sent [redacted]!");
        for bad in ["", " \n", "sk-a\r\nX: sk-b", "sk-\u{e9}"] {
            let error = Secret::new(bad, "KEY").unwrap_err();
            assert_eq!(error.origin, "KEY");
            assert!(!format!("{error} {error:?}").contains("sk-"), "{error}");
        }
        let error = Secret::from_environment("KEY", &|_| None).unwrap_err();
        assert_eq!(error.to_string(), "KEY, which should hold a key, is not set");
    }

    #[test]
    fn a_disguised_key_is_found() {
        let secret = Secret::new("sk-hidden-7f3a9", "KEY").unwrap();
        for text in [
            "sk-hidden-7f3a9",
            "SK-HIDDEN-7F3A9",
            "9a3f7-neddih-ks",
            "s k - h i d d e n - 7 f 3 a 9",
            "s.k.h.i.d.d.e.n.7.f.3.a.9",
            "c2staGlkZGVuLTdmM2E5",
            "QmVhcmVyIHNrLWhpZGRlbi03ZjNhOQ==",
            "eHNrLWhpZGRlbi03ZjNhOXg=",
            "736b2d68696464656e2d3766336139",
        ] {
            assert!(secret.is_in(text), "{text}");
            assert!(!secret.redact(&format!("no: {text}")).contains(text), "{text}");
        }
        for text in ["", "a hidden flaw", "sk-hidden", "8"] {
            assert!(!secret.is_in(text), "{text}");
            assert_eq!(secret.redact(text), text);
        }
        assert!(!Secret::new("0", "KEY").unwrap().is_in("10"));
        let short = Secret::new("k", "KEY").unwrap();
        let said = "the connection broke; the key k is not known";
        assert_eq!(short.redact(said), "the connection broke; the key [redacted] is not known");
    }

    #[test]
    fn a_key_in_place_of_a_name_is_not_repeated() {
        for pasted in
            ["sk-verysecret123", "sk_live_verysecret123", "AbC123xYz789", "a b", "", "7up"]
        {
            let error = Secret::from_environment(pasted, &|_| None).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains("does not look like the name of a variable"), "{text}");
            assert!(pasted.len() < 4 || !text.contains(pasted), "{text}");
        }
        let error = Secret::from_environment("MY_KEY_2", &|_| None).unwrap_err().to_string();
        assert!(error.contains("MY_KEY_2") && error.contains("not set"), "{error}");
    }
}
