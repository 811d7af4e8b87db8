//! The access token: where it comes from, and never a way to print it.

use std::fmt;

use rlaif_http::Secret;

use crate::HubError;

/// An access token, and where it came from.
#[derive(Clone)]
pub(crate) struct Token {
    secret: Secret,
    origin: String,
}

impl Token {
    /// `None` for an empty one.
    pub(crate) fn new(secret: &str, origin: impl Into<String>) -> Result<Option<Self>, HubError> {
        let origin = origin.into();
        if secret.trim().is_empty() {
            return Ok(None);
        }
        // What any header may hold is checked there; quotes are left from copying.
        match Secret::new(secret, &origin) {
            Ok(secret) if !secret.expose().contains([' ', '"', '\'']) => {
                Ok(Some(Self { secret, origin }))
            }
            _ => Err(HubError::InvalidToken { origin }),
        }
    }

    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.secret.expose())
    }

    /// `text` without this token, should a server echo it.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.secret.redact(text)
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
        assert_eq!(token.redact("you sent hf_secret!"), "you sent [redacted]!");
        assert!(Token::new("  ", "HF_TOKEN").unwrap().is_none());
        let error = Token::new("hf_a\r\nX: hf_b", "HF_TOKEN").unwrap_err();
        assert!(matches!(&error, HubError::InvalidToken { origin } if origin == "HF_TOKEN"));
        assert!(!format!("{error} {error:?}").contains("hf_"));
    }
}
