//! Keys that never show.

use crate::ProviderError;

/// Where settings that are not for files come from: an environment variable's value by its name.
///
/// `std::env::var(name).ok()` as a function, or whatever a program keeps its keys in.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// An API key, a token or the like. Its `Debug` is redacted and there is no way to serialise it.
///
/// ```
/// use rlaif_rewards::judge::Secret;
/// let key = Secret::from_environment("KEY", &|_| Some("sk-123".to_owned()))?;
/// assert_eq!(format!("{key:?}"), "Secret(redacted)");
/// # Ok::<(), rlaif_rewards::ProviderError>(())
/// ```
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The value of the environment variable `name`, without white space around it.
    ///
    /// # Errors
    /// [`ProviderError::Key`] when it is not set, empty, or cannot stand in a header.
    pub fn from_environment(
        name: &str,
        environment: Environment<'_>,
    ) -> Result<Self, ProviderError> {
        let refused = |problem| ProviderError::Key { variable: name.to_owned(), problem };
        let value = environment(name).ok_or_else(|| refused("is not set"))?;
        let value = value.trim();
        if value.is_empty() {
            return Err(refused("is empty"));
        }
        if !value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(refused("has characters that no header may have, such as a line end"));
        }
        Ok(Self(value.to_owned()))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// `text` without this secret, which servers like to repeat in their errors.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "[redacted]")
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(redacted)")
    }
}
