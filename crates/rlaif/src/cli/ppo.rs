//! `rlaif ppo`.

use clap::Args;
use rlaif_lm::Policy;
use rlaif_models::SaveOptions;
use rlaif_train::{Keep, Saved};
use tch::Tensor;

use super::{
    error::CliError,
    model,
    run_arguments::{RunArguments, ended, interrupt, show},
};
use crate::{
    rewards_from_config,
    run::{self, PpoPlan, PpoRun, RunError},
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
        config.ppo.check().map_err(RunError::from)?;
        let interrupt = interrupt()?;
        let options = config.placement.options(config.model.precision)?;
        let folder = config.model.folder()?;
        let mut trainer = config.trainer(options)?;
        let tokenizer = model::tokenizer(&folder, trainer.policy().spec().vocab_size)?;
        let (prompts, left_out) = config.prompts(&tokenizer, trainer.policy())?;

        let keep = Keep { newest: config.output.keep, best: None };
        // Before anything is written.
        let reward = rewards_from_config(&config.reward, open.path(), options.device)?;
        let (mut run, saved) = open.folder(keep)?;
        let trained = trainer.policy().parameters().count_trainable();
        let say = format!(
            "{} prompts ({left_out} left out for their length), {trained} trained weights, {} \
             steps of {} responses",
            prompts.len(),
            config.ppo.steps,
            config.ppo.batch_size
        );
        run.say(&say).map_err(RunError::from)?;
        show(&mut run, config.ppo.steps, saved.as_ref().map_or(0, Saved::step), &SHOWN);
        let plan = PpoPlan {
            prompts: &prompts,
            codec: &tokenizer,
            reward: &*reward,
            output: &config.output,
            interrupt: &interrupt,
        };
        let ending = run::ppo(&mut trainer, &mut run, saved.as_ref(), &plan)?;
        if ended(&open, &mut run, ending)? {
            let heads: Vec<(&str, &Tensor)> = trainer.value().parameters().iter().collect();
            Tensor::write_safetensors(&heads, run.path().join("value_head.safetensors"))
                .map_err(rlaif_torch::TorchError::from)?;
            let model = run.model();
            let mut policy = trainer.into_policy();
            match config.model.adapter() {
                Some(name) => policy.adapters().save(name, &model)?,
                None => {
                    let source = Some(folder.as_path());
                    policy.save(&model, &SaveOptions { source, ..SaveOptions::default() })?;
                }
            }
            run.say(&format!("the result is in {}", model.display())).map_err(RunError::from)?;
        }
        Ok(())
    }
}
