//! Tiny models and data under the names that the docs use, in the layouts of the real repositories.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rlaif::core::Record;
use rlaif::data::builtin::{self, Part};
use rlaif::models::{Classifier, Config, LanguageModel, SaveOptions};
use rlaif::tch::{Device, Kind, Tensor, manual_seed};
use rlaif::text::HfTokenizer;
use rlaif_hub_testing::{HubServer, Kind as RepoKind};
use serde_json::json;

pub(crate) const FLAN: &str = "google/flan-t5-base";
/// The smaller sister, in the same layout.
const FLAN_SMALL: &str = "google/flan-t5-small";
pub(crate) const LLAMA: &str = "meta-llama/Llama-3.1-8B-Instruct";
pub(crate) const ROBERTA: &str = "facebook/roberta-hate-speech-dynabench-r4-target";
/// The old name, which the hub answers by a redirect to the new one.
pub(crate) const GPT2: &str = "gpt2";
const NEW_GPT2: &str = "openai-community/gpt2";
pub(crate) const DISTILBERT: &str = "lvwerra/distilbert-imdb";
pub(crate) const HH: &str = "Anthropic/hh-rlhf";

/// Tokenizers of a few hundred tokens, with everything else that the real ones have.
pub(crate) fn tokenizer(name: &str) -> PathBuf {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/rlaif-text/tests/fixtures");
    Path::new(fixtures).join(name)
}

/// A repository's folder with the weights that `save` writes, and the files of a tokenizer beside.
fn repository(root: &Path, id: &str, tokenizer: &Path, save: impl FnOnce(&Path)) -> PathBuf {
    let folder = root.join(id);
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    save(&folder);
    for file in HfTokenizer::files() {
        if tokenizer.join(file).is_file() && !folder.join(file).exists() {
            fs::copy(tokenizer.join(file), folder.join(file)).unwrap();
        }
    }
    fs::write(folder.join("README.md"), "# A model card").unwrap();
    folder
}

/// One safetensors file, weights of the vocabulary head apart from the embeddings.
fn flan(root: &Path, id: &str) {
    let text = tokenizer("t5");
    let rows = HfTokenizer::from_folder(&text).unwrap().embedding_rows();
    let config = Config::from_value(json!({
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": rows,
        "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2,
        "num_heads": 4, "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new",
        "is_gated_act": true, "tie_word_embeddings": false, "pad_token_id": 0, "eos_token_id": 1,
        "decoder_start_token_id": 0, "dropout_rate": 0.1, "n_positions": 512,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    }));
    manual_seed(id.len() as i64);
    let model = LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap();
    repository(root, id, &text, |folder| model.save(folder, &SaveOptions::default()).unwrap());
}

/// bf16 in four files and an index, a chat template, three ids that end a response, no padding
/// token.
fn llama(root: &Path) {
    let text = tokenizer("llama3");
    let tokenizer = HfTokenizer::from_folder(&text).unwrap();
    let id = |token: &str| tokenizer.token_id(token).unwrap();
    let config = Config::from_value(json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"],
        "vocab_size": tokenizer.embedding_rows(), "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 131_072, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"
        },
        "bos_token_id": id("<|begin_of_text|>"),
        "eos_token_id": [id("<|end_of_text|>"), id("<|eot_id|>")],
        "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    }));
    manual_seed(2);
    let model = LanguageModel::random(config, Kind::BFloat16, Device::Cpu).unwrap();
    let folder = repository(root, LLAMA, &text, |folder| {
        let shards = SaveOptions { shard_bytes: 40 << 10, ..SaveOptions::default() };
        model.save(folder, &shards).unwrap();
    });
    let shards = fs::read_dir(&folder).unwrap().flatten().filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("model-0000") && name.ends_with(".safetensors")
    });
    assert!(shards.count() >= 3 && folder.join("model.safetensors.index.json").exists());
    // Those of the original weights, which nobody needs here.
    fs::create_dir(folder.join("original")).unwrap();
    fs::write(folder.join("original/consolidated.00.pth"), "not to be fetched").unwrap();
}

/// Without tokenizer.json: vocab.json and merges.txt alone.
fn roberta(root: &Path) {
    let text = tokenizer("roberta");
    let vocab = HfTokenizer::from_folder(&text).unwrap().embedding_rows();
    let config = Config::from_value(json!({
        "model_type": "roberta", "architectures": ["RobertaForSequenceClassification"],
        "vocab_size": vocab, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 514, "type_vocab_size": 1,
        "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
        "initializer_range": 0.3, "id2label": { "0": "nothate", "1": "hate" },
        "label2id": { "nothate": 0, "hate": 1 },
    }));
    manual_seed(3);
    let model = Classifier::random(config, Kind::Float, Device::Cpu).unwrap();
    let folder = repository(root, ROBERTA, &text, |folder| {
        model.save(folder, &SaveOptions::default()).unwrap();
    });
    assert!(folder.join("vocab.json").exists() && !folder.join("tokenizer.json").exists());
}

/// vocab.json and merges.txt, names without `transformer.`, matrices as `[inputs, outputs]`, masks among
/// the weights, no padding token.
fn gpt2(root: &Path) {
    let source = tempfile::tempdir().unwrap();
    for file in ["vocab.json", "merges.txt"] {
        fs::copy(tokenizer("roberta").join(file), source.path().join(file)).unwrap();
    }
    fs::write(source.path().join("config.json"), r#"{"model_type": "gpt2"}"#).unwrap();
    let rows = HfTokenizer::from_folder(source.path()).unwrap().embedding_rows();
    let config = Config::from_value(json!({
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": rows,
        "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_ctx": 64,
        "activation_function": "gelu_new", "initializer_range": 0.1,
        "bos_token_id": rows - 1, "eos_token_id": rows - 1,
    }));
    manual_seed(4);
    let model = LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap();
    repository(root, NEW_GPT2, source.path(), |folder| {
        model.save(folder, &SaveOptions::default()).unwrap();
        let file = folder.join("model.safetensors");
        let named = Tensor::read_safetensors(&file)
            .unwrap()
            .into_iter()
            .map(|(name, tensor)| (name.trim_start_matches("transformer.").to_owned(), tensor));
        let mask = Tensor::ones([1, 1, 64, 64], (Kind::Float, Device::Cpu)).tril(0);
        let masks = (0..2).map(|layer| (format!("h.{layer}.attn.bias"), mask.copy()));
        Tensor::write_safetensors(&named.chain(masks).collect::<Vec<_>>(), &file).unwrap();
    });
}

/// vocab.txt alone.
fn distilbert(root: &Path) {
    let text = tokenizer("bert_vocab");
    let rows = HfTokenizer::from_folder(&text).unwrap().embedding_rows();
    let config = Config::from_value(json!({
        "model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"],
        "vocab_size": rows, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4,
        "max_position_embeddings": 512, "pad_token_id": 0, "sinusoidal_pos_embds": false,
        "tie_weights_": true, "initializer_range": 0.3,
        "id2label": { "0": "NEGATIVE", "1": "POSITIVE" },
        "label2id": { "NEGATIVE": 0, "POSITIVE": 1 },
    }));
    manual_seed(5);
    let model = Classifier::random(config, Kind::Float, Device::Cpu).unwrap();
    repository(root, DISTILBERT, &text, |folder| {
        model.save(folder, &SaveOptions::default()).unwrap();
    });
}

/// HH's four subsets and its red team's attempts, gzipped.
fn hh(root: &Path) {
    let folder = root.join(HH);
    let mut dialogues = builtin::dialogues(Part::Train).into_records().into_iter();
    let mut seen = BTreeSet::new();
    let subsets = ["harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"];
    for subset in subsets {
        let mut rows = String::new();
        for dialogue in dialogues.by_ref() {
            let short = (101..260).contains(&dialogue.dialogue.chars().count());
            let first = dialogue.dialogue.split("\n\nAssistant:").next().unwrap_or_default();
            if !short || !seen.insert(first.to_owned()) {
                continue;
            }
            let (before, _) = dialogue.dialogue.rsplit_once("Assistant:").unwrap();
            let rejected = format!("{before}Assistant: No, {}.", dialogue.id());
            let row = json!({ "chosen": dialogue.dialogue, "rejected": rejected });
            rows += &format!("{row}\n");
            if rows.lines().count() == 20 {
                break;
            }
        }
        assert_eq!(rows.lines().count(), 20, "{subset}");
        gzip(&folder.join(subset).join("train.jsonl.gz"), &rows);
        gzip(&folder.join(subset).join("test.jsonl.gz"), &rows);
    }
    gzip(&folder.join("red-team-attempts/red_team_attempts.jsonl.gz"), "not to be fetched");
    fs::write(folder.join("README.md"), "# HH").unwrap();
}

fn gzip(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut encoder =
        flate2::write::GzEncoder::new(fs::File::create(path).unwrap(), Default::default());
    encoder.write_all(content.as_bytes()).unwrap();
    encoder.finish().unwrap();
}

/// A server that speaks the hub's protocol and has all of it.
pub(crate) struct TinyHub {
    pub(crate) root: tempfile::TempDir,
    pub(crate) server: HubServer,
}

impl TinyHub {
    pub(crate) fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (models, datasets) = (root.path().join("models"), root.path().join("datasets"));
        flan(&models, FLAN);
        flan(&models, FLAN_SMALL);
        llama(&models);
        roberta(&models);
        gpt2(&models);
        distilbert(&models);
        hh(&datasets);
        let server = HubServer::start().unwrap();
        server.serve_tree(RepoKind::Model, &models).unwrap();
        server.serve_tree(RepoKind::Dataset, &datasets).unwrap();
        server.rename(RepoKind::Model, GPT2, NEW_GPT2);
        Self { root, server }
    }
}
