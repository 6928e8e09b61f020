//! Dynamic loss scaling for half-precision training (Micikevicius et al. 2018).

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::nn::torch;

/// Multiplies the loss so that small half-precision gradients do not vanish; backs off when they overflow. Its numbers live on
/// the device: no step waits for them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(into = "Numbers", from = "Numbers")]
pub struct GradScaler {
    /// One number.
    scale: Tensor,
    /// One whole number.
    good_steps: Tensor,
}

/// What a checkpoint holds of a [`GradScaler`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Numbers {
    scale: f64,
    good_steps: u32,
}

impl From<Numbers> for GradScaler {
    fn from(Numbers { scale, good_steps }: Numbers) -> Self {
        Self { scale: Tensor::from_slice(&[scale as f32]), good_steps: Tensor::from_slice(&[good_steps as i32]) }
    }
}

impl From<GradScaler> for Numbers {
    fn from(scaler: GradScaler) -> Self {
        let GradScaler { scale, good_steps } = scaler;
        Self { scale: scale.double_value(&[0]), good_steps: good_steps.int64_value(&[0]) as u32 }
    }
}

impl Clone for GradScaler {
    fn clone(&self) -> Self {
        Self { scale: self.scale.copy(), good_steps: self.good_steps.copy() }
    }
}

impl Default for GradScaler {
    fn default() -> Self {
        Numbers { scale: 65536.0, good_steps: 0 }.into()
    }
}

impl GradScaler {
    const GROWTH_INTERVAL: i64 = 2000;

    /// The scaler of a run that is resumed, with the numbers of its checkpoint where there are some: there is one exactly where
    /// the run is in mixed precision now, whatever it was before.
    pub fn resumed(amp: bool, saved: Value) -> Result<Option<Self>> {
        let saved: Option<Self> = serde_json::from_value(saved).context("scaler")?;
        Ok(amp.then(|| saved.unwrap_or_default()))
    }

    /// Brings the numbers to `device`.
    fn go_to(&mut self, device: Device) {
        if self.scale.device() != device {
            (self.scale, self.good_steps) = (self.scale.to_device(device), self.good_steps.to_device(device));
        }
    }

    /// The loss to differentiate.
    pub fn scale(&mut self, loss: &Tensor) -> Tensor {
        self.go_to(loss.device());
        loss * self.scale.squeeze()
    }

    /// Divides gradients by the scale, in place. Returns a tensor of one number that is 1 where one of them is not finite: the
    /// step must then be left out, and the next scale is halved. The scale doubles after 2000 good steps in a row.
    pub fn unscale(&mut self, grads: &[Tensor]) -> Tensor {
        tch::no_grad(|| {
            let device = self.scale.device();
            let overflow = Tensor::zeros([1], (Kind::Float, device));
            let inverse = self.scale.reciprocal();
            let defined = || grads.iter().filter(|grad| grad.defined());
            let (here, away): (Vec<&Tensor>, Vec<&Tensor>) = defined().partition(|grad| grad.device() == device);
            torch::unscale(&here, &overflow, &inverse);
            if let Some(device) = away.first().map(|grad| grad.device()) {
                // Architecture parameters are on the CPU.
                let of_away = Tensor::zeros([1], (Kind::Float, device));
                torch::unscale(&away, &of_away, &inverse.to_device(device));
                let _ = overflow.shallow_clone().g_add_(&of_away.to_device(overflow.device())).clamp_max_(1.0);
            }
            let _ = self.scale.internal_amp_update_scale_(&self.good_steps, &overflow, 2.0, 0.5, Self::GROWTH_INTERVAL);
            overflow
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_overflow_halves_the_scale_and_a_good_step_is_unscaled() {
        let mut scaler = GradScaler::default();
        assert_eq!(scaler.unscale(&[Tensor::from_slice(&[f32::INFINITY])]).double_value(&[0]), 1.0);
        let grads = [Tensor::from_slice(&[32768.0f32]), Tensor::new()];
        assert_eq!(scaler.unscale(&grads).double_value(&[0]), 0.0);
        assert_eq!(grads[0].double_value(&[0]), 1.0);
        assert_eq!(json!(scaler), json!({ "scale": 32768.0, "good_steps": 1 }));
    }

    #[test]
    fn the_scale_doubles_after_2000_good_steps() {
        let mut scaler: GradScaler = serde_json::from_value(json!({ "scale": 8.0, "good_steps": 1999 })).unwrap();
        assert_eq!(scaler.unscale(&[Tensor::from_slice(&[1f32])]).double_value(&[0]), 0.0);
        assert_eq!(json!(scaler), json!({ "scale": 16.0, "good_steps": 0 }));
    }

    #[test]
    fn a_resumed_run_has_a_scaler_exactly_in_mixed_precision() {
        let saved = json!({ "scale": 1024.0, "good_steps": 7 });
        let resumed = |amp, saved: &Value| json!(GradScaler::resumed(amp, saved.clone()).unwrap());
        assert_eq!(resumed(true, &saved), saved);
        assert_eq!(resumed(true, &Value::Null), json!({ "scale": 65536.0, "good_steps": 0 }));
        assert_eq!((resumed(false, &saved), resumed(false, &Value::Null)), (Value::Null, Value::Null));
        assert!(GradScaler::resumed(true, json!("x")).is_err());
    }
}
