//! Log-probabilities of response tokens, computed chunk by chunk.

use tch::{Kind, Tensor};

use crate::{
    batch::{TokenBatch, int},
    error::LmError,
    forward::Forward,
    head::VocabHead,
    policy::Policy,
};

/// Size limit of the f32 logits in memory at a time, in bytes.
const CHUNK_BYTES: i64 = 64 << 20;

/// Log-probabilities and entropies of response tokens, f32 `[B, T]`, 0 where masked.
#[derive(Debug)]
pub struct TokenLogProbs {
    /// log π(y_t | x, y_<t) at the sampling temperature.
    pub log_probs: Tensor,
    /// H(π(· | x, y_<t)) = -Σ_v π_v log π_v, exact, in nats.
    pub entropy: Tensor,
}

/// Log-probabilities and entropies of `responses` from their hidden states `[B, T, H]`, as returned
/// by [`crate::Policy::response_hidden`].
///
/// `log π(y_t) = z_{y_t} / τ - log Σ_v exp(z_v / τ)` with z the logits and τ the temperature.
///
/// Only real tokens are computed. Logits exist for one chunk of tokens at a time, of at most 64
/// MiB, and the backward pass recomputes each chunk instead of keeping it: the memory for logits is
/// that of one chunk, for any B, T and V.
///
/// # Errors
/// [`LmError::Torch`], for example out of memory.
///
/// # Panics
/// If `hidden` is not `[B, T, H]` for this batch, or the temperature is not positive.
pub fn token_log_probs(
    head: &VocabHead,
    hidden: &Tensor,
    responses: &TokenBatch,
    temperature: f64,
) -> Result<TokenLogProbs, LmError> {
    assert!(temperature > 0., "a temperature is positive, this one is {temperature}");
    let (batch, width) = (int(responses.len()), int(responses.width()));
    let size = hidden.size();
    assert_eq!(size[..2], [batch, width], "hidden states and responses have one [B, T]");

    let device = hidden.device();
    let positions = real_positions(responses);
    let everything = positions.len() == responses.len() * responses.width();
    let positions = Tensor::from_slice(&positions).to_device(device);
    let pick =
        |x: &Tensor| if everything { x.shallow_clone() } else { x.index_select(0, &positions) };

    let rows = pick(&hidden.reshape([batch * width, size[2]]));
    let rows = if head.scale == 1. { rows } else { rows * head.scale };
    let weight = match &head.adapter {
        Some(adapter) => adapter.on(&head.weight).to_kind(head.weight.kind()),
        None => head.weight.shallow_clone(),
    };
    let targets = pick(&responses.ids().reshape([batch * width]));
    let chunk = (CHUNK_BYTES / (4 * weight.size()[0])).max(1);
    let rows = rows.to_kind(weight.kind());
    let bias = head.bias.as_ref();
    let (log_probs, entropy) = match head.cap {
        None => rlaif_torch::linear_log_probs(&rows, &weight, bias, &targets, temperature, chunk)?,
        Some(cap) => capped_log_probs(&rows, (&weight, bias), cap, &targets, temperature, chunk)?,
    };
    let spread = |x: Tensor| {
        let flat = if everything {
            x
        } else {
            Tensor::zeros([batch * width], (Kind::Float, device)).index_copy(0, &positions, &x)
        };
        flat.view([batch, width])
    };
    Ok(TokenLogProbs { log_probs: spread(log_probs), entropy: spread(entropy) })
}

/// [`rlaif_torch::linear_log_probs`] for capped logits: libtorch's operations on a chunk, which the
/// backward pass recomputes.
fn capped_log_probs(
    rows: &Tensor,
    (weight, bias): (&Tensor, Option<&Tensor>),
    cap: f64,
    targets: &Tensor,
    temperature: f64,
    chunk: i64,
) -> Result<(Tensor, Tensor), LmError> {
    let mut parts = (Vec::new(), Vec::new());
    let count = rows.size()[0];
    for start in (0..count).step_by(usize::try_from(chunk).unwrap_or(usize::MAX)) {
        let length = chunk.min(count - start);
        let (rows, targets) = (rows.narrow(0, start, length), targets.narrow(0, start, length));
        let mut inputs = vec![&rows, weight];
        inputs.extend(bias);
        let segment = move |inputs: &[Tensor]| -> Result<Vec<Tensor>, LmError> {
            let logits = inputs[0].linear(&inputs[1], inputs.get(2)).to_kind(Kind::Float);
            let logits = (logits / cap).tanh() * (cap / temperature);
            let log_p = logits.log_softmax(-1, Kind::Float);
            let picked = log_p.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
            let entropy = -(log_p.exp() * log_p).sum_dim_intlist(1, false, Kind::Float);
            Ok(vec![picked, entropy])
        };
        let mut made = rlaif_torch::checkpoint_many(&inputs, segment)?.into_iter();
        if let (Some(log_probs), Some(entropy)) = (made.next(), made.next()) {
            parts.0.push(log_probs);
            parts.1.push(entropy);
        }
    }
    if count == 0 {
        let none = || Tensor::zeros([0], (Kind::Float, rows.device()));
        return Ok((none(), none()));
    }
    Ok((Tensor::cat(&parts.0, 0), Tensor::cat(&parts.1, 0)))
}

/// One forward pass of a policy over responses.
#[derive(Debug)]
pub struct PolicyLogProbs {
    /// Hidden states `[B, T, H]` from which the tokens are predicted.
    pub hidden: Tensor,
    /// The head that mapped them to logits.
    pub head: VocabHead,
    /// log π(y_t | x, y_<t) at the sampling temperature, f32 `[B, T]`, 0 where masked.
    pub log_probs: Tensor,
    /// Entropies in nats, f32 `[B, T]`, 0 where masked.
    pub entropy: Tensor,
}

/// Log-probabilities of `responses` to `prompts` under a policy: [`Policy::response_hidden`],
/// [`Policy::head`] and [`token_log_probs`] in turn. If the prompts come in rounds (all prompts,
/// then all prompts again), each is read once ([`Policy::branch_hidden`]).
///
/// # Errors
/// Those of the three.
///
/// ```
/// use rlaif_lm::{Forward, LmError, Padding, Policy, TokenBatch, policy_log_probs};
///
/// /// log π(y | x) of one response.
/// fn log_prob(policy: &dyn Policy, x: Vec<u32>, y: Vec<u32>) -> Result<f64, LmError> {
///     let prompts = TokenBatch::collate(vec![x], policy.spec(), Padding::Right)?;
///     let responses = TokenBatch::responses(vec![y], policy.spec())?;
///     let found = policy_log_probs(policy, &prompts, &responses, Forward::default(), 1.)?;
///     Ok(found.log_probs.sum(tch::Kind::Double).double_value(&[]))
/// }
/// ```
pub fn policy_log_probs(
    policy: &dyn Policy,
    prompts: &TokenBatch,
    responses: &TokenBatch,
    forward: Forward<'_>,
    temperature: f64,
) -> Result<PolicyLogProbs, LmError> {
    // Routers count the tokens of a prompt with each of its responses, and a response that starts over is more
    // than one sequence.
    let each = forward.routers.is_some() || responses.segments().is_some();
    let hidden = match rounds(prompts).filter(|_| !each) {
        Some(distinct) => policy.branch_hidden(&prompts.select(&distinct)?, responses, forward)?,
        None => policy.response_hidden(prompts, responses, forward)?,
    };
    let head = policy.head(forward)?;
    let TokenLogProbs { log_probs, entropy } =
        token_log_probs(&head, &hidden, responses, temperature)?;
    Ok(PolicyLogProbs { hidden, head, log_probs, entropy })
}

/// The rows of the first round, if the prompts come in rounds: row r has the prompt of row r % n.
fn rounds(prompts: &TokenBatch) -> Option<Vec<usize>> {
    let rows = prompts.rows();
    // The second round begins where the first prompt occurs again.
    let first = rows.first()?;
    let n = 1 + rows.iter().skip(1).position(|row| row == first)?;
    let whole = rows.len().is_multiple_of(n);
    let again = || rows.iter().enumerate().all(|(row, prompt)| *prompt == rows[row % n]);
    (whole && again()).then(|| (0..n).collect())
}

/// Indices of the real tokens in the flattened `[B, T]`.
fn real_positions(responses: &TokenBatch) -> Vec<i64> {
    let width = responses.width();
    let real = responses.rows().iter().enumerate().flat_map(|(row, ids)| {
        let start = match responses.padding() {
            crate::batch::Padding::Right => row * width,
            crate::batch::Padding::Left => (row + 1) * width - ids.len(),
        };
        start..start + ids.len()
    });
    real.map(int).collect()
}

#[cfg(test)]
mod tests {
    use tch::{Device, no_grad};

    use super::*;
    use crate::batch::Padding;

    fn head(vocab: i64, hidden: i64, with_bias: bool) -> VocabHead {
        let options = (Kind::Double, Device::Cpu);
        let tensor = |size: &[i64]| {
            Tensor::randn(size, options).to_kind(Kind::Float).set_requires_grad(true)
        };
        VocabHead {
            weight: tensor(&[vocab, hidden]),
            bias: with_bias.then(|| tensor(&[vocab])),
            scale: 0.7,
            cap: None,
            adapter: None,
        }
    }

    /// The definition, in f64 over the whole `[B, T, V]`.
    fn reference(head: &VocabHead, hidden: &Tensor, y: &TokenBatch, t: f64) -> (Tensor, Tensor) {
        let wide = |x: &Tensor| x.to_kind(Kind::Double);
        let logits = (wide(hidden) * head.scale)
            .linear(&wide(&head.weight), head.bias.as_ref().map(wide).as_ref());
        let logits = head.cap.map_or(logits.shallow_clone(), |cap| (logits / cap).tanh() * cap);
        let log_p = (logits / t).log_softmax(-1, Kind::Double);
        let picked = log_p.gather(2, &y.ids().unsqueeze(2), false).squeeze_dim(2);
        let entropy = -(log_p.exp() * &log_p).sum_dim_intlist(2, false, Kind::Double);
        (y.mask().apply(&picked), y.mask().apply(&entropy))
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a.to_kind(Kind::Double) - b).abs().max().double_value(&[])
    }

    #[test]
    fn values_and_gradients_equal_the_definition_in_f64() {
        tch::manual_seed(3);
        for (padding, with_bias, temperature, cap) in [
            (Padding::Right, false, 1., None),
            (Padding::Left, true, 0.7, None),
            (Padding::Right, true, 1.3, None),
            (Padding::Right, false, 0.7, Some(1.5)),
            (Padding::Left, true, 1., Some(0.8)),
        ] {
            let rows = vec![vec![1, 2, 3, 4], vec![5], vec![6, 0, 2]];
            let y = TokenBatch::pad(rows, 0, padding, Device::Cpu).unwrap();
            let head = VocabHead { cap, ..head(11, 6, with_bias) };
            let hidden =
                Tensor::randn([3, 4, 6], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let (want_log, want_entropy) = reference(&head, &hidden, &y, temperature);
            let weights = Tensor::randn([3, 4], (Kind::Float, Device::Cpu));
            let loss = |log: &Tensor, entropy: &Tensor| {
                (log * &weights + entropy * 0.3 * &weights).sum(Kind::Double)
            };
            let mut inputs = vec![&hidden, &head.weight];
            inputs.extend(&head.bias);
            let want =
                Tensor::run_backward(&[loss(&want_log, &want_entropy)], &inputs, false, false);

            let got = token_log_probs(&head, &hidden, &y, temperature).unwrap();
            assert!(distance(&got.log_probs, &want_log) < 2e-6);
            assert!(distance(&got.entropy, &want_entropy) < 2e-6);
            let loss = loss(&got.log_probs, &got.entropy);
            for (got, want) in
                Tensor::run_backward(&[loss], &inputs, false, false).iter().zip(&want)
            {
                assert!(distance(got, want) < 1e-5);
            }
        }
    }

    #[test]
    fn chunks_change_nothing() {
        tch::manual_seed(5);
        let options = (Kind::Float, Device::Cpu);
        let hidden = Tensor::randn([23, 8], options).set_requires_grad(true);
        let weight = Tensor::randn([50, 8], options).set_requires_grad(true);
        let targets = Tensor::randint(50, [23], (Kind::Int64, Device::Cpu));
        let run = |chunk| {
            let (log, entropy) =
                rlaif_torch::linear_log_probs(&hidden, &weight, None, &targets, 1.1, chunk)
                    .unwrap();
            let loss = (&log - &entropy * 0.5).sum(Kind::Float);
            let grads = Tensor::run_backward(&[loss], &[&hidden, &weight], false, false);
            [log.detach(), entropy.detach()].into_iter().chain(grads).collect::<Vec<_>>()
        };
        let whole = run(100);
        for chunk in [1, 7, 23] {
            for (got, want) in run(chunk).iter().zip(&whole) {
                assert!(distance(got, want) < 1e-5, "chunk {chunk}");
            }
        }
    }

    #[test]
    fn an_adapter_on_the_head_acts_and_learns() {
        tch::manual_seed(8);
        let mut head = head(9, 6, false);
        let hidden = Tensor::randn([1, 2, 6], (Kind::Float, Device::Cpu));
        let y = TokenBatch::pad(vec![vec![3, 8]], 0, Padding::Right, Device::Cpu).unwrap();
        let plain = no_grad(|| token_log_probs(&head, &hidden, &y, 1.).unwrap().log_probs);
        let low =
            |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu)).set_requires_grad(true);
        head.adapter =
            Some(crate::HeadAdapter { a: low(&[2, 6]), b: low(&[9, 2]), scale: 0.5, ratio: None });
        let adapted = token_log_probs(&head, &hidden, &y, 1.).unwrap().log_probs;
        let want =
            head.log_softmax(&hidden, 1.).gather(2, &y.ids().unsqueeze(2), false).squeeze_dim(2);
        assert!(distance(&adapted, &want) < 1e-5);
        assert!(distance(&adapted, &plain) > 1e-2);
        adapted.sum(Kind::Float).backward();
        let adapter = head.adapter.unwrap();
        assert!(adapter.a.grad().abs().sum(Kind::Float).double_value(&[]) > 0.);
        assert!(adapter.b.grad().abs().sum(Kind::Float).double_value(&[]) > 0.);
    }
}
