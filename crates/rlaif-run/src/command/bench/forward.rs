//! Forward passes, and those with a backward pass.

use rlaif_lm::{
    Forward, Padding, Parameters, Policy, SequenceClassifier, TokenBatch, policy_log_probs,
};
use rlaif_models::{ModelFiles, ModelSort};
use rlaif_torch::seeded;
use tch::{Kind, Tensor, no_grad};

use super::measured::{Measured, Meter, median, random_rows};
use crate::command::{
    error::{CommandError, at_least_one},
    model::ModelChoice,
};

/// The log-probabilities of random responses to random prompts, or a classifier's cross-entropy on
/// random labels; forward, and forward with backward.
#[derive(Debug, Clone)]
pub struct ForwardBench {
    /// The model.
    pub model: ModelChoice,
    /// Rows.
    pub batch_size: usize,
    /// Tokens per prompt; for a classifier, per sequence.
    pub prompt_len: usize,
    /// Tokens per response; not used by classifiers.
    pub new_tokens: usize,
    /// Timed passes of each kind, after one untimed pass.
    pub steps: usize,
    /// Seed of the token ids.
    pub seed: u64,
}

/// Seconds of a forward pass and of one with its backward pass, the work of both, and the model's dtype.
type Timed = (f64, f64, Meter, Kind);

impl ForwardBench {
    /// Measures both kinds of passes.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn run(&self) -> Result<Measured, CommandError> {
        at_least_one(&[
            ("batch_size", self.batch_size),
            ("prompt_len", self.prompt_len),
            ("steps", self.steps),
        ])?;
        let options = self.model.loading.options()?;
        let files = self.model.files()?;
        let sort = files.sort(options)?;
        let (forward_s, forward_backward_s, meter, kind) =
            seeded(self.seed.cast_signed(), || match sort {
                ModelSort::LanguageModel => self.language_model(&files),
                ModelSort::Classifier => self.classifier(&files),
            })??;
        Measured::default()
            .value("forward_s", forward_s)
            .value("forward_backward_s", forward_backward_s)
            .line("forward", format!("{forward_s:.4} s"))
            .line("forward + backward", format!("{forward_backward_s:.4} s"))
            .shares(&meter, kind, options.device)?
            .finish(options.device)
    }

    fn language_model(&self, files: &ModelFiles) -> Result<Timed, CommandError> {
        if self.new_tokens == 0 {
            let expected = "at least 1 for a language model";
            return Err(CommandError::setting("new_tokens", 0, expected));
        }
        let policy = self.model.language_model(files)?;
        let spec = policy.spec();
        let prompts = random_rows(self.batch_size, self.prompt_len, spec.vocab_size);
        let prompts = TokenBatch::collate(prompts, spec, Padding::Right)?;
        let responses = random_rows(self.batch_size, self.new_tokens, spec.vocab_size);
        let responses = TokenBatch::responses(responses, spec)?;
        let forward = Forward::default();
        let loss = || {
            let found = policy_log_probs(&policy, &prompts, &responses, forward, 1.)?;
            Ok(-found.log_probs.mean(Kind::Float))
        };
        self.time(policy.parameters(), spec.kind, loss)
    }

    fn classifier(&self, files: &ModelFiles) -> Result<Timed, CommandError> {
        let classifier = self.model.classifier(files)?;
        let spec = classifier.spec();
        let rows = random_rows(self.batch_size, self.prompt_len, spec.vocab_size);
        let rows = TokenBatch::collate(rows, spec, Padding::Right)?;
        let labels = i64::try_from(classifier.labels().len()).unwrap_or(1);
        let options = (Kind::Int64, spec.device);
        let labels = Tensor::randint(labels, [rows.len() as i64], options);
        let loss = || {
            let logits = classifier.logits(&rows, None, Forward::default())?;
            Ok(logits.cross_entropy_for_logits(&labels))
        };
        self.time(classifier.parameters(), spec.kind, loss)
    }

    /// Medians, after one untimed pass of either kind.
    fn time(
        &self,
        parameters: &Parameters,
        kind: Kind,
        loss: impl Fn() -> Result<Tensor, CommandError>,
    ) -> Result<Timed, CommandError> {
        let mut meter = Meter::default();
        let tensors: Vec<&Tensor> = parameters.iter().map(|(_, tensor)| tensor).collect();
        let forward = self.seconds(&mut meter, || {
            no_grad(&loss)?.double_value(&[]);
            Ok(())
        })?;
        let both = self.seconds(&mut meter, || {
            rlaif_torch::drop_grads(&tensors)?;
            let loss = loss()?;
            loss.backward();
            loss.double_value(&[]);
            Ok(())
        })?;
        Ok((forward, both, meter, kind))
    }

    fn seconds(
        &self,
        meter: &mut Meter,
        pass: impl Fn() -> Result<(), CommandError>,
    ) -> Result<f64, CommandError> {
        let mut seconds = Vec::with_capacity(self.steps);
        for step in 0..=self.steps {
            seconds.extend(meter.step(step, &pass)?.map(|((), seconds)| seconds));
        }
        Ok(median(seconds))
    }
}
