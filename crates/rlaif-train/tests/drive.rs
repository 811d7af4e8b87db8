//! The loop, with a training that is a table of scores.

use rlaif_core::{Metrics, Seed};
use rlaif_train::{
    Batches, CheckpointFiles, Ending, Fit, FitConfig, FitPlan, FitResult, Goal, Interrupt,
    RunFolder, Saved, Stepped, TrainError, drive,
};

/// Each step brings the next score.
struct Scored {
    scores: &'static [f64],
    goal: Goal,
    done: usize,
}

impl Fit for Scored {
    fn step(&mut self, _: &[usize]) -> Result<Stepped, TrainError> {
        self.done += 1;
        Ok(Stepped::default())
    }

    fn save(&self, files: &mut CheckpointFiles) -> Result<(), TrainError> {
        files.json("done", &self.done)
    }

    fn restore(&mut self, saved: &Saved) -> Result<(), TrainError> {
        self.done = saved.json("done")?;
        Ok(())
    }

    fn evaluate(&mut self) -> Result<Option<Metrics>, TrainError> {
        Ok(Some([("eval/score", self.scores[self.done - 1])].into_iter().collect()))
    }

    fn score(&self) -> (&'static str, Goal) {
        ("eval/score", self.goal)
    }
}

/// The same row at every step.
struct One;

impl Batches for One {
    fn batch(&mut self, _: u64) -> Result<Vec<usize>, TrainError> {
        Ok(vec![0])
    }

    fn fingerprint(&self) -> u64 {
        1
    }
}

/// The run's ending, and the step whose weights are its result.
fn result(scores: &'static [f64], goal: Goal, patience: u64) -> (Ending, usize) {
    let parent = tempfile::tempdir().unwrap();
    let result = FitResult::Best;
    let config = FitConfig { eval_every: 1, keep: 1, patience, result, ..FitConfig::default() };
    // As `rlaif_run::Start::begin` opens every folder, before there is a training.
    let keep = config.keep(Goal::Lowest);
    let mut run = RunFolder::create(&parent.path().join("run"), "", keep).unwrap();
    let interrupt = &Interrupt::manual();
    let total_steps = scores.len() as u64;
    let plan = FitPlan { config: &config, total_steps, seed: Seed::new(1), interrupt };
    let mut task = Scored { scores, goal, done: 0 };
    let ending = drive(&mut task, &mut One, &mut run, None, &plan).unwrap();
    (ending, task.done)
}

#[test]
fn the_best_weights_are_the_result_whichever_way_is_better() {
    const SCORES: &[f64] = &[0.2, 0.9, 0.5, 0.1, 0.3];
    assert_eq!(result(SCORES, Goal::Highest, 0), (Ending::Finished, 2));
    assert_eq!(result(SCORES, Goal::Lowest, 0), (Ending::Finished, 4));
    assert_eq!(result(SCORES, Goal::Highest, 2), (Ending::Stopped, 2));
}
