//! One layer of the Llama family: attention and feed-forward, their norms and residuals.

use rlaif_lm::{Branches, Routers};
use tch::Tensor;

use super::{
    attention::{Attention, Context},
    config::Plan,
    experts::Experts,
    feed_forward::FeedForward,
    variant::NormPlaces,
};
use crate::{
    adapter::Pass,
    error::ModelError,
    layers::{Linear, Norm, dropout},
    recompute::Shallow,
    rope::Angles,
    weights::TensorTree,
};

/// One layer: attention, then feed-forward, each with a residual connection.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) attention_norm: Option<Norm>,
    pub(super) attention: Attention,
    pub(super) attention_post_norm: Option<Norm>,
    pub(super) feed_forward_norm: Option<Norm>,
    pub(super) feed_forward: Inner,
    pub(super) feed_forward_post_norm: Option<Norm>,
    /// Index of the layer's rotary embedding in the trunk.
    rope: Option<usize>,
    /// `true` if the feed-forward layer reads the input of attention.
    pub(super) parallel: bool,
    /// Factor of the summand added to the residual.
    pub(super) residual_scale: f64,
    dropout: f64,
}

/// The second layer of a block.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most layers are of the larger sort")]
pub(super) enum Inner {
    One(FeedForward),
    Experts(Box<Experts>),
}

impl Inner {
    /// Experts for each token, if there are any.
    pub(super) fn chosen(&self) -> Option<i64> {
        match self {
            Self::One(_) => None,
            Self::Experts(experts) => Some(experts.chosen()),
        }
    }
}

impl Shallow for Inner {
    fn handle(&self) -> Self {
        match self {
            Self::One(layer) => Self::One(layer.handle()),
            Self::Experts(experts) => Self::Experts(Box::new(experts.as_ref().handle())),
        }
    }
}

/// Results of a block.
pub(super) struct Made {
    pub(super) x: Tensor,
    /// Keys and values.
    pub(super) kv: [Tensor; 2],
    /// The probabilities of the router, f32 `[N, experts]`.
    pub(super) routed: Option<Tensor>,
}

impl Block {
    pub(super) fn load(
        weights: &TensorTree<'_>,
        plan: Plan<'_>,
        layer: usize,
    ) -> Result<Self, ModelError> {
        let Plan { shape, names, .. } = plan;
        let norm = |key, there: bool| there.then(|| plan.norm(&weights.at(key), shape.hidden));
        let before = shape.norms != NormPlaces::After;
        let after = matches!(shape.norms, NormPlaces::After | NormPlaces::Around);
        let attention = weights.at(names.attention);
        let feed_forward = weights.at(names.feed_forward);
        Ok(Self {
            attention_norm: norm(names.attention_norm, before),
            attention: Attention::load(&attention, plan, layer),
            attention_post_norm: norm(names.attention_post_norm, after),
            feed_forward_norm: norm(names.feed_forward_norm, before),
            feed_forward: match shape.experts_of(layer) {
                Some(experts) => {
                    let fused = weights.at(names.fused_experts);
                    let experts = Experts::load([&feed_forward, &fused], plan, experts)?;
                    Inner::Experts(Box::new(experts))
                }
                None => Inner::One(FeedForward::load(
                    &feed_forward,
                    plan,
                    names.feed_forward_layers,
                    shape.inner,
                )?),
            },
            feed_forward_post_norm: norm(names.feed_forward_post_norm, after),
            rope: shape.rope_of[layer],
            parallel: shape.parallel,
            residual_scale: shape.residual_scale,
            dropout: shape.residual_dropout,
        })
    }

    /// The layer's angles, out of those of the trunk.
    pub(super) fn angles<'a>(&self, all: &'a [Angles]) -> Option<&'a Angles> {
        all.get(self.rope?)
    }

    pub(super) fn forward(&self, x: &Tensor, context: Context<'_>, pass: Pass) -> Made {
        let (normed, x) = before(self.attention_norm.as_ref(), x);
        let (mixed, kv) = self.attention.forward(&normed, context, pass);
        let (x, routed) = self.finish(&x, &mixed, pass);
        Made { x, kv, routed }
    }

    pub(super) fn forward_run(
        &self,
        x: &Tensor,
        context: Context<'_>,
        run: &Branches,
        pass: Pass,
    ) -> (Tensor, Option<Tensor>) {
        let (normed, x) = before(self.attention_norm.as_ref(), x);
        let mixed = self.attention.forward_run(&normed, context, run, pass);
        self.finish(&x, &mixed, pass)
    }

    /// Output projection and feed-forward layer, with their residual connections, and the probabilities of
    /// the router.
    pub(super) fn finish(
        &self,
        x: &Tensor,
        mixed: &Tensor,
        pass: Pass,
    ) -> (Tensor, Option<Tensor>) {
        let norm = self.feed_forward_norm.as_ref();
        let (normed, mid) = if self.parallel {
            let (normed, x) = before(norm, x);
            (normed, self.attended(&x, mixed, pass))
        } else {
            before(norm, &self.attended(x, mixed, pass))
        };
        self.fed(&mid, &normed, pass)
    }

    /// The sum of `x` and the output projection of attention.
    pub(super) fn attended(&self, x: &Tensor, mixed: &Tensor, pass: Pass) -> Tensor {
        self.add(x, &self.attention.o, mixed, self.attention_post_norm.as_ref(), pass)
    }

    /// The sum of `x` and the output of the feed-forward layer for `normed`, and the probabilities of the
    /// router.
    pub(super) fn fed(&self, x: &Tensor, normed: &Tensor, pass: Pass) -> (Tensor, Option<Tensor>) {
        let post = self.feed_forward_post_norm.as_ref();
        match &self.feed_forward {
            Inner::One(layer) => {
                (self.add(x, &layer.down, &layer.inner(normed, pass), post, pass), None)
            }
            Inner::Experts(experts) => {
                let (y, routed) = experts.forward(normed, pass);
                (self.sum(x, &y, post, pass), Some(routed))
            }
        }
    }

    /// The sum of `x` and `layer(inner)`.
    fn add(
        &self,
        x: &Tensor,
        layer: &Linear,
        inner: &Tensor,
        post: Option<&Norm>,
        pass: Pass,
    ) -> Tensor {
        let p = pass.dropout_p(self.dropout);
        if post.is_none() && self.residual_scale == 1. && p == 0. {
            return layer.onto(x, inner, pass);
        }
        self.sum(x, &layer.forward(inner, pass), post, pass)
    }

    /// The sum of `x` and the output `y` of a layer.
    pub(super) fn sum(&self, x: &Tensor, y: &Tensor, post: Option<&Norm>, pass: Pass) -> Tensor {
        let y = post.map_or_else(|| y.shallow_clone(), |norm| norm.forward(y));
        x + self.scaled(dropout(y, pass.dropout_p(self.dropout), pass.dropout))
    }

    /// Adds the probabilities of this block's router to those of the others; `mask` is `[B, T]`, and all
    /// tokens count without it.
    pub(super) fn count(
        &self,
        routers: Option<&Routers>,
        routed: Option<&Tensor>,
        mask: Option<&Tensor>,
    ) {
        if let (Some(routers), Some(routed), Some(chosen)) =
            (routers, routed, self.feed_forward.chosen())
        {
            routers.add(routed, chosen, mask);
        }
    }

    pub(super) fn scaled(&self, y: Tensor) -> Tensor {
        if self.residual_scale == 1. { y } else { y * self.residual_scale }
    }

    pub(super) fn linears(&mut self) -> Vec<&mut Linear> {
        let mut all = self.attention.linears();
        all.extend(match &mut self.feed_forward {
            Inner::One(layer) => layer.linears(),
            Inner::Experts(experts) => experts.linears(),
        });
        all
    }
}

/// The norm of `x`, if there is one, and `x` itself for the residual connection.
pub(super) fn before(norm: Option<&Norm>, x: &Tensor) -> (Tensor, Tensor) {
    norm.map_or_else(|| (x.shallow_clone(), x.shallow_clone()), |norm| norm.before(x))
}

impl Shallow for Block {
    fn handle(&self) -> Self {
        Self {
            attention_norm: self.attention_norm.handle(),
            attention: self.attention.handle(),
            attention_post_norm: self.attention_post_norm.handle(),
            feed_forward_norm: self.feed_forward_norm.handle(),
            feed_forward: self.feed_forward.handle(),
            feed_forward_post_norm: self.feed_forward_post_norm.handle(),
            ..*self
        }
    }
}
