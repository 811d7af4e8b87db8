//! Supervised fine-tuning: the policy learns to produce the given responses.
//!
//! ```text
//! L = − (1/n) Σ log π(y_t | x, y_<t)      over the n learned response tokens of the optimizer batch
//! ```
//!
//! In models with experts, `router_aux_loss_coef` times the loss of [`rlaif_lm::RouterLoss`] is added, that of a
//! forward pass with the share of its learned tokens in the batch.

use rlaif_core::{Interrupted, Metrics};
use rlaif_lm::{Forward, LmError, Padding, Policy, RouterLoss, TokenBatch, token_log_probs};
use rlaif_torch::dist::World;
use tch::{Kind, Tensor, no_grad};

use crate::{
    accumulate,
    error::TrainError,
    learner::{LearnConfig, Learner},
    microbatch::Batching,
    optimizer::StepReport,
    supervised::{Supervised, step_metrics},
};

/// A prompt and a response to learn, as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SftRow {
    /// The prompt x, at least one token. For a conversation, everything before the first learned
    /// token.
    pub prompt: Vec<u32>,
    /// The response y, with its end-of-sequence token.
    pub response: Vec<u32>,
    /// One flag per response token, `true` if it is learned; `None` if all are. Tokens that are not
    /// learned (a user's later turns) are read all the same.
    pub learned: Option<Vec<bool>>,
}

impl SftRow {
    /// A row whose whole response is learned.
    pub fn new(prompt: Vec<u32>, response: Vec<u32>) -> Self {
        Self { prompt, response, learned: None }
    }

    /// Total number of tokens.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.response.len()
    }

    /// `true` without tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of learned tokens.
    pub fn learned_tokens(&self) -> usize {
        match &self.learned {
            Some(learned) => learned.iter().filter(|l| **l).count(),
            None => self.response.len(),
        }
    }
}

/// Evaluation of a policy on held-out rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SftEvaluation {
    /// Mean of −log π over the learned tokens, in nats.
    pub loss: f64,
    /// Number of learned tokens.
    pub tokens: u64,
}

impl SftEvaluation {
    /// exp(loss).
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Fine-tunes a policy, decoder-only or encoder-decoder.
///
/// ```
/// use rlaif_lm::Policy;
/// use rlaif_models::{Config, LanguageModel};
/// use rlaif_train::{OptimizerConfig, LearnConfig, SftRow, SftTrainer};
/// use tch::{Device, Kind};
/// let config = Config::from_value(serde_json::json!({
///     "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
///     "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
/// }));
/// tch::manual_seed(7);
/// let policy = LanguageModel::random(config, Kind::Float, Device::Cpu)?;
/// let rows = [SftRow::new(vec![5, 6], vec![7, 8, 1]), SftRow::new(vec![9], vec![3, 1])];
/// let optimizer = OptimizerConfig { lr: 1e-2, ..OptimizerConfig::default() };
/// let config = LearnConfig { optimizer, ..LearnConfig::default() };
/// let mut trainer = SftTrainer::new(&policy, &config, 30)?;
/// let before = trainer.evaluate(&rows)?.loss;
/// for _ in 0..30 {
///     trainer.step(&[&rows[0], &rows[1]])?;
/// }
/// assert!(trainer.evaluate(&rows)?.loss < before / 2.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SftTrainer<'p> {
    policy: &'p dyn Policy,
    config: LearnConfig,
    learner: Learner,
}

impl std::fmt::Debug for SftTrainer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SftTrainer")
            .field("config", &self.config)
            .field("progress", &self.learner.progress())
            .finish_non_exhaustive()
    }
}

/// Numbers of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct SftStats {
    /// Mean of −log π over the learned tokens before the step, in nats.
    pub loss: f64,
    /// The routers' auxiliary loss before the step, without its coefficient; `None` if it is disabled.
    pub router_aux_loss: Option<f64>,
    /// Number of learned tokens.
    pub learned: u64,
    /// Number of tokens read, prompts included.
    pub tokens: u64,
    /// The optimizer's report.
    pub optimizer: StepReport,
}

impl<'p> SftTrainer<'p> {
    /// A trainer for a run of `total_steps` optimizer steps. Parameters that are not trained are
    /// frozen.
    ///
    /// # Errors
    /// [`TrainError::Setting`], [`TrainError::NothingTrained`].
    pub fn new(
        policy: &'p dyn Policy,
        config: &LearnConfig,
        total_steps: u64,
    ) -> Result<Self, TrainError> {
        if config.batching == Batching::Packed && policy.spec().decoder_start_id.is_some() {
            let expected = "padded or length: an encoder-decoder model cannot read packed rows";
            return Err(TrainError::setting("batching", "packed", expected));
        }
        let learner = Learner::new(policy.parameters(), config, total_steps)?;
        Ok(Self { policy, config: config.clone(), learner })
    }

    /// One optimizer step on the mean over all learned tokens of `rows`.
    ///
    /// # Errors
    /// [`TrainError::Data`] if no token is learned, [`TrainError::Lm`] for rows that the model
    /// cannot take, [`TrainError::NonFinite`].
    pub fn step(&mut self, rows: &[&SftRow]) -> Result<SftStats, TrainError> {
        let learned: usize = rows.iter().map(|row| row.learned_tokens()).sum();
        if learned == 0 {
            return Err(TrainError::Data {
                what: "a batch".to_owned(),
                problem: "none of its tokens is to be learned".to_owned(),
            });
        }
        let forward = self.config.training();
        let world = self.learner.world().clone();
        let passes = self.config.divide(&rows[world.share(rows.len())], SftRow::len);
        let coefficient = self.config.router_aux_loss_coef;
        let mut auxiliary = None;
        let loss = accumulate(passes, learned as f64, |rows| {
            let routers = RouterLoss::new(coefficient);
            let loss = sft_loss(self.policy, &rows, routers.collecting(forward))?;
            let Some(of_routers) = routers.of_pass()? else {
                return Ok::<_, TrainError>(loss);
            };
            let tokens = rows.iter().map(|row| row.learned_tokens()).sum::<usize>() as f64;
            *auxiliary.get_or_insert(0.) += of_routers.double_value(&[]) * tokens / learned as f64;
            Ok(loss + of_routers * (coefficient * tokens))
        })?;
        let optimizer = self.learner.step()?;
        let mut sums = [loss.double_value(&[]), auxiliary.unwrap_or(0.)];
        world.sum(&mut sums)?;
        let [loss, auxiliary] = sums;
        Ok(SftStats {
            loss: loss - auxiliary * coefficient,
            router_aux_loss: (coefficient != 0.).then_some(auxiliary),
            learned: learned as u64,
            tokens: rows.iter().map(|row| row.len() as u64).sum(),
            optimizer,
        })
    }

    /// The loss on `rows`, without dropout; with the averaged weights, if there are any.
    ///
    /// # Errors
    /// [`TrainError::Lm`] for rows that the model cannot take.
    pub fn evaluate(&self, rows: &[SftRow]) -> Result<SftEvaluation, TrainError> {
        let world = self.learner.world();
        self.learner.with_result(|| evaluate(self.policy, rows, &self.config, world))
    }
}

fn evaluate(
    policy: &dyn Policy,
    rows: &[SftRow],
    config: &LearnConfig,
    world: &World,
) -> Result<SftEvaluation, TrainError> {
    let tokens: u64 = rows.iter().map(|row| row.learned_tokens() as u64).sum();
    // In f64 and on the device: a sum of millions of terms, without waiting for the device in
    // between.
    let mut sum = Tensor::zeros([], (Kind::Double, policy.spec().device));
    let rows = rows[world.share(rows.len())].iter().filter(|row| row.learned_tokens() > 0);
    for (_, rows) in config.divide_for_evaluation(rows, SftRow::len) {
        Interrupted::check().map_err(LmError::from)?;
        let loss = no_grad(|| sft_loss(policy, &rows, Forward::default()))?;
        sum += loss.to_kind(Kind::Double);
    }
    let mut sum = [sum.double_value(&[])];
    world.sum(&mut sum)?;
    Ok(SftEvaluation { loss: sum[0] / tokens as f64, tokens })
}

/// Σ −log π(y_t | x, y_<t) over the learned tokens of `rows`, in nats: an f32 scalar with its graph.
///
/// # Errors
/// [`TrainError::Lm`] for rows that the model cannot take.
///
/// ```
/// use rlaif_lm::{Forward, Policy};
/// use rlaif_models::{Config, LanguageModel};
/// use rlaif_train::{SftRow, sft_loss};
/// use tch::{Device, Kind};
/// let config = Config::from_value(serde_json::json!({
///     "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
///     "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
/// }));
/// tch::manual_seed(7);
/// let policy = LanguageModel::random(config, Kind::Float, Device::Cpu)?;
/// let row = SftRow::new(vec![5, 6], vec![7, 8, 1]);
/// let loss = sft_loss(&policy, &[&row], Forward::default())?.double_value(&[]);
/// // Random weights know next to nothing: about ln 32 nats for each of three tokens.
/// assert!((loss / 3. - 32f64.ln()).abs() < 1.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn sft_loss(
    policy: &dyn Policy,
    rows: &[&SftRow],
    forward: Forward<'_>,
) -> Result<Tensor, TrainError> {
    let spec = policy.spec();
    let prompts = rows.iter().map(|row| row.prompt.clone()).collect();
    let responses = rows.iter().map(|row| row.response.clone()).collect();
    let prompts = TokenBatch::collate(prompts, spec, Padding::Right)?;
    let responses = TokenBatch::responses(responses, spec)?;
    let hidden = policy.response_hidden(&prompts, &responses, forward)?;
    let head = policy.head(forward)?;
    let (hidden, targets) = match learned_only(rows, &responses, &hidden, policy)? {
        Some(picked) => picked,
        None => (hidden, responses),
    };
    let log_probs = token_log_probs(&head, &hidden, &targets, 1.)?.log_probs;
    Ok(-log_probs.sum(Kind::Float))
}

/// The hidden states and ids of the learned tokens as one row, if some are not learned: the head
/// then skips the others.
fn learned_only(
    rows: &[&SftRow],
    responses: &TokenBatch,
    hidden: &Tensor,
    policy: &dyn Policy,
) -> Result<Option<(Tensor, TokenBatch)>, LmError> {
    if rows.iter().all(|row| row.learned.is_none()) {
        return Ok(None);
    }
    let width = responses.width();
    let mut places = Vec::new();
    let mut ids = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        for (j, &id) in row.response.iter().enumerate() {
            if row.learned.as_ref().is_none_or(|learned| learned.get(j) == Some(&true)) {
                places.push((i * width + j) as i64);
                ids.push(id);
            }
        }
    }
    let size = policy.spec().hidden_size;
    let places = Tensor::from_slice(&places).to_device(hidden.device());
    let picked = hidden.reshape([-1, size]).index_select(0, &places).unsqueeze(0);
    Ok(Some((picked, TokenBatch::responses(vec![ids], policy.spec())?)))
}

impl Supervised for SftTrainer<'_> {
    type Row = SftRow;

    fn join(&mut self, world: &World) -> Result<(), TrainError> {
        self.learner.join(world, self.policy.parameters())
    }

    fn learner(&self) -> &Learner {
        &self.learner
    }

    fn learner_mut(&mut self) -> &mut Learner {
        &mut self.learner
    }

    fn learn(&mut self, rows: &[&SftRow]) -> Result<Metrics, TrainError> {
        let stats = self.step(rows)?;
        let own = [("loss", Some(stats.loss)), ("router_aux_loss", stats.router_aux_loss)];
        let own = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
        Ok(step_metrics(own, stats.tokens, &stats.optimizer))
    }

    fn measure(&self, rows: &[SftRow]) -> Result<Metrics, TrainError> {
        let evaluation = self.evaluate(rows)?;
        let numbers =
            [("eval/loss", evaluation.loss), ("eval/perplexity", evaluation.perplexity())];
        Ok(numbers.into_iter().collect())
    }
}
