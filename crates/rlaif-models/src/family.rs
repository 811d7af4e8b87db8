//! The families of models: the only place with their names.
//!
//! A family is a row of [`Families`]. The row contains everything that depends on the family: the
//! class that builds it, the name of its head, the sizes of its layers, the spelling of its
//! config.json. Only the table of tokenizer
//! classes in `rlaif-text` compares a `model_type` as well.

use std::fmt;

use rlaif_checkpoint::Checkpoint;
use rlaif_lm::{CausalPolicy, Parameters};
use serde_json::{Map, Value};

use crate::{
    architecture::{BuiltClassifier, LanguageLayers},
    bart,
    config::Config,
    deberta,
    dimensions::Dimensions,
    error::ModelError,
    gguf::{GgufLayout, GgufRotary, GgufTextStart},
    labels::Labels,
    llama::{self, Llama, LlamaClassifier, LlamaVariant, t5gemma},
    modernbert,
    roberta::{self, Roberta},
    sort::{ModelSort, class, of_tokens},
    t5,
    weights::{COMMON_HEAD, ModelTensors},
};

/// A family of models: the meaning of its `model_type` in config.json.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// Text generation by the family, if supported.
    pub generates: Option<Generates>,
    /// Classification by the family, if supported.
    pub classifies: Option<Classifies>,
    /// Sizes of the layers, computed from config.json.
    pub dimensions: fn(&Config) -> Result<Dimensions, ModelError>,
    /// Changes config.json before it is written beside these parameters; [`as_read`] writes it
    /// unchanged.
    pub written: fn(&mut Map<String, Value>, &Parameters),
}

/// Text generation by a family.
#[derive(Debug, Clone, Copy)]
pub struct Generates {
    /// The class in transformers, as `architectures` in config.json names it.
    pub class: &'static str,
    /// The name of the layer from hidden states to the vocabulary.
    pub head: &'static str,
    /// Builds the layers that config.json describes from the tensors of a source.
    pub build: fn(Config, ModelTensors<'_>) -> Result<Box<dyn LanguageLayers>, ModelError>,
    /// The form of the family's GGUF files, if they are supported.
    pub gguf: Option<GgufLayout>,
}

/// Classification by a family.
#[derive(Debug, Clone, Copy)]
pub struct Classifies {
    /// The class in transformers, as `architectures` in config.json names it.
    pub class: &'static str,
    /// Prefixes of the names of the head's tensors. Every checkpoint of a classifier has tensors
    /// with the first prefix, and no other checkpoint does; a trunk may also lack the others.
    pub head: &'static [&'static str],
    /// The weight of a head that is one linear layer on the last token, without a bias: a possible
    /// start of a value function.
    pub linear_head: Option<&'static str>,
    /// The head on tokens, if the family has one: the form of process reward models.
    pub tokens: Option<TokenHead>,
    /// Builds the layers that config.json describes from the tensors of a source.
    pub build: fn(&Config, &Labels, ModelTensors<'_>) -> Result<BuiltClassifier, ModelError>,
}

/// A head on tokens.
#[derive(Debug, Clone, Copy)]
pub struct TokenHead {
    /// The class in transformers, as `architectures` in config.json names it.
    pub class: &'static str,
    /// The prefix of its tensors.
    pub head: &'static str,
}

impl Classifies {
    /// `true` if a checkpoint has a head of this family.
    pub(crate) fn has_head(&self, checkpoint: &Checkpoint) -> bool {
        let of_head = |head: &&str| checkpoint.tensors().keys().any(|name| name.starts_with(*head));
        let of_tokens = self.tokens.map(|tokens| tokens.head);
        self.head.first().into_iter().chain(&of_tokens).any(of_head)
    }
}

/// Writes config.json unchanged.
pub fn as_read(_: &mut Map<String, Value>, _: &Parameters) {}

/// `true` for a missing class, and for that of a trunk without a head, which tells no more.
fn names_no_head(class: &str) -> bool {
    class.is_empty() || class.ends_with("Model") && !class.ends_with("LMHeadModel")
}

impl Family {
    /// The class with a head on tokens.
    pub(crate) fn token_class(&self) -> Option<&'static str> {
        Some(self.classifies?.tokens?.class)
    }

    /// The first parts of the names of tensors of its heads.
    pub(crate) fn heads(&self) -> Vec<&'static str> {
        let generates = self.generates.map(|generates| generates.head);
        let classifies = self.classifies.and_then(|classifies| classifies.head.first().copied());
        let tokens = self.classifies.and_then(|classifies| classifies.tokens).map(|of| of.head);
        let first = |prefix: &'static str| prefix.split('.').next();
        let prefixes = [classifies, tokens].into_iter().flatten().filter_map(first);
        generates.into_iter().chain(prefixes).collect()
    }

    /// The sort of model that a class of this family is. For a missing class, and for a trunk, the
    /// sort that the family supports, a language model first.
    fn sort(&self, class: &str) -> Option<ModelSort> {
        let generates = self.generates.map(|generates| generates.class);
        let classifies = self.classifies.map(|classifies| classifies.class);
        let sort = if names_no_head(class) {
            Some(if generates.is_some() { ModelSort::LanguageModel } else { ModelSort::Classifier })
        } else if generates == Some(class) {
            Some(ModelSort::LanguageModel)
        } else if classifies == Some(class) {
            Some(ModelSort::Classifier)
        } else if self.token_class() == Some(class) {
            // Such as a process reward model: its score at the end of a step is that of the text up to there.
            Some(ModelSort::Classifier)
        } else {
            ModelSort::of_class(class)
        };
        sort.filter(|sort| match sort {
            ModelSort::LanguageModel => generates.is_some(),
            ModelSort::Classifier => classifies.is_some(),
        })
    }
}

impl fmt::Display for Family {
    /// `LlamaForCausalLM, LlamaForSequenceClassification, LlamaForTokenClassification (llama)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generates = self.generates.map(|generates| generates.class);
        let classifies = self.classifies.map(|classifies| classifies.class);
        let classes = [generates, classifies, self.token_class()];
        let classes: Vec<&str> = classes.into_iter().flatten().collect();
        write!(f, "{} ({})", classes.join(", "), self.model_type)
    }
}

/// The table of families: the built-in ones, preceded by those of the program.
///
/// It is part of [`crate::LoadOptions`], which is passed to all code that loads a model.
///
/// ```
/// use rlaif_models::{Families, LoadOptions};
///
/// let names: Vec<&str> = Families::BUILT_IN.iter().map(|family| family.model_type).collect();
/// assert!(names.contains(&"t5") && names.contains(&"qwen3"));
/// assert_eq!(LoadOptions::default().families, Families::BUILT_IN);
/// ```
#[derive(Clone, Copy)]
pub struct Families {
    own: &'static [Family],
}

impl Families {
    /// The families of this crate.
    pub const BUILT_IN: Self = Self { own: &[] };

    /// The families of this crate and those of the program. A program's row replaces the built-in
    /// row with the same `model_type`.
    pub const fn with(own: &'static [Family]) -> Self {
        Self { own }
    }

    /// All rows, those of the program first.
    pub fn iter(self) -> impl Iterator<Item = &'static Family> {
        self.own.iter().chain(&TABLE)
    }

    /// The row with this `model_type`.
    pub fn find(self, model_type: &str) -> Option<&'static Family> {
        self.iter().find(|family| family.model_type == model_type)
    }

    /// The row and the sort of the model that `config` describes.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`] lists the rows.
    pub fn of(self, config: &Config) -> Result<(&'static Family, ModelSort), ModelError> {
        let family = self.family(config)?;
        match family.sort(class(config)) {
            Some(sort) => Ok((family, sort)),
            None => Err(self.unknown(config, "architectures", class(config))),
        }
    }

    /// The sort of the model in a folder: where config.json names no class, or that of a trunk, the heads
    /// among the tensors decide.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(crate) fn sort_of_files(
        self,
        config: &Config,
        checkpoint: &Checkpoint,
    ) -> Result<ModelSort, ModelError> {
        let (family, sort) = self.of(config)?;
        let has = |tensor: &str| checkpoint.tensors().contains_key(tensor);
        let head = family.classifies.and_then(|classifies| classifies.linear_head);
        let is_reward = names_no_head(class(config)) && head.is_some_and(has);
        let generates = family.generates.is_some_and(|generates| {
            [generates.head, COMMON_HEAD].iter().any(|head| has(&format!("{head}.weight")))
        });
        Ok(if is_reward && !generates { ModelSort::Classifier } else { sort })
    }

    /// The row for a config.json, regardless of its class.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`] lists the rows; [`ModelError::Config`] for a `model_type`
    /// that is not a string.
    pub fn family(self, config: &Config) -> Result<&'static Family, ModelError> {
        let model_type = config.model_type()?;
        self.find(&model_type).ok_or_else(|| self.unknown(config, "model_type", &model_type))
    }

    /// The `model_type`s of the rows for which `which` returns `true`, joined for a message.
    pub(crate) fn named(self, which: impl Fn(&Family) -> bool) -> String {
        let names: Vec<&str> =
            self.iter().filter(|family| which(family)).map(|family| family.model_type).collect();
        match names.as_slice() {
            [] => "none".to_owned(),
            [one] => (*one).to_owned(),
            [most @ .., last] => format!("{} and {last}", most.join(", ")),
        }
    }

    fn unknown(self, config: &Config, field: &'static str, found: &str) -> ModelError {
        let known: Vec<String> = self.iter().map(Family::to_string).collect();
        let nearest = match field {
            "model_type" => config.nearest(|name| self.find(name).is_some()),
            _ => None,
        };
        ModelError::UnknownArchitecture {
            file: config.path().to_owned(),
            field,
            found: found.to_owned(),
            known: known.join("; ") + &nearest.unwrap_or_default(),
        }
    }
}

impl ModelSort {
    /// The sort that `config` describes, for built-in families only; see [`Families::of`] for
    /// others.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`] lists the known families.
    pub fn of(config: &Config) -> Result<Self, ModelError> {
        Ok(Families::BUILT_IN.of(config)?.1)
    }
}

impl Default for Families {
    fn default() -> Self {
        Self::BUILT_IN
    }
}

impl PartialEq for Families {
    /// `true` if both contain the same rows of the program.
    fn eq(&self, other: &Self) -> bool {
        let names = |families: &Self| families.own.iter().map(|family| family.model_type);
        names(self).eq(names(other))
    }
}

impl fmt::Debug for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|family| family.model_type)).finish()
    }
}

/// A head on tokens called `classifier`: the prefix of its class.
macro_rules! classifier_on_tokens {
    ($class:literal) => {
        Some(TokenHead { class: concat!($class, "ForTokenClassification"), head: "classifier." })
    };
}

/// A row of T5's kin: `model_type`, prefix of the class names, member of the family.
macro_rules! t5 {
    ($model_type:literal, $class:literal, $member:ident) => {
        Family {
            model_type: $model_type,
            generates: Some(Generates {
                class: concat!($class, "ForConditionalGeneration"),
                head: "lm_head",
                build: |config, source| t5::build(config, source, t5::Member::$member),
                gguf: None,
            }),
            classifies: Some(Classifies {
                class: concat!($class, "ForSequenceClassification"),
                head: &["classification_head."],
                linear_head: None,
                tokens: classifier_on_tokens!($class),
                build: |config, labels, source| {
                    let build = match of_tokens(class(config)) {
                        true => t5::tokens::build,
                        false => t5::build_classifier,
                    };
                    build(config, labels, source, t5::Member::$member)
                },
            }),
            dimensions: |config| t5::dimensions(config, t5::Member::$member),
            written: t5::written,
        }
    };
}

/// A row of BART's kin: `model_type`, prefix of the class names, member of the family.
macro_rules! bart {
    ($model_type:literal, $class:literal, $member:ident, $classifies:expr) => {
        Family {
            model_type: $model_type,
            generates: Some(Generates {
                class: concat!($class, "ForConditionalGeneration"),
                head: "lm_head",
                build: |config, source| bart::build(config, source, bart::Member::$member),
                gguf: None,
            }),
            classifies: $classifies,
            dimensions: |config| bart::dimensions(config, bart::Member::$member),
            written: as_read,
        }
    };
    ($model_type:literal, $class:literal, $member:ident) => {
        bart!(
            $model_type,
            $class,
            $member,
            Some(Classifies {
                class: concat!($class, "ForSequenceClassification"),
                head: &["classification_head."],
                linear_head: None,
                tokens: None,
                build: |config, labels, source| {
                    bart::build_classifier(config, labels, source, bart::Member::$member)
                },
            })
        )
    };
}

/// A row of the Llama family: `model_type`, prefix of the class names (or the names, and the head on tokens),
/// variant, and of its GGUF files the architecture, the order of rows, and what else they have.
macro_rules! llama {
    ($model_type:literal, $class:literal, $($rest:tt)*) => {
        llama!(
            $model_type,
            [
                concat!($class, "ForCausalLM"),
                concat!($class, "ForSequenceClassification"),
                Some(TokenHead { class: concat!($class, "ForTokenClassification"), head: "score." }),
            ],
            $($rest)*
        )
    };
    ($model_type:literal, $classes:tt, $variant:expr) => {
        llama!(@row $model_type, $classes, $variant, None)
    };
    ($model_type:literal, $classes:tt, $variant:expr, $gguf:literal, $rotary:ident, $files:expr $(,)?) => {
        llama!(
            @row
            $model_type,
            $classes,
            $variant,
            Some(GgufLayout {
                architecture: $gguf,
                rotary: GgufRotary::$rotary,
                variant: &$variant,
                ..$files
            })
        )
    };
    (@row $model_type:literal, [$generates:expr, $classifies:expr, $tokens:expr $(,)?], $variant:expr, $gguf:expr) => {
        Family {
            model_type: $model_type,
            generates: Some(Generates {
                class: $generates,
                head: $variant.names.head,
                build: |config, source| {
                    Ok(Box::new(CausalPolicy(Llama::build(config, source, &$variant)?)))
                },
                gguf: $gguf,
            }),
            classifies: Some(Classifies {
                class: $classifies,
                head: &["score."],
                linear_head: Some("score.weight"),
                tokens: $tokens,
                build: |config, labels, source| {
                    LlamaClassifier::build(config, labels, source, &$variant)
                },
            }),
            dimensions: |config| llama::dimensions(config, &$variant),
            written: as_read,
        }
    };
}

/// A row of BERT's kin: `model_type`, prefix of the class name, style, prefixes of the head's tensors.
macro_rules! encoder {
    ($model_type:literal, $class:literal, $style:ident, $head:expr) => {
        Family {
            model_type: $model_type,
            generates: None,
            classifies: Some(Classifies {
                class: concat!($class, "ForSequenceClassification"),
                head: $head,
                linear_head: None,
                tokens: classifier_on_tokens!($class),
                build: |config, labels, source| {
                    Roberta::build(config, labels, source, roberta::Style::$style)
                },
            }),
            dimensions: roberta::dimensions,
            written: as_read,
        }
    };
}

impl GgufLayout {
    /// The files of Llama.
    pub const LLAMA: Self = Self {
        architecture: "llama",
        rotary: GgufRotary::Pairs,
        variant: &LlamaVariant::LLAMA,
        text_start: GgufTextStart::Space,
        scaled_by_share: None,
    };
}

/// Files of Gemma 2. The model of 27 billion parameters is scaled by the share.
const GEMMA2_FILES: GgufLayout =
    GgufLayout { text_start: GgufTextStart::Bare, scaled_by_share: Some(46), ..GgufLayout::LLAMA };
/// Files of Gemma 3, likewise.
const GEMMA3_FILES: GgufLayout = GgufLayout { scaled_by_share: Some(62), ..GEMMA2_FILES };

/// The built-in families.
static TABLE: [Family; 30] = [
    t5!("t5", "T5", T5),
    t5!("mt5", "MT5", Mt5),
    bart!("bart", "Bart", Bart),
    bart!("mbart", "MBart", MBart),
    bart!("pegasus", "Pegasus", Pegasus, None),
    Family {
        model_type: "t5gemma",
        generates: Some(Generates {
            class: "T5GemmaForConditionalGeneration",
            head: t5gemma::HEAD,
            build: t5gemma::build,
            gguf: None,
        }),
        classifies: None,
        dimensions: t5gemma::dimensions,
        written: t5gemma::written,
    },
    llama!("llama", "Llama", LlamaVariant::LLAMA, "llama", Pairs, GgufLayout::LLAMA),
    llama!("mistral", "Mistral", LlamaVariant::MISTRAL, "llama", Pairs, GgufLayout::LLAMA),
    llama!("qwen2", "Qwen2", LlamaVariant::QWEN2, "qwen2", Halves, GgufLayout::LLAMA),
    llama!("qwen3", "Qwen3", LlamaVariant::QWEN3, "qwen3", Halves, GgufLayout::LLAMA),
    llama!(
        "gpt2",
        ["GPT2LMHeadModel", "GPT2ForSequenceClassification", classifier_on_tokens!("GPT2")],
        LlamaVariant::GPT2
    ),
    llama!(
        "gpt_neox",
        [
            "GPTNeoXForCausalLM",
            "GPTNeoXForSequenceClassification",
            classifier_on_tokens!("GPTNeoX")
        ],
        LlamaVariant::GPT_NEOX
    ),
    llama!("gemma2", "Gemma2", LlamaVariant::GEMMA2, "gemma2", Halves, GEMMA2_FILES),
    llama!(
        "gemma3_text",
        ["Gemma3ForCausalLM", "Gemma3TextForSequenceClassification", None],
        LlamaVariant::GEMMA3,
        "gemma3",
        Halves,
        GEMMA3_FILES
    ),
    llama!("phi3", "Phi3", LlamaVariant::PHI3),
    llama!(
        "olmo2",
        ["Olmo2ForCausalLM", "Olmo2ForSequenceClassification", None],
        LlamaVariant::OLMO2
    ),
    llama!("smollm3", "SmolLM3", LlamaVariant::SMOLLM3),
    llama!(
        "granite",
        ["GraniteForCausalLM", "GraniteForSequenceClassification", None],
        LlamaVariant::GRANITE
    ),
    llama!("mixtral", "Mixtral", LlamaVariant::MIXTRAL),
    llama!("qwen2_moe", "Qwen2Moe", LlamaVariant::QWEN2_MOE),
    llama!("qwen3_moe", "Qwen3Moe", LlamaVariant::QWEN3_MOE),
    encoder!("roberta", "Roberta", Roberta, &["classifier."]),
    // RoBERTa's computation under other names, down to the names of the tensors.
    encoder!("xlm-roberta", "XLMRoberta", Roberta, &["classifier."]),
    encoder!("camembert", "Camembert", Roberta, &["classifier."]),
    encoder!("bert", "Bert", Bert, &["classifier.", "bert.pooler."]),
    encoder!("distilbert", "DistilBert", DistilBert, &["classifier.", "pre_classifier."]),
    encoder!("electra", "Electra", Electra, &["classifier."]),
    encoder!("albert", "Albert", Albert, &["classifier.", "albert.pooler."]),
    Family {
        model_type: "deberta-v2",
        generates: None,
        classifies: Some(Classifies {
            class: "DebertaV2ForSequenceClassification",
            head: &["classifier.", "pooler."],
            linear_head: None,
            tokens: classifier_on_tokens!("DebertaV2"),
            build: deberta::build,
        }),
        dimensions: deberta::dimensions,
        written: as_read,
    },
    Family {
        model_type: "modernbert",
        generates: None,
        classifies: Some(Classifies {
            class: "ModernBertForSequenceClassification",
            head: &["classifier.", "head."],
            linear_head: None,
            tokens: classifier_on_tokens!("ModernBert"),
            build: modernbert::build,
        }),
        dimensions: modernbert::dimensions,
        written: as_read,
    },
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_message_lists_the_table() {
        let config = Config::from_value(json!({ "model_type": "mamba" }));
        let error = Families::BUILT_IN.of(&config).unwrap_err().to_string();
        for family in &TABLE {
            assert!(error.contains(&family.to_string()), "{error}");
        }
        let config = json!({ "model_type": "llama", "architectures": ["LlamaForTokens"] });
        let error = Families::BUILT_IN.of(&Config::from_value(config)).unwrap_err().to_string();
        assert!(error.contains("`LlamaForTokens` (field `architectures`)"), "{error}");
    }

    #[test]
    fn the_nearest_family_is_named_with_what_differs() {
        let config = json!({
            "model_type": "newllama", "hidden_size": 8, "intermediate_size": 8, "rms_norm_eps": 1e-6,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "mlp_bias": false,
            "attention_bias": false, "vocab_size": 8, "hidden_act": "silu", "rope_theta": 1e4,
            "max_position_embeddings": 16, "attention_dropout": 0., "sink_tokens": 4,
            "architectures": ["NewLlamaForCausalLM"], "torch_dtype": "bfloat16",
        });
        let error = Families::BUILT_IN.of(&Config::from_value(config)).unwrap_err().to_string();
        let wanted = "; most similar: `llama`, which has no field `sink_tokens`";
        assert!(error.ends_with(wanted), "{error}");
        let config = json!({ "model_type": "mamba", "state_size": 16 });
        let error = Families::BUILT_IN.of(&Config::from_value(config)).unwrap_err().to_string();
        assert!(!error.contains("most similar"), "{error}");
    }

    #[test]
    fn a_model_type_has_one_row() {
        for (i, family) in TABLE.iter().enumerate() {
            assert!(TABLE[..i].iter().all(|other| other.model_type != family.model_type));
            assert!(family.generates.is_some() || family.classifies.is_some());
        }
    }

    #[test]
    fn a_row_of_ones_own_comes_first() {
        const OWN: Family = Family { classifies: None, ..TABLE_LLAMA };
        const TABLE_LLAMA: Family = llama!("llama", "Llama", LlamaVariant::LLAMA);
        let families = Families::with(&[OWN]);
        assert!(families.find("llama").is_some_and(|family| family.classifies.is_none()));
        assert!(Families::BUILT_IN.find("llama").is_some_and(|family| family.classifies.is_some()));
    }
}
