//! The Llama family: decoder-only transformers, as language models and as classifiers.
//!
//! Papers: [Touvron et al. 2023](https://arxiv.org/abs/2307.09288),
//! [Llama 3, 2024](https://arxiv.org/abs/2407.21783),
//! [Mistral, 2023](https://arxiv.org/abs/2310.06825), [Qwen2, 2024](https://arxiv.org/abs/2407.10671),
//! [Qwen3, 2025](https://arxiv.org/abs/2505.09388), [Gemma 2, 2024](https://arxiv.org/abs/2408.00118),
//! [Gemma 3, 2025](https://arxiv.org/abs/2503.19786), [Phi-3, 2024](https://arxiv.org/abs/2404.14219),
//! [OLMo 2, 2024](https://arxiv.org/abs/2501.00656), [GPT-NeoX, 2022](https://arxiv.org/abs/2204.06745), GPT-2
//! (Radford et al. 2019), SmolLM3, Granite,
//! [Mixtral, 2024](https://arxiv.org/abs/2401.04088), Qwen2-MoE and Qwen3-MoE. One trunk: norms, positions, grouped key-value heads, a
//! feed-forward layer. The members differ by [`LlamaVariant`]: sort and places of the norms, biases, fused tensors,
//! windows, positions, factors. Scaled rotary frequencies (Llama 3.1) are in config.json.

mod attention;
mod block;
mod config;
mod decode;
mod experts;
mod feed_forward;
mod heads;
mod run;
pub(crate) mod t5gemma;
mod variant;

use rlaif_lm::{
    Activations, Branches, CacheShape, CausalLm, DecodeState, DecoderLm, ForcedIds, Forward,
    KvCache, LmError, LmSpec, Padding, Parameters, Room, Routers, TokenBatch, VocabHead,
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::{
    adapter::Pass,
    architecture::{BuiltClassifier, ClassifierLayers, Framed},
    config::{Config, check_ids},
    error::ModelError,
    frame::{Frame, Parts},
    labels::Labels,
    layers::{Bias, Embedding, Linear, Norm, Visible, dropout, hide},
    recompute::{Shallow, recompute_many},
    rope::{Angles, Rope},
    rows,
    sort::{class, of_tokens},
    weights::{COMMON_HEAD, ModelTensors, TensorTree},
};
use attention::Context;
use block::{Block, Made, before};
pub use config::dimensions;
pub(crate) use config::{Outline, same_computation};
use config::{Plan, RawConfig, Shape, head_dropout};
pub use variant::{
    BiasRule, ExpertRule, GateRule, LlamaNames, LlamaVariant, NormPlaces, NormRule, Positions,
    Projections, QueryKeyNorm, RopeNames, ScalingRule, WindowRule,
};

/// Everything between token ids and the last hidden states.
#[derive(Debug)]
struct Trunk {
    shape: Shape,
    embeddings: Embedding,
    /// Factor of the embeddings.
    embedding_scale: f64,
    positions: Option<Embedding>,
    blocks: Vec<Block>,
    norm: Norm,
    ropes: Vec<Rope>,
}

/// Positions and segments of the tokens of packed rows, int64 `[B, T]` each.
struct Segments {
    /// The position in the segment.
    positions: Tensor,
    /// The segment's number in its row; padding has one of its own.
    segment: Tensor,
    /// Tokens of the segment.
    lengths: Tensor,
}

impl Segments {
    fn new(rows: &[Vec<usize>], width: i64, device: Device) -> Self {
        let (mut positions, mut segment, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let end = positions.len() + width as usize;
            for (number, &length) in (0..).zip(row) {
                positions.extend(0..length as i64);
                segment.extend(std::iter::repeat_n(number, length));
                lengths.extend(std::iter::repeat_n(length as i64, length));
            }
            positions.resize(end, 0);
            lengths.resize(end, 0);
            segment.resize(end, -1i64);
        }
        let tensor =
            |values: &[i64]| Tensor::from_slice(values).view([-1, width]).to_device(device);
        Self { positions: tensor(&positions), segment: tensor(&segment), lengths: tensor(&lengths) }
    }
}

impl Trunk {
    fn load(
        root: &TensorTree<'_>,
        raw: &RawConfig,
        variant: &LlamaVariant,
    ) -> Result<Self, ModelError> {
        let names = &variant.names;
        let weights = root.at(names.trunk);
        let shape = Shape::resolve(raw, variant)?;
        let layers = weights.at(names.layers);
        let plan = Plan { raw, shape: &shape, names };
        let blocks = (0..shape.layers)
            .map(|i| Block::load(&layers.at(i), plan, i))
            .collect::<Result<_, ModelError>>()?;
        let table = |key, rows| {
            Embedding::load(&weights.at(key), rows, shape.hidden, raw.initializer_range)
        };
        let embeddings = table(names.embeddings, raw.vocab_size);
        let device = weights.source().device();
        Ok(Self {
            embedding_scale: shape.embedding_scale_in(embeddings.weight().kind()),
            embeddings,
            positions: shape.learned_positions.map(|rows| table(names.positions, rows)),
            blocks,
            norm: plan.norm(&weights.at(names.norm), shape.hidden),
            ropes: shape.ropes.iter().map(|spec| Rope::new(spec, device)).collect(),
            shape,
        })
    }

    /// Embeddings `[.., H]` of ids `[..]` at positions of the same size, or of a size that broadcasts.
    fn embed(&self, ids: &Tensor, positions: &Tensor, pass: Pass) -> Tensor {
        let mut x = self.embeddings.adapted(ids, pass);
        if self.embedding_scale != 1. {
            x *= self.embedding_scale;
        }
        if let Some(table) = &self.positions {
            x += table.adapted(positions, pass);
        }
        dropout(x, self.shape.embedding_dropout, pass.dropout)
    }

    /// The angles of each rotary embedding at positions in sequences of these lengths.
    fn angles(&self, positions: &Tensor, lengths: &Tensor, kind: Kind) -> Vec<Angles> {
        self.ropes.iter().map(|rope| rope.angles(positions, lengths, kind)).collect()
    }

    /// `true` if a position's angles depend on the length of its sequence.
    fn by_length(&self) -> bool {
        self.ropes.iter().any(Rope::by_length)
    }

    /// Last hidden states `[B, T, H]`; `keep` is given each layer's keys and values.
    fn forward(
        &self,
        input: &TokenBatch,
        routers: Option<&Routers>,
        pass: Pass,
        mut keep: impl FnMut(usize, &[Tensor; 2]),
    ) -> Result<Tensor, LmError> {
        let (kind, device) = (self.embeddings.weight().kind(), input.ids().device());
        let width = input.ids().size()[1];
        // Right padding is never seen by what precedes it, so causality alone is enough and all
        // rows count alike. Left padding shifts the rows and has to be hidden.
        let shifted = input.padding() == Padding::Left && !input.is_full();
        let columns = Tensor::arange(width, (Kind::Int64, device));
        let packed = input.segments().map(|rows| Segments::new(rows, width, device));
        let positions = if let Some(packed) = &packed {
            packed.positions.shallow_clone()
        } else if shifted {
            (input.mask().to_kind(Kind::Int64).cumsum(1, Kind::Int64) - 1).clamp_min(0)
        } else {
            columns.shallow_clone()
        };
        let mut x = self.embed(input.ids(), &positions, pass);
        let lengths = match &packed {
            Some(packed) => packed.lengths.shallow_clone(),
            None if self.by_length() => {
                input.mask().to_kind(Kind::Int64).sum_dim_intlist(1, true, Kind::Int64)
            }
            None => positions.shallow_clone(),
        };
        let all = self.angles(&positions, &lengths, kind);
        let bias = |window: Option<i64>| {
            let distance = columns.unsqueeze(1) - &columns;
            let mut seen = distance.ge(0);
            if let Some(window) = window {
                seen = seen.logical_and(&distance.lt(window));
            }
            if shifted {
                seen = seen.logical_and(&input.mask().tensor().unsqueeze(1).unsqueeze(1));
            }
            if let Some(Segments { segment, .. }) = &packed {
                let same = segment.unsqueeze(2).eq_tensor(&segment.unsqueeze(1));
                seen = seen.logical_and(&same.unsqueeze(1));
            }
            // [T, T], or [B, 1, T, T] with padding or packing: both broadcast over heads.
            hide(&seen, kind)
        };
        let acts = |window: Option<i64>| window.filter(|window| *window < width);
        let plain = (shifted || packed.is_some()).then(|| bias(None));
        let mut windowed: Option<(i64, Tensor)> = None;
        for (i, block) in self.blocks.iter().enumerate() {
            let visible = match acts(self.shape.windows[i]) {
                Some(window) => {
                    if windowed.as_ref().is_none_or(|(of, _)| *of != window) {
                        windowed = Some((window, bias(Some(window))));
                    }
                    windowed.as_ref().map_or(Visible::Causal, |(_, bias)| Visible::Bias(bias))
                }
                None => plain.as_ref().map_or(Visible::Causal, Visible::Bias),
            };
            let angles = block.angles(&all);
            let routed;
            (x, routed) = match pass.activations {
                Activations::Keep => {
                    let Made { x, kv, routed } =
                        block.forward(&x, Context { angles, visible: &visible }, pass);
                    keep(i, &kv);
                    (x, routed)
                }
                Activations::Recompute => {
                    let angles = angles.map(Shallow::handle);
                    let bias = visible.bias().map(Tensor::handle);
                    let wanted = routers.is_some();
                    let made = recompute_many(block, &[&x], move |block, inputs| {
                        let visible = bias.as_ref().map_or(Visible::Causal, Visible::Bias);
                        let context = Context { angles: angles.as_ref(), visible: &visible };
                        let Made { x, routed, .. } = block.forward(&inputs[0], context, pass);
                        [Some(x), routed.filter(|_| wanted)].into_iter().flatten().collect()
                    })?;
                    let mut made = made.into_iter();
                    (made.next().unwrap_or(x), made.next())
                }
            };
            block.count(routers, routed.as_ref(), Some(input.mask().tensor()));
        }
        Ok(self.norm.forward(&x))
    }

    fn open(&self, room: Room) -> Result<DecodeState, LmError> {
        let shape = CacheShape {
            layers: self.shape.layers,
            heads: self.shape.kv_heads,
            head_dim: self.shape.head_dim,
            kind: self.embeddings.weight().kind(),
            device: self.embeddings.weight().device(),
        };
        Ok(DecodeState { cache: KvCache::new(shape, room.rows, room.total)?, memory: None })
    }

    fn prefill(&self, cache: &mut KvCache, tokens: &TokenBatch, pass: Pass) -> Result<(), LmError> {
        if rows::serve(self.embeddings.weight().kind(), self.embeddings.weight().device(), pass) {
            return self.prefill_rows(cache, tokens, pass);
        }
        if tokens.width() > 0 {
            let pass = Pass { activations: Activations::Keep, ..pass };
            let mut filled = Ok(());
            let _hidden = self.forward(tokens, None, pass, |layer, [k, v]| {
                if filled.is_ok() {
                    filled = cache.layers().fill(layer, k, v);
                }
            })?;
            filled?;
        }
        cache.enter(&tokens.rows().iter().map(Vec::len).collect::<Vec<_>>())
    }

    fn step(&self, cache: &mut KvCache, tokens: &Tensor, pass: Pass) -> Result<Tensor, LmError> {
        cache.check_space()?;
        if rows::serve(self.embeddings.weight().kind(), self.embeddings.weight().device(), pass) {
            return Ok(self.step_rows(cache, tokens, pass));
        }
        let positions = cache.positions().unsqueeze(1);
        let mut x = self.embed(&tokens.unsqueeze(1), &positions, pass);
        let all = self.angles(&positions, &(&positions + 1), x.kind());
        let mut biases: Vec<(Option<i64>, Option<Tensor>)> = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let window = self.shape.windows[i];
            if !biases.iter().any(|(of, _)| *of == window) {
                let bias = cache.visible(window).map(|seen| hide(&seen, x.kind()));
                biases.push((window, bias));
            }
            let bias = biases.iter().find(|(of, _)| *of == window).and_then(|(_, b)| b.as_ref());
            let (normed, residual) = before(block.attention_norm.as_ref(), &x);
            let angles = block.angles(&all);
            let mixed = block.attention.step(&normed, angles, cache, i, bias, pass);
            (x, _) = block.finish(&residual, &mixed, pass);
        }
        Ok(self.norm.forward(&x).squeeze_dim(1))
    }

    /// The linear layers, and the embeddings of tokens and of positions.
    fn layers(&mut self) -> (Vec<&mut Linear>, Vec<&mut Embedding>, Vec<&mut Embedding>) {
        let linears = self.blocks.iter_mut().flat_map(Block::linears).collect();
        (linears, vec![&mut self.embeddings], self.positions.iter_mut().collect())
    }
}

/// A language model of the Llama family. [`rlaif_lm::CausalPolicy`] makes it a policy.
#[derive(Debug)]
pub struct Llama {
    frame: Frame,
    trunk: Trunk,
    /// The head, which may share the matrix of the embeddings.
    lm_head: Linear,
}

impl Llama {
    /// Builds the model that `config` describes from the tensors of `source`.
    ///
    /// # Errors
    /// [`ModelError::Config`], [`ModelError::BadField`] and [`ModelError::UnsupportedField`] for a
    /// configuration that cannot be honoured, [`ModelError::Tensors`] and
    /// [`ModelError::MixedKinds`] for tensors that do not fit it.
    pub fn build(
        mut config: Config,
        source: ModelTensors<'_>,
        variant: &LlamaVariant,
    ) -> Result<Self, ModelError> {
        let raw = RawConfig::read(&config, variant)?;
        let LlamaNames { trunk: path, embeddings, head, .. } = variant.names;
        let (own, shared) = (format!("{head}.weight"), format!("{path}.{embeddings}.weight"));
        let ties = raw.tie_word_embeddings && !source.differ(&own, &shared);
        if ties {
            source.tie(&own, &shared);
        } else if raw.tie_word_embeddings {
            config.set("tie_word_embeddings", false.into());
        }
        let trunk = Trunk::load(&source.root(), &raw, variant)?;
        let lm_head = if ties {
            Linear::tied(head, &shared, trunk.embeddings.weight())
        } else {
            let std = raw.initializer_range;
            let found = source.first_of(&[&own, &format!("{COMMON_HEAD}.weight")]).to_owned();
            let head = source.root().at(found.trim_end_matches(".weight"));
            Linear::load(&head, raw.hidden_size, raw.vocab_size, Bias::Absent, std)
        };
        let parameters = source.finish(harmless)?;
        // `generate` of transformers forces a first token only where nothing else is before it.
        let forced = ForcedIds { first: None, ..config.forced()? };
        let spec = raw.spec(&trunk.shape, trunk.embeddings.weight(), config.ends()?);
        let spec = LmSpec { forced, ..spec };
        check_ids(&spec)?;
        let frame = Frame::new(spec, config, parameters);
        Ok(Self { frame, trunk, lm_head })
    }
}

impl Framed for Llama {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn parts(&mut self) -> Parts<'_> {
        let (linears, words, others) = self.trunk.layers();
        self.frame.parts(linears, vec![&mut self.lm_head]).embeddings(words, others)
    }
}

/// Old checkpoints contain the rotary frequencies, and causal masks.
fn harmless(name: &str) -> bool {
    let buffers = ["rotary_emb.inv_freq", ".attn.bias", ".masked_bias", ".attention.bias"];
    buffers.iter().any(|buffer| name.ends_with(buffer))
}

impl CausalLm for Llama {
    fn hidden(&self, input: &TokenBatch, forward: Forward<'_>) -> Result<Tensor, LmError> {
        let pass = self.frame.adapters.resolve(forward)?;
        self.trunk.forward(input, forward.routers, pass, |_, _| ())
    }

    fn run_hidden(&self, run: &Branches, forward: Forward<'_>) -> Result<Tensor, LmError> {
        if self.trunk.by_length() {
            // The angles of a shared prompt would depend on the response.
            return Ok(run.from_rows(&self.hidden(&run.rows(self.spec())?, forward)?));
        }
        self.trunk.forward_run(run, forward.routers, self.frame.adapters.resolve(forward)?)
    }
}

impl DecoderLm for Llama {
    fn spec(&self) -> &LmSpec {
        &self.frame.spec
    }

    fn open(&self, room: Room) -> Result<DecodeState, LmError> {
        self.trunk.open(room)
    }

    fn prefill(
        &self,
        state: &mut DecodeState,
        tokens: &TokenBatch,
        forward: Forward<'_>,
    ) -> Result<(), LmError> {
        self.trunk.prefill(&mut state.cache, tokens, self.frame.adapters.resolve(forward)?)
    }

    fn decode_step(
        &self,
        state: &mut DecodeState,
        tokens: &Tensor,
        forward: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        let pass = self.frame.adapters.resolve(forward)?;
        self.trunk.step(&mut state.cache, tokens, pass)
    }

    fn head(&self, forward: Forward<'_>) -> Result<VocabHead, LmError> {
        let pass = self.frame.adapters.resolve(forward)?;
        let Shape { head_scale: scale, head_cap: cap, .. } = self.trunk.shape;
        Ok(VocabHead { cap, ..self.lm_head.vocab_head(scale, pass) })
    }

    fn parameters(&self) -> &Parameters {
        &self.frame.parameters
    }
}

/// The trunk of the Llama family with a linear head on the last token: the usual form of a reward
/// model (one label), and of classifiers. A head that was trained on many tokens, such as that of a process
/// reward model, is read there as well.
#[derive(Debug)]
pub struct LlamaClassifier {
    trunk: Trunk,
    score: Linear,
    /// Probability of dropout before the head.
    dropout: f64,
    /// The id that is passed over when the last token is looked for.
    pad_id: Option<u32>,
}

impl LlamaClassifier {
    /// Builds the layers that `config` describes from the tensors of `source`.
    ///
    /// # Errors
    /// As [`Llama::build`].
    pub fn build(
        config: &Config,
        labels: &Labels,
        source: ModelTensors<'_>,
        variant: &LlamaVariant,
    ) -> Result<BuiltClassifier, ModelError> {
        let raw = RawConfig::read(config, variant)?;
        let trunk = Trunk::load(&source.root(), &raw, variant)?;
        let tokens = of_tokens(class(config));
        let fields = config.with_defaults(variant.defaults);
        let field = |name: &str| fields.get(name).filter(|value| !value.is_null());
        // transformers reads the field, which no class has.
        let off = field("token_classification_bias").and_then(Value::as_bool) == Some(false);
        let score = Linear::load(
            &source.root().at(if tokens { variant.names.token_head } else { "score" }),
            raw.hidden_size,
            labels.count(),
            (tokens && !off).into(),
            raw.initializer_range,
        );
        let dropout = match tokens {
            true => head_dropout(field("classifier_dropout").or(field("hidden_dropout")))?,
            false => 0.,
        };
        let spec = raw.spec(&trunk.shape, trunk.embeddings.weight(), config.ends()?);
        let parameters = source.finish(harmless)?;
        check_ids(&spec)?;
        let layers = Self { trunk, score, dropout, pad_id: raw.pad_token_id };
        Ok((Box::new(layers), spec, parameters))
    }
}

impl ClassifierLayers for LlamaClassifier {
    fn parts<'a>(&'a mut self, frame: &'a mut Frame) -> Parts<'a> {
        let (linears, words, others) = self.trunk.layers();
        frame.parts(linears, vec![&mut self.score]).embeddings(words, others)
    }

    fn hidden(
        &self,
        input: &TokenBatch,
        _: Option<&[usize]>,
        pass: Pass,
    ) -> Result<Tensor, LmError> {
        self.trunk.forward(input, None, pass, |_, _| ())
    }

    /// The last token, pad ids passed over, as transformers finds it.
    fn read_token(&self, row: &[u32]) -> usize {
        row.iter().rposition(|id| Some(*id) != self.pad_id).unwrap_or(0)
    }

    fn score(&self, hidden: Tensor, pass: Pass) -> Tensor {
        self.score.forward(&dropout(hidden, self.dropout, pass.dropout), pass)
    }
}
