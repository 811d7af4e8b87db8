//! Distillation: numbers of TRL, a student that reaches its teacher, resuming, passes, bad input.

use rlaif_core::{PromptRecord, Seed, Specials, TextCodec};
use rlaif_distill::{DistillConfig, DistillTask, DistillTrainer, TeacherDivergence};
use rlaif_lm::{LocalSampler, Policy, Sampled, generate::FinishReason};
use rlaif_models::{Config, LanguageModel, LoadOptions};
use rlaif_rl::Prompt;
use rlaif_testing::{
    Letters, RouterGoldens, alone, close,
    curves::{Panel, Picture},
    numbers,
};
use rlaif_torch::seeded;
use rlaif_train::{
    Batches, Ending, Fit, FitConfig, FitPlan, Interrupt, Keep, LearnConfig, OptimizerConfig,
    RunFolder, Schedule, SftRow, SftTrainer, TrainError, drive,
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

fn policy(config: &str, seed: i64) -> LanguageModel {
    let config = Config::from_value(serde_json::from_str(config).unwrap());
    let draw = || LanguageModel::random(config, Kind::Float, Device::Cpu).unwrap();
    let policy = seeded(seed, draw).unwrap();
    policy.parameters().train_where(|_| true);
    policy
}

fn prompts(n: usize) -> Vec<Prompt> {
    (0..n)
        .map(|i| {
            let ids: Vec<u32> = (0..2 + i % 4).map(|j| 3 + ((i * 7 + j * 5) as u32 % 30)).collect();
            let text = Letters.decode(&ids, Specials::Exclude).unwrap();
            Prompt::new(PromptRecord::new(format!("p-{i}"), text), ids)
        })
        .collect()
}

fn config(divergence: TeacherDivergence) -> DistillConfig {
    let mut config = DistillConfig {
        steps: 6,
        batch_size: 4,
        divergence,
        optimizer: OptimizerConfig { lr: 1e-2, eps: 1e-2, ..OptimizerConfig::default() },
        seed: Seed::new(9),
        ..DistillConfig::default()
    };
    config.generation.max_new_tokens = 6;
    config
}

fn trainer(family: &str, config: DistillConfig) -> DistillTrainer<LanguageModel> {
    DistillTrainer::new(policy(family, 5), Box::new(policy(family, 6)), config).unwrap()
}

const DIVERGENCES: [TeacherDivergence; 5] = [
    TeacherDivergence::Jsd { beta: 0. },
    TeacherDivergence::Jsd { beta: 0.5 },
    TeacherDivergence::Jsd { beta: 1. },
    TeacherDivergence::TopK { k: 4 },
    TeacherDivergence::PolicyGradient { clip: 5. },
];

#[test]
fn values_and_gradients_are_those_of_trl() {
    let text = include_str!("../../../fixtures/rl/distill.json");
    let goldens: Value = serde_json::from_str(text).unwrap();
    let list = |value: &Value| -> Vec<f64> { serde_json::from_value(value.clone()).unwrap() };
    let shape = [goldens["tokens"].as_i64().unwrap(), goldens["vocabulary"].as_i64().unwrap()];
    let tensor = |name: &str| Tensor::from_slice(&list(&goldens[name])).view(shape);
    let sampled = Tensor::zeros([shape[0]], (Kind::Int64, Device::Cpu));
    for case in goldens["cases"].as_array().unwrap() {
        let number = |name: &str| case[name].as_f64().unwrap();
        let (beta, temperature) = (number("beta"), number("temperature"));
        let student = tensor("student").set_requires_grad(true);
        let divergence = TeacherDivergence::Jsd { beta };
        let of = |divergence: TeacherDivergence| {
            let (student, teacher) = (&student / temperature, tensor("teacher") / temperature);
            divergence.of_tokens(&student, &teacher, &sampled).mean(Kind::Double)
        };
        let loss = of(divergence);
        close(&loss, &[number("loss")], 1e-12);
        loss.backward();
        close(&student.grad(), &list(&case["gradient"]), 1e-12);
        if beta == 0. {
            // The k most probable tokens are the whole vocabulary.
            close(&of(TeacherDivergence::TopK { k: shape[1] }), &[number("loss")], 1e-12);
        }
    }
}

/// The mean of the policy gradient over all tokens, weighed by the student's probabilities, is the
/// gradient of the reverse KL.
#[test]
fn the_policy_gradient_is_that_of_the_reverse_kl_on_average() {
    let _alone = alone();
    tch::manual_seed(3);
    let vocabulary = 6;
    let student =
        Tensor::randn([1, vocabulary], (Kind::Double, Device::Cpu)).set_requires_grad(true);
    let teacher = Tensor::randn([1, vocabulary], (Kind::Double, Device::Cpu));
    let gradient =
        |loss: &Tensor| numbers(&Tensor::run_backward(&[loss], &[&student], true, false)[0]);
    let none = Tensor::from_slice(&[0i64]);
    let exact = TeacherDivergence::Jsd { beta: 1. }.of_tokens(&student, &teacher, &none);
    let wanted = gradient(&exact.sum(Kind::Double));
    let probabilities = numbers(&student.softmax(-1, Kind::Double));
    let mut mean = vec![0.; wanted.len()];
    for token in 0..vocabulary {
        let sampled = Tensor::from_slice(&[token]);
        let loss =
            TeacherDivergence::PolicyGradient { clip: 1e9 }.of_tokens(&student, &teacher, &sampled);
        for (mean, part) in mean.iter_mut().zip(gradient(&loss.sum(Kind::Double))) {
            *mean += probabilities[token as usize] * part;
        }
    }
    for (found, wanted) in mean.iter().zip(&wanted) {
        assert!((found - wanted).abs() < 1e-12, "{mean:?} {wanted:?}");
    }
}

fn weights(trainer: &DistillTrainer<LanguageModel>) -> Vec<Tensor> {
    trainer.policy().parameters().iter().map(|(_, tensor)| tensor.detach().copy()).collect()
}

fn distance(one: &[Tensor], two: &[Tensor]) -> f64 {
    let far = |(a, b): (&Tensor, &Tensor)| (a - b).abs().max().double_value(&[]);
    one.iter().zip(two).map(far).fold(0., f64::max)
}

#[test]
fn the_size_of_a_pass_changes_nothing_but_rounding() {
    let _alone = alone();
    for family in [rlaif_testing::LLAMA, rlaif_testing::T5] {
        for divergence in DIVERGENCES {
            let after = |microbatch_size| {
                let mut trainer =
                    trainer(family, DistillConfig { microbatch_size, ..config(divergence) });
                let step = trainer.step(&prompts(4), &mut LocalSampler::new(&Letters)).unwrap();
                (weights(&trainer), step.metrics.get("distill/loss").unwrap())
            };
            let (whole, loss) = after(0);
            for microbatch in [1, 3] {
                let (parts, of_parts) = after(microbatch);
                assert!((loss - of_parts).abs() < 1e-5, "{divergence:?}: {loss} {of_parts}");
                assert!(distance(&whole, &parts) < 1e-5, "{divergence:?}");
            }
        }
    }
}

/// Batches in order, which ask for the end of the run before a step.
struct InOrder {
    rows: usize,
    end: Option<(u64, Interrupt)>,
}

impl Batches for InOrder {
    fn batch(&mut self, step: u64) -> Result<Vec<usize>, TrainError> {
        if let Some((_, interrupt)) = self.end.as_ref().filter(|(end, _)| *end == step) {
            interrupt.request();
        }
        Ok((0..4).map(|at| (step as usize * 4 + at) % self.rows).collect())
    }

    fn fingerprint(&self) -> u64 {
        1
    }
}

/// Responses to prompts of one letter: the next three letters, and the end.
fn alphabet() -> Vec<SftRow> {
    (3..23).map(|a| SftRow::new(vec![a], vec![a + 1, a + 2, a + 3, 1])).collect()
}

const RATE: f64 = 1e-2;
const SEEDS: [u64; 3] = [2, 3, 4];
const STEPS: u64 = 250;

/// A teacher that knows the alphabet, and its loss.
fn teacher() -> (LanguageModel, f64) {
    let (rows, teacher) = (alphabet(), policy(rlaif_testing::LLAMA, 1));
    let optimizer = OptimizerConfig { lr: RATE, ..OptimizerConfig::default() };
    let learn = LearnConfig { optimizer, ..LearnConfig::default() };
    let mut sft = SftTrainer::new(&teacher, &learn, 60).unwrap();
    let batch: Vec<&SftRow> = rows.iter().collect();
    for _ in 0..60 {
        sft.step(&batch).unwrap();
    }
    let loss = sft.evaluate(&rows).unwrap().loss;
    (teacher, loss)
}

/// The loss of a student of random weights on the teacher's rows, before the first step, and after
/// each `every` steps.
fn student(seed: u64, lr: f64, steps: u64, every: u64) -> Vec<f64> {
    let rows = alphabet();
    let prompt = |row: &SftRow| {
        Prompt::new(PromptRecord::new(format!("{:?}", row.prompt), "x"), row.prompt.clone())
    };
    let prompts: Vec<Prompt> = rows.iter().map(prompt).collect();
    let schedule = Schedule::Linear;
    let mut config = DistillConfig {
        steps,
        batch_size: prompts.len(),
        optimizer: OptimizerConfig { lr, schedule, ..OptimizerConfig::default() },
        seed: Seed::new(seed),
        ..config(TeacherDivergence::Jsd { beta: 0. })
    };
    config.generation.max_new_tokens = 4;
    let own = policy(rlaif_testing::LLAMA, seed.cast_signed());
    let mut trainer = DistillTrainer::new(own, Box::new(teacher().0), config).unwrap();
    let evaluate = |policy: &LanguageModel| {
        SftTrainer::new(policy, &LearnConfig::default(), 1).unwrap().evaluate(&rows).unwrap().loss
    };
    let mut losses = vec![evaluate(trainer.policy())];
    for step in 1..=steps {
        trainer.step(&prompts, &mut LocalSampler::new(&Letters)).unwrap();
        if step.is_multiple_of(every) {
            losses.push(evaluate(trainer.policy()));
        }
    }
    losses
}

#[test]
fn a_student_reaches_the_loss_of_its_teacher() {
    let _alone = alone();
    let wanted = teacher().1;
    assert!(wanted < 0.3, "the teacher knows it: {wanted}");
    for seed in SEEDS {
        let losses = student(seed, RATE, STEPS, 50);
        let (before, after) = (losses[0], losses[losses.len() - 1]);
        assert!(before > 2. && after < wanted + 0.02, "{seed}: {before} to {after}, {wanted}");
    }
    let control = student(SEEDS[0], 0., 20, 10);
    assert!(control.iter().all(|loss| *loss == control[0]), "{control:?}");
}

/// Draws docs/distill-learning.svg from the metrics of these runs, which are kept in
/// `target/learning/distill`. A debug build tests the code with two steps, and does not change the
/// picture.
#[test]
#[ignore = "writes a file of the documentation"]
fn draw_the_curves() {
    let _alone = alone();
    let picture = Picture::new("distill");
    let steps = if picture.is_trial() { 2 } else { STEPS };
    let runs = SEEDS.map(|seed| (seed, RATE)).into_iter().chain([(SEEDS[0], 0.)]);
    let runs = runs.map(|(seed, lr)| {
        let losses = student(seed, lr, steps, 1).into_iter();
        let rows: Vec<_> = losses.map(|loss| vec![("loss".to_owned(), loss)]).collect();
        picture.curve(&format!("{seed}-{lr}"), &rows, "loss")
    });
    let title = "loss on the teacher's rows, nats".to_owned();
    let panel = Panel { title, range: (0., 5.), level: Some(teacher().1), runs: runs.collect() };
    picture.draw(&[vec![panel]]);
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one_to_the_bit() {
    let _alone = alone();
    let all = prompts(12);
    let root = tempfile::tempdir().unwrap();
    let keep = Keep { newest: 2, best: None };
    let run = |name: &str, resume: bool, end: Option<u64>| {
        let path = root.path().join(name);
        let (mut folder, saved) = match resume {
            true => RunFolder::resume(&path, keep).unwrap(),
            false => (RunFolder::create(&path, "", keep).unwrap(), None),
        };
        assert_eq!(saved.is_some(), resume);
        let trainer = trainer(rlaif_testing::LLAMA, config(DIVERGENCES[1]));
        let mut task = DistillTask::new(trainer, &all, &Letters).samples(2);
        let fit = FitConfig { checkpoint_every: 1, ..FitConfig::default() };
        let interrupt = Interrupt::manual();
        let mut batches =
            InOrder { rows: all.len(), end: end.map(|step| (step, interrupt.clone())) };
        let (total_steps, seed) = (6, Seed::new(9));
        let plan = FitPlan { config: &fit, total_steps, seed, interrupt: &interrupt };
        let ending = drive(&mut task, &mut batches, &mut folder, saved.as_ref(), &plan).unwrap();
        assert_eq!(ending == Ending::Interrupted, end.is_some());
        weights(&task.into_trainer())
    };
    let whole = run("whole", false, None);
    let half = run("parts", false, Some(3));
    let resumed = run("parts", true, None);
    assert!(distance(&whole, &half) > 0.);
    assert!(distance(&whole, &resumed) == 0.);
    // Responses of both runs are the same as well.
    let samples = |name: &str| std::fs::read(root.path().join(name).join("samples.jsonl")).unwrap();
    assert_eq!(samples("whole"), samples("parts"));
}

/// With λ below 1, some steps learn on reference responses; which ones depends on the seed.
#[test]
fn a_share_of_the_steps_learns_on_reference_responses() {
    let _alone = alone();
    let all = prompts(4);
    let reference = |row: usize| Sampled {
        ids: vec![4 + row as u32, 5, 6, 1],
        log_probs: None,
        text: "told".to_owned(),
        finish: FinishReason::Eos,
        version: 0,
        played: None,
    };
    let references: Vec<Sampled> = (0..4).map(reference).collect();
    let of =
        |on_policy| DistillConfig { on_policy, ..config(TeacherDivergence::Jsd { beta: 0.5 }) };
    // Without own responses, a step is an update on the references.
    let mut task = DistillTask::new(trainer(rlaif_testing::LLAMA, of(0.)), &all, &Letters)
        .references(references.clone())
        .samples(1);
    let stepped = task.step(&[2, 0, 1, 3]).unwrap();
    assert_eq!(stepped.metrics.get("distill/on_policy"), Some(0.));
    assert_eq!(stepped.samples[0]["response"], "told");
    let mut given = trainer(rlaif_testing::LLAMA, of(1.));
    let pick = |rows: [usize; 4]| rows.map(|row| (all[row].clone(), references[row].clone()));
    let (own, told): (Vec<Prompt>, Vec<Sampled>) = pick([2, 0, 1, 3]).into_iter().unzip();
    given.update(&own, &told).unwrap();
    assert!(distance(&weights(task.trainer()), &weights(&given)) < 1e-6);
    // About half of 40 steps, the same ones every time.
    let kinds = || -> Vec<bool> {
        let mut trainer = trainer(rlaif_testing::LLAMA, of(0.5));
        let step = |_| {
            let on_policy = trainer.is_on_policy();
            trainer.update(&all, &references).unwrap();
            on_policy
        };
        (0..40).map(step).collect()
    };
    let share = kinds().into_iter().filter(|on_policy| *on_policy).count();
    assert!((10..=30).contains(&share) && kinds() == kinds(), "{share}");
    let mut none = DistillTask::new(trainer(rlaif_testing::LLAMA, of(0.)), &all, &Letters);
    let error = none.step(&[0, 1, 2, 3]).unwrap_err().to_string();
    assert!(error.contains("`on_policy` is 0"), "{error}");
    for (on_policy, divergence) in
        [(1.5, DIVERGENCES[0]), (0.5, TeacherDivergence::PolicyGradient { clip: 5. })]
    {
        let error = DistillConfig { on_policy, ..config(divergence) }.check().unwrap_err();
        assert!(error.to_string().starts_with("`on_policy` is"), "{error}");
    }
}

#[test]
fn bad_settings_are_refused_by_name() {
    let _alone = alone();
    for (set, says) in [
        (TeacherDivergence::Jsd { beta: 1.5 }, "`divergence.jsd.beta` is 1.5"),
        (TeacherDivergence::TopK { k: 0 }, "`divergence.top_k.k` is 0"),
        (TeacherDivergence::PolicyGradient { clip: 0. }, "`divergence.policy_gradient.clip` is 0"),
    ] {
        let error = config(set).check().unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let wide = rlaif_testing::LLAMA.replace("\"vocab_size\": 40", "\"vocab_size\": 48");
    let teacher = Box::new(policy(&wide, 1));
    let error =
        DistillTrainer::new(policy(rlaif_testing::LLAMA, 1), teacher, config(DIVERGENCES[0]));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("`teacher` is a model of 48 tokens"), "{error}");
    let mut trainer = trainer(rlaif_testing::LLAMA, config(DIVERGENCES[0]));
    let error = trainer.step(&prompts(3), &mut LocalSampler::new(&Letters)).unwrap_err();
    assert!(error.to_string().contains('4'), "{error}");
}

/// With a teacher of the same weights, the loss of routers is all there is: that of transformers, by whose
/// gradient the weights of the student's routers move.
#[test]
fn the_loss_of_routers_is_that_of_transformers() {
    let _alone = alone();
    const COEFFICIENT: f64 = 0.5;
    for name in RouterGoldens::MODELS {
        let goldens = RouterGoldens::read(name);
        let load = || LanguageModel::load(&goldens.folder, LoadOptions::default()).unwrap();
        let record = PromptRecord::new("p".to_owned(), "?".to_owned());
        let prompts: Vec<Prompt> = (goldens.rows.iter())
            .map(|[prompt, _]| Prompt::new(record.clone(), prompt.clone()))
            .collect();
        let sampled: Vec<Sampled> = (goldens.rows.iter())
            .map(|[_, response]| Sampled {
                ids: response.clone(),
                log_probs: None,
                text: "?".to_owned(),
                finish: FinishReason::Length,
                version: 0,
                played: None,
            })
            .collect();
        let step = |coefficient, microbatch_size| {
            let optimizer = OptimizerConfig {
                lr: 1.,
                eps: 1.,
                max_grad_norm: 0.,
                ..OptimizerConfig::default()
            };
            let config = DistillConfig {
                router_aux_loss_coef: coefficient,
                microbatch_size,
                optimizer,
                ..config(TeacherDivergence::Jsd { beta: 0.5 })
            };
            let student = load();
            student.parameters().train_where(|_| true);
            let mut trainer = DistillTrainer::new(student, Box::new(load()), config).unwrap();
            let metrics = trainer.update(&prompts, &sampled).unwrap();
            (metrics, trainer)
        };
        let weight = |policy: &LanguageModel, name: &str| {
            policy.parameters().get(name).unwrap().detach().copy()
        };
        let before = load();
        let (metrics, trainer) = step(COEFFICIENT, 0);
        let loss = metrics.get("router_aux_loss").unwrap();
        assert!((loss - goldens.loss).abs() < 1e-5, "{name}: {loss} {}", goldens.loss);
        for (parameter, _) in &goldens.gradients {
            let [before, after] =
                [&before, trainer.policy()].map(|policy| weight(policy, parameter));
            goldens.assert_moved(parameter, &before, &after, COEFFICIENT);
        }
        // Each pass has its own shares of experts, weighted by its tokens.
        let (parts, _) = step(COEFFICIENT, 1);
        let mean = parts.get("router_aux_loss").unwrap();
        assert!((mean - goldens.loss).abs() < 0.5 && mean != loss, "{name}: {mean}");
        let (off, trainer) = step(0., 0);
        assert_eq!(off.get("router_aux_loss"), None);
        for (parameter, _) in &goldens.gradients {
            let moved = weight(&before, parameter) - weight(trainer.policy(), parameter);
            assert!(moved.abs().max().double_value(&[]) < 1e-6, "{name}");
        }
    }
    let of = config(TeacherDivergence::default());
    let config = DistillConfig { router_aux_loss_coef: 0.1, ..of };
    let mut dense = trainer(rlaif_testing::LLAMA, config);
    let error = dense.step(&prompts(4), &mut LocalSampler::new(&Letters)).unwrap_err().to_string();
    assert!(error.contains("router_aux_loss_coef") && error.contains("no experts"), "{error}");
}
