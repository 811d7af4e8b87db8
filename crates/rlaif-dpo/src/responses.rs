//! Training and evaluation on single responses with one verdict each.

use rlaif_core::{Interrupted, Metrics};
use rlaif_lm::{Adapters, LmError, Policy, RouterLoss};
use rlaif_torch::dist::World;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use crate::{
    config::Objective,
    error::{DpoError, PairProblem},
    evaluate::PairShare,
    forward::{Batch, Pass, collected, reference_sums},
    loss::{ResponseSums, RunningMean, UnpairedLoss, unpaired},
    reference::ReferenceSums,
    rows::ResponseRow,
    stats::DpoStats,
    trainer::{DpoTrainer, by_length, wrong_rows},
};

/// A policy's numbers on one response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResponseOutcome {
    /// The row's id.
    pub id: String,
    /// 1 for a desirable response, -1 for an undesirable one.
    pub sign: f64,
    /// The implicit reward.
    pub reward: f64,
    /// Σ_t log π of the response.
    pub log_prob: f64,
}

/// A policy's numbers on held-out responses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResponseEvaluation {
    /// The loss over all responses as one batch.
    pub loss: f64,
    /// KTO's baseline over the responses, or BCO's δ; `None` for other losses.
    pub baseline: Option<f64>,
    /// The outcome of each response, in order.
    pub outcomes: Vec<ResponseOutcome>,
}

impl ResponseEvaluation {
    /// Share of responses whose implicit reward has the right sign; 0 counts half.
    pub fn accuracy(&self) -> PairShare {
        let verdict = |outcome: &ResponseOutcome| match outcome.sign * outcome.reward {
            right if right > 0. => 1.,
            0. => 0.5,
            _ => 0.,
        };
        let n = self.outcomes.len();
        PairShare::wilson(self.outcomes.iter().map(verdict).sum::<f64>() / n as f64, n)
    }

    /// The numbers under the names used for pairs: desirable responses stand for chosen ones.
    /// Numbers of a kind without responses are left out.
    pub fn metrics(&self) -> Metrics {
        let mean = |sign: f64, of: fn(&ResponseOutcome) -> f64| {
            let of_sign = self.outcomes.iter().filter(|outcome| outcome.sign == sign);
            let values: Vec<f64> = of_sign.map(of).collect();
            values.iter().sum::<f64>() / values.len() as f64
        };
        let [chosen, rejected] = [1., -1.].map(|sign| mean(sign, |outcome| outcome.reward));
        let [of_chosen, of_rejected] = [1., -1.].map(|sign| mean(sign, |outcome| outcome.log_prob));
        let numbers = [
            ("eval/loss", self.loss),
            ("eval/rewards/chosen", chosen),
            ("eval/rewards/rejected", rejected),
            ("eval/rewards/accuracies", self.accuracy().value),
            ("eval/rewards/margins", chosen - rejected),
            ("eval/logps/chosen", of_chosen),
            ("eval/logps/rejected", of_rejected),
            ("eval/kl", self.baseline.unwrap_or(f64::NAN)),
        ];
        numbers.into_iter().filter(|(_, value)| !value.is_nan()).collect()
    }
}

/// The choice between the two responses of a row.
#[derive(Debug, Clone, Copy)]
enum Which {
    Own,
    Mismatched,
}

/// A batch of responses, in the microbatches that it is computed in.
struct Parts<'a, P> {
    trainer: &'a DpoTrainer<P>,
    rows: &'a [&'a ResponseRow],
    /// The reference's two sums for each row.
    given: Option<&'a [[f32; 2]]>,
    places: Vec<Vec<usize>>,
}

impl<P: Policy> Parts<'_, P> {
    fn batch(&self, places: &[usize], which: Which) -> Result<Batch, DpoError> {
        let column = |of: &dyn Fn(&ResponseRow) -> &Vec<u32>| -> Vec<Vec<u32>> {
            places.iter().map(|&place| of(self.rows[place]).clone()).collect()
        };
        let responses = column(&|row| match which {
            Which::Own => &row.response,
            Which::Mismatched => &row.mismatched,
        });
        Batch::new(self.trainer.policy(), column(&|row| &row.prompt), &[responses])
    }

    /// The reference's sums `[N]` for a part.
    fn reference(
        &self,
        places: &[usize],
        which: Which,
        batch: &Batch,
        like: &Tensor,
    ) -> Result<Tensor, DpoError> {
        let given = self.given.map(|given| {
            let column = which as usize;
            let sums: Vec<f32> = places.iter().map(|&place| given[place][column]).collect();
            Tensor::from_slice(&sums)
        });
        self.trainer.sums_of_reference(batch, true, given, 1., like)
    }

    /// log π - log π_ref of every row of all ranks, without gradient.
    fn log_ratios(&self, which: Which, how: Pass) -> Result<Vec<f64>, DpoError> {
        let mut ratios = Vec::with_capacity(self.rows.len());
        for places in &self.places {
            let batch = self.batch(places, which)?;
            let policy = self.trainer.policy();
            let sums = reference_sums(policy, &batch, how, Adapters::Active, 1.)?;
            let reference = self.reference(places, which, &batch, &sums)?;
            ratios.extend(Vec::<f64>::try_from((sums - reference).to_kind(Kind::Double))?);
        }
        Ok(self.trainer.world().gather_numbers(ratios)?)
    }

    /// The inputs of the loss for one part, with the policy's graph, and its entropy summed up.
    fn sums(
        &self,
        places: &[usize],
        batch: &Batch,
        how: Pass,
        routers: &RouterLoss,
    ) -> Result<(ResponseSums, Tensor), DpoError> {
        let passed = collected(self.trainer.policy(), batch, how, routers)?;
        let policy = passed.sums(batch, 1.);
        let reference = self.reference(places, Which::Own, batch, &policy)?;
        let signs: Vec<f32> = places.iter().map(|&place| self.rows[place].sign()).collect();
        let signs = Tensor::from_slice(&signs).to_device(policy.device());
        let entropy = passed.tokens.entropy.detach().sum(Kind::Float);
        Ok((ResponseSums { policy, reference, signs }, entropy))
    }
}

impl<P: Policy> DpoTrainer<P> {
    fn unpaired(&self) -> Result<UnpairedLoss, DpoError> {
        match &self.config().objective {
            Objective::Unpaired(loss) => Ok(*loss),
            Objective::Pairs(_) => Err(wrong_rows("single responses", "an unpaired loss")),
        }
    }

    fn parts<'a>(
        &'a self,
        rows: &'a [&'a ResponseRow],
        given: Option<&'a [[f32; 2]]>,
        size: usize,
    ) -> Parts<'a, P> {
        let order = by_length(rows.iter().map(|row| row.prompt.len() + row.response.len()));
        let order = self.world().deal(&order);
        let places = order.chunks(size).map(<[usize]>::to_vec).collect();
        Parts { trainer: self, rows, given, places }
    }

    /// Updates the policy from a batch of single responses. `given` are the reference's two sums
    /// for each row, as returned by [`Self::reference_of_responses`].
    ///
    /// # Errors
    /// As [`Self::update_pairs`].
    pub fn update_responses(
        &mut self,
        rows: &[&ResponseRow],
        given: Option<&[[f32; 2]]>,
    ) -> Result<DpoStats, DpoError> {
        let loss = self.unpaired()?;
        check_responses(rows, loss)?;
        let how = self.config().pass();
        let parts = self.parts(rows, given, self.config().microbatch(rows.len()));
        let count = rows.len() as f64;

        // The shift is a mean over the whole batch without gradient, so it is computed first.
        let mut reward_shift = self.reward_shift();
        let shift = if loss.needs_baseline() {
            unpaired::kto_baseline(&parts.log_ratios(Which::Mismatched, how)?)
        } else if loss.tracks_reward_shift() {
            let ratios = parts.log_ratios(Which::Own, how)?;
            reward_shift.update(ratios.iter().sum::<f64>() * loss.beta() / count);
            reward_shift.mean
        } else {
            0.
        };

        let mut seen = Seen::default();
        let (mut tokens, mut of_routers) = (0, 0.);
        for places in &parts.places {
            Interrupted::check().map_err(LmError::from)?;
            let batch = parts.batch(places, Which::Own)?;
            tokens += batch.tokens(how.prompt_forward);
            let routers = self.routers();
            let (sums, entropy) = parts.sums(places, &batch, how, &routers)?;
            let part = loss.losses(&sums, shift).sum(Kind::Float) / count;
            of_routers += self.backward(&part, &routers, places.len() as f64 / count)?;
            seen.take(&sums, &batch, &entropy, &part, loss.beta());
        }
        let world = self.world();
        let mut totals = [tokens as f64, of_routers];
        world.sum(&mut totals)?;
        let mut stats = seen.stats(world)?;
        stats.baseline = (loss.needs_baseline() || loss.tracks_reward_shift()).then_some(shift);
        stats.tokens = totals[0] as u64;
        stats.router_aux_loss = self.reported(totals[1]);
        self.finish(&mut stats)?;
        self.set_reward_shift(reward_shift);
        Ok(stats)
    }

    /// Evaluates the policy on held-out responses, one microbatch at a time. `reference` are their
    /// reference sums; by default, the reference model runs.
    ///
    /// # Errors
    /// [`DpoError::NoRows`] without responses; else as [`Self::update_responses`].
    pub fn evaluate_responses(
        &self,
        rows: &[ResponseRow],
        reference: Option<&ReferenceSums>,
    ) -> Result<ResponseEvaluation, DpoError> {
        if rows.is_empty() {
            return Err(DpoError::NoRows { read: 0, skipped: String::new() });
        }
        let loss = self.unpaired()?;
        let all: Vec<&ResponseRow> = rows.iter().collect();
        check_responses(&all, loss)?;
        let how = self.config().pass().evaluating();
        let given = reference.map(ReferenceSums::rows);
        let parts = self.parts(&all, given, self.config().evaluation_batch());
        let (shift, baseline) = if loss.needs_baseline() {
            let baseline = unpaired::kto_baseline(&parts.log_ratios(Which::Mismatched, how)?);
            (baseline, Some(baseline))
        } else if loss.tracks_reward_shift() {
            let RunningMean { mean, .. } = self.reward_shift();
            (mean, Some(mean))
        } else {
            (0., None)
        };
        // The row, its reward and its log-probability.
        let mut found = Vec::new();
        let mut sum = [0.];
        for places in &parts.places {
            let batch = parts.batch(places, Which::Own)?;
            let (sums, _) = no_grad(|| parts.sums(places, &batch, how, &RouterLoss::new(0.)))?;
            sum[0] += f64::try_from(loss.losses(&sums, shift).sum(Kind::Double))?;
            let rewards = (&sums.policy - &sums.reference) * loss.beta();
            let column = |x: &Tensor| Vec::<f64>::try_from(x.to_kind(Kind::Double));
            let (rewards, log_probs) = (column(&rewards)?, column(&sums.policy)?);
            for ((&place, reward), log_prob) in places.iter().zip(rewards).zip(log_probs) {
                found.extend([place as f64, reward, log_prob]);
            }
        }
        let world = self.world();
        world.sum(&mut sum)?;
        let mut outcomes: Vec<Option<ResponseOutcome>> = vec![None; rows.len()];
        let found = world.gather_numbers(found)?;
        for &[place, reward, log_prob] in found.as_chunks::<3>().0 {
            let place = place as usize;
            let row = &rows[place];
            let sign = f64::from(row.sign());
            outcomes[place] = Some(ResponseOutcome { id: row.id.clone(), sign, reward, log_prob });
        }
        let outcomes = outcomes.into_iter().flatten().collect();
        Ok(ResponseEvaluation { loss: sum[0] / rows.len() as f64, baseline, outcomes })
    }
}

/// Tensors kept for the batch's metrics, on their device, so that the host waits for the device
/// only once.
#[derive(Default)]
struct Seen {
    rows: Vec<[Tensor; 3]>,
    numbers: Vec<Tensor>,
}

impl Seen {
    fn take(
        &mut self,
        x: &ResponseSums,
        batch: &Batch,
        entropy: &Tensor,
        loss: &Tensor,
        beta: f64,
    ) {
        let policy = x.policy.detach();
        let rewards = (&policy - &x.reference) * beta;
        self.rows.push([rewards, policy, x.signs.shallow_clone()]);
        let numbers = [
            loss.detach().to_kind(Kind::Float),
            entropy.shallow_clone(),
            batch.lengths().sum(Kind::Float),
        ];
        self.numbers.push(Tensor::stack(&numbers, 0));
    }

    fn stats(&self, world: &World) -> Result<DpoStats, DpoError> {
        let column = |k: usize| {
            let mut own = Vec::new();
            for row in &self.rows {
                own.extend(Vec::<f64>::try_from(row[k].to_kind(Kind::Double))?);
            }
            Ok::<_, DpoError>(world.gather_numbers(own)?)
        };
        let (rewards, policy, signs) = (column(0)?, column(1)?, column(2)?);
        let mut totals = vec![0.; 3];
        if !self.numbers.is_empty() {
            let sums = Tensor::stack(&self.numbers, 0).sum_dim_intlist(0, false, Kind::Float);
            totals = Vec::<f64>::try_from(sums.to_kind(Kind::Double))?;
        }
        world.sum(&mut totals)?;
        let mean = |values: &[f64], sign: f64| {
            let of: Vec<f64> =
                values.iter().zip(&signs).filter(|(_, s)| **s == sign).map(|(v, _)| *v).collect();
            of.iter().sum::<f64>() / of.len() as f64
        };
        let right = rewards.iter().zip(&signs).filter(|(r, s)| *r * *s > 0.).count();
        let (reward_chosen, reward_rejected) = (mean(&rewards, 1.), mean(&rewards, -1.));
        Ok(DpoStats {
            loss: totals[0],
            reward_chosen,
            reward_rejected,
            accuracy: right as f64 / rewards.len() as f64,
            margin: reward_chosen - reward_rejected,
            log_prob_chosen: mean(&policy, 1.),
            log_prob_rejected: mean(&policy, -1.),
            logit_chosen: f64::NAN,
            logit_rejected: f64::NAN,
            entropy: totals[1] / totals[2],
            nll: f64::NAN,
            ..DpoStats::default()
        })
    }
}

fn check_responses(rows: &[&ResponseRow], loss: UnpairedLoss) -> Result<(), DpoError> {
    for row in rows {
        let problem = if row.response.is_empty() {
            PairProblem::EmptyResponse
        } else if loss.needs_baseline() && row.mismatched.is_empty() {
            PairProblem::NoMismatch
        } else {
            continue;
        };
        return Err(DpoError::Pair { id: row.id.clone(), problem });
    }
    Ok(())
}
