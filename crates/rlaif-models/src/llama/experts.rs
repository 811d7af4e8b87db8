//! A feed-forward layer of experts, of which a router chooses a few for each token.

use tch::{Kind, Tensor};

use super::{
    config::{ExpertProducts, ExpertShape, ExpertWeights, Plan},
    feed_forward::FeedForward,
};
use crate::{
    adapter::Pass,
    error::ModelError,
    layers::{Bias, Linear},
    recompute::Shallow,
    weights::{Stack, TensorTree},
};

/// `Σ_e w_e · expert_e(x)` over the experts that the router prefers for a token.
#[derive(Debug)]
pub(super) struct Experts {
    /// One logit for each expert. Adapters leave it as it is, as in peft.
    pub(super) router: Linear,
    experts: Vec<FeedForward>,
    /// An expert for all tokens, and the logit of its weight.
    pub(super) shared: Option<(FeedForward, Linear)>,
    /// Experts for each token.
    chosen: i64,
    weights: ExpertWeights,
    products: ExpertProducts,
}

/// The choice of a router.
pub(super) struct Routing {
    /// `[N, experts]`, f32.
    pub(super) probabilities: Tensor,
    /// The weights of the chosen experts, `[N, chosen]`.
    weights: Tensor,
    /// int64 `[N, chosen]`.
    indices: Tensor,
}

impl Experts {
    /// The layer at the first node; files that have its experts in one tensor have it at the second one.
    pub(super) fn load(
        [weights, fused]: [&TensorTree<'_>; 2],
        plan: Plan<'_>,
        experts: &ExpertShape,
    ) -> Result<Self, ModelError> {
        let Plan { raw, shape, names } = plan;
        let std = raw.initializer_range;
        let one =
            |place: &TensorTree<'_>, layers, inner| FeedForward::load(place, plan, layers, inner);
        let all = weights.at("experts");
        let [gate, up, down] = names.expert_layers;
        let (count, inner) = (experts.count, experts.inner);
        let stack =
            |key, layers, rows, columns| Stack { key, layers, size: [count, rows, columns] };
        all.stacked(
            &fused.at("experts"),
            &[
                stack("gate_up_proj", &[gate, up], 2 * inner, shape.hidden),
                stack("down_proj", &[down], shape.hidden, inner),
            ],
        );
        weights.at("gate").renamed(&fused.at("gate"));
        let to =
            |key, outputs| Linear::load(&weights.at(key), shape.hidden, outputs, Bias::Absent, std);
        Ok(Self {
            router: to("gate", count),
            experts: (0..count)
                .map(|i| one(&all.at(i), names.expert_layers, inner))
                .collect::<Result<_, _>>()?,
            shared: match experts.shared {
                Some(inner) => {
                    let layers = names.feed_forward_layers;
                    let shared = one(&weights.at("shared_expert"), layers, inner)?;
                    Some((shared, to("shared_expert_gate", 1)))
                }
                None => None,
            },
            chosen: experts.chosen,
            weights: experts.weights,
            products: experts.products,
        })
    }

    /// The experts for each token, from the logits `[N, experts]` of the router.
    pub(super) fn route(&self, logits: &Tensor) -> Routing {
        let probabilities = logits.softmax(-1, Kind::Float);
        let (mut weights, indices) = probabilities.topk(self.chosen, -1, true, true);
        if self.weights == ExpertWeights::Shares {
            weights = &weights / weights.sum_dim_intlist(-1, true, Kind::Float);
        }
        if self.products == ExpertProducts::OfOutputs {
            weights = weights.to_kind(logits.kind());
        }
        Routing { probabilities, weights, indices }
    }

    /// The weighted sum `[N, H]` of the outputs of the chosen experts; `run` applies one to its tokens
    /// `[M, H]`.
    pub(super) fn mix(
        &self,
        x: &Tensor,
        routing: &Routing,
        run: impl Fn(&FeedForward, &Tensor) -> Tensor,
    ) -> Tensor {
        let (n, chosen) = (x.size()[0], self.chosen);
        let wanted = Vec::<i64>::try_from(routing.indices.flatten(0, 1)).unwrap_or_default();
        // The tokens of each expert, one expert after the other.
        let mut of_expert: Vec<Vec<i64>> = vec![Vec::new(); self.experts.len()];
        for (place, &expert) in (0i64..).zip(&wanted) {
            of_expert[expert as usize].push(place);
        }
        let order: Vec<i64> = of_expert.iter().flatten().copied().collect();
        let mut places = vec![0i64; order.len()];
        for (at, &place) in (0i64..).zip(&order) {
            places[place as usize] = at;
        }
        let tokens: Vec<i64> = order.iter().map(|place| place / chosen).collect();
        let on_device = |indices: &[i64]| Tensor::from_slice(indices).to_device(x.device());
        let sorted = x.index_select(0, &on_device(&tokens));
        let mut start = 0;
        let mut made = Vec::new();
        for (expert, places) in self.experts.iter().zip(&of_expert) {
            let count = places.len() as i64;
            if count > 0 {
                made.push(run(expert, &sorted.narrow(0, start, count)));
                start += count;
            }
        }
        let outputs = Tensor::cat(&made, 0).index_select(0, &on_device(&places));
        let outputs = outputs.view([n, chosen, -1]);
        // In this order for each token, so that it does not depend on the others.
        let part = |k| {
            let weighted = outputs.select(1, k) * routing.weights.narrow(1, k, 1);
            weighted.to_kind(x.kind())
        };
        (1..chosen).fold(part(0), |sum, k| sum + part(k))
    }

    /// The output for `x` `[.., H]`, and the probabilities of the router, f32 `[N, experts]`.
    pub(super) fn forward(&self, x: &Tensor, pass: Pass) -> (Tensor, Tensor) {
        let size = x.size();
        let rows = x.reshape([-1, size[size.len() - 1]]);
        let routing = self.route(&self.router.forward(&rows, pass));
        let mut mixed = self.mix(&rows, &routing, |expert, x| expert.forward(x, pass));
        if let Some((shared, gate)) = &self.shared {
            mixed += gate.forward(&rows, pass).sigmoid() * shared.forward(&rows, pass);
        }
        (mixed.view(size.as_slice()), routing.probabilities)
    }

    /// Experts for each token.
    pub(super) fn chosen(&self) -> i64 {
        self.chosen
    }

    pub(super) fn linears(&mut self) -> Vec<&mut Linear> {
        let mut all: Vec<&mut Linear> =
            self.experts.iter_mut().flat_map(FeedForward::linears).collect();
        if let Some((shared, gate)) = &mut self.shared {
            all.extend(shared.linears());
            all.push(gate);
        }
        all
    }
}

impl Shallow for Experts {
    fn handle(&self) -> Self {
        Self {
            router: self.router.handle(),
            experts: self.experts.iter().map(FeedForward::handle).collect(),
            shared: self.shared.handle(),
            ..*self
        }
    }
}
