//! Saved models load in transformers and peft with the same numbers, and back again.
//!
//! Runs if `RLAIF_PYTHON` names a Python with the packages of `fixtures/models/requirements.txt`;
//! otherwise it reports that it was skipped.

mod common;

use std::{fs, path::Path, process::Command};

use common::{close, fixtures, model};
use rlaif_lm::{Forward, Padding, Policy, SequenceClassifier, TokenBatch};
use rlaif_models::{
    Classifier, LanguageModel, LoadOptions, Lora, NewRows, PolicySetup, SaveOptions, VocabularySize,
};
use tch::{Tensor, no_grad};

const PROMPTS: [&[u32]; 2] = [&[5, 9, 30, 12, 7], &[40, 8, 6, 21, 33]];
const RESPONSES: [&[u32]; 2] = [&[3, 17, 11, 4], &[22, 9, 9, 30]];

/// Runs `python_check.py`, which loads `folder` in Python, writes its logits, and saves the model
/// again as Python does.
fn python(sort: &str, folder: &Path, adapter: Option<&Path>, resaved: &Path) -> Option<Tensor> {
    let Some(python) = std::env::var_os("RLAIF_PYTHON") else {
        // Written directly to the terminal: a skipped test must not look like a passed one.
        eprintln!("SKIPPED {sort}: RLAIF_PYTHON names no Python with transformers and peft");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python_check.py");
    let mut command = Command::new(python);
    command.arg(script).arg(sort).arg(folder).arg(resaved).env("HF_HUB_OFFLINE", "1");
    command.arg(serde_json::to_string(&(PROMPTS, RESPONSES)).unwrap());
    command.args(adapter);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tensors = Tensor::read_safetensors(resaved.join("logits.safetensors")).unwrap();
    Some(tensors.into_iter().next().unwrap().1)
}

fn batches(policy: &LanguageModel) -> (TokenBatch, TokenBatch) {
    let rows = |rows: [&[u32]; 2]| rows.iter().map(|row| row.to_vec()).collect();
    (
        TokenBatch::collate(rows(PROMPTS), policy.spec(), Padding::Right).unwrap(),
        TokenBatch::responses(rows(RESPONSES), policy.spec()).unwrap(),
    )
}

fn logits(policy: &LanguageModel) -> Tensor {
    let (prompts, responses) = batches(policy);
    no_grad(|| {
        let hidden = policy.response_hidden(&prompts, &responses, Forward::default()).unwrap();
        policy.head(Forward::default()).unwrap().logits(&hidden)
    })
}

fn classified(classifier: &Classifier) -> Tensor {
    let rows = PROMPTS.iter().map(|row| row.to_vec()).collect();
    let batch = TokenBatch::collate(rows, classifier.spec(), Padding::Right).unwrap();
    no_grad(|| classifier.logits(&batch, None, Forward::default()).unwrap())
}

fn load(folder: &Path) -> LanguageModel {
    LanguageModel::load(folder, LoadOptions::default()).unwrap()
}

#[test]
fn language_models_go_to_transformers_and_back() {
    for (name, sort) in [
        ("llama3", "causal"),
        ("llama31", "causal"),
        ("mistral", "causal"),
        ("qwen2-window", "causal"),
        ("qwen3", "causal"),
        ("gpt2", "causal"),
        ("flan", "seq2seq"),
        ("t5-v1.0", "seq2seq"),
        ("bart", "seq2seq"),
        ("mbart", "seq2seq"),
        ("pegasus", "seq2seq"),
        ("t5gemma", "seq2seq"),
    ] {
        let policy = load(&model(name));
        let folder = tempfile::tempdir().unwrap();
        let (saved, resaved) = (folder.path().join("saved"), folder.path().join("resaved"));
        let source = model(name);
        let options =
            SaveOptions { source: Some(&source), shard_bytes: 16 << 10, ..SaveOptions::default() };
        policy.save(&saved, &options).unwrap();
        fs::create_dir(&resaved).unwrap();
        let Some(theirs) = python(sort, &saved, None, &resaved) else { return };
        close(name, &logits(&policy), &theirs, 1e-4);
        assert_eq!(logits(&load(&resaved)), logits(&policy), "{name}");
    }
}

#[test]
fn classifiers_go_to_transformers_and_back() {
    for name in ["roberta", "bert", "llama-reward"] {
        let classifier = Classifier::load(&model(name), LoadOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (saved, resaved) = (folder.path().join("saved"), folder.path().join("resaved"));
        classifier.save(&saved, &SaveOptions::default()).unwrap();
        fs::create_dir(&resaved).unwrap();
        let Some(theirs) = python("classifier", &saved, None, &resaved) else { return };
        close(name, &classified(&classifier), &theirs, 1e-4);
        let again = Classifier::load(&resaved, LoadOptions::default()).unwrap();
        assert_eq!(classified(&again), classified(&classifier), "{name}");
    }
}

#[test]
fn adapters_go_to_peft_and_back() {
    for (base, name, sort) in [
        ("llama3", "llama3-b", "causal"),
        ("gpt2", "gpt2", "causal"),
        ("flan", "flan", "seq2seq"),
        ("bart", "bart", "seq2seq"),
        ("t5gemma", "t5gemma", "seq2seq"),
    ] {
        let mut policy = load(&model(base));
        policy.adapters().load("default", &fixtures().join("adapters").join(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (saved, resaved) = (folder.path().join("adapter"), folder.path().join("resaved"));
        policy.adapters().save("default", &saved).unwrap();
        fs::create_dir(&resaved).unwrap();
        let Some(theirs) = python(sort, &model(base), Some(&saved), &resaved) else { return };
        close(name, &logits(&policy), &theirs, 1e-4);
        let mut again = load(&model(base));
        again.adapters().load("default", &resaved).unwrap();
        assert_eq!(logits(&again), logits(&policy), "{name}");
    }
}

/// Vocabularies with more rows than the files have, written whole and as adapters.
#[test]
fn new_tokens_go_to_transformers_and_peft() {
    let _guard = rlaif_testing::alone();
    tch::manual_seed(5);
    let vocabulary = VocabularySize {
        rows: 100,
        pad_to_multiple_of: 8.try_into().ok(),
        new_rows: NewRows::Mean,
    };
    let options = LoadOptions { vocabulary: Some(vocabulary), ..LoadOptions::default() };
    let none: &[&str] = &[];
    for (name, sort, saved) in [
        ("llama2", "causal", &["embed_tokens", "lm_head"][..]),
        ("llama3", "causal", none),
        ("gpt2", "causal", none),
        ("t5-v1.0", "seq2seq", none),
        ("bart", "seq2seq", none),
        ("t5gemma", "seq2seq", none),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let place = |what: &str| folder.path().join(what);
        let policy = LanguageModel::load(&model(name), options).unwrap();
        assert_eq!(policy.spec().vocab_size, 104);
        policy.save(&place("saved"), &SaveOptions::default()).unwrap();
        fs::create_dir(place("resaved")).unwrap();
        let Some(theirs) = python(sort, &place("saved"), None, &place("resaved")) else { return };
        assert_eq!(theirs.size().last(), Some(&104));
        close(name, &logits(&policy), &theirs, 1e-4);

        let lora = Lora {
            modules_to_save: saved.iter().map(|&name| name.to_owned()).collect(),
            ..Lora::new("default", 2.try_into().unwrap())
        };
        let setup = PolicySetup { lora: Some(lora), ..PolicySetup::new(model(name), options) };
        let mut policy = setup.policy().unwrap();
        no_grad(|| {
            for (_, parameter) in policy.parameters().trainable() {
                let _ = parameter.shallow_clone().g_add_scalar_(0.01);
            }
        });
        setup.save(&mut policy, &place("adapter")).unwrap();
        fs::create_dir(place("again")).unwrap();
        let theirs = python(sort, &model(name), Some(&place("adapter")), &place("again")).unwrap();
        close(name, &logits(&policy), &theirs, 1e-4);
    }
}

#[test]
fn adapters_of_classifiers_go_to_peft_and_back() {
    let name = "roberta";
    let load = || Classifier::load(&model(name), LoadOptions::default()).unwrap();
    let mut classifier = load();
    classifier.adapters().load("default", &fixtures().join("adapters").join(name)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (saved, resaved) = (folder.path().join("adapter"), folder.path().join("resaved"));
    classifier.adapters().save("default", &saved).unwrap();
    fs::create_dir(&resaved).unwrap();
    let Some(theirs) = python("classifier", &model(name), Some(&saved), &resaved) else { return };
    close(name, &classified(&classifier), &theirs, 1e-4);
    let mut again = load();
    again.adapters().load("default", &resaved).unwrap();
    assert_eq!(classified(&again), classified(&classifier));
    assert_ne!(classified(&load()), classified(&classifier));
}
