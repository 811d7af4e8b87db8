//! A target for each reader: `cargo test -p rlaif-fuzz`, or `cargo xtask fuzz --minutes N [TARGET ..]`.
//!
//! By default each target reads its seeds, the inputs that were found earlier (`found/TARGET`) and a few
//! hundred mutated ones: the same ones everywhere.

use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rlaif::core::{
    ChatOptions, Exchange, GenerationPrompt, Message, RewardModel, Specials, TextCodec, hidden,
    printable,
};
use rlaif::data::{Import, Mode, Reader, ReadingProgress, Source};
use rlaif::eval::{read_curves, read_findings};
use rlaif::hub::{Hub, Network, Quiet, RepoKind, Retry};
use rlaif::label::Constitution;
use rlaif::lm::RecordedSampler;
use rlaif::models::Config;
use rlaif::rewards::judge::{JudgeConfig, LlmApi, LlmJudge};
use rlaif::rewards::rubric::{Answer, AnswerForm, PairRubric, Rubric};
use rlaif::rewards::verify::{AnswerPlace, Instructions, JsonSchemaCheck, TestScore, same_answer};
use rlaif::rewards::{Format, RewardConfig};
use rlaif::run::{DpoFile, PpoFile, RunFile, RunRequest, SftFile};
use rlaif::text::HfTokenizer;
use rlaif::train::Saved;
use rlaif_checkpoint::{AdapterConfig, Checkpoint, Gguf};
use rlaif_fuzz::{Budget, Campaign, Target};
use serde_json::Value;

const JSON: &[&str] = &["{\"a\":", "[1,", "}", "]", "null", "\"", "\\u"];
const TOML: &[&str] =
    &["[[", "]]", "=", "{", "}", "'''", "\"\"\"", ".", "nan", "inf", "1979-05-27"];
const JINJA: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "{% if ",
    "{% for x in ",
    "{% endif %}",
    "{% endfor %}",
    "{% raw %}",
    "{% endraw %}",
    "{% set ",
    "{% macro a() %}",
    "{% endmacro %}",
    "namespace(x=[])",
    "|tojson",
    "|join",
    "|list",
    "|string",
    "|replace('a','b')",
    "|trim",
    "messages",
    "[::-1]",
    ".split()",
    "range(100)",
    "loop.index",
    "{% generation %}",
    "{% endgeneration %}",
    " ~ ",
    " * ",
    "strftime_now('%Y')",
    "raise_exception('x')",
    "x=",
    "not ",
    " in ",
    " is ",
    "'",
    "\\",
];
const MATHS: &[&str] = &[
    "\\boxed{",
    "}",
    "\\frac",
    "{1}{2}",
    "\\sqrt{",
    "^{",
    "_",
    "####",
    "answer is ",
    "$",
    "\\(",
    "\\[",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "\\\\",
    "&",
    "\\cup",
    "\\infty",
    "%",
    "\\text{",
    "\\left(",
    "\\right)",
    "!",
    "**",
    "(",
    ")",
    "[",
    "]",
    "\\pi",
    "e",
    "i",
    "x",
    "=",
    "<",
    "/",
    "0.5",
    "1,080",
];
const PICKLE: &[&str] = &[
    "\u{80}\u{2}",
    "ctorch\nFloatStorage\n",
    "ctorch._utils\n_rebuild_tensor_v2\n",
    "(",
    "t",
    "R",
    "Q",
    "]",
    "e",
    "}",
    "u",
    ".",
    "q\0",
    "h\0",
    "K\u{1}",
    "M\0\u{1}",
    "X\u{4}\0\0\0",
    "a",
    "s",
    "b",
];

const TARGETS: &[Target] = &[
    Target { name: "config", words: JSON, seeds: configs, read: config },
    Target { name: "generation-config", words: JSON, seeds: generation_configs, read: generation },
    Target { name: "tokenizer", words: JSON, seeds: tokenizers, read: tokenizer },
    Target {
        name: "tokenizer-config",
        words: JSON,
        seeds: tokenizer_configs,
        read: tokenizer_config,
    },
    Target { name: "sentencepiece", words: &[], seeds: pieces, read: sentencepiece },
    Target { name: "merges", words: &[" ", "Ġ"], seeds: merges, read: merges_file },
    Target { name: "chat-template", words: JINJA, seeds: templates, read: template },
    Target { name: "safetensors", words: JSON, seeds: safetensors, read: weights },
    Target { name: "pickle", words: PICKLE, seeds: pickles, read: pickle },
    Target { name: "gguf", words: &["GGUF"], seeds: ggufs, read: gguf },
    Target { name: "index", words: JSON, seeds: indices, read: index },
    Target { name: "peft", words: JSON, seeds: adapters, read: adapter },
    Target { name: "json-lines", words: JSON, seeds: lines, read: rows },
    Target { name: "csv", words: &[",", "\"", "\"\"", "\n"], seeds: tables, read: rows },
    Target { name: "parquet", words: &["PAR1"], seeds: parquets, read: rows },
    Target { name: "gzip", words: &["\u{1f}"], seeds: gzips, read: rows },
    Target { name: "zstd", words: &["("], seeds: zstds, read: rows },
    Target { name: "run-file", words: TOML, seeds: run_files, read: run_file },
    Target { name: "reward-file", words: TOML, seeds: reward_files, read: reward_file },
    Target { name: "constitution", words: JSON, seeds: constitutions, read: constitution },
    Target { name: "checkpoint", words: JSON, seeds: checkpoints, read: checkpoint },
    Target { name: "run-folder", words: JSON, seeds: metrics, read: run_folder },
    Target { name: "judge-answer", words: MATHS, seeds: answers, read: judge_answer },
    Target { name: "mathematics", words: MATHS, seeds: mathematics, read: maths },
    Target { name: "instructions", words: JSON, seeds: instructions, read: instruction },
    Target { name: "json-schema", words: JSON, seeds: schemas, read: schema },
    Target {
        name: "pattern",
        words: &["(?", "(", ")*", "{1000}", "\\p{L}", "[^"],
        seeds: patterns,
        read: pattern,
    },
    Target {
        name: "judge-http",
        words: &["HTTP/1.1 ", "\r\n", "{\"choices\":"],
        seeds: replies,
        read: judge_http,
    },
    Target {
        name: "hub-http",
        words: &["HTTP/1.1 ", "\r\n", "ETag: "],
        seeds: hub_replies,
        read: hub_http,
    },
    Target {
        name: "output",
        words: &["\u{1b}[", "\u{202e}", "\u{200b}"],
        seeds: texts,
        read: output,
    },
];

fn main() -> ExitCode {
    let mut budget = Budget::Inputs(100);
    let (mut seed, mut names) = (0, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok());
        match argument.as_str() {
            "--minutes" => budget = Budget::Time(Duration::from_mins(number().unwrap_or(1))),
            "--seconds" => budget = Budget::Time(Duration::from_secs(number().unwrap_or(1))),
            "--inputs" => budget = Budget::Inputs(number().unwrap_or(100)),
            "--seed" => seed = number().unwrap_or(0),
            // Flags that `cargo test` passes to every test.
            flag if flag.starts_with('-') => {}
            name => names.push(name.to_owned()),
        }
    }
    // Panics are counted; those of libraries that are caught are errors.
    std::panic::set_hook(Box::new(|_| ()));
    let chosen = |target: &&Target| names.is_empty() || names.iter().any(|n| n == target.name);
    let mut failed = false;
    println!("{:18} {:>9} {:>9} {:>11}  panics", "target", "inputs", "outcomes", "slowest ms");
    for target in TARGETS.iter().filter(chosen) {
        let campaign = Campaign { target: *target, found: &folder().join("found"), seed };
        match campaign.run(budget) {
            Ok(report) => {
                let (name, panics) = (target.name, report.panics.len());
                let slowest = report.slowest.as_millis();
                println!(
                    "{name:18} {:>9} {:>9} {slowest:>11}  {panics}",
                    report.inputs, report.outcomes
                );
                failed |= panics > 0;
            }
            Err(error) => {
                println!("{}: {error}", target.name);
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn folder() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Files of the repository.
fn files(paths: &[&str]) -> Vec<Vec<u8>> {
    let read = |path: &&str| fs::read(folder().join("..").join(path)).expect(path);
    paths.iter().map(read).collect()
}

/// The files of a folder whose names end so, up to this many bytes.
fn files_of(path: &str, ending: &str, most: u64) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder().join("..").join(path)).expect(path);
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .filter(|path| path.metadata().is_ok_and(|about| about.len() <= most))
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file")).collect()
}

/// This file in each folder of a folder, up to this many bytes.
fn each(path: &str, name: &str, most: u64) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder().join("..").join(path)).expect(path);
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path().join(name))
        .filter(|path| path.metadata().is_ok_and(|about| about.len() <= most))
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file")).collect()
}

fn texts_of(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Writes an input under this name.
fn put(place: &Path, name: &str, input: &[u8]) {
    fs::write(place.join(name), input).expect("a file in memory");
}

/// Copies a file once.
fn beside(place: &Path, name: &str, from: &str) {
    if !place.join(name).exists() {
        fs::copy(folder().join("..").join(from), place.join(name)).expect(from);
    }
}

/// The texts of an error and of what caused it.
fn outcome<T, E: Error>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "fine".to_owned(),
        Err(error) => told(&error),
    }
}

fn told(error: &dyn Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

fn text(input: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(input)
}

// Models.

fn configs() -> Vec<Vec<u8>> {
    each("fixtures/models", "config.json", 1 << 16)
}

fn config(input: &[u8], place: &Path) -> String {
    beside(place, "model.safetensors", "fixtures/models/llama2/model.safetensors");
    put(place, "config.json", input);
    match Config::read(place) {
        Ok(_) => outcome(rlaif::models::inspect(place)),
        Err(error) => told(&error),
    }
}

fn generation_configs() -> Vec<Vec<u8>> {
    each("models", "generation_config.json", 1 << 16)
}

fn generation(input: &[u8], place: &Path) -> String {
    beside(place, "config.json", "fixtures/models/llama2/config.json");
    put(place, "generation_config.json", input);
    outcome(Config::read(place))
}

const FIXTURES: &str = "crates/rlaif-text/tests/fixtures";

fn tokenizers() -> Vec<Vec<u8>> {
    each(FIXTURES, "tokenizer.json", 1 << 16)
}

fn codes(place: &Path) -> String {
    let tokenizer = match HfTokenizer::from_folder(place) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return told(&error),
    };
    let ids = match tokenizer.encode("Hi there, ö 🚀 <|im_start|>\n 12 e\u{301}", Specials::Include)
    {
        Ok(ids) => ids,
        Err(error) => return told(&error),
    };
    outcome(tokenizer.decode(&ids, Specials::Include))
}

fn tokenizer(input: &[u8], place: &Path) -> String {
    put(place, "tokenizer.json", input);
    codes(place)
}

fn tokenizer_configs() -> Vec<Vec<u8>> {
    each(FIXTURES, "tokenizer_config.json", 1 << 16)
}

fn tokenizer_config(input: &[u8], place: &Path) -> String {
    beside(place, "tokenizer.json", "crates/rlaif-text/tests/fixtures/chatml/tokenizer.json");
    put(place, "tokenizer_config.json", input);
    codes(place)
}

fn pieces() -> Vec<Vec<u8>> {
    let all = ["tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model"];
    all.iter().flat_map(|name| each(FIXTURES, name, 1 << 15)).collect()
}

fn sentencepiece(input: &[u8], place: &Path) -> String {
    beside(
        place,
        "tokenizer_config.json",
        "crates/rlaif-text/tests/fixtures/llama_spm/tokenizer_config.json",
    );
    put(place, "tokenizer.model", input);
    codes(place)
}

fn merges() -> Vec<Vec<u8>> {
    files(&["crates/rlaif-text/tests/fixtures/qwen2_slow/merges.txt"])
}

fn merges_file(input: &[u8], place: &Path) -> String {
    beside(
        place,
        "tokenizer_config.json",
        "crates/rlaif-text/tests/fixtures/qwen2_slow/tokenizer_config.json",
    );
    beside(place, "vocab.json", "crates/rlaif-text/tests/fixtures/qwen2_slow/vocab.json");
    put(place, "merges.txt", input);
    codes(place)
}

fn templates() -> Vec<Vec<u8>> {
    let known: Value =
        serde_json::from_slice(&files(&["crates/rlaif-text/tests/fixtures/templates.json"])[0])
            .unwrap_or_default();
    let known = known["rows"].as_array().into_iter().flatten();
    let known = known.filter_map(|row| Some(row["template"].as_str()?.as_bytes().to_vec()));
    known.chain(files(&["crates/rlaif-text/tests/fixtures/chatml/chat_template.jinja"])).collect()
}

fn template(input: &[u8], place: &Path) -> String {
    beside(place, "tokenizer.json", "crates/rlaif-text/tests/fixtures/chatml/tokenizer.json");
    put(place, "chat_template.jinja", input);
    let tokenizer = match HfTokenizer::from_folder(place) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return told(&error),
    };
    let chat = [
        Message::new("system", "Be kind."),
        Message::new("user", "Is honey safe?"),
        Message::new("assistant", "It is."),
        Message::new("user", "Why?"),
    ];
    let rendered =
        tokenizer.render_chat_with(&chat, GenerationPrompt::Add, &ChatOptions::default());
    outcome(rendered)
}

// Weights.

const CHECKPOINTS: &str = "crates/rlaif-checkpoint/tests/fixtures";

fn safetensors() -> Vec<Vec<u8>> {
    ["safetensors", "refused"]
        .iter()
        .flat_map(|name| files_of(&format!("{CHECKPOINTS}/{name}"), ".safetensors", 1 << 16))
        .collect()
}

fn tensors(place: &Path) -> String {
    let checkpoint = match Checkpoint::open(place) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return told(&error),
    };
    for (name, info) in checkpoint.tensors() {
        if info.bytes < 1 << 20
            && let Err(error) = checkpoint.read_into(name, &mut vec![0; info.bytes as usize])
        {
            return told(&error);
        }
    }
    "fine".to_owned()
}

fn weights(input: &[u8], place: &Path) -> String {
    put(place, "model.safetensors", input);
    tensors(place)
}

fn pickles() -> Vec<Vec<u8>> {
    let mut all = files_of(&format!("{CHECKPOINTS}/refused"), ".bin", 1 << 16);
    for name in ["torch", "torch_legacy", "torch_module", "torch_protocol4"] {
        all.extend(files_of(&format!("{CHECKPOINTS}/{name}"), ".bin", 1 << 16));
    }
    all
}

fn pickle(input: &[u8], place: &Path) -> String {
    put(place, "pytorch_model.bin", input);
    tensors(place)
}

fn ggufs() -> Vec<Vec<u8>> {
    each("fixtures/models", "blocks.gguf", 1 << 17)
        .into_iter()
        .chain(each("fixtures/models", "model.gguf", 1 << 17))
        .collect()
}

fn gguf(input: &[u8], place: &Path) -> String {
    put(place, "model.gguf", input);
    let file = match Gguf::open(&place.join("model.gguf")) {
        Ok(file) => file,
        Err(error) => return told(&error),
    };
    for name in file.tensors().keys() {
        if let Err(error) = file.read(name) {
            return told(&error);
        }
    }
    "fine".to_owned()
}

fn indices() -> Vec<Vec<u8>> {
    files(&[
        "crates/rlaif-checkpoint/tests/fixtures/safetensors_sharded/model.safetensors.index.json",
    ])
}

fn index(input: &[u8], place: &Path) -> String {
    for name in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        beside(place, name, &format!("{CHECKPOINTS}/safetensors_sharded/{name}"));
    }
    put(place, "model.safetensors.index.json", input);
    tensors(place)
}

fn adapters() -> Vec<Vec<u8>> {
    each(&format!("{CHECKPOINTS}/adapters"), "adapter_config.json", 1 << 16)
}

fn adapter(input: &[u8], place: &Path) -> String {
    put(place, "adapter_config.json", input);
    outcome(AdapterConfig::read(place))
}

// Data.

const IMPORTS: &str = "crates/rlaif-data/tests/fixtures/import";
const FORMATS: &str = "crates/rlaif-data/tests/fixtures/formats";

fn lines() -> Vec<Vec<u8>> {
    let mut all = files_of(IMPORTS, ".jsonl", 1 << 14);
    all.extend(files_of(FORMATS, ".jsonl", 1 << 14));
    all.extend(files_of("crates/rlaif-data/tests/fixtures/exams", ".jsonl", 1 << 14));
    all
}

fn tables() -> Vec<Vec<u8>> {
    let mut all = files_of(IMPORTS, ".csv", 1 << 16);
    all.extend(files_of(FORMATS, ".csv", 1 << 16));
    all
}

fn parquets() -> Vec<Vec<u8>> {
    let mut all = files_of(FORMATS, ".parquet", 1 << 16);
    all.extend(files_of(IMPORTS, ".parquet", 1 << 15));
    all
}

fn gzips() -> Vec<Vec<u8>> {
    let packed = |input: &Vec<u8>| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(input).expect("memory");
        out.finish().expect("memory")
    };
    lines().iter().take(4).map(packed).collect()
}

fn zstds() -> Vec<Vec<u8>> {
    // A frame of one raw block, as RFC 8878 has it.
    let frame = |input: &Vec<u8>| {
        let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x60];
        out.extend_from_slice(&((input.len() - 256) as u16).to_le_bytes());
        out.extend_from_slice(&((input.len() as u32) << 3 | 1).to_le_bytes()[..3]);
        out.extend_from_slice(input);
        out
    };
    lines().iter().filter(|input| (256..60_000).contains(&input.len())).take(4).map(frame).collect()
}

fn rows(input: &[u8], place: &Path) -> String {
    put(place, "rows", input);
    let source = match Source::file(place.join("rows")) {
        Ok(source) => source,
        Err(error) => return told(&error),
    };
    let reader =
        || Reader::new(source.clone()).mode(Mode::Lenient).progress(ReadingProgress::Silent);
    match Import::find(&source) {
        Ok(import) => {
            let read = [
                outcome(import.pairs(reader())),
                outcome(import.demonstrations(reader())),
                outcome(import.prompts(reader())),
                outcome(import.unpaired(reader())),
                outcome(import.labelled(reader())),
            ];
            read.join(" ")
        }
        Err(error) => told(&error),
    }
}

// Files of runs and rewards.

fn run_files() -> Vec<Vec<u8>> {
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

fn run_file(input: &[u8], place: &Path) -> String {
    put(place, "run.toml", input);
    [opened::<SftFile>(place), opened::<PpoFile>(place), opened::<DpoFile>(place)].join(" ")
}

fn reward_files() -> Vec<Vec<u8>> {
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

fn reward_file(input: &[u8], _: &Path) -> String {
    let input = text(input);
    let judge = JudgeConfig::<LlmApi>::from_toml(&input, "judge.toml");
    format!("{} {}", outcome(RewardConfig::from_toml(&input, "reward.toml")), outcome(judge))
}

fn constitutions() -> Vec<Vec<u8>> {
    texts_of(&[
        r#"{"harmful1": {"prompt": ["\n\nCritiqueRequest: What is harmful?\n\nCritique:"], "edit_request": "\n\nRevisionRequest: Rewrite.\n\nRevision:"}}"#,
        r#"[{"prompt": "Human: a\n\nAssistant: b\n\nCritiqueRequest: c\n\nCritique: d\n\nRevisionRequest: e\n\nRevision: f"}]"#,
        r#"[{"comparison": "Which is better?"}]"#,
    ])
}

fn constitution(input: &[u8], place: &Path) -> String {
    put(place, "c.json", input);
    put(place, "c.toml", input);
    let read = |name: &str| outcome(Constitution::from_files([place.join(name)]));
    format!("{} {}", read("c.json"), read("c.toml"))
}

fn checkpoints() -> Vec<Vec<u8>> {
    texts_of(&[
        r#"{"format": 1, "step": 7, "files": {"state.json": {"bytes": 3, "xxh3_128": "00"}}}"#,
        r#"{"format": 2, "step": 7, "files": {"../../etc/passwd": {"bytes": 3, "xxh3_128": "00"}}}"#,
    ])
}

fn checkpoint(input: &[u8], place: &Path) -> String {
    put(place, "checkpoint.json", input);
    put(place, "state.json", b"{}\n");
    put(place, "score.json", input);
    outcome(Saved::open(place))
}

fn metrics() -> Vec<Vec<u8>> {
    texts_of(&[
        "{\"step\":1,\"objective/kl\":0.5,\"loss\":\"NaN\"}\n{\"step\":2,\"objective/kl\":0.7}\n",
        r#"[{"step": 3, "symptom": "a", "seen": "b", "cause": "c", "advice": "d"}]"#,
        "{\"ids\": [5, 2], \"text\": \"five\", \"finish\": \"eos\", \"log_probs\": [-0.5, -1]}\n",
    ])
}

fn run_folder(input: &[u8], place: &Path) -> String {
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

// Answers and responses.

fn answers() -> Vec<Vec<u8>> {
    texts_of(&[
        "7",
        "Score: 8/10, because it is clear.",
        "{\"reason\": \"fine\", \"score\": 3.5}",
        "```json\n{\"justification\": \"x\", \"score\": \"4\",}\n```",
        "<think>between 3 and 5</think>\n**4**",
        "A is better. Preferred response=1",
        "I cannot say.",
    ])
}

fn judge_answer(input: &[u8], _: &Path) -> String {
    static RUBRICS: OnceLock<Vec<Rubric>> = OnceLock::new();
    let rubrics = RUBRICS.get_or_init(|| {
        let forms = [AnswerForm::Number, AnswerForm::NumberThenReason, AnswerForm::Json];
        ["toxicity", "quality", "helpfulness", "summary"]
            .iter()
            .flat_map(|name| forms.map(|form| (name, form)))
            .filter_map(|(name, form)| Rubric::preset(name).ok()?.answered_as(form).ok())
            .collect()
    });
    let answer = Answer::text(text(input));
    let mut all: Vec<String> = rubrics
        .iter()
        .map(|rubric| match rubric.read(&answer) {
            Ok(reading) => {
                assert!(reading.score.get().is_finite(), "a score that is not finite");
                "fine".to_owned()
            }
            Err(none) => none.to_string(),
        })
        .collect();
    for name in PairRubric::presets() {
        all.extend(PairRubric::preset(name).map(|rubric| outcome(rubric.read(&answer))));
    }
    all.sort();
    all.dedup();
    all.join(" ")
}

fn mathematics() -> Vec<Vec<u8>> {
    let rows =
        text(&files(&["crates/rlaif-rewards/tests/fixtures/math_answers.jsonl"])[0]).into_owned();
    let pair = |line: &str| {
        let row: Value = serde_json::from_str(line).ok()?;
        Some(format!("{}\n\n{}", row["response"].as_str()?, row["gold"].as_str()?).into_bytes())
    };
    rows.lines().filter_map(pair).take(200).collect()
}

fn maths(input: &[u8], _: &Path) -> String {
    let input = text(input);
    let (response, right) = input.split_once("\n\n").unwrap_or((&input, "1"));
    let places = [AnswerPlace::Anywhere, AnswerPlace::Boxed];
    places.map(|place| same_answer(response, right, place).to_string()).join(" ")
}

fn instructions() -> Vec<Vec<u8>> {
    texts_of(&[
        r#"{"response": "No comma", "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"], "kwargs": [{}, {"num_words": 3, "relation": "at least"}]}"#,
        r#"{"response": "* a\n* b", "instruction_id_list": ["detectable_format:number_bullet_lists", "startend:end_checker"], "kwargs": [{"num_bullets": 2}, {"end_phrase": "b"}]}"#,
        r#"{"response": "P.S. [x] TITLE", "instruction_id_list": ["detectable_content:postscript", "detectable_content:number_placeholders", "keywords:letter_frequency"], "kwargs": [{"postscript_marker": "P.S."}, {"num_placeholders": 1}, {"letter": "t", "let_frequency": 2, "let_relation": "less than"}]}"#,
        r#"{"response": "Hello. You?", "instruction_id_list": ["language:response_language", "length_constraints:number_sentences", "combination:repeat_prompt"], "kwargs": [{"language": "de"}, {"num_sentences": 2, "relation": "less than"}, {"prompt_to_repeat": "Hello."}]}"#,
        r#"{"response": "a\n\n***\n\nb", "instruction_id_list": ["length_constraints:number_paragraphs", "length_constraints:nth_paragraph_first_word", "detectable_format:multiple_sections"], "kwargs": [{"num_paragraphs": 2}, {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "b"}, {"section_spliter": "SECTION", "num_sections": 2}]}"#,
    ])
}

fn instruction(input: &[u8], _: &Path) -> String {
    let Ok(Value::Object(row)) = serde_json::from_slice(input) else { return "none".to_owned() };
    let response = row.get("response").and_then(Value::as_str).unwrap_or("a response, and more");
    let exchange = Exchange { metadata: Some(&row), ..Exchange::new("p", response) };
    scored(&Instructions::new(TestScore::Share).loose(), &exchange)
}

fn scored(reward: &dyn RewardModel, exchange: &Exchange<'_>) -> String {
    match reward.score(std::slice::from_ref(exchange)) {
        Ok(scores) => {
            let reasons = &scores.reasons;
            format!("{} {reasons:?}", scores.total[0].is_some())
        }
        Err(error) => told(&error),
    }
}

fn schemas() -> Vec<Vec<u8>> {
    let rows =
        text(&files(&["crates/rlaif-rewards/tests/fixtures/json_schemas.jsonl"])[0]).into_owned();
    rows.lines().take(100).map(|line| line.as_bytes().to_vec()).collect()
}

fn schema(input: &[u8], _: &Path) -> String {
    let Ok(row) = serde_json::from_slice::<Value>(input) else { return "none".to_owned() };
    let schema = row.get("schema").unwrap_or(&row);
    match JsonSchemaCheck::new(schema) {
        Ok(check) => {
            let value = row.pointer("/cases/0/value").unwrap_or(&row);
            scored(&check, &Exchange::new("p", &value.to_string()))
        }
        Err(error) => told(&error),
    }
}

fn patterns() -> Vec<Vec<u8>> {
    texts_of(&["^(a|b)+$\naab", "(?i)\\d{3}-\\p{L}\n123-x", "(?:x{1,5}){2,}[^y]\nxxxxxz"])
}

fn pattern(input: &[u8], _: &Path) -> String {
    let input = text(input);
    let (pattern, response) = input.split_once('\n').unwrap_or((&input, "a"));
    match Format::new(pattern) {
        Ok(format) => scored(&format, &Exchange::new("p", response)),
        Err(error) => told(&error),
    }
}

// Servers.

/// A server that answers every request with the same bytes.
fn served(input: &[u8]) -> u16 {
    static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static PORT: OnceLock<u16> = OnceLock::new();
    input.clone_into(&mut ANSWER.lock().unwrap_or_else(PoisonError::into_inner));
    *PORT.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let answer = ANSWER.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let _ = answer_one(&mut stream, &answer);
            }
        });
        port
    })
}

fn answer_one(stream: &mut TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    // Headers and the body that they announce.
    loop {
        let read = stream.read(&mut buffer)?;
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if read == 0 {
                return Ok(());
            }
            continue;
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        if read == 0 || body.len() >= length {
            break;
        }
    }
    stream.write_all(answer)
}

fn http(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .into_bytes()
}

fn replies() -> Vec<Vec<u8>> {
    let fine = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"7"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    vec![
        http("200 OK", "", fine),
        http(
            "400 Bad Request",
            "",
            r#"{"error":{"message":"no","type":"invalid_request_error","code":"x"}}"#,
        ),
        http("429 Too Many Requests", "Retry-After: 1\r\n", r#"{"error":{"message":"slow down"}}"#),
        http("302 Found", "Location: http://127.0.0.1:1/\r\n", ""),
        http(
            "200 OK",
            "",
            r#"{"choices":[{"message":{"content":[{"type":"text","text":"7"}]},"logprobs":{"content":[{"token":"7","logprob":-0.1,"top_logprobs":[{"token":"7","logprob":-0.1}]}]}}]}"#,
        ),
        [
            &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"[..],
            format!("{:x}\r\n{fine}\r\n0\r\n\r\n", fine.len()).as_bytes(),
        ]
        .concat(),
    ]
}

fn judge_http(input: &[u8], _: &Path) -> String {
    static JUDGE: OnceLock<Option<LlmJudge>> = OnceLock::new();
    let port = served(input);
    let judge = JUDGE.get_or_init(|| {
        let file = format!(
            "rubric = 'helpfulness'\nreasks = 0\n[api]\nkind = 'openai'\nmodel = 'm'\n\
             base_url = 'http://127.0.0.1:{port}/v1'\n[limits]\nretries = 0\ntimeout_s = 3.0\n"
        );
        let config = JudgeConfig::<LlmApi>::from_toml(&file, "judge.toml").ok()?;
        LlmJudge::with_environment(&config, &|_| Some("sk-test-12345678".to_owned())).ok()
    });
    let judge = judge.as_ref().expect("a judge");
    let outcome = scored(judge, &Exchange::new("Hi", "Hello."));
    assert!(!outcome.contains("sk-test-12345678"), "the key is in a message");
    outcome
}

fn hub_replies() -> Vec<Vec<u8>> {
    let commit = "0123456789012345678901234567890123456789";
    let info = format!(
        r#"{{"sha":"{commit}","siblings":[{{"rfilename":"config.json"}},{{"rfilename":"a/b.txt"}}]}}"#
    );
    let file = format!("X-Repo-Commit: {commit}\r\nETag: \"{commit}\"\r\nX-Linked-Size: 2\r\n");
    vec![
        http("200 OK", "", &info),
        http("200 OK", &file, "{}"),
        http("404 Not Found", "X-Error-Code: EntryNotFound\r\n", ""),
        http("401 Unauthorized", "X-Error-Code: GatedRepo\r\nX-Error-Message: no\r\n", ""),
        http("307 Temporary Redirect", "Location: /other\r\n", ""),
        http("206 Partial Content", &format!("{file}Content-Range: bytes 0-1/2\r\n"), "{}"),
    ]
}

fn hub_http(input: &[u8], place: &Path) -> String {
    let port = served(input);
    let cache = place.join("cache");
    let _ = fs::remove_dir_all(&cache);
    let pause = Duration::from_millis(1);
    let hub = Hub::builder()
        .endpoint(format!("http://127.0.0.1:{port}"))
        .cache_dir(&cache)
        .network(Network::Online)
        .retry(Retry { retries: 0, first_pause: pause, longest_pause: pause })
        .progress(Quiet)
        .build();
    let repo = match hub.and_then(|hub| hub.repo(RepoKind::Model, "org/name", None)) {
        Ok(repo) => repo,
        Err(error) => return told(&error),
    };
    format!("{} {}", outcome(repo.files()), outcome(repo.get("config.json")))
}

// Output.

fn texts() -> Vec<Vec<u8>> {
    texts_of(&["plain\ttext\n", "\u{1b}[31mred\u{1b}[0m", "a\u{202e}b", "👩\u{200d}🚀", "x\r\ny"])
}

fn output(input: &[u8], _: &Path) -> String {
    let input = text(input);
    let shown = printable(&input);
    assert!(shown.chars().all(|c| hidden(c).is_none()), "a hidden character is printed");
    // A code is six characters or more, between brackets.
    assert!(shown.lines().all(|line| line.chars().count() <= 4_096 * 10 + 60), "a long line");
    (shown == input).to_string()
}
