//! `rlaif dpo`: preference training without a reward model, and online with any.

use clap::Args;
use rlaif_core::Seed;
use rlaif_lm::Policy;
use rlaif_torch::seeded;
use rlaif_train::{Goal, RunFolder};

use super::{
    error::CliError,
    model,
    run_arguments::{OngoingRun, RunArguments, Shown, interrupt},
};
use crate::{
    rewards_from_config,
    run::{DpoRows, DpoRun, DpoTask, HeldOutEvaluation, Left, RunError, Weights},
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
        let memory = config.memory(options, None)?;
        config.placement.check_memory(&memory, Weights::NotLoaded)?;
        let policy = seeded(seed.for_libtorch("init"), || config.model.language_model(options))??;
        let tokenizer = model::tokenizer(&config.model.folder()?, policy.spec().vocab_size)?;
        let rows = config.read(&tokenizer, policy.spec(), seed)?;
        let memory = config.memory(options, Some(&rows))?;
        let DpoRows { train, held_out, mut batches, report, left } = rows;
        let total_steps = config.train.total_steps(train.len()).map_err(RunError::from)?;
        let trainer = config.trainer(total_steps, policy)?;
        config.placement.check_memory(&memory, Weights::Loaded)?;
        // Before anything is written.
        let reward = config
            .online
            .as_ref()
            .map(|online| rewards_from_config(&online.reward, open.path(), options.device))
            .transpose()?;

        let read = if left == Left::default() { String::new() } else { format!(" ({left})") };
        let about = format!("{report}{read}; {} held out, {total_steps} steps", held_out.len());
        let shown = Shown { total_steps, metrics: &SHOWN };
        let mut run =
            OngoingRun::begin(&open, interrupt, config.train.keep(Goal::Lowest), &about, &shown)?;
        let cache = run.folder.path().join("reference");
        let mut task = DpoTask::new(trainer, train, held_out, &cache)?;
        if let (Some(online), Some(reward)) = (&config.online, &reward) {
            task = task.online(&tokenizer, &**reward, &online.sampling, seed);
        }
        let before = task.evaluation()?;
        run.fit(&mut task, &mut batches, &config.train, total_steps, seed)?;
        if let (Some(before), Some(after)) = (&before, task.evaluation()?) {
            say_held_out(&mut run.folder, before, &after)?;
        }
        run.write(&mut task.into_policy(), &config.model)
    }
}

/// Says how well held-out rows are told apart, before and after, with 95 % intervals.
fn say_held_out(
    run: &mut RunFolder,
    before: &HeldOutEvaluation,
    after: &HeldOutEvaluation,
) -> Result<(), RunError> {
    let of = |share: rlaif_dpo::Share| {
        format!("{:.3} [{:.3}, {:.3}]", share.value, share.ci95.0, share.ci95.1)
    };
    let said = match (before, after) {
        (HeldOutEvaluation::Pairs(before), HeldOutEvaluation::Pairs(after)) => {
            let likelier = [before, after].map(|evaluation| of(evaluation.likelihood_accuracy()));
            format!(
                "{} held-out pairs: the chosen response is the likelier one in {} before, {} \
                 after; it has the higher implicit reward in {}",
                after.outcomes.len(),
                likelier[0],
                likelier[1],
                of(after.accuracy())
            )
        }
        (_, HeldOutEvaluation::Responses(after)) => format!(
            "{} held-out responses: the implicit reward is on the right side of 0 in {}",
            after.outcomes.len(),
            of(after.accuracy())
        ),
        (HeldOutEvaluation::Responses(_), HeldOutEvaluation::Pairs(_)) => return Ok(()),
    };
    Ok(run.say(&said)?)
}
