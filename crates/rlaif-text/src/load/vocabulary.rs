//! Tokenizers from vocab.txt, or from vocab.json and merges.txt.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizerSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::tokenizer::normalizer::SplitDelimiterBehavior;

use super::added::{add_tokens, written};
use super::class::Kind;
use crate::config::{Config, read_text};
use crate::error::TextError;
use crate::guard::guarded;

/// BERT's WordPiece from vocab.txt, one token on each line.
pub(super) fn bert(file: &Path, config: &Config) -> Result<Tokenizer, TextError> {
    // Line ends as Python's text mode reads them.
    let text = read_text(file)?.unwrap_or_default().replace("\r\n", "\n").replace('\r', "\n");
    // The last of two equal lines counts, as in transformers.
    let vocab: HashMap<String, u32> = text
        .split_inclusive('\n')
        .enumerate()
        .map(|(id, line)| (line.trim_end_matches('\n').to_owned(), id as u32))
        .collect();
    let build = || {
        WordPiece::builder()
            .vocab(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>())
            .unk_token(written(config, "unk_token"))
            .build()
    };
    let model =
        guarded(build).map_err(|source| TextError::Build { path: file.to_owned(), source })?;
    let mut tokenizer = Tokenizer::new(model);
    let lower = config.flag("do_lower_case").unwrap_or(true);
    let chinese = config.flag("tokenize_chinese_chars").unwrap_or(true);
    let accents = config.flag("strip_accents");
    let normalizer = BertNormalizer::new(true, chinese, accents, lower);
    tokenizer
        .with_normalizer(Some(normalizer))
        .map_err(|source| TextError::Build { path: file.to_owned(), source })?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_decoder(Some(WordPieceDecoder::new("##".to_owned(), true)));
    Ok(tokenizer)
}

/// Qwen2's pattern of word boundaries.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(super) fn qwen2(folder: &Path, config: &Config) -> Result<Tokenizer, TextError> {
    let (model, vocab) = bpe(folder)?;
    let build =
        || Split::new(SplitPattern::Regex(QWEN2.into()), SplitDelimiterBehavior::Isolated, false);
    let refused = |source| TextError::Build { path: vocab.clone(), source };
    let split = guarded(build).map_err(refused)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(NFC)).map_err(refused)?;
    let level = ByteLevel::new(config.add_prefix_space.unwrap_or(false), true, false);
    tokenizer.with_pre_tokenizer(Some(PreTokenizerSequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(level),
    ])));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

pub(super) fn gpt_neox(folder: &Path, config: &Config) -> Result<Tokenizer, TextError> {
    let (model, vocab) = bpe(folder)?;
    let mut tokenizer = Tokenizer::new(model);
    let refused = |source| TextError::Build { path: vocab.clone(), source };
    tokenizer.with_normalizer(Some(NFC)).map_err(refused)?;
    let level = ByteLevel::new(config.add_prefix_space.unwrap_or(false), true, true);
    tokenizer.with_pre_tokenizer(Some(level));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

/// The model of vocab.json and merges.txt, and the path of the first.
fn bpe(folder: &Path) -> Result<(BPE, PathBuf), TextError> {
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    // The file's own readers name no file in their errors; BPE's message says which part.
    let [Some(vocab_text), Some(merges_text)] = [&vocab, &merges].map(|path| path.to_str()) else {
        let source = "its path is not Unicode".into();
        return Err(TextError::Build { path: vocab, source });
    };
    for path in [&vocab, &merges] {
        // The library would wait at a named pipe.
        let read = |source| TextError::Read { path: path.clone(), source };
        rlaif_files::open_file(path).map_err(read)?;
    }
    match guarded(|| BPE::from_file(vocab_text, merges_text).build()) {
        Ok(model) => Ok((model, vocab)),
        Err(source) => Err(TextError::Build { path: vocab, source }),
    }
}

/// Byte-level BPE from vocab.json and merges.txt, as transformers builds it for its slow classes.
pub(super) fn byte_level(
    folder: &Path,
    kind: Kind,
    config: &mut Config,
) -> Result<Tokenizer, TextError> {
    let refused = |path: &Path| {
        let path = path.to_owned();
        move |source| TextError::Build { path, source }
    };
    if kind == Kind::Roberta
        && let Some(mask) = config.named.get_mut("mask_token")
    {
        // The character stands for a word and the space before it.
        mask.lstrip = true;
    }
    let (model, vocab) = bpe(folder)?;
    let prefix = config.add_prefix_space.unwrap_or(false);
    let mut tokenizer = Tokenizer::new(model);
    let level = ByteLevel::new(prefix, true, true);
    tokenizer.with_pre_tokenizer(Some(level));
    tokenizer.with_decoder(Some(level));
    guarded(|| add_tokens(&mut tokenizer, config)).map_err(refused(&vocab))?;
    if kind == Kind::Roberta {
        let special = |role: &str| {
            let text =
                config.named.get(role).map(|token| token.content.clone()).unwrap_or_default();
            let id = tokenizer.token_to_id(&text).unwrap_or_default();
            (text, id)
        };
        let processor = RobertaProcessing::new(special("sep_token"), special("cls_token"))
            .trim_offsets(true)
            .add_prefix_space(prefix);
        tokenizer.with_post_processor(Some(processor));
    }
    Ok(tokenizer)
}
