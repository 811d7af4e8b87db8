//! The prompts of a step by their measured difficulty.

use std::collections::BTreeMap;

use rlaif_core::{BadSetting, Score, Seed};
use rlaif_rl::{Prompt, RlError, permutation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Prompts from easy to hard, without those that are always or never solved. The difficulty of a
/// prompt is its pass rate, the share of responses with a score of at least `solved_at`, when it was
/// sampled last.
///
/// In step t, counted from 0, the prompts are the easiest `min(1, start + (1 − start) t / steps)` of
/// those that are not left out ([Platanios et al. 2019](https://arxiv.org/abs/1903.09848), linear).
/// A prompt without a pass rate counts as the easiest, and so is tried soon. Prompts of the usual order
/// that are not among them are replaced; if too few are left, harder ones follow, then those left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Curriculum {
    /// A column of the prompts with a pass rate that was measured before, from 0 to 1; null for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The lowest score of a solved response.
    pub solved_at: f64,
    /// Share of the prompts in the first step: the easiest.
    pub start: f64,
    /// Number of steps until all prompts are used.
    pub steps: u64,
    /// Number of consecutive groups of a prompt without an unsolved response, or without a solved one,
    /// after which it is left out; 0 leaves no prompt out.
    pub leave_out_after: u64,
    /// Number of steps after which a prompt that was left out is tried again; 0 for never.
    pub return_after: u64,
}

impl Default for Curriculum {
    fn default() -> Self {
        Self {
            column: None,
            solved_at: 1.,
            start: 1.,
            steps: 0,
            leave_out_after: 0,
            return_after: 0,
        }
    }
}

impl Curriculum {
    /// Checks the numbers.
    pub(crate) fn check(&self) -> Result<(), RlError> {
        let wrong = |field: &'static str, found: f64, expected: &'static str| {
            Err(BadSetting::new(field, found, expected).into())
        };
        if !(self.start > 0. && self.start <= 1.) {
            return wrong("curriculum.start", self.start, "more than 0 and at most 1");
        }
        if !self.solved_at.is_finite() {
            return wrong("curriculum.solved_at", self.solved_at, "a finite score");
        }
        if self.start < 1. && self.steps == 0 {
            let expected =
                "at least 1 with a `start` below 1: the steps until all prompts are used";
            return Err(BadSetting::new("curriculum.steps", 0, expected).into());
        }
        if self.return_after > 0 && self.leave_out_after == 0 {
            let expected = "0 without `leave_out_after`: no prompt is left out";
            return Err(
                BadSetting::new("curriculum.return_after", self.return_after, expected).into()
            );
        }
        Ok(())
    }

    /// Share of the prompts that a step uses.
    ///
    /// ```
    /// let curriculum = rlaif_reinforce::Curriculum { start: 0.25, steps: 10, ..Default::default() };
    /// assert_eq!([0, 5, 10, 99].map(|step| curriculum.share(step)), [0.25, 0.625, 1., 1.]);
    /// ```
    pub fn share(&self, step: u64) -> f64 {
        if step >= self.steps {
            return 1.;
        }
        self.start + (1. - self.start) * step as f64 / self.steps as f64
    }

    /// The pass rate in the column of a prompt.
    fn before(&self, prompt: &Prompt) -> Option<f64> {
        prompt.record.metadata.get(self.column.as_ref()?)?.as_f64()
    }
}

/// The last measurement of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    /// Share of solved responses.
    rate: f64,
    /// Consecutive groups with this rate, if it is 0 or 1.
    streak: u64,
    /// The step in which it was sampled last.
    step: u64,
}

/// Pass rates of prompts, by the ids of their records.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct PassRates(BTreeMap<String, Measured>);

/// Solved responses of a group, and those with a score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Solved {
    pub(crate) id: String,
    pub(crate) solved: usize,
    pub(crate) scored: usize,
}

impl Solved {
    /// Counts the scores of a group that are at least a number.
    pub(crate) fn count(id: &str, scores: &[Option<Score>], at_least: f64) -> Self {
        let scored = scores.iter().flatten();
        let solved = scored.clone().filter(|score| f64::from(score.get()) >= at_least).count();
        Self { id: id.to_owned(), solved, scored: scored.count() }
    }
}

/// The prompts of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// Rows of the batch.
    pub(crate) rows: Vec<usize>,
    /// Others, in a random order.
    pub(crate) spare: Vec<usize>,
    /// Number of prompts that the step may use.
    pub(crate) pool: usize,
    /// Number of prompts that are left out because they are always solved, and never.
    pub(crate) left_out: [usize; 2],
}

impl PassRates {
    /// Adds the samples of a step. A group without any score does not count.
    pub(crate) fn observe(&mut self, step: u64, groups: &[Solved]) {
        for group in groups.iter().filter(|group| group.scored > 0) {
            let rate = group.solved as f64 / group.scored as f64;
            let before = self.0.get(&group.id).filter(|before| before.rate == rate);
            let decided = group.solved == 0 || group.solved == group.scored;
            let streak = if decided { 1 + before.map_or(0, |before| before.streak) } else { 0 };
            self.0.insert(group.id.clone(), Measured { rate, streak, step });
        }
    }

    /// `true` before any measurement.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pass rate of a prompt that is left out in a step.
    fn leaves_out(&self, curriculum: &Curriculum, id: &str, step: u64) -> Option<f64> {
        let measured = self.0.get(id).filter(|_| curriculum.leave_out_after > 0)?;
        let returned =
            curriculum.return_after > 0 && step > measured.step + curriculum.return_after;
        (measured.streak >= curriculum.leave_out_after && !returned).then_some(measured.rate)
    }

    /// The prompts of a step, in place of those of the usual order.
    pub(crate) fn choose(
        &self,
        curriculum: &Curriculum,
        prompts: &[Prompt],
        rows: &[usize],
        step: u64,
        seed: Seed,
    ) -> Chosen {
        let mut left_out = [0; 2];
        let mut ranked = Vec::new();
        // Of equally difficult prompts, always the same ones are first.
        let ties = permutation(prompts.len(), seed.derive("ties", 0));
        for (row, prompt) in prompts.iter().enumerate() {
            let id = &prompt.record.id;
            if let Some(rate) = self.leaves_out(curriculum, id, step) {
                left_out[usize::from(rate == 0.)] += 1;
                continue;
            }
            let measured = self.0.get(id).map(|measured| measured.rate);
            let rate = measured.or_else(|| curriculum.before(prompt)).unwrap_or(1.);
            ranked.push((row, rate, ties[row]));
        }
        ranked.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.2.cmp(&b.2)));
        let share = curriculum.share(step) * ranked.len() as f64;
        let pool = (share.ceil() as usize).min(ranked.len());
        // 0 within the pool, then harder prompts, then those left out.
        let mut tiers = vec![2; prompts.len()];
        for (place, (row, ..)) in ranked.iter().enumerate() {
            tiers[*row] = usize::from(place >= pool);
        }
        let mut taken = vec![false; prompts.len()];
        rows.iter().filter(|&&row| tiers[row] == 0).for_each(|&row| taken[row] = true);
        let mut order = permutation(prompts.len(), seed.derive("others", step));
        order.retain(|&row| !taken[row]);
        order.sort_by_key(|&row| tiers[row]);
        let mut order = order.into_iter();
        let rows = rows
            .iter()
            .map(|&row| if taken[row] { row } else { order.next().unwrap_or(row) })
            .collect();
        let spare = order.filter(|&row| tiers[row] < 2).collect();
        Chosen { rows, spare, pool, left_out }
    }
}

#[cfg(test)]
mod tests {
    use rlaif_core::PromptRecord;
    use serde_json::json;

    use super::*;

    fn prompts(rates: &[Option<f64>]) -> Vec<Prompt> {
        let prompt = |(row, rate): (usize, &Option<f64>)| {
            let mut record = PromptRecord::new(format!("p{row}"), "?");
            record.metadata.insert("rate".to_owned(), json!(rate));
            Prompt::new(record, vec![3])
        };
        rates.iter().enumerate().map(prompt).collect()
    }

    fn solved(id: &str, solved: usize, scored: usize) -> Solved {
        Solved { id: id.to_owned(), solved, scored }
    }

    const SEED: Seed = Seed::new(4);

    #[test]
    fn easy_prompts_come_first_and_hard_ones_later() {
        let prompts = prompts(&[Some(0.1), Some(0.9), Some(0.5), Some(0.7), None]);
        let curriculum = Curriculum {
            column: Some("rate".to_owned()),
            start: 0.4,
            steps: 10,
            ..Curriculum::default()
        };
        let rates = PassRates::default();
        let of = |rows: &[usize], step| rates.choose(&curriculum, &prompts, rows, step, SEED);
        // Two of five: the one that is not measured, and the easiest.
        let first = of(&[0, 1], 0);
        assert_eq!((first.pool, first.rows), (2, vec![4, 1]));
        assert_eq!(of(&[4, 1], 0).rows, [4, 1], "prompts of the pool keep their places");
        // More than the pool has: harder ones follow.
        let mut three = of(&[0, 2, 3], 0).rows;
        three.sort_unstable();
        assert!(three.contains(&4) && three.contains(&1) && three.len() == 3, "{three:?}");
        let last = of(&[0, 2], 10);
        assert_eq!((last.pool, last.rows, last.spare.len()), (5, vec![0, 2], 3));
        // What was measured in the run counts more than the column.
        let mut now = PassRates::default();
        now.observe(0, &[solved("p0", 4, 4), solved("p1", 0, 4), solved("p4", 1, 4)]);
        let mut easiest = now.choose(&curriculum, &prompts, &[1, 4], 0, SEED).rows;
        easiest.sort_unstable();
        assert_eq!(easiest, [0, 3]);
    }

    #[test]
    fn prompts_that_are_always_or_never_solved_are_left_out_until_they_return() {
        let prompts = prompts(&[None; 6]);
        let curriculum =
            Curriculum { leave_out_after: 2, return_after: 5, ..Curriculum::default() };
        let mut rates = PassRates::default();
        for step in 0..2 {
            let groups = [
                solved("p0", 4, 4),
                solved("p1", 0, 3),
                solved("p2", 1, 4),
                // Without a score, nothing is measured.
                solved("p3", 0, 0),
                solved("p4", if step == 0 { 4 } else { 0 }, 4),
            ];
            let before = rates.choose(&curriculum, &prompts, &[0, 1], step, SEED);
            assert_eq!((before.pool, before.left_out), (6, [0, 0]));
            rates.observe(step, &groups);
        }
        let chosen = rates.choose(&curriculum, &prompts, &[0, 1, 2], 2, SEED);
        assert_eq!((chosen.pool, chosen.left_out), (4, [1, 1]));
        assert!(chosen.rows[2] == 2 && !chosen.rows.contains(&0) && !chosen.rows.contains(&1));
        assert!(!chosen.spare.contains(&0) && !chosen.spare.contains(&1));
        // A step needs its prompts, even if all others are left out.
        let all = rates.choose(&curriculum, &prompts, &[0, 1, 2, 3, 4, 5], 2, SEED).rows;
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 6);
        assert_eq!(rates.choose(&curriculum, &prompts, &[0], 6, SEED).left_out, [1, 1]);
        assert_eq!(rates.choose(&curriculum, &prompts, &[0], 7, SEED).left_out, [0, 0]);
        // Tried again with the same result, it is left out at once.
        rates.observe(7, &[solved("p0", 4, 4), solved("p1", 2, 4)]);
        assert_eq!(rates.choose(&curriculum, &prompts, &[0], 8, SEED).left_out, [1, 0]);
    }

    #[test]
    fn scores_that_are_missing_are_neither_solved_nor_unsolved() {
        let scores = [Some(1.), None, Some(0.5)].map(|v| v.map(|v| Score::new(v).unwrap()));
        assert_eq!(Solved::count("a", &scores, 1.), solved("a", 1, 2));
        assert_eq!(Solved::count("a", &scores, 0.5), solved("a", 2, 2));
    }
}
