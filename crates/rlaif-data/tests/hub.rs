//! Hub datasets, from a server on this machine that speaks the hub's protocol.

mod common;

use common::{gzip, parquet};
use rlaif_data::corpora::{DialogSum, Hh, RealToxicityPrompts, RedTeam, Typed};
use rlaif_data::{DataError, HubDataset, Reader};
use rlaif_hub::{Hub, Network, Retry};
use rlaif_hub_testing::{HubServer, Kind};

struct Place {
    server: HubServer,
    cache: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { server: HubServer::start().unwrap(), cache: tempfile::tempdir().unwrap() }
    }

    fn hub(&self, network: Network) -> Hub {
        let retry = Retry { retries: 0, ..Retry::default() };
        let builder = Hub::builder().endpoint(self.server.endpoint()).cache_dir(self.cache.path());
        builder.network(network).retry(retry).build().unwrap()
    }

    fn online(&self) -> Hub {
        self.hub(Network::Online)
    }

    fn commit(&self, id: &str, branch: &str, files: &[(&str, &[u8])]) -> String {
        self.server.commit(Kind::Dataset, id, branch, files)
    }
}

fn pair(name: &str) -> Vec<u8> {
    let row = serde_json::json!({
        "chosen": format!("\n\nHuman: {name}?\n\nAssistant: Yes."),
        "rejected": format!("\n\nHuman: {name}?\n\nAssistant: No."),
    });
    gzip(format!("{row}\n").as_bytes())
}

/// The files of `Anthropic/hh-rlhf`, with one row each.
fn hh() -> Place {
    let place = Place::new();
    let attempt = br#"[{"min_harmlessness_score_transcript": -1.5, "num_params": "52B",
        "model_type": "rlhf", "rating": 3.0, "task_description": "insults",
        "task_descripion_harmlessness_score": 0.5, "tags": null, "is_upworker": true,
        "transcript": "\n\nHuman: Say something mean.\n\nAssistant: No."}]"#;
    let names = [
        "harmless-base/test",
        "harmless-base/train",
        "helpful-base/test",
        "helpful-base/train",
        "helpful-online/train",
        "helpful-rejection-sampled/train",
    ];
    let rows: Vec<_> = names.iter().map(|name| (format!("{name}.jsonl.gz"), pair(name))).collect();
    let attempts = gzip(attempt);
    let mut files: Vec<(&str, &[u8])> =
        rows.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    files.push(("red-team-attempts/red_team_attempts.jsonl.gz", &attempts));
    files.push(("README.md", b"# HH"));
    files.push((".gitattributes", b"*.gz filter=lfs"));
    place.commit("Anthropic/hh-rlhf", "main", &files);
    place
}

fn first_turns(place: &Place, dataset: &HubDataset) -> Vec<String> {
    let read = Reader::new(dataset.source(&place.online()).unwrap()).dataset(Hh::default());
    read.unwrap().records().iter().map(|record| record.first_turn().to_owned()).collect()
}

#[test]
fn hh_is_its_four_subsets_without_the_red_team() {
    let place = hh();
    assert_eq!(
        first_turns(&place, &HubDataset::hh()),
        [
            "harmless-base/train?",
            "helpful-base/train?",
            "helpful-online/train?",
            "helpful-rejection-sampled/train?",
        ]
    );
    assert_eq!(
        first_turns(&place, &HubDataset::hh().split("test")),
        ["harmless-base/test?", "helpful-base/test?"]
    );
    assert_eq!(
        first_turns(&place, &HubDataset::hh().folder("helpful-base")),
        ["helpful-base/train?"]
    );
}

#[test]
fn only_the_files_asked_for_are_downloaded() {
    let place = hh();
    first_turns(&place, &HubDataset::hh().folder("harmless-base").split("test"));
    let files = place.server.requests().into_iter().filter(|r| r.path.contains(".jsonl.gz"));
    assert!(files.into_iter().all(|request| request.path.contains("harmless-base/test")));
}

#[test]
fn red_team_attempts_have_their_own_folder_and_schema() {
    let place = hh();
    let source = HubDataset::red_team().source(&place.online()).unwrap();
    let read = Reader::new(source).dataset(RedTeam).unwrap();
    let attempt = &read.records()[0];
    assert_eq!((attempt.rating, attempt.min_harmlessness_score), (3.0, -1.5));
    assert_eq!(attempt.task_description_harmlessness_score, Some(0.5));
    assert_eq!(attempt.turns().unwrap().count(), 2);
    assert!(attempt.tags.is_empty());
    assert_eq!(attempt.is_upworker, Some(true));
}

#[test]
fn provenance_names_the_dataset_the_file_and_the_commit_and_offline_gives_the_same() {
    let place = Place::new();
    let csv = "id,dialogue,summary,topic\ntrain_0,\"#Person1#: Hi.\n#Person2#: Hello, \"\"friend\"\".\",They greet.,greeting\n";
    let files: [(&str, &[u8]); 3] = [
        ("train.csv", csv.as_bytes()),
        ("validation.csv", b"id,dialogue,summary,topic\nval_0,a,b,c\n"),
        ("test.csv", b"id,dialogue,summary,topic\ntest_0,a,b,c\n"),
    ];
    let commit = place.commit("knkarthick/dialogsum", "main", &files);
    let read = |network| {
        let source = HubDataset::dialogsum().source(&place.hub(network)).unwrap();
        Reader::new(source).dataset(DialogSum).unwrap()
    };
    let online = read(Network::Online);
    assert_eq!(online.records()[0].dialogue, "#Person1#: Hi.\n#Person2#: Hello, \"friend\".");
    assert_eq!(online.records()[0].id, "train_0");
    let origin = &online.provenance().origins[0];
    assert_eq!(origin.source, "knkarthick/dialogsum/train.csv");
    assert_eq!(origin.revision.as_deref(), Some(commit.as_str()));
    assert_eq!(read(Network::Offline), online);

    let never = HubDataset::dialogsum().split("test").source(&place.hub(Network::Offline));
    assert!(matches!(never.unwrap_err(), DataError::Hub { .. } | DataError::HubLayout { .. }));
}

#[test]
fn a_pinned_revision_is_read_though_the_branch_went_on() {
    let place = Place::new();
    let id = "knkarthick/dialogsum";
    let rows = |summary: &str| format!("dialogue,summary\na,{summary}\n").into_bytes();
    let old = place.commit(id, "main", &[("train.csv", &rows("old"))]);
    place.commit(id, "main", &[("train.csv", &rows("new"))]);
    let summary = |dataset: HubDataset| {
        let source = dataset.source(&place.online()).unwrap();
        Reader::new(source).dataset(DialogSum).unwrap().records()[0].summary.clone()
    };
    assert_eq!(summary(HubDataset::dialogsum()), "new");
    assert_eq!(summary(HubDataset::dialogsum().revision(old)), "old");
}

#[test]
fn files_that_name_no_split_are_the_train_split() {
    let place = Place::new();
    let row = br#"{"filename":"0766186-bc7f2a64cb271f5f56cf6f25570cd9ed.txt","begin":340,"end":564,"challenging":false,
        "prompt":{"text":"but one day","toxicity":0.1,"severe_toxicity":null},"continuation":{"text":", ","toxicity":null}}"#;
    let row: Vec<u8> = row.iter().copied().filter(|byte| *byte != b'\n').collect();
    place.commit(
        "allenai/real-toxicity-prompts",
        "main",
        &[("prompts.jsonl", &row), ("README.md", b"x")],
    );
    let source = HubDataset::real_toxicity_prompts().source(&place.online()).unwrap();
    let read = Reader::new(source).dataset(RealToxicityPrompts).unwrap();
    let prompt = &read.records()[0];
    assert_eq!(prompt.id, "0766186-bc7f2a64cb271f5f56cf6f25570cd9ed.txt:340-564");
    assert_eq!(prompt.prompt.scores.toxicity, Some(0.1));
    assert_eq!(prompt.prompt.scores.severe_toxicity, None);
    assert_eq!(prompt.continuation.scores.toxicity, None);
    assert_eq!(prompt.prompt_record().reference.as_deref(), Some(", "));
}

#[test]
fn the_conversion_to_parquet_is_read_from_its_branch() {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Row {
        text: String,
    }
    let place = Place::new();
    let rows = |texts: &[&str]| {
        parquet(&texts.iter().map(|text| ((*text).to_owned(), 0, None)).collect::<Vec<_>>())
    };
    let (a, b, test) = (rows(&["a"]), rows(&["b", "c"]), rows(&["t"]));
    place.commit("org/any", "main", &[("script.py", b"not data")]);
    place.commit(
        "org/any",
        "refs/convert/parquet",
        &[
            ("default/train/0000.parquet", &a),
            ("default/train/0001.parquet", &b),
            ("default/test/0000.parquet", &test),
        ],
    );
    let dataset = HubDataset::new("org/any").converted(None);
    let source = dataset.source(&place.online()).unwrap();
    let read = Reader::new(source).dataset(Typed::<Row>::new()).unwrap();
    let texts: String = read.records().iter().map(|row| row.text.as_str()).collect();
    assert_eq!(texts, "abc");
    let error = dataset.split("validation").source(&place.online()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the dataset `org/any` has no split `validation`; it has `test`, `train`"
    );

    place.commit(
        "org/two",
        "refs/convert/parquet",
        &[("x/train/0.parquet", &a), ("y/train/0.parquet", &b)],
    );
    let two = HubDataset::new("org/two");
    let error = two.clone().converted(None).source(&place.online()).unwrap_err();
    assert!(error.to_string().ends_with("it has `x`, `y`"), "{error}");
    assert!(two.converted(Some("y")).source(&place.online()).is_ok());
}

#[test]
fn what_a_dataset_does_not_have_is_told_with_what_it_has() {
    let place = hh();
    let error = HubDataset::hh().folder("harmless").source(&place.online()).unwrap_err();
    let DataError::HubLayout { what: "folder", found, .. } = &error else { panic!("{error}") };
    assert_eq!(found.len(), 5);
    let error = HubDataset::hh().split("validation").source(&place.online()).unwrap_err();
    assert!(matches!(error, DataError::HubLayout { what: "split", .. }), "{error}");
    let error = HubDataset::new("no/such").source(&place.online()).unwrap_err();
    assert!(matches!(error, DataError::Hub { .. }), "{error}");
}

#[test]
fn a_git_lfs_pointer_on_the_hub_is_called_one() {
    let place = Place::new();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    place.commit("org/pointer", "main", &[("train.jsonl", pointer)]);
    let source = HubDataset::new("org/pointer").source(&place.online()).unwrap();
    let error = Reader::new(source).dataset(Hh::default()).unwrap_err();
    assert!(matches!(error, DataError::LfsPointer { .. }), "{error}");
    assert!(error.to_string().starts_with("org/pointer/train.jsonl is a Git LFS pointer"));
}
