//! The size of a model's vocabulary: rows for tokens that only the tokenizer has.

use std::{collections::BTreeMap, num::NonZeroU32};

use rlaif_torch::seeded;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::{error::ModelError, frame::Parts, layers::Linear};

/// The bias of the logits of BART and its kin, `[1, vocabulary]`.
pub(crate) const LOGITS_BIAS: &str = "final_logits_bias";

/// The number of tokens for which a model has rows of embeddings, and of the head.
///
/// ```
/// use rlaif_lm::Policy;
/// use rlaif_models::{LanguageModel, LoadOptions, NewRows, VocabularySize};
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/llama3");
/// let vocabulary = VocabularySize {
///     rows: 101,
///     pad_to_multiple_of: 16.try_into().ok(),
///     new_rows: NewRows::Mean,
/// };
/// let options = LoadOptions { vocabulary: Some(vocabulary), ..LoadOptions::default() };
/// let model = LanguageModel::load(folder.as_ref(), options)?;
/// assert_eq!(model.spec().vocab_size, 112);
/// # Ok::<(), rlaif_models::ModelError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VocabularySize {
    /// The least number of rows. A model that has more keeps them.
    pub rows: usize,
    /// The number of rows becomes a multiple of this, as with `pad_to_multiple_of` of transformers.
    pub pad_to_multiple_of: Option<NonZeroU32>,
    /// The values of the rows that the model lacks.
    pub new_rows: NewRows,
}

/// The values of a table's new rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NewRows {
    /// The mean of the table's rows, computed in f32.
    #[default]
    Mean,
    /// Drawn around the mean, from a normal distribution with 10⁻⁹ times the covariance of the table's rows: the
    /// distribution of `resize_token_embeddings` of transformers. The mean itself, if the covariance is singular.
    Normal {
        /// The seed of the draws.
        seed: u64,
    },
}

/// The form of a table's new rows in run files: [`NewRows`] without its seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NewRowsInit {
    /// The mean of the model's rows.
    #[default]
    Mean,
    /// Drawn around the mean, as by transformers.
    Normal,
}

impl VocabularySize {
    /// The number of rows of a model that has `rows` now.
    fn of(self, rows: i64) -> i64 {
        let least = i64::try_from(self.rows).unwrap_or(i64::MAX).max(rows);
        match self.pad_to_multiple_of.map(|multiple| i64::from(multiple.get())) {
            Some(multiple) => {
                least.div_euclid(multiple) * multiple
                    + if least % multiple == 0 { 0 } else { multiple }
            }
            None => least,
        }
    }

    /// Adds the rows that a model lacks.
    ///
    /// # Errors
    /// [`ModelError::Torch`] if the tables do not fit into memory.
    pub(crate) fn give(self, parts: &mut Parts<'_>) -> Result<(), ModelError> {
        let rows = self.of(parts.spec.vocab_size);
        if rows == parts.spec.vocab_size {
            return Ok(());
        }
        let resize = |parts: &mut Parts<'_>| {
            let names: Vec<String> = tables(parts).into_keys().collect();
            for name in &names {
                let Some(table) = parts.parameters.get(name) else { continue };
                let grown = grown(table, rows, self.new_rows)?;
                table.shallow_clone().set_data(&grown);
            }
            parts.adapters.set_resized(names);
            set_rows(parts, rows);
            Ok(())
        };
        let _guard = tch::no_grad_guard();
        match self.new_rows {
            NewRows::Mean => resize(parts),
            NewRows::Normal { seed } => seeded(seed.cast_signed(), || resize(parts))?,
        }
    }
}

/// The table with this number of rows, of at least those that it has. Draws are from libtorch's generator.
pub(crate) fn grown(table: &Tensor, rows: i64, new_rows: NewRows) -> Result<Tensor, ModelError> {
    let old = table.size()[0];
    let (added, kind) = (rows - old, table.kind());
    let mean = table.mean_dim(Some(&[0][..]), true, Kind::Float);
    let more = match new_rows {
        NewRows::Mean => mean.to_kind(kind).expand([added, -1], false),
        NewRows::Normal { .. } => {
            const SCALE: f64 = 1e-9;
            let centred = table.to_kind(Kind::Float) - &mean;
            let covariance = centred.tr().matmul(&centred) / old as f64 * SCALE;
            match covariance.f_linalg_cholesky(false) {
                Ok(factor) => {
                    // On the CPU, so that the rows do not depend on the device.
                    let draw = Tensor::randn([added, mean.size()[1]], (Kind::Float, Device::Cpu));
                    (draw.to_device(table.device()).matmul(&factor.tr()) + mean).to_kind(kind)
                }
                Err(_) => mean.to_kind(kind).expand([added, -1], false),
            }
        }
    };
    Tensor::f_cat(&[table, &more], 0).map_err(|source| ModelError::Torch(source.into()))
}

/// Records the number of rows, and gives the bias of the logits as many; new ones are 0.
pub(crate) fn set_rows(parts: &mut Parts<'_>, rows: i64) {
    let old = std::mem::replace(&mut parts.spec.vocab_size, rows);
    parts.config.set("vocab_size", rows.into());
    if let Some(bias) = parts.parameters.get(LOGITS_BIAS) {
        let sized = match rows >= old {
            true => bias.constant_pad_nd([0, rows - old]),
            false => bias.narrow(1, 0, rows).copy(),
        };
        bias.shallow_clone().set_data(&sized);
    }
}

/// `true` for the embeddings of tokens, and for a head on the vocabulary.
pub(crate) fn is_vocabulary(layer: &Linear, parts: &Parts<'_>) -> bool {
    let of = |layers: &[&mut Linear]| layers.iter().any(|other| other.path == layer.path);
    let rows = layer.weight.size().first().copied();
    rows == Some(parts.spec.vocab_size) && (of(&parts.words) || of(&parts.head))
}

/// The parameters with a row for each token, and the modules that have them.
pub(crate) fn tables(parts: &Parts<'_>) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let module = |parameter: &str| parameter.trim_end_matches(".weight").to_owned();
    let layers = parts.words.iter().chain(&parts.head);
    for layer in layers.filter(|layer| is_vocabulary(layer, parts)) {
        let name = layer.parameter();
        let modules = all.entry(name.clone()).or_default();
        let aliases = parts.parameters.tied().filter(|(_, of)| *of == name).map(|(alias, _)| alias);
        for found in [layer.path.clone(), module(&name)].into_iter().chain(aliases.map(module)) {
            if !modules.contains(&found) {
                modules.push(found);
            }
        }
    }
    all
}
