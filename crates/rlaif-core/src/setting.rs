//! A setting that has a value it may not have.

use std::{borrow::Cow, fmt};

/// A setting out of its range: its name, its value, and the values it may have.
///
/// Libraries name the field by its path in their own configuration; [`BadSetting::within`] adds
/// the section of the configuration's file.
///
/// ```
/// use rlaif_core::BadSetting;
/// let error = BadSetting::new("lr", -1., "a positive number").within("optimizer");
/// assert_eq!(error.to_string(), "`optimizer.lr` is -1; expected a positive number");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` is {found}; expected {expected}")]
#[non_exhaustive]
pub struct BadSetting {
    /// The setting, by its path in the configuration, with dots.
    pub field: Cow<'static, str>,
    /// The value.
    pub found: String,
    /// The values it may have, and where it helps, the advice.
    pub expected: Cow<'static, str>,
}

impl BadSetting {
    /// The error of `field`, which is `found` and may be `expected`.
    pub fn new(
        field: impl Into<Cow<'static, str>>,
        found: impl fmt::Display,
        expected: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { field: field.into(), found: found.to_string(), expected: expected.into() }
    }

    /// The same error with the field's path prefixed by `section` and a dot.
    #[must_use]
    pub fn within(mut self, section: &str) -> Self {
        self.field = format!("{section}.{}", self.field).into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_nest_from_the_inside_out() {
        let error = BadSetting::new("low", 2, "at most 1").within("clip").within("ppo");
        assert_eq!(error.field, "ppo.clip.low");
        assert_eq!(error.to_string(), "`ppo.clip.low` is 2; expected at most 1");
    }
}
