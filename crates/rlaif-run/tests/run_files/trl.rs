//! Run files from TRL's configurations: every field has a counterpart, every key exists, and the result is a run file.

use std::{collections::BTreeSet, num::NonZeroUsize};

use rlaif_core::Fault;
use rlaif_run::{
    Counterpart, DpoFile, ImportTrl, ImportedTrl, PpoFile, ReinforceFile, RewardFile, SftFile,
    TrlError, TrlTrainer,
};
use serde_json::{Value, json};
use toml::toml;

fn import(trainer: TrlTrainer, config: &Value) -> Result<ImportedTrl, TrlError> {
    ImportTrl { trainer, processes: NonZeroUsize::MIN }.read("config.json", &config.to_string())
}

fn imported(trainer: TrlTrainer, config: &Value) -> ImportedTrl {
    import(trainer, config).unwrap_or_else(|error| panic!("{trainer}: {error}"))
}

/// The run file with values for what a configuration cannot give.
fn completed(imported: &ImportedTrl) -> toml::Table {
    let mut table: toml::Table = imported.to_toml().parse().unwrap();
    for (key, _) in &imported.needed {
        let value = match *key {
            "reward" => toml! { kind = "length" longest = 20 per = 10.0 }.into(),
            "reinforce.steps" | "ppo.steps" => 10.into(),
            _ => toml::Value::from("given"),
        };
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        if section.is_empty() {
            table.insert(name.to_owned(), value);
        } else {
            let section = table.entry(section).or_insert_with(|| toml::Table::new().into());
            section.as_table_mut().unwrap().insert(name.to_owned(), value);
        }
    }
    table
}

fn checked(trainer: TrlTrainer, imported: &ImportedTrl) {
    let table = completed(imported);
    let read = match trainer {
        TrlTrainer::Ppo => table.try_into().map(|file: PpoFile| file.ppo.check().unwrap()),
        TrlTrainer::Dpo | TrlTrainer::Kto => {
            table.try_into().map(|file: DpoFile| file.check().unwrap())
        }
        TrlTrainer::Grpo | TrlTrainer::Rloo => {
            table.try_into().map(|file: ReinforceFile| file.reinforce.check().unwrap())
        }
        TrlTrainer::Reward => table.try_into().map(|file: RewardFile| file.learn.check().unwrap()),
        TrlTrainer::Sft => table.try_into().map(|file: SftFile| file.learn.check().unwrap()),
    };
    read.unwrap_or_else(|error| panic!("{trainer}: {error}\n{}", imported.to_toml()));
}

#[test]
fn every_field_of_trl_has_a_counterpart_or_a_reason() {
    for trainer in TrlTrainer::ALL {
        let imported = imported(trainer, &json!({}));
        let without: Vec<&str> = imported
            .fields
            .iter()
            .filter(|field| {
                field.counterpart == Counterpart::Nothing("rlaif has nothing like it".to_owned())
            })
            .map(|field| field.name.as_str())
            .collect();
        assert!(without.is_empty(), "{trainer}: {without:?}");
    }
}

#[test]
fn every_key_is_one_of_the_command() {
    for trainer in TrlTrainer::ALL {
        let known: BTreeSet<String> =
            rlaif_run::keys(trainer.command()).into_iter().map(|key| key.path).collect();
        // A key may be a table of keys, or a part of a value that is one key.
        let exists = |path: &str| {
            let below = format!("{path}.");
            let mut above = path.match_indices('.').map(|(at, _)| &path[..at]);
            known.contains(path)
                || known.iter().any(|key| key.starts_with(&below))
                || above.any(|parent| known.contains(parent))
        };
        for field in imported(trainer, &json!({})).fields {
            if let Counterpart::Keys(keys) = field.counterpart {
                for key in keys {
                    assert!(
                        exists(&key),
                        "{trainer}: `{}` becomes `{key}`, which does not exist",
                        field.name
                    );
                }
            }
        }
    }
}

#[test]
fn the_defaults_of_trl_make_a_run_file_of_each_trainer() {
    for trainer in TrlTrainer::ALL {
        let imported = imported(trainer, &json!({}));
        checked(trainer, &imported);
        assert!(imported.needed.iter().any(|(key, _)| *key == "model.path"), "{trainer}");
    }
}

#[test]
fn every_loss_of_dpo_is_one_of_ours() {
    let losses = [
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_unpaired",
        "discopop",
        "apo_zero",
        "apo_down",
        "sft",
        "sigmoid_norm",
    ];
    for loss in losses {
        let config =
            json!({"loss_type": loss, "label_smoothing": 0.1, "f_divergence_type": "reverse_kl"});
        checked(TrlTrainer::Dpo, &imported(TrlTrainer::Dpo, &config));
    }
    let both = json!({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.25]});
    let file: DpoFile = completed(&imported(TrlTrainer::Dpo, &both)).try_into().unwrap();
    let terms = serde_json::to_value(&file.dpo.objective).unwrap();
    assert_eq!(terms["pairs"]["terms"][1]["weight"], 0.25);
    assert_eq!(terms["pairs"]["terms"][1]["type"], "nll");
    checked(
        TrlTrainer::Kto,
        &imported(TrlTrainer::Kto, &json!({"loss_type": "apo_zero_unpaired"})),
    );
}

/// The settings of runs that are equal to TRL's (`crates/rlaif-reinforce/tests/suite/parity.rs`).
#[test]
fn settings_of_the_group_relative_family_are_those_of_the_runs_compared_with_trl() {
    let group = r#"{"group_mean":{"scale":{"group":{"eps":0.0001}}}}"#;
    let centred = r#"{"group_mean":{"scale":"none"}}"#;
    let clipped = r#"{"clipped":{"low":0.2,"high":0.2}}"#;
    for (name, config, advantage, surrogate, average, ratio, kl) in [
        (
            "grpo",
            json!({"loss_type": "grpo", "beta": 0.04}),
            group,
            clipped,
            r#""responses""#,
            "token",
            r#"{"loss":{"coef":0.04,"estimator":"k3","weight":"ratio"}}"#,
        ),
        (
            "dapo",
            json!({"loss_type": "dapo", "epsilon_high": 0.28}),
            group,
            r#"{"clipped":{"low":0.2,"high":0.28}}"#,
            r#""tokens""#,
            "token",
            r#""none""#,
        ),
        (
            "dr_grpo",
            json!({"loss_type": "dr_grpo", "scale_rewards": "none", "max_completion_length": 8}),
            centred,
            clipped,
            r#"{"constant":8}"#,
            "token",
            r#""none""#,
        ),
        (
            "bnpo",
            json!({"loss_type": "bnpo", "beta": 0.04, "use_bias_correction_kl": false}),
            group,
            clipped,
            r#""tokens""#,
            "token",
            r#"{"loss":{"coef":0.04,"estimator":"k3","weight":"none"}}"#,
        ),
        (
            "gspo",
            json!({
                "loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4
            }),
            group,
            r#"{"clipped":{"low":0.0003,"high":0.0004}}"#,
            r#""responses""#,
            "sequence",
            r#""none""#,
        ),
        (
            "cispo",
            json!({"loss_type": "cispo", "epsilon_high": 5.0}),
            group,
            r#"{"truncated":{"least":0.0,"most":5.0}}"#,
            r#""tokens""#,
            "token",
            r#""none""#,
        ),
        (
            "sapo",
            json!({"loss_type": "sapo"}),
            group,
            r#"{"soft_gate":{"positive":1.0,"negative":1.05}}"#,
            r#""responses""#,
            "token",
            r#""none""#,
        ),
        (
            "vespo",
            json!({"loss_type": "vespo"}),
            group,
            r#"{"gamma":{"positive":[2.0,3.0],"negative":[3.0,2.0]}}"#,
            r#""tokens""#,
            "product",
            r#""none""#,
        ),
        (
            "delta",
            json!({"loss_type": "grpo", "delta": 1.5, "scale_rewards": "batch"}),
            r#"{"group_mean":{"scale":{"batch":{"eps":0.0001}}}}"#,
            r#"{"clipped":{"low":0.2,"high":0.2,"dual_clip":1.5}}"#,
            r#""responses""#,
            "token",
            r#""none""#,
        ),
    ] {
        let imported = imported(TrlTrainer::Grpo, &config);
        checked(TrlTrainer::Grpo, &imported);
        let file: ReinforceFile = completed(&imported).try_into().unwrap();
        let combination = file.reinforce.settings().combination;
        let text = |value: &dyn Fn() -> serde_json::Result<String>| value().unwrap();
        assert_eq!(text(&|| serde_json::to_string(&combination.advantage)), advantage, "{name}");
        let objective = combination.objective;
        assert_eq!(text(&|| serde_json::to_string(&objective.surrogate)), surrogate, "{name}");
        assert_eq!(text(&|| serde_json::to_string(&objective.average)), average, "{name}");
        assert_eq!(
            text(&|| serde_json::to_string(&objective.ratio)),
            format!("\"{ratio}\""),
            "{name}"
        );
        assert_eq!(text(&|| serde_json::to_string(&objective.kl)), kl, "{name}");
    }
    let rloo = imported(TrlTrainer::Rloo, &json!({"normalize_advantages": true}));
    let file: ReinforceFile = completed(&rloo).try_into().unwrap();
    let combination = file.reinforce.settings().combination;
    let advantage = serde_json::to_string(&combination.advantage).unwrap();
    assert_eq!(advantage, r#"{"leave_one_out":{"scale":{"whitened":{"eps":0.0001}}}}"#);
    assert_eq!(serde_json::to_string(&combination.objective.ratio).unwrap(), "\"product\"");
}

/// TRL counts responses per process and pass; rlaif those of a rollout, of a step and of a pass.
#[test]
fn sizes_of_the_group_relative_family_are_those_of_trl() {
    let config = json!({
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "steps_per_generation": 8,
        "num_generations": 8, "num_iterations": 2, "max_steps": 100, "warmup_ratio": 0.1
    });
    let import = ImportTrl { trainer: TrlTrainer::Grpo, processes: NonZeroUsize::new(2).unwrap() };
    let imported = import.read("config.json", &config.to_string()).unwrap();
    let table = &imported.table["reinforce"];
    let whole = |key: &str| table[key].as_integer().unwrap();
    assert_eq!([whole("batch_size"), whole("minibatch_size")], [64, 32]);
    assert_eq!([whole("microbatch_size"), whole("group_size"), whole("epochs")], [4, 8, 2]);
    // Four optimizer steps to a rollout.
    assert_eq!(whole("steps"), 25);
    assert_eq!(table["optimizer"]["warmup_steps"].as_integer(), Some(10));
    let uneven = json!({"per_device_train_batch_size": 4, "steps_per_generation": 3, "gradient_accumulation_steps": 2});
    let error = import.read("config.json", &uneven.to_string()).unwrap_err();
    assert!(error.to_string().contains("`steps_per_generation`: found 3"), "{error}");
}

#[test]
fn the_ppo_of_trl_0_11_keeps_its_settings() {
    let config = json!({
        "model_name": "gpt2", "batch_size": 16, "mini_batch_size": 2, "gradient_accumulation_steps": 4,
        "adap_kl_ctrl": false, "init_kl_coef": 0.05, "early_stopping": true, "target_kl": 0.5,
        "use_score_scaling": true, "use_score_norm": true, "score_clip": 2.0, "kl_penalty": "mse"
    });
    let imported = imported(TrlTrainer::Ppo, &config);
    checked(TrlTrainer::Ppo, &imported);
    let file: PpoFile = completed(&imported).try_into().unwrap();
    assert_eq!(file.model.path, "gpt2");
    let ppo = &file.ppo;
    assert_eq!([ppo.batch_size, ppo.minibatch_size, ppo.microbatch_size], [16, 8, 2]);
    assert_eq!(
        serde_json::to_value(ppo.kl).unwrap(),
        json!({"estimator": "k2", "control": {"fixed": {"coef": 0.05}}})
    );
    assert_eq!(ppo.target_kl, Some(0.5));
    assert_eq!(serde_json::to_value(ppo.scores).unwrap()["scaling"], "normalize");
    assert_eq!(ppo.optimizer.max_grad_norm, 0.);
    assert_eq!(ppo.optimizer.lr, 1.41e-5);
}

#[test]
fn yaml_reads_numbers_as_the_scripts_do() {
    let text = "# DPO\nmodel_name_or_path: m\nlearning_rate: 5e-7\nuse_peft: true\nlora_r: 16\nuse_rslora: true\n\
                lora_target_modules: [q_proj, v_proj]\nbf16: true\nmax_steps: 200\nwarmup_steps: 0.05\n";
    let import = ImportTrl { trainer: TrlTrainer::Dpo, processes: NonZeroUsize::MIN };
    let table = import.read("dpo.yaml", text).unwrap().table;
    assert_eq!(table["dpo"]["optimizer"]["lr"].as_float(), Some(5e-7));
    assert_eq!(table["dpo"]["optimizer"]["warmup_steps"].as_integer(), Some(10));
    assert_eq!(table["train"]["steps"].as_integer(), Some(200));
    assert_eq!(table["model"]["dtype"].as_str(), Some("bf16"));
    // α √r / r = α / √r, the scale of rsLoRA.
    assert_eq!(table["model"]["lora"]["alpha"].as_float(), Some(128.));
    assert_eq!(table["model"]["lora"]["targets"].as_array().unwrap().len(), 2);
}

#[test]
fn differences_are_told_only_where_they_are() {
    let names = |config: Value| -> Vec<String> {
        let imported = imported(TrlTrainer::Dpo, &config);
        imported.differences().map(|(name, _)| name.to_owned()).collect()
    };
    assert_eq!(names(json!({})), Vec::<String>::new());
    let changed =
        json!({"optim": "adafactor", "neftune_noise_alpha": 5, "logging_steps": 1, "fp16": true});
    assert_eq!(names(changed), ["fp16", "neftune_noise_alpha", "optim"]);
    let text = imported(TrlTrainer::Dpo, &json!({"optim": "adafactor"})).to_toml();
    assert!(text.contains("# Not as in TRL: `optim`: always AdamW\n"), "{text}");
    assert!(text.contains("# To be set: `data.train`"), "{text}");
}

#[test]
fn bad_configurations_are_refused_by_name() {
    for (trainer, text, said) in [
        (TrlTrainer::Dpo, r#"{"learning_rat": 1}"#, "did you mean `learning_rate`?"),
        (
            TrlTrainer::Ppo,
            r#"{"loss_type": "grpo"}"#,
            "expected a field of PPOConfig of TRL 0.11.4",
        ),
        (
            TrlTrainer::Sft,
            r#"{"learning_rate": "fast"}"#,
            "`learning_rate`: found \"fast\", expected a finite number",
        ),
        (TrlTrainer::Sft, r#"{"num_train_epochs": 0.5}"#, "a whole number of epochs"),
        (
            TrlTrainer::Sft,
            r#"{"lr_scheduler_type": "polynomial"}"#,
            "expected constant, constant_with_warmup",
        ),
        (
            TrlTrainer::Sft,
            r#"{"per_device_train_batch_size": 18446744073709551615}"#,
            "a whole number of at least 1",
        ),
        (TrlTrainer::Grpo, r#"{"num_generations": 3}"#, "a divisor of the 8 responses"),
        (TrlTrainer::Grpo, r#"{"loss_type": "cispo"}"#, "`epsilon_high`: found null"),
        (
            TrlTrainer::Dpo,
            r#"{"loss_type": ["sigmoid"], "loss_weights": [1, 2]}"#,
            "as many weights",
        ),
        (TrlTrainer::Dpo, "[1, 2]", "expected names of fields"),
        (TrlTrainer::Dpo, "{\"beta\": 0.1,", "EOF"),
        (TrlTrainer::Dpo, "beta: [0.1\n", "config.json"),
    ] {
        let import = ImportTrl { trainer, processes: NonZeroUsize::MIN };
        let error = import.read("config.json", text).unwrap_err();
        assert!(error.to_string().contains(said), "{text}: {error}");
        assert!(error.is_users(), "{text}");
    }
}

#[test]
fn an_edited_run_file_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dpo.toml");
    let imported = imported(TrlTrainer::Dpo, &json!({"model_name_or_path": "m"}));
    imported.write(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = imported.write(&path).unwrap_err();
    assert!(error.to_string().contains("may have been edited"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}
