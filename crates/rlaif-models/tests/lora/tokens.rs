//! Adapters of heads on tokens against peft.

use rlaif_lm::{Forward, Padding, SequenceClassifier, TokenBatch};
use rlaif_models::{Classifier, ConvertError, LoadOptions, ModelFiles, ModelSort, SaveOptions};
use tch::{Tensor, no_grad};

use super::{TOLERANCE, adapter, headless};
use crate::common::{close, model};

/// The task TOKEN_CLS, on a language model, a bare encoder, and the encoder of a T5.
#[test]
fn adapters_of_heads_on_tokens_equal_peft() {
    let options = LoadOptions::default();
    for name in ["token-qwen3", "token-bert", "token-t5"] {
        let goldens = std::fs::read(adapter(name).join("goldens.json")).unwrap();
        let goldens: serde_json::Value = serde_json::from_slice(&goldens).unwrap();
        let base = goldens["base"].as_str().unwrap();
        let bare = (base == "bert").then(|| headless(base, |_| false));
        let folder = bare.as_ref().map_or_else(|| model(base), |bare| bare.path().to_owned());
        let files = ModelFiles { folder, adapter: Some(adapter(name)) };
        assert_eq!(files.sort(options).unwrap(), ModelSort::Classifier);
        let text: Vec<u32> = serde_json::from_value(goldens["text"].clone()).unwrap();
        let run = |classifier: &Classifier| {
            assert!(classifier.has_token_head(), "{name}");
            let batch = TokenBatch::collate(vec![text.clone()], classifier.spec(), Padding::Right);
            no_grad(|| classifier.logits(&batch.unwrap(), None, Forward::default()).unwrap())
        };
        let want: Vec<f64> = serde_json::from_value(goldens["logits"].clone()).unwrap();
        let want = Tensor::from_slice(&want).unsqueeze(0);
        let mut classifier = files.classifier(options).unwrap();
        close(name, &run(&classifier), &want, TOLERANCE);
        let merged = files.merged_classifier(options).unwrap();
        close(name, &run(&merged), &want, TOLERANCE);

        let folder = tempfile::tempdir().unwrap();
        let (whole, saved) = (folder.path().join("whole"), folder.path().join("adapter"));
        merged.save(&whole, &SaveOptions::default()).unwrap();
        close(name, &run(&Classifier::load(&whole, options).unwrap()), &want, TOLERANCE);
        classifier.adapters().save("default", &saved).unwrap();
        let written = std::fs::read_to_string(saved.join("adapter_config.json")).unwrap();
        assert!(written.contains("TOKEN_CLS"), "{written}");
        let again = ModelFiles { adapter: Some(saved), ..files.clone() };
        close(name, &run(&again.classifier(options).unwrap()), &want, TOLERANCE);

        let labels = classifier.labels().to_vec();
        let error = files.classifier_with_labels(&labels, options).unwrap_err();
        assert!(matches!(error, ConvertError::AdapterOnTokens { .. }), "{error}");
    }
}
