//! Values of config.json that no model can have.

use rlaif_lm::LmSpec;

use crate::error::ModelError;

/// The largest size of a dimension: a product of two of them is far from overflow.
const LARGEST: i64 = i64::MAX >> 32;
/// The most layers of a stack. Each is looked for in the checkpoint, and reported if it is missing.
const MOST_LAYERS: usize = 10_000;

/// Checks sizes, which are at least 1.
pub(crate) fn check_sizes(
    sizes: impl IntoIterator<Item = (&'static str, i64)>,
) -> Result<(), ModelError> {
    match sizes.into_iter().find(|(_, size)| !(1..=LARGEST).contains(size)) {
        None => Ok(()),
        Some((field, size)) => Err(ModelError::BadField {
            file: None,
            field,
            found: size.to_string(),
            expected: if size < 1 { "at least 1".to_owned() } else { format!("at most {LARGEST}") },
        }),
    }
}

/// The values that a number of config.json may have.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Range {
    /// Above 0.
    Positive,
    /// 0 or more.
    NotNegative,
    /// From 0 to 1.
    Probability,
    /// Any but 0.
    NotZero,
}

/// Checks numbers, which are finite and in their range.
pub(crate) fn check_numbers(
    numbers: impl IntoIterator<Item = (&'static str, Option<f64>, Range)>,
) -> Result<(), ModelError> {
    for (field, value, range) in numbers {
        let Some(value) = value else { continue };
        let (inside, expected) = match range {
            Range::Positive => (value > 0., "a number above 0"),
            Range::NotNegative => (value >= 0., "a number of at least 0"),
            Range::Probability => ((0. ..=1.).contains(&value), "a number between 0 and 1"),
            Range::NotZero => (value != 0., "a number other than 0"),
        };
        if !(inside && value.is_finite()) {
            let (found, expected) = (value.to_string(), expected.to_owned());
            return Err(ModelError::BadField { file: None, field, found, expected });
        }
    }
    Ok(())
}

/// Checks a number of layers.
pub(crate) fn check_layers(field: &'static str, layers: usize) -> Result<(), ModelError> {
    if layers > MOST_LAYERS {
        return Err(ModelError::BadField {
            file: None,
            field,
            found: layers.to_string(),
            expected: format!("at most {MOST_LAYERS}"),
        });
    }
    Ok(())
}

/// Checks that the ids which the model itself puts into a batch have an embedding.
pub(crate) fn check_ids(spec: &LmSpec) -> Result<(), ModelError> {
    let ids = [
        ("pad_token_id", Some(spec.pad_id)),
        ("decoder_start_token_id", spec.decoder_start_id),
        ("forced_bos_token_id", spec.forced.first),
        ("forced_eos_token_id", spec.forced.last),
    ];
    match ids.into_iter().find(|(_, id)| id.is_some_and(|id| i64::from(id) >= spec.vocab_size)) {
        Some((field, Some(id))) => Err(ModelError::BadField {
            file: None,
            field,
            found: id.to_string(),
            expected: format!("an id below vocab_size, which is {}", spec.vocab_size),
        }),
        _ => Ok(()),
    }
}
