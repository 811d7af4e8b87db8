//! The tokenizer in a GGUF file's metadata.

use std::collections::HashMap;

use rlaif_checkpoint::GgufValue;
use serde_json::{Map, Value, json};

use super::{
    layout::{GgufLayout, GgufTextStart},
    pre_tokenizer::{PreTokenizer, byte_level_step},
    source::Source,
};
use crate::error::ModelError;

/// Types of tokens, the same numbers in GGUF and SentencePiece.
pub(super) const UNKNOWN: u64 = 2;
pub(super) const CONTROL: u64 = 3;
pub(super) const USER_DEFINED: u64 = 4;

/// tokenizer.json and tokenizer_config.json.
///
/// # Errors
/// [`ModelError::Gguf`] for tokenizers that are not supported.
pub(super) fn files(model: &Source<'_>, layout: &GgufLayout) -> Result<(Value, Value), ModelError> {
    const MODEL: &str = "tokenizer.ggml.model";
    let tokens = model.list("tokenizer.ggml.tokens")?;
    let tokens: Vec<&str> = tokens.iter().filter_map(GgufValue::as_str).collect();
    let types = match model.value("tokenizer.ggml.token_type") {
        Some(types) => types.as_list().unwrap_or_default().iter().map(GgufValue::as_u64).collect(),
        None => vec![Some(1); tokens.len()],
    };
    if types.len() != tokens.len() {
        let found = format!("{} types", types.len());
        let expected = format!("one for each of {} tokens", tokens.len());
        return Err(model.refuse("`tokenizer.ggml.token_type`", expected, found));
    }
    let named = |key: &str| -> Value {
        let id = model.value(&format!("tokenizer.ggml.{key}_token_id")).and_then(GgufValue::as_u64);
        id.and_then(|id| tokens.get(usize::try_from(id).ok()?)).map_or(Value::Null, |&t| t.into())
    };
    let adds = |key: &str| match model.value(&format!("tokenizer.ggml.add_{key}")) {
        Some(GgufValue::Bool(value)) => Some(*value),
        _ => None,
    };
    let pre = model.text("tokenizer.ggml.pre").unwrap_or("gpt-2");
    let kind = model.text(MODEL);
    let adds_bos = adds("bos_token").unwrap_or(kind == Some("llama") || pre == "llama-bpe");
    let adds_eos = adds("eos_token").unwrap_or(false);
    let config = json!({
        "bos_token": named("bos"),
        "eos_token": named("eos"),
        "unk_token": named("unknown"),
        "pad_token": named("padding"),
        "add_bos_token": adds_bos,
        "add_eos_token": adds_eos,
        "chat_template": model.text("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": false,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    let around =
        Around { before: adds_bos.then(|| named("bos")), after: adds_eos.then(|| named("eos")) };
    let vocabulary = Vocabulary { tokens: &tokens, types: &types };
    let json = match kind {
        Some("gpt2") => byte_level(model, &vocabulary, pre, &around)?,
        Some("llama") => {
            let prefix = adds("space_prefix").unwrap_or(layout.text_start == GgufTextStart::Space);
            sentence_piece(model, &vocabulary, &named("unknown"), prefix, &around)?
        }
        other => {
            return Err(model.refuse(
                format!("`{MODEL}`"),
                "`gpt2` (byte-level BPE) or `llama` (SentencePiece)",
                other.map_or("missing".to_owned(), |name| format!("`{name}`")),
            ));
        }
    };
    Ok((json, config))
}

/// Tokens and their types, by id.
struct Vocabulary<'a> {
    tokens: &'a [&'a str],
    types: &'a [Option<u64>],
}

impl Vocabulary<'_> {
    /// `added_tokens` of a tokenizer.json.
    fn added(&self) -> Vec<Value> {
        let token = |(id, kind): (usize, &Option<u64>)| {
            let special = matches!(kind, Some(CONTROL | UNKNOWN));
            (special || *kind == Some(USER_DEFINED)).then(|| {
                json!({
                    "id": id, "content": self.tokens[id], "special": special, "single_word": false,
                    "lstrip": false, "rstrip": false, "normalized": false,
                })
            })
        };
        self.types.iter().enumerate().filter_map(token).collect()
    }

    /// `vocab` of a tokenizer.json.
    fn ids(&self) -> Map<String, Value> {
        let tokens = self.tokens.iter().enumerate();
        tokens.map(|(id, &token)| (token.to_owned(), id.into())).collect()
    }
}

/// The special tokens around a text.
struct Around {
    before: Option<Value>,
    after: Option<Value>,
}

impl Around {
    /// `post_processor` of a tokenizer.json; `None` without special tokens.
    fn json(&self, vocabulary: &Vocabulary<'_>) -> Option<Value> {
        let text = |token: &Option<Value>| token.as_ref()?.as_str().map(str::to_owned);
        let (before, after) = (text(&self.before), text(&self.after));
        if before.is_none() && after.is_none() {
            return None;
        }
        let one = |sequence: &str, kind: u64| -> Vec<Value> {
            let special = |token: &Option<String>| {
                token.as_ref().map(|token| json!({"SpecialToken": {"id": token, "type_id": kind}}))
            };
            let text = json!({"Sequence": {"id": sequence, "type_id": kind}});
            [special(&before), Some(text), special(&after)].into_iter().flatten().collect()
        };
        let tokens: Map<String, Value> = [&before, &after]
            .into_iter()
            .flatten()
            .map(|token| {
                let id = vocabulary.tokens.iter().position(|known| known == token);
                (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}))
            })
            .collect();
        let pair = [one("A", 0), one("B", 1)].concat();
        Some(json!({
            "type": "TemplateProcessing",
            "single": one("A", 0),
            "pair": pair,
            "special_tokens": tokens,
        }))
    }
}

/// tokenizer.json of a byte-level BPE.
fn byte_level(
    model: &Source<'_>,
    vocabulary: &Vocabulary<'_>,
    pre: &str,
    around: &Around,
) -> Result<Value, ModelError> {
    let Some(cut) = PreTokenizer::named(pre) else {
        let known = PreTokenizer::ALL.map(|cut| cut.name).join(", ");
        return Err(model.refuse("`tokenizer.ggml.pre`", format!("one of {known}"), pre));
    };
    let merges = model.list("tokenizer.ggml.merges")?;
    let merges: Vec<&str> = merges.iter().filter_map(GgufValue::as_str).collect();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(),
        "normalizer": if cut.nfc { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": cut.json(),
        "post_processor": around.json(vocabulary).unwrap_or_else(|| byte_level_step(false)),
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": cut.ignore_merges, "vocab": vocabulary.ids(), "merges": merges,
        },
    }))
}

/// tokenizer.json of a SentencePiece model: BPE with bytes for unknown characters, as llama.cpp computes it.
fn sentence_piece(
    model: &Source<'_>,
    vocabulary: &Vocabulary<'_>,
    unknown: &Value,
    prefix: bool,
    around: &Around,
) -> Result<Value, ModelError> {
    let tokens = vocabulary.tokens;
    let scores = model.list("tokenizer.ggml.scores")?;
    if scores.len() != tokens.len() {
        let found = format!("{} scores", scores.len());
        let expected = format!("one for each of {} tokens", tokens.len());
        return Err(model.refuse("`tokenizer.ggml.scores`", expected, found));
    }
    let ids: HashMap<&str, usize> =
        tokens.iter().enumerate().map(|(id, &token)| (token, id)).collect();
    // A pair may become a piece if both of its halves are pieces; of two pairs the one with the higher score
    // comes first.
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        let score = scores[id].as_f64().unwrap_or(f64::NEG_INFINITY);
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push((score, id, at, [left, right]));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let merges: Vec<[&str; 2]> = merges.into_iter().map(|(.., merge)| merge).collect();
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let prepend = json!({"type": "Prepend", "prepend": "\u{2581}"});
    let back = json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "});
    let mut decoders = vec![back, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let mut normalizers = vec![space];
    if prefix {
        normalizers.insert(0, prepend);
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": around.json(vocabulary),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "ignore_merges": false, "vocab": vocabulary.ids(), "merges": merges,
        },
    }))
}
