//! `rlaif annotate`: studies of people's answers, without the page.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueEnum};
use rlaif_core::{Seed, Ties, say};
use rlaif_eval::Share;
use rlaif_people::{
    AnnotatorRole, FoldedTexts, ItemPurpose, JudgePositions, KnownItems, LabelOptions,
    PeopleAgreement, PeopleLabels, Study, StudyAgreement, StudyForm, StudySettings, read_answers,
    read_evaluations, read_items, write_answers,
};
use serde_json::json;

use super::{error::CliError, print::print};

#[derive(Debug, Subcommand)]
pub(crate) enum Annotate {
    /// Adds items to a study; creates it if it does not exist.
    #[command(
        after_help = "Rows in: {\"prompt\": \"..\", \"responses\": [\"..\", \"..\"]}, as `rlaif candidates` \
                      writes them, with \"id\", \"known\" and \"toxic\" if you like, or preference pairs in any form."
    )]
    Add(Add),
    /// Lists those who answer, after adding new ones.
    People(People),
    /// Adds answers from Label Studio, Argilla, Ground Truth, `rlaif label` or an export.
    Read(Read),
    /// Prints agreement, habits of annotators, and strengths of models.
    Agree(Agree),
    /// Writes labels to train on, or answers in the form of another tool.
    Export(Export),
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// The study's file.
    study: PathBuf,
    /// Files of items.
    files: Vec<PathBuf>,
    /// A folder with a report.json: responses before and after. Given twice: the tuned policies' responses
    /// of both.
    #[arg(long)]
    evaluation: Vec<PathBuf>,
    /// The files' preferences are known answers, which measure annotators.
    #[arg(long)]
    known: bool,
    /// Title of a new study's page.
    #[arg(long)]
    title: Option<String>,
    /// Instructions to annotators of a new study.
    #[arg(long)]
    instructions: Option<String>,
    /// Seed of a new study: order of responses, shared items, places of known items.
    #[arg(long)]
    seed: Option<u64>,
    /// Share of items that every annotator of a new study answers; 0.2 by default.
    #[arg(long)]
    overlap: Option<f64>,
    /// In a new study, one item in so many has a known answer; 20 by default, 0 for none.
    #[arg(long)]
    known_every: Option<u32>,
    /// Facets of a new study, separated by commas; `helpful,honest,harmless` by default.
    #[arg(long, value_delimiter = ',')]
    facets: Option<Vec<String>>,
    /// Reasons of a new study, separated by commas.
    #[arg(long, value_delimiter = ',')]
    reasons: Option<Vec<String>>,
    /// All texts of a new study are shown on demand only.
    #[arg(long)]
    fold: bool,
}

impl Add {
    fn settings(&self) -> StudySettings {
        let default = StudySettings::default();
        let names = |given: &Option<Vec<String>>, default: Vec<String>| match given {
            Some(names) => names.iter().filter(|name| !name.is_empty()).cloned().collect(),
            None => default,
        };
        StudySettings {
            title: self.title.clone().unwrap_or(default.title),
            instructions: self.instructions.clone().unwrap_or(default.instructions),
            seed: self.seed.map_or(default.seed, Seed::new),
            overlap: self.overlap.unwrap_or(default.overlap),
            known_every: self.known_every.unwrap_or(default.known_every),
            facets: names(&self.facets, default.facets),
            reasons: names(&self.reasons, default.reasons),
            fold: FoldedTexts::from(self.fold),
        }
    }

    fn run(&self) -> Result<(), CliError> {
        let purpose = if self.known { ItemPurpose::Measure } else { ItemPurpose::Answer };
        let (mut items, mut left_out) = (Vec::new(), 0);
        for file in &self.files {
            let read = read_items(file, purpose)?;
            items.extend(read.items);
            left_out += read.equal_responses;
        }
        match self.evaluation.as_slice() {
            [] => {}
            [one] => items.extend(read_evaluations(one, None)?),
            [one, other] => items.extend(read_evaluations(one, Some(other))?),
            more => {
                let found = format!("given {} times", more.len());
                return Err(CliError::flag("evaluation", found, "one folder, or two"));
            }
        }
        let settings = self.settings();
        let is_new = !self.study.exists();
        let (study, counts) = Study::create_with(&self.study, &settings, &items)?;
        if !is_new && settings != StudySettings::default() && settings != *study.settings() {
            say("the study exists: its settings are kept");
        }
        let all = study.count_items()?;
        let counted =
            |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        let mut said = counted(counts.added, "item added", "items added");
        if counts.equal > 0 {
            let _ = write!(said, ", {} in the study already", counts.equal);
        }
        if left_out > 0 {
            let rows = counted(left_out, "row", "rows");
            let _ = write!(said, ", {rows} with equal responses left out");
        }
        print(format_args!("{said}; the study has {all}"))
    }
}

#[derive(Debug, Args)]
pub(crate) struct People {
    /// The study's file.
    study: PathBuf,
    /// Names of new annotators.
    names: Vec<String>,
    /// The new ones are referees, who decide what annotators disagree on.
    #[arg(long)]
    referee: bool,
}

impl People {
    fn run(&self) -> Result<(), CliError> {
        let study = Study::open(&self.study)?;
        let role = if self.referee { AnnotatorRole::Referee } else { AnnotatorRole::Annotator };
        for name in &self.names {
            study.add_annotator(name, role)?;
        }
        for who in study.annotators()? {
            let progress = study.progress(&who)?;
            print(json!({
                "name": who.name, "role": who.role, "done": progress.done, "left": progress.left,
                "token": who.token,
            }))?;
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(crate) struct Read {
    /// The study's file.
    study: PathBuf,
    /// The file of answers.
    file: PathBuf,
    /// The annotator of all answers, in place of those that the file names.
    #[arg(long)]
    annotator: Option<String>,
    /// The annotator is a judge: compared with people, and not counted as one.
    #[arg(long)]
    judge: bool,
}

impl Read {
    fn run(&self) -> Result<(), CliError> {
        let read = read_answers(&self.file)?;
        let study = Study::create(&self.study, &StudySettings::default())?;
        let role = match (self.judge, &self.annotator) {
            (true, _) => Some(AnnotatorRole::Judge),
            (false, Some(_)) => Some(AnnotatorRole::Annotator),
            (false, None) => None,
        };
        let merged = study.merge(&read, self.annotator.as_deref(), role)?;
        print(format_args!(
            "{} answers added, {} new items, {} answers to items that the study does not have",
            merged.answers, merged.items, merged.unmatched
        ))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Agree {
    /// The study's file.
    study: PathBuf,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

impl Agree {
    fn run(&self) -> Result<(), CliError> {
        let found = StudyAgreement::of(&Study::open(&self.study)?.contents()?);
        match self.json {
            true => print(json!(found)),
            false => print(table(&found).trim_end()),
        }
    }
}

fn optional(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.1} %", 100. * value))
}

fn table(found: &StudyAgreement) -> String {
    let mut text = format!(
        "{} of {} items have answers; people disagree on {}\n\n",
        found.answered, found.items, found.conflicts
    );
    let mut line = |name: &str, one: &PeopleAgreement| {
        let _ = writeln!(
            text,
            "{name:<16} {:>6} {:>8} {:>9} {:>9} {:>9} {:>9}",
            one.items,
            one.answers,
            percent(one.raw),
            optional(one.fleiss_kappa, 3),
            optional(one.alpha_nominal, 3),
            optional(one.alpha_interval, 3),
        );
    };
    line("choice", &found.choice);
    found.facets.iter().for_each(|(name, one)| line(name, one));
    let head = format!(
        "{:<16} {:>6} {:>8} {:>9} {:>9} {:>9} {:>9}\n",
        "agreement on", "items", "answers", "raw", "Fleiss κ", "α names", "α scale"
    );
    let at = text.find("choice ").unwrap_or_default();
    text.insert_str(at, &head);
    if let Some(alpha) = found.strength_alpha {
        let _ = writeln!(text, "strength: Krippendorff's α (interval) {alpha:.3}");
    }
    let _ = writeln!(
        text,
        "\n{:<16} {:>9} {:>7} {:>7} {:>7} {:>9} {:>9} {:>9}",
        "annotator", "role", "answers", "skipped", "median", "known", "first", "majority"
    );
    for who in &found.annotators {
        let known = (who.known > 0).then(|| format!("{} of {}", who.known_right, who.known));
        let role = match who.role {
            AnnotatorRole::Annotator => "annotator",
            AnnotatorRole::Referee => "referee",
            AnnotatorRole::Judge => "judge",
        };
        let median = who.median_seconds.map(|s| format!("{s:.1} s"));
        let _ = writeln!(
            text,
            "{:<16} {role:>9} {:>7} {:>7} {:>7} {:>9} {:>9} {:>9}",
            who.name,
            who.answers,
            who.skipped,
            median.as_deref().unwrap_or("-"),
            known.as_deref().unwrap_or("-"),
            percent(who.first_shown),
            percent(who.with_majority),
        );
    }
    if !found.pairs.is_empty() {
        let _ = writeln!(
            text,
            "\n{:<33} {:>6} {:>8} {:>9}",
            "two annotators", "items", "raw", "Cohen κ"
        );
    }
    for pair in &found.pairs {
        let names = format!("{} and {}", pair.one, pair.other);
        let kappa = optional(pair.cohen_kappa, 3);
        let _ = writeln!(
            text,
            "{names:<33} {:>6} {:>8} {kappa:>9}",
            pair.items,
            percent(Some(pair.raw))
        );
    }
    judges(&mut text, &found.judges);
    let Some(makers) = &found.makers else { return text };
    let _ = writeln!(text, "\n{:<33} {:>11} {:>7}  95 % interval", "model", "comparisons", "θ");
    for one in &makers.makers {
        let ci = one.strength.ci95;
        let _ = writeln!(
            text,
            "{:<33} {:>11} {:>+7.3}  {:+.3} to {:+.3}",
            one.maker, one.comparisons, one.strength.theta, ci.low, ci.high
        );
    }
    if let Some(because) = &makers.prior_because {
        let groups: Vec<String> = makers.groups.iter().map(|group| group.join(", ")).collect();
        let _ = writeln!(
            text,
            "{because}: {}. Strengths have a weak prior, and compare models of one group alone.",
            groups.join(" | ")
        );
    }
    text
}

/// Lines of judges that saw both orders.
fn judges(text: &mut String, judges: &[JudgePositions]) {
    if judges.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\n{:<33} {:>6} {:>8} {:>16} {:>8} {:>16}",
        "judge, facet", "pairs", "flips", "95 % interval", "first", "95 % interval"
    );
    let share = |share: Option<Share>| match share {
        None => ["-".to_owned(), "-".to_owned()],
        Some(Share { share, ci95, .. }) => {
            [percent(Some(share)), format!("{:.1} to {:.1} %", 100. * ci95.low, 100. * ci95.high)]
        }
    };
    for judge in judges {
        for (facet, habits) in &judge.facets {
            let name = format!("{}, {facet}", judge.name);
            let pairs = habits.position_flip.map_or(0, |flip| flip.n);
            let [flip, interval] = share(habits.position_flip);
            let [first, of_first] = share(habits.first_wins);
            let _ = writeln!(
                text,
                "{name:<33} {pairs:>6} {flip:>8} {interval:>16} {first:>8} {of_first:>16}"
            );
        }
    }
}

/// The form of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Preference pairs with soft labels, in the columns of `rlaif label`.
    Preferences,
    /// Prompts with the edited responses, for supervised fine-tuning.
    Demonstrations,
    /// A row for each answer, with everything that is known of it.
    Answers,
    /// JSON of Label Studio.
    LabelStudio,
    /// Records of Argilla.
    Argilla,
    /// An output manifest of SageMaker Ground Truth.
    GroundTruth,
}

/// Treatment of pairs with as many votes for one response as for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TiedVotes {
    /// Left out.
    Drop,
    /// Kept, with a probability of 0.5.
    Keep,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The study's file.
    study: PathBuf,
    /// The file to write.
    #[arg(long)]
    out: PathBuf,
    /// The format.
    #[arg(long, alias = "form", value_enum, default_value = "preferences")]
    format: Form,
    /// Treatment of ties in preferences.
    #[arg(long, value_enum, default_value = "drop")]
    ties: TiedVotes,
    /// Leaves out annotators with a lower share of right answers to items with known answers, 0 to 1.
    #[arg(long)]
    least_known: Option<f64>,
    /// Items with known answers are exported too.
    #[arg(long)]
    keep_known: bool,
}

impl Export {
    fn run(&self) -> Result<(), CliError> {
        let contents = Study::open(&self.study)?.contents()?;
        let form = match self.format {
            Form::Preferences => return self.preferences(&contents),
            Form::Demonstrations => {
                let rows = contents.demonstrations();
                say(format_args!("{} demonstrations", rows.len()));
                return self.write(&lines(rows));
            }
            Form::Answers => StudyForm::Answers,
            Form::LabelStudio => StudyForm::LabelStudio,
            Form::Argilla => StudyForm::Argilla,
            Form::GroundTruth => StudyForm::GroundTruth,
        };
        say(format_args!("{} answers", contents.answers.len()));
        let written = write_answers(&contents, form);
        if let Some(left_out) = written.left_out() {
            say(left_out);
        }
        self.write(&written.text)
    }

    fn preferences(&self, contents: &rlaif_people::StudyContents) -> Result<(), CliError> {
        let options = LabelOptions {
            ties: match self.ties {
                TiedVotes::Drop => Ties::Drop,
                TiedVotes::Keep => Ties::Keep,
            },
            least_known: self.least_known,
            known: if self.keep_known { KnownItems::Keep } else { KnownItems::Drop },
        };
        options.check().map_err(CliError::Flag)?;
        let found = PeopleLabels::of(contents, &options);
        found.sentences().iter().for_each(say);
        if let Some(left_out) = contents.beside_preferences() {
            say(left_out);
        }
        self.write(&lines(found.labels))
    }

    fn write(&self, text: &str) -> Result<(), CliError> {
        write(&self.out, text)?;
        print(format_args!("{}", self.out.display()))
    }
}

fn lines(rows: impl IntoIterator<Item = impl serde::Serialize>) -> String {
    rows.into_iter().map(|row| format!("{}\n", json!(row))).collect()
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    rlaif_people::write_file(path, text.as_bytes()).map_err(CliError::from)
}

impl Annotate {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        match self {
            Self::Add(command) => command.run(),
            Self::People(command) => command.run(),
            Self::Read(command) => command.run(),
            Self::Agree(command) => command.run(),
            Self::Export(command) => command.run(),
        }
    }
}
