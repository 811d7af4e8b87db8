//! `adapter_config.json` as files have it: optional, null, one or many.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, SeqAccess, Visitor};
use serde_json::Value;

use super::config::{
    ALL_LINEAR, AdapterConfig, Initialisation, ModuleNames, TargetModules, TaskType, TrainedBiases,
};
use crate::CheckpointError;
use crate::json::{Pairs, parse_json, read_json_bytes};

/// Fields that change nothing in how an adapter is applied once its weights are there.
const INERT: [&str; 10] = [
    "auto_mapping",
    "peft_version",
    "inference_mode",
    // Settings of features that are off: each is refused through the switch that turns it on.
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    // How the factors began, as far as the base model's weights stayed what they were.
    "eva_config",
    "loftq_config",
    "corda_config",
    "lora_ga_config",
];

/// Fields that [`RawConfig`] reads.
const READ: [&str; 18] = [
    "task_type",
    "base_model_name_or_path",
    "revision",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "fan_in_fan_out",
    "ensure_weight_tying",
    "use_dora",
    "inference_mode",
];

/// Initialisations that do not change the base model's weights.
const HARMLESS_INITIALISATIONS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

/// The initialisation that a value of `init_lora_weights` means.
fn initialisation(value: &Value) -> Option<Initialisation> {
    match value {
        Value::Bool(_) => Some(Initialisation::Zero),
        Value::String(name) => match name.as_str() {
            "pissa" => Some(Initialisation::Pissa),
            "olora" => Some(Initialisation::Olora),
            name => HARMLESS_INITIALISATIONS.contains(&name).then_some(Initialisation::Zero),
        },
        _ => None,
    }
}

/// The biases that a value of `bias` means.
fn trained_biases(value: &Value) -> Option<TrainedBiases> {
    match value.as_str()? {
        "none" => Some(TrainedBiases::Absent),
        "lora_only" => Some(TrainedBiases::OfLora),
        _ => None,
    }
}

/// Refuses every setting that would change the adapter's meaning and is not implemented, including
/// unknown ones: a setting of a later peft is only accepted if its value means "off".
fn refuse_foreign(file: &Path, fields: &[(String, Value)]) -> Result<(), CheckpointError> {
    let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(CheckpointError::DuplicateKey {
            file: file.to_owned(),
            object: "the adapter's configuration",
            key: twice[0].to_owned(),
        });
    }
    let refuse = |field: &str, found: &Value, expected| CheckpointError::Unhonoured {
        file: file.to_owned(),
        field: field.to_owned(),
        found: found.to_string(),
        expected,
    };
    let method = fields.iter().find(|(name, _)| name == "peft_type").map(|(_, value)| value);
    if method.and_then(Value::as_str) != Some("LORA") {
        return Err(refuse("peft_type", method.unwrap_or(&Value::Null), "\"LORA\""));
    }
    for (name, value) in fields {
        match name.as_str() {
            "peft_type" => {}
            name if READ.contains(&name) || INERT.contains(&name) => {}
            "bias" => {
                if trained_biases(value).is_none() {
                    return Err(refuse(name, value, "\"none\" or \"lora_only\""));
                }
            }
            "init_lora_weights" => {
                if initialisation(value).is_none() {
                    let expected = "true, false, \"gaussian\", \"orthogonal\", \"eva\", \"pissa\" or \
                                    \"olora\", whose start can be computed again";
                    return Err(refuse(name, value, expected));
                }
            }
            _ if is_off(value) => {}
            _ => return Err(refuse(name, value, "it to be off or absent")),
        }
    }
    Ok(())
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// The fields of [`READ`] but `inference_mode`; defaults are peft's.
#[derive(serde::Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the fields are peft's")]
#[serde(default)]
struct RawConfig {
    task_type: Option<TaskType>,
    base_model_name_or_path: Option<String>,
    revision: Option<String>,
    r: NonZeroU32,
    #[serde(deserialize_with = "alpha")]
    lora_alpha: f64,
    #[serde(deserialize_with = "probability")]
    lora_dropout: f64,
    target_modules: Option<ModuleNames>,
    exclude_modules: Option<ModuleNames>,
    modules_to_save: Option<Vec<String>>,
    layers_to_transform: Option<OneOrMany<u32>>,
    layers_pattern: Option<OneOrMany<String>>,
    rank_pattern: Option<Unique<NonZeroU32>>,
    alpha_pattern: Option<Unique<f64>>,
    use_rslora: bool,
    fan_in_fan_out: bool,
    ensure_weight_tying: bool,
    use_dora: bool,
    bias: Option<Value>,
    init_lora_weights: Option<Value>,
}

impl Default for RawConfig {
    fn default() -> Self {
        const RANK: NonZeroU32 = NonZeroU32::new(8).unwrap();
        Self {
            task_type: None,
            base_model_name_or_path: None,
            revision: None,
            r: RANK,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: None,
            exclude_modules: None,
            modules_to_save: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: None,
            alpha_pattern: None,
            use_rslora: false,
            fan_in_fan_out: false,
            ensure_weight_tying: false,
            use_dora: false,
            bias: None,
            init_lora_weights: None,
        }
    }
}

impl AdapterConfig {
    /// Reads `adapter_config.json` of a folder.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Unhonoured`] names a setting that cannot be honoured,
    /// [`CheckpointError::Pattern`] a regular expression that cannot be used; otherwise as
    /// [`read_json`](crate::read_json).
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join(super::ADAPTER_CONFIG);
        let bytes = read_json_bytes(&path)?;
        // Twice, because the second pass must know which fields it may leave aside.
        refuse_foreign(&path, &parse_json::<Pairs<Value>>(&path, &bytes)?.0)?;
        let config = parse_json::<RawConfig>(&path, &bytes)?.resolve(&path)?;
        config.rules_of(&path)?;
        Ok(config)
    }
}

impl RawConfig {
    fn resolve(self, file: &Path) -> Result<AdapterConfig, CheckpointError> {
        let refuse = |field: &str, found: &str, expected| CheckpointError::Unhonoured {
            file: file.to_owned(),
            field: field.to_owned(),
            found: found.to_owned(),
            expected,
        };
        let target_modules = match self.target_modules {
            // peft fills it in from a table of architectures before it saves.
            None => return Err(refuse("target_modules", "null", "the names of modules")),
            Some(ModuleNames::Pattern(all)) if all.eq_ignore_ascii_case(ALL_LINEAR) => {
                TargetModules::AllLinear
            }
            Some(names) => TargetModules::Named(names),
        };
        let layers_to_transform = self.layers_to_transform.map_or_else(Vec::new, |many| many.0);
        let mut layers_pattern = self.layers_pattern.map_or_else(Vec::new, |many| many.0);
        // peft takes the empty string for none.
        layers_pattern.retain(|pattern| !pattern.is_empty());
        let by_list = matches!(target_modules, TargetModules::Named(ModuleNames::Suffixes(_)));
        if !by_list && !layers_to_transform.is_empty() {
            let found = format!("{layers_to_transform:?}");
            let expected = "`target_modules` to be a list when layers are chosen by number";
            return Err(refuse("layers_to_transform", &found, expected));
        }
        if layers_to_transform.is_empty() && !layers_pattern.is_empty() {
            let found = format!("{layers_pattern:?}");
            let expected = "`layers_to_transform` beside it";
            return Err(refuse("layers_pattern", &found, expected));
        }
        let init_lora_weights =
            self.init_lora_weights.as_ref().and_then(initialisation).unwrap_or_default();
        if self.ensure_weight_tying && (self.use_dora || init_lora_weights != Initialisation::Zero)
        {
            let expected = "false beside `use_dora`, PiSSA and OLoRA";
            return Err(refuse("ensure_weight_tying", "true", expected));
        }
        Ok(AdapterConfig {
            task_type: self.task_type,
            base_model_name_or_path: self.base_model_name_or_path,
            revision: self.revision,
            r: self.r,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            target_modules,
            exclude_modules: self.exclude_modules,
            modules_to_save: self.modules_to_save.unwrap_or_default(),
            layers_to_transform,
            layers_pattern,
            rank_pattern: self.rank_pattern.map_or_else(Vec::new, |pairs| pairs.0),
            alpha_pattern: self.alpha_pattern.map_or_else(Vec::new, |pairs| pairs.0),
            use_rslora: self.use_rslora,
            fan_in_fan_out: self.fan_in_fan_out,
            ensure_weight_tying: self.ensure_weight_tying,
            use_dora: self.use_dora,
            init_lora_weights,
            bias: self.bias.as_ref().and_then(trained_biases).unwrap_or_default(),
        })
    }
}

fn alpha<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if !value.is_finite() {
        return Err(de::Error::invalid_value(de::Unexpected::Float(value), &"a finite number"));
    }
    Ok(value)
}

fn probability<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if !(0.0..1.0).contains(&value) {
        let expected = "a probability of at least 0 and below 1";
        return Err(de::Error::invalid_value(de::Unexpected::Float(value), &expected));
    }
    Ok(value)
}

/// An object each of whose keys occurs once, in order.
struct Unique<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = Pairs::<V>::deserialize(deserializer)?.0;
        let mut keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(de::Error::custom(format_args!("the key `{}` twice", twice[0])));
        }
        Ok(Self(pairs))
    }
}

/// A single value means a list of one.
struct OneOrMany<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrManyVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one or a list")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(OneOrMany(vec![T::deserialize(number.into_deserializer())?]))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OneOrMany(vec![T::deserialize(text.into_deserializer())?]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                collect(items).map(OneOrMany)
            }
        }

        deserializer.deserialize_any(OneOrManyVisitor(PhantomData))
    }
}

/// A pattern if it is one string, names if it is a list.
impl<'de> Deserialize<'de> for ModuleNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NamesVisitor;

        impl<'de> Visitor<'de> for NamesVisitor {
            type Value = ModuleNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of module names or a regular expression")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ModuleNames, E> {
                Ok(ModuleNames::Pattern(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<ModuleNames, A::Error> {
                collect(items).map(ModuleNames::Suffixes)
            }
        }

        deserializer.deserialize_any(NamesVisitor)
    }
}

fn collect<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(mut items: A) -> Result<Vec<T>, A::Error> {
    let mut all = Vec::new();
    while let Some(item) = items.next_element()? {
        all.push(item);
    }
    Ok(all)
}
