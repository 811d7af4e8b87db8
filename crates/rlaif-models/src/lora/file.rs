//! Tensors of an adapter's file besides its factors: copies of the base's embeddings and head, and others.

use std::collections::{BTreeMap, BTreeSet};

use rlaif_checkpoint::{AdapterKey, AdapterRules, Checkpoint};
use rlaif_lm::Parameters;
use tch::Tensor;

use crate::{
    error::ModelError,
    frame::Parts,
    layers::Linear,
    vocabulary::{NewRows, grown, is_vocabulary, set_rows, tables},
    weights::{read_if_present, rows_of},
};

/// The names of heads that peft lists for the adapter of any classifier.
pub(super) const HEADS: [&str; 2] = ["classifier", "score"];

/// The key of a parameter of the base in peft's files.
pub(super) fn prefixed(parameter: &str) -> String {
    AdapterKey::Saved { parameter: parameter.to_owned() }.to_string()
}

/// The vocabulary of an adapter, where its file has one besides its factors.
pub(super) struct Vocabulary {
    /// Rows of the embeddings and the head, once the adapter is loaded.
    pub(super) rows: i64,
    /// Matrices that the file has in the base's stead, by the name of the parameter.
    pub(super) tables: BTreeMap<String, Tensor>,
    /// The keys in the file.
    pub(super) keys: BTreeSet<String>,
}

impl Vocabulary {
    /// The vocabulary of the base.
    pub(super) fn of_base(parts: &Parts<'_>) -> Self {
        let (tables, keys) = (BTreeMap::new(), BTreeSet::new());
        Self { rows: parts.spec.vocab_size, tables, keys }
    }

    /// The vocabulary of an adapter's file. `ties` is true if layers with one matrix share what the adapter
    /// has for them.
    ///
    /// # Errors
    /// [`ModelError::AdapterParts`] for matrices that cannot replace those of the base.
    pub(super) fn of_file(
        parts: &Parts<'_>,
        file: &Checkpoint,
        rules: &AdapterRules,
        ties: bool,
    ) -> Result<Self, ModelError> {
        let mut own = Self::of_base(parts);
        let refused = |key: &str, shape: &[i64]| ModelError::AdapterParts {
            file: file.origin().to_owned(),
            others: vec![format!("{key} {shape:?}")],
        };
        let mut sizes: Vec<(String, i64)> = Vec::new();
        for (name, modules) in tables(parts) {
            let Some(base) = parts.parameters.get(&name) else { continue };
            let any_saved = modules.iter().any(|module| rules.saves(module));
            for module in &modules {
                let saved = rules.saves(module) || (ties && any_saved);
                for wrapper in ["", ".base_layer", ".original_module"] {
                    let key = prefixed(&format!("{module}{wrapper}.weight"));
                    let Some(rows) = rows_of(file, &key) else { continue };
                    sizes.push((key.clone(), rows));
                    if saved && wrapper.is_empty() {
                        continue;
                    }
                    own.keys.insert(key.clone());
                    let Some(copy) = read_if_present(file, &key)? else { continue };
                    let copy = copy.to_device(base.device()).to_kind(base.kind());
                    if copy.dim() != 2 || copy.size()[1] != base.size()[1] {
                        return Err(refused(&key, &copy.size()));
                    }
                    match own.tables.get(&name) {
                        Some(other) if !other.equal(&copy) => {
                            return Err(refused(&key, &copy.size()));
                        }
                        _ => own.tables.insert(name.clone(), copy),
                    };
                }
                // Factors have as many columns, or rows, as the vocabulary.
                let module = || module.clone();
                let columns = AdapterKey::EmbeddingA { module: module() }.to_string();
                let size = file.tensors().get(&columns).and_then(|info| info.shape.get(1).copied());
                sizes.extend(size.map(|size| (columns, size as i64)));
                let key = AdapterKey::LoraB { module: module() }.to_string();
                sizes.extend(rows_of(file, &key).map(|rows| (key, rows)));
            }
        }
        if let Some((_, rows)) = sizes.first() {
            own.rows = *rows;
            if let Some((key, other)) = sizes.iter().find(|(_, other)| other != rows) {
                return Err(refused(key, &[*other]));
            }
        }
        own.tables.retain(|name, copy| {
            parts
                .parameters
                .get(name)
                .is_none_or(|base| copy.size() != base.size() || !base.equal(copy))
        });
        Ok(own)
    }

    /// Puts the matrices into the model, and returns the names of the parameters that changed. Rows that
    /// the file lacks are the mean of the base's, as those that transformers adds.
    ///
    /// # Errors
    /// [`ModelError::Torch`] if the matrices do not fit into memory.
    pub(super) fn apply(mut self, parts: &mut Parts<'_>) -> Result<Vec<String>, ModelError> {
        let _guard = tch::no_grad_guard();
        let mut replaced = Vec::new();
        for name in tables(parts).into_keys() {
            let Some(base) = parts.parameters.get(&name) else { continue };
            let rows = base.size()[0];
            let table = match self.tables.remove(&name) {
                Some(table) => table,
                None if rows == self.rows => continue,
                None if rows > self.rows => base.narrow(0, 0, self.rows).copy(),
                None => grown(base, self.rows, NewRows::Mean)?,
            };
            base.shallow_clone().set_data(&table);
            replaced.push(name);
        }
        if self.rows != parts.spec.vocab_size {
            set_rows(parts, self.rows);
        }
        Ok(replaced)
    }

    /// The size of a layer's weight, once the adapter is loaded.
    pub(super) fn size_of(&self, layer: &Linear, parts: &Parts<'_>) -> Vec<i64> {
        let mut size = layer.weight.size();
        if is_vocabulary(layer, parts) {
            size[0] = self.rows;
        }
        size
    }
}

/// `true` for a tensor of a classifier's head that the model does not have.
pub(super) fn of_classifier(parameter: &str, parameters: &Parameters) -> bool {
    let first = parameter.split('.').next().unwrap_or(parameter);
    let beginning = format!("{first}.");
    HEADS.contains(&first) && !parameters.iter().any(|(name, _)| name.starts_with(&beginning))
}

/// The name of a tensor without the names of peft's wrappers.
pub(super) fn unwrapped(name: &str) -> String {
    let wrapper = |part: &&str| !["base_layer", "original_module"].contains(part);
    name.split('.').filter(wrapper).collect::<Vec<_>>().join(".")
}

/// `true` for a tensor of an adapter's file that is a copy of the base's parameter with this name.
pub(super) fn is_copy(
    file: &Checkpoint,
    name: &str,
    parameter: &str,
    parameters: &Parameters,
) -> Result<bool, ModelError> {
    let Some(own) = parameters.get(parameter) else { return Ok(false) };
    let Some(copy) = read_if_present(file, name)? else { return Ok(false) };
    let copy = copy.to_device(own.device()).to_kind(own.kind());
    let copy = match parameters.is_transposed(parameter) {
        true if copy.dim() == 2 => copy.tr(),
        _ => copy,
    };
    Ok(copy.size() == own.size() && own.equal(&copy))
}
