//! Vocabularies with rows for more tokens, against transformers: the new rows, logits, and adapters on them.

use rlaif_lm::{Forward, Padding, Policy, SequenceClassifier, TokenBatch};
use rlaif_models::{
    Classifier, LanguageModel, LoadOptions, Lora, ModelFiles, NewRows, PolicySetup, SaveOptions,
    TargetModules, VocabularySize, classifier_with_labels, value_function,
};
use tch::{IndexOp, Kind, Tensor, no_grad};

use super::{TOLERANCE, logits, loss, with};
use crate::common::{Goldens, close, model};

const OLD: i64 = 96;

fn goldens() -> (Goldens, [u32; 3], LoadOptions) {
    let goldens = Goldens::read(&model("resized"));
    let number = |value: &serde_json::Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let moved = ["first", "last", "by"].map(|key| number(&goldens.json["moved"][key]));
    let options = options(
        number(&goldens.json["rows"]) as usize,
        Some(number(&goldens.json["pad_to_multiple_of"])),
        NewRows::Mean,
    );
    (goldens, moved, options)
}

fn options(rows: usize, multiple: Option<u32>, new_rows: NewRows) -> LoadOptions {
    let pad_to_multiple_of = multiple.map(|multiple| multiple.try_into().unwrap());
    let vocabulary = Some(VocabularySize { rows, pad_to_multiple_of, new_rows });
    LoadOptions { vocabulary, ..LoadOptions::default() }
}

/// The base's goldens, with ids beyond its vocabulary.
fn moved_goldens(name: &str, moved: [u32; 3]) -> Goldens {
    let mut goldens = Goldens::read(&model(name));
    goldens.moved = Some(moved);
    goldens
}

#[test]
fn new_rows_and_their_logits_are_those_of_transformers() {
    let (goldens, moved, options) = goldens();
    let names: Vec<&str> =
        goldens.all("").iter().filter_map(|(key, _)| key.strip_suffix(".head")).collect();
    assert_eq!(names.len(), 13);
    for name in names {
        let policy = LanguageModel::load(&model(name), options).unwrap();
        assert_eq!(policy.spec().vocab_size, 104, "{name}");
        assert_eq!(policy.config().fields()["vocab_size"], 104, "{name}");
        let table = |names: [&str; 5]| {
            let parameters = policy.parameters();
            let table = names.iter().find_map(|name| parameters.get(name)).unwrap();
            assert_eq!(table.size()[0], 104, "{name}");
            table.narrow(0, OLD, 8)
        };
        let words = [
            "model.embed_tokens.weight",
            "shared.weight",
            "transformer.wte.weight",
            "gpt_neox.embed_in.weight",
            "model.shared.weight",
        ];
        close(name, &table(words), goldens.get(&format!("{name}.embeddings")), 1e-6);
        let [own, tied @ ..] = ["lm_head.weight", words[1], words[4], words[0], words[2]];
        let head = match policy.parameters().get("embed_out.weight") {
            Some(head) => head.narrow(0, OLD, 8),
            None => table([own, tied[0], tied[1], tied[2], tied[3]]),
        };
        close(name, &head, goldens.get(&format!("{name}.head")), 1e-6);
        let base = moved_goldens(name, moved);
        let got = logits(&policy, &base, Forward::default());
        let off = close(name, &got, goldens.get(&format!("{name}.logits")), TOLERANCE);

        // What is written is read as it is.
        let folder = tempfile::tempdir().unwrap();
        policy.save(&folder.path().join("saved"), &SaveOptions::default()).unwrap();
        let again = LanguageModel::load(&folder.path().join("saved"), LoadOptions::default());
        assert_eq!(logits(&again.unwrap(), &base, Forward::default()), got, "{name}");
        println!("{name}: {off:.1e}");
    }
}

#[test]
fn classifiers_get_rows_as_well() {
    let (goldens, _, options) = goldens();
    let row: Vec<u32> = serde_json::from_value(goldens.json["row"].clone()).unwrap();
    let score = |classifier: &Classifier| {
        let batch =
            TokenBatch::collate(vec![row.clone()], classifier.spec(), Padding::Right).unwrap();
        no_grad(|| classifier.logits(&batch, None, Forward::default()).unwrap())
    };
    for name in ["llama-reward", "roberta", "modernbert"] {
        let classifier = Classifier::load(&model(name), options).unwrap();
        assert_eq!(classifier.spec().vocab_size, 104);
        close(name, &score(&classifier), goldens.get(&format!("{name}.logits")), TOLERANCE);
        // As the start of a training with the same labels.
        let labels = classifier.labels().to_vec();
        let again = classifier_with_labels(&model(name), &labels, options).unwrap();
        assert_eq!(score(&again), score(&classifier), "{name}");
    }
    // A trunk with a fresh head.
    let _guard = rlaif_testing::alone();
    let fresh = classifier_with_labels(&model("llama3"), &["reward".to_owned()], options).unwrap();
    assert_eq!(score(&fresh).size(), [1, 1]);
    let (trunk, _) = value_function(&model("llama-reward").into(), options).unwrap();
    assert_eq!(trunk.spec().vocab_size, 104);
}

#[test]
fn vocabularies_only_grow() {
    let rows = |rows, multiple| {
        let model = LanguageModel::load(&model("llama3"), options(rows, multiple, NewRows::Mean));
        model.unwrap().spec().vocab_size
    };
    assert_eq!([rows(10, None), rows(96, None), rows(97, None)], [96, 96, 97]);
    assert_eq!([rows(96, Some(32)), rows(96, Some(64)), rows(129, Some(64))], [96, 128, 192]);
    let as_read = LanguageModel::load(&model("llama3"), LoadOptions::default()).unwrap();
    let base = Goldens::read(&model("llama3"));
    let same = LanguageModel::load(&model("llama3"), options(10, None, NewRows::Mean)).unwrap();
    let [want, got] = [&as_read, &same].map(|model| logits(model, &base, Forward::default()));
    assert_eq!(got, want);
}

/// The definition: `mean + L z` with `L Lᵀ` the covariance of the old rows.
#[test]
fn drawn_rows_have_the_mean_and_the_covariance_of_the_old_ones() {
    let _guard = rlaif_testing::alone();
    let load = |seed, rows| {
        let options = options(rows, None, NewRows::Normal { seed });
        let model = LanguageModel::load(&model("llama3"), options).unwrap();
        model.parameters().get("model.embed_tokens.weight").unwrap().detach()
    };
    let table = load(1, 20_096).to_kind(Kind::Double);
    let (old, new) = (table.i(..OLD), table.i(OLD..));
    let mean = old.mean_dim(Some(&[0][..]), true, Kind::Double);
    let covariance = |rows: &Tensor, n: i64| (rows - &mean).tr().matmul(&(rows - &mean)) / n as f64;
    let want = covariance(&old, OLD) * 1e-9;
    let error = (covariance(&new, 20_000) - &want).norm() / want.norm();
    let error = error.double_value(&[]);
    assert!(error < 0.1, "{error}");
    assert_eq!(load(1, 100), load(1, 100));
    assert_ne!(load(1, 100), load(2, 100));
}

/// A fresh adapter on new rows is written with them, and is the same on the base that lacks them.
#[test]
fn adapters_bring_the_new_rows_along() {
    let _guard = rlaif_testing::alone();
    tch::manual_seed(3);
    let (_, moved, options) = goldens();
    for (name, saved) in [
        ("llama2", vec![]),
        ("llama3", vec![]),
        ("llama2", vec!["embed_tokens", "lm_head"]),
        ("t5-v1.0", vec![]),
    ] {
        let base = moved_goldens(name, moved);
        let lora = Lora {
            modules_to_save: saved.iter().map(|&name| name.to_owned()).collect(),
            targets: TargetModules::AllLinear,
            ..Lora::new("default", 2.try_into().unwrap())
        };
        let setup = PolicySetup { lora: Some(lora), ..PolicySetup::new(model(name), options) };
        let mut policy = setup.policy().unwrap();
        let reference = logits(&policy, &base, with(rlaif_lm::Adapters::Off));
        // A step, so that the adapter has an effect.
        loss(&policy, &base, Forward::default()).backward();
        no_grad(|| {
            for (_, parameter) in policy.parameters().trainable() {
                let gradient = parameter.grad();
                if gradient.defined() {
                    let _ = parameter.shallow_clone().g_add_(&(gradient * -0.5));
                }
            }
        });
        let trained = logits(&policy, &base, Forward::default());
        assert_ne!(trained, reference, "{name}");
        let folder = tempfile::tempdir().unwrap();
        let adapter = folder.path().join("adapter");
        setup.save(&mut policy, &adapter).unwrap();
        let files = ModelFiles { folder: model(name), adapter: Some(adapter) };
        for options in [LoadOptions::default(), options] {
            let again = files.language_model(options).unwrap();
            assert_eq!(logits(&again, &base, Forward::default()), trained, "{name} {saved:?}");
            let off = logits(&again, &base, with(rlaif_lm::Adapters::Off));
            assert_eq!(off, reference, "{name} {saved:?}");
        }
    }
}
