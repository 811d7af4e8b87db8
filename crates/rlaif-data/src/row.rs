//! One row of a file, independent of the file's format.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::error::DataError;

/// The position of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) source_name: &'a str,
    pub(crate) line: u64,
}

/// One row of a file: named columns, independent of the file's format.
///
/// Absent, null and (in CSV) empty columns are distinguished only where it matters: the `optional_`
/// methods return `None` for the first two.
#[derive(Debug)]
pub struct Row<'a> {
    place: Place<'a>,
    columns: Columns<'a>,
    not_finite: NotFinite,
    texts_alone: bool,
}

/// Numbers of a row that JSON cannot express, which are null among its values: their place,
/// `column` or `column[3].key`, and their spelling in the file.
pub(crate) type NotFinite = rlaif_core::python_json::Places;

#[derive(Debug)]
pub(crate) struct Columns<'a>(pub(crate) Vec<(Cow<'a, str>, Value)>);

impl<'de> Deserialize<'de> for Columns<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Columns<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, one for each row")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut columns = Vec::with_capacity(map.size_hint().unwrap_or(4));
                while let Some((key, value)) = map.next_entry::<Key<'de>, Value>()? {
                    columns.push((key.0, value));
                }
                Ok(Columns(columns))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

impl<'a> Row<'a> {
    pub(crate) fn new(place: Place<'a>, columns: Columns<'a>) -> Self {
        Self { place, columns, not_finite: Vec::new(), texts_alone: false }
    }

    pub(crate) fn with_not_finite(mut self, not_finite: NotFinite) -> Self {
        self.not_finite = not_finite;
        self
    }

    /// The same row of a format that has texts alone, in which a list is JSON text.
    pub(crate) fn of_texts_alone(mut self) -> Self {
        self.texts_alone = true;
        self
    }

    /// `true` for rows of CSV: a list of messages is JSON text there, and a text elsewhere.
    pub fn has_texts_alone(&self) -> bool {
        self.texts_alone
    }

    /// The spelling of a non-finite number at a place of the row: `NaN`, `Infinity` or `-Infinity`.
    /// The number itself is null among the values.
    pub fn not_finite(&self, place: &str) -> Option<&'static str> {
        let found = self.not_finite.iter().find(|(column, _)| column == place);
        found.map(|(_, written)| *written)
    }

    /// The name of the file, as requested.
    pub fn source_name(&self) -> &str {
        self.place.source_name
    }

    /// The line the row begins on, from 1; for Parquet, the row's number.
    pub fn line(&self) -> u64 {
        self.place.line
    }

    /// The names of the columns, in the order of the file.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.0.iter().map(|(name, _)| name.as_ref())
    }

    /// `true` if the column exists and is not null.
    pub fn has(&self, column: &str) -> bool {
        self.get(column).is_some_and(|value| !value.is_null())
    }

    /// The value of a column.
    pub fn get(&self, column: &str) -> Option<&Value> {
        self.columns.0.iter().rev().find(|(name, _)| name == column).map(|(_, value)| value)
    }

    /// Checks that a column exists, even if it is empty: a given name is spelled right.
    ///
    /// # Errors
    /// [`DataError::MissingColumn`], which lists the existing columns.
    pub fn expect(&self, column: &str) -> Result<(), DataError> {
        if self.get(column).is_some() { Ok(()) } else { Err(self.missing(column)) }
    }

    /// Renames columns, all at once; a renamed column replaces an existing one of the new name.
    ///
    /// # Errors
    /// [`DataError::MissingColumn`], which lists the existing columns.
    pub(crate) fn rename(&mut self, names: &[(String, String)]) -> Result<(), DataError> {
        let mut renamed = Vec::with_capacity(names.len());
        for (column, name) in names {
            self.expect(column)?;
            let value = self.get(column).cloned().unwrap_or_default();
            let written = self.not_finite(column);
            renamed.push((name, value, written));
        }
        let gone = |other: &str| names.iter().any(|(a, b)| other == a || other == b);
        self.columns.0.retain(|(other, _)| !gone(other));
        self.not_finite.retain(|(other, _)| !gone(other));
        for (name, value, written) in renamed {
            self.not_finite.extend(written.map(|written| (name.clone(), written)));
            self.columns.0.push((Cow::Owned(name.clone()), value));
        }
        Ok(())
    }

    /// Moves the value of a column out of the row.
    ///
    /// # Errors
    /// [`DataError::MissingColumn`], which lists the existing columns.
    pub fn take(&mut self, column: &str) -> Result<Value, DataError> {
        match self.columns.0.iter_mut().rev().find(|(name, _)| name == column) {
            Some((_, value)) => Ok(value.take()),
            None => Err(self.missing(column)),
        }
    }

    fn missing(&self, column: &str) -> DataError {
        DataError::MissingColumn {
            source_name: self.source_name().to_owned(),
            line: self.line(),
            column: column.to_owned(),
            found: self.columns().map(str::to_owned).collect(),
        }
    }

    /// Moves the text of a column out of the row.
    ///
    /// # Errors
    /// [`DataError::MissingColumn`] or [`DataError::WrongType`].
    pub fn text(&mut self, column: &str) -> Result<String, DataError> {
        match self.take(column)? {
            Value::String(text) => Ok(text),
            other => Err(self.wrong_type(column, "a string", &other)),
        }
    }

    /// Moves the text of a column out of the row, if it has one.
    ///
    /// # Errors
    /// [`DataError::WrongType`].
    pub fn optional_text(&mut self, column: &str) -> Result<Option<String>, DataError> {
        if self.has(column) { self.text(column).map(Some) } else { Ok(None) }
    }

    /// The number in a column; CSV fields are parsed.
    ///
    /// # Errors
    /// [`DataError::MissingColumn`] or [`DataError::WrongType`].
    pub fn number(&mut self, column: &str) -> Result<f64, DataError> {
        let value = self.take(column)?;
        number(&value).ok_or_else(|| self.wrong_type(column, "a finite number", &value))
    }

    /// The number in a column, if it has one.
    ///
    /// # Errors
    /// [`DataError::WrongType`].
    pub fn optional_number(&mut self, column: &str) -> Result<Option<f64>, DataError> {
        let absent = self.not_finite(column).is_none()
            && self.get(column).is_none_or(|v| v.is_null() || v.as_str() == Some(""));
        if absent { Ok(None) } else { self.number(column).map(Some) }
    }

    /// A truth value: a boolean, 0 or 1, or in CSV the words `true` and `false`.
    ///
    /// # Errors
    /// [`DataError::MissingColumn`] or [`DataError::WrongType`].
    pub fn truth(&mut self, column: &str) -> Result<bool, DataError> {
        let value = self.take(column)?;
        let truth = match &value {
            Value::Bool(truth) => Some(*truth),
            Value::Number(number) => match number.as_f64() {
                Some(0.0) => Some(false),
                Some(1.0) => Some(true),
                _ => None,
            },
            Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        };
        truth.ok_or_else(|| self.wrong_type(column, "true or false", &value))
    }

    /// The identity of the row: the value of `column` if a column is named, a string or an integer;
    /// else the hash of `content`.
    ///
    /// # Errors
    /// [`DataError::MissingColumn`] or [`DataError::WrongType`].
    pub fn identity(
        &mut self,
        column: Option<&str>,
        content: &[&str],
    ) -> Result<String, DataError> {
        let Some(column) = column else { return Ok(content_id(content)) };
        match self.take(column)? {
            Value::String(id) if !id.is_empty() => Ok(id),
            Value::Number(number) if !number.is_f64() => Ok(number.to_string()),
            other => Err(self.wrong_type(
                column,
                "an id: a string that is not empty, or a whole number",
                &other,
            )),
        }
    }

    /// The whole row as a type of the caller.
    ///
    /// # Errors
    /// [`DataError::Deserialize`], which lists the existing columns.
    pub fn deserialize<T: DeserializeOwned>(self) -> Result<T, DataError> {
        let Self { place, columns, .. } = self;
        let found: Vec<String> = columns.0.iter().map(|(name, _)| name.to_string()).collect();
        let object =
            columns.0.into_iter().map(|(name, value)| (name.into_owned(), value)).collect();
        T::deserialize(Value::Object(object)).map_err(|source| DataError::Deserialize {
            source_name: place.source_name.to_owned(),
            line: place.line,
            found,
            source,
        })
    }

    /// The error for a column whose value has another type than the record needs.
    pub fn wrong_type(&self, column: &str, expected: &'static str, found: &Value) -> DataError {
        DataError::WrongType {
            source_name: self.source_name().to_owned(),
            line: self.line(),
            column: column.to_owned(),
            expected,
            found: match self.not_finite(column) {
                Some(written) if found.is_null() => written.to_owned(),
                _ => describe(found),
            },
        }
    }
}

/// A finite number; CSV text is parsed.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|number: &f64| number.is_finite())
}

/// The identity of texts: XXH3 (128 bits) of the parts, each preceded by its length, in
/// hexadecimal.
pub(crate) fn content_id(parts: &[&str]) -> String {
    let mut hash = twox_hash::XxHash3_128::new();
    for part in parts {
        hash.write(&(part.len() as u64).to_le_bytes());
        hash.write(part.as_bytes());
    }
    format!("{:032x}", hash.finish_128())
}

fn describe(value: &Value) -> String {
    let (kind, text) = match value {
        Value::Null => return "null".to_owned(),
        Value::Bool(_) => ("the boolean", value.to_string()),
        Value::Number(_) => ("the number", value.to_string()),
        Value::String(_) => ("the string", value.to_string()),
        Value::Array(_) => ("the array", value.to_string()),
        Value::Object(_) => ("the object", value.to_string()),
    };
    let mut characters = text.chars();
    let short: String = characters.by_ref().take(40).collect();
    let rest = if characters.next().is_some() { "..." } else { "" };
    format!("{kind} {short}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(json: &str) -> Row<'_> {
        Row::new(Place { source_name: "f.jsonl", line: 3 }, serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_missing_column_is_told_with_those_there_are_in_their_order() {
        let error = row(r#"{"b":1,"a":2}"#).text("chosen").unwrap_err();
        assert_eq!(
            error.to_string(),
            "f.jsonl, line 3: no column `chosen`; the columns are `b`, `a`"
        );
    }

    #[test]
    fn columns_swap_their_names_and_one_that_is_not_there_is_told() {
        let names = [("a".to_owned(), "b".to_owned()), ("b".to_owned(), "a".to_owned())];
        let mut swapped = row(r#"{"a":1,"b":2,"c":3}"#);
        swapped.rename(&names).unwrap();
        assert_eq!((swapped.number("a").unwrap(), swapped.number("b").unwrap()), (2., 1.));
        assert!(row(r#"{"a":1}"#).rename(&names).unwrap_err().to_string().contains("`b`"));
    }

    #[test]
    fn a_wrong_type_is_told_with_what_is_there() {
        let long = format!(r#"{{"a":"{}"}}"#, "é".repeat(100));
        let message = row(&long).number("a").unwrap_err().to_string();
        assert!(message.starts_with("f.jsonl, line 3: `a` should be a finite number, but is the"));
        assert!(message.ends_with("é..."), "{message}");
        let message = row(r#"{"a":null}"#).text("a").unwrap_err().to_string();
        assert_eq!(message, "f.jsonl, line 3: `a` should be a string, but is null");
    }

    #[test]
    fn the_last_of_two_columns_of_one_name_counts_as_in_json() {
        assert_eq!(row(r#"{"a":"x","a":"y"}"#).text("a").unwrap(), "y");
    }

    #[test]
    fn truth_is_read_as_json_csv_and_counts_write_it() {
        for (json, expected) in
            [("true", true), ("0", false), ("1.0", true), ("\"False\"", false), ("\"1\"", true)]
        {
            assert_eq!(row(&format!(r#"{{"a":{json}}}"#)).truth("a").unwrap(), expected);
        }
        assert!(row(r#"{"a":2}"#).truth("a").is_err());
    }

    #[test]
    fn content_ids_tell_apart_where_parts_end() {
        assert_ne!(content_id(&["ab", "c"]), content_id(&["a", "bc"]));
        assert_eq!(content_id(&["ab", "c"]), content_id(&["ab", "c"]));
    }

    #[test]
    fn an_id_may_be_a_whole_number_but_not_a_fraction() {
        assert_eq!(row(r#"{"id":12}"#).identity(Some("id"), &[]).unwrap(), "12");
        assert!(row(r#"{"id":1.5}"#).identity(Some("id"), &[]).is_err());
    }
}
