//! The table of keys: which of them may change when a run is resumed.

use AtResume::{Always, Fixed, FromHere, IfLast, Longer};

/// Answer to the question: may a key change at `--resume`?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtResume {
    /// The key may change: the result does not depend on it, or only up to rounding.
    Always,
    /// The key may change, although the result may depend on it: the new value applies to later steps,
    /// and the log reports it.
    FromHere,
    /// The number may grow, if the learning rate does not depend on the length of the run.
    Longer,
    /// The key may change if no evaluation affects the result (`train.result = "last"` and no
    /// `train.patience`).
    IfLast,
    /// The key may not change: it would be another run.
    Fixed,
}

/// Every key of the run files, by its path.
pub(super) const KEYS: &[(AtResume, &[&str])] = &[
    (
        Always,
        &[
            "placement.device",
            "placement.threads",
            "placement.memory_gib",
            // Access to servers, and the conditions under which their responses are refused.
            "vllm.model",
            "vllm.folder",
            "vllm.api_key_env",
            "vllm.concurrency",
            "vllm.timeout_s",
            "vllm.connect_timeout_s",
            "vllm.retries",
            "vllm.longest_wait_s",
            "vllm.max_mismatch_kl",
            "vllm.compared",
            // The path of the rows may change; their content is compared with the checkpoint.
            "data.train",
            "data.prompts",
            "train.checkpoint_every",
            "train.keep",
            "train.samples",
            // Division of a step, which trades memory for time.
            "learn.microbatch_size",
            "learn.batching",
            "learn.activations",
            "ppo.microbatch_size",
            "ppo.activations",
            "reinforce.microbatch_size",
            "reinforce.activations",
            "distill.microbatch_size",
            "distill.activations",
            "dpo.microbatch_size",
            "dpo.activations",
            "ppo.generation.batch_size",
            "ppo.generation.check_every",
            "reinforce.generation.batch_size",
            "reinforce.generation.check_every",
            "distill.generation.batch_size",
            "distill.generation.check_every",
            "online.samples",
            "online.pairs.generation.batch_size",
            "online.pairs.generation.check_every",
            // Conditions that stop a run.
            "learn.optimizer.max_skipped",
            "ppo.optimizer.max_skipped",
            "reinforce.optimizer.max_skipped",
            "distill.optimizer.max_skipped",
            "dpo.optimizer.max_skipped",
        ],
    ),
    // A run that stopped because of a missing score can continue.
    (
        FromHere,
        &[
            "ppo.scores.missing",
            "reinforce.scores.missing",
            "episodes.timeout_s",
            "vllm.urls",
            "vllm.max_staleness",
        ],
    ),
    (Longer, &["train.steps", "train.epochs", "ppo.steps", "reinforce.steps", "distill.steps"]),
    (IfLast, &["data.held_out", "train.eval_every"]),
    (
        Fixed,
        &[
            "seed",
            "trainable",
            "reference",
            "labels",
            "class_weights",
            "centring_coef",
            "model.path",
            "model.revision",
            "model.adapter",
            "model.base",
            "model.dtype",
            "model.quantization",
            "model.vocabulary.init",
            "model.vocabulary.seed",
            "model.vocabulary.pad_to_multiple_of",
            "model.lora.rank",
            "model.lora.alpha",
            "model.lora.dropout",
            "model.lora.targets",
            "model.lora.variant",
            "model.lora.init",
            "model.lora.bias",
            "model.lora.modules_to_save",
            "value.model",
            "value.init",
            "value.head",
            "data.column",
            "data.reference_column",
            "data.held_out_fraction",
            "data.held_out_rows",
            "data.max_tokens",
            "data.import.dialogues",
            "data.import.ranked",
            "data.import.safe_rlhf",
            "prompt.plain",
            "prompt.template",
            "prompt.system",
            "prompt.chat_template",
            "prompt.chat_template_kwargs",
            "columns.format",
            "columns.prompt",
            "columns.response",
            "columns.messages",
            "columns.text",
            "columns.text_pair",
            "columns.label",
            "columns.chosen",
            "columns.rejected",
            "columns.margin",
            "columns.probability",
            "rows.max_prompt_tokens",
            "rows.max_response_tokens",
            "rows.too_long",
            "rows.identical",
            "rows.empty",
            "rows.boundary",
            "rows.ending",
            "pretraining.file",
            "pretraining.max_tokens",
            "pretraining.columns.format",
            "pretraining.columns.prompt",
            "pretraining.columns.response",
            "pretraining.columns.messages",
            "pretraining.columns.text",
            "train.batch_size",
            "train.patience",
            "train.result",
            "learn.dropout",
            "learn.ema_decay",
            "learn.router_aux_loss_coef",
            "learn.trainable",
            "learn.optimizer.lr",
            "learn.optimizer.value_head_lr",
            "learn.optimizer.betas",
            "learn.optimizer.eps",
            "learn.optimizer.weight_decay",
            "learn.optimizer.max_grad_norm",
            "learn.optimizer.schedule",
            "learn.optimizer.warmup_steps",
            "ppo.batch_size",
            "ppo.minibatch_size",
            "ppo.epochs",
            "ppo.reward_whitening",
            "ppo.advantage_whitening",
            "ppo.gamma",
            "ppo.gae_lambda",
            "ppo.clip",
            "ppo.dual_clip",
            "ppo.value_clip",
            "ppo.value_coef",
            "ppo.entropy_coef",
            "ppo.ratio_threshold",
            "ppo.target_kl",
            "ppo.value_warmup_steps",
            "ppo.dropout",
            "ppo.router_aux_loss_coef",
            "ppo.compatibility",
            "ppo.generation.max_new_tokens",
            "ppo.generation.min_new_tokens",
            "ppo.generation.sampling",
            "ppo.generation.repetition_penalty",
            "ppo.generation.eos",
            "ppo.generation.stop_ids",
            "ppo.generation.stop_strings",
            "ppo.generation.bad_ids",
            "ppo.kl.estimator",
            "ppo.kl.control",
            "ppo.scores.missing_eos_penalty",
            "ppo.scores.scaling",
            "ppo.scores.clip",
            "ppo.pretraining.coef",
            "ppo.pretraining.batch_size",
            "ppo.optimizer.lr",
            "ppo.optimizer.value_head_lr",
            "ppo.optimizer.betas",
            "ppo.optimizer.eps",
            "ppo.optimizer.weight_decay",
            "ppo.optimizer.max_grad_norm",
            "ppo.optimizer.schedule",
            "ppo.optimizer.warmup_steps",
            "ppo.stop.max_kl",
            "ppo.stop.metric.name",
            "ppo.stop.metric.window",
            "ppo.stop.metric.at_least",
            "ppo.stop.metric.at_most",
            "teacher",
            "distill.batch_size",
            "distill.divergence",
            "distill.temperature",
            "distill.dropout",
            "distill.router_aux_loss_coef",
            "distill.on_policy",
            "distill.generation.max_new_tokens",
            "distill.generation.min_new_tokens",
            "distill.generation.sampling",
            "distill.generation.repetition_penalty",
            "distill.generation.eos",
            "distill.generation.stop_ids",
            "distill.generation.stop_strings",
            "distill.generation.bad_ids",
            "distill.optimizer.lr",
            "distill.optimizer.value_head_lr",
            "distill.optimizer.betas",
            "distill.optimizer.eps",
            "distill.optimizer.weight_decay",
            "distill.optimizer.max_grad_norm",
            "distill.optimizer.schedule",
            "distill.optimizer.warmup_steps",
            "environment",
            "episodes.max_turns",
            "episodes.max_tokens",
            "episodes.history",
            "episodes.before",
            "episodes.after",
            "reinforce.algorithm",
            "reinforce.batch_size",
            "reinforce.group_size",
            "reinforce.minibatch_size",
            "reinforce.epochs",
            "reinforce.rollouts",
            "reinforce.replay.batch_size",
            "reinforce.replay.max_staleness",
            "reinforce.advantage",
            "reinforce.ratio",
            "reinforce.anchor",
            "reinforce.surrogate",
            "reinforce.average",
            "reinforce.kl",
            "reinforce.correction",
            "reinforce.dropout",
            "reinforce.router_aux_loss_coef",
            "reinforce.generation.max_new_tokens",
            "reinforce.generation.min_new_tokens",
            "reinforce.generation.sampling",
            "reinforce.generation.repetition_penalty",
            "reinforce.generation.eos",
            "reinforce.generation.stop_ids",
            "reinforce.generation.stop_strings",
            "reinforce.generation.bad_ids",
            "reinforce.scores.missing_eos_penalty",
            "reinforce.scores.scaling",
            "reinforce.scores.clip",
            "reinforce.off_policy.max_kl",
            "reinforce.dynamic_sampling.rounds",
            "reinforce.curriculum.column",
            "reinforce.curriculum.solved_at",
            "reinforce.curriculum.start",
            "reinforce.curriculum.steps",
            "reinforce.curriculum.leave_out_after",
            "reinforce.curriculum.return_after",
            "reinforce.overlong.limit",
            "reinforce.overlong.buffer",
            "reinforce.optimizer.lr",
            "reinforce.optimizer.value_head_lr",
            "reinforce.optimizer.betas",
            "reinforce.optimizer.eps",
            "reinforce.optimizer.weight_decay",
            "reinforce.optimizer.max_grad_norm",
            "reinforce.optimizer.schedule",
            "reinforce.optimizer.warmup_steps",
            "reinforce.stop.max_kl",
            "reinforce.stop.metric.name",
            "reinforce.stop.metric.window",
            "reinforce.stop.metric.at_least",
            "reinforce.stop.metric.at_most",
            "dpo.objective",
            "dpo.temperature",
            "dpo.dropout",
            "dpo.router_aux_loss_coef",
            "dpo.prompt_forward",
            "dpo.reference",
            "dpo.optimizer.lr",
            "dpo.optimizer.value_head_lr",
            "dpo.optimizer.betas",
            "dpo.optimizer.eps",
            "dpo.optimizer.weight_decay",
            "dpo.optimizer.max_grad_norm",
            "dpo.optimizer.schedule",
            "dpo.optimizer.warmup_steps",
            "online.reference_column",
            "online.pairs.missing_eos_penalty",
            "online.pairs.least_difference",
            "online.pairs.generation.max_new_tokens",
            "online.pairs.generation.min_new_tokens",
            "online.pairs.generation.sampling",
            "online.pairs.generation.repetition_penalty",
            "online.pairs.generation.eos",
            "online.pairs.generation.stop_ids",
            "online.pairs.generation.stop_strings",
            "online.pairs.generation.bad_ids",
        ],
    ),
];

/// Tables that hold a reward.
pub(super) const REWARDS: [&str; 3] = ["reward", "online.reward", "label.facets.reward"];

/// Tables with the keys of a judge: a judge of pairs, a model that writes.
pub(super) const SERVICES: [&str; 5] =
    ["label.judge", "label.facets.judge", "candidates.writers", "revise.writer", "red-team.writer"];

/// Lists of tables that are compared key by key.
pub(super) const LISTS: [&str; 2] = ["label.facets", "candidates.writers"];

/// Every key of a reward, after its kind. Inner rewards are checked one by one.
pub(super) const REWARD_KEYS: &[(AtResume, &[&str])] = &[
    (
        Always,
        &[
            "cached.capacity",
            "classifier.batch_size",
            "classifier.device",
            // The address and the authentication.
            "judge.api.base_url",
            "judge.api.url",
            "judge.api.region",
            "judge.api.api_version",
            "judge.api.api_key_env",
            "judge.api.batch_size",
            "judge.api.device",
            "judge.limits",
            "judge.price",
            "judge.budget",
            "judge.cache",
            "judge.reasks",
        ],
    ),
    (
        Fixed,
        &[
            "classifier.model",
            "classifier.revision",
            "classifier.adapter",
            "classifier.base",
            "classifier.preset",
            "classifier.name",
            "classifier.label",
            "classifier.output",
            "classifier.input",
            "classifier.chat_template",
            "classifier.chat_template_kwargs",
            "classifier.separator",
            "classifier.max_tokens",
            "classifier.dtype",
            // A condition, not part of the reward; a resumed run has met it.
            "classifier.exam",
            "judge.name",
            "judge.rubric",
            "judge.instructions",
            "judge.template",
            "judge.scale",
            "judge.answer",
            "judge.out_of_range",
            "judge.reward",
            "judge.min_coverage",
            "judge.samples",
            "judge.exam",
            "judge.api.chat_template",
            "judge.api.chat_template_kwargs",
            "judge.sampling",
            "judge.api.kind",
            "judge.api.model",
            "judge.api.revision",
            "judge.api.adapter",
            "judge.api.base",
            "judge.api.dtype",
            "judge.api.quantization",
            "judge.api.top_log_probs",
            "judge.api.extra_body",
            "length.shortest",
            "length.longest",
            "length.per",
            "length.unit",
            "repetition.n",
            "format.pattern",
            "forbidden-words.words",
            "overlap.measure",
            "overlap.against",
            "math-answer.answer",
            "math-answer.place",
            "text-answer.answer",
            "text-answer.pattern",
            "text-answer.comparison",
            "own.name",
            "own.settings",
            "own.columns",
            "json-schema.schema",
            "json-schema.answer",
            "instructions.score",
            "instructions.check",
            "code-tests.answer",
            "code-tests.entry_point",
            "code-tests.score",
            "code-tests.python",
            "code-tests.limits",
            "code-tests.concurrency",
            "constant.value",
            "weighted-sum.name",
            "weighted-sum.terms",
            "mean.name",
            "mean.of",
            "minimum.name",
            "minimum.of",
            "lower-bound.name",
            "lower-bound.deviations",
            "lower-bound.of",
            "scaled.factor",
            "scaled.offset",
            "scaled.of",
            "clipped.low",
            "clipped.high",
            "clipped.of",
            "normalised.centring",
            "normalised.of",
            "process.separator",
            "process.view",
            "process.total",
            "process.max_steps",
            "process.of",
            "gated.gate",
            "gated.threshold",
            "gated.otherwise",
            "gated.of",
            "or-else.other",
            "or-else.of",
            "cached.of",
        ],
    ),
];

/// Finds a key, or its table, in a table of keys.
pub(super) fn found(keys: &[(AtResume, &[&str])], path: &str) -> Option<AtResume> {
    let mut path = path;
    loop {
        let row = keys.iter().find(|(_, paths)| paths.contains(&path));
        if let Some((answer, _)) = row {
            return Some(*answer);
        }
        path = path.rsplit_once('.')?.0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value as Json;

    use super::*;

    fn paths(keys: &[(AtResume, &[&'static str])]) -> Vec<&'static str> {
        keys.iter().flat_map(|(_, paths)| paths.iter().copied()).collect()
    }

    /// The schemas are the reference: the test fails for a key that is in a run file but not in the
    /// table, or the other way round.
    #[test]
    fn every_key_of_every_run_file_is_classified() {
        let known: BTreeSet<String> = crate::commands_with_runs()
            .flat_map(crate::keys)
            .map(|key| key.path)
            .filter(|path| !REWARDS.contains(&path.as_str()))
            .collect();
        let table = paths(KEYS);
        let named: BTreeSet<String> = table.iter().map(|path| (*path).to_owned()).collect();
        assert_eq!(named.len(), table.len(), "a key stands twice");
        let missing: Vec<_> = known.difference(&named).collect();
        assert!(missing.is_empty(), "decide about them in KEYS of resume/keys.rs: {missing:?}");
        let gone: Vec<_> = named.difference(&known).collect();
        assert!(gone.is_empty(), "no run file has them any more: {gone:?}");
    }

    #[test]
    fn every_key_of_every_reward_is_classified() {
        let schema = crate::schema("judge").unwrap();
        let defs = &schema["$defs"];
        let resolved = |value: &Json| match value["$ref"].as_str() {
            Some(name) => defs[name.trim_start_matches("#/$defs/")].clone(),
            None => value.clone(),
        };
        let names = |value: &Json| -> Vec<String> {
            value["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, _)| key.clone())
                .collect()
        };
        let mut known = BTreeSet::new();
        for kind in defs["RewardConfig"]["oneOf"].as_array().unwrap() {
            let name = kind["properties"]["kind"]["const"].as_str().unwrap();
            let of = kind.get("$ref").map(|_| resolved(kind));
            let keys = names(kind).into_iter().chain(of.iter().flat_map(names));
            known.extend(keys.filter(|key| key != "kind").map(|key| format!("{name}.{key}")));
        }
        assert!(known.remove("judge.api"), "{known:?}");
        for api in defs["ApiConfig"]["oneOf"].as_array().unwrap() {
            let of = api.get("$ref").map(|_| resolved(api));
            let keys = names(api).into_iter().chain(of.iter().flat_map(names));
            known.extend(keys.map(|key| format!("judge.api.{key}")));
        }
        let table = paths(REWARD_KEYS);
        let named: BTreeSet<String> = table.iter().map(|path| (*path).to_owned()).collect();
        assert_eq!(named.len(), table.len(), "a key stands twice");
        assert_eq!(known, named);
    }

    #[test]
    fn the_page_lists_the_keys_that_may_change() {
        let page = include_str!("../../../../docs/training.md");
        let may = KEYS.iter().filter(|(answer, _)| *answer != Fixed).flat_map(|(_, keys)| *keys);
        for key in may {
            assert!(page.contains(&format!("`{key}`")), "{key}");
        }
        let of_rewards = REWARD_KEYS.iter().filter(|(answer, _)| *answer != Fixed);
        for key in of_rewards.flat_map(|(_, keys)| *keys) {
            let (_, key) = key.split_once('.').unwrap();
            assert!(page.contains(&format!("`{key}`")), "{key}");
        }
    }
}
