//! From a run file to its result: the code that all training commands share.

use std::path::Path;

use rlaif_core::{BadSetting, Interrupted, Rendering, RewardModel, Seed};
use rlaif_lm::Activations;
use rlaif_models::{
    ADAPTER, AdapterBase, Classifier, LanguageModel, LoadOptions, MemoryPlan, ModelError,
    ModelFiles, SaveOptions,
};
use rlaif_rewards::RewardConfig;
use rlaif_rl::RankedReward;
use rlaif_torch::{
    TorchError,
    dist::{DistError, Launch, World},
    seeded, set_intra_op_threads,
};
use rlaif_train::{
    Batches, Ending, Fit, FitConfig, FitPlan, Goal, Interrupt, RunFolder, Saved, Terminal, drive,
};

use crate::{
    error::RunError,
    file::{OpenRun, RunFile, RunRequest},
    grade::graded_reward,
    memory::WeightsInMemory,
    model::{ModelSection, Placement},
    prompt::{PROMPT_FILE, described, pass_on_rendering},
};

/// A run file for training.
///
/// [`train`] opens and checks the file, and resolves the device. The recipe then loads models,
/// reads data, and begins the run ([`Start::begin`]); from then on Ctrl-C saves a checkpoint.
/// [`OngoingRun::drive`] trains, and [`OngoingRun::write`] writes the result. Every check precedes
/// the beginning of the run, so that a refused run leaves no folder behind.
pub trait Recipe: RunFile {
    /// Metrics for the terminal.
    const SHOWN: &'static [&'static str];

    /// `true` if several processes can train together.
    const DATA_PARALLEL: bool = false;

    /// The keys of every run file.
    fn basics(&self) -> Basics<'_>;

    /// Checks everything that needs no model and no data.
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

/// The keys of every run file.
#[derive(Debug, Clone, Copy)]
pub struct Basics<'a> {
    /// The seed of all random numbers.
    pub seed: u64,
    /// Device, threads and memory.
    pub placement: &'a Placement,
    /// The model to train.
    pub model: &'a ModelSection,
}

/// Runs a training command: from its run file to the result in the run's folder.
///
/// # Errors
/// [`RunError`] of the file, of the files that it names, or of the training;
/// [`RunError::Interrupted`] after Ctrl-C, with the command that continues the run.
///
/// ```no_run
/// use rlaif_run::{PpoFile, RunRequest, train};
/// let request = RunRequest { config: Some("ppo.toml".into()), ..RunRequest::default() };
/// train::<PpoFile>(&request)?;
/// # Ok::<(), rlaif_run::RunError>(())
/// ```
pub fn train<R: Recipe>(request: &RunRequest) -> Result<(), RunError> {
    let launch = &request.launch;
    if !R::DATA_PARALLEL && launch.size > 1 {
        let what = format!("`rlaif {}`", R::COMMAND);
        return Err(TorchError::from(DistError::OneProcess { what, size: launch.size }).into());
    }
    let world = World::join(launch).map_err(TorchError::from)?;
    let trained = train_in::<R>(request, &world);
    if let Err(error) = &trained {
        let shared = DistError::in_chain(error).is_some_and(DistError::is_shared);
        if !shared && !matches!(error, RunError::Interrupted { .. }) {
            world.last_words(&error.to_string());
        }
    }
    trained
}

/// As [`train`], in a rank that has met the others.
fn train_in<R: Recipe>(request: &RunRequest, world: &World) -> Result<(), RunError> {
    let open = request.open::<R>()?;
    open.same_in(world)?;
    let config = &open.config;
    config.check()?;
    let Basics { seed, placement, model } = config.basics();
    place_rank(&request.launch, placement)?;
    let options = placement.options(model.dtype)?;
    let start = Start { open: &open, seed: Seed::new(seed), options, world: world.clone() };
    config.train(start).map_err(|error| match Interrupted::ended(&error) {
        true => RunError::Interrupted { how: open.how_to_go_on(R::COMMAND) },
        false => error,
    })
}

/// Gives each rank of a host its own GPU, and its part of the processors.
fn place_rank(launch: &Launch, placement: &Placement) -> Result<(), RunError> {
    if launch.size == 1 {
        return Ok(());
    }
    if placement.device.starts_with("cuda") && launch.local_size > 1 {
        let expected = "`auto`, with several ranks on a host: each then has its own GPU";
        return Err(BadSetting::new("placement.device", &placement.device, expected).into());
    }
    if placement.device == "auto" {
        rlaif_torch::load_cuda()?;
        let gpus = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
        if gpus > 0 && launch.local_rank >= gpus {
            let found = format!("auto, with {} ranks on a host of {gpus} GPUs", launch.local_size);
            let expected = "a GPU for each rank, or `cpu`";
            return Err(BadSetting::new("placement.device", found, expected).into());
        }
    }
    rlaif_torch::prefer_cuda(launch.local_rank);
    // torchrun sets OMP_NUM_THREADS to 1, which would leave most processors idle.
    if placement.threads == 0 {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        set_intra_op_threads((processors / launch.local_size).max(1))?;
    }
    Ok(())
}

/// A run that has not begun: its folder does not exist yet.
#[derive(Debug)]
pub struct Start<'a, R> {
    open: &'a OpenRun<R>,
    /// The seed of all random numbers.
    pub seed: Seed,
    /// Device and dtype of models.
    pub options: LoadOptions,
    /// The processes that train together.
    pub world: World,
}

/// Outline of a run, available after its data are read.
#[derive(Debug)]
pub struct Outline<'a> {
    /// Description for the user.
    pub about: String,
    /// The schedule of evaluation and saving, and the rules for stopping.
    pub fit: &'a FitConfig,
    /// The number of steps.
    pub total_steps: u64,
}

impl<'a, R: Recipe> Start<'a, R> {
    /// Path of the run's future folder.
    pub fn folder(&self) -> &'a Path {
        self.open.path()
    }

    /// Loads models; new weights depend only on the seed.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn fresh<T>(&self, load: impl FnOnce() -> Result<T, RunError>) -> Result<T, RunError> {
        seeded(self.seed.for_libtorch("init"), load)?
    }

    /// The reward that scores responses to prompts of this rendering, with sentences on the grades that the run file demands of it.
    ///
    /// # Errors
    /// [`RunError::Reward`], [`RunError::Grade`]; those of an exam.
    pub fn graded_reward(
        &self,
        config: &RewardConfig,
        how: &Rendering,
    ) -> Result<(Box<dyn RewardModel>, Vec<String>), RunError> {
        let place = (self.folder(), self.options.device);
        let graded = || graded_reward(config, how, place, self.open.is_resumed());
        if self.world.is_alone() {
            return graded();
        }
        // Only rank 0 has it: its models, its caches and its bill.
        let (reward, told) = match self.world.is_first() {
            true => graded().map(|(reward, told)| (Some(reward), told))?,
            false => (None, Vec::new()),
        };
        Ok((Box::new(RankedReward::new(reward, &self.world)), told))
    }

    /// Checks the minimum memory for training before anything is loaded, and returns it.
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
    ///
    /// # Errors
    /// [`RunError::Memory`].
    pub fn check_memory(
        &self,
        memory: &MemoryPlan,
        weights: WeightsInMemory,
    ) -> Result<(), RunError> {
        self.open.config.basics().placement.check_memory(memory, weights).map(|_| ())
    }

    /// Creates the folder, or continues in it; nothing is written before this.
    ///
    /// # Errors
    /// Those of [`OpenRun::folder`].
    pub fn begin(self, outline: &Outline<'_>) -> Result<OngoingRun<'a>, RunError> {
        // Before this point Ctrl-C ends the process at once: there is nothing to save.
        let interrupt = Interrupt::install_in(&self.world)?;
        let keep = outline.fit.keep(Goal::Lowest);
        let (mut folder, saved) = self.open.folder_in(keep, &self.world)?;
        folder.say(&outline.about)?;
        if !self.world.is_alone() {
            folder.say(&format!("{} processes train together", self.world.size()))?;
        }
        let done = saved.as_ref().map_or(0, Saved::step);
        folder.show(Terminal::new(outline.total_steps, done, R::SHOWN.iter().copied()));
        Ok(OngoingRun {
            folder,
            saved,
            interrupt,
            seed: self.seed,
            fit: outline.fit.clone(),
            total_steps: outline.total_steps,
            how_to_go_on: self.open.how_to_go_on(R::COMMAND),
            section: self.open.config.basics().model,
        })
    }
}

/// A run that writes to its folder, until the resulting model.
#[derive(Debug)]
pub struct OngoingRun<'a> {
    /// The folder.
    pub folder: RunFolder,
    saved: Option<Saved>,
    interrupt: Interrupt,
    seed: Seed,
    fit: FitConfig,
    total_steps: u64,
    how_to_go_on: String,
    section: &'a ModelSection,
}

impl OngoingRun<'_> {
    /// Prints sentences for the user, without duplicates.
    ///
    /// # Errors
    /// [`RunError::Train`].
    pub fn tell(&mut self, sentences: &[String]) -> Result<(), RunError> {
        for sentence in sentences {
            self.folder.say(sentence)?;
        }
        Ok(())
    }

    /// Stores the rendering of prompts in the folder, so that an evaluation uses the same, and
    /// prints it.
    ///
    /// # Errors
    /// [`RunError::Train`], [`RunError::Files`].
    pub fn keep_rendering(&mut self, rendering: &Rendering) -> Result<(), RunError> {
        if self.folder.world().is_first() {
            rlaif_checkpoint::write_json(&self.folder.path().join(PROMPT_FILE), rendering)?;
        }
        Ok(self.folder.say(&described(rendering))?)
    }

    /// Runs the training loop to its end, from the beginning or from the newest checkpoint.
    ///
    /// # Errors
    /// [`RunError::Train`]; [`RunError::Interrupted`].
    pub fn drive(&mut self, task: &mut dyn Fit, batches: &mut dyn Batches) -> Result<(), RunError> {
        let plan = FitPlan {
            config: &self.fit,
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

    /// Writes the result: the adapter if an adapter was trained, else the model.
    ///
    /// # Errors
    /// [`RunError::Result`].
    pub fn write(&mut self, model: &mut impl TrainedModel) -> Result<(), RunError> {
        // The ranks have the same weights.
        let world = self.folder.world().clone();
        world.first(|| self.write_alone(model)).map(|_| ())
    }

    fn write_alone(&mut self, model: &mut impl TrainedModel) -> Result<(), RunError> {
        let files = self.section.files()?;
        let target = self.folder.model();
        let written = if self.section.lora.is_some() || files.adapter.is_some() {
            model.save_adapter(&target, &files, &self.section.adapter_base(&files)?)
        } else {
            model.save(&target, &files.folder)
        };
        written.map_err(|source| RunError::Result {
            source: Box::new(source),
            how: self.how_to_go_on.clone(),
        })?;
        pass_on_rendering(self.folder.path(), &target)?;
        Ok(self.folder.say(&format!("the result is in {}", target.display()))?)
    }
}

/// A model that a run can train.
pub trait TrainedModel {
    /// Writes the adapter that was trained on this base, and the files beside it with which it is
    /// loaded again.
    ///
    /// # Errors
    /// [`ModelError`].
    fn save_adapter(
        &mut self,
        target: &Path,
        files: &ModelFiles,
        base: &AdapterBase,
    ) -> Result<(), ModelError>;

    /// Writes all weights, and the other files of `source`.
    ///
    /// # Errors
    /// [`ModelError`].
    fn save(&self, target: &Path, source: &Path) -> Result<(), ModelError>;
}

/// Both kinds of model are saved by methods of the same names.
macro_rules! trained_model {
    ($model:ident) => {
        impl TrainedModel for $model {
            fn save_adapter(
                &mut self,
                target: &Path,
                files: &ModelFiles,
                base: &AdapterBase,
            ) -> Result<(), ModelError> {
                self.save_adapter(ADAPTER, target, files, base)
            }

            fn save(&self, target: &Path, source: &Path) -> Result<(), ModelError> {
                self.save(target, &SaveOptions { source: Some(source), ..SaveOptions::default() })
            }
        }
    };
}

trained_model!(LanguageModel);
trained_model!(Classifier);
