//! Contents of tokenizer_config.json, special_tokens_map.json and added_tokens.json, merged as
//! transformers 5 does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::error::TextError;

/// End of a sequence at which something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SequenceSide {
    /// The beginning.
    Left,
    /// The end.
    Right,
}

/// tokenizer_config.json, as far as it is used here.
#[derive(Debug, Default, Deserialize)]
struct RawConfig {
    tokenizer_class: Option<String>,
    /// "No limit" is written as 10^30, which does not fit an integer.
    model_max_length: Option<f64>,
    padding_side: Option<SequenceSide>,
    truncation_side: Option<SequenceSide>,
    add_prefix_space: Option<bool>,
    clean_up_tokenization_spaces: Option<bool>,
    chat_template: Option<RawTemplates>,
    added_tokens_decoder: Option<BTreeMap<u32, RawToken>>,
    additional_special_tokens: Option<RawExtra>,
    extra_special_tokens: Option<RawExtra>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// A token: its text, or a description.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum RawToken {
    Text(String),
    Described {
        content: String,
        #[serde(default)]
        single_word: bool,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        normalized: Option<bool>,
        special: Option<bool>,
    },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawExtra {
    List(Vec<RawToken>),
    Named(BTreeMap<String, RawToken>),
}

/// One template, or several with names.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawTemplates {
    One(String),
    List(Vec<NamedTemplate>),
    Named(BTreeMap<String, String>),
}

#[derive(Debug, Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl RawToken {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Described { content: text, .. } => text,
        }
    }

    fn added(&self, special_unless_said: bool) -> AddedToken {
        match self {
            Self::Text(text) => AddedToken::from(text.as_str(), special_unless_said),
            Self::Described { content, single_word, lstrip, rstrip, normalized, special } => {
                let special = special.unwrap_or(special_unless_said);
                AddedToken::from(content.as_str(), special)
                    .single_word(*single_word)
                    .lstrip(*lstrip)
                    .rstrip(*rstrip)
                    .normalized(normalized.unwrap_or(!special))
            }
        }
    }
}

/// Contents of the files, without an `Option` that has a default.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) class: Option<String>,
    pub(crate) max_length: Option<usize>,
    /// `None` leaves it to the tokenizer's class.
    pub(crate) padding_side: Option<SequenceSide>,
    pub(crate) truncation_side: SequenceSide,
    pub(crate) add_prefix_space: Option<bool>,
    pub(crate) add_bos: bool,
    pub(crate) add_eos: bool,
    /// The configuration's other keys.
    rest: Map<String, Value>,
    pub(crate) clean_up_spaces: bool,
    /// By name; `default` is the one that is used.
    pub(crate) chat_templates: BTreeMap<String, String>,
    /// The files that templates were read from, relative to the folder.
    pub(crate) template_files: Vec<PathBuf>,
    /// Every `*_token`, by that key: `bos_token`, `eos_token`, and a model's own.
    pub(crate) named: BTreeMap<String, AddedToken>,
    /// Special tokens without a role.
    pub(crate) extra: Vec<AddedToken>,
    /// Tokens of added_tokens_decoder or added_tokens.json, in order of their ids.
    pub(crate) added: Vec<AddedToken>,
}

impl Config {
    pub(crate) fn read(folder: &Path) -> Result<Self, TextError> {
        let raw: RawConfig = read_json(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
        let mut named: BTreeMap<String, RawToken> = raw.rest.iter().filter_map(token).collect();
        let mut extra: Vec<RawToken> = Vec::new();
        for tokens in
            [raw.additional_special_tokens, raw.extra_special_tokens].into_iter().flatten()
        {
            match tokens {
                RawExtra::List(tokens) => extra.extend(tokens),
                RawExtra::Named(tokens) => named.extend(tokens),
            }
        }
        let mut added = Vec::new();
        if let Some(tokens) = &raw.added_tokens_decoder {
            added.extend(tokens.values().map(|token| token.added(false)));
        } else {
            // Both files are from before added_tokens_decoder.
            let path = folder.join("special_tokens_map.json");
            let map: Map<String, Value> = read_json(&path)?.unwrap_or_default();
            named.extend(map.iter().filter_map(token));
            for key in ["additional_special_tokens", "extra_special_tokens"] {
                if let Some(list) = map.get(key) {
                    let tokens: Vec<RawToken> = Deserialize::deserialize(list)
                        .map_err(|source| TextError::Json { path: path.clone(), source })?;
                    extra.extend(tokens);
                }
            }
            let by_text: BTreeMap<String, u32> =
                read_json(&folder.join("added_tokens.json"))?.unwrap_or_default();
            let mut by_id: Vec<(u32, String)> =
                by_text.into_iter().map(|(text, id)| (id, text)).collect();
            by_id.sort();
            added.extend(by_id.into_iter().map(|(_, text)| {
                let special = named.values().chain(&extra).any(|token| token.text() == text);
                AddedToken::from(text, special)
            }));
        }
        // A role may name a token by its text and describe it among the added ones.
        let described = |token: &RawToken| {
            added
                .iter()
                .find(|a| a.content == token.text())
                .cloned()
                .unwrap_or_else(|| token.added(true))
        };
        let named = named.iter().map(|(key, token)| (key.clone(), described(token))).collect();
        let (chat_templates, template_files) = chat_templates(folder, raw.chat_template)?;
        let extra = extra.iter().map(described).collect();
        Ok(Self {
            class: raw.tokenizer_class,
            max_length: raw.model_max_length.and_then(limit),
            padding_side: raw.padding_side,
            truncation_side: raw.truncation_side.unwrap_or(SequenceSide::Right),
            add_prefix_space: raw.add_prefix_space,
            add_bos: raw.rest.get("add_bos_token").and_then(Value::as_bool).unwrap_or(false),
            add_eos: raw.rest.get("add_eos_token").and_then(Value::as_bool).unwrap_or(false),
            rest: raw.rest,
            clean_up_spaces: raw.clean_up_tokenization_spaces.unwrap_or(false),
            chat_templates,
            template_files,
            named,
            extra,
            added,
        })
    }
}

impl Config {
    /// A truth value of the configuration.
    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        self.rest.get(key)?.as_bool()
    }

    /// Returns `true` if the configuration has a key, even with the value null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.rest.contains_key(key)
    }

    /// A count of the configuration.
    pub(crate) fn number(&self, key: &str) -> Option<usize> {
        usize::try_from(self.rest.get(key)?.as_u64()?).ok()
    }
}

fn token((key, value): (&String, &Value)) -> Option<(String, RawToken)> {
    let token = key.ends_with("_token").then(|| RawToken::deserialize(value).ok()).flatten()?;
    Some((key.clone(), token))
}

/// `None` for "no limit", which is written as 10^30.
fn limit(tokens: f64) -> Option<usize> {
    const NO_LIMIT: f64 = 1e15;
    (1.0..NO_LIMIT).contains(&tokens).then_some(tokens as usize)
}

/// chat_template.jinja and additional_chat_templates/*.jinja if there are any, else the configuration's.
fn chat_templates(
    folder: &Path,
    configured: Option<RawTemplates>,
) -> Result<(BTreeMap<String, String>, Vec<PathBuf>), TextError> {
    let mut templates = BTreeMap::new();
    let mut files = Vec::new();
    if let Some(text) = read_text(&folder.join("chat_template.jinja"))? {
        templates.insert("default".to_owned(), text);
        files.push("chat_template.jinja".into());
    }
    let more = folder.join("additional_chat_templates");
    if more.is_dir() {
        let failed = |source| TextError::Read { path: more.clone(), source };
        for entry in fs::read_dir(&more).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(name) = name.strip_suffix(".jinja")
                && let Some(text) = read_text(&path)?
            {
                templates.insert(name.to_owned(), text);
                files.push(Path::new("additional_chat_templates").join(format!("{name}.jinja")));
            }
        }
        files.sort();
    }
    if templates.is_empty() {
        match configured {
            Some(RawTemplates::One(text)) => {
                templates.insert("default".to_owned(), text);
            }
            Some(RawTemplates::List(list)) => {
                templates.extend(list.into_iter().map(|t| (t.name, t.template)));
            }
            Some(RawTemplates::Named(named)) => templates = named,
            None => {}
        }
    }
    Ok((templates, files))
}

/// Far above the size of the largest known tokenizer.json (tens of megabytes).
const LONGEST: u64 = 1 << 28;

/// The bytes of a file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, TextError> {
    let failed = |source| TextError::Read { path: path.to_owned(), source };
    rlaif_files::read_bytes(path, LONGEST).map_err(failed)
}

/// `None` if there is no such file.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, TextError> {
    let bytes = match read_file(path) {
        Ok(bytes) => bytes,
        Err(TextError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error());
        TextError::Read { path: path.to_owned(), source }
    })
}

/// `None` if there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, TextError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|source| TextError::Json { path: path.to_owned(), source })
}
