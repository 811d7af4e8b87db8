//! Items from reports of evaluations.

use std::path::Path;

use rlaif_core::{PromptRecord, Sample, Seed};
use rlaif_eval::{
    About, Better, Column, CompareOptions, Comparison, Details, Evaluation, MetricInfo, Report,
};
use rlaif_people::{PeopleError, StudyItem, read_evaluations};

/// The responses of a policy to six prompts. Response 5 is the same for all policies.
fn side(policy: &str, corpus: &str) -> Evaluation {
    let sample = |at: usize| {
        let record = PromptRecord::new(format!("p{at}"), format!("{corpus} {at}"));
        let by = if at == 5 { "everybody" } else { policy };
        Sample { record, response: format!("response {at} of {by}").into() }
    };
    let samples = (0..6).map(sample).collect();
    let mut evaluation = Evaluation::new(About::new(policy, Seed::new(1)), samples);
    let mut info = MetricInfo::new("toxicity", Better::Lower);
    info.threshold = Some(0.5);
    // Responses 4 and 5 are toxic.
    let values = (0..6).map(|at| Some(at as f64 / 7.)).collect();
    evaluation.add(Column { info, values, reasons: Vec::new() }).unwrap();
    evaluation
}

fn report(folder: &Path, policies: [&str; 2], corpus: &str) {
    let [before, after] = policies.map(|policy| side(policy, corpus));
    let options = CompareOptions { resamples: 100, ..CompareOptions::default() };
    let comparison = Comparison::of(&before, &after, &options).unwrap();
    let report = Report::new("t", &before, &after, comparison, Details::default()).unwrap();
    std::fs::create_dir_all(folder).unwrap();
    report.write(folder).unwrap();
}

/// Texts and makers of an item's responses.
fn said(item: &StudyItem) -> Vec<(&str, Option<&str>)> {
    item.responses.iter().map(|reply| (reply.text.as_str(), reply.maker.as_deref())).collect()
}

#[test]
fn responses_before_and_after_and_of_two_tuned_policies_are_items() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    report(&path("ppo"), ["base", "ppo"], "Prompt");
    report(&path("dpo"), ["base", "dpo"], "Prompt");
    report(&path("other"), ["base", "other"], "Other prompt");
    let items = read_evaluations(&path("ppo"), None).unwrap();
    assert_eq!(items.len(), 5, "the prompt with equal responses is left out");
    let item = items.iter().find(|item| item.id == "p2").unwrap();
    assert_eq!(item.prompt.readable(), "Prompt 2");
    let expected = [("response 2 of base", Some("base")), ("response 2 of ppo", Some("ppo"))];
    assert_eq!(said(item), expected);
    let folded: Vec<&str> =
        items.iter().filter(|item| item.toxic).map(|item| item.id.as_str()).collect();
    assert_eq!(folded, ["p4"]);
    let items = read_evaluations(&path("ppo"), Some(&path("dpo"))).unwrap();
    assert_eq!(items.len(), 5);
    let item = items.iter().find(|item| item.id == "p0").unwrap();
    let expected = [("response 0 of ppo", Some("ppo")), ("response 0 of dpo", Some("dpo"))];
    assert_eq!(said(item), expected);
    let again = read_evaluations(&path("ppo"), Some(&path("ppo")));
    assert!(matches!(again, Err(PeopleError::Row { .. })), "equal responses compare nothing");
    let error = read_evaluations(&path("ppo"), Some(&path("other"))).unwrap_err();
    assert!(error.to_string().contains("evaluate both on the same prompts"), "{error}");
    assert!(matches!(read_evaluations(&path("none"), None), Err(PeopleError::Eval(_))));
}
