//! Labels by a policy whose position bias is planted: which are wrong is known beforehand.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use rlaif_core::{
    AskedPair, ExamName, ExamQuestion, PromptRecord, Reply, Seed, Specials, TextCodec,
};
use rlaif_eval::{ExamOptions, ExamVerdict, grade};
use rlaif_label::{
    Constitution, FacetCombination, FacetConfig, Group, GroupPairs, LabelPair, LabelSettings,
    Labeller, LessonSet, Opinion, Orders, Pairing, Questions, RevisionPrompts, Subject,
};
use rlaif_lm::{Forward, LmError, Policy, TokenBatch, VocabHead, policy_by};
use rlaif_models::{Config, LanguageModel};
use rlaif_rewards::Surroundings;
use rlaif_rewards::judge::{Comparer, Judgement};
use rlaif_rewards::rubric::{ListRubric, PairAnswer, PairRubric};
use rlaif_text::HfTokenizer;
use tch::{Device, Kind, Tensor};

fn codec() -> HfTokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rlaif-text/tests/fixtures/chatml");
    HfTokenizer::from_folder(folder).unwrap()
}

/// A policy that reads its question: the log-odds of a label are the number of `!` in its response, times
/// `scale`, and `bias` nats more for what is first.
struct Planted {
    inner: LanguageModel,
    codec: HfTokenizer,
    labels: Vec<String>,
    scale: f64,
    bias: f64,
}

impl Planted {
    fn new(labels: &[&str], scale: f64, bias: f64) -> Self {
        let (codec, labels) = (codec(), labels.iter().map(|label| (*label).to_owned()).collect());
        Self { inner: Self::random(&codec), codec, labels, scale, bias }
    }

    /// A small model with random weights.
    fn random(codec: &HfTokenizer) -> LanguageModel {
        let config = Config::from_value(serde_json::json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"],
            "vocab_size": codec.embedding_rows(), "hidden_size": 4, "intermediate_size": 4,
            "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 4096,
        }));
        LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap()
    }

    /// The log-odds of each label.
    fn quality(&self, prompt: &[u32]) -> Vec<f32> {
        let text = self.codec.decode(prompt, Specials::Include).unwrap();
        let quality = |(at, label): (usize, &String)| {
            let Some((_, from)) = text.rsplit_once(&format!("Response {label}:")) else {
                return -30.;
            };
            let marks = from.split("[[end").next().unwrap().matches('!').count() as f64;
            let bias = if at == 0 { self.bias } else { 0. };
            (self.scale * marks + bias) as f32
        };
        self.labels.iter().enumerate().map(quality).collect()
    }
}

impl Policy for Planted {
    policy_by! { inner: spec open enter step parameters }

    fn response_hidden(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        _: Forward<'_>,
    ) -> Result<Tensor, LmError> {
        let rows: Vec<f32> = prompts.rows().iter().flat_map(|ids| self.quality(ids)).collect();
        let size = self.labels.len() as i64;
        let hidden = Tensor::from_slice(&rows).reshape([prompts.rows().len() as i64, 1, size]);
        Ok(hidden.repeat([1, responses.width() as i64, 1]))
    }

    fn head(&self, _: Forward<'_>) -> Result<VocabHead, LmError> {
        let (rows, size) = (self.codec.embedding_rows(), self.labels.len());
        let (mut weight, mut bias) = (vec![0f32; rows * size], vec![-60f32; rows]);
        for (at, label) in self.labels.iter().enumerate() {
            let writes = |id: &usize| {
                self.codec
                    .decode(&[*id as u32], Specials::Exclude)
                    .is_ok_and(|text| text.trim() == label)
            };
            let all: Vec<usize> = (0..rows).filter(writes).collect();
            assert!(!all.is_empty(), "{label}");
            // Several tokens write a label: together they have its probability.
            for &id in &all {
                weight[id * size + at] = 1.;
                bias[id] = -(all.len() as f32).ln();
            }
        }
        Ok(VocabHead {
            weight: Tensor::from_slice(&weight).reshape([rows as i64, size as i64]),
            bias: Some(Tensor::from_slice(&bias)),
            scale: 1.,
            cap: None,
            adapter: None,
        })
    }
}

fn judge(labels: &[&str], scale: f64, bias: f64) -> Comparer {
    Comparer::of_policy("planted", Planted::new(labels, scale, bias), codec())
}

fn labeller(bias: f64) -> Labeller {
    let rubric = PairRubric::preset("helpful").unwrap().with_min_coverage(0.9).unwrap();
    Labeller::of_judge(judge(&["1", "2"], 0.4, bias), "helpful", rubric)
}

/// Pairs whose first response has −4 to 4 more `!` than the second, none of them equal.
fn pairs() -> Vec<(LabelPair, f64)> {
    (0..32)
        .map(|n| {
            let more = [-4, -3, -2, -1, 1, 2, 3, 4][n % 8];
            let (a, b) = ((4 + more.max(0)) as usize, (4 - more.min(0)) as usize);
            let text = |marks: usize| format!("Well{} said {n}", "!".repeat(marks));
            let pair = LabelPair::new(format!("p{n}"), "Say it.", text(a), text(b));
            (pair, 0.4 * f64::from(more))
        })
        .collect()
}

fn opinions(labeller: &Labeller, pairs: &[impl Subject]) -> BTreeMap<usize, Opinion> {
    let mut opinions = BTreeMap::new();
    labeller
        .ask(pairs, &BTreeMap::new(), &mut |number, opinion| {
            assert!(opinions.insert(number, opinion).is_none(), "{number} is told twice");
            ControlFlow::Continue(())
        })
        .unwrap();
    opinions
}

fn sigmoid(x: f64) -> f64 {
    1. / (1. + (-x).exp())
}

#[test]
fn one_order_is_wrong_as_the_planted_bias_predicts_and_both_orders_are_right() {
    let pairs = pairs();
    let shown: Vec<LabelPair> = pairs.iter().map(|(pair, _)| pair.clone()).collect();
    let both = labeller(1.);
    let found = opinions(&both, &shown);
    assert_eq!(found.len(), 64);
    let one = labeller(1.).shown_in(Orders::One);
    let found_one = opinions(&one, &shown);
    assert_eq!(found_one.len(), 32);
    let mut wrong = 0;
    for (n, (_, quality)) in pairs.iter().enumerate() {
        let single = one.label(n, &found_one).unwrap().first;
        assert!((single - sigmoid(quality + 1.)).abs() < 1e-5, "{n}: {single}");
        let is_wrong = (single > 0.5) != (*quality > 0.);
        // Where the first is the worse one by less than the bias.
        assert_eq!(is_wrong, (-1. ..0.).contains(quality), "{n}");
        wrong += usize::from(is_wrong);
        let averaged = both.label(n, &found).unwrap().first;
        let expected = (sigmoid(quality + 1.) + 1. - sigmoid(1. - quality)) / 2.;
        assert!((averaged - expected).abs() < 1e-5, "{n}: {averaged} instead of {expected}");
        assert_eq!(averaged > 0.5, *quality > 0., "{n}");
    }
    assert_eq!(wrong, 8);

    // The exam finds the nat that was planted.
    let questions: Vec<ExamQuestion> = shown
        .iter()
        .map(|pair| {
            let [chosen, rejected] = pair.responses.clone();
            AskedPair { record: pair.record.clone(), chosen, rejected }.into()
        })
        .collect();
    let verdicts: Vec<ExamVerdict> = (0..shown.len())
        .map(|pair| {
            let [own, other] = both.shown_first(pair, 0, &found).map(Result::unwrap);
            ExamVerdict::Orders { right_first: own, right_second: 1. - other }
        })
        .collect();
    let options = ExamOptions::default();
    let report = grade(ExamName::Pairs, "planted", &questions, &verdicts, &options).unwrap();
    let bias = report.habits.position_bias.unwrap();
    let interval = bias.ci95.unwrap();
    assert!((bias.nats - 1.).abs() < 1e-4, "{bias:?}");
    assert!(interval.low > 0.99 && interval.high < 1.01, "{interval:?}");
    // Half of the pairs differ by less than a nat.
    assert_eq!(report.habits.position_flip.unwrap().share, 0.5);
}

#[test]
fn right_answers_become_lessons_with_both_places_equally_often() {
    let pairs = pairs();
    let shown: Vec<LabelPair> = pairs.iter().map(|(pair, _)| pair.clone()).collect();
    let labeller = labeller(1.);
    let found = opinions(&labeller, &shown);
    let right: Vec<bool> = pairs.iter().map(|(_, quality)| *quality > 0.).collect();
    let LessonSet { lessons, without } = labeller.lessons(&shown, &right, &found);
    assert!(without.is_empty(), "{without:?}");
    // The nat for the first place makes all 32 verdicts right whose right response is shown first, and 16 of the
    // other ones.
    assert_eq!(lessons.len(), 32);
    assert_eq!(lessons.iter().filter(|lesson| lesson.answer == "1").count(), 16);
    let mut pairs_with_two = 0;
    for (at, lesson) in lessons.iter().enumerate() {
        let part = |label: &str| {
            let from = lesson.question.user.split(&format!("Response {label}:")).last().unwrap();
            from.split("[[end").next().unwrap().matches('!').count()
        };
        let better = if part("1") > part("2") { "1" } else { "2" };
        assert_eq!(lesson.answer, better, "{lesson:?}");
        let pair = lesson.id.split(':').next().unwrap();
        pairs_with_two +=
            usize::from(lessons[..at].iter().any(|other| other.id.split(':').next() == Some(pair)));
    }
    assert!(pairs_with_two > 0);
    // With the other responses for the right ones, a verdict is right where the bias outweighs the quality.
    let wrong: Vec<bool> = right.iter().map(|first| !first).collect();
    let fooled = labeller.lessons(&shown, &wrong, &found);
    assert!(fooled.lessons.is_empty(), "no verdict prefers the worse response in the second place");
    // Eight pairs differ by less than the bias: with it in the first place, their worse response wins.
    assert_eq!(fooled.without.len(), 16);
    assert_eq!(fooled.without[0], (0, "0 of 2 judgements are right".to_owned()));
}

#[test]
fn a_right_one_of_several_judgements_is_drawn_by_the_seed() {
    let pairs = pairs();
    let shown: Vec<LabelPair> = pairs.iter().map(|(pair, _)| pair.clone()).collect();
    let judge = Comparer::of_policy("planted", Planted::new(&["1", "2"], 0.4, 0.), codec());
    let rubric = PairRubric::preset("helpful").unwrap().answering(PairAnswer::Explained);
    let labeller = Labeller::of_judge(judge, "helpful", rubric);
    let judgement = |first: f64, reason: &str| Judgement { first, reason: reason.to_owned() };
    let opinion = |judgements: Vec<Judgement>| Opinion {
        value: Some(judgements.iter().map(|one| one.first).sum::<f64>() / judgements.len() as f64),
        others: Vec::new(),
        coverage: None,
        estimate: true,
        reason: judgements[0].reason.clone(),
        judgements,
        cost: None,
    };
    // The first response is right. Both orders of pair 0 have two right judgements of four, pair 1 has none, and
    // the other ones have no verdict.
    let mut found = BTreeMap::new();
    for n in 0..64 {
        let right = if n % 2 == 0 { 1. } else { 0. };
        let all = vec![
            judgement(1. - right, "wrong"),
            judgement(right, "one"),
            judgement(0.5, "undecided"),
            judgement(right, "other"),
        ];
        let none = vec![judgement(1. - right, "wrong"); 4];
        found.insert(n, opinion(if n / 2 == 1 { none } else { all }));
    }
    let declined = Opinion {
        value: None,
        judgements: Vec::new(),
        reason: "it declined".to_owned(),
        ..found[&0].clone()
    };
    found.insert(4, declined.clone());
    found.insert(5, declined);
    let LessonSet { lessons, without } = labeller.lessons(&shown, &[true; 32], &found);
    assert_eq!(
        without,
        [(1, "0 of 8 judgements are right".to_owned()), (2, "it declined".to_owned())]
    );
    assert_eq!(lessons.len(), 60);
    let of = |reason: &str| lessons.iter().filter(|lesson| lesson.answer.contains(reason)).count();
    let (one, other) = (of(" one\n"), of(" other\n"));
    assert_eq!(one + other, 60);
    // 60 fair draws: within four standard deviations.
    assert!((15..=45).contains(&one), "{one}");
    assert_eq!(labeller.lessons(&shown, &[true; 32], &found).lessons, lessons);
}

#[test]
fn what_is_known_is_not_asked_again_and_equal_questions_are_asked_once() {
    let mut shown: Vec<LabelPair> = pairs().into_iter().map(|(pair, _)| pair).take(3).collect();
    let record = PromptRecord { id: "again".to_owned(), ..shown[0].record.clone() };
    shown.push(LabelPair { record, ..shown[0].clone() });
    let labeller = labeller(0.);
    let all = opinions(&labeller, &shown);
    assert_eq!(all[&0], all[&6]);
    // A kill after two answers: the rest is asked, the pair that stands twice is known.
    let known: BTreeMap<usize, Opinion> = all.clone().into_iter().take(2).collect();
    let mut told = Vec::new();
    labeller
        .ask(&shown, &known, &mut |number, opinion| {
            assert_eq!(opinion.value, all[&number].value);
            told.push(number);
            ControlFlow::Continue(())
        })
        .unwrap();
    told.sort_unstable();
    assert_eq!(told, [2, 3, 4, 5, 6, 7]);
    let mut ended = 0;
    labeller
        .ask(&shown, &BTreeMap::new(), &mut |_, _| {
            ended += 1;
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(ended, 1);
}

#[test]
fn an_order_without_a_verdict_leaves_the_pair_without_a_label_and_says_why() {
    let shown: Vec<LabelPair> = pairs().into_iter().map(|(pair, _)| pair).take(1).collect();
    let labeller = labeller(0.);
    let mut known = opinions(&labeller, &shown);
    let missing = Opinion { value: None, reason: "it declined".to_owned(), ..known[&1].clone() };
    known.insert(1, missing);
    assert_eq!(labeller.label(0, &known).unwrap_err(), "helpful: it declined");
    known.remove(&1);
    assert_eq!(labeller.label(0, &known).unwrap_err(), "helpful: it was not asked");
}

fn scored(name: &str, weight: f64, reward: &str) -> FacetConfig {
    toml::from_str(&format!("name = '{name}'\nweight = {weight:?}\nreward = {reward}")).unwrap()
}

fn settings(facets: Vec<FacetConfig>, combine: FacetCombination) -> LabelSettings {
    LabelSettings { facets, combine, ..LabelSettings::default() }
}

#[test]
fn facets_have_weights_or_votes_and_labels_may_be_clamped() {
    let brief = scored("brief", 3., "{ kind = 'length', longest = 1, per = 1.0 }");
    let polite = scored("polite", 1., "{ kind = 'forbidden-words', words = ['darn'] }");
    let pair = [LabelPair::new("1", "?", "Darn.", "Yes it is.")];
    // One word and a forbidden one against two words too many: 0 and 1 to 2.
    let label = |settings: &LabelSettings| {
        let labeller = Labeller::new(settings, &Surroundings::default()).unwrap();
        labeller.label(0, &opinions(&labeller, &pair)).unwrap()
    };
    let (brief_first, polite_first) = (sigmoid(2.), sigmoid(-1.));
    let mean = settings(vec![brief.clone(), polite.clone()], FacetCombination::Mean);
    let found = label(&mean);
    assert!((found.first - (3. * brief_first + polite_first) / 4.).abs() < 1e-6, "{found:?}");
    assert_eq!(found.facets[0].0, "brief");
    let vote = settings(vec![brief, polite], FacetCombination::Vote);
    assert_eq!(label(&vote).first, 0.75);
    assert_eq!(label(&LabelSettings { clamp: Some((0.4, 0.6)), ..vote }).first, 0.6);
}

#[test]
fn the_best_and_the_worst_of_several_responses_make_the_pair() {
    let responses = ["one two three", "one", "one two", "one"];
    let candidate = |text: &str| Reply::new(text).by(Some("m".to_owned()));
    let group = Group {
        record: PromptRecord::new("g", "?"),
        responses: responses.into_iter().map(candidate).collect(),
    };
    let brief = scored("brief", 1., "{ kind = 'length', longest = 1, per = 1.0 }");
    let labeller =
        Labeller::new(&settings(vec![brief], FacetCombination::Mean), &Surroundings::default())
            .unwrap();
    let ids = |pairing: Pairing| -> Vec<String> {
        let made = GroupPairs::of(std::slice::from_ref(&group), pairing);
        let found = opinions(&labeller, &made.pairs);
        let first: Vec<Option<f64>> = (0..made.pairs.len())
            .map(|pair| labeller.label(pair, &found).ok().map(|label| label.first))
            .collect();
        made.kept(&first).into_iter().map(|pair| made.pairs[pair].record.id.clone()).collect()
    };
    // Equal responses count once: three are left.
    assert_eq!(ids(Pairing::All), ["g:0-1", "g:0-2", "g:1-2"]);
    assert_eq!(ids(Pairing::Neighbours), ["g:0-1", "g:1-2"]);
    assert_eq!(ids(Pairing::BestAndWorst), ["g:0-1"]);
    assert_eq!(ids(Pairing::BestAndOthers), ["g:0-1", "g:1-2"]);
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    let judge =
        "judge = { api = { kind = 'openai', model = 'm', base_url = 'http://127.0.0.1:1' } }";
    for (text, says) in [
        ("facets = []", "`facets` is empty"),
        ("[[facets]]\nfacet = 'helpful'", "`judge` is missing"),
        ("[[facets]]\nname = 'x'", "`facets[0]` is none of them"),
        ("[[facets]]\npreamble = 'x'", "`facets[0].name` is missing"),
        ("[[facets]]\nfacet = 'helpful'\nweight = 0.0", "`facets[0].weight` is 0"),
        ("[[facets]]\nfacet = 'helpful'\n[[facets]]\nfacet = 'helpful'", "`helpful` twice"),
        ("clamp = [0.6, 0.4]\n[[facets]]\nfacet = 'helpful'", "`clamp` is [0.6, 0.4]"),
        (
            "[[facets]]\nname = 'x'\nconstitution = ['a']\npreamble = 'x'",
            "preamble and constitution",
        ),
        ("[[facets]]\nfacet = 'helpful'\nclamp = [0.6, 0.4]", "`facets[0].clamp` is [0.6, 0.4]"),
        (
            "[[facets]]\nname = 'x'\nprinciples = [{ name = 'a', revision_request = 'r' }]",
            "`facets[0].constitution` is without a principle that has `compare`",
        ),
        (
            "[[facets]]\nname = 'x'\nprinciples = [{ name = 'a' }]",
            "`facets[0].principles[0]` is `a` without a request",
        ),
        ("rotations = 2\n[[facets]]\nfacet = 'helpful'", "`rotations` is 2"),
        ("questions = 'lists'\nrotations = 0\n[[facets]]\nfacet = 'helpful'", "`rotations` is 0"),
        ("questions = 'lists'\norders = 'one'\n[[facets]]\nfacet = 'helpful'", "`orders` is `one`"),
        ("[[facets]]\nfacet = 'funny'", "`helpful`, `honest`, `harmless`, `summary`"),
    ] {
        let text =
            if says.contains("`judge`") { text.to_owned() } else { format!("{judge}\n{text}") };
        let settings: LabelSettings = toml::from_str(&text).unwrap();
        let error = Labeller::new(&settings, &Surroundings::default()).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

/// The forms of the paper's files; the texts are our own.
const PUBLISHED: [(&str, &str); 3] = [
    (
        "CritiqueRevisionInstructions.json",
        r#"{
            "harmful0": {
                "prompt": ["\n\nCritiqueRequest: Name what could hurt.\n\nCritique:"],
                "edit_request": "\n\nRevisionRequest: Leave out what could hurt.\n\nRevision:"
            },
            "harmful1": {
                "prompt": ["\n\nCritiqueRequest: Is it rude?\n\nCritique:"],
                "edit_request": "\n\nRevisionRequest: Make it polite.\n\nRevision:"
            }
        }"#,
    ),
    (
        "CritiqueRevisionFewShotPrompts.json",
        r#"["\n\nHuman: Hi\n\nAssistant: Go.\n\nCritiqueRequest: Is it rude?\n\nCritique: It is.\n\nRevisionRequest: Make it polite.\n\nRevision: Welcome."]"#,
    ),
    (
        "RLMadisonInstructions.json",
        r#"["\nChoose the kinder response. Options:", "\nChoose the calmer response. Options:"]"#,
    ),
];

#[test]
fn published_constitutions_are_read_in_each_of_their_forms() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (name, text) in PUBLISHED {
        std::fs::write(path(name), text).unwrap();
    }
    let read = Constitution::from_files(PUBLISHED.map(|(name, _)| path(name))).unwrap();
    let revision = &read.for_revisions()[1];
    assert_eq!(revision.name, "harmful1");
    assert_eq!(revision.critique_request.as_deref(), Some("Is it rude?"));
    assert_eq!(revision.revision_request.as_deref(), Some("Make it polite."));
    let compare: Vec<_> = read.for_labels().iter().map(|p| p.compare.clone().unwrap()).collect();
    assert_eq!(compare, ["Choose the kinder response.", "Choose the calmer response."]);
    // The example is written as the paper has it, and the question after it in the same form.
    let asked = RevisionPrompts::new(&read.examples, "Bye?", "Get lost.").critique("Is it rude?");
    let shown = "Human: Hi\n\nAssistant: Go.\n\nCritiqueRequest: Is it rude?\n\nCritique: It is.\n\n\
                 RevisionRequest: Make it polite.\n\nRevision: Welcome.\n\n\
                 Human: Bye?\n\nAssistant: Get lost.\n\nCritiqueRequest: Is it rude?\n\nCritique:";
    assert_eq!(asked, shown);
    let prompts =
        RevisionPrompts::new(&read.examples, "\n\nHuman: Bye?\n\nAssistant:", "Get lost.");
    let asked = prompts.revision(None, "Make it polite.");
    assert!(!asked.contains("Critique"), "{asked}");
    assert!(asked.ends_with(
        "Human: Bye?\n\nAssistant: Get lost.\n\nRevisionRequest: Make it polite.\n\nRevision:"
    ));
    let longer = " Good bye.\n\nHuman: Thanks.\n\nAssistant: Yes.";
    assert_eq!(RevisionPrompts::answer(longer), "Good bye.");
}

#[test]
fn constitutions_that_cannot_be_are_refused_by_file_and_key() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, says) in [
        ("a.toml", "", "a.toml: has no principle; add a table [[principles]]"),
        ("a.toml", "[[principle]]\nname = 'x'", "line 1: unknown key `principle`"),
        (
            "a.toml",
            "[[principles]]\nname = 'x'\nrevison_request = 'y'",
            "unknown key `revison_request`; did you mean `revision_request`?",
        ),
        ("a.toml", "[[principles]]\nname = 'x'", "`principles[0]` is `x` without a request"),
        (
            "a.toml",
            "[[principles]]\nname = ''\nrevision_request = 'y'",
            "`principles[0].name` is empty",
        ),
        (
            "a.toml",
            "[[principles]]\nname = 'x'\nrevision_request = 'y'\n[[principles]]\nname = 'x'\ncompare = 'y'",
            "the principle `x` is there twice",
        ),
        ("a.json", "{", "a.json: is not JSON"),
        ("a.json", "7", "a.json: has none of the forms"),
        ("a.json", "{\"x\": 1}", "a.json: has none of the forms"),
        ("a.json", "[]", "a.json: has no principle"),
        ("a.json", "[\"CritiqueRequest: x\"]", "a.json: has none of the forms"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let error = Constitution::from_files([&path]).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    let error = Constitution::from_files([folder.path().join("gone.toml")]).unwrap_err();
    assert!(error.to_string().contains("gone.toml"), "{error}");
}

#[test]
fn principles_are_drawn_equally_often_and_by_seed_row_and_round_alone() {
    let principles =
        (0..4).map(|n| format!("[[principles]]\nname = '{n}'\nrevision_request = 'r'\n"));
    let constitution: Constitution = toml::from_str(&principles.collect::<String>()).unwrap();
    let drawn = |seed: u64, row: usize, round: u64| -> usize {
        let drawn = constitution.drawn_revision(Seed::new(seed), &row.to_string(), round);
        drawn.unwrap().name.parse().unwrap()
    };
    let mut counts = [0usize; 4];
    for row in 0..2_000 {
        counts[drawn(1, row, 0)] += 1;
    }
    // Four standard deviations of a binomial count of 2,000 draws at 1/4.
    assert!(counts.iter().all(|&n| n.abs_diff(500) < 78), "{counts:?}");
    let of = |seed, round| -> Vec<usize> { (0..20).map(|row| drawn(seed, row, round)).collect() };
    assert_eq!(of(1, 0), of(1, 0));
    assert_ne!(of(1, 0), of(2, 0));
    assert_ne!(of(1, 0), of(1, 1));
}

const LETTERS: [&str; 5] = ["A", "B", "C", "D", "E"];

fn list_labeller(bias: f64) -> Labeller {
    let rubric = ListRubric::preset("helpful").unwrap().with_min_coverage(0.9).unwrap();
    Labeller::of_list_judge(judge(&LETTERS, 0.4, bias), "helpful", rubric)
}

/// Lists of three to five responses with these numbers of `!`, no two of a list equal.
fn lists() -> (Vec<Group>, Vec<Vec<f64>>) {
    let marks = [
        vec![2, 0, 4, 1],
        vec![3, 4, 1],
        vec![0, 1, 2, 3, 6],
        vec![5, 1, 0],
        vec![2, 1, 3, 0],
        vec![1, 8, 0, 5],
    ];
    let list = |(at, marks): (usize, &Vec<usize>)| {
        let said = |marks: &usize| Reply::new(format!("Well{} said", "!".repeat(*marks)));
        Group {
            record: PromptRecord::new(format!("l{at}"), "Say it."),
            responses: marks.iter().map(said).collect(),
        }
    };
    let quality = |marks: &Vec<usize>| marks.iter().map(|n| 0.4 * *n as f64).collect();
    (marks.iter().enumerate().map(list).collect(), marks.iter().map(quality).collect())
}

/// softmax(quality), with `bias` nats more for one of them.
fn softmax(quality: &[f64], first: usize, bias: f64) -> Vec<f64> {
    let odds: Vec<f64> = quality
        .iter()
        .enumerate()
        .map(|(at, quality)| (quality + if at == first { bias } else { 0. }).exp())
        .collect();
    let sum: f64 = odds.iter().sum();
    odds.iter().map(|odds| odds / sum).collect()
}

fn best(shares: &[f64]) -> usize {
    (0..shares.len()).max_by(|a, b| shares[*a].total_cmp(&shares[*b])).unwrap()
}

#[test]
fn one_rotation_of_a_list_is_wrong_as_the_planted_bias_predicts_and_all_are_right() {
    let (lists, quality) = lists();
    let all = list_labeller(1.);
    let found = opinions(&all, &lists);
    assert_eq!(found.len(), lists.iter().map(|list| list.responses.len()).sum::<usize>());
    let one = list_labeller(1.).rotated(Some(1));
    let found_one = opinions(&one, &lists);
    assert_eq!(found_one.len(), lists.len());
    let (averaged, single) = (all.list_labels(&lists, &found), one.list_labels(&lists, &found_one));
    let mut wrong = Vec::new();
    for (at, quality) in quality.iter().enumerate() {
        let n = quality.len();
        let single = &single[at].as_ref().unwrap().probabilities;
        let averaged = averaged[at].as_ref().unwrap();
        let expected = softmax(quality, 0, 1.);
        let mut mean = vec![0.; n];
        for first in 0..n {
            let rotated = softmax(quality, first, 1.);
            mean.iter_mut().zip(rotated).for_each(|(sum, p)| *sum += p / n as f64);
        }
        for place in 0..n {
            assert!((single[place] - expected[place]).abs() < 1e-5, "{at}: {single:?}");
            let p = averaged.probabilities[place];
            assert!((p - mean[place]).abs() < 1e-5, "{at}: {averaged:?}");
        }
        if best(single) != best(quality) {
            wrong.push(at);
        }
        assert_eq!(best(&averaged.probabilities), best(quality), "{at}");
        let label = all.pair_of_list(averaged, [1, 2]);
        assert!((label.first - mean[1] / (mean[1] + mean[2])).abs() < 1e-5, "{label:?}");
    }
    // The best is not the first, and better than it by less than a nat: 4 to 2, 4 to 3, and 3 to 2 marks.
    assert_eq!(wrong, [0, 1, 4]);

    // The nat that was planted, over the lists of four, which are most.
    let places = all.place_shares(&lists, 0, &found).unwrap();
    assert_eq!((places.responses, places.lists), (4, 3));
    assert!((places.first_nats.unwrap() - 1.).abs() < 1e-4, "{places:?}");
    assert!(one.place_shares(&lists, 0, &found_one).is_none());
    let fair = list_labeller(0.);
    let found = opinions(&fair, &lists);
    let places = fair.place_shares(&lists, 0, &found).unwrap();
    assert!(places.first_nats.unwrap().abs() < 1e-4, "{places:?}");
    assert!(places.shares.iter().all(|share| (share - 0.25).abs() < 1e-5), "{places:?}");
}

#[test]
fn a_part_of_the_rotations_is_spread_over_them_and_known_ones_are_not_asked_again() {
    let (lists, quality) = lists();
    let two = list_labeller(1.).rotated(Some(2));
    let found = opinions(&two, &lists);
    assert_eq!(found.len(), 2 * lists.len());
    // Rotations 0 and 2 of four.
    let labels = two.list_labels(&lists, &found);
    let (one, other) = (softmax(&quality[0], 0, 1.), softmax(&quality[0], 2, 1.));
    for (p, (one, other)) in
        labels[0].as_ref().unwrap().probabilities.iter().zip(one.iter().zip(&other))
    {
        assert!((p - f64::midpoint(*one, *other)).abs() < 1e-5, "{labels:?}");
    }
    // With more rotations, those of two are known by their numbers.
    let all = list_labeller(1.);
    let mut told = Vec::new();
    all.ask(&lists, &found, &mut |number, opinion| {
        assert!(opinion.value.is_some() && !found.contains_key(&number));
        told.push(number);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(told.len() + found.len(), 23);
    // A break ends the work.
    let mut ended = 0;
    all.ask(&lists, &BTreeMap::new(), &mut |_, _| {
        ended += 1;
        ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(ended, 1);
    // A rotation without a verdict leaves its list alone without a label.
    let mut found = opinions(&all, &lists);
    let missing = Opinion {
        value: None,
        others: Vec::new(),
        reason: "it declined".to_owned(),
        ..found[&5].clone()
    };
    found.insert(5, missing);
    let labels = all.list_labels(&lists, &found);
    assert_eq!(labels[1].as_ref().unwrap_err(), "helpful: it declined");
    assert_eq!(labels.iter().filter(|label| label.is_ok()).count(), 5);
}

#[test]
fn lists_by_rewards_are_labelled_as_pairs_are() {
    let brief = scored("brief", 3., "{ kind = 'length', longest = 1, per = 1.0 }");
    let polite = scored("polite", 1., "{ kind = 'forbidden-words', words = ['darn'] }");
    let responses = ["Darn.", "Yes it is.", "So it is, and will be."].map(Reply::from).to_vec();
    let group = Group { record: PromptRecord::new("g", "?"), responses };
    let lists = [group];
    for combine in [FacetCombination::Mean, FacetCombination::Vote] {
        let clamp = Some((0.1, 0.7));
        let pairs =
            LabelSettings { clamp, ..settings(vec![brief.clone(), polite.clone()], combine) };
        let of_lists = LabelSettings { questions: Questions::Lists, ..pairs.clone() };
        let made = GroupPairs::of(&lists, Pairing::All);
        let by_pairs = Labeller::new(&pairs, &Surroundings::default()).unwrap();
        let by_lists = Labeller::new(&of_lists, &Surroundings::default()).unwrap();
        let (of_pairs, found) = (opinions(&by_pairs, &made.pairs), opinions(&by_lists, &lists));
        assert_eq!(found.len(), 6);
        let list = by_lists.list_labels(&lists, &found).remove(0).unwrap();
        assert!((list.probabilities.iter().sum::<f64>() - 1.).abs() < 1e-9, "{list:?}");
        for pair in 0..made.pairs.len() {
            let expected = by_pairs.label(pair, &of_pairs).unwrap();
            let label = by_lists.pair_of_list(&list, made.place(pair).unwrap().1);
            assert!((label.first - expected.first).abs() < 1e-6, "{label:?} {expected:?}");
        }
        if combine == FacetCombination::Mean {
            // Scores 0, −2, −5 by three quarters, −1, 0, 0 by one.
            let (brief, polite) = (softmax(&[0., -2., -5.], 0, 0.), softmax(&[-1., 0., 0.], 0, 0.));
            let expected = (3. * brief[1] + polite[1]) / 4.;
            assert!((list.probabilities[1] - expected).abs() < 1e-6, "{list:?}");
        } else {
            // The second and third share a vote.
            assert_eq!(list.probabilities, [0.75, 0.125, 0.125]);
        }
    }
}

#[test]
fn lists_that_cannot_be_asked_about_are_refused_by_name() {
    let (lists, _) = lists();
    let few = ["A", "B", "C", "D"].map(str::to_owned).to_vec();
    let rubric = ListRubric::new("The best.").labelled(few).unwrap();
    let labeller = Labeller::of_list_judge(judge(&LETTERS, 1., 0.), "mine", rubric);
    let said = labeller.check_lists(&lists).unwrap_err().to_string();
    assert!(
        said.contains("`judge.labels` is 4 labels, and") && said.contains("5 responses"),
        "{said}"
    );
    let single = Group { record: PromptRecord::new("s", "?"), responses: vec![Reply::new("One.")] };
    let said = labeller.check_lists(&[single]).unwrap_err().to_string();
    assert!(said.contains("1 responses to") && said.contains("two or more for a list"), "{said}");
    // A label that the tokenizer cannot write: it reads an unknown word.
    let syllables = ["\u{1403}", "B", "C", "D", "E"].map(str::to_owned).to_vec();
    let rubric = ListRubric::new("The best.").labelled(syllables).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rlaif-text/tests/fixtures/bert");
    let words = HfTokenizer::from_folder(folder).unwrap();
    let policy = Planted::random(&words);
    let labeller =
        Labeller::of_list_judge(Comparer::of_policy("words", policy, words), "mine", rubric);
    let said = labeller.ask(&lists, &BTreeMap::new(), &mut |_, _| ControlFlow::Continue(()));
    let said = chain(&said.unwrap_err());
    assert!(said.contains("labels that the judge's tokenizer can write"), "{said}");
    // Pairs for a labeller of lists.
    let pairs: Vec<LabelPair> = pairs().into_iter().map(|(pair, _)| pair).collect();
    let said = list_labeller(0.)
        .ask(&pairs, &BTreeMap::new(), &mut |_, _| ControlFlow::Continue(()))
        .unwrap_err()
        .to_string();
    assert!(said.contains("`questions` is `lists` for pairs"), "{said}");
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said.push_str(&format!(": {error}"));
        cause = error.source();
    }
    said
}
