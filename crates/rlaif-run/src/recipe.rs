//! From a run file to its result: what every command that trains has in common.

use std::path::Path;

use rlaif_core::{Interrupted, Rendering, RewardModel, Seed};
use rlaif_lm::Activations;
use rlaif_models::{
    ADAPTER, Classifier, LanguageModel, LoadOptions, MemoryPlan, ModelError, ModelFiles,
    SaveOptions,
};
use rlaif_rewards::RewardConfig;
use rlaif_torch::seeded;
use rlaif_train::{
    Batches, Ending, Fit, FitConfig, FitPlan, Goal, Interrupt, RunFolder, Saved, Terminal, drive,
};

use crate::{
    error::RunError,
    file::{OpenRun, RunFile, RunRequest},
    memory::WeightsInMemory,
    model::{ModelSection, Placement},
    prompt::{PROMPT_FILE, described},
    rewards::graded_reward,
};

/// A run file that says how to train.
///
/// [`train`] opens it, checks it, and resolves the device. The recipe then loads models and reads data,
/// begins the run ([`Start::begin`]), from when on Ctrl-C is listened to, has the loop train
/// ([`OngoingRun::drive`]) and writes the result ([`OngoingRun::write`]). Any refusal comes
/// before the run begins, so that a refusal leaves no folder behind.
pub trait Recipe: RunFile {
    /// Metrics that the terminal shows.
    const SHOWN: &'static [&'static str];

    /// The keys that every run file has.
    fn basics(&self) -> Basics<'_>;

    /// Checks what needs no model and no data to be checked.
    ///
    /// # Errors
    /// [`RunError`] names the key.
    fn check(&self) -> Result<(), RunError>;

    /// Trains, and writes the result.
    ///
    /// # Errors
    /// [`RunError`].
    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError>
    where
        Self: Sized;
}

/// The keys that every run file has.
#[derive(Debug, Clone, Copy)]
pub struct Basics<'a> {
    /// The seed of all random numbers.
    pub seed: u64,
    /// Device, threads and memory.
    pub placement: &'a Placement,
    /// The model to train.
    pub model: &'a ModelSection,
}

/// Trains as a run file says, to the result in its folder: the whole of a command.
///
/// # Errors
/// [`RunError`] of the file, of what it names, or of the training;
/// [`RunError::Interrupted`] after Ctrl-C, with how to go on.
///
/// ```no_run
/// use rlaif_run::{PpoFile, RunRequest, train};
/// let request = RunRequest { config: Some("ppo.toml".into()), ..RunRequest::default() };
/// train::<PpoFile>(&request)?;
/// # Ok::<(), rlaif_run::RunError>(())
/// ```
pub fn train<R: Recipe>(request: &RunRequest) -> Result<(), RunError> {
    let open = request.open::<R>()?;
    let config = &open.config;
    config.check()?;
    let Basics { seed, placement, model } = config.basics();
    let options = placement.options(model.precision)?;
    config.train(Start { open: &open, seed: Seed::new(seed), options }).map_err(|error| {
        match Interrupted::ended(&error) {
            true => RunError::Interrupted { how: open.how_to_go_on(R::COMMAND) },
            false => error,
        }
    })
}

/// A run that has not begun: its folder is not made yet.
#[derive(Debug)]
pub struct Start<'a, R> {
    open: &'a OpenRun<R>,
    /// The seed of all random numbers.
    pub seed: Seed,
    /// Device and dtype of models.
    pub options: LoadOptions,
}

/// Outline of a run, once its data are read.
#[derive(Debug)]
pub struct Outline<'a> {
    /// Description for the user.
    pub about: String,
    /// When to evaluate, to save and to stop.
    pub fit: &'a FitConfig,
    /// Its length.
    pub total_steps: u64,
}

impl<'a, R: Recipe> Start<'a, R> {
    /// Path of the run's future folder.
    pub fn folder(&self) -> &'a Path {
        self.open.path()
    }

    /// Loads models whose fresh weights depend on the seed alone.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn fresh<T>(&self, load: impl FnOnce() -> Result<T, RunError>) -> Result<T, RunError> {
        seeded(self.seed.for_libtorch("init"), load)?
    }

    /// The reward that scores responses, with sentences on the grades that the run file demands of it.
    ///
    /// # Errors
    /// [`RunError::Reward`], [`RunError::Grade`]; those of an exam.
    pub fn graded_reward(
        &self,
        config: &RewardConfig,
    ) -> Result<(Box<dyn RewardModel>, Vec<String>), RunError> {
        graded_reward(config, self.folder(), self.options.device, self.open.is_resumed())
    }

    /// The least memory that training needs, once it is known to fit; before anything is loaded.
    ///
    /// # Errors
    /// [`RunError::Fetch`], [`RunError::Memory`].
    pub fn memory_of(&self, activations: Activations) -> Result<MemoryPlan, RunError> {
        let model = self.open.config.basics().model;
        let memory = MemoryPlan { activations, ..model.memory(self.options)? };
        self.check_memory(&memory, WeightsInMemory::NotLoaded)?;
        Ok(memory)
    }

    /// As [`Placement::check_memory`], by the run file's placement.
    pub(crate) fn check_memory(
        &self,
        memory: &MemoryPlan,
        weights: WeightsInMemory,
    ) -> Result<(), RunError> {
        self.open.config.basics().placement.check_memory(memory, weights).map(|_| ())
    }

    /// Makes the folder, or takes it up: nothing was written before.
    ///
    /// # Errors
    /// Those of [`OpenRun::folder`].
    pub fn begin(self, outline: &Outline<'a>) -> Result<OngoingRun<'a>, RunError> {
        // Until here Ctrl-C ends the process at once: there is nothing to save.
        let interrupt = Interrupt::install()?;
        let (mut folder, saved) = self.open.folder(outline.fit.keep(Goal::Lowest))?;
        folder.say(&outline.about)?;
        let done = saved.as_ref().map_or(0, Saved::step);
        folder.show(Terminal::new(outline.total_steps, done, R::SHOWN.iter().copied()));
        Ok(OngoingRun {
            folder,
            saved,
            interrupt,
            seed: self.seed,
            fit: outline.fit,
            total_steps: outline.total_steps,
            how_to_go_on: self.open.how_to_go_on(R::COMMAND),
            section: self.open.config.basics().model,
        })
    }
}

/// A run that writes into its folder, from here to the model that is its result.
#[derive(Debug)]
pub struct OngoingRun<'a> {
    /// The folder.
    pub folder: RunFolder,
    saved: Option<Saved>,
    interrupt: Interrupt,
    seed: Seed,
    fit: &'a FitConfig,
    total_steps: u64,
    how_to_go_on: String,
    section: &'a ModelSection,
}

impl OngoingRun<'_> {
    /// Tells the user sentences, each once.
    ///
    /// # Errors
    /// [`RunError::Train`].
    pub fn tell(&mut self, sentences: &[String]) -> Result<(), RunError> {
        for sentence in sentences {
            self.folder.say(sentence)?;
        }
        Ok(())
    }

    /// Keeps in the folder how prompts were rendered, so that an evaluation does the same, and tells
    /// it.
    ///
    /// # Errors
    /// [`RunError::Train`], [`RunError::Files`].
    pub fn keep_rendering(&mut self, rendering: &Rendering) -> Result<(), RunError> {
        rlaif_checkpoint::write_json(&self.folder.path().join(PROMPT_FILE), rendering)?;
        Ok(self.folder.say(&described(rendering))?)
    }

    /// Has the loop train to the end, from the beginning or from the newest checkpoint.
    ///
    /// # Errors
    /// [`RunError::Train`]; [`RunError::Interrupted`].
    pub fn drive(&mut self, task: &mut dyn Fit, batches: &mut dyn Batches) -> Result<(), RunError> {
        let plan = FitPlan {
            config: self.fit,
            total_steps: self.total_steps,
            seed: self.seed,
            interrupt: &self.interrupt,
        };
        match drive(task, batches, &mut self.folder, self.saved.as_ref(), &plan)? {
            Ending::Finished | Ending::Stopped => Ok(()),
            Ending::Interrupted => {
                self.folder.note("interrupted")?;
                Err(RunError::Interrupted { how: self.how_to_go_on.clone() })
            }
        }
    }

    /// Writes the result: the adapter, if that is what was trained, else the model.
    ///
    /// # Errors
    /// [`RunError::Result`].
    pub fn write(&mut self, model: &mut impl TrainedModel) -> Result<(), RunError> {
        let files = self.section.files()?;
        let target = self.folder.model();
        let written = if self.section.lora.is_some() || files.adapter.is_some() {
            model.save_adapter(&target, &files)
        } else {
            model.save(&target, &files.folder)
        };
        written.map_err(|source| RunError::Result {
            source: Box::new(source),
            how: self.how_to_go_on.clone(),
        })?;
        Ok(self.folder.say(&format!("the result is in {}", target.display()))?)
    }
}

/// A model that a run may have trained.
pub trait TrainedModel {
    /// Writes the adapter that was trained, and the files beside it with which it is loaded again.
    ///
    /// # Errors
    /// [`ModelError`].
    fn save_adapter(&mut self, target: &Path, files: &ModelFiles) -> Result<(), ModelError>;

    /// Writes all weights, with the files beside them that `source` has.
    ///
    /// # Errors
    /// [`ModelError`].
    fn save(&self, target: &Path, source: &Path) -> Result<(), ModelError>;
}

impl TrainedModel for LanguageModel {
    fn save_adapter(&mut self, target: &Path, files: &ModelFiles) -> Result<(), ModelError> {
        self.save_adapter(ADAPTER, target, files)
    }

    fn save(&self, target: &Path, source: &Path) -> Result<(), ModelError> {
        self.save(target, &SaveOptions { source: Some(source), ..SaveOptions::default() })
    }
}

impl TrainedModel for Classifier {
    fn save_adapter(&mut self, target: &Path, files: &ModelFiles) -> Result<(), ModelError> {
        self.save_adapter(ADAPTER, target, files)
    }

    fn save(&self, target: &Path, source: &Path) -> Result<(), ModelError> {
        self.save(target, &SaveOptions { source: Some(source), ..SaveOptions::default() })
    }
}
