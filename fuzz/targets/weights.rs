//! Files of weights and adapters.

use std::path::Path;

use rlaif_checkpoint::{AdapterConfig, Checkpoint, Gguf};

use crate::files::{beside, each, files, files_of, outcome, put, told};

const CHECKPOINTS: &str = "crates/rlaif-checkpoint/tests/fixtures";

pub(crate) fn safetensors() -> Vec<Vec<u8>> {
    ["safetensors", "refused"]
        .iter()
        .flat_map(|name| files_of(&format!("{CHECKPOINTS}/{name}"), ".safetensors", 1 << 16))
        .collect()
}

fn tensors(place: &Path) -> String {
    let checkpoint = match Checkpoint::open(place) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return told(&error),
    };
    for (name, info) in checkpoint.tensors() {
        if info.bytes < 1 << 20
            && let Err(error) = checkpoint.read_into(name, &mut vec![0; info.bytes as usize])
        {
            return told(&error);
        }
    }
    "fine".to_owned()
}

pub(crate) fn weights(input: &[u8], place: &Path) -> String {
    put(place, "model.safetensors", input);
    tensors(place)
}

pub(crate) fn pickles() -> Vec<Vec<u8>> {
    let mut all = files_of(&format!("{CHECKPOINTS}/refused"), ".bin", 1 << 16);
    for name in ["torch", "torch_legacy", "torch_module", "torch_protocol4"] {
        all.extend(files_of(&format!("{CHECKPOINTS}/{name}"), ".bin", 1 << 16));
    }
    all
}

pub(crate) fn pickle(input: &[u8], place: &Path) -> String {
    put(place, "pytorch_model.bin", input);
    tensors(place)
}

pub(crate) fn ggufs() -> Vec<Vec<u8>> {
    each("fixtures/models", "blocks.gguf", 1 << 17)
        .into_iter()
        .chain(each("fixtures/models", "model.gguf", 1 << 17))
        .collect()
}

pub(crate) fn gguf(input: &[u8], place: &Path) -> String {
    put(place, "model.gguf", input);
    let file = match Gguf::open(&place.join("model.gguf")) {
        Ok(file) => file,
        Err(error) => return told(&error),
    };
    for name in file.tensors().keys() {
        if let Err(error) = file.read(name) {
            return told(&error);
        }
    }
    "fine".to_owned()
}

pub(crate) fn indices() -> Vec<Vec<u8>> {
    files(&[
        "crates/rlaif-checkpoint/tests/fixtures/safetensors_sharded/model.safetensors.index.json",
    ])
}

pub(crate) fn index(input: &[u8], place: &Path) -> String {
    for name in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        beside(place, name, &format!("{CHECKPOINTS}/safetensors_sharded/{name}"));
    }
    put(place, "model.safetensors.index.json", input);
    tensors(place)
}

pub(crate) fn adapters() -> Vec<Vec<u8>> {
    each(&format!("{CHECKPOINTS}/adapters"), "adapter_config.json", 1 << 16)
}

pub(crate) fn adapter(input: &[u8], place: &Path) -> String {
    put(place, "adapter_config.json", input);
    outcome(AdapterConfig::read(place))
}
