//! Run files: reading, `--set`, absolute paths, resumed runs.

mod renamed;

use std::{
    env,
    path::{Path, PathBuf},
};

use rlaif_core::{NotFinite, below_table, check_finite};
use rlaif_rewards::{describe_toml_value, wrong_key};
use rlaif_torch::dist::{Launch, World};
use rlaif_train::{Keep, RunFolder, Saved, TrainError};
use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use renamed::{check_names, with_prompt_form};

use crate::{
    error::RunError,
    resume::{AtResume, Change, Changes, compare, lookup},
};

/// A command's run file.
pub trait RunFile: Serialize + DeserializeOwned {
    /// The command's name on the command line.
    const COMMAND: &'static str;

    /// Returns the locations in the file that may be local files or folders: a run's folder keeps them as
    /// absolute paths.
    fn locations(&mut self) -> Vec<&mut String> {
        Vec::new()
    }

    /// Decides about a key, with dots, of a command outside this library: may it change at
    /// `--resume`? No key may by default.
    fn at_resume(_key: &str) -> Option<AtResume> {
        None
    }
}

/// A user's request.
#[derive(Debug, Clone, Default)]
pub struct RunRequest {
    /// The run file; not needed to resume.
    pub config: Option<PathBuf>,
    /// The run folder; without it, `runs/NAME` for a run file `NAME.toml`.
    pub out: Option<PathBuf>,
    /// Continues the run in the folder.
    pub resume: bool,
    /// `a.b=v`: overrides of the file's keys; the value is TOML or a bare string.
    pub set: Vec<String>,
    /// The place of this process among several, for commands that train; by default, there is one process.
    ///
    /// If a launcher starts a run again, it continues.
    pub launch: Launch,
}

/// A run whose file has been read.
#[derive(Debug)]
pub struct OpenRun<T> {
    /// The configuration.
    pub config: T,
    out: PathBuf,
    resolved: String,
    resume: bool,
    /// Settings that differ from those at the start of the run, and may.
    changed: Vec<Change>,
}

impl RunRequest {
    /// Reads the run file, without writing anything.
    ///
    /// # Errors
    /// [`RunError`] for a file that cannot be read or lacks a key, and for a run that began with
    /// other settings.
    pub fn open<T: RunFile>(&self) -> Result<OpenRun<T>, RunError> {
        let out = match (&self.out, &self.config) {
            (Some(out), _) => out.clone(),
            (None, Some(config)) => {
                Path::new("runs").join(config.file_stem().unwrap_or("run".as_ref()))
            }
            (None, None) => return Err(RunError::NoConfig { command: T::COMMAND }),
        };
        let asked = self.config.as_deref().map(|path| self.read::<T>(path)).transpose()?;
        let begun = out.join("run.toml");
        let resume = self.resume || (self.launch.restarts > 0 && begun.exists());
        let mut changed = Vec::new();
        let config = match (resume, asked) {
            (true, asked) => {
                if !begun.exists() {
                    return Err(TrainError::NoRun { folder: out }.into());
                }
                let config: T = parse(&begun, &read_table(&begun, T::COMMAND)?)?;
                let asked = match asked {
                    Some(asked) => asked,
                    // Without a file, the overrides are compared with the run's settings.
                    None => self.read(&begun)?,
                };
                let Changes { allowed, refused } =
                    compare(&table(&config)?, &table(&asked)?, T::at_resume);
                if !refused.is_empty() {
                    return Err(RunError::Changed { file: begun, changes: refused });
                }
                changed = allowed;
                asked
            }
            (false, Some(config)) => config,
            (false, None) => return Err(RunError::NoConfig { command: T::COMMAND }),
        };
        let resolved = format!(
            "{WRITTEN_BY}{} {}{WITH_DEFAULTS}\n\n{}",
            T::COMMAND,
            env!("CARGO_PKG_VERSION"),
            toml::to_string(&table(&config)?)
                .map_err(|source| RunError::Unwritable { source: source.into() })?
        );
        Ok(OpenRun { config, out, resolved, resume, changed })
    }

    fn read<T: RunFile>(&self, path: &Path) -> Result<T, RunError> {
        let mut config: T = read(path, &self.set)?;
        let here = env::current_dir()
            .map_err(|source| RunError::Read { path: PathBuf::from("."), source })?;
        for location in config.locations() {
            *location = absolute(location, &here);
        }
        Ok(config)
    }
}

/// A run file with these overrides of its keys.
pub(crate) fn read<T: RunFile>(path: &Path, overrides: &[String]) -> Result<T, RunError> {
    let mut table = read_table(path, T::COMMAND)?;
    for assignment in overrides {
        set(&mut table, assignment)?;
    }
    parse(path, &table)
}

/// Makes a location independent of the current folder. A hub id that is not a file in the folder
/// `here` is unchanged.
fn absolute(location: &str, here: &Path) -> String {
    let local = here.join(location);
    // No hub id has these characters, and a pattern need not name an existing file.
    if location.contains(['*', '?', '[']) && Path::new(location).is_relative() {
        let mut pattern = String::new();
        for c in here.display().to_string().chars() {
            match c {
                '*' | '?' | '[' => pattern.extend(['[', c, ']']),
                c => pattern.push(c),
            }
        }
        return Path::new(&pattern).join(location).display().to_string();
    }
    if local.exists() { local.display().to_string() } else { location.to_owned() }
}

impl<T> OpenRun<T> {
    /// Creates the run folder, or resumes the run in it from the newest complete checkpoint.
    ///
    /// # Errors
    /// Those of [`RunFolder::create`] and [`RunFolder::resume`].
    pub fn folder(&self, keep: Keep) -> Result<(RunFolder, Option<Saved>), RunError> {
        if self.resume {
            let (mut folder, saved) = RunFolder::resume(&self.out, keep)?;
            if !self.changed.is_empty() {
                let changes = self.changed.iter().map(ToString::to_string).collect();
                folder.go_on_with(self.resolved.clone(), changes);
            }
            return Ok((folder, saved));
        }
        Ok((RunFolder::create(&self.out, &self.resolved, keep)?, None))
    }

    /// As [`OpenRun::folder`], in one of several ranks: rank 0 creates or resumes the folder, and the others read it.
    ///
    /// # Errors
    /// Those of [`OpenRun::folder`] and [`RunFolder::of_another`].
    pub(crate) fn folder_in(
        &self,
        keep: Keep,
        world: &World,
    ) -> Result<(RunFolder, Option<Saved>), RunError> {
        let (folder, saved) = match world.first(|| self.folder(keep))? {
            Some((folder, saved)) => (folder.in_world(world), saved),
            None if self.resume => RunFolder::resume_of_another(&self.out, keep, world)?,
            None => (RunFolder::of_another(&self.out, keep, world)?, None),
        };
        let step = saved.as_ref().map_or(0, Saved::step);
        let remedy = "put the run's folder on a file system that all hosts share";
        world.same("the newest checkpoint", &format!("step {step}"), remedy)?;
        Ok((folder, saved))
    }

    /// Refuses ranks that have other settings than rank 0, or are of another version.
    ///
    /// # Errors
    /// [`RunError::Torch`].
    pub(crate) fn same_in(&self, world: &World) -> Result<(), RunError>
    where
        T: Serialize,
    {
        let version = env!("CARGO_PKG_VERSION");
        world.same("the version of rlaif", version, "install the same version on all hosts")?;
        let mut table = table(&self.config)?;
        // Devices and threads may differ from host to host.
        table.remove("placement");
        let text = toml::to_string(&table)
            .map_err(|source| RunError::Unwritable { source: source.into() })?;
        let remedy = "start all ranks with the same run file, --set and files";
        Ok(world.same("the run file", &text, remedy)?)
    }

    /// `true` for a resumed run.
    pub(crate) fn is_resumed(&self) -> bool {
        self.resume
    }

    /// Path of the run's folder, which may not exist yet.
    pub fn path(&self) -> &Path {
        &self.out
    }

    /// Prints the command that continues the run.
    pub fn how_to_go_on(&self, command: &str) -> String {
        format!("continue with: rlaif {command} --resume --out {}", self.out.display())
    }
}

/// The first line of a run's file, before the command that wrote it and its version.
const WRITTEN_BY: &str = "# rlaif ";
/// The rest of that line.
const WITH_DEFAULTS: &str = ", with every default.";

/// The command that wrote a run's file; `None` for other files.
fn writer(text: &str) -> Option<&str> {
    let line = text.lines().next()?.strip_prefix(WRITTEN_BY)?.strip_suffix(WITH_DEFAULTS)?;
    line.split_once(' ').map(|(command, _)| command)
}

/// The most bytes of a run file.
pub(crate) const LONGEST: u64 = 1 << 24;

/// A run file of this command: the user's file, or one that a run wrote.
pub(crate) fn read_table(path: &Path, command: &'static str) -> Result<Table, RunError> {
    let text = rlaif_files::read_text(path, LONGEST)
        .map_err(|source| RunError::Read { path: path.to_owned(), source })?;
    if let Some(writer) = writer(&text).filter(|writer| *writer != command) {
        return Err(RunError::OtherCommand {
            file: path.to_owned(),
            writer: writer.to_owned(),
            command,
        });
    }
    text.parse().map_err(|source: toml::de::Error| {
        let start = source.span().map_or(0, |span| span.start).min(text.len());
        let before = text.as_bytes()[..start].iter().rev();
        let column = 1 + before.take_while(|&&byte| byte != b'\n').count();
        let line = 1 + text.as_bytes()[..start].iter().filter(|&&byte| byte == b'\n').count();
        // The error does not contain the line, which may be long or contain a key.
        let problem = format!("line {line}, column {column}: {}", source.message());
        RunError::Syntax { path: path.to_owned(), problem }
    })
}

pub(crate) fn parse<T: DeserializeOwned + Serialize>(
    path: &Path,
    written: &Table,
) -> Result<T, RunError> {
    let written = &with_prompt_form(written);
    check_names(path, written)?;
    check_numbers(path, written)?;
    let whole = Value::Table(written.clone());
    let parsed = serde_path_to_error::deserialize(whole).map_err(|error| {
        let message = error.inner().message();
        // serde says `.` at the top level, and stops at a table of one of several kinds.
        let key = error.path().to_string();
        let key = if key == "." { String::new() } else { key };
        let (key, message) = match below_table(message) {
            Some((below, message)) => (format!("{key}.{below}"), message),
            None => (key, message),
        };
        let below = lookup(written, &key).and_then(|table| wrong_key(message, table));
        let key = match below {
            Some(below) if key.is_empty() => below,
            Some(below) => format!("{key}.{below}"),
            None => key,
        };
        let names = names_at::<T>(written, &key);
        let value = value_at(written, &key);
        let problem = describe_toml_value(message, value, names.as_deref());
        RunError::Content { path: path.to_owned(), key, problem }
    })?;
    // As parsed: 1e39 is too large for an f32.
    check_numbers(path, &table(&parsed)?)?;
    Ok(parsed)
}

/// The value of a key such as `reward.of[0].kind`.
fn value_at<'t>(table: &'t Table, key: &str) -> Option<&'t Value> {
    let key = key.replace('[', ".").replace(']', "");
    let (first, rest) = key.split_once('.').unwrap_or((&key, ""));
    let parts = rest.split('.').filter(|part| !part.is_empty());
    parts.into_iter().try_fold(table.get(first)?, |value, part| match value {
        Value::Array(all) => all.get(part.parse::<usize>().ok()?),
        value => value.get(part),
    })
}

/// The names that may stand in the place of a value: serde lists them for a name that it does not know.
fn names_at<T: DeserializeOwned>(written: &Table, key: &str) -> Option<String> {
    let mut table = written.clone();
    set(&mut table, &format!("{key}=\"\"")).ok()?;
    let error = Value::Table(table).try_into::<T>().err()?;
    let (_, names) = error.message().split_once("unknown variant ``, expected ")?;
    Some(names.to_owned())
}

/// Keys that may be infinite.
const UNBOUNDED: [&str; 2] = ["ppo.value_clip", "ppo.ratio_threshold"];

/// Refuses NaN, and infinity where it has no meaning.
fn check_numbers(path: &Path, table: &Table) -> Result<(), RunError> {
    let mut bounded = table.clone();
    for key in UNBOUNDED {
        if let Some((section, key)) = key.split_once('.')
            && let Some(Value::Table(section)) = bounded.get_mut(section)
            && section.get(key).and_then(Value::as_float) == Some(f64::INFINITY)
        {
            section.remove(key);
        }
    }
    check_finite(&bounded).map_err(|NotFinite { path: key, value }| RunError::Content {
        path: path.to_owned(),
        key,
        problem: format!("is {value}; expected a finite number"),
    })
}

pub(crate) fn table(config: &impl Serialize) -> Result<Table, RunError> {
    Table::try_from(config).map_err(|source| RunError::Unwritable { source: source.into() })
}

/// Sets `a.b=v`, and `a.0.b=v` or `a[0].b=v` in an element of a list.
pub(crate) fn set(table: &mut Table, assignment: &str) -> Result<(), RunError> {
    let refuse = |problem| RunError::Set { assignment: assignment.to_owned(), problem };
    let (key, value) = assignment.split_once('=').ok_or_else(|| refuse("expected KEY=VALUE"))?;
    let value = value.trim();
    let parsed = format!("v = {value}").parse::<Table>().ok().and_then(|mut t| t.remove("v"));
    let value = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
    // `terms[0].reward` is `terms.0.reward`.
    let key = key.trim().replace('[', ".").replace(']', "");
    let parts: Vec<&str> = key.split('.').collect();
    // Checked before any change, so that a refusal leaves the table unchanged.
    if parts.iter().any(|part| part.is_empty()) {
        return Err(refuse("a part of the key is empty"));
    }
    let (last, above) = parts.split_last().expect("split gives at least one part");
    let (first, above) = match above.split_first() {
        Some((first, above)) => (*first, above),
        None => {
            table.insert((*last).to_owned(), value);
            return Ok(());
        }
    };
    let empty = || Value::Table(Table::new());
    let mut place = table.entry(first).or_insert_with(empty);
    for part in above {
        place = match place {
            Value::Table(table) => table.entry(*part).or_insert_with(empty),
            Value::Array(list) => element(list, part).map_err(refuse)?,
            _ => return Err(refuse("the key leads into a value")),
        };
    }
    match place {
        Value::Table(table) => {
            table.insert((*last).to_owned(), value);
        }
        Value::Array(list) => *element(list, last).map_err(refuse)? = value,
        _ => return Err(refuse("the key leads into a value")),
    }
    Ok(())
}

/// The element of a list that a part of a key names.
fn element<'a>(list: &'a mut [Value], part: &str) -> Result<&'a mut Value, &'static str> {
    let at: usize =
        part.parse().map_err(|_| "the key leads into a list: name an element, from 0")?;
    list.get_mut(at).ok_or("the list is shorter; elements are numbered from 0")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_earlier_key_of_the_prompt_form_is_read_and_not_beside_the_new_one() {
        let form = |text: &str| with_prompt_form(&text.parse().unwrap());
        for (chat, plain) in [("true", "chat"), ("false", "text")] {
            let table = form(&format!("[data]\nfile = 'p'\nchat = {chat}\n"));
            assert_eq!(table["prompt"]["plain"].as_str(), Some(plain));
            assert_eq!(table["data"].as_table().unwrap().len(), 1);
        }
        let both = form("[data]\nchat = true\n[prompt]\nplain = 'text'\n");
        let error = check_names(Path::new("e.toml"), &both).unwrap_err().to_string();
        assert!(error.contains("`data.chat`: renamed to `prompt.plain`"), "{error}");
    }

    #[test]
    fn a_value_in_the_place_of_a_name_is_told_with_the_names() {
        let file = "[model]\npath = 'm'\n[data]\nprompts = 'p'\n[reward]\nkind = 'length'\n\
                    longest = 3\nper = 1.0\n[ppo]\nsteps = 1\n";
        for (assignment, told) in [
            ("ppo.activations=true", "found boolean `true`, expected `keep` or `recompute`"),
            ("ppo.scores.missing={}", "found a table of 0 keys, expected one of `error`, "),
            ("ppo.generation.sampling=\"greedy\"", "found a string, expected a table"),
            ("reward.kind=3", "found integer `3`, expected one of `classifier`, "),
            ("reward={kind='mean', of=[{kind=3}]}", "`reward.of[0].kind`: found integer `3`"),
        ] {
            let mut table: Table = file.parse().unwrap();
            set(&mut table, assignment).unwrap();
            let error = parse::<crate::PpoFile>(Path::new("p.toml"), &table).unwrap_err();
            assert!(error.to_string().contains(told), "{assignment}: {error}");
        }
    }

    #[test]
    fn values_are_set_as_toml_or_as_they_stand() {
        let mut table: Table = "seed = 1\n[train]\nsteps = 2\n".parse().unwrap();
        for assignment in [
            "train.steps=3",
            "learn.optimizer.lr = 1e-4",
            "model.path=org/name",
            "a=[1, 2]",
            "b=true",
        ] {
            set(&mut table, assignment).unwrap();
        }
        assert_eq!(table["train"]["steps"].as_integer(), Some(3));
        assert_eq!(table["learn"]["optimizer"]["lr"].as_float(), Some(1e-4));
        assert_eq!(table["model"]["path"].as_str(), Some("org/name"));
        assert_eq!(table["a"].as_array().unwrap().len(), 2);
        assert_eq!(table["b"].as_bool(), Some(true));
        let mut listed: Table =
            "terms = [{ weight = 1 }, { weight = 2 }]\nn = [3, 4]".parse().unwrap();
        for assignment in ["terms.1.weight=5", "terms[0].reward.kind=\"length\"", "n[1]=6"] {
            set(&mut listed, assignment).unwrap();
        }
        assert_eq!(listed["terms"][1]["weight"].as_integer(), Some(5));
        assert_eq!(listed["terms"][0]["reward"]["kind"].as_str(), Some("length"));
        assert_eq!(listed["n"].as_array().unwrap()[1].as_integer(), Some(6));
        for (assignment, problem) in [
            ("terms.weight=1", "name an element, from 0"),
            ("terms[2].weight=1", "the list is shorter"),
            ("n.0.x=1", "leads into a value"),
        ] {
            let error = set(&mut listed, assignment).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        for (assignment, problem) in [
            ("seed", "expected KEY=VALUE"),
            ("seed.x=1", "leads into a value"),
            ("=1", "a part of the key is empty"),
            ("a..b=1", "a part of the key is empty"),
        ] {
            let error = set(&mut table, assignment).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused_by_their_keys() {
        let parse = |text: &str| parse::<Table>("run.toml".as_ref(), &text.parse().unwrap());
        for (text, key) in [
            ("[learn.optimizer]\nlr = nan", "learn.optimizer.lr"),
            ("[learn.optimizer]\nbetas = [0.9, inf]", "learn.optimizer.betas[1]"),
            ("[[reward.terms]]\nweight = -inf", "reward.terms[0].weight"),
            ("[ppo]\nvalue_clip = nan", "ppo.value_clip"),
            ("[ppo]\nratio_threshold = -inf", "ppo.ratio_threshold"),
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.contains(&format!("`{key}`: is ")), "{said}");
        }
        parse("[ppo]\nvalue_clip = inf\nratio_threshold = inf").unwrap();
        // The type has an f32.
        let long = "[model]\npath = 'm'\n[data]\nprompts = 'p'\n\
                    [reward]\nkind = 'length'\nlongest = 1\nper = 1e39\n";
        let error = super::parse::<crate::PpoFile>("run.toml".as_ref(), &long.parse().unwrap());
        let said = error.unwrap_err().to_string();
        assert!(said.contains("`reward.per`: is inf"), "{said}");
    }

    #[test]
    fn a_value_of_another_type_is_named_below_a_reward_as_well() {
        let text = "[model]\npath = 'm'\n[data]\nprompts = 'p'\n[reward]\nkind = 'judge'\n\
                    rubric = 'quality'\napi = { kind = 'openai', model = 'm' }\n\
                    limits = { timeout_s = 'long' }\n";
        let error = parse::<crate::PpoFile>("run.toml".as_ref(), &text.parse().unwrap());
        let said = error.unwrap_err().to_string();
        let told = "`reward.limits.timeout_s`: found a string, expected a number";
        assert!(said.contains(told), "{said}");
    }

    #[test]
    fn files_and_patterns_are_found_from_another_folder_and_hub_ids_stay() {
        let root = tempfile::tempdir().unwrap();
        let here = root.path().join("a [b]");
        fs::create_dir(&here).unwrap();
        fs::write(here.join("rows-1.jsonl"), "").unwrap();
        assert_eq!(absolute("org/name", &here), "org/name");
        assert_eq!(absolute("/data/*.jsonl", &here), "/data/*.jsonl");
        let file = absolute("rows-1.jsonl", &here);
        assert!(Path::new(&file).is_absolute() && Path::new(&file).exists(), "{file}");
        let pattern = absolute("rows-*.jsonl", &here);
        assert!(Path::new(&pattern).is_absolute(), "{pattern}");
        rlaif_data::Source::glob(&pattern).unwrap();
    }

    #[test]
    fn a_run_knows_every_place_that_its_reward_names() {
        let judge =
            "{ kind = 'judge', rubric = 'toxicity', api = { kind = 'policy', model = 'judge' } }";
        let text =
            format!("reward = {judge}\n[model]\npath = 'policy'\n[data]\nprompts = 'rows'\n");
        let mut run: crate::PpoFile = toml::from_str(&text).unwrap();
        assert_eq!(run.locations(), ["policy", "rows", "judge"]);
        let text = format!("[model]\npath = 'policy'\n[online]\nreward = {judge}\n");
        let mut run: crate::DpoFile = toml::from_str(&text).unwrap();
        assert_eq!(run.locations(), ["policy", "judge"]);
    }

    #[test]
    fn names_of_earlier_versions_in_lists_are_refused_with_those_of_today() {
        let said = |text: &str, parse: fn(&Path, &Table) -> Result<(), RunError>| {
            parse("run.toml".as_ref(), &text.parse().unwrap()).unwrap_err().to_string()
        };
        let api = "api = { kind = 'policy', model = 'm' }";
        let writers = format!("[data]\nfile = 'p'\n[[writers]]\nsamples = 2\n{api}\n");
        let found =
            said(&writers, |path, table| parse::<crate::CandidatesFile>(path, table).map(|_| ()));
        assert!(found.contains("`samples`: renamed to `responses`"), "{found}");
        for (metric, says) in [
            ("kind = 'rouge', stem = true", "`stem`: renamed to `stemming`"),
            ("kind = 'length', characters = true", "`characters`: renamed to `unit`"),
            (
                "kind = 'reward', reward = { kind = 'classifier', model = 'm', max_length = 8 }",
                "`max_length`: renamed to `max_tokens`",
            ),
        ] {
            let text = format!("metrics = [{{ {metric} }}]\n");
            let found =
                said(&text, |path, table| parse::<crate::EvalFile>(path, table).map(|_| ()));
            assert!(found.contains(says), "{found}");
        }
    }

    #[test]
    fn names_of_earlier_versions_are_refused_with_those_of_today() {
        for (text, says) in [
            ("[learn]\nmicrobatch = 2", "`learn.microbatch`: renamed to `learn.microbatch_size`"),
            ("[dpo]\nrecompute = true", "`dpo.recompute`: renamed to `dpo.activations`"),
            ("[model]\nprecision = 'bf16'", "`model.precision`: renamed to `model.dtype`"),
            ("[ppo]\nseed = 3", "`ppo.seed`: renamed to `seed`, at the top of the file"),
            ("[output]\nkeep = 3", "`output.keep`: renamed to `train.keep`"),
            ("[rows]\nmax_tokens = 8", "`rows.max_tokens`: renamed to `data.max_tokens`"),
            ("[dpo]\nprompts = 'twice'", "`dpo.prompts`: renamed to `dpo.prompt_forward`"),
            ("[online.sampling]", "`online.sampling`: renamed to `online.pairs`"),
            ("[data]\nreference = 'x'", "`data.reference`: renamed to `data.reference_column`"),
            ("[ppo.pretraining]\nrows = 2", "renamed to `ppo.pretraining.batch_size`"),
            ("centring = 0.1", "`centring`: renamed to `centring_coef`"),
            ("[rounds]\nmost = 2", "`rounds.most`: renamed to `rounds.max_rounds`"),
            ("[episodes]\ntime_limit_s = 9", "renamed to `episodes.timeout_s`"),
            ("prompts = 3", "`prompts`: renamed to `new_prompts`"),
            ("examples = 3", "`examples`: renamed to `shown_examples`"),
            ("rows = 'last'", "`rows`: renamed to `revisions`"),
            ("[learn]\ndropout = true", "`learn.dropout`: is `on` or `off` now"),
        ] {
            let error = parse::<Table>("run.toml".as_ref(), &text.parse().unwrap()).unwrap_err();
            let said = error.to_string();
            assert!(said.contains(says), "{said}");
        }
        let today = "seed = 1\nexamples = []\n[rows]\n[learn]\ndropout = 'on'\nmicrobatch_size = 2";
        assert!(parse::<Table>("run.toml".as_ref(), &today.parse().unwrap()).is_ok());
    }
}
