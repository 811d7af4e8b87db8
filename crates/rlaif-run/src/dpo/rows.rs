//! The rows of `rlaif dpo`: preference pairs, single responses with one verdict each, or prompts
//! for which the policy samples responses.

use std::collections::HashSet;

use rlaif_core::{
    ChatOptions, Metadata, PairRow, PreferencePair, PromptRecord, PromptRow, Record, Rendering,
    Seed, TextCodec, TextKind, UnpairedRow,
};
use rlaif_data::{
    Import,
    builtin::{self, Part},
};
use rlaif_dpo::{
    DpoError, HeldOutRows, Objective, OnProblem, PairProblem, RowConfig, RowReport, TokenPair,
    TooLong, TrainRows, pair_rows, response_rows,
};
use rlaif_lm::{Joiner, LmSpec};
use rlaif_rl::Prompt;

use crate::{
    data::{DataRows, DataSection, ShuffledBatches},
    dpo::file::{DpoFile, OnlineSection},
    error::RunError,
    prompt::{of_rows, rendered},
    rewards::unread_by,
    rows::RowReader,
    skipped::SkippedRows,
};

/// Rows as token ids, and the order of the training rows.
#[derive(Debug)]
pub struct DpoRows {
    /// Training rows.
    pub train: TrainRows,
    /// Evaluation rows.
    pub held_out: HeldOutRows,
    /// The rows of each step.
    pub batches: ShuffledBatches,
    /// Report on the training rows.
    pub report: RowReport,
    /// Counts of rows that the reader has left out.
    pub skipped: SkippedRows,
    /// Sentences on the form of the rows, for the log.
    pub notes: Vec<String>,
    /// The rendering of the prompts.
    pub rendering: Rendering,
}

impl DpoFile {
    /// Reads the rows and converts them to token ids.
    ///
    /// # Errors
    /// [`RunError::Data`] for rows that cannot be read, [`RunError::Row`] for an invalid row,
    /// [`RunError::Dpo`] if no training row is left.
    pub fn read(
        &self,
        codec: &dyn TextCodec,
        spec: &LmSpec,
        seed: Seed,
    ) -> Result<DpoRows, RunError> {
        self.token_ids(codec, spec, seed).map_err(|error| match (error, &self.data) {
            (RunError::Dpo(DpoError::Pair { id, problem }), Some(data)) => {
                RunError::Row { row: self.place(data, &id), problem: problem.into() }
            }
            (error, _) => error,
        })
    }

    /// Returns the position of the row with this id.
    fn place(&self, data: &DataSection, id: &str) -> String {
        let reader = self.reader(data);
        let files = data.files();
        if matches!(self.dpo.objective, Objective::Unpaired(_)) {
            reader.place::<UnpairedRow>(&files, id)
        } else if self.answers_prompts(&reader, data) {
            reader.place::<PromptRow>(&files, id)
        } else {
            reader.place::<PairRow>(&files, id)
        }
    }

    /// The reader of the rows, with the columns that the reward of sampled responses needs.
    fn reader(&self, data: &DataSection) -> RowReader {
        let mut reader = self.columns.reader(data.import);
        if let Some(online) = &self.online {
            reader.columns.reference.clone_from(&online.reference_column);
            reader.columns.metadata = online.reward.columns();
        }
        reader
    }

    /// `true` if the rows are only prompts, for which the policy samples responses.
    fn answers_prompts(&self, reader: &RowReader, data: &DataSection) -> bool {
        let gives_none = |(_, import): (_, Import)| !import.gives::<PairRow>();
        self.online.is_some() && reader.import(&data.train).is_ok_and(gives_none)
    }

    fn token_ids(
        &self,
        codec: &dyn TextCodec,
        spec: &LmSpec,
        seed: Seed,
    ) -> Result<DpoRows, RunError> {
        let mut config = self.rows.clone();
        if let Some(data) = &self.data {
            config.max_tokens = Some(data.max_tokens);
        }
        let reading = Reading { file: self, codec, spec, config, seed };
        if let (Objective::Unpaired(_), Some(data)) = (&self.dpo.objective, &self.data) {
            return reading.responses(data);
        }
        if let (Some(data), Some(online)) = (&self.data, &self.online) {
            let reader = self.reader(data);
            if self.answers_prompts(&reader, data) {
                return reading.prompts(data, &reader, online);
            }
        }
        reading.pairs()
    }

    /// Training pairs and held-out pairs, as in the rows.
    fn preferences(&self, seed: Seed) -> Result<DataRows<PairRow>, RunError> {
        let mut rows = match &self.data {
            None => {
                let of = |part| {
                    let dialogues = builtin::dialogues(part).into_records();
                    dialogues.into_iter().map(|dialogue| as_row(dialogue.pair)).collect()
                };
                let (train, held_out) = (of(Part::Train), of(Part::HeldOut));
                let skipped = SkippedRows::default();
                DataRows { train, held_out, skipped, read_as: Vec::new() }
            }
            Some(data) => {
                let mut reader = self.reader(data);
                // Of a pair's prompt, it is one of the further columns.
                reader.columns.metadata.extend(reader.columns.reference.take());
                data.import(&reader, seed)?
            }
        };
        for row in rows.train.iter_mut().chain(&mut rows.held_out) {
            row.margin = row.margin.or_else(|| difference_of_scores(row));
        }
        Ok(rows)
    }
}

/// The rows of a run before tokenisation.
struct Reading<'a> {
    file: &'a DpoFile,
    codec: &'a dyn TextCodec,
    spec: &'a LmSpec,
    config: RowConfig,
    seed: Seed,
}

impl Reading<'_> {
    /// Single responses with one verdict each.
    fn responses(&self, data: &DataSection) -> Result<DpoRows, RunError> {
        let reader = self.file.columns.reader(data.import);
        let rows = data.import::<UnpairedRow>(&reader, self.seed)?;
        let DataRows { train, held_out, mut skipped, read_as: notes } = rows;
        let how = self.file.prompt.rendering();
        let render = |row: &UnpairedRow| row.render(self.codec, &how);
        let train = kept(rendered(&train, &mut skipped, render)?);
        let held_out = kept(rendered(&held_out, &mut SkippedRows::default(), render)?);
        let (rows, report) = response_rows(&train, self.codec, self.spec, &self.config)?;
        let held_out = match held_out.as_slice() {
            [] => Vec::new(),
            held_out => response_rows(held_out, self.codec, self.spec, &self.config)?.0,
        };
        Ok(DpoRows {
            batches: self.batches(&rows)?,
            rendering: self.rendering(train.iter().map(|row| row.kind)),
            train: TrainRows::Responses(rows),
            held_out: HeldOutRows::Responses(held_out),
            report,
            skipped,
            notes,
        })
    }

    /// Only prompts, for which the policy samples responses.
    fn prompts(
        &self,
        data: &DataSection,
        reader: &RowReader,
        online: &OnlineSection,
    ) -> Result<DpoRows, RunError> {
        let rows = data.import::<PromptRow>(reader, self.seed)?;
        let DataRows { train, mut skipped, read_as: mut notes, .. } = rows;
        notes.extend(unread_by(&online.reward, train.iter().map(|row| &row.prompt)));
        let how = self.file.prompt.rendering();
        let train = kept(rendered(&train, &mut skipped, |row: &PromptRow| {
            // Responses of the rows are references only if the run file declares that.
            let reference = online.reference_column.as_ref().and(row.reference.clone());
            PromptRow { reference, ..row.clone() }.render(self.codec, &how)
        })?);
        self.answered(train, HeldOutRows::Pairs(Vec::new()), online, skipped, notes)
    }

    /// Preference pairs, or their prompts if the policy samples the responses.
    fn pairs(&self) -> Result<DpoRows, RunError> {
        let DataRows { train, held_out, mut skipped, read_as: mut notes } =
            self.file.preferences(self.seed)?;
        let how = self.file.prompt.rendering();
        let render = |row: &PairRow| row.render(self.codec, &how);
        let held_out = kept(rendered(&held_out, &mut SkippedRows::default(), render)?);
        let held_out = match held_out.as_slice() {
            [] => Vec::new(),
            held_out => self.pair_rows(held_out)?.0,
        };
        let held_out = HeldOutRows::Pairs(held_out);
        if let Some(online) = &self.file.online {
            notes.extend(unread_by(&online.reward, train.iter().map(|row| &row.prompt)));
            let train = kept(rendered(&train, &mut skipped, |row: &PairRow| {
                let PairRow { id, prompt, chat, mut metadata, .. } = row.clone();
                let needed = online.reward.columns();
                let reference = online.reference_column.as_ref().and_then(|column| {
                    let reference = metadata.get(column)?.as_str().map(str::to_owned);
                    if !needed.contains(column) {
                        metadata.remove(column);
                    }
                    reference
                });
                PromptRow { id, prompt, reference, chat, metadata }.render(self.codec, &how)
            })?);
            return self.answered(train, held_out, online, skipped, notes);
        }
        let train = kept(rendered(&train, &mut skipped, render)?);
        let (rows, report) = self.pair_rows(&train)?;
        Ok(DpoRows {
            batches: self.batches(&rows)?,
            rendering: self.rendering(train.iter().map(|row| row.kind)),
            train: TrainRows::Pairs(rows),
            held_out,
            report,
            skipped,
            notes,
        })
    }

    /// Prompts for which the policy samples responses, with pairs for evaluation.
    fn answered(
        &self,
        prompts: Vec<PromptRecord>,
        held_out: HeldOutRows,
        online: &OnlineSection,
        skipped: SkippedRows,
        notes: Vec<String>,
    ) -> Result<DpoRows, RunError> {
        let (prompts, report) =
            prompts_to_answer(prompts, self.codec, self.spec, &self.config, online)?;
        Ok(DpoRows {
            batches: self.batches(&prompts)?,
            rendering: self.rendering(prompts.iter().map(|prompt| prompt.record.kind)),
            train: TrainRows::Prompts(prompts),
            held_out,
            report,
            skipped,
            notes,
        })
    }

    /// Pairs as token ids, after a check that they have the fields the loss needs: otherwise the
    /// training would fail at the first pair without one.
    fn pair_rows(&self, pairs: &[PreferencePair]) -> Result<(Vec<TokenPair>, RowReport), DpoError> {
        let rows = pair_rows(pairs, self.codec, self.spec, &self.config)?;
        let objective = &self.file.dpo.objective;
        let needs_margins = matches!(objective, Objective::Pairs(pairs) if pairs.needs_margins());
        match rows.0.iter().find(|row| needs_margins && row.margin.is_none()) {
            Some(row) => Err(DpoError::Pair { id: row.id.clone(), problem: PairProblem::NoMargin }),
            None => Ok(rows),
        }
    }

    /// The order of the training rows.
    fn batches(&self, rows: &[impl Record]) -> Result<ShuffledBatches, RunError> {
        ShuffledBatches::new(rows, self.file.train.batch_size, self.seed)
    }

    /// The rendering of rows whose texts are of these kinds.
    fn rendering(&self, kinds: impl Iterator<Item = TextKind>) -> Rendering {
        of_rows(&self.file.prompt, kinds.into_iter().any(|kind| kind == TextKind::Rendered))
    }
}

/// The rows that could be rendered.
fn kept<T>(rows: Vec<Option<T>>) -> Vec<T> {
    rows.into_iter().flatten().collect()
}

fn as_row(pair: PreferencePair) -> PairRow {
    PairRow {
        id: pair.id,
        prompt: pair.prompt.into(),
        chosen: pair.chosen.into(),
        rejected: pair.rejected.into(),
        margin: pair.margin,
        chat: ChatOptions::default(),
        metadata: Metadata::new(),
    }
}

/// The difference of scores between the chosen and the rejected response, if the row has both.
fn difference_of_scores(row: &PairRow) -> Option<f64> {
    let score = |name: &str| row.metadata.get(name)?.as_f64();
    Some(score("score_chosen")? - score("score_rejected")?)
}

/// The distinct prompts of the rows that leave room for a response.
fn prompts_to_answer(
    all: Vec<PromptRecord>,
    codec: &dyn TextCodec,
    spec: &LmSpec,
    config: &RowConfig,
    online: &OnlineSection,
) -> Result<(Vec<Prompt>, RowReport), RunError> {
    let mut report = RowReport { read: all.len(), ..RowReport::default() };
    let mut known = HashSet::new();
    let prompts: Vec<PromptRecord> =
        all.into_iter().filter(|record| known.insert(record.prompt.clone())).collect();
    if prompts.len() < report.read {
        report.skipped.insert("the same prompt again".to_owned(), report.read - prompts.len());
    }
    let prompts = Prompt::of_records(prompts, &Joiner::new(codec, spec))?;
    let answer = online.pairs.generation.max_new_tokens;
    let room = |limit| spec.remaining(limit, answer);
    let limits = [config.max_prompt_tokens, config.max_tokens.map(room), spec.context.map(room)];
    let limit = limits.into_iter().flatten().min().unwrap_or(usize::MAX);
    let mut kept = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let (problem, stop) = match prompt.ids.len() {
            0 => (PairProblem::EmptyPrompt, config.empty == OnProblem::Error),
            // A prompt is also the reward's input, so it is never truncated.
            length if length > limit => {
                (PairProblem::TooLong { length, limit }, config.too_long == TooLong::Error)
            }
            _ => {
                kept.push(prompt);
                continue;
            }
        };
        if stop {
            return Err(DpoError::Pair { id: prompt.record.id.clone(), problem }.into());
        }
        report.skip(problem);
    }
    report.kept = kept.len();
    if kept.is_empty() {
        let (read, skipped) = (report.read, report.to_string());
        return Err(DpoError::NoRows { read, skipped: format!(": {skipped}") }.into());
    }
    Ok((kept, report))
}
