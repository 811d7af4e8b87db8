//! Selection of the trained parameters, and their dtype.

use std::str::FromStr;

use rlaif_lm::{Parameters, is_adapter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::TrainError;

/// The dtype that weights are stored and computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32 throughout.
    #[default]
    F32,
    /// Weights, activations and gradients in bf16; losses, log-probabilities, the optimizer's
    /// moments and a master copy of the weights in f32.
    Bf16,
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err("expected f32 or bf16".to_owned()),
        }
    }
}

impl Precision {
    /// The dtype to load weights in.
    pub fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

/// Selection of the trained parameters.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trainable {
    /// All weights of the model; for a model with adapters, only the adapters.
    #[default]
    Auto,
    /// All weights except those whose name contains one of these strings, such as `embed_tokens`.
    AllBut(Vec<String>),
    /// Only the weights whose name contains one of these strings.
    Only(Vec<String>),
}

impl Trainable {
    /// Freezes the other parameters, and returns the trained ones in name order.
    ///
    /// # Errors
    /// [`TrainError::NothingTrained`], and [`TrainError::Setting`] for a string that matches no
    /// parameter, or for a selection of base weights in a model with an adapter.
    ///
    /// ```
    /// use rlaif_lm::Parameters;
    /// use rlaif_train::Trainable;
    /// use tch::{Device, Kind, Tensor};
    /// let mut parameters = Parameters::new();
    /// for name in ["embed.weight", "layer.weight"] {
    ///     parameters.insert(name, Tensor::zeros([2], (Kind::Float, Device::Cpu)));
    /// }
    /// let trained = Trainable::AllBut(vec!["embed".into()]).select(&parameters)?;
    /// assert_eq!(trained[0].0, "layer.weight");
    /// assert_eq!(trained.len(), 1);
    /// # Ok::<(), rlaif_train::TrainError>(())
    /// ```
    pub fn select(&self, parameters: &Parameters) -> Result<Vec<(String, Tensor)>, TrainError> {
        let fits = |name: &str, patterns: &[String]| patterns.iter().any(|p| name.contains(p));
        match self {
            Self::Auto => {
                let adapted = parameters.iter().any(|(name, _)| is_adapter(name));
                parameters.train_where(|name| !adapted || is_adapter(name));
            }
            Self::AllBut(patterns) => {
                check_patterns(parameters, patterns)?;
                parameters.train_where(|name| !fits(name, patterns));
            }
            Self::Only(patterns) => {
                check_patterns(parameters, patterns)?;
                parameters.train_where(|name| fits(name, patterns));
            }
        }
        let trained = parameters.trainable();
        if trained.is_empty() {
            return Err(TrainError::NothingTrained { why: "`trainable` leaves none" });
        }
        // With an adapter, the base must not change: the adapter is saved without it, and a
        // reference with adapters off consists of it.
        let adapted = parameters.iter().any(|(name, _)| is_adapter(name));
        if let Some(base) = parameters.trained_base().filter(|_| adapted) {
            return Err(TrainError::setting(
                "trainable",
                format!("a choice of `{base}`, which is not of the adapter"),
                "`auto`, or a choice among the adapter's weights; to train others, leave the \
                 adapter out",
            ));
        }
        Ok(trained)
    }
}

fn check_patterns(parameters: &Parameters, patterns: &[String]) -> Result<(), TrainError> {
    match patterns.iter().find(|p| !parameters.iter().any(|(name, _)| name.contains(*p))) {
        Some(pattern) => Err(TrainError::setting(
            "trainable",
            format!("`{pattern}`"),
            "a part of a parameter's name (`rlaif inspect` and the checkpoint list them)",
        )),
        None => Ok(()),
    }
}

/// Copies saved tensors into parameters of the same names, bit by bit.
///
/// [`TrainError::Torch`] if any tensor is missing, unknown or of another shape or dtype; the error
/// names all of them, and nothing is changed.
///
/// ```
/// use rlaif_train::restore_parameters;
/// use tch::Tensor;
/// let own = [("w".to_owned(), Tensor::from_slice(&[0f32]))];
/// restore_parameters(&own, &[("w".to_owned(), Tensor::from_slice(&[5f32]))], "the policy")?;
/// assert_eq!(own[0].1.double_value(&[0]), 5.);
/// # Ok::<(), rlaif_train::TrainError>(())
/// ```
pub fn restore_parameters(
    own: &[(String, Tensor)],
    saved: &[(String, Tensor)],
    what: &'static str,
) -> Result<(), TrainError> {
    let describe = |t: &Tensor| format!("{:?} {:?}", t.kind(), t.size());
    let mut missing = Vec::new();
    let mut mismatched = Vec::new();
    let mut copies = Vec::new();
    for (name, to) in own {
        match saved.iter().find(|(known, _)| known == name) {
            None => missing.push(name.clone()),
            Some((_, from)) if describe(from) != describe(to) => mismatched.push(format!(
                "{name}: expected {}, found {}",
                describe(to),
                describe(from)
            )),
            Some((_, from)) => copies.push((to, from)),
        }
    }
    let unexpected: Vec<String> = saved
        .iter()
        .filter(|(name, _)| !own.iter().any(|(known, _)| known == name))
        .map(|(name, _)| name.clone())
        .collect();
    if !(missing.is_empty() && unexpected.is_empty() && mismatched.is_empty()) {
        let error = rlaif_torch::TorchError::State { what, missing, unexpected, mismatched };
        return Err(error.into());
    }
    let _guard = tch::no_grad_guard();
    for (to, from) in copies {
        to.shallow_clone().f_copy_(from)?;
    }
    Ok(())
}
