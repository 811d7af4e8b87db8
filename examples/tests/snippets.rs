//! The Rust of README and docs, letter by letter except for spaces (`docs.rs` compares them), compiled,
//! and run on built-in models.

use std::error::Error;
use std::path::{Path, PathBuf};

use rlaif::core::{Exchange, PromptRecord, RewardModel, Specials, TextCodec};
use rlaif::lm::{Policy, ValueHead, ValueInit};
use rlaif::models::{LanguageModel, LoadOptions, SaveOptions};
use rlaif::ppo::{PpoConfig, PpoTrainer, Prompt, Reference};
use rlaif::rewards::{ClassifierOptions, ClassifierReward, Mean, Preset};
use rlaif::text::HfTokenizer;
use rlaif::train::SftRow;
use rlaif::{core as rlaif_core, data as rlaif_data, rewards as rlaif_rewards};

type Outcome = Result<(), Box<dyn Error>>;

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name)
}

fn policy() -> Result<LanguageModel, Box<dyn Error>> {
    let policy = LanguageModel::load(&model("summary-t5"), LoadOptions::default())?;
    policy.parameters().train_where(|_| true);
    Ok(policy)
}

/// README: a reward.
#[test]
fn a_reward() -> Outcome {
    let folder = &model("toxicity-roberta");
    let load = LoadOptions::default();
    let brief = |batch: &[Exchange<'_>]| -> Vec<f32> {
        batch.iter().map(|x| -(x.response.split_whitespace().count() as f32) / 10.).collect()
    };
    let kind = ClassifierReward::load(folder, load, ClassifierOptions::preset(Preset::NotHate))?;
    let reward = Mean::new("kind and brief", kind).and(brief);
    let score = |text| -> Result<f32, Box<dyn Error>> {
        Ok(reward.score(&[Exchange::new("Hello.", text)])?.total[0].ok_or("no score")?.get())
    };
    assert!(score("Thank you.")? > score("You stupid idiot, I hate you.")?);
    Ok(())
}

/// README: the loop.
#[test]
fn the_loop() -> Outcome {
    let (policy, reference) = (policy()?, policy()?);
    let tokenizer = HfTokenizer::from_folder(model("summary-t5"))?;
    let value = ValueHead::new(policy.spec().hidden_size, ValueInit::Zero, policy.spec().device);
    let mut config = PpoConfig {
        steps: 1,
        batch_size: 32,
        minibatch_size: 16,
        epochs: 1,
        ..PpoConfig::default()
    };
    config.generation.max_new_tokens = 4;
    let prompts = (0..32)
        .map(|n| {
            let record = PromptRecord::new(n.to_string(), format!("Number {n} says"));
            let ids = tokenizer.encode(&record.prompt, Specials::Include)?;
            Ok(Prompt::new(record, ids))
        })
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let reward = |batch: &[Exchange<'_>]| vec![1.; batch.len()];
    let place = tempfile::tempdir()?;
    let folder = &place.path().join("model");

    let mut trainer =
        PpoTrainer::new(policy, value, Reference::Frozen(Box::new(reference)), config)?;
    for batch in prompts.chunks(32) {
        let rollout = trainer.rollout(batch, &tokenizer, &reward)?; // responses, scores, log-probabilities, values
        let advantages = trainer.advantages(&rollout)?; // KL penalty, score, GAE
        let stats = trainer.update(&rollout, &advantages)?; // epochs of minibatches
        println!("{} {:.3}", stats.step, stats.get("ppo/mean_scores"));
    }
    trainer.into_policy().save(folder, &SaveOptions::default())?; // loads in transformers

    LanguageModel::load(folder, LoadOptions::default())?;
    Ok(())
}

/// docs/data.md.
fn data(tokenizer: &HfTokenizer) -> Outcome {
    use rlaif_core::Seed;
    use rlaif_data::corpora::{DIALOGUE_CHARACTERS, Hh};
    use rlaif_data::{Fraction, PromptBuilder, Reader, Source};
    use std::num::NonZeroUsize;

    let dialogues = Reader::new(Source::file("train.jsonl.gz")?)
        .dataset(Hh::default())?
        .keep_characters(DIALOGUE_CHARACTERS, |record| record.dialogue().into());
    let split = dialogues
        .split_by(Fraction::new(0.2)?, Seed::new(42), |record| record.first_turn().into())?;
    let prompts = PromptBuilder::default().limit(NonZeroUsize::new(512).unwrap()).build_all(
        tokenizer,
        &split.train,
        |record| record.dialogue().into(),
        |_| None,
    )?;
    println!("{}", prompts.provenance());
    Ok(())
}

#[test]
fn data_says_which_file_is_not_there() {
    let tokenizer = HfTokenizer::from_folder(model("summary-t5")).unwrap();
    assert!(data(&tokenizer).unwrap_err().to_string().contains("train.jsonl.gz"));
}

/// docs/extending.md.
#[test]
fn a_reward_of_a_line() -> Outcome {
    use rlaif_core::{Exchange, RewardModel};

    let brief = |batch: &[Exchange<'_>]| -> Vec<f32> {
        batch.iter().map(|x| -(x.response.split_whitespace().count() as f32) / 10.).collect()
    };
    assert_eq!(brief.score(&[Exchange::new("Why?", "Because.")])?.total[0].unwrap().get(), -0.1);
    Ok(())
}

/// docs/data.md.
#[test]
fn a_form_is_found() -> Outcome {
    use rlaif_core::PairRow;
    use rlaif_data::{Dataset, Import, Reader, Source};

    fn pairs() -> Result<Dataset<PairRow>, Box<dyn Error>> {
        let source = Source::file("train.parquet")?;
        let import = Import::find(&source)?; // import.form says which
        let pairs = import.pairs(Reader::new(source))?; // Dataset<PairRow>
        Ok(pairs)
    }
    assert!(pairs().unwrap_err().to_string().contains("train.parquet"));
    Ok(())
}

/// docs/extending.md.
#[test]
fn a_family() -> Outcome {
    use rlaif::{lm as rlaif_lm, models as rlaif_models};
    use rlaif_lm::CausalPolicy;
    use rlaif_models::extend::{Generates, Llama, LlamaVariant, as_read, llama_dimensions};
    use rlaif_models::{Families, Family, LoadOptions};

    const SCALED: LlamaVariant =
        LlamaVariant { embedding_scale: |hidden| (hidden as f64).sqrt(), ..LlamaVariant::LLAMA };
    const ROW: Family = Family {
        model_type: "scaled-llama",
        generates: Some(Generates {
            class: "ScaledLlamaForCausalLM",
            head: "lm_head",
            build: |config, source| {
                Ok(Box::new(CausalPolicy(Llama::build(config, source, &SCALED)?)))
            },
            gguf: None,
        }),
        classifies: None,
        dimensions: |config| llama_dimensions(config, &SCALED),
        written: as_read,
    };
    let options = LoadOptions { families: Families::with(&[ROW]), ..LoadOptions::default() };
    let policy = LanguageModel::load(&model("summary-llama"), options)?;
    assert_eq!(policy.spec().model_type, "llama");
    Ok(())
}

/// docs/extending.md.
#[test]
fn a_sampler() -> Outcome {
    use rlaif::lm::generate::{Ask, FinishReason};
    use rlaif::lm::{LmError, Sampled, Sampler, SamplerCall};

    struct Always;

    impl Sampler for Always {
        fn sample(&mut self, asks: &[Ask], call: SamplerCall<'_>) -> Result<Vec<Sampled>, LmError> {
            let response = Sampled {
                ids: vec![7, 1],
                log_probs: None,
                text: "seven".to_owned(),
                finish: FinishReason::Eos,
                version: call.weights.version,
                played: None,
            };
            Ok(vec![response; asks.len()])
        }
    }

    let policy = policy()?;
    let asks = [Ask { id: 0, prompt: vec![37, 4], max_new_tokens: None }];
    let how = &rlaif::lm::generate::GenerationConfig::default();
    let draw = rlaif::lm::Draw { seed: rlaif_core::Seed::new(1), step: 0 };
    let weights = rlaif::lm::Weights::of(&policy);
    let responses = Always.sample(&asks, SamplerCall { weights, how, draw })?;
    assert_eq!((responses[0].text.as_str(), responses.len()), ("seven", 1));
    Ok(())
}

/// docs/extending.md.
#[test]
fn an_environment() -> Outcome {
    use rlaif::core::{Message, PromptRecord, Seed};
    use rlaif::rl::env::{
        Environment, EnvironmentAnswer, EnvironmentError, Episode, ModelTurn, Started,
    };

    /// Says everything back, and ends with a reward of 1 once the model is silent.
    struct Echo;

    impl Environment for Echo {
        fn name(&self) -> &str {
            "echo"
        }

        fn reset(&self, _: &PromptRecord, _: Seed) -> Result<Started, EnvironmentError> {
            Ok(Started::new(Echo))
        }
    }

    impl Episode for Echo {
        fn step(&mut self, turn: &ModelTurn) -> Result<EnvironmentAnswer, EnvironmentError> {
            Ok(match turn.text.trim() {
                "" => EnvironmentAnswer::end(1.),
                said => EnvironmentAnswer::say(Message::new("user", said)),
            })
        }
    }

    let mut episode = Echo.reset(&PromptRecord::new("a", "Hi."), Seed::new(1))?.episode;
    let said = episode.step(&ModelTurn { text: "So?".to_owned(), number: 0 })?;
    assert_eq!(said, EnvironmentAnswer::say(Message::new("user", "So?")));
    assert_eq!(
        episode.step(&ModelTurn { text: String::new(), number: 1 })?,
        EnvironmentAnswer::end(1.)
    );
    Ok(())
}

/// docs/generation.md.
fn generation() -> Outcome {
    use rlaif::core::Seed;
    use rlaif::lm::Forward;
    use rlaif::lm::generate::{Ask, GenerationConfig, Hooks, generate};
    use rlaif::models::{LanguageModel, LoadOptions};

    let policy = LanguageModel::load("MODEL".as_ref(), LoadOptions::default())?;
    let rows = [Ask { id: 0, prompt: vec![37, 4, 81], max_new_tokens: None }];
    let config = GenerationConfig { max_new_tokens: 32, ..GenerationConfig::default() };
    let responses =
        generate(&policy, &rows, &config, Seed::new(1), 0, Forward::default(), Hooks::default())?;

    assert_eq!(responses.len(), 1);
    Ok(())
}

#[test]
fn generation_says_which_model_is_not_there() {
    assert!(generation().unwrap_err().to_string().contains("MODEL"));
}

/// docs/training.md.
#[test]
fn training() -> Outcome {
    let policy = policy()?;
    let (row, total_steps) = (SftRow::new(vec![37, 4, 1], vec![81, 1]), 1);
    let (batches, held_out): (_, [SftRow; 1]) = ([[&row, &row]], [row.clone()]);
    {
        use rlaif::train::{LearnConfig, SftRow, SftTrainer};

        let mut trainer = SftTrainer::new(&policy, &LearnConfig::default(), total_steps)?;
        for batch in batches {
            let _stats = trainer.step(&batch)?; // loss, tokens, gradient norm
        }
        let evaluation = trainer.evaluate(&held_out)?; // loss, perplexity

        assert!(evaluation.loss > 0.);
        assert_eq!(evaluation.tokens, SftRow::learned_tokens(&held_out[0]) as u64);
    }
    Ok(())
}

/// docs/pipeline.md.
fn pipelines() -> Outcome {
    use rlaif::run::{Pipeline, PipelineRequest};

    let request = PipelineRequest { file: "pipeline.toml".into(), ..PipelineRequest::default() };
    let pipeline = Pipeline::open(&request)?;
    for line in pipeline.plan() {
        println!("{line}");
    }
    let records = pipeline.run()?;

    assert!(!records.is_empty());
    Ok(())
}

#[test]
fn a_pipeline_says_which_file_is_not_there() {
    assert!(pipelines().unwrap_err().to_string().contains("pipeline.toml"));
}

/// docs/extending.md: a reward of a program, for run files.
#[test]
fn an_own_reward() -> Outcome {
    use rlaif_core::{Exchange, RewardModel};
    use rlaif_rewards::{Length, RewardConfig, Surroundings, register};

    #[derive(serde::Deserialize)]
    struct Settings {
        words: usize,
    }
    register("brevity", |settings: Settings| Ok(Length::at_most(settings.words, 10.)?))?;
    // rlaif::cli::main() would be next.

    let config = "kind = 'own'\nname = 'brevity'\nsettings = { words = 12 }";
    let reward = RewardConfig::from_toml(config, "run.toml")?.build(&Surroundings::default())?;
    assert_eq!(reward.score(&[Exchange::new("Why?", "Because.")])?.total[0].unwrap().get(), 0.);
    Ok(())
}
