//! The ways of cutting texts before byte-level BPE, by llama.cpp's names.

use serde_json::{Value, json};

/// One way.
#[derive(Debug, Clone, Copy)]
pub(super) struct PreTokenizer {
    /// `tokenizer.ggml.pre`.
    pub(super) name: &'static str,
    cut: Cut,
    /// `true` if texts are normalised to NFC.
    pub(super) nfc: bool,
    /// `true` if a piece that is a token is not merged from its bytes.
    pub(super) ignore_merges: bool,
}

#[derive(Debug, Clone, Copy)]
enum Cut {
    /// By a pattern.
    Pattern(&'static str),
    /// By GPT-2's pattern.
    Gpt2,
    /// By single digits, and then by GPT-2's pattern.
    Digits,
}

impl PreTokenizer {
    pub(super) const ALL: [Self; 4] = [
        Self {
            name: "llama-bpe",
            cut: Cut::Pattern(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
            nfc: false,
            ignore_merges: true,
        },
        Self {
            name: "qwen2",
            cut: Cut::Pattern(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
            nfc: true,
            ignore_merges: false,
        },
        Self { name: "gpt-2", cut: Cut::Gpt2, nfc: false, ignore_merges: false },
        Self { name: "smollm", cut: Cut::Digits, nfc: false, ignore_merges: false },
    ];

    /// The way of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cut| cut.name == name)
    }

    /// The way of a tokenizer.json.
    pub(super) fn of(tokenizer: &Value) -> Option<Self> {
        let nfc = tokenizer["normalizer"]["type"] == "NFC";
        let steps = &tokenizer["pre_tokenizer"];
        let same = |cut: &Self| cut.nfc == nfc && steps_of(steps) == steps_of(&cut.json());
        Self::ALL.into_iter().find(same)
    }

    /// `pre_tokenizer` of a tokenizer.json.
    pub(super) fn json(self) -> Value {
        let first = match self.cut {
            Cut::Pattern(pattern) => json!({
                "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                "invert": false,
            }),
            Cut::Gpt2 => return byte_level_step(true),
            Cut::Digits => json!({"type": "Digits", "individual_digits": true}),
        };
        let splits = !matches!(self.cut, Cut::Pattern(_));
        json!({"type": "Sequence", "pretokenizers": [first, byte_level_step(splits)]})
    }
}

/// The step that turns bytes into letters; `splits` cuts by GPT-2's pattern before.
pub(super) fn byte_level_step(splits: bool) -> Value {
    json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits,
    })
}

/// The fields of each step that change a text's pieces.
fn steps_of(pre_tokenizer: &Value) -> Vec<Value> {
    let nested = pre_tokenizer["pretokenizers"].as_array();
    let steps = nested.map_or_else(|| std::slice::from_ref(pre_tokenizer), Vec::as_slice);
    steps
        .iter()
        .map(|step| {
            let mut step = step.clone();
            if let Some(fields) = step.as_object_mut() {
                fields.remove("trim_offsets");
                if fields.get("type").is_some_and(|kind| kind == "ByteLevel") {
                    fields.entry("use_regex").or_insert(true.into());
                }
            }
            step
        })
        .collect()
}
