//! Preference training as the loop that trainings share takes it.

use std::path::Path;

use rlaif_core::{Metrics, PromptRecord, RewardModel, Seed, TextCodec, undone_if_interrupted};
use rlaif_lm::Policy;
use rlaif_train::{CheckpointFiles, Fit, Saved, Stepped, TrainError};

use crate::{
    config::ReferenceConfig,
    error::DpoError,
    evaluate::PairEvaluation,
    online::OnlineConfig,
    reference::ReferenceSums,
    responses::ResponseEvaluation,
    rows::{PairRow, ResponseRow},
    trainer::DpoTrainer,
};

/// Rows to evaluate on; without rows, there is no evaluation.
#[derive(Debug)]
pub enum HeldOutRows {
    /// Pairs.
    Pairs(Vec<PairRow>),
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
    Pairs(Vec<PairRow>),
    /// Single responses.
    Responses(Vec<ResponseRow>),
    /// Prompts that the policy answers itself.
    Prompts(Vec<PromptRecord>),
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
    codec: &'a dyn TextCodec,
    reward: &'a dyn RewardModel,
    sampling: &'a OnlineConfig,
    seed: Seed,
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
            _ => None,
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

    /// Has `reward` pick between two responses of the policy's.
    #[must_use]
    pub fn online(
        mut self,
        codec: &'a dyn TextCodec,
        reward: &'a dyn RewardModel,
        sampling: &'a OnlineConfig,
        seed: Seed,
    ) -> Self {
        self.online = Some(Online { codec, reward, sampling, seed });
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

    fn sampled_step(&mut self, rows: &[usize]) -> Result<Metrics, TrainError> {
        let (Some(online), TrainRows::Prompts(prompts)) = (&self.online, &self.train) else {
            return Err(TrainError::Data {
                what: "online DPO".to_owned(),
                problem: "there are prompts but no reward to pick between responses".to_owned(),
            });
        };
        let prompts: Vec<PromptRecord> = rows.iter().map(|&row| prompts[row].clone()).collect();
        let Online { codec, reward, sampling, seed } = *online;
        let batch = undone_if_interrupted(reward, || {
            self.trainer.sample_pairs(&prompts, codec, reward, sampling, seed, self.steps)
        })?;
        let pairs: Vec<&PairRow> = batch.rows.iter().collect();
        let mut metrics = if pairs.is_empty() {
            Metrics::new()
        } else {
            self.trainer.update_pairs(&pairs, None)?.metrics()
        };
        let report = batch.report;
        metrics.set("online/score", report.mean_score);
        metrics.set("online/pairs", report.pairs as f64);
        metrics.set("online/identical", report.identical as f64);
        metrics.set("online/ties", report.ties as f64);
        metrics.set("online/unscored", report.unscored as f64);
        metrics.set("online/length", report.mean_length);
        metrics.set("online/finished", report.finished);
        for (name, value) in reward.metrics() {
            metrics.set(format!("online/{name}"), value);
        }
        Ok(metrics)
    }
}

impl<P: Policy> Fit for DpoTask<'_, P> {
    fn step(&mut self, rows: &[usize]) -> Result<Stepped, TrainError> {
        let given: Option<Vec<[f32; 2]>> =
            self.train_sums.as_ref().map(|sums| rows.iter().map(|&row| sums.rows()[row]).collect());
        let metrics = match &self.train {
            TrainRows::Pairs(all) => {
                let batch: Vec<&PairRow> = rows.iter().map(|&row| &all[row]).collect();
                self.trainer.update_pairs(&batch, given.as_deref())?.metrics()
            }
            TrainRows::Responses(all) => {
                let batch: Vec<&ResponseRow> = rows.iter().map(|&row| &all[row]).collect();
                self.trainer.update_responses(&batch, given.as_deref())?.metrics()
            }
            TrainRows::Prompts(_) => self.sampled_step(rows)?,
        };
        self.steps += 1;
        Ok(metrics.into())
    }

    fn evaluate(&mut self) -> Result<Option<Metrics>, TrainError> {
        Ok(self.evaluation()?.map(|evaluation| evaluation.metrics()))
    }

    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        if let Some(online) = &self.online {
            files.json("reward", &online.reward.state())?;
        }
        files.json("dpo", &self.steps)?;
        Ok(self.trainer.save(files)?)
    }

    fn restore(&mut self, saved: &Saved) -> Result<(), TrainError> {
        if let Some(online) = &self.online {
            let state: serde_json::Value = saved.json("reward")?;
            online.reward.restore(&state).map_err(DpoError::from)?;
        }
        self.steps = saved.json("dpo")?;
        Ok(self.trainer.restore(saved)?)
    }

    fn restore_weights(&mut self, saved: &Saved) -> Result<(), TrainError> {
        Ok(self.trainer.restore_weights(saved)?)
    }
}
