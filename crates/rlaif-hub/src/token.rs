//! The access token: where it comes from, and never a way to print it.

use std::fmt;

use crate::HubError;

/// An access token, and where it came from.
#[derive(Clone)]
pub(crate) struct Token {
    secret: String,
    origin: String,
}

impl Token {
    /// `None` for an empty one.
    pub(crate) fn new(secret: &str, origin: impl Into<String>) -> Result<Option<Self>, HubError> {
        let secret = secret.trim();
        let origin = origin.into();
        if secret.is_empty() {
            return Ok(None);
        }
        if !secret.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\'') {
            return Err(HubError::InvalidToken { origin });
        }
        Ok(Some(Self { secret: secret.to_owned(), origin }))
    }

    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.secret)
    }

    /// `text` without this token, should a server echo it.
    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(&self.secret, "***")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(*** from {})", self.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_trimmed_checked_and_never_printed() {
        let token = Token::new(" hf_secret\n", "HF_TOKEN").unwrap().unwrap();
        assert_eq!(token.header(), "Bearer hf_secret");
        assert!(!format!("{token:?}").contains("secret"));
        assert_eq!(token.redact("you sent hf_secret!"), "you sent ***!");
        assert!(Token::new("  ", "HF_TOKEN").unwrap().is_none());
        let error = Token::new("hf_a\r\nX: hf_b", "HF_TOKEN").unwrap_err();
        assert!(matches!(&error, HubError::InvalidToken { origin } if origin == "HF_TOKEN"));
        assert!(!format!("{error} {error:?}").contains("hf_"));
    }
}
