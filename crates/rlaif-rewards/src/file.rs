//! Configuration files: TOML as types, with errors that help and show no key.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::ProviderError;

pub(crate) fn read(path: &Path) -> Result<String, ProviderError> {
    std::fs::read_to_string(path)
        .map_err(|source| ProviderError::File { path: path.to_owned(), source: Box::new(source) })
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
        let problem = described(error.message());
        ProviderError::Config { origin: origin.to_owned(), line, problem }
    })
}

/// serde's message with the nearest known key, where one is unknown.
fn described(message: &str) -> String {
    // serde quotes the names: "unknown field `modle`, expected one of `kind`, `model`".
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    // A wrong type: serde repeats the value, which might be a key in the wrong place.
    if message.starts_with("invalid") {
        let expected = message.rsplit_once(", expected ");
        return expected.map_or("the value is invalid".to_owned(), |(_, expected)| {
            format!("the value is not of its type; expected {expected}")
        });
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

fn looks_like_a_key(field: &str) -> bool {
    let field = field.to_ascii_lowercase();
    ["api_key", "apikey", "key", "secret", "token", "password"].contains(&field.as_str())
}
