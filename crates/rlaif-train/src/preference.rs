//! Fitting a preference model: a scalar score that is higher for the preferred response.
//!
//! Bradley and Terry 1952, as in [Ouyang et al. 2022](https://arxiv.org/abs/2203.02155), eq. 1;
//! margins as in [Touvron et al. 2023](https://arxiv.org/abs/2307.09288), eq. 2; centring as in
//! [Eisenstein et al. 2023](https://arxiv.org/abs/2312.09244). With d = r(x, y_w) − r(x, y_l) − m:
//!
//! ```text
//! ℓ = − q log σ(d) − (1 − q) log σ(−d) + c (r(x, y_w) + r(x, y_l))²
//! ```

use rlaif_core::{Interrupted, Metrics, stats::wilson};
use rlaif_lm::{Forward, LmError, Padding, SequenceClassifier, TokenBatch};
use rlaif_torch::dist::World;
use tch::{Kind, Tensor, no_grad};

use crate::{
    accumulate,
    classifier::check_for_classifier,
    error::TrainError,
    learner::{LearnConfig, Learner},
    optimizer::StepReport,
    supervised::{Supervised, check_rows, step_metrics},
};

/// A preference, as token ids: prompt and response together, special tokens included.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferenceRow {
    /// Prompt and preferred response.
    pub chosen: Vec<u32>,
    /// Prompt and the other response.
    pub rejected: Vec<u32>,
    /// m, the required difference of scores; 0 for none.
    pub margin: f64,
    /// q, the probability that `chosen` is the better response: 1 for a plain preference, less for
    /// a soft label.
    pub probability: f64,
}

impl PreferenceRow {
    /// A plain preference.
    pub fn new(chosen: Vec<u32>, rejected: Vec<u32>) -> Self {
        Self { chosen, rejected, margin: 0., probability: 1. }
    }
}

/// Evaluation of a preference model on pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreferenceEvaluation {
    /// Mean of ℓ without centring, in nats.
    pub loss: f64,
    /// Share of pairs whose chosen response scores higher; equal scores count as wrong.
    pub accuracy: f64,
    /// Mean of r(x, y_w) − r(x, y_l).
    pub margin: f64,
    /// Mean of all scores.
    pub mean_score: f64,
    /// Number of pairs.
    pub pairs: usize,
}

impl PreferenceEvaluation {
    /// The 95 % interval of [Wilson 1927](https://doi.org/10.1080/01621459.1927.10502953) for the
    /// accuracy on the population of pairs.
    ///
    /// ```
    /// use rlaif_train::PreferenceEvaluation;
    /// let evaluation = PreferenceEvaluation {
    ///     loss: 0.6, accuracy: 0.6, margin: 0.2, mean_score: 0., pairs: 100,
    /// };
    /// let (low, high) = evaluation.accuracy_interval();
    /// assert!((low - 0.5020).abs() < 1e-4 && (high - 0.6906).abs() < 1e-4);
    /// ```
    #[must_use]
    pub fn accuracy_interval(&self) -> (f64, f64) {
        wilson(self.accuracy, self.pairs)
    }
}

/// Fits a model with one label to preferences.
///
/// ```
/// use rlaif_models::{Classifier, Config};
/// use rlaif_train::{LearnConfig, OptimizerConfig, PreferenceRow, PreferenceTrainer};
/// use tch::{Device, Kind};
/// let config = Config::from_value(serde_json::json!({
///     "model_type": "llama", "architectures": ["LlamaForSequenceClassification"],
///     "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
///     "num_attention_heads": 2, "max_position_embeddings": 34, "pad_token_id": 0,
///     "num_labels": 1, "id2label": { "0": "reward" },
/// }));
/// tch::manual_seed(7);
/// let model = Classifier::random(config, Kind::Float, Device::Cpu)?;
/// let rows = [PreferenceRow::new(vec![5, 6, 2], vec![5, 9]), PreferenceRow::new(vec![7, 6], vec![7, 9])];
/// let optimizer = OptimizerConfig { lr: 1e-2, ..OptimizerConfig::default() };
/// let config = LearnConfig { optimizer, ..LearnConfig::default() };
/// let mut trainer = PreferenceTrainer::new(&model, &config, 0.01, 20)?;
/// for _ in 0..20 {
///     trainer.step(&[&rows[0], &rows[1]])?;
/// }
/// assert_eq!(trainer.evaluate(&rows)?.accuracy, 1.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PreferenceTrainer<'m> {
    model: &'m dyn SequenceClassifier,
    config: LearnConfig,
    centring: f64,
    learner: Learner,
}

impl std::fmt::Debug for PreferenceTrainer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreferenceTrainer")
            .field("config", &self.config)
            .field("centring", &self.centring)
            .field("progress", &self.learner.progress())
            .finish_non_exhaustive()
    }
}

/// Numbers of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferenceStats {
    /// The pairs of the step, evaluated before it.
    pub batch: PreferenceEvaluation,
    /// Mean of ℓ with centring before the step, in nats.
    pub loss: f64,
    /// Tokens read.
    pub tokens: u64,
    /// The optimizer's report.
    pub optimizer: StepReport,
}

impl<'m> PreferenceTrainer<'m> {
    /// A trainer for a run of `total_steps` optimizer steps, with centring coefficient c (0 to
    /// disable it; 0.01 is common).
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a model with several labels, or a setting out of range;
    /// [`TrainError::NothingTrained`].
    pub fn new(
        model: &'m dyn SequenceClassifier,
        config: &LearnConfig,
        centring: f64,
        total_steps: u64,
    ) -> Result<Self, TrainError> {
        check_for_classifier(config)?;
        if model.labels().len() != 1 {
            let expected = "one label: a preference model gives one score";
            return Err(TrainError::setting("labels", model.labels().len(), expected));
        }
        if !(centring.is_finite() && centring >= 0.) {
            let expected = "a finite number of at least 0";
            return Err(TrainError::setting("centring", centring, expected));
        }
        let learner = Learner::new(model.parameters(), config, total_steps)?;
        Ok(Self { model, config: config.clone(), centring, learner })
    }

    /// One optimizer step on the mean over the pairs of `rows`.
    ///
    /// # Errors
    /// [`TrainError::Data`] for a row that is not a preference, or for no rows; [`TrainError::Lm`]
    /// for rows that the model cannot take, [`TrainError::NonFinite`].
    pub fn step(&mut self, rows: &[&PreferenceRow]) -> Result<PreferenceStats, TrainError> {
        check(rows.iter().copied())?;
        let forward = self.config.training();
        let world = self.learner.world().clone();
        let mut outcomes = Vec::new();
        let passes = self.config.divide(&rows[world.share(rows.len())], longer);
        let loss = accumulate(passes, rows.len() as f64, |rows| {
            let (chosen, rejected) = scores_of(self.model, &rows, forward)?;
            let mut loss = pair_losses(&chosen, &rejected, &rows);
            // A copy, because the loss is changed in place.
            outcomes.push([loss.detach().copy(), chosen.detach(), rejected.detach()]);
            if self.centring > 0. {
                loss += (&chosen + &rejected).square() * self.centring;
            }
            Ok::<_, TrainError>(loss.sum(Kind::Float))
        })?;
        let optimizer = self.learner.step()?;
        let tokens = rows.iter().map(|row| (row.chosen.len() + row.rejected.len()) as u64).sum();
        let mut loss = [loss.double_value(&[])];
        world.sum(&mut loss)?;
        Ok(PreferenceStats { batch: summary(&outcomes, &world)?, loss: loss[0], tokens, optimizer })
    }

    /// Evaluates the model on `rows`, without dropout.
    ///
    /// # Errors
    /// As [`PreferenceTrainer::step`].
    pub fn evaluate(&self, rows: &[PreferenceRow]) -> Result<PreferenceEvaluation, TrainError> {
        check(rows)?;
        let world = self.learner.world();
        self.learner.with_result(|| {
            let passes = self.config.divide_for_evaluation(&rows[world.share(rows.len())], longer);
            let outcomes = passes.into_iter().map(|(_, rows)| {
                Interrupted::check().map_err(LmError::from)?;
                no_grad(|| {
                    let (chosen, rejected) = scores_of(self.model, &rows, Forward::default())?;
                    Ok::<_, TrainError>([pair_losses(&chosen, &rejected, &rows), chosen, rejected])
                })
            });
            summary(&outcomes.collect::<Result<Vec<_>, _>>()?, world)
        })
    }
}

fn longer(row: &PreferenceRow) -> usize {
    row.chosen.len().max(row.rejected.len())
}

fn check<'r>(rows: impl IntoIterator<Item = &'r PreferenceRow>) -> Result<(), TrainError> {
    check_rows(rows, |PreferenceRow { margin, probability, .. }| {
        (!margin.is_finite() || !(0. ..=1.).contains(probability)).then(|| {
            format!(
                "margin {margin} and probability {probability}; expected a finite margin and a \
                 probability from 0 to 1"
            )
        })
    })
}

/// Scores of the chosen and of the rejected responses, f32 `[B]` each, from one forward pass.
fn scores_of(
    model: &dyn SequenceClassifier,
    rows: &[&PreferenceRow],
    forward: Forward<'_>,
) -> Result<(Tensor, Tensor), TrainError> {
    let chosen = rows.iter().map(|row| row.chosen.clone());
    let ids = chosen.chain(rows.iter().map(|row| row.rejected.clone())).collect();
    let batch = TokenBatch::collate(ids, model.spec(), Padding::Right)?;
    let scores = model.logits(&batch, None, forward)?.to_kind(Kind::Float).squeeze_dim(-1);
    let n = rows.len() as i64;
    Ok((scores.narrow(0, 0, n), scores.narrow(0, n, n)))
}

/// ℓ of each pair without centring, `[B]`.
fn pair_losses(chosen: &Tensor, rejected: &Tensor, rows: &[&PreferenceRow]) -> Tensor {
    let column = |of: fn(&PreferenceRow) -> f64| {
        let values: Vec<f64> = rows.iter().map(|row| of(row)).collect();
        Tensor::from_slice(&values).to_kind(Kind::Float).to_device(chosen.device())
    };
    let d = chosen - rejected - column(|row| row.margin);
    let q = column(|row| row.probability);
    let better = &q * d.log_sigmoid();
    let worse: Tensor = (1. - &q) * (-&d).log_sigmoid();
    -(better + worse)
}

/// The evaluation of all ranks' pairs, from losses and both scores of this rank's.
fn summary(outcomes: &[[Tensor; 3]], world: &World) -> Result<PreferenceEvaluation, TrainError> {
    let column = |at: usize| -> Result<Vec<f64>, TrainError> {
        let own: Vec<Tensor> = outcomes.iter().map(|of| of[at].to_kind(Kind::Double)).collect();
        let own = if own.is_empty() { Vec::new() } else { Tensor::cat(&own, 0).try_into()? };
        Ok(world.gather_numbers(own)?)
    };
    let (losses, chosen, rejected) = (column(0)?, column(1)?, column(2)?);
    let pairs = losses.len();
    let n = pairs as f64;
    let right = chosen.iter().zip(&rejected).filter(|(c, r)| c > r).count();
    let (sum_chosen, sum_rejected) = (chosen.iter().sum::<f64>(), rejected.iter().sum::<f64>());
    Ok(PreferenceEvaluation {
        loss: losses.iter().sum::<f64>() / n,
        accuracy: right as f64 / n,
        margin: (sum_chosen - sum_rejected) / n,
        mean_score: (sum_chosen + sum_rejected) / (2. * n),
        pairs,
    })
}

impl Supervised for PreferenceTrainer<'_> {
    type Row = PreferenceRow;

    fn join(&mut self, world: &World) -> Result<(), TrainError> {
        self.learner.join(world, self.model.parameters())
    }

    fn learner(&self) -> &Learner {
        &self.learner
    }

    fn learner_mut(&mut self) -> &mut Learner {
        &mut self.learner
    }

    fn learn(&mut self, rows: &[&PreferenceRow]) -> Result<Metrics, TrainError> {
        let stats = self.step(rows)?;
        let numbers = [
            ("loss", stats.loss),
            ("rewards/accuracies", stats.batch.accuracy),
            ("rewards/margins", stats.batch.margin),
            ("rewards/mean", stats.batch.mean_score),
        ];
        Ok(step_metrics(numbers, stats.tokens, &stats.optimizer))
    }

    fn measure(&self, rows: &[PreferenceRow]) -> Result<Metrics, TrainError> {
        let evaluation = self.evaluate(rows)?;
        let (low, high) = evaluation.accuracy_interval();
        let numbers = [
            ("eval/loss", evaluation.loss),
            ("eval/accuracy", evaluation.accuracy),
            ("eval/accuracy_low", low),
            ("eval/accuracy_high", high),
            ("eval/margin", evaluation.margin),
            ("eval/mean_score", evaluation.mean_score),
        ];
        Ok(numbers.into_iter().collect())
    }
}
