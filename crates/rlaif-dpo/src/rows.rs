//! Converts text rows to token ids: which rows are accepted, and what happens to the others.

use std::collections::BTreeMap;

use rlaif_core::{BadSetting, Desirability, PreferencePair, Record, TextCodec, UnpairedPreference};
use rlaif_lm::{Joined, Joiner, Limits, LmSpec, Shorten, Texts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{DpoError, PairProblem};

/// A preference pair in token ids.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenPair {
    /// The pair's id.
    pub id: String,
    /// The prompt of both responses.
    pub prompt: Vec<u32>,
    /// The preferred response.
    pub chosen: Vec<u32>,
    /// The other response.
    pub rejected: Vec<u32>,
    /// Strength of the preference, if the data state it.
    pub margin: Option<f64>,
}

impl TokenPair {
    /// Tokens of the prompt and the longer response.
    #[expect(clippy::len_without_is_empty, reason = "a row without tokens is never made")]
    pub fn len(&self) -> usize {
        self.prompt.len() + self.chosen.len().max(self.rejected.len())
    }
}

/// A response with a verdict, in token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseRow {
    /// The row's id.
    pub id: String,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// The response.
    pub response: Vec<u32>,
    /// The verdict.
    pub desirability: Desirability,
    /// A response to another prompt, for KTO's baseline.
    pub mismatched: Vec<u32>,
}

impl ResponseRow {
    /// 1 for a desirable response, -1 for an undesirable one.
    pub fn sign(&self) -> f32 {
        match self.desirability {
            Desirability::Desirable => 1.,
            Desirability::Undesirable => -1.,
        }
    }
}

impl Record for TokenPair {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Record for ResponseRow {
    fn id(&self) -> &str {
        &self.id
    }
}

/// Treatment of a row that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnProblem {
    /// Stops the run.
    Error,
    /// Leaves the row out and counts it.
    #[default]
    Skip,
}

/// Treatment of a row that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// Stops the run.
    Error,
    /// Leaves the row out and counts it.
    Skip,
    /// Truncates the row and counts it. In this order: a prompt longer than `max_prompt_tokens`
    /// loses its beginning (a BOS stays); responses longer than `max_response_tokens` lose their
    /// end, and with it their EOS; if prompt and longer response still do not fit together, the
    /// prompt loses its beginning, down to one token (besides a BOS), and then the responses lose
    /// their end. Both responses keep the same prompt.
    #[default]
    Truncate,
}

/// Treatment of a row in which the prompt's tokens are not the first tokens of prompt and response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// Stops the run.
    Error,
    /// Leaves the row out and counts it.
    Skip,
    /// Begins the response with the first token that is not the prompt's, and counts the row: the
    /// tokens of the text as a whole, as in TRL.
    #[default]
    Merge,
    /// Encodes prompt and response separately and counts the row: the same tokens that the policy
    /// reads when it generates.
    Apart,
}

/// The end of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowEnd {
    /// The tokenizer's EOS, appended if the response lacks it, so that the policy learns to stop.
    /// Responses of a chat template end as the template says.
    #[default]
    Eos,
    /// The last token of the response.
    Open,
}

/// Conversion of rows to token ids.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RowConfig {
    /// Maximum length of a prompt, in tokens; by default, as many as fit.
    pub max_prompt_tokens: Option<usize>,
    /// Maximum length of a response, in tokens, EOS included; by default, as many as fit.
    pub max_response_tokens: Option<usize>,
    /// Maximum length of prompt and response together, in tokens; in a run file, `data.max_tokens`. Ignored for
    /// encoder-decoder models, which read the two separately.
    #[serde(skip)]
    pub max_tokens: Option<usize>,
    /// Treatment of a row that is too long.
    pub too_long: TooLong,
    /// Treatment of a pair of equal responses.
    pub identical: OnProblem,
    /// Treatment of a row with an empty prompt or response.
    pub empty: OnProblem,
    /// Treatment of a row whose tokens merge across the boundary.
    pub boundary: Boundary,
    /// The end of a response.
    pub ending: RowEnd,
}

impl RowConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`DpoError::Setting`] names the field.
    pub fn check(&self) -> Result<(), DpoError> {
        // A prompt needs at least one token, and so does a response besides its EOS.
        for (field, limit, least, expected) in [
            ("max_prompt_tokens", self.max_prompt_tokens, 1, "at least 1"),
            ("max_response_tokens", self.max_response_tokens, 1, "at least 1"),
            ("max_tokens", self.max_tokens, 2, "at least 2: a token of the prompt and one more"),
        ] {
            if let Some(found) = limit.filter(|limit| *limit < least) {
                return Err(BadSetting::new(field, found, expected).into());
            }
        }
        Ok(())
    }
}

/// Counts of the converted rows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RowReport {
    /// Rows read.
    pub read: usize,
    /// Usable rows.
    pub kept: usize,
    /// Usable rows that were truncated.
    pub truncated: usize,
    /// Usable rows in which tokens merge across the boundary.
    #[serde(default)]
    pub merged: usize,
    /// Skipped rows, by reason.
    pub skipped: BTreeMap<String, usize>,
}

impl RowReport {
    /// Counts a skipped row.
    pub fn skip(&mut self, problem: PairProblem) {
        let name = match problem {
            PairProblem::Identical => "identical responses",
            PairProblem::EmptyResponse => "empty response",
            PairProblem::EmptyPrompt => "empty prompt",
            PairProblem::TooLong { .. } => "too long",
            PairProblem::NotAPrefix => "prompt is not a prefix",
            PairProblem::NoMargin => "no margin",
            PairProblem::NoMismatch => "no mismatched response",
        };
        *self.skipped.entry(name.to_owned()).or_default() += 1;
    }

    /// `, 3 were left out (empty response), ..`; empty if no row was left out.
    fn left_out(&self) -> String {
        self.skipped.iter().map(|(why, n)| format!(", {n} were left out ({why})")).collect()
    }
}

impl std::fmt::Display for RowReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} rows", self.kept, self.read)?;
        if self.truncated > 0 {
            write!(f, ", {} cut to fit", self.truncated)?;
        }
        if self.merged > 0 {
            write!(f, ", {} with tokens that merge across the boundary", self.merged)?;
        }
        f.write_str(&self.left_out())
    }
}

/// Converts preference pairs to token ids.
///
/// For a decoder-only model, prompt and response are encoded as one text, so that the tokens are
/// those that the model will see. For an encoder-decoder model, the two texts are encoded
/// separately, each with the special tokens that its tokenizer adds.
///
/// # Errors
/// [`DpoError::Setting`], [`DpoError::Pair`] if the settings make a bad row an error,
/// [`DpoError::NoRows`] if no row is left, [`DpoError::Codec`].
pub fn pair_rows(
    pairs: &[PreferencePair],
    codec: &dyn TextCodec,
    spec: &LmSpec,
    config: &RowConfig,
) -> Result<(Vec<TokenPair>, RowReport), DpoError> {
    config.check()?;
    let texts = pairs.iter().map(|pair| {
        let responses = vec![pair.chosen.as_str(), &pair.rejected];
        (pair.id.as_str(), Texts { prompt: &pair.prompt, responses, kind: pair.kind })
    });
    let (rows, mut report) = Maker::new(codec, spec, config).rows(texts.collect())?;
    let mut kept = Vec::with_capacity(rows.len());
    for (at, row, shortened) in rows {
        let [chosen, rejected] =
            <[Vec<u32>; 2]>::try_from(row.responses).expect("a pair has two responses");
        if chosen == rejected {
            report.refuse(config.identical, &pairs[at].id, PairProblem::Identical)?;
            report.uncount(shortened, row.merged);
            continue;
        }
        kept.push(TokenPair {
            id: pairs[at].id.clone(),
            prompt: row.prompt,
            chosen,
            rejected,
            margin: pairs[at].margin,
        });
    }
    report.finish(kept.len())?;
    Ok((kept, report))
}

/// Converts single responses to token ids; see [`pair_rows`]. The mismatched response of a row is
/// that of the previous row; for the first row, that of the last.
///
/// # Errors
/// As [`pair_rows`].
pub fn response_rows(
    records: &[UnpairedPreference],
    codec: &dyn TextCodec,
    spec: &LmSpec,
    config: &RowConfig,
) -> Result<(Vec<ResponseRow>, RowReport), DpoError> {
    config.check()?;
    let texts = records.iter().map(|record| {
        let responses = vec![record.response.as_str()];
        (record.id.as_str(), Texts { prompt: &record.prompt, responses, kind: record.kind })
    });
    let (rows, mut report) = Maker::new(codec, spec, config).rows(texts.collect())?;
    let mut kept: Vec<_> = rows
        .into_iter()
        .map(|(at, mut row, _)| ResponseRow {
            id: records[at].id.clone(),
            prompt: row.prompt,
            response: row.responses.swap_remove(0),
            desirability: records[at].desirability,
            mismatched: Vec::new(),
        })
        .collect();
    let responses: Vec<Vec<u32>> = kept.iter().map(|row| row.response.clone()).collect();
    for (at, row) in kept.iter_mut().enumerate() {
        row.mismatched.clone_from(&responses[(at + responses.len() - 1) % responses.len()]);
    }
    report.finish(kept.len())?;
    Ok((kept, report))
}

impl RowReport {
    /// Refuses a row that cannot be used: returns an error, or counts it as skipped.
    fn refuse(&mut self, what: OnProblem, id: &str, problem: PairProblem) -> Result<(), DpoError> {
        match what {
            OnProblem::Error => Err(DpoError::Pair { id: id.to_owned(), problem }),
            OnProblem::Skip => {
                self.skip(problem);
                Ok(())
            }
        }
    }

    /// Reverts the counts of a row that is skipped after all.
    fn uncount(&mut self, truncated: bool, merged: bool) {
        self.truncated -= usize::from(truncated);
        self.merged -= usize::from(merged);
    }

    fn finish(&mut self, kept: usize) -> Result<(), DpoError> {
        self.kept = kept;
        if kept == 0 {
            return Err(DpoError::NoRows { read: self.read, skipped: self.left_out() });
        }
        Ok(())
    }
}

/// The usable rows: the index of each text, its tokens, and `true` if it was truncated.
type Usable = Vec<(usize, Joined, bool)>;

struct Maker<'a> {
    joiner: Joiner<'a>,
    config: &'a RowConfig,
}

impl<'a> Maker<'a> {
    fn new(codec: &'a dyn TextCodec, spec: &'a LmSpec, config: &'a RowConfig) -> Self {
        Self { joiner: Joiner::new(codec, spec), config }
    }

    /// The usable rows of texts that come with the ids of their records.
    fn rows(&self, texts: Vec<(&str, Texts<'_>)>) -> Result<(Usable, RowReport), DpoError> {
        let mut report = RowReport { read: texts.len(), ..RowReport::default() };
        let (mut places, mut good) = (Vec::new(), Vec::new());
        for (at, (id, text)) in texts.into_iter().enumerate() {
            let problem = if text.prompt.is_empty() {
                Some(PairProblem::EmptyPrompt)
            } else if text.responses.iter().any(|response| response.trim().is_empty()) {
                Some(PairProblem::EmptyResponse)
            } else {
                None
            };
            match problem {
                Some(problem) => report.refuse(self.config.empty, id, problem)?,
                None => {
                    places.push((at, id));
                    good.push(text);
                }
            }
        }
        let mut rows = Vec::with_capacity(good.len());
        let joined = self.joiner.join(&good)?;
        for (((at, id), text), mut row) in places.into_iter().zip(&good).zip(joined) {
            let merged = row.merged;
            if merged && !self.merged(id, text, &mut row, &mut report)? {
                continue;
            }
            if row.prompt.is_empty() {
                report.refuse(self.config.empty, id, PairProblem::EmptyPrompt)?;
                continue;
            }
            if row.responses.iter().any(|r| r.iter().all(|&id| self.joiner.is_eos(id))) {
                report.refuse(self.config.empty, id, PairProblem::EmptyResponse)?;
                continue;
            }
            if self.config.ending == RowEnd::Eos {
                let kind = row.kind;
                row.responses.iter_mut().for_each(|response| self.joiner.end(response, kind));
            }
            let Some(shortened) = self.fit(&mut row, id, &mut report)? else { continue };
            report.truncated += usize::from(shortened);
            report.merged += usize::from(merged);
            row.merged = merged;
            rows.push((at, row, shortened));
        }
        Ok((rows, report))
    }

    /// Treats a row in which tokens merge, and returns `true` if it is kept.
    fn merged(
        &self,
        id: &str,
        text: &Texts<'_>,
        row: &mut Joined,
        report: &mut RowReport,
    ) -> Result<bool, DpoError> {
        match self.config.boundary {
            Boundary::Error => {
                Err(DpoError::Pair { id: id.to_owned(), problem: PairProblem::NotAPrefix })
            }
            Boundary::Skip => {
                report.skip(PairProblem::NotAPrefix);
                Ok(false)
            }
            // A response needs a token before it: a prompt without one of its own is kept whole.
            Boundary::Merge if !row.prompt.is_empty() => Ok(true),
            Boundary::Merge | Boundary::Apart => {
                *row = self.joiner.apart(text)?;
                Ok(true)
            }
        }
    }

    /// Fits a row into the limits, and returns it with `true` if it was truncated; `None` for a
    /// skipped row.
    fn fit(
        &self,
        row: &mut Joined,
        id: &str,
        report: &mut RowReport,
    ) -> Result<Option<bool>, DpoError> {
        let limits = Limits {
            prompt: self.config.max_prompt_tokens,
            response: self.config.max_response_tokens,
            together: self.config.max_tokens,
            shorten: Shorten::PromptStart,
        };
        let Some((length, limit)) = self.joiner.excess(row, &limits) else {
            return Ok(Some(false));
        };
        let problem = PairProblem::TooLong { length, limit };
        match self.config.too_long {
            TooLong::Error => Err(DpoError::Pair { id: id.to_owned(), problem }),
            TooLong::Skip => {
                report.skip(problem);
                Ok(None)
            }
            TooLong::Truncate => Ok(Some(self.joiner.fit(row, &limits))),
        }
    }
}
