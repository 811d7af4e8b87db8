//! Text to the token ids that are learnt from: what a row must be, and what becomes of one that is
//! not.

use std::collections::BTreeMap;

use rlaif_core::{
    BadSetting, Desirability, PreferencePair, Specials, TextCodec, UnpairedPreference,
};
use rlaif_lm::LmSpec;
use serde::{Deserialize, Serialize};

use crate::error::{DpoError, PairProblem};

/// A preference pair in token ids.
#[derive(Debug, Clone, PartialEq)]
pub struct PairRow {
    /// The pair's id.
    pub id: String,
    /// The prompt both responses answer.
    pub prompt: Vec<u32>,
    /// The preferred response.
    pub chosen: Vec<u32>,
    /// The other response.
    pub rejected: Vec<u32>,
    /// By how much the chosen response is better, where the data say.
    pub margin: Option<f64>,
}

impl PairRow {
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
    /// A response to another prompt, from which KTO takes its baseline.
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

/// What becomes of a row that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnProblem {
    /// It ends the run.
    Error,
    /// It is left out and counted.
    #[default]
    Skip,
}

/// What becomes of a row that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// It ends the run.
    Error,
    /// It is left out and counted.
    Skip,
    /// It is cut, and counted. In this order: a prompt longer than `max_prompt_length` loses its
    /// beginning (a BOS stays); responses longer than `max_response_length` lose their end, and
    /// with it their EOS; if prompt and longer response still do not fit together, the prompt
    /// loses its beginning, down to one token (beside a BOS), and then the responses their end. Both
    /// responses keep one and the same prompt.
    #[default]
    Truncate,
}

/// What becomes of a row whose prompt's tokens are not the first tokens of prompt and response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// It ends the run.
    Error,
    /// It is left out and counted.
    Skip,
    /// Prompt and response are encoded apart, and counted: what the policy reads when it generates.
    #[default]
    Apart,
}

/// What ends a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The model's first EOS, unless the response has one: the policy learns to stop.
    #[default]
    Eos,
    /// Its last token.
    Open,
}

/// How rows become token ids.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RowConfig {
    /// Most tokens of a prompt; none: as many as fit.
    pub max_prompt_length: Option<usize>,
    /// Most tokens of a response, EOS included; none: as many as fit.
    pub max_response_length: Option<usize>,
    /// Most tokens of prompt and response together; none: the model's context. An encoder-decoder
    /// model reads them apart, and this does not bound it.
    pub max_length: Option<usize>,
    /// What becomes of a row that is too long.
    pub too_long: TooLong,
    /// What becomes of a pair of equal responses.
    pub identical: OnProblem,
    /// What becomes of a row with an empty prompt or response.
    pub empty: OnProblem,
    /// What becomes of a row whose tokens merge across the boundary.
    pub boundary: Boundary,
    /// What ends a response.
    pub ending: Ending,
}

impl RowConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`DpoError::Setting`] names the field.
    pub fn check(&self) -> Result<(), DpoError> {
        // A prompt has a token, and so has a response beside its EOS.
        for (field, limit, least, expected) in [
            ("max_prompt_length", self.max_prompt_length, 1, "at least 1"),
            ("max_response_length", self.max_response_length, 1, "at least 1"),
            ("max_length", self.max_length, 2, "at least 2: a token of the prompt and one more"),
        ] {
            if let Some(found) = limit.filter(|limit| *limit < least) {
                return Err(BadSetting::new(field, found, expected).into());
            }
        }
        Ok(())
    }
}

/// What was made of rows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RowReport {
    /// Rows read.
    pub read: usize,
    /// Rows that can be learnt from.
    pub kept: usize,
    /// Of these, those that were cut to fit.
    pub truncated: usize,
    /// Of these, those whose prompt and response were encoded apart.
    pub apart: usize,
    /// Rows left out, by why.
    pub skipped: BTreeMap<String, usize>,
}

impl RowReport {
    /// Counts a row that is left out.
    pub fn skip(&mut self, problem: PairProblem) {
        let name = match problem {
            PairProblem::Identical => "identical responses",
            PairProblem::EmptyResponse => "empty response",
            PairProblem::EmptyPrompt => "empty prompt",
            PairProblem::TooLong { .. } => "too long",
            PairProblem::NotAPrefix => "prompt is no prefix",
            PairProblem::NoMargin => "no margin",
            PairProblem::NoMismatch => "no mismatched response",
        };
        *self.skipped.entry(name.to_owned()).or_default() += 1;
    }

    /// `, 3 were left out (empty response), ..`; nothing if none was.
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
        if self.apart > 0 {
            write!(f, ", {} with prompt and response encoded apart", self.apart)?;
        }
        f.write_str(&self.left_out())
    }
}

/// Makes rows of a model's token ids.
///
/// A decoder-only model's rows are the tokens of prompt and response encoded as one text, so that
/// the tokenizer sees what the model will see; an encoder-decoder model's two texts are encoded
/// apart, each with the special tokens that its tokenizer adds.
///
/// # Errors
/// [`DpoError::Setting`], [`DpoError::Pair`] where the settings make a bad row an error,
/// [`DpoError::NoRows`] if none is left, [`DpoError::Codec`].
pub fn pair_rows(
    pairs: &[PreferencePair],
    codec: &dyn TextCodec,
    spec: &LmSpec,
    config: &RowConfig,
) -> Result<(Vec<PairRow>, RowReport), DpoError> {
    let texts = pairs.iter().map(|pair| Text {
        id: &pair.id,
        prompt: &pair.prompt,
        responses: vec![&pair.chosen, &pair.rejected],
    });
    config.check()?;
    let maker = Maker { codec, spec, config };
    let (rows, mut report) = maker.rows(texts.collect())?;
    let mut kept = Vec::with_capacity(rows.len());
    for (at, row) in rows {
        let [chosen, rejected] =
            <[Vec<u32>; 2]>::try_from(row.responses).expect("a pair has two responses");
        if chosen == rejected {
            report.refuse(config.identical, &pairs[at].id, PairProblem::Identical)?;
            report.uncount(row.truncated, row.apart);
            continue;
        }
        kept.push(PairRow {
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

/// Single responses as rows; see [`pair_rows`]. The mismatched response of a row is that of the
/// row before it, of the first one that of the last.
///
/// # Errors
/// As [`pair_rows`].
pub fn response_rows(
    records: &[UnpairedPreference],
    codec: &dyn TextCodec,
    spec: &LmSpec,
    config: &RowConfig,
) -> Result<(Vec<ResponseRow>, RowReport), DpoError> {
    let texts = records.iter().map(|record| Text {
        id: &record.id,
        prompt: &record.prompt,
        responses: vec![&record.response],
    });
    config.check()?;
    let maker = Maker { codec, spec, config };
    let (rows, mut report) = maker.rows(texts.collect())?;
    let mut kept: Vec<_> = rows
        .into_iter()
        .map(|(at, mut row)| ResponseRow {
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
    /// A row that cannot be used: an error, or one more that is left out.
    fn refuse(&mut self, what: OnProblem, id: &str, problem: PairProblem) -> Result<(), DpoError> {
        match what {
            OnProblem::Error => Err(DpoError::Pair { id: id.to_owned(), problem }),
            OnProblem::Skip => {
                self.skip(problem);
                Ok(())
            }
        }
    }

    /// Takes back what was counted of a row that is left out after all.
    fn uncount(&mut self, truncated: bool, apart: bool) {
        self.truncated -= usize::from(truncated);
        self.apart -= usize::from(apart);
    }

    fn finish(&mut self, kept: usize) -> Result<(), DpoError> {
        self.kept = kept;
        if kept == 0 {
            return Err(DpoError::NoRows { read: self.read, skipped: self.left_out() });
        }
        Ok(())
    }
}

/// One row as text.
struct Text<'a> {
    id: &'a str,
    prompt: &'a str,
    responses: Vec<&'a str>,
}

/// One row in token ids: the prompt, and as many responses as it has.
struct Encoded {
    prompt: Vec<u32>,
    responses: Vec<Vec<u32>>,
    truncated: bool,
    apart: bool,
}

struct Maker<'a> {
    codec: &'a dyn TextCodec,
    spec: &'a LmSpec,
    config: &'a RowConfig,
}

impl Maker<'_> {
    /// The usable rows by their place among `texts`.
    fn rows(&self, texts: Vec<Text<'_>>) -> Result<(Vec<(usize, Encoded)>, RowReport), DpoError> {
        let mut report = RowReport { read: texts.len(), ..RowReport::default() };
        let mut good = Vec::with_capacity(texts.len());
        for (at, text) in texts.into_iter().enumerate() {
            let problem = if text.prompt.is_empty() {
                Some(PairProblem::EmptyPrompt)
            } else if text.responses.iter().any(|response| response.trim().is_empty()) {
                Some(PairProblem::EmptyResponse)
            } else {
                None
            };
            match problem {
                Some(problem) => report.refuse(self.config.empty, text.id, problem)?,
                None => good.push((at, text)),
            }
        }
        let prompts: Vec<&str> = good.iter().map(|(_, text)| text.prompt).collect();
        let prompts = self.codec.encode_batch(&prompts, Specials::Include)?;
        let responses = self.encode_responses(&good)?;

        let mut rows = Vec::with_capacity(good.len());
        for (((at, text), prompt), responses) in good.into_iter().zip(prompts).zip(responses) {
            let Some(mut row) = self.join(&text, prompt, responses, &mut report)? else {
                continue;
            };
            if row.responses.iter().any(|r| r.iter().all(|&id| self.spec.is_eos(id))) {
                report.refuse(self.config.empty, text.id, PairProblem::EmptyResponse)?;
                continue;
            }
            if self.config.ending == Ending::Eos {
                self.end(&mut row);
            }
            if !self.fit(&mut row, text.id, &mut report)? {
                continue;
            }
            report.truncated += usize::from(row.truncated);
            report.apart += usize::from(row.apart);
            rows.push((at, row));
        }
        Ok((rows, report))
    }

    fn is_encoder_decoder(&self) -> bool {
        self.spec.decoder_start_id.is_some()
    }

    /// What the tokenizer makes of the responses: with their prompts before them for decoder-only
    /// models, alone for the others.
    fn encode_responses(&self, good: &[(usize, Text<'_>)]) -> Result<Vec<Vec<Vec<u32>>>, DpoError> {
        let texts: Vec<String> = good
            .iter()
            .flat_map(|(_, text)| text.responses.iter().map(|response| (text.prompt, *response)))
            .map(|(prompt, response)| {
                if self.is_encoder_decoder() {
                    response.to_owned()
                } else {
                    [prompt, response].concat()
                }
            })
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut ids = self.codec.encode_batch(&texts, Specials::Include)?.into_iter();
        Ok(good.iter().map(|(_, text)| ids.by_ref().take(text.responses.len()).collect()).collect())
    }

    /// Takes the prompt off the responses; `None` for a row that is left out.
    fn join(
        &self,
        text: &Text<'_>,
        mut prompt: Vec<u32>,
        mut responses: Vec<Vec<u32>>,
        report: &mut RowReport,
    ) -> Result<Option<Encoded>, DpoError> {
        let mut apart = false;
        if !self.is_encoder_decoder() {
            self.open(text.prompt, &mut prompt)?;
            if prompt.is_empty() {
                report.refuse(self.config.empty, text.id, PairProblem::EmptyPrompt)?;
                return Ok(None);
            }
            if responses.iter().all(|full| full.starts_with(&prompt)) {
                for full in &mut responses {
                    full.drain(..prompt.len());
                }
            } else {
                match self.config.boundary {
                    Boundary::Error => {
                        let (id, problem) = (text.id.to_owned(), PairProblem::NotAPrefix);
                        return Err(DpoError::Pair { id, problem });
                    }
                    Boundary::Skip => {
                        report.skip(PairProblem::NotAPrefix);
                        return Ok(None);
                    }
                    Boundary::Apart => {
                        apart = true;
                        responses = self.codec.encode_batch(&text.responses, Specials::Exclude)?;
                    }
                }
            }
        }
        Ok(Some(Encoded { prompt, responses, truncated: false, apart }))
    }

    /// Takes off the EOS that some tokenizers put behind every text: a response follows here.
    fn open(&self, text: &str, prompt: &mut Vec<u32>) -> Result<(), DpoError> {
        let ends = |ids: &[u32]| ids.last().is_some_and(|&id| self.spec.is_eos(id));
        if ends(prompt) && !ends(&self.codec.encode(text, Specials::Exclude)?) {
            prompt.pop();
        }
        Ok(())
    }

    fn end(&self, row: &mut Encoded) {
        let Some(&eos) = self.spec.eos_ids.first() else { return };
        for response in &mut row.responses {
            if !response.last().is_some_and(|&id| self.spec.is_eos(id)) {
                response.push(eos);
            }
        }
    }

    /// Makes a row fit; false for one that is left out.
    fn fit(&self, row: &mut Encoded, id: &str, report: &mut RowReport) -> Result<bool, DpoError> {
        let Some((length, limit)) = self.excess(row) else { return Ok(true) };
        let problem = PairProblem::TooLong { length, limit };
        match self.config.too_long {
            TooLong::Error => Err(DpoError::Pair { id: id.to_owned(), problem }),
            TooLong::Skip => {
                report.skip(problem);
                Ok(false)
            }
            TooLong::Truncate => {
                self.truncate(row);
                row.truncated = true;
                Ok(true)
            }
        }
    }

    /// Most tokens of prompt and response together.
    fn together(&self) -> Option<usize> {
        let limits = [self.config.max_length, self.spec.context];
        if self.is_encoder_decoder() { None } else { limits.into_iter().flatten().min() }
    }

    /// The first limit that a row exceeds, and by which length.
    fn excess(&self, row: &Encoded) -> Option<(usize, usize)> {
        let longest = row.responses.iter().map(Vec::len).max().unwrap_or(0);
        [
            (row.prompt.len(), self.config.max_prompt_length),
            (longest, self.config.max_response_length),
            (row.prompt.len() + longest, self.together()),
        ]
        .into_iter()
        .find_map(|(length, limit)| limit.filter(|&limit| length > limit).map(|l| (length, l)))
    }

    /// See [`TooLong::Truncate`].
    fn truncate(&self, row: &mut Encoded) {
        let bos = self.spec.bos_id.filter(|bos| row.prompt.first() == Some(bos));
        let least = 1 + usize::from(bos.is_some());
        let shorten = |prompt: &mut Vec<u32>, length: usize| {
            let length = length.max(least);
            if prompt.len() > length {
                let keep_from = prompt.len() - (length - usize::from(bos.is_some()));
                prompt.drain(usize::from(bos.is_some())..keep_from);
            }
        };
        if let Some(limit) = self.config.max_prompt_length {
            shorten(&mut row.prompt, limit);
        }
        if let Some(limit) = self.config.max_response_length {
            row.responses.iter_mut().for_each(|response| response.truncate(limit.max(1)));
        }
        if let Some(limit) = self.together() {
            let longest = row.responses.iter().map(Vec::len).max().unwrap_or(0);
            shorten(&mut row.prompt, limit.saturating_sub(longest));
            let room = limit.saturating_sub(row.prompt.len()).max(1);
            row.responses.iter_mut().for_each(|response| response.truncate(room));
        }
    }
}
