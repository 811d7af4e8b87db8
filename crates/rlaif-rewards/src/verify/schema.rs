//! JSON as a schema has it.

use std::cell::Cell;

use regex::Regex;
use rlaif_core::{BadSetting, Exchange, RewardError, RewardModel, Scores};
use serde_json::{Map, Value};

use super::truth::{Truth, kind, scored};
use crate::ProviderError;

/// References followed and schemas entered on the way to one value.
const DEEPEST: usize = 100;
/// Schemas entered for one response: alternatives that refer to each other multiply.
const MOST: u32 = 1_000_000;

/// 1 for a response that is JSON of a schema, 0 for any other. Code fences around it do not count.
///
/// The keywords are those of JSON Schema 2020-12 that describe a document: types, numbers, texts, lists,
/// objects, combinations, `if`, and `$ref` within the schema. `format` and notes say nothing, as in the standard. Any
/// other keyword is refused, for a schema that is half understood accepts too much.
///
/// ```
/// use rlaif_core::{Exchange, RewardModel};
/// use rlaif_rewards::verify::JsonSchemaCheck;
/// let schema = serde_json::json!({"type": "object", "required": ["age"],
///     "properties": {"age": {"type": "integer", "minimum": 0}}});
/// let reward = JsonSchemaCheck::new(&schema)?;
/// let batch = [Exchange::new("p", "{\"age\": 3}"), Exchange::new("p", "{\"age\": -3}")];
/// let scores = reward.score(&batch)?;
/// assert_eq!(scores.total[0].unwrap().get(), 1.);
/// assert_eq!(scores.total[1].unwrap().get(), 0.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct JsonSchemaCheck {
    source: Source,
}

/// The source of a schema.
#[derive(Debug, Clone, PartialEq)]
enum Source {
    /// One schema for all rows.
    One(Value),
    /// A schema of each row: an object, or its JSON.
    OfRow(Truth),
}

impl JsonSchemaCheck {
    /// A check by one schema.
    ///
    /// # Errors
    /// [`ProviderError::Setting`] if it is not a schema, or has a keyword that is not known.
    pub fn new(schema: &Value) -> Result<Self, ProviderError> {
        check(schema, schema, "").map_err(|found| {
            ProviderError::Setting(BadSetting::new("schema", found, "a JSON Schema"))
        })?;
        Ok(Self { source: Source::One(schema.clone()) })
    }

    /// A check by the schema that each row brings along.
    pub fn of_rows(truth: Truth) -> Self {
        Self { source: Source::OfRow(truth) }
    }

    fn schema_of(truth: &Truth, exchange: &Exchange<'_>) -> Result<Value, String> {
        let text = match truth {
            Truth::Reference => truth.texts(exchange)?.remove(0),
            Truth::Metadata(_) => match truth.find(exchange)? {
                Value::String(text) => text.clone(),
                schema @ (Value::Object(_) | Value::Bool(_)) => return Ok(schema.clone()),
                other => return Err(format!("`{truth}` is {}; expected a schema", kind(other))),
            },
        };
        serde_json::from_str(&text).map_err(|error| format!("`{truth}` is not JSON: {error}"))
    }
}

impl RewardModel for JsonSchemaCheck {
    fn name(&self) -> &'static str {
        "json-schema"
    }

    fn score(&self, batch: &[Exchange<'_>]) -> Result<Scores, RewardError> {
        scored(self.name(), batch, |exchange| {
            let value: Option<Value> = serde_json::from_str(unfenced(exchange.response)).ok();
            let score = |schema: &Value| {
                let checking = Checking { root: schema, left: Cell::new(MOST) };
                let valid = value.is_some_and(|value| checking.valid(schema, &value, 0));
                // An unfinished check is a failed one, below a `not` too.
                f32::from(valid && checking.left.get() > 0)
            };
            match &self.source {
                Source::One(schema) => Ok(score(schema)),
                Source::OfRow(truth) => {
                    let schema = Self::schema_of(truth, exchange)?;
                    check(&schema, &schema, "")
                        .map_err(|error| format!("`{truth}` is not a JSON Schema: {error}"))?;
                    Ok(score(&schema))
                }
            }
        })
    }
}

/// The text without a code fence around the whole.
pub(super) fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    let Some(inner) = inner else { return text };
    // The language of the fence.
    let (language, code) = inner.split_once('\n').unwrap_or(("", inner));
    if language.chars().all(char::is_alphanumeric) { code.trim() } else { inner.trim() }
}

const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "string", "integer"];
/// Keywords that say nothing about validity.
const NOTES: [&str; 13] = [
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "format",
    "contentMediaType",
    "contentEncoding",
];

/// Refuses what is not a schema that is understood as a whole.
fn check(root: &Value, schema: &Value, path: &str) -> Result<(), String> {
    let at = |key: &str| format!("{path}/{key}");
    let object = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(object) => object,
        other => return Err(format!("{} at `{path}/`", kind(other))),
    };
    for (key, value) in object {
        let wrong = |expected: &str| Err(format!("{value} at `{}`, expected {expected}", at(key)));
        match key.as_str() {
            note if NOTES.contains(&note) => {}
            "const" => {}
            "enum" if value.is_array() => {}
            "enum" => return wrong("a list"),
            "type" => {
                let known = |name: &Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
                let all =
                    value.as_array().map_or_else(|| known(value), |all| all.iter().all(known));
                if !all {
                    return wrong(&format!("one of {}", TYPES.join(", ")));
                }
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                if !value.is_number() {
                    return wrong("a number");
                }
            }
            "multipleOf" => {
                if value.as_f64().is_none_or(|number| number <= 0.) {
                    return wrong("a number above 0");
                }
            }
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties"
            | "maxProperties" | "minContains" | "maxContains" => {
                if count(value).is_none() {
                    return wrong("a whole number of at least 0");
                }
            }
            "uniqueItems" => {
                if !value.is_boolean() {
                    return wrong("true or false");
                }
            }
            "pattern" => {
                if value.as_str().and_then(|pattern| Regex::new(pattern).ok()).is_none() {
                    return wrong("a regular expression");
                }
            }
            "required" => {
                if !value.as_array().is_some_and(|all| all.iter().all(Value::is_string)) {
                    return wrong("a list of names");
                }
            }
            "dependentRequired" => {
                let lists = value.as_object().is_some_and(|all| all.values().all(Value::is_array));
                if !lists {
                    return wrong("an object of lists");
                }
            }
            "items"
            | "contains"
            | "additionalProperties"
            | "propertyNames"
            | "not"
            | "if"
            | "then"
            | "else" => check(root, value, &at(key))?,
            "prefixItems" | "allOf" | "anyOf" | "oneOf" => {
                let Some(all) = value.as_array() else { return wrong("a list of schemas") };
                for (index, one) in all.iter().enumerate() {
                    check(root, one, &format!("{}/{index}", at(key)))?;
                }
            }
            "properties" | "patternProperties" | "dependentSchemas" | "$defs" | "definitions" => {
                let Some(all) = value.as_object() else { return wrong("an object of schemas") };
                for (name, one) in all {
                    if key == "patternProperties" && Regex::new(name).is_err() {
                        return Err(format!(
                            "`{name}` at `{}` is not a regular expression",
                            at(key)
                        ));
                    }
                    check(root, one, &format!("{}/{name}", at(key)))?;
                }
            }
            "$ref" => {
                if value.as_str().and_then(|target| referred(root, target)).is_none() {
                    return wrong("a place within this schema, such as `#/$defs/name`");
                }
            }
            other => return Err(format!("the keyword `{other}` at `{path}/`, which is not known")),
        }
    }
    Ok(())
}

fn referred<'a>(root: &'a Value, target: &str) -> Option<&'a Value> {
    root.pointer(&target.strip_prefix('#')?.replace("%25", "%"))
}

/// A whole number of at least 0, be it written 3.0.
fn count(value: &Value) -> Option<usize> {
    let number = value.as_f64().filter(|number| *number >= 0. && number.fract() == 0.)?;
    Some(number as usize)
}

/// A validation by a schema that was checked.
struct Checking<'a> {
    root: &'a Value,
    left: Cell<u32>,
}

impl Checking<'_> {
    fn valid(&self, schema: &Value, value: &Value, depth: usize) -> bool {
        let Some(schema) = schema.as_object() else { return schema.as_bool() == Some(true) };
        let depth = depth + 1;
        // Schemas that refer to themselves about the same value.
        let left = self.left.get();
        if depth > DEEPEST || left == 0 {
            return false;
        }
        self.left.set(left - 1);
        let own = schema.iter().all(|(key, rule)| match key.as_str() {
            "$ref" => {
                let target = rule.as_str().and_then(|target| referred(self.root, target));
                target.is_some_and(|target| self.valid(target, value, depth))
            }
            "type" => match rule {
                Value::Array(names) => names.iter().any(|name| is_of_type(value, name)),
                name => is_of_type(value, name),
            },
            "const" => same(rule, value),
            "enum" => rule.as_array().is_some_and(|all| all.iter().any(|one| same(one, value))),
            "allOf" => entries_of(rule).all(|one| self.valid(one, value, depth)),
            "anyOf" => entries_of(rule).any(|one| self.valid(one, value, depth)),
            "oneOf" => entries_of(rule).filter(|one| self.valid(one, value, depth)).count() == 1,
            "not" => !self.valid(rule, value, depth),
            "if" => {
                let branch = if self.valid(rule, value, depth) { "then" } else { "else" };
                schema.get(branch).is_none_or(|then| self.valid(then, value, depth))
            }
            _ => true,
        });
        own && match value {
            Value::Number(_) => of_number(schema, value.as_f64().unwrap_or(f64::NAN)),
            Value::String(text) => of_text(schema, text),
            Value::Array(items) => self.of_list(schema, items, depth),
            Value::Object(entries) => self.of_object(schema, value, entries, depth),
            _ => true,
        }
    }

    fn of_list(&self, schema: &Map<String, Value>, items: &[Value], depth: usize) -> bool {
        let first = schema.get("prefixItems").and_then(Value::as_array);
        let before = first.map_or(0, Vec::len);
        let number = |key: &str| schema.get(key).and_then(count);
        let contained = |rule: &Value| {
            let found = items.iter().filter(|item| self.valid(rule, item, depth)).count();
            found >= number("minContains").unwrap_or(1)
                && number("maxContains").is_none_or(|most| found <= most)
        };
        let unique = schema.get("uniqueItems") == Some(&Value::Bool(true));
        let twice = |(at, item): (usize, &Value)| items[..at].iter().any(|other| same(other, item));
        first.into_iter().flatten().zip(items).all(|(rule, item)| self.valid(rule, item, depth))
            && schema.get("items").is_none_or(|rule| {
                items.iter().skip(before).all(|item| self.valid(rule, item, depth))
            })
            && schema.get("contains").is_none_or(contained)
            && number("minItems").is_none_or(|least| items.len() >= least)
            && number("maxItems").is_none_or(|most| items.len() <= most)
            && !(unique && items.iter().enumerate().any(twice))
    }

    fn of_object(
        &self,
        schema: &Map<String, Value>,
        value: &Value,
        entries: &Map<String, Value>,
        depth: usize,
    ) -> bool {
        let table = |key: &str| schema.get(key).and_then(Value::as_object);
        let number = |key: &str| schema.get(key).and_then(count);
        let has = |name: &Value| name.as_str().is_some_and(|name| entries.contains_key(name));
        let patterns: Vec<(Regex, &Value)> = table("patternProperties")
            .into_iter()
            .flatten()
            .filter_map(|(pattern, rule)| Some((Regex::new(pattern).ok()?, rule)))
            .collect();
        let of_entry = |(name, entry): (&String, &Value)| {
            let named = table("properties").and_then(|all| all.get(name));
            let fitting = patterns.iter().filter(|(pattern, _)| pattern.is_match(name));
            let rules: Vec<&Value> =
                named.into_iter().chain(fitting.map(|(_, rule)| *rule)).collect();
            let others = schema.get("additionalProperties").filter(|_| rules.is_empty());
            rules.into_iter().chain(others).all(|rule| self.valid(rule, entry, depth))
        };
        let name_fits = |name: &String| {
            let name = Value::String(name.clone());
            schema.get("propertyNames").is_none_or(|rule| self.valid(rule, &name, depth))
        };
        let dependent = |(name, needed): (&String, &Value)| {
            !entries.contains_key(name) || entries_of(needed).all(has)
        };
        let depending = |(name, rule): (&String, &Value)| {
            !entries.contains_key(name) || self.valid(rule, value, depth)
        };
        schema.get("required").is_none_or(|names| entries_of(names).all(has))
            && number("minProperties").is_none_or(|least| entries.len() >= least)
            && number("maxProperties").is_none_or(|most| entries.len() <= most)
            && entries.keys().all(name_fits)
            && entries.iter().all(of_entry)
            && table("dependentRequired").into_iter().flatten().all(dependent)
            && table("dependentSchemas").into_iter().flatten().all(depending)
    }
}

/// The entries of a list.
fn entries_of(rule: &Value) -> impl Iterator<Item = &Value> {
    rule.as_array().into_iter().flatten()
}

fn is_of_type(value: &Value, name: &Value) -> bool {
    match name.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("integer") => value.as_f64().is_some_and(|number| number.fract() == 0.),
        _ => false,
    }
}

/// Equality of JSON, where 1 is 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn of_number(schema: &Map<String, Value>, number: f64) -> bool {
    let bound = |key: &str, fits: fn(f64, f64) -> bool| {
        schema.get(key).and_then(Value::as_f64).is_none_or(|bound| fits(number, bound))
    };
    bound("minimum", |number, bound| number >= bound)
        && bound("maximum", |number, bound| number <= bound)
        && bound("exclusiveMinimum", |number, bound| number > bound)
        && bound("exclusiveMaximum", |number, bound| number < bound)
        && bound("multipleOf", |number, of| {
            let times = number / of;
            (times - times.round()).abs() <= 4. * f64::EPSILON * times.abs().max(1.)
        })
}

fn of_text(schema: &Map<String, Value>, text: &str) -> bool {
    let length = text.chars().count();
    let number = |key: &str| schema.get(key).and_then(count);
    let pattern = schema.get("pattern").and_then(Value::as_str);
    number("minLength").is_none_or(|least| length >= least)
        && number("maxLength").is_none_or(|most| length <= most)
        && pattern.is_none_or(|pattern| Regex::new(pattern).is_ok_and(|found| found.is_match(text)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn score(reward: &JsonSchemaCheck, response: &str, metadata: &Value) -> Result<f32, String> {
        let exchange = Exchange { metadata: metadata.as_object(), ..Exchange::new("p", response) };
        let scores = reward.score(&[exchange]).unwrap();
        scores.total[0].map(|score| score.get()).ok_or_else(|| scores.reasons[0].1.clone())
    }

    #[test]
    fn verdicts_are_those_of_pythons_jsonschema() {
        // By `tests/fixtures/export_schemas.py`.
        let text = include_str!("../../tests/fixtures/json_schemas.jsonl");
        let mut checked = 0;
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let reward = JsonSchemaCheck::new(&row["schema"]).unwrap();
            for case in row["cases"].as_array().unwrap() {
                let expected = if case["valid"] == true { 1. } else { 0. };
                let found = score(&reward, &case["value"].to_string(), &json!({}));
                assert_eq!(found, Ok(expected), "{} of {}", case["value"], row["schema"]);
                checked += 1;
            }
        }
        assert!(checked > 1_000, "{checked}");
    }

    #[test]
    fn fences_do_not_count_and_other_text_does() {
        let reward = JsonSchemaCheck::new(&json!({"type": "array", "minItems": 2})).unwrap();
        for (response, right) in [
            ("[1, 2]", 1.),
            ("```json\n[1, 2]\n```", 1.),
            ("[1]", 0.),
            ("Here: [1, 2]", 0.),
            ("[1, 2", 0.),
            ("", 0.),
        ] {
            assert_eq!(score(&reward, response, &json!({})), Ok(right), "{response}");
        }
        assert_eq!(score(&reward, &"[".repeat(100_000), &json!({})), Ok(0.));
    }

    #[test]
    fn schemas_of_rows_may_be_text_and_a_wrong_one_is_no_score() {
        let reward = JsonSchemaCheck::of_rows(Truth::named(Some("schema")));
        assert_eq!(score(&reward, "3", &json!({"schema": "{\"type\": \"number\"}"})), Ok(1.));
        assert_eq!(score(&reward, "3", &json!({"schema": {"type": "string"}})), Ok(0.));
        let error = score(&reward, "3", &json!({"schema": {"type": "nombre"}})).unwrap_err();
        assert!(error.contains("`schema` is not a JSON Schema: \"nombre\" at `/type`"), "{error}");
        let error = score(&reward, "3", &json!({"schema": "{"})).unwrap_err();
        assert!(error.contains("`schema` is not JSON"), "{error}");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (schema, says) in [
            (json!({"$ref": "http://example.com/s.json"}), "a place within this schema"),
            (
                json!({"properties": {"a": {"minimun": 3}}}),
                "the keyword `minimun` at `/properties/a/`",
            ),
            (json!({"unevaluatedProperties": false}), "unevaluatedProperties"),
            (json!({"pattern": "("}), "a regular expression"),
            (json!([]), "a list at `/`"),
        ] {
            let error = JsonSchemaCheck::new(&schema).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        // Forever the same value.
        let circle = JsonSchemaCheck::new(&json!({"$ref": "#"})).unwrap();
        assert_eq!(score(&circle, "1", &json!({})), Ok(0.));
        // Twice as many ways at each of the levels, and no verdict by a `not` on the way.
        let doubling = json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]});
        for schema in [doubling.clone(), json!({"not": doubling})] {
            let schema = JsonSchemaCheck::new(&schema).unwrap();
            assert_eq!(score(&schema, "1", &json!({})), Ok(0.));
        }
    }

    #[test]
    fn large_numbers_are_multiples_or_are_not() {
        let even = JsonSchemaCheck::new(&json!({"multipleOf": 2})).unwrap();
        assert_eq!(score(&even, "1000000001", &json!({})), Ok(0.));
        assert_eq!(score(&even, "1000000002", &json!({})), Ok(1.));
        let cents = JsonSchemaCheck::new(&json!({"multipleOf": 0.01})).unwrap();
        assert_eq!(score(&cents, "19.99", &json!({})), Ok(1.));
    }
}
