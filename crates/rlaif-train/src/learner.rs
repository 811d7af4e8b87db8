//! What every trainer here has: parameters, an optimizer, an average, and how they are saved.

use rlaif_lm::{Activations, Dropout, Forward, Layout, Parameters};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{
    checkpoints::{CheckpointFiles, Saved},
    ema::Ema,
    error::TrainError,
    microbatch::Batching,
    optimizer::{Optimizer, OptimizerConfig, OptimizerProgress, StepReport},
    trainable::{Trainable, restore_parameters},
};

/// Tokens of a packed row, unless one sequence has more: attention costs their square.
const PACKED: usize = 512;

/// How a model is trained, whatever it learns.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LearnConfig {
    /// How rows go together in a forward pass.
    pub batching: Batching,
    /// Rows of a forward pass at most; 0 for the whole optimizer batch.
    pub microbatch_size: usize,
    /// Dropout of the model's configuration, and of adapters.
    pub dropout: Dropout,
    /// Activations that the backward pass computes again: `recompute` takes less memory and a third
    /// more time.
    pub activations: Activations,
    /// Decay of a moving average of the weights, which evaluation and the result then use; 0 for
    /// none.
    pub ema_decay: f64,
    /// Which parameters are trained.
    pub trainable: Trainable,
    /// How they are updated.
    pub optimizer: OptimizerConfig,
}

impl LearnConfig {
    /// Checks every setting that needs no model to be checked.
    ///
    /// # Errors
    /// [`TrainError::Setting`] names the field.
    pub fn check(&self) -> Result<(), TrainError> {
        self.optimizer.check()?;
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
        let most = if self.microbatch_size == 0 { rows.len().max(1) } else { self.microbatch_size };
        let lengths: Vec<usize> = rows.iter().map(|row| length(row)).collect();
        let passes = self.batching.divide(&lengths, most).into_iter();
        passes.map(|pass| pass.into_iter().map(|i| rows[i]).collect()).collect()
    }

    /// The rows of each forward pass without a backward one, with their places: by length, whatever
    /// the training does.
    pub(crate) fn divide_for_evaluation<'r, R>(
        &self,
        rows: impl IntoIterator<Item = &'r R>,
        length: impl Fn(&R) -> usize,
    ) -> Vec<(Vec<usize>, Vec<&'r R>)> {
        /// Rows of a forward pass where the configuration does not say.
        const ROWS: usize = 16;
        let most = if self.microbatch_size == 0 { ROWS } else { self.microbatch_size };
        let mut rows: Vec<(usize, &R)> = rows.into_iter().enumerate().collect();
        rows.sort_by_key(|(_, row)| length(row));
        rows.chunks(most).map(|pass| pass.iter().copied().unzip()).collect()
    }
}

/// The trained parameters of one model with their optimizer and their average: what every supervised
/// trainer has, and one of your own may.
#[derive(Debug)]
pub struct Learner {
    trained: Vec<(String, Tensor)>,
    optimizer: Optimizer,
    ema: Option<Ema>,
}

impl Learner {
    /// Selects what is trained of a model, for a run of `total_steps` steps.
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

    /// How far the optimizer is.
    pub fn progress(&self) -> OptimizerProgress {
        self.optimizer.progress()
    }

    /// Runs `f` while the parameters are those of the result: the averages, if there are some.
    pub fn with_result<R>(&self, f: impl FnOnce() -> R) -> R {
        match &self.ema {
            Some(ema) => ema.with_averages(f),
            None => f(),
        }
    }

    /// Gives the parameters the weights that are the result, for good.
    pub fn finish(&mut self) {
        if let Some(ema) = self.ema.take() {
            ema.install();
        }
    }

    /// Writes everything that a later step depends on.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        files.tensors("model", &self.trained)?;
        files.tensors("optimizer", &self.optimizer.state())?;
        files.json("progress", &self.optimizer.progress())?;
        match &self.ema {
            Some(ema) => files.tensors("ema", &ema.state()),
            None => Ok(()),
        }
    }

    /// Goes on from what [`Learner::save`] wrote.
    ///
    /// # Errors
    /// [`TrainError::Torch`] or [`TrainError::BadCheckpoint`] if it is of another model or another
    /// configuration.
    pub fn restore(&mut self, saved: &Saved) -> Result<(), TrainError> {
        self.restore_weights(saved)?;
        self.optimizer.restore(&saved.tensors("optimizer")?, saved.json("progress")?)
    }

    /// Takes the parameters, and their averages, from what [`Learner::save`] wrote.
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
