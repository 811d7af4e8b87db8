//! config.json, kept as it was read so that saving loses nothing.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use rlaif_checkpoint::{Checkpoint, read_json, read_json_if_present};
use rlaif_lm::{ForcedIds, LmSpec};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use serde_path_to_error::Segment;
use tch::Tensor;

use crate::error::ModelError;

/// The generation settings of a model folder.
const GENERATION: &str = "generation_config.json";

/// A model folder's config.json: every key, known here or not. generation_config.json, if there is
/// one, comes along.
#[derive(Debug, Clone)]
pub struct Config {
    path: PathBuf,
    fields: Map<String, Value>,
    generation: Option<Map<String, Value>>,
}

impl Config {
    /// Reads `config.json` of a model folder, and `generation_config.json` if it is there.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] if there is no `config.json`, or one of the two is not a JSON
    /// object.
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("config.json");
        let fields = object(&path, read_json(&path)?)?;
        let file = folder.join(GENERATION);
        let generation = read_json_if_present(&file)?;
        let generation = generation.map(|value| object(&file, value)).transpose()?;
        Ok(Self { path, fields, generation })
    }

    /// A configuration made in memory.
    ///
    /// ```
    /// let config = rlaif_models::Config::from_value(serde_json::json!({ "model_type": "t5" }));
    /// assert_eq!(config.text("model_type"), Some("t5"));
    /// ```
    ///
    /// # Panics
    /// If `value` is not an object.
    pub fn from_value(value: Value) -> Self {
        let Value::Object(fields) = value else { panic!("a configuration is a JSON object") };
        Self { path: PathBuf::from("config.json"), fields, generation: None }
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every field.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// A field that is a string.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field).and_then(Value::as_str)
    }

    /// Sets a field.
    pub fn set(&mut self, field: &str, value: Value) {
        self.fields.insert(field.to_owned(), value);
    }

    /// Removes a field.
    pub(crate) fn unset(&mut self, field: &str) {
        self.fields.remove(field);
    }

    /// The fields of generation_config.json, if the folder has one.
    pub fn generation(&self) -> Option<&Map<String, Value>> {
        self.generation.as_ref()
    }

    /// The name of the family; empty if there is none.
    pub(crate) fn model_type(&self) -> Result<String, ModelError> {
        #[derive(Deserialize)]
        struct Named {
            model_type: Option<String>,
        }
        let Named { model_type } = parse(&self.path, self.fields.clone())?;
        Ok(model_type.unwrap_or_default())
    }

    /// The ids that end a response, as transformers' `generate` has them: those of generation_config.json,
    /// also if it has none; without this file those of config.json. The default of a configuration class does
    /// not count.
    pub(crate) fn ends(&self) -> Result<Vec<u32>, ModelError> {
        #[derive(Deserialize)]
        struct Ends {
            #[serde(default)]
            eos_token_id: TokenIds,
        }
        let (file, fields) = self.of_generation();
        let Ends { eos_token_id: TokenIds(ids) } = parse(&file, fields.clone())?;
        Ok(ids)
    }

    /// The tokens that transformers' `generate` forces: those of generation_config.json, or without this file
    /// those of config.json.
    pub(crate) fn forced(&self) -> Result<ForcedIds, ModelError> {
        #[derive(Deserialize)]
        struct Forced {
            #[serde(default)]
            forced_bos_token_id: TokenIds,
            #[serde(default)]
            forced_eos_token_id: TokenIds,
        }
        let (file, fields) = self.of_generation();
        let Forced { forced_bos_token_id: first, forced_eos_token_id: last } =
            parse(&file, fields.clone())?;
        let one = |field: &'static str, ids: TokenIds| match ids.0.as_slice() {
            [] => Ok(None),
            [id] => Ok(Some(*id)),
            several => Err(ModelError::UnsupportedField {
                file: Some(file.clone()),
                field,
                found: format!("{several:?}"),
                supported: "one token id, or null",
            }),
        };
        Ok(ForcedIds {
            first: one("forced_bos_token_id", first)?,
            last: one("forced_eos_token_id", last)?,
        })
    }

    /// The token id in a field of generation_config.json, if there is one.
    pub(crate) fn generation_id(&self, field: &str) -> Result<Option<u32>, ModelError> {
        let id = self.generation.as_ref().and_then(|fields| fields.get(field));
        let Some(id) = id else { return Ok(None) };
        let ids = TokenIds::deserialize(id).map_err(|source| ModelError::Config {
            file: self.path.with_file_name(GENERATION),
            field: field.to_owned(),
            source,
        })?;
        Ok(ids.0.first().copied())
    }

    /// The file that settings of generation are read from, and its fields.
    fn of_generation(&self) -> (PathBuf, &Map<String, Value>) {
        match &self.generation {
            Some(generation) => (self.path.with_file_name(GENERATION), generation),
            None => (self.path.clone(), &self.fields),
        }
    }

    /// The fields that a model reads, in its own type. A field that the file lacks has the default of
    /// transformers' configuration class of `model_type`.
    pub(crate) fn parse<T: DeserializeOwned>(&self, model_type: &str) -> Result<T, ModelError> {
        self.parse_renamed(model_type, &[])
    }

    /// The same for a class whose names of some fields differ from those of `T`: (the class's name,
    /// the name in `T`).
    ///
    /// A field that the class has but `T` lacks is refused unless it has the class's default.
    pub(crate) fn parse_renamed<T: DeserializeOwned>(
        &self,
        model_type: &str,
        names: &[(&str, &str)],
    ) -> Result<T, ModelError> {
        let Some(class) = DEFAULTS.get(model_type) else {
            return parse(&self.path, self.fields.clone());
        };
        let mut fields = class.defaults.clone();
        fields.extend(self.fields.clone());
        for (other, name) in &class.other_names {
            if let Some(value) = fields.remove(other) {
                fields.insert(name.clone(), value);
            }
        }
        let of_class = |name: &str| class.defaults.contains_key(name);
        let names = names.iter().filter(|(theirs, _)| of_class(theirs));
        let read = field_names::<T>();
        for (field, default) in &class.defaults {
            let renamed = names.clone().find(|(theirs, _)| theirs == field).map(|(_, ours)| *ours);
            let unread = !read.contains(&renamed.unwrap_or(field))
                && !WITHOUT_EFFECT.contains(&field.as_str())
                // For GPT-2's multiple-choice head.
                && !field.starts_with("summary_");
            if let Some(found) = fields.get(field).filter(|found| unread && !same(found, default)) {
                let found = found.to_string();
                let supported = "what transformers has where the field is absent";
                return Err(ModelError::UnsupportedField { file: None, field, found, supported });
            }
        }
        for (theirs, ours) in names.clone() {
            if let Some(value) = fields.remove(*theirs) {
                fields.insert((*ours).to_owned(), value);
            }
        }
        parse(&self.path, fields).map_err(|error| match error {
            // The name that the file has.
            ModelError::Config { file, field, source } => {
                let mut in_file = names.filter(|(theirs, _)| self.fields.contains_key(*theirs));
                let renamed = in_file.find(|(_, ours)| *ours == field);
                let field = renamed.map_or(field, |(theirs, _)| (*theirs).to_owned());
                ModelError::Config { file, field, source }
            }
            other => other,
        })
    }

    /// The accepted `model_type` whose configuration class has the most fields in common with this file,
    /// and the fields of the file that the class does not have, as the end of a sentence. `None` if less
    /// than half of the fields are common.
    pub(crate) fn nearest(&self, accept: impl Fn(&str) -> bool) -> Option<String> {
        const SHOWN: usize = 6;
        // Fields of every class of transformers.
        let general = |field: &str| {
            let names =
                ["architectures", "model_type", "torch_dtype", "dtype", "auto_map", "use_cache"];
            names.contains(&field)
                || field.ends_with("transformers_version")
                || field.starts_with('_')
                || field.ends_with("_token_id")
                || field.contains("label")
        };
        let own: Vec<&str> =
            self.fields.keys().map(String::as_str).filter(|field| !general(field)).collect();
        let missing = |class: &ClassDefaults| -> Vec<&str> {
            let has = |field: &str| {
                class.defaults.contains_key(field)
                    || class.other_names.contains_key(field)
                    || (field == "rope_scaling" && class.defaults.contains_key("rope_parameters"))
            };
            own.iter().copied().filter(|field| !has(field)).collect()
        };
        let classes = DEFAULTS.iter().filter(|(model_type, _)| accept(model_type));
        let (model_type, lacks, _) = classes
            .map(|(model_type, class)| {
                let lacks = missing(class);
                let absent = class
                    .defaults
                    .keys()
                    .filter(|field| !general(field) && !self.fields.contains_key(*field));
                let distance = lacks.len() + absent.count();
                (model_type, lacks, distance)
            })
            .min_by_key(|(_, lacks, distance)| (lacks.len(), *distance))?;
        if lacks.len() * 2 > own.len() || own.len() < 4 {
            return None;
        }
        let more = lacks.len().saturating_sub(SHOWN);
        let mut list: Vec<String> =
            lacks.iter().take(SHOWN).map(|field| format!("`{field}`")).collect();
        if more > 0 {
            list.push(format!("{more} more"));
        }
        Some(match lacks.len() {
            0 => format!("; most similar: `{model_type}`, which has all of its fields"),
            1 => format!("; most similar: `{model_type}`, which has no field {}", list.join(", ")),
            _ => format!("; most similar: `{model_type}`, which has no fields {}", list.join(", ")),
        })
    }

    /// Refuses values of the wrong type in fields that no model parses.
    pub(crate) fn check_types(&self) -> Result<(), ModelError> {
        type Check = (&'static str, fn(&Value) -> bool, &'static str);
        let texts =
            |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
        let rope = "an object with `rope_type`";
        let checks: [Check; 7] = [
            ("architectures", texts, "a list of class names"),
            ("dtype", Value::is_string, "text"),
            ("torch_dtype", Value::is_string, "text"),
            ("label2id", Value::is_object, "an object"),
            ("rope_scaling", Value::is_object, rope),
            ("rope_parameters", Value::is_object, rope),
            ("_sliding_window_pattern", Value::is_u64, "an integer of at least 0"),
        ];
        for (field, fits, expected) in checks {
            if let Some(value) = self.fields.get(field)
                && !value.is_null()
                && !fits(value)
            {
                return Err(wrong(&self.path, field, value, expected));
            }
        }
        Ok(())
    }

    /// Refuses weights that a method of quantization has replaced by others, as config.json says, or a file
    /// beside it.
    pub(crate) fn check_weights(&self) -> Result<(), ModelError> {
        let section = ["quantization_config", "compression_config"]
            .into_iter()
            .find_map(|field| self.fields.get(field).filter(|value| !value.is_null()));
        let Some(section) = section else { return self.check_beside() };
        let text = |field: &str| section.get(field).and_then(Value::as_str);
        let on = |field: &str| section.get(field) == Some(&Value::Bool(true));
        let method = match text("quant_method").or_else(|| text("quant_type")) {
            Some(method) => method,
            // bitsandbytes in files of before `quant_method`.
            None if on("load_in_4bit") || on("load_in_8bit") => "bitsandbytes",
            None => "a method that it does not name",
        };
        let four = text("bnb_4bit_quant_type").unwrap_or("fp4");
        let method = match method {
            "bitsandbytes" if on("load_in_8bit") || on("_load_in_8bit") => return Ok(()),
            "bitsandbytes" if four == "nf4" => return Ok(()),
            "bitsandbytes" => format!("bitsandbytes' {four}"),
            other => other.to_owned(),
        };
        Err(ModelError::Quantized { file: self.path.clone(), method })
    }

    /// The files in which older tools describe their quantization.
    fn check_beside(&self) -> Result<(), ModelError> {
        const FILES: [(&str, &str); 3] = [
            ("quantize_config.json", "GPTQ"),
            ("quant_config.json", "AWQ"),
            ("hf_quant_config.json", "ModelOpt"),
        ];
        let beside =
            |(name, method): (&str, &str)| (self.path.with_file_name(name), method.to_owned());
        match FILES.into_iter().map(beside).find(|(file, _)| file.is_file()) {
            Some((file, method)) => Err(ModelError::Quantized { file, method }),
            None => Ok(()),
        }
    }
}

/// Refuses a checkpoint whose tensors have names of quantized weights, although no file says so.
pub(crate) fn check_names(checkpoint: &Checkpoint) -> Result<(), ModelError> {
    const ENDINGS: [(&str, &str); 3] = [
        (".qweight", "GPTQ or AWQ"),
        (".quant_state.bitsandbytes__fp4", "bitsandbytes' fp4"),
        ("_proj_blocks", "MXFP4"),
    ];
    let names = || checkpoint.tensors().keys();
    match ENDINGS.into_iter().find(|(ending, _)| names().any(|name| name.ends_with(ending))) {
        Some((_, method)) => Err(ModelError::Quantized {
            file: checkpoint.origin().to_owned(),
            method: method.to_owned(),
        }),
        None => Ok(()),
    }
}

/// The defaults of one of transformers' configuration classes.
#[derive(Debug, Deserialize)]
struct ClassDefaults {
    defaults: Map<String, Value>,
    /// Further names of fields, with the names that the class has for them.
    other_names: BTreeMap<String, String>,
}

/// By `model_type`, as `fixtures/models/export_goldens.py defaults` exports them.
static DEFAULTS: LazyLock<BTreeMap<String, ClassDefaults>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("defaults.json")).expect("the exported table is valid")
});

/// Fields of transformers' configuration classes that affect no number computed here.
const WITHOUT_EFFECT: [&str; 26] = [
    "use_cache",
    "eos_token_id",
    "bos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
    "initializer_range",
    "initializer_factor",
    "is_encoder_decoder",
    // The split of tensors in Llama's first training.
    "pretraining_tp",
    // The order of roundings in f16.
    "reorder_and_upcast_attn",
    // The loss of routers, which is a setting of training here.
    "output_router_logits",
    "router_aux_loss_coef",
    // Settings of generation, which `Config::forced` reads.
    "forced_bos_token_id",
    "forced_eos_token_id",
    "init_std",
    // For heads of other tasks.
    "legacy",
    "decoder_bias",
    "sparse_prediction",
    "sparse_pred_ignore_index",
    // Initial values.
    "initializer_cutoff_factor",
    "deterministic_flash_attn",
    "cls_token_id",
    "sep_token_id",
    // Initial values of learned positions.
    "sinusoidal_pos_embds",
    // For heads of other tasks.
    "classifier_dropout",
    "qa_dropout",
];

/// Compares two values of a field by meaning: null equals false, and 1 equals 1.0.
fn same(a: &Value, b: &Value) -> bool {
    let off = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
    a == b || (off(a) && off(b)) || a.as_f64().is_some_and(|a| Some(a) == b.as_f64())
}

/// The names of the fields of a struct that derives `Deserialize`.
fn field_names<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Asks<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Asks<'_> {
        type Error = serde::de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("not a struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(serde::de::Error::custom("the names are known"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
            unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut names: &'static [&'static str] = &[];
    // The value is never created; only the requested fields count.
    drop(T::deserialize(Asks(&mut names)));
    names
}

/// Fields in a type of ours, with an error that names the file, the field, and the found value.
fn parse<T: DeserializeOwned>(file: &Path, fields: Map<String, Value>) -> Result<T, ModelError> {
    let document = Value::Object(fields);
    serde_path_to_error::deserialize(&document).map_err(|error| {
        let found = error.path().iter().try_fold(&document, |value, segment| match segment {
            Segment::Seq { index } => value.get(index),
            Segment::Map { key } => value.get(key),
            _ => None,
        });
        let field = error.path().to_string();
        let source = error.into_inner();
        let said = source.to_string();
        let mistaken = said.starts_with("invalid type") || said.starts_with("invalid value");
        match (said.rsplit_once(", expected "), found) {
            (Some((_, expected)), Some(found)) if mistaken => {
                wrong(file, &field, found, in_plain_words(expected))
            }
            _ => ModelError::Config { file: file.to_owned(), field, source },
        }
    })
}

/// The error for a value of the wrong type.
fn wrong(file: &Path, field: &str, found: &Value, expected: &str) -> ModelError {
    const SHOWN: usize = 60;
    let mut found = found.to_string();
    if let Some((end, _)) = found.char_indices().nth(SHOWN) {
        found.replace_range(end.., " ..");
    }
    ModelError::Config {
        file: file.to_owned(),
        field: field.to_owned(),
        source: serde::de::Error::custom(format_args!("found {found}, expected {expected}")),
    }
}

/// The types of Rust and serde in the words of JSON.
fn in_plain_words(expected: &str) -> &str {
    match expected {
        "i64" => "an integer",
        "usize" | "u64" => "an integer of at least 0",
        "u32" => "an integer from 0 to 4294967295",
        "u8" => "an integer from 0 to 255",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "text",
        "a sequence" => "a list",
        "a map" => "an object",
        other => other,
    }
}

/// A document that is an object.
fn object(file: &Path, document: Value) -> Result<Map<String, Value>, ModelError> {
    match document {
        Value::Object(fields) => Ok(fields),
        other => Err(wrong(file, ".", &other, "an object")),
    }
}

/// The largest size of a dimension: a product of two of them is far from overflow.
const LARGEST: i64 = i64::MAX >> 32;
/// The most layers of a stack. Each is looked for in the checkpoint, and reported if it is missing.
const MOST_LAYERS: usize = 10_000;

/// Checks sizes, which are at least 1.
pub(crate) fn check_sizes(
    sizes: impl IntoIterator<Item = (&'static str, i64)>,
) -> Result<(), ModelError> {
    match sizes.into_iter().find(|(_, size)| !(1..=LARGEST).contains(size)) {
        None => Ok(()),
        Some((field, size)) => Err(ModelError::BadField {
            file: None,
            field,
            found: size.to_string(),
            expected: if size < 1 { "at least 1".to_owned() } else { format!("at most {LARGEST}") },
        }),
    }
}

/// The values that a number of config.json may have.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Range {
    /// Above 0.
    Positive,
    /// 0 or more.
    NotNegative,
    /// From 0 to 1.
    Probability,
    /// Any but 0.
    NotZero,
}

/// Checks numbers, which are finite and in their range.
pub(crate) fn check_numbers(
    numbers: impl IntoIterator<Item = (&'static str, Option<f64>, Range)>,
) -> Result<(), ModelError> {
    for (field, value, range) in numbers {
        let Some(value) = value else { continue };
        let (inside, expected) = match range {
            Range::Positive => (value > 0., "a number above 0"),
            Range::NotNegative => (value >= 0., "a number of at least 0"),
            Range::Probability => ((0. ..=1.).contains(&value), "a number between 0 and 1"),
            Range::NotZero => (value != 0., "a number other than 0"),
        };
        if !(inside && value.is_finite()) {
            let (found, expected) = (value.to_string(), expected.to_owned());
            return Err(ModelError::BadField { file: None, field, found, expected });
        }
    }
    Ok(())
}

/// The names that a file has for fields of a class: pairs of the class's name and the name here.
#[derive(Debug, Default)]
pub(crate) struct FieldNames(Vec<(&'static str, &'static str)>);

impl FieldNames {
    /// The pairs of `names` whose first name the file has.
    pub(crate) fn of(config: &Config, names: &[(&'static str, &'static str)]) -> Self {
        let found = names.iter().filter(|(theirs, _)| config.fields.contains_key(*theirs));
        Self(found.copied().collect())
    }

    /// The file's name of a field.
    pub(crate) fn get(&self, ours: &'static str) -> &'static str {
        self.0.iter().find(|(_, name)| *name == ours).map_or(ours, |(theirs, _)| theirs)
    }
}

/// Checks a number of layers.
pub(crate) fn check_layers(field: &'static str, layers: usize) -> Result<(), ModelError> {
    if layers > MOST_LAYERS {
        return Err(ModelError::BadField {
            file: None,
            field,
            found: layers.to_string(),
            expected: format!("at most {MOST_LAYERS}"),
        });
    }
    Ok(())
}

/// The facts of an encoder's config.json that algorithms see.
#[derive(Clone, Copy)]
pub(crate) struct EncoderFacts<'a> {
    pub(crate) model_type: &'a str,
    pub(crate) hidden_size: i64,
    pub(crate) vocab_size: i64,
    pub(crate) context: Option<usize>,
    pub(crate) pad_id: u32,
    pub(crate) bos_id: Option<u32>,
}

/// An encoder with these embeddings, as algorithms see it.
pub(crate) fn encoder_spec(
    config: &Config,
    facts: EncoderFacts<'_>,
    embeddings: &Tensor,
) -> Result<LmSpec, ModelError> {
    let EncoderFacts { model_type, hidden_size, vocab_size, context, pad_id, bos_id } = facts;
    let spec = LmSpec {
        model_type: model_type.to_owned(),
        hidden_size,
        vocab_size,
        context,
        pad_id,
        eos_ids: config.ends()?,
        bos_id,
        decoder_start_id: None,
        forced: ForcedIds::default(),
        kind: embeddings.kind(),
        device: embeddings.device(),
    };
    check_ids(&spec)?;
    Ok(spec)
}

/// Checks that the ids which the model itself puts into a batch have an embedding.
pub(crate) fn check_ids(spec: &LmSpec) -> Result<(), ModelError> {
    let ids = [
        ("pad_token_id", Some(spec.pad_id)),
        ("decoder_start_token_id", spec.decoder_start_id),
        ("forced_bos_token_id", spec.forced.first),
        ("forced_eos_token_id", spec.forced.last),
    ];
    match ids.into_iter().find(|(_, id)| id.is_some_and(|id| i64::from(id) >= spec.vocab_size)) {
        Some((field, Some(id))) => Err(ModelError::BadField {
            file: None,
            field,
            found: id.to_string(),
            expected: format!("an id below vocab_size, which is {}", spec.vocab_size),
        }),
        _ => Ok(()),
    }
}

/// Token ids of a field that holds one, a list of them, or null. A negative id means none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TokenIds(pub(crate) Vec<u32>);

impl<'de> Deserialize<'de> for TokenIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;

        impl<'de> Visitor<'de> for Ids {
            type Value = TokenIds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token id, a list of token ids, or null")
            }

            fn visit_unit<E>(self) -> Result<TokenIds, E> {
                Ok(TokenIds::default())
            }

            fn visit_i64<E: serde::de::Error>(self, id: i64) -> Result<TokenIds, E> {
                if id < 0 {
                    return Ok(TokenIds::default());
                }
                self.visit_u64(id.unsigned_abs())
            }

            fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<TokenIds, E> {
                let id = u32::try_from(id)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(id), &self))?;
                Ok(TokenIds(vec![id]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<TokenIds, A::Error> {
                let mut all = Vec::new();
                while let Some(TokenIds(ids)) = items.next_element()? {
                    all.extend(ids);
                }
                Ok(TokenIds(all))
            }
        }

        deserializer.deserialize_any(Ids)
    }
}

/// A flag that is off if it is null; `None` if it is absent.
pub(crate) fn off_if_null<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<bool>, D::Error> {
    Ok(Some(Option::deserialize(deserializer)?.unwrap_or(false)))
}

/// The first token id of a field, if it has one.
pub(crate) fn token_id<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    Ok(TokenIds::deserialize(deserializer)?.0.first().copied())
}
