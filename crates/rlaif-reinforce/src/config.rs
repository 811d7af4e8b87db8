//! The settings of a run, and their allowed combinations.

use rlaif_core::{BadSetting, Seed, filled};
use rlaif_lm::{
    Activations, Adapters, Dropout, Forward, LmSpec, RouterLoss, generate::GenerationConfig,
};
use rlaif_rl::{
    AdvantageEstimator, AdviceKeys, Anchor, Average, Combination, CombinationConcern,
    CombinationUse, Correction, KlForm, MissingScore, OffPolicyMask, Overlong, PolicyObjective,
    RatioLevel, RlError, ScoreConfig, ScoreScaling, StopConfig, Surrogate, Watched, check_policy,
    check_sampling, rollout_messages,
};
use rlaif_train::{KlControl, OptimizerConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    curriculum::Curriculum,
    dynamic::DynamicSampling,
    named::{NamedAlgorithm, Settings},
    replay::{Replay, Rollouts},
};

/// The settings of a run without a value function. What is absent is as the paper of `algorithm`
/// has it; what is given replaces one of its parts.
///
/// ```
/// use rlaif_reinforce::{NamedAlgorithm, ReinforceConfig};
/// let mut config = ReinforceConfig { algorithm: NamedAlgorithm::Gspo, ..Default::default() };
/// assert_eq!(config.settings().group_size, 8);
/// config.group_size = Some(1);
/// let error = config.check().unwrap_err().to_string();
/// assert!(error.contains("`group_size` is 1"), "{error}");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReinforceConfig {
    /// The algorithm; settings that are absent here have the values of its paper.
    pub algorithm: NamedAlgorithm,
    /// Number of steps in the run, each a rollout and the updates on it; the end of a learning-rate
    /// schedule.
    pub steps: u64,
    /// Responses per rollout, a multiple of `group_size`.
    pub batch_size: usize,
    /// Responses to each prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_size: Option<usize>,
    /// Responses per optimizer step: a multiple of `group_size` that divides `batch_size`, or the sum of
    /// `batch_size` and `replay.batch_size`; by default, all of a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minibatch_size: Option<usize>,
    /// Responses per forward and backward pass: a divisor of `minibatch_size` that is a multiple or
    /// a divisor of `group_size`; 0 for the whole minibatch. It saves memory and changes nothing
    /// else.
    pub microbatch_size: usize,
    /// Passes of an update over the rollout, each in a new order.
    pub epochs: usize,
    /// Sampling of responses, from the whole distribution: top-k, top-p and min-p sample from
    /// another one than the one whose log-probabilities are trained.
    #[serde(deserialize_with = "generation")]
    pub generation: GenerationConfig,
    /// Transformations of scores. A response without a score is dropped by default: it is in no
    /// mean, no deviation and no loss.
    #[serde(deserialize_with = "scores")]
    pub scores: ScoreConfig,
    /// Estimator of advantages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advantage: Option<AdvantageEstimator>,
    /// The level of the ratio: token or response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<RatioLevel>,
    /// The policy that the ratio is relative to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Anchor>,
    /// Loss of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub surrogate: Option<Surrogate>,
    /// Mean over tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average: Option<Average>,
    /// The KL penalty against the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<KlForm>,
    /// Importance weight: the ratio of the training pass to the sampler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correction: Option<Correction>,
    /// Off-policy sequence masking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off_policy: Option<OffPolicyMask>,
    /// Sampling in place of groups whose scores are all equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic_sampling: Option<DynamicSampling>,
    /// Prompts by their measured difficulty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curriculum: Option<Curriculum>,
    /// Time of sampling: before each update, or beside the update of the step before.
    pub rollouts: Rollouts,
    /// A replay buffer: responses of earlier steps that a step trains on too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    /// The penalty for long responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlong: Option<Overlong>,
    /// Mode of dropout in updates. Rollouts, references and scoring never have it.
    pub dropout: Dropout,
    /// Gradient checkpointing: `recompute` needs less memory and a third more time.
    pub activations: Activations,
    /// In models with experts, the coefficient of the loss that spreads tokens over experts; 0 to disable it.
    pub router_aux_loss_coef: f64,
    /// Learning rate, schedule, clipping.
    #[serde(deserialize_with = "optimizer")]
    pub optimizer: OptimizerConfig,
    /// The seed of sampling, of the order of minibatches and of dropout. A run file has it at the top.
    #[serde(skip)]
    pub seed: Seed,
    /// Rules for ending a run before its steps are done.
    pub stop: StopConfig,
}

impl Default for ReinforceConfig {
    fn default() -> Self {
        Self {
            algorithm: NamedAlgorithm::default(),
            steps: 100,
            batch_size: 128,
            group_size: None,
            minibatch_size: None,
            microbatch_size: 0,
            epochs: 1,
            generation: GenerationConfig { batch_size: 128, ..GenerationConfig::default() },
            scores: ScoreConfig { missing: MissingScore::Drop, ..ScoreConfig::default() },
            advantage: None,
            ratio: None,
            anchor: None,
            surrogate: None,
            average: None,
            kl: None,
            correction: None,
            off_policy: None,
            dynamic_sampling: None,
            curriculum: None,
            rollouts: Rollouts::Synchronous,
            replay: None,
            overlong: None,
            dropout: Dropout::Off,
            activations: Activations::Keep,
            router_aux_loss_coef: 0.,
            optimizer: OptimizerConfig { lr: 1e-6, ..OptimizerConfig::default() },
            seed: Seed::new(0),
            stop: StopConfig::default(),
        }
    }
}

fn generation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<GenerationConfig, D::Error> {
    filled(&ReinforceConfig::default().generation, deserializer)
}

fn scores<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ScoreConfig, D::Error> {
    filled(&ReinforceConfig::default().scores, deserializer)
}

fn optimizer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OptimizerConfig, D::Error> {
    filled(&ReinforceConfig::default().optimizer, deserializer)
}

impl<'a> From<&'a ReinforceConfig> for Watched<'a> {
    fn from(config: &'a ReinforceConfig) -> Self {
        let coef = config.settings().combination.objective.kl.coef();
        Self {
            kl: KlControl::Fixed { coef },
            batch_size: config.batch_size,
            generation: &config.generation,
            keys: AdviceKeys {
                kl_coef: Some("kl"),
                kl_estimator: Some("kl"),
                ..AdviceKeys::SCORES_AND_STOP
            },
        }
    }
}

impl ReinforceConfig {
    /// The settings of the algorithm, with what replaces them.
    pub fn settings(&self) -> Settings {
        let named = self.algorithm.settings(self.generation.max_new_tokens);
        let Combination { advantage, objective } = named.combination;
        let objective = PolicyObjective {
            ratio: self.ratio.unwrap_or(objective.ratio),
            anchor: self.anchor.unwrap_or(objective.anchor),
            surrogate: self.surrogate.unwrap_or(objective.surrogate),
            average: self.average.unwrap_or(objective.average),
            kl: self.kl.unwrap_or(objective.kl),
            correction: self.correction.unwrap_or(objective.correction),
            off_policy: self.off_policy.or(objective.off_policy),
        };
        let advantage = self.advantage.unwrap_or(advantage);
        Settings {
            combination: Combination { advantage, objective },
            group_size: self.group_size.unwrap_or(named.group_size),
            dynamic_sampling: self.dynamic_sampling.unwrap_or(named.dynamic_sampling),
            overlong: self.overlong.or(named.overlong),
        }
    }

    /// Responses to each prompt.
    pub fn group(&self) -> usize {
        self.settings().group_size
    }

    /// Prompts of one rollout.
    pub fn prompts_per_step(&self) -> usize {
        self.batch_size / self.group().max(1)
    }

    /// Most responses that a step trains on: new ones, and those of earlier steps.
    pub fn responses_per_step(&self) -> usize {
        let replayed = self.replay.map_or(0, |replay| replay.batch_size);
        self.batch_size.saturating_add(replayed)
    }

    /// Responses of one optimizer step.
    pub fn minibatch(&self) -> usize {
        self.minibatch_size.unwrap_or_else(|| self.responses_per_step())
    }

    /// Most updates between the weights that sampled a response and those at the start of its step.
    pub fn max_staleness(&self) -> u64 {
        let replayed = self.replay.map_or(0, |replay| replay.max_staleness);
        self.rollouts.staleness().max(replayed)
    }

    /// Responses of one forward and backward pass.
    pub fn microbatch(&self) -> usize {
        rlaif_train::rows_of_pass(self.microbatch_size, self.minibatch())
    }

    /// Most optimizer steps of one update; dynamic sampling may leave fewer groups.
    pub fn updates_per_step(&self) -> u64 {
        (self.epochs * (self.responses_per_step() / self.minibatch())) as u64
    }

    /// The mode of a training pass.
    pub(crate) fn training_forward(&self) -> Forward<'static> {
        let Self { dropout, activations, .. } = *self;
        Forward { dropout, adapters: Adapters::Active, activations, ..Forward::default() }
    }

    /// Checks every setting, and the combinations of settings.
    ///
    /// # Errors
    /// [`RlError::Setting`] names the first field that is out of range, and what it may be;
    /// [`RlError::Combination`] a combination that is known to be wrong; [`RlError::Rollout`] a
    /// setting of generation that breaks training.
    pub fn check(&self) -> Result<(), RlError> {
        RouterLoss::check(self.router_aux_loss_coef)?;
        let settings = self.settings();
        self.check_sizes(settings.group_size)?;
        check_sampling(&self.generation)?;
        settings.combination.check()?;
        if let Some(refused) = self.concerns().into_iter().find(CombinationConcern::is_refused) {
            return Err(RlError::Combination(refused));
        }
        self.check_scores(&settings)?;
        self.curriculum.as_ref().map_or(Ok(()), Curriculum::check)?;
        self.optimizer.check()?;
        Ok(self.stop.check()?)
    }

    /// Everything known to be wrong with the combination of settings.
    pub(crate) fn concerns(&self) -> Vec<CombinationConcern> {
        let Settings { combination, group_size, .. } = self.settings();
        let updates = if self.minibatch() == 0 { 0 } else { self.updates_per_step() };
        let (missing, staleness) = (self.scores.missing, self.max_staleness());
        combination.concerns(CombinationUse { group_size, updates, missing, staleness })
    }

    fn check_sizes(&self, group: usize) -> Result<(), RlError> {
        let steps = usize::try_from(self.steps).unwrap_or(usize::MAX);
        for (field, value) in [
            ("steps", steps),
            ("batch_size", self.batch_size),
            ("group_size", group),
            ("minibatch_size", self.minibatch()),
            ("microbatch_size", self.microbatch()),
            ("epochs", self.epochs),
        ] {
            if value == 0 {
                return Err(BadSetting::new(field, value, "at least 1").into());
            }
        }
        let (mini, micro) = (self.minibatch(), self.microbatch());
        let whole = |field, size: usize, of: &str, by: usize| {
            let expected = format!("a multiple of {of}, which is {by}: groups stay whole");
            if size.is_multiple_of(by) {
                Ok(())
            } else {
                Err(BadSetting::new(field, size, expected))
            }
        };
        whole("batch_size", self.batch_size, "`group_size`", group)?;
        self.replay.map_or(Ok(()), |replay| replay.check(group, self.rollouts))?;
        whole("minibatch_size", mini, "`group_size`", group)?;
        let divides = |field, size: usize, of: &str, by: usize| {
            let expected = format!("a divisor of {of}, which is {by}");
            if by.is_multiple_of(size) {
                Ok(())
            } else {
                Err(BadSetting::new(field, size, expected))
            }
        };
        let all = match self.replay {
            Some(_) => "the sum of `batch_size` and `replay.batch_size`",
            None => "`batch_size`",
        };
        divides("minibatch_size", mini, all, self.responses_per_step())?;
        divides("microbatch_size", micro, "`minibatch_size`", mini)?;
        if !micro.is_multiple_of(group) && !group.is_multiple_of(micro) {
            let expected = format!("a multiple or a divisor of `group_size`, which is {group}");
            return Err(BadSetting::new("microbatch_size", micro, expected).into());
        }
        let updates = self.epochs.checked_mul(self.responses_per_step() / mini);
        if updates.and_then(|updates| self.steps.checked_mul(updates as u64)).is_none() {
            let expected = "fewer: the optimizer's steps do not fit 64 bits";
            return Err(BadSetting::new("steps", self.steps, expected).into());
        }
        Ok(())
    }

    fn check_scores(&self, settings: &Settings) -> Result<(), RlError> {
        if let Some(overlong) =
            settings.overlong.filter(|overlong| overlong.buffer > overlong.limit)
        {
            let expected = format!("at most `limit`, which is {}", overlong.limit);
            return Err(BadSetting::new("overlong.buffer", overlong.buffer, expected).into());
        }
        if self.replay.is_some() && self.scores.scaling != ScoreScaling::None {
            let expected =
                "`none` with `replay`: a score that comes again would count again in the deviation";
            let found = format!("{:?}", self.scores.scaling).to_lowercase();
            return Err(BadSetting::new("scores.scaling", found, expected).into());
        }
        let greedy = settings.combination.advantage == AdvantageEstimator::Greedy;
        if greedy && self.scores.scaling != ScoreScaling::None {
            let expected =
                "`none` with the advantage `greedy`, which compares with a score as it is";
            let found = format!("{:?}", self.scores.scaling).to_lowercase();
            return Err(BadSetting::new("scores.scaling", found, expected).into());
        }
        Ok(())
    }

    /// Checks the settings against the policy they are for, and returns what may do harm.
    pub(crate) fn check_policy(&self, spec: &LmSpec) -> Result<Vec<String>, RlError> {
        let of_rollout = check_policy(&self.generation, spec)?;
        let of_rollout = rollout_messages(&of_rollout);
        let of_combination = self.concerns();
        let of_combination =
            of_combination.iter().map(|concern| format!("`{}` {concern}", concern.setting()));
        Ok(of_combination.chain(of_rollout).collect())
    }
}
