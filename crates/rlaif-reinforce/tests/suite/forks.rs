//! Episodes under a chat template that rewrites earlier turns.

use std::sync::Arc;

use rlaif_core::{
    CodecError, GenerationPrompt, Message, PromptRecord, Seed, Specials, TextCodec, TextKind,
};
use rlaif_lm::{
    Forward, Layout, LmError, LocalSampler, Padding, Policy, Sampled, TokenBatch, policy_log_probs,
};
use rlaif_reinforce::{
    Experience, NamedAlgorithm, ReinforceConfig,
    rl::{EpisodeConfig, EpisodeSampler, History, Prompt, RlError, Stats},
};
use tch::{Kind, Tensor};

use crate::{
    common::{Family, Letters, alone, distance, host, policy, prompts, trainer, weights},
    episodes::{Talk, nothing, turns_of_three},
};

/// Letters with a chat template that leaves the first letter alone of every turn of the policy but the last
/// message.
struct Forgets;

impl TextCodec for Forgets {
    fn name(&self) -> &'static str {
        "forgets"
    }

    fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, CodecError> {
        Letters.encode(text, specials)
    }

    fn decode(&self, ids: &[u32], specials: Specials) -> Result<String, CodecError> {
        Letters.decode(ids, specials)
    }

    fn render_chat(&self, messages: &[Message], _: GenerationPrompt) -> Result<String, CodecError> {
        let of = |(at, message): (usize, &Message)| match message.role.as_str() {
            "assistant" if at + 1 < messages.len() => message.content.chars().take(1).collect(),
            _ => message.content.clone(),
        };
        Ok(messages.iter().enumerate().map(of).collect())
    }
}

/// The prompts as conversations.
fn conversations() -> Vec<Prompt> {
    let chat = |prompt: Prompt| {
        let text = prompt.record.prompt.clone();
        let messages = vec![Message::new("user", &text)];
        let id = &prompt.record.id;
        let record = PromptRecord::new(id, text);
        Prompt::new(
            PromptRecord { messages, kind: TextKind::Rendered, ..record },
            prompt.ids.to_vec(),
        )
    };
    prompts(0, 4).into_iter().map(chat).collect()
}

fn talk(turns: usize, config: EpisodeConfig) -> EpisodeSampler<'static> {
    let config = EpisodeConfig { history: History::Fork, ..config };
    let environment = Arc::new(Talk(turns));
    EpisodeSampler::new(LocalSampler::new(&Forgets), environment, &Forgets, config, Seed::new(3))
}

fn step(config: ReinforceConfig, episodes: EpisodeConfig) -> (Experience, Stats, Vec<Tensor>) {
    let mut trainer = trainer(Family::Llama, config);
    let (prompts, none) = (conversations(), &mut std::iter::empty());
    let mut sampler = talk(3, episodes);
    let (experience, stats) = trainer.step(&prompts, none, &mut sampler, &nothing).unwrap();
    (experience.unwrap(), stats, weights(&trainer))
}

/// The starts and ends of the sequences of a response, and its own tokens in each.
fn parts(lengths: &[usize]) -> Vec<(usize, usize)> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some((*end - length, *end))
    });
    ends.collect()
}

#[test]
fn each_turn_is_trained_behind_what_it_was_sampled_behind() {
    let _alone = alone();
    let config = turns_of_three(NamedAlgorithm::Grpo);
    let (experience, stats, _) = step(config, EpisodeConfig::default());
    let rollout = &experience.rollout;
    let policy = policy(Family::Llama, 5);
    let found = Vec::<Vec<f64>>::try_from(rollout.log_probs.to_kind(Kind::Double)).unwrap();
    let mut forks = 0;
    for (row, ids) in rollout.responses.rows().iter().enumerate() {
        let parts = parts(&rollout.responses.segments().unwrap()[row]);
        forks += parts.len() - 1;
        let mut history = rollout.records[row].prompt.clone();
        for (at, &(start, end)) in parts.iter().enumerate() {
            let mut context = rollout.prompts.rows()[row].clone();
            let mut turns = start..end;
            if at > 0 {
                let anew = rollout.given[row].iter().find(|given| given.start == start).unwrap();
                // The conversation as the template writes it.
                assert_eq!(ids[anew.clone()], Letters.encode(&history, Specials::Exclude).unwrap());
                (context, turns) = (ids[anew.clone()].to_vec(), anew.end..end);
            }
            // A sequence of its own.
            let x = TokenBatch::collate(vec![context], policy.spec(), Padding::Right).unwrap();
            let y =
                TokenBatch::responses(vec![ids[turns.clone()].to_vec()], policy.spec()).unwrap();
            let alone = policy_log_probs(&policy, &x, &y, Forward::default(), 1.).unwrap();
            for (t, log_prob) in turns.zip(host(&alone.log_probs)) {
                let own = !rollout.given[row].iter().any(|given| given.contains(&t));
                let expected = if own { log_prob } else { 0. };
                assert!((found[row][t] - expected).abs() < 1e-5, "{row} {t}");
            }
            // Turns that the template keeps whole have no fork behind them.
            let text = Letters.decode(&ids[start..end], Specials::Exclude).unwrap();
            let text = if at > 0 { text[history.len()..].to_owned() } else { text };
            let turns: Vec<&str> = text.split("XY").collect();
            for turn in turns {
                history.push_str(&turn.chars().take(1).collect::<String>());
                history.push_str("XY");
            }
        }
        assert_eq!(rollout.tokens(row), 9);
    }
    assert!(forks > 20, "{forks}");
    assert_eq!(stats.get("episodes/forks"), forks as f64);
    assert_eq!(stats.get("episodes/turns"), 3.);
    // The sampler read what the training pass reads.
    assert!(stats.get("objective/sampler_gap") < 1e-5);
}

#[test]
fn gradients_are_those_of_separate_sequences() {
    let _alone = alone();
    let policy = policy(Family::Llama, 5);
    let spec = policy.spec();
    let x = vec![vec![3, 4, 5], vec![6], vec![3, 4, 5], vec![6]];
    let y = vec![vec![7, 8, 9, 10, 11, 12], vec![13, 14], vec![15, 16, 17], vec![18, 19, 20, 21]];
    let forks = [vec![2, 4], vec![], vec![1], vec![3]];
    let gradients = |x: &TokenBatch, y: &TokenBatch, counts: &[Vec<f32>], layout| {
        policy.parameters().iter().for_each(|(_, weight)| weight.shallow_clone().zero_grad());
        let forward = Forward { layout, ..Forward::default() };
        let found = policy_log_probs(&policy, x, y, forward, 0.7).unwrap();
        let counts = Tensor::from_slice2(counts);
        let loss = (found.log_probs * counts).sum(Kind::Float);
        loss.backward();
        let all = policy.parameters().iter().map(|(_, weight)| weight.grad().copy());
        (loss.double_value(&[]), all.collect::<Vec<_>>())
    };
    // Tokens at which a sequence begins are predicted by nothing.
    let whole = [
        vec![1., 2., 0., 4., 0., 6.],
        vec![7., 8., 0., 0., 0., 0.],
        vec![9., 0., 11., 0., 0., 0.],
        vec![12., 13., 14., 0., 0., 0.],
    ];
    let prompts = TokenBatch::collate(x, spec, Padding::Right).unwrap();
    let forked = TokenBatch::responses(y, spec).unwrap().forked(&forks).unwrap();
    let x = vec![vec![3, 4, 5], vec![9], vec![11], vec![6], vec![3, 4, 5], vec![16], vec![6]];
    let y =
        vec![vec![7, 8], vec![10], vec![12], vec![13, 14], vec![15], vec![17], vec![18, 19, 20]];
    let counts = [
        vec![1., 2., 0.],
        vec![4., 0., 0.],
        vec![6., 0., 0.],
        vec![7., 8., 0.],
        vec![9., 0., 0.],
        vec![11., 0., 0.],
        vec![12., 13., 14.],
    ];
    let x = TokenBatch::collate(x, spec, Padding::Right).unwrap();
    let y = TokenBatch::responses(y, spec).unwrap();
    let (expected, separate) = gradients(&x, &y, &counts, Layout::Padded);
    for layout in [Layout::Padded, Layout::Packed(16)] {
        let (loss, found) = gradients(&prompts, &forked, &whole, layout);
        assert!((loss - expected).abs() < 1e-4, "{loss} {expected}");
        assert!(distance(&found, &separate) < 1e-4, "{layout:?} {}", distance(&found, &separate));
    }
    // Rows taken out of a batch keep their beginnings.
    let taken = forked.select(&[3, 0]).unwrap();
    assert_eq!(taken.segments().unwrap(), [vec![3, 1], vec![2, 2, 2]]);
    assert!(forked.select(&[1]).unwrap().segments().is_none());
}

#[test]
fn passes_and_resumed_samples_change_nothing_but_rounding() {
    let _alone = alone();
    let of = |rows| {
        let mut config = turns_of_three(NamedAlgorithm::Gspo);
        config.microbatch_size = rows;
        step(config, EpisodeConfig::default())
    };
    let (experience, _, whole) = of(0);
    assert!(distance(&whole, &of(2).2) < 1e-5);
    assert_eq!(distance(&whole, &of(0).2), 0.);
    // A response in a file has its beginnings.
    let sampled = Sampled {
        ids: experience.rollout.responses.rows()[0].clone(),
        log_probs: None,
        text: String::new(),
        finish: experience.rollout.finish[0],
        version: 0,
        played: Some(Box::new(rlaif_lm::Played { forks: vec![5], ..Default::default() })),
    };
    let text = serde_json::to_string(&sampled).unwrap();
    assert_eq!(serde_json::from_str::<Sampled>(&text).unwrap(), sampled);
}

#[test]
fn a_history_without_room_for_a_turn_is_left_out() {
    let _alone = alone();
    // A turn of three, and a history of seven or more.
    let short = EpisodeConfig { max_tokens: 9, ..EpisodeConfig::default() };
    let (experience, stats, _) = step(turns_of_three(NamedAlgorithm::Grpo), short);
    let rollout = &experience.rollout;
    for (row, ids) in rollout.responses.rows().iter().enumerate() {
        let parts = rollout.responses.segments().map_or_else(Vec::new, |all| parts(&all[row]));
        let last = parts.last().filter(|(start, _)| *start > 0);
        let without_turns =
            last.filter(|(start, _)| rollout.given[row].contains(&(*start..ids.len())));
        assert_eq!(without_turns, None, "{row}");
        assert!(ids.len() <= 11, "{row}");
    }
    assert!(stats.get("episodes/out_of_room") > 8.);
    let forks = rollout.responses.segments().unwrap_or_default().iter().map(|row| row.len() - 1);
    assert_eq!(stats.metrics.get("episodes/forks").unwrap_or(0.), forks.sum::<usize>() as f64);
}

#[test]
fn beginnings_that_cannot_be_are_refused_by_name() {
    let _alone = alone();
    let (llama, t5) = (policy(Family::Llama, 1), policy(Family::T5, 1));
    let batch = |policy: &dyn Policy| {
        TokenBatch::responses(vec![vec![3], vec![4, 5, 6]], policy.spec()).unwrap()
    };
    for forks in [vec![0], vec![3], vec![2, 2], vec![2, 1], vec![usize::MAX]] {
        let error = batch(&llama).forked(&[vec![], forks.clone()]).unwrap_err();
        assert!(
            matches!(&error, LmError::Forks { row: 1, found, .. } if *found == forks),
            "{error}"
        );
        assert!(error.to_string().contains("ascend, from 1 to 2"), "{error}");
    }
    let error = batch(&llama).forked(&[vec![]]).unwrap_err();
    assert!(matches!(error, LmError::BatchMismatch { expected: 2, found: 1, .. }), "{error}");
    let forked = batch(&t5).forked(&[vec![], vec![1]]).unwrap();
    let x = TokenBatch::collate(vec![vec![3], vec![4]], t5.spec(), Padding::Right).unwrap();
    let error = policy_log_probs(&t5, &x, &forked, Forward::default(), 1.).unwrap_err();
    assert!(matches!(error, LmError::Forks { row: 1, .. }), "{error}");
    assert!(error.to_string().contains("decoder-only"), "{error}");
    // Garbage of a sampler reaches the caller as an error.
    struct Garbage(usize);
    impl rlaif_lm::Sampler for Garbage {
        fn sample(
            &mut self,
            asks: &[rlaif_lm::generate::Ask],
            call: rlaif_lm::SamplerCall<'_>,
        ) -> Result<Vec<Sampled>, LmError> {
            let mut all = LocalSampler::new(&Letters).sample(asks, call)?;
            let played = rlaif_lm::Played { forks: vec![self.0], ..Default::default() };
            all[3].played = Some(Box::new(played));
            Ok(all)
        }
    }
    // The second is inside of a response, at a token that the policy sampled.
    for at in [1000, 1] {
        let mut trainer = trainer(Family::Llama, turns_of_three(NamedAlgorithm::Grpo));
        let (none, mut garbage) = (&mut std::iter::empty(), Garbage(at));
        let error =
            trainer.step(&prompts(0, 4), none, &mut garbage, &crate::common::vowels).unwrap_err();
        assert!(matches!(&error, RlError::Lm(LmError::Forks { row: 3, .. })), "{error}");
    }
}
