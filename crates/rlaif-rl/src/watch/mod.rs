//! Symptoms of a failing run, recognised from the statistics and explained: one function for each
//! symptom.

mod endings;
mod entropy;
mod keys;
mod kl;
mod sampler;
mod scores;
mod symptom;
mod update;

pub use keys::AdviceKeys;
pub use symptom::Symptom;

use std::collections::{BTreeSet, VecDeque};

use rlaif_core::Finding;
use rlaif_lm::generate::GenerationConfig;
use rlaif_train::KlControl;
use serde::{Deserialize, Serialize};

use crate::{
    stats::Stats,
    stop::{StopConfig, StopReason},
};
use symptom::Sign;

/// The settings of a run that recognise symptoms in its statistics.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    /// The KL coefficient and its adaptation.
    pub kl: KlControl,
    /// Responses of one rollout.
    pub batch_size: usize,
    /// Sampling of responses.
    pub generation: &'a GenerationConfig,
    /// The settings that advice may name.
    pub keys: AdviceKeys,
}

/// Number of consecutive steps for a symptom that a single step may show by chance.
const PERSISTENT: usize = 3;

/// Observes a run: recognises symptoms, and decides on early stopping.
///
/// A symptom is reported when it appears, and again only after it had disappeared. The state can be
/// saved and restored.
///
/// ```
/// use rlaif_lm::generate::GenerationConfig;
/// use rlaif_rl::{Stats, Symptom, Watch, Watched, train::KlControl};
/// let generation = GenerationConfig::default();
/// let run = Watched {
///     kl: KlControl::Fixed { coef: 0.1 },
///     batch_size: 8,
///     generation: &generation,
///     keys: Default::default(),
/// };
/// let mut watch = Watch::default();
/// let mut stats = Stats::default();
/// stats.metrics.set("objective/kl", -3.);
/// let findings = watch.observe(&stats, run);
/// assert_eq!(findings[0].symptom, Symptom::NegativeKl.name());
/// assert!(findings[0].advice.contains("generation"));
/// assert!(watch.observe(&stats, run).is_empty());
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
    /// Adds the statistics of a step, and returns the symptoms that appeared with it.
    pub fn observe<'a>(&mut self, stats: &Stats, run: impl Into<Watched<'a>>) -> Vec<Finding> {
        let signs = self.signs(stats, run.into());
        let seen: BTreeSet<Symptom> = signs.iter().map(|sign| sign.symptom).collect();
        let new = signs.into_iter().filter(|sign| !self.present.contains(&sign.symptom));
        let new = new.map(|Sign { symptom, seen, cause, advice }| Finding {
            step: stats.step,
            symptom: symptom.name().to_owned(),
            seen,
            cause: cause.to_owned(),
            advice,
        });
        let new = new.collect();
        self.present = seen;
        new
    }

    fn signs(&mut self, stats: &Stats, run: Watched<'_>) -> Vec<Sign> {
        // A single response always equals itself.
        let [equal, saturated] =
            if run.batch_size > 1 { self.scores(stats, run.keys) } else { [None, None] };
        [
            kl::negative(stats, run.keys),
            kl::runaway(stats, run.kl, run.keys),
            self.entropy_collapse(stats, run.keys),
            update::not_finite(stats, run.keys),
            update::large_ratio(stats, run.keys),
            equal,
            saturated,
            self.never_ends(stats, run.generation, run.keys),
            sampler::gap(stats),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The reason to stop after this step, if there is one.
    pub fn stop(&mut self, stats: &Stats, rules: &StopConfig) -> Option<StopReason> {
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
    use crate::stop::MetricStop;

    fn stats(step: u64, numbers: &[(&'static str, f64)]) -> Stats {
        Stats { step, metrics: numbers.iter().copied().collect(), ..Stats::default() }
    }

    fn run(steps: &[Vec<(&'static str, f64)>]) -> Vec<(u64, Symptom)> {
        let mut watch = Watch::default();
        let generation = GenerationConfig::default();
        let config = Watched {
            kl: KlControl::Adaptive { init: 0.2, target: 6., horizon: 10_000. },
            batch_size: 128,
            generation: &generation,
            keys: AdviceKeys::SCORES_AND_STOP,
        };
        let mut all = Vec::new();
        for (at, numbers) in steps.iter().enumerate() {
            for finding in watch.observe(&stats(at as u64 + 1, numbers), config) {
                assert!(finding.to_string().contains('`'), "names a setting: {finding}");
                let symptom = serde_json::from_value(finding.symptom.clone().into()).unwrap();
                assert_eq!(Symptom::name(symptom), finding.symptom);
                all.push((finding.step, symptom));
            }
            // A resumed run continues with its saved state.
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
        // A ceiling that all scores reach exactly; and one score that falls below the best.
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
        assert_eq!(stop(5., 0.), None, "one step is not an average");
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
