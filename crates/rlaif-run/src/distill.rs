//! On-policy distillation from a run file.

use rlaif_core::{BadSetting, Seed};
use rlaif_distill::{DistillConfig, DistillTask, DistillTrainer};
use rlaif_engine::VllmConfig;
use rlaif_lm::{Joined, Joiner, LmSpec, Policy, Sampled, Texts, generate::FinishReason};
use rlaif_models::{GenerationTime, LanguageModel, LoadOptions, MemoryPlan};
use rlaif_rl::{Prompt, RlError};
use rlaif_text::HfTokenizer;
use rlaif_train::Trainable;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    error::RunError,
    file::RunFile,
    memory::WeightsInMemory,
    model::{ModelSection, Placement},
    prompt::PromptSection,
    recipe::{Basics, Recipe, Start},
    rl::{
        PromptData, PromptRun, RlSections, RlSettings, RlTrainSection, check_vocabulary, files_of,
        policy, sections_of, servers, within,
    },
};

/// The run file of `rlaif distill`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DistillFile {
    /// The seed of all random numbers.
    #[serde(default)]
    pub seed: u64,
    /// The student.
    pub model: ModelSection,
    /// The teacher: a folder or hub id of a model with the student's tokenizer.
    pub teacher: String,
    /// The weights that are trained.
    #[serde(default)]
    pub trainable: Trainable,
    /// Device, threads and memory.
    #[serde(default)]
    pub placement: Placement,
    /// The prompts.
    pub data: PromptData,
    /// The text of a prompt.
    #[serde(default)]
    pub prompt: PromptSection,
    /// Sampling on vLLM servers; by default, the policy samples in this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vllm: Option<VllmConfig>,
    /// The distillation.
    #[serde(default)]
    pub distill: DistillConfig,
    /// Checkpoints and samples.
    #[serde(default)]
    pub train: RlTrainSection,
}

impl RunFile for DistillFile {
    const COMMAND: &'static str = "distill";

    fn locations(&mut self) -> Vec<&mut String> {
        let mut all = self.model.locations();
        all.push(&mut self.data.prompts);
        all.push(&mut self.teacher);
        all
    }
}

impl Recipe for DistillFile {
    const SHOWN: &'static [&'static str] =
        &["distill/loss", "distill/reverse_kl", "time/samples_per_second"];
    const DATA_PARALLEL: bool = true;

    fn basics(&self) -> Basics<'_> {
        Basics { seed: self.seed, placement: &self.placement, model: &self.model }
    }

    fn check(&self) -> Result<(), RunError> {
        self.distill.check().map_err(in_section)?;
        self.settings().check()?;
        self.sections().check()
    }

    fn train(&self, start: Start<'_, Self>) -> Result<(), RunError> {
        let mut trainer = self.trainer(start.options)?;
        let (sections, settings) = (self.sections(), self.settings());
        let tokenizer = sections.tokenizer(trainer.policy())?;
        let spec = trainer.policy().spec();
        let prompts = sections.prompts(settings, None, &tokenizer, spec)?;
        let references = self.references(&prompts.prompts, &tokenizer, spec)?;
        let mut run = PromptRun::new(sections, settings, prompts)?;
        let memory = self.memory(start.options, &run.prompts)?;
        start.check_memory(&memory, WeightsInMemory::Loaded)?;
        let place = (&self.model, start.folder());
        let servers = servers(settings.vllm, trainer.policy_mut(), &tokenizer, place)?;
        run.notes.extend(servers.as_ref().map(|(_, told)| told.clone()));
        let mut ongoing = run.begin(start, (trainer.policy(), &tokenizer), "")?;
        let task = DistillTask::new(trainer, &run.prompts, &tokenizer);
        let mut task = task.references(references).samples(self.train.samples);
        if let Some((sampler, _)) = servers {
            task = task.sampler(sampler);
        }
        ongoing.drive(&mut task, &mut run.batches)?;
        ongoing.write(&mut task.into_trainer().into_policy())
    }
}

impl DistillFile {
    fn sections(&self) -> RlSections<'_> {
        sections_of! {
            self,
            reference: Some(&self.teacher),
            needs_reference: true,
            value: None,
        }
    }

    fn settings(&self) -> RlSettings<'_> {
        RlSettings {
            steps: self.distill.steps,
            responses: self.distill.batch_size,
            prompts: (self.distill.batch_size, "`distill.batch_size`"),
            pass_rates: None,
            sampled: GenerationTime::Alone,
            environment: None,
            vllm: self.vllm.as_ref(),
            microbatch_size: self.distill.microbatch(),
            generation: &self.distill.generation,
            activations: self.distill.activations,
        }
    }

    /// The reference responses to prompts, at most as long as responses of the student, if steps learn
    /// on them.
    fn references(
        &self,
        prompts: &[Prompt],
        codec: &HfTokenizer,
        spec: &LmSpec,
    ) -> Result<Vec<Sampled>, RunError> {
        if self.distill.on_policy >= 1. {
            return Ok(Vec::new());
        }
        let texts = |prompt: &Prompt| {
            prompt.record.reference.clone().ok_or_else(|| {
                let found = match &self.data.reference_column {
                    Some(column) => {
                        let id = &prompt.record.id;
                        format!("the column `{column}`, which is empty in the row of prompt `{id}`")
                    }
                    None => "not set".to_owned(),
                };
                let on_policy = self.distill.on_policy;
                let expected = format!(
                    "a column of responses, one in each row: `distill.on_policy` is {on_policy}"
                );
                RunError::from(BadSetting::new("data.reference_column", found, expected))
            })
        };
        let references = prompts.iter().map(texts).collect::<Result<Vec<_>, _>>()?;
        let rows: Vec<Texts<'_>> = (prompts.iter().zip(&references))
            .map(|(prompt, reference)| Texts {
                prompt: &prompt.record.prompt,
                responses: vec![reference],
                kind: prompt.record.kind,
            })
            .collect();
        let joiner = Joiner::new(codec, spec);
        let longest = self.distill.generation.max_new_tokens;
        let joined = joiner.join(&rows)?.into_iter().zip(references);
        let response = |(mut joined, text): (Joined, String)| {
            let mut ids = joined.responses.pop().unwrap_or_default();
            joiner.end(&mut ids, joined.kind);
            ids.truncate(longest);
            let ended = ids.last().is_some_and(|&id| joiner.is_eos(id));
            let finish = if ended { FinishReason::Eos } else { FinishReason::Length };
            Sampled { ids, log_probs: None, text, finish, version: 0, played: None }
        };
        Ok(joined.map(response).collect())
    }

    /// Memory for these prompts; without prompts, the least that the run needs.
    ///
    /// # Errors
    /// [`RunError::Fetch`].
    pub fn memory(&self, options: LoadOptions, prompts: &[Prompt]) -> Result<MemoryPlan, RunError> {
        self.sections().memory(self.settings(), options, prompts)
    }

    /// Loads student and teacher, and makes the trainer of them. Fresh weights depend on the seed
    /// alone.
    ///
    /// # Errors
    /// [`RunError`] for a model that cannot be loaded, a teacher of another vocabulary, or a run that does
    /// not fit into memory.
    pub fn trainer(&self, options: LoadOptions) -> Result<DistillTrainer<LanguageModel>, RunError> {
        let memory = self.memory(options, &[])?;
        self.sections().fresh(&memory, || {
            let use_ = (
                "the teacher reads the ids of the student",
                "name one of the student's vocabulary, or train on its responses by `rlaif sft`",
            );
            check_vocabulary(&self.model, Some(&self.teacher), use_)?;
            let policy = policy(&self.model, &self.trainable, options)?;
            let options = self.model.with_vocabulary(options)?;
            let teacher = files_of(&self.teacher)?.language_model(options)?;
            let config = DistillConfig { seed: Seed::new(self.seed), ..self.distill.clone() };
            DistillTrainer::new(policy, Box::new(teacher), config).map_err(in_section)
        })
    }
}

fn in_section(error: RlError) -> RunError {
    within("distill", error)
}
