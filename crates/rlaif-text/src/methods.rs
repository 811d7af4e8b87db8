//! Methods of Python's strings that templates call and minijinja-contrib lacks.

use minijinja::value::{Tuple, Value, ValueKind, from_args};
use minijinja::{Error, State};

/// Called by the engine when a value has no such method.
pub(crate) fn unknown_method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if value.kind() == ValueKind::String
        && let Some(text) = value.as_str()
    {
        match method {
            "rsplit" => return rsplit(text, args),
            "partition" => {
                let (separator,): (&str,) = from_args(args)?;
                let (before, after) = text.split_once(separator).unwrap_or((text, ""));
                let found = if before.len() < text.len() { separator } else { "" };
                return Ok(tuple([before, found, after]));
            }
            "rpartition" => {
                let (separator,): (&str,) = from_args(args)?;
                let (before, after) = text.rsplit_once(separator).unwrap_or(("", text));
                let found = if after.len() < text.len() { separator } else { "" };
                return Ok(tuple([before, found, after]));
            }
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)));
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)));
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

fn tuple(parts: [&str; 3]) -> Value {
    Value::from_object(Tuple::from(parts.map(Value::from).to_vec()))
}

/// Splits at most this number of times, from the end; by default at white space.
fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    // Negative means all.
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let mut parts = Vec::new();
    let mut rest = Some(text);
    while let Some(text) = rest.take() {
        let text = if separator.is_none() { text.trim_end() } else { text };
        let split = match separator {
            _ if parts.len() == most => None,
            Some(separator) => text.rsplit_once(separator),
            None => text.rsplit_once(char::is_whitespace),
        };
        match split {
            Some((before, after)) => {
                parts.push(after);
                rest = Some(before);
            }
            None if separator.is_none() && text.is_empty() => {}
            None => parts.push(text),
        }
    }
    parts.reverse();
    Ok(Value::from_iter(parts))
}
