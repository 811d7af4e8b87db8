//! `rlaif ppo`.

use clap::Args;
use rlaif_lm::Policy;
use rlaif_ppo::PpoTask;
use rlaif_train::Keep;
use tch::Tensor;

use super::{
    error::CliError,
    model,
    run_arguments::{OngoingRun, RunArguments, Shown, interrupt},
};
use crate::{
    rewards_from_config,
    run::{PpoRun, RunError, ShuffledBatches, Weights},
};

#[derive(Debug, Args)]
pub(crate) struct Ppo {
    #[command(flatten)]
    run: RunArguments,
}

/// What the terminal shows.
const SHOWN: [&str; 4] =
    ["env/reward_mean", "objective/kl", "ppo/policy/entropy", "time/samples_per_second"];

impl Ppo {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let open = self.run.open::<PpoRun>()?;
        let config = &open.config;
        config.check()?;
        let interrupt = interrupt()?;
        let options = config.placement.options(config.model.precision)?;
        let mut trainer = config.trainer(options)?;
        let tokenizer =
            model::tokenizer(&config.model.folder()?, trainer.policy().spec().vocab_size)?;
        let mut mixed_in = String::new();
        if let Some((rows, left)) = config.pretraining(&tokenizer, trainer.policy())? {
            mixed_in = format!(", {} rows of pre-training data ({left})", rows.len());
            trainer = trainer
                .with_pretraining(rows)
                .map_err(|error| RunError::from(error).within("ppo"))?;
        }
        let (prompts, left_out) = config.prompts(&tokenizer, trainer.policy())?;

        let mut batches =
            ShuffledBatches::new(&prompts, config.ppo.batch_size, config.ppo.seed)?.whole()?;

        let keep = Keep { newest: config.output.keep, best: None };
        // Before anything is written.
        let reward = rewards_from_config(&config.reward, open.path(), options.device)?;
        config.placement.check_memory(&config.memory(options, &prompts)?, Weights::Loaded)?;
        let trained = trainer.policy().parameters().count_trainable();
        let about = format!(
            "{} prompts ({left_out} left out for their length), {trained} trained weights, {} \
             steps of {} responses{mixed_in}",
            prompts.len(),
            config.ppo.steps,
            config.ppo.batch_size
        );
        let shown = Shown { total_steps: config.ppo.steps, metrics: &SHOWN };
        let mut run = OngoingRun::begin(&open, interrupt, keep, &about, &shown)?;
        let (seed, steps) = (config.ppo.seed, config.ppo.steps);
        let mut task =
            PpoTask::new(trainer, &prompts, &tokenizer, &*reward).samples(config.output.samples);
        run.fit(&mut task, &mut batches, &config.output.fit(steps), steps, seed)?;
        let trainer = task.into_trainer();
        let heads: Vec<(&str, &Tensor)> = trainer.value().parameters().iter().collect();
        Tensor::write_safetensors(&heads, run.folder.path().join("value_head.safetensors"))
            .map_err(rlaif_torch::TorchError::from)?;
        run.write(&mut trainer.into_policy(), &config.model)
    }
}
