//! Keys that never show.

use secrecy::{ExposeSecret, SecretString};

/// Where settings that are not for files come from: an environment variable's value by its name.
///
/// `std::env::var(name).ok()` as a function, or any other store that a program keeps its keys in.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

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
#[error("{origin}, which is to hold a key, {problem}")]
pub struct BadSecret {
    /// Where the key was to come from: a variable, a file.
    pub origin: String,
    /// What is wrong with it, as a predicate: `is not set`.
    pub problem: &'static str,
}

impl Secret {
    /// The secret in `text`, without white space around it; `origin` says where it is from.
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
    pub fn from_environment(name: &str, environment: Environment<'_>) -> Result<Self, BadSecret> {
        let unset = || BadSecret { origin: name.to_owned(), problem: "is not set" };
        Self::new(&environment(name).ok_or_else(unset)?, name)
    }

    /// The secret itself, for a request and nothing else.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// `text` without this secret, which servers like to repeat in their errors.
    pub fn redact(&self, text: &str) -> String {
        text.replace(self.expose(), "[redacted]")
    }
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
        assert_eq!(error.to_string(), "KEY, which is to hold a key, is not set");
    }
}
