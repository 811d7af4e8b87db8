//! Tokens that the configuration adds, and those around texts.

use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::class::Kind;
use crate::config::Config;

/// Form of a text of `role`.
pub(super) fn written(config: &Config, role: &str) -> String {
    config.named.get(role).map(|token| token.content.clone()).unwrap_or_default()
}

/// The special tokens around texts, as the class puts them.
pub(super) fn surround(
    tokenizer: &Tokenizer,
    kind: Kind,
    config: &Config,
) -> tokenizers::Result<Option<TemplateProcessing>> {
    let with = |single: &str, pair: &str, roles: &[&str]| {
        let tokens: Vec<(String, u32)> = roles
            .iter()
            .map(|role| written(config, role))
            .map(|text| {
                let id = tokenizer.token_to_id(&text).unwrap_or_default();
                (text, id)
            })
            .collect();
        // Tokens may have spaces, which part the pieces of a template: they are given as a list.
        let pieces = |template: &str| -> Vec<String> {
            template
                .split(' ')
                .map(|piece| match piece.strip_prefix('#') {
                    Some(role) => {
                        let (role, kind) = role.split_once(':').unwrap_or((role, "0"));
                        format!("{}:{kind}", written(config, &format!("{role}_token")))
                    }
                    None => piece.to_owned(),
                })
                .collect()
        };
        TemplateProcessing::builder()
            .try_single(pieces(single))?
            .try_pair(pieces(pair))?
            .special_tokens(tokens)
            .build()
            .map(Some)
            .map_err(|error| error.to_string().into())
    };
    match kind {
        Kind::Bert | Kind::Albert | Kind::DebertaV2 => {
            with("#cls $A #sep", "#cls $A #sep $B:1 #sep:1", &["cls_token", "sep_token"])
        }
        Kind::T5 => with("$A #eos", "$A #eos $B #eos", &["eos_token"]),
        Kind::XlmRoberta => {
            with("#bos $A #eos", "#bos $A #eos #eos $B #eos", &["bos_token", "eos_token"])
        }
        Kind::Llama | Kind::Gemma | Kind::Qwen2 | Kind::GptNeoX => {
            match (config.add_bos, config.add_eos) {
                (false, false) => Ok(None),
                (true, false) => with("#bos $A", "#bos $A #bos:1 $B:1", &["bos_token"]),
                (false, true) => with("$A #eos", "$A #eos $B:1 #eos:1", &["eos_token"]),
                (true, true) => with(
                    "#bos $A #eos",
                    "#bos $A #eos #bos:1 $B:1 #eos:1",
                    &["bos_token", "eos_token"],
                ),
            }
        }
        Kind::Roberta | Kind::Gpt2 => Ok(None),
    }
}

/// Adds what the configuration adds and the tokenizer lacks, in the order that transformers adds
/// it, so that new ids are the same.
pub(super) fn add_tokens(tokenizer: &mut Tokenizer, config: &Config) -> tokenizers::Result<()> {
    let known = tokenizer.get_added_tokens_decoder();
    let is_known = |token: &AddedToken| known.values().any(|k| same(k, token));
    let mut tokens: Vec<AddedToken> =
        config.added.iter().filter(|token| !is_known(token)).cloned().collect();
    // The order of transformers' SPECIAL_TOKENS_ATTRIBUTES, then a model's own roles.
    const ROLES: [&str; 7] = [
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
    ];
    let own = config.named.iter().filter(|(key, _)| !ROLES.contains(&key.as_str()));
    let by_role = ROLES.iter().filter_map(|role| config.named.get(*role));
    for token in by_role.chain(own.map(|(_, token)| token)).chain(&config.extra) {
        let is_added = known.values().chain(&tokens).any(|k| k.content == token.content);
        if !is_added {
            tokens.push(AddedToken { special: true, ..token.clone() });
        }
    }
    tokenizer.add_tokens(tokens)?;
    Ok(())
}

fn same(a: &AddedToken, b: &AddedToken) -> bool {
    (&a.content, a.single_word, a.lstrip, a.rstrip, a.normalized, a.special)
        == (&b.content, b.single_word, b.lstrip, b.rstrip, b.normalized, b.special)
}
