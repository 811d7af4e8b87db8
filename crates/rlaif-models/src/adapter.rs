//! Adapters as data: one on a layer, the named ones of a model, and the one selected by a forward
//! pass.

use rlaif_checkpoint::{AdapterConfig, AdapterKey};
use rlaif_lm::{Activations, Adapters, Dropout, Forward, LmError};
use tch::Tensor;

use crate::{error::ModelError, recompute::Shallow};

/// One adapter on one linear layer.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub(crate) form: Form,
    /// Weight and bias of the layer before this adapter was merged.
    pub(crate) merged_over: Option<(Tensor, Option<Tensor>)>,
}

/// The effect of an adapter on its layer.
#[derive(Debug)]
pub(crate) enum Form {
    /// Adds `scale · x Aᵀ Bᵀ`.
    Lora { a: Tensor, b: Tensor, scale: f64, dropout: f64 },
    /// Replaces the layer: peft's `modules_to_save`, for heads that are trained as a whole.
    Replacement { weight: Tensor, bias: Option<Tensor> },
}

impl Adapter {
    /// The tensors, with the endings of their names in memory and their keys in peft's files.
    pub(crate) fn tensors(&self, name: &str, path: &str) -> Vec<(String, AdapterKey, &Tensor)> {
        let module = || path.to_owned();
        let saved = |key: &str| AdapterKey::Saved { parameter: format!("{path}.{key}") };
        match &self.form {
            Form::Lora { a, b, .. } => vec![
                (format!("{path}.lora_A.{name}.weight"), AdapterKey::LoraA { module: module() }, a),
                (format!("{path}.lora_B.{name}.weight"), AdapterKey::LoraB { module: module() }, b),
            ],
            Form::Replacement { weight, bias } => {
                let mut all = vec![(
                    format!("{path}.modules_to_save.{name}.weight"),
                    saved("weight"),
                    weight,
                )];
                if let Some(bias) = bias {
                    all.push((format!("{path}.modules_to_save.{name}.bias"), saved("bias"), bias));
                }
                all
            }
        }
    }
}

impl Shallow for Adapter {
    fn handle(&self) -> Self {
        let form = match &self.form {
            Form::Lora { a, b, scale, dropout } => Form::Lora {
                a: a.shallow_clone(),
                b: b.shallow_clone(),
                scale: *scale,
                dropout: *dropout,
            },
            Form::Replacement { weight, bias } => Form::Replacement {
                weight: weight.shallow_clone(),
                bias: bias.as_ref().map(Tensor::shallow_clone),
            },
        };
        let merged_over = self.merged_over.as_ref().map(|(weight, bias)| {
            (weight.shallow_clone(), bias.as_ref().map(Tensor::shallow_clone))
        });
        Self { form, merged_over }
    }
}

/// The named adapters of one model. An adapter keeps its slot while it is loaded.
#[derive(Debug, Default)]
pub(crate) struct AdapterSet {
    slots: Vec<Option<Entry>>,
    active: Option<usize>,
    merged: Option<usize>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    config: AdapterConfig,
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
        &self.slots[slot].as_ref().expect("a slot that was found is taken").config
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

    pub(crate) fn push(&mut self, name: &str, config: AdapterConfig) {
        self.active.get_or_insert(self.slots.len());
        self.slots.push(Some(Entry { name: name.to_owned(), config }));
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
        self.merged
    }

    pub(crate) fn set_merged(&mut self, slot: Option<usize>) {
        self.merged = slot;
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
        if self.merged.is_some() && adapter != self.merged {
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
