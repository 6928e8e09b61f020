//! Supernets that classify, and the section `[space]` of their searches.

use anyhow::Result;
use nas_core::nn::{Linear, Mode, VarBuilder};
use nas_core::space::{Mixture, Supernet, WeightSharing};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::cells::CellSpace;
use crate::chain::ChainSpace;
use crate::classifier::pixel_mean;
use crate::mobile::MobileSpace;
use crate::nasbench201::NasBench201Nets;

/// A space with a supernet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SpaceConfig {
    /// NAS-Bench-201.
    Nasbench201(NasBench201Nets),
    /// DARTS, PC-DARTS, NASNet, ENAS and AmoebaNet cells.
    Cells(CellSpace),
    /// ENAS' macro space.
    Chain(ChainSpace),
    /// Inverted residuals.
    Mobile(MobileSpace),
}

impl SpaceConfig {
    /// The space. A value that no space can be made of is an error that names the key.
    pub fn build(&self) -> Result<Box<dyn WeightSharing>> {
        match self {
            Self::Nasbench201(space) => {
                space.check()?;
                Ok(Box::new(*space))
            }
            Self::Cells(space) => {
                space.check()?;
                Ok(Box::new(space.clone()))
            }
            Self::Chain(space) => {
                space.check()?;
                Ok(Box::new(*space))
            }
            Self::Mobile(space) => {
                space.check()?;
                Ok(Box::new(space.clone()))
            }
        }
    }
}

/// A supernet with a linear classifier over the mean of its last map.
#[derive(Debug)]
pub struct SearchNet {
    supernet: Box<dyn Supernet>,
    classifier: Linear,
}

impl SearchNet {
    /// The supernet of `space` for `num_classes`.
    pub fn new(vb: &VarBuilder, space: &dyn WeightSharing, num_classes: i64) -> Self {
        let supernet = space.supernet(vb);
        let channels = supernet.feature_info().pop().expect("a supernet has a last map").channels;
        Self { supernet, classifier: Linear::new(&vb.sub("classifier"), channels, num_classes) }
    }

    /// Logits `[B, K]` of images `[B, 3, H, W]`.
    pub fn forward(&self, xs: &Tensor, mixture: Mixture, mode: Mode) -> Tensor {
        let features = self.supernet.features(xs, mixture, mode);
        self.classifier.forward(&pixel_mean(&features[features.len() - 1]))
    }
}

#[cfg(test)]
mod tests;
