//! Files of runs and rewards.

use std::path::Path;

use rlaif::eval::{read_curves, read_findings};
use rlaif::label::Constitution;
use rlaif::lm::RecordedSampler;
use rlaif::rewards::RewardConfig;
use rlaif::rewards::judge::{JudgeConfig, LlmApi};
use rlaif::run::{DpoFile, PpoFile, RunFile, RunRequest, SftFile};
use rlaif::train::Saved;

use crate::files::{outcome, put, text, texts_of};

pub(crate) fn run_files() -> Vec<Vec<u8>> {
    texts_of(&[
        "seed = 1\n[model]\npath = 'm'\n[data]\ntrain = 'rows.jsonl'\n[train]\nsteps = 3\nbatch_size = 4\n",
        "[model]\npath = 'm'\n[data]\nprompts = 'p.jsonl'\n[reward]\nkind = 'length'\ntarget = 3\nunit = 'words'\n[ppo]\nepochs = 2\n",
        "[model]\npath = 'm'\n[data]\ntrain = 'rows.jsonl'\n[dpo]\nbeta = 0.1\nloss = 'sigmoid'\n[learn.optimizer]\nlr = 1e-6\n",
    ])
}

fn opened<T: RunFile>(place: &Path) -> String {
    let request = RunRequest { config: Some(place.join("run.toml")), ..RunRequest::default() };
    outcome(request.open::<T>())
}

pub(crate) fn run_file(input: &[u8], place: &Path) -> String {
    put(place, "run.toml", input);
    [opened::<SftFile>(place), opened::<PpoFile>(place), opened::<DpoFile>(place)].join(" ")
}

pub(crate) fn reward_files() -> Vec<Vec<u8>> {
    texts_of(&[
        "kind = 'weighted-sum'\nname = 's'\n[[terms]]\nweight = 0.5\nreward = { kind = 'repetition', n = 2 }\n\
         [[terms]]\nweight = -1\nreward = { kind = 'format', pattern = '^a+$' }\n",
        "kind = 'gated'\nname = 'g'\ngate = { kind = 'forbidden-words', words = ['a'] }\nthreshold = 0.5\n\
         then = { kind = 'math-answer' }\n",
        "rubric = 'quality'\nkind = 'judge'\n[api]\nkind = 'openai'\nmodel = 'm'\nextra_body = { a = [1, { b = 2 }] }\n\
         [sampling]\ntemperature = 0.5\n[limits]\nretries = 2\n",
        "name = 'j'\ninstructions = 'Rate.'\ntemplate = '{response}'\nscale = { low = 1, high = 10 }\nanswer = 'json'\n\
         [api]\nkind = 'anthropic'\nmodel = 'm'\n[price]\ninput = 1.0\noutput = 2.0\n",
    ])
}

pub(crate) fn reward_file(input: &[u8], _: &Path) -> String {
    let input = text(input);
    let judge = JudgeConfig::<LlmApi>::from_toml(&input, "judge.toml");
    format!("{} {}", outcome(RewardConfig::from_toml(&input, "reward.toml")), outcome(judge))
}

pub(crate) fn constitutions() -> Vec<Vec<u8>> {
    texts_of(&[
        r#"{"harmful1": {"prompt": ["\n\nCritiqueRequest: What is harmful?\n\nCritique:"], "edit_request": "\n\nRevisionRequest: Rewrite.\n\nRevision:"}}"#,
        r#"[{"prompt": "Human: a\n\nAssistant: b\n\nCritiqueRequest: c\n\nCritique: d\n\nRevisionRequest: e\n\nRevision: f"}]"#,
        r#"[{"comparison": "Which is better?"}]"#,
    ])
}

pub(crate) fn constitution(input: &[u8], place: &Path) -> String {
    put(place, "c.json", input);
    put(place, "c.toml", input);
    let read = |name: &str| outcome(Constitution::from_files([place.join(name)]));
    format!("{} {}", read("c.json"), read("c.toml"))
}

pub(crate) fn checkpoints() -> Vec<Vec<u8>> {
    texts_of(&[
        r#"{"format": 1, "step": 7, "files": {"state.json": {"bytes": 3, "xxh3_128": "00"}}}"#,
        r#"{"format": 2, "step": 7, "files": {"../../etc/passwd": {"bytes": 3, "xxh3_128": "00"}}}"#,
    ])
}

pub(crate) fn checkpoint(input: &[u8], place: &Path) -> String {
    put(place, "checkpoint.json", input);
    put(place, "state.json", b"{}\n");
    put(place, "score.json", input);
    outcome(Saved::open(place))
}

pub(crate) fn metrics() -> Vec<Vec<u8>> {
    texts_of(&[
        "{\"step\":1,\"objective/kl\":0.5,\"loss\":\"NaN\"}\n{\"step\":2,\"objective/kl\":0.7}\n",
        r#"[{"step": 3, "symptom": "a", "seen": "b", "cause": "c", "advice": "d"}]"#,
        "{\"ids\": [5, 2], \"text\": \"five\", \"finish\": \"eos\", \"log_probs\": [-0.5, -1]}\n",
    ])
}

pub(crate) fn run_folder(input: &[u8], place: &Path) -> String {
    put(place, "file", input);
    let path = place.join("file");
    let journal = rlaif_files::Journal::open(&path).map(|(_, lines)| lines.numbered().count());
    [
        outcome(journal),
        outcome(read_curves(&path)),
        outcome(read_findings(&path)),
        outcome(RecordedSampler::read(&path)),
    ]
    .join(" ")
}
