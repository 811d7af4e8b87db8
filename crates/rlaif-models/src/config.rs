//! config.json, kept as it was read so that saving loses nothing.

mod checks;
mod ids;
mod parse;
mod quantized;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use rlaif_checkpoint::{read_json, read_json_if_present};
use rlaif_lm::{ForcedIds, LmSpec};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tch::Tensor;

use crate::error::ModelError;
pub(crate) use checks::{Range, check_ids, check_layers, check_numbers, check_sizes};
pub(crate) use ids::{SpecialIds, TokenIds, off_if_null, token_id};
use parse::{field_names, object, parse, wrong};
pub(crate) use quantized::check_names;

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

    /// A section of this file as a configuration of its own; empty if the file lacks it.
    pub(crate) fn section(&self, name: &str) -> Result<Self, ModelError> {
        let path = PathBuf::from(format!("{}, `{name}`", self.path.display()));
        let fields = match self.fields.get(name) {
            None | Some(Value::Null) => Map::new(),
            Some(section) => object(&path, section.clone())?,
        };
        Ok(Self { path, fields, generation: None })
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
        let mut fields = self.with_defaults(model_type);
        let Some(class) = DEFAULTS.get(model_type) else { return parse(&self.path, fields) };
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

    /// Every field, and the defaults of transformers' configuration class of `model_type` for others.
    pub(crate) fn with_defaults(&self, model_type: &str) -> Map<String, Value> {
        let Some(class) = DEFAULTS.get(model_type) else { return self.fields.clone() };
        let mut fields = class.defaults.clone();
        fields.extend(self.fields.clone());
        for (other, name) in &class.other_names {
            if let Some(value) = fields.remove(other) {
                fields.insert(name.clone(), value);
            }
        }
        fields
    }

    /// The tokens of padding and of the beginning, with the defaults of `model_type`'s class.
    pub(crate) fn special_ids(&self, model_type: &str) -> Result<SpecialIds, ModelError> {
        parse(&self.path, self.with_defaults(model_type))
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

/// An encoder with this many positions and these embeddings `[vocab_size, ..]`, as algorithms see it.
pub(crate) fn encoder_spec(
    config: &Config,
    ids: SpecialIds,
    hidden_size: i64,
    positions: i64,
    embeddings: &Tensor,
) -> Result<LmSpec, ModelError> {
    let spec = LmSpec {
        model_type: config.model_type()?,
        hidden_size,
        vocab_size: embeddings.size()[0],
        context: usize::try_from(positions).ok(),
        pad_id: ids.pad_token_id.unwrap_or(0),
        eos_ids: config.ends()?,
        bos_id: ids.bos_token_id,
        decoder_start_id: None,
        forced: ForcedIds::default(),
        kind: embeddings.kind(),
        device: embeddings.device(),
    };
    check_ids(&spec)?;
    Ok(spec)
}
