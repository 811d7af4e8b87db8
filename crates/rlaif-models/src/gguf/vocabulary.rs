//! A tokenizer.json as the metadata of a GGUF file.

use std::{collections::HashMap, path::Path};

use rlaif_checkpoint::GgufValue;
use serde_json::Value;

use super::{
    pre_tokenizer::PreTokenizer,
    source::refused,
    tokenizer::{CONTROL, UNKNOWN, USER_DEFINED},
};
use crate::error::ModelError;

/// The tokenizer to write beside the weights.
#[derive(Debug, Clone)]
pub struct GgufTokenizer<'a> {
    /// The content of tokenizer.json.
    pub json: &'a Value,
    /// Begins a sequence.
    pub bos: Option<u32>,
    /// Ends a sequence.
    pub eos: Option<u32>,
    /// Stands for unknown text.
    pub unk: Option<u32>,
    /// Fills up batches.
    pub pad: Option<u32>,
    /// The default chat template.
    pub chat_template: Option<&'a str>,
}

const NORMAL: u64 = 1;
/// Fills up the vocabulary to the number of embeddings.
const UNUSED: u64 = 5;
const BYTE: u64 = 6;

/// The metadata of a tokenizer for a model with this number of embeddings.
///
/// # Errors
/// [`ModelError::Gguf`] for tokenizers that llama.cpp does not have.
pub(super) fn metadata(
    tokenizer: &GgufTokenizer<'_>,
    rows: usize,
    out: &Path,
) -> Result<Vec<(String, GgufValue)>, ModelError> {
    let json = tokenizer.json;
    let model = &json["model"];
    let kind = model["type"].as_str().unwrap_or("missing");
    let (Some(vocab), "BPE") = (model["vocab"].as_object(), kind) else {
        let expected = "BPE, of bytes or with bytes for unknown characters";
        return Err(refused(out, "the tokenizer's model", expected, kind));
    };
    let sentence_piece = model["byte_fallback"] == true;
    let mut tokens: Vec<Option<(&str, u64)>> = vec![None; rows];
    let added = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let plain = vocab.iter().map(|(token, id)| (token.as_str(), id.as_u64(), NORMAL));
    let special = added.iter().map(|token| {
        let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
        (token["content"].as_str().unwrap_or_default(), token["id"].as_u64(), kind)
    });
    for (token, id, kind) in plain.chain(special) {
        let place = id.and_then(|id| tokens.get_mut(usize::try_from(id).ok()?));
        let Some(place) = place else {
            let expected = format!("ids below the {rows} embeddings");
            return Err(refused(out, format!("the token `{token}`"), expected, format!("{id:?}")));
        };
        let is_byte = sentence_piece && token.len() == 6 && token.starts_with("<0x");
        let kind = match kind {
            _ if tokenizer.unk.map(u64::from) == id && sentence_piece => UNKNOWN,
            NORMAL if is_byte => BYTE,
            kind => kind,
        };
        *place = Some((token, kind));
    }
    let text = |text: &str| GgufValue::Text(text.to_owned());
    let integer = |value: u64| GgufValue::Integer(value.into());
    let merges = merges(model);
    let mut metadata: Vec<(&str, GgufValue)> = Vec::new();
    if sentence_piece {
        let scores = scores(&merges);
        let score = |token: &Option<(&str, u64)>| {
            let score = token.and_then(|(token, _)| scores.get(token));
            GgufValue::Number(score.copied().unwrap_or(-1e9))
        };
        metadata.push(("model", text("llama")));
        metadata.push(("pre", text("default")));
        metadata.push(("scores", GgufValue::List(tokens.iter().map(score).collect())));
        metadata.push(("add_space_prefix", GgufValue::Bool(prepends(json))));
    } else {
        let Some(cut) = PreTokenizer::of(json) else {
            let known = PreTokenizer::ALL.map(|cut| cut.name).join(", ");
            let expected = format!("one that llama.cpp has: {known}");
            return Err(refused(
                out,
                "the tokenizer's `pre_tokenizer` and `normalizer`",
                expected,
                format!("{} and {}", json["pre_tokenizer"], json["normalizer"]),
            ));
        };
        metadata.push(("model", text("gpt2")));
        metadata.push(("pre", text(cut.name)));
        let merges = merges.iter().map(|[a, b]| GgufValue::Text(format!("{a} {b}")));
        metadata.push(("merges", GgufValue::List(merges.collect())));
    }
    let filler = |id: usize| format!("[PAD{id}]");
    let names = tokens.iter().enumerate().map(|(id, token)| {
        GgufValue::Text(token.map_or_else(|| filler(id), |(token, _)| token.to_owned()))
    });
    metadata.push(("tokens", GgufValue::List(names.collect())));
    let kinds = tokens.iter().map(|token| integer(token.map_or(UNUSED, |(_, kind)| kind)));
    metadata.push(("token_type", GgufValue::List(kinds.collect())));
    for (key, id) in [
        ("bos_token_id", tokenizer.bos),
        ("eos_token_id", tokenizer.eos),
        ("unknown_token_id", tokenizer.unk),
        ("padding_token_id", tokenizer.pad),
    ] {
        if let Some(id) = id {
            metadata.push((key, integer(id.into())));
        }
    }
    let (begins, ends) = surround(json);
    metadata.push(("add_bos_token", GgufValue::Bool(begins)));
    metadata.push(("add_eos_token", GgufValue::Bool(ends)));
    let keys = metadata.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value));
    let mut metadata: Vec<_> = keys.collect();
    if let Some(template) = tokenizer.chat_template {
        metadata.push(("tokenizer.chat_template".to_owned(), text(template)));
    }
    Ok(metadata)
}

/// The merges, in both spellings of tokenizer.json.
fn merges(model: &Value) -> Vec<[&str; 2]> {
    let merges = model["merges"].as_array().map_or(&[][..], Vec::as_slice);
    merges
        .iter()
        .filter_map(|merge| match merge.as_str() {
            Some(text) => text.split_once(' ').map(|(a, b)| [a, b]),
            None => Some([merge[0].as_str()?, merge[1].as_str()?]),
        })
        .collect()
}

/// The scores of SentencePiece's pieces: of two possible merges, the one with the higher score comes first.
fn scores(merges: &[[&str; 2]]) -> HashMap<String, f64> {
    let mut scores = HashMap::new();
    for (rank, [a, b]) in merges.iter().enumerate() {
        scores.entry(format!("{a}{b}")).or_insert(-(rank as f64));
    }
    scores
}

/// `true` if a space is put before texts.
fn prepends(json: &Value) -> bool {
    let steps = |step: &Value, list: &str| -> Vec<Value> {
        step[list].as_array().cloned().unwrap_or_else(|| vec![step.clone()])
    };
    let prepend = |step: &Value| {
        step["type"] == "Prepend"
            || (step["type"] == "Metaspace"
                && matches!(step["prepend_scheme"].as_str(), Some("first" | "always")))
    };
    steps(&json["normalizer"], "normalizers").iter().any(prepend)
        || steps(&json["pre_tokenizer"], "pretokenizers").iter().any(prepend)
}

/// `true` for a special token before a text, and for one after it.
fn surround(json: &Value) -> (bool, bool) {
    let after = &json["post_processor"];
    let steps = after["processors"].as_array().cloned().unwrap_or_else(|| vec![after.clone()]);
    let template = steps.iter().find(|step| step["type"] == "TemplateProcessing");
    let pieces = template.and_then(|template| template["single"].as_array());
    let special = |piece: Option<&Value>| piece.is_some_and(|p| p.get("SpecialToken").is_some());
    pieces.map_or((false, false), |pieces| (special(pieces.first()), special(pieces.last())))
}
