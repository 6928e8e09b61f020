//! Batch normalisation (Ioffe and Szegedy 2015) whose momentum and statistics are open to the caller: `tch`'s own fixes
//! them at construction and draws its scale at random.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Init, Mode, Module, Shape, VarBuilder, probe, probe::Site};
use crate::space::Cost;

/// Constants of a [`BatchNorm`], by name: a public re-implementation passes its momentum in the place of eps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BnConfig {
    /// Share of the new batch in the running statistics; TF's decay `d` is `1 - d` here.
    pub momentum: f64,
    /// Added to the variance.
    pub eps: f64,
    /// Learns a scale and a shift.
    pub affine: bool,
}

impl Default for BnConfig {
    fn default() -> Self {
        Self { momentum: 0.1, eps: 1e-5, affine: true }
    }
}

/// Batch normalisation over `[B, C, H, W]`, per channel.
#[derive(Debug)]
pub struct BatchNorm {
    channels: i64,
    config: BnConfig,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    running_mean: Tensor,
    running_var: Tensor,
}

impl BatchNorm {
    /// A norm over `channels` with torchvision's variable names.
    pub fn new(vb: &VarBuilder, channels: i64, config: BnConfig) -> Self {
        let affine = |name, value| config.affine.then(|| vb.weight(name, &[channels], Init::Const(value)));
        Self {
            channels,
            config,
            weight: affine("weight", 1.0),
            bias: affine("bias", 0.0),
            running_mean: vb.buffer("running_mean", &[channels], 0.0),
            running_var: vb.buffer("running_var", &[channels], 1.0),
        }
    }
}

impl Module for BatchNorm {
    /// A batch with one value per channel has no variance: it is normalised by the running statistics and does not
    /// update them (image pooling at batch 1 would otherwise write NaN into them).
    fn forward(&self, xs: &Tensor, mode: Mode) -> Tensor {
        if probe::is_linear() {
            return xs.shallow_clone();
        }
        probe::report(Site::PreNorm, xs);
        let values_per_channel = xs.numel() as i64 / self.channels;
        let train = mode.train && values_per_channel > 1;
        let updates = !(train && probe::is_recording());
        xs.batch_norm(
            self.weight.as_ref(),
            self.bias.as_ref(),
            updates.then_some(&self.running_mean),
            updates.then_some(&self.running_var),
            train,
            self.config.momentum,
            self.config.eps,
            true,
        )
    }

    fn cost(&self, xs: Shape, cost: &mut Cost) -> Shape {
        assert_eq!(xs.c, self.channels, "channels of the input of a batch norm");
        cost.params += if self.config.affine { 2 * self.channels as u64 } else { 0 };
        xs
    }
}
