//! The critic: values of the states from which response tokens are emitted.

use tch::{Device, Kind, Tensor};

use crate::{batch::TokenBatch, error::LmError, params::Parameters};

/// A value function V(s_t): the value *before* response token t is emitted.
pub trait ValueFunction: Send {
    /// Values `[B, T]`, f32, from the policy's hidden states `[B, T, H]` of the same rows. Responses may start over,
    /// as in [`Policy::response_hidden`](crate::Policy::response_hidden).
    ///
    /// # Errors
    /// [`LmError`] if a separate value model fails; a head on the policy's trunk does not fail.
    fn values(
        &self,
        prompts: &TokenBatch,
        responses: &TokenBatch,
        hidden: &Tensor,
    ) -> Result<Tensor, LmError>;

    /// The critic's parameters besides the policy's.
    fn parameters(&self) -> &Parameters;

    /// The width H that the policy's hidden states must have; `None` for any width, as for a
    /// separate model, which does not read them.
    fn hidden_size(&self) -> Option<i64> {
        None
    }
}

/// Initialisation of a [`ValueHead`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueInit {
    /// Weight and bias 0: every value starts at 0.
    Zero,
    /// Weight normal with this standard deviation, bias 0.
    Normal {
        /// Standard deviation of the weights; TRL 0.11's option uses 0.2.
        std: f64,
    },
    /// As `torch.nn.Linear`, and so TRL 0.11: weight and bias uniform in ±1/√H.
    PyTorch,
}

/// A linear value head H → 1 on the policy's last hidden state, in f32 regardless of the trunk's
/// dtype.
#[derive(Debug)]
pub struct ValueHead {
    weight: Tensor,
    bias: Tensor,
    parameters: Parameters,
}

impl ValueHead {
    /// A head for hidden states of width `hidden_size`; random initial weights are drawn from
    /// libtorch's generator of `device`.
    ///
    /// ```
    /// use rlaif_lm::{ValueHead, ValueInit};
    /// use tch::{Device, Kind, Tensor};
    /// let head = ValueHead::new(8, ValueInit::Zero, Device::Cpu);
    /// let hidden = Tensor::rand([2, 3, 8], (Kind::BFloat16, Device::Cpu));
    /// assert_eq!(head.forward(&hidden).size(), [2, 3]);
    /// ```
    pub fn new(hidden_size: i64, init: ValueInit, device: Device) -> Self {
        let options = (Kind::Float, device);
        let zeros = |size: &[i64]| Tensor::zeros(size, options);
        let bound = 1. / (hidden_size as f64).sqrt();
        let (weight, bias) = match init {
            ValueInit::Zero => (zeros(&[1, hidden_size]), zeros(&[1])),
            ValueInit::Normal { std } => {
                (Tensor::randn([1, hidden_size], options) * std, zeros(&[1]))
            }
            ValueInit::PyTorch => (
                zeros(&[1, hidden_size]).uniform_(-bound, bound),
                zeros(&[1]).uniform_(-bound, bound),
            ),
        };
        Self::from_tensors(&weight, &bias)
    }

    /// A head with given weight `[1, H]` and bias `[1]`, f32.
    ///
    /// # Panics
    /// If the shapes or dtypes differ.
    pub fn from_tensors(weight: &Tensor, bias: &Tensor) -> Self {
        assert!(
            weight.dim() == 2 && weight.size()[0] == 1 && bias.size() == [1],
            "a value head has weight [1, H] and bias [1]"
        );
        assert_eq!(weight.kind(), Kind::Float, "a value head is f32");
        let weight = weight.set_requires_grad(true);
        let bias = bias.set_requires_grad(true);
        let mut parameters = Parameters::new();
        parameters.insert("v_head.summary.weight", weight.shallow_clone());
        parameters.insert("v_head.summary.bias", bias.shallow_clone());
        Self { weight, bias, parameters }
    }

    /// Values `[..]` of hidden states `[.., H]`, f32.
    pub fn forward(&self, hidden: &Tensor) -> Tensor {
        hidden.to_kind(Kind::Float).linear(&self.weight, Some(&self.bias)).squeeze_dim(-1)
    }
}

impl ValueFunction for ValueHead {
    fn values(
        &self,
        _prompts: &TokenBatch,
        _responses: &TokenBatch,
        hidden: &Tensor,
    ) -> Result<Tensor, LmError> {
        Ok(self.forward(hidden))
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn hidden_size(&self) -> Option<i64> {
        Some(self.weight.size()[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_differ_as_named() {
        tch::manual_seed(1);
        let hidden = Tensor::randn([4, 64], (Kind::Float, Device::Cpu));
        let spread = |init| {
            let head = ValueHead::new(64, init, Device::Cpu);
            let weight = head.parameters.get("v_head.summary.weight").unwrap().shallow_clone();
            let bias = head.parameters.get("v_head.summary.bias").unwrap().double_value(&[0]);
            assert_eq!(head.forward(&hidden).size(), [4]);
            (weight.abs().max().double_value(&[]), weight.std(true).double_value(&[]), bias)
        };
        assert_eq!(spread(ValueInit::Zero), (0., 0., 0.));
        let (_, std, bias) = spread(ValueInit::Normal { std: 0.2 });
        assert!((0.14..0.27).contains(&std) && bias == 0., "{std} {bias}");
        let (largest, std, bias) = spread(ValueInit::PyTorch);
        // Uniform in ±1/8 has a standard deviation of 0.072.
        assert!(largest <= 0.125 && (0.06..0.085).contains(&std) && bias != 0., "{std} {bias}");
    }
}
