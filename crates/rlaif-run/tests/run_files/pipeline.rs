//! Pipelines: what is refused before anything runs, and what a stage's key depends on.

use std::{collections::BTreeMap, fs, path::Path};

use rlaif_run::{Pipeline, PipelineRequest, RunError};

fn open(folder: &Path, text: &str, set: &[&str]) -> Result<Pipeline, RunError> {
    let file = folder.join("p.toml");
    fs::write(&file, text).unwrap();
    let set = set.iter().map(|&set| set.to_owned()).collect();
    Pipeline::open(&PipelineRequest { file, out: Some(folder.join("out")), set })
}

fn label(data: &str) -> String {
    format!(
        "command = 'label'\ndata.file = '{data}'\nfacets = [{{ name = 'brief', reward = {{ kind = \
         'length', longest = 1, per = 1.0 }} }}]\n"
    )
}

#[test]
fn stages_that_cannot_be_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("rows.jsonl"), "{\"prompt\":\"p\",\"responses\":[\"a\",\"b\"]}\n")
        .unwrap();
    let rows = folder.join("rows.jsonl").display().to_string();
    let sft = |model: &str, data: &str| {
        format!("command = 'sft'\nmodel.path = '{model}'\ndata.train = '{data}'\n")
    };
    for (text, says) in [
        ("[stages]".to_owned(), "`stages`: there is no stage"),
        (
            format!(
                "[stages.a]\n{}[stages.b]\n{}[stages.c]\n{}",
                sft("m", "@c.rows"),
                sft("@a", &rows),
                label("@b.run")
            ),
            "`stages`: these stages need each other: a -> c -> b -> a",
        ),
        (format!("[stages.a]\n{}", sft("@a", &rows)), "need each other: a -> a"),
        (
            format!("[stages.a]\n{}", label("@b")),
            "`stages.a.data.file`: `@b` names no stage (known: `a`)",
        ),
        (
            format!("[stages.a]\n{}[stages.b]\n{}", label(&rows), sft("m", "@a.model")),
            "`stages.b.data.train`: `@a.model`: a stage of `label` has no such output (known: `@a.rows`, `@a.lessons`, `@a.lists`)",
        ),
        (
            "[stages.a]\ncommand = 'train'".to_owned(),
            "`stages.a.command`: unknown command `train` (known: `sft`,",
        ),
        (
            "[stages.a]\nseed = 1".to_owned(),
            "`stages.a.command`: is missing; expected one of `sft`",
        ),
        (
            "[stages.a]\ncommand = 'sft'\nmodel.path = 'm'".to_owned(),
            "`stages.a`: missing field `data`",
        ),
        (
            format!("[stages.a]\n{}train.stpes = 3\n", sft("m", &rows)),
            "`stages.a.train.stpes`: unknown key `stpes`; did you mean `steps`?",
        ),
        (
            format!("[stages.a]\n{}", label("gone.jsonl")),
            "`stages.a`: there is no file `gone.jsonl`",
        ),
        (
            format!(
                "[stages.a]\ncommand = 'ppo'\nmodel.path = 'm'\ndata.prompts = '{rows}'\ntrain.keep = 0\n\
                 reward = {{ kind = 'constant', value = 1.0 }}\n"
            ),
            "`stages.a.train.keep` is 0",
        ),
        ("[stages.'a b']\ncommand = 'sft'".to_owned(), "`stages.a b`: is not a name"),
        (
            "[stages.a]\ncommand = 'exam'\nout = 'x'\ndata.file = 'x'\n".to_owned(),
            "`stages.a.out` is x",
        ),
        ("[stage.a]\ncommand = 'sft'".to_owned(), "unknown key `stage`; did you mean `stages`?"),
    ] {
        let error = open(folder, &text, &[]).unwrap_err().to_string();
        assert!(error.contains(says), "{text}\n{error}");
    }
    let rounds = |more: &str, stages: &str| {
        format!("[rounds]\nstages = ['a']\nmax_rounds = 2\n{more}{stages}")
    };
    for (text, says) in [
        (
            rounds("", &format!("[stages.a]\n{}", sft("@previous.a", &rows))),
            "`stages.a.model.path`: `@previous.a`: the first round has none; add `first.a` to [rounds]",
        ),
        (
            rounds("", &format!("[stages.a]\n{}", sft("@previous.b", &rows))),
            "`@previous.b`: `b` is not among `rounds.stages`",
        ),
        (
            rounds("", &format!("[stages.b]\n{}", sft("m", &rows))),
            "`rounds.stages`: `a` is not a stage",
        ),
        (
            rounds(
                "gain = { stage = 'a', metric = 'x' }\n",
                &format!("[stages.a]\n{}", sft("m", &rows)),
            ),
            "`rounds.gain.stage`: `a` is not a repeated stage of `eval`",
        ),
    ] {
        let error = open(folder, &text, &[]).unwrap_err().to_string();
        assert!(error.contains(says), "{text}\n{error}");
    }
    // Nothing was made.
    assert!(!folder.join("out").exists());
}

/// The keys of all stages by name.
fn keys(folder: &Path, text: &str, set: &[&str]) -> BTreeMap<String, String> {
    let pipeline = open(folder, text, set).unwrap();
    pipeline.stages().iter().map(|stage| (stage.name.clone(), stage.key.clone())).collect()
}

#[test]
fn the_key_of_a_stage_depends_on_settings_files_and_the_stages_that_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let rows = folder.join("rows.jsonl");
    fs::write(&rows, "{\"prompt\":\"p\",\"responses\":[\"a\",\"b\"]}\n").unwrap();
    let base = folder.join("base.toml");
    fs::write(&base, "model.path = 'org/model'\n[train]\nsteps = 3\n").unwrap();
    let text = format!(
        "[stages.pairs]\n{}[stages.train]\ncommand = 'dpo'\nconfig = '{}'\ndata.train = '@pairs'\n\
         [stages.apart]\n{}",
        label(&rows.display().to_string()),
        base.display(),
        label("builtin:train"),
    );
    let before = keys(folder, &text, &[]);
    let changed = |now: &BTreeMap<String, String>| -> Vec<String> {
        before.keys().filter(|name| before[*name] != now[*name]).cloned().collect()
    };
    assert_eq!(changed(&keys(folder, &text, &[])), [""; 0]);
    // The stage, and what follows it.
    let of = |set: &str| changed(&keys(folder, &text, &[set]));
    assert_eq!(of("stages.pairs.combine=vote"), ["pairs", "train"]);
    assert_eq!(of("stages.train.train.steps=4"), ["train"]);
    // A default that is written out, and settings without effect on the result.
    assert_eq!(of("stages.pairs.combine=mean"), [""; 0]);
    assert_eq!(of("stages.train.train.keep=7"), [""; 0]);
    assert_eq!(of("stages.train.placement.threads=1"), [""; 0]);
    // The content of files, not their names.
    fs::write(&base, "model.path = 'org/other'\n[train]\nsteps = 3\n").unwrap();
    assert_eq!(changed(&keys(folder, &text, &[])), ["train"]);
    fs::write(&base, "model.path = 'org/model'\n[train]\nsteps = 3\n").unwrap();
    let copy = folder.join("copy.jsonl");
    fs::copy(&rows, &copy).unwrap();
    let moved = text.replace(&rows.display().to_string(), &copy.display().to_string());
    assert_eq!(changed(&keys(folder, &moved, &[])), [""; 0]);
    fs::write(&rows, "{\"prompt\":\"q\",\"responses\":[\"a\",\"b\"]}\n").unwrap();
    assert_eq!(changed(&keys(folder, &text, &[])), ["pairs", "train"]);
}

#[test]
fn the_plan_has_rows_costs_and_the_order_of_stages() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let text = "[stages.z]\ncommand = 'candidates'\ndata = { file = 'builtin:held-out', take = 100 }\n\
                [[stages.z.writers]]\nresponses = 2\nsampling = { temperature = 1.0, max_new_tokens = 100 }\n\
                api = { kind = 'anthropic', model = 'm' }\n\
                price = { input_per_million = 1.0, output_per_million = 5.0 }\n\
                budget = { money = 0.5 }\n\
                [stages.a]\ncommand = 'label'\ndata.file = '@z'\n\
                judge = { api = { kind = 'anthropic', model = 'm' } }\nfacets = [{ facet = 'helpful' }]\n";
    let pipeline = open(folder, text, &[]).unwrap();
    let plan = pipeline.plan();
    // 200 texts of 200 tokens in and 100 out.
    assert_eq!(
        plan,
        [
            "z  candidates (new); 100 prompts, 200 responses; cost about 0.14; budget 0.50",
            "a  label (new); after z; 100 prompts or pairs",
            "cost of what is left: about 0.14",
        ]
    );
}

#[test]
fn rounds_repeat_stages_on_the_outputs_of_the_round_before() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[rounds]\nstages = ['answers', 'dpo']\nmax_rounds = 3\nfirst = { dpo = 'org/first' }\n\
                [stages.answers]\ncommand = 'candidates'\ndata.file = 'builtin:train'\n\
                writers = [{ api = { kind = 'policy', model = '@previous.dpo' } }]\n\
                [stages.dpo]\ncommand = 'dpo'\nmodel.path = '@previous.dpo.model'\ndata.train = '@answers'\n\
                [stages.end]\ncommand = 'sft'\nmodel.path = '@dpo-3'\ndata.train = 'builtin:train'\n";
    let pipeline = open(folder.path(), text, &[]).unwrap();
    let found: Vec<(&str, Vec<String>)> =
        pipeline.stages().iter().map(|stage| (stage.name.as_str(), stage.needs.clone())).collect();
    let expected: [(&str, &[&str]); 7] = [
        ("answers-1", &[]),
        ("dpo-1", &["answers-1"]),
        ("answers-2", &["dpo-1"]),
        ("dpo-2", &["answers-2", "dpo-1"]),
        ("answers-3", &["dpo-2"]),
        ("dpo-3", &["answers-3", "dpo-2"]),
        ("end", &["dpo-3"]),
    ];
    let expected = expected.map(|(name, needs)| (name, needs.iter().map(|&n| n.into()).collect()));
    assert_eq!(found, expected);
}
