//! Instructions around dialogues: the text a policy reads.

use std::borrow::Cow;
use std::num::NonZeroUsize;

use rayon::prelude::*;
use rlaif_core::{
    ChatOptions, CodecError, GenerationPrompt, Message, PlainText, PromptRecord, PromptRow, Record,
    Rendering, Specials, Step, TextCodec, TextKind, TextOrMessages,
};

use crate::dataset::Dataset;
use crate::error::DataError;
use crate::turns;

const SLOT: &str = "{dialogue}";

/// An instruction with a slot for a dialogue.
///
/// ```
/// use rlaif_data::PromptTemplate;
/// let template = PromptTemplate::new("Who is speaking?\n{dialogue}\nAnswer:")?;
/// assert_eq!(template.fill("A: Hi {dialogue}"), "Who is speaking?\nA: Hi {dialogue}\nAnswer:");
/// # Ok::<(), rlaif_data::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptTemplate {
    before: String,
    after: String,
}

impl PromptTemplate {
    /// The instruction `text`, in which `{dialogue}` marks the slot.
    ///
    /// # Errors
    /// [`DataError::TemplateSlot`] unless the slot is there exactly once.
    pub fn new(text: &str) -> Result<Self, DataError> {
        match text.split_once(SLOT) {
            Some((before, after)) if !after.contains(SLOT) => {
                Ok(Self { before: before.to_owned(), after: after.to_owned() })
            }
            _ => Err(DataError::TemplateSlot { found: text.matches(SLOT).count() }),
        }
    }

    /// The instruction to summarise a conversation, after which the model writes the summary.
    pub fn summarise() -> Self {
        Self {
            before: "\nSummarize the following conversation.\n\n".to_owned(),
            after: "\n\nSummary:\n".to_owned(),
        }
    }

    /// The instruction around a dialogue; used unchanged.
    pub fn fill(&self, dialogue: &str) -> String {
        [self.before.as_str(), dialogue, &self.after].concat()
    }
}

impl Default for PromptTemplate {
    /// [`PromptTemplate::summarise`].
    fn default() -> Self {
        Self::summarise()
    }
}

/// Form of address that a model expects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PromptForm {
    /// The filled template unchanged: T5, and base models that continue text.
    #[default]
    Plain,
    /// The filled template as a user's message in the model's chat template, behind the system
    /// message if there is one. The space around the message is left out.
    Chat {
        /// The system message.
        system: Option<String>,
    },
    /// The filled template as a run renders its prompts.
    Rendered(Rendering),
}

/// Makes prompts of dialogues: the same steps for T5 and for chat models.
///
/// With a token limit, what is too long loses its oldest turns, and then the beginning of the
/// turn that is left; the instruction always stays.
///
/// ```
/// # use rlaif_core::{CodecError, GenerationPrompt, Message, Specials, TextCodec};
/// # struct Words;
/// # impl TextCodec for Words {
/// #     fn name(&self) -> &str { "words" }
/// #     fn encode(&self, text: &str, _: Specials) -> Result<Vec<u32>, CodecError> { Ok(vec![0; text.split_whitespace().count()]) }
/// #     fn decode(&self, _: &[u32], _: Specials) -> Result<String, CodecError> { Ok(String::new()) }
/// #     fn render_chat(&self, m: &[Message], _: GenerationPrompt) -> Result<String, CodecError> { Ok(m[0].content.clone()) }
/// # }
/// # let codec = Words;
/// use std::num::NonZeroUsize;
/// use rlaif_data::{PromptBuilder, PromptTemplate};
/// let builder = PromptBuilder::new(PromptTemplate::summarise()).limit(NonZeroUsize::new(9).unwrap());
/// let dialogue = "\n\nHuman: Hello there, you\n\nAssistant: Hi\n\nHuman: Bye";
/// let built = builder.build(&codec, "d-1", dialogue)?;
/// assert_eq!(built.text, "\nSummarize the following conversation.\n\n\n\nAssistant: Hi\n\nHuman: Bye\n\nSummary:\n");
/// assert_eq!(built.tokens, 9);
/// # Ok::<(), rlaif_data::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PromptBuilder {
    template: PromptTemplate,
    form: PromptForm,
    limit: Option<NonZeroUsize>,
}

/// A prompt within its limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltPrompt {
    /// The text the policy reads.
    pub text: String,
    /// The filled template, before any chat template.
    pub asked: String,
    /// Number of its tokens, encoded with [`PromptBuilder::specials`].
    pub tokens: usize,
    /// The part of the dialogue that was cut.
    pub shortening: Shortening,
}

/// The part of a dialogue that was cut for a token limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shortening {
    /// Not shortened.
    None,
    /// The number of turns removed, oldest first.
    Turns(usize),
    /// Every turn but the last, and the beginning of that.
    WithinTurn,
}

impl PromptBuilder {
    /// Plain prompts of that template, of any length.
    pub fn new(template: PromptTemplate) -> Self {
        Self { template, ..Self::default() }
    }

    /// Form of address that the model expects.
    #[must_use]
    pub fn form(mut self, form: PromptForm) -> Self {
        self.form = form;
        self
    }

    /// The most tokens that a prompt may have, special tokens and chat template included.
    #[must_use]
    pub fn limit(mut self, tokens: NonZeroUsize) -> Self {
        self.limit = Some(tokens);
        self
    }

    /// Origin of the prompts' texts.
    pub fn kind(&self) -> TextKind {
        match &self.form {
            PromptForm::Plain => TextKind::Plain,
            PromptForm::Chat { .. } => TextKind::Rendered,
            PromptForm::Rendered(how) => match how.plain {
                PlainText::Text => TextKind::Plain,
                PlainText::Chat => TextKind::Rendered,
            },
        }
    }

    /// Use of special tokens when prompts are encoded: a chat template has written them already.
    pub fn specials(&self) -> Specials {
        self.kind().specials()
    }

    /// The prompt of one dialogue; `id` names it in errors.
    ///
    /// # Errors
    /// [`DataError::TokenLimit`] when the instruction alone is too long, [`DataError::Codec`] when
    /// the tokenizer or its chat template fails.
    pub fn build(
        &self,
        codec: &dyn TextCodec,
        id: &str,
        dialogue: &str,
    ) -> Result<BuiltPrompt, DataError> {
        let whole = self.measure(codec, id, dialogue)?;
        let Some(limit) = self.limit.map(NonZeroUsize::get) else { return Ok(whole) };
        if whole.tokens <= limit {
            return Ok(whole);
        }

        let starts = starts_of_turns(dialogue);
        let mut fitting = None;
        first_that_fits(starts.len().saturating_sub(1), |nth| {
            // The first start is that of the whole dialogue, which is known not to fit.
            let built = self.measure(codec, id, &dialogue[starts[nth + 1]..])?;
            let fits = built.tokens <= limit;
            if fits {
                fitting = Some(BuiltPrompt { shortening: Shortening::Turns(nth + 1), ..built });
            }
            Ok(fits)
        })?;
        if let Some(built) = fitting {
            return Ok(built);
        }

        let last = &dialogue[starts.last().copied().unwrap_or(0)..];
        let (marker, text) = match turns::parse(last).ok().and_then(|mut turns| turns.next()) {
            Some(turn) => (turn.speaker.marker(), turn.text),
            None => ("", last),
        };
        let characters: Vec<usize> = text.char_indices().map(|(at, _)| at).skip(1).collect();
        first_that_fits(characters.len(), |nth| {
            let cut = [marker, &text[characters[nth]..]].concat();
            let built = self.measure(codec, id, &cut)?;
            let fits = built.tokens <= limit;
            if fits {
                fitting = Some(BuiltPrompt { shortening: Shortening::WithinTurn, ..built });
            }
            Ok(fits)
        })?;
        if let Some(built) = fitting {
            return Ok(built);
        }

        let bare = self.measure(codec, id, "")?;
        if bare.tokens > limit {
            return Err(DataError::TokenLimit {
                codec: codec.name().to_owned(),
                needed: bare.tokens,
                limit,
            });
        }
        Ok(BuiltPrompt { shortening: Shortening::WithinTurn, ..bare })
    }

    /// The prompts of many dialogues, by all cores. `dialogue` gives a record's dialogue,
    /// `reference` the response to compare with, if there is one.
    ///
    /// # Errors
    /// As [`PromptBuilder::build`], for the first record that has one.
    pub fn build_all<T: Record + Sync>(
        &self,
        codec: &dyn TextCodec,
        dataset: &Dataset<T>,
        dialogue: impl Fn(&T) -> Cow<'_, str> + Sync,
        reference: impl Fn(&T) -> Option<String> + Sync,
    ) -> Result<Dataset<PromptRecord>, DataError> {
        let built: Vec<_> = dataset
            .records()
            .par_iter()
            .map(|record| self.build(codec, record.id(), &dialogue(record)))
            .collect();
        let mut step = self.step(codec);
        let mut records = Vec::with_capacity(dataset.len());
        for (record, built) in dataset.records().iter().zip(built) {
            let built = built?;
            note(&mut step, built.shortening);
            let mut prompt = PromptRecord::new(record.id(), built.text);
            prompt.kind = self.kind();
            prompt.reference = reference(record);
            records.push(prompt);
        }
        step.kept = records.len() as u64;
        let mut provenance = dataset.provenance().clone();
        provenance.steps.push(step);
        Ok(Dataset::new(records, provenance))
    }

    /// The prompts of rows, by all cores. A text is a dialogue; messages go through the chat
    /// template, and are left out and counted if they are too long or the template refuses them.
    ///
    /// # Errors
    /// As [`PromptBuilder::build`], for the first row that has one.
    pub fn build_rows(
        &self,
        codec: &dyn TextCodec,
        dataset: &Dataset<PromptRow>,
    ) -> Result<Dataset<PromptRecord>, DataError> {
        let built: Vec<_> = dataset.records().par_iter().map(|row| self.row(codec, row)).collect();
        let mut step = self.step(codec);
        let mut records = Vec::with_capacity(dataset.len());
        for built in built {
            match built? {
                Ok((record, shortening)) => {
                    note(&mut step, shortening);
                    records.push(record);
                }
                Err(why) => *step.dropped.entry(why.to_owned()).or_default() += 1,
            }
        }
        step.kept = records.len() as u64;
        let mut provenance = dataset.provenance().clone();
        provenance.steps.push(step);
        Ok(Dataset::new(records, provenance))
    }

    /// The prompt of a row, or why there is none.
    fn row(
        &self,
        codec: &dyn TextCodec,
        row: &PromptRow,
    ) -> Result<Result<(PromptRecord, Shortening), &'static str>, DataError> {
        if let TextOrMessages::Text(dialogue) = &row.prompt {
            let built = self.build(codec, &row.id, dialogue)?;
            let mut record = PromptRecord::new(&row.id, built.text);
            record.kind = self.kind();
            if record.kind == TextKind::Rendered {
                let failed = |source| DataError::Codec { id: row.id.clone(), source };
                let (asked, messages) =
                    self.rendering().asked(&built.asked.into()).map_err(failed)?;
                (record.asked, record.messages) = (Some(asked), messages);
            }
            record.reference.clone_from(&row.reference);
            record.metadata.clone_from(&row.metadata);
            return Ok(Ok((record, built.shortening)));
        }
        let how = self.rendering();
        let failed = |source| DataError::Codec { id: row.id.clone(), source };
        let record = match row.render(codec, &how) {
            Ok(record) => record,
            Err(CodecError::ChatTemplate { .. } | CodecError::Conversation { .. }) => {
                return Ok(Err("the chat template refuses the conversation"));
            }
            Err(error) => return Err(failed(error)),
        };
        let tokens = codec.encode(&record.prompt, record.kind.specials()).map_err(failed)?.len();
        if self.limit.is_some_and(|limit| tokens > limit.get()) {
            return Ok(Err("messages of too many tokens"));
        }
        Ok(Ok((record, Shortening::None)))
    }

    /// The conversion of rows to texts.
    fn rendering(&self) -> Rendering {
        match &self.form {
            PromptForm::Rendered(how) => how.clone(),
            PromptForm::Plain => Rendering::default(),
            PromptForm::Chat { system } => {
                Rendering { system: system.clone(), plain: PlainText::Chat, ..Rendering::default() }
            }
        }
    }

    fn step(&self, codec: &dyn TextCodec) -> Step {
        Step {
            operation: match self.limit {
                Some(limit) => format!("prompts of at most {limit} tokens of {}", codec.name()),
                None => "prompts".to_owned(),
            },
            ..Step::default()
        }
    }

    fn measure(
        &self,
        codec: &dyn TextCodec,
        id: &str,
        dialogue: &str,
    ) -> Result<BuiltPrompt, DataError> {
        let failed = |source| DataError::Codec { id: id.to_owned(), source };
        let filled = self.template.fill(dialogue);
        let asked = filled.clone();
        let text = match &self.form {
            PromptForm::Plain => filled,
            PromptForm::Rendered(how) => {
                how.prompt(codec, &filled.into(), &ChatOptions::default()).map_err(failed)?.0
            }
            PromptForm::Chat { system } => {
                let system = system.iter().map(|system| Message::new("system", system));
                let messages: Vec<_> =
                    system.chain([Message::new("user", filled.trim())]).collect();
                codec.render_chat(&messages, GenerationPrompt::Add).map_err(failed)?
            }
        };
        let tokens = codec.encode(&text, self.specials()).map_err(failed)?.len();
        Ok(BuiltPrompt { text, asked, tokens, shortening: Shortening::None })
    }
}

/// Counts a prompt that was shortened.
fn note(step: &mut Step, shortening: Shortening) {
    let remark = match shortening {
        Shortening::None => return,
        Shortening::Turns(_) => "shortened by its oldest turns",
        Shortening::WithinTurn => "shortened within its last turn",
    };
    *step.noted.entry(remark.to_owned()).or_default() += 1;
}

/// Beginnings of the turns of a dialogue: HH's turns, or lines.
fn starts_of_turns(dialogue: &str) -> Vec<usize> {
    match turns::parse(dialogue) {
        Ok(turns) => {
            let mut at = 0;
            turns
                .map(|turn| {
                    let start = at;
                    at += turn.speaker.marker().len() + turn.text.len();
                    start
                })
                .collect()
        }
        Err(_) => {
            let behind = dialogue.trim_end().match_indices('\n').map(|(at, _)| at + 1);
            std::iter::once(0).chain(behind).collect()
        }
    }
}

/// Bisects 0..count for the first that fits, where later ones are shorter. Tokenizers may take
/// more tokens for less text, so the first may be missed by a little; `fits` was true of the one
/// it saw last as true.
fn first_that_fits(
    count: usize,
    mut fits: impl FnMut(usize) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if fits(middle)? {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(())
}
