//! The auxiliary loss of routers, in models with experts.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::{Kind, Tensor};

/// Collects the choices of the routers in a forward pass, for the loss that spreads tokens over experts
/// ([Fedus et al. 2021](https://arxiv.org/abs/2101.03961), equations 4 to 6), as transformers computes it:
///
/// ```text
/// L = E · Σ_e f_e · P_e
/// ```
///
/// f_e is the number of times that expert e of E is chosen, and P_e the sum of its probabilities, both over
/// the real tokens of all layers with a router, and divided by the number of these tokens.
///
/// ```
/// use rlaif_lm::Routers;
/// use tch::{Kind, Tensor};
///
/// let routers = Routers::default();
/// assert!(routers.loss().is_none());
/// // Two tokens, two experts, one of which is chosen.
/// routers.add(&Tensor::from_slice(&[0.5f32, 0.5, 0.5, 0.5]).view([2, 2]), 1, None);
/// let loss = routers.loss().ok_or("no router")?;
/// assert_eq!(loss.double_value(&[]), 1.);
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Default)]
pub struct Routers(Mutex<Option<Sums>>);

#[derive(Debug)]
struct Sums {
    /// Times that each expert was chosen, `[E]`.
    chosen: Tensor,
    /// Sums of probabilities, `[E]`, with their graph.
    probabilities: Tensor,
    /// Number of tokens, a scalar.
    tokens: Tensor,
}

impl Routers {
    /// Adds a layer, whose router gives these probabilities, f32 `[N, E]`, and chooses the `chosen` most
    /// probable experts for each token. With a mask of N elements, only real tokens count.
    pub fn add(&self, probabilities: &Tensor, chosen: i64, mask: Option<&Tensor>) {
        let size = probabilities.size();
        let (tokens, experts) = (size[0], size[1]);
        let options = (Kind::Float, probabilities.device());
        let real = match mask {
            Some(mask) => mask.reshape([tokens]).to_kind(Kind::Float),
            None => Tensor::ones([tokens], options),
        };
        let (_, indices) = probabilities.detach().topk(chosen, -1, true, false);
        let times = Tensor::zeros([experts], options).scatter_add(
            0,
            &indices.flatten(0, 1),
            &real.repeat_interleave_self_int(chosen, 0, tokens * chosen),
        );
        let sum = (probabilities * real.unsqueeze(1)).sum_dim_intlist(0, false, Kind::Float);
        let tokens = real.sum(Kind::Float);
        let mut held = self.held();
        *held = Some(match held.take() {
            Some(sums) => Sums {
                chosen: sums.chosen + times,
                probabilities: sums.probabilities + sum,
                tokens: sums.tokens + tokens,
            },
            None => Sums { chosen: times, probabilities: sum, tokens },
        });
    }

    /// The loss, a scalar with its graph; `None` if no layer has a router.
    pub fn loss(&self) -> Option<Tensor> {
        let held = self.held();
        let Sums { chosen, probabilities, tokens } = held.as_ref()?;
        let experts = chosen.numel() as f64;
        let shares = (chosen / tokens) * (probabilities / tokens);
        Some(shares.sum(Kind::Float) * experts)
    }

    fn held(&self) -> MutexGuard<'_, Option<Sums>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Routers {
    /// `true` for the same collector.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Routers {}
