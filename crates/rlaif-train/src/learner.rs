//! The common parts of all trainers: parameters, optimizer, weight average, and their checkpoints.

use rlaif_lm::{Activations, Dropout, Forward, Layout, Parameters, RouterLoss};
use rlaif_torch::dist::World;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{
    checkpoints::{CheckpointFiles, Saved},
    ema::Ema,
    error::TrainError,
    microbatch::{Batching, rows_of_pass},
    optimizer::{Optimizer, OptimizerConfig, OptimizerProgress, StepReport},
    ranks::same_weights,
    trainable::{Trainable, restore_parameters},
};

/// Tokens per packed row, if no sequence is longer: the cost of attention grows with their square.
const PACKED: usize = 512;

/// Training settings common to all objectives.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LearnConfig {
    /// Grouping of rows into forward passes.
    pub batching: Batching,
    /// Maximum number of rows per forward pass; 0 for the whole optimizer batch.
    pub microbatch_size: usize,
    /// Use of dropout in the model and its adapters.
    pub dropout: Dropout,
    /// Gradient checkpointing: `recompute` needs less memory and a third more time.
    pub activations: Activations,
    /// Decay of an exponential moving average of the weights, for evaluation and the result; 0 to
    /// disable it.
    pub ema_decay: f64,
    /// In fine-tuning of models with experts, the coefficient of the loss that spreads tokens over experts
    /// (config.json's field of this name is not used); 0 to disable it.
    pub router_aux_loss_coef: f64,
    /// The trained parameters.
    pub trainable: Trainable,
    /// The optimizer's settings.
    pub optimizer: OptimizerConfig,
}

impl LearnConfig {
    /// Checks every setting that can be checked without a model.
    ///
    /// # Errors
    /// [`TrainError::Setting`] names the field.
    pub fn check(&self) -> Result<(), TrainError> {
        self.optimizer.check()?;
        RouterLoss::check(self.router_aux_loss_coef)?;
        Ema::check(self.ema_decay)
    }

    /// The forward pass of a training step.
    pub(crate) fn training(&self) -> Forward<'static> {
        Forward {
            dropout: self.dropout,
            activations: self.activations,
            layout: match self.batching {
                Batching::Packed => Layout::Packed(PACKED),
                Batching::Padded | Batching::Length => Layout::Padded,
            },
            ..Forward::default()
        }
    }

    /// The rows of each forward pass.
    pub(crate) fn divide<'r, R>(
        &self,
        rows: &[&'r R],
        length: impl Fn(&R) -> usize,
    ) -> Vec<Vec<&'r R>> {
        let most = rows_of_pass(self.microbatch_size, rows.len().max(1));
        let lengths: Vec<usize> = rows.iter().map(|row| length(row)).collect();
        let passes = self.batching.divide(&lengths, most).into_iter();
        passes.map(|pass| pass.into_iter().map(|i| rows[i]).collect()).collect()
    }

    /// The rows of each forward pass in evaluation, with their indices: by length, regardless of
    /// the setting for training.
    pub(crate) fn divide_for_evaluation<'r, R>(
        &self,
        rows: impl IntoIterator<Item = &'r R>,
        length: impl Fn(&R) -> usize,
    ) -> Vec<(Vec<usize>, Vec<&'r R>)> {
        /// The default number of rows per forward pass.
        const ROWS: usize = 16;
        let most = rows_of_pass(self.microbatch_size, ROWS);
        let mut rows: Vec<(usize, &R)> = rows.into_iter().enumerate().collect();
        rows.sort_by_key(|(_, row)| length(row));
        rows.chunks(most).map(|pass| pass.iter().copied().unzip()).collect()
    }
}

/// The trained parameters of one model with their optimizer and their average, for every supervised
/// trainer, including custom ones.
#[derive(Debug)]
pub struct Learner {
    trained: Vec<(String, Tensor)>,
    optimizer: Optimizer,
    ema: Option<Ema>,
}

impl Learner {
    /// Selects the trained parameters of a model, for a run of `total_steps` steps.
    ///
    /// # Errors
    /// [`TrainError::Setting`], [`TrainError::NothingTrained`].
    pub fn new(
        parameters: &Parameters,
        config: &LearnConfig,
        total_steps: u64,
    ) -> Result<Self, TrainError> {
        let trained = config.trainable.select(parameters)?;
        let handles = trained.iter().map(|(name, t)| (name.clone(), t.shallow_clone())).collect();
        let optimizer = Optimizer::new(handles, &config.optimizer, total_steps)?;
        let ema = match config.ema_decay {
            0. => None,
            decay => Some(Ema::new(&trained, decay)?),
        };
        Ok(Self { trained, optimizer, ema })
    }

    /// Updates the parameters by their gradients, which are then cleared.
    ///
    /// # Errors
    /// [`TrainError::NonFinite`], [`TrainError::Torch`].
    pub fn step(&mut self) -> Result<StepReport, TrainError> {
        let report = self.optimizer.step()?;
        if let Some(ema) = &mut self.ema {
            ema.update();
        }
        Ok(report)
    }

    /// Trains together with the other ranks, from the same weights: `parameters` are all that the model has.
    ///
    /// # Errors
    /// [`TrainError::Torch`] if the weights of a rank differ.
    pub fn join(&mut self, world: &World, parameters: &Parameters) -> Result<(), TrainError> {
        if self.world().is_alone() {
            same_weights(world, parameters)?;
        }
        self.optimizer.join(world);
        Ok(())
    }

    /// The processes that train together.
    pub fn world(&self) -> &World {
        self.optimizer.world()
    }

    /// Progress of the optimizer.
    pub fn progress(&self) -> OptimizerProgress {
        self.optimizer.progress()
    }

    /// Runs `f` with the weights of the result: the averages, if there are any.
    pub fn with_result<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.ema {
            Some(ema) => ema.with_averages(f),
            None => f(),
        }
    }

    /// Sets the parameters to the weights of the result, permanently.
    pub fn finish(&mut self) {
        if let Some(ema) = self.ema.take() {
            ema.install();
        }
    }

    /// Writes all state that a later step depends on.
    ///
    /// # Errors
    /// Errors of writing.
    pub fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        files.tensors("model", &self.trained)?;
        files.tensors("optimizer", &self.optimizer.state())?;
        files.json("progress", &self.optimizer.progress())?;
        match &self.ema {
            Some(ema) => files.tensors("ema", &ema.state()),
            None => Ok(()),
        }
    }

    /// Continues from the state that [`Learner::save`] wrote.
    ///
    /// [`TrainError::Torch`] or [`TrainError::BadCheckpoint`] if the state belongs to another model
    /// or another configuration.
    /// configuration.
    pub fn restore(&mut self, saved: &Saved) -> Result<(), TrainError> {
        self.restore_weights(saved)?;
        self.optimizer.restore(&saved.tensors("optimizer")?, saved.json("progress")?)
    }

    /// Takes the parameters and their averages from the state that [`Learner::save`] wrote.
    ///
    /// # Errors
    /// As [`Learner::restore`].
    pub fn restore_weights(&mut self, saved: &Saved) -> Result<(), TrainError> {
        restore_parameters(&self.trained, &saved.tensors("model")?, "the model")?;
        match &mut self.ema {
            Some(ema) => ema.restore(&saved.tensors("ema")?),
            None => Ok(()),
        }
    }
}
