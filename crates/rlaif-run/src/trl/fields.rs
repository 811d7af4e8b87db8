//! The fields of one configuration, and the ledger of their counterparts.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::LazyLock};

use serde_json::{Map, Value};

use super::{Counterpart, ImportedTrl, TrlError, TrlField, TrlTrainer};

/// The fields of each trainer's configuration, with TRL's defaults: `fixtures/trl/export_fields.py`.
static DEFAULTS: LazyLock<BTreeMap<String, BTreeMap<String, Value>>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("defaults.json")).expect("written by a script")
});

/// Names that earlier versions of TRL and transformers used, with the current ones.
const RENAMED: [(&str, &str); 4] = [
    ("torch_dtype", "dtype"),
    ("evaluation_strategy", "eval_strategy"),
    ("warmup_ratio", "warmup_steps"),
    ("no_cuda", "use_cpu"),
];

/// The fields of a configuration. Each trainer's import reads them and records their counterparts.
#[derive(Debug)]
pub(super) struct Fields {
    trainer: TrlTrainer,
    file: String,
    /// Number of processes of the script.
    pub(super) processes: usize,
    given: Map<String, Value>,
    known: &'static BTreeMap<String, Value>,
    counterparts: BTreeMap<&'static str, Counterpart>,
    table: toml::Table,
    needed: Vec<(&'static str, &'static str)>,
}

impl Fields {
    pub(super) fn new(
        trainer: TrlTrainer,
        file: &str,
        given: Map<String, Value>,
        processes: NonZeroUsize,
    ) -> Result<Self, TrlError> {
        let known = &DEFAULTS[trainer.name()];
        let mut own = Map::new();
        for (field, value) in given {
            let current =
                RENAMED.iter().find(|(old, new)| *old == field && known.contains_key(*new));
            let name = current.map_or(field.as_str(), |(_, new)| new).to_owned();
            if !known.contains_key(&name) {
                let near = |name: &&str| strsim::damerau_levenshtein(&field, name);
                let nearest = known.keys().map(String::as_str).min_by_key(near);
                let nearest = nearest.filter(|name| near(name) <= name.len() / 3);
                let (file, class) = (file.to_owned(), trainer.class());
                return Err(TrlError::Unknown { file, field, nearest, class });
            }
            own.insert(name, value);
        }
        Ok(Self {
            trainer,
            file: file.to_owned(),
            processes: processes.get(),
            given: own,
            known,
            counterparts: BTreeMap::new(),
            table: toml::Table::new(),
            needed: Vec::new(),
        })
    }

    /// `true` if the trainer's configuration has the field.
    pub(super) fn knows(trainer: TrlTrainer, field: &str) -> bool {
        DEFAULTS[trainer.name()].contains_key(field)
    }

    /// The value in the file, or TRL's default; null for a field that this trainer does not have.
    pub(super) fn value(&self, field: &str) -> &Value {
        let default = || self.known.get(field).unwrap_or(&Value::Null);
        self.given.get(field).unwrap_or_else(default)
    }

    /// `true` if the file has another value than TRL's default.
    pub(super) fn is_changed(&self, field: &str) -> bool {
        let same = |a: &Value, b: &Value| match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        };
        let default = self.known.get(field).unwrap_or(&Value::Null);
        self.given.get(field).is_some_and(|value| !same(value, default))
    }

    /// Gives the value of one field to another.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        if let Some(value) = self.given.get(from).cloned() {
            self.given.insert(to.to_owned(), value);
        }
    }

    /// `true` if the file has the field.
    pub(super) fn is_given(&self, field: &str) -> bool {
        self.given.get(field).is_some_and(|value| !value.is_null())
    }

    /// The refusal of a field's value.
    pub(super) fn refused(&self, field: &str, expected: impl Into<String>) -> TrlError {
        TrlError::Value {
            file: self.file.clone(),
            field: field.to_owned(),
            found: self.value(field).to_string(),
            expected: expected.into(),
        }
    }

    /// A finite number. YAML reads `1e-5`, without a point, as text: so do TRL's scripts, and convert it.
    pub(super) fn number(&self, field: &str) -> Result<f64, TrlError> {
        let number = match self.value(field) {
            Value::String(text) => text.trim().parse().ok(),
            value => value.as_f64(),
        };
        number
            .filter(|number: &f64| number.is_finite())
            .ok_or_else(|| self.refused(field, "a finite number"))
    }

    /// A number, or `None` for null.
    pub(super) fn maybe_number(&self, field: &str) -> Result<Option<f64>, TrlError> {
        if self.value(field).is_null() { Ok(None) } else { self.number(field).map(Some) }
    }

    /// A whole number of at least `least`.
    pub(super) fn count(&self, field: &str, least: u64) -> Result<u64, TrlError> {
        let number = self.number(field)?;
        if number.fract() == 0. && number >= least as f64 && number < 9e15 {
            Ok(number as u64)
        } else {
            Err(self.refused(field, format!("a whole number of at least {least}")))
        }
    }

    /// `true` or `false`; null is `false`.
    pub(super) fn flag(&self, field: &str) -> Result<bool, TrlError> {
        match self.value(field) {
            Value::Bool(value) => Ok(*value),
            Value::Null => Ok(false),
            _ => Err(self.refused(field, "true or false")),
        }
    }

    /// A text; null is empty.
    pub(super) fn text(&self, field: &str) -> Result<String, TrlError> {
        match self.value(field) {
            Value::String(text) => Ok(text.clone()),
            Value::Null => Ok(String::new()),
            _ => Err(self.refused(field, "a text")),
        }
    }

    /// A list; a single value is a list of one, and null is an empty one.
    pub(super) fn list(&self, field: &str) -> Vec<Value> {
        match self.value(field) {
            Value::Array(list) => list.clone(),
            Value::Null => Vec::new(),
            value => vec![value.clone()],
        }
    }

    /// Sets a key of the run file, without a field. The tables of its path are created.
    pub(super) fn set(&mut self, path: &str, value: impl Into<toml::Value>) {
        let mut names: Vec<&str> = path.split('.').collect();
        let last = names.pop().unwrap_or_default();
        let mut table = &mut self.table;
        for name in names {
            let entry = table.entry(name).or_insert_with(|| toml::Table::new().into());
            table = entry.as_table_mut().expect("a table is never also a value");
        }
        table.insert(last.to_owned(), value.into());
    }

    /// Sets a key that is the counterpart of a field.
    pub(super) fn key(&mut self, field: &'static str, path: &str, value: impl Into<toml::Value>) {
        self.set(path, value);
        self.becomes(field, path);
    }

    /// Records a key as a counterpart of a field.
    pub(super) fn becomes(&mut self, field: &'static str, path: &str) {
        match self.counterparts.get_mut(field) {
            Some(Counterpart::Keys(keys)) if keys.iter().any(|key| key == path) => {}
            Some(Counterpart::Keys(keys)) => keys.push(path.to_owned()),
            _ => {
                self.counterparts.insert(field, Counterpart::Keys(vec![path.to_owned()]));
            }
        }
    }

    /// Copies a finite number to a key.
    pub(super) fn copy(&mut self, field: &'static str, path: &str) -> Result<(), TrlError> {
        let value = self.number(field)?;
        self.key(field, path, value);
        Ok(())
    }

    /// Copies a whole number to a key.
    pub(super) fn copy_count(
        &mut self,
        field: &'static str,
        path: &str,
        least: u64,
    ) -> Result<(), TrlError> {
        let value = self.count(field, least)?;
        self.key(field, path, value as i64);
        Ok(())
    }

    /// Records that a field needs no key.
    pub(super) fn elsewhere(&mut self, field: &'static str, place: &'static str) {
        self.counterparts.insert(field, Counterpart::Elsewhere(place));
    }

    /// Records a difference from TRL.
    pub(super) fn differs(&mut self, field: &'static str, difference: impl Into<String>) {
        self.counterparts.insert(field, Counterpart::Nothing(difference.into()));
    }

    /// Records a key that the configuration cannot give.
    pub(super) fn needs(&mut self, key: &'static str, reason: &'static str) {
        self.needed.push((key, reason));
    }

    /// Names of the fields without a counterpart so far.
    pub(super) fn unsettled(&self) -> Vec<&'static str> {
        let names = self.known.keys().map(String::as_str);
        names.filter(|name| !self.counterparts.contains_key(name)).collect()
    }

    pub(super) fn finish(self) -> ImportedTrl {
        let fields =
            self.known.keys().map(|name| TrlField {
                name: name.clone(),
                value: self.value(name).clone(),
                counterpart: self.counterparts.get(name.as_str()).cloned().unwrap_or_else(|| {
                    Counterpart::Nothing("rlaif has nothing like it".to_owned())
                }),
            });
        ImportedTrl {
            trainer: self.trainer,
            fields: fields.collect(),
            table: self.table,
            needed: self.needed,
        }
    }
}
