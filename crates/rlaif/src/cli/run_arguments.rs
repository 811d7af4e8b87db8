//! The flags of every command that trains.

use std::path::{Path, PathBuf};

use clap::Args;
use rlaif_core::Seed;
use rlaif_models::{Classifier, LanguageModel, ModelAdapters, ModelError, SaveOptions};
use rlaif_train::{
    Batches, Ending, Fit, FitConfig, FitPlan, Interrupt, Keep, RunFolder, Saved, Terminal,
    TrainError, drive,
};

use super::error::CliError;
use crate::run::{Left, ModelSection, OpenRun, RunError, RunFile, RunRequest};

/// Which run, and where.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The run file, TOML; with --resume that of the run is taken.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The run folder; runs/NAME for a run file NAME.toml if not given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Goes on with the run in the folder, from its newest checkpoint that is whole.
    #[arg(long)]
    resume: bool,
    /// Sets a key of the run file: `--set train.steps=100`. May be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl RunArguments {
    pub(crate) fn open<T: RunFile>(&self) -> Result<OpenRun<T>, RunError> {
        let request = RunRequest {
            config: self.config.clone(),
            out: self.out.clone(),
            resume: self.resume,
            set: self.set.clone(),
        };
        request.open()
    }
}

/// Ctrl-C for the run.
pub(crate) fn interrupt() -> Result<Interrupt, CliError> {
    Ok(Interrupt::install().map_err(RunError::from)?)
}

/// Rows that `keep` has something of, with their records, in order.
pub(crate) fn present<R, T>(records: Vec<R>, rows: Vec<Option<T>>) -> (Vec<R>, Vec<T>) {
    records.into_iter().zip(rows).filter_map(|(record, row)| Some((record, row?))).unzip()
}

/// The length of the run.
pub(crate) fn total_steps(train: &FitConfig, rows: usize) -> Result<u64, RunError> {
    if rows == 0 {
        return Err(RunError::Setting {
            key: "data.train",
            problem: "no row has anything to learn within data.max_tokens".to_owned(),
        });
    }
    Ok(train.total_steps(rows)?)
}

/// What a trainer refuses of `[learn]`.
pub(crate) fn in_learn(error: TrainError) -> RunError {
    RunError::from(error).within("learn")
}

/// What the user is told of the data.
pub(crate) fn about(rows: usize, left: &Left, held_out: usize, total_steps: u64) -> String {
    format!("{rows} rows to learn from ({left}), {held_out} held out, {total_steps} steps")
}

/// A run that writes into its folder, from here to the model that is its result.
pub(crate) struct OngoingRun<'a, T> {
    open: &'a OpenRun<T>,
    pub(crate) interrupt: Interrupt,
    pub(crate) folder: RunFolder,
    /// The checkpoint that it goes on from.
    pub(crate) saved: Option<Saved>,
}

/// What the user is told of a run.
pub(crate) struct Shown<'a> {
    /// How long it is.
    pub(crate) total_steps: u64,
    /// The metrics on the terminal.
    pub(crate) metrics: &'a [&'a str],
}

impl<'a, T: RunFile> OngoingRun<'a, T> {
    /// Makes the folder, or takes it up: nothing was written before.
    pub(crate) fn begin(
        open: &'a OpenRun<T>,
        interrupt: Interrupt,
        keep: Keep,
        about: &str,
        shown: &Shown<'_>,
    ) -> Result<Self, CliError> {
        let (mut folder, saved) = open.folder(keep)?;
        folder.say(about).map_err(RunError::from)?;
        let done = saved.as_ref().map_or(0, Saved::step);
        folder.show(Terminal::new(shown.total_steps, done, shown.metrics.iter().copied()));
        Ok(Self { open, interrupt, folder, saved })
    }

    /// Has the loop train to the end.
    pub(crate) fn fit(
        &mut self,
        task: &mut dyn Fit,
        batches: &mut dyn Batches,
        config: &FitConfig,
        total_steps: u64,
        seed: Seed,
    ) -> Result<(), CliError> {
        let plan = FitPlan { config, total_steps, seed, interrupt: &self.interrupt };
        let ending = drive(task, batches, &mut self.folder, self.saved.as_ref(), &plan)
            .map_err(RunError::from)?;
        self.ended(ending)
    }

    /// Of a run that was interrupted, an error that says how to go on.
    pub(crate) fn ended(&mut self, ending: Ending) -> Result<(), CliError> {
        match ending {
            Ending::Finished | Ending::Stopped => Ok(()),
            Ending::Interrupted => {
                self.folder.note("interrupted").map_err(RunError::from)?;
                Err(CliError::Interrupted { how: self.open.how_to_go_on(T::COMMAND) })
            }
        }
    }

    /// Writes the result: the adapter, if that is what was trained, else the model.
    pub(crate) fn write(
        &mut self,
        model: &mut impl Trained,
        section: &ModelSection,
    ) -> Result<(), CliError> {
        let source = section.folder()?;
        let target = self.folder.model();
        let written = match section.adapter() {
            Some(name) => model.adapters().save(name, &target),
            None => model.save(&target, &source),
        };
        written.map_err(|source| CliError::Result {
            source: Box::new(source),
            how: self.open.how_to_go_on(T::COMMAND),
        })?;
        let say = format!("the result is in {}", target.display());
        Ok(self.folder.say(&say).map_err(RunError::from)?)
    }
}

/// A model that was trained, whichever.
pub(crate) trait Trained {
    fn adapters(&mut self) -> ModelAdapters<'_>;

    /// Writes all weights, with the files beside them that `source` has.
    fn save(&self, target: &Path, source: &Path) -> Result<(), ModelError>;
}

impl Trained for LanguageModel {
    fn adapters(&mut self) -> ModelAdapters<'_> {
        self.adapters()
    }

    fn save(&self, target: &Path, source: &Path) -> Result<(), ModelError> {
        self.save(target, &SaveOptions { source: Some(source), ..SaveOptions::default() })
    }
}

impl Trained for Classifier {
    fn adapters(&mut self) -> ModelAdapters<'_> {
        self.adapters()
    }

    fn save(&self, target: &Path, source: &Path) -> Result<(), ModelError> {
        self.save(target, &SaveOptions { source: Some(source), ..SaveOptions::default() })
    }
}
