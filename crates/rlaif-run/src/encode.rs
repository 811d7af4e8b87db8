//! From texts to token ids for training.

use rayon::prelude::*;
use rlaif_core::{
    BadSetting, ConversationRow, Demonstration, DemonstrationRow, GenerationPrompt, Message,
    Rendering, Specials, TextCodec, TextKind, TextOrMessages,
};
use rlaif_lm::{Joined, Joiner, Limits, LmSpec, Shorten, Texts};
use rlaif_text::{HfTokenizer, LearnedTurns, MaskError};
use rlaif_train::SftRow;

use crate::{
    error::{RowProblem, RunError},
    prompt::{REFUSED, rendered},
    rows::LearnedRow,
    skipped::SkippedRows,
};

/// Encodes rows for one model.
#[derive(Debug, Clone, Copy)]
pub struct Encoder<'a> {
    tokenizer: &'a HfTokenizer,
    joiner: Joiner<'a>,
    max_tokens: usize,
}

impl<'a> Encoder<'a> {
    /// An encoder for the model of `spec`, with rows of at most `max_tokens` tokens (and at most
    /// the model's context).
    pub fn new(tokenizer: &'a HfTokenizer, spec: &'a LmSpec, max_tokens: usize) -> Self {
        Self {
            tokenizer,
            joiner: Joiner::new(tokenizer, spec),
            max_tokens: spec.context.map_or(max_tokens, |context| context.min(max_tokens)),
        }
    }

    /// Encodes prompts and responses.
    ///
    /// Both texts are encoded as one, and the response's ids begin where they are no longer those of
    /// the prompt, as in TRL's `SFTTrainer`. The tokenizer's end-of-sequence token is appended,
    /// except for texts from a chat template and texts that already end in it.
    /// If a row is too long, the response loses its end. A row with an empty response is left out.
    ///
    /// # Errors
    /// [`RunError::Codec`].
    pub fn demonstrations(
        &self,
        rows: &[Demonstration],
    ) -> Result<(Vec<Option<SftRow>>, SkippedRows), RunError> {
        let mut skipped = SkippedRows::default();
        let all: Vec<Option<&Demonstration>> = rows.iter().map(Some).collect();
        let rows = self.joined(&all, &mut skipped)?;
        Ok((rows, skipped))
    }

    /// Encodes texts, and conversations by the chat template: every turn of the assistant is
    /// learned, including the template's end of turn. Encoder-decoder models learn the last turn.
    ///
    /// A conversation without a mask ([`MaskError::is_of_the_row`]) is left out and counted.
    ///
    /// # Errors
    /// [`RunError::Row`] for a conversation without a template, and for the first one if none has a
    /// mask; [`RunError::Setting`] for texts and an encoder-decoder model; [`RunError::Codec`].
    pub fn conversations(
        &self,
        rows: &[ConversationRow],
        how: &Rendering,
    ) -> Result<(Vec<Option<SftRow>>, SkippedRows), RunError> {
        let mut skipped = SkippedRows::default();
        let all: Vec<&ConversationRow> = rows.iter().collect();
        let rows = self.wholes(&all, how, &mut skipped)?;
        Ok((rows, skipped))
    }

    /// Encodes rows of both kinds, and keeps their order.
    pub(crate) fn learned(
        &self,
        rows: &[LearnedRow],
        how: &Rendering,
        skipped: &mut SkippedRows,
    ) -> Result<Vec<Option<SftRow>>, RunError> {
        let (mut responses, mut wholes) = (Vec::new(), Vec::new());
        for (at, row) in rows.iter().enumerate() {
            match row {
                LearnedRow::Response(row) => responses.push((at, row)),
                LearnedRow::Whole(row) => wholes.push((at, row)),
            }
        }
        let mut all: Vec<Option<SftRow>> = (0..rows.len()).map(|_| None).collect();
        if !responses.is_empty() {
            let (places, rows): (Vec<usize>, Vec<&DemonstrationRow>) =
                responses.into_iter().unzip();
            let texts = rendered(&rows, skipped, |row| row.render(self.tokenizer, how))?;
            let texts: Vec<Option<&Demonstration>> = texts.iter().map(Option::as_ref).collect();
            for (at, row) in places.into_iter().zip(self.joined(&texts, skipped)?) {
                all[at] = row;
            }
        }
        if !wholes.is_empty() {
            let (places, rows): (Vec<usize>, Vec<&ConversationRow>) = wholes.into_iter().unzip();
            for (at, row) in places.into_iter().zip(self.wholes(&rows, how, skipped)?) {
                all[at] = row;
            }
        }
        Ok(all)
    }

    /// Prompts and responses; `None` for a missing row, or one without anything to learn.
    fn joined(
        &self,
        rows: &[Option<&Demonstration>],
        skipped: &mut SkippedRows,
    ) -> Result<Vec<Option<SftRow>>, RunError> {
        let mut all: Vec<Option<SftRow>> = (0..rows.len()).map(|_| None).collect();
        let (mut places, mut texts) = (Vec::new(), Vec::new());
        for (at, row) in rows.iter().enumerate() {
            let Some(row) = row else { continue };
            if row.response.trim().is_empty() {
                skipped.leave_out("an empty response");
                continue;
            }
            places.push(at);
            let responses = vec![row.response.as_str()];
            texts.push(Texts { prompt: &row.prompt, responses, kind: row.kind });
        }
        for (at, row) in places.into_iter().zip(self.joiner.join(&texts)?) {
            let Joined { mut prompt, mut responses, kind, .. } = row;
            let mut response = self.ended(responses.swap_remove(0), kind);
            if prompt.is_empty() && !self.joiner.is_encoder_decoder() {
                // An empty prompt, or one that merges with the response: the first token has none
                // before it and is only read, as in TRL.
                prompt.extend(response.drain(..1.min(response.len())));
            }
            let row = SftRow::new(prompt, response);
            all[at] = self.fitted(row, skipped);
        }
        Ok(all)
    }

    /// Texts and conversations; `None` for a row without anything to learn.
    fn wholes(
        &self,
        rows: &[&ConversationRow],
        how: &Rendering,
        skipped: &mut SkippedRows,
    ) -> Result<Vec<Option<SftRow>>, RunError> {
        let text = |row: &&ConversationRow| matches!(row.conversation, TextOrMessages::Text(_));
        if self.joiner.is_encoder_decoder() && rows.iter().any(text) {
            return Err(BadSetting::new(
                "columns.format",
                "that of texts alone",
                "prompts and responses, or conversations, for an encoder-decoder model",
            )
            .into());
        }
        let encoded: Vec<Result<SftRow, RowProblem>> = rows
            .par_iter()
            .map(|row| match &row.conversation {
                TextOrMessages::Text(text) => self.text(text),
                TextOrMessages::Messages(messages) => self.conversation(messages, row, how),
            })
            .collect();
        let mut first = None;
        let mut all = Vec::with_capacity(rows.len());
        for (row, encoded) in rows.iter().zip(encoded) {
            let problem = match encoded {
                Ok(encoded) => {
                    all.push(self.fitted(encoded, skipped));
                    continue;
                }
                Err(problem) => problem,
            };
            match left_out(&problem) {
                Some(why) => skipped.leave_out(why),
                None => return Err(RunError::Row { row: row.id.clone(), problem }),
            }
            all.push(None);
            first.get_or_insert(RunError::Row { row: row.id.clone(), problem });
        }
        match first {
            Some(error) if all.iter().all(Option::is_none) => Err(error),
            _ => Ok(all),
        }
    }

    /// A text that is learned completely, except for the first token, from which decoder-only
    /// models start.
    fn text(&self, text: &str) -> Result<SftRow, RowProblem> {
        let mut ids = self.tokenizer.encode(text, Specials::Include)?;
        let rest = ids.split_off(1.min(ids.len()));
        Ok(SftRow::new(ids, self.ended(rest, TextKind::Plain)))
    }

    /// The row within the limit; `None` if nothing is left to learn.
    fn fitted(&self, mut row: SftRow, skipped: &mut SkippedRows) -> Option<SftRow> {
        let whole = row.len();
        // An encoder-decoder model reads prompt and response separately, each with its own limit.
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
            merged: false,
            kind: TextKind::Plain,
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

    fn ended(&self, mut response: Vec<u32>, kind: TextKind) -> Vec<u32> {
        self.joiner.end(&mut response, kind);
        response
    }

    fn conversation(
        &self,
        messages: &[Message],
        row: &ConversationRow,
        how: &Rendering,
    ) -> Result<SftRow, RowProblem> {
        let messages = how.with_system(messages.to_vec());
        let options = how.chat.and(&row.chat);
        if self.joiner.is_encoder_decoder() {
            let last = messages.iter().rposition(|message| message.role == "assistant");
            let Some(last) = last.filter(|&last| last > 0) else {
                return Err(MaskError::NothingSaid.into());
            };
            let text = self.tokenizer.render_chat_with(
                &messages[..last],
                GenerationPrompt::Add,
                &options,
            )?;
            let prompt = self.tokenizer.encode(&text, Specials::Include)?;
            let response = self.tokenizer.encode(&messages[last].content, Specials::Exclude)?;
            return Ok(SftRow::new(prompt, self.ended(response, TextKind::Plain)));
        }
        let masked = self.tokenizer.mask_chat(&messages, &options, LearnedTurns::All)?;
        let (mut prompt, mut learned) = self.tokenizer.encode_masked(&masked)?;
        // A decoder needs at least one token to start from.
        let start = learned.iter().position(|&learns| learns).unwrap_or(0).max(1);
        let start = start.min(prompt.len());
        let response = prompt.split_off(start);
        learned.drain(..start);
        Ok(SftRow { prompt, response, learned: Some(learned) })
    }
}

/// The reason for leaving a row out; `None` if the run cannot continue.
fn left_out(problem: &RowProblem) -> Option<&'static str> {
    use rlaif_core::CodecError;
    match problem {
        RowProblem::Mask(MaskError::NothingSaid) => Some("the assistant says nothing"),
        RowProblem::Mask(MaskError::Turn { .. }) => {
            Some("a turn of the assistant cannot be located in the text of the chat template")
        }
        RowProblem::Mask(error) if error.is_of_the_row() => Some(REFUSED),
        RowProblem::Codec(CodecError::ChatTemplate { .. }) => Some(REFUSED),
        RowProblem::Preference(_)
        | RowProblem::Mask(_)
        | RowProblem::Codec(_)
        | RowProblem::Label { .. } => None,
    }
}
