//! The contents of reports; text in a response is never interpreted as markup.

use rlaif_core::{PromptRecord, Sample, Seed};
use rlaif_eval::{
    About, Aim, Better, Candidate, Column, CompareOptions, Comparison, Curve, Details, Estimate,
    EvalError, Evaluation, Finding, MetricInfo, OptimisationPoint, Repeats, Report, Role, Standing,
    TradeOff, Verdict, read_findings,
};

const SCRIPT: &str = "<script>window.pwned=1</script><img src=x onerror=alert(1)>";
const BIDI: &str = "\u{202e}turned\u{2066} round";

fn side(count: usize, response: &str, scale: f64) -> Evaluation {
    let sample = |at: usize| {
        let mut record = PromptRecord::new(format!("p{at}"), format!("Prompt {at}: {SCRIPT}"));
        record.metadata.insert("prompt_toxicity".into(), (at % 2).into());
        Sample { record, response: format!("{response} {at}").into() }
    };
    let mut evaluation = Evaluation::new(
        About::new(format!("policy {SCRIPT}"), Seed::new(5)),
        (0..count).map(sample).collect(),
    );
    for (name, better) in [("toxicity", Better::Lower), ("help", Better::Higher)] {
        let mut info = MetricInfo::new(name, better).about(SCRIPT);
        info.threshold = (name == "toxicity").then_some(0.5);
        let value = |at: usize| Some((at * 37 % count) as f64 / count as f64 * scale);
        let values = (0..count).map(value).collect();
        evaluation.add(Column { info, values, reasons: Vec::new() }).unwrap();
    }
    evaluation
}

fn report_of(count: usize, response: &str) -> Report {
    let (before, after) = (side(count, response, 1.), side(count, response, 0.7));
    let options = CompareOptions {
        resamples: 200,
        prompt_toxicity: Some("prompt_toxicity".into()),
        reward_and_judge: Some(("help".into(), "toxicity".into())),
        ..CompareOptions::default()
    };
    let comparison = Comparison::of(&before, &after, &options).unwrap();
    let mut details = Details {
        training: vec![Curve { name: format!("loss {SCRIPT}"), points: vec![(0., 1.), (1., 0.5)] }],
        by_divergence: vec![OptimisationPoint {
            steps: (0, 3),
            kl: 0.5,
            reward: 1.,
            judge: 0.25,
            responses: 12,
        }],
        ..Details::default()
    };
    details.configuration.insert("kl_coef".into(), SCRIPT.into());
    details.findings = Some(vec![Finding {
        step: 3,
        symptom: "negative_kl".into(),
        seen: format!("`objective/kl` is -3.00 {SCRIPT}"),
        cause: format!("sampled otherwise than trained {BIDI}"),
        advice: "leave `generation.top_k` unset".into(),
    }]);
    Report::new(format!("Title {SCRIPT}"), &before, &after, comparison, details).unwrap()
}

#[test]
fn the_json_has_the_documented_fields_and_reads_back_as_it_was() {
    let report = report_of(40, "fine");
    let folder = tempfile::tempdir().unwrap();
    report.write(folder.path()).unwrap();
    let path = folder.path().join("report.json");
    assert_eq!(Report::read(&path).unwrap(), report);

    let text = std::fs::read_to_string(&path).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["metric"], "toxicity");
    assert_eq!(json["n"], 40);
    for side in ["before", "after"] {
        assert!(json[side]["mean"].is_f64() && json[side]["std"].is_f64());
        assert_eq!(json[side]["ci95"].as_array().unwrap().len(), 2);
    }
    assert_eq!(json["delta"]["ci95"].as_array().unwrap().len(), 2);
    let mean = |side: &str| json[side]["mean"].as_f64().unwrap();
    let improvement = (mean("before") - mean("after")) / mean("before") * 100.;
    assert!((json["delta"]["improvement_percent"].as_f64().unwrap() - improvement).abs() < 1e-9);
    assert!((improvement - 30.).abs() < 1e-9);
    assert!(
        (json["delta"]["mean"].as_f64().unwrap() - (mean("after") - mean("before"))).abs() < 1e-12
    );
    let sample = &json["samples"][3];
    for field in ["prompt", "before", "after"] {
        assert!(sample[field].is_string(), "{field}");
    }
    assert!(sample["score_before"].is_f64() && sample["score_after"].is_f64());
    assert_eq!(json["samples"].as_array().unwrap().len(), 40);
    assert!(json["provenance"]["version"].is_string());

    let mut names: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["report.html", "report.json", "report.md"]);
}

#[test]
fn a_report_of_another_version_or_without_its_headline_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let mut json = serde_json::to_value(report_of(10, "fine")).unwrap();
    json["headline"] = "charm".into();
    std::fs::write(&path, json.to_string()).unwrap();
    assert!(matches!(Report::read(&path).unwrap_err(), EvalError::UnknownMetric { .. }));
    json["schema"] = 99.into();
    std::fs::write(&path, json.to_string()).unwrap();
    assert!(matches!(Report::read(&path).unwrap_err(), EvalError::Version { found: 99, .. }));
    std::fs::write(&path, "[]").unwrap();
    assert!(matches!(Report::read(&path).unwrap_err(), EvalError::Format { .. }));
}

#[test]
fn a_script_in_any_text_is_text_in_the_page() {
    let html = report_of(12, SCRIPT).to_html();
    assert!(html.contains("&lt;script&gt;window.pwned=1&lt;/script&gt;"));
    assert_eq!(html.matches("<script").count(), 1, "the page's own script alone");
    assert!(!html.contains("<img"));
    assert!(html.contains("default-src 'none'"));
    for outside in ["src=\"http", "href=\"http", "url(", "@import"] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn characters_that_turn_text_round_are_shown_as_codes_everywhere() {
    let report = report_of(12, BIDI);
    let turns = |text: &str| text.contains(['\u{202e}', '\u{2066}']);
    for page in [report.to_html(), report.to_markdown(), report.to_terminal()] {
        assert!(!turns(&page));
    }
    assert!(report.to_html().contains("U+202E") && report.to_markdown().contains("U+202E"));
    // The file for programs keeps what was said.
    assert!(turns(&serde_json::to_string(&report).unwrap()));
}

#[test]
fn markdown_holds_no_markup_of_a_response_and_folds_toxic_text() {
    let text = report_of(12, &format!("{SCRIPT} ![x](http://e.example/p.png)\n\n# Heading |"))
        .to_markdown();
    // What follows stands in code blocks, where nothing is markup.
    let (text, _) = text.split_once("## Where the prompts came from").unwrap();
    assert!(!text.contains("<script") && !text.contains("<img"));
    assert!(
        !text.replace("\\]", "").contains("](")
            && !text.contains("http:")
            && !text.contains("\n# Heading")
    );
    assert!(text.contains("<details><summary>folded: toxicity 0.9"));
}

#[test]
fn toxic_texts_are_folded_whatever_the_headline() {
    let (before, after) = (side(12, "said before", 1.), side(12, "said after", 0.7));
    let options = CompareOptions {
        headline: Some("help".into()),
        prompt_toxicity: Some("prompt_toxicity".into()),
        ..CompareOptions::default()
    };
    let comparison = Comparison::of(&before, &after, &options).unwrap();
    let folds: Vec<[bool; 3]> = comparison
        .samples
        .iter()
        .map(|s| [&s.folds.prompt, &s.folds.before, &s.folds.after].map(Option::is_some))
        .collect();
    // Scores are 0, 1/12, .. 11/12 in the order of `at * 37 % 12`, which is `at`.
    for (at, fold) in folds.into_iter().enumerate() {
        let score = at as f64 / 12.;
        assert_eq!(fold, [at % 2 == 1, score >= 0.5, score * 0.7 >= 0.5], "{at}");
    }
    let report = Report::new("t", &before, &after, comparison, Details::default()).unwrap();
    // Prompts 1, 3, .. 11; responses 6 to 11 before and 9 to 11 after.
    assert_eq!(report.to_html().matches("<details class=\"fold\">").count(), 6 + 6 + 3);
}

#[test]
fn ten_thousand_long_and_hostile_responses_stay_under_5_megabytes() {
    let long = "<&\"'>\u{202e}".repeat(700);
    let html = report_of(10_000, &long).to_html();
    assert!(html.len() < 5_000_000, "{} bytes", html.len());
    assert!(html.contains("more characters in report.json"));
}

#[test]
fn a_report_is_the_same_each_time_it_is_written() {
    let report = report_of(500, "fine");
    assert_eq!(report.to_html(), report.to_html());
    assert_eq!(report.to_markdown(), report.to_markdown());
}

#[test]
fn constant_scores_and_zeros_leave_every_page_readable() {
    let constant = |value: f64| {
        let samples: Vec<Sample> = (0..3)
            .map(|at| Sample {
                record: PromptRecord::new(at.to_string(), "p"),
                response: String::new().into(),
            })
            .collect();
        let mut evaluation = Evaluation::new(About::new("p", Seed::new(1)), samples);
        let info = MetricInfo::new("zero", Better::Lower);
        let values = vec![Some(value); 3];
        evaluation.add(Column { info, values, reasons: Vec::new() }).unwrap();
        evaluation
    };
    for (before, after) in [(0., 0.), (0., 1.), (1e-12, 1e12)] {
        let (before, after) = (constant(before), constant(after));
        let comparison = Comparison::of(&before, &after, &CompareOptions::default()).unwrap();
        let report = Report::new("t", &before, &after, comparison, Details::default()).unwrap();
        let json = serde_json::to_string(&report).unwrap();
        let html = report.to_html();
        let (html, _) = html.split_once("<script>").unwrap();
        for page in [html, &report.to_markdown(), &report.to_terminal(), &json] {
            assert!(
                !page.contains("NaN") && !page.contains("inf\"") && !page.contains(" inf"),
                "{page}"
            );
        }
    }
}

#[test]
fn what_went_wrong_in_training_is_told_with_its_cause_and_the_setting_to_change() {
    let mut report = report_of(12, "fine");
    for page in [report.to_html(), report.to_markdown(), report.to_terminal()] {
        let page = page.replace("<code>", "`").replace("</code>", "`").replace("\\`", "`");
        for part in [
            "step 3, negative KL: `objective/kl` is -3.00",
            "sampled otherwise than trained",
            "op_k` unset",
        ] {
            assert!(page.replace("\\_", "_").contains(part), "{part} in {page}");
        }
    }
    assert!(report.to_html().contains("href=\"#training\""));
    report.details.findings = Some(Vec::new());
    for page in [report.to_html(), report.to_markdown(), report.to_terminal()] {
        assert!(page.contains("nothing of it was seen"), "{page}");
    }
    // Where nobody watched, nothing is claimed.
    report.details.findings = None;
    for page in [report.to_html(), report.to_markdown(), report.to_terminal()] {
        assert!(!page.contains("nothing of it was seen"), "{page}");
    }

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("findings.json");
    std::fs::write(&path, "[{\"step\": 1}]").unwrap();
    let error = read_findings(&path).unwrap_err().to_string();
    assert!(error.contains("findings.json") && error.contains("`advice`"), "{error}");
}

#[test]
fn runs_of_several_seeds_are_told_with_an_interval_over_runs() {
    // Toxicity falls by 0.3, 0.35 and 0.2 of its mean, (0 + 1/30 + .. + 29/30) / 30.
    let reports: Vec<(String, Report)> = [0.7, 0.65, 0.8]
        .iter()
        .enumerate()
        .map(|(seed, scale)| {
            let (before, after) = (side(30, "fine", 1.), side(30, "fine", *scale));
            let options = CompareOptions { resamples: 200, ..CompareOptions::default() };
            let comparison = Comparison::of(&before, &after, &options).unwrap();
            let mut details = Details::default();
            details.configuration.insert("seed".into(), seed.into());
            details.configuration.insert("same".into(), 1.into());
            let folder = format!("runs/seed-{seed} {SCRIPT}/model");
            details.configuration.insert("model".into(), folder.into());
            let report = Report::new("t", &before, &after, comparison, details).unwrap();
            (format!("seed-{seed} {SCRIPT}"), report)
        })
        .collect();
    let labelled: Vec<(String, &Report)> = reports.iter().map(|(l, r)| (l.clone(), r)).collect();
    let repeats = Repeats::of_reports(&labelled).unwrap();
    let metric = repeats.metric("toxicity").unwrap();
    let base = 14.5 / 30.;
    let near = |found: f64, expected: f64| {
        assert!((found - expected * base).abs() < 1e-9, "{found}, not {}", expected * base);
    };
    near(metric.before.mean, 1.);
    near(metric.after.mean, 0.716_666_666_666_666_7);
    near(metric.delta.mean, -0.283_333_333_333_333_3);
    near(metric.delta.std, 0.076_376_261_582_597_34);
    // t of two degrees of freedom is 4.302652729911275.
    near(metric.ci95.low, -0.283_333_333_333_333_3 - 0.189_729_151_686_973_2);
    assert_eq!((metric.verdict, metric.runs.len()), (Verdict::Better, 3));
    assert_eq!(repeats.metric("help").unwrap().verdict, Verdict::Worse);

    let folder = tempfile::tempdir().unwrap();
    repeats.write(folder.path()).unwrap();
    for file in ["runs.json", "runs.md", "runs.html"] {
        assert!(folder.path().join(file).is_file(), "{file}");
    }
    for page in [repeats.to_html(), repeats.to_markdown()] {
        assert!(!page.contains("<script>window") && !page.contains("<img"), "{page}");
    }
    let terminal = repeats.to_terminal();
    assert!(terminal.contains("seed-2") && terminal.contains("3 better, 0 worse"), "{terminal}");
    assert!(!terminal.contains("same"), "a setting that does not differ: {terminal}");
    assert!(!terminal.contains("runs/"), "a setting that only names the run: {terminal}");

    let error = Repeats::of_reports(&labelled[..1]).unwrap_err();
    assert!(matches!(error, EvalError::TooFew { needed: 2, found: 1, .. }), "{error}");
    let error = repeats.metric("charm").unwrap_err();
    assert!(error.to_string().contains("toxicity"), "{error}");
}

#[test]
fn what_got_worse_is_said_without_a_minus() {
    let headline = |before: f64, after: f64| {
        let (before, after) = (side(40, "fine", before), side(40, "fine", after));
        let comparison = Comparison::of(&before, &after, &CompareOptions::default()).unwrap();
        let report = Report::new("t", &before, &after, comparison, Details::default()).unwrap();
        report.to_terminal().replace('\u{a0}', " ")
    };
    let worse = headline(0.8, 1.);
    assert!(worse.contains("is worse") && worse.contains("a deterioration of 25.0 %"), "{worse}");
    let better = headline(1., 0.8);
    assert!(
        better.contains("is better") && better.contains("an improvement of 20.0 %"),
        "{better}"
    );
}

fn candidate(label: &str, role: Role, first: f64, second: f64) -> Candidate {
    let estimate = |mean| Estimate { mean, ci95: Some((mean - 0.01, mean + 0.01).into()) };
    let (first, second) = (estimate(first), estimate(second));
    Candidate { label: label.into(), role, first, second, settings: [].into() }
}

fn aims() -> (Aim, Aim) {
    let aim = |name: &str, better| Aim { name: name.into(), better };
    (aim("toxicity", Better::Lower), aim("help", Better::Higher))
}

#[test]
fn the_frontier_is_what_no_other_policy_beats() {
    let (first, second) = aims();
    let candidates = vec![
        candidate("base", Role::Baseline, 0.20, 0.50),
        candidate("harmless", Role::Tuned, 0.02, 0.30),
        candidate("balanced", Role::Tuned, 0.05, 0.55),
        candidate("same as balanced", Role::Tuned, 0.05, 0.55),
        candidate("worse", Role::Tuned, 0.06, 0.55),
        candidate("helpful", Role::Tuned, 0.15, 0.80),
    ];
    let found = TradeOff::new(first, second, candidates).unwrap();
    let frontier: Vec<&str> = (0..6)
        .filter(|at| found.standing(*at) == Standing::Frontier)
        .map(|at| found.candidates()[at].label.as_str())
        .collect();
    assert_eq!(frontier, ["harmless", "balanced", "same as balanced", "helpful"]);
}

#[test]
fn a_trade_off_takes_each_baseline_once_and_names_the_settings_that_differ() {
    let mut reports: Vec<(String, Report)> = Vec::new();
    for kl in [0.1, 0.2] {
        let mut report = report_of(30, "fine");
        report
            .details
            .configuration
            .insert("ppo".into(), serde_json::json!({"kl_coef": kl, "epochs": 4}));
        reports.push((format!("run {kl} {SCRIPT}"), report));
    }
    let reports: Vec<(String, &Report)> = reports.iter().map(|(l, r)| (l.clone(), r)).collect();
    let found = TradeOff::of_reports(&reports, "toxicity", "help").unwrap();
    assert_eq!(found.candidates().len(), 3);
    assert_eq!(
        found.candidates()[2].settings,
        [("ppo.kl_coef".to_owned(), "0.2".to_owned())].into()
    );
    let folder = tempfile::tempdir().unwrap();
    found.write(folder.path()).unwrap();
    for page in [found.to_html(), found.to_markdown(), found.to_svg()] {
        assert!(!page.contains("<script>window"), "{page}");
    }
    assert!(found.to_terminal().contains("ppo.kl_coef"));
    assert!(found.to_svg().starts_with("<svg xmlns") && found.to_svg().contains("<style>"));

    let error = TradeOff::of_reports(&reports, "toxicity", "charm").unwrap_err();
    assert!(matches!(error, EvalError::UnknownMetric { .. }), "{error}");
    let error = TradeOff::of_reports(&[], "toxicity", "help").unwrap_err();
    assert!(matches!(error, EvalError::TooFew { .. }), "{error}");
}

#[test]
fn aims_without_a_better_way_and_points_that_are_no_numbers_are_refused() {
    let (first, second) = aims();
    let neither = Aim { better: Better::Neither, ..first.clone() };
    let base = || vec![candidate("base", Role::Baseline, 0.2, 0.5)];
    assert!(matches!(TradeOff::new(neither, second.clone(), base()), Err(EvalError::Setting(_))));
    let broken = vec![candidate("x", Role::Tuned, f64::NAN, 0.5)];
    let error = TradeOff::new(first.clone(), second.clone(), broken).unwrap_err();
    assert!(matches!(&error, EvalError::NotFinite { id, .. } if id == "x"), "{error}");
    assert!(matches!(TradeOff::new(first, second, Vec::new()), Err(EvalError::TooFew { .. })));
}
