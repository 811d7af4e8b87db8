//! `rlaif pipeline`: stages whose outputs are the inputs of others.

mod commands;
mod graph;
mod key;
mod report;
mod rounds;
mod stage;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    fs::TryLockError,
    path::{Path, PathBuf},
    time::Instant,
};

use rlaif_core::{Interrupted, say};
use rlaif_train::Interrupt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::{
    error::RunError,
    file::{parse, read_table, set},
    pipeline::{
        commands::{COMMANDS, StageCommand, StagePlace, count_rows, is_missing},
        graph::{Stage, replaced, stages},
        key::{fingerprint, key},
    },
};

pub use rounds::{RoundGain, Rounds};
pub use stage::{PlannedStage, StageRecord, StageState};

/// The file of `rlaif pipeline`. `docs/pipeline.md` describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineFile {
    /// The heading of the report.
    #[serde(default = "PipelineFile::title")]
    pub title: String,
    /// The folder of stages and report; `--out` overrides it. By default `runs/NAME` for a file `NAME.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<PathBuf>,
    /// The stages by name: `command`, `config` for a run file that the stage begins with, and the keys of the
    /// command's run file, in which `@STAGE.OUTPUT` names an output of another stage.
    #[schemars(with = "BTreeMap<String, serde_json::Map<String, serde_json::Value>>")]
    pub stages: BTreeMap<String, Table>,
    /// Stages that are repeated, such as those of self-rewarding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<Rounds>,
}

impl PipelineFile {
    fn title() -> String {
        "Pipeline".to_owned()
    }
}

/// A user's request for a pipeline.
#[derive(Debug, Clone, Default)]
pub struct PipelineRequest {
    /// The file.
    pub file: PathBuf,
    /// The folder of stages and report.
    pub out: Option<PathBuf>,
    /// `a.b=v`: overrides of the file's keys.
    pub set: Vec<String>,
}

/// A pipeline whose stages have been checked, and have keys.
pub struct Pipeline {
    file: PathBuf,
    title: String,
    out: PathBuf,
    rounds: Option<Rounds>,
    stages: Vec<PlannedStage>,
}

/// The record of a stage, in its folder. It is written last.
const DONE: &str = "stage.json";
const RUN_FILE: &str = "stage.toml";

impl Pipeline {
    /// Reads a file, checks all its stages and makes their keys. Nothing is written.
    ///
    /// # Errors
    /// [`RunError::Content`] names the stage and the key: an unknown command, stage, output or key, a missing
    /// input, a circle.
    pub fn open(request: &PipelineRequest) -> Result<Self, RunError> {
        let path = &request.file;
        let mut written = read_table(path, "pipeline")?;
        for assignment in &request.set {
            set(&mut written, assignment)?;
        }
        let file: PipelineFile = parse(path, &written)?;
        let out = request.out.clone().or(file.out).unwrap_or_else(|| {
            Path::new("runs").join(path.file_stem().unwrap_or("pipeline".as_ref()))
        });
        let tables = file.stages.into_iter().map(|(name, table)| {
            let table = with_base(path, &name, table)?;
            Ok((name, table))
        });
        let mut tables: BTreeMap<String, Table> = tables.collect::<Result<_, RunError>>()?;
        if let Some(rounds) = &file.rounds {
            tables = rounds.expanded(path, tables)?;
        }
        let rounds = file.rounds.as_ref();
        let waits_for = |name: &str| rounds.and_then(|rounds| rounds.waits_for(name));
        let sorted = stages(path, &tables, waits_for)?;
        let commands: BTreeMap<&str, &'static StageCommand> =
            sorted.iter().map(|stage| (stage.name.as_str(), stage.command)).collect();
        let mut planned: Vec<PlannedStage> = Vec::new();
        for stage in &sorted {
            let next = plan(path, &out, stage, &commands, &planned)?;
            planned.push(next);
        }
        let (title, rounds) = (file.title, file.rounds);
        Ok(Self { file: path.clone(), title, out, rounds, stages: planned })
    }

    /// The stages, each after those that it needs.
    pub fn stages(&self) -> &[PlannedStage] {
        &self.stages
    }

    /// The folder of stages and report.
    pub fn folder(&self) -> &Path {
        &self.out
    }

    /// The plan as lines for the terminal.
    pub fn plan(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let width = self.stages.iter().map(|stage| stage.name.len()).max().unwrap_or(0);
        let mut cost: Option<f64> = None;
        for stage in &self.stages {
            let mut parts = vec![format!("{} ({})", stage.command, stage.state)];
            if !stage.needs.is_empty() {
                parts.push(format!("after {}", stage.needs.join(", ")));
            }
            if !stage.size.about.is_empty() {
                parts.push(stage.size.about.clone());
            }
            if let Some(memory) = stage.memory {
                parts.push(format!("at least {:.2} GiB", memory as f64 / f64::from(1 << 30)));
            }
            if let Some(own) = stage.size.cost {
                parts.push(format!("cost about {own:.2}"));
                if stage.state != StageState::Done {
                    cost = Some(cost.unwrap_or(0.) + own);
                }
            }
            if let Some(budget) = stage.size.budget {
                parts.push(format!("budget {budget:.2}"));
            }
            lines.push(format!("{:width$}  {}", stage.name, parts.join("; ")));
        }
        if let Some(cost) = cost {
            lines.push(format!("cost of what is left: about {cost:.2}"));
        }
        lines
    }

    /// Runs the stages that are not complete, one after the other, and writes the report. After an
    /// interruption, the same call continues.
    ///
    /// # Errors
    /// [`RunError::Stage`] with the stage and its error; [`RunError::Interrupted`] after Ctrl-C;
    /// [`RunError::Verdicts`] if another process runs a pipeline in the folder.
    pub fn run(&self) -> Result<Vec<StageRecord>, RunError> {
        Interrupt::install()?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| RunError::Write { path: path.clone(), source }
        };
        fs::create_dir_all(&self.out).map_err(failed(&self.out))?;
        let lock = self.out.join("pipeline.lock");
        let held = rlaif_files::open_growing(&lock).map_err(failed(&lock))?;
        if let Err(TryLockError::WouldBlock) = held.try_lock() {
            return Err(RunError::Busy { path: self.out.clone() });
        }
        let mut records = Vec::new();
        let mut sentences = Vec::new();
        // The last round, if a round did not gain, and the stages that it leaves out.
        let mut last: Option<u32> = None;
        let mut left_out: BTreeSet<&str> = BTreeSet::new();
        for (at, stage) in self.stages.iter().enumerate() {
            let number = format!("stage {}/{}, {}", at + 1, self.stages.len(), stage.name);
            let round = self.rounds.as_ref().and_then(|rounds| rounds.round_of(&stage.name));
            let is_later = last.is_some() && round > last;
            if is_later || stage.needs.iter().any(|name| left_out.contains(name.as_str())) {
                left_out.insert(&stage.name);
                say(format_args!("{number}: left out, because the rounds have ended"));
                continue;
            }
            let record = self.complete(stage, &number)?;
            let rounds = self.rounds.as_ref().filter(|_| last.is_none());
            if let Some(why) = rounds.and_then(|r| r.ends_after(&stage.name, &record.summary)) {
                say(format_args!("{why}"));
                sentences.push(why);
                last = round;
            }
            records.push((stage, record));
        }
        report::write(&self.title, &self.out, sentences, &records)?;
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }

    /// The record of a stage, which is run if it is not complete.
    fn complete(&self, stage: &PlannedStage, number: &str) -> Result<StageRecord, RunError> {
        if let Some(record) = stage.record()? {
            say(format_args!("{number}: {} is reused", stage.folder.display()));
            return Ok(record);
        }
        say(format_args!("{number}: rlaif {} in {}", stage.command, stage.folder.display()));
        stage.run(&self.file, &self.out).map_err(|error| {
            if Interrupted::ended(&error) || matches!(error, RunError::Interrupted { .. }) {
                let how = format!(
                    "continue with: rlaif pipeline {} --out {}",
                    self.file.display(),
                    self.out.display()
                );
                return RunError::Interrupted { how };
            }
            RunError::Stage { stage: stage.name.clone(), source: Box::new(error) }
        })
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("file", &self.file)
            .field("out", &self.out)
            .field("stages", &self.stages)
            .finish_non_exhaustive()
    }
}

impl PlannedStage {
    /// The record of the stage, if it is complete.
    fn record(&self) -> Result<Option<StageRecord>, RunError> {
        let path = self.folder.join(DONE);
        if !path.exists() {
            return Ok(None);
        }
        let text = rlaif_files::read_bytes(&path, u64::MAX)
            .map_err(|source| RunError::Read { path: path.clone(), source })?;
        serde_json::from_slice(&text).map(Some).map_err(|error| RunError::Verdicts {
            problem: format!("is damaged ({error}); remove {}", self.folder.display()),
            path,
        })
    }

    fn run(&self, file: &Path, out: &Path) -> Result<StageRecord, RunError> {
        let begin = Instant::now();
        fs::create_dir_all(&self.folder)
            .map_err(|source| RunError::Write { path: self.folder.clone(), source })?;
        let run_file = self.folder.join(RUN_FILE);
        let text = toml::to_string(&self.settings)
            .map_err(|source| RunError::Unwritable { source: source.into() })?;
        let text = format!(
            "# rlaif {}, stage `{}` of {}\n\n{text}",
            self.command,
            self.name,
            file.display()
        );
        rlaif_files::write_bytes(&run_file, text.as_bytes())
            .map_err(|source| RunError::Write { path: run_file.clone(), source })?;
        let work = (self.open.open)(&run_file, &self.settings)?;
        let place = StagePlace { folder: &self.folder, run_file: &run_file, caches: out };
        let summary = work.run(&place)?;
        let record = StageRecord {
            stage: self.name.clone(),
            command: self.command.to_owned(),
            key: self.key.clone(),
            seconds: begin.elapsed().as_secs_f64(),
            summary,
        };
        rlaif_checkpoint::write_json(&self.folder.join(DONE), &record)?;
        Ok(record)
    }
}

/// The settings of a stage on top of those of its `config`.
fn with_base(file: &Path, name: &str, mut table: Table) -> Result<Table, RunError> {
    fn merge(base: &mut Table, over: Table) {
        for (key, value) in over {
            match (base.get_mut(&key), value) {
                (Some(toml::Value::Table(below)), toml::Value::Table(value)) => merge(below, value),
                (_, value) => {
                    base.insert(key, value);
                }
            }
        }
    }
    match table.remove("config") {
        None => Ok(table),
        Some(toml::Value::String(path)) => {
            let command = table.get("command").and_then(toml::Value::as_str);
            let known = COMMANDS.iter().find(|known| Some(known.name) == command);
            let mut base = read_table(Path::new(&path), known.map_or("pipeline", |c| c.name))?;
            merge(&mut base, table);
            Ok(base)
        }
        Some(_) => Err(RunError::Content {
            path: file.to_owned(),
            key: format!("stages.{name}.config"),
            problem: "found another type, expected the path of a run file".to_owned(),
        }),
    }
}

/// Checks a stage, and makes its key from those of the stages before it.
fn plan(
    file: &Path,
    out: &Path,
    stage: &Stage,
    commands: &BTreeMap<&str, &'static StageCommand>,
    before: &[PlannedStage],
) -> Result<PlannedStage, RunError> {
    let Stage { name, command, settings, needs } = stage;
    let within = |error: RunError| match error {
        RunError::Content { path, key, problem } if path == file => {
            let dot = if key.is_empty() { "" } else { "." };
            RunError::Content { path, key: format!("stages.{name}{dot}{key}"), problem }
        }
        other => other.within(&format!("stages.{name}")),
    };
    let of = |name: &str| before.iter().find(|stage| stage.name == name);
    // With the keys of other stages in place of their outputs.
    let keyed = replaced(settings, commands, &mut |reference| {
        let key = of(&reference.stage).map_or("", |stage| stage.key.as_str());
        format!("@{}.{}#{key}", reference.stage, reference.output)
    });
    let mut work = (command.open)(file, &keyed).map_err(within)?;
    work.check().map_err(within)?;
    let rows_of = |location: &str| match location.strip_prefix('@') {
        Some(named) => of(named.split('.').next()?)?.size.rows,
        None => count_rows(location),
    };
    let size = work.size(&rows_of);
    for location in work.locations() {
        if is_missing(location) {
            return Err(RunError::Content {
                path: file.to_owned(),
                key: format!("stages.{name}"),
                problem: format!(
                    "there is no file `{location}`; give a file that exists, or an output of another \
                     stage, as `@STAGE.OUTPUT`"
                ),
            });
        }
        *location = fingerprint(location)?;
    }
    let key = key(command.name, &work.settings()?)?;
    // With the model that a training of another stage began with, whose size is the same.
    let sized = replaced(settings, commands, &mut |reference| {
        let model = of(&reference.stage).and_then(|stage| stage.base.clone());
        model.unwrap_or_default()
    });
    let sized = (command.open)(file, &sized).ok();
    let folder = out.join(name).join(&key);
    let state = match (folder.join(DONE).exists(), folder.exists()) {
        (true, _) => StageState::Done,
        (false, true) => StageState::Begun,
        (false, false) => StageState::New,
    };
    let settings = replaced(settings, commands, &mut |reference| {
        let folder = of(&reference.stage).map(|stage| stage.folder.join(reference.place));
        folder.unwrap_or_default().display().to_string()
    });
    Ok(PlannedStage {
        name: name.clone(),
        command: command.name,
        needs: needs.iter().cloned().collect(),
        key,
        folder,
        state,
        memory: sized.as_ref().and_then(|work| work.memory()),
        base: sized.and_then(|work| work.model().map(str::to_owned)),
        size,
        settings,
        open: command,
    })
}
