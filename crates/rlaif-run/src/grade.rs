//! The grades that rewards must have before a training starts.

use std::path::Path;

use rlaif_core::{BadSetting, Rendering, RewardModel};
use rlaif_rewards::{RewardConfig, Surroundings};
use tch::Device;

use crate::{
    error::RunError,
    exam::{ExamData, ExamSettings},
    rewards::surroundings,
};

/// The reward of a new training with this rendering of prompts, after its parts have reached the grades that they need, with
/// sentences on those grades. A resumed training has them already.
///
/// # Errors
/// [`RunError::Reward`]; [`RunError::Grade`] for a part below its grade; those of an exam.
pub(crate) fn graded_reward(
    config: &RewardConfig,
    how: &Rendering,
    (folder, device): (&Path, Device),
    is_resumed: bool,
) -> Result<(Box<dyn RewardModel>, Vec<String>), RunError> {
    surroundings(folder, device, None, |around| graded(config, how, around, is_resumed))
}

fn graded(
    config: &RewardConfig,
    how: &Rendering,
    around: &Surroundings<'_>,
    is_resumed: bool,
) -> Result<(Box<dyn RewardModel>, Vec<String>), RunError> {
    let reward = config.build(around)?;
    let mut told = Vec::new();
    for (part, demand) in config.demands() {
        if !(0. ..=1.).contains(&demand.at_least) {
            let expected = "a grade from 0 to 1";
            return Err(BadSetting::new("reward.exam.at_least", demand.at_least, expected).into());
        }
        if is_resumed {
            continue;
        }
        let data = ExamData {
            take: demand.take,
            reference_column: demand.reference_column.clone(),
            ..ExamData::of(&demand.file)
        };
        let exam = ExamSettings { exam: demand.exam, ..ExamSettings::default() };
        let report = exam.of_reward(&data, part, &*part.build(around)?, how, None)?;
        told.push(format!(
            "reward `{}` has a grade of {:.3} at {} ({}, 95 % interval {:.3} to {:.3}); {} is demanded",
            report.examinee,
            report.grade,
            report.exam.title(),
            demand.file,
            report.ci95.low,
            report.ci95.high,
            demand.at_least
        ));
        if report.grade < demand.at_least {
            return Err(RunError::Grade {
                told: told.pop().unwrap_or_default(),
                missing: report.missing,
                first: report.first_missing,
            });
        }
    }
    Ok((reward, told))
}
