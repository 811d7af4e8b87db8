//! Fields of a file in a type of ours, with errors that name them.

use std::path::Path;

use serde::{
    Deserializer,
    de::{DeserializeOwned, Visitor},
};
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use crate::error::ModelError;

/// The names of the fields of a struct that derives `Deserialize`.
pub(super) fn field_names<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Asks<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Asks<'_> {
        type Error = serde::de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("not a struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(serde::de::Error::custom("the names are known"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
            unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut names: &'static [&'static str] = &[];
    // The value is never created; only the requested fields count.
    drop(T::deserialize(Asks(&mut names)));
    names
}

/// Fields in a type of ours, with an error that names the file, the field, and the found value.
pub(super) fn parse<T: DeserializeOwned>(
    file: &Path,
    fields: Map<String, Value>,
) -> Result<T, ModelError> {
    let document = Value::Object(fields);
    serde_path_to_error::deserialize(&document).map_err(|error| {
        let found = error.path().iter().try_fold(&document, |value, segment| match segment {
            Segment::Seq { index } => value.get(index),
            Segment::Map { key } => value.get(key),
            _ => None,
        });
        let field = error.path().to_string();
        let source = error.into_inner();
        let said = source.to_string();
        let mistaken = said.starts_with("invalid type") || said.starts_with("invalid value");
        match (said.rsplit_once(", expected "), found) {
            (Some((_, expected)), Some(found)) if mistaken => {
                wrong(file, &field, found, in_plain_words(expected))
            }
            _ => ModelError::Config { file: file.to_owned(), field, source },
        }
    })
}

/// The error for a value of the wrong type.
pub(super) fn wrong(file: &Path, field: &str, found: &Value, expected: &str) -> ModelError {
    const SHOWN: usize = 60;
    let mut found = found.to_string();
    if let Some((end, _)) = found.char_indices().nth(SHOWN) {
        found.replace_range(end.., " ..");
    }
    ModelError::Config {
        file: file.to_owned(),
        field: field.to_owned(),
        source: serde::de::Error::custom(format_args!("found {found}, expected {expected}")),
    }
}

/// The types of Rust and serde in the words of JSON.
fn in_plain_words(expected: &str) -> &str {
    match expected {
        "i64" => "an integer",
        "usize" | "u64" => "an integer of at least 0",
        "u32" => "an integer from 0 to 4294967295",
        "u8" => "an integer from 0 to 255",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "text",
        "a sequence" => "a list",
        "a map" => "an object",
        other => other,
    }
}

/// A document that is an object.
pub(super) fn object(file: &Path, document: Value) -> Result<Map<String, Value>, ModelError> {
    match document {
        Value::Object(fields) => Ok(fields),
        other => Err(wrong(file, ".", &other, "an object")),
    }
}
