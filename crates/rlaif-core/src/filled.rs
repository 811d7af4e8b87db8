//! Tables whose absent keys have the defaults of the table's place, not those of its type.

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned, de::Error as _};
use serde_json::{Map, Value};

/// Begins the message of an error below a table that [`filled`] read.
const AT: &str = "at `";

/// Deserializes a table: keys that are absent have their values in `default`.
///
/// `#[serde(default)]` on a type gives absent keys the type's own defaults. A configuration that holds
/// the type with other defaults needs this function: otherwise a table with one key changes all others.
///
/// ```
/// use serde::{Deserialize, Deserializer, Serialize};
///
/// #[derive(Serialize, Deserialize, PartialEq, Debug)]
/// #[serde(default)]
/// struct Optimizer { lr: f64, weight_decay: f64 }
/// impl Default for Optimizer {
///     fn default() -> Self { Self { lr: 1e-5, weight_decay: 0. } }
/// }
///
/// #[derive(Deserialize)]
/// struct Training {
///     #[serde(deserialize_with = "optimizer")]
///     optimizer: Optimizer,
/// }
/// fn optimizer<'de, D: Deserializer<'de>>(table: D) -> Result<Optimizer, D::Error> {
///     rlaif_core::filled(&Optimizer { lr: 1e-6, weight_decay: 0. }, table)
/// }
///
/// let found: Training = serde_json::from_str(r#"{ "optimizer": { "weight_decay": 0.1 } }"#)?;
/// assert_eq!(found.optimizer, Optimizer { lr: 1e-6, weight_decay: 0.1 });
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// # Errors
/// Those of the deserializer and of the type; [`below_table`] takes the key out of the latter.
pub fn filled<'de, T, D>(default: &T, deserializer: D) -> Result<T, D::Error>
where
    T: Serialize + DeserializeOwned,
    D: Deserializer<'de>,
{
    let given = Map::<String, Value>::deserialize(deserializer)?;
    let mut whole = serde_json::to_value(default).map_err(D::Error::custom)?;
    if let Value::Object(whole) = &mut whole {
        whole.extend(given);
    }
    serde_path_to_error::deserialize(whole).map_err(|error| {
        let (key, message) = (error.path().to_string(), error.inner());
        // serde says `.` at the top.
        if key == "." {
            D::Error::custom(message)
        } else {
            D::Error::custom(format!("{AT}{key}`: {message}"))
        }
    })
}

/// The key and the message of an error below a table that [`filled`] read; `None` for other messages.
///
/// ```
/// assert_eq!(rlaif_core::below_table("at `lr`: invalid type"), Some(("lr", "invalid type")));
/// assert_eq!(rlaif_core::below_table("invalid type"), None);
/// ```
pub fn below_table(message: &str) -> Option<(&str, &str)> {
    message.strip_prefix(AT)?.split_once("`: ")
}
