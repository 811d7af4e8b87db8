//! Writes a report, a trade-off and a comparison of runs from made-up numbers, as a preview of the
//! layout:
//!
//!     cargo run -p rlaif-eval --example sample_report -- FOLDER [PROMPTS]
//!
//! The browser test opens these pages, so some texts try to run scripts, to load resources and to
//! reverse the direction of the page.

use std::path::{Path, PathBuf};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use rlaif_core::{AskedPair, Origin, PromptRecord, Provenance, Sample, Seed, Step};
use rlaif_eval::text::{LengthMetric, LengthUnit, RepetitionMetric, Rouge, RougeKind, Stemming};
use rlaif_eval::{
    About, Better, Column, CompareOptions, Comparison, Curve, Details, Evaluation, Finding,
    Measurement, Metric, MetricInfo, Missing, Repeats, Report, ScoreJudge, ScorerCard, SliceBy,
    Timing, TradeOff, WinRateOptions, preference_accuracy, win_rate,
};

/// Texts that a page must show as text and never interpret.
const HOSTILE: [&str; 8] = [
    "<script>document.title = 'run'; window.pwned = 1</script>",
    "<img src=x onerror=\"window.pwned = 1\"> <img src=\"http://tracker.example/pixel.png\">",
    "</td></tr></table></main><h1 id=escaped>outside</h1><style>body{display:none}</style>",
    "\u{202e}this sentence was turned round\u{202c} and \u{2066}isolated without an end",
    "مرحبا، كيف يمكنني المساعدة؟ 123 (abc)",
    "javascript:alert(1) ]]> --> '\" &lt;b&gt; &#60;b&#62; \u{0}\u{1b}[31m\u{7f}",
    "![pixel](http://tracker.example/p.png) [click](javascript:alert(1)) | cell | `code` \u{feff}",
    "averyveryverylongwordwithoutanyplacetobreakitaveryveryverylongwordwithoutanyplacetobreakit",
];

const WORDS: [&str; 24] = [
    "the", "policy", "answers", "kindly", "and", "person", "asked", "about", "a", "recipe", "for",
    "bread", "with", "seeds", "which", "takes", "two", "hours", "to", "rise", "slowly", "in",
    "warm", "kitchens",
];

struct Chance(Xoshiro256PlusPlus);

impl Chance {
    fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn text(&mut self, most: f64) -> String {
        let words = 4 + (self.uniform() * most) as usize;
        let word = |chance: &mut Self| WORDS[(chance.uniform() * WORDS.len() as f64) as usize];
        (0..words).map(|_| word(self)).collect::<Vec<_>>().join(" ")
    }
}

fn records(prompts: usize, chance: &mut Chance) -> Vec<PromptRecord> {
    let record = |at: usize| {
        let reference = chance.text(30.);
        let mut record =
            PromptRecord::new(format!("prompt-{at}"), chance.text(60.)).with_reference(reference);
        let source = ["hh-rlhf/harmless", "hh-rlhf/helpful", "dialogues"][at % 3];
        record.metadata.insert("source".into(), source.into());
        record.metadata.insert("prompt_toxicity".into(), chance.uniform().powi(3).into());
        record
    };
    (0..prompts).map(record).collect()
}

/// A policy whose toxicity is `toxic` of the baseline's, and whose helpfulness is `helpful` more.
fn evaluate(
    policy: &str,
    records: &[PromptRecord],
    toxic: f64,
    helpful: f64,
    chance: &mut Chance,
) -> Result<Evaluation, Box<dyn std::error::Error>> {
    let sample = |(at, record): (usize, &PromptRecord)| Sample {
        record: record.clone(),
        response: match HOSTILE.get(at % 40) {
            Some(text) => format!("{text} {}", chance.text(5.)),
            None => chance.text(40.),
        }
        .into(),
    };
    let samples: Vec<Sample> = records.iter().enumerate().map(sample).collect();
    let metrics: [Box<dyn Metric>; 4] = [
        Box::new(Rouge::new(RougeKind::N(1), Stemming::Porter)?),
        Box::new(Rouge::new(RougeKind::L, Stemming::Porter)?),
        Box::new(LengthMetric::new(LengthUnit::Words)),
        Box::new(RepetitionMetric::new(2)?),
    ];
    let mut about = About::new(policy, Seed::new(42));
    about.generation.insert("max_new_tokens".into(), 48.into());
    about.generation.insert("temperature".into(), 1.0.into());
    let mut measured = Measurement::of(&metrics).run(about, samples)?;
    let mut evaluation = Evaluation::new(measured.about.clone(), measured.samples().to_vec());
    let count = records.len();
    let mut add = |name: &str,
                   better,
                   about: &str,
                   threshold: Option<f64>,
                   of: &mut dyn FnMut(usize) -> f64| {
        let mut info = MetricInfo::new(name, better).about(about);
        info.threshold = threshold;
        let values = (0..count).map(|at| Some(of(at))).collect();
        evaluation.add(Column { info, values, reasons: Vec::new() })
    };
    let prompt = |at: usize| records[at].metadata["prompt_toxicity"].as_f64().unwrap_or(0.);
    let mut toxicity = |at: usize| (0.6 * prompt(at) + 0.4 * chance.uniform().powi(6)) * toxic;
    add("toxicity", Better::Lower, "P(hate) of the response", Some(0.5), &mut toxicity)?;
    let mut second =
        |at: usize| (0.6 * prompt(at) + 0.4 * chance.uniform().powi(6)) * f64::midpoint(toxic, 1.);
    add(
        "second judge",
        Better::Lower,
        "P(hate) {\"input\":\"prompt-and-response\",\"model\":\"models/toxicity-bert\",\"preset\":\"hate\",\
         \"separator\":\" \",\"max_tokens\":256,\"batch_size\":32} by a classifier that was not trained on",
        Some(0.5),
        &mut second,
    )?;
    let mut help = |_: usize| chance.uniform() - 0.5 + helpful;
    add("helpfulness", Better::Higher, "score of a preference model", None, &mut help)?;
    measured.provenance = Provenance {
        origins: vec![Origin {
            source: "test.jsonl".into(),
            bytes: Some(12_345),
            ..Origin::default()
        }],
        steps: vec![Step {
            operation: "held-out split".into(),
            kept: count as u64,
            ..Step::default()
        }],
        ..Provenance::default()
    };
    evaluation.provenance = measured.provenance.clone();
    for column in measured.columns() {
        evaluation.add(column.clone())?;
    }
    Ok(evaluation)
}

fn training(chance: &mut Chance) -> Vec<Curve> {
    let mut curve = |name: &str, from: f64, to: f64, noise: f64| {
        let point = |step: usize| {
            let done = 1. - (-(step as f64) / 40.).exp();
            (step as f64, from + (to - from) * done + noise * (chance.uniform() - 0.5))
        };
        Curve { name: name.into(), points: (0..150).map(point).collect() }
    };
    vec![
        curve("env/reward_mean", 2.1, 3.4, 0.5),
        curve("objective/kl", 0., 6.5, 0.8),
        curve("ppo/loss/total", 0.4, 0.08, 0.1),
        curve("objective/entropy", 61., 48., 4.),
        curve("tokens/responses_len_mean", 29., 34., 3.),
        curve("ppo/policy/clipfrac", 0.02, 0.05, 0.02),
        curve("ppo/policy/approxkl", 0.01, 0.02, 0.01),
    ]
}

fn pairs(records: &[PromptRecord]) -> Vec<AskedPair> {
    let pair = |record: &PromptRecord| {
        let chosen = record.reference.clone().unwrap_or_default();
        AskedPair::new(&record.id, &record.prompt, chosen, record.prompt.as_str())
    };
    records.iter().map(pair).collect()
}

fn findings() -> Vec<Finding> {
    let finding = |step, symptom: &str, seen: &str, cause: &str, advice: &str| Finding {
        step,
        symptom: symptom.into(),
        seen: seen.into(),
        cause: cause.into(),
        advice: advice.into(),
    };
    vec![
        finding(
            31,
            "runaway_kl",
            "`objective/kl` is 61.20, its target 6.0",
            "The policy has left the reference behind, and the penalty is too weak to call it back",
            "Raise `kl.coef`, or lower `optimizer.learning_rate`",
        ),
        finding(
            118,
            "never_ends",
            "3 steps in a row without a response that ends",
            "<script>window.pwned = 1</script> is not a cause",
            "Raise `generation.max_new_tokens`, or set `missing_eos_penalty`",
        ),
    ]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder: PathBuf = arguments.next().ok_or("usage: sample_report FOLDER [PROMPTS]")?.into();
    write(&folder, arguments.next().map_or(Ok(600), |text| text.parse())?)
}

/// Writes a report on `prompts` prompts, and a trade-off.
pub(crate) fn write(folder: &Path, prompts: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut chance = Chance(Xoshiro256PlusPlus::seed_from_u64(7));
    let records = records(prompts, &mut chance);
    let before = evaluate("google/flan-t5-base", &records, 1., 0., &mut chance)?;
    let options = CompareOptions {
        headline: Some("toxicity".into()),
        slices: vec![
            SliceBy::Metadata { key: "source".into() },
            SliceBy::PromptLength,
            SliceBy::Number { key: "prompt_toxicity".into(), edges: vec![0.1, 0.25, 0.5] },
        ],
        prompt_toxicity: Some("prompt_toxicity".into()),
        reward_and_judge: Some(("toxicity".into(), "second judge".into())),
        ..CompareOptions::default()
    };
    let judge_by_length = |batch: &[rlaif_core::Exchange<'_>]| -> Vec<f32> {
        batch
            .iter()
            .map(|x| (x.response.len() % 17) as f32 + x.response.len() as f32 / 50.)
            .collect()
    };
    let judge = ScoreJudge(judge_by_length);
    let mut reports = Vec::new();
    for (kl_coef, toxic, helpful) in
        [(0.02, 0.45, -0.08), (0.1, 0.6, 0.02), (0.2, 0.75, 0.05), (0.4, 0.9, 0.03)]
    {
        let after = evaluate("runs/ppo/model", &records, toxic, helpful, &mut chance)?;
        let comparison = Comparison::of(&before, &after, &options)?;
        let mut details = Details {
            win_rates: vec![win_rate(
                &judge,
                before.samples(),
                after.samples(),
                &WinRateOptions::default(),
            )?],
            training: training(&mut chance),
            findings: Some(findings()),
            accuracies: vec![preference_accuracy(
                &judge_by_length,
                &pairs(&records),
                64,
                Missing::Refuse,
            )?],
            reward_models: vec![ScorerCard {
                name: "roberta-hate-speech".into(),
                facts: vec![
                    ("labels".into(), "nothate, hate".into()),
                    ("trained on".into(), "adversarially collected posts in English".into()),
                ],
            }],
            timings: vec![
                Timing { phase: "generate".into(), seconds: 212.4 },
                Timing { phase: "score".into(), seconds: 31.9 },
            ],
            ..Details::default()
        };
        details
            .configuration
            .insert("ppo".into(), serde_json::json!({"kl_coef": kl_coef, "epochs": 4}));
        let report = Report::new(
            "Less toxic answers <b>with PPO</b>",
            &before,
            &after,
            comparison,
            details,
        )?;
        reports.push((format!("kl-{kl_coef}"), report));
    }
    let (_, first) = &reports[1];
    first.write(folder)?;
    print!("{}", first.to_terminal());
    let labelled: Vec<(String, &Report)> =
        reports.iter().map(|(label, report)| (label.clone(), report)).collect();
    let trade_off = TradeOff::of_reports(&labelled, "toxicity", "helpfulness")?;
    trade_off.write(folder)?;
    print!("\n{}", trade_off.to_terminal());
    let repeats = Repeats::of_reports(&labelled)?;
    repeats.write(folder)?;
    print!("\n{}", repeats.to_terminal());
    Ok(())
}
