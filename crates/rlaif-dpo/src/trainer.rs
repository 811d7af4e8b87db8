//! The trainer. One update: 1 the policy's log-probabilities, 2 the reference's, 3 the loss and its
//! gradient, 4 the optimizer step, 5 the update of the reference.

use std::path::Path;

use rlaif_core::{BadSetting, Interrupted};
use rlaif_lm::{Adapters, LmError, Parameters, Policy, Reference, RouterLoss};
use rlaif_torch::dist::World;
use rlaif_train::{Optimizer, Trainable, same_weights};
use tch::{Device, Kind, Tensor, no_grad};

use crate::{
    config::{DpoConfig, Objective},
    error::{DpoError, PairProblem},
    forward::{Batch, Pass, collected, halves, margins, reference_sums},
    loss::{BatchScale, Coupling, PairObjective, PairSums, RunningMean, Weighting},
    reference::{CacheInputs, CacheKey, ReferenceSums, read_cache, write_cache},
    rows::{ResponseRow, TokenPair},
    stats::DpoStats,
};

/// Fine-tunes a policy from preferences, without a reward model.
///
/// The caller writes the loop:
///
/// ```
/// use rlaif_dpo::{DpoConfig, DpoTrainer, TokenPair, Reference};
/// # use rlaif_models::{Config, LanguageModel};
/// # use tch::{Device, Kind};
/// # let json = r#"{"model_type": "llama", "vocab_size": 32, "hidden_size": 8,
/// #   "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
/// #   "max_position_embeddings": 32, "eos_token_id": 1}"#;
/// # let random = || {
/// #     tch::manual_seed(3);
/// #     let config = Config::from_value(serde_json::from_str(json).unwrap());
/// #     LanguageModel::random(config, Kind::Float, Device::Cpu)
/// # };
/// let row = |chosen: &[u32], rejected: &[u32]| TokenPair {
///     id: String::new(), prompt: vec![5, 6], chosen: chosen.into(), rejected: rejected.into(),
///     margin: None,
/// };
/// let rows = [row(&[7, 8, 1], &[9, 1]), row(&[10, 1], &[11, 12, 1])];
/// let batch: Vec<&TokenPair> = rows.iter().collect();
///
/// let mut trainer = DpoTrainer::new(random()?, Reference::frozen(random()?), DpoConfig::default(), 2)?;
/// let first = trainer.update_pairs(&batch, None)?;
/// assert!((first.loss - 2f64.ln()).abs() < 1e-6); // policy and reference are still the same
/// trainer.update_pairs(&batch, None)?;
/// let policy = trainer.into_policy();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DpoTrainer<P> {
    policy: P,
    reference: Reference,
    config: DpoConfig,
    optimizer: Optimizer,
    reward_shift: RunningMean,
}

impl<P: Policy> DpoTrainer<P> {
    /// Creates a trainer for a run of `total_steps` updates. For a policy with adapters only the
    /// adapters are trained, otherwise all weights.
    ///
    /// # Errors
    /// [`DpoError::Setting`] for settings out of range, or for a reference that does not support
    /// them; [`DpoError::Train`] if there is nothing to train.
    pub fn new(
        policy: P,
        reference: Reference,
        config: DpoConfig,
        total_steps: u64,
    ) -> Result<Self, DpoError> {
        config.check()?;
        if config.update_of_reference().is_some() && !matches!(reference, Reference::Frozen(_)) {
            let expected = "nothing, unless the reference is a separate model";
            return Err(BadSetting::new("reference.update", "set", expected).into());
        }
        let trained = Trainable::Auto.select(policy.parameters())?;
        reference.freeze(&policy)?;
        let optimizer = Optimizer::new(trained, &config.optimizer, total_steps)?;
        Ok(Self { policy, reference, config, optimizer, reward_shift: RunningMean::default() })
    }

    /// Trains together with other ranks: methods get the rows of all of them, and return the numbers of all.
    ///
    /// # Errors
    /// [`DpoError::Train`] if the weights of a rank differ.
    pub fn join(&mut self, world: &World) -> Result<(), DpoError> {
        if self.world().is_alone() {
            same_weights(world, self.policy.parameters())?;
            if let Reference::Frozen(model) = &self.reference {
                same_weights(world, model.parameters())?;
            }
        }
        self.optimizer.join(world);
        Ok(())
    }

    /// The processes that train together.
    pub fn world(&self) -> &World {
        self.optimizer.world()
    }

    /// The current policy.
    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// Returns the policy.
    pub fn into_policy(self) -> P {
        self.policy
    }

    /// The settings.
    pub fn config(&self) -> &DpoConfig {
        &self.config
    }

    /// Updates so far.
    pub fn steps_done(&self) -> u64 {
        self.optimizer.progress().step
    }

    /// The reference's sums for rows of pairs, from the cache in `folder` if it has them. Otherwise
    /// they are computed: by the reference model, by the policy without adapters, or
    /// ([`Reference::Given`]) by the current policy, which must not have been updated yet.
    ///
    /// # Errors
    /// [`DpoError::Cache`] if the folder cannot be written; any error of the model.
    pub fn reference_of_pairs(
        &self,
        rows: &[TokenPair],
        folder: Option<&Path>,
    ) -> Result<ReferenceSums, DpoError> {
        let parts = rows.iter().map(|row| [row.prompt.as_slice(), &row.chosen, &row.rejected]);
        let tail_weight = self.pairs()?.tail_weight;
        self.cached(&parts.collect::<Vec<_>>(), tail_weight, folder)
    }

    /// The reference's sums for single responses, and for the mismatched responses if the loss
    /// needs them; see [`Self::reference_of_pairs`].
    ///
    /// # Errors
    /// As [`Self::reference_of_pairs`].
    pub fn reference_of_responses(
        &self,
        rows: &[ResponseRow],
        folder: Option<&Path>,
    ) -> Result<ReferenceSums, DpoError> {
        let parts = rows.iter().map(|row| [row.prompt.as_slice(), &row.response, &row.mismatched]);
        self.cached(&parts.collect::<Vec<_>>(), 1., folder)
    }

    fn cached(
        &self,
        rows: &[[&[u32]; 3]],
        tail_weight: f64,
        folder: Option<&Path>,
    ) -> Result<ReferenceSums, DpoError> {
        let key = self.cache_key(rows, tail_weight)?;
        let world = self.world();
        let known = folder.and_then(|folder| read_cache(folder, key, rows.len()));
        // A rank that does not have them needs the others to compute them.
        if let (Some(sums), false) = (&known, world.any(known.is_none())?) {
            return Ok(sums.clone());
        }
        let (model, adapters) = self.reference_or_policy();
        let mut sums = vec![[0.; 2]; rows.len()];
        // Batched by length; each sum is stored at the row's own index.
        let order = by_length(rows.iter().map(|row| row.iter().map(|ids| ids.len()).sum()));
        let own = world.deal(&order);
        for places in own.chunks(self.config.evaluation_batch()) {
            Interrupted::check().map_err(LmError::from)?;
            let column = |k: usize| places.iter().map(|&place| rows[place][k].to_vec()).collect();
            let batch = Batch::new(&self.policy, column(0), &[column(1), column(2)])?;
            let of_part = reference_sums(model, &batch, self.config.pass(), adapters, tail_weight)?;
            let of_part = Vec::<f32>::try_from(of_part)?;
            for (i, &place) in places.iter().enumerate() {
                sums[place] = [of_part[i], of_part[places.len() + i]];
            }
        }
        if !world.is_alone() {
            let numbers = own.iter().flat_map(|&place| sums[place].map(f64::from)).collect();
            let all = world.gather_numbers(numbers)?;
            let (all, _) = all.as_chunks::<2>();
            for (place, of_row) in world.dealt(&order).into_iter().zip(all) {
                sums[place] = of_row.map(|sum| sum as f32);
            }
        }
        let sums = ReferenceSums(sums);
        if let Some(folder) = folder.filter(|_| world.is_first()) {
            write_cache(folder, key, &sums)?;
        }
        Ok(sums)
    }

    fn cache_key(&self, rows: &[[&[u32]; 3]], tail_weight: f64) -> Result<CacheKey, DpoError> {
        let (model, adapters) = self.reference_or_policy();
        let inputs = CacheInputs {
            model_type: &model.spec().model_type,
            parameters: model.parameters(),
            adapters,
            temperature: self.config.temperature,
            tail_weight,
            prompt_forward: self.config.pass().prompt_forward,
            batch_size: self.config.evaluation_batch(),
        };
        inputs.key(rows.iter().copied())
    }

    /// The reference model to run, and its adapters.
    fn reference_model(&self) -> Option<(&dyn Policy, Adapters<'static>)> {
        self.reference.resolve(&self.policy).map(|(model, forward)| (model, forward.adapters))
    }

    fn reference_or_policy(&self) -> (&dyn Policy, Adapters<'static>) {
        let fallback = (&self.policy as &dyn Policy, Adapters::Active);
        self.reference_model().unwrap_or(fallback)
    }

    /// The reference's sums `[2B]` for a part of the batch: given, computed, or zeros if the loss
    /// does not need them.
    pub(crate) fn sums_of_reference(
        &self,
        batch: &Batch,
        needed: bool,
        given: Option<Tensor>,
        tail_weight: f64,
        like: &Tensor,
    ) -> Result<Tensor, DpoError> {
        if !needed {
            return Ok(like.zeros_like().detach());
        }
        if let Some(given) = given {
            return Ok(given.to_device(like.device()));
        }
        let Some((model, adapters)) = self.reference_model() else {
            let expected = "a model, adapters that can be turned off, or sums for every row";
            return Err(BadSetting::new("reference", "none", expected).into());
        };
        reference_sums(model, batch, self.config.pass(), adapters, tail_weight)
    }

    pub(crate) fn pairs(&self) -> Result<&PairObjective, DpoError> {
        match &self.config.objective {
            Objective::Pairs(objective) => Ok(objective),
            Objective::Unpaired(_) => Err(wrong_rows("pairs", "a loss of pairs")),
        }
    }

    /// Updates the policy from a batch of pairs. `given` are the reference's two sums for each row;
    /// by default, the reference model runs.
    ///
    /// Up to rounding, the result does not depend on `microbatch_size`: losses are means over the
    /// whole batch, and a loss that sorts or averages the batch sees all of it before the backward
    /// pass.
    ///
    /// # Errors
    /// [`DpoError::Pair`] for a row that cannot be used, [`DpoError::Setting`] if there is no
    /// reference or the loss is not one of pairs, [`DpoError::Train`] after too many consecutive
    /// steps with non-finite gradients; any error of the model. The policy is unchanged.
    pub fn update_pairs(
        &mut self,
        rows: &[&TokenPair],
        given: Option<&[[f32; 2]]>,
    ) -> Result<DpoStats, DpoError> {
        let objective = self.pairs()?.clone();
        check_pairs(rows, &objective)?;
        let world = self.world().clone();
        let order = world.deal(&by_length(rows.iter().map(|row| row.len())));
        let parts: Vec<PairPart> = order
            .chunks(self.config.microbatch(rows.len()))
            .map(|places| {
                let part: Vec<&TokenPair> = places.iter().map(|&place| rows[place]).collect();
                let given = given.map(|given| column_major(places, given));
                Ok(PairPart { batch: Batch::pairs(&self.policy, &part)?, rows: part, given })
            })
            .collect::<Result<_, DpoError>>()?;
        let mut scale = BatchScale {
            pairs: rows.len() as f64,
            chosen_tokens: rows.iter().map(|row| row.chosen.len() as f64).sum(),
            reward_shift: self.reward_shift.mean,
        };
        let mut seen = Seen::default();
        let shift = if objective.coupling() == Coupling::WholeBatch {
            self.backward_coupled(&objective, &parts, &mut scale, &mut seen)?
        } else {
            for part in &parts {
                let routers = self.routers();
                let (sums, measured) =
                    self.pair_sums(&objective, part, self.config.pass(), &routers)?;
                let loss = objective.losses(&sums, scale).sum(Kind::Float) / scale.pairs;
                let share = part.rows.len() as f64 / scale.pairs;
                seen.routers += self.backward(&loss, &routers, share)?;
                seen.take(&sums, &measured, &loss);
            }
            self.reward_shift
        };
        let tokens = parts
            .iter()
            .map(|part| part.batch.tokens(self.config.pass().prompt_forward))
            .sum::<usize>();
        let mut sums = [tokens as f64, seen.routers];
        world.sum(&mut sums)?;
        let [tokens, of_routers] = sums;
        let mut stats = seen.stats(&objective, scale, (self.policy.spec().device, &world))?;
        stats.tokens = tokens as u64;
        stats.router_aux_loss = self.reported(of_routers);
        self.finish(&mut stats)?;
        self.set_reward_shift(shift);
        Ok(stats)
    }

    /// The loss of routers for one pass.
    pub(crate) fn routers(&self) -> RouterLoss {
        RouterLoss::new(self.config.router_aux_loss_coef)
    }

    /// The loss of routers in the statistics of a step.
    pub(crate) fn reported(&self, of_routers: f64) -> Option<f64> {
        (self.config.router_aux_loss_coef != 0.).then_some(of_routers)
    }

    /// The backward pass of a part's loss, and of the loss of its routers, which has this share in the batch.
    /// Returns the latter's part of the batch's mean.
    pub(crate) fn backward(
        &self,
        loss: &Tensor,
        routers: &RouterLoss,
        share: f64,
    ) -> Result<f64, DpoError> {
        let Some(of_routers) = routers.of_pass()? else {
            loss.f_backward()?;
            return Ok(0.);
        };
        (loss + &of_routers * (self.config.router_aux_loss_coef * share)).f_backward()?;
        Ok(of_routers.double_value(&[]) * share)
    }

    /// The policy's and the reference's sums for a part, with the policy's graph.
    fn pair_sums(
        &self,
        objective: &PairObjective,
        part: &PairPart<'_>,
        how: Pass,
        routers: &RouterLoss,
    ) -> Result<(PairSums, Measured), DpoError> {
        let passed = collected(&self.policy, &part.batch, how, routers)?;
        let policy = passed.sums(&part.batch, objective.tail_weight);
        let reference = self.sums_of_reference(
            &part.batch,
            objective.needs_reference(),
            part.given.as_ref().map(Tensor::shallow_clone),
            objective.tail_weight,
            &policy,
        )?;
        let [chosen, rejected] = halves(&policy);
        let [reference_chosen, reference_rejected] = halves(&reference);
        let [chosen_lengths, rejected_lengths] = halves(&part.batch.lengths());
        let weights = (objective.weighting == Weighting::Wpo)
            .then(|| passed.policy_weights(&part.batch, self.config.temperature));
        let margins = margins(&part.rows, &chosen);
        let measured = Measured {
            entropy: passed.tokens.entropy.detach().sum(Kind::Float),
            logits: passed.logit_sums(&part.batch),
        };
        let sums = PairSums {
            chosen,
            rejected,
            reference_chosen,
            reference_rejected,
            chosen_lengths,
            rejected_lengths,
            margins,
            weights,
        };
        Ok((sums, measured))
    }

    /// The gradient of a loss that sorts or averages the batch. First all parts are computed
    /// without a graph; then the loss of the whole and its gradient with respect to the
    /// log-probabilities; then each part again, forward and, with its share of that gradient,
    /// backward. A batch of one part needs only one pass.
    fn backward_coupled(
        &self,
        objective: &PairObjective,
        parts: &[PairPart<'_>],
        scale: &mut BatchScale,
        seen: &mut Seen,
    ) -> Result<RunningMean, DpoError> {
        let world = self.world();
        let single = parts.len() == 1 && world.is_alone();
        let routers = self.routers();
        let first = |part| -> Result<_, DpoError> {
            let how = self.config.pass();
            if single {
                return self.pair_sums(objective, part, how, &routers);
            }
            no_grad(|| self.pair_sums(objective, part, how, &RouterLoss::new(0.)))
        };
        let all = parts.iter().map(first).collect::<Result<Vec<_>, _>>()?;
        let place = (self.policy.spec().device, objective.weighting == Weighting::Wpo);
        let whole = PairSums::gathered(all.iter().map(|(sums, _)| sums), place, world)?;
        let shift = self.shifted(objective, &whole)?;
        scale.reward_shift = shift.mean;
        if single {
            let (sums, measured) = &all[0];
            let loss = objective.losses(sums, *scale).sum(Kind::Float) / scale.pairs;
            seen.routers += self.backward(&loss, &routers, 1.)?;
            seen.take(sums, measured, &loss);
            return Ok(shift);
        }
        let (chosen, rejected) =
            (whole.chosen.set_requires_grad(true), whole.rejected.set_requires_grad(true));
        let whole = PairSums {
            chosen: chosen.shallow_clone(),
            rejected: rejected.shallow_clone(),
            ..whole
        };
        let loss = objective.losses(&whole, *scale).sum(Kind::Float) / scale.pairs;
        let gradients = Tensor::f_run_backward(&[&loss], &[&chosen, &rejected], false, false)?;
        let own: usize = parts.iter().map(|part| part.rows.len()).sum();
        let counts = world.gather_numbers(vec![own as f64])?;
        let mut start = counts[..world.rank()].iter().sum::<f64>() as i64;
        for (at, (part, (sums, measured))) in parts.iter().zip(&all).enumerate() {
            let length = part.rows.len() as i64;
            let share = |k: usize| gradients[k].narrow(0, start, length);
            let routers = self.routers();
            let passed = collected(&self.policy, &part.batch, self.config.pass(), &routers)?;
            let [chosen, rejected] = halves(&passed.sums(&part.batch, objective.tail_weight));
            let pull = (chosen * share(0) + rejected * share(1)).sum(Kind::Float);
            seen.routers += self.backward(&pull, &routers, length as f64 / scale.pairs)?;
            start += length;
            // The loss of the whole counts once.
            let loss =
                if at == 0 && world.is_first() { loss.shallow_clone() } else { loss.zeros_like() };
            seen.take(sums, measured, &loss);
        }
        Ok(shift)
    }

    /// δ after this batch: the mean implicit reward of all its responses, as in TRL.
    fn shifted(&self, objective: &PairObjective, x: &PairSums) -> Result<RunningMean, DpoError> {
        let mut shift = self.reward_shift;
        if objective.tracks_reward_shift() {
            let (chosen, rejected) = objective.rewards(x);
            let mean = (chosen.mean(Kind::Float) + rejected.mean(Kind::Float)) / 2.;
            shift.update(f64::try_from(mean)?);
        }
        Ok(shift)
    }

    /// Makes the optimizer step, and the update of the reference.
    pub(crate) fn finish(&mut self, stats: &mut DpoStats) -> Result<(), DpoError> {
        let report = self.optimizer.step()?;
        stats.grad_norm = report.grad_norm;
        stats.lr = report.lr;
        stats.skipped = report.skipped;
        if let (Some(update), Reference::Frozen(model)) =
            (self.config.update_of_reference(), &self.reference)
            && report.step.is_multiple_of(update.every)
        {
            update.apply(model.parameters(), self.policy.parameters());
        }
        Ok(())
    }

    /// The parameters of a reference that moves: a checkpoint has to store them.
    pub(crate) fn moving_reference(&self) -> Option<&Parameters> {
        match &self.reference {
            Reference::Frozen(model) if self.config.update_of_reference().is_some() => {
                Some(model.parameters())
            }
            Reference::Frozen(_) | Reference::AdaptersOff | Reference::Given => None,
        }
    }

    pub(crate) fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    pub(crate) fn optimizer_mut(&mut self) -> &mut Optimizer {
        &mut self.optimizer
    }

    pub(crate) fn reward_shift(&self) -> RunningMean {
        self.reward_shift
    }

    /// Stores a new δ, unless the batch gave NaN and its step was skipped.
    pub(crate) fn set_reward_shift(&mut self, shift: RunningMean) {
        if shift.mean.is_finite() {
            self.reward_shift = shift;
        }
    }

    /// The sums for pairs under the current policy, without a graph.
    pub(crate) fn evaluated(
        &self,
        rows: &[&TokenPair],
        given: Option<&[[f32; 2]]>,
    ) -> Result<PairSums, DpoError> {
        let objective = self.pairs()?;
        check_pairs(rows, objective)?;
        let places: Vec<usize> = (0..rows.len()).collect();
        let part = PairPart {
            batch: Batch::pairs(&self.policy, rows)?,
            rows: rows.to_vec(),
            given: given.map(|given| column_major(&places, given)),
        };
        let (sums, _) = no_grad(|| {
            self.pair_sums(objective, &part, self.config.pass().evaluating(), &RouterLoss::new(0.))
        })?;
        Ok(sums)
    }
}

/// A part of a batch of pairs.
struct PairPart<'a> {
    batch: Batch,
    rows: Vec<&'a TokenPair>,
    /// The reference's sums, `[2B]`.
    given: Option<Tensor>,
}

/// Results of a pass besides the sums, still on their device.
struct Measured {
    entropy: Tensor,
    /// Sums over tokens of the mean logit, chosen and rejected, `[2]`.
    logits: Tensor,
}

/// Tensors kept for the batch's metrics, on their device, so that the host waits for the device
/// only once.
#[derive(Default)]
struct Seen {
    sums: Vec<PairSums>,
    numbers: Vec<Tensor>,
    /// Mean of the routers' loss so far.
    routers: f64,
}

impl Seen {
    fn take(&mut self, sums: &PairSums, measured: &Measured, loss: &Tensor) {
        self.sums.push(sums.detached());
        let both = measured.logits.view([2]);
        let rest = Tensor::stack(
            &[loss.detach().to_kind(Kind::Float), measured.entropy.shallow_clone()],
            0,
        );
        self.numbers.push(Tensor::cat(&[rest, both], 0));
    }

    fn stats(
        &self,
        objective: &PairObjective,
        scale: BatchScale,
        (device, world): (Device, &World),
    ) -> Result<DpoStats, DpoError> {
        let place = (device, objective.weighting == Weighting::Wpo);
        let x = PairSums::gathered(&self.sums, place, world)?;
        let (chosen, rejected) = objective.rewards(&x);
        let mean = |x: &Tensor| x.mean(Kind::Float);
        let sum = |x: &Tensor| x.sum(Kind::Float);
        let totals = match self.numbers.is_empty() {
            true => Tensor::zeros([4], (Kind::Float, device)),
            false => Tensor::stack(&self.numbers, 0).sum_dim_intlist(0, false, Kind::Float),
        };
        let totals = summed(totals, world)?;
        let rest = [
            mean(&chosen),
            mean(&rejected),
            mean(&chosen.gt_tensor(&rejected).to_kind(Kind::Float)),
            mean(&(&chosen - &rejected)),
            mean(&x.chosen),
            mean(&x.rejected),
            sum(&x.chosen),
            sum(&x.chosen_lengths),
            sum(&x.rejected_lengths),
        ];
        let all = Tensor::cat(&[totals, Tensor::stack(&rest, 0)], 0);
        let all = Vec::<f64>::try_from(all.to_kind(Kind::Double))?;
        let [loss, entropy, logit_chosen, logit_rejected, rest @ ..] = all.as_slice() else {
            unreachable!("thirteen numbers were put together above")
        };
        let [
            reward_chosen,
            reward_rejected,
            accuracy,
            margin,
            log_prob_chosen,
            log_prob_rejected,
            chosen_sum,
            chosen_tokens,
            rejected_tokens,
        ] = *rest
        else {
            unreachable!("thirteen numbers were put together above")
        };
        Ok(DpoStats {
            loss: *loss,
            reward_chosen,
            reward_rejected,
            accuracy,
            margin,
            log_prob_chosen,
            log_prob_rejected,
            logit_chosen: logit_chosen / chosen_tokens,
            logit_rejected: logit_rejected / rejected_tokens,
            entropy: entropy / (chosen_tokens + rejected_tokens),
            nll: -chosen_sum / chosen_tokens,
            baseline: objective.tracks_reward_shift().then_some(scale.reward_shift),
            ..DpoStats::default()
        })
    }
}

/// The sum of a tensor over all ranks.
pub(crate) fn summed(own: Tensor, world: &World) -> Result<Tensor, DpoError> {
    if world.is_alone() {
        return Ok(own);
    }
    let mut numbers = Vec::<f64>::try_from(own.to_kind(Kind::Double))?;
    world.sum(&mut numbers)?;
    Ok(Tensor::from_slice(&numbers).to_kind(Kind::Float).to_device(own.device()))
}

/// Indices of rows, longest first; rows of equal length keep their order.
pub(crate) fn by_length(lengths: impl Iterator<Item = usize>) -> Vec<usize> {
    let lengths: Vec<usize> = lengths.collect();
    let mut places: Vec<usize> = (0..lengths.len()).collect();
    places.sort_by_key(|&place| std::cmp::Reverse(lengths[place]));
    places
}

/// The two sums of the rows at these indices: all first sums before all second sums, `[2B]`.
fn column_major(places: &[usize], sums: &[[f32; 2]]) -> Tensor {
    let column = |k: usize| places.iter().map(move |&place| sums[place][k]);
    Tensor::from_slice(&column(0).chain(column(1)).collect::<Vec<f32>>())
}

pub(crate) fn wrong_rows(given: &str, needed: &'static str) -> DpoError {
    BadSetting::new("objective", format!("rows of {given}"), needed).into()
}

fn check_pairs(rows: &[&TokenPair], objective: &PairObjective) -> Result<(), DpoError> {
    for row in rows {
        let problem = if row.chosen.is_empty() || row.rejected.is_empty() {
            PairProblem::EmptyResponse
        } else if objective.needs_margins() && row.margin.is_none() {
            PairProblem::NoMargin
        } else {
            continue;
        };
        return Err(DpoError::Pair { id: row.id.clone(), problem });
    }
    Ok(())
}
