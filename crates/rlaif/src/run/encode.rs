//! Texts to the token ids that are learned from.

use rayon::prelude::*;
use rlaif_core::{CodecError, Conversation, Demonstration, GenerationPrompt, Specials, TextCodec};
use rlaif_lm::LmSpec;
use rlaif_text::HfTokenizer;
use rlaif_train::SftRow;

use super::{
    data::Left,
    error::{RowProblem, RunError},
};

/// Encodes rows for one model.
#[derive(Debug, Clone, Copy)]
pub struct Encoder<'a> {
    tokenizer: &'a HfTokenizer,
    eos: Option<u32>,
    bos: Option<u32>,
    encoder_decoder: bool,
    max_tokens: usize,
}

impl<'a> Encoder<'a> {
    /// For a model of which `spec` speaks, with rows of at most `max_tokens` tokens (and the
    /// model's context).
    pub fn new(tokenizer: &'a HfTokenizer, spec: &LmSpec, max_tokens: usize) -> Self {
        let of_tokenizer = tokenizer.special_tokens().eos.as_ref().map(|token| token.id);
        Self {
            tokenizer,
            eos: spec.eos_ids.first().copied().or(of_tokenizer),
            bos: spec.bos_id,
            encoder_decoder: spec.decoder_start_id.is_some(),
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
    ) -> Result<(Vec<Option<SftRow>>, Left), RunError> {
        self.all(rows, |row| {
            let (prompt, response) = if self.encoder_decoder {
                let prompt = self.tokenizer.encode(&row.prompt, Specials::Include)?;
                (prompt, self.tokenizer.encode(&row.response, Specials::Exclude)?)
            } else {
                self.joined(&row.prompt, &row.response)?
            };
            Ok(SftRow::new(prompt, self.ended(response)))
        })
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
    ) -> Result<(Vec<Option<SftRow>>, Left), RunError> {
        let results: Result<Vec<_>, RunError> = rows
            .par_iter()
            .map(|row| {
                self.conversation(row)
                    .map_err(|problem| RunError::Row { row: row.id.clone(), problem })
            })
            .collect();
        let mut results = results?.into_iter();
        self.all(rows, |_| {
            Ok(results.next().flatten().unwrap_or_else(|| SftRow::new(vec![], vec![])))
        })
    }

    /// Texts, all of which is learned but a first token that decoder-only models begin from.
    ///
    /// # Errors
    /// [`RunError::Setting`] for an encoder-decoder model, [`RunError::Codec`].
    pub fn texts(&self, rows: &[&str]) -> Result<(Vec<Option<SftRow>>, Left), RunError> {
        if self.encoder_decoder {
            return Err(RunError::Setting {
                key: "columns.format",
                problem: "an encoder-decoder model cannot learn from texts alone; give it prompts \
                          and responses"
                    .to_owned(),
            });
        }
        self.all(rows, |text| {
            let ids = self.tokenizer.encode(text, Specials::Include)?;
            let start = match self.bos {
                Some(bos) if ids.first() != Some(&bos) => {
                    return Ok(SftRow::new(vec![bos], self.ended(ids)));
                }
                _ => 1.min(ids.len()),
            };
            Ok(SftRow::new(ids[..start].to_vec(), self.ended(ids[start..].to_vec())))
        })
    }

    fn all<R>(
        &self,
        rows: &[R],
        mut encode: impl FnMut(&R) -> Result<SftRow, CodecError>,
    ) -> Result<(Vec<Option<SftRow>>, Left), RunError> {
        let mut left = Left::default();
        let mut encoded = Vec::with_capacity(rows.len());
        for row in rows {
            encoded.push(self.fitted(encode(row)?, &mut left));
        }
        Ok((encoded, left))
    }

    /// The row within the limit; `None` if nothing is left to learn.
    fn fitted(&self, mut row: SftRow, left: &mut Left) -> Option<SftRow> {
        let whole = row.len();
        let room = if self.encoder_decoder {
            if row.prompt.len() > self.max_tokens {
                // The end of sequence stays: the encoder knows no prompt without.
                let last = row.prompt.pop();
                row.prompt.truncate(self.max_tokens.saturating_sub(1));
                row.prompt.extend(last);
            }
            self.max_tokens
        } else {
            self.max_tokens.saturating_sub(row.prompt.len())
        };
        row.response.truncate(room);
        if let Some(learned) = &mut row.learned {
            learned.truncate(room);
        }
        if row.prompt.is_empty() || row.learned_tokens() == 0 {
            left.leave_out(if whole == 0 { "nothing to learn" } else { "nothing to learn fits" });
            return None;
        }
        left.cut += u64::from(row.len() < whole);
        Some(row)
    }

    fn joined(&self, prompt: &str, response: &str) -> Result<(Vec<u32>, Vec<u32>), CodecError> {
        let mut before = self.tokenizer.encode(prompt, Specials::Include)?;
        let mut both = self.tokenizer.encode(&format!("{prompt}{response}"), Specials::Include)?;
        // Some tokenizers end every text; a prompt goes on.
        for ids in [&mut before, &mut both] {
            if ids.last().is_some() && ids.last() == self.eos.as_ref() {
                ids.pop();
            }
        }
        if before.is_empty() {
            before.extend(self.bos.or(self.eos));
        }
        match both.strip_prefix(before.as_slice()) {
            Some(after) => Ok((before, after.to_vec())),
            None => Ok((before, self.tokenizer.encode(response, Specials::Exclude)?)),
        }
    }

    fn ended(&self, mut response: Vec<u32>) -> Vec<u32> {
        if let Some(eos) = self.eos
            && response.last() != Some(&eos)
        {
            response.push(eos);
        }
        response
    }

    /// `None` for a conversation in which the assistant says nothing.
    fn conversation(&self, row: &Conversation) -> Result<Option<SftRow>, RowProblem> {
        let messages = &row.messages;
        let turns: Vec<usize> =
            (0..messages.len()).filter(|&i| i > 0 && messages[i].role == "assistant").collect();
        let Some(&last) = turns.last() else { return Ok(None) };
        if self.encoder_decoder {
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
