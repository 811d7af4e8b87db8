//! A custom command, as in `docs/extending.md`: a run file, a recipe, and nothing else.

use std::fs;

use rlaif_core::{Demonstration, PromptRecord};
use rlaif_data::corpora::PromptColumns;
use rlaif_lm::Policy;
use rlaif_models::MemoryPlan;
use rlaif_run::{
    Basics, DataSection, Encoder, ModelSection, Outline, Placement, Recipe, RunError, RunFile,
    RunRequest, ShuffledBatches, Start, WeightsInMemory, longest, tokenizer, train,
};
use rlaif_train::{FitConfig, LearnConfig, SftRow, SftTrainer, SupervisedTask, rows_of_pass};
use serde::{Deserialize, Serialize};

/// The run file: trains a policy to answer a prompt with the prompt.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EchoFile {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    placement: Placement,
    model: ModelSection,
    data: DataSection,
    #[serde(default)]
    train: FitConfig,
    #[serde(default)]
    learn: LearnConfig,
}

impl RunFile for EchoFile {
    const COMMAND: &'static str = "echo";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = self.data.locations();
        all.extend(self.model.locations());
        all
    }
}

impl Recipe for EchoFile {
    const SHOWN: &'static [&'static str] = &["loss"];

    fn basics(&self) -> Basics<'_> {
        Basics { seed: self.seed, placement: &self.placement, model: &self.model }
    }

    fn check(&self) -> Result<(), RunError> {
        self.model.check_learn(&self.learn)
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let memory = start.memory_of(self.learn.activations)?;
        let mut policy = start.fresh(|| self.model.language_model(start.options))?;
        let codec = tokenizer(&self.model.files()?, policy.spec().vocab_size)?;
        let encoder = Encoder::new(&codec, policy.spec(), self.data.max_tokens);
        let prompts = self.data.read(&PromptColumns::default(), start.seed)?.train;
        let echo = |record: PromptRecord| {
            Demonstration::new(record.id, record.prompt.clone(), record.prompt)
        };
        let records: Vec<Demonstration> = prompts.into_iter().map(echo).collect();
        let (rows, skipped) = encoder.demonstrations(&records)?;
        // Batches number the rows that are learned, so records without one go too.
        let (records, rows): (Vec<_>, Vec<_>) =
            records.into_iter().zip(rows).filter_map(|(record, row)| Some((record, row?))).unzip();
        let total_steps = self.train.total_steps(rows.len())?;
        let memory = MemoryPlan {
            microbatch_size: rows_of_pass(self.learn.microbatch_size, self.train.batch_size)
                .min(self.train.batch_size),
            tokens: longest(rows.iter().map(SftRow::len)),
            ..memory
        };
        start.check_memory(&memory, WeightsInMemory::Loaded)?;
        let mut batches = ShuffledBatches::new(&records, self.train.batch_size, start.seed)?;
        let trainer = SftTrainer::new(&policy, &self.learn, total_steps)?;
        let about = format!("{} prompts to echo ({skipped})", rows.len());
        // From here on there is a folder: everything that can be refused has been.
        let mut run = start.begin(&Outline { about, fit: &self.train, total_steps })?;
        let mut task = SupervisedTask::new(trainer, rows, Vec::new());
        run.drive(&mut task, &mut batches)?;
        task.finish();
        run.write(&mut policy)
    }
}

#[test]
fn a_command_of_ones_own_trains_resumes_and_refuses() -> Result<(), Box<dyn std::error::Error>> {
    let place = tempfile::tempdir()?;
    let rows = place.path().join("rows.jsonl");
    // The first row has nothing to learn: it is left out and counted.
    let prompts = std::iter::once(" ".to_owned()).chain((0..6).map(|n| format!("The number {n}.")));
    let lines: Vec<String> = prompts.map(|prompt| format!(r#"{{"prompt": "{prompt}"}}"#)).collect();
    fs::write(&rows, lines.join("\n"))?;
    let file = place.path().join("echo.toml");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/summary-llama");
    let text = format!(
        "[placement]\ndevice = 'cpu'\n[model]\npath = '{model}'\n[data]\ntrain = '{}'\n\
         [train]\nsteps = 3\nbatch_size = 2\n[learn.optimizer]\nlr = 1e-3\n",
        rows.display()
    );
    fs::write(&file, text)?;
    let request = |set: &str, resume| RunRequest {
        config: Some(file.clone()),
        out: Some(place.path().join("out")),
        resume,
        set: if set.is_empty() { Vec::new() } else { vec![set.to_owned()] },
        ..RunRequest::default()
    };

    let error = train::<EchoFile>(&request("train.stpes=2", false)).unwrap_err().to_string();
    assert!(error.contains("did you mean `steps`?"), "{error}");
    assert!(!place.path().join("out").exists());

    train::<EchoFile>(&request("", false))?;
    let metrics = fs::read_to_string(place.path().join("out/metrics.jsonl"))?;
    let losses: Vec<f64> = metrics
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap()
        })
        .collect();
    assert!(losses.len() == 3 && losses[2] < losses[0], "{losses:?}");
    assert!(place.path().join("out/model/model.safetensors").exists());

    // A run that has ended has its result written again, and trains no further.
    fs::remove_dir_all(place.path().join("out/model"))?;
    train::<EchoFile>(&request("", true))?;
    assert!(place.path().join("out/model/model.safetensors").exists());
    assert_eq!(fs::read_to_string(place.path().join("out/metrics.jsonl"))?, metrics);
    Ok(())
}
