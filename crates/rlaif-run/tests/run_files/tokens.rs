//! One conversation as plain text, as messages and as text that was rendered before, in each place
//! where a command makes token ids of it, of a model and of an adapter's folder, against the ids of TRL and transformers
//! (`fixtures/tokens/export.py`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use rlaif_core::{PlainText, Seed, TextKind};
use rlaif_dpo::{HeldOutRows, TrainRows};
use rlaif_lm::{Joiner, LmSpec, Policy};
use rlaif_models::{
    AdapterConfig, Config, LanguageModel, LoadOptions, ModelNames, SaveOptions, TaskType,
};
use rlaif_run::{
    ColumnSection, DpoFile, Encoder, EvalFile, PpoFile, PromptSection, RewardFile, RlFile,
    model_files, pass_on_rendering,
};
use rlaif_text::HfTokenizer;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Golden {
    bos: String,
    eos: String,
    tokenizers: std::collections::BTreeMap<String, Tokenizer>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Tokenizer {
    template: String,
    post_processor: Value,
}

#[derive(Deserialize)]
struct Row {
    tokenizer: String,
    form: String,
    row: Pair,
    prompt: Vec<u32>,
    sft: Vec<u32>,
    /// Tokens that SFT masks, and that both responses of DPO share.
    masked: usize,
    shared: usize,
    dpo: [Vec<u32>; 2],
    reward: [Vec<u32>; 2],
}

#[derive(Deserialize)]
struct Pair {
    prompt: Value,
    chosen: Value,
    rejected: Value,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokens/golden.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The tokenizer of rlaif-text's `chatml` with another post-processor and template.
fn tokenizer(golden: &Golden, name: &str, folder: &Path) -> HfTokenizer {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../rlaif-text/tests/fixtures/chatml/tokenizer.json");
    let mut whole: Value = serde_json::from_slice(&fs::read(fixture).unwrap()).unwrap();
    let Tokenizer { template, post_processor } = &golden.tokenizers[name];
    whole["post_processor"] = post_processor.clone();
    fs::write(folder.join("tokenizer.json"), whole.to_string()).unwrap();
    let config = json!({"bos_token": golden.bos, "eos_token": golden.eos});
    fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    fs::write(folder.join("chat_template.jinja"), template).unwrap();
    HfTokenizer::from_folder(folder).unwrap()
}

/// A policy whose configuration names another end of sequence first, as Llama-3.1-Instruct does.
fn policy() -> LanguageModel {
    tch::manual_seed(1);
    let config = Config::from_value(json!({
        "model_type": "llama", "vocab_size": 390, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 512,
        "bos_token_id": 380, "eos_token_id": [383, 382],
    }));
    LanguageModel::random(config, tch::Kind::Float, tch::Device::Cpu).unwrap()
}

/// The tokenizers of a model and of an adapter's folder, whose tokenizer is that of its base, or its
/// own beside a base with another one.
fn of_each_model(golden: &Golden, name: &str, place: &Path) -> Vec<(&'static str, HfTokenizer)> {
    let mut policy = policy();
    let other = if name == "adds nothing" { "adds an end" } else { "adds nothing" };
    let folder = |end: &str| place.join(format!("{name}, {end}"));
    let base = |own: &str, end: &str| {
        let folder = folder(end);
        self::policy().save(&folder, &SaveOptions::default()).unwrap();
        tokenizer(golden, own, &folder);
        folder
    };
    let whole = base(name, "whole");
    let mut adapter = |base: PathBuf, end: &str| {
        let folder = folder(end);
        let mut config = AdapterConfig::new(TaskType::CausalLm, 2.try_into().unwrap());
        config.base_model_name_or_path = Some(base.display().to_string());
        policy.adapters().add(end, config).unwrap();
        policy.adapters().save(end, &folder).unwrap();
        folder
    };
    let plain = adapter(whole.clone(), "an adapter");
    let own = adapter(base(other, "another base"), "an adapter with a tokenizer");
    tokenizer(golden, name, &own);
    [("a model", whole), ("an adapter", plain), ("an adapter with a tokenizer", own)]
        .map(|(what, folder)| {
            let model = folder.to_str().unwrap();
            let files = model_files(&ModelNames { model, ..ModelNames::default() }).unwrap();
            assert_eq!(files.adapter.is_some(), what != "a model", "{what}");
            let model = files.language_model(LoadOptions::default()).unwrap();
            (what, rlaif_run::tokenizer(&files, model.spec().vocab_size).unwrap())
        })
        .into()
}

fn written(folder: &Path, name: &str, row: &Value) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("{row}\n{row}\n")).unwrap();
    path
}

/// The ids that a policy reads of a prompt, as evaluation makes them.
fn opened(codec: &HfTokenizer, spec: &LmSpec, text: &str, kind: TextKind) -> Vec<u32> {
    Joiner::new(codec, spec).open_one(text, kind).unwrap()
}

#[test]
fn a_conversation_has_the_same_token_ids_in_every_command() {
    let golden = golden();
    let policy = policy();
    let spec = policy.spec();
    let place = tempfile::tempdir().unwrap();
    let mut of_messages = Vec::new();
    let models: std::collections::BTreeMap<&str, _> = golden
        .tokenizers
        .keys()
        .map(|name| (name.as_str(), of_each_model(&golden, name, place.path())))
        .collect();
    let rows = golden.rows.iter().flat_map(|row| {
        models[row.tokenizer.as_str()].iter().map(move |(model, codec)| (row, *model, codec))
    });
    for (row, model, codec) in rows {
        let at = format!("{}, {}, {model}", row.tokenizer, row.form);
        let folder = place.path().join(&at);
        fs::create_dir_all(&folder).unwrap();
        let Pair { prompt, chosen, rejected } = &row.row;

        // SFT.
        let answer = json!({"prompt": prompt, "completion": chosen});
        let answers = written(&folder, "sft.jsonl", &answer).display().to_string();
        let encoder = Encoder::new(codec, spec, 512);
        let (rows, _) =
            ColumnSection::default().read(&answers, &PromptSection::default(), &encoder).unwrap();
        assert_eq!([&rows[0].prompt[..], &rows[0].response].concat(), row.sft, "sft: {at}");
        // Where tokens merge, the response begins with the one that is not the prompt's alone.
        assert_eq!(rows[0].prompt, row.sft[..row.masked], "sft: {at}");
        assert_eq!(rows[0].prompt.len() < row.prompt.len(), row.tokenizer.starts_with("merges"));

        if let (Value::Array(asked), Value::Array(said)) = (prompt, chosen) {
            let whole: Vec<&Value> = asked.iter().chain(said).collect();
            let whole = written(&folder, "whole.jsonl", &json!({"messages": whole}));
            let (rows, _) = ColumnSection::default()
                .read(&whole.display().to_string(), &PromptSection::default(), &encoder)
                .unwrap();
            assert_eq!([&rows[0].prompt[..], &rows[0].response].concat(), row.sft, "sft: {at}");
        }

        // DPO.
        let pair = json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
        let pairs = written(&folder, "pairs.jsonl", &pair).display().to_string();
        let file = format!("[model]\npath = 'm'\n[data]\ntrain = '{pairs}'\n");
        let dpo: DpoFile = toml::from_str(&file).unwrap();
        let rows = dpo.read(codec, spec, Seed::new(1)).unwrap();
        let TrainRows::Pairs(train) = &rows.train else { panic!("{at}") };
        assert!(matches!(&rows.held_out, HeldOutRows::Pairs(rows) if rows.is_empty()));
        let whole = |response: &[u32]| [&train[0].prompt[..], response].concat();
        assert_eq!([whole(&train[0].chosen), whole(&train[0].rejected)], row.dpo, "dpo: {at}");
        assert_eq!(train[0].prompt.len(), row.shared, "dpo: {at}");

        // The reward model.
        let reward: RewardFile = toml::from_str(&file).unwrap();
        let (rows, _) = reward.read(&pairs, codec, 512).unwrap();
        let sides = [rows[0].chosen.clone(), rows[0].rejected.clone()];
        assert_eq!(sides, row.reward, "reward: {at}");

        // A text after messages is what the assistant says. TRL 1.16 cannot read such a row (a list and a
        // string are not concatenated); its ids are those of the same row as messages.
        let said = |turns: &Value| Some(turns.as_array()?.first()?["content"].clone());
        if let (Value::Array(_), Some(chosen), Some(rejected)) =
            (prompt, said(chosen), said(rejected))
        {
            let answer = json!({"prompt": prompt, "completion": chosen});
            let answers = written(&folder, "sft-text.jsonl", &answer).display().to_string();
            let (rows, _) = ColumnSection::default()
                .read(&answers, &PromptSection::default(), &encoder)
                .unwrap();
            assert_eq!([&rows[0].prompt[..], &rows[0].response].concat(), row.sft, "sft: {at}");
            let pair = json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
            let pairs = written(&folder, "pairs-text.jsonl", &pair).display().to_string();
            let dpo: DpoFile =
                toml::from_str(&format!("[model]\npath = 'm'\n[data]\ntrain = '{pairs}'\n"))
                    .unwrap();
            let rows = dpo.read(codec, spec, Seed::new(1)).unwrap();
            let TrainRows::Pairs(train) = &rows.train else { panic!("{at}") };
            let whole = |response: &[u32]| [&train[0].prompt[..], response].concat();
            assert_eq!([whole(&train[0].chosen), whole(&train[0].rejected)], row.dpo, "dpo: {at}");
            let (rows, _) = reward.read(&pairs, codec, 512).unwrap();
            let sides = [rows[0].chosen.clone(), rows[0].rejected.clone()];
            assert_eq!(sides, row.reward, "reward: {at}");
        }

        // Online DPO, by its prompts.
        let online = "[online]\nreward = { kind = 'length', longest = 3, per = 1.0 }\n";
        let dpo: DpoFile = toml::from_str(&format!("{file}{online}")).unwrap();
        let rows = dpo.read(codec, spec, Seed::new(1)).unwrap();
        let TrainRows::Prompts(prompts) = &rows.train else { panic!("{at}") };
        assert_eq!(&*prompts[0].ids, row.prompt, "online: {at}");

        // PPO.
        let asked = written(&folder, "prompts.jsonl", &json!({"prompt": prompt}));
        let asked = asked.display().to_string();
        let file = format!(
            "[model]\npath = 'm'\n[data]\nprompts = '{asked}'\n\
             [reward]\nkind = 'length'\nlongest = 3\nper = 1.0\n\
             [ppo]\nbatch_size = 1\nminibatch_size = 1\n"
        );
        let ppo: PpoFile = toml::from_str(&file).unwrap();
        let prompts = ppo.prompts(codec, &policy).unwrap().prompts;
        assert_eq!(&*prompts[0].ids, row.prompt, "ppo: {at}");

        // Evaluation.
        let file = format!(
            "metrics = [{{ kind = 'length' }}]\nbaseline = {{ model = 'm' }}\n\
             tuned = {{ model = 'm' }}\n[data]\ncorpus = 'prompts'\nfile = '{asked}'\n"
        );
        let eval: EvalFile = toml::from_str(&file).unwrap();
        let prompts = eval.prompts(codec).unwrap();
        let record = &prompts.records()[0];
        let ids = opened(codec, spec, &record.prompt, record.kind);
        assert_eq!(ids, row.prompt, "eval: {at}");

        match row.form.as_str() {
            "messages" => of_messages.clone_from(&row.sft),
            "rendered text" => assert_eq!(row.sft, of_messages, "{at}"),
            _ => {}
        }
    }
    assert_eq!(golden.rows.len(), 18);
}

/// With `[prompt]`, a plain text is what messages say.
#[test]
fn a_plain_text_in_the_chat_template_is_the_conversation_itself() {
    let golden = golden();
    let policy = policy();
    let place = tempfile::tempdir().unwrap();
    for row in golden.rows.iter().filter(|row| row.form == "messages") {
        let folder = place.path().join(&row.tokenizer);
        fs::create_dir_all(&folder).unwrap();
        let codec = tokenizer(&golden, &row.tokenizer, &folder);
        let prompts = written(&folder, "p.jsonl", &json!({"prompt": "a prime."}));
        let section = "plain = 'chat'\nsystem = 'Be brief.'\ntemplate = 'Name {prompt}'\n";
        let file = format!(
            "[model]\npath = 'm'\n[data]\nprompts = '{}'\n[prompt]\n{section}\
             [reward]\nkind = 'length'\nlongest = 3\nper = 1.0\n\
             [ppo]\nbatch_size = 1\nminibatch_size = 1\n",
            prompts.display()
        );
        let ppo: PpoFile = toml::from_str(&file).unwrap();
        let read = ppo.prompts(&codec, &policy).unwrap();
        assert_eq!(&*read.prompts[0].ids, row.prompt);
        assert_eq!(read.rendering.plain, PlainText::Chat);
        // What a reward reads has no special tokens.
        assert_eq!(read.prompts[0].record.exchange("y").prompt, "Name a prime.");

        // An evaluation of that run asks in the same way, and says so.
        let run = folder.join("run");
        fs::create_dir_all(&run).unwrap();
        fs::write(run.join("prompt.json"), serde_json::to_string(&read.rendering).unwrap())
            .unwrap();
        let file = format!(
            "metrics = [{{ kind = 'length' }}]\nbaseline = {{ model = 'm' }}\n\
             tuned = {{ model = '{}' }}\n[data]\ncorpus = 'prompts'\nfile = '{}'\n",
            run.join("model").display(),
            prompts.display()
        );
        let eval: EvalFile = toml::from_str(&file).unwrap();
        let about = eval.about_prompts().unwrap();
        assert!(about.contains("as in the training of"), "{about}");
        // So does one of a copy elsewhere, a merged model or a link.
        let (copy, link) = (folder.join("copy"), folder.join("link"));
        fs::create_dir_all(&copy).unwrap();
        pass_on_rendering(&run, &copy).unwrap();
        std::os::unix::fs::symlink(&copy, &link).unwrap();
        let tuned = |place: &Path| -> EvalFile {
            let model = run.join("model").display().to_string();
            toml::from_str(&file.replace(&model, &place.display().to_string())).unwrap()
        };
        for place in [&copy, &link] {
            let how = tuned(place).about_prompts().unwrap();
            assert!(how.contains("as in the training of"), "{how}");
        }
        fs::write(copy.join("prompt.json"), "{").unwrap();
        let error = tuned(&link).about_prompts().unwrap_err().to_string();
        assert!(error.contains("prompt.json"), "{error}");
        let asked = eval.prompts(&codec).unwrap();
        let record = &asked.records()[0];
        assert_eq!(opened(&codec, policy.spec(), &record.prompt, record.kind), row.prompt);
        let plain: EvalFile = toml::from_str(&format!("{file}[prompt]\nplain = 'text'\n")).unwrap();
        assert_eq!(plain.prompts(&codec).unwrap().records()[0].kind, TextKind::Plain);
    }
}

/// As `ppo` and `reinforce` do: columns that the reward names, and the column of references.
#[test]
fn rewards_of_online_dpo_get_the_columns_that_they_compare_with() {
    let golden = golden();
    let policy = policy();
    let place = tempfile::tempdir().unwrap();
    let codec = tokenizer(&golden, "adds nothing", place.path());
    let truth = json!({"ground_truth": "34"});
    let asked = json!({"prompt": "17 * 2?", "reward_model": truth, "solution": "It is 34."});
    let mut pair = asked.clone();
    (pair["chosen"], pair["rejected"]) = ("34".into(), "35".into());
    for (form, row) in [("prompts", asked), ("pairs", pair)] {
        let path = written(place.path(), "rows.jsonl", &row);
        for (more, reference) in
            [("", None), ("reference_column = 'solution'\n", Some("It is 34."))]
        {
            let file = format!(
                "[model]\npath = 'm'\n[data]\ntrain = '{}'\n[online]\n{more}\
                 reward = {{ kind = 'math-answer', answer = 'reward_model.ground_truth' }}\n",
                path.display()
            );
            let dpo: DpoFile = toml::from_str(&file).unwrap();
            let rows = dpo.read(&codec, policy.spec(), Seed::new(1)).unwrap();
            let TrainRows::Prompts(prompts) = &rows.train else { panic!("{form}") };
            let exchange = prompts[0].record.exchange("y");
            assert_eq!(exchange.reference, reference, "{form}");
            let metadata = exchange.metadata.unwrap();
            assert_eq!(metadata.len(), 1, "{form}: {metadata:?}");
            assert_eq!(metadata["reward_model"], truth, "{form}");
        }
    }
    let file = "[model]\npath = 'm'\n[data]\ntrain = 'ROWS'\n[online]\n\
                reward = { kind = 'math-answer', answer = 'answer' }\n";
    let file = file.replace("ROWS", place.path().join("rows.jsonl").to_str().unwrap());
    let dpo: DpoFile = toml::from_str(&file).unwrap();
    let error = dpo.read(&codec, policy.spec(), Seed::new(1)).unwrap_err().to_string();
    assert!(error.contains("`answer`"), "{error}");
}
