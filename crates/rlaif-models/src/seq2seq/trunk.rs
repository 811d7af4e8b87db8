//! Encoder and decoder, and the embeddings of both.

use tch::Tensor;

use crate::{
    error::ModelError,
    layers::{Embedding, Linear},
    weights::ModelTensors,
};

/// Encoder and decoder of a family, which has its own sizes and stacks.
#[derive(Debug)]
pub(crate) struct Trunk<Shape, Stack> {
    pub(crate) shape: Shape,
    /// The embeddings of the encoder and of the decoder, which share one matrix as a rule.
    pub(crate) words: [Embedding; 2],
    pub(crate) encoder: Stack,
    pub(crate) decoder: Stack,
}

impl<Shape, Stack> Trunk<Shape, Stack> {
    /// The matrix of embeddings.
    pub(crate) fn embeddings(&self) -> &Tensor {
        self.words[0].weight()
    }
}

/// Refuses a config.json that declares the model not to have an encoder and a decoder.
pub(crate) fn check_encoder_decoder(declared: Option<bool>) -> Result<(), ModelError> {
    match declared {
        None | Some(true) => Ok(()),
        Some(false) => Err(ModelError::UnsupportedField {
            file: None,
            field: "is_encoder_decoder",
            found: "false".to_owned(),
            supported: "true",
        }),
    }
}

/// The layers of an encoder-decoder model that adapters can be put on.
pub(crate) struct TrunkLayers<'a> {
    pub(crate) linears: Vec<&'a mut Linear>,
    pub(crate) words: Vec<&'a mut Embedding>,
    /// Embeddings of positions.
    pub(crate) tables: Vec<&'a mut Embedding>,
}

/// Names of the embeddings: those that most checkpoints have, and those that encoder and decoder read.
const SHARED: [&str; 3] =
    ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];

/// The embeddings of the encoder and of the decoder under a path that is empty or ends in a dot, and the
/// name of the matrix that they share as a rule. Without a checkpoint, it is normal with this standard
/// deviation.
pub(crate) fn shared_words(
    source: &ModelTensors<'_>,
    path: &str,
    [rows, size]: [i64; 2],
    std: f64,
) -> ([Embedding; 2], String) {
    let names = SHARED.map(|name| format!("{path}{name}"));
    let name = source.first_of(&names.each_ref().map(String::as_str)).to_owned();
    let own: Vec<&String> = names.iter().filter(|other| source.differ(other, &name)).collect();
    for alias in names.iter().filter(|alias| **alias != name && !own.contains(alias)) {
        source.tie(alias, &name);
    }
    let root = source.root();
    let module = |name: &str| name.trim_end_matches(".weight").to_owned();
    let load = |name: &str| Embedding::load(&root.at(module(name)), rows, size, std);
    let shared = load(&name);
    let words = [&names[1], &names[2]].map(|reads| {
        if own.contains(&reads) {
            return load(reads);
        }
        let mut words = Embedding::tied(&module(reads), &name, shared.weight());
        words.table.tied = words.table.tied.filter(|_| *reads != name);
        words
    });
    (words, name)
}
