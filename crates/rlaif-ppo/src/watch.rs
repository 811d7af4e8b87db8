//! What goes wrong in PPO, recognised from the statistics and explained.

use std::collections::{BTreeSet, VecDeque};

use rlaif_train::Finding;
use serde::{Deserialize, Serialize};

use crate::{
    config::{PpoConfig, StopConfig},
    stats::PpoStats,
};

/// Something that goes wrong in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Symptom {
    /// KL against the reference below −1 nat per response.
    NegativeKl,
    /// KL against the reference far beyond its target.
    RunawayKl,
    /// The policy has become all but deterministic.
    EntropyCollapse,
    /// The policy moves too far within an update.
    LargeRatio,
    /// Every response has the same score.
    EqualScores,
    /// No response ends before its limit.
    NeverEnds,
    /// Scores have lost their spread at the top of what was ever seen.
    SaturatedScores,
    /// The sampler and the training pass disagree on the same tokens.
    SamplerGap,
    /// Gradients hold NaN or infinity.
    NotFinite,
}

impl Symptom {
    /// The name that `findings.json` has for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NegativeKl => "negative_kl",
            Self::RunawayKl => "runaway_kl",
            Self::EntropyCollapse => "entropy_collapse",
            Self::LargeRatio => "large_ratio",
            Self::EqualScores => "equal_scores",
            Self::NeverEnds => "never_ends",
            Self::SaturatedScores => "saturated_scores",
            Self::SamplerGap => "sampler_gap",
            Self::NotFinite => "not_finite",
        }
    }
}

/// Why a run ends before its steps are done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The moving average of a metric has come far enough.
    Metric {
        /// Its name.
        name: String,
        /// The average.
        average: f64,
    },
    /// KL against the reference, in nats per response.
    Kl {
        /// What it is.
        kl: f64,
    },
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Metric { name, average } => {
                write!(f, "the moving average of `{name}` is {average:.4} (`stop.metric`)")
            }
            Self::Kl { kl } => write!(f, "`objective/kl` is {kl:.3} (`stop.max_kl`)"),
        }
    }
}

/// How many steps in a row make a symptom of what a single one may show by chance.
const PERSISTENT: usize = 3;

/// Follows a run: finds what goes wrong, and says when it may end.
///
/// A symptom is told when it comes, and again only if it had gone. All of it can be saved and
/// taken up again.
///
/// ```
/// use rlaif_ppo::{PpoConfig, PpoStats, Symptom, Watch};
/// let mut watch = Watch::default();
/// let mut stats = PpoStats::default();
/// stats.metrics.set("objective/kl", -3.);
/// let findings = watch.observe(&stats, &PpoConfig::default());
/// assert_eq!(findings[0].symptom, Symptom::NegativeKl.name());
/// assert!(findings[0].advice.contains("generation"));
/// assert!(watch.observe(&stats, &PpoConfig::default()).is_empty());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    present: BTreeSet<Symptom>,
    first_entropy: Option<f64>,
    first_spread: Option<f64>,
    best_score: Option<f64>,
    equal: usize,
    endless: usize,
    narrow: usize,
    window: VecDeque<f64>,
}

impl Watch {
    /// Takes in the statistics of a step, and tells what has begun to go wrong.
    pub fn observe(&mut self, stats: &PpoStats, config: &PpoConfig) -> Vec<Finding> {
        let signs = self.signs(stats, config);
        let seen: BTreeSet<Symptom> = signs.iter().map(|(symptom, _)| *symptom).collect();
        let new = signs.into_iter().filter(|(symptom, _)| !self.present.contains(symptom));
        let new = new.map(|(_, finding)| finding).collect();
        self.present = seen;
        new
    }

    fn signs(&mut self, stats: &PpoStats, config: &PpoConfig) -> Vec<(Symptom, Finding)> {
        let mut signs = Vec::new();
        let mut found = |symptom: Symptom, seen: String, cause: &str, advice: String| {
            let (name, cause) = (symptom.name().to_owned(), cause.to_owned());
            let finding = Finding { step: stats.step, symptom: name, seen, cause, advice };
            signs.push((symptom, finding));
        };
        let kl = stats.get("objective/kl");
        if kl < -1. {
            found(
                Symptom::NegativeKl,
                format!("`objective/kl` is {kl:.2}"),
                "Responses are not sampled from the distribution whose log-probabilities are \
                 trained, or the policy has learnt to give what it samples less probability than \
                 the reference does",
                "Leave `generation.min_new_tokens` at 0 and let EOS end responses; if it stays, \
                 use the estimator `k3` (`kl.estimator`), which is never negative, and a lower \
                 `optimizer.lr`"
                    .to_owned(),
            );
        }
        let limit = match config.kl.control {
            rlaif_train::KlControl::Adaptive { target, .. } => 10. * target,
            rlaif_train::KlControl::Fixed { .. } => 100.,
        };
        if kl > limit {
            found(
                Symptom::RunawayKl,
                format!("`objective/kl` is {kl:.1} nats per response"),
                "The policy runs away from the reference faster than the penalty holds it; high \
                 scores at this distance are usually exploits of the reward",
                "Raise the coefficient (`kl.control`) or lower `optimizer.lr`; `stop.max_kl` ends \
                 a run that goes too far"
                    .to_owned(),
            );
        }
        self.entropy(stats, &mut found);
        let (ratio, clipped) = (stats.get("ppo/policy/ratio"), stats.get("ppo/policy/clipfrac"));
        // NaN where there was no update.
        let not_finite = stats.metrics.get("ppo/updates_not_finite").unwrap_or(0.);
        let skipped = stats.get("ppo/updates_skipped") - not_finite;
        if not_finite > 0. {
            found(
                Symptom::NotFinite,
                format!("the gradients of {not_finite:.0} optimizer steps hold NaN or infinity"),
                "Something overflows: the policy has diverged, a loss has a weight out of all \
                 proportion, or the kind of the weights is too narrow",
                "Lower `optimizer.lr`; look at `value_coef`, `kl.control` and the size of the scores \
                 (`scores.clip`); load the policy in f32 to tell the last apart"
                    .to_owned(),
            );
        }
        if ratio > 2. || clipped > 0.5 || skipped > 0. {
            found(
                Symptom::LargeRatio,
                format!(
                    "the mean ratio is {ratio:.2}, {:.0} % of tokens are clipped, {skipped:.0} \
                     optimizer steps were left out",
                    100. * clipped
                ),
                "An update moves the policy too far from the one that sampled",
                "Lower `optimizer.lr` or `epochs`, raise `minibatch_size`, or set `target_kl` to \
                 end an update in time"
                    .to_owned(),
            );
        }
        // A single response is always equal to itself.
        if config.batch_size > 1 {
            self.scores(stats, &mut found);
        }
        self.endings(stats, config, &mut found);
        let gap = stats.get("objective/sampler_gap");
        if gap > 0.1 {
            found(
                Symptom::SamplerGap,
                format!("sampler and training pass differ by {gap:.3} nats per token"),
                "They do not compute the same model: low precision, or a policy of your own whose \
                 cached decoding differs from its forward pass",
                "Load the policy in f32 to tell the two apart; a policy of your own must give the \
                 same logits in `Policy::step` and `Policy::response_hidden`"
                    .to_owned(),
            );
        }
        signs
    }

    fn entropy(&mut self, stats: &PpoStats, found: &mut impl FnMut(Symptom, String, &str, String)) {
        let entropy = stats.get("ppo/policy/entropy");
        if entropy.is_nan() {
            return;
        }
        let first = *self.first_entropy.get_or_insert(entropy);
        if entropy < 0.1 * first {
            found(
                Symptom::EntropyCollapse,
                format!("the entropy per token fell from {first:.2} to {entropy:.3} nats"),
                "The policy gives nearly the same response every time, and has stopped exploring",
                "Go back to an earlier checkpoint; set `entropy_coef` (0.01, say), raise the KL \
                 coefficient (`kl.control`), or lower `optimizer.lr`"
                    .to_owned(),
            );
        }
    }

    fn scores(&mut self, stats: &PpoStats, found: &mut impl FnMut(Symptom, String, &str, String)) {
        let (mean, spread) = (stats.get("env/reward_mean"), stats.get("env/reward_std"));
        if mean.is_nan() {
            return;
        }
        // What f32 makes of equal scores.
        let rounding = 1e-6 * (1. + mean.abs());
        let first = *self.first_spread.get_or_insert(spread);
        let best = *self.best_score.insert(self.best_score.map_or(mean, |best| best.max(mean)));
        // Once apart, and now together at the top: there is a ceiling, which may be a sharp one.
        let narrow =
            first > rounding && spread < 0.05 * first && mean >= best - (2. * spread).max(rounding);
        let equal = spread <= rounding && !narrow;
        self.equal = if equal { self.equal + 1 } else { 0 };
        if self.equal >= PERSISTENT {
            found(
                Symptom::EqualScores,
                format!("every response of {} steps in a row scored the same", self.equal),
                "The reward does not tell responses apart, so that advantages are only noise of \
                 the value function",
                "Look at samples.jsonl: if responses differ, the reward reads the wrong text or \
                 label, or clips everything (`scores.clip`); if they do not, raise the temperature \
                 (`generation.sampling`)"
                    .to_owned(),
            );
        }
        self.narrow = if narrow { self.narrow + 1 } else { 0 };
        if self.narrow >= PERSISTENT {
            found(
                Symptom::SaturatedScores,
                format!(
                    "scores spread by {spread:.4} where they began with {first:.4}, at a mean of \
                     {mean:.3}"
                ),
                "The reward is at its ceiling: what it can tell apart has been learnt, and the \
                 rest is noise or exploitation",
                "End here (`stop.metric`), compare with a second judge, or use logits in place of \
                 probabilities as the reward"
                    .to_owned(),
            );
        }
    }

    fn endings(
        &mut self,
        stats: &PpoStats,
        config: &PpoConfig,
        found: &mut impl FnMut(Symptom, String, &str, String),
    ) {
        let endless = stats.get("tokens/responses_ended") == 0.
            && config.generation.eos == rlaif_lm::generate::Eos::Ends;
        self.endless = if endless { self.endless + 1 } else { 0 };
        if self.endless >= PERSISTENT {
            found(
                Symptom::NeverEnds,
                format!(
                    "no response of {} steps in a row ended within {} tokens",
                    self.endless, config.generation.max_new_tokens
                ),
                "The policy never gives EOS: it was not trained to, it was trained on texts \
                 without one, or the limit is too short for it",
                "Raise `generation.max_new_tokens`, set `scores.missing_eos_penalty`, or name the \
                 ids that end a response in `generation.stop_ids`"
                    .to_owned(),
            );
        }
    }

    /// Whether the run may end after this step.
    pub fn stop(&mut self, stats: &PpoStats, rules: &StopConfig) -> Option<StopReason> {
        let kl = stats.get("objective/kl");
        if rules.max_kl.is_some_and(|limit| kl > limit) {
            return Some(StopReason::Kl { kl });
        }
        let rule = rules.metric.as_ref()?;
        let value = stats.metrics.get(&rule.name)?;
        self.window.push_back(value);
        while self.window.len() > rule.window {
            self.window.pop_front();
        }
        if self.window.len() < rule.window {
            return None;
        }
        let average = self.window.iter().sum::<f64>() / rule.window as f64;
        let enough = rule.at_least.is_some_and(|bound| average >= bound)
            || rule.at_most.is_some_and(|bound| average <= bound);
        enough.then(|| StopReason::Metric { name: rule.name.clone(), average })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MetricStop;

    fn stats(step: u64, numbers: &[(&'static str, f64)]) -> PpoStats {
        PpoStats { step, metrics: numbers.iter().copied().collect(), ..PpoStats::default() }
    }

    fn run(steps: &[Vec<(&'static str, f64)>]) -> Vec<(u64, Symptom)> {
        let mut watch = Watch::default();
        let config = PpoConfig::default();
        let mut all = Vec::new();
        for (at, numbers) in steps.iter().enumerate() {
            for finding in watch.observe(&stats(at as u64 + 1, numbers), &config) {
                assert!(finding.to_string().contains('`'), "names a setting: {finding}");
                let symptom = serde_json::from_value(finding.symptom.clone().into()).unwrap();
                assert_eq!(Symptom::name(symptom), finding.symptom);
                all.push((finding.step, symptom));
            }
            // A run that is resumed goes on with what it knew.
            let saved = serde_json::to_string(&watch).unwrap();
            watch = serde_json::from_str(&saved).unwrap();
        }
        all
    }

    #[test]
    fn every_symptom_is_found_when_it_comes_and_again_only_after_it_has_gone() {
        let kl = |v| vec![("objective/kl", v)];
        assert_eq!(
            run(&[kl(0.), kl(-2.), kl(-3.), kl(0.), kl(-2.)]),
            [(2, Symptom::NegativeKl), (5, Symptom::NegativeKl)]
        );
        assert_eq!(run(&[kl(5.), kl(61.)]), [(2, Symptom::RunawayKl)]);
        let entropy = |v| vec![("ppo/policy/entropy", v)];
        assert_eq!(
            run(&[entropy(2.), entropy(0.5), entropy(0.1)]),
            [(3, Symptom::EntropyCollapse)]
        );
        let ratio = |ratio, clipped, skipped| {
            vec![
                ("ppo/policy/ratio", ratio),
                ("ppo/policy/clipfrac", clipped),
                ("ppo/updates_skipped", skipped),
            ]
        };
        assert_eq!(run(&[ratio(1., 0.1, 0.), ratio(2.5, 0.1, 0.)]), [(2, Symptom::LargeRatio)]);
        assert_eq!(run(&[ratio(1., 0.1, 1.)]), [(1, Symptom::LargeRatio)]);
        let score = |mean, std| vec![("env/reward_mean", mean), ("env/reward_std", std)];
        assert_eq!(run(&vec![score(1., 0.); 3]), [(3, Symptom::EqualScores)]);
        // A ceiling that all reach exactly; and a fall to one score below the best.
        let cap = || score(1., 0.);
        assert_eq!(
            run(&[score(0.5, 0.5), score(0.8, 0.4), score(0.99, 0.1), cap(), cap(), cap()]),
            [(6, Symptom::SaturatedScores)]
        );
        let floor = || score(0., 0.);
        assert_eq!(run(&[score(0.5, 0.5), floor(), floor(), floor()]), [(4, Symptom::EqualScores)]);
        let high = || score(0.99, 0.004);
        assert_eq!(
            run(&[score(0.2, 0.3), score(0.6, 0.2), high(), high(), high()]),
            [(5, Symptom::SaturatedScores)]
        );
        let ended = |share| vec![("tokens/responses_ended", share)];
        assert_eq!(run(&[ended(0.), ended(0.), ended(0.)]), [(3, Symptom::NeverEnds)]);
        assert_eq!(run(&[ended(0.), ended(0.1), ended(0.), ended(0.)]), []);
        assert_eq!(run(&[vec![("objective/sampler_gap", 0.4)]]), [(1, Symptom::SamplerGap)]);
        let not_finite = vec![("ppo/updates_skipped", 2.), ("ppo/updates_not_finite", 2.)];
        assert_eq!(run(&[not_finite]), [(1, Symptom::NotFinite)]);
    }

    #[test]
    fn a_healthy_run_has_no_finding() {
        let steps: Vec<_> = (0..20)
            .map(|i| {
                vec![
                    ("objective/kl", 0.1 * f64::from(i)),
                    ("ppo/policy/entropy", 3. - 0.05 * f64::from(i)),
                    ("ppo/policy/ratio", 1.01),
                    ("ppo/policy/clipfrac", 0.1),
                    ("ppo/updates_skipped", 0.),
                    ("env/reward_mean", 0.1 * f64::from(i)),
                    ("env/reward_std", 0.5),
                    ("tokens/responses_ended", 0.8),
                    ("objective/sampler_gap", 1e-6),
                ]
            })
            .collect();
        assert_eq!(run(&steps), []);
    }

    #[test]
    fn a_run_ends_on_the_moving_average_or_on_kl() {
        let rules = StopConfig {
            metric: Some(MetricStop {
                name: "env/reward_mean".into(),
                window: 2,
                at_least: Some(1.),
                at_most: None,
            }),
            max_kl: Some(9.),
        };
        let mut watch = Watch::default();
        let mut stop = |reward, kl| {
            watch.stop(&stats(1, &[("env/reward_mean", reward), ("objective/kl", kl)]), &rules)
        };
        assert_eq!(stop(5., 0.), None, "one step is no average");
        assert_eq!(stop(-4., 0.), None);
        assert_eq!(stop(1., 0.), None);
        let reason = stop(1.5, 0.).unwrap();
        assert_eq!(reason, StopReason::Metric { name: "env/reward_mean".into(), average: 1.25 });
        assert_eq!(stop(0., 10.), Some(StopReason::Kl { kl: 10. }));
        let low = StopConfig {
            metric: Some(MetricStop {
                name: "toxicity".into(),
                window: 1,
                at_least: None,
                at_most: Some(0.1),
            }),
            max_kl: None,
        };
        assert!(Watch::default().stop(&stats(1, &[("toxicity", 0.05)]), &low).is_some());
    }
}
