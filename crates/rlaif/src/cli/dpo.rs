//! `rlaif dpo`: preference training without a reward model, and online with any.

use clap::Args;
use rlaif_core::Seed;
use rlaif_dpo::PairEvaluation;
use rlaif_lm::Policy;
use rlaif_models::SaveOptions;
use rlaif_train::{FitPlan, Goal, RunFolder, Saved, fit};

use super::{
    error::CliError,
    model,
    run_arguments::{RunArguments, ended, interrupt, show},
};
use crate::{
    rewards_from_config,
    run::{DpoRows, DpoRun, DpoTask, RunError},
};

#[derive(Debug, Args)]
pub(crate) struct Dpo {
    #[command(flatten)]
    run: RunArguments,
}

/// What the terminal shows.
const SHOWN: [&str; 4] =
    ["loss", "rewards/accuracies", "rewards/margins", "eval_rewards/accuracies"];

impl Dpo {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let open = self.run.open::<DpoRun>()?;
        let config = &open.config;
        config.check()?;
        let interrupt = interrupt()?;
        let seed = Seed::new(config.seed);
        let options = config.placement.options(config.model.precision)?;
        let folder = config.model.folder()?;
        tch::manual_seed(seed.derive("init", 0).get() as i64);
        let policy = config.model.language_model(options)?;
        let tokenizer = model::tokenizer(&folder, policy.spec().vocab_size)?;
        let DpoRows { train, held_out, mut batches, report } =
            config.read(&tokenizer, policy.spec(), seed)?;
        let total_steps = config.train.total_steps(train.len()).map_err(RunError::from)?;
        let trainer = config.trainer(total_steps, policy)?;
        // Before anything is written.
        let reward = config
            .online
            .as_ref()
            .map(|online| rewards_from_config(&online.reward, open.path(), options.device))
            .transpose()?;

        let (mut run, saved) = open.folder(config.train.keep(Goal::Lowest))?;
        run.say(&format!("{report}; {} held out, {total_steps} steps", held_out.len()))
            .map_err(RunError::from)?;
        let cache = run.path().join("reference");
        let mut task = DpoTask::new(trainer, train, held_out, &cache)?;
        if let (Some(online), Some(reward)) = (&config.online, &reward) {
            task = task.online(&tokenizer, &**reward, &online.sampling, seed);
        }
        let before = task.evaluation()?;
        show(&mut run, total_steps, saved.as_ref().map_or(0, Saved::step), &SHOWN);
        let plan = FitPlan { config: &config.train, total_steps, seed, interrupt: &interrupt };
        let ending = fit(&mut task, &mut batches, &mut run, saved.as_ref(), &plan)
            .map_err(RunError::from)?;
        if ended(&open, &mut run, ending)? {
            if let (Some(before), Some(after)) = (&before, task.last_evaluation()) {
                say_held_out(&mut run, before, after)?;
            }
            let model = run.model();
            let mut policy = task.into_policy();
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

/// Says how well held-out pairs are told apart, before and after, with 95 % intervals.
fn say_held_out(
    run: &mut RunFolder,
    before: &PairEvaluation,
    after: &PairEvaluation,
) -> Result<(), RunError> {
    let of = |share: rlaif_dpo::Share| {
        format!("{:.3} [{:.3}, {:.3}]", share.value, share.ci95.0, share.ci95.1)
    };
    let likelier = [before, after].map(|evaluation| of(evaluation.likelihood_accuracy()));
    run.say(&format!(
        "{} held-out pairs: the chosen response is the likelier one in {} before, {} after; it \
         has the higher implicit reward in {}",
        after.outcomes.len(),
        likelier[0],
        likelier[1],
        of(after.accuracy())
    ))?;
    Ok(())
}
