//! Folders out and in again, configuration fields that act, and input that cannot be.

mod common;
#[path = "files/fused.rs"]
mod fused;
#[path = "files/gguf.rs"]
mod gguf;
#[path = "files/refused.rs"]
mod refused;
#[path = "files/value_head.rs"]
mod value_head;

use std::{fs, path::Path};

use common::{Goldens, close, model, real, spelled};
use rlaif_lm::{Forward, Padding, Policy, SequenceClassifier, TokenBatch};
use rlaif_models::{
    Architecture, Classifier, Config, LanguageModel, LoadOptions, ModelCard, ModelError,
    ModelFiles, ModelSort, SaveOptions, classifier_with_labels, inspect,
};
use rlaif_testing::drawn;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

fn load(folder: &Path) -> Result<LanguageModel, ModelError> {
    LanguageModel::load(folder, LoadOptions::default())
}

/// A few logits of a language model, for comparison.
fn probe(policy: &LanguageModel) -> Tensor {
    no_grad(|| {
        let rows: Vec<Vec<u32>> = vec![(5..30).collect(), vec![9, 8, 7], vec![40; 12]];
        let batch = TokenBatch::collate(rows, policy.spec(), Padding::Right).unwrap();
        let forward = Forward::default();
        let hidden = match policy.architecture() {
            Architecture::DecoderOnly(model) => model.hidden(&batch, forward).unwrap(),
            Architecture::EncoderDecoder(t5) => {
                let encoded = t5.encode(&batch, forward).unwrap();
                let inputs: Vec<Vec<u32>> = vec![(3..27).collect(), vec![1, 2], vec![7; 6]];
                let inputs = TokenBatch::responses(inputs, policy.spec()).unwrap();
                let hidden = t5.decode(inputs.ids(), &encoded, forward).unwrap();
                return policy.head(forward).unwrap().logits(&real(&hidden, &inputs));
            }
        };
        policy.head(forward).unwrap().logits(&real(&hidden, &batch))
    })
}

#[test]
fn a_saved_model_is_the_same_model() {
    let seq2seq = ["t5-v1.0", "flan", "flan-tied", "bart", "mbart", "pegasus", "t5gemma"];
    for name in ["llama3", "llama2", "qwen2", "qwen3", "mistral"].into_iter().chain(seq2seq) {
        let policy = load(&model(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("saved");
        // 8 KB a shard: the index and its shards are used.
        for shard_bytes in [u64::MAX, 8 << 10] {
            let card = ModelCard { title: "A test".to_owned(), ..ModelCard::default() };
            let source = model(name);
            let options = SaveOptions { source: Some(&source), card: Some(&card), shard_bytes };
            policy.save(&path, &options).unwrap();
            assert_eq!(path.join("model.safetensors").exists(), shard_bytes == u64::MAX);
            assert!(path.join("generation_config.json").exists());
            assert!(path.join("README.md").exists());
            let again = load(&path).unwrap();
            assert_eq!(probe(&again), probe(&policy), "{name}");
            assert_eq!(again.spec(), policy.spec(), "{name}");
        }
    }
}

#[test]
fn a_saved_classifier_is_the_same_classifier() {
    for name in ["roberta", "bert", "llama-reward", "bart-classifier"] {
        let classifier = Classifier::load(&model(name), LoadOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("saved");
        classifier.save(&path, &SaveOptions::default()).unwrap();
        let again = Classifier::load(&path, LoadOptions::default()).unwrap();
        assert_eq!(again.labels(), classifier.labels());
        let rows = vec![vec![0, 5, 6, 7, 2], vec![0, 9, 2]];
        let batch = TokenBatch::collate(rows, classifier.spec(), Padding::Right).unwrap();
        let logits = |c: &Classifier| no_grad(|| c.logits(&batch, None, Forward::default()));
        assert_eq!(logits(&again).unwrap(), logits(&classifier).unwrap());
    }
}

#[test]
fn a_dtype_is_changed_on_request_only() {
    let bf16 = LoadOptions { kind: Some(Kind::BFloat16), ..LoadOptions::default() };
    let policy = LanguageModel::load(&model("llama3"), bf16).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    policy.save(&path, &SaveOptions::default()).unwrap();
    assert_eq!(load(&path).unwrap().spec().kind, Kind::BFloat16);
    assert_eq!(Config::read(&path).unwrap().text("torch_dtype"), Some("bfloat16"));
    let f32 = LoadOptions { kind: Some(Kind::Float), ..LoadOptions::default() };
    assert_eq!(LanguageModel::load(&path, f32).unwrap().spec().kind, Kind::Float);
    assert_eq!(inspect(&path).unwrap().dtype, "bf16");
}

/// In f16 the wide feed-forward of T5 stays in f32, and the numbers stay near.
#[test]
fn t5_in_f16_keeps_its_wide_layer_in_f32() {
    let want = probe(&load(&model("flan")).unwrap());
    let f16 = LoadOptions { kind: Some(Kind::Half), ..LoadOptions::default() };
    let policy = LanguageModel::load(&model("flan"), f16).unwrap();
    let wo = "encoder.block.0.layer.1.DenseReluDense.wo.weight";
    assert_eq!(policy.parameters().get(wo).unwrap().kind(), Kind::Float);
    assert_eq!(policy.spec().kind, Kind::Half);
    close("f16", &probe(&policy), &want, 0.1);
    // Written so, and as other programs write f16, it is loaded without being told the kind.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    policy.save(&path, &SaveOptions::default()).unwrap();
    assert_eq!(inspect(&path).unwrap().dtype, "f16+f32");
    let weights = path.join("model.safetensors");
    let all = Tensor::read_safetensors(&weights).unwrap();
    for tensors in [
        all.iter().map(|(name, tensor)| (name, tensor.shallow_clone())).collect::<Vec<_>>(),
        all.iter().map(|(name, tensor)| (name, tensor.to_kind(Kind::Half))).collect(),
    ] {
        Tensor::write_safetensors(&tensors, &weights).unwrap();
        let again = load(&path).unwrap();
        assert_eq!(again.spec().kind, Kind::Half);
        assert_eq!(again.parameters().get(wo).unwrap().kind(), Kind::Float);
        close("f16, loaded again", &probe(&again), &want, 0.1);
    }
}

/// The model of a folder whose config.json has some fields changed.
fn changed(name: &str, spelling: &str, changes: &[(&str, Value)]) -> Result<Tensor, ModelError> {
    let folder = spelled(name, spelling);
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (field, value) in changes {
        config[field] = value.clone();
    }
    // Null in fields of another meaning than their absence.
    for field in ["is_gated_act", "dense_act_fn", "layer_types"] {
        if config[field].is_null() {
            config.as_object_mut().unwrap().remove(field);
        }
    }
    fs::write(&path, config.to_string()).unwrap();
    load(folder.path()).map(|policy| probe(&policy))
}

#[test]
fn every_field_of_a_configuration_acts() {
    let rope = json!({ "rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32 });
    let linear = json!({ "rope_type": "linear", "factor": 3.0 });
    for (name, spelling, field, value) in [
        ("llama31", "config.hub.json", "rope_scaling", rope),
        ("llama31", "config.old.json", "rope_scaling", Value::Null),
        ("llama31", "config.hub.json", "rope_scaling", linear),
        ("llama31", "config.hub.json", "rope_theta", json!(10_000.0)),
        ("llama31", "config.json", "rope_parameters", json!({ "rope_theta": 20.0 })),
        ("llama3", "config.hub.json", "rms_norm_eps", json!(0.1)),
        ("llama3", "config.hub.json", "hidden_act", json!("gelu")),
        ("mistral", "config.hub.json", "sliding_window", json!(4)),
        ("mistral", "config.hub.json", "sliding_window", Value::Null),
        ("qwen2-window", "config.hub.json", "max_window_layers", json!(0)),
        ("qwen2-window", "config.hub.json", "use_sliding_window", json!(false)),
        ("flan", "config.hub.json", "relative_attention_max_distance", json!(12)),
        ("flan", "config.hub.json", "layer_norm_epsilon", json!(0.1)),
        ("flan", "config.hub.json", "feed_forward_proj", json!("gated-relu")),
        ("flan", "config.hub.json", "feed_forward_proj", json!("gated-silu")),
        ("flan-tied", "config.json", "scale_decoder_outputs", json!(false)),
    ] {
        // Fields that would decide over others: qwen2-window names its layers' types, T5 the parts of
        // its activation.
        let decisive = ["layer_types", "dense_act_fn", "is_gated_act"];
        let mut fields: Vec<_> = decisive.into_iter().map(|field| (field, Value::Null)).collect();
        let plain = changed(name, spelling, &fields).unwrap();
        fields.push((field, value.clone()));
        let other = changed(name, spelling, &fields)
            .unwrap_or_else(|error| panic!("{name} {field} {value}: {error}"));
        let difference = (plain - other).abs().max().double_value(&[]);
        assert!(difference > 1e-3, "{name}: {field} = {value} changes nothing ({difference:.1e})");
    }
    // Heads and biases decide which tensors there must be.
    for (name, field, value) in [
        ("llama3", "tie_word_embeddings", json!(false)),
        ("llama-bias", "attention_bias", json!(false)),
        ("llama-bias", "mlp_bias", json!(false)),
        ("flan-tied", "tie_word_embeddings", json!(false)),
        ("flan", "relative_attention_num_buckets", json!(16)),
        ("qwen3", "model_type", json!("llama")),
        ("llama3", "num_key_value_heads", json!(4)),
        ("llama-head-dim", "head_dim", json!(8)),
    ] {
        let error = changed(name, "config.hub.json", &[(field, value)]).unwrap_err();
        assert!(matches!(error, ModelError::Tensors { .. }), "{name} {field}: {error}");
    }
    // With two matrices in the checkpoint, transformers 5 ties none, and says so.
    let plain = changed("llama2", "config.hub.json", &[]).unwrap();
    let tied = changed("llama2", "config.hub.json", &[("tie_word_embeddings", json!(true))]);
    assert_eq!(tied.unwrap(), plain);
}

#[test]
fn dropout_acts_when_asked() {
    use rlaif_lm::Dropout;
    let fields =
        ["dropout", "attention_dropout", "activation_dropout"].map(|field| ("bart", field));
    let others = [("flan", "dropout_rate"), ("llama3", "attention_dropout")];
    let of_gemma = ["dropout_rate", "attention_dropout"].map(|field| ("t5gemma", field));
    for (name, field) in others.into_iter().chain(fields).chain(of_gemma) {
        let folder = spelled(name, "config.hub.json");
        let path = folder.path().join("config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config[field] = json!(0.3);
        fs::write(&path, config.to_string()).unwrap();
        let policy = load(folder.path()).unwrap();
        let prompts =
            TokenBatch::collate(vec![(5..20).collect()], policy.spec(), Padding::Right).unwrap();
        let responses = TokenBatch::responses(vec![vec![4, 5, 6]], policy.spec()).unwrap();
        let run = |dropout| {
            let forward = Forward { dropout, ..Forward::default() };
            no_grad(|| policy.response_hidden(&prompts, &responses, forward).unwrap())
        };
        assert_eq!(run(Dropout::Off), run(Dropout::Off), "{name}");
        assert_ne!(run(Dropout::On), run(Dropout::Off), "{name}");
    }
}

#[test]
fn weights_of_several_kinds_need_a_decision() {
    let folder = spelled("llama3", "config.hub.json");
    let weights = folder.path().join("model.safetensors");
    let mut tensors = Tensor::read_safetensors(&weights).unwrap();
    for (name, tensor) in &mut tensors {
        if name.contains("mlp") {
            *tensor = tensor.to_kind(Kind::BFloat16);
        }
    }
    Tensor::write_safetensors(&tensors, &weights).unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(matches!(error, ModelError::MixedKinds { .. }), "{error}");
    let f32 = LoadOptions { kind: Some(Kind::Float), ..LoadOptions::default() };
    assert!(LanguageModel::load(folder.path(), f32).is_ok());
    assert_eq!(inspect(folder.path()).unwrap().dtype, "bf16+f32");
}

#[test]
fn a_checkpoint_cut_short_is_named() {
    let folder = spelled("llama3", "config.hub.json");
    let weights = folder.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 100]).unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(matches!(error, ModelError::Checkpoint(_)), "{error}");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    fs::remove_file(&weights).unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    fs::remove_file(folder.path().join("config.json")).unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
}

#[test]
fn inspection_counts_what_loading_finds() {
    for name in ["llama3", "llama2", "flan", "t5-v1.0", "qwen3"] {
        let summary = inspect(&model(name)).unwrap();
        let policy = load(&model(name)).unwrap();
        assert_eq!(summary.parameters, policy.parameters().count(), "{name}");
        assert_eq!(summary.spec, *policy.spec(), "{name}");
        assert_eq!(summary.dtype, "f32");
    }
    let summary = inspect(&model("roberta")).unwrap();
    assert_eq!(summary.architecture, "RobertaForSequenceClassification");
    assert_eq!(summary.labels, ["nothate", "hate"]);
    assert_eq!(summary.spec.context, Some(32));
}

#[test]
fn a_random_model_starts_as_its_seed_says() {
    for name in ["llama3", "flan", "qwen3"] {
        let start = |seed| {
            let config = Config::read(&model(name)).unwrap();
            let draw = || LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap();
            probe(&drawn(seed, draw))
        };
        assert_eq!(start(1), start(1));
        assert_ne!(start(1), start(2));
        assert!(bool::try_from(start(3).isfinite().all()).unwrap());
    }
}

/// Goldens hold for weights in every kind of container: pickled, and in shards.
#[test]
fn pickled_weights_give_the_same_model() {
    let goldens = Goldens::read(&model("roberta"));
    assert!(goldens.find("logits").is_some());
    let folder = model("llama3");
    let policy = load(&folder).unwrap();
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("sharded");
    let options = SaveOptions { shard_bytes: 4 << 10, ..SaveOptions::default() };
    policy.save(&path, &options).unwrap();
    let shards = fs::read_dir(&path).unwrap().count();
    assert!(shards > 4, "{shards} files");
    assert_eq!(probe(&load(&path).unwrap()), probe(&policy));
    // A shard that is gone is named.
    // Beside the shards are config.json, generation_config.json and the index.
    let shard = path.join(format!("model-00002-of-{:05}.safetensors", shards - 3));
    fs::remove_file(&shard).unwrap();
    let error = load(&path).unwrap_err();
    assert!(error.to_string().contains("model-00002"), "{error}");
}

/// A folder with the weights of a fixture after a change.
fn with_tensors(name: &str, change: impl Fn(&str, &mut Tensor)) -> tempfile::TempDir {
    let folder = spelled(name, "config.json");
    let path = folder.path().join("model.safetensors");
    let mut tensors = Tensor::read_safetensors(&path).unwrap();
    for (name, tensor) in &mut tensors {
        change(name, tensor);
    }
    Tensor::write_safetensors(&tensors, &path).unwrap();
    folder
}

#[test]
fn weights_that_are_not_finite_are_refused_with_their_count() {
    let folder = with_tensors("llama3", |name, tensor| {
        if name == "model.layers.1.mlp.up_proj.weight" {
            let _ = tensor.get(3).narrow(0, 4, 2).fill_(f64::NAN);
            let _ = tensor.get(5).narrow(0, 0, 1).fill_(f64::INFINITY);
        }
    });
    let error = load(folder.path()).unwrap_err();
    let said = error.to_string();
    assert!(said.contains(" has weights that no model can compute with"), "{said}");
    let tensor = "`model.layers.1.mlp.up_proj.weight` in model.safetensors: 3 of 1536 numbers are NaN or infinite";
    assert!(said.contains(tensor), "{said}");
    let as_classifier =
        classifier_with_labels(folder.path(), &["reward".to_owned()], LoadOptions::default());
    assert!(as_classifier.unwrap_err().to_string().contains(tensor));
    // Large numbers are finite, although their sum overflows.
    let folder = with_tensors("llama3", |name, tensor| {
        if name == "model.norm.weight" {
            let _ = tensor.fill_(3e38);
        }
    });
    load(folder.path()).unwrap();
}

/// A reward model is one by its head, for every class that config.json names (as in transformers'
/// `AutoModelForSequenceClassification`): its logits are those of the golden.
#[test]
fn a_head_makes_a_reward_model_without_the_name_of_its_class() {
    for (name, trunk, generates) in [
        ("gpt2-reward", "GPT2Model", "GPT2LMHeadModel"),
        ("llama-reward", "LlamaModel", "LlamaForCausalLM"),
    ] {
        let classes = [Value::Null, json!([trunk]), json!([generates])];
        let whole = Classifier::load(&model(name), LoadOptions::default()).unwrap();
        for (at, class) in classes.into_iter().enumerate() {
            let folder = spelled(name, "config.json");
            let path = folder.path();
            let file = path.join("config.json");
            let mut config: Value =
                serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            config["architectures"] = class;
            fs::write(&file, config.to_string()).unwrap();
            let reward = Classifier::load(path, LoadOptions::default()).unwrap();
            let batch =
                TokenBatch::collate(vec![vec![9, 8, 7]], reward.spec(), Padding::Right).unwrap();
            let logits =
                |model: &Classifier| no_grad(|| model.logits(&batch, None, Forward::default()));
            assert_eq!(logits(&reward).unwrap(), logits(&whole).unwrap(), "{name}");
            let files = ModelFiles { folder: path.to_owned(), adapter: None };
            let sort = files.sort(LoadOptions::default()).unwrap();
            let wanted = if at < 2 { ModelSort::Classifier } else { ModelSort::LanguageModel };
            assert_eq!(sort, wanted, "{name}, class {at}");
            if at < 2 {
                assert_eq!(inspect(path).unwrap().labels, whole.labels(), "{name}, class {at}");
            }
        }
    }
}
