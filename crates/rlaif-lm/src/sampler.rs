//! Sources of responses: the policy in this process, or something else that answers prompts.

use std::{collections::VecDeque, path::Path};

use rlaif_core::{Specials, TextCodec};

use crate::{
    error::LmError,
    generate::{Ask, Hooks},
    prompt::{Prompt, place},
    respond::respond,
    row_ids::RowIds,
    sampled::{Sampled, SamplerCall},
};

/// Answers prompts: the policy in this process ([`LocalSampler`]), a recording
/// ([`RecordedSampler`]), a server, or a policy of another process.
///
/// ```
/// use rlaif_lm::{LmError, Sampled, Sampler, SamplerCall};
/// use rlaif_lm::generate::{Ask, FinishReason};
///
/// /// Answers every prompt with token 7 and the end of sequence, 2.
/// struct Always;
///
/// impl Sampler for Always {
///     fn sample(&mut self, asks: &[Ask], call: SamplerCall<'_>) -> Result<Vec<Sampled>, LmError> {
///         let response = Sampled {
///             ids: vec![7, 2],
///             log_probs: None,
///             text: "seven".to_owned(),
///             finish: FinishReason::Eos,
///             version: call.weights.version,
///             played: None,
///         };
///         Ok(vec![response; asks.len()])
///     }
/// }
/// ```
pub trait Sampler {
    /// One response to each ask, in their order. Asks with the same prompt are several responses
    /// to it.
    ///
    /// # Errors
    /// [`LmError`] for asks that cannot be answered; [`LmError::Sampler`] for what goes wrong
    /// outside this process.
    fn sample(&mut self, asks: &[Ask], call: SamplerCall<'_>) -> Result<Vec<Sampled>, LmError>;

    /// One response to each prompt, in their order: as [`Sampler::sample`], by default. A sampler with
    /// an environment plays an episode for each.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    fn play(
        &mut self,
        rows: &[NumberedPrompt],
        call: SamplerCall<'_>,
    ) -> Result<Vec<Sampled>, LmError> {
        let asks: Vec<Ask> = rows.iter().map(NumberedPrompt::ask).collect();
        self.sample(&asks, call)
    }

    /// `true` if another program computes the responses: of several processes that train together, one then asks for all
    /// of them. `false` by default.
    fn is_remote(&self) -> bool {
        false
    }

    /// The number of first tokens of a response whose text is the first `bytes` of the response's, or
    /// more: where a step ends. `None`, the default, for a sampler that does not know texts.
    ///
    /// # Errors
    /// [`LmError`] for ids that cannot be decoded.
    fn tokens_before(&self, ids: &[u32], bytes: usize) -> Result<Option<usize>, LmError> {
        let _ = (ids, bytes);
        Ok(None)
    }
}

impl<S: Sampler + ?Sized> Sampler for Box<S> {
    fn sample(&mut self, asks: &[Ask], call: SamplerCall<'_>) -> Result<Vec<Sampled>, LmError> {
        (**self).sample(asks, call)
    }

    fn play(
        &mut self,
        rows: &[NumberedPrompt],
        call: SamplerCall<'_>,
    ) -> Result<Vec<Sampled>, LmError> {
        (**self).play(rows, call)
    }

    fn is_remote(&self) -> bool {
        (**self).is_remote()
    }

    fn tokens_before(&self, ids: &[u32], bytes: usize) -> Result<Option<usize>, LmError> {
        (**self).tokens_before(ids, bytes)
    }
}

/// Samples a response to each prompt. For several responses to one prompt, repeat the prompt: the
/// policy computes it only once.
///
/// The tokens of a row depend on the random numbers of `draw` and on the id of the prompt's record,
/// not on the other rows.
///
/// # Errors
/// The sampler's errors; [`LmError::BatchMismatch`] for a wrong number of responses.
pub fn sample(
    sampler: &mut dyn Sampler,
    prompts: &[Prompt],
    call: SamplerCall<'_>,
) -> Result<Vec<Sampled>, LmError> {
    let rows = NumberedPrompt::number(prompts);
    let asks: Vec<Ask> = rows.iter().map(NumberedPrompt::ask).collect();
    complete(sampler.sample(&asks, call), prompts)
}

/// As [`sample`], with the episodes of a sampler that has an environment ([`Sampler::play`]).
///
/// # Errors
/// As [`sample`].
pub fn play(
    sampler: &mut dyn Sampler,
    prompts: &[Prompt],
    call: SamplerCall<'_>,
) -> Result<Vec<Sampled>, LmError> {
    complete(sampler.play(&NumberedPrompt::number(prompts), call), prompts)
}

/// Checks that there is a response to each prompt.
fn complete(
    sampled: Result<Vec<Sampled>, LmError>,
    prompts: &[Prompt],
) -> Result<Vec<Sampled>, LmError> {
    let sampled = sampled.map_err(|error| error.in_row(place(prompts)))?;
    if sampled.len() != prompts.len() {
        let (expected, found) = (prompts.len(), sampled.len());
        return Err(LmError::BatchMismatch { what: "responses of the sampler", expected, found });
    }
    Ok(sampled)
}

/// A prompt with the number of its row.
#[derive(Debug, Clone)]
pub struct NumberedPrompt {
    /// The number, from which the random numbers of the row's tokens are derived ([`RowIds`]).
    pub id: u64,
    /// The prompt.
    pub prompt: Prompt,
}

impl NumberedPrompt {
    /// The rows of prompts, with numbers by the ids of their records.
    pub fn number(prompts: &[Prompt]) -> Vec<Self> {
        let mut ids = RowIds::default();
        let rows = prompts.iter();
        rows.map(|prompt| Self { id: ids.of(&prompt.record.id), prompt: prompt.clone() }).collect()
    }

    fn ask(&self) -> Ask {
        Ask { id: self.id, prompt: self.prompt.ids.to_vec(), max_new_tokens: None }
    }
}

/// Samples from the policy itself, in this process.
#[derive(Clone, Copy)]
pub struct LocalSampler<'a> {
    codec: &'a dyn TextCodec,
}

impl<'a> LocalSampler<'a> {
    /// A sampler that makes text with this tokenizer.
    pub fn new(codec: &'a dyn TextCodec) -> Self {
        Self { codec }
    }
}

impl std::fmt::Debug for LocalSampler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LocalSampler").field(&self.codec.name()).finish()
    }
}

impl Sampler for LocalSampler<'_> {
    fn sample(&mut self, asks: &[Ask], call: SamplerCall<'_>) -> Result<Vec<Sampled>, LmError> {
        respond(asks, call, Hooks { codec: Some(self.codec), on_token: None })
    }

    fn tokens_before(&self, ids: &[u32], bytes: usize) -> Result<Option<usize>, LmError> {
        // The texts of longer beginnings are longer.
        let (mut low, mut high) = (0, ids.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            let text = self.codec.decode(&ids[..middle], Specials::Exclude)?;
            if text.len() < bytes { low = middle + 1 } else { high = middle }
        }
        Ok(Some(low))
    }
}

/// Replays recorded responses in their order, for any prompts: for tests, and for training on
/// responses that another program sampled.
///
/// ```
/// use rlaif_lm::{RecordedSampler, Sampled, generate::FinishReason};
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("responses.jsonl");
/// std::fs::write(&file, r#"{"ids": [5, 2], "text": "five", "finish": "eos"}"#)?;
/// let sampler = RecordedSampler::read(&file)?;
/// assert_eq!(sampler.left(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct RecordedSampler {
    responses: VecDeque<Sampled>,
    read: usize,
}

impl RecordedSampler {
    /// The responses, the first of which answers the first ask of the first call.
    pub fn new(responses: Vec<Sampled>) -> Self {
        Self { read: responses.len(), responses: responses.into() }
    }

    /// The responses of a file of JSON lines, each a [`Sampled`].
    ///
    /// # Errors
    /// [`LmError::Recording`] for a file that cannot be read, or a line that is not a response.
    pub fn read(path: &Path) -> Result<Self, LmError> {
        let failed = |problem: String| LmError::Recording { path: path.to_owned(), problem };
        let text =
            rlaif_files::read_text(path, u64::MAX).map_err(|error| failed(error.to_string()))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let responses = lines.map(|(at, line)| {
            serde_json::from_str(line).map_err(|error| failed(format!("line {}: {error}", at + 1)))
        });
        Ok(Self::new(responses.collect::<Result<_, _>>()?))
    }

    /// Number of responses that have not been given yet.
    pub fn left(&self) -> usize {
        self.responses.len()
    }
}

impl Sampler for RecordedSampler {
    fn sample(&mut self, asks: &[Ask], call: SamplerCall<'_>) -> Result<Vec<Sampled>, LmError> {
        if asks.len() > self.responses.len() {
            let given = self.read - self.responses.len();
            return Err(LmError::RecordingEnded { recorded: self.read, asked: given + asks.len() });
        }
        let spec = call.weights.policy.spec();
        for (row, response) in self.responses.iter().take(asks.len()).enumerate() {
            spec.check(row, &response.ids)?;
        }
        Ok(self.responses.drain(..asks.len()).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::generate::FinishReason;

    #[test]
    fn a_recording_is_one_response_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("responses.jsonl");
        let first = Sampled {
            ids: vec![3, 1],
            log_probs: Some(vec![-0.5, -1.]),
            text: "c".to_owned(),
            finish: FinishReason::Eos,
            version: 4,
            played: None,
        };
        let line = serde_json::to_string(&first).unwrap();
        fs::write(&path, format!("{line}\n\n{{\"ids\": [4], \"finish\": \"length\"}}\n")).unwrap();
        let recorded = RecordedSampler::read(&path).unwrap();
        assert_eq!(recorded.left(), 2);
        assert_eq!(recorded.responses[0], first);
        assert_eq!(
            (recorded.responses[1].log_probs.clone(), recorded.responses[1].version),
            (None, 0)
        );
        assert!(first.is_finished() && !recorded.responses[1].is_finished());

        fs::write(&path, "{\"ids\": [4]}\n").unwrap();
        let error = RecordedSampler::read(&path).unwrap_err().to_string();
        assert!(error.contains("responses.jsonl") && error.contains("line 1"), "{error}");
        assert!(RecordedSampler::read(&folder.path().join("none")).is_err());
    }
}
