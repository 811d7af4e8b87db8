//! From files to a tokenizer.

mod added;
mod class;
mod pieces;
mod vocabulary;

use std::path::Path;

use serde::Deserialize;
use tokenizers::{AddedToken, Tokenizer};

use crate::bound;
use crate::config::{Config, SequenceSide, read_file, read_json};
use crate::error::TextError;
use crate::guard::guarded;
use crate::sentencepiece::Model;
use added::{add_tokens, surround};
use class::{KNOWN, Kind, VOCABULARIES, class_of};
use pieces::{albert, deberta, gemma, llama, t5, xlm_roberta};
use vocabulary::{bert, byte_level, gpt_neox, qwen2};

#[derive(Deserialize)]
struct ModelConfig {
    model_type: Option<String>,
}

/// The tokenizer of a folder, with every token that its configuration adds; defaults of roles are
/// added to `config`.
pub(crate) fn load(folder: &Path, config: &mut Config) -> Result<Tokenizer, TextError> {
    let json = folder.join("tokenizer.json");
    let merges = folder.join("merges.txt");
    if json.exists() {
        let bytes = read_file(&json)?;
        let refused = |source| TextError::Build { path: json.clone(), source };
        bound::tokenizer(&bytes).map_err(refused)?;
        let mut tokenizer = guarded(|| Tokenizer::from_bytes(bytes)).map_err(refused)?;
        // The caller sets the maximum length and the padding.
        tokenizer.with_padding(None);
        // Taking a limit away cannot fail; setting one can.
        let _ = tokenizer.with_truncation(None);
        guarded(|| add_tokens(&mut tokenizer, config)).map_err(refused)?;
        // A post-processor that names tokens which are not there shows only when it is used.
        guarded(|| tokenizer.encode_fast(("", ""), true)).map_err(refused)?;
        guarded(|| tokenizer.encode_fast("", true)).map_err(refused)?;
        return Ok(tokenizer);
    }
    if !VOCABULARIES.iter().any(|name| folder.join(name).is_file()) {
        return Err(TextError::NoTokenizer { folder: folder.to_owned(), found: names(folder) });
    }
    let class = match &config.class {
        Some(class) => Some(class.clone()),
        None => read_json::<ModelConfig>(&folder.join("config.json"))?.and_then(|c| c.model_type),
    };
    let unknown = || TextError::UnknownClass {
        folder: folder.to_owned(),
        class: class.clone(),
        found: VOCABULARIES
            .into_iter()
            .filter(|name| folder.join(name).is_file())
            .collect::<Vec<_>>()
            .join(", "),
        known: KNOWN,
    };
    let named = config.class.as_deref().or_else(|| class.as_deref().and_then(class_of));
    let kind = named.and_then(Kind::of_class).ok_or_else(unknown)?;
    let file = kind.files().iter().map(|name| folder.join(name)).find(|file| file.is_file());
    let file = file.ok_or_else(unknown)?;
    for (role, text) in kind.roles() {
        // `null` means that there is none.
        if !config.has(role) {
            config.named.entry((*role).to_owned()).or_insert_with(|| AddedToken::from(*text, true));
        }
    }
    if matches!(kind, Kind::Llama | Kind::Gemma) {
        config.padding_side.get_or_insert(SequenceSide::Left);
    }
    let refused = |source| TextError::Build { path: file.clone(), source };
    let pieces = || -> Result<Model, TextError> {
        Model::read(&read_file(&file)?).map_err(|problem| refused(problem.into()))
    };
    let mut tokenizer = match kind {
        Kind::Roberta | Kind::Gpt2 | Kind::Qwen2 | Kind::GptNeoX if !merges.is_file() => {
            return Err(TextError::NoTokenizer { folder: folder.to_owned(), found: names(folder) });
        }
        Kind::Roberta | Kind::Gpt2 => return byte_level(folder, kind, config),
        Kind::Qwen2 => qwen2(folder, config)?,
        Kind::GptNeoX => gpt_neox(folder, config)?,
        Kind::Bert => bert(&file, config)?,
        Kind::Llama => llama(&pieces()?, config).map_err(refused)?,
        Kind::Gemma => gemma(&pieces()?, config).map_err(refused)?,
        Kind::Albert => albert(&pieces()?, config).map_err(refused)?,
        Kind::DebertaV2 => deberta(&pieces()?, config).map_err(refused)?,
        Kind::T5 => t5(&pieces()?, config).map_err(refused)?,
        Kind::XlmRoberta => xlm_roberta(&pieces()?, config).map_err(refused)?,
    };
    guarded(|| add_tokens(&mut tokenizer, config)).map_err(refused)?;
    let processor = guarded(|| surround(&tokenizer, kind, config)).map_err(refused)?;
    tokenizer.with_post_processor(processor);
    Ok(tokenizer)
}

/// Lists a folder, for the message that a needed file is missing.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
