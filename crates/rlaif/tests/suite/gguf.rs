//! GGUF files in and out.

use std::{path::Path, process::Command};

use rlaif::{
    core::{Specials, TextCodec},
    text::HfTokenizer,
};
use serde_json::json;

use crate::support::{language_model, refusal, repository, rows, succeeded, tokenizer};

fn run(folder: &Path, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rlaif"));
    command.args(arguments).current_dir(folder).env("HF_HUB_OFFLINE", "1").output().unwrap()
}

/// Exports a model, and imports the file.
fn there_and_back(folder: &Path, model: &str, format: &str) {
    let arguments = ["export", "--model", model, "--out", "model.gguf", "--format", format];
    succeeded(&run(folder, &arguments));
    succeeded(&run(folder, &["import", "gguf", "model.gguf", "--out", "back", "--dtype", "f32"]));
}

/// llama.cpp (xllamacpp 2026.10.11549) gives these ids for the exported file in f32 and in q8_0.
const IN_LLAMA_CPP: [u32; 22] = [
    290, 329, 348, 435, 283, 745, 404, 19, 315, 324, 325, 17, 347, 43, 637, 2489, 404, 318, 2078,
    88, 383, 4,
];

#[test]
fn the_built_in_llama_is_the_same_after_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let model = repository("models/summary-llama");
    let talk = "Summarize the following conversation.\n\n\n\nHuman: I baked 12 loaves on 3 May. How should I \
                keep them?\n\nAssistant: Freeze them in bags.";
    let row = json!({"prompt": [{"role": "user", "content": talk}]}).to_string();
    std::fs::write(folder.path().join("rows.jsonl"), row).unwrap();
    there_and_back(folder.path(), model.to_str().unwrap(), "q8_0");
    for model in [model.to_str().unwrap(), "back"] {
        let arguments = [
            "generate",
            "--model",
            model,
            "--input",
            "rows.jsonl",
            "--greedy",
            "--max-new-tokens",
            "48",
        ];
        let rows = rows(&run(folder.path(), &arguments));
        assert_eq!(rows[0]["response_ids"], json!(IN_LLAMA_CPP), "{model}");
    }
    let file = folder.path().join("model.gguf");
    let arguments = ["generate", "--model", file.to_str().unwrap(), "--input", "rows.jsonl"];
    let said = refusal(&run(folder.path(), &arguments), 2);
    assert!(said.contains("rlaif import gguf"), "{said}");
}

/// Texts, and the ids that llama.cpp and transformers give to them with the fixtures' tokenizers.
const SENTENCE_PIECE: [(&str, &[u32]); 3] = [
    ("  two  spaces", &[1, 404, 341, 311, 314, 306, 404, 310, 307, 292, 294, 296, 310]),
    ("a</s>b <s> c", &[1, 341, 292, 2, 448, 341, 1, 404, 294]),
    (" ", &[1, 404]),
];

#[test]
fn tokenizers_are_the_same_after_gguf() {
    for name in ["chatml", "llama3", "mistral"] {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32,
            "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "max_position_embeddings": 64,
        });
        language_model(&folder.path().join("model"), &tokenizer(name), 1, config);
        there_and_back(folder.path(), "model", "f32");
        let read = |part: &str| HfTokenizer::from_folder(folder.path().join(part)).unwrap();
        let (before, after) = (read("model"), read("back"));
        let ids =
            |tokenizer: &HfTokenizer, text| tokenizer.encode(text, Specials::Include).unwrap();
        let texts = [
            "Hello world",
            "  two  spaces",
            "It's 12345 apples, isn't it?\n\nNew\tline",
            "na\u{ef}ve \u{65e5}\u{672c}",
            "a</s>b <s> c",
            "<|im_start|>user\nhi<|im_end|>",
            "",
            " ",
            "x\r\ny   \n z",
        ];
        for text in texts {
            assert_eq!(ids(&before, text), ids(&after, text), "{name}: {text:?}");
        }
        if name == "mistral" {
            for (text, want) in SENTENCE_PIECE {
                assert_eq!(ids(&after, text), want, "{text:?}");
            }
        }
        assert_eq!(before.chat_template("default"), after.chat_template("default"), "{name}");
        let special = |tokenizer: &HfTokenizer| {
            let tokens = tokenizer.special_tokens();
            (tokens.bos.clone(), tokens.eos.clone(), tokens.pad.clone())
        };
        assert_eq!(special(&before), special(&after), "{name}");
    }
}
