//! Texts to the token ids that are learned from.

use rayon::prelude::*;
use rlaif_core::{Conversation, Demonstration, GenerationPrompt, Specials, TextCodec};
use rlaif_lm::{Joined, Joiner, Limits, LmSpec, Shorten, Texts};
use rlaif_text::HfTokenizer;
use rlaif_train::SftRow;

use crate::{
    error::{RowProblem, RunError},
    skipped::SkippedRows,
};

/// Encodes rows for one model.
#[derive(Debug, Clone, Copy)]
pub struct Encoder<'a> {
    tokenizer: &'a HfTokenizer,
    joiner: Joiner<'a>,
    bos: Option<u32>,
    max_tokens: usize,
}

impl<'a> Encoder<'a> {
    /// An encoder for the model that `spec` describes, with rows of at most `max_tokens` tokens
    /// (and the model's context).
    pub fn new(tokenizer: &'a HfTokenizer, spec: &'a LmSpec, max_tokens: usize) -> Self {
        let eos = tokenizer.special_tokens().eos.as_ref().map(|token| token.id);
        Self {
            tokenizer,
            joiner: Joiner::new(tokenizer, spec).or_eos(eos),
            bos: spec.bos_id,
            max_tokens: spec.context.map_or(max_tokens, |context| context.min(max_tokens)),
        }
    }

    /// Prompts and responses.
    ///
    /// The response's ids are what follows the prompt's in the ids of both texts together, where
    /// those begin with the prompt's; else the response is encoded by itself. An end-of-sequence
    /// token is added. Of rows that are too long the response's end is cut off.
    ///
    /// # Errors
    /// [`RunError::Codec`].
    pub fn demonstrations(
        &self,
        rows: &[Demonstration],
    ) -> Result<(Vec<Option<SftRow>>, SkippedRows), RunError> {
        let texts = rows.iter().map(|row| {
            let responses = vec![row.response.as_str()];
            Texts { prompt: &row.prompt, responses }
        });
        let joined = self.joiner.join(&texts.collect::<Vec<_>>())?;
        Ok(self.fit(joined.into_iter().map(|Joined { mut prompt, mut responses, .. }| {
            if prompt.is_empty() && !self.joiner.is_encoder_decoder() {
                prompt.extend(self.bos.or(self.joiner.eos()));
            }
            SftRow::new(prompt, self.ended(responses.swap_remove(0)))
        })))
    }

    /// Conversations through the chat template: every turn of the assistant is learned, with what
    /// the template writes to end it. Encoder-decoder models learn the last turn.
    ///
    /// # Errors
    /// [`RunError::Row`] for a conversation that the template refuses, or without a template, and
    /// for a template whose text of a part is not the beginning of the text of the whole.
    pub fn conversations(
        &self,
        rows: &[Conversation],
    ) -> Result<(Vec<Option<SftRow>>, SkippedRows), RunError> {
        let results: Result<Vec<_>, RunError> = rows
            .par_iter()
            .map(|row| {
                let row = self
                    .conversation(row)
                    .map_err(|problem| RunError::Row { row: row.id.clone(), problem })?;
                Ok(row.unwrap_or_else(|| SftRow::new(vec![], vec![])))
            })
            .collect();
        Ok(self.fit(results?.into_iter()))
    }

    /// Texts, all of which is learned but a first token that decoder-only models begin from.
    ///
    /// # Errors
    /// [`RunError::Setting`] for an encoder-decoder model, [`RunError::Codec`].
    pub fn texts(&self, rows: &[&str]) -> Result<(Vec<Option<SftRow>>, SkippedRows), RunError> {
        if self.joiner.is_encoder_decoder() {
            return Err(RunError::Setting {
                key: "columns.format",
                problem: "an encoder-decoder model cannot learn from texts alone; give it prompts \
                          and responses"
                    .to_owned(),
            });
        }
        let all = self.tokenizer.encode_batch(rows, Specials::Include)?;
        Ok(self.fit(all.into_iter().map(|mut ids| match self.bos {
            Some(bos) if ids.first() != Some(&bos) => SftRow::new(vec![bos], self.ended(ids)),
            _ => {
                let rest = ids.split_off(1.min(ids.len()));
                SftRow::new(ids, self.ended(rest))
            }
        })))
    }

    /// The rows within the limit; `None` where nothing is left to learn.
    fn fit(&self, rows: impl Iterator<Item = SftRow>) -> (Vec<Option<SftRow>>, SkippedRows) {
        let mut skipped = SkippedRows::default();
        let rows = rows.map(|row| self.fitted(row, &mut skipped)).collect();
        (rows, skipped)
    }

    fn fitted(&self, mut row: SftRow, skipped: &mut SkippedRows) -> Option<SftRow> {
        let whole = row.len();
        // An encoder-decoder model reads the two apart, each within the limit.
        let apart = self.joiner.is_encoder_decoder().then_some(self.max_tokens);
        let limits = Limits {
            prompt: apart,
            response: apart,
            together: Some(self.max_tokens),
            shorten: Shorten::ResponseEnd,
        };
        let mut joined = Joined {
            prompt: std::mem::take(&mut row.prompt),
            responses: vec![std::mem::take(&mut row.response)],
            apart: false,
        };
        self.joiner.fit(&mut joined, &limits);
        row.prompt = joined.prompt;
        row.response = joined.responses.swap_remove(0);
        if let Some(learned) = &mut row.learned {
            learned.truncate(row.response.len());
        }
        if row.prompt.is_empty() || row.learned_tokens() == 0 {
            skipped.leave_out(if whole == 0 {
                "nothing to learn"
            } else {
                "nothing to learn fits"
            });
            return None;
        }
        skipped.cut += u64::from(row.len() < whole);
        Some(row)
    }

    fn ended(&self, mut response: Vec<u32>) -> Vec<u32> {
        self.joiner.end(&mut response);
        response
    }

    /// `None` for a conversation in which the assistant says nothing.
    fn conversation(&self, row: &Conversation) -> Result<Option<SftRow>, RowProblem> {
        let messages = &row.messages;
        let turns: Vec<usize> =
            (0..messages.len()).filter(|&i| i > 0 && messages[i].role == "assistant").collect();
        let Some(&last) = turns.last() else { return Ok(None) };
        if self.joiner.is_encoder_decoder() {
            let text = self.tokenizer.render_chat(&messages[..last], GenerationPrompt::Add)?;
            let prompt = self.tokenizer.encode(&text, Specials::Include)?;
            let response = self.tokenizer.encode(&messages[last].content, Specials::Exclude)?;
            return Ok(Some(SftRow::new(prompt, self.ended(response))));
        }
        // The text up to each turn of the assistant, and with it, each the beginning of the next.
        let mut cuts = Vec::new();
        let mut whole = String::new();
        for &turn in &turns {
            let before = self.tokenizer.render_chat(&messages[..turn], GenerationPrompt::Add)?;
            let with = self.tokenizer.render_chat(&messages[..=turn], GenerationPrompt::Omit)?;
            if !before.starts_with(&whole) || !with.starts_with(&before) {
                return Err(RowProblem::Turns { tokenizer: self.tokenizer.name().to_owned() });
            }
            cuts.push((whole.len(), before.len(), with.len()));
            whole = with;
        }
        let mut prompt = Vec::new();
        let mut response = Vec::new();
        let mut learned = Vec::new();
        for (i, (start, said, end)) in cuts.into_iter().enumerate() {
            let read = self.tokenizer.encode(&whole[start..said], Specials::Exclude)?;
            let learn = self.tokenizer.encode(&whole[said..end], Specials::Exclude)?;
            if i == 0 {
                prompt = read;
            } else {
                learned.extend(vec![false; read.len()]);
                response.extend(read);
            }
            learned.extend(vec![true; learn.len()]);
            response.extend(learn);
        }
        Ok(Some(SftRow { prompt, response, learned: Some(learned) }))
    }
}
