//! The commands of stages: their run files, outputs, and work.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use rlaif_core::BadSetting;
use rlaif_data::builtin::{self, Part};
use rlaif_eval::read_curves;
use rlaif_label::{Orders, Questions};
use rlaif_lm::Activations;
use rlaif_models::MemoryPlan;
use rlaif_rewards::judge::{BudgetConfig, ComparerConfig, PriceConfig};
use rlaif_rewards::rubric::PairAnswer;
use serde::Serialize;
use serde_json::{Map, Value, json};
use toml::Table;

use crate::{
    AnnotateFile, CandidatesFile, ClassifierFile, DistillFile, DpoFile, EvalFile, ExamFile,
    LabelFile, PpoFile, RedTeamFile, ReinforceFile, ReviseFile, RewardFile, SftFile,
    error::RunError,
    file::{RunFile, RunRequest, parse, table},
    recipe::{Basics, Recipe, train},
    source::{is_pattern, source},
    work::Work,
};

/// A command that a stage can run.
#[derive(Clone, Copy)]
pub(crate) struct StageCommand {
    pub(crate) name: &'static str,
    /// The outputs with their places in the stage's folder. `@stage` is the first one.
    pub(crate) outputs: &'static [(&'static str, &'static str)],
    /// Reads settings as the run file of the command. Errors name keys below the settings.
    pub(crate) open: Open,
}

/// Reads the settings of a stage; the path is that of the pipeline's file.
type Open = fn(&Path, &Table) -> Result<Box<dyn StageRun>, RunError>;

impl fmt::Debug for StageCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

const MODEL: &[(&str, &str)] = &[("model", "run/model"), ("run", "run")];

/// The commands that stages can run.
pub(crate) const COMMANDS: [StageCommand; 14] = [
    training::<SftFile>(),
    training::<ClassifierFile>(),
    training::<RewardFile>(),
    training::<PpoFile>(),
    training::<ReinforceFile>(),
    training::<DistillFile>(),
    training::<DpoFile>(),
    rows::<RedTeamFile>(),
    rows::<CandidatesFile>(),
    StageCommand {
        outputs: &[
            ("rows", ROWS),
            ("lessons", "rows.lessons.jsonl"),
            ("lists", "rows.lists.jsonl"),
        ],
        ..rows::<LabelFile>()
    },
    rows::<ReviseFile>(),
    rows::<AnnotateFile>(),
    StageCommand {
        name: "exam",
        outputs: &[("result", "exam/exam.json")],
        open: |file, settings| Ok(Box::new(Working(parse::<ExamFile>(file, settings)?))),
    },
    StageCommand {
        name: "eval",
        outputs: &[("report", "eval")],
        open: |file, settings| Ok(Box::new(Working(parse::<EvalFile>(file, settings)?))),
    },
];

const fn training<R: Recipe + 'static>() -> StageCommand {
    StageCommand {
        name: R::COMMAND,
        outputs: MODEL,
        open: |file, settings| Ok(Box::new(Training(parse::<R>(file, settings)?))),
    }
}

const fn rows<T: Writes + 'static>() -> StageCommand {
    StageCommand {
        name: T::COMMAND,
        outputs: &[("rows", ROWS)],
        open: |file, settings| Ok(Box::new(Working(parse::<T>(file, settings)?))),
    }
}

/// The file of rows in the folder of a stage that writes rows.
const ROWS: &str = "rows.jsonl";

/// The work of a stage, whose run file has been read.
pub(crate) trait StageRun {
    /// The locations in the run file that may be local files or folders.
    fn locations(&mut self) -> Vec<&mut String>;

    /// The run file with every default.
    fn settings(&self) -> Result<Table, RunError>;

    /// Checks everything that needs no model and no data.
    fn check(&self) -> Result<(), RunError>;

    /// Sizes of the work, as far as they are known; `rows_of` counts the rows of a location.
    fn size(&self, rows_of: &dyn Fn(&str) -> Option<usize>) -> StageSize;

    /// The least memory for training the model, in bytes, if its files are here.
    fn memory(&self) -> Option<u64> {
        None
    }

    /// The model that it trains, or trains an adapter on.
    fn model(&self) -> Option<&str> {
        None
    }

    /// Does what is left of the work, and returns what the report tells about it.
    fn run(&self, place: &StagePlace<'_>) -> Result<Value, RunError>;
}

/// The files of a stage.
pub(crate) struct StagePlace<'a> {
    /// The stage's folder.
    pub(crate) folder: &'a Path,
    /// The run file in it.
    pub(crate) run_file: &'a Path,
    /// The folder that caches are relative to.
    pub(crate) caches: &'a Path,
}

/// Sizes of a stage's work.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct StageSize {
    /// In words: rows, steps.
    pub(crate) about: String,
    /// The number of rows that it writes, at most.
    pub(crate) rows: Option<usize>,
    /// An estimate of the cost of its questions, and the limit of spending.
    pub(crate) cost: Option<f64>,
    pub(crate) budget: Option<f64>,
}

struct Training<R>(R);

impl<R: Recipe> StageRun for Training<R> {
    fn locations(&mut self) -> Vec<&mut String> {
        self.0.locations()
    }

    fn settings(&self) -> Result<Table, RunError> {
        table(&self.0)
    }

    fn check(&self) -> Result<(), RunError> {
        self.0.check()
    }

    fn size(&self, rows_of: &dyn Fn(&str) -> Option<usize>) -> StageSize {
        let Ok(settings) = self.settings() else { return StageSize::default() };
        let section = |name: &str| settings.get(name).and_then(toml::Value::as_table);
        let number = |section: Option<&Table>, key: &str| {
            section.and_then(|table| table.get(key)).and_then(toml::Value::as_integer)
        };
        // Each algorithm has its steps in its own section, or in [train].
        let own = section(R::COMMAND).filter(|own| own.contains_key("steps"));
        let steps = number(own.or(section("train")), "steps").filter(|steps| *steps > 0);
        let batch = number(own, "batch_size").or(number(section("train"), "batch_size"));
        let data = section("data");
        let data = ["train", "prompts"].iter().find_map(|key| data?.get(*key)?.as_str());
        let mut parts = Vec::new();
        if let Some(rows) = data.and_then(rows_of) {
            parts.push(format!("{rows} rows"));
        }
        if let Some(steps) = steps {
            parts.push(format!("{steps} steps"));
        }
        if let Some(batch) = batch {
            parts.push(format!("batches of {batch}"));
        }
        StageSize { about: parts.join(", "), ..StageSize::default() }
    }

    fn memory(&self) -> Option<u64> {
        let Basics { placement, model, .. } = self.0.basics();
        if !Path::new(&model.path).exists() {
            return None;
        }
        let options = placement.options(model.dtype).ok()?;
        let plan = MemoryPlan { activations: Activations::Keep, ..model.memory(options).ok()? };
        Some(plan.needed().ok()?.total())
    }

    fn model(&self) -> Option<&str> {
        Some(&self.0.basics().model.path)
    }

    fn run(&self, place: &StagePlace<'_>) -> Result<Value, RunError> {
        let out = place.folder.join("run");
        let request = RunRequest {
            config: Some(place.run_file.to_owned()),
            resume: out.join("run.toml").exists(),
            out: Some(out.clone()),
            ..RunRequest::default()
        };
        train::<R>(&request)?;
        let mut measured = Map::new();
        for curve in read_curves(&out.join("metrics.jsonl"))? {
            let shown = R::SHOWN.contains(&curve.name.as_str()) && !curve.name.starts_with("time/");
            let ends = (curve.points.first(), curve.points.last());
            if let (true, (Some(first), Some(last))) = (shown, ends) {
                let ends = json!({"first": first.1, "last": last.1, "steps": last.0});
                measured.insert(curve.name, ends);
            }
        }
        Ok(Value::Object(measured))
    }
}

/// A command that writes a file of rows, and keeps its results as they come.
pub(crate) trait Writes: Work<Out = PathBuf, Error = RunError, Summary: Serialize> {
    fn size(&self, rows_of: &dyn Fn(&str) -> Option<usize>) -> StageSize;

    /// Checks settings before any stage runs.
    fn check(&self) -> Result<(), RunError> {
        Ok(())
    }
}

/// A command of a stage that trains nothing.
trait StageWork: RunFile {
    /// The folder of results that the file names, which a stage refuses: it has its own.
    fn own_folder(&self) -> Option<&Path> {
        None
    }

    /// As [`StageRun::check`], besides the folder.
    fn check_settings(&self) -> Result<(), RunError> {
        Ok(())
    }

    /// As [`StageRun::size`].
    fn size_of_work(&self, rows_of: &dyn Fn(&str) -> Option<usize>) -> StageSize;

    /// As [`StageRun::run`].
    fn work_in(&self, place: &StagePlace<'_>) -> Result<Value, RunError>;
}

struct Working<T>(T);

impl<T: StageWork> StageRun for Working<T> {
    fn locations(&mut self) -> Vec<&mut String> {
        self.0.locations()
    }

    fn settings(&self) -> Result<Table, RunError> {
        table(&self.0)
    }

    fn check(&self) -> Result<(), RunError> {
        let Some(out) = self.0.own_folder() else { return self.0.check_settings() };
        let expected = "left out: results are in the folder of the stage";
        Err(BadSetting::new("out", out.display().to_string(), expected).into())
    }

    fn size(&self, rows_of: &dyn Fn(&str) -> Option<usize>) -> StageSize {
        self.0.size_of_work(rows_of)
    }

    fn run(&self, place: &StagePlace<'_>) -> Result<Value, RunError> {
        self.0.work_in(place)
    }
}

impl<T: Writes> StageWork for T {
    fn check_settings(&self) -> Result<(), RunError> {
        self.check()
    }

    fn size_of_work(&self, rows_of: &dyn Fn(&str) -> Option<usize>) -> StageSize {
        self.size(rows_of)
    }

    fn work_in(&self, place: &StagePlace<'_>) -> Result<Value, RunError> {
        let out = place.folder.join(ROWS);
        if out.exists() {
            // The process ended between the rows and the record of the stage: the rows are complete.
            let text = rlaif_files::read_text(&out, u64::MAX)
                .map_err(|source| RunError::Read { path: out.clone(), source })?;
            return Ok(json!({"rows": text.lines().count()}));
        }
        let summary = self.work(place.caches, &out)?;
        Ok(serde_json::to_value(summary).unwrap_or_default())
    }
}

/// The cost of questions of this length to a service with these prices, and the limit of its budget.
fn cost(
    price: Option<PriceConfig>,
    budget: Option<BudgetConfig>,
    questions: Option<usize>,
    [input, output]: [usize; 2],
) -> [Option<f64>; 2] {
    let of = |price: PriceConfig| {
        let of_one =
            input as f64 * price.input_per_million + output as f64 * price.output_per_million;
        Some(questions? as f64 * of_one / 1e6)
    };
    [price.and_then(of), budget.and_then(|budget| budget.money)]
}

/// Tokens of a judge's answer about a pair: for estimates.
fn answer_tokens(judge: &ComparerConfig) -> u32 {
    judge.sampling.max_new_tokens.unwrap_or(match judge.answer {
        PairAnswer::Label => 8,
        PairAnswer::Explained => 300,
    })
}

/// Tokens of a prompt of a usual length, and of what a judge of pairs is asked: for estimates.
const PROMPT_TOKENS: usize = 200;
const PAIR_TOKENS: usize = 700;

fn plus(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}

impl Writes for RedTeamFile {
    fn size(&self, rows_of: &dyn Fn(&str) -> Option<usize>) -> StageSize {
        let included: Option<usize> = self.data.include.iter().map(|file| rows_of(file)).sum();
        let output = self.writer.sampling.max_new_tokens.unwrap_or(512) as usize;
        let tokens = [PROMPT_TOKENS, output];
        let [cost, budget] =
            cost(self.writer.price, self.writer.budget, Some(self.new_prompts), tokens);
        let about = format!("{} prompts to write", self.new_prompts);
        StageSize { about, rows: included.map(|rows| rows + self.new_prompts), cost, budget }
    }
}

impl Writes for CandidatesFile {
    fn size(&self, rows_of: &dyn Fn(&str) -> Option<usize>) -> StageSize {
        let rows = rows_of(&self.data.file);
        let rows = rows.map(|rows| rows.min(self.data.take.unwrap_or(usize::MAX)));
        let samples: usize = self.writers.iter().map(|writer| writer.responses as usize).sum();
        let mut size = StageSize { rows, ..StageSize::default() };
        if let Some(rows) = rows {
            size.about = format!("{rows} prompts, {} responses", rows * samples);
        }
        for writer in &self.writers {
            let questions = rows.map(|rows| rows * writer.responses as usize);
            let output = writer.sampling.max_new_tokens.unwrap_or(512) as usize;
            let [own, budget] =
                cost(writer.price, writer.budget, questions, [PROMPT_TOKENS, output]);
            size.cost = plus(size.cost, own);
            size.budget = plus(size.budget, budget);
        }
        size
    }
}

impl Writes for LabelFile {
    fn size(&self, rows_of: &dyn Fn(&str) -> Option<usize>) -> StageSize {
        let rows = rows_of(&self.data.file);
        let rows = rows.map(|rows| rows.min(self.data.take.unwrap_or(usize::MAX)));
        let about = rows.map_or_else(String::new, |rows| format!("{rows} prompts or pairs"));
        let mut size = StageSize { about, rows, ..StageSize::default() };
        let orders = match (self.questions, self.orders) {
            // The number of responses to each prompt is not known before they are written.
            (Questions::Lists, _) => self.rotations,
            (Questions::Pairs, Orders::Both) => Some(2),
            (Questions::Pairs, Orders::One) => Some(1),
        };
        for facet in self.facets.iter().filter(|facet| facet.reward.is_none()) {
            let Some(judge) = facet.judge.as_deref().or(self.judge.as_ref()) else { continue };
            let output = answer_tokens(judge);
            let samples = judge.samples.unwrap_or(1) as usize;
            let questions = rows.zip(orders).map(|(rows, orders)| rows * orders * samples);
            let tokens = [PAIR_TOKENS, output as usize];
            let [own, budget] = cost(judge.price, judge.budget, questions, tokens);
            size.cost = plus(size.cost, own);
            size.budget = plus(size.budget, budget.filter(|_| facet.judge.is_some()));
        }
        let of_all = self.judge.as_ref().and_then(|judge| judge.budget?.money);
        size.budget = plus(size.budget, of_all);
        size
    }
}

impl Writes for ReviseFile {
    fn size(&self, rows_of: &dyn Fn(&str) -> Option<usize>) -> StageSize {
        let rows = rows_of(&self.data.file);
        let rows = rows.map(|rows| {
            rows.min(self.data.take.unwrap_or(usize::MAX)) * self.writer.responses.max(1) as usize
        });
        let rounds = self.rounds as usize;
        let about = rows.map_or_else(String::new, |rows| {
            format!("{rows} responses, {} revisions", rows * rounds)
        });
        let questions = rows.map(|rows| {
            rows * rounds * if self.critique == crate::Critiques::Written { 2 } else { 1 }
        });
        let output = self.writer.sampling.max_new_tokens.unwrap_or(512) as usize;
        let [cost, budget] =
            cost(self.writer.price, self.writer.budget, questions, [PAIR_TOKENS, output]);
        let of_each = match self.revisions {
            crate::RevisedRows::All => rounds,
            crate::RevisedRows::Last => 1,
        };
        StageSize { about, rows: rows.map(|rows| rows * of_each), cost, budget }
    }
}

impl Writes for AnnotateFile {
    fn size(&self, rows_of: &dyn Fn(&str) -> Option<usize>) -> StageSize {
        let rows = rows_of(&self.data.file);
        let about = rows.map_or_else(String::new, |rows| format!("{rows} prompts or pairs"));
        StageSize { about, rows, ..StageSize::default() }
    }

    fn check(&self) -> Result<(), RunError> {
        Self::check(self)
    }
}

impl StageWork for ExamFile {
    fn own_folder(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    fn size_of_work(&self, rows_of: &dyn Fn(&str) -> Option<usize>) -> StageSize {
        let rows = rows_of(&self.data.file);
        let rows = rows.map(|rows| rows.min(self.data.take.unwrap_or(usize::MAX)));
        let mut size = StageSize::default();
        if let Some(rows) = rows {
            size.about = format!("{rows} questions");
        }
        if let Some(judge) = &self.judge {
            let output = answer_tokens(judge);
            let questions = rows.map(|rows| 2 * rows);
            [size.cost, size.budget] =
                cost(judge.price, judge.budget, questions, [PAIR_TOKENS, output as usize]);
        }
        size
    }

    fn work_in(&self, place: &StagePlace<'_>) -> Result<Value, RunError> {
        let report = self.work(place.caches, &Some(place.folder.join("exam")))?;
        Ok(serde_json::to_value(report).unwrap_or_default())
    }
}

impl StageWork for EvalFile {
    fn own_folder(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    fn size_of_work(&self, rows_of: &dyn Fn(&str) -> Option<usize>) -> StageSize {
        let EvalFile { data, responses, .. } = self;
        let rows = data.file.as_deref().and_then(rows_of);
        let rows = match (rows, data.take) {
            (Some(rows), Some(take)) => Some(rows.min(take)),
            (rows, take) => rows.or(take),
        };
        let about = rows.map_or_else(String::new, |rows| {
            format!("{rows} prompts, {} responses of each policy", rows * responses.get())
        });
        StageSize { about, ..StageSize::default() }
    }

    fn work_in(&self, place: &StagePlace<'_>) -> Result<Value, RunError> {
        let report = self.run(place.caches, &place.folder.join("eval"), |_| ())?;
        let rows: Vec<Value> = report
            .comparison()
            .rows
            .iter()
            .map(|row| {
                json!({
                    "metric": row.name,
                    "better": row.better,
                    "before": row.before.moments.mean,
                    "after": row.after.moments.mean,
                    "change": row.delta.mean,
                    "low": row.delta.ci95.low,
                    "high": row.delta.ci95.high,
                })
            })
            .collect();
        let by_divergence = &report.details.by_divergence;
        Ok(json!({
            "prompts": report.comparison().prompts,
            "metrics": rows,
            "over_optimisation": by_divergence,
        }))
    }
}

/// Counts the rows of a location, if that is quick: of the built-in corpus, and of JSON Lines.
pub(crate) fn count_rows(location: &str) -> Option<usize> {
    if let Some(part) = Part::of_name(location) {
        return Some(builtin::dialogues(part).len());
    }
    let paths: Vec<PathBuf> = source(location).ok()?.paths().map(Path::to_owned).collect();
    let mut rows = 0;
    for path in paths {
        if path.extension()? != "jsonl" {
            return None;
        }
        let text = rlaif_files::read_bytes(&path, u64::MAX).ok()?;
        rows +=
            text.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
    }
    Some(rows)
}

/// `true` for a location that can only be a file of rows, and is not there.
pub(crate) fn is_missing(location: &str) -> bool {
    const ROWS: [&str; 7] = [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz", ".zst"];
    !location.starts_with('@')
        && !is_pattern(location)
        && ROWS.iter().any(|end| location.ends_with(end))
        && !Path::new(location).exists()
}
