//! Classifiers as rewards, against transformers' pipeline.

use std::io::Write;
use std::path::{Path, PathBuf};

use rlaif_core::{
    ChatOptions, Exchange, Message, RewardError, RewardModel, Specials, TextCodec, TextKind,
};
use rlaif_eval::{Better, Metric, MetricInfo, RewardMetric};
use rlaif_hub::{HubBuilder, Network, RepoKind};
use rlaif_lm::{Forward, Padding, SequenceClassifier, TokenBatch};
use rlaif_models::{Classifier, LoadOptions, ModelNames};
use rlaif_rewards::{
    ClassifierOptions, ClassifierReward, Input, Output, Preset, ProcessReward, ProviderError,
    RewardConfig, RewardExt, Surroundings, WeightedSum, encode_judged,
};
use rlaif_text::{HfTokenizer, SequenceSide};
use serde::Deserialize;

#[derive(Deserialize)]
struct Goldens {
    exchanges: Vec<(String, String)>,
    #[serde(default)]
    response: Vec<[f64; 2]>,
    #[serde(default)]
    prompt_and_response: Vec<[f64; 2]>,
    #[serde(default)]
    pair: Vec<[f64; 2]>,
    #[serde(default)]
    chat: Vec<f64>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn goldens(name: &str) -> Goldens {
    let text = std::fs::read_to_string(fixture(name).join("goldens.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn load(name: &str, options: ClassifierOptions) -> Result<ClassifierReward, ProviderError> {
    ClassifierReward::load(fixture(name), LoadOptions::default(), options)
}

fn not_hate() -> ClassifierReward {
    load("not-hate", ClassifierOptions::preset(Preset::NotHate)).unwrap()
}

fn exchanges(goldens: &Goldens) -> Vec<Exchange<'_>> {
    goldens.exchanges.iter().map(|(prompt, response)| Exchange::new(prompt, response)).collect()
}

fn score(reward: &dyn RewardModel, batch: &[Exchange<'_>]) -> Vec<f64> {
    let scores = reward.score(batch).unwrap().check(reward.name(), batch.len()).unwrap();
    scores.total.iter().map(|s| f64::from(s.unwrap().get())).collect()
}

#[track_caller]
fn close(got: &[f64], want: impl IntoIterator<Item = f64>, tolerance: f64) {
    let want: Vec<f64> = want.into_iter().collect();
    assert_eq!(got.len(), want.len());
    for (row, (got, want)) in got.iter().zip(&want).enumerate() {
        assert!((got - want).abs() < tolerance, "row {row}: {got}, expected {want}");
    }
}

#[test]
fn the_not_hate_logit_is_picked_by_its_name_and_equals_the_pipelines() {
    let goldens = goldens("not-hate");
    let batch = exchanges(&goldens);
    let reward = not_hate();
    assert_eq!(reward.name(), "not-hate");
    close(&score(&reward, &batch), goldens.response.iter().map(|row| row[0]), 2e-5);
    // In most of these rows hate has the higher logit, and a pipeline that sorts puts it first.
    assert!(goldens.response.iter().filter(|row| row[1] > row[0]).count() > 3);
    let shortened = reward.metrics();
    assert_eq!(shortened, [("not-hate/shortened".to_owned(), 1.)]);
}

#[test]
fn logit_probability_and_log_odds_follow_their_definitions() {
    let goldens = goldens("not-hate");
    let batch = exchanges(&goldens);
    let reward = not_hate();
    let with = |output| {
        let options = ClassifierOptions::new().label("hate").output(output);
        score(&reward.with(options).unwrap(), &batch)
    };
    let rows = || goldens.response.iter();
    close(&with(Output::Logit), rows().map(|row| row[1]), 2e-5);
    close(&with(Output::LogOdds), rows().map(|row| row[1] - row[0]), 4e-5);
    close(&with(Output::Probability), rows().map(|row| 1. / (1. + (row[0] - row[1]).exp())), 1e-5);
    let by_index = reward.with(ClassifierOptions::new().label(1)).unwrap();
    close(&score(&by_index, &batch), rows().map(|row| row[1]), 2e-5);
}

#[test]
fn pairs_and_joined_texts_are_read_as_the_pipeline_reads_them() {
    let goldens = goldens("not-hate");
    let batch = exchanges(&goldens);
    let reward = not_hate();
    let options = || ClassifierOptions::preset(Preset::NotHate);
    let pair = reward.with(options().input(Input::Pair)).unwrap();
    // A single pair with an empty second text is not a pair for transformers, but in a batch it is.
    let (rows, want): (Vec<Exchange<'_>>, Vec<f64>) = batch
        .iter()
        .zip(&goldens.pair)
        .filter(|(x, _)| !x.response.is_empty())
        .map(|(x, row)| (*x, row[0]))
        .unzip();
    close(&score(&pair, &rows), want, 2e-5);
    let joined = options().input(Input::PromptAndResponse).separator(" ");
    let joined = reward.with(joined).unwrap();
    let want = goldens.prompt_and_response.iter().map(|row| row[0]);
    close(&score(&joined, &batch[..3]), want, 2e-5);
}

#[test]
fn a_joined_text_that_is_too_long_loses_its_beginning() {
    let reward = not_hate();
    let options = ClassifierOptions::preset(Preset::NotHate).input(Input::PromptAndResponse);
    let joined = reward.with(options.max_tokens(12)).unwrap();
    let far = "Why? ".repeat(40);
    let long = [Exchange::new(&far, "I like you."), Exchange::new("No. ", "I like you.")];
    let scores = score(&joined, &long);
    // Of both there is left what fits, and of the longer one the end.
    let tail = Exchange::new("", "Why? Why? Why? I like you.");
    let other = Exchange::new(&far, "You are terrible.");
    let [tail, other] = [tail, other].map(|x| score(&joined, &[x])[0]);
    assert!((scores[0] - tail).abs() < 1e-5, "{} and {tail}", scores[0]);
    assert!((scores[0] - other).abs() > 1e-3);
}

#[test]
fn a_reward_model_reads_a_long_text_as_in_training() {
    const LIMIT: usize = 12;
    let options = || ClassifierOptions::new().input(Input::PromptAndResponse);
    let reward = load("reward", options().max_tokens(LIMIT)).unwrap();
    // Regardless of the side that the tokenizer's configuration names.
    let classifier = Classifier::load(&fixture("reward"), LoadOptions::default()).unwrap();
    let far = "Why? ".repeat(40);
    for response in ["I like you.", "You are terrible."] {
        let text = [&far, response].concat();
        let got = score(&reward, &[Exchange::new(&far, response)]);
        for side in [SequenceSide::Left, SequenceSide::Right] {
            let tokenizer = HfTokenizer::from_folder(fixture("reward")).unwrap().truncating(side);
            let (ids, shortened) =
                encode_judged(&tokenizer, &text, TextKind::Plain, LIMIT).unwrap();
            assert!(shortened && ids.len() == LIMIT);
            let row = TokenBatch::collate(vec![ids], classifier.spec(), Padding::Right).unwrap();
            let logits = tch::no_grad(|| classifier.logits(&row, None, Forward::default()));
            close(&got, [logits.unwrap().double_value(&[0, 0])], 1e-5);
        }
    }
}

#[test]
fn a_scalar_head_reads_the_chat_template() {
    let goldens = goldens("reward");
    let reward = load("reward", ClassifierOptions::new().input(Input::Chat)).unwrap();
    assert_eq!(reward.name(), "LABEL_0");
    close(&score(&reward, &exchanges(&goldens)), goldens.chat.iter().copied(), 2e-5);

    let turns = serde_json::json!({"messages": [
        {"role": "user", "content": "Say something kind."},
    ]});
    let metadata = turns.as_object().unwrap();
    let told = Exchange { metadata: Some(metadata), ..Exchange::new("not read", "I like you.") };
    close(&score(&reward, &[told]), [goldens.chat[0]], 2e-5);

    // A conversation is read as one, by the input for texts as well; a turn that the prompt begins is gone on
    // with.
    let asked = [Message::new("user", "Say something kind.")];
    let begun = [&asked[..], &[Message::new("assistant", "I like")]].concat();
    let joined = load("reward", ClassifierOptions::new().input(Input::PromptAndResponse)).unwrap();
    for reward in [&reward, &joined] {
        let rows = [
            Exchange { messages: Some(&asked), ..Exchange::new("not read", "I like you.") },
            Exchange { messages: Some(&begun), ..Exchange::new("not read", " you.") },
        ];
        close(&score(reward, &rows), [goldens.chat[0]; 2], 2e-5);
    }
    // So is a response that was given as messages: where it begins does not matter, its turns do.
    let turns = ["I like you.", "And I?", "You too."].map(|text| Message::new("assistant", text));
    let all = [&asked[..], &turns[..2]].concat();
    for reward in [&reward, &joined] {
        let asked = Exchange { messages: Some(&asked), ..Exchange::new("not read", "not read") };
        let rows = [
            Exchange { said: Some(&turns[..1]), ..asked },
            Exchange { said: Some(&turns), ..asked },
            Exchange { messages: Some(&all), said: Some(&turns[2..]), ..asked },
        ];
        let scores = score(reward, &rows);
        assert!((scores[0] - goldens.chat[0]).abs() < 2e-5, "{scores:?}");
        assert!((scores[1] - scores[2]).abs() < 1e-5, "{scores:?}");
        assert!((scores[0] - scores[1]).abs() > 1e-3, "{scores:?}");
    }
    let text = [Exchange::new("Say something kind.", "I like you.")];
    assert!((score(&joined, &text)[0] - goldens.chat[0]).abs() > 1e-3);

    // What its template gets besides: here the name of one that it has not.
    let other = ChatOptions { template: Some("rag".to_owned()), ..ChatOptions::default() };
    let chat = ClassifierOptions::new().chat(other);
    let error = load("reward", chat.clone().input(Input::Chat)).unwrap_err().to_string();
    assert!(error.contains("rag"), "{error}");
    let error = load("reward", chat).unwrap_err().to_string();
    assert!(error.contains("chat_template"), "{error}");
}

#[test]
fn a_batch_of_mixed_lengths_equals_its_rows_one_by_one() {
    for (name, options) in [
        ("not-hate", ClassifierOptions::preset(Preset::NotHate)),
        ("not-hate", ClassifierOptions::preset(Preset::Hate).input(Input::Pair)),
        ("reward", ClassifierOptions::new().input(Input::Chat)),
    ] {
        let goldens = goldens(name);
        let batch: Vec<Exchange<'_>> = exchanges(&goldens).repeat(3);
        let together = load(name, options.clone().batch_size(7)).unwrap();
        let alone = together.with(options).unwrap();
        let one_by_one: Vec<f64> = batch.iter().map(|row| score(&alone, &[*row])[0]).collect();
        close(&score(&together, &batch), one_by_one, 1e-5);
    }
}

#[test]
fn it_is_a_metric_and_nests_and_shares_its_weights() {
    let goldens = goldens("not-hate");
    let batch = exchanges(&goldens);
    let reward = not_hate();
    let toxicity = reward.with(ClassifierOptions::preset(Preset::Hate)).unwrap();
    let info = MetricInfo::new("toxicity", Better::Lower).threshold(0.5);
    let values = RewardMetric::new(info, toxicity).evaluate(&batch).unwrap().values;
    assert!(values.iter().all(|p| (0. ..=1.).contains(&p.unwrap())));

    // Two rewards of one model, asked at the same time.
    let hate = reward.with(ClassifierOptions::new().label("hate")).unwrap();
    let sum = WeightedSum::new("both").term(1., reward).term(-1., hate.clipped(-9., 9.).unwrap());
    close(&score(&sum, &batch), goldens.response.iter().map(|row| row[0] - row[1]), 4e-5);
}

#[test]
fn a_configuration_builds_it() {
    let goldens = goldens("not-hate");
    let batch = exchanges(&goldens);
    let text = format!(
        "kind = 'mean'\nname = 'm'\n\
         [[of]]\nkind = 'classifier'\npreset = 'not-hate'\nmodel = '{folder}'\n\
         [[of]]\nkind = 'classifier'\nmodel = 'the hub id'\nlabel = 1\ndtype = 'f32'\ndevice = 'cpu'\n",
        folder = fixture("not-hate").display()
    );
    let folder = |names: &ModelNames<'_>| {
        assert_eq!(names.revision, None);
        let fixture = fixture("not-hate");
        Ok(if names.model == "the hub id" { fixture.into() } else { names.model.into() })
    };
    let config = RewardConfig::from_toml(&text, "reward.toml").unwrap();
    let reward = config.build(&Surroundings::default().models(&folder)).unwrap();
    let want = goldens.response.iter().map(|row| f64::midpoint(row[0], row[1]));
    close(&score(&*reward, &batch), want, 2e-5);
    let written = serde_json::to_value(&config).unwrap();
    assert_eq!(serde_json::from_value::<RewardConfig>(written).unwrap(), config);
}

#[test]
fn what_cannot_be_is_refused_with_advice() {
    let refused = |options| load("not-hate", options).unwrap_err().to_string();
    let no_such = refused(ClassifierOptions::new().label("not-hate"));
    assert!(no_such.contains("no label `not-hate`"), "{no_such}");
    assert!(no_such.contains("`nothate` (0), `hate` (1)"), "{no_such}");
    assert!(refused(ClassifierOptions::new().label(2)).contains("`hate` (1)"));
    assert!(refused(ClassifierOptions::new()).contains("none was chosen"));
    let hate = || ClassifierOptions::preset(Preset::Hate);
    assert!(refused(hate().max_tokens(65)).contains("from 3 to the model's limit, 64"));
    assert!(refused(hate().max_tokens(2)).contains("`max_tokens`"));
    assert!(refused(hate().batch_size(0)).contains("`batch_size`"));
    assert!(refused(hate().separator(" ")).contains("prompt-and-response"));
    assert!(refused(hate().input(Input::Chat)).contains("chat template"));
    let missing = ClassifierReward::load(Path::new("/nowhere"), LoadOptions::default(), hate());
    assert!(matches!(missing, Err(ProviderError::Text(_))));
    let nothing = RewardConfig::from_toml("kind = 'classifier'", "r.toml").unwrap();
    let Err(nothing) = nothing.build(&Surroundings::default()) else { panic!("built of nothing") };
    assert!(
        nothing.to_string().contains("`model` is nothing; expected a folder or a hub id"),
        "{nothing}"
    );
}

#[test]
fn a_logit_that_is_no_number_is_an_error_that_names_the_row() {
    use rlaif_lm::SequenceClassifier;
    let model = Classifier::load(&fixture("not-hate"), LoadOptions::default()).unwrap();
    let mut embedding = model
        .parameters()
        .get("roberta.embeddings.word_embeddings.weight")
        .unwrap()
        .shallow_clone();
    let _ = tch::no_grad(|| embedding.fill_(f64::NAN));
    let tokenizer = HfTokenizer::from_folder(fixture("not-hate")).unwrap();
    let options = ClassifierOptions::preset(Preset::NotHate);
    let reward = ClassifierReward::new(model, tokenizer, options).unwrap();
    let error = reward.score(&[Exchange::new("p", "y")]).unwrap_err();
    assert!(matches!(error, RewardError::NonFinite { row: 0, .. }), "{error}");
}

/// The trunk of a classifier, with a row of its last layer as a head on tokens.
fn token_head(label: &str) -> Classifier {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read(fixture("not-hate").join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    config["architectures"] = serde_json::json!(["RobertaForTokenClassification"]);
    config["id2label"] = serde_json::json!({ "0": label });
    config["label2id"] = serde_json::json!({ label: 0 });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let tensors = tch::Tensor::read_safetensors(fixture("not-hate").join("model.safetensors"));
    let tensors: Vec<_> = (tensors.unwrap().into_iter())
        .filter(|(name, _)| !name.starts_with("classifier.dense."))
        .map(|(name, tensor)| match name.strip_prefix("classifier.out_proj.") {
            Some(part) => (format!("classifier.{part}"), tensor.narrow(0, 0, 1).copy()),
            None => (name, tensor),
        })
        .collect();
    tch::Tensor::write_safetensors(&tensors, folder.path().join("model.safetensors")).unwrap();
    Classifier::load(folder.path(), LoadOptions::default()).unwrap()
}

/// A step of a process reward is read at its last token, before the special tokens of the tokenizer, also where the
/// head has one label.
#[test]
fn a_head_on_tokens_reads_the_last_token_of_a_step() {
    for label in ["right", "wrong"] {
        let model = token_head(label);
        let tokenizer = HfTokenizer::from_folder(fixture("not-hate")).unwrap();
        let response = "I like you.\n\nYou like me.";
        let want: Vec<f64> = [&response[..13], response]
            .iter()
            .map(|text| {
                let ids = tokenizer.encode(text, Specials::Include).unwrap();
                // `</s>` is the end of the row.
                assert_eq!(ids.last(), Some(&2));
                let ids = ids[..ids.len() - 1].to_vec();
                let batch = TokenBatch::collate(vec![ids], model.spec(), Padding::Right).unwrap();
                model.logits(&batch, None, Forward::default()).unwrap().double_value(&[0, 0])
            })
            .collect();
        assert!((want[0] - want[1]).abs() > 1e-3, "{want:?}");
        let input = if label == "right" { Input::Response } else { Input::PromptAndResponse };
        let options = ClassifierOptions::default().output(Output::Logit).input(input);
        let steps =
            ProcessReward::new(ClassifierReward::new(model, tokenizer, options).unwrap(), "\n\n");
        let scores = steps.unwrap().score(&[Exchange::new("", response)]).unwrap();
        let (_, found) = &scores.steps[0];
        let found: Vec<f64> = found.iter().map(|step| f64::from(step.score.get())).collect();
        close(&found, want, 1e-5);
    }
}

/// A sentence, and what of the hate-speech model's answer to it is known.
#[derive(Default)]
struct Sentence<'a> {
    text: &'a str,
    not_hate: Option<f64>,
    hate: Option<f64>,
    toxicity: Option<f64>,
}

impl<'a> Sentence<'a> {
    fn logits(text: &'a str, not_hate: f64, hate: f64) -> Self {
        let toxicity = Some(1. / (1. + (not_hate - hate).exp()));
        Self { text, not_hate: Some(not_hate), hate: Some(hate), toxicity }
    }

    fn not_hate(text: &'a str, logit: f64) -> Self {
        Self { text, not_hate: Some(logit), ..Self::default() }
    }

    fn toxicity(text: &'a str, probability: f64) -> Self {
        Self { text, toxicity: Some(probability), ..Self::default() }
    }
}

/// Checks the classifier in `folder` by both presets and by the label's name.
fn check_sentences(folder: &Path, sentences: &[Sentence<'_>], tolerance: f64) {
    let options = ClassifierOptions::preset(Preset::NotHate);
    let not_hate = ClassifierReward::load(folder, LoadOptions::default(), options).unwrap();
    let hate = not_hate.with(ClassifierOptions::new().label("hate")).unwrap();
    let toxicity = not_hate.with(ClassifierOptions::preset(Preset::Hate)).unwrap();
    for sentence in sentences {
        let row = [Exchange::new("", sentence.text)];
        let known = [
            (&not_hate, sentence.not_hate, tolerance),
            (&hate, sentence.hate, tolerance),
            (&toxicity, sentence.toxicity, tolerance / 10.),
        ];
        for (reward, known, tolerance) in known {
            if let Some(known) = known {
                close(&score(reward, &row), [known], tolerance);
            }
        }
    }
}

/// The hate-speech model in the hub's cache, if its weights are there.
fn in_cache(hub: HubBuilder) -> Option<PathBuf> {
    let hub = hub.network(Network::Offline).build().unwrap();
    let repo = hub
        .repo(RepoKind::Model, "facebook/roberta-hate-speech-dynabench-r4-target", None)
        .unwrap();
    let mut weights = ["model.safetensors", "pytorch_model.bin"].into_iter();
    let weights = weights.find_map(|file| repo.try_get(file).ok().flatten())?;
    Some(weights.parent().unwrap().to_owned())
}

#[test]
fn the_sentences_of_the_tiny_model_have_their_logits_from_the_hubs_cache_as_well() {
    let cache = tempfile::tempdir().unwrap();
    let hub = || HubBuilder::from_env().unwrap().cache_dir(cache.path());
    assert_eq!(in_cache(hub()), None);

    let repo = cache.path().join("models--facebook--roberta-hate-speech-dynabench-r4-target");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = repo.join("snapshots").join(commit);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs/main"), commit).unwrap();
    for file in std::fs::read_dir(fixture("not-hate")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), snapshot.join(file.file_name())).unwrap();
    }
    let goldens = goldens("not-hate");
    let sentences: Vec<Sentence<'_>> = goldens
        .exchanges
        .iter()
        .zip(&goldens.response)
        .map(|((_, text), [not_hate, hate])| Sentence::logits(text, *not_hate, *hate))
        .collect();
    check_sentences(&in_cache(hub()).unwrap(), &sentences, 1e-4);
}

/// Runs where the files of the real model are: in the folder that `RLAIF_NOT_HATE_MODEL` names, or
/// in the hub's cache.
#[test]
fn the_published_sentences_have_their_published_logits() {
    let told = std::env::var_os("RLAIF_NOT_HATE_MODEL").map(PathBuf::from);
    let Some(folder) = told.or_else(|| in_cache(HubBuilder::from_env().ok()?)) else {
        // To the terminal itself, past the test harness: a skipped test must not look like one
        // that passed.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED the published sentences: the hub's cache has no \
             facebook/roberta-hate-speech-dynabench-r4-target, and RLAIF_NOT_HATE_MODEL names no \
             folder of it"
        );
        return;
    };
    let sentences = [
        Sentence::not_hate("I like you.", 4.555_138_587_951_66),
        Sentence::not_hate("You are terrible and i hate you.", -2.368_960_380_554_199),
        Sentence::logits(
            "#Person 1# tells Tommy that he didn't like the movie.",
            3.114_100_694_656_372,
            -2.489_617_586_135_864_3,
        ),
        Sentence::logits(
            "#Person 1# tells that he will kill his friends.",
            -0.617_900_431_156_158_4,
            0.319_002_360_105_514_5,
        ),
        Sentence::logits(
            "You are a great person and i like you.",
            4.653_210_639_953_613,
            -4.178_226_470_947_266,
        ),
        Sentence::logits(
            "You are a terrible person and i hate you.",
            -2.064_445_257_186_89,
            1.665_045_738_220_214_8,
        ),
        Sentence::toxicity("she went to the library", 0.000_207_027_784_199_453_9),
        Sentence::toxicity("he is a douchebag", 0.856_372_594_833_374),
        Sentence::toxicity(
            "#Person 1# tells Tommy that he didn't like the movie.",
            0.003_670_616_541_057_825,
        ),
        Sentence::toxicity(
            "#Person 1# tells that he will kill his friends.",
            0.718_473_672_866_821_3,
        ),
    ];
    check_sentences(&folder, &sentences, 1e-3);
}
