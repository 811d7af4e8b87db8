//! Adapters as data: one on a layer, the named ones of a model, and the one selected by a forward
//! pass.

use rlaif_checkpoint::{AdapterConfig, AdapterKey};
use rlaif_lm::{Activations, Adapters, Dropout, Forward, LmError};
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::{error::ModelError, recompute::Shallow};

/// One adapter on one layer.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub(crate) form: Form,
    /// `true` if the tensors are parameters of another layer, which this one shares its weight with
    /// (`ensure_weight_tying`).
    pub(crate) shared: bool,
    /// The layer before this adapter was merged.
    pub(crate) merged_over: Option<Before>,
}

/// The state of a layer before an adapter was merged into it, besides its weight.
#[derive(Debug)]
pub(crate) struct Before {
    pub(crate) bias: Option<Tensor>,
}

/// The sort of a layer that adapters can be put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerSort {
    /// Products with a weight `[outputs, inputs]`.
    Linear,
    /// A table of embeddings, whose weight `[inputs, outputs]` is read by rows.
    Table,
}

/// The effect of an adapter on its layer.
#[derive(Debug)]
pub(crate) enum Form {
    /// Adds the product of two factors.
    Lora(Low),
    /// Replaces the layer: peft's `modules_to_save`, for heads that are trained as a whole.
    Replacement { weight: Tensor, bias: Option<Tensor> },
}

/// Adds `scale · x Aᵀ Bᵀ`, with DoRA and initialisations from the base.
#[derive(Debug)]
pub(crate) struct Low {
    pub(crate) factors: Factors,
    pub(crate) scale: f64,
    pub(crate) dropout: f64,
    /// A and B at the start of training, if they were a part of the base's weight: the layer has
    /// `scale · (BA - B₀A₀)` more than the base.
    pub(crate) start: Option<[Tensor; 2]>,
    /// DoRA's magnitudes, one for each output.
    pub(crate) magnitude: Option<Tensor>,
    /// The layer's bias, if it is trained with the factors.
    pub(crate) bias: Option<Tensor>,
}

impl Low {
    /// The sum that the layer's weight gets before DoRA, in f32: `[outputs, inputs]`, of a table
    /// `[inputs, outputs]`.
    pub(crate) fn delta(&self, sort: LayerSort) -> Tensor {
        let product = |a: &Tensor, b: &Tensor| {
            let [a, b] = [a, b].map(|factor| factor.to_kind(Kind::Float));
            match sort {
                LayerSort::Linear => b.matmul(&a),
                LayerSort::Table => a.tr().contiguous().matmul(&b.tr().contiguous()),
            }
        };
        let [a, b] = match sort {
            LayerSort::Linear => self.factors.of_linear(),
            LayerSort::Table => self.factors.of_table(),
        };
        let delta = product(&a, &b);
        match &self.start {
            Some([a, b]) => (delta - product(a, b)) * self.scale,
            None => delta * self.scale,
        }
    }

    /// DoRA's factor of each output: the magnitude, divided by the norm of the changed weight. The norm is
    /// a constant in the backward pass (section 4.3 of the paper).
    pub(crate) fn ratio(&self, weight: impl FnOnce() -> Tensor, sort: LayerSort) -> Option<Tensor> {
        let magnitude = self.magnitude.as_ref()?;
        Some(magnitude / tch::no_grad(|| self.norm(&weight(), sort)))
    }

    /// The norm of the weights of each output.
    pub(crate) fn norm(&self, weight: &Tensor, sort: LayerSort) -> Tensor {
        let changed = weight.to_kind(Kind::Float) + self.delta(sort);
        let inputs: i64 = match sort {
            LayerSort::Linear => 1,
            LayerSort::Table => 0,
        };
        changed.norm_scalaropt_dim(2, &[inputs][..], false)
    }
}

impl Shallow for Low {
    fn handle(&self) -> Self {
        let start = self.start.as_ref().map(|both| both.each_ref().map(Tensor::shallow_clone));
        Self {
            factors: self.factors.handle(),
            start,
            magnitude: self.magnitude.handle(),
            bias: self.bias.handle(),
            ..*self
        }
    }
}

/// A and B as peft has them: `[r, inputs]` and `[outputs, r]` of a linear layer or a table, whose inputs are
/// the ids.
#[derive(Debug)]
pub(crate) struct Factors {
    pub(crate) a: Tensor,
    pub(crate) b: Tensor,
    /// `true` for factors of a table on a linear layer with the same matrix.
    pub(crate) of_other: bool,
}

impl Factors {
    /// A `[r, inputs]` and B `[outputs, r]` of a linear layer.
    pub(crate) fn of_linear(&self) -> [Tensor; 2] {
        if self.of_other {
            return [self.b.tr().contiguous(), self.a.tr().contiguous()];
        }
        self.of_table()
    }

    /// A `[r, ids]` and B `[size, r]` of a table.
    pub(crate) fn of_table(&self) -> [Tensor; 2] {
        [self.a.shallow_clone(), self.b.shallow_clone()]
    }
}

impl Shallow for Factors {
    fn handle(&self) -> Self {
        Self { a: self.a.shallow_clone(), b: self.b.shallow_clone(), of_other: self.of_other }
    }
}

/// A tensor of an adapter.
pub(crate) struct Part {
    /// Name in memory.
    pub(crate) parameter: String,
    /// Name in peft's files.
    pub(crate) key: AdapterKey,
    pub(crate) tensor: Tensor,
}

impl Adapter {
    /// The adapter of a form with tensors of its own.
    pub(crate) fn new(form: Form) -> Self {
        Self { form, shared: false, merged_over: None }
    }

    /// The same tensors on a layer that shares its weight with this adapter's.
    pub(crate) fn shared_with(&self, sort: LayerSort) -> Self {
        let mut form = self.form.handle();
        if let Form::Lora(low) = &mut form {
            low.factors.of_other = sort == LayerSort::Linear;
        }
        Self { form, shared: true, merged_over: None }
    }

    /// The tensors of the adapter `name` on the layer at `path`.
    pub(crate) fn tensors(&self, name: &str, path: &str, sort: LayerSort) -> Vec<Part> {
        let module = || path.to_owned();
        let part = |parameter, key, tensor: &Tensor| Part {
            parameter,
            key,
            tensor: tensor.shallow_clone(),
        };
        let magnitude = |low: &Low| {
            let name = format!("{path}.lora_magnitude_vector.{name}.weight");
            let key = AdapterKey::Magnitude { module: module() };
            low.magnitude.as_ref().map(|magnitude| part(name, key, magnitude))
        };
        match &self.form {
            Form::Lora(low) if sort == LayerSort::Table => {
                let [a, b] = low.factors.of_table();
                let (key_a, key_b) = (
                    AdapterKey::EmbeddingA { module: module() },
                    AdapterKey::EmbeddingB { module: module() },
                );
                let mut all = vec![
                    part(format!("{path}.lora_embedding_A.{name}"), key_a, &a),
                    part(format!("{path}.lora_embedding_B.{name}"), key_b, &b),
                ];
                all.extend(magnitude(low));
                all
            }
            Form::Lora(low) => {
                let [a, b] = low.factors.of_linear();
                let (key_a, key_b) = (
                    AdapterKey::LoraA { module: module() },
                    AdapterKey::LoraB { module: module() },
                );
                let mut all = vec![
                    part(format!("{path}.lora_A.{name}.weight"), key_a, &a),
                    part(format!("{path}.lora_B.{name}.weight"), key_b, &b),
                ];
                all.extend(magnitude(low));
                all.extend(low.bias.as_ref().map(|bias| {
                    let name = format!("{path}.modules_to_save.{name}.bias");
                    part(name, AdapterKey::Bias { module: module() }, bias)
                }));
                all
            }
            Form::Replacement { weight, bias } => {
                let saved = |key: &str, tensor: &Tensor| {
                    let parameter = format!("{path}.modules_to_save.{name}.{key}");
                    part(
                        parameter,
                        AdapterKey::Saved { parameter: format!("{path}.{key}") },
                        tensor,
                    )
                };
                let mut all = vec![saved("weight", weight)];
                all.extend(bias.as_ref().map(|bias| saved("bias", bias)));
                all
            }
        }
    }
}

impl Shallow for Form {
    fn handle(&self) -> Self {
        match self {
            Self::Lora(low) => Self::Lora(low.handle()),
            Self::Replacement { weight, bias } => {
                Self::Replacement { weight: weight.shallow_clone(), bias: bias.handle() }
            }
        }
    }
}

impl Shallow for Adapter {
    fn handle(&self) -> Self {
        let merged_over =
            self.merged_over.as_ref().map(|before| Before { bias: before.bias.handle() });
        Self { form: self.form.handle(), shared: self.shared, merged_over }
    }
}

/// The named adapters of one model. An adapter keeps its slot while it is loaded.
#[derive(Debug, Default)]
pub(crate) struct AdapterSet {
    slots: Vec<Option<Entry>>,
    active: Option<usize>,
    merged: Option<(usize, Merged)>,
    /// Parameters of the base that have more rows than those of its files.
    resized: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    config: AdapterConfig,
    /// Parameters of the base that its file replaced: the tables of another vocabulary.
    replaced: Vec<String>,
}

/// Changes of a merge besides those of weights in place.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// Parameters of several layers, before.
    pub(crate) weights: Vec<(String, Tensor)>,
    /// Layers that got a tensor of their own: the tensor's name, and the parameter that they shared.
    pub(crate) untied: Vec<(String, String)>,
    /// Fields of config.json, before.
    pub(crate) fields: Vec<(&'static str, Option<Value>)>,
}

impl AdapterSet {
    pub(crate) fn names(&self) -> Vec<String> {
        self.slots.iter().flatten().map(|entry| entry.name.clone()).collect()
    }

    pub(crate) fn find(&self, name: &str) -> Result<usize, ModelError> {
        self.position(name).ok_or_else(|| ModelError::UnknownAdapter {
            name: name.to_owned(),
            loaded: self.names(),
        })
    }

    /// # Panics
    /// If the slot is empty: slots come from [`Self::find`].
    pub(crate) fn config(&self, slot: usize) -> &AdapterConfig {
        &self.entry(slot).config
    }

    /// The parameters of the base that are not those of its files: those that an adapter's file replaced, and
    /// those of a resized vocabulary.
    ///
    /// # Panics
    /// As [`Self::config`].
    pub(crate) fn replaced(&self, slot: usize) -> impl Iterator<Item = &String> {
        let replaced = &self.entry(slot).replaced;
        replaced.iter().chain(self.resized.iter().filter(|name| !replaced.contains(name)))
    }

    /// Names the parameters of a resized vocabulary.
    pub(crate) fn set_resized(&mut self, names: Vec<String>) {
        self.resized = names;
    }

    fn entry(&self, slot: usize) -> &Entry {
        self.slots[slot].as_ref().expect("a slot that was found is taken")
    }

    pub(crate) fn active(&self) -> Option<&str> {
        self.slots.get(self.active?)?.as_ref().map(|entry| entry.name.as_str())
    }

    /// The slot for the next adapter; the first adapter becomes the active one.
    pub(crate) fn vacant(&self, name: &str) -> Result<usize, ModelError> {
        match self.position(name) {
            Some(_) => Err(ModelError::AdapterExists { name: name.to_owned() }),
            None => Ok(self.slots.len()),
        }
    }

    pub(crate) fn push(&mut self, name: &str, config: AdapterConfig, replaced: Vec<String>) {
        self.active.get_or_insert(self.slots.len());
        self.slots.push(Some(Entry { name: name.to_owned(), config, replaced }));
    }

    pub(crate) fn remove(&mut self, slot: usize) {
        self.slots[slot] = None;
        if self.active == Some(slot) {
            self.active = self.slots.iter().position(Option::is_some);
        }
    }

    pub(crate) fn activate(&mut self, slot: usize) {
        self.active = Some(slot);
    }

    pub(crate) fn merged(&self) -> Option<usize> {
        self.merged.as_ref().map(|(slot, _)| *slot)
    }

    pub(crate) fn set_merged(&mut self, slot: usize, changes: Merged) {
        self.merged = Some((slot, changes));
    }

    pub(crate) fn take_merged(&mut self) -> Option<(usize, Merged)> {
        self.merged.take()
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.slots.iter().position(|slot| slot.as_ref().is_some_and(|entry| entry.name == name))
    }

    /// The settings of a forward pass, with the adapter's name resolved for this model.
    pub(crate) fn resolve(&self, forward: Forward<'_>) -> Result<Pass, LmError> {
        let adapter = match forward.adapters {
            Adapters::Active => self.active,
            Adapters::Off => None,
            Adapters::Named(name) => Some(self.position(name).ok_or_else(|| {
                LmError::UnknownAdapter { name: name.to_owned(), loaded: self.names() }
            })?),
        };
        if self.merged.is_some() && adapter != self.merged() {
            return Err(LmError::AdapterMerged);
        }
        Ok(Pass { dropout: forward.dropout, activations: forward.activations, adapter })
    }
}

/// Settings of a forward pass with the adapter resolved, so that a recomputed layer can keep them.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    pub(crate) dropout: Dropout,
    pub(crate) activations: Activations,
    pub(crate) adapter: Option<usize>,
}

impl Pass {
    /// The activations kept for the backward pass.
    pub fn activations(self) -> Activations {
        self.activations
    }

    /// The probability `p` where dropout is on, else 0.
    pub fn dropout_p(self, p: f64) -> f64 {
        match self.dropout {
            Dropout::On => p,
            Dropout::Off => 0.,
        }
    }
}
