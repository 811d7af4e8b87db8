//! Adapters against peft: on, off, merged, two at a time, gradients, and files out and in again.

mod common;
#[path = "lora/quantized.rs"]
mod quantized;
#[path = "lora/refused.rs"]
mod refused;
#[path = "lora/tokens.rs"]
mod tokens;
#[path = "lora/vocabulary.rs"]
mod vocabulary;

use std::num::NonZeroU32;

use common::{CAUSAL, Goldens, close, fixtures, model, real, split};
use rlaif_core::Seed;
use rlaif_lm::{
    Adapters, Dropout, Forward, LmError, Padding, Policy, SequenceClassifier, TokenBatch,
    generate::{Ask, Eos, GenerationConfig, Hooks, Sampling, generate},
    is_adapter, token_log_probs,
};
use rlaif_models::{
    AdapterBase, AdapterConfig, Architecture, Classifier, ConvertError, LanguageModel, LoadOptions,
    Lora, ModelFiles, ModuleNames, SaveOptions, TargetModules, TaskType, classifier_with_labels,
};
use rlaif_testing::drawn;
use tch::{Kind, Tensor, no_grad};

const TOLERANCE: f64 = 1e-4;

fn language_model(name: &str) -> LanguageModel {
    LanguageModel::load(&model(name), LoadOptions::default()).unwrap()
}

fn adapter(name: &str) -> std::path::PathBuf {
    fixtures().join("adapters").join(name)
}

fn with(adapters: Adapters<'_>) -> Forward<'_> {
    Forward { adapters, ..Forward::default() }
}

/// Logits at the positions the goldens hold.
fn logits(policy: &LanguageModel, base: &Goldens, forward: Forward<'_>) -> Tensor {
    no_grad(|| {
        let hidden = match policy.architecture() {
            Architecture::DecoderOnly(model) => {
                let rows = base.rows("right");
                let batch = TokenBatch::collate(rows, policy.spec(), Padding::Right).unwrap();
                real(&model.hidden(&batch, forward).unwrap(), &batch)
            }
            Architecture::EncoderDecoder(t5) => {
                let rows = base.rows("encoder");
                let prompts = TokenBatch::collate(rows, policy.spec(), Padding::Right).unwrap();
                let inputs = TokenBatch::responses(base.rows("decoder"), policy.spec()).unwrap();
                let encoded = t5.encode(&prompts, forward).unwrap();
                real(&t5.decode(inputs.ids(), &encoded, forward).unwrap(), &inputs)
            }
        };
        policy.head(forward).unwrap().logits(&hidden)
    })
}

/// The base folder's loss: mean of -log-prob over the response tokens.
fn loss(policy: &LanguageModel, base: &Goldens, forward: Forward<'_>) -> Tensor {
    let (prompts, responses) = match policy.architecture() {
        Architecture::DecoderOnly(_) => split(base),
        Architecture::EncoderDecoder(_) => {
            let ids = Vec::<i64>::try_from(base.get("response_ids")).unwrap();
            let mut rest = ids.iter().map(|&id| base.id(id));
            let rows = base.rows("decoder");
            let responses =
                rows.iter().map(|row| rest.by_ref().take(row.len()).collect()).collect();
            (base.rows("encoder"), responses)
        }
    };
    let prompts = TokenBatch::collate(prompts, policy.spec(), Padding::Right).unwrap();
    let responses = TokenBatch::responses(responses, policy.spec()).unwrap();
    let hidden = policy.response_hidden(&prompts, &responses, forward).unwrap();
    let head = policy.head(forward).unwrap();
    -responses.mask().mean(&token_log_probs(&head, &hidden, &responses, 1.).unwrap().log_probs)
}

/// Compares the logits with the adapter on and off, then the loss, whose gradients it leaves. Returns the
/// largest differences of both logits.
fn forward_and_backward(
    name: &str,
    policy: &mut LanguageModel,
    base: &Goldens,
    goldens: &Goldens,
) -> [f64; 2] {
    let on = logits(policy, base, Forward::default());
    let on = close(name, &on, goldens.get("logits"), TOLERANCE);
    let off = logits(policy, base, with(Adapters::Off));
    let off_wanted = goldens.find("off.logits").unwrap_or_else(|| base.get("logits"));
    let off = close(name, &off, off_wanted, TOLERANCE);

    policy.adapters().train("default").unwrap();
    let loss = loss(policy, base, Forward::default());
    let want = goldens.json["loss"].as_f64().unwrap();
    assert!((loss.double_value(&[]) - want).abs() < TOLERANCE, "{name}");
    loss.backward();
    [on, off]
}

#[test]
fn adapters_of_language_models_equal_peft() {
    let own = [
        ("llama3", "llama3-a"),
        ("llama3", "llama3-b"),
        ("llama2", "llama2-head"),
        ("flan", "flan"),
    ];
    // A family that came later has one, of its model's name, on every linear layer.
    let same = CAUSAL
        .into_iter()
        .chain(["bart", "mbart", "pegasus", "t5gemma"])
        .filter(|name| adapter(name).exists())
        .map(|name| (name, name));
    for (base_name, name) in own.into_iter().chain(same) {
        let base = Goldens::read(&model(base_name));
        let goldens = Goldens::read(&adapter(name));
        let mut policy = language_model(base_name);
        policy.adapters().load("default", &adapter(name)).unwrap();

        let [on, off] = forward_and_backward(name, &mut policy, &base, &goldens);
        let mut largest = 0f64;
        for (key, want) in goldens.starting("grad.base_model.model.") {
            let key = key
                .replace(".lora_A.weight", ".lora_A.default.weight")
                .replace(".lora_B.weight", ".lora_B.default.weight");
            let got = policy.parameters().get(&key).unwrap().grad();
            largest = largest.max(close(&key, &got, want, TOLERANCE));
        }
        // Nothing else learns.
        let trained = policy.parameters().trainable();
        assert!(trained.iter().all(|(name, _)| name.contains("lora_")), "{name}");

        let before: Vec<(String, Tensor)> = policy
            .parameters()
            .iter()
            .map(|(name, tensor)| (name.to_owned(), tensor.copy()))
            .collect();
        policy.adapters().merge("default").unwrap();
        let merged = logits(&policy, &base, Forward::default());
        let merged = close(name, &merged, goldens.logits("merged"), TOLERANCE);
        for (parameter, want) in goldens.all("merged.") {
            if parameter != "logits" {
                close(parameter, policy.parameters().get(parameter).unwrap(), want, TOLERANCE);
            }
        }
        policy.adapters().unmerge().unwrap();
        for (parameter, want) in before {
            let got = policy.parameters().get(&parameter).unwrap();
            assert_eq!(got, &want, "{name} {parameter} is not back, bit by bit");
        }
        println!("{name}: on {on:.1e} off {off:.1e} merged {merged:.1e} gradients {largest:.1e}");
    }
}

/// Adapters on embeddings and heads, and adapters of another vocabulary.
#[test]
fn adapters_of_the_vocabulary_equal_peft() {
    let mut names: Vec<String> = std::fs::read_dir(fixtures().join("adapters"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| ["embed-", "saved-", "resized-"].iter().any(|sort| name.starts_with(sort)))
        .collect();
    names.sort();
    assert_eq!(names.len(), 14, "{names:?}");
    for name in &names {
        let goldens = Goldens::read(&adapter(name));
        let base_name = goldens.json["base"].as_str().unwrap();
        let mut base = Goldens::read(&model(base_name));
        base.moved = goldens.json.get("moved").map(|moved| {
            ["first", "last", "by"].map(|key| u32::try_from(moved[key].as_u64().unwrap()).unwrap())
        });
        let files = ModelFiles { folder: model(base_name), adapter: Some(adapter(name)) };
        let mut policy = files.language_model(LoadOptions::default()).unwrap();
        let unread = policy.unread().to_vec();
        let shared = name == "embed-t5-shared";
        assert_eq!(unread.iter().any(|key| key.contains("shared.lora_embedding_A")), shared);

        let [on, off] = forward_and_backward(name, &mut policy, &base, &goldens);
        let mut largest = 0f64;
        let mut found = std::collections::BTreeMap::new();
        for (key, want) in goldens.all("grad.base_model.model.") {
            found.insert(in_memory(key), want.shallow_clone());
        }
        if name == "embed-llama3-tying" {
            // peft has two parameters on one memory; here it is one.
            for (of_table, of_head) in [("A", "B"), ("B", "A")] {
                let head = found.remove(&format!("lm_head.lora_{of_head}.default.weight")).unwrap();
                let table = format!("model.embed_tokens.lora_embedding_{of_table}.default");
                let sum = found[&table].shallow_clone() + head.tr();
                found.insert(table, sum);
            }
        }
        for (key, want) in &found {
            let got =
                policy.parameters().get(key).unwrap_or_else(|| panic!("{name}: {key}")).grad();
            largest = largest.max(close(key, &got, want, TOLERANCE));
        }
        let trained = policy.parameters().trainable();
        assert!(trained.iter().all(|(name, _)| is_adapter(name)), "{name}");
        // Responses are sampled from what was measured.
        greedy_is_the_forward_pass(&policy, &base);

        let before = snapshot(&policy);
        let fields = policy.config().fields().clone();
        policy.adapters().merge("default").unwrap();
        let merged = logits(&policy, &base, Forward::default());
        close(name, &merged, goldens.get("logits"), TOLERANCE);
        let folder = tempfile::tempdir().unwrap();
        policy.save(&folder.path().join("merged"), &SaveOptions::default()).unwrap();
        let again = LanguageModel::load(&folder.path().join("merged"), LoadOptions::default());
        assert_eq!(logits(&again.unwrap(), &base, Forward::default()), merged, "{name}");
        policy.adapters().unmerge().unwrap();
        assert_eq!(policy.config().fields(), &fields, "{name}");
        for ((key, want), (after, got)) in before.iter().zip(&snapshot(&policy)) {
            assert_eq!(key, after, "{name}");
            assert_eq!(got, want, "{name} {key} is not back, bit by bit");
        }

        let saved = folder.path().join("adapter");
        policy.adapters().save("default", &saved).unwrap();
        let files = ModelFiles { folder: model(base_name), adapter: Some(saved) };
        let again = files.language_model(LoadOptions::default()).unwrap();
        let same = logits(&again, &base, Forward::default());
        assert_eq!(same, logits(&policy, &base, Forward::default()), "{name}");
        let same = logits(&again, &base, with(Adapters::Off));
        assert_eq!(same, logits(&policy, &base, with(Adapters::Off)), "{name}");
        println!("{name}: on {on:.1e} off {off:.1e} gradients {largest:.1e}");
    }
}

/// The name in memory of a tensor in peft's file.
fn in_memory(key: &str) -> String {
    for (theirs, ours) in [
        (".lora_A.weight", ".lora_A.default.weight"),
        (".lora_B.weight", ".lora_B.default.weight"),
        (".lora_embedding_A", ".lora_embedding_A.default"),
        (".lora_embedding_B", ".lora_embedding_B.default"),
        (".lora_magnitude_vector", ".lora_magnitude_vector.default.weight"),
        (".base_layer.bias", ".modules_to_save.default.bias"),
    ] {
        if let Some(module) = key.strip_suffix(theirs) {
            return format!("{module}{ours}");
        }
    }
    let (module, parameter) = key.rsplit_once('.').unwrap();
    format!("{module}.modules_to_save.default.{parameter}")
}

/// DoRA, PiSSA, OLoRA and trained biases.
#[test]
fn variants_of_lora_equal_peft() {
    for name in [
        "dora-llama3",
        "dora-qwen2",
        "dora-gpt2",
        "dora-llama2-head",
        "pissa-llama3",
        "pissa-gpt2",
        "pissa-dora-llama3",
        "olora-llama3",
    ] {
        let goldens = Goldens::read(&adapter(name));
        let base_name = goldens.json["base"].as_str().unwrap();
        let base = Goldens::read(&model(base_name));
        let mut policy = language_model(base_name);

        // A fresh one begins as peft's.
        let config = AdapterConfig::read(&adapter(name)).unwrap();
        policy.adapters().add("fresh", config).unwrap();
        let fresh = logits(&policy, &base, Forward::default());
        close(name, &fresh, goldens.get("start.logits"), TOLERANCE);
        let of_fresh = |key: &str| {
            let key = in_memory(key).replace("default", "fresh");
            policy.parameters().get(&key).unwrap_or_else(|| panic!("{name}: {key}"))
        };
        for (key, want) in goldens.starting("start.base_model.model.") {
            let factor = |module: &str, which| of_fresh(&format!("{module}.lora_{which}.weight"));
            let got = match key.strip_suffix(".product") {
                Some(module) => factor(module, "B").matmul(factor(module, "A")),
                None => of_fresh(key).shallow_clone(),
            };
            close(key, &got, want, TOLERANCE);
        }
        policy.adapters().remove("fresh").unwrap();

        policy.adapters().load("default", &adapter(name)).unwrap();
        let [on, off] = forward_and_backward(name, &mut policy, &base, &goldens);
        let mut largest = 0f64;
        for (key, want) in goldens.starting("grad.base_model.model.") {
            let key = in_memory(key);
            let got = policy.parameters().get(&key).unwrap_or_else(|| panic!("{name}: {key}"));
            largest = largest.max(close(&key, &got.grad(), want, TOLERANCE));
        }
        assert!(policy.parameters().trainable().iter().all(|(name, _)| is_adapter(name)), "{name}");
        greedy_is_the_forward_pass(&policy, &base);

        let before = snapshot(&policy);
        policy.adapters().merge("default").unwrap();
        close(name, &logits(&policy, &base, Forward::default()), goldens.get("logits"), TOLERANCE);
        for (parameter, want) in goldens.all("merged.") {
            let got = policy.parameters().get(parameter).unwrap();
            let want = if policy.parameters().is_transposed(parameter) {
                want.tr()
            } else {
                want.shallow_clone()
            };
            close(parameter, got, &want, TOLERANCE);
        }
        policy.adapters().unmerge().unwrap();
        for ((key, want), (_, got)) in before.iter().zip(&snapshot(&policy)) {
            assert_eq!(got, want, "{name} {key} is not back, bit by bit");
        }

        let folder = tempfile::tempdir().unwrap();
        let saved = folder.path().join("adapter");
        policy.adapters().save("default", &saved).unwrap();
        let names = |folder: &std::path::Path| {
            let file = folder.join("adapter_model.safetensors");
            let mut names: Vec<String> =
                Tensor::read_safetensors(file).unwrap().into_iter().map(|(name, _)| name).collect();
            names.retain(|name| !name.ends_with("base_layer.weight"));
            names.sort();
            names
        };
        assert_eq!(names(&saved), names(&adapter(name)), "{name}");
        let files = ModelFiles { folder: model(base_name), adapter: Some(saved) };
        let again = files.language_model(LoadOptions::default()).unwrap();
        let same = logits(&policy, &base, Forward::default());
        assert_eq!(logits(&again, &base, Forward::default()), same, "{name}");
        println!("{name}: on {on:.1e} off {off:.1e} gradients {largest:.1e}");
    }
}

fn snapshot(policy: &LanguageModel) -> Vec<(String, Tensor)> {
    let all = policy.parameters().iter();
    all.map(|(name, tensor)| (name.to_owned(), tensor.copy())).collect()
}

/// Decoding token by token chooses the tokens of the greatest logits of a forward pass.
fn greedy_is_the_forward_pass(policy: &LanguageModel, base: &Goldens) {
    let Architecture::DecoderOnly(model) = policy.architecture() else { return };
    let prompt = base.rows("right").remove(0);
    let config = GenerationConfig {
        max_new_tokens: 6,
        eos: Eos::Ignored,
        sampling: Sampling::Greedy,
        ..GenerationConfig::default()
    };
    let ask = Ask { id: 0, prompt: prompt.clone(), max_new_tokens: None };
    let forward = Forward::default();
    let rows = generate(policy, &[ask], &config, Seed::new(1), 0, forward, Hooks::default());
    let response = rows.unwrap().remove(0).ids;
    let whole = [prompt.as_slice(), &response].concat();
    let batch = TokenBatch::collate(vec![whole], policy.spec(), Padding::Right).unwrap();
    let hidden = no_grad(|| model.hidden(&batch, forward).unwrap());
    let chosen = policy.head(forward).unwrap().logits(&hidden).argmax(-1, false).squeeze_dim(0);
    let chosen = Vec::<i64>::try_from(&chosen).unwrap();
    let chosen: Vec<u32> = chosen.into_iter().map(|id| u32::try_from(id).unwrap()).collect();
    assert_eq!(response, chosen[prompt.len() - 1..prompt.len() - 1 + response.len()]);
}

#[test]
fn an_adapter_of_a_classifier_brings_its_own_head() {
    for name in ["roberta", "deberta-v3", "modernbert"] {
        let base = Goldens::read(&model(name));
        let goldens = Goldens::read(&adapter(name));
        let mut classifier = Classifier::load(&model(name), LoadOptions::default()).unwrap();
        classifier.adapters().load("default", &adapter(name)).unwrap();
        let rows = base.rows("right");
        let batch = TokenBatch::collate(rows, classifier.spec(), Padding::Right).unwrap();
        let run = |classifier: &Classifier, forward| {
            no_grad(|| classifier.logits(&batch, None, forward).unwrap())
        };
        close(name, &run(&classifier, Forward::default()), goldens.get("logits"), TOLERANCE);
        let off = run(&classifier, with(Adapters::Off));
        close(name, &off, goldens.get("off.logits"), TOLERANCE);

        classifier.adapters().train("default").unwrap();
        let labels: Vec<i64> = serde_json::from_value(base.json["labels"].clone()).unwrap();
        let logits = classifier.logits(&batch, None, Forward::default()).unwrap();
        let loss = logits.cross_entropy_for_logits(&Tensor::from_slice(&labels));
        let want = goldens.json["loss"].as_f64().unwrap();
        assert!((loss.double_value(&[]) - want).abs() < TOLERANCE, "{name}");
        loss.backward();
        for (key, want) in goldens.starting("grad.base_model.model.") {
            let (module, last) = key.rsplit_once('.').unwrap();
            let own = match module.contains(".lora_") {
                true => format!("{module}.default.{last}"),
                false => format!("{module}.modules_to_save.default.{last}"),
            };
            let got = classifier.parameters().get(&own).unwrap().grad();
            close(&own, &got, want, TOLERANCE);
        }

        classifier.adapters().merge("default").unwrap();
        let merged = run(&classifier, Forward::default());
        close(name, &merged, goldens.get("merged.logits"), TOLERANCE);
    }
}

/// A folder without its head, and without the tensors of which `left_out` is true, as a bare encoder is saved.
fn headless(name: &str, left_out: fn(&str) -> bool) -> tempfile::TempDir {
    let folder = common::spelled(name, "config.json");
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("architectures");
    std::fs::write(&path, config.to_string()).unwrap();
    let weights = folder.path().join("model.safetensors");
    let mut tensors = Tensor::read_safetensors(&weights).unwrap();
    let of_head =
        |name: &str| name.starts_with("classifier.") || name.starts_with("pre_classifier.");
    tensors.retain(|(name, _)| !of_head(name) && !left_out(name));
    Tensor::write_safetensors(&tensors, &weights).unwrap();
    folder
}

fn on(base: &tempfile::TempDir, name: &str) -> ModelFiles {
    ModelFiles { folder: base.path().to_owned(), adapter: Some(adapter(name)) }
}

#[test]
fn an_adapter_brings_the_head_that_its_base_lacks() {
    for name in
        ["head-distilbert", "head-distilbert-3", "head-roberta", "head-electra", "head-bert"]
    {
        let goldens = std::fs::read(adapter(name).join("goldens.json")).unwrap();
        let goldens: serde_json::Value = serde_json::from_slice(&goldens).unwrap();
        let base = headless(goldens["base"].as_str().unwrap(), |_| false);
        let classifier = on(&base, name).classifier(LoadOptions::default()).unwrap();
        let ids = |value: &serde_json::Value| u32::try_from(value.as_u64().unwrap()).unwrap();
        let text: Vec<u32> = goldens["text"].as_array().unwrap().iter().map(ids).collect();
        let batch = TokenBatch::collate(vec![text], classifier.spec(), Padding::Right).unwrap();
        let got = no_grad(|| classifier.logits(&batch, None, Forward::default()).unwrap());
        let want: Vec<f64> =
            goldens["logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        close(name, &got, &Tensor::from_slice(&want).unsqueeze(0), TOLERANCE);
    }
}

#[test]
fn a_part_of_the_head_that_no_file_has_is_named_not_made_up() {
    let base = headless("bert", |name| name.starts_with("bert.pooler."));
    let error = on(&base, "head-bert").classifier(LoadOptions::default()).unwrap_err();
    assert!(matches!(&error, ConvertError::PartOfHead { .. }), "{error}");
    assert!(error.to_string().contains("`bert.pooler.dense.weight`"), "{error}");
    let labels = ["LABEL_0".to_owned(), "LABEL_1".to_owned()];
    let error = on(&base, "head-bert").classifier_with_labels(&labels, LoadOptions::default());
    assert!(matches!(error, Err(ConvertError::PartOfHead { .. })));
}

/// A pooler that training initialises is trained and saved with the adapter.
#[test]
fn a_fresh_head_is_saved_whole() {
    let base = headless("bert", |name| name.starts_with("bert.pooler."));
    let labels = ["reward".to_owned()];
    let options = LoadOptions::default();
    let mut model = classifier_with_labels(base.path(), &labels, options).unwrap();
    let lora = Lora::new("default", NonZeroU32::new(2).unwrap());
    lora.add_to_classifier(&mut model).unwrap();
    let files = ModelFiles::from(base.path());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter");
    let named = AdapterBase { model: "base".to_owned(), revision: None };
    model.save_adapter("default", &path, &files, &named).unwrap();
    let again = ModelFiles { adapter: Some(path), ..files }.classifier(options).unwrap();
    let rows = vec![vec![0, 5, 6, 7, 2]];
    let batch = TokenBatch::collate(rows, model.spec(), Padding::Right).unwrap();
    let run =
        |model: &Classifier| no_grad(|| model.logits(&batch, None, Forward::default()).unwrap());
    assert_eq!(run(&again), run(&model));
}

#[test]
fn two_adapters_share_one_model() {
    let base = Goldens::read(&model("llama3"));
    let mut policy = language_model("llama3");
    policy.adapters().load("a", &adapter("llama3-a")).unwrap();
    policy.adapters().load("b", &adapter("llama3-b")).unwrap();
    assert_eq!(policy.adapters().names(), ["a", "b"]);
    assert_eq!(policy.adapters().active(), Some("a"));
    for name in ["a", "b"] {
        let goldens = Goldens::read(&adapter(&format!("llama3-{name}")));
        let got = logits(&policy, &base, with(Adapters::Named(name)));
        close(name, &got, goldens.get("logits"), TOLERANCE);
        policy.adapters().activate(name).unwrap();
        let got = logits(&policy, &base, Forward::default());
        close(name, &got, goldens.get("logits"), TOLERANCE);
    }
    let plain = logits(&policy, &base, with(Adapters::Off));
    close("off", &plain, base.get("logits"), TOLERANCE);

    policy.adapters().remove("b").unwrap();
    assert_eq!(policy.adapters().active(), Some("a"));
    assert!(policy.parameters().iter().all(|(name, _)| !name.contains(".b.")));
    let error = policy.head(with(Adapters::Named("b"))).unwrap_err();
    assert!(matches!(&error, LmError::UnknownAdapter { loaded, .. } if *loaded == ["a"]));
}

#[test]
fn a_fresh_adapter_changes_nothing_until_it_learns() {
    let base = Goldens::read(&model("flan"));
    let mut policy = language_model("flan");
    let plain = logits(&policy, &base, Forward::default());
    let mut config = AdapterConfig::new(TaskType::Seq2SeqLm, NonZeroU32::new(4).unwrap());
    config.lora_dropout = 0.5;
    config.target_modules =
        TargetModules::Named(ModuleNames::Suffixes(vec!["q".into(), "lm_head".into()]));
    drawn(11, || policy.adapters().add("default", config).unwrap());
    assert_eq!(logits(&policy, &base, Forward::default()), plain);
    let trained = policy.parameters().trainable();
    assert!(!trained.is_empty() && trained.iter().all(|(name, _)| name.contains(".lora_")));

    loss(&policy, &base, Forward::default()).backward();
    no_grad(|| {
        for (_, tensor) in &trained {
            let mut tensor = tensor.shallow_clone();
            let step = tensor.grad() * 0.5;
            tensor -= step;
        }
    });
    let learnt = logits(&policy, &base, Forward::default());
    assert!((&learnt - &plain).abs().max().double_value(&[]) > 1e-3);
    assert_eq!(logits(&policy, &base, with(Adapters::Off)), plain);
    // The adapter's dropout takes effect when it is switched on.
    let dropped = Forward { dropout: Dropout::On, ..Forward::default() };
    assert_ne!(logits(&policy, &base, dropped), learnt);
}

#[test]
fn what_is_saved_is_loaded_again() {
    let base = Goldens::read(&model("llama3"));
    for name in ["llama3-a", "llama3-b"] {
        let mut policy = language_model("llama3");
        policy.adapters().load("mine", &adapter(name)).unwrap();
        let want = logits(&policy, &base, Forward::default());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter");
        policy.adapters().save("mine", &path).unwrap();

        let mut again = language_model("llama3");
        again.adapters().load("default", &path).unwrap();
        assert_eq!(logits(&again, &base, Forward::default()), want);
    }
}

/// peft copies a layer of GPT-2 as its base stores it, `[inputs, outputs]`, square ones included.
#[test]
fn a_layer_that_is_saved_whole_has_the_layout_of_its_base() {
    let (folder, mut policy) = (tempfile::tempdir().unwrap(), language_model("gpt2"));
    let attention = ModuleNames::Suffixes(vec!["c_attn".to_owned()]);
    let mut config = AdapterConfig::new(TaskType::CausalLm, NonZeroU32::MIN);
    config.target_modules = TargetModules::Named(attention);
    config.modules_to_save = vec!["c_proj".to_owned(), "c_fc".to_owned()];
    policy.adapters().add("x", config).unwrap();
    let path = folder.path().join("adapter");
    policy.adapters().save("x", &path).unwrap();

    let read = |path: std::path::PathBuf| Tensor::read_safetensors(path).unwrap();
    let base = read(model("gpt2").join("model.safetensors"));
    let copies = read(path.join("adapter_model.safetensors"));
    let mut compared = 0;
    for (name, stored) in &base {
        let key = format!("base_model.model.{name}");
        let Some((_, copy)) = copies.iter().find(|(name, _)| *name == key) else { continue };
        assert_eq!(copy.size(), stored.size(), "{name}");
        assert!(copy.equal(stored), "{name}");
        compared += 1;
    }
    // Weight and bias of three layers in each of two blocks.
    assert_eq!(compared, 12);

    let goldens = Goldens::read(&model("gpt2"));
    let mut again = language_model("gpt2");
    again.adapters().load("y", &path).unwrap();
    let plain = logits(&again, &goldens, with(Adapters::Off));
    assert!(logits(&again, &goldens, with(Adapters::Active)).equal(&plain));
}

#[test]
fn low_precision_weights_take_an_adapter_in_f32() {
    let base = Goldens::read(&model("llama3"));
    let options = LoadOptions { kind: Some(Kind::BFloat16), ..LoadOptions::default() };
    let mut policy = LanguageModel::load(&model("llama3"), options).unwrap();
    policy.adapters().load("default", &adapter("llama3-b")).unwrap();
    let (_, a) = policy.parameters().iter().find(|(name, _)| name.contains(".lora_A.")).unwrap();
    assert_eq!(a.kind(), Kind::Float);
    let goldens = Goldens::read(&adapter("llama3-b"));
    let got = logits(&policy, &base, Forward::default());
    assert_eq!(got.kind(), Kind::BFloat16);
    close("bf16", &got, goldens.get("logits"), 0.8);
}
