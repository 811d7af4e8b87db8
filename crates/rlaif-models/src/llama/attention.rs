//! Self-attention of the Llama family.

use rlaif_lm::{Branches, KvCache};
use tch::Tensor;

use super::{
    config::Plan,
    heads::Heads,
    variant::{Projections, QueryKeyNorm},
};
use crate::{
    adapter::Pass,
    layers::{Linear, Norm, Visible, in_heads},
    recompute::Shallow,
    rope::{Angles, turn},
    weights::TensorTree,
};

/// Self-attention with grouped key-value heads.
#[derive(Debug)]
pub(super) struct Attention {
    pub(super) inputs: Inputs,
    pub(super) o: Linear,
    /// The norms of queries and of keys.
    norms: Option<(Norm, Norm)>,
    norm_places: QueryKeyNorm,
    pub(super) heads: Heads,
}

/// The tensors that attention reads besides its input.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) angles: Option<&'a Angles>,
    pub(super) visible: &'a Visible<'a>,
}

/// The layers for queries, keys and values.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one value for each layer, and most have the larger")]
pub(super) enum Inputs {
    Apart([Linear; 3]),
    /// One layer.
    Fused {
        layer: Linear,
        order: FusedOrder,
    },
}

/// The order of the outputs of one layer for queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FusedOrder {
    /// All queries, then all keys, then all values.
    ByPart,
    /// Grouped by head: query, key and value.
    ByHead,
}

impl Attention {
    pub(super) fn load(weights: &TensorTree<'_>, plan: Plan<'_>, layer: usize) -> Self {
        let Plan { raw, shape, names } = plan;
        let std = raw.initializer_range;
        let [q, k, v, o] = names.projections;
        let (queries, keys) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let layers = |key, size, bias| {
            Linear::load_stored(&weights.at(key), size, bias, std, shape.matrices)
        };
        let inward = |key, width| layers(key, [shape.hidden, width], shape.qkv_bias);
        let inputs = match shape.projections {
            Projections::Apart => {
                Inputs::Apart([inward(q, queries), inward(k, keys), inward(v, keys)])
            }
            Projections::Fused => {
                Inputs::Fused { layer: inward(q, queries + 2 * keys), order: FusedOrder::ByPart }
            }
            Projections::FusedByHead => {
                Inputs::Fused { layer: inward(q, queries + 2 * keys), order: FusedOrder::ByHead }
            }
        };
        let norms = |queries, keys| {
            let norm = |key, size| plan.norm(&weights.at(key), size);
            (norm("q_norm", queries), norm("k_norm", keys))
        };
        Self {
            inputs,
            o: layers(o, [queries, shape.hidden], shape.output_bias),
            norms: match shape.query_key_norm {
                QueryKeyNorm::Absent => None,
                QueryKeyNorm::Heads => Some(norms(shape.head_dim, shape.head_dim)),
                QueryKeyNorm::Width => Some(norms(queries, keys)),
            },
            norm_places: shape.query_key_norm,
            heads: Heads::of(shape, layer),
        }
    }

    /// Queries, keys and values `[.., heads, D]`, normed and rotated.
    pub(super) fn heads_of(&self, made: Made, angles: Option<&Angles>) -> [Tensor; 3] {
        let Heads { queries: heads, keys: kv_heads, head_dim: d, .. } = self.heads;
        let [mut q, mut k, v] = match made {
            Made::Apart([mut q, mut k, v]) => {
                if let (Some((q_norm, k_norm)), QueryKeyNorm::Width) =
                    (&self.norms, self.norm_places)
                {
                    (q, k) = (q_norm.forward(&q), k_norm.forward(&k));
                }
                [in_heads(&q, heads, d), in_heads(&k, kv_heads, d), in_heads(&v, kv_heads, d)]
            }
            Made::Fused { all, order: FusedOrder::ByHead } => {
                let all = in_heads(&all, heads, 3 * d);
                [0, 1, 2].map(|part| all.narrow(-1, part * d, d))
            }
            Made::Fused { all, order: FusedOrder::ByPart } => {
                let (queries, keys) = (heads * d, kv_heads * d);
                let part = |start, heads| in_heads(&all.narrow(-1, start, heads * d), heads, d);
                [part(0, heads), part(queries, kv_heads), part(queries + keys, kv_heads)]
            }
        };
        if let (Some((q_norm, k_norm)), QueryKeyNorm::Heads) = (&self.norms, self.norm_places) {
            (q, k) = (q_norm.forward(&q), k_norm.forward(&k));
        }
        match angles {
            Some(angles) => [turn(&q, angles), turn(&k, angles), v],
            None => [q, k, v],
        }
    }

    /// Rotated queries, rotated keys and values, each `[B, T, heads, D]`.
    fn project(&self, x: &Tensor, angles: Option<&Angles>, pass: Pass) -> [Tensor; 3] {
        let made = match &self.inputs {
            Inputs::Apart([q, k, v]) => Made::Apart(Linear::project([q, k, v], x, pass)),
            Inputs::Fused { layer, order } => {
                Made::Fused { all: layer.forward(x, pass), order: *order }
            }
        };
        self.heads_of(made, angles)
    }

    pub(super) fn forward(
        &self,
        x: &Tensor,
        context: Context<'_>,
        pass: Pass,
    ) -> (Tensor, [Tensor; 2]) {
        let [q, k, v] = self.project(x, context.angles, pass);
        (self.heads.mix([&q, &k, &v], context.visible, pass), [k, v])
    }

    /// Attention of one query per row to a cache.
    pub(super) fn step(
        &self,
        x: &Tensor,
        angles: Option<&Angles>,
        cache: &mut KvCache,
        layer: usize,
        bias: Option<&Tensor>,
        pass: Pass,
    ) -> Tensor {
        let [q, k, v] = self.project(x, angles, pass);
        let (k, v) = cache.append(layer, &k, &v);
        self.heads.mix_next([&q, &k, &v], bias, pass)
    }

    /// Projections of concatenated rows `[N, H]`, and attention within each row.
    pub(super) fn forward_run(
        &self,
        x: &Tensor,
        context: Context<'_>,
        run: &Branches,
        pass: Pass,
    ) -> Tensor {
        // The concatenation is one row of a batch, [1, N, H]; its angles are [N, 1, D].
        let [q, k, v] = self.project(&x.unsqueeze(0), context.angles, pass);
        let rows = |x: &Tensor| {
            let (heads, head_dim) = (x.size()[2], x.size()[3]);
            let rows = run.to_rows(&x.reshape([-1, heads * head_dim]));
            let [r, w] = [rows.size()[0], rows.size()[1]];
            rows.view([r, w, heads, head_dim])
        };
        let [q, k, v] = [q, k, v].each_ref().map(rows);
        run.from_rows(&self.heads.mix([&q, &k, &v], context.visible, pass))
    }

    pub(super) fn linears(&mut self) -> Vec<&mut Linear> {
        let mut all: Vec<&mut Linear> = match &mut self.inputs {
            Inputs::Apart(layers) => layers.iter_mut().collect(),
            Inputs::Fused { layer, .. } => vec![layer],
        };
        all.push(&mut self.o);
        all
    }
}

/// Outputs of the layers for queries, keys and values.
pub(super) enum Made {
    Apart([Tensor; 3]),
    Fused { all: Tensor, order: FusedOrder },
}

impl Shallow for Inputs {
    fn handle(&self) -> Self {
        match self {
            Self::Apart(layers) => Self::Apart(layers.each_ref().map(Linear::handle)),
            Self::Fused { layer, order } => Self::Fused { layer: layer.handle(), order: *order },
        }
    }
}

impl Shallow for Attention {
    fn handle(&self) -> Self {
        Self {
            inputs: self.inputs.handle(),
            o: self.o.handle(),
            norms: self.norms.handle(),
            ..*self
        }
    }
}
