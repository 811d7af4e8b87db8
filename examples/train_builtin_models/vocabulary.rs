//! The tokenizers of the built-in models, trained on what the models are to read, and written as
//! the files that Hugging Face's folders have.

use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::models::wordpiece::WordPieceTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Model, Tokenizer};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The sorts of tokenizer, each after the model that made it known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    /// Words with `▁` for the space before them, `</s>` at the end.
    T5,
    /// Bytes, Llama 3's special tokens and a chat template.
    Llama,
    /// Bytes, in vocab.json and merges.txt.
    Roberta,
    /// Lower case, WordPiece.
    Bert,
}

const LLAMA: [&str; 6] = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|pad|>",
];

const CHAT: &str = "{{- bos_token }}{% for message in messages %}{{- '<|start_header_id|>' + message['role'] + \
                    '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if \
                    add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

impl Sort {
    /// Special tokens in the order of their ids.
    fn specials(self) -> &'static [&'static str] {
        match self {
            Self::T5 => &["<pad>", "</s>", "<unk>"],
            Self::Llama => &LLAMA,
            Self::Roberta => &["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            Self::Bert => &["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        }
    }

    /// tokenizer.json before it has a vocabulary.
    fn pipeline(self) -> Value {
        let bpe = |unk: Option<&str>| json!({ "type": "BPE", "unk_token": unk, "fuse_unk": unk.is_some(), "vocab": {}, "merges": [] });
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        let digits = json!({ "type": "Digits", "individual_digits": true });
        let surround = |single: Value, tokens: &[(&str, u32)]| {
            let specials: serde_json::Map<String, Value> = tokens
                .iter()
                .map(|(token, id)| {
                    ((*token).to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }))
                })
                .collect();
            let mut pair = single.as_array().cloned().unwrap_or_default();
            pair.push(json!({ "Sequence": { "id": "B", "type_id": 1 } }));
            pair.extend(single.as_array().and_then(|parts| parts.last()).filter(|part| part.get("SpecialToken").is_some()).map(|_| {
                json!({ "SpecialToken": { "id": tokens[tokens.len() - 1].0, "type_id": 1 } })
            }));
            json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials })
        };
        let special = |token: &str| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
        let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
        let (normalizer, split, model, around, decoder) = match self {
            Self::T5 => {
                let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
                let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "Regex": from }, "content": to });
                (
                    json!({ "type": "Sequence", "normalizers": [
                        { "type": "NFKC" },
                        replace("[‘’]", "'"), replace("[“”]", "\""), replace("[–—]", "-"),
                        replace("\\s+", " "), { "type": "Strip", "strip_left": true, "strip_right": true },
                    ] }),
                    json!({ "type": "Sequence", "pretokenizers": [
                        metaspace, { "type": "Punctuation", "behavior": "Isolated" }, digits,
                    ] }),
                    bpe(Some("<unk>")),
                    surround(json!([text, special("</s>")]), &[("</s>", 1)]),
                    metaspace_decoder(),
                )
            }
            Self::Llama => (
                Value::Null,
                json!({ "type": "Sequence", "pretokenizers": [digits, byte_level] }),
                bpe(None),
                surround(json!([special(LLAMA[0]), text]), &[(LLAMA[0], 0)]),
                byte_level,
            ),
            Self::Roberta => (Value::Null, byte_level.clone(), bpe(None), Value::Null, byte_level),
            Self::Bert => (
                json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                        "strip_accents": null, "lowercase": true }),
                json!({ "type": "BertPreTokenizer" }),
                json!({ "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                        "max_input_chars_per_word": 100, "vocab": {} }),
                surround(
                    json!([special("[CLS]"), text, special("[SEP]")]),
                    &[("[CLS]", 2), ("[SEP]", 3)],
                ),
                json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }),
            ),
        };
        json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
                "normalizer": normalizer, "pre_tokenizer": split, "post_processor": around,
                "decoder": decoder, "model": model })
    }

    /// tokenizer_config.json.
    fn config(self) -> Value {
        match self {
            Self::T5 => json!({ "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>",
                "pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": 512,
                "clean_up_tokenization_spaces": false }),
            Self::Llama => {
                json!({ "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": LLAMA[0],
                "eos_token": LLAMA[4], "pad_token": LLAMA[5], "model_max_length": 1024,
                "clean_up_tokenization_spaces": false, "chat_template": CHAT })
            }
            Self::Roberta => {
                json!({ "tokenizer_class": "RobertaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
                "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
                "mask_token": "<mask>", "add_prefix_space": false, "model_max_length": 256 })
            }
            Self::Bert => {
                json!({ "tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[CLS]",
                "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]",
                "model_max_length": 256, "clean_up_tokenization_spaces": true })
            }
        }
    }

    /// Learns `size` tokens from `texts` and writes the tokenizer's files into `folder`.
    pub(crate) fn train(self, texts: &[String], size: usize, folder: &Path) -> Outcome<()> {
        let mut tokenizer = Tokenizer::from_bytes(serde_json::to_vec(&self.unprocessed())?)?;
        let specials: Vec<_> =
            self.specials().iter().map(|token| AddedToken::from(*token, true)).collect();
        let mut trainer: TrainerWrapper = match self {
            Self::Bert => WordPieceTrainer::builder()
                .vocab_size(size)
                .min_frequency(3)
                .limit_alphabet(400)
                .show_progress(false)
                .special_tokens(specials)
                .build()
                .into(),
            sort => {
                let builder = BpeTrainer::builder()
                    .vocab_size(size)
                    .min_frequency(3)
                    .show_progress(false)
                    .special_tokens(specials);
                match sort {
                    Self::T5 => builder.limit_alphabet(200),
                    _ => builder.initial_alphabet(ByteLevel::alphabet().into_iter().collect()),
                }
                .build()
                .into()
            }
        };
        tokenizer.train(&mut trainer, texts.iter())?;

        fs::create_dir_all(folder)?;
        if self == Self::Roberta {
            tokenizer.get_model().save(folder, None)?;
        } else {
            // The special tokens around a text exist only now.
            let mut file: Value = serde_json::from_str(&tokenizer.to_string(false)?)?;
            file["post_processor"] = self.pipeline()["post_processor"].clone();
            fs::write(folder.join("tokenizer.json"), serde_json::to_string(&file)?)?;
        }
        fs::write(folder.join("tokenizer_config.json"), pretty(&self.config())?)?;
        Ok(())
    }

    fn unprocessed(self) -> Value {
        let mut pipeline = self.pipeline();
        pipeline["post_processor"] = Value::Null;
        pipeline
    }
}

fn metaspace_decoder() -> Value {
    json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true })
}

fn pretty(value: &Value) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}
