//! Dynamic loss scaling for half-precision training (Micikevicius et al. 2018).

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Multiplies the loss so that small half-precision gradients do not vanish; backs off when they overflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradScaler {
    scale: f64,
    good_steps: u32,
}

impl Default for GradScaler {
    fn default() -> Self {
        Self { scale: 65536.0, good_steps: 0 }
    }
}

impl GradScaler {
    const GROWTH_INTERVAL: u32 = 2000;

    /// The loss to differentiate.
    pub fn scale(&self, loss: &Tensor) -> Tensor {
        loss * self.scale
    }

    /// Divides gradients by the scale, in place. Returns false when one is not finite: the step must then be left out, and
    /// the next scale is halved. The scale doubles after 2000 good steps in a row.
    pub fn unscale(&mut self, grads: &mut [Tensor]) -> bool {
        let inverse = 1.0 / self.scale;
        let finite = tch::no_grad(|| {
            let sums: Vec<Tensor> = grads
                .iter_mut()
                .filter(|grad| grad.defined())
                .map(|grad| grad.g_mul_scalar_(inverse).sum(Kind::Float))
                .collect();
            sums.is_empty() || Tensor::stack(&sums, 0).isfinite().all().int64_value(&[]) == 1
        });
        if !finite {
            self.scale /= 2.0;
            self.good_steps = 0;
        } else if self.good_steps + 1 == Self::GROWTH_INTERVAL {
            self.scale *= 2.0;
            self.good_steps = 0;
        } else {
            self.good_steps += 1;
        }
        finite
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_halves_the_scale_and_a_good_step_is_unscaled() {
        let mut scaler = GradScaler::default();
        assert!(!scaler.unscale(&mut [Tensor::from_slice(&[f32::INFINITY])]));
        let mut grads = [Tensor::from_slice(&[32768.0f32])];
        assert!(scaler.unscale(&mut grads));
        assert_eq!(grads[0].double_value(&[0]), 1.0);
    }
}
