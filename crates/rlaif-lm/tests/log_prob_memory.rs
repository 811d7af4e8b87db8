//! Memory of token log-probabilities, forward and backward. A separate test binary, because it
//! reads the peak memory of the process.

use rlaif_lm::{LmSpec, TokenBatch, VocabHead, token_log_probs};
use tch::{Device, Kind, Tensor};

#[test]
fn memory_for_logits_is_that_of_a_chunk_whatever_the_batch() {
    const MIB: u64 = 1 << 20;
    let (vocab, width) = (32_768, 4);
    let spec = LmSpec {
        model_type: "llama".to_owned(),
        hidden_size: width,
        vocab_size: vocab,
        context: None,
        pad_id: 0,
        eos_ids: vec![2],
        bos_id: None,
        decoder_start_id: None,
        forced: rlaif_lm::ForcedIds::default(),
        kind: Kind::Float,
        device: Device::Cpu,
    };
    let parameter =
        |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let head = VocabHead {
        weight: parameter(&[vocab, width]),
        bias: None,
        scale: 1.,
        cap: None,
        adapter: None,
    };
    let peak = || rlaif_torch::host_memory().resident_peak.unwrap();
    let pass = |rows: usize, length: usize| {
        let ids = (0..rows).map(|row| (0..length as u32).map(|t| t + row as u32).collect());
        let responses = TokenBatch::responses(ids.collect(), &spec).unwrap();
        let hidden = parameter(&[rows as i64, length as i64, width]);
        let got = token_log_probs(&head, &hidden, &responses, 1.).unwrap();
        (got.log_probs.sum(Kind::Float) + got.entropy.sum(Kind::Float)).backward();
        assert!(hidden.grad().abs().sum(Kind::Float).double_value(&[]) > 0.);
    };
    // Allocates threads, code and one token's logits.
    pass(1, 1);
    let start = peak();
    // 128 KiB of logits per token: together one chunk of 64 MiB, without a second copy.
    pass(4, 128);
    let chunk = peak() - start;
    assert!((60 * MIB..100 * MIB).contains(&chunk), "{} MiB", chunk / MIB);
    // 256 MiB, if the logits were kept.
    pass(8, 256);
    let more = peak() - start - chunk;
    println!("a chunk: {} MiB; four of them: {} MiB more", chunk / MIB, more / MIB);
    assert!(more < 32 * MIB, "{} MiB more", more / MIB);
}
