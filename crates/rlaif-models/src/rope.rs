//! Rotary position embedding, in every form that transformers' configurations name.
//!
//! Paper: [Su et al. 2021](https://arxiv.org/abs/2104.09864). Longer contexts: `linear`
//! ([Chen et al. 2023](https://arxiv.org/abs/2306.15595)), `dynamic` (NTK-aware scaling by the length of
//! a sequence), `yarn` ([Peng et al. 2023](https://arxiv.org/abs/2309.00071)), `longrope`
//! ([Ding et al. 2024](https://arxiv.org/abs/2402.13753)) and `llama3`.

use std::f64::consts::PI;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::{
    config::{Range, check_numbers},
    error::ModelError,
};

/// The section `rope_scaling` or `rope_parameters` of config.json.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(expecting = "an object with `rope_type`")]
pub(crate) struct RawRope {
    rope_type: Option<String>,
    /// In checkpoints from before mid-2024; later ones may have both.
    #[serde(rename = "type")]
    old_type: Option<String>,
    pub(crate) rope_theta: Option<f64>,
    pub(crate) partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    attention_factor: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    truncate: Option<bool>,
    short_factor: Option<Vec<f64>>,
    long_factor: Option<Vec<f64>>,
    /// Separate sections for the layers of each type.
    pub(crate) full_attention: Option<Box<RawRope>>,
    pub(crate) sliding_attention: Option<Box<RawRope>>,
}

/// Names that config.json has for the scalings of rotary positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeNames {
    /// The names of transformers.
    Usual,
    /// `su` and `yarn` are older names of `longrope`.
    LongAsYarn,
}

/// Fields of config.json that apply to a section.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RopeContext {
    pub(crate) head_dim: i64,
    /// Base of the frequencies, if the section has none.
    pub(crate) theta: f64,
    /// Part of a head that is rotated, by default.
    pub(crate) partial: f64,
    /// `max_position_embeddings`.
    pub(crate) positions: usize,
    /// `original_max_position_embeddings` outside the section, which takes precedence over the
    /// section's own.
    pub(crate) trained: Option<f64>,
    pub(crate) names: RopeNames,
}

/// A rotary embedding as config.json describes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RopeSpec {
    /// Number of rotated elements of a head, from the first on.
    dim: i64,
    theta: f64,
    scaling: Scaling,
}

/// Scaling of rotary frequencies for contexts longer than that of the initial training.
#[derive(Debug, Clone, PartialEq)]
enum Scaling {
    None,
    /// All frequencies divided by `factor`.
    Linear {
        factor: f64,
    },
    /// A base that grows with the length of a sequence beyond `trained` tokens.
    Dynamic {
        factor: f64,
        trained: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a ramp in between; cosines and sines
    /// multiplied by `attention`.
    Yarn {
        factor: f64,
        low: f64,
        high: f64,
        attention: f64,
    },
    /// Each frequency divided by its own factor: `short` up to `trained` tokens of a sequence,
    /// `long` beyond; cosines and sines multiplied by `attention`.
    Long {
        short: Vec<f64>,
        long: Vec<f64>,
        trained: f64,
        attention: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a smooth transition between.
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        context: f64,
    },
}

/// Far above that of any model: rotary frequencies are computed before the weights are compared
/// with it.
const MAX_HEAD_DIM: i64 = 1 << 16;

impl RopeSpec {
    /// # Errors
    /// [`ModelError::BadField`], [`ModelError::UnsupportedField`] for an unsupported section.
    pub(crate) fn resolve(
        rope: Option<&RawRope>,
        context: &RopeContext,
    ) -> Result<Self, ModelError> {
        let none = RawRope::default();
        let rope = rope.unwrap_or(&none);
        check_numbers([
            ("rope_parameters.rope_theta", rope.rope_theta, Range::Positive),
            ("rope_parameters.partial_rotary_factor", rope.partial_rotary_factor, Range::Positive),
            ("rope_scaling.factor", rope.factor, Range::Positive),
            ("rope_scaling.attention_factor", rope.attention_factor, Range::Positive),
            ("rope_scaling.beta_fast", rope.beta_fast, Range::NotNegative),
            ("rope_scaling.beta_slow", rope.beta_slow, Range::NotNegative),
        ])?;
        let theta = rope.rope_theta.unwrap_or(context.theta);
        let partial = rope.partial_rotary_factor.unwrap_or(context.partial);
        let dim = (context.head_dim as f64 * partial) as i64;
        if dim % 2 != 0 || !(2..=MAX_HEAD_DIM).contains(&dim) || dim > context.head_dim {
            return Err(ModelError::BadField {
                file: None,
                field: "head_dim",
                found: format!("{} of which {partial} is turned", context.head_dim),
                expected: format!("even, for rotary positions, and at most {MAX_HEAD_DIM}"),
            });
        }
        let need = |field: &'static str, value: Option<f64>| {
            value.filter(|value| *value > 0.).ok_or_else(|| ModelError::BadField {
                file: None,
                field,
                found: value.map_or("missing".to_owned(), |v| v.to_string()),
                expected: "a positive number beside this rope_type".to_owned(),
            })
        };
        let factor = || need("rope_scaling.factor", rope.factor);
        let trained = || {
            let own = rope.original_max_position_embeddings;
            let value = context.trained.or(own).or(Some(context.positions as f64));
            need("rope_scaling.original_max_position_embeddings", value)
        };
        // The default of transformers.
        let ratio = |trained: f64| rope.factor.unwrap_or(context.positions as f64 / trained);
        let scaling = match rope.rope_type.as_deref().or(rope.old_type.as_deref()) {
            None | Some("default") => Scaling::None,
            Some("linear") => Scaling::Linear { factor: factor()? },
            Some("dynamic") => {
                Scaling::Dynamic { factor: factor()?, trained: context.positions as f64 }
            }
            Some("longrope") => Self::long(rope, dim, trained()?, ratio)?,
            Some("su" | "yarn") if context.names == RopeNames::LongAsYarn => {
                Self::long(rope, dim, trained()?, ratio)?
            }
            Some("yarn") => Self::yarn(rope, dim, theta, trained()?, ratio),
            Some("llama3") => Scaling::Llama3 {
                factor: factor()?,
                low: need("rope_scaling.low_freq_factor", rope.low_freq_factor)?,
                high: need("rope_scaling.high_freq_factor", rope.high_freq_factor)?,
                context: trained()?,
            },
            Some(other) => {
                return Err(ModelError::UnsupportedField {
                    file: None,
                    field: "rope_scaling.rope_type",
                    found: other.to_owned(),
                    supported: "default, linear, dynamic, yarn, longrope, llama3",
                });
            }
        };
        Ok(Self { dim, theta, scaling })
    }

    fn yarn(
        rope: &RawRope,
        dim: i64,
        theta: f64,
        trained: f64,
        ratio: impl Fn(f64) -> f64,
    ) -> Scaling {
        let factor = ratio(trained);
        let scale = |m: f64| if factor <= 1. { 1. } else { 0.1 * m * factor.ln() + 1. };
        let given = |value: Option<f64>| value.filter(|value| *value != 0.);
        let attention = rope.attention_factor.unwrap_or_else(|| {
            match (given(rope.mscale), given(rope.mscale_all_dim)) {
                (Some(one), Some(all)) => scale(one) / scale(all),
                _ => scale(1.),
            }
        });
        // The pair of elements with this number of rotations within the context.
        let place =
            |turns: f64| dim as f64 * (trained / (turns * 2. * PI)).ln() / (2. * theta.ln());
        let (mut low, mut high) = (
            place(given(rope.beta_fast).unwrap_or(32.)),
            place(given(rope.beta_slow).unwrap_or(1.)),
        );
        if rope.truncate.unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.), high.min(dim as f64 - 1.));
        if low == high {
            high += 0.001;
        }
        Scaling::Yarn { factor, low, high, attention }
    }

    fn long(
        rope: &RawRope,
        dim: i64,
        trained: f64,
        ratio: impl Fn(f64) -> f64,
    ) -> Result<Scaling, ModelError> {
        let half = dim / 2;
        let list = |field: &'static str, list: &Option<Vec<f64>>| {
            let fits = |list: &&Vec<f64>| list.len() as i64 == half;
            list.as_ref().filter(fits).cloned().ok_or_else(|| ModelError::BadField {
                file: None,
                field,
                found: list
                    .as_ref()
                    .map_or("missing".to_owned(), |l| format!("{} numbers", l.len())),
                expected: format!("{half} numbers, one for each pair of the {dim} that are turned"),
            })
        };
        let factor = ratio(trained);
        let attention = rope.attention_factor.unwrap_or_else(|| {
            if factor <= 1. { 1. } else { (1. + factor.ln() / trained.ln()).sqrt() }
        });
        Ok(Scaling::Long {
            short: list("rope_scaling.short_factor", &rope.short_factor)?,
            long: list("rope_scaling.long_factor", &rope.long_factor)?,
            trained,
            attention,
        })
    }

    /// `true` if the angles of a position depend on the length of its sequence.
    pub(crate) fn by_length(&self) -> bool {
        matches!(self.scaling, Scaling::Dynamic { .. } | Scaling::Long { .. })
    }

    /// Maximum sequence length after scaling, if it exceeds that of config.json.
    pub(crate) fn context(&self, positions: usize) -> usize {
        match self.scaling {
            Scaling::Dynamic { factor, .. } => (positions as f64 * factor.max(1.)) as usize,
            Scaling::None
            | Scaling::Linear { .. }
            | Scaling::Yarn { .. }
            | Scaling::Long { .. }
            | Scaling::Llama3 { .. } => positions,
        }
    }
}

/// Rotary position embedding.
#[derive(Debug)]
pub(crate) struct Rope {
    frequencies: Frequencies,
    /// Factor of cosines and sines.
    attention: f64,
}

/// Angles per position, f32 `[dim / 2]`.
#[derive(Debug)]
enum Frequencies {
    Fixed(Tensor),
    /// The first angles up to `trained` tokens of a sequence, the second beyond.
    Switched([Tensor; 2], f64),
    /// Angles that depend on the length of a sequence beyond `trained`.
    Dynamic {
        exponents: Tensor,
        theta: f64,
        factor: f64,
        trained: f64,
        power: f64,
    },
}

/// Scaling that is one number for each frequency, at every length of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FixedScaling {
    None,
    /// All frequencies divided by this number.
    Linear(f64),
    /// Each frequency divided by its own number, f32.
    Each(Vec<f32>),
}

impl RopeSpec {
    /// Number of rotated elements, base of the frequencies, scaling; `None` for a scaling that depends on the
    /// length of a sequence or changes cosines and sines.
    pub(crate) fn fixed(&self) -> Option<(i64, f64, FixedScaling)> {
        let scaling = match &self.scaling {
            Scaling::None => FixedScaling::None,
            Scaling::Linear { factor } => FixedScaling::Linear(*factor),
            Scaling::Llama3 { .. } => {
                let frequencies = |spec: &Self| match Rope::new(spec, Device::Cpu).frequencies {
                    Frequencies::Fixed(frequencies) => Some(frequencies),
                    Frequencies::Switched(..) | Frequencies::Dynamic { .. } => None,
                };
                let plain = frequencies(&Self { scaling: Scaling::None, ..self.clone() })?;
                FixedScaling::Each(Vec::try_from(plain / frequencies(self)?).ok()?)
            }
            Scaling::Dynamic { .. } | Scaling::Yarn { .. } | Scaling::Long { .. } => return None,
        };
        Some((self.dim, self.theta, scaling))
    }
}

impl Rope {
    pub(crate) fn new(spec: &RopeSpec, device: Device) -> Self {
        let exponents =
            Tensor::arange_start_step(0, spec.dim, 2, (Kind::Float, Device::Cpu)) / spec.dim as f64;
        let periods = Tensor::pow_scalar(spec.theta, &exponents);
        let frequencies = periods.reciprocal();
        let fixed = |frequencies: Tensor| Frequencies::Fixed(frequencies.to_device(device));
        let mut attention = 1.;
        let frequencies = match &spec.scaling {
            Scaling::None => fixed(frequencies),
            Scaling::Linear { factor } => fixed(frequencies / *factor),
            Scaling::Llama3 { factor, low, high, context } => {
                let length = frequencies.reciprocal() * (2. * PI);
                let smooth = (length.reciprocal() * *context - *low) / (*high - *low);
                let scaled = &frequencies / *factor;
                let between = (1. - &smooth) * &scaled + &smooth * &frequencies;
                let long = length.gt(*context / *low);
                let short = length.lt(*context / *high);
                let frequencies = frequencies.where_self(&short, &between);
                fixed(scaled.where_self(&long, &frequencies))
            }
            Scaling::Yarn { factor, low, high, attention: factor_on_angles } => {
                attention = *factor_on_angles;
                let pairs = Tensor::arange(spec.dim / 2, (Kind::Float, Device::Cpu));
                let ramp = ((pairs - *low) / (*high - *low)).clamp(0., 1.);
                let slow = (periods * *factor).reciprocal();
                fixed(slow * &ramp + frequencies * (1. - &ramp))
            }
            Scaling::Long { short, long, trained, attention: factor_on_angles } => {
                attention = *factor_on_angles;
                let by = |factors: &[f64]| {
                    let factors = Tensor::from_slice(factors).to_kind(Kind::Float);
                    (factors * &periods).reciprocal().to_device(device)
                };
                Frequencies::Switched([by(short), by(long)], *trained)
            }
            Scaling::Dynamic { factor, trained } => Frequencies::Dynamic {
                exponents: exponents.to_device(device),
                theta: spec.theta,
                factor: *factor,
                trained: *trained,
                power: spec.dim as f64 / (spec.dim - 2).max(1) as f64,
            },
        };
        Self { frequencies, attention }
    }

    /// `true` if the angles of a position depend on the length of its sequence.
    pub(crate) fn by_length(&self) -> bool {
        !matches!(self.frequencies, Frequencies::Fixed(_))
    }

    /// Cosines and sines `[.., 1, dim]`, which broadcast over heads, for positions `[..]` in
    /// sequences of these lengths (broadcast to `[..]`).
    pub(crate) fn angles(&self, positions: &Tensor, lengths: &Tensor, kind: Kind) -> Angles {
        let positions = positions.to_kind(Kind::Float).unsqueeze(-1);
        let angles = match &self.frequencies {
            Frequencies::Fixed(frequencies) => positions * frequencies,
            Frequencies::Switched([short, long], trained) => {
                long.where_self(&lengths.gt(*trained).unsqueeze(-1), short) * positions
            }
            Frequencies::Dynamic { exponents, theta, factor, trained, power } => {
                let longer = lengths.to_kind(Kind::Float).clamp_min(*trained).unsqueeze(-1);
                let base = (longer * (*factor / *trained) - (*factor - 1.))
                    .pow_tensor_scalar(*power)
                    * *theta;
                base.pow(exponents).reciprocal() * positions
            }
        };
        let angles = Tensor::cat(&[&angles, &angles], -1).unsqueeze(-2);
        let made = |x: Tensor| {
            let x = if self.attention == 1. { x } else { x * self.attention };
            x.to_kind(kind)
        };
        (made(angles.cos()), made(angles.sin()))
    }
}

/// Cosines and sines.
pub(crate) type Angles = (Tensor, Tensor);

/// Rotates the first elements of each head of `x` `[.., heads, D]`, as many as there are angles
/// for.
pub(crate) fn turn(x: &Tensor, (cos, sin): &Angles) -> Tensor {
    let (whole, turned) = (x.size()[x.dim() - 1], cos.size()[cos.dim() - 1]);
    if whole == turned {
        return rlaif_torch::rope(x, cos, sin);
    }
    let first = rlaif_torch::rope(&x.narrow(-1, 0, turned), cos, sin);
    Tensor::cat(&[first, x.narrow(-1, turned, whole - turned)], -1)
}
