//! Run files with the table `vllm`, against a server that answers as vLLM does.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rlaif_core::Fault as _;
use rlaif_models::{LanguageModel, LoadOptions};
use rlaif_run::{
    DistillFile, DpoFile, PpoFile, Recipe, ReinforceFile, RunError, RunRequest, train,
};
use rlaif_testing::alone;
use rlaif_text::HfTokenizer;
use serde_json::Value;
use tch::{Device, Kind};

use crate::vllm_server::{Fault, Vllm};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/summary-llama").canonicalize().unwrap()
}

fn server() -> Vllm {
    let model = LanguageModel::load(&folder(), LoadOptions::new(Device::Cpu, Kind::Float)).unwrap();
    Vllm::start(model, HfTokenizer::from_folder(folder()).unwrap())
}

/// A place with prompts, and with a run file of these tables.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let prompts: String =
            (0..8).map(|i| format!("{{\"prompt\": \"The number {i} says\"}}\n")).collect();
        fs::write(place.path().join("prompts.jsonl"), prompts).unwrap();
        Self(place)
    }

    fn out(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn train<R: Recipe>(&self, name: &str, tables: &str, set: &[&str]) -> Result<(), RunError> {
        let file = self.0.path().join(format!("{name}.toml"));
        let text = format!("[model]\npath = \"{}\"\n{tables}", folder().display());
        fs::write(&file, text).unwrap();
        train::<R>(&RunRequest {
            config: Some(file),
            out: Some(self.out(name)),
            set: set.iter().map(|set| (*set).to_owned()).collect(),
            ..RunRequest::default()
        })
    }

    fn metrics(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.out(name).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

const PLACEMENT: &str = "[placement]\ndevice = \"cpu\"\nthreads = 1\n";

/// The tables of an algorithm with prompts and a reward.
fn tables(place: &Place, server: &Vllm, algorithm: &str, section: &str) -> String {
    format!(
        "{PLACEMENT}[data]\nprompts = \"{}\"\n[reward]\nkind = \"length\"\nshortest = 1\nlongest = 4\nper = 4.0\n\
         [vllm]\nurls = [\"{}\"]\nretries = 2\nlongest_wait_s = 0.05\n\
         [{algorithm}]\n{section}\n[{algorithm}.generation]\nmax_new_tokens = 6\n[{algorithm}.optimizer]\nlr = 1e-4\n",
        place.out("prompts.jsonl").display(),
        server.url
    )
}

#[test]
fn reinforce_samples_on_a_server_with_the_weights_of_each_step() {
    let _alone = alone();
    let (place, server) = (Place::new(), server());
    let section = "algorithm = \"grpo\"\nsteps = 3\nbatch_size = 8\ngroup_size = 4\nkl = \"none\"";
    let run = tables(&place, &server, "reinforce", section);
    place.train::<ReinforceFile>("whole", &run, &[]).unwrap();
    let metrics = place.metrics("whole");
    assert_eq!(metrics.len(), 3);
    for row in &metrics {
        assert!(row["objective/mismatch_kl"].as_f64().unwrap() < 1e-6, "{row}");
    }
    assert_eq!(server.calls("/collective_rpc").len(), 3);
    assert!(server.calls("/v1/completions").iter().all(|body| body["n"] == 4));
    let loaded = server.calls("/collective_rpc").pop().unwrap();
    let loaded = loaded["kwargs"]["weights_path"].as_str().unwrap().to_owned();
    assert_eq!(Path::new(&loaded), place.out("whole").join("sampler/version-2"));
    assert!(Path::new(&loaded).join("tokenizer.json").exists());
    let log = fs::read_to_string(place.out("whole").join("log.txt")).unwrap();
    assert!(log.contains("sampled by vLLM at") && log.contains("whole weights"), "{log}");

    // A server that computes other weights than it was given ends the run at its first step, and nothing is trained.
    let set = ["vllm.max_mismatch_kl=1e-15"];
    let error = place.train::<ReinforceFile>("far", &run, &set).unwrap_err();
    assert!(rlaif_core::with_causes(&error).contains("max_mismatch_kl"), "{error}");
}

#[test]
fn adapters_of_ppo_and_episodes_are_sampled_on_a_server() {
    let _alone = alone();
    let (place, server) = (Place::new(), server());
    let section = "steps = 2\nbatch_size = 4\nminibatch_size = 4\nepochs = 1";
    let lora = format!("[model.lora]\nrank = 2\n{}", tables(&place, &server, "ppo", section));
    place.train::<PpoFile>("ppo", &lora, &[]).unwrap();
    assert_eq!(place.metrics("ppo").len(), 2);
    assert_eq!(server.calls("/v1/load_lora_adapter").len(), 2);
    assert!(server.calls("/collective_rpc").is_empty());
    assert!(place.metrics("ppo")[1]["objective/sampler_gap"].as_f64().unwrap() < 1e-3);

    let before = server.calls("/v1/completions").len();
    let game =
        format!("{lora}[environment]\nkind = \"guess\"\nhigh = 3\n[episodes]\nmax_turns = 2\n");
    place.train::<PpoFile>("episodes", &game, &["ppo.steps=1"]).unwrap();
    assert!(place.metrics("episodes")[0]["episodes/turns"].as_f64().unwrap() > 0.);
    assert!(server.calls("/v1/completions").len() > before);
}

#[test]
fn distillation_and_online_preferences_sample_on_a_server() {
    let _alone = alone();
    let (place, server) = (Place::new(), server());
    let prompts = place.out("prompts.jsonl");
    let vllm = format!("[vllm]\nurls = [\"{}\"]\n", server.url);
    let tables = format!(
        "{PLACEMENT}[data]\nprompts = \"{}\"\n{vllm}[distill]\nsteps = 2\nbatch_size = 4\n\
         [distill.generation]\nmax_new_tokens = 6\n",
        prompts.display()
    );
    let set = [format!("teacher={}", folder().display())];
    place.train::<DistillFile>("distill", &tables, &[&set[0]]).unwrap();
    assert_eq!(server.calls("/collective_rpc").len(), 2);

    let before = server.calls("/v1/completions").len();
    let tables = format!(
        "{PLACEMENT}[data]\ntrain = \"{}\"\n{vllm}[online]\nreward = {{ kind = \"length\", shortest = 1, longest = 4, per = 4.0 }}\n\
         [online.pairs.generation]\nmax_new_tokens = 6\n[dpo.reference]\ntype = \"live\"\n[train]\nsteps = 1\nbatch_size = 4\n",
        prompts.display()
    );
    place.train::<DpoFile>("dpo", &tables, &[]).unwrap();
    assert!(server.calls("/v1/completions").len() > before);
    let error = place.train::<DpoFile>("offline", &format!("{PLACEMENT}{vllm}"), &[]).unwrap_err();
    assert!(error.to_string().contains("`vllm` is given without `[online]`"), "{error}");
}

#[test]
fn servers_that_do_not_fit_are_refused_before_anything_is_written() {
    let _alone = alone();
    let (place, server) = (Place::new(), server());
    let section = "algorithm = \"grpo\"\nsteps = 1\nbatch_size = 8\ngroup_size = 4";
    let run = tables(&place, &server, "reinforce", section);
    for (set, says, users) in [
        ("vllm.urls=[]", "`vllm.urls` is empty", true),
        ("vllm.urls=['gpu-1:8000']", "`vllm.urls` is gpu-1:8000", true),
        ("vllm.retries=1000", "`vllm.retries` is 1000", true),
        ("vllm.model=other", "does not serve the model `other`", true),
        ("vllm.api_key_env=NO_KEY", "NO_KEY, which should hold a key, is not set", true),
        ("vllm.urls=['http://127.0.0.1:1']", "Connection refused", false),
        ("vllm.temperature=1", "unknown key", true),
    ] {
        let error = place.train::<ReinforceFile>("refused", &run, &[set]).unwrap_err();
        let told = rlaif_core::with_causes(&error);
        assert!(told.contains(says), "{set}: {told}");
        assert_eq!(error.is_users(), users, "{set}: {told}");
        assert!(!place.out("refused").exists(), "{set}");
    }
    server.state().shift = 1;
    let error = place.train::<ReinforceFile>("refused", &run, &[]).unwrap_err();
    assert!(error.to_string().contains("another tokenizer") && error.is_users(), "{error}");
    server.state().shift = 0;
    server.fail("/v1/models", 100, Fault::Garbage);
    let error = place.train::<ReinforceFile>("refused", &run, &[]).unwrap_err();
    assert!(error.to_string().contains("not the answer of vLLM"), "{error}");
    assert!(!place.out("refused").exists());
}
