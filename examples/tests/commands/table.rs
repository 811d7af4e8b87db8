//! Exceptions: commands that are not run exactly as written on the page.

use std::fs;

use crate::cargo::Cargo;
use crate::place::repository;

/// The handling of a command.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    /// Run with these options appended, which make it shorter.
    With(&'static str),
    /// CI runs it: these are lines of `.ci/run`.
    Ci(&'static [&'static str]),
    /// Covered by `cargo xtask test`, which runs the tests of the targets that the command names.
    Suite,
    /// Run by a test: this function of this file.
    Test(&'static str, &'static str),
}

use How::{Ci, Suite, Test, With};

/// `..` at the end of a pattern stands for any text, or none; the longest pattern counts.
pub(crate) const TABLE: &[(&str, How)] = &[
    // CI consists of set-up, tests and checks; all of them set up first.
    ("cargo xtask demo", Ci(&["step cargo xtask demo --steps 2 --batch-size 4 --eval-prompts 16"])),
    ("cargo xtask test", Ci(&["step cargo xtask test"])),
    ("cargo xtask check", Ci(&["step cargo xtask check"])),
    // `check` compares with the output of this command.
    ("cargo xtask docs", Ci(&["step cargo xtask check"])),
    ("cargo xtask fuzz ..", Ci(&["step cargo xtask fuzz --seconds 1"])),
    ("cargo xtask bench-smoke", Ci(&["step cargo xtask bench-smoke"])),
    ("cargo xtask setup", Ci(&["step cargo xtask test"])),
    (
        "cargo xtask setup --cuda",
        Test("crates/xtask/tests/setup.rs", "cuda_brings_all_libraries_also_after_the_cpu_part"),
    ),
    (
        ".ci/run",
        Ci(&["step cargo xtask test", "step cargo xtask check", "step cargo xtask bench-smoke"]),
    ),
    ("cargo build", Ci(&["step cargo xtask test"])),
    ("cargo test", Ci(&["step cargo xtask test"])),
    ("cargo run", Ci(&["step cargo xtask demo"])),
    ("cargo doc --features doc-only -p rlaif-torch", Ci(&["step cargo xtask check"])),
    ("cargo bench -p rlaif-benches --bench ..", Ci(&["step cargo xtask bench-smoke"])),
    (
        "cargo run --release -p rlaif -- new ../brief",
        Test(
            "examples/tests/new_project.rs",
            "ppo_scores_responses_by_the_projects_reward_and_eval_compares_by_it",
        ),
    ),
    (
        "cargo run --release -- ..",
        Test(
            "examples/tests/new_project.rs",
            "ppo_scores_responses_by_the_projects_reward_and_eval_compares_by_it",
        ),
    ),
    (
        "rlaif merge runs/sft/model --out merged",
        Test(
            "crates/rlaif/tests/suite/adapters.rs",
            "an_adapter_that_a_run_wrote_is_scored_by_rewards_and_trained_further",
        ),
    ),
    (
        "rlaif import gguf ..",
        Test("crates/rlaif/tests/suite/gguf.rs", "the_built_in_llama_is_the_same_after_gguf"),
    ),
    (
        "rlaif import trl dpo.yaml --trainer dpo --out dpo.toml",
        Test("crates/rlaif/tests/suite/trl.rs", "a_scripts_configuration_is_run"),
    ),
    (
        "rlaif dpo --config dpo.toml --set data.train=pairs.jsonl",
        Test("crates/rlaif/tests/suite/trl.rs", "a_scripts_configuration_is_run"),
    ),
    (
        "rlaif ppo --config ppo.toml --set model.path=trl-model --set value.head=trl-model",
        Test(
            "crates/rlaif-models/tests/files/value_head.rs",
            "a_value_head_of_trl_gives_the_values_of_trl",
        ),
    ),
    (
        "rlaif export --model runs/sft/model --out model.gguf --format q8_0",
        Test("crates/rlaif/tests/suite/gguf.rs", "the_built_in_llama_is_the_same_after_gguf"),
    ),
    (
        "torchrun --nproc-per-node 2 --max-restarts 3 --no-python rlaif sft --config sft.toml",
        Test(
            "crates/rlaif/tests/suite/ranks.rs",
            "torchrun_starts_the_same_run_and_its_restart_continues",
        ),
    ),
    (
        "srun rlaif sft --config sft.toml --out /shared/runs/sft",
        Test("crates/rlaif-torch/src/dist/launch.rs", "launchers_are_recognised"),
    ),
    (
        "rlaif exam --config exam.toml --out exams/reward",
        Test("crates/rlaif/tests/suite/exam.rs", "a_reward_is_examined_on_the_files_of_every_exam"),
    ),
    (
        "rlaif annotate ..",
        Test(
            "crates/rlaif/tests/suite/annotate.rs",
            "answers_of_three_tools_become_agreement_and_labels",
        ),
    ),
    (
        "rlaif ui people.sqlite --annotators ann,bob",
        Test("crates/rlaif/tests/suite/annotate.rs", "the_page_is_served_until_ctrl_c"),
    ),
    (
        "rlaif ui runs/NAME/people/KEY/people.sqlite",
        Test(
            "crates/rlaif/tests/suite/pipeline.rs",
            "a_stage_of_people_waits_for_their_answers_and_its_labels_train",
        ),
    ),
    (
        "rlaif ui --model llama=runs/sft/model",
        Test(
            "crates/rlaif/tests/suite/serve.rs",
            "openais_python_client_gets_the_responses_of_generate",
        ),
    ),
    (
        "rlaif ui --model before=models/base --model after=runs/ppo/model --reward reward.toml",
        Test("crates/rlaif-ui/tests/talk.rs", "two_models_answer_side_by_side"),
    ),
    (
        "rlaif candidates --config candidates.toml --out candidates.jsonl",
        Test(
            "crates/rlaif/tests/suite/label.rs",
            "candidates_of_several_makers_are_kept_and_the_best_and_the_worst_are_labelled",
        ),
    ),
    (
        "rlaif red-team --config red-team.toml --out prompts.jsonl",
        Test(
            "crates/rlaif/tests/suite/label.rs",
            "prompts_are_written_after_examples_filtered_and_counted_once",
        ),
    ),
    (
        "rlaif revise --config revise.toml --out revisions.jsonl",
        Test(
            "crates/rlaif/tests/suite/label.rs",
            "responses_are_criticised_and_revised_by_drawn_principles_and_nothing_is_asked_twice",
        ),
    ),
    (
        "rlaif label --config label.toml --out labels.jsonl",
        Test(
            "crates/rlaif/tests/suite/label.rs",
            "pairs_are_labelled_in_both_orders_with_ties_and_missing_ones_told_apart",
        ),
    ),
    (
        "rlaif label --config lists.toml --out labels.jsonl",
        Test(
            "crates/rlaif/tests/suite/lists.rs",
            "lists_are_labelled_with_ties_and_missing_ones_told_apart",
        ),
    ),
    ("cargo test -p rlaif-models --test goldens -- --nocapture", Suite),
    ("cargo test -p rlaif-models --test memory", Suite),
    (
        "RLAIF_VLLM=VLLM_ENVIRONMENT cargo test -p rlaif-engine --test suite real",
        Test(
            "crates/rlaif-engine/tests/suite/real.rs",
            "a_real_vllm_gets_whole_weights_and_adapters_and_survives_a_restart",
        ),
    ),
    (
        "RLAIF_VLLM=VLLM_ENVIRONMENT cargo test -p rlaif --test suite vllm",
        Test(
            "crates/rlaif/tests/suite/vllm.rs",
            "ppo_and_grpo_learn_from_rollouts_on_a_real_vllm_as_they_do_locally",
        ),
    ),
    (
        "cargo test -p rlaif-rewards --test suite classifier",
        Test(
            "crates/rlaif-rewards/tests/suite/classifier.rs",
            "the_published_sentences_have_their_published_logits",
        ),
    ),
    ("RLAIF_PYTHON=python cargo test ..", Suite),
    // It writes files of the documentation; `page` and `talk` test the same pages.
    (
        "RLAIF_SCREENSHOTS=$PWD/docs/pictures cargo test ..",
        Test("crates/rlaif-ui/tests/pictures.rs", "write_the_pictures"),
    ),
    // Gigabytes from the network. CI installs the first for its own tests, and lets pip check that
    // the second could be installed.
    (
        "python3 -m venv target/new && target/new/bin/pip install -r benches/peers/requirements.txt",
        Ci(&[
            "-m pip install --quiet -r fixtures/models/requirements.txt -r benches/peers/requirements.txt",
        ]),
    ),
    (
        "python3 -m venv target/old && target/old/bin/pip install -r benches/peers/requirements-old.txt",
        Ci(&["-m pip install --quiet --dry-run -r benches/peers/requirements-old.txt"]),
    ),
    (
        "pip install -r requirements.txt",
        Ci(&[
            "-m pip install --quiet -r fixtures/models/requirements.txt -r benches/peers/requirements.txt",
        ]),
    ),
    // Shorter runs of the same commands.
    (
        "cargo run --release --example hh_toxicity ..",
        With("--steps 1 --batch-size 4 --eval-prompts 8 --max-new-tokens 8"),
    ),
    (
        "cargo run --release --example dpo_preferences ..",
        With("--steps 1 --batch-size 4 --eval-pairs 8"),
    ),
    ("cargo run --release --example sentiment_gpt2 ..", With("--steps 1 --batch-size 4")),
    ("cargo run --release --example train_builtin_models ..", With("--steps 1 --batch-size 2")),
    ("rlaif ppo --config ..", With(SHORT_PPO)),
    (
        "rlaif reinforce --config ..",
        With(
            "--set reinforce.steps=1 --set reinforce.batch_size=4 --set reinforce.group_size=2 \
             --set reinforce.generation.max_new_tokens=4",
        ),
    ),
    (
        "rlaif distill --config ..",
        With(
            "--set distill.steps=1 --set distill.batch_size=4 \
             --set distill.generation.max_new_tokens=4",
        ),
    ),
    (
        "rlaif dpo --config hh.toml ..",
        With("--set placement.device=auto --set train={steps=1,batch_size=4}"),
    ),
    ("rlaif pipeline examples/pipelines/rlhf.toml", With(SHORT_RLHF)),
    ("rlaif pipeline examples/pipelines/rlaif.toml", With(SHORT_RLAIF)),
    ("rlaif pipeline examples/pipelines/constitution.toml", With(SHORT_CONSTITUTION)),
    ("rlaif bench generate --model ..", With("--rows 4 --steps 1 --batch-size 4")),
    // On tiny checkpoints made by the first command.
    ("target/old/bin/python benches/peers/make_models.py ..", With("--tiny")),
    ("target/new/bin/python benches/peers/make_families.py ..", With("--tiny --only gpt2")),
    (
        "python3 benches/peers/forward.py ..",
        With("--dtypes f32 --rounds 1 --steps 1 --only t5-small"),
    ),
    (
        "python3 benches/peers/generate.py ..",
        With("--dtypes f32 --rounds 1 --steps 1 --batch-size 2 --new-tokens 4 --only t5-small"),
    ),
    (
        "python3 benches/peers/sft.py ..",
        With("--dtypes f32 --rounds 1 --steps 1 --batch-size 2 --only llama-small"),
    ),
    (
        "python3 benches/peers/ppo.py ..",
        With(
            "--only llama-small:f32 --rounds 1 --steps 1 --batch-size 4 --new-tokens 4 --epochs 1",
        ),
    ),
    (
        "python3 benches/peers/dpo.py ..",
        With("--dtypes f32 --rounds 1 --steps 1 --batch-size 2 --only TRL like"),
    ),
    (
        "python3 benches/peers/grpo.py ..",
        With("--only rlaif --dtypes f32 --algorithms grpo --rounds 1 --steps 1 --new-tokens 4"),
    ),
    ("python3 benches/peers/classifier.py ..", With("--rows 4 --rounds 1 --batch-size 4")),
    ("target/new/bin/python benches/peers/data_hh.py ..", With("--rows 400 --repeat 1")),
    ("target/new/bin/python benches/peers/generate_gpu.py ..", With("--batches 1 --device cuda")),
    ("python3 benches/peers/ppo_gpu.py ..", With("--steps 1 --only t5-base --device cuda")),
    ("python export_goldens.py", With("llama3")),
];

/// The peers of an older version are compared only if `RLAIF_OLD_PYTHON` names a Python that has
/// them.
pub(crate) const OLD_PEERS: [&str; 2] =
    [" --python target/old/bin/python", " --ctranslate2 target/old/bin/python"];

const SHORT_PPO: &str = "--set ppo.steps=1 --set ppo.batch_size=4 --set ppo.minibatch_size=4 \
                         --set ppo.generation.max_new_tokens=4";

const SHORT_RLHF: &str = "--set stages.reward.train={steps=1,batch_size=4} \
    --set stages.exam.data.take=8 --set stages.eval.data.take=2 --set stages.ppo.ppo.steps=1 \
    --set stages.ppo.ppo.batch_size=4 --set stages.ppo.ppo.minibatch_size=4 \
    --set stages.ppo.ppo.generation.max_new_tokens=4 --set stages.eval.generation.max_new_tokens=8";

const SHORT_RLAIF: &str = "--set stages.candidates.data.take=8 --set stages.questions.data.take=4 \
    --set stages.reward.train={steps=1,batch_size=4} \
    --set stages.reward.data.held_out_fraction=0.5 --set stages.ppo.ppo.steps=1 \
    --set stages.ppo.ppo.batch_size=4 --set stages.ppo.ppo.minibatch_size=4 \
    --set stages.ppo.ppo.generation.max_new_tokens=4 --set stages.direct.reinforce.steps=1 \
    --set stages.direct.reinforce.batch_size=4 \
    --set stages.direct.reinforce.generation.max_new_tokens=4 --set stages.eval.data.take=2 \
    --set stages.eval.generation.max_new_tokens=8 --set stages.eval-direct.data.take=2 \
    --set stages.eval-direct.generation.max_new_tokens=8";

const SHORT_CONSTITUTION: &str = "--set stages.reviser.train={steps=1,batch_size=4} \
    --set stages.candidates.data.take=4 --set stages.answers.data.take=4 \
    --set stages.revise.writer.sampling.max_new_tokens=12 --set stages.sft.train={steps=1,batch_size=4} \
    --set stages.dpo.train={steps=1,batch_size=4} --set stages.eval.data.take=2 \
    --set stages.eval.generation.max_new_tokens=8";

/// The handling of `command`, and the row of the table that determines it.
pub(crate) fn find(command: &str) -> Option<(&'static str, How)> {
    let fits = |pattern: &str| match pattern.strip_suffix(" ..") {
        Some(start) => {
            command.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        }
        None => command == pattern,
    };
    TABLE
        .iter()
        .filter(|(pattern, _)| fits(pattern))
        .max_by_key(|(pattern, _)| pattern.len())
        .copied()
}

/// Panics unless the test or CI line that runs `command` exists.
pub(crate) fn check(command: &str, how: How) {
    let read = |path: &str| fs::read_to_string(repository().join(path)).unwrap();
    match how {
        With(_) => {}
        Ci(lines) => {
            let script = read(".ci/run");
            for line in lines {
                let mut said = script.lines().filter(|said| !said.trim_start().starts_with('#'));
                // Whole words.
                let there = said.any(|said| format!("{said} ").contains(&format!("{line} ")));
                assert!(there, "`{command}`: .ci/run has no `{line}`");
            }
        }
        Test(file, name) => {
            assert!(
                read(file).contains(&format!("fn {name}(")),
                "`{command}`: {file} has no {name}"
            );
        }
        Suite => check_suite(command),
    }
}

/// Checks that `command` names exactly the tests that `cargo xtask test` runs.
fn check_suite(command: &str) {
    assert!(!command.contains("--ignored"), "`{command}`: nothing runs what is ignored");
    let filters = Cargo::parse(command).map(|cargo| cargo.filters);
    assert_eq!(filters, Some(Vec::new()), "`{command}`: is there such a test?");
    check(command, Ci(&["step cargo xtask test"]));
    if command.contains("RLAIF_PYTHON=") {
        check(command, Ci(&["export RLAIF_PYTHON=$PWD/target/python/bin/python"]));
    }
}
