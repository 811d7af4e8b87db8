//! A student, its teacher, and the optimizer.

use std::time::Instant;

use rlaif_core::{BadSetting, Metrics};
use rlaif_lm::{
    Draw, Forward, Padding, Policy, RouterLoss, Sampled, Sampler, SamplerCall, TokenBatch, Weights,
    generate::GenerationConfig, place,
};
use rlaif_rl::torch::dist::World;
use rlaif_rl::{
    Prompt, RlError, check_policy, check_prompts, check_resumed, restore_policy, rollout_messages,
    sample, save_policy, trained_parameters,
};
use rlaif_train::{CheckpointFiles, Optimizer, OptimizerProgress, Saved, TrainError, same_weights};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use crate::{config::DistillConfig, divergence::TeacherDivergence};

/// Most elements of f32 logits that are held of each model at a time: 64 MiB.
const CHUNK_ELEMENTS: i64 = 16 << 20;

/// On-policy distillation, in a loop of your own:
///
/// ```text
/// for batch in prompts {
///     let step = trainer.step(&batch, &mut sampler)?;   // responses, and numbers
/// }
/// ```
pub struct DistillTrainer<P> {
    policy: P,
    teacher: Box<dyn Policy>,
    config: DistillConfig,
    optimizer: Optimizer,
    warnings: Vec<String>,
    step: u64,
}

impl<P: Policy> std::fmt::Debug for DistillTrainer<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DistillTrainer")
            .field("policy", &self.policy.spec().model_type)
            .field("teacher", &self.teacher.spec().model_type)
            .field("config", &self.config)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

/// The responses and the numbers of a step.
#[derive(Debug)]
pub struct DistillStep {
    /// The responses of the student.
    pub sampled: Vec<Sampled>,
    /// Numbers of the step.
    pub metrics: Metrics,
}

/// Sums over the tokens of a pass.
#[derive(Debug, Default)]
struct Sums {
    loss: f64,
    reverse_kl: f64,
    /// The loss of routers without its coefficient, times the tokens of the pass.
    routers: f64,
}

/// The parts of a trainer that are not tensors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrainerState {
    step: u64,
    optimizer: OptimizerProgress,
    /// Settings that a resumed run would silently not reproduce.
    seed: u64,
    generation: GenerationConfig,
}

impl<P: Policy> DistillTrainer<P> {
    /// A trainer at its first step. What is trained of `policy` is what requires a gradient. The teacher is
    /// not changed.
    ///
    /// # Errors
    /// [`RlError::Setting`] names the first field that is out of range, or `teacher` if its vocabulary is not
    /// of the student's size; [`RlError::Rollout`], [`RlError::Train`].
    pub fn new(
        policy: P,
        teacher: Box<dyn Policy>,
        config: DistillConfig,
    ) -> Result<Self, RlError> {
        config.check()?;
        let (own, others) = (policy.spec().vocab_size, teacher.spec().vocab_size);
        if own != others {
            let found = format!("a model of {others} tokens");
            let expected = format!("one of the student's {own}, with the same tokenizer");
            return Err(BadSetting::new("teacher", found, expected).into());
        }
        let warnings = rollout_messages(&check_policy(&config.generation, policy.spec())?);
        teacher.parameters().train_where(|_| false);
        let trained = trained_parameters(&policy)?;
        let optimizer = Optimizer::new(trained, &config.optimizer, config.steps)?;
        Ok(Self { policy, teacher, config, optimizer, warnings, step: 0 })
    }

    /// Trains together with other ranks: each gets the same prompts and responses, and learns on its share.
    ///
    /// # Errors
    /// [`RlError::Train`] if the weights of a rank differ.
    pub fn join(&mut self, world: &World) -> Result<(), RlError> {
        same_weights(world, self.policy.parameters())?;
        same_weights(world, self.teacher.parameters())?;
        self.optimizer.join(world);
        Ok(())
    }

    /// The processes that train together.
    pub fn world(&self) -> &World {
        self.optimizer.world()
    }

    /// The settings.
    pub fn config(&self) -> &DistillConfig {
        &self.config
    }

    /// Messages about settings that may do harm.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The student.
    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// The student, for its adapters. Parameters stay the trainer's.
    pub fn policy_mut(&mut self) -> &mut P {
        &mut self.policy
    }

    /// The student, trained.
    pub fn into_policy(self) -> P {
        self.policy
    }

    /// Number of updates so far.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// `true` if the next step learns on the student's own responses ([`DistillConfig::on_policy`]). It
    /// depends only on the seed and the step.
    pub fn is_on_policy(&self) -> bool {
        let draw = self.config.seed.derive("on_policy", self.step).get();
        // The upper 53 bits, as a number below 1.
        let draw = (draw >> 11) as f64 / (1u64 << 53) as f64;
        draw < self.config.on_policy
    }

    /// Samples a response to each prompt, and makes one optimizer step on the mean of the divergence over
    /// their tokens.
    ///
    /// The tokens that a row samples depend on the seed, the step and the record's id, not on its
    /// batch.
    ///
    /// # Errors
    /// [`RlError::Rows`] unless there are `batch_size` prompts; [`RlError::Lm`] for a prompt that does not
    /// fit a context with `max_new_tokens`; what the sampler refuses; [`RlError::EmptyResponse`];
    /// [`RlError::Train`].
    pub fn step(
        &mut self,
        prompts: &[Prompt],
        sampler: &mut dyn Sampler,
    ) -> Result<DistillStep, RlError> {
        let found = prompts.len();
        for spec in [self.policy.spec(), self.teacher.spec()] {
            check_prompts(prompts, self.config.batch_size, &self.config.generation, spec)?;
        }
        let start = Instant::now();
        let weights = Weights { version: self.step, ..Weights::of(&self.policy) };
        let draw = Draw { seed: self.config.seed.derive("rollout", 0), step: self.step };
        let sampled =
            sample(sampler, prompts, SamplerCall { weights, how: &self.config.generation, draw })?;
        let generate_s = start.elapsed().as_secs_f64();
        if let Some(row) = sampled.iter().position(|response| response.ids.is_empty()) {
            return Err(RlError::EmptyResponse { row });
        }
        let start = Instant::now();
        let mut metrics = self.update(prompts, &sampled)?;
        let learn_s = start.elapsed().as_secs_f64();
        let ended = sampled.iter().filter(|response| response.is_finished()).count();
        let tokens: usize = sampled.iter().map(|response| response.ids.len()).sum();
        metrics.set("tokens/responses_len_mean", tokens as f64 / found as f64);
        metrics.set("tokens/responses_ended", ended as f64 / found as f64);
        metrics.set("time/generate", generate_s);
        metrics.set("time/learn", learn_s);
        metrics.set("time/samples_per_second", found as f64 / (generate_s + learn_s));
        Ok(DistillStep { sampled, metrics })
    }

    /// One optimizer step on given responses, in place of those that the student would sample.
    ///
    /// # Errors
    /// [`RlError::Lm`] for rows that a model cannot take, [`RlError::Train`].
    pub fn update(&mut self, prompts: &[Prompt], sampled: &[Sampled]) -> Result<Metrics, RlError> {
        let total: usize = sampled.iter().map(|response| response.ids.len()).sum();
        let mut order: Vec<usize> = (0..sampled.len()).collect();
        // Short rows are not padded to long ones.
        order.sort_by_key(|&row| (prompts[row].ids.len() + sampled[row].ids.len(), row));
        let world = self.world().clone();
        let order = world.deal(&order);
        let mut sums = Sums::default();
        self.config.dropout.seeded(self.config.seed, self.step, || {
            order.chunks(self.config.microbatch()).try_for_each(|rows| {
                let of = self.pass(prompts, sampled, rows, total as f64)?;
                sums.loss += of.loss;
                sums.reverse_kl += of.reverse_kl;
                sums.routers += of.routers;
                Ok::<_, RlError>(())
            })
        })??;
        let report = self.optimizer.step()?;
        self.step += 1;
        let mut sums = [sums.loss, sums.reverse_kl, sums.routers];
        world.sum(&mut sums)?;
        let mut metrics = Metrics::default();
        metrics.set("distill/loss", sums[0] / total as f64);
        metrics.set("distill/reverse_kl", sums[1] / total as f64);
        if self.config.router_aux_loss_coef != 0. {
            metrics.set("router_aux_loss", sums[2] / total as f64);
        }
        metrics.set("grad_norm", report.grad_norm);
        metrics.set("learning_rate", report.lr);
        if report.skipped.is_some() {
            metrics.set("skipped", 1.);
        }
        Ok(metrics)
    }

    /// Forward and backward over some rows; the loss is divided by `total`.
    fn pass(
        &self,
        prompts: &[Prompt],
        sampled: &[Sampled],
        rows: &[usize],
        total: f64,
    ) -> Result<Sums, RlError> {
        let of = |policy: &dyn Policy, forward| -> Result<_, RlError> {
            let spec = policy.spec();
            let x = rows.iter().map(|&row| prompts[row].ids.to_vec()).collect();
            let y = rows.iter().map(|&row| sampled[row].ids.clone()).collect();
            let x = TokenBatch::collate(x, spec, Padding::Right)?;
            let y = TokenBatch::responses(y, spec)?;
            let hidden = policy.response_hidden(&x, &y, forward)?;
            // The tokens of responses, one after the other.
            let places: Vec<i64> = (y.rows().iter().enumerate())
                .flat_map(|(row, ids)| (0..ids.len()).map(move |at| (row, at)))
                .map(|(row, at)| (row * y.width() + at) as i64)
                .collect();
            let places = Tensor::from_slice(&places).to_device(hidden.device());
            let size = hidden.size();
            let hidden = hidden.reshape([-1, size[2]]).index_select(0, &places);
            let ids = y.ids().reshape([-1]).index_select(0, &places);
            Ok((hidden, policy.head(forward)?, ids))
        };
        let DistillConfig { dropout, activations, temperature, divergence, .. } = self.config;
        let coefficient = self.config.router_aux_loss_coef;
        let routers = RouterLoss::new(coefficient);
        let training = routers.collecting(Forward { dropout, activations, ..Forward::default() });
        let (hidden, head, ids) = of(&self.policy, training)?;
        let (teacher_hidden, teacher_head, _) = no_grad(|| of(&*self.teacher, Forward::default()))?;
        if teacher_hidden.isfinite().all().int64_value(&[]) == 0 {
            return Err(lost_teacher(&teacher_hidden, prompts, sampled, rows));
        }
        // Logits of a part of the tokens at a time: gradients of hidden states are collected, and go
        // through the layers once.
        let leaf = hidden.detach().set_requires_grad(true);
        let tokens = hidden.size()[0];
        let chunk = (CHUNK_ELEMENTS / head.weight.size()[0]).max(1);
        let mut sums = Sums::default();
        let mut start = 0;
        while start < tokens {
            let length = chunk.min(tokens - start);
            let logits = head.logits(&leaf.narrow(0, start, length)).to_kind(Kind::Float);
            let teacher = no_grad(|| {
                let hidden = teacher_hidden.narrow(0, start, length);
                let logits = teacher_head.logits(&hidden).to_kind(Kind::Float) / temperature;
                logits.to_device(leaf.device())
            });
            let student = logits / temperature;
            let sampled = ids.narrow(0, start, length).to_device(leaf.device());
            let loss = divergence.of_tokens(&student, &teacher, &sampled);
            let loss = loss.sum(Kind::Float);
            sums.loss += loss.double_value(&[]);
            sums.reverse_kl += no_grad(|| {
                TeacherDivergence::reverse_kl(&student, &teacher)
                    .sum(Kind::Double)
                    .double_value(&[])
            });
            (loss / total).backward();
            start += length;
        }
        let mut rest = (hidden * leaf.grad().detach()).sum(Kind::Float);
        if let Some(of_routers) = routers.of_pass()? {
            sums.routers = of_routers.double_value(&[]) * tokens as f64;
            rest += of_routers * (coefficient * tokens as f64 / total);
        }
        // Not if the head alone is trained.
        if rest.requires_grad() {
            rest.backward();
        }
        Ok(sums)
    }

    /// Writes everything that an uninterrupted run would have into a checkpoint.
    ///
    /// # Errors
    /// [`TrainError`] if a file cannot be written.
    pub fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        save_policy(files, &self.policy, &self.optimizer)?;
        let state = TrainerState {
            step: self.step,
            optimizer: self.optimizer.progress(),
            seed: self.config.seed.get(),
            generation: self.config.generation.clone(),
        };
        files.json("distill", &state)
    }

    /// Continues from a checkpoint, as if the run had not stopped.
    ///
    /// # Errors
    /// [`RlError::State`] for another seed or other sampling, [`RlError::Train`] if a file is
    /// missing or its tensors do not fit.
    pub fn restore(&mut self, saved: &Saved) -> Result<(), RlError> {
        let state: TrainerState = saved.json("distill")?;
        let config = &self.config;
        check_resumed((config.seed, &config.generation), (state.seed, state.generation))?;
        restore_policy(saved, &self.policy, &mut self.optimizer, state.optimizer)?;
        self.step = state.step;
        Ok(())
    }
}

/// The error for a teacher whose hidden states contain NaN or infinity, with the record of the first
/// such row. `hidden` has a row for each token of the responses, one response after the other.
fn lost_teacher(
    hidden: &Tensor,
    prompts: &[Prompt],
    sampled: &[Sampled],
    rows: &[usize],
) -> RlError {
    let mut start = 0;
    let lost = rows.iter().copied().find(|&row| {
        let length = sampled[row].ids.len() as i64;
        let finite = hidden.narrow(0, start, length).isfinite().all().int64_value(&[]) != 0;
        start += length;
        !finite
    });
    RlError::NotFinite { model: "teacher", row: place(prompts)(lost.unwrap_or(rows[0])) }
}
