//! Adapters that peft wrote, and peft's decisions per linear layer.
//!
//! `fixtures/export_adapters.py` wrote both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rlaif_checkpoint::{
    AdapterConfig, AdapterKey, Checkpoint, CheckpointError, Initialisation, ModuleNames,
    TargetModules, TaskType, TrainedBiases, read_json,
};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Golden {
    linear: BTreeMap<String, Option<Rule>>,
}

#[derive(Deserialize, Debug)]
struct Rule {
    r: u32,
    scaling: f64,
}

fn adapters() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters")
}

fn assert_decides_as_peft(name: &str) -> AdapterConfig {
    let folder = adapters().join(name);
    let config = AdapterConfig::read(&folder).unwrap();
    let rules = config.rules().unwrap();
    let golden: Golden = read_json(&folder.join("rules.json")).unwrap();
    for (module, rule) in &golden.linear {
        assert_eq!(rules.targets(module), rule.is_some(), "{name}: {module}");
        if let Some(rule) = rule {
            assert_eq!(rules.rank(module), rule.r, "{name}: {module}");
            assert!((rules.scaling(module) - rule.scaling).abs() < 1e-12, "{name}: {module}");
        }
    }

    // The file has exactly the factors of those layers, of those ranks, and what is saved whole.
    let weights = Checkpoint::open_adapter(&folder).unwrap();
    let mut factors: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for (key, info) in weights.tensors() {
        let parsed = AdapterKey::parse(key).unwrap_or_else(|| panic!("{key}"));
        assert_eq!(&parsed.to_string(), key);
        match parsed {
            AdapterKey::LoraA { module } => {
                factors.entry(module).or_default().0 = info.shape[0] as u32;
            }
            AdapterKey::LoraB { module } => {
                factors.entry(module).or_default().1 = info.shape[1] as u32;
            }
            other @ (AdapterKey::EmbeddingA { .. }
            | AdapterKey::EmbeddingB { .. }
            | AdapterKey::Magnitude { .. }
            | AdapterKey::Bias { .. }) => panic!("{other:?} is not among these adapters"),
            AdapterKey::Saved { parameter } => {
                let module = parameter.rsplit_once('.').unwrap().0;
                assert!(rules.saves(module), "{name}: {parameter}");
            }
        }
    }
    let want: BTreeMap<String, (u32, u32)> = golden
        .linear
        .into_iter()
        .filter_map(|(module, rule)| rule.map(|rule| (module, (rule.r, rule.r))))
        .collect();
    assert_eq!(factors, want, "{name}");
    config
}

#[test]
fn causal_with_patterns_and_rank_stabilisation() {
    let config = assert_decides_as_peft("causal");
    assert_eq!(config.task_type, Some(TaskType::CausalLm));
    assert!(config.use_rslora);
    assert_eq!((config.r.get(), config.lora_alpha, config.lora_dropout), (4, 6.0, 0.05));
}

#[test]
fn layers_by_number_and_exclusions() {
    assert_decides_as_peft("layers");
}

#[test]
fn targets_and_exclusions_by_pattern() {
    let config = assert_decides_as_peft("pattern");
    assert!(matches!(config.target_modules, TargetModules::Named(ModuleNames::Pattern(_))));
}

#[test]
fn all_linear() {
    assert_decides_as_peft("all_linear");
}

#[test]
fn seq2seq_with_a_saved_head() {
    let config = assert_decides_as_peft("seq2seq");
    assert_eq!(config.task_type, Some(TaskType::Seq2SeqLm));
}

#[test]
fn classifier_with_a_saved_head() {
    let config = assert_decides_as_peft("classifier");
    assert_eq!(config.task_type, Some(TaskType::SequenceClassification));
    // peft adds the usual names of heads to those it was given.
    assert_eq!(config.modules_to_save, ["classifier", "classifier", "score"]);
}

fn read_text(text: &str) -> Result<AdapterConfig, CheckpointError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("adapter_config.json"), text).unwrap();
    AdapterConfig::read(folder.path())
}

fn read_with(field: &str, value: Value) -> Result<AdapterConfig, CheckpointError> {
    let mut config =
        json!({"peft_type": "LORA", "target_modules": ["q"], "task_type": "CAUSAL_LM"});
    config[field] = value;
    read_text(&config.to_string())
}

#[test]
fn what_is_written_is_read_back_the_same() {
    for name in ["causal", "layers", "pattern", "all_linear", "seq2seq", "classifier"] {
        let config = AdapterConfig::read(&adapters().join(name)).unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(read_text(&text).unwrap(), config, "{name}");
    }
    let mut config = AdapterConfig::new(TaskType::CausalLm, 4.try_into().unwrap());
    config.lora_alpha = 2.5;
    config.rank_pattern =
        vec![("z".into(), 2.try_into().unwrap()), ("a".into(), 1.try_into().unwrap())];
    config.use_dora = true;
    config.bias = TrainedBiases::OfLora;
    config.init_lora_weights = Initialisation::Pissa;
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(read_text(&text).unwrap(), config, "the order of patterns counts");
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    for (field, value) in [
        ("peft_type", json!("LOHA")),
        ("peft_type", json!(null)),
        ("bias", json!("all")),
        ("lora_bias", json!(true)),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("loftq")),
        ("trainable_token_indices", json!([1, 2])),
        ("layer_replication", json!([[0, 2]])),
        ("target_parameters", json!(["experts.w"])),
        ("use_qalora", json!(true)),
        ("alora_invocation_tokens", json!([3])),
        ("megatron_config", json!({"a": 1})),
        ("a_later_invention", json!(7)),
        ("target_modules", json!(null)),
        ("layers_pattern", json!("layers")),
    ] {
        match read_with(field, value.clone()).unwrap_err() {
            CheckpointError::Unhonoured { field: named, found, file, .. } => {
                assert_eq!(named, field);
                assert!(file.ends_with("adapter_config.json"));
                if field != "layers_pattern" {
                    assert_eq!(found, value.to_string());
                }
            }
            other => panic!("{field}: {other}"),
        }
    }
    // peft merges a LoHa, and no learned prompt.
    for (method, way_out) in [
        ("LOHA", "`merge_and_unload`"),
        ("PREFIX_TUNING", "train a LoRA adapter instead"),
        ("PROMPT_TUNING", "train a LoRA adapter instead"),
    ] {
        let said = read_with("peft_type", json!(method)).unwrap_err().to_string();
        assert!(said.contains(way_out), "{said}");
        assert_eq!(said.contains("merge_and_unload"), method == "LOHA", "{said}");
    }
}

#[test]
fn what_is_off_or_without_effect_is_accepted() {
    for (field, value) in [
        ("use_dora", json!(false)),
        ("use_dora", json!(true)),
        ("bias", json!("lora_only")),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("olora")),
        ("a_later_invention", json!(null)),
        ("a_later_invention", json!({})),
        ("megatron_core", json!("megatron.core")),
        ("init_lora_weights", json!("gaussian")),
        ("auto_mapping", json!({"base_model_class": "X"})),
        ("layers_pattern", json!("")),
        ("task_type", json!(null)),
    ] {
        read_with(field, value).unwrap_or_else(|error| panic!("{field}: {error}"));
    }
    assert_eq!(
        read_with("target_modules", json!("ALL-Linear")).unwrap().target_modules,
        TargetModules::AllLinear
    );
}

#[test]
fn wrong_types_name_the_field() {
    for (field, value) in [
        ("r", json!(0)),
        ("r", json!("eight")),
        ("lora_dropout", json!(1.5)),
        ("lora_alpha", json!([1])),
        ("task_type", json!("QUESTION_ANS")),
        ("target_modules", json!(3)),
        ("rank_pattern", json!({"q": 0})),
        ("layers_to_transform", json!("first")),
        ("use_rslora", json!("yes")),
    ] {
        match read_with(field, value).unwrap_err() {
            CheckpointError::Json { field: named, .. } => {
                assert!(named.starts_with(field), "{named} for {field}");
            }
            other => panic!("{field}: {other}"),
        }
    }
    let twice = r#"{"peft_type":"LORA","r":1,"r":2,"target_modules":["q"]}"#;
    let error = read_text(twice).unwrap_err();
    assert!(matches!(&error, CheckpointError::DuplicateKey { key, .. } if key == "r"), "{error}");
}

#[test]
fn a_pattern_that_cannot_be_used_is_named() {
    for (field, value) in [
        ("target_modules", json!("(?!lm_head).*")),
        ("rank_pattern", json!({"(": 2})),
        ("exclude_modules", json!("[")),
        ("modules_to_save", json!(["("])),
    ] {
        match read_with(field, value).unwrap_err() {
            CheckpointError::Pattern { field: named, .. } => assert_eq!(named, field),
            other => panic!("{field}: {other}"),
        }
    }
}
