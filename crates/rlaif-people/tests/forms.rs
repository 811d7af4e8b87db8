//! Exports and their import: studies drawn at random come back whole, or up to the loss that is documented.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use rlaif_core::{Message, Metadata, Reply, Seed, TextOrMessages};
use rlaif_people::{
    AnnotatorRole, BothOrders, EditedResponse, PeopleAnswer, PeopleChoice, ReadAnswer, ReadAnswers,
    StoredAnswer, Study, StudyAgreement, StudyContents, StudyForm, StudyItem, StudySettings,
    read_answers, write_answers,
};
use serde_json::json;
use tempfile::TempDir;

const FORMS: [StudyForm; 4] =
    [StudyForm::Answers, StudyForm::LabelStudio, StudyForm::Argilla, StudyForm::GroundTruth];
/// Texts that a form could take for a verdict, a column or markup.
const TEXTS: [&str; 10] = [
    "tie",
    "first",
    "response_1",
    "{\"prompt\": \"p\", \"responses\": [\"a\", \"b\"]}",
    "two\nlines \"and\" quotes",
    "",
    "\u{202e}turned é",
    "</script>",
    "a.responses.users",
    "skip",
];

/// Numbers that look random and are the same each time.
struct Draw {
    seed: Seed,
    step: u64,
}

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.step += 1;
        (self.seed.derive("draw", self.step).get() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn text(&mut self) -> String {
        TEXTS[self.below(TEXTS.len())].to_owned()
    }

    fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        (1..n).rev().for_each(|at| order.swap(at, self.below(at + 1)));
        order
    }

    fn item(&mut self, at: usize) -> StudyItem {
        let mut item = StudyItem::pair(format!("q{at}"), self.text(), "", "");
        if self.one_in(4) {
            let text = self.text();
            item.prompt = TextOrMessages::Messages(vec![Message::new("user", text)]);
        }
        let count = 2 + self.below(3);
        let reply = |place: usize| Reply::new(format!("{} {place}", self.text()));
        item.responses = (0..count).map(reply).collect();
        if self.one_in(3) {
            item.responses[1].maker = Some(self.text());
        }
        if self.one_in(4) && count == 2 {
            item.known = Some([PeopleChoice::First, PeopleChoice::Tie][self.below(2)]);
        }
        item.toxic = self.one_in(5);
        if self.one_in(3) {
            item.metadata = Metadata::from_iter([("topic".to_owned(), json!([self.text(), 0.5]))]);
        }
        item
    }

    fn facets(&mut self) -> BTreeMap<String, PeopleChoice> {
        use PeopleChoice::{BothBad, First, Second, Tie};
        let mut facets = BTreeMap::new();
        for name in ["helpful", "first", "a.responses", "Two Words"] {
            if self.one_in(3) {
                facets.insert(name.to_owned(), [First, Second, Tie, BothBad][self.below(4)]);
            }
        }
        facets
    }

    fn answer(&mut self, responses: usize, role: AnnotatorRole) -> PeopleAnswer {
        use PeopleChoice::{BothBad, First, Ranked, Second, Skip, Tie};
        let choice = match responses {
            2 => [First, Second, Tie, BothBad, Skip][self.below(5)],
            _ => [Ranked, Ranked, Tie, BothBad, Skip][self.below(5)],
        };
        let mut answer = PeopleAnswer::new(choice);
        if choice == Ranked {
            answer.ranking = self.order(responses);
        }
        let stated = self.below(4) as i8;
        answer.strength = match choice {
            First if stated > 0 => Some(-stated),
            Second if stated > 0 => Some(stated),
            Tie | BothBad if stated > 1 => Some(0),
            _ => None,
        };
        answer.facets = self.facets();
        answer.reasons = ["clearer", "tie", "first"]
            .into_iter()
            .filter(|_| self.one_in(3))
            .map(str::to_owned)
            .collect();
        if self.one_in(2) {
            answer.note = self.text();
        }
        if self.one_in(3) {
            let text = format!("{}.", self.text());
            answer.edited = Some(EditedResponse { response: self.below(responses), text });
        }
        if role == AnnotatorRole::Judge && self.one_in(2) {
            let share = |n: usize| n as f64 / 8.;
            let both = BothOrders {
                shown_first: share(self.below(9)),
                shown_second: share(self.below(9)),
            };
            answer.verdicts.insert("helpful".to_owned(), both);
        }
        answer.seconds = self.below(1000) as f64 / 10.;
        answer
    }
}

/// A study of a seed: annotators of all roles, items of all kinds, each with the answers of some.
fn drawn(seed: u64) -> ReadAnswers {
    let mut draw = Draw { seed: Seed::new(seed), step: 0 };
    let mut read = ReadAnswers::default();
    let people = [
        ("ann", AnnotatorRole::Annotator),
        ("bob@x.y", AnnotatorRole::Annotator),
        ("ref", AnnotatorRole::Referee),
        ("gpt 5", AnnotatorRole::Judge),
    ];
    for at in 0..24 {
        let item = draw.item(at);
        for (name, role) in people {
            if draw.one_in(2) {
                continue;
            }
            let responses = item.responses.len();
            read.answers.push(ReadAnswer {
                annotator: name.to_owned(),
                role,
                item: item.id.clone(),
                answer: draw.answer(responses, role),
                order: if draw.one_in(4) { Vec::new() } else { draw.order(responses) },
                at_ms: Some(1_700_000_000_000 + draw.below(1_000_000_000) as i64),
            });
        }
        read.items.push(item);
    }
    read
}

fn study_of(read: &ReadAnswers) -> (TempDir, StudyContents) {
    let folder = tempfile::tempdir().unwrap();
    let study =
        Study::create(&folder.path().join("people.sqlite"), &StudySettings::default()).unwrap();
    study.merge(read, None, None).unwrap();
    let contents = study.contents().unwrap();
    (folder, contents)
}

type Answers = BTreeMap<(String, String), (AnnotatorRole, PeopleAnswer, Vec<usize>, i64)>;

/// The answers by the names of annotators and items.
fn answers_of(contents: &StudyContents) -> Answers {
    let items: BTreeMap<i64, &StudyItem> = contents.items.iter().map(|(n, i)| (*n, i)).collect();
    let who: BTreeMap<i64, _> = contents.annotators.iter().map(|who| (who.number, who)).collect();
    let own = |stored: &StoredAnswer| {
        let (who, item) = (who[&stored.annotator], items[&stored.item]);
        let answer = (who.role, stored.answer.clone(), stored.order.clone(), stored.at_ms);
        ((who.name.clone(), item.id.clone()), answer)
    };
    contents.answers.iter().map(own).collect()
}

fn items_of(contents: &StudyContents) -> Vec<StudyItem> {
    contents.items.iter().map(|(_, item)| item.clone()).collect()
}

#[test]
fn a_study_comes_back_from_each_form() {
    for seed in 0..6 {
        let read = drawn(seed);
        let (folder, contents) = study_of(&read);
        // The study has what was drawn.
        assert_eq!(items_of(&contents), read.items);
        let given = |one: &ReadAnswer| {
            let place = (one.annotator.clone(), one.item.clone());
            (place, (one.role, one.answer.clone(), one.order.clone(), one.at_ms.unwrap()))
        };
        let expected: Answers = read.answers.iter().map(given).collect();
        assert_eq!(answers_of(&contents), expected);
        for form in FORMS {
            let written = write_answers(&contents, form);
            let path = folder.path().join("export");
            std::fs::write(&path, &written.text).unwrap();
            let (_other, again) = study_of(&read_answers(&path).unwrap());
            assert_eq!(answers_of(&again), expected, "{form:?}, seed {seed}");
            // The one loss of other tools' forms: items without an answer.
            let answered: BTreeSet<&str> =
                read.answers.iter().map(|one| one.item.as_str()).collect();
            let is_kept = |item: &&StudyItem| {
                form == StudyForm::Answers || answered.contains(item.id.as_str())
            };
            let kept: Vec<StudyItem> = read.items.iter().filter(is_kept).cloned().collect();
            assert_eq!(items_of(&again), kept, "{form:?}, seed {seed}");
            assert_eq!(written.unanswered, read.items.len() - kept.len());
            assert_eq!(written.left_out().is_some(), written.unanswered > 0);
            assert_eq!(contents.conflicts.len(), again.conflicts.len());
            if form == StudyForm::Answers {
                assert_eq!(StudyAgreement::of(&contents).choice, StudyAgreement::of(&again).choice);
            }
            // Once more into the same study: nothing changes.
            let study = Study::open(&folder.path().join("people.sqlite")).unwrap();
            let merged = study.merge(&read_answers(&path).unwrap(), None, None).unwrap();
            assert_eq!((merged.items, merged.unmatched), (0, 0));
            assert_eq!(answers_of(&study.contents().unwrap()), expected, "{form:?}, seed {seed}");
        }
    }
}

/// The other tool has changed a text, and another annotator has answered there.
#[test]
fn what_a_tool_changed_counts_more_than_the_metadata() {
    let item = StudyItem {
        known: Some(PeopleChoice::First),
        ..StudyItem::pair("q", "Why?", "Because.", "No.")
    };
    let answer = ReadAnswer {
        annotator: "ann".to_owned(),
        role: AnnotatorRole::Referee,
        item: "q".to_owned(),
        answer: PeopleAnswer { seconds: 4., ..PeopleAnswer::new(PeopleChoice::First) },
        order: vec![1, 0],
        at_ms: Some(1_700_000_000_000),
    };
    let read = ReadAnswers { items: vec![item], answers: vec![answer], ..ReadAnswers::default() };
    let (folder, contents) = study_of(&read);
    let text = write_answers(&contents, StudyForm::LabelStudio).text;
    let mut tasks: serde_json::Value = serde_json::from_str(&text).unwrap();
    tasks[0]["data"]["answer2"] = json!("Never.");
    let mut other = tasks[0]["annotations"][0].clone();
    other["completed_by"] = json!({"email": "eve"});
    other["created_at"] = json!("2026-01-31T12:00:00.5Z");
    tasks[0]["annotations"].as_array_mut().unwrap().push(other);
    let path = folder.path().join("changed.json");
    std::fs::write(&path, tasks.to_string()).unwrap();
    let read = read_answers(&path).unwrap();
    assert_eq!(read.items[0].responses[1].text, "Never.");
    let [ann, eve] = read.answers.as_slice() else { panic!("{read:?}") };
    assert_eq!((ann.role, ann.order.as_slice()), (AnnotatorRole::Referee, [1, 0].as_slice()));
    assert_eq!((eve.role, eve.order.len(), eve.answer.seconds), (AnnotatorRole::Annotator, 0, 4.));
    assert_eq!(eve.at_ms, Some(1_769_860_800_500));
    // An order that the item cannot have.
    tasks[0]["data"]["rlaif"]["answers"]["ann"]["order"] = json!([1, 1]);
    std::fs::write(&path, tasks.to_string()).unwrap();
    let error = read_answers(&path).unwrap_err().to_string();
    assert!(error.contains("the answer of ann: `order` is [1, 1]"), "{error}");
}

fn fixture(name: &str) -> ReadAnswers {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tools");
    read_answers(&folder.join(name)).unwrap()
}

/// Exports of `answers.jsonl` that Label Studio and Argilla's client have imported and exported again.
#[test]
fn answers_come_back_from_the_other_tools_themselves() {
    let (_study, contents) = study_of(&fixture("answers.jsonl"));
    let expected = answers_of(&contents);
    let mut label_studio = fixture("label-studio-pairs.json");
    let rankings = fixture("label-studio-rankings.json");
    // One annotation was made there.
    let (made, kept) = label_studio
        .answers
        .into_iter()
        .partition::<Vec<_>, _>(|answer| answer.annotator.starts_with("user "));
    let [made] = made.as_slice() else { panic!("{made:?}") };
    let answer = &made.answer;
    assert_eq!((made.item.as_str(), answer.choice), ("q1", PeopleChoice::Second));
    assert_eq!((answer.note.as_str(), answer.seconds), ("made there", 5.5));
    assert!(made.at_ms.is_some());
    label_studio.answers = kept;
    label_studio.answers.extend(rankings.answers);
    label_studio.items.extend(rankings.items);
    for (tool, read) in [
        ("Label Studio", label_studio),
        ("Argilla", fixture("argilla.json")),
        ("Argilla, flat", fixture("argilla-flat.json")),
    ] {
        let (_again, again) = study_of(&read);
        assert_eq!(answers_of(&again), expected, "{tool}");
        let by_id = |contents: &StudyContents| {
            let items = items_of(contents).into_iter();
            items.map(|item| (item.id.clone(), item)).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(by_id(&again), by_id(&contents), "{tool}");
    }
}

/// Exports of projects that began in the other tool.
#[test]
fn exports_of_other_tools_without_metadata_are_read() {
    let ranked = fixture("label-studio-list.json");
    let texts: Vec<&str> = ranked.items[0].responses.iter().map(|r| r.text.as_str()).collect();
    assert_eq!(texts, ["This is one.", "This is two.", "This is three."]);
    assert_eq!(ranked.answers[0].answer.ranking, [2, 0, 1]);

    let argilla = fixture("argilla-own.json");
    let [first, second, third] = argilla.answers.as_slice() else { panic!("{argilla:?}") };
    assert_eq!(
        (first.answer.choice, first.answer.note.as_str()),
        (PeopleChoice::Second, "made there")
    );
    assert_eq!(second.answer.choice, PeopleChoice::Tie);
    assert_ne!(first.annotator, second.annotator);
    assert_eq!(
        (third.answer.choice, third.answer.ranking.as_slice()),
        (PeopleChoice::Ranked, [2, 0, 1].as_slice())
    );
    assert_eq!(third.annotator, first.annotator);
}
