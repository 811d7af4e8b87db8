//! Tokenizers from SentencePiece's models.

use std::collections::HashMap;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::strip::{Strip as StripSpaces, StripAccents};
use tokenizers::normalizers::unicode::{NFC, NFKD};
use tokenizers::normalizers::utils::{Lowercase, Sequence as NormalizerSequence};
use tokenizers::normalizers::{NormalizerWrapper, Precompiled};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizerSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::tokenizer::normalizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, Tokenizer};

use super::added::written;
use crate::config::Config;
use crate::guard::guarded;
use crate::sentencepiece::{Algorithm, Model, PieceKind};

/// Tokens that SentencePiece's models treat apart, and the configuration has not described.
fn add_pieces(model: &Model, config: &mut Config) {
    for (text, _, kind) in &model.pieces {
        let special = match kind {
            PieceKind::Control => true,
            PieceKind::UserDefined => false,
            PieceKind::Other => continue,
        };
        let named = config.named.values().chain(&config.extra).chain(&config.added);
        if !named.into_iter().any(|token| token.content == *text) {
            config.extra.push(AddedToken::from(text.clone(), special).normalized(false));
        }
    }
}

/// The BPE of a SentencePiece model, with bytes for what is not in the vocabulary.
fn pieces(model: &Model, config: &mut Config, unk: Option<String>) -> tokenizers::Result<BPE> {
    if model.algorithm != Algorithm::Bpe {
        return Err("it is a SentencePiece model of another algorithm than BPE".into());
    }
    add_pieces(model, config);
    let vocab: HashMap<String, u32> =
        model.pieces.iter().enumerate().map(|(id, (text, ..))| (text.clone(), id as u32)).collect();
    let merges = merges(model, &vocab);
    guarded(|| {
        let vocab = vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>();
        let builder =
            BPE::builder().vocab_and_merges(vocab, merges).fuse_unk(true).byte_fallback(true);
        match unk {
            Some(unk) => builder.unk_token(unk).build(),
            None => builder.build(),
        }
    })
}

pub(super) fn gemma(model: &Model, config: &mut Config) -> tokenizers::Result<Tokenizer> {
    let unk = written(config, "unk_token");
    let mut tokenizer = Tokenizer::new(pieces(model, config, Some(unk))?);
    tokenizer.with_normalizer(Some(Replace::new(" ", "\u{2581}")?))?;
    let split = SplitDelimiterBehavior::MergedWithPrevious;
    let split = Split::new(SplitPattern::String(" ".to_owned()), split, false)?;
    tokenizer.with_pre_tokenizer(Some(split));
    tokenizer.with_decoder(Some(DecoderSequence::new(vec![
        DecoderWrapper::Replace(Replace::new("\u{2581}", " ")?),
        DecoderWrapper::ByteFallback(ByteFallback::new()),
        DecoderWrapper::Fuse(Fuse::new()),
    ])));
    Ok(tokenizer)
}

pub(super) fn llama(model: &Model, config: &mut Config) -> tokenizers::Result<Tokenizer> {
    let bpe = pieces(model, config, None)?;
    let mut tokenizer = Tokenizer::new(bpe);
    let prefix = config.add_prefix_space.unwrap_or(true);
    let scheme = match (prefix, config.flag("legacy").unwrap_or(false)) {
        (false, _) => PrependScheme::Never,
        (true, true) => PrependScheme::Always,
        (true, false) => PrependScheme::First,
    };
    tokenizer.with_pre_tokenizer(Some(Metaspace::new('\u{2581}', scheme, false)));
    let mut decoders = vec![
        DecoderWrapper::Replace(Replace::new("\u{2581}", " ")?),
        DecoderWrapper::ByteFallback(ByteFallback::new()),
        DecoderWrapper::Fuse(Fuse::new()),
    ];
    if prefix {
        decoders.push(DecoderWrapper::Strip(Strip::new(' ', 1, 0)));
    }
    tokenizer.with_decoder(Some(DecoderSequence::new(decoders)));
    Ok(tokenizer)
}

/// The merges that SentencePiece's pieces stand for, in the order of their ids: transformers'
/// `generate_merges`.
fn merges(model: &Model, vocab: &HashMap<String, u32>) -> Vec<(String, String)> {
    let mut merges: Vec<(u32, usize, usize, u32, u32, String, String)> = Vec::new();
    for text in model.pieces.iter().map(|(text, ..)| text) {
        let rank = vocab[text];
        let cuts = text.char_indices().skip(1).map(|(at, _)| at);
        for (left, right) in cuts.map(|at| text.split_at(at)) {
            if let (Some(&a), Some(&b)) = (vocab.get(left), vocab.get(right)) {
                let (first, second) = (left.chars().count(), right.chars().count());
                merges.push((rank, first, second, a, b, left.to_owned(), right.to_owned()));
            }
        }
    }
    merges.sort();
    merges.dedup();
    merges.into_iter().map(|(.., left, right)| (left, right)).collect()
}

/// The parts that SentencePiece's unigram models share.
fn unigram(
    model: &Model,
    vocab: Vec<(String, f64)>,
    unk: usize,
    prepend: PrependScheme,
) -> tokenizers::Result<Tokenizer> {
    if model.algorithm != Algorithm::Unigram {
        return Err("it is a SentencePiece model of another algorithm than unigrams".into());
    }
    let unigrams = guarded(|| Unigram::from(vocab, Some(unk), false))?;
    let mut tokenizer = Tokenizer::new(unigrams);
    if !model.charsmap.is_empty() {
        let map = guarded(|| Precompiled::from(&model.charsmap).map_err(Into::into))?;
        tokenizer.with_normalizer(Some(NormalizerWrapper::Precompiled(map)))?;
    }
    tokenizer.with_pre_tokenizer(Some(PreTokenizerSequence::new(vec![
        PreTokenizerWrapper::WhitespaceSplit(WhitespaceSplit),
        PreTokenizerWrapper::Metaspace(Metaspace::new('\u{2581}', prepend, true)),
    ])));
    tokenizer.with_decoder(Some(Metaspace::new('\u{2581}', prepend, true)));
    Ok(tokenizer)
}

pub(super) fn albert(model: &Model, config: &mut Config) -> tokenizers::Result<Tokenizer> {
    add_pieces(model, config);
    let vocab =
        model.pieces.iter().map(|(text, score, _)| (text.clone(), f64::from(*score))).collect();
    let prefix = config.add_prefix_space.unwrap_or(true);
    let scheme = if prefix { PrependScheme::Always } else { PrependScheme::Never };
    let mut tokenizer = unigram(model, vocab, 1, scheme)?;
    let mut steps: Vec<NormalizerWrapper> =
        vec![Replace::new("``", "\"")?.into(), Replace::new("''", "\"")?.into()];
    if !config.flag("keep_accents").unwrap_or(false) {
        steps.extend([NFKD.into(), StripAccents.into()]);
    }
    if config.flag("do_lower_case").unwrap_or(true) {
        steps.push(Lowercase.into());
    }
    steps.extend(tokenizer.get_normalizer().cloned());
    tokenizer.with_normalizer(Some(NormalizerSequence::new(steps)))?;
    if let Some(mask) = config.named.get_mut("mask_token") {
        // The space before it belongs to it.
        mask.lstrip = true;
    }
    Ok(tokenizer)
}

pub(super) fn deberta(model: &Model, config: &mut Config) -> tokenizers::Result<Tokenizer> {
    add_pieces(model, config);
    let unk_token = written(config, "unk_token");
    let unk = model.pieces.iter().position(|(text, ..)| *text == unk_token).unwrap_or(1);
    let vocab =
        model.pieces.iter().map(|(text, score, _)| (text.clone(), f64::from(*score))).collect();
    let prefix = config.add_prefix_space.unwrap_or(true);
    let scheme = if prefix { PrependScheme::Always } else { PrependScheme::First };
    let mut tokenizer = unigram(model, vocab, unk, scheme)?;
    // transformers does not use the file's own map of characters.
    let spaces = ReplacePattern::Regex(r"\s{2,}|[\n\r\t]".to_owned());
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if config.flag("do_lower_case").unwrap_or(false) {
        steps.push(Lowercase.into());
    }
    steps.extend([
        Replace::new(spaces, " ")?.into(),
        NFC.into(),
        StripSpaces::new(false, true).into(),
    ]);
    tokenizer.with_normalizer(Some(NormalizerSequence::new(steps)))?;
    let mut parts = Vec::new();
    if config.flag("split_by_punct").unwrap_or(false) {
        let isolated = Punctuation::new(SplitDelimiterBehavior::Isolated);
        parts.push(PreTokenizerWrapper::Punctuation(isolated));
    }
    parts.push(PreTokenizerWrapper::Metaspace(Metaspace::new('\u{2581}', scheme, true)));
    tokenizer.with_pre_tokenizer(Some(PreTokenizerSequence::new(parts)));
    Ok(tokenizer)
}

pub(super) fn t5(model: &Model, config: &mut Config) -> tokenizers::Result<Tokenizer> {
    add_pieces(model, config);
    let extra = config.number("extra_ids").unwrap_or(100);
    let mut vocab: Vec<(String, f64)> =
        model.pieces.iter().map(|(text, score, _)| (text.clone(), f64::from(*score))).collect();
    let sentinels: Vec<String> = (0..extra).map(|i| format!("<extra_id_{i}>")).collect();
    vocab.extend(sentinels.iter().rev().map(|text| (text.clone(), 0.0)));
    for text in sentinels {
        let named = config.named.values().chain(&config.extra).chain(&config.added);
        if !named.into_iter().any(|token| token.content == text) {
            config.extra.push(AddedToken::from(text, true).normalized(false));
        }
    }
    unigram(model, vocab, 2, PrependScheme::Always)
}

pub(super) fn xlm_roberta(model: &Model, config: &Config) -> tokenizers::Result<Tokenizer> {
    let first = ["bos_token", "pad_token", "eos_token", "unk_token"];
    let mut vocab: Vec<(String, f64)> =
        first.iter().map(|role| (written(config, role), 0.0)).collect();
    let rest = model.pieces.iter().skip(3);
    vocab.extend(rest.map(|(text, score, _)| (text.clone(), f64::from(*score))));
    vocab.push((written(config, "mask_token"), 0.0));
    let prefix = config.add_prefix_space.unwrap_or(true);
    let scheme = if prefix { PrependScheme::Always } else { PrependScheme::Never };
    unigram(model, vocab, 3, scheme)
}
