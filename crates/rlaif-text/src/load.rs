//! From files to a tokenizer.

use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, Tokenizer};

use crate::config::{Config, read_json};
use crate::error::TextError;
use crate::guard::guarded;

/// Tokenizers whose two vocabulary files say everything but the special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// `<s> text </s>`, `<s> text </s></s> pair </s>`.
    Roberta,
    /// No special tokens around texts.
    Gpt2,
}

/// What a message may list.
const KNOWN: &str = "RobertaTokenizer, LongformerTokenizer, BartTokenizer and GPT2Tokenizer";

impl FromStr for Family {
    type Err = ();

    /// From a `tokenizer_class` or a `model_type`.
    fn from_str(name: &str) -> Result<Self, ()> {
        let name = name.strip_suffix("Fast").unwrap_or(name);
        match name.strip_suffix("Tokenizer").unwrap_or(name).to_ascii_lowercase().as_str() {
            "roberta" | "longformer" | "bart" => Ok(Self::Roberta),
            "gpt2" => Ok(Self::Gpt2),
            _ => Err(()),
        }
    }
}

impl Family {
    /// The roles that need not be configured.
    fn roles(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Roberta => &[
                ("bos_token", "<s>"),
                ("pad_token", "<pad>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("cls_token", "<s>"),
                ("sep_token", "</s>"),
                ("mask_token", "<mask>"),
            ],
            Self::Gpt2 => &[
                ("bos_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
            ],
        }
    }
}

#[derive(Deserialize)]
struct ModelConfig {
    model_type: Option<String>,
}

/// The tokenizer of a folder, with every token that its configuration adds; defaults of roles are
/// added to `config`.
pub(crate) fn load(folder: &Path, config: &mut Config) -> Result<Tokenizer, TextError> {
    let json = folder.join("tokenizer.json");
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    if json.is_file() {
        let bytes = std::fs::read(&json)
            .map_err(|source| TextError::Read { path: json.clone(), source })?;
        let refused = |source| TextError::Build { path: json.clone(), source };
        let mut tokenizer = guarded(|| Tokenizer::from_bytes(bytes)).map_err(refused)?;
        // Whoever encodes says how long and how wide.
        tokenizer.with_padding(None);
        // Taking a limit away cannot fail; setting one can.
        let _ = tokenizer.with_truncation(None);
        guarded(|| add_tokens(&mut tokenizer, config)).map_err(refused)?;
        // A post-processor that names tokens which are not there shows only when it is used.
        guarded(|| tokenizer.encode_fast(("", ""), true)).map_err(refused)?;
        guarded(|| tokenizer.encode_fast("", true)).map_err(refused)?;
        return Ok(tokenizer);
    }
    if !vocab.is_file() || !merges.is_file() {
        return Err(TextError::NoTokenizer { folder: folder.to_owned(), found: names(folder) });
    }
    let class = match &config.class {
        Some(class) => Some(class.clone()),
        None => read_json::<ModelConfig>(&folder.join("config.json"))?.and_then(|c| c.model_type),
    };
    let Some(family) = class.as_deref().and_then(|class| Family::from_str(class).ok()) else {
        let folder = folder.to_owned();
        return Err(TextError::UnknownClass { folder, class, known: KNOWN });
    };
    byte_level(folder, family, config)
}

/// Byte-level BPE from vocab.json and merges.txt, as transformers builds it for its slow classes.
fn byte_level(folder: &Path, family: Family, config: &mut Config) -> Result<Tokenizer, TextError> {
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    let refused = |path: &Path| {
        let path = path.to_owned();
        move |source| TextError::Build { path, source }
    };
    for (role, text) in family.roles() {
        config.named.entry((*role).to_owned()).or_insert_with(|| AddedToken::from(*text, true));
    }
    if family == Family::Roberta
        && let Some(mask) = config.named.get_mut("mask_token")
    {
        // It stands for a word and the space before it.
        mask.lstrip = true;
    }
    // The file's own readers name no file in their errors; BPE's message says which part.
    let [Some(vocab_text), Some(merges_text)] = [&vocab, &merges].map(|path| path.to_str()) else {
        let source = "its path is not Unicode".into();
        return Err(TextError::Build { path: vocab, source });
    };
    let model =
        guarded(|| BPE::from_file(vocab_text, merges_text).build()).map_err(refused(&vocab))?;
    let mut tokenizer = Tokenizer::new(model);
    let level = ByteLevel::new(config.add_prefix_space, true, true);
    tokenizer.with_pre_tokenizer(Some(level));
    tokenizer.with_decoder(Some(level));
    guarded(|| add_tokens(&mut tokenizer, config)).map_err(refused(&vocab))?;
    if family == Family::Roberta {
        let special = |role: &str| {
            let text =
                config.named.get(role).map(|token| token.content.clone()).unwrap_or_default();
            let id = tokenizer.token_to_id(&text).unwrap_or_default();
            (text, id)
        };
        let processor = RobertaProcessing::new(special("sep_token"), special("cls_token"))
            .trim_offsets(true)
            .add_prefix_space(config.add_prefix_space);
        tokenizer.with_post_processor(Some(processor));
    }
    Ok(tokenizer)
}

/// Adds what the configuration adds and the tokenizer lacks, in the order that transformers adds
/// it, so that new ids are the same.
fn add_tokens(tokenizer: &mut Tokenizer, config: &Config) -> tokenizers::Result<()> {
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

/// What is in a folder, for the message that what is needed is not.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
