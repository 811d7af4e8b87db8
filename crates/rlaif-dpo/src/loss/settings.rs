//! Defaults of the losses' parameters, and their bounds.

use rlaif_core::BadSetting;

use super::{Coupling, PairLoss, PairObjective, ReferenceDivergence, UnpairedLoss, Weighting};
use crate::error::DpoError;

pub(super) fn beta() -> f64 {
    0.1
}
pub(super) fn beta_per_token() -> f64 {
    5.
}
pub(super) fn one() -> f64 {
    1.
}
pub(super) fn exo_smoothing() -> f64 {
    1e-3
}
pub(super) fn discopop_tau() -> f64 {
    0.05
}
pub(super) fn simpo_beta() -> f64 {
    2.
}
pub(super) fn simpo_gamma() -> f64 {
    1.
}

/// One bound that a parameter has to keep.
fn require(
    good: bool,
    field: &'static str,
    found: f64,
    expected: &'static str,
) -> Result<(), DpoError> {
    if good {
        return Ok(());
    }
    Err(BadSetting::new(field, found, expected).into())
}

fn positive(field: &'static str, value: f64) -> Result<(), DpoError> {
    require(value.is_finite() && value > 0., field, value, "a positive number")
}

fn at_least_zero(field: &'static str, value: f64) -> Result<(), DpoError> {
    require(value.is_finite() && value >= 0., field, value, "a number of at least 0")
}

fn smoothing(value: f64) -> Result<(), DpoError> {
    let field = "label_smoothing";
    require((0. ..0.5).contains(&value), field, value, "at least 0 and below 0.5")
}

fn check_loss(loss: &PairLoss) -> Result<(), DpoError> {
    if let Some(beta) = loss.beta() {
        positive(if matches!(loss, PairLoss::Orpo { .. }) { "lambda" } else { "beta" }, beta)?;
    }
    match *loss {
        PairLoss::Sigmoid { label_smoothing, .. }
        | PairLoss::SigmoidNorm { label_smoothing, .. }
        | PairLoss::Robust { label_smoothing, .. }
        | PairLoss::Aot { label_smoothing, .. }
        | PairLoss::AotUnpaired { label_smoothing, .. } => smoothing(label_smoothing),
        PairLoss::ExoPair { label_smoothing, .. } => {
            let good = label_smoothing > 0. && label_smoothing < 0.5;
            require(good, "label_smoothing", label_smoothing, "above 0 and below 0.5")
        }
        PairLoss::SoftSigmoid { scale, .. } => positive("scale", scale),
        PairLoss::Discopop { tau, .. } => positive("tau", tau),
        PairLoss::Simpo { gamma, label_smoothing, .. } => {
            at_least_zero("gamma", gamma)?;
            smoothing(label_smoothing)
        }
        PairLoss::Cpo { label_smoothing, nll_weight, .. } => {
            at_least_zero("nll_weight", nll_weight)?;
            smoothing(label_smoothing)
        }
        PairLoss::Hinge { .. }
        | PairLoss::Ipo { .. }
        | PairLoss::NcaPair { .. }
        | PairLoss::BcoPair { .. }
        | PairLoss::SppoHard { .. }
        | PairLoss::ApoZero { .. }
        | PairLoss::ApoDown { .. }
        | PairLoss::Nll {}
        | PairLoss::Orpo { .. } => Ok(()),
    }
}

impl PairObjective {
    /// Checks every parameter, and that what is set acts.
    ///
    /// # Errors
    /// [`DpoError::Setting`] names the field.
    pub fn check(&self) -> Result<(), DpoError> {
        if self.terms.is_empty() {
            return Err(BadSetting::new("terms", "none", "at least one loss").into());
        }
        for (i, term) in self.terms.iter().enumerate() {
            let checked =
                at_least_zero("weight", term.weight).and_then(|()| check_loss(&term.loss));
            checked.map_err(|error| error.within(&format!("terms[{i}]")))?;
        }
        let alpha = self.tail_weight;
        require((0. ..=1.).contains(&alpha), "tail_weight", alpha, "from 0 to 1")?;
        let diverges = self.divergence != ReferenceDivergence::ReverseKl;
        if diverges && !self.terms.iter().any(|term| term.loss.uses_scores()) {
            let expected = "reverse_kl: none of these losses is made of the scores that it changes";
            let found = format!("{:?}", self.divergence);
            return Err(BadSetting::new("divergence", found, expected).into());
        }
        if let ReferenceDivergence::Alpha { alpha } = self.divergence {
            require(alpha.is_finite(), "divergence.alpha", alpha, "a number")?;
        }
        let couples = self.coupling() == Coupling::WholeBatch;
        if self.weighting == Weighting::Wpo && couples {
            let expected =
                "uniform: a loss that sorts or averages the batch has no loss of one pair";
            return Err(BadSetting::new("weighting", "wpo", expected).into());
        }
        Ok(())
    }
}

impl UnpairedLoss {
    /// Checks every parameter.
    ///
    /// # Errors
    /// [`DpoError::Setting`] names the field.
    pub fn check(&self) -> Result<(), DpoError> {
        positive("beta", self.beta())?;
        if let UnpairedLoss::Kto { desirable_weight, undesirable_weight, .. } = *self {
            at_least_zero("desirable_weight", desirable_weight)?;
            at_least_zero("undesirable_weight", undesirable_weight)?;
        }
        Ok(())
    }
}
