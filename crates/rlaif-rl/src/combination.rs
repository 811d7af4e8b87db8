//! Combinations of estimator, ratio, surrogate, average and KL that are known to be wrong.

use rlaif_core::BadSetting;
use rlaif_train::KlEstimator;

use crate::{
    concern::CombinationConcern,
    correction::Correction,
    estimator::AdvantageEstimator,
    kl_form::{KlForm, KlWeight},
    objective::{Average, Surrogate},
    policy_objective::{Anchor, PolicyObjective},
    ratio::RatioLevel,
    scores::MissingScore,
};

/// An algorithm without a value function: an estimator of advantages and a loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Combination {
    /// The estimator of advantages.
    pub advantage: AdvantageEstimator,
    /// The loss.
    pub objective: PolicyObjective,
}

/// The run in which a combination is used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CombinationUse {
    /// Responses to a prompt.
    pub group_size: usize,
    /// Optimizer steps on a rollout.
    pub updates: u64,
    /// Treatment of responses without a score.
    pub missing: MissingScore,
    /// Most updates between the weights that sampled a response and those at the start of its step.
    pub staleness: u64,
}

impl Combination {
    /// Returns every known fault of the combination: errors and warnings.
    ///
    /// ```
    /// use rlaif_rl::{
    ///     AdvantageEstimator, Combination, CombinationConcern, MissingScore, PolicyObjective, AdvantageScale,
    ///     Surrogate, CombinationUse,
    /// };
    /// let combination = Combination {
    ///     advantage: AdvantageEstimator::GroupMean { scale: AdvantageScale::None },
    ///     objective: PolicyObjective::new(Surrogate::Truncated { least: 0., most: 0.2 }),
    /// };
    /// let usage = CombinationUse { group_size: 8, updates: 1, missing: MissingScore::Drop, staleness: 0 };
    /// let concerns = combination.concerns(usage);
    /// assert_eq!(concerns, [CombinationConcern::TruncatedBelowOne { most: 0.2 }]);
    /// assert!(concerns[0].is_refused());
    /// ```
    pub fn concerns(&self, usage: CombinationUse) -> Vec<CombinationConcern> {
        let Self { advantage, objective } = self;
        let mut found = Vec::new();
        if advantage.compares_groups() {
            if usage.group_size < 2 {
                found.push(CombinationConcern::GroupOfOne { found: usage.group_size });
            }
            if matches!(usage.missing, MissingScore::Value(_)) {
                found.push(CombinationConcern::PlaceholderScore);
            }
        }
        if advantage.divides_by_group() && usage.group_size == 2 {
            found.push(CombinationConcern::DeviationOfTwo);
        }
        if advantage.needs_steps() && matches!(objective.kl, KlForm::Reward { .. }) {
            found.push(CombinationConcern::StepsWithoutRewards);
        }
        found.extend(objective.concerns());
        if objective.surrogate == Surrogate::Reinforce && usage.updates > 1 {
            found.push(CombinationConcern::StaleReinforce { updates: usage.updates });
        }
        let uncorrected =
            objective.correction == Correction::None && objective.anchor == Anchor::Trainer;
        if usage.staleness > 0 && uncorrected {
            let staleness = usage.staleness;
            found.push(CombinationConcern::StaleWithoutCorrection { staleness });
        }
        found
    }

    /// Checks every number on its own.
    ///
    /// # Errors
    /// [`BadSetting`] names the first number that is out of range.
    pub fn check(&self) -> Result<(), BadSetting> {
        for (field, value) in self.advantage.numbers() {
            not_negative(field, value)?;
        }
        if let AdvantageEstimator::ToGo { gamma } = self.advantage
            && gamma > 1.
        {
            return Err(BadSetting::new("advantage.to_go.gamma", gamma, "0 to 1"));
        }
        self.objective.check()
    }
}

impl PolicyObjective {
    /// The token mean of this surrogate with token ratios, without KL and corrections.
    pub fn new(surrogate: Surrogate) -> Self {
        Self {
            ratio: RatioLevel::Token,
            anchor: Anchor::Trainer,
            surrogate,
            average: Average::Tokens,
            kl: KlForm::None,
            correction: Default::default(),
            off_policy: None,
        }
    }

    fn concerns(&self) -> Vec<CombinationConcern> {
        let mut found = Vec::new();
        let of_response = self.ratio != RatioLevel::Token;
        match self.surrogate {
            Surrogate::Truncated { most, .. } if most <= 1. => {
                found.push(CombinationConcern::TruncatedBelowOne { most });
            }
            Surrogate::Clipped { low, high, .. }
                if self.ratio == RatioLevel::Sequence && low.min(high) > 0.05 =>
            {
                found.push(CombinationConcern::WideSequenceClip { low, high });
            }
            Surrogate::Truncated { .. }
            | Surrogate::Clipped { .. }
            | Surrogate::Reinforce
            | Surrogate::SoftGate { .. }
            | Surrogate::Gamma { .. }
            | Surrogate::TotalVariation { .. } => {}
        }
        if of_response && self.average == Average::Tokens && self.surrogate != Surrogate::Reinforce
        {
            found.push(CombinationConcern::SequenceRatioOverTokens);
        }
        if let Some((least, most)) = self.correction.bounds() {
            if !(least <= 1. && 1. <= most) {
                found.push(CombinationConcern::CorrectionWithoutOne { least, most });
            }
            if self.anchor == Anchor::Sampler {
                found.push(CombinationConcern::CorrectedTwice);
            }
        }
        found.extend(self.kl_concern());
        found
    }

    fn kl_concern(&self) -> Option<CombinationConcern> {
        let KlForm::Loss { estimator, weight, .. } = self.kl else { return None };
        let why = match (estimator, weight) {
            (KlEstimator::K1, KlWeight::None) => "its gradient is that of log π, whose mean is 0",
            (KlEstimator::Abs, _) => "its gradient has one size however far the policy is",
            (KlEstimator::Full, _) => "it is computed without a gradient",
            (KlEstimator::K3, KlWeight::None) => return Some(CombinationConcern::UnweightedK3),
            (KlEstimator::K1 | KlEstimator::K3, KlWeight::Ratio) | (KlEstimator::K2, _) => {
                return None;
            }
        };
        Some(CombinationConcern::KlGradient { estimator, why })
    }

    fn check(&self) -> Result<(), BadSetting> {
        match self.surrogate {
            Surrogate::Clipped { low, high, dual_clip } => {
                if !(low > 0. && low <= 1.) {
                    let expected = "above 0 and at most 1";
                    return Err(BadSetting::new("surrogate.clipped.low", low, expected));
                }
                positive("surrogate.clipped.high", high)?;
                if let Some(c) = dual_clip.filter(|c| !(*c > 1. && c.is_finite())) {
                    return Err(BadSetting::new("surrogate.clipped.dual_clip", c, "above 1"));
                }
            }
            Surrogate::Reinforce => {}
            Surrogate::Truncated { least, most } => {
                range("surrogate.truncated", least, most)?;
            }
            Surrogate::SoftGate { positive: plus, negative } => {
                positive("surrogate.soft_gate.positive", plus)?;
                positive("surrogate.soft_gate.negative", negative)?;
            }
            Surrogate::Gamma { positive: plus, negative } => {
                for value in [plus.0, plus.1, negative.0, negative.1] {
                    positive("surrogate.gamma", value)?;
                }
            }
            Surrogate::TotalVariation { bound, penalty } => {
                positive("surrogate.total_variation.bound", bound)?;
                not_negative("surrogate.total_variation.penalty", penalty)?;
            }
        }
        if self.kl != KlForm::None {
            not_negative("kl.coef", self.kl.coef())?;
        }
        if let Some((least, most)) = self.correction.bounds() {
            range("correction", least, most)?;
        }
        if let Some(off_policy) = self.off_policy {
            not_negative("off_policy.max_kl", off_policy.max_kl)?;
        }
        Ok(())
    }
}

fn positive(field: &'static str, value: f64) -> Result<(), BadSetting> {
    if value > 0. && value.is_finite() {
        return Ok(());
    }
    Err(BadSetting::new(field, value, "a finite number above 0"))
}

fn not_negative(field: &'static str, value: f64) -> Result<(), BadSetting> {
    if value >= 0. && value.is_finite() {
        return Ok(());
    }
    Err(BadSetting::new(field, value, "a finite number of at least 0"))
}

fn range(field: &'static str, least: f64, most: f64) -> Result<(), BadSetting> {
    if least >= 0. && least < most {
        return Ok(());
    }
    let expected = "`least` of at least 0, and `most` above it";
    Err(BadSetting::new(field, format!("{least} to {most}"), expected))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::AdvantageScale;

    const GRPO: AdvantageEstimator =
        AdvantageEstimator::GroupMean { scale: AdvantageScale::Group { eps: 1e-4 } };
    const CLIPPED: Surrogate = Surrogate::Clipped { low: 0.2, high: 0.2, dual_clip: None };
    const USAGE: CombinationUse =
        CombinationUse { group_size: 8, updates: 1, missing: MissingScore::Drop, staleness: 0 };

    fn found(
        advantage: AdvantageEstimator,
        objective: PolicyObjective,
        usage: CombinationUse,
    ) -> Vec<(&'static str, bool)> {
        let combination = Combination { advantage, objective };
        combination.check().unwrap();
        let concerns = combination.concerns(usage);
        concerns.iter().map(|concern| (concern.setting(), concern.is_refused())).collect()
    }

    #[test]
    fn every_trap_is_found_and_a_sound_combination_has_none() {
        let plain = PolicyObjective::new(CLIPPED);
        assert_eq!(found(GRPO, plain, USAGE), []);
        let of = |objective| found(GRPO, objective, USAGE);
        let used = |usage| found(GRPO, plain, usage);
        assert_eq!(used(CombinationUse { group_size: 1, ..USAGE }), [("group_size", true)]);
        assert_eq!(used(CombinationUse { group_size: 2, ..USAGE }), [("group_size", false)]);
        let value = CombinationUse { missing: MissingScore::Value(0.), ..USAGE };
        assert_eq!(used(value), [("scores.missing", false)]);
        let one = CombinationUse { group_size: 1, ..USAGE };
        assert_eq!(found(AdvantageEstimator::ToGo { gamma: 1. }, plain, one), []);

        let wide =
            PolicyObjective { ratio: RatioLevel::Sequence, average: Average::Responses, ..plain };
        assert_eq!(of(wide), [("surrogate.clipped", false)]);
        let narrow = Surrogate::Clipped { low: 3e-4, high: 4e-4, dual_clip: None };
        assert_eq!(of(PolicyObjective { surrogate: narrow, ..wide }), []);
        let tokens = PolicyObjective { surrogate: narrow, average: Average::Tokens, ..wide };
        assert_eq!(of(tokens), [("average", false)]);

        let cispo = |most| PolicyObjective::new(Surrogate::Truncated { least: 0., most });
        assert_eq!(of(cispo(1.)), [("surrogate.truncated.most", true)]);
        assert_eq!(of(cispo(5.)), []);
        let reinforce = PolicyObjective::new(Surrogate::Reinforce);
        let twice = CombinationUse { updates: 2, ..USAGE };
        assert_eq!(found(GRPO, reinforce, twice), [("surrogate", false)]);

        let corrected = PolicyObjective { correction: Correction::ice_pop(0.5, 5.), ..plain };
        assert_eq!(of(corrected), []);
        assert_eq!(
            of(PolicyObjective { anchor: Anchor::Sampler, ..corrected }),
            [("correction", true)]
        );
        let stale = CombinationUse { staleness: 1, ..USAGE };
        assert_eq!(used(stale), [("correction", false)]);
        assert_eq!(found(GRPO, corrected, stale), []);
        assert_eq!(found(GRPO, PolicyObjective { anchor: Anchor::Sampler, ..plain }, stale), []);
        let below = PolicyObjective { correction: Correction::ice_pop(0.1, 0.9), ..plain };
        assert_eq!(of(below), [("correction", true)]);
    }

    #[test]
    fn estimators_of_kl_whose_gradient_is_wrong_are_found() {
        let of = |estimator, weight| {
            let kl = KlForm::Loss { coef: 0.04, estimator, weight };
            found(GRPO, PolicyObjective { kl, ..PolicyObjective::new(CLIPPED) }, USAGE)
        };
        let place = "kl.loss.estimator";
        assert_eq!(of(KlEstimator::K3, KlWeight::Ratio), []);
        assert_eq!(of(KlEstimator::K2, KlWeight::None), []);
        assert_eq!(of(KlEstimator::K1, KlWeight::Ratio), []);
        assert_eq!(of(KlEstimator::K3, KlWeight::None), [(place, false)]);
        assert_eq!(of(KlEstimator::K1, KlWeight::None), [(place, true)]);
        assert_eq!(of(KlEstimator::Abs, KlWeight::Ratio), [(place, true)]);
        assert_eq!(of(KlEstimator::Full, KlWeight::Ratio), [(place, true)]);
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let error = |objective: PolicyObjective| {
            Combination { advantage: GRPO, objective }.check().unwrap_err().to_string()
        };
        let plain = PolicyObjective::new(CLIPPED);
        let clipped = |low, high, dual_clip| {
            error(PolicyObjective::new(Surrogate::Clipped { low, high, dual_clip }))
        };
        assert!(clipped(0., 0.2, None).contains("surrogate.clipped.low"));
        assert!(clipped(0.2, f64::NAN, None).contains("surrogate.clipped.high"));
        assert!(clipped(0.2, 0.2, Some(1.)).contains("surrogate.clipped.dual_clip"));
        let zero = serde_json::from_str::<Average>(r#"{"constant": 0}"#).unwrap_err();
        assert!(zero.to_string().contains("expected a nonzero usize"), "{zero}");
        let kl = KlForm::Reward { coef: -1., estimator: KlEstimator::K1 };
        assert!(error(PolicyObjective { kl, ..plain }).contains("kl.coef"));
        let gamma =
            Combination { advantage: AdvantageEstimator::ToGo { gamma: 2. }, objective: plain };
        assert!(gamma.check().unwrap_err().to_string().contains("gamma"));
    }
}
