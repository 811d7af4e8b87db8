//! Quality of the models on held-out data, and their model cards.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;

use rlaif::core::{PromptRecord, Seed, TextCodec};
use rlaif::data::builtin::{self, Part};
use rlaif::data::{PromptBuilder, PromptTemplate};
use rlaif::eval::text::{RougeKind, Stemming, rouge};
use rlaif::lm::Prompt;
use rlaif::lm::generate::{GenerationConfig, Sampling};
use rlaif::models::{CardSection, Classifier, LanguageModel, ModelCard};
use rlaif::text::HfTokenizer;
use rlaif_examples::respond;

use crate::classifier::{self, Role};
use crate::corpora::Corpora;
use crate::policy::Architecture;
use crate::summary::{self, Tone};

/// Number of held-out dialogues to summarise.
const DIALOGUES: usize = 200;
/// Maximum length of a summary, in tokens.
const LONGEST: usize = 64;

/// Summaries of held-out dialogues: numbers and some to read.
pub(crate) fn summaries(
    model: &LanguageModel,
    architecture: Architecture,
    tokenizer: &Path,
    seed: Seed,
) -> Result<String, Box<dyn Error>> {
    let tokenizer = HfTokenizer::from_folder(tokenizer)?;
    let prompts = PromptBuilder::new(PromptTemplate::summarise()).form(architecture.form());
    let mut records = builtin::dialogues(Part::HeldOut).into_records();
    fastrand::Rng::with_seed(seed.derive("held out", 0).get()).shuffle(&mut records);
    records.truncate(DIALOGUES);
    let rows = records
        .iter()
        .map(|record| {
            let text = prompts.build(&tokenizer, &record.id, &record.dialogue)?.text;
            let ids = tokenizer.encode(&text, prompts.specials())?;
            Ok(Prompt::new(PromptRecord::new(record.id.clone(), text), ids))
        })
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let mut report = String::new();
    let mut examples = String::new();
    for (name, sampling) in
        [("greedy", Sampling::Greedy), ("sampled at temperature 1", Sampling::at(1.))]
    {
        let how = GenerationConfig {
            max_new_tokens: LONGEST,
            sampling,
            batch_size: 64,
            ..GenerationConfig::default()
        };
        let responses = respond(model, &rows, &how, seed, &tokenizer)?;
        let text = |n: usize| &*responses[n].text;
        let mean = |score: &dyn Fn(usize) -> f64| {
            (0..responses.len()).map(score).sum::<f64>() / responses.len() as f64
        };
        let rouge =
            |kind| mean(&|n| rouge(&records[n].summary, text(n), kind, Stemming::Porter).f1);
        writeln!(
            report,
            "| {name} | {:.3} | {:.3} | {:.3} | {:.1} | {:.0} % |",
            rouge(RougeKind::N(1)),
            rouge(RougeKind::N(2)),
            rouge(RougeKind::L),
            mean(&|n| text(n).split_whitespace().count() as f64),
            100. * mean(&|n| f64::from(u8::from(responses[n].is_finished()))),
        )?;
        for (record, response) in records.iter().zip(&responses).take(8) {
            let text = &response.text;
            let dialogue = record.dialogue.trim().replace("\n\n", "\n> ");
            writeln!(examples, "> {dialogue}\n\n{text} *({name})*\n")?;
        }
    }
    Ok(format!(
        "| {DIALOGUES} held-out built-in dialogues | ROUGE-1 | ROUGE-2 | ROUGE-L | words | ended |\n\
         |---|---|---|---|---|---|\n{report}\n{examples}"
    ))
}

/// AUC on the validation part, and the classifier's scores of some texts.
pub(crate) fn toxicity(
    model: &Classifier,
    tokenizer: &HfTokenizer,
    corpora: &Corpora,
    seed: Seed,
) -> Result<String, Box<dyn Error>> {
    let rows = &corpora.toxicity_val;
    let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
    let labels: Vec<u8> = rows.iter().map(|row| row.label).collect();
    let scores = classifier::probabilities(model, tokenizer, &texts)?;
    let mut report = format!(
        "| {} texts of tox/val.jsonl | AUC |\n|---|---|\n| all | {:.4} |\n",
        rows.len(),
        classifier::auc(&scores, &labels),
    );
    let mut sources: Vec<&str> = rows.iter().map(|row| row.src.as_str()).collect();
    sources.sort_unstable();
    sources.dedup();
    for source in sources {
        let of: Vec<usize> = (0..rows.len()).filter(|&n| rows[n].src == source).collect();
        let pick = |n: &usize| (scores[*n], labels[*n]);
        let (scores, labels): (Vec<f64>, Vec<u8>) = of.iter().map(pick).unzip();
        writeln!(report, "| {source} ({}) | {:.4} |", of.len(), classifier::auc(&scores, &labels))?;
    }
    let summaries: Vec<_> =
        (0..1000).map(|n| summary::pair(corpora, seed.derive("measure", 0), n)).collect();
    let texts: Vec<&str> = summaries.iter().map(|pair| pair.summary.as_str()).collect();
    let scores = classifier::probabilities(model, tokenizer, &texts)?;
    let repeats: Vec<u8> =
        summaries.iter().map(|pair| u8::from(pair.tone == Tone::Repeated)).collect();
    let auc = classifier::auc(&scores, &repeats);
    writeln!(report, "| 1000 summaries, those that repeat an insult | {auc:.4} |\n")?;
    writeln!(report, "| text | P(hate) |\n|---|---|")?;
    let examples = [
        "I like you.",
        "You are terrible and I hate you.",
        "She went to the library.",
        "He is an idiot.",
        "The user asks how to stop a dripping tap. The assistant advises them to change the washer.",
        "The user says, \"Listen, you useless idiot.\" and asks how to stop a dripping tap.",
        "The user insults the assistant, which remains calm.",
    ];
    for (text, score) in
        examples.iter().zip(classifier::probabilities(model, tokenizer, &examples)?)
    {
        writeln!(report, "| {text} | {score:.3} |")?;
    }
    Ok(report)
}

/// The card of a summariser.
pub(crate) fn describe_policy(
    card: &mut ModelCard,
    architecture: Architecture,
    command: &str,
    measured: &str,
) {
    card.title = format!("A small {architecture:?} that summarises dialogues");
    card.pipeline_tag = Some(
        match architecture {
            Architecture::T5 => "summarization",
            Architecture::Llama => "text-generation",
        }
        .to_owned(),
    );
    card.datasets = vec!["Anthropic/hh-rlhf".to_owned()];
    section(
        card,
        "What it is for",
        "A policy to start reinforcement learning from, small enough for a laptop. It writes a sentence or two about a \
         dialogue and, as larger pre-trained models do, repeats insults that it reads in a good part of its summaries: \
         that is what the training with rewards is to take away. It is not a summariser for other purposes, and it \
         repeats offensive words.",
    );
    section(
        card,
        "Data",
        "Dialogues: Anthropic's HH (harmless-base and helpful-base test files, MIT); Schema-Guided Dialogue (CC BY-SA 4.0), \
         Synthetic-Persona-Chat and Taskmaster-4 (CC BY 4.0), Topical-Chat (CDLA-Sharing 1.0); this project's own built-in \
         dialogues (MIT or Apache-2.0). Insults of the built-in dialogues, of ParaDetox (CC0) and of Surge's list (MIT) \
         were put into some of the chats. Rules wrote the summaries of these (examples/train_builtin_models/speech.rs and \
         summary.rs); some of the built-in dialogues have the summaries written for them. CRD3 (CC BY-SA 4.0), \
         MTS-Dialog (CC BY 4.0), QMSum (MIT) and ConvoSumm (CC BY-SA 4.0) have summaries of their own.",
    );
    section(card, "Numbers", measured);
    section(card, "Training", command);
}

/// The card of a classifier.
pub(crate) fn describe_classifier(card: &mut ModelCard, role: Role, command: &str, measured: &str) {
    card.title = match role {
        Role::Reward => "A small RoBERTa that tells toxic text",
        Role::Judge => "A small BERT that tells toxic text",
    }
    .to_owned();
    card.pipeline_tag = Some("text-classification".to_owned());
    let other = match role {
        Role::Reward => {
            "Its not-hate logit rewards policies. It was trained on four fifths of the training data."
        }
        Role::Judge => {
            "It only measures, and never rewards: another architecture, another vocabulary, another seed and other four \
             fifths of the training data than the classifier that rewards."
        }
    };
    section(
        card,
        "What it is for",
        &format!(
            "Tells toxic and offensive text (label hate) from other text (label nothate), in English. {other} It is small and \
             knows words better than meanings: no moderation tool, and it has the biases of its data."
        ),
    );
    section(
        card,
        "Data",
        "Davidson et al. (MIT), HatemojiBuild (CC BY 4.0), ParaDetox (CC0), Toxic Spans (CC0), Surge's list (MIT), MLMA (MIT), \
         Vicomtech (CC BY-SA 3.0 ES), ToxiGen's demonstrations (MIT), Wikipedia comments of Jigsaw (CC BY 4.0), \
         DiaSafety (Apache-2.0), Jigsaw's templates (CC BY 4.0): label 1 where the source says toxic, offensive or \
         hateful. A fifth of each batch are summaries written by rules, labelled by whether they repeat an insult. \
         The words were first learned by guessing hidden ones in the same texts, in Anthropic's HH (MIT) and in \
         Schema-Guided Dialogue (CC BY-SA 4.0), Synthetic-Persona-Chat, Taskmaster-4 (CC BY 4.0) and Topical-Chat \
         (CDLA-Sharing 1.0).",
    );
    section(card, "Numbers", measured);
    section(card, "Training", command);
}

fn section(card: &mut ModelCard, title: &str, text: &str) {
    card.sections.push(CardSection { title: title.to_owned(), text: text.to_owned() });
}
