//! The only mask convention, and all statistics over real tokens.

use tch::{Kind, Tensor};

/// A mask of real tokens: a `bool` tensor `[B, T]`, `true` = real token (an EOS is real).
///
/// All means, variances and whitening over tokens use it, so that padding cannot affect a number.
#[derive(Debug)]
pub struct Mask(Tensor);

/// Treatment of the mean by [`Mask::whiten`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiten {
    /// Mean 0 and variance 1.
    Centered,
    /// Variance 1, the mean is kept.
    KeepMean,
}

impl Mask {
    /// A mask from a `bool` tensor.
    ///
    /// # Panics
    /// If `real` is not of kind `bool`.
    pub fn new(real: Tensor) -> Self {
        assert_eq!(real.kind(), Kind::Bool, "a mask is a bool tensor");
        Self(real)
    }

    /// `true` where the token is real, `[B, T]`.
    pub fn tensor(&self) -> &Tensor {
        &self.0
    }

    /// The mask as 0 and 1 of `kind`.
    pub fn to_kind(&self, kind: Kind) -> Tensor {
        self.0.to_kind(kind)
    }

    /// Number of real tokens of the whole batch, a scalar tensor of kind f32.
    pub fn count(&self) -> Tensor {
        self.0.sum(Kind::Float)
    }

    /// `x` where real, 0 elsewhere. Selects instead of multiplying, so that NaN in padding is
    /// removed.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn apply(&self, x: &Tensor) -> Tensor {
        self.same_shape(x);
        x.where_self(&self.0, &Tensor::zeros([], (x.kind(), x.device())))
    }

    /// Sum of `x` over real tokens, a scalar.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn sum(&self, x: &Tensor) -> Tensor {
        self.apply(x).sum(x.kind())
    }

    /// Mean of `x` over real tokens, a scalar; NaN without real tokens.
    ///
    /// # Panics
    /// If the shapes differ.
    ///
    /// ```
    /// use rlaif_lm::Mask;
    /// use tch::Tensor;
    /// let mask = Mask::new(Tensor::from_slice(&[false, true, true, false]).view([1, 4]));
    /// let x = Tensor::from_slice(&[1f32, 2., 3., f32::NAN]).view([1, 4]);
    /// assert_eq!(mask.mean(&x).double_value(&[]), 2.5);
    /// ```
    pub fn mean(&self, x: &Tensor) -> Tensor {
        self.sum(x) / self.count()
    }

    /// Variance of `x` over real tokens with Bessel's correction (n - 1), a scalar, as in TRL 0.11;
    /// NaN with fewer than two real tokens.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn variance(&self, x: &Tensor) -> Tensor {
        let n = self.count();
        let squares = self.sum(&(x - self.mean(x)).square());
        squares / (n - 1.)
    }

    /// (x - mean) / sqrt(variance + 1e-8) over real tokens, 0 elsewhere; with
    /// [`Whiten::KeepMean`] the mean is added back.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn whiten(&self, x: &Tensor, how: Whiten) -> Tensor {
        let mean = self.mean(x);
        let scaled = (x - &mean) * (self.variance(x) + 1e-8).rsqrt();
        self.apply(&match how {
            Whiten::Centered => scaled,
            Whiten::KeepMean => scaled + mean,
        })
    }

    /// Sum of `x` over each row's real tokens, `[B]`.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn row_sums(&self, x: &Tensor) -> Tensor {
        self.apply(x).sum_dim_intlist(-1, false, x.kind())
    }

    fn same_shape(&self, x: &Tensor) {
        assert_eq!(x.size(), self.0.size(), "a mask and what it masks have one shape");
    }
}

impl Clone for Mask {
    fn clone(&self) -> Self {
        Self(self.0.shallow_clone())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn case(x: &[f64], real: &[bool]) -> (Tensor, Mask) {
        let n = i64::try_from(x.len()).unwrap();
        (Tensor::from_slice(x).view([1, n]), Mask::new(Tensor::from_slice(real).view([1, n])))
    }

    // TRL 0.11, tests/test_core.py: [1,2,3,4] under [0,1,1,0].
    #[test]
    fn statistics_are_those_of_trl() {
        let (x, mask) = case(&[1., 2., 3., 4.], &[false, true, true, false]);
        assert_eq!(mask.mean(&x).double_value(&[]), 2.5);
        assert_eq!(mask.variance(&x).double_value(&[]), 0.5);
        let white = Vec::<f64>::try_from(mask.whiten(&x, Whiten::Centered).view([-1])).unwrap();
        for (got, want) in white.iter().zip([0., -0.5f64.sqrt(), 0.5f64.sqrt(), 0.]) {
            assert!((got - want).abs() < 1e-7, "{got} {want}");
        }
    }

    // field.md's vectors of OpenAI's whiten(shift_mean=False), unbiased.
    #[test]
    fn whitening_that_keeps_the_mean_only_scales() {
        let x: Vec<f64> = (0..9).map(|i| 1.2 + 0.1 * f64::from(i)).collect();
        let (x, mask) = case(&x, &[true; 9]);
        let white = Vec::<f64>::try_from(mask.whiten(&x, Whiten::KeepMean).view([-1])).unwrap();
        let want = [0.1394, 0.5046, 0.8697, 1.2349, 1.6, 1.9651, 2.3303, 2.6954, 3.0606];
        for (got, want) in white.iter().zip(want) {
            assert!((got - want).abs() < 1e-4, "{got} {want}");
        }
    }

    proptest! {
        #[test]
        fn statistics_equal_a_scalar_reference(
            rows in prop::collection::vec((-50f64..50., any::<bool>()), 3..40)
        ) {
            let real: Vec<f64> = rows.iter().filter(|r| r.1).map(|r| r.0).collect();
            prop_assume!(real.len() >= 2);
            let n = real.len() as f64;
            let mean = real.iter().sum::<f64>() / n;
            let variance = real.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.);
            // Masked elements must not matter, NaN least of all.
            let x: Vec<f64> = rows.iter().map(|r| if r.1 { r.0 } else { f64::NAN }).collect();
            let keep: Vec<bool> = rows.iter().map(|r| r.1).collect();
            let (x, mask) = case(&x, &keep);
            prop_assert!((mask.mean(&x).double_value(&[]) - mean).abs() < 1e-6 * (1. + mean.abs()));
            let got = mask.variance(&x).double_value(&[]);
            prop_assert!((got - variance).abs() < 1e-6 * (1. + variance));
            let white = mask.whiten(&x, Whiten::Centered);
            prop_assert!(mask.mean(&white).double_value(&[]).abs() < 1e-6);
        }
    }
}
