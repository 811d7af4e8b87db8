//! Fields of requests. Each is read by its name, and those that are left over are refused: a client learns that a
//! field has no effect. A fault names the field, the expected and the found value.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A field that is missing, wrong or unknown, or a body that has no fields.
#[derive(Debug)]
pub(crate) struct FieldFault {
    /// The field with the fields that it is in; `None` for the body itself.
    pub(crate) field: Option<String>,
    /// The fault in a sentence.
    pub(crate) message: String,
}

impl FieldFault {
    fn of(field: String, message: String) -> Self {
        Self { field: Some(field), message }
    }
}

/// The fields of a request that have not been read.
#[derive(Debug)]
pub(crate) struct Fields {
    /// The fields that these are in, with a dot behind each.
    path: String,
    left: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    pub(crate) fn read(body: &[u8]) -> Result<Self, FieldFault> {
        let fault = |message: String| FieldFault { field: None, message };
        let value: Value = serde_json::from_slice(body).map_err(|e| {
            // serde_json's message has names of Rust's types.
            fault(format!("the body is not JSON: line {}, column {}", e.line(), e.column()))
        })?;
        match value {
            Value::Object(left) => Ok(Self { path: String::new(), left, known: Vec::new() }),
            other => {
                let found = shown(&other);
                Err(fault(format!("the body should be a JSON object, but is {found}")))
            }
        }
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// The fields of an object; `None` if it is null or absent.
    pub(crate) fn inner(&mut self, name: &'static str) -> Result<Option<Self>, FieldFault> {
        let Some(left) = self.take(name, "an object")? else { return Ok(None) };
        let path = format!("{}.", self.full(name));
        Ok(Some(Self { path, left, known: Vec::new() }))
    }

    /// A field's value; `None` if it is null or absent.
    pub(crate) fn take<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Result<Option<T>, FieldFault> {
        self.known.push(name);
        let Some(value) = self.left.remove(name).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let found = shown(&value);
        let field = self.full(name);
        serde_json::from_value(value).map(Some).map_err(|_| {
            let message = format!("`{field}` should be {expected}, but is {found}");
            FieldFault::of(field, message)
        })
    }

    /// The same for a field that must be there.
    pub(crate) fn needed<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Result<T, FieldFault> {
        let value = self.take(name, expected)?;
        value.ok_or_else(|| self.missing(name, expected))
    }

    /// The fault of a field that must be there.
    pub(crate) fn missing(&self, name: &str, expected: &str) -> FieldFault {
        let field = self.full(name);
        let message = format!("`{field}` is missing; it should be {expected}");
        FieldFault::of(field, message)
    }

    /// Accepts a field only with a value that changes nothing.
    pub(crate) fn without(
        &mut self,
        name: &'static str,
        neutral: &[Value],
        reason: &str,
    ) -> Result<(), FieldFault> {
        let Some(value) = self.left.remove(name).filter(|value| !value.is_null()) else {
            return Ok(());
        };
        // 0 and 0.0 are one number.
        let equal =
            |one: &Value| *one == value || (one.is_number() && one.as_f64() == value.as_f64());
        if neutral.iter().any(equal) {
            return Ok(());
        }
        let (field, found) = (self.full(name), shown(&value));
        let message = format!("`{field}` is {found}, which is not supported: {reason}");
        Err(FieldFault::of(field, message))
    }

    /// Refuses fields that nobody has read.
    pub(crate) fn end(self) -> Result<(), FieldFault> {
        let Some(name) = self.left.keys().next() else { return Ok(()) };
        let known = self.known.join("`, `");
        let field = self.full(&name.chars().take(100).collect::<String>());
        let message = format!("`{field}` is not supported; there are `{known}`");
        Err(FieldFault::of(field, message))
    }
}

/// A value, shortened.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_read_by_name_or_refused_by_name() {
        let mut fields =
            Fields::read(br#"{"n": 2, "user": null, "best_of": 1.0, "suffix": "x", "odd": 1}"#)
                .unwrap();
        assert_eq!(fields.take::<u32>("n", "a number").unwrap(), Some(2));
        assert_eq!(fields.take::<String>("user", "a text").unwrap(), None);
        fields.without("best_of", &[json!(1)], "unused").unwrap();
        let refused =
            fields.without("suffix", &[json!("")], "it needs a model for infilling").unwrap_err();
        assert!(
            refused.message.contains("`suffix` is \"x\"") && refused.field.unwrap() == "suffix"
        );
        let refused = fields.end().unwrap_err();
        assert!(refused.message.contains("`odd`") && refused.message.contains("`n`, `user`"));
        let mut fields = Fields::read(br#"{"n": "two"}"#).unwrap();
        let refused = fields.take::<u32>("n", "a number").unwrap_err();
        assert_eq!(refused.message, "`n` should be a number, but is \"two\"");
        assert!(fields.needed::<u32>("seed", "a number").unwrap_err().message.contains("missing"));
        let refused = Fields::read(b"[1]").unwrap_err();
        assert_eq!(refused.message, "the body should be a JSON object, but is [1]");
        let refused = Fields::read(b"{\n  \"n\": ").unwrap_err();
        assert_eq!(refused.message, "the body is not JSON: line 2, column 7");
    }

    #[test]
    fn fields_of_objects_have_the_path() {
        let mut outer =
            Fields::read(br#"{"answer": {"choice": 3, "odd": 1}, "other": []}"#).unwrap();
        let mut inner = outer.inner("answer").unwrap().unwrap();
        let refused = inner.take::<String>("choice", "a text").unwrap_err();
        assert_eq!(refused.message, "`answer.choice` should be a text, but is 3");
        assert_eq!(inner.end().unwrap_err().field.as_deref(), Some("answer.odd"));
        let refused = outer.inner("other").unwrap_err();
        assert_eq!(refused.message, "`other` should be an object, but is []");
        assert!(outer.inner("none").unwrap().is_none());
    }
}
