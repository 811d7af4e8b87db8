//! An adapter added to the weights, and taken out again.
//!
//! Where layers share one matrix, as embeddings and a tied head do, an adapter may change one of them and not
//! the other. That layer then has a matrix of its own while the adapter is merged.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use crate::{
    adapter::{Before, Form, LayerSort, Merged},
    frame::Parts,
    layers::Linear,
};

/// Weight and bias of a layer with the adapter in this slot added; `None` without one.
fn merged(layer: &Linear, slot: usize) -> Option<(Tensor, Option<Tensor>)> {
    let kind = layer.weight.kind();
    match &layer.adapters.get(&slot)?.form {
        Form::Lora(low) => {
            let sum = layer.weight.to_kind(Kind::Float) + low.delta(layer.sort);
            let sum = match low.ratio(|| layer.dense(), layer.sort) {
                Some(ratio) if layer.sort == LayerSort::Table => sum * ratio,
                Some(ratio) => sum * ratio.unsqueeze(1),
                None => sum,
            };
            let bias = low.bias.as_ref().or(layer.bias.as_ref());
            Some((sum.to_kind(kind), bias.map(|bias| bias.to_kind(kind))))
        }
        Form::Replacement { weight, bias } => {
            Some((weight.to_kind(kind), bias.as_ref().map(Tensor::shallow_clone)))
        }
    }
}

/// Replaces quantized weights by dense ones in the model's dtype.
pub(super) fn dequantize(parts: &mut Parts<'_>) {
    let mut made = Vec::new();
    for layer in parts.layers_mut().filter(|layer| layer.quantized.is_some()) {
        layer.weight = layer.dense();
        layer.quantized = None;
        made.push((layer.parameter(), layer.weight.shallow_clone()));
    }
    let any = !made.is_empty();
    for (name, weight) in made {
        parts.parameters.insert(name, weight);
    }
    if any {
        parts.config.unset("quantization_config");
    }
}

/// Adds the adapter in this slot to the weights.
pub(super) fn merge(parts: &mut Parts<'_>, slot: usize) {
    let _guard = tch::no_grad_guard();
    dequantize(parts);
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (number, layer) in parts.layers().enumerate() {
        groups.entry(layer.parameter()).or_default().push(number);
    }
    let head = parts.words.len() + parts.tables.len() + parts.linears.len();
    let mut changes = Merged::default();
    for (name, numbers) in groups {
        let mut made: Vec<Option<(Tensor, Option<Tensor>)>> = Vec::new();
        let layers: Vec<&Linear> = parts.layers().collect();
        made.extend(numbers.iter().map(|&number| merged(layers[number], slot)));
        let Some((first, _)) = made.iter().flatten().next() else { continue };
        let owned = layers[numbers[0]].weight.shallow_clone();
        let alike = made.iter().all(|one| one.as_ref().is_some_and(|(one, _)| one.equal(first)));
        let weight = if alike {
            Some(first.shallow_clone())
        } else {
            let own = numbers.iter().position(|&number| layers[number].tied.is_none());
            own.and_then(|i| made[i].as_ref().map(|(weight, _)| weight.shallow_clone()))
        };
        let before = owned.copy();
        for (&number, made) in numbers.iter().zip(made) {
            let Some(layer) = parts.layers_mut().nth(number) else { continue };
            if let Some(adapter) = layer.adapters.get_mut(&slot) {
                let bias = layer.bias.as_ref().map(Tensor::copy);
                adapter.merged_over = Some(Before { bias });
            }
            let (new, bias) = match made {
                Some((new, bias)) => (Some(new), bias),
                None => (None, None),
            };
            if let (Some(to), Some(from)) = (&mut layer.bias, &bias) {
                to.copy_(from);
            }
            let parts_now = !alike && layer.tied.is_some();
            if parts_now && (new.is_some() || weight.is_some()) {
                layer.weight = new.unwrap_or_else(|| before.copy());
                let (alias, own) = (format!("{}.weight", layer.path), layer.weight.shallow_clone());
                parts.parameters.untie(&alias, own);
                changes.untied.push((alias, name.clone()));
                if number >= head && changes.fields.is_empty() {
                    changes.fields = untie_config(parts);
                }
            }
        }
        if let Some(weight) = weight {
            owned.shallow_clone().copy_(&weight);
            changes.weights.push((name, before));
        }
    }
    parts.adapters.set_merged(slot, changes);
}

/// Declares in config.json that the head has a matrix of its own, and returns the fields before.
fn untie_config(parts: &mut Parts<'_>) -> Vec<(&'static str, Option<serde_json::Value>)> {
    let mut before = Vec::new();
    for (field, value) in &parts.untied {
        before.push((*field, parts.config.fields().get(*field).cloned()));
        parts.config.set(field, (*value).into());
    }
    before
}

/// Takes the adapter in this slot out of the weights.
pub(super) fn unmerge(parts: &mut Parts<'_>, slot: usize, changes: Merged) {
    let _guard = tch::no_grad_guard();
    for layer in parts.layers_mut() {
        let before = layer.adapters.get_mut(&slot).and_then(|adapter| adapter.merged_over.take());
        if let (Some(to), Some(from)) = (&mut layer.bias, before.and_then(|before| before.bias)) {
            to.copy_(&from);
        }
    }
    for (name, before) in changes.weights {
        if let Some(weight) = parts.parameters.get(&name) {
            weight.shallow_clone().copy_(&before);
        }
    }
    for (alias, name) in changes.untied {
        parts.parameters.remove(&alias);
        let shared = parts.parameters.get(&name).map(Tensor::shallow_clone);
        parts.parameters.tie(&*alias, name);
        let module = alias.strip_suffix(".weight").unwrap_or(&alias).to_owned();
        let layer = parts.layers_mut().find(|layer| layer.path == module);
        if let (Some(layer), Some(shared)) = (layer, shared) {
            layer.weight = shared;
        }
    }
    for (field, value) in changes.fields {
        match value {
            Some(value) => parts.config.set(field, value),
            None => parts.config.unset(field),
        }
    }
}
