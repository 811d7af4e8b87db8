//! Every architecture against transformers: logits, hidden states, log-probabilities, gradients.
//!
//! Run with `--nocapture` to see the largest differences. The bound is 1e-4 in f32, of logits with
//! a standard deviation of about 3.

mod common;

use common::{
    CAUSAL, CAUSAL_CLASSIFIERS, ENCODER_CLASSIFIERS, Goldens, SEQ2SEQ, SEQ2SEQ_CLASSIFIERS, close,
    gradient, model, real, real_encoded, spelled, spellings, split,
};
use rlaif_lm::{
    Activations, CausalLm, Dropout, Forward, Layout, LmError, Padding, Policy, Room, Routers,
    SequenceClassifier, TokenBatch, token_log_probs,
};
use rlaif_models::{Architecture, Classifier, LanguageModel, LoadOptions};
use rlaif_torch::{Isa, isa};
use tch::{Kind, Tensor, no_grad};

const TOLERANCE: f64 = 1e-4;

fn load(folder: &std::path::Path) -> LanguageModel {
    LanguageModel::load(folder, LoadOptions::default()).unwrap()
}

fn causal(policy: &LanguageModel) -> &dyn CausalLm {
    let Architecture::DecoderOnly(model) = policy.architecture() else { panic!("not causal") };
    model
}

#[test]
fn at_each_width_of_vectors() {
    let lower = Isa::available().iter().filter(|&&other| isa().is_ok_and(|isa| other < isa));
    rlaif_testing::run_again("RLAIF_ISA", lower.map(|isa| isa.name()), &[]);
}

#[test]
fn causal_logits_and_hidden_states() {
    for name in CAUSAL {
        let goldens = Goldens::read(&model(name));
        for spelling in spellings(name) {
            let folder = spelled(name, spelling);
            let policy = load(folder.path());
            let causal = causal(&policy);
            let head = causal.head(Forward::default()).unwrap();
            let run = |rows: Vec<Vec<u32>>, padding| {
                let batch = TokenBatch::collate(rows, policy.spec(), padding).unwrap();
                let hidden = no_grad(|| causal.hidden(&batch, Forward::default()).unwrap());
                real(&hidden, &batch)
            };
            let rows = goldens.rows("right");
            let hidden = run(rows.clone(), Padding::Right);
            let logits = no_grad(|| head.logits(&hidden));
            let d = close(name, &hidden, goldens.get("final_hidden"), TOLERANCE);
            let right = close(name, &logits, goldens.get("logits"), TOLERANCE);
            let left = no_grad(|| head.logits(&run(rows.clone(), Padding::Left)));
            let left = close(name, &left, goldens.logits("left"), TOLERANCE);
            let alone: Vec<_> =
                rows.into_iter().map(|row| run(vec![row], Padding::Right)).collect();
            let alone = no_grad(|| head.logits(&Tensor::cat(&alone, 0)));
            let alone = close(name, &alone, goldens.logits("alone"), TOLERANCE);
            println!(
                "{name} {spelling}: hidden {d:.1e} right {right:.1e} left {left:.1e} alone {alone:.1e}"
            );
        }
    }
}

/// Prompts and responses as a policy takes them.
fn batches(name: &str, policy: &LanguageModel, padding: Padding) -> (TokenBatch, TokenBatch) {
    let goldens = Goldens::read(&model(name));
    let (prompts, responses) = match policy.architecture() {
        Architecture::DecoderOnly(_) => split(&goldens),
        Architecture::EncoderDecoder(_) => {
            let response_ids = Vec::<i64>::try_from(goldens.get("response_ids")).unwrap();
            let mut rest = response_ids.iter().map(|&id| u32::try_from(id).unwrap());
            let lengths = goldens.rows("decoder");
            let responses =
                lengths.iter().map(|row| rest.by_ref().take(row.len()).collect()).collect();
            (goldens.rows("encoder"), responses)
        }
    };
    (
        TokenBatch::collate(prompts, policy.spec(), padding).unwrap(),
        TokenBatch::responses(responses, policy.spec()).unwrap(),
    )
}

#[test]
fn response_log_probs_entropies_and_gradients() {
    for name in CAUSAL.into_iter().chain(SEQ2SEQ) {
        let goldens = Goldens::read(&model(name));
        let policy = load(&model(name));
        for activations in [Activations::Keep, Activations::Recompute] {
            let forward = Forward { activations, ..Forward::default() };
            for padding in [Padding::Right, Padding::Left] {
                let (prompts, responses) = batches(name, &policy, padding);
                let hidden = policy.response_hidden(&prompts, &responses, forward).unwrap();
                let head = policy.head(forward).unwrap();
                let at =
                    |temperature| token_log_probs(&head, &hidden, &responses, temperature).unwrap();
                let warm = no_grad(|| at(0.7));
                let log = real(&warm.log_probs, &responses);
                close(name, &log, goldens.get("response.log_probs.temperature"), TOLERANCE);
                let entropy = real(&warm.entropy, &responses);
                close(name, &entropy, goldens.get("response.entropy.temperature"), TOLERANCE);

                let got = at(1.);
                let log = real(&got.log_probs, &responses);
                let d = close(name, &log, goldens.get("response.log_probs"), TOLERANCE);
                let entropy = real(&got.entropy, &responses);
                let e = close(name, &entropy, goldens.get("response.entropy"), TOLERANCE);
                let loss = -responses.mask().mean(&got.log_probs);
                let want = goldens.json["loss"].as_f64().unwrap();
                assert!((loss.double_value(&[]) - want).abs() < TOLERANCE, "{name}");
                loss.backward();
                let mut largest = 0f64;
                for (parameter, want) in goldens.starting("grad.") {
                    let grad = gradient(policy.parameters(), parameter);
                    let what = format!("{name} {parameter} {activations:?}");
                    largest = largest.max(close(&what, &grad, want, TOLERANCE));
                }
                for (_, tensor) in policy.parameters().iter() {
                    tensor.shallow_clone().zero_grad();
                }
                println!(
                    "{name} {activations:?} {padding:?}: log-probs {d:.1e} entropy {e:.1e} \
                     gradients {largest:.1e}"
                );
            }
        }
    }
}

/// The auxiliary loss of routers over the real tokens of all layers, and its gradient.
#[test]
fn routers_have_the_loss_of_transformers() {
    for name in ["mixtral", "qwen3-moe", "qwen2-moe"] {
        let goldens = Goldens::read(&model(name));
        let policy = load(&model(name));
        for activations in [Activations::Keep, Activations::Recompute] {
            for padding in [Padding::Right, Padding::Left] {
                let routers = Routers::default();
                let forward =
                    Forward { activations, routers: Some(&routers), ..Forward::default() };
                let rows = goldens.rows("right");
                let batch = TokenBatch::collate(rows, policy.spec(), padding).unwrap();
                let _hidden = causal(&policy).hidden(&batch, forward).unwrap();
                let loss = routers.loss().unwrap();
                let want = goldens.json["router_loss"].as_f64().unwrap();
                assert!((loss.double_value(&[]) - want).abs() < 1e-5, "{name}");
                loss.backward();
                for (parameter, want) in goldens.starting("router.grad.") {
                    let grad = gradient(policy.parameters(), parameter);
                    close(parameter, &grad, want, 1e-5);
                }
                for (_, tensor) in policy.parameters().iter() {
                    tensor.shallow_clone().zero_grad();
                }
            }
        }
        let (prompts, responses) = batches(name, &policy, Padding::Right);
        let of_layout = |layout| {
            let routers = Routers::default();
            let forward = Forward { layout, routers: Some(&routers), ..Forward::default() };
            let _hidden = policy.response_hidden(&prompts, &responses, forward).unwrap();
            routers.loss().unwrap()
        };
        close(name, &of_layout(Layout::Packed(40)), &of_layout(Layout::Padded), 1e-5);
    }
}

/// Several sequences in one row attend only to themselves. A prompt that is computed once for
/// several responses gives each of them the same numbers as separate computation.
#[test]
fn packed_rows_and_shared_prompts() {
    for name in CAUSAL {
        let goldens = Goldens::read(&model(name));
        let policy = load(&model(name));
        let (prompts, responses) = batches(name, &policy, Padding::Right);
        let want = goldens.get("response.log_probs");
        let log_probs = |hidden: Tensor, responses: &TokenBatch, forward| {
            let head = policy.head(forward).unwrap();
            real(&token_log_probs(&head, &hidden, responses, 1.).unwrap().log_probs, responses)
        };
        no_grad(|| {
            let forward = Forward { layout: Layout::Packed(40), ..Forward::default() };
            let hidden = policy.response_hidden(&prompts, &responses, forward).unwrap();
            let packed = close(name, &log_probs(hidden, &responses, forward), want, TOLERANCE);
            let forward = Forward::default();
            let twice = [responses.rows(), responses.rows()].concat();
            let twice = TokenBatch::responses(twice, policy.spec()).unwrap();
            let hidden = policy.branch_hidden(&prompts, &twice, forward).unwrap();
            let want = Tensor::cat(&[want, want], 0);
            let shared = close(name, &log_probs(hidden, &twice, forward), &want, TOLERANCE);
            println!("{name}: packed {packed:.1e} shared {shared:.1e}");
        });
    }
}

#[test]
fn t5_logits_and_hidden_states() {
    for name in SEQ2SEQ {
        let goldens = Goldens::read(&model(name));
        for spelling in spellings(name) {
            let folder = spelled(name, spelling);
            let policy = load(folder.path());
            let Architecture::EncoderDecoder(t5) = policy.architecture() else { panic!("not T5") };
            let head = policy.head(Forward::default()).unwrap();
            let run = |prompts: Vec<Vec<u32>>, inputs: Vec<Vec<u32>>, padding| {
                let prompts = TokenBatch::collate(prompts, policy.spec(), padding).unwrap();
                let inputs = TokenBatch::responses(inputs, policy.spec()).unwrap();
                no_grad(|| {
                    let encoded = t5.encode(&prompts, Forward::default()).unwrap();
                    let hidden = t5.decode(inputs.ids(), &encoded, Forward::default()).unwrap();
                    (real_encoded(&encoded, &prompts), real(&hidden, &inputs))
                })
            };
            let (prompts, inputs) = (goldens.rows("encoder"), goldens.rows("decoder"));
            let (encoded, hidden) = run(prompts.clone(), inputs.clone(), Padding::Right);
            let e = close(name, &encoded, goldens.get("encoder.final_hidden"), TOLERANCE);
            let d = close(name, &hidden, goldens.get("final_hidden"), TOLERANCE);
            let right = no_grad(|| head.logits(&hidden));
            let right = close(name, &right, goldens.get("logits"), TOLERANCE);
            let (encoded, hidden) = run(prompts.clone(), inputs.clone(), Padding::Left);
            close(name, &encoded, goldens.get("encoder.final_hidden"), TOLERANCE);
            close(name, &hidden, goldens.get("final_hidden"), TOLERANCE);
            let alone: Vec<_> = prompts
                .into_iter()
                .zip(inputs)
                .map(|(prompt, input)| run(vec![prompt], vec![input], Padding::Right).1)
                .collect();
            let alone = no_grad(|| head.logits(&Tensor::cat(&alone, 0)));
            let alone = close(name, &alone, goldens.logits("alone"), TOLERANCE);
            println!(
                "{name} {spelling}: encoder {e:.1e} hidden {d:.1e} logits {right:.1e} alone {alone:.1e}"
            );
        }
    }
}

#[test]
fn classifier_logits_and_gradients() {
    for name in CAUSAL_CLASSIFIERS.into_iter().chain(ENCODER_CLASSIFIERS).chain(SEQ2SEQ_CLASSIFIERS)
    {
        let goldens = Goldens::read(&model(name));
        for spelling in spellings(name) {
            let folder = spelled(name, spelling);
            let classifier = Classifier::load(folder.path(), LoadOptions::default()).unwrap();
            let starts = goldens.second_starts();
            let run = |rows: &[Vec<u32>], starts: Option<&[usize]>, padding, activations| {
                let forward = Forward { activations, ..Forward::default() };
                let batch = TokenBatch::collate(rows.to_vec(), classifier.spec(), padding).unwrap();
                classifier.logits(&batch, starts, forward).unwrap()
            };
            let rows = goldens.rows("right");
            let all = starts.as_deref();
            for activations in [Activations::Keep, Activations::Recompute] {
                let logits = run(&rows, all, Padding::Right, activations);
                let right = close(name, &logits, goldens.get("logits"), TOLERANCE);
                loss(&logits, &goldens).backward();
                let mut largest = 0f64;
                for (parameter, want) in goldens.starting("grad.") {
                    let grad = gradient(classifier.parameters(), parameter);
                    let what = format!("{name} {parameter} {activations:?}");
                    largest = largest.max(close(&what, &grad, want, TOLERANCE));
                }
                for (_, tensor) in classifier.parameters().iter() {
                    tensor.shallow_clone().zero_grad();
                }
                println!("{name} {spelling} {activations:?}: {right:.1e} gradients {largest:.1e}");
            }
            let keep = Activations::Keep;
            let left = no_grad(|| run(&rows, all, Padding::Left, keep));
            close(name, &left, goldens.get("logits"), TOLERANCE);
            let alone: Vec<_> = (0..rows.len())
                .map(|i| {
                    let start = starts.as_ref().map(|starts| &starts[i..=i]);
                    no_grad(|| run(&rows[i..=i], start, Padding::Right, keep))
                })
                .collect();
            close(name, &Tensor::cat(&alone, 0), goldens.logits("alone"), TOLERANCE);
            if let Some(want) = goldens.find("probabilities").filter(|p| p.size()[1] > 1) {
                let got = classifier.scheme().probabilities(goldens.get("logits"));
                close(name, &got, want, 1e-6);
            }
            if let Some(want) = goldens.find("without_types.logits") {
                let got = no_grad(|| run(&rows, None, Padding::Right, keep));
                close(name, &got, want, TOLERANCE);
            }
            if let Some(want) = goldens.find("pad_inside.logits") {
                let rows = goldens.rows("pad_inside");
                let got = no_grad(|| run(&rows, None, Padding::Right, keep));
                close(name, &got, want, TOLERANCE);
            }
        }
    }
}

/// transformers looks for the last token that is not the pad id, even where it is not padding.
#[test]
fn a_reward_model_reads_the_last_token_that_is_not_the_pad_id() {
    let classifier = Classifier::load(&model("llama-reward"), LoadOptions::default()).unwrap();
    let pad = classifier.spec().pad_id;
    let run = |rows: Vec<Vec<u32>>, padding| {
        let batch = TokenBatch::collate(rows, classifier.spec(), padding).unwrap();
        no_grad(|| classifier.logits(&batch, None, Forward::default()).unwrap())
    };
    for padding in [Padding::Right, Padding::Left] {
        let want = run(vec![vec![5, 9, pad, 7], vec![3]], padding);
        let got = run(vec![vec![5, 9, pad, 7, pad, pad], vec![3, pad]], padding);
        close("pad ids at the end", &got, &want, TOLERANCE);
        let cut = run(vec![vec![5, 9], vec![3]], padding);
        assert!((cut - &want).abs().max().double_value(&[]) > 1e-2);
    }
    assert_eq!(run(vec![vec![pad, pad]], Padding::Right).size(), [1, 1]);
}

/// The loss whose gradients the goldens hold: cross-entropy, or, with one label, -log sigmoid of
/// the difference of neighbouring rows.
fn loss(logits: &Tensor, goldens: &Goldens) -> Tensor {
    if logits.size()[1] == 1 {
        let pairs = logits.view([-1, 2]);
        return -(pairs.select(1, 0) - pairs.select(1, 1)).log_sigmoid().mean(Kind::Float);
    }
    let labels = goldens.json["labels"].as_array().unwrap();
    let labels: Vec<i64> = labels.iter().map(|label| label.as_i64().unwrap()).collect();
    logits.cross_entropy_for_logits(&Tensor::from_slice(&labels))
}

/// Decoding with the cache gives the log-probs that a full pass gives: over rows without padding in f32, and by
/// libtorch's operations in other dtypes.
#[test]
fn decoding_steps_equal_a_full_pass() {
    let kinds = [Kind::Float, Kind::Double];
    for (name, kind) in
        CAUSAL.into_iter().chain(SEQ2SEQ).flat_map(|name| kinds.map(|kind| (name, kind)))
    {
        let options = LoadOptions { kind: Some(kind), ..LoadOptions::default() };
        let policy = LanguageModel::load(&model(name), options).unwrap();
        let (prompts, responses) = batches(name, &policy, Padding::Left);
        let forward = Forward::default();
        no_grad(|| {
            let hidden = policy.response_hidden(&prompts, &responses, forward).unwrap();
            let want = policy.head(forward).unwrap().logits(&hidden);
            let width = responses.width();
            let total = prompts.width() + width;
            let room =
                Room { rows: prompts.len(), prompt: prompts.width(), response: width, total };
            let mut state = policy.open(room).unwrap();
            let firsts = policy.enter(&mut state, &prompts, forward).unwrap();
            let firsts: Vec<i64> = firsts.into_iter().map(i64::from).collect();
            let firsts = Tensor::from_slice(&firsts);
            let mut logits = policy.step(&mut state, &firsts, forward).unwrap();
            let mut largest = 0f64;
            for t in 0..width {
                for (row, ids) in responses.rows().iter().enumerate() {
                    if t < ids.len() {
                        let at = |x: &Tensor| x.get(row as i64);
                        let want = at(&want).get(t as i64);
                        largest = largest.max(close(name, &at(&logits), &want, TOLERANCE));
                    }
                }
                if t + 1 < width {
                    state.advance();
                    let tokens = responses.ids().select(1, t as i64);
                    logits = policy.step(&mut state, &tokens, forward).unwrap();
                }
            }
            println!("{name} {kind:?}: {largest:.1e}");
        });
    }
}

#[test]
fn low_precision_stays_near() {
    for name in ["flan", "llama3"] {
        let goldens = Goldens::read(&model(name));
        let options = LoadOptions { kind: Some(Kind::BFloat16), ..LoadOptions::default() };
        let policy = LanguageModel::load(&model(name), options).unwrap();
        let (prompts, responses) = batches(name, &policy, Padding::Right);
        let forward = Forward::default();
        let logits = no_grad(|| {
            let hidden = policy.response_hidden(&prompts, &responses, forward).unwrap();
            policy.head(forward).unwrap().logits(&real(&hidden, &responses))
        });
        assert_eq!(logits.kind(), Kind::BFloat16);
        let want = match policy.architecture() {
            Architecture::EncoderDecoder(_) => goldens.get("bf16.logits").shallow_clone(),
            Architecture::DecoderOnly(_) => {
                // All positions are stored; a response token is predicted by the one before it.
                let mut places = Vec::new();
                let mut start = 0;
                for (prompt, response) in prompts.rows().iter().zip(responses.rows()) {
                    let first = start + prompt.len() as i64 - 1;
                    places.extend(first..first + response.len() as i64);
                    start += (prompt.len() + response.len()) as i64;
                }
                goldens.get("bf16.logits").index_select(0, &Tensor::from_slice(&places))
            }
        };
        // transformers' own bf16 is up to 0.26 away from its f32 here.
        println!("{name}: {:.1e}", close(name, &logits, &want, 0.3));
    }
}

/// Numbers from 8 on lie 2^-7 apart in f16; a mask that leaks or overflows is further off.
#[test]
fn padding_changes_nothing_in_f16() {
    let seq2seq = ["t5-v1.0", "flan", "bart", "mbart", "pegasus", "t5gemma"];
    for name in seq2seq.into_iter().chain(["llama3", "qwen3", "mistral"]) {
        let options = LoadOptions { kind: Some(Kind::Half), ..LoadOptions::default() };
        let policy = LanguageModel::load(&model(name), options).unwrap();
        let log_probs = |prompts: &TokenBatch, responses: &TokenBatch| {
            no_grad(|| {
                let forward = Forward::default();
                let hidden = policy.response_hidden(prompts, responses, forward).unwrap();
                assert_eq!(hidden.kind(), Kind::Half, "{name}");
                let head = policy.head(forward).unwrap();
                let got = token_log_probs(&head, &hidden, responses, 1.).unwrap();
                real(&got.log_probs, responses)
            })
        };
        let goldens = Goldens::read(&model(name));
        let (prompts, responses) = batches(name, &policy, Padding::Right);
        let alone: Vec<_> = (0..prompts.len())
            .map(|i| {
                let prompt = vec![prompts.rows()[i].clone()];
                let prompt = TokenBatch::collate(prompt, policy.spec(), Padding::Right).unwrap();
                let response = vec![responses.rows()[i].clone()];
                log_probs(&prompt, &TokenBatch::responses(response, policy.spec()).unwrap())
            })
            .collect();
        let alone = Tensor::cat(&alone, 0);
        let exact = close(name, &alone, goldens.get("response.log_probs"), 0.1);
        for padding in [Padding::Right, Padding::Left] {
            let (prompts, responses) = batches(name, &policy, padding);
            assert!(!prompts.is_full(), "{name}");
            let d = close(name, &log_probs(&prompts, &responses), &alone, 0.05);
            println!("{name} {padding:?}: {d:.1e} from alone, {exact:.1e} from f32");
        }
    }
    for name in CAUSAL_CLASSIFIERS.into_iter().chain(ENCODER_CLASSIFIERS).chain(SEQ2SEQ_CLASSIFIERS)
    {
        let options = LoadOptions { kind: Some(Kind::Half), ..LoadOptions::default() };
        let classifier = Classifier::load(&model(name), options).unwrap();
        let rows = Goldens::read(&model(name)).rows("right");
        let run = |rows: &[Vec<u32>], padding| {
            let batch = TokenBatch::collate(rows.to_vec(), classifier.spec(), padding).unwrap();
            no_grad(|| classifier.logits(&batch, None, Forward::default()).unwrap())
        };
        let alone: Vec<_> = rows.chunks(1).map(|row| run(row, Padding::Right)).collect();
        let alone = Tensor::cat(&alone, 0);
        for padding in [Padding::Right, Padding::Left] {
            let d = close(name, &run(&rows, padding), &alone, 0.05);
            println!("{name} {padding:?}: {d:.1e} from alone");
        }
    }
}

#[test]
fn a_response_that_does_not_fit_is_refused() {
    let policy = load(&model("llama3"));
    let spec = policy.spec();
    let prompts = TokenBatch::collate(vec![vec![5; 60]], spec, Padding::Right).unwrap();
    let responses = TokenBatch::responses(vec![vec![5; 5]], spec).unwrap();
    let error = policy.response_hidden(&prompts, &responses, Forward::default()).unwrap_err();
    assert!(matches!(error, LmError::TooLong { row: 0, length: 65, context: 64 }), "{error}");
    for (rows, want) in [
        (vec![vec![1], vec![]], "row 1 of the batch has no token"),
        (vec![vec![1, 96]], "row 0, position 1: token id 96 is outside the vocabulary of 96"),
        (vec![vec![1; 65]], "row 0 has 65 tokens, but the model's context is 64"),
        (vec![], "the batch has no rows"),
    ] {
        let error = TokenBatch::collate(rows, spec, Padding::Right).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
}

#[test]
fn a_decoder_with_dropout_reads_what_an_encoder_without_made() {
    for name in ["t5-v1.0", "bart", "t5gemma"] {
        a_decoder_with_dropout_reads(name);
    }
}

fn a_decoder_with_dropout_reads(name: &str) {
    let policy = load(&model(name));
    let Architecture::EncoderDecoder(t5) = policy.architecture() else { panic!("not T5") };
    let prompts = vec![vec![5, 6, 7, 8], vec![9, 10]];
    let inputs = vec![vec![0, 3, 4], vec![0, 5, 6]];
    let prompts = TokenBatch::collate(prompts, policy.spec(), Padding::Right).unwrap();
    let inputs = TokenBatch::responses(inputs, policy.spec()).unwrap();
    let dropped = Forward { dropout: Dropout::On, ..Forward::default() };
    let encoded = t5.encode(&prompts, Forward::default()).unwrap();
    tch::manual_seed(3);
    let one = t5.decode(inputs.ids(), &encoded, dropped).unwrap();
    assert!(one.isfinite().all().int64_value(&[]) == 1);
    one.sum(Kind::Float).backward();
    // The bias of logits is behind the decoder.
    for (parameter, tensor) in
        policy.parameters().iter().filter(|(name, _)| *name != "final_logits_bias")
    {
        assert!(tensor.grad().defined() || !tensor.requires_grad(), "{parameter}");
    }
}
