//! Parts shared by the tests of several crates: comparisons of numbers, a tokenizer, small models.

pub mod curves;
mod routers;
mod vllm;

use std::{
    cell::Cell,
    env, fs,
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rlaif_core::{CodecError, GenerationPrompt, Message, Specials, TextCodec};
use tch::{Kind, Tensor};

pub use routers::RouterGoldens;
pub use vllm::RealVllm;

/// The config.json of a small Llama.
pub const LLAMA: &str = r#"{"model_type": "llama", "vocab_size": 40, "hidden_size": 16,
    "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "eos_token_id": 1,
    "initializer_range": 0.3}"#;

/// The config.json of a small T5.
pub const T5: &str = r#"{"model_type": "t5", "vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 24,
    "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}"#;

/// Holds up the other tests of a program until the guard is dropped, and has libtorch use one thread:
/// its generator is one for all threads, trainers and dropout draw from it, and what is computed again in
/// a backward pass sets it back. Tiny tensors gain nothing from a second thread. A thread that is alone
/// already stays alone.
pub fn alone() -> Alone {
    static TESTS: Mutex<()> = Mutex::new(());
    tch::set_num_threads(1);
    let held = HOLDERS.get();
    HOLDERS.set(held + 1);
    Alone((held == 0).then(|| TESTS.lock().unwrap_or_else(PoisonError::into_inner)))
}

thread_local! {
    /// The number of guards that this thread holds.
    static HOLDERS: Cell<usize> = const { Cell::new(0) };
}

/// The guard of a test that runs [`alone`]. Guards of one thread are dropped in the reverse order of their
/// making, as scopes do.
#[must_use]
#[derive(Debug)]
pub struct Alone(
    #[expect(dead_code, reason = "held until it is dropped")] Option<MutexGuard<'static, ()>>,
);

impl Drop for Alone {
    fn drop(&mut self) {
        HOLDERS.set(HOLDERS.get() - 1);
    }
}

/// The result of `draw` after libtorch's generator was seeded, [`alone`]: other tests draw from the same
/// generator, and set it back.
pub fn drawn<T>(seed: i64, draw: impl FnOnce() -> T) -> T {
    let _alone = alone();
    tch::manual_seed(seed);
    draw()
}

/// The numbers of a tensor, row after row.
pub fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.to_kind(Kind::Double).reshape([-1])).expect("a dense tensor")
}

/// Asserts that each number is at most `tolerance` from the one expected.
#[track_caller]
pub fn close(got: &Tensor, want: &[f64], tolerance: f64) {
    within(got, want, |_| tolerance);
}

/// Asserts that each number is at most `tolerance` times 1 + |w| from the expected w.
#[track_caller]
pub fn close_to_scale(got: &Tensor, want: &[f64], tolerance: f64) {
    within(got, want, |want| tolerance * (1. + want.abs()));
}

#[track_caller]
fn within(got: &Tensor, want: &[f64], tolerance: impl Fn(f64) -> f64) {
    let got = numbers(got);
    assert_eq!(got.len(), want.len());
    let near = |(got, want): (&f64, &f64)| (got - want).abs() <= tolerance(*want);
    assert!(got.iter().zip(want).all(near), "{got:?} {want:?}");
}

/// Runs the tests of this binary whose names contain one of `filters` again, once for each value of the
/// environment variable: what is read once in a process cannot be changed in this one. A process that was
/// started like this starts no further one.
///
/// # Panics
/// If a test fails, with what it printed, or none was run.
pub fn run_again<'a>(variable: &str, values: impl IntoIterator<Item = &'a str>, filters: &[&str]) {
    if env::var_os(variable).is_some() {
        return;
    }
    let program = env::current_exe().expect("a test binary");
    for value in values {
        let child = Command::new(&program).args(filters).env(variable, value).output();
        let child = child.expect("a process");
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && !said.contains(" 0 passed"),
            "with {variable}={value}: {said}{}",
            String::from_utf8_lossy(&child.stderr)
        );
    }
}

/// Names in a folder, sorted.
///
/// # Panics
/// If the folder cannot be read.
pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<String> =
        entries.map(|entry| name(entry).into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// A tokenizer: a byte is a token, `$` is the end of sequence, `th` one token of its own.
#[derive(Debug, Clone, Copy)]
pub struct Bytes {
    /// [`Self::BOS`] is added before a text.
    pub bos: bool,
    /// [`Self::EOS`] is added behind a text.
    pub eos: bool,
}

impl Bytes {
    /// The beginning of a sequence.
    pub const BOS: u32 = 1;
    /// The end of a sequence.
    pub const EOS: u32 = 2;
}

impl TextCodec for Bytes {
    fn name(&self) -> &'static str {
        "bytes"
    }

    fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, CodecError> {
        let with = specials == Specials::Include;
        let mut ids: Vec<u32> = (self.bos && with).then_some(Self::BOS).into_iter().collect();
        let merged = text.replace("th", "\u{1}");
        ids.extend(merged.bytes().map(|byte| match byte {
            b'$' => Self::EOS,
            1 => 400,
            _ => 100 + u32::from(byte),
        }));
        ids.extend((self.eos && with).then_some(Self::EOS));
        Ok(ids)
    }

    fn decode(&self, _: &[u32], _: Specials) -> Result<String, CodecError> {
        unreachable!("texts are only encoded")
    }

    fn render_chat(&self, _: &[Message], _: GenerationPrompt) -> Result<String, CodecError> {
        unreachable!("texts are plain")
    }

    fn eos_id(&self) -> Option<u32> {
        Some(Self::EOS)
    }
}

/// A tokenizer whose token i is the letter number i; 0 pads and 1 ends a response.
#[derive(Debug, Clone, Copy)]
pub struct Letters;

impl TextCodec for Letters {
    fn name(&self) -> &'static str {
        "letters"
    }

    fn encode(&self, text: &str, _specials: Specials) -> Result<Vec<u32>, CodecError> {
        let id = |c| {
            u32::from(c).checked_sub(u32::from('@')).ok_or_else(|| CodecError::Tokenizer {
                codec: "letters".to_owned(),
                source: format!("{c:?} is not a letter").into(),
            })
        };
        text.chars().map(id).collect()
    }

    fn decode(&self, ids: &[u32], _specials: Specials) -> Result<String, CodecError> {
        let ids = ids.iter().filter(|id| **id > 1);
        Ok(ids.filter_map(|id| char::from_u32(u32::from('@') + id)).collect())
    }

    fn render_chat(
        &self,
        _messages: &[Message],
        _generation_prompt: GenerationPrompt,
    ) -> Result<String, CodecError> {
        Err(CodecError::NoChatTemplate { codec: "letters".into() })
    }
}

/// A tokenizer whose token i is character i of this text, where `.` stands for tokens without a text.
#[derive(Debug, Clone, Copy)]
pub struct Characters(pub &'static str);

impl TextCodec for Characters {
    fn name(&self) -> &'static str {
        "characters"
    }

    fn encode(&self, text: &str, _specials: Specials) -> Result<Vec<u32>, CodecError> {
        let id = |c| self.0.find(c).and_then(|at| u32::try_from(at).ok());
        Ok(text.chars().filter_map(id).collect())
    }

    fn decode(&self, ids: &[u32], _specials: Specials) -> Result<String, CodecError> {
        let texts = ids.iter().filter_map(|id| self.0.chars().nth(*id as usize));
        Ok(texts.filter(|c| *c != '.').collect())
    }

    fn render_chat(
        &self,
        _messages: &[Message],
        _generation_prompt: GenerationPrompt,
    ) -> Result<String, CodecError> {
        Err(CodecError::NoChatTemplate { codec: "characters".into() })
    }
}
