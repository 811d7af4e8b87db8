//! T5 with a sequence-classification head.

use rlaif_lm::{LmError, Padding, TokenBatch};
use tch::Tensor;

use super::{
    Trunk,
    config::{Member, RawConfig, Shape},
    harmless,
};
use crate::{
    adapter::Pass,
    architecture::{BuiltClassifier, ClassifierLayers},
    config::{Config, check_ids},
    error::ModelError,
    frame::{Frame, Parts},
    labels::Labels,
    layers::{Bias, Linear, dropout},
    weights::ModelTensors,
};

/// A T5 with a sequence-classification head: the decoder reads the text once more, one token later, and
/// the head its state at the last end of sequence.
#[derive(Debug)]
struct T5Classifier {
    trunk: Trunk,
    dense: Linear,
    out: Linear,
    dropout: f64,
    start: u32,
    eos_ids: Vec<u32>,
}

/// Builds the classifier that `config` describes from the tensors of `source`.
pub(crate) fn build_classifier(
    config: &Config,
    labels: &Labels,
    source: ModelTensors<'_>,
    member: Member,
) -> Result<BuiltClassifier, ModelError> {
    let raw = RawConfig::read(config, member)?;
    let shape = Shape::resolve(&raw, member, |_| false)?;
    let (trunk, _) = Trunk::load(&source, "transformer.", shape);
    let size = trunk.shape.d_model;
    let linear = |key, outputs| {
        let std = (size as f64).powf(-0.5);
        let place = source.root().at("classification_head").at(key);
        Linear::load(&place, size, outputs, Bias::Present, std)
    };
    let (dense, out) = (linear("dense", size), linear("out_proj", labels.count()));
    let parameters = source.finish(harmless)?;
    let spec = raw.spec(trunk.embeddings(), config.ends()?);
    check_ids(&spec)?;
    let start = spec.decoder_start_id.unwrap_or(spec.pad_id);
    let (dropout, eos_ids) = (raw.classifier_dropout(), raw.eos_ids());
    let model = T5Classifier { trunk, dense, out, dropout, start, eos_ids };
    Ok((Box::new(model), spec, parameters))
}

impl ClassifierLayers for T5Classifier {
    fn hidden(
        &self,
        input: &TokenBatch,
        _: Option<&[usize]>,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let encoded = self.trunk.encode(input, pass)?;
        let width = input.width();
        // Rows begin in the columns in which those of the input do.
        let shifted: Vec<i64> = input
            .rows()
            .iter()
            .flat_map(|row| {
                let mut ids = vec![i64::from(self.start); width];
                for (to, id) in ids[1..].iter_mut().zip(row) {
                    *to = i64::from(*id);
                }
                ids
            })
            .collect();
        let shifted =
            Tensor::from_slice(&shifted).view([-1, width as i64]).to_device(input.ids().device());
        let hidden = self.trunk.decode(&shifted, &encoded, pass)?;
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
        let (linears, words) = self.trunk.linears();
        frame.parts(linears, vec![&mut self.dense, &mut self.out]).embeddings(words, Vec::new())
    }
}
