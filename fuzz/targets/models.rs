//! Files of models and tokenizers.

use std::path::Path;

use rlaif::core::{ChatOptions, GenerationPrompt, Message, Specials, TextCodec};
use rlaif::models::Config;
use rlaif::text::HfTokenizer;
use serde_json::Value;

use crate::files::{beside, each, files, outcome, put, told};

pub(crate) fn configs() -> Vec<Vec<u8>> {
    each("fixtures/models", "config.json", 1 << 16)
}

pub(crate) fn config(input: &[u8], place: &Path) -> String {
    beside(place, "model.safetensors", "fixtures/models/llama2/model.safetensors");
    put(place, "config.json", input);
    match Config::read(place) {
        Ok(_) => outcome(rlaif::models::inspect(place)),
        Err(error) => told(&error),
    }
}

pub(crate) fn generation_configs() -> Vec<Vec<u8>> {
    each("models", "generation_config.json", 1 << 16)
}

pub(crate) fn generation(input: &[u8], place: &Path) -> String {
    beside(place, "config.json", "fixtures/models/llama2/config.json");
    put(place, "generation_config.json", input);
    outcome(Config::read(place))
}

const FIXTURES: &str = "crates/rlaif-text/tests/fixtures";

pub(crate) fn tokenizers() -> Vec<Vec<u8>> {
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

pub(crate) fn tokenizer(input: &[u8], place: &Path) -> String {
    put(place, "tokenizer.json", input);
    codes(place)
}

pub(crate) fn tokenizer_configs() -> Vec<Vec<u8>> {
    each(FIXTURES, "tokenizer_config.json", 1 << 16)
}

pub(crate) fn tokenizer_config(input: &[u8], place: &Path) -> String {
    beside(place, "tokenizer.json", "crates/rlaif-text/tests/fixtures/chatml/tokenizer.json");
    put(place, "tokenizer_config.json", input);
    codes(place)
}

pub(crate) fn pieces() -> Vec<Vec<u8>> {
    let all = ["tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model"];
    all.iter().flat_map(|name| each(FIXTURES, name, 1 << 15)).collect()
}

pub(crate) fn sentencepiece(input: &[u8], place: &Path) -> String {
    beside(
        place,
        "tokenizer_config.json",
        "crates/rlaif-text/tests/fixtures/llama_spm/tokenizer_config.json",
    );
    put(place, "tokenizer.model", input);
    codes(place)
}

pub(crate) fn merges() -> Vec<Vec<u8>> {
    files(&["crates/rlaif-text/tests/fixtures/qwen2_slow/merges.txt"])
}

pub(crate) fn merges_file(input: &[u8], place: &Path) -> String {
    beside(
        place,
        "tokenizer_config.json",
        "crates/rlaif-text/tests/fixtures/qwen2_slow/tokenizer_config.json",
    );
    beside(place, "vocab.json", "crates/rlaif-text/tests/fixtures/qwen2_slow/vocab.json");
    put(place, "merges.txt", input);
    codes(place)
}

pub(crate) fn templates() -> Vec<Vec<u8>> {
    let known: Value =
        serde_json::from_slice(&files(&["crates/rlaif-text/tests/fixtures/templates.json"])[0])
            .unwrap_or_default();
    let known = known["rows"].as_array().into_iter().flatten();
    let known = known.filter_map(|row| Some(row["template"].as_str()?.as_bytes().to_vec()));
    known.chain(files(&["crates/rlaif-text/tests/fixtures/chatml/chat_template.jinja"])).collect()
}

pub(crate) fn template(input: &[u8], place: &Path) -> String {
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
