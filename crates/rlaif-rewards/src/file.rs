//! Configuration files: TOML as Rust types, with errors that help and never show a key.

use std::path::Path;

use rlaif_core::check_finite;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ProviderError;
use crate::nearest::did_you_mean;

/// The most bytes of a configuration.
const LONGEST: u64 = 1 << 24;

pub(crate) fn read(path: &Path) -> Result<String, ProviderError> {
    rlaif_files::read_text(path, LONGEST)
        .map_err(|source| ProviderError::File { path: path.to_owned(), source })
}

/// Reads a TOML file as a type of the caller's, for configurations that contain rewards and need
/// the same detail about a wrong key.
///
/// # Errors
/// [`ProviderError::File`]; [`ProviderError::Config`] names the line, the unknown key and the
/// nearest known one, and never repeats a value, which might be an API key in the wrong place.
pub fn read_toml<T: DeserializeOwned + Serialize>(path: &Path) -> Result<T, ProviderError> {
    parse(&read(path)?, &path.display().to_string())
}

/// Parses TOML. The error has the line's number and never its text, which might be a key.
pub(crate) fn parse<T>(text: &str, origin: &str) -> Result<T, ProviderError>
where
    T: DeserializeOwned + Serialize,
{
    let failed = |error: toml::de::Error, table: Option<&toml::Table>| {
        let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
        let key = table.and_then(|table| wrong_key(error.message(), table));
        let named = error.span().and_then(|span| named_value(text, span));
        let (key, value) = match (key, named) {
            (None, Some((key, value))) if lacks_a_name(error.message()) => (Some(key), Some(value)),
            (key, _) => (key, None),
        };
        let key = key.map_or_else(String::new, |key| format!("`{key}`: "));
        let problem = key + &describe_toml_value(error.message(), value.as_ref(), None);
        ProviderError::Config { origin: origin.to_owned(), line, problem }
    };
    let table: toml::Table = toml::from_str(text).map_err(|error| failed(error, None))?;
    let parsed = toml::from_str(text).map_err(|error| failed(error, Some(&table)))?;
    // Checked as written and as parsed: 1e39 is too large for an f32.
    check_finite(&table).and_then(|()| check_finite(&parsed)).map_err(|source| {
        let (origin, line) = (origin.to_owned(), None);
        ProviderError::Config { origin, line, problem: source.to_string() }
    })?;
    Ok(parsed)
}

/// Keys of earlier versions, and their replacements in the same table. A key is one of an earlier version only where the
/// table has the replacement: the same name may be right in another table.
const RENAMED: [(&str, &str); 19] = [
    ("max_length", "max_tokens"),
    ("max_prompt_length", "max_prompt_tokens"),
    ("max_response_length", "max_response_tokens"),
    ("max_tokens", "max_new_tokens"),
    ("microbatch", "microbatch_size"),
    ("micro_batch_size", "microbatch_size"),
    ("recompute", "activations"),
    ("precision", "dtype"),
    ("samples", "responses"),
    ("reference", "reference_column"),
    ("explains", "answer"),
    ("critique", "critique_request"),
    ("revision", "revision_request"),
    ("with_prompt", "input"),
    ("stem", "stemming"),
    ("characters", "unit"),
    ("loose", "check"),
    ("most_kl", "max_kl"),
    ("dual", "dual_clip"),
];

/// Rewords serde's message on TOML: with the nearest known key for an unknown one, and without
/// texts of the file, one of which might be an API key in the wrong place.
///
/// ```
/// let said = "unknown field `modle`, expected one of `kind`, `model`";
/// let told = rlaif_rewards::describe_toml(said);
/// assert_eq!(told, "unknown key `modle`; did you mean `model`? (known: `kind`, `model`)");
/// let said = "unknown field `samples`, expected one of `api`, `responses`";
/// let told = rlaif_rewards::describe_toml(said);
/// assert_eq!(told, "unknown key `samples`: renamed to `responses`");
/// let said = "invalid value: integer `-1`, expected usize";
/// let told = rlaif_rewards::describe_toml(said);
/// assert_eq!(told, "found integer `-1`, expected a whole number of at least 0");
/// let said = "invalid type: string \"sk-secret\", expected f64";
/// assert_eq!(rlaif_rewards::describe_toml(said), "found a string, expected a number");
/// ```
pub fn describe_toml(message: &str) -> String {
    // serde quotes the names: "unknown field `modle`, expected one of `kind`, `model`".
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    if message.starts_with("invalid") {
        return wrong_type(message);
    }
    if lacks_a_name(message) {
        return format!("expected {NAME}");
    }
    let [found, known @ ..] = quoted.as_slice() else { return message.to_owned() };
    if !unknown {
        return message.to_owned();
    }
    if message.starts_with("unknown field") && looks_like_a_key(found) {
        return format!(
            "`{found}`: keys do not belong in files; put it into an environment variable and name \
             that in `api_key_env`"
        );
    }
    let renamed = RENAMED.iter().find(|(old, new)| old == found && known.contains(new));
    if let Some((old, new)) = renamed.filter(|_| message.starts_with("unknown field")) {
        return format!("unknown key `{old}`: renamed to `{new}`");
    }
    let hint = did_you_mean(found, known);
    let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    let what = if message.starts_with("unknown field") { "key" } else { "value" };
    format!("unknown {what} `{found}`{hint} (known: {})", known.join(", "))
}

/// The key on the line of a value, and the value.
fn named_value(text: &str, span: std::ops::Range<usize>) -> Option<(String, toml::Value)> {
    let line = text.get(..span.start)?.rsplit('\n').next()?;
    let key = line.trim().strip_suffix('=')?.trim().to_owned();
    let value = format!("v = {}", text.get(span)?).parse::<toml::Table>().ok()?.remove("v")?;
    Some((key, value))
}

/// True for serde's message on a value in place of one of several names.
fn lacks_a_name(message: &str) -> bool {
    message.ends_with("expected string only")
        || message.ends_with("expected string or map")
        || message.ends_with("expected variant identifier")
        || message.starts_with("wanted string or table")
        || message.starts_with("wanted exactly 1 element")
}

/// Rewords serde's message as [`describe_toml`], for a value that is known. `names` has the words that may
/// stand in its place, where serde does not give them.
///
/// ```
/// let said = "invalid type: unit variant, expected string only";
/// let told = rlaif_rewards::describe_toml_value(said, Some(&true.into()), Some("`keep` or `recompute`"));
/// assert_eq!(told, "found boolean `true`, expected `keep` or `recompute`");
/// ```
pub fn describe_toml_value(
    message: &str,
    value: Option<&toml::Value>,
    names: Option<&str>,
) -> String {
    let Some(value) = value.filter(|_| lacks_a_name(message)) else {
        return describe_toml(message);
    };
    let found = match value {
        toml::Value::Integer(number) => format!("integer `{number}`"),
        toml::Value::Float(number) => format!("floating point `{number}`"),
        toml::Value::Boolean(value) => format!("boolean `{value}`"),
        toml::Value::String(_) => "a string".to_owned(),
        toml::Value::Datetime(_) => "a date".to_owned(),
        toml::Value::Array(_) => "a list".to_owned(),
        toml::Value::Table(table) => format!("a table of {} keys", table.len()),
    };
    format!("found {found}, expected {}", names.unwrap_or(NAME))
}

/// An enum, some of whose variants have a value.
const NAME: &str = "a name, or a table of a name and its value";

/// Finds the key of a value of the wrong type, or of an unknown name, if serde's message does not name it, as in a table of
/// one of several kinds. It looks for the value that the message describes; `None` if it occurs
/// more than once.
///
/// ```
/// let table = "[[terms]]\nweight = 'much'".parse().unwrap();
/// let said = "invalid type: string \"much\", expected f32";
/// assert_eq!(rlaif_rewards::wrong_key(said, &table).as_deref(), Some("terms[0].weight"));
/// ```
pub fn wrong_key(message: &str, table: &toml::Table) -> Option<String> {
    fn walk(path: &str, value: &toml::Value, described: &str, found: &mut Vec<String>) {
        use serde::de::Unexpected;
        let of = match value {
            toml::Value::String(text) => Unexpected::Str(text),
            toml::Value::Integer(number) => Unexpected::Signed(*number),
            toml::Value::Float(number) => Unexpected::Float(*number),
            toml::Value::Boolean(value) => Unexpected::Bool(*value),
            toml::Value::Array(_) => Unexpected::Seq,
            toml::Value::Table(_) | toml::Value::Datetime(_) => Unexpected::Map,
        };
        if of.to_string() == described && !path.is_empty() {
            found.push(path.to_owned());
        }
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let dot = if path.is_empty() { "" } else { "." };
                    walk(&format!("{path}{dot}{key}"), value, described, found);
                }
            }
            toml::Value::Array(all) => {
                for (at, value) in all.iter().enumerate() {
                    walk(&format!("{path}[{at}]"), value, described, found);
                }
            }
            _ => {}
        }
    }
    let described = match message.strip_prefix("unknown variant `") {
        Some(rest) => serde::de::Unexpected::Str(rest.split_once('`')?.0).to_string(),
        None => {
            let described = message
                .strip_prefix("invalid type: ")
                .or(message.strip_prefix("invalid value: "))?;
            described.rsplit_once(", expected ")?.0.to_owned()
        }
    };
    let mut found = Vec::new();
    walk("", &toml::Value::Table(table.clone()), &described, &mut found);
    if found.len() == 1 { found.pop() } else { None }
}

/// "invalid type: string "x", expected u64" without the text of strings, and with the usual names
/// of types.
fn wrong_type(message: &str) -> String {
    let Some((before, expected)) = message.rsplit_once(", expected ") else {
        return "the value is invalid".to_owned();
    };
    let found = before.split_once(": ").map_or("", |(_, found)| found);
    let length = before.strip_prefix("invalid length ").map(|length| format!("a list of {length}"));
    let number = ["integer ", "floating point ", "boolean "];
    let found = match found {
        found if number.iter().any(|kind| found.starts_with(kind)) => found,
        found if found.starts_with("string ") => "a string",
        "map" => "a table",
        "sequence" => "a list",
        _ => length.as_deref().unwrap_or("something else"),
    };
    let tuple = expected.strip_prefix("a tuple of size ").map(|size| format!("a list of {size}"));
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of at least 0",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "a table",
        other if other.starts_with("a nonzero ") => "a whole number of at least 1",
        // An enum whose variant has a value, written without.
        "string only" | "string or map" => NAME,
        "variant identifier" => "a name",
        other if other.starts_with("struct ") || other.contains("tagged enum ") => "a table",
        other => tuple.as_deref().unwrap_or(other),
    };
    format!("found {found}, expected {expected}")
}

fn looks_like_a_key(field: &str) -> bool {
    let field = field.to_ascii_lowercase();
    ["api_key", "apikey", "key", "secret", "token", "password"].contains(&field.as_str())
}

#[cfg(test)]
mod tests {
    use crate::RewardConfig;

    #[test]
    fn a_value_of_another_type_is_named_by_its_key() {
        for (file, says) in [
            (
                "kind = 'weighted-sum'\nname = 's'\n[[terms]]\nweight = 'much'\n\
                 reward = { kind = 'repetition', n = 2 }\n",
                "`terms[0].weight`: found a string, expected a number",
            ),
            ("kind = 'repetition'\nn = -2", "`n`: found integer `-2`, expected a whole number"),
            (
                "kind = 'cached'\ncapacity = 2.5\nof = { kind = 'repetition', n = 2 }",
                "`capacity`: found floating point `2.5`, expected a whole number",
            ),
            ("kind = 3", "`kind`: found integer `3`, expected a name"),
            #[cfg(feature = "judge")]
            (
                "kind = 'judge'\nanswer = 3\n[api]\nkind = 'openai'\nmodel = 'm'\n",
                "`answer`: found integer `3`, expected a name",
            ),
        ] {
            let error = RewardConfig::from_toml(file, "r.toml").unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("much"), "values may be keys: {error}");
        }
    }

    #[test]
    fn keys_of_earlier_versions_in_lists_are_refused_with_those_of_today() {
        for (term, says) in [
            ("kind = 'instructions', loose = true", "unknown key `loose`: renamed to `check`"),
            #[cfg(feature = "neural")]
            (
                "kind = 'classifier', model = 'm', max_length = 8",
                "unknown key `max_length`: renamed to `max_tokens`",
            ),
            // Names of earlier versions that another table has today.
            ("kind = 'repetition', n = 2, reference = 'r'", "unknown key `reference` (known: "),
        ] {
            let sum = "kind = 'weighted-sum'\nname = 's'\n[[terms]]\nweight = 1\nreward";
            let file = format!("{sum} = {{ {term} }}\n");
            let error = RewardConfig::from_toml(&file, "r.toml").unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_refused_by_its_key() {
        let sum = |weight: &str| {
            format!(
                "kind = 'weighted-sum'\nname = 's'\n[[terms]]\nweight = {weight}\n\
                 reward = {{ kind = 'repetition', n = 2 }}\n"
            )
        };
        for weight in ["nan", "-nan", "inf", "-inf", "1e39"] {
            let error = RewardConfig::from_toml(&sum(weight), "r.toml").unwrap_err().to_string();
            assert!(error.starts_with("r.toml: `terms[0].weight` = "), "{weight}: {error}");
        }
        RewardConfig::from_toml(&sum("1e38"), "r.toml").unwrap();
        // For values that a type would convert to null.
        #[cfg(feature = "judge")]
        {
            let judge = "rubric = 'quality'\n[api]\nkind = 'openai'\nmodel = 'm'\n\
                         extra_body = { min_p = nan }\n";
            let error = RewardConfig::from_toml(judge, "j.toml").unwrap_err().to_string();
            assert!(error.contains("`api.extra_body.min_p` = NaN"), "{error}");
        }
    }
}
