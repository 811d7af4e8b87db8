//! Studies: the order of items and responses, storage, labels and agreement.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    thread,
};

use rlaif_core::{Fault, Reply, Seed};
use rlaif_people::{
    AnnotatorRole, EditedResponse, ItemPurpose, LabelOptions, MergedAnswers, PeopleAnswer,
    PeopleChoice, PeopleDraft, PeopleError, PeopleLabels, Study, StudyAgreement, StudyForm,
    StudyItem, StudySettings, read_answers, read_items, write_answers,
};
use serde_json::json;
use tempfile::TempDir;

fn items(n: usize) -> Vec<StudyItem> {
    let item = |at| StudyItem::pair(format!("q{at}"), format!("Why {at}?"), "Because.", "No.");
    (0..n).map(item).collect()
}

fn study(settings: &StudySettings, items: &[StudyItem]) -> (TempDir, Study) {
    let folder = tempfile::tempdir().unwrap();
    let study = Study::create(&folder.path().join("people.sqlite"), settings).unwrap();
    study.add_items(items).unwrap();
    (folder, study)
}

fn shared() -> StudySettings {
    StudySettings { overlap: 1., known_every: 0, ..StudySettings::default() }
}

/// Answers every item that is left for `name`; the choice is of the item's own order.
fn answer_all(
    study: &Study,
    name: &str,
    role: AnnotatorRole,
    choose: impl Fn(&StudyItem) -> PeopleChoice,
) -> Vec<String> {
    let who = study.add_annotator(name, role).unwrap();
    let mut seen = Vec::new();
    while let Some(shown) = study.next(&who).unwrap() {
        let own = PeopleAnswer { seconds: 2.5, ..PeopleAnswer::new(choose(&shown.item)) };
        let answer = own.in_shown_order(&shown.order);
        assert!(
            study.answer(&who, shown.number, &format!("key {}", shown.number), answer).unwrap()
        );
        seen.push(shown.item.id);
    }
    seen
}

#[test]
fn shared_items_are_for_all_and_the_others_for_one() {
    let settings = StudySettings { overlap: 0.3, ..shared() };
    let (_folder, study) = study(&settings, &items(200));
    let first = |_: &StudyItem| PeopleChoice::First;
    // Ann has seen an item and not answered it: it stays hers.
    let ann = study.add_annotator("ann", AnnotatorRole::Annotator).unwrap();
    let claimed = study.next(&ann).unwrap().unwrap();
    assert_eq!(study.next(&ann).unwrap().unwrap(), claimed, "a reload shows the same item");
    let bob = answer_all(&study, "bob", AnnotatorRole::Annotator, first);
    let ann = answer_all(&study, "ann", AnnotatorRole::Annotator, first);
    let both = ann.iter().filter(|id| bob.contains(id)).count();
    assert_eq!(ann.len() + bob.len() - both, 200, "each item has an answer");
    assert!((40..80).contains(&both), "{both} of 200 are shared, 30 % were asked for");
    let progress = study.progress(&study.annotators().unwrap()[0]).unwrap();
    assert_eq!((progress.done, progress.left), (ann.len() as i64, 0));
}

#[test]
fn the_order_is_blind_stored_and_undone_by_the_store() {
    let (_folder, study) = study(&shared(), &items(100));
    answer_all(&study, "ann", AnnotatorRole::Annotator, |_| PeopleChoice::Second);
    answer_all(&study, "bob", AnnotatorRole::Annotator, |_| PeopleChoice::Second);
    let contents = study.contents().unwrap();
    assert!(contents.answers.iter().all(|stored| stored.answer.choice == PeopleChoice::Second));
    let swapped = contents.answers.iter().filter(|stored| stored.order == [1, 0]).count();
    assert!((75..125).contains(&swapped), "{swapped} of 200 were shown in the other order");
    let of = |annotator| {
        let own = contents.answers.iter().filter(move |stored| stored.annotator == annotator);
        own.map(|stored| stored.order.clone()).collect::<Vec<_>>()
    };
    assert_ne!(of(1), of(2), "each annotator has an order of their own");
    for summary in StudyAgreement::of(&contents).annotators {
        assert!((0.3..0.7).contains(&summary.first_shown.unwrap()));
        assert_eq!(summary.median_seconds, Some(2.5));
    }
}

#[test]
fn known_items_are_mixed_in_and_measure_annotators() {
    let mut all = items(100);
    for item in &mut all[..10] {
        item.known = Some(PeopleChoice::First);
    }
    let settings = StudySettings { overlap: 1., known_every: 10, ..StudySettings::default() };
    let (_folder, study) = study(&settings, &all);
    let seen = answer_all(&study, "ann", AnnotatorRole::Annotator, |_| PeopleChoice::First);
    let places: Vec<usize> =
        (0..seen.len()).filter(|&at| seen[at][1..].parse::<usize>().unwrap() < 10).collect();
    assert_eq!((seen.len(), places.len()), (100, 10));
    assert!(places[4] > 10 && places[0] < 40, "they are spread: {places:?}");
    answer_all(&study, "bob", AnnotatorRole::Annotator, |_| PeopleChoice::Second);
    let contents = study.contents().unwrap();
    let agreement = StudyAgreement::of(&contents);
    let right: Vec<_> =
        agreement.annotators.iter().map(|who| (who.known, who.known_right)).collect();
    assert_eq!(right, [(10, 10), (10, 0)]);
    let options = LabelOptions { least_known: Some(0.7), ..LabelOptions::default() };
    let labels = PeopleLabels::of(&contents, &options);
    assert_eq!(
        (labels.left_out.as_slice(), labels.labels.len()),
        (["bob".to_owned()].as_slice(), 90)
    );
    assert!(labels.labels.iter().all(|label| label.probability == 1. && label.votes == 1));
    let all = PeopleLabels::of(&contents, &LabelOptions::default());
    assert_eq!(all.labels.len(), 0, "one vote each");
    assert_eq!(all.dropped.iter().filter(|(_, why)| *why == "a tie").count(), 90);
}

#[test]
fn an_answer_is_stored_once_and_undone_to_a_draft() {
    let (_folder, study) = study(&shared(), &items(2));
    let ann = study.add_annotator("ann", AnnotatorRole::Annotator).unwrap();
    let shown = study.next(&ann).unwrap().unwrap();
    let note = |text: &str| PeopleDraft { note: text.to_owned(), ..PeopleDraft::default() };
    study.save_draft(&ann, shown.number, &note("half")).unwrap();
    assert_eq!(study.next(&ann).unwrap().unwrap().draft, Some(note("half")));
    let answer = PeopleAnswer {
        note: "clear".to_owned(),
        strength: Some(-2),
        edited: Some(EditedResponse { response: 1, text: "Because of it.".to_owned() }),
        ..PeopleAnswer::new(PeopleChoice::First)
    };
    assert!(study.answer(&ann, shown.number, "a", answer.clone()).unwrap());
    assert!(!study.answer(&ann, shown.number, "a", answer.clone()).unwrap(), "sent again");
    let again = study.answer(&ann, shown.number, "b", answer.clone()).unwrap_err();
    assert!(matches!(again, PeopleError::Answered { .. }) && again.is_users(), "{again}");
    // A draft that was on its way does not come back.
    study.save_draft(&ann, shown.number, &note("late")).unwrap();
    assert_eq!(study.contents().unwrap().answers.len(), 1);
    let undone = study.undo(&ann, "undo a").unwrap().unwrap();
    assert_eq!(undone.number, shown.number);
    let draft = Some(PeopleDraft::from(answer.clone()));
    assert_eq!(undone.draft, draft, "as it was given, in the order shown");
    assert_eq!(study.contents().unwrap().answers.len(), 0);
    assert!(study.answer(&ann, shown.number, "c", answer).unwrap());
    // The same request again takes nothing more back.
    let undo = |key: &str| study.undo(&ann, key).unwrap().map(|shown| shown.number);
    assert_eq!(undo("undo a"), Some(shown.number));
    assert_eq!(study.contents().unwrap().answers.len(), 1);
    assert_eq!((undo("undo c"), undo("undo c")), (Some(shown.number), Some(shown.number)));
    assert_eq!(undo("undo d"), None);
    assert!(study.undo(&ann, "").unwrap_err().to_string().contains("`key` is 0 bytes long"));
    study
        .import_answers(
            &ann,
            &[(
                "q1".to_owned(),
                PeopleAnswer {
                    edited: Some(EditedResponse { response: 0, text: "Better.".to_owned() }),
                    ..PeopleAnswer::new(PeopleChoice::Tie)
                },
            )],
        )
        .unwrap();
    let beside = study.contents().unwrap().beside_preferences().unwrap();
    assert_eq!(beside, "not in preferences: edited responses: 1 (format `demonstrations`)");
    study.undo(&ann, "undo e").unwrap();
    assert_eq!(study.contents().unwrap().beside_preferences(), None);
    for (field, answer) in [
        ("facets", json!({"choice": "first", "facets": {"other": "first"}})),
        ("reasons", json!({"choice": "first", "reasons": ["other"]})),
    ] {
        let answer = serde_json::from_value(answer).unwrap();
        let refused = study.answer(&ann, shown.number, field, answer).unwrap_err();
        assert!(refused.to_string().contains(&format!("`{field}` is `other`")), "{refused}");
    }
    let bob = study.add_annotator("bob", AnnotatorRole::Annotator).unwrap();
    let stolen = study.answer(&bob, shown.number, "e", PeopleAnswer::new(PeopleChoice::Tie));
    assert!(matches!(stolen, Err(PeopleError::NotGiven { number }) if number == shown.number));
    let stolen = study.save_draft(&bob, shown.number, &note("mine")).unwrap_err();
    assert!(stolen.is_users() && stolen.to_string().contains("was not given"), "{stolen}");
    let odd = |draft: serde_json::Value| {
        let draft: PeopleDraft = serde_json::from_value(draft).unwrap();
        study.save_draft(&ann, shown.number, &draft).unwrap_err().to_string()
    };
    for (field, draft) in [
        ("strength", json!({"strength": 9})),
        ("seconds", json!({"seconds": 1e300})),
        ("seconds", json!({"seconds": -1})),
        ("facets", json!({"facets": {"other": "first"}})),
        ("facets", json!({"facets": {"honest": "skip"}})),
        ("reasons", json!({"reasons": ["other"]})),
        ("note", json!({"note": "x".repeat(200_001)})),
        ("edited.response", json!({"edited": {"response": 2, "text": "x"}})),
        ("ranking", json!({"ranking": [0]})),
    ] {
        let refused = odd(draft);
        assert!(refused.starts_with(&format!("the answer's `{field}` is ")), "{refused}");
    }
    for name in ["", "two\nlines", "tab\t", "\u{202e}turned"] {
        assert!(study.add_annotator(name, AnnotatorRole::Annotator).is_err(), "{name}");
    }
    let missing = study.answer(&ann, 99, "d", PeopleAnswer::new(PeopleChoice::Tie)).unwrap_err();
    assert!(matches!(missing, PeopleError::NoItem { .. }), "{missing}");
}

#[test]
fn processes_and_threads_share_a_study() {
    let (folder, study) = study(&shared(), &items(20));
    let path = folder.path().join("people.sqlite");
    thread::scope(|scope| {
        for name in ["ann", "bob", "cy"] {
            let path = &path;
            scope.spawn(move || {
                let own = Study::open(path).unwrap();
                answer_all(&own, name, AnnotatorRole::Annotator, |_| PeopleChoice::First)
            });
        }
    });
    let contents = study.contents().unwrap();
    let distinct: BTreeSet<_> = contents.answers.iter().map(|a| (a.annotator, a.item)).collect();
    assert_eq!((contents.answers.len(), distinct.len()), (60, 60));
    let tokens: BTreeSet<_> = contents.annotators.iter().map(|who| who.token.clone()).collect();
    assert_eq!(tokens.len(), 3);
    for who in contents.annotators {
        let token = who.token.clone().unwrap();
        assert_eq!((token.len(), study.annotator_of_token(&token).unwrap()), (32, who));
    }
    assert!(matches!(study.annotator_of_token("guess"), Err(PeopleError::NoAnnotator { .. })));
}

#[test]
fn a_referee_decides_what_people_disagree_on() {
    let (_folder, study) = study(&shared(), &items(10));
    answer_all(&study, "ann", AnnotatorRole::Annotator, |_| PeopleChoice::First);
    let odd = |item: &StudyItem| match item.id.as_str() {
        "q3" | "q7" => PeopleChoice::Second,
        _ => PeopleChoice::First,
    };
    answer_all(&study, "bob", AnnotatorRole::Annotator, odd);
    assert_eq!(StudyAgreement::of(&study.contents().unwrap()).conflicts, 2);
    let referee = study.add_annotator("ref", AnnotatorRole::Referee).unwrap();
    let shown = study.next(&referee).unwrap().unwrap();
    let others = study.others(&shown).unwrap();
    assert_ne!(others[0].choice, others[1].choice);
    let seen = answer_all(&study, "ref", AnnotatorRole::Referee, |_| PeopleChoice::Second);
    assert_eq!(seen, ["q3", "q7"]);
    let contents = study.contents().unwrap();
    let agreement = StudyAgreement::of(&contents);
    assert_eq!((agreement.conflicts, agreement.choice.raw), (0, Some(0.8)));
    let labels = PeopleLabels::of(&contents, &LabelOptions::default());
    let decided: BTreeMap<_, _> = labels
        .labels
        .iter()
        .map(|label| {
            (label.id.as_str(), (serde_json::to_value(&label.chosen).unwrap(), label.votes))
        })
        .collect();
    assert_eq!(decided["q3"], (json!("No."), 1));
    assert_eq!(decided["q4"], (json!("Because."), 2));
}

/// The page, the referee's items and the agreement count the same conflicts, those of rankings included.
#[test]
fn conflicts_have_one_definition() {
    let mut all = items(4);
    all[1].responses.push(Reply::new("Perhaps."));
    all[2].responses.push(Reply::new("Perhaps."));
    let (_folder, study) = study(&shared(), &all);
    let [ann, bob] =
        ["ann", "bob"].map(|name| study.add_annotator(name, AnnotatorRole::Annotator).unwrap());
    let [ref_one, ref_two] = ["ref one", "ref two"]
        .map(|name| study.add_annotator(name, AnnotatorRole::Referee).unwrap());
    let choice = PeopleAnswer::new;
    let ranked = |ranking: [usize; 3]| PeopleAnswer {
        ranking: ranking.to_vec(),
        ..choice(PeopleChoice::Ranked)
    };
    let give = |who: &rlaif_people::Annotator, answers: Vec<PeopleAnswer>| {
        let named = answers.into_iter().enumerate();
        let named: Vec<_> = named.map(|(at, answer)| (format!("q{at}"), answer)).collect();
        study.import_answers(who, &named).unwrap();
    };
    use PeopleChoice::{BothBad, First, Second, Skip};
    give(&ann, vec![choice(First), ranked([0, 1, 2]), ranked([0, 1, 2]), choice(Second)]);
    // Of one pair, two rankings, two equal rankings, and an item that one of them skipped.
    give(&bob, vec![choice(Second), ranked([0, 2, 1]), ranked([0, 1, 2]), choice(Skip)]);
    let counts = || {
        let contents = study.contents().unwrap();
        let left = [&ref_one, &ref_two].map(|who| study.progress(who).unwrap().left);
        (StudyAgreement::of(&contents).conflicts, left)
    };
    assert_eq!(counts(), (2, [2, 2]));
    assert_eq!(study.contents().unwrap().conflicts, BTreeSet::from([1, 2]));
    // A referee who skips an item does not decide it.
    assert_eq!(study.next(&ref_one).unwrap().unwrap().item.id, "q0");
    give(&ref_one, vec![choice(Skip)]);
    assert_eq!(counts(), (2, [1, 2]));
    assert_eq!(study.next(&ref_one).unwrap().unwrap().item.id, "q1");
    // A conflict that one referee has decided is not one for the other.
    give(&ref_two, vec![choice(BothBad)]);
    assert_eq!(counts(), (1, [1, 1]));
    study.import_answers(&ref_one, &[("q1".to_owned(), ranked([2, 1, 0]))]).unwrap();
    assert_eq!(counts(), (0, [0, 0]));
    assert!(study.next(&ref_two).unwrap().is_none());
    let labels = PeopleLabels::of(&study.contents().unwrap(), &LabelOptions::default());
    let of = |id: &str| labels.labels.iter().find(|label| label.id == id).map(|label| label.votes);
    assert_eq!((of("q0"), of("q1/0-1"), of("q2/0-1")), (None, Some(1), Some(2)));
}

/// Krippendorff's and Fleiss' numbers are tested against other programs in rlaif-eval; here the counts are.
#[test]
fn agreement_counts_people_and_a_judge_is_one_more() {
    let (_folder, study) = study(&shared(), &items(4));
    let of = |choices: [PeopleChoice; 4]| {
        move |item: &StudyItem| choices[item.id[1..].parse::<usize>().unwrap()]
    };
    use PeopleChoice::{BothBad, First, Second, Skip, Tie};
    answer_all(&study, "ann", AnnotatorRole::Annotator, of([First, Second, Tie, Skip]));
    answer_all(&study, "bob", AnnotatorRole::Annotator, of([First, First, Tie, First]));
    answer_all(&study, "cy", AnnotatorRole::Annotator, of([First, Second, BothBad, First]));
    let judge = study.add_annotator("gpt", AnnotatorRole::Judge).unwrap();
    let answers: Vec<_> = (0..4).map(|at| (format!("q{at}"), PeopleAnswer::new(First))).collect();
    study.import_answers(&judge, &answers).unwrap();
    let found = StudyAgreement::of(&study.contents().unwrap());
    // Pairs of equal answers: 3, 1, 1 and 1 of 3, 3, 3 and 1.
    assert_eq!(found.choice.raw, Some(6. / 10.));
    assert_eq!((found.choice.items, found.choice.answers, found.choice.fleiss_items), (4, 11, 3));
    let gpt = found.annotators.iter().find(|who| who.name == "gpt").unwrap();
    // The majorities are First, Second, Tie and First; there is none on q2 without cy.
    assert_eq!((gpt.with_majority, gpt.first_shown), (Some(0.5), None));
    let pair = found.pairs.iter().find(|pair| pair.one == "bob" && pair.other == "gpt").unwrap();
    assert_eq!((pair.items, pair.raw), (4, 0.75));
    assert_eq!(found.annotators[0].skipped, 1);
}

#[test]
fn strengths_of_models_and_of_groups_that_never_met() {
    let maker = |name: &str, text: &str| Reply::new(text).by(Some(name.to_owned()));
    let mut all = Vec::new();
    for (at, (one, other)) in
        [("a", "b"), ("a", "b"), ("a", "b"), ("a", "b"), ("c", "d")].into_iter().enumerate()
    {
        let mut item = StudyItem::pair(at.to_string(), "Why?", "", "");
        item.responses = vec![maker(one, "x"), maker(other, "y")];
        all.push(item);
    }
    let (_folder, study) = study(&shared(), &all);
    let choice = |item: &StudyItem| {
        if item.id == "0" { PeopleChoice::Second } else { PeopleChoice::First }
    };
    answer_all(&study, "ann", AnnotatorRole::Annotator, choice);
    let makers = StudyAgreement::of(&study.contents().unwrap()).makers.unwrap();
    assert_eq!(makers.groups, [["a", "b"], ["c", "d"]]);
    assert!(makers.prior_because.unwrap().contains("never compared"));
    assert!(makers.makers.iter().all(|maker| maker.strength.theta.is_finite()));
}

#[test]
fn forms_of_other_tools_are_written_and_read_back() {
    let mut all = items(5);
    all[4].responses.push(Reply::new("Perhaps."));
    let (folder, study) = study(&shared(), &all);
    let ann = study.add_annotator("ann", AnnotatorRole::Annotator).unwrap();
    let bob = study.add_annotator("bob", AnnotatorRole::Annotator).unwrap();
    let plain = PeopleAnswer::new;
    let answers = [
        PeopleAnswer {
            strength: Some(-3),
            note: "a \"note\"\n</script>".to_owned(),
            ..plain(PeopleChoice::First)
        },
        plain(PeopleChoice::Tie),
        plain(PeopleChoice::BothBad),
        plain(PeopleChoice::Skip),
        PeopleAnswer { ranking: vec![2, 0, 1], ..plain(PeopleChoice::Ranked) },
    ];
    for (at, answer) in answers.iter().enumerate() {
        study.import_answers(&ann, &[(format!("q{at}"), answer.clone())]).unwrap();
    }
    study.import_answers(&bob, &[("q0".to_owned(), plain(PeopleChoice::Second))]).unwrap();
    let contents = study.contents().unwrap();
    for form in
        [StudyForm::Answers, StudyForm::LabelStudio, StudyForm::Argilla, StudyForm::GroundTruth]
    {
        let path = folder.path().join("export");
        std::fs::write(&path, write_answers(&contents, form).text).unwrap();
        let read = read_answers(&path).unwrap();
        let texts = |items: &[StudyItem]| -> Vec<_> {
            items.iter().map(|i| (i.id.clone(), i.prompt.clone(), i.responses.clone())).collect()
        };
        assert_eq!(texts(&read.items), texts(&all), "{form:?}");
        let of = |name: &str| -> BTreeMap<String, PeopleAnswer> {
            let own = read.answers.iter().filter(|answer| answer.annotator == name);
            own.map(|answer| (answer.item.clone(), answer.answer.clone())).collect()
        };
        for (at, answer) in answers.iter().enumerate() {
            assert_eq!(of("ann")[&format!("q{at}")], *answer, "{form:?}");
        }
        assert_eq!(of("bob")["q0"], plain(PeopleChoice::Second), "{form:?}");
    }
}

#[test]
fn items_come_from_candidates_pairs_and_odd_rows_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let candidates = write(
        "candidates.jsonl",
        concat!(
            "{\"id\": 7, \"prompt\": \"Why?\", \"responses\": [\"a\", {\"text\": \"b\", \"maker\": \"m\"}, \"a\"], ",
            "\"toxicity\": 0.9}\n",
            "{\"prompt\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"responses\": [\"c\", \"d\"], \"known\": \"tie\"}\n"
        ),
    );
    let read = read_items(&candidates, ItemPurpose::Answer).unwrap().items;
    assert_eq!((read[0].id.as_str(), read[0].responses.len(), read[0].toxic), ("7", 2, true));
    assert_eq!(read[0].responses[1].maker.as_deref(), Some("m"));
    assert_eq!(
        (read[1].known, read[1].prompt.readable().contains("Hi")),
        (Some(PeopleChoice::Tie), true)
    );
    let pairs =
        write("pairs.jsonl", "{\"prompt\": \"p\", \"chosen\": \"good\", \"rejected\": \"bad\"}\n");
    let read = read_items(&pairs, ItemPurpose::Measure).unwrap().items;
    assert_eq!(
        (read[0].known, read[0].responses[0].text.as_str()),
        (Some(PeopleChoice::First), "good")
    );
    let one = write("one.jsonl", "{\"prompt\": \"p\", \"responses\": [\"same\", \"same\"]}\n");
    let error = read_items(&one, ItemPurpose::Answer).unwrap_err();
    assert!(error.to_string().contains("row 1: equal responses, as in all rows"), "{error}");
    let other = "{\"prompt\": \"p\", \"responses\": [\"one\", \"other\"]}\n";
    let same = "{\"prompt\": \"p\", \"responses\": [\"same\", \"same\"]}\n";
    let some = write("some.jsonl", &[same, other, same].concat());
    let read = read_items(&some, ItemPurpose::Answer).unwrap();
    assert_eq!((read.items.len(), read.equal_responses, read.items[0].id.as_str()), (1, 2, "2"));
    let single = write("single.jsonl", "{\"prompt\": \"p\", \"responses\": [\"one\"]}\n");
    let error = read_items(&single, ItemPurpose::Answer).unwrap_err();
    assert!(error.to_string().contains("row 1: 1 responses; give two"), "{error}");
    let error = read_answers(&candidates).unwrap_err();
    assert!(error.to_string().contains("row 1: the columns id, prompt"), "{error}");
    assert!(error.is_users());
}

#[test]
fn a_new_study_whose_items_are_refused_is_not_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("people.sqlite");
    let twice = [StudyItem::pair("1", "p", "a", "b"), StudyItem::pair("1", "p", "a", "c")];
    let error = Study::create_with(&path, &StudySettings::default(), &twice).unwrap_err();
    assert!(matches!(error, PeopleError::OtherItem { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
    let (study, counts) =
        Study::create_with(&path, &StudySettings::default(), &twice[..1]).unwrap();
    assert_eq!((counts.added, study.count_items().unwrap()), (1, 1));
    drop(study);
    Study::create_with(&path, &StudySettings::default(), &twice).unwrap_err();
    assert_eq!(Study::open(&path).unwrap().count_items().unwrap(), 1, "one that exists stays");
}

/// A judge's labels name the same texts with the preferred one first, by other ids.
#[test]
fn labels_of_a_judge_find_their_items_by_their_texts() {
    let (folder, study) = study(&shared(), &items(3));
    let labels = concat!(
        "{\"id\": \"x\", \"prompt\": \"Why 1?\", \"chosen\": \"No.\", \"rejected\": \"Because.\", ",
        "\"probability\": 0.8, \"facets\": {\"helpful\": 0.3}, \"labeller\": \"gpt\", ",
        "\"verdicts\": {\"helpful\": {\"chosen_first\": 0.75, \"chosen_second\": 0.25}}}\n",
        "{\"id\": \"y\", \"prompt\": \"Why 2?\", \"chosen\": \"Because.\", \"rejected\": \"No.\", ",
        "\"probability\": 0.5, \"labeller\": \"gpt\", ",
        "\"verdicts\": {\"helpful\": {\"chosen_first\": 0.9, \"chosen_second\": 0.6}}}\n",
        "{\"id\": \"z\", \"prompt\": \"Unknown\", \"chosen\": \"a\", \"rejected\": \"b\", \"labeller\": \"gpt\"}\n",
    );
    let path = folder.path().join("labels.jsonl");
    std::fs::write(&path, labels).unwrap();
    let merged = study.merge(&read_answers(&path).unwrap(), None, None).unwrap();
    assert_eq!(merged, MergedAnswers { items: 0, answers: 2, unmatched: 1 });
    let contents = study.contents().unwrap();
    assert_eq!(contents.annotators[0].role, AnnotatorRole::Judge);
    let [one, two] = contents.answers.as_slice() else { panic!("{contents:?}") };
    assert_eq!((one.item, one.answer.choice), (2, PeopleChoice::Second));
    assert_eq!(one.answer.facets["helpful"], PeopleChoice::First);
    assert_eq!((two.item, two.answer.choice), (3, PeopleChoice::Tie));
    let judges = StudyAgreement::of(&contents).judges;
    let habits = &judges[0].facets["helpful"];
    // One of two pairs flips. Of four verdicts, those for the response shown first: 0.75, 1 - 0.25, 0.9.
    let (flip, first) = (habits.position_flip.unwrap(), habits.first_wins.unwrap());
    assert_eq!((judges[0].name.as_str(), flip.share, flip.n), ("gpt", 0.5, 2));
    assert_eq!((first.share, first.n), (0.75, 4));
    assert!(flip.ci95.low > 0. && flip.ci95.high < 1., "{flip:?}");
    // Everything is in an export, and comes back.
    let export = folder.path().join("answers.jsonl");
    std::fs::write(&export, write_answers(&contents, StudyForm::Answers).text).unwrap();
    let again = Study::create(&folder.path().join("again.sqlite"), &shared()).unwrap();
    again.add_items(&items(3)).unwrap();
    again.merge(&read_answers(&export).unwrap(), None, None).unwrap();
    assert_eq!(StudyAgreement::of(&again.contents().unwrap()).judges, judges);
    // A person sees one order.
    let bob = study.add_annotator("bob", AnnotatorRole::Annotator).unwrap();
    let forged = study.answer(&bob, 1, "k", one.answer.clone()).unwrap_err();
    assert!(forged.to_string().contains("`verdicts` is given for `helpful`"), "{forged}");
    // As a person's, the third is a new item; the same file again changes only that.
    let read = read_answers(&path).unwrap();
    let merged = study.merge(&read, Some("ann"), Some(AnnotatorRole::Annotator)).unwrap();
    assert_eq!(merged, MergedAnswers { items: 1, answers: 3, unmatched: 0 });
    study.merge(&read, Some("ann"), Some(AnnotatorRole::Annotator)).unwrap();
    assert_eq!(study.contents().unwrap().answers.len(), 5);
}

#[test]
fn files_that_are_no_studies_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let missing = Study::open(&path("missing.sqlite")).unwrap_err();
    assert!(matches!(missing, PeopleError::Missing { .. }) && missing.is_users());
    assert!(!path("missing.sqlite").exists());
    std::fs::write(path("text"), "this is text, long enough to be no database header at all")
        .unwrap();
    for name in ["text", "other"] {
        if name == "other" {
            let study = Study::create(&path("other"), &shared()).unwrap();
            drop(study);
            change_layout(&path("other"));
        }
        let error = Study::create(&path(name), &shared()).unwrap_err();
        assert!(matches!(error, PeopleError::Foreign { .. }), "{error}");
    }
    let settings = StudySettings { overlap: 1.5, ..shared() };
    let error = Study::create(&path("new"), &settings).unwrap_err();
    assert!(error.to_string().contains("`overlap` is 1.5"), "{error}");
    for (names, found) in [(vec!["a", "a"], "`a` twice"), (vec![""], "``")] {
        let facets = names.into_iter().map(str::to_owned).collect();
        let error = Study::create(&path("new"), &StudySettings { facets, ..shared() }).unwrap_err();
        assert!(error.to_string().contains(&format!("`facets` is {found}")), "{error}");
    }
    assert!(!path("new").exists());
    let (_folder, study) = study(&shared(), &items(1));
    let other = [StudyItem::pair("q0", "Why 0?", "Because.", "Another.")];
    assert!(matches!(study.add_items(&other), Err(PeopleError::OtherItem { .. })));
    assert_eq!(study.add_items(&items(2)).unwrap().added, 1);
}

/// SQLite's log stays at the old name, so that answers would be lost to those who open the new one.
#[cfg(unix)]
#[test]
fn a_study_that_was_moved_takes_no_answers_until_it_is_back() {
    let (folder, study) = study(&shared(), &items(3));
    let path = |name: &str| folder.path().join(name);
    let ann = study.add_annotator("ann", AnnotatorRole::Annotator).unwrap();
    let answer = |key: &str| {
        let shown = study.next(&ann)?.unwrap();
        study.answer(&ann, shown.number, key, PeopleAnswer::new(PeopleChoice::First))
    };
    assert!(answer("a").unwrap());
    std::fs::rename(path("people.sqlite"), path("other.sqlite")).unwrap();
    let refused = answer("b").unwrap_err();
    assert!(matches!(refused, PeopleError::Moved { .. }) && refused.is_users(), "{refused}");
    // Another file in its place is not the study.
    std::fs::write(path("people.sqlite"), "").unwrap();
    assert!(matches!(answer("b"), Err(PeopleError::Moved { .. })));
    std::fs::rename(path("other.sqlite"), path("people.sqlite")).unwrap();
    assert!(answer("b").unwrap());
    assert_eq!(study.contents().unwrap().answers.len(), 2);
}

/// A later layout, as a later version would write it: the big-endian number at byte 60 of SQLite's header.
fn change_layout(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[60..64].copy_from_slice(&9u32.to_be_bytes());
    std::fs::write(path, bytes).unwrap();
}

#[cfg(unix)]
#[test]
fn the_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, _study) = study(&shared(), &items(1));
    let mode = std::fs::metadata(folder.path().join("people.sqlite")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// The order is a contract: a study that a later version opens shows its items as before.
#[test]
fn orders_stay_over_versions() {
    let item = StudyItem::pair("q1", "Why?", "a", "b");
    let orders: Vec<usize> = (1..=12).map(|who| item.order(Seed::new(7), who)[0]).collect();
    assert_eq!(orders, [0, 1, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0]);
}
