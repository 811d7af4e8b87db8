//! A moving average of the weights.

use tch::{Kind, Tensor};

use crate::error::TrainError;

/// An exponential moving average of parameters, in f32: `ē ← d ē + (1 − d) θ` after each step.
///
/// ```
/// use rlaif_train::Ema;
/// use tch::Tensor;
/// let w = Tensor::from_slice(&[0f32]).set_requires_grad(true);
/// let mut ema = Ema::new(&[("w".into(), w.shallow_clone())], 0.9)?;
/// let _ = tch::no_grad(|| w.shallow_clone().fill_(1.));
/// ema.update();
/// let averaged = ema.with_averages(|| w.double_value(&[0]));
/// assert!((averaged - 0.1).abs() < 1e-6);
/// assert_eq!(w.double_value(&[0]), 1.);
/// # Ok::<(), rlaif_train::TrainError>(())
/// ```
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    entries: Vec<(String, Tensor, Tensor)>,
}

impl Ema {
    /// An average that starts from the current parameters.
    ///
    /// # Errors
    /// [`TrainError::Setting`] unless 0 ≤ `decay` < 1.
    pub fn new(params: &[(String, Tensor)], decay: f64) -> Result<Self, TrainError> {
        Self::check(decay)?;
        let entries = params
            .iter()
            .map(|(name, param)| {
                let average = param.detach().to_dtype(Kind::Float, false, true);
                (name.clone(), param.shallow_clone(), average)
            })
            .collect();
        Ok(Self { decay, entries })
    }

    pub(crate) fn check(decay: f64) -> Result<(), TrainError> {
        if (0. ..1.).contains(&decay) {
            return Ok(());
        }
        Err(TrainError::setting("ema_decay", decay, "at least 0, below 1"))
    }

    /// Takes the weights of one more step into the average.
    pub fn update(&mut self) {
        tch::no_grad(|| {
            for (_, param, average) in &mut self.entries {
                let _ = average.lerp_(&param.to_kind(Kind::Float), 1. - self.decay);
            }
        });
    }

    /// Runs `f` while the parameters hold the averages: for evaluation, or to save them.
    pub fn with_averages<R>(&self, f: impl FnOnce() -> R) -> R {
        let own: Vec<Tensor> = tch::no_grad(|| {
            self.entries
                .iter()
                .map(|(_, param, average)| {
                    let own = param.detach().copy();
                    param.shallow_clone().copy_(average);
                    own
                })
                .collect()
        });
        let result = f();
        tch::no_grad(|| {
            for ((_, param, _), own) in self.entries.iter().zip(&own) {
                param.shallow_clone().copy_(own);
            }
        });
        result
    }

    /// Sets the parameters to the averages, permanently.
    pub fn install(self) {
        tch::no_grad(|| {
            for (_, param, average) in &self.entries {
                param.shallow_clone().copy_(average);
            }
        });
    }

    /// The averages under their parameters' names, f32; they are this object's own.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.entries.iter().map(|(n, _, average)| (n.clone(), average.shallow_clone())).collect()
    }

    /// Continues from saved averages.
    ///
    /// # Errors
    /// As [`restore_parameters`](crate::restore_parameters).
    pub fn restore(&mut self, state: &[(String, Tensor)]) -> Result<(), TrainError> {
        crate::restore_parameters(&self.state(), state, "the moving average")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_the_recurrence_in_f64() {
        let w = Tensor::from_slice(&[1f32, -2.]).set_requires_grad(true);
        let mut ema = Ema::new(&[("w".to_owned(), w.shallow_clone())], 0.75).unwrap();
        let mut want = [1f64, -2.];
        for step in 1..20 {
            let values = [f64::from(step), 1. / f64::from(step)];
            tch::no_grad(|| w.shallow_clone().copy_(&Tensor::from_slice(&values)));
            ema.update();
            for (want, value) in want.iter_mut().zip(values) {
                *want = 0.75 * *want + 0.25 * value;
            }
        }
        let got = Vec::<f64>::try_from(ema.state()[0].1.to_kind(Kind::Double)).unwrap();
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-5), "{got:?} {want:?}");
    }

    #[test]
    fn it_is_not_the_weights_memory_and_is_restored() {
        let w = Tensor::from_slice(&[1f32]).set_requires_grad(true);
        let params = [("w".to_owned(), w.shallow_clone())];
        let mut ema = Ema::new(&params, 0.5).unwrap();
        let _ = tch::no_grad(|| w.shallow_clone().fill_(3.));
        assert_eq!(ema.with_averages(|| w.double_value(&[0])), 1.);
        ema.update();
        let saved: Vec<_> = ema.state().into_iter().map(|(n, t)| (n, t.copy())).collect();
        let mut other = Ema::new(&params, 0.5).unwrap();
        other.restore(&saved).unwrap();
        assert_eq!(other.state()[0].1.double_value(&[0]), 2.);
        assert!(other.restore(&[]).is_err());
        assert!(Ema::new(&params, 1.).is_err());
    }
}
