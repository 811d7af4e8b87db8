//! Which adapters a model has, and how a forward pass picks one.

use rlaif_checkpoint::AdapterConfig;
use rlaif_lm::{Activations, Adapters, Dropout, Forward, LmError, Parameters};

use crate::{error::ModelError, layers::Linear};

/// The named adapters of one model. An adapter keeps its slot as long as it is loaded.
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
    /// If the slot is empty: it comes from [`Self::find`].
    pub(crate) fn config(&self, slot: usize) -> &AdapterConfig {
        &self.slots[slot].as_ref().expect("a slot that was found is taken").config
    }

    pub(crate) fn active(&self) -> Option<&str> {
        self.slots.get(self.active?)?.as_ref().map(|entry| entry.name.as_str())
    }

    /// The slot that the next adapter will have; it becomes the active one if it is the first.
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

    /// What a forward pass means for this model.
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

/// A forward pass whose adapter is resolved: it can be kept by a segment that is recomputed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass {
    pub(crate) dropout: Dropout,
    pub(crate) activations: Activations,
    pub(crate) adapter: Option<usize>,
}

impl Pass {
    /// The probability `p` where dropout is on, else 0.
    pub(crate) fn dropout_p(self, p: f64) -> f64 {
        match self.dropout {
            Dropout::On => p,
            Dropout::Off => 0.,
        }
    }
}

/// The parts of a model that adapters touch.
pub(crate) struct Parts<'a> {
    /// The linear layers of the trunk.
    pub(crate) linears: Vec<&'a mut Linear>,
    /// The layers of the head: vocabulary or classification. `all-linear` leaves them out.
    pub(crate) head: Vec<&'a mut Linear>,
    pub(crate) parameters: &'a mut Parameters,
    pub(crate) adapters: &'a mut AdapterSet,
}
