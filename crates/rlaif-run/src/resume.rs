//! Keys of a run file that may change when a run is resumed: one table for all commands.

use std::fmt;

use toml::{Table, Value};

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
const KEYS: &[(AtResume, &[&str])] = &[
    (
        Always,
        &[
            "placement.device",
            "placement.threads",
            "placement.memory_gib",
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
    (FromHere, &["ppo.scores.missing", "reinforce.scores.missing", "episodes.time_limit_s"]),
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
            "model.lora.rank",
            "model.lora.alpha",
            "model.lora.dropout",
            "model.lora.targets",
            "model.lora.variant",
            "model.lora.init",
            "model.lora.bias",
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
            "reinforce.advantage",
            "reinforce.ratio",
            "reinforce.anchor",
            "reinforce.surrogate",
            "reinforce.average",
            "reinforce.kl",
            "reinforce.correction",
            "reinforce.dropout",
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
const REWARDS: [&str; 3] = ["reward", "online.reward", "label.facets.reward"];

/// Tables with the keys of a judge: a judge of pairs, a model that writes.
const SERVICES: [&str; 5] =
    ["label.judge", "label.facets.judge", "candidates.writers", "revise.writer", "red-team.writer"];

/// Lists of tables that are compared key by key.
const LISTS: [&str; 2] = ["label.facets", "candidates.writers"];

/// Every key of a reward, after its kind. Inner rewards are checked one by one.
const REWARD_KEYS: &[(AtResume, &[&str])] = &[
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
fn found(keys: &[(AtResume, &[&str])], path: &str) -> Option<AtResume> {
    let mut path = path;
    loop {
        let row = keys.iter().find(|(_, paths)| paths.contains(&path));
        if let Some((answer, _)) = row {
            return Some(*answer);
        }
        path = path.rsplit_once('.')?.0;
    }
}

/// A key whose value differs from that at the start of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The path, with dots; elements of lists by their index.
    pub key: String,
    /// The value of the run; `None` where the key was absent.
    pub before: Option<Value>,
    /// The requested value.
    pub now: Option<Value>,
    /// The reason for a refusal, if it is not obvious, or the extent of a change.
    because: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<Value>| match value {
            None => "not set".to_owned(),
            Some(value) => {
                let text = value.to_string();
                match text.char_indices().nth(80) {
                    Some((end, _)) => format!("{} ..", &text[..end]),
                    None => text,
                }
            }
        };
        write!(f, "`{}`: {} -> {}", self.key, value(&self.before), value(&self.now))?;
        match &self.because {
            Some(because) => write!(f, " ({because})"),
            None => Ok(()),
        }
    }
}

/// Differences between a run's file and the file given at `--resume`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes {
    /// Allowed changes.
    pub(crate) allowed: Vec<Change>,
    /// Changes that would make it a different run.
    pub(crate) refused: Vec<Change>,
}

/// Compares the file of a run with the file given at `--resume`; `own` decides about keys of
/// commands outside this library.
pub(crate) fn compare(
    before: &Table,
    now: &Table,
    own: impl Fn(&str) -> Option<AtResume>,
) -> Changes {
    let mut all = Vec::new();
    tables(["", ""], before, now, &mut all);
    let mut changes = Changes::default();
    for (mut change, answer) in all {
        let answer = answer.or_else(|| own(&change.key)).unwrap_or(Fixed);
        match refusal(answer, &change, now) {
            None => {
                if answer == FromHere {
                    change.because = Some("for the steps from here on".to_owned());
                }
                changes.allowed.push(change);
            }
            Some(because) => {
                change.because = because;
                changes.refused.push(change);
            }
        }
    }
    changes
}

/// Returns whether a change is refused, with the reason if it is not obvious.
fn refusal(answer: AtResume, change: &Change, now: &Table) -> Option<Option<String>> {
    let value = |path: &str| {
        let (table, key) = path.rsplit_once('.')?;
        lookup(now, table)?.get(key)
    };
    match answer {
        Always | FromHere => None,
        Fixed => Some(None),
        IfLast => {
            let decides = value("train.result").is_some_and(|v| v.as_str() == Some("best"))
                || value("train.patience").is_some_and(|v| v.as_integer() != Some(0));
            decides.then(|| Some("evaluations decide about the result of this run".to_owned()))
        }
        Longer => {
            let number = |value: &Option<Value>| value.as_ref().and_then(Value::as_integer);
            let longer = match (number(&change.before), number(&change.now)) {
                (Some(before), Some(now)) => now > before,
                _ => false,
            };
            if !longer {
                return Some(Some("a run may become longer, not shorter".to_owned()));
            }
            let schedule = now.iter().find_map(|(section, table)| {
                Some((section, table.get("optimizer")?.get("schedule")?.as_str()?))
            });
            let (section, schedule) = schedule.filter(|(_, schedule)| *schedule != "constant")?;
            Some(Some(format!(
                "`{section}.optimizer.schedule` is \"{schedule}\": a longer run has other learning \
                 rates from its beginning"
            )))
        }
    }
}

/// The settings without those that may always change at `--resume`, on which the result does not depend.
/// Paths of rows stay.
pub(crate) fn without_always(settings: &Table) -> Table {
    fn walk(path: &str, table: &Table) -> Table {
        let kept = table.iter().filter_map(|(key, value)| {
            let path = joined(path, key);
            let is_always = matches!(found(KEYS, &path), Some(Always));
            let value = match value {
                Value::Table(below) => Value::Table(walk(&path, below)),
                value => value.clone(),
            };
            let is_kept = !is_always || matches!(path.as_str(), "data.train" | "data.prompts");
            is_kept.then(|| (key.clone(), value))
        });
        kept.collect()
    }
    walk("", settings)
}

/// The table at a path; an empty path is the table itself.
pub(crate) fn lookup<'t>(table: &'t Table, path: &str) -> Option<&'t Table> {
    let mut parts = path.split('.').filter(|part| !part.is_empty());
    parts.try_fold(table, |table, part| table.get(part)?.as_table())
}

type Found = Vec<(Change, Option<AtResume>)>;

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The keys of two tables, without duplicates.
fn keys_of<'t>(before: &'t Table, now: &'t Table) -> Vec<&'t String> {
    let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Compares two tables at a path, whose name is the path without the indices of lists.
fn tables([path, name]: [&str; 2], before: &Table, now: &Table, all: &mut Found) {
    for key in keys_of(before, now) {
        let (path, name) = (joined(path, key), joined(name, key));
        values([&path, &name], before.get(key), now.get(key), all);
    }
}

fn values([path, name]: [&str; 2], before: Option<&Value>, now: Option<&Value>, all: &mut Found) {
    match (before, now) {
        (Some(Value::Table(before)), Some(Value::Table(now))) if REWARDS.contains(&name) => {
            rewards(path, before, now, all);
        }
        (Some(Value::Table(_)), Some(Value::Table(_))) if SERVICES.contains(&name) => {
            parts(path, "judge", before, now, all);
        }
        (Some(Value::Table(before)), Some(Value::Table(now))) => {
            tables([path, name], before, now, all);
        }
        (Some(Value::Array(before)), Some(Value::Array(now)))
            if LISTS.contains(&name) && are_alike(before, now) =>
        {
            for (at, (before, now)) in before.iter().zip(now).enumerate() {
                values([&format!("{path}[{at}]"), name], Some(before), Some(now), all);
            }
        }
        (before, now) if before != now => {
            add(path.to_owned(), before, now, found(KEYS, name), all);
        }
        _ => {}
    }
}

/// `true` for two lists of equally many tables.
fn are_alike(before: &[Value], now: &[Value]) -> bool {
    before.len() == now.len() && before.iter().chain(now).all(Value::is_table)
}

fn add(
    key: String,
    before: Option<&Value>,
    now: Option<&Value>,
    answer: Option<AtResume>,
    all: &mut Found,
) {
    let change = Change { key, before: before.cloned(), now: now.cloned(), because: None };
    all.push((change, answer));
}

/// Compares two rewards, including their inner rewards.
fn rewards(path: &str, before: &Table, now: &Table, all: &mut Found) {
    let kind = |table: &Table| table.get("kind").and_then(Value::as_str).map(str::to_owned);
    let Some(kind) = kind(before).filter(|before| Some(before) == kind(now).as_ref()) else {
        return add(joined(path, "kind"), before.get("kind"), now.get("kind"), Some(Fixed), all);
    };
    for key in keys_of(before, now) {
        parts(&joined(path, key), &format!("{kind}.{key}"), before.get(key), now.get(key), all);
    }
}

/// Compares one key of a reward: a reward, a list or a table of rewards, or a value.
fn parts(path: &str, name: &str, before: Option<&Value>, now: Option<&Value>, all: &mut Found) {
    match (before, now) {
        (Some(Value::Table(before)), Some(Value::Table(now))) if is_reward(name) => {
            rewards(path, before, now, all);
        }
        (Some(Value::Table(before)), Some(Value::Table(now))) => {
            for key in keys_of(before, now) {
                let name = format!("{name}.{key}");
                parts(&joined(path, key), &name, before.get(key), now.get(key), all);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(now))) if are_alike(before, now) => {
            for (at, (before, now)) in before.iter().zip(now).enumerate() {
                parts(&format!("{path}[{at}]"), name, Some(before), Some(now), all);
            }
        }
        (before, now) if before != now => {
            add(path.to_owned(), before, now, found(REWARD_KEYS, name), all);
        }
        _ => {}
    }
}

/// `true` if the value of this key of a reward is a reward.
fn is_reward(name: &str) -> bool {
    // Not below: a JSON schema or variables of a chat template may have keys of these names.
    let of_kind = |(_, part)| matches!(part, "of" | "gate" | "other");
    name == "weighted-sum.terms.reward" || name.split_once('.').is_some_and(of_kind)
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
        assert!(missing.is_empty(), "decide about them in KEYS of resume.rs: {missing:?}");
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
        let page = include_str!("../../../docs/training.md");
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

    fn changes(before: &str, now: &str) -> (Vec<String>, Vec<String>) {
        let parse = |text: &str| text.parse::<Table>().unwrap();
        let Changes { allowed, refused } =
            compare(&parse(before), &parse(now), |key| (key == "echo.times").then_some(Always));
        let told = |all: Vec<Change>| all.iter().map(ToString::to_string).collect();
        (told(allowed), told(refused))
    }

    #[test]
    fn what_the_result_depends_on_is_refused_with_both_values() {
        let judge = |url: &str, model: &str, weight: f32| {
            format!(
                "[[reward.terms]]\nweight = {weight:?}\n[reward.terms.reward]\nkind = 'judge'\n\
                 limits = {{ retries = 1 }}\n\
                 api = {{ kind = 'openai', base_url = '{url}', model = '{model}' }}\n\
                 [reward]\nkind = 'weighted-sum'\n"
            )
        };
        let (allowed, refused) = changes(&judge("http://a", "m", 1.), &judge("http://b", "m", 1.));
        let key = "reward.terms[0].reward.api.base_url";
        assert_eq!(allowed, [format!("`{key}`: \"http://a\" -> \"http://b\"")]);
        assert_eq!(refused, [""; 0]);
        let (_, refused) = changes(&judge("u", "m", 1.), &judge("u", "n", 2.));
        assert_eq!(
            refused,
            [
                "`reward.terms[0].reward.api.model`: \"m\" -> \"n\"",
                "`reward.terms[0].weight`: 1.0 -> 2.0"
            ]
        );
        let (_, refused) =
            changes("[reward]\nkind = 'length'\nper = 1", "[reward]\nkind = 'judge'");
        assert_eq!(refused, ["`reward.kind`: \"length\" -> \"judge\""]);

        let (allowed, refused) = changes(
            "seed = 1\n[placement]\nthreads = 1\n[echo]\ntimes = 1\nlouder = true",
            "[placement]\nthreads = 2\nmemory_gib = 3.5\n[echo]\ntimes = 2\nlouder = false",
        );
        assert_eq!(
            allowed,
            [
                "`echo.times`: 1 -> 2",
                "`placement.memory_gib`: not set -> 3.5",
                "`placement.threads`: 1 -> 2"
            ]
        );
        assert_eq!(refused, ["`echo.louder`: true -> false", "`seed`: 1 -> not set"]);
    }

    #[test]
    fn labels_and_candidates_take_another_address_but_not_another_model() {
        let judge = |url: &str, extra: u64| {
            format!(
                "api = {{ kind = 'openai', model = 'm', base_url = '{url}', extra_body = {{ \
                 price = {extra}, chat_template_kwargs = {{ limits = {extra} }} }} }}\n\
                 price = {{ input_per_million = {extra}.0, output_per_million = 1.0 }}\n\
                 limits = {{ retries = {extra} }}\n"
            )
        };
        let schema = |extra: u64| {
            format!(
                "kind = 'json-schema'\nschema = {{ properties = {{ price = {{ minimum = {extra} }}, \
                 of = {{ minimum = {extra} }} }} }}\n"
            )
        };
        let file = |url: &str, extra: u64| {
            format!(
                "[label.judge]\n{}[[label.facets]]\nfacet = 'helpful'\n[label.facets.judge]\n{}\
                 [[label.facets]]\nname = 'json'\n[label.facets.reward]\n{}\
                 [[candidates.writers]]\n{}",
                judge(url, extra),
                judge(url, extra),
                schema(extra),
                judge(url, extra),
            )
        };
        let (allowed, refused) = changes(&file("a", 1), &file("b", 1));
        assert_eq!(refused, [""; 0]);
        let of = ["candidates.writers[0]", "label.facets[0].judge", "label.judge"];
        assert_eq!(allowed, of.map(|at| format!("`{at}.api.base_url`: \"a\" -> \"b\"")));

        let (allowed, refused) = changes(&file("a", 1), &file("a", 2));
        assert_eq!(allowed.len(), 6, "the price and the limits of each service: {allowed:?}");
        let mut below: Vec<String> = of
            .iter()
            .flat_map(|at| {
                let at = format!("`{at}.api.extra_body");
                [
                    format!("{at}.chat_template_kwargs.limits`: 1 -> 2"),
                    format!("{at}.price`: 1 -> 2"),
                ]
            })
            .collect();
        let schema = "`label.facets[1].reward.schema.properties";
        below.insert(4, format!("{schema}.of.minimum`: 1 -> 2"));
        below.insert(5, format!("{schema}.price.minimum`: 1 -> 2"));
        assert_eq!(refused, below);
    }

    #[test]
    fn what_becomes_of_missing_scores_may_change_for_the_steps_to_come() {
        for algorithm in ["ppo", "reinforce"] {
            let before = format!("[{algorithm}.scores]\nmissing = 'error'");
            let now = format!("[{algorithm}.scores]\nmissing = 'drop'");
            let told = format!(
                "`{algorithm}.scores.missing`: \"error\" -> \"drop\" (for the steps from here on)"
            );
            assert_eq!(changes(&before, &now), (vec![told], Vec::new()));
        }
    }

    #[test]
    fn a_run_may_become_longer_where_its_rates_stay_the_same() {
        for of in ["ppo", "reinforce", "distill"] {
            let file = |steps: u64, schedule: &str| {
                format!("[{of}]\nsteps = {steps}\n[{of}.optimizer]\nschedule = '{schedule}'")
            };
            let (allowed, refused) = changes(&file(4, "constant"), &file(6, "constant"));
            assert_eq!(allowed, [format!("`{of}.steps`: 4 -> 6")]);
            assert_eq!(refused, [""; 0]);
            let (_, refused) = changes(&file(4, "constant"), &file(3, "constant"));
            let shorter = "4 -> 3 (a run may become longer, not shorter)";
            assert_eq!(refused, [format!("`{of}.steps`: {shorter}")]);
            let (_, refused) = changes(&file(4, "linear"), &file(6, "linear"));
            let rates = format!("`{of}.optimizer.schedule` is \"linear\"");
            assert!(refused[0].contains(&rates), "{refused:?}");
        }
    }

    #[test]
    fn evaluations_may_change_where_they_decide_about_nothing() {
        let file = |every: u64, more: &str| format!("[train]\neval_every = {every}\n{more}");
        assert_eq!(changes(&file(1, ""), &file(2, "")).1, [""; 0]);
        for more in ["result = 'best'", "patience = 2"] {
            assert_eq!(changes(&file(1, more), &file(2, more)).1.len(), 1, "{more}");
        }
    }
}
