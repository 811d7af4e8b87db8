//! From files to a tokenizer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::strip::{Strip as StripSpaces, StripAccents};
use tokenizers::normalizers::unicode::{NFC, NFKD};
use tokenizers::normalizers::utils::{Lowercase, Sequence as NormalizerSequence};
use tokenizers::normalizers::{NormalizerWrapper, Precompiled};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizerSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::normalizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, Tokenizer};

use crate::bound;
use crate::config::{Config, SequenceSide, read_file, read_json, read_text};
use crate::error::TextError;
use crate::guard::guarded;
use crate::sentencepiece::{Algorithm, Model, PieceKind};

/// Tokenizers that can be built from their vocabulary and the configuration beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `<s> text </s>`, `<s> text </s></s> pair </s>`; byte-level BPE.
    Roberta,
    /// No special tokens around texts; byte-level BPE.
    Gpt2,
    /// The same with other words.
    Qwen2,
    /// The same after NFC.
    GptNeoX,
    /// `[CLS] text [SEP]`; WordPiece.
    Bert,
    /// SentencePiece's BPE, with bytes for what is not in the vocabulary.
    Llama,
    /// `<bos> text`; the same without a space before the text.
    Gemma,
    /// `text </s>`; SentencePiece's unigrams.
    T5,
    /// `<s> text </s>`; SentencePiece's unigrams with ids of its own.
    XlmRoberta,
    /// `[CLS] text [SEP]`; SentencePiece's unigrams, in lower case and without accents.
    Albert,
    /// The same with case and accents, after NFC.
    DebertaV2,
}

/// The most that a message lists.
const KNOWN: &str = "BertTokenizer (vocab.txt), RobertaTokenizer, LongformerTokenizer, \
                     BartTokenizer, GPT2Tokenizer, GPTNeoXTokenizer and Qwen2Tokenizer (vocab.json \
                     with merges.txt), LlamaTokenizer, GemmaTokenizer, T5Tokenizer, MT5Tokenizer, \
                     AlbertTokenizer, DebertaV2Tokenizer and XLMRobertaTokenizer (SentencePiece models)";

/// The class that transformers' `AutoTokenizer` takes for a `model_type` where tokenizer_config.json
/// has no `tokenizer_class`.
fn class_of(model_type: &str) -> Option<&'static str> {
    Some(match model_type {
        "roberta" => "RobertaTokenizer",
        "longformer" => "LongformerTokenizer",
        "bart" => "BartTokenizer",
        "gpt2" => "GPT2Tokenizer",
        "qwen2" | "qwen3" => "Qwen2Tokenizer",
        "bert" => "BertTokenizer",
        "distilbert" => "DistilBertTokenizer",
        "electra" => "ElectraTokenizer",
        "mobilebert" => "MobileBertTokenizer",
        "gpt_neox" => "GPTNeoXTokenizer",
        "albert" => "AlbertTokenizer",
        "deberta-v2" => "DebertaV2Tokenizer",
        // Not `llama`, `mistral` and `gemma`: without a class, `AutoTokenizer` gives words at the beginning of
        // a text other ids than `LlamaTokenizer`.
        "t5" | "mt5" => "T5Tokenizer",
        "xlm-roberta" => "XLMRobertaTokenizer",
        _ => return None,
    })
}

impl Kind {
    /// The kind of a `tokenizer_class`, with or without `Fast`.
    fn of_class(class: &str) -> Option<Self> {
        Some(match class.strip_suffix("Fast").unwrap_or(class) {
            "RobertaTokenizer" | "LongformerTokenizer" | "BartTokenizer" => Self::Roberta,
            "GPT2Tokenizer" => Self::Gpt2,
            "Qwen2Tokenizer" => Self::Qwen2,
            "BertTokenizer"
            | "DistilBertTokenizer"
            | "ElectraTokenizer"
            | "MobileBertTokenizer" => Self::Bert,
            "LlamaTokenizer" => Self::Llama,
            "GemmaTokenizer" => Self::Gemma,
            "GPTNeoXTokenizer" => Self::GptNeoX,
            "AlbertTokenizer" => Self::Albert,
            "DebertaV2Tokenizer" => Self::DebertaV2,
            "T5Tokenizer" | "MT5Tokenizer" => Self::T5,
            "XLMRobertaTokenizer" => Self::XlmRoberta,
            _ => return None,
        })
    }

    /// The roles that need not be configured.
    fn roles(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Roberta | Self::XlmRoberta => &[
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
            Self::Qwen2 => &[
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
                ("pad_token", "<|endoftext|>"),
            ],
            Self::Bert => &[
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Self::GptNeoX => &[
                ("bos_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
                ("pad_token", "<|padding|>"),
            ],
            Self::Llama => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
            Self::Gemma => &[
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Self::DebertaV2 => &[
                ("bos_token", "[CLS]"),
                ("eos_token", "[SEP]"),
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Self::Albert => &[
                ("bos_token", "[CLS]"),
                ("eos_token", "[SEP]"),
                ("unk_token", "<unk>"),
                ("sep_token", "[SEP]"),
                ("pad_token", "<pad>"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Self::T5 => &[("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")],
        }
    }

    /// The files that the vocabulary may be in, in the order in which they are looked for.
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Roberta | Self::Gpt2 | Self::Qwen2 | Self::GptNeoX => &["vocab.json"],
            Self::Bert => &["vocab.txt"],
            Self::Llama | Self::Gemma => &["tokenizer.model"],
            Self::T5 | Self::Albert => &["spiece.model"],
            Self::DebertaV2 => &["spm.model"],
            Self::XlmRoberta => &["sentencepiece.bpe.model", "tokenizer.model", "spiece.model"],
        }
    }
}

/// Files that hold a vocabulary without a tokenizer.json.
const VOCABULARIES: [&str; 6] = [
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
];

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

/// Form of a text of `role`.
fn written(config: &Config, role: &str) -> String {
    config.named.get(role).map(|token| token.content.clone()).unwrap_or_default()
}

/// The special tokens around texts, as the class puts them.
fn surround(
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

/// BERT's WordPiece from vocab.txt, one token on each line.
fn bert(file: &Path, config: &Config) -> Result<Tokenizer, TextError> {
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

fn qwen2(folder: &Path, config: &Config) -> Result<Tokenizer, TextError> {
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

fn gpt_neox(folder: &Path, config: &Config) -> Result<Tokenizer, TextError> {
    let (model, vocab) = bpe(folder)?;
    let mut tokenizer = Tokenizer::new(model);
    let refused = |source| TextError::Build { path: vocab.clone(), source };
    tokenizer.with_normalizer(Some(NFC)).map_err(refused)?;
    let level = ByteLevel::new(config.add_prefix_space.unwrap_or(false), true, true);
    tokenizer.with_pre_tokenizer(Some(level));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

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

fn gemma(model: &Model, config: &mut Config) -> tokenizers::Result<Tokenizer> {
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

fn llama(model: &Model, config: &mut Config) -> tokenizers::Result<Tokenizer> {
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

fn albert(model: &Model, config: &mut Config) -> tokenizers::Result<Tokenizer> {
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

fn deberta(model: &Model, config: &mut Config) -> tokenizers::Result<Tokenizer> {
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

fn t5(model: &Model, config: &mut Config) -> tokenizers::Result<Tokenizer> {
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

fn xlm_roberta(model: &Model, config: &Config) -> tokenizers::Result<Tokenizer> {
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
fn byte_level(folder: &Path, kind: Kind, config: &mut Config) -> Result<Tokenizer, TextError> {
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

/// Lists a folder, for the message that a needed file is missing.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use rlaif_core::TOKENIZER_FILES;

    use super::VOCABULARIES;

    /// A vocabulary that is read must be fetched from the hub, and copied beside a trained model.
    #[test]
    fn every_vocabulary_is_among_the_files_of_tokenizers() {
        let missing: Vec<_> =
            VOCABULARIES.iter().filter(|name| !TOKENIZER_FILES.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
