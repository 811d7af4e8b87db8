//! Configuration files: TOML as types, with errors that help and show no key.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::ProviderError;

pub(crate) fn read(path: &Path) -> Result<String, ProviderError> {
    std::fs::read_to_string(path)
        .map_err(|source| ProviderError::File { path: path.to_owned(), source })
}

/// The TOML of a file as a type of the caller's: configurations that hold rewards, and are to be
/// as helpful about a wrong key.
///
/// # Errors
/// [`ProviderError::File`]; [`ProviderError::Config`] names the line, the unknown key and the
/// nearest known one, and never repeats a value, which might be an API key in the wrong place.
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, ProviderError> {
    parse(&read(path)?, &path.display().to_string())
}

/// TOML as a type. The error has the line's number and never its text, which might be a key.
pub(crate) fn parse<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T, ProviderError> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
        let problem = describe_toml(error.message());
        ProviderError::Config { origin: origin.to_owned(), line, problem }
    })
}

/// serde's message on TOML in words: with the nearest known key where one is unknown, and without
/// texts of the file, of which one might be an API key in the wrong place.
///
/// ```
/// let said = "unknown field `modle`, expected one of `kind`, `model`";
/// let told = rlaif_rewards::describe_toml(said);
/// assert_eq!(told, "unknown key `modle`; did you mean `model`? (known: `kind`, `model`)");
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
    let near = |name: &&&str| strsim::damerau_levenshtein(found, name);
    let nearest = known.iter().min_by_key(near).filter(|name| near(name) <= name.len() / 2);
    let hint = nearest.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
    let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    let what = if message.starts_with("unknown field") { "key" } else { "value" };
    format!("unknown {what} `{found}`{hint} (known: {})", known.join(", "))
}

/// "invalid type: string "x", expected u64" without the text of strings and with words for types.
fn wrong_type(message: &str) -> String {
    let Some((before, expected)) = message.rsplit_once(", expected ") else {
        return "the value is invalid".to_owned();
    };
    let found = before.split_once(": ").map_or("", |(_, found)| found);
    let number = ["integer ", "floating point ", "boolean "];
    let found = match found {
        found if number.iter().any(|kind| found.starts_with(kind)) => found,
        found if found.starts_with("string ") => "a string",
        "map" => "a table",
        "sequence" => "a list",
        _ => "something else",
    };
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of at least 0",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "a table",
        other if other.starts_with("a nonzero ") => "a whole number of at least 1",
        // An enum whose variant has a value, written without.
        "string only" => "a name, or a table of a name and its value",
        other if other.starts_with("struct ") => "a table",
        other => other,
    };
    format!("found {found}, expected {expected}")
}

fn looks_like_a_key(field: &str) -> bool {
    let field = field.to_ascii_lowercase();
    ["api_key", "apikey", "key", "secret", "token", "password"].contains(&field.as_str())
}
