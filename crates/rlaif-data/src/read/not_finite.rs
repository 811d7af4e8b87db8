//! Rows with numbers that are not finite, as Python's `json.dumps` writes them.

use rlaif_core::python_json::NotFiniteNumbers;

use crate::row::{Columns, NotFinite};

/// The columns of a row with null for each non-finite number, and the places of these numbers.
/// `None` if there are none, or if the rest is not a JSON object either.
pub(super) fn read(text: &str) -> Option<(Columns<'static>, NotFinite)> {
    let (replaced, numbers) = NotFiniteNumbers::replaced(text);
    if numbers.is_empty() {
        return None;
    }
    let columns: Columns<'_> = serde_json::from_str(&replaced).ok()?;
    let mut found = NotFinite::new();
    let columns = columns
        .0
        .into_iter()
        .map(|(name, mut value)| {
            numbers.settle(&name, &mut value, &mut found);
            (name.into_owned().into(), value)
        })
        .collect();
    Some((Columns(columns), found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_is_null_and_told_where_it_stood() {
        let text =
            r#"{"a":NaN,"b":["NaN",-Infinity,{"c":Infinity}],"d":"x\"NaN","e":1e999,"f":-12}"#;
        let (columns, found) = read(text).unwrap();
        let values: Vec<String> = columns.0.iter().map(|(_, value)| value.to_string()).collect();
        assert_eq!(values, ["null", r#"["NaN",null,{"c":null}]"#, r#""x\"NaN""#, "null", "-12"]);
        let expected =
            [("a", "NaN"), ("b[1]", "-Infinity"), ("b[2].c", "Infinity"), ("e", "Infinity")];
        let found: Vec<_> = found.iter().map(|(place, word)| (place.as_str(), *word)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn other_damage_stays_damage() {
        for text in
            [r#"{"a":Nan}"#, r#"{"a":NaN"#, r#"{"a":1}"#, r#"{"a":nan}"#, r#"{"a":"\"#, "NaN"]
        {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
