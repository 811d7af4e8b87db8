//! Collects groups of responses with scores, and replaces groups without a learning signal.

use std::time::Instant;

use rlaif_core::{RewardModel, Score, Scores};
use rlaif_lm::{
    Draw, Policy, Sampled, Sampler, SamplerCall, Weights,
    generate::{GenerationConfig, Sampling},
    place,
};
use rlaif_rl::{Prompt, RlError, ScoreConfig, play, score};

use crate::{
    config::ReinforceConfig,
    curriculum::Solved,
    group::{Group, Steps},
    named::Settings,
};

/// Sampled groups.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) groups: Vec<Group>,
    /// Number of groups that were left out because all their scores are equal.
    pub(crate) left_out: usize,
    /// Solved responses of each sampled group, with a curriculum.
    pub(crate) solved: Vec<Solved>,
    pub(crate) seconds: Vec<(&'static str, f64)>,
}

/// The prompts of a step.
pub(crate) struct Asked<'a> {
    pub(crate) prompts: &'a [Prompt],
    /// Further prompts, for dynamic sampling.
    pub(crate) spare: &'a mut dyn Iterator<Item = Prompt>,
}

/// The source of responses and scores, at one step.
pub(crate) struct Source<'a> {
    pub(crate) sampler: &'a mut dyn Sampler,
    pub(crate) reward: &'a dyn RewardModel,
    pub(crate) policy: &'a dyn Policy,
    pub(crate) config: &'a ReinforceConfig,
    /// The step for which the responses are sampled.
    pub(crate) step: u64,
    /// The version of the policy's weights.
    pub(crate) version: u64,
    /// `true` if the algorithm compares with greedy responses.
    pub(crate) greedy: bool,
}

impl Source<'_> {
    /// Samples a group for each prompt. With dynamic sampling, groups without a learning signal
    /// are replaced by groups for prompts of `spare`.
    pub(crate) fn collect(&mut self, asked: Asked<'_>) -> Result<Collected, RlError> {
        let Settings { group_size, dynamic_sampling, overlong, .. } = self.config.settings();
        let wanted = asked.prompts.len();
        let mut all = Collected {
            groups: Vec::new(),
            left_out: 0,
            solved: Vec::new(),
            seconds: vec![("generate", 0.), ("reward", 0.)],
        };
        let Asked { prompts, spare } = asked;
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
            let mut groups = self.groups(asked, sampled, &scores)?;
            let found = groups.len();
            groups.retain(|group| dynamic_sampling.rounds == 0 || group.differs());
            all.left_out += found - groups.len();
            all.groups.extend(groups);
            let missing = wanted - all.groups.len();
            if missing == 0 || round == dynamic_sampling.rounds {
                break;
            }
            asked = spare.take(missing).collect();
            if asked.is_empty() {
                break;
            }
        }
        for group in all.groups.iter_mut().filter(|_| overlong.is_some()) {
            let lengths = group.sampled.iter().map(Sampled::own_tokens);
            let penalties: Vec<f64> =
                lengths.map(|n| overlong.map_or(0., |overlong| overlong.penalty(n))).collect();
            add_part(&mut group.scores, "overlong", &penalties);
        }
        if self.greedy && !all.groups.is_empty() {
            let prompts: Vec<Prompt> =
                all.groups.iter().map(|group| group.prompt.clone()).collect();
            let scores = self.greedy(&prompts)?;
            for (group, score) in all.groups.iter_mut().zip(scores) {
                group.greedy = Some(score);
            }
        }
        Ok(all)
    }

    /// The groups of consecutive rows.
    fn groups(
        &self,
        prompts: Vec<Prompt>,
        sampled: Vec<Sampled>,
        scores: &Scores,
    ) -> Result<Vec<Group>, RlError> {
        let steps = steps_of(&sampled, scores, self.sampler)?;
        let size = sampled.len() / prompts.len().max(1);
        let mut steps = steps.map(Vec::into_iter);
        let mut sampled = sampled.into_iter();
        let of_group = |(at, prompt)| Group {
            prompt,
            sampled: sampled.by_ref().take(size).collect(),
            scores: scores.gather(&(at * size..(at + 1) * size).collect::<Vec<_>>()),
            greedy: None,
            steps: steps.as_mut().map(|steps| steps.take(size).collect()),
        };
        Ok(prompts.into_iter().enumerate().map(of_group).collect())
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
        let weights = Weights { version: self.version, ..Weights::of(self.policy) };
        let sampled = play(self.sampler, rows, SamplerCall { weights, how, draw })?;
        seconds[0].1 += start.elapsed().as_secs_f64();
        let start = Instant::now();
        let scores = score(rows, &sampled, self.reward)?;
        seconds[1].1 += start.elapsed().as_secs_f64();
        Ok((sampled, scores))
    }

    /// The score of the greedy response to each prompt.
    fn greedy(&mut self, prompts: &[Prompt]) -> Result<Vec<Option<f64>>, RlError> {
        let how = GenerationConfig { sampling: Sampling::Greedy, ..self.config.generation.clone() };
        let draw = Draw { seed: self.config.seed.derive("greedy", 0), step: self.step };
        let weights = Weights { version: self.version, ..Weights::of(self.policy) };
        let sampled = play(self.sampler, prompts, SamplerCall { weights, how: &how, draw })?;
        let mut scores = score(prompts, &sampled, self.reward)?;
        if let Some(overlong) = self.config.settings().overlong {
            let penalties: Vec<f64> =
                sampled.iter().map(|response| overlong.penalty(response.own_tokens())).collect();
            add_part(&mut scores, "overlong", &penalties);
        }
        let ended: Vec<bool> = sampled.iter().map(Sampled::is_finished).collect();
        let config = ScoreConfig { ..self.config.scores };
        let scores = config.resolve(self.reward.name(), &scores, &ended);
        let mut scores = scores.map_err(|error| error.in_row(place(prompts)))?;
        config.shape(&mut scores, &mut Default::default());
        Ok(scores)
    }
}

impl Collected {
    /// Share of solved responses among those with a score.
    pub(crate) fn pass_rate(&self) -> Option<f64> {
        let sum = |of: fn(&Solved) -> usize| self.solved.iter().map(of).sum::<usize>();
        let scored = sum(|group| group.scored);
        (scored > 0).then(|| sum(|group| group.solved) as f64 / scored as f64)
    }
}

/// The steps of responses; `None` if the reward scores no steps.
fn steps_of(
    sampled: &[Sampled],
    scores: &Scores,
    sampler: &dyn Sampler,
) -> Result<Option<Vec<Steps>>, RlError> {
    if scores.steps.is_empty() {
        return Ok(turns_of(sampled));
    }
    let mut all = vec![Vec::new(); sampled.len()];
    for (row, steps) in &scores.steps {
        let Some((response, of_row)) = sampled.get(*row).zip(all.get_mut(*row)) else {
            continue;
        };
        // The reward has read the last turn of an episode.
        let given = response.played.as_ref().and_then(|played| played.given.last());
        let begin = given.map_or(0, |range| range.end);
        for step in steps {
            let tokens = sampler.tokens_before(&response.ids[begin..], step.end)?;
            let tokens = begin + tokens.ok_or(RlError::NoTokensOfSteps)?.max(1);
            of_row.push((tokens - 1, f64::from(step.score.get())));
        }
        // The closing tokens belong to the last step.
        if let Some((last, _)) = of_row.last_mut() {
            *last = response.ids.len().saturating_sub(1);
        }
    }
    Ok(Some(all))
}

/// The turns of episodes as steps; `None` without episodes.
fn turns_of(sampled: &[Sampled]) -> Option<Vec<Steps>> {
    let of_row = |response: &Sampled| response.played.as_ref().map(|played| played.rewards.clone());
    let turns: Vec<_> = sampled.iter().map(of_row).collect();
    let any = turns.iter().any(Option::is_some);
    any.then(|| turns.into_iter().map(Option::unwrap_or_default).collect())
}

/// Adds a number to each score, and records it as a part of the score.
fn add_part(scores: &mut Scores, name: &str, numbers: &[f64]) {
    for (score, number) in scores.total.iter_mut().zip(numbers) {
        *score = score.and_then(|score| Score::new(score.get() + *number as f32).ok());
    }
    let part = numbers.iter().map(|number| Score::new(*number as f32).ok()).collect();
    scores.parts.push((name.to_owned(), part));
}
