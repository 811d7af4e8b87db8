//! Collects groups of responses with scores, and replaces groups without a learning signal.

use std::time::Instant;

use rlaif_core::{RewardModel, Score, Scores};
use rlaif_lm::{
    Draw, Policy, Sampled, Sampler, SamplerCall, Weights,
    generate::{GenerationConfig, Sampling},
    place,
};
use rlaif_rl::{Prompt, RlError, ScoreConfig, play, score};

use crate::{config::ReinforceConfig, curriculum::Solved, named::Settings};

/// Sampled groups; the rows of a group are consecutive.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) sampled: Vec<Sampled>,
    pub(crate) scores: Scores,
    pub(crate) left_out: usize,
    /// Solved responses of each sampled group, with a curriculum.
    pub(crate) solved: Vec<Solved>,
    pub(crate) seconds: Vec<(&'static str, f64)>,
}

/// The source of responses and scores, at one step.
pub(crate) struct Source<'a> {
    pub(crate) sampler: &'a mut dyn Sampler,
    pub(crate) reward: &'a dyn RewardModel,
    pub(crate) policy: &'a dyn Policy,
    pub(crate) config: &'a ReinforceConfig,
    pub(crate) step: u64,
}

impl Source<'_> {
    /// Samples a group for each prompt. With dynamic sampling, groups without a learning signal
    /// are replaced by groups for prompts of `spare`.
    pub(crate) fn collect(
        &mut self,
        prompts: &[Prompt],
        spare: &mut dyn Iterator<Item = Prompt>,
    ) -> Result<Collected, RlError> {
        let Settings { group_size, dynamic_sampling, overlong, .. } = self.config.settings();
        let wanted = prompts.len();
        let mut all = Collected {
            prompts: Vec::new(),
            sampled: Vec::new(),
            scores: Scores::default(),
            left_out: 0,
            solved: Vec::new(),
            seconds: vec![("generate", 0.), ("reward", 0.)],
        };
        let mut asked = prompts.to_vec();
        for round in 0..=dynamic_sampling.rounds {
            let rows = asked.iter().flat_map(|prompt| vec![prompt.clone(); group_size]);
            let rows: Vec<Prompt> = rows.collect();
            let (sampled, scores) = self.answers(&rows, round as u64, &mut all.seconds)?;
            if let Some(curriculum) = &self.config.curriculum {
                let groups = asked.iter().zip(scores.total.chunks(group_size));
                all.solved.extend(groups.map(|(prompt, scores)| {
                    Solved::count(&prompt.record.id, scores, curriculum.solved_at)
                }));
            }
            let keep: Vec<usize> = (0..asked.len())
                .filter(|&group| {
                    let of = group * group_size..(group + 1) * group_size;
                    dynamic_sampling.rounds == 0 || differ(&scores.total[of])
                })
                .flat_map(|group| group * group_size..(group + 1) * group_size)
                .collect();
            all.left_out += asked.len() - keep.len() / group_size;
            all.add(&rows, sampled, &scores, &keep);
            let missing = wanted - all.prompts.len() / group_size;
            if missing == 0 || round == dynamic_sampling.rounds {
                break;
            }
            asked = spare.take(missing).collect();
            if asked.is_empty() {
                break;
            }
        }
        if all.prompts.is_empty() {
            return Ok(all);
        }
        if let Some(overlong) = overlong {
            let lengths = all.sampled.iter().map(Sampled::own_tokens);
            let penalties: Vec<f64> = lengths.map(|n| overlong.penalty(n)).collect();
            add_part(&mut all.scores, "overlong", &penalties);
        }
        Ok(all)
    }

    fn answers(
        &mut self,
        rows: &[Prompt],
        round: u64,
        seconds: &mut [(&'static str, f64)],
    ) -> Result<(Vec<Sampled>, Scores), RlError> {
        let start = Instant::now();
        let seed = self.config.seed.derive("rollout", round);
        let how = &self.config.generation;
        let draw = Draw { seed, step: self.step };
        let weights = Weights { version: self.step, ..Weights::of(self.policy) };
        let sampled = play(self.sampler, rows, SamplerCall { weights, how, draw })?;
        seconds[0].1 += start.elapsed().as_secs_f64();
        let start = Instant::now();
        let scores = score(rows, &sampled, self.reward)?;
        seconds[1].1 += start.elapsed().as_secs_f64();
        Ok((sampled, scores))
    }

    /// The score of the greedy response to each row's prompt. The prompts come in groups.
    pub(crate) fn greedy(
        &mut self,
        rows: &[Prompt],
        group_size: usize,
    ) -> Result<Vec<Option<f64>>, RlError> {
        let prompts: Vec<Prompt> = rows.iter().step_by(group_size).cloned().collect();
        let how = GenerationConfig { sampling: Sampling::Greedy, ..self.config.generation.clone() };
        let draw = Draw { seed: self.config.seed.derive("greedy", 0), step: self.step };
        let weights = Weights { version: self.step, ..Weights::of(self.policy) };
        let sampled = play(self.sampler, &prompts, SamplerCall { weights, how: &how, draw })?;
        let mut scores = score(&prompts, &sampled, self.reward)?;
        if let Some(overlong) = self.config.settings().overlong {
            let penalties: Vec<f64> =
                sampled.iter().map(|response| overlong.penalty(response.own_tokens())).collect();
            add_part(&mut scores, "overlong", &penalties);
        }
        let ended: Vec<bool> = sampled.iter().map(Sampled::is_finished).collect();
        let config = ScoreConfig { ..self.config.scores };
        let scores = config.resolve(self.reward.name(), &scores, &ended);
        let mut scores = scores.map_err(|error| error.in_row(place(&prompts)))?;
        config.shape(&mut scores, &mut Default::default());
        Ok(scores.into_iter().flat_map(|score| vec![score; group_size]).collect())
    }
}

impl Collected {
    /// Share of solved responses among those with a score.
    pub(crate) fn pass_rate(&self) -> Option<f64> {
        let sum = |of: fn(&Solved) -> usize| self.solved.iter().map(of).sum::<usize>();
        let scored = sum(|group| group.scored);
        (scored > 0).then(|| sum(|group| group.solved) as f64 / scored as f64)
    }

    fn add(&mut self, rows: &[Prompt], sampled: Vec<Sampled>, scores: &Scores, keep: &[usize]) {
        let known = self.prompts.len();
        self.prompts.extend(keep.iter().map(|&row| rows[row].clone()));
        let mut kept = keep.iter().copied().peekable();
        for (row, response) in sampled.into_iter().enumerate() {
            if kept.next_if_eq(&row).is_some() {
                self.sampled.push(response);
            }
        }
        let n = self.prompts.len();
        let mut both = std::mem::take(&mut self.scores).scatter(&(0..known).collect::<Vec<_>>(), n);
        both.fill_from(scores.gather(keep), &(known..n).collect::<Vec<_>>());
        self.scores = both;
    }
}

/// `true` if at least two of the scores differ.
fn differ(scores: &[Option<Score>]) -> bool {
    let mut given = scores.iter().flatten();
    let first = given.next();
    given.any(|score| Some(score) != first)
}

/// Adds a number to each score, and records it as a part of the score.
fn add_part(scores: &mut Scores, name: &str, numbers: &[f64]) {
    for (score, number) in scores.total.iter_mut().zip(numbers) {
        *score = score.and_then(|score| Score::new(score.get() + *number as f32).ok());
    }
    let part = numbers.iter().map(|number| Score::new(*number as f32).ok()).collect();
    scores.parts.push((name.to_owned(), part));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_that_are_missing_do_not_make_a_group_differ() {
        let of = |values: &[Option<f32>]| -> Vec<Option<Score>> {
            values.iter().map(|v| v.map(|v| Score::new(v).unwrap())).collect()
        };
        assert!(!differ(&of(&[Some(1.), None, Some(1.)])));
        assert!(!differ(&of(&[None, None])));
        assert!(differ(&of(&[None, Some(1.), Some(0.)])));
    }
}
