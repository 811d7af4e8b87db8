//! Preference training as the loop that trainings share takes it.

use std::{mem::replace, path::Path};

use rlaif_core::{Metrics, RewardModel, Seed, TextCodec, undone_if_interrupted};
use rlaif_lm::{Draw, LocalSampler, Policy, Sampler, generate::RolloutConcern};
use rlaif_rl::{AdviceKeys, Prompt, RankedSampler, RlError, Stats, Watch, Watched, check_resumed};
use rlaif_torch::dist::World;
use rlaif_train::{CheckpointFiles, Fit, KlControl, Saved, Stepped, TrainError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    config::ReferenceConfig,
    error::DpoError,
    evaluate::PairEvaluation,
    online::{OnlineBatch, OnlineConfig},
    reference::ReferenceSums,
    responses::ResponseEvaluation,
    rows::{ResponseRow, TokenPair},
    trainer::DpoTrainer,
};

/// Rows to evaluate on; without rows, there is no evaluation.
#[derive(Debug)]
pub enum HeldOutRows {
    /// Pairs.
    Pairs(Vec<TokenPair>),
    /// Single responses.
    Responses(Vec<ResponseRow>),
}

impl HeldOutRows {
    /// Count of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Pairs(rows) => rows.len(),
            Self::Responses(rows) => rows.len(),
        }
    }

    /// Returns `true` if there are no evaluation rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Evaluation of the policy on held-out rows.
#[derive(Debug)]
pub enum HeldOutEvaluation {
    /// On pairs.
    Pairs(PairEvaluation),
    /// On single responses.
    Responses(ResponseEvaluation),
}

impl HeldOutEvaluation {
    /// The numbers.
    pub fn metrics(&self) -> Metrics {
        match self {
            Self::Pairs(evaluation) => evaluation.metrics(),
            Self::Responses(evaluation) => evaluation.metrics(),
        }
    }
}

/// Rows to learn from.
#[derive(Debug)]
pub enum TrainRows {
    /// Pairs.
    Pairs(Vec<TokenPair>),
    /// Single responses.
    Responses(Vec<ResponseRow>),
    /// Prompts that the policy answers itself.
    Prompts(Vec<Prompt>),
}

impl TrainRows {
    /// Count of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Pairs(rows) => rows.len(),
            Self::Responses(rows) => rows.len(),
            Self::Prompts(rows) => rows.len(),
        }
    }

    /// Returns `true` if there are no training rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Samples pairs.
struct Online<'a> {
    sampler: Box<dyn Sampler + 'a>,
    reward: &'a dyn RewardModel,
    config: &'a OnlineConfig,
    seed: Seed,
    concerns: Vec<RolloutConcern>,
    samples: usize,
    watch: Watch,
    /// True once a warning about missing verdicts was given.
    told_unscored: bool,
}

/// The state of sampling beside that of the trainer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnlineState {
    /// Settings that would change the result of a resumed run without an error.
    seed: u64,
    config: OnlineConfig,
    watch: Watch,
    reward: Value,
}

impl Online<'_> {
    fn state(&self) -> OnlineState {
        OnlineState {
            seed: self.seed.get(),
            config: self.config.clone(),
            watch: self.watch.clone(),
            reward: self.reward.state(),
        }
    }

    fn restore(&mut self, saved: OnlineState) -> Result<(), DpoError> {
        let OnlineState { seed, config, watch, reward } = saved;
        let own = self.config;
        check_resumed((self.seed, &own.generation), (seed, config.generation))?;
        for (what, own, saved) in [
            ("missing_eos_penalty", own.missing_eos_penalty, config.missing_eos_penalty),
            ("least_difference", own.least_difference, config.least_difference),
        ] {
            if own.to_bits() != saved.to_bits() {
                let (what, expected, found) = (what.to_owned(), own.to_string(), saved.to_string());
                return Err(RlError::State { what, expected, found }.into());
            }
        }
        self.watch = watch;
        Ok(self.reward.restore(&reward)?)
    }
}

/// The settings that recognise symptoms of online training.
fn watched(config: &OnlineConfig, prompts: usize) -> Watched<'_> {
    Watched {
        kl: KlControl::Fixed { coef: 0. },
        batch_size: 2 * prompts,
        generation: &config.generation,
        keys: AdviceKeys {
            missing_eos_penalty: Some("missing_eos_penalty"),
            ..AdviceKeys::default()
        },
    }
}

/// Preference training as the loop that trainers share takes it.
pub struct DpoTask<'a, P> {
    trainer: DpoTrainer<P>,
    train: TrainRows,
    train_sums: Option<ReferenceSums>,
    held_out: HeldOutRows,
    held_out_sums: Option<ReferenceSums>,
    online: Option<Online<'a>>,
    steps: u64,
}

impl<P> std::fmt::Debug for DpoTask<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DpoTask over {} rows, after {} steps", self.train.len(), self.steps)
    }
}

impl<'a, P: Policy> DpoTask<'a, P> {
    /// Takes the trainer and its rows. The reference's log-probabilities come from `cache` if they
    /// are there, and are written there if they are not; so the policy has to be at its start.
    ///
    /// # Errors
    /// Those of [`DpoTrainer::reference_of_pairs`].
    pub fn new(
        trainer: DpoTrainer<P>,
        train: TrainRows,
        held_out: HeldOutRows,
        cache: &Path,
    ) -> Result<Self, DpoError> {
        let needed = trainer.config().objective.needs_reference()
            && trainer.config().reference == ReferenceConfig::Cached;
        let train_sums = match &train {
            TrainRows::Pairs(rows) if needed => {
                Some(trainer.reference_of_pairs(rows, Some(cache))?)
            }
            TrainRows::Responses(rows) if needed => {
                Some(trainer.reference_of_responses(rows, Some(cache))?)
            }
            TrainRows::Pairs(_) | TrainRows::Responses(_) | TrainRows::Prompts(_) => None,
        };
        let held_out_sums = match &held_out {
            rows if !needed || rows.is_empty() => None,
            HeldOutRows::Pairs(rows) => Some(trainer.reference_of_pairs(rows, Some(cache))?),
            HeldOutRows::Responses(rows) => {
                Some(trainer.reference_of_responses(rows, Some(cache))?)
            }
        };
        Ok(Self { trainer, train, train_sums, held_out, held_out_sums, online: None, steps: 0 })
    }

    /// Has `reward` choose between two responses of the policy to each prompt. They are sampled in
    /// this process.
    ///
    /// # Errors
    /// [`DpoError::Setting`], [`DpoError::Lm`] for settings that are out of range, or do not fit the
    /// policy.
    pub fn online(
        mut self,
        codec: &'a dyn TextCodec,
        reward: &'a dyn RewardModel,
        config: &'a OnlineConfig,
        seed: Seed,
    ) -> Result<Self, DpoError> {
        let concerns = config.check_policy(self.trainer.policy().spec())?;
        self.online = Some(Online {
            sampler: Box::new(LocalSampler::new(codec)),
            reward,
            config,
            seed,
            concerns,
            samples: 0,
            watch: Watch::default(),
            told_unscored: false,
        });
        Ok(self)
    }

    /// Uses another sampler for online responses.
    #[must_use]
    pub fn sampler(mut self, sampler: impl Sampler + 'a) -> Self {
        if let Some(online) = &mut self.online {
            online.sampler = Box::new(sampler);
        }
        self
    }

    /// Writes the first `rows` online responses of each step to `samples.jsonl`; none by default.
    #[must_use]
    pub fn samples(mut self, rows: usize) -> Self {
        if let Some(online) = &mut self.online {
            online.samples = rows;
        }
        self
    }

    /// Evaluates the policy on the held-out rows; `None` without any.
    ///
    /// # Errors
    /// Those of [`DpoTrainer::evaluate`].
    pub fn evaluation(&self) -> Result<Option<HeldOutEvaluation>, DpoError> {
        let sums = self.held_out_sums.as_ref();
        Ok(match &self.held_out {
            rows if rows.is_empty() => None,
            HeldOutRows::Pairs(rows) => {
                Some(HeldOutEvaluation::Pairs(self.trainer.evaluate(rows, sums)?))
            }
            HeldOutRows::Responses(rows) => {
                Some(HeldOutEvaluation::Responses(self.trainer.evaluate_responses(rows, sums)?))
            }
        })
    }

    /// The policy.
    pub fn into_policy(self) -> P {
        self.trainer.into_policy()
    }

    fn sampled_step(&mut self, rows: &[usize]) -> Result<Stepped, TrainError> {
        let (Some(online), TrainRows::Prompts(prompts)) = (&mut self.online, &self.train) else {
            return Err(TrainError::Data {
                what: "online DPO".to_owned(),
                problem: "there are prompts but no reward to pick between responses".to_owned(),
            });
        };
        let prompts: Vec<Prompt> = rows.iter().map(|&row| prompts[row].clone()).collect();
        let draw = Draw { seed: online.seed, step: self.steps };
        let world = self.trainer.world().clone();
        let OnlineBatch { rows, contests, report, unscored } =
            undone_if_interrupted(online.reward, || {
                let sampler = &mut RankedSampler::new(&mut *online.sampler, &world);
                self.trainer.sample_pairs(sampler, &prompts, online.reward, online.config, draw)
            })?;
        let pairs: Vec<&TokenPair> = rows.iter().collect();
        let (mut metrics, not_finite) = if pairs.is_empty() {
            (Metrics::new(), 0.)
        } else {
            let stats = self.trainer.update_pairs(&pairs, None)?;
            (stats.metrics(), if stats.skipped.is_some() { 1. } else { 0. })
        };
        metrics.extend(report.metrics());
        for (name, value) in online.reward.metrics() {
            metrics.set(format!("online/{name}"), value);
        }
        let step = self.steps + 1;
        // The symptoms are recognised by the names that reinforcement learning has.
        let stats = Stats {
            step,
            metrics: [
                ("env/reward_mean", report.mean_score),
                ("env/reward_std", report.score_std),
                ("tokens/responses_ended", report.finished),
                ("ppo/updates_skipped", not_finite),
                ("ppo/updates_not_finite", not_finite),
            ]
            .into_iter()
            .collect(),
            ..Stats::default()
        };
        let findings = online.watch.observe(&stats, watched(online.config, prompts.len()));
        let samples = contests.iter().flat_map(|contest| contest.samples(step));
        let samples = samples.take(online.samples).collect();
        let unscored = unscored.filter(|_| !replace(&mut online.told_unscored, true));
        let notes = unscored.into_iter().collect();
        Ok(Stepped { metrics, samples, notes, findings, ..Stepped::default() })
    }
}

impl<P: Policy> Fit for DpoTask<'_, P> {
    fn join(&mut self, world: &World) -> Result<(), TrainError> {
        Ok(self.trainer.join(world)?)
    }

    fn step(&mut self, rows: &[usize]) -> Result<Stepped, TrainError> {
        let given: Option<Vec<[f32; 2]>> =
            self.train_sums.as_ref().map(|sums| rows.iter().map(|&row| sums.rows()[row]).collect());
        let metrics = match &self.train {
            TrainRows::Pairs(all) => {
                let batch: Vec<&TokenPair> = rows.iter().map(|&row| &all[row]).collect();
                self.trainer.update_pairs(&batch, given.as_deref())?.metrics()
            }
            TrainRows::Responses(all) => {
                let batch: Vec<&ResponseRow> = rows.iter().map(|&row| &all[row]).collect();
                self.trainer.update_responses(&batch, given.as_deref())?.metrics()
            }
            TrainRows::Prompts(_) => {
                let stepped = self.sampled_step(rows)?;
                self.steps += 1;
                return Ok(stepped);
            }
        };
        self.steps += 1;
        Ok(metrics.into())
    }

    fn evaluate(&mut self) -> Result<Option<Metrics>, TrainError> {
        Ok(self.evaluation()?.map(|evaluation| evaluation.metrics()))
    }

    fn warnings(&self) -> Vec<String> {
        let concerns = self.online.iter().flat_map(|online| &online.concerns);
        concerns.map(|concern| format!("rollout: `{}` {concern}", concern.setting())).collect()
    }

    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        if let Some(online) = &self.online {
            files.json("online", &online.state())?;
        }
        files.json("dpo", &self.steps)?;
        Ok(self.trainer.save(files)?)
    }

    fn restore(&mut self, saved: &Saved) -> Result<(), TrainError> {
        if let Some(online) = &mut self.online {
            online.restore(saved.json("online")?)?;
        }
        self.steps = saved.json("dpo")?;
        Ok(self.trainer.restore(saved)?)
    }

    fn restore_weights(&mut self, saved: &Saved) -> Result<(), TrainError> {
        Ok(self.trainer.restore_weights(saved)?)
    }
}
