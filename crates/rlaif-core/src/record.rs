//! What the algorithms work on, as text.

use serde::{Deserialize, Serialize};

/// One turn of a conversation, as chat templates read it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or whatever else the model's chat template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn of `role` that says `content`.
    ///
    /// ```
    /// let turn = rlaif_core::Message::new("user", "When can a newborn eat solid food?");
    /// assert_eq!(turn.role, "user");
    /// ```
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}
