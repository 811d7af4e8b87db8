//! Encoder-decoder models with a sequence-classification head.

use rlaif_lm::{LmError, LmSpec, Padding, TokenBatch};
use tch::Tensor;

use super::{
    Seq2SeqTrunk, TrunkLayers,
    decode::{decode, encode},
};
use crate::{
    adapter::Pass,
    architecture::{BuiltClassifier, ClassifierLayers},
    config::check_ids,
    error::ModelError,
    frame::{Frame, Parts},
    labels::Labels,
    layers::{Bias, Linear, dropout},
    weights::ModelTensors,
};

/// The first token of the decoder in classification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The one of config.json.
    Token(u32),
    /// The last token of the text: mBART's language.
    LastOfText,
}

impl Start {
    /// The start of the decoder in general.
    pub(crate) fn of(spec: &LmSpec) -> Self {
        Self::Token(spec.decoder_start_id.unwrap_or(spec.pad_id))
    }
}

/// The settings of a head.
pub(crate) struct HeadSettings {
    pub(crate) start: Start,
    /// The ends of a sequence that the head looks for.
    pub(crate) eos_ids: Vec<u32>,
    pub(crate) dropout: f64,
    /// Standard deviation of initial weights.
    pub(crate) std: f64,
}

/// A model with a sequence-classification head: the decoder reads the text once more, one token later, and
/// the head its state at the last end of sequence.
#[derive(Debug)]
struct Seq2SeqClassifier<T> {
    trunk: T,
    dense: Linear,
    out: Linear,
    dropout: f64,
    start: Start,
    eos_ids: Vec<u32>,
}

/// Puts a classification head on a trunk whose tensors have been requested from `source`.
pub(crate) fn classifier<T: Seq2SeqTrunk + 'static>(
    trunk: T,
    spec: LmSpec,
    labels: &Labels,
    source: ModelTensors<'_>,
    settings: HeadSettings,
    harmless: impl Fn(&str) -> bool,
) -> Result<BuiltClassifier, ModelError> {
    let size = spec.hidden_size;
    let linear = |key, outputs| {
        let place = source.root().at("classification_head").at(key);
        Linear::load(&place, size, outputs, Bias::Present, settings.std)
    };
    let (dense, out) = (linear("dense", size), linear("out_proj", labels.count()));
    let parameters = source.finish(harmless)?;
    check_ids(&spec)?;
    let HeadSettings { start, eos_ids, dropout, .. } = settings;
    let model = Seq2SeqClassifier { trunk, dense, out, dropout, start, eos_ids };
    Ok((Box::new(model), spec, parameters))
}

impl<T: Seq2SeqTrunk> ClassifierLayers for Seq2SeqClassifier<T> {
    fn hidden(
        &self,
        input: &TokenBatch,
        _: Option<&[usize]>,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let encoded = encode(&self.trunk, input, pass)?;
        let width = input.width();
        // Rows begin in the columns in which those of the input do.
        let shifted: Vec<i64> = input
            .rows()
            .iter()
            .flat_map(|row| {
                let start = match self.start {
                    Start::Token(id) => id,
                    Start::LastOfText => row.last().copied().unwrap_or_default(),
                };
                let mut ids = vec![i64::from(start); width];
                for (to, id) in ids[1..].iter_mut().zip(row) {
                    *to = i64::from(*id);
                }
                ids
            })
            .collect();
        let shifted =
            Tensor::from_slice(&shifted).view([-1, width as i64]).to_device(input.ids().device());
        let hidden = decode(&self.trunk, &shifted, &encoded, pass)?;
        if input.padding() == Padding::Right {
            return Ok(hidden);
        }
        let moved = input
            .rows()
            .iter()
            .enumerate()
            .map(|(i, row)| hidden.get(i as i64).roll([(width - row.len()) as i64], [0]));
        Ok(Tensor::stack(&moved.collect::<Vec<_>>(), 0))
    }

    /// The last end of sequence; in a text without one, where transformers gives an error, the last token.
    fn read_token(&self, row: &[u32]) -> usize {
        let last = row.len().saturating_sub(1);
        row.iter().rposition(|id| self.eos_ids.contains(id)).unwrap_or(last)
    }

    fn score(&self, hidden: Tensor, pass: Pass) -> Tensor {
        let drop = |x| dropout(x, self.dropout, pass.dropout);
        let dense = self.dense.forward(&drop(hidden), pass).tanh();
        self.out.forward(&drop(dense), pass)
    }

    fn parts<'a>(&'a mut self, frame: &'a mut Frame) -> Parts<'a> {
        let TrunkLayers { linears, words, tables } = self.trunk.layers();
        frame.parts(linears, vec![&mut self.dense, &mut self.out]).embeddings(words, tables)
    }
}
