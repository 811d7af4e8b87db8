//! Fitting a sequence classifier to labels.
//!
//! ```text
//! L = − Σ w_y log p(y | x) / Σ w_y      over the rows of the optimizer batch, w_y the class weights
//! ```

use rlaif_core::{Interrupted, Metrics};
use rlaif_lm::{Forward, LabelScheme, LmError, Padding, SequenceClassifier, TokenBatch};
use rlaif_torch::dist::World;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use crate::{
    accumulate,
    error::TrainError,
    learner::{LearnConfig, Learner},
    optimizer::StepReport,
    scores::{Classification, classification},
    supervised::{Supervised, check_rows, step_metrics},
};

/// A text with its label, as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassifierRow {
    /// The text, special tokens included.
    pub ids: Vec<u32>,
    /// First token of the second text of a pair; the length if there is no second text.
    pub second_start: usize,
    /// The label's index.
    pub label: usize,
}

/// Weights of the rows of each class.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeights {
    /// All rows have the same weight.
    #[default]
    Equal,
    /// All classes have the same total weight: n / (k · rows of the class), as in scikit-learn.
    Balanced,
    /// One weight for each label.
    Given(Vec<f64>),
}

impl ClassWeights {
    /// The weight of each of `labels` labels.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for weights that do not fit, [`TrainError::Data`] for a label
    /// without a row, which cannot be balanced.
    ///
    /// ```
    /// use rlaif_train::{ClassWeights, ClassifierRow};
    /// let row = |label| ClassifierRow { ids: vec![1], second_start: 1, label };
    /// let rows = [row(0), row(0), row(0), row(1)];
    /// let weights = ClassWeights::Balanced.resolve(&rows, 2)?;
    /// assert_eq!(weights, [4. / 6., 2.]);
    /// # Ok::<(), rlaif_train::TrainError>(())
    /// ```
    pub fn resolve(&self, rows: &[ClassifierRow], labels: usize) -> Result<Vec<f64>, TrainError> {
        match self {
            Self::Equal => Ok(vec![1.; labels]),
            Self::Balanced => (0..labels)
                .map(|label| match rows.iter().filter(|row| row.label == label).count() {
                    0 => Err(TrainError::Data {
                        what: "class weights".to_owned(),
                        problem: format!("no row has label {label}, so it cannot be balanced"),
                    }),
                    count => Ok(rows.len() as f64 / (labels * count) as f64),
                })
                .collect(),
            Self::Given(weights) => {
                let good = weights.iter().all(|w| w.is_finite() && *w > 0.);
                if weights.len() == labels && good {
                    return Ok(weights.clone());
                }
                let found = format!("{weights:?}");
                let expected = "one positive number for each label of the classifier";
                Err(TrainError::setting("class_weights", found, expected))
            }
        }
    }
}

/// Fits a classifier with mutually exclusive labels.
///
/// ```
/// use rlaif_lm::SequenceClassifier;
/// use rlaif_models::{Classifier, Config};
/// use rlaif_train::{ClassifierRow, ClassifierTrainer, LearnConfig, OptimizerConfig};
/// use tch::{Device, Kind};
/// let config = Config::from_value(serde_json::json!({
///     "model_type": "roberta", "architectures": ["RobertaForSequenceClassification"],
///     "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
///     "num_attention_heads": 2, "max_position_embeddings": 34, "type_vocab_size": 1,
///     "pad_token_id": 1, "id2label": { "0": "nothate", "1": "hate" },
/// }));
/// tch::manual_seed(7);
/// let classifier = Classifier::random(config, Kind::Float, Device::Cpu)?;
/// let row = |ids: &[u32], label| ClassifierRow { ids: ids.into(), second_start: ids.len(), label };
/// let rows = [row(&[0, 5, 6, 2], 0), row(&[0, 9, 2], 1)];
/// let optimizer = OptimizerConfig { lr: 1e-2, ..OptimizerConfig::default() };
/// let config = LearnConfig { optimizer, ..LearnConfig::default() };
/// let mut trainer = ClassifierTrainer::new(&classifier, &config, vec![1., 1.], 20)?;
/// for _ in 0..20 {
///     trainer.step(&[&rows[0], &rows[1]])?;
/// }
/// assert_eq!(trainer.evaluate(&rows)?.accuracy, 1.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ClassifierTrainer<'m> {
    model: &'m dyn SequenceClassifier,
    config: LearnConfig,
    weights: Vec<f64>,
    learner: Learner,
}

impl std::fmt::Debug for ClassifierTrainer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClassifierTrainer")
            .field("config", &self.config)
            .field("weights", &self.weights)
            .field("progress", &self.learner.progress())
            .finish_non_exhaustive()
    }
}

/// Numbers of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifierStats {
    /// The weighted mean of −log p before the step, in nats.
    pub loss: f64,
    /// Tokens read.
    pub tokens: u64,
    /// The optimizer's report.
    pub optimizer: StepReport,
}

impl<'m> ClassifierTrainer<'m> {
    /// A trainer for a run of `total_steps` optimizer steps, with one weight for each label.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a classifier with one label or independent ones, and for
    /// weights that do not fit; [`TrainError::NothingTrained`].
    pub fn new(
        model: &'m dyn SequenceClassifier,
        config: &LearnConfig,
        weights: Vec<f64>,
        total_steps: u64,
    ) -> Result<Self, TrainError> {
        check_for_classifier(config)?;
        let labels = model.labels().len();
        if labels < 2 || model.scheme() != LabelScheme::Exclusive {
            let expected = "at least two labels that exclude each other; a model with one label is \
                            fitted to preferences";
            return Err(TrainError::setting("labels", labels, expected));
        }
        let weights = ClassWeights::Given(weights).resolve(&[], labels)?;
        let learner = Learner::new(model.parameters(), config, total_steps)?;
        Ok(Self { model, config: config.clone(), weights, learner })
    }

    /// One optimizer step on the weighted mean over `rows`.
    ///
    /// # Errors
    /// [`TrainError::Data`] for an unknown label, or for no rows; [`TrainError::Lm`] for rows that
    /// the model cannot take, [`TrainError::NonFinite`].
    pub fn step(&mut self, rows: &[&ClassifierRow]) -> Result<ClassifierStats, TrainError> {
        check_labels(rows.iter().copied(), self.weights.len())?;
        let total: f64 = rows.iter().map(|row| self.weights[row.label]).sum();
        let forward = self.config.training();
        let weights = Tensor::from_slice(&self.weights)
            .to_kind(Kind::Float)
            .to_device(self.model.spec().device);
        let world = self.learner.world().clone();
        let passes = self.config.divide(&rows[world.share(rows.len())], |row| row.ids.len());
        let loss = accumulate(passes, total, |rows| {
            let logits = logits(self.model, &rows, forward)?;
            let labels = labels(&rows, self.model);
            // Reduction 2: the sum.
            let sum = logits.cross_entropy_loss::<&Tensor>(
                &labels,
                Some(&weights),
                tch::Reduction::Sum,
                -100,
                0.,
            );
            Ok::<_, TrainError>(sum)
        })?;
        let optimizer = self.learner.step()?;
        let tokens = rows.iter().map(|row| row.ids.len() as u64).sum();
        let mut loss = [loss.double_value(&[])];
        world.sum(&mut loss)?;
        Ok(ClassifierStats { loss: loss[0], tokens, optimizer })
    }

    /// Measures the classifier on labelled rows, without dropout and without class weights.
    ///
    /// # Errors
    /// As [`ClassifierTrainer::step`].
    pub fn evaluate(&self, rows: &[ClassifierRow]) -> Result<Classification, TrainError> {
        check_labels(rows, self.weights.len())?;
        let probabilities = self.learner.with_result(|| self.probabilities(rows))?;
        let labels: Vec<usize> = rows.iter().map(|row| row.label).collect();
        Ok(classification(&probabilities, &labels))
    }

    fn probabilities(&self, rows: &[ClassifierRow]) -> Result<Vec<Vec<f64>>, TrainError> {
        let world = self.learner.world();
        let rows = &rows[world.share(rows.len())];
        let mut all = vec![Vec::new(); rows.len()];
        for (places, rows) in self.config.divide_for_evaluation(rows, |row| row.ids.len()) {
            Interrupted::check().map_err(LmError::from)?;
            let logits = no_grad(|| logits(self.model, &rows, Forward::default()))?;
            let probabilities = self.model.scheme().probabilities(&logits).to_kind(Kind::Double);
            let probabilities = Vec::<Vec<f64>>::try_from(probabilities)?;
            for (place, row) in places.into_iter().zip(probabilities) {
                all[place] = row;
            }
        }
        let all = world.gather_numbers(all.concat())?;
        Ok(all.chunks(self.weights.len()).map(<[f64]>::to_vec).collect())
    }
}

/// Packed rows need attention restricted to each sequence, which the trunks of classifiers do not
/// support. As in transformers, classifiers have no auxiliary loss.
pub(crate) fn check_for_classifier(config: &LearnConfig) -> Result<(), TrainError> {
    if config.batching == crate::Batching::Packed {
        let expected = "padded or length, for a classifier";
        return Err(TrainError::setting("batching", "packed", expected));
    }
    if config.router_aux_loss_coef != 0. {
        let (found, expected) = (config.router_aux_loss_coef, "0, for a classifier");
        return Err(TrainError::setting("router_aux_loss_coef", found, expected));
    }
    Ok(())
}

fn check_labels<'r>(
    rows: impl IntoIterator<Item = &'r ClassifierRow>,
    labels: usize,
) -> Result<(), TrainError> {
    check_rows(rows, |row| {
        (row.label >= labels).then(|| {
            format!("label {} is not one of the classifier's {labels}, counted from 0", row.label)
        })
    })
}

fn logits(
    model: &dyn SequenceClassifier,
    rows: &[&ClassifierRow],
    forward: Forward<'_>,
) -> Result<Tensor, TrainError> {
    let ids = rows.iter().map(|row| row.ids.clone()).collect();
    let batch = TokenBatch::collate(ids, model.spec(), Padding::Right)?;
    let starts: Vec<usize> = rows.iter().map(|row| row.second_start).collect();
    Ok(model.logits(&batch, Some(&starts), forward)?.to_kind(Kind::Float))
}

fn labels(rows: &[&ClassifierRow], model: &dyn SequenceClassifier) -> Tensor {
    let labels: Vec<i64> = rows.iter().map(|row| row.label as i64).collect();
    Tensor::from_slice(&labels).to_device(model.spec().device)
}

impl Supervised for ClassifierTrainer<'_> {
    type Row = ClassifierRow;

    fn join(&mut self, world: &World) -> Result<(), TrainError> {
        self.learner.join(world, self.model.parameters())
    }

    fn learner(&self) -> &Learner {
        &self.learner
    }

    fn learner_mut(&mut self) -> &mut Learner {
        &mut self.learner
    }

    fn learn(&mut self, rows: &[&ClassifierRow]) -> Result<Metrics, TrainError> {
        let stats = self.step(rows)?;
        Ok(step_metrics([("loss", stats.loss)], stats.tokens, &stats.optimizer))
    }

    fn measure(&self, rows: &[ClassifierRow]) -> Result<Metrics, TrainError> {
        let scores = self.evaluate(rows)?;
        let numbers = [
            ("eval/loss", scores.loss),
            ("eval/accuracy", scores.accuracy),
            ("eval/f1", scores.f1),
            ("eval/auc", scores.auc),
            ("eval/calibration_error", scores.calibration_error),
        ];
        Ok(numbers.into_iter().collect())
    }
}
