//! The encoder of T5 with a head on tokens.

use rlaif_lm::{LmError, TokenBatch};
use tch::Tensor;

use super::{Member, Shape, Stack, harmless};
use crate::{
    adapter::Pass,
    architecture::{BuiltClassifier, ClassifierLayers},
    config::{Config, check_ids},
    error::ModelError,
    frame::{Frame, Parts},
    labels::Labels,
    layers::{Bias, Embedding, Linear, dropout},
    seq2seq::{Role, as_collated, shared_words},
    weights::ModelTensors,
};

/// An encoder, and a linear layer that reads the state of a token.
#[derive(Debug)]
struct TokenClassifier {
    words: Embedding,
    encoder: Stack,
    head: Linear,
    dropout: f64,
}

/// Builds the classifier that `config` describes from the tensors of `source`.
pub(crate) fn build(
    config: &Config,
    labels: &Labels,
    source: ModelTensors<'_>,
    member: Member,
) -> Result<BuiltClassifier, ModelError> {
    let raw = member.read(config)?;
    let shape = Shape::resolve(&raw, member, |_| false)?;
    let path = "transformer.";
    let ([words, _], _) = shared_words(&source, path, [shape.vocab_size, shape.d_model], 1.);
    let root = source.root();
    let encoder = root.at(format!("{path}encoder"));
    let encoder = Stack::load(&encoder, &shape, shape.encoder_layers, Role::Encoder);
    let place = root.at("classifier");
    let head = Linear::load(&place, shape.d_model, labels.count(), Bias::Present, 1.);
    let spec = raw.spec(words.weight(), config.ends()?);
    let dropout = raw.head(&spec).dropout;
    let parameters = source.finish(harmless)?;
    check_ids(&spec)?;
    Ok((Box::new(TokenClassifier { words, encoder, head, dropout }), spec, parameters))
}

impl ClassifierLayers for TokenClassifier {
    fn hidden(
        &self,
        input: &TokenBatch,
        _: Option<&[usize]>,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        let embedded = self.words.adapted(input.ids(), pass);
        self.encoder.encode(embedded, input.ids().size()[1], &as_collated(input), pass)
    }

    fn read_token(&self, row: &[u32]) -> usize {
        row.len().saturating_sub(1)
    }

    fn score(&self, hidden: Tensor, pass: Pass) -> Tensor {
        self.head.forward(&dropout(hidden, self.dropout, pass.dropout), pass)
    }

    fn parts<'a>(&'a mut self, frame: &'a mut Frame) -> Parts<'a> {
        let linears = self.encoder.blocks.iter_mut().flat_map(super::Block::linears).collect();
        frame.parts(linears, vec![&mut self.head]).embeddings(vec![&mut self.words], Vec::new())
    }
}
