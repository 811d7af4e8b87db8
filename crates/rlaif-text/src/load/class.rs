//! The classes of tokenizers, and the files of each.

/// Tokenizers that can be built from their vocabulary and the configuration beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
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
pub(super) const KNOWN: &str = "BertTokenizer (vocab.txt), RobertaTokenizer, LongformerTokenizer, \
                     BartTokenizer, GPT2Tokenizer, GPTNeoXTokenizer and Qwen2Tokenizer (vocab.json \
                     with merges.txt), LlamaTokenizer, GemmaTokenizer, T5Tokenizer, MT5Tokenizer, \
                     AlbertTokenizer, DebertaV2Tokenizer and XLMRobertaTokenizer (SentencePiece models)";

/// The class that transformers' `AutoTokenizer` takes for a `model_type` where tokenizer_config.json
/// has no `tokenizer_class`.
pub(super) fn class_of(model_type: &str) -> Option<&'static str> {
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
    pub(super) fn of_class(class: &str) -> Option<Self> {
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
    pub(super) fn roles(self) -> &'static [(&'static str, &'static str)] {
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
    pub(super) fn files(self) -> &'static [&'static str] {
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
pub(super) const VOCABULARIES: [&str; 6] = [
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
];

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
