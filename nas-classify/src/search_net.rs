//! Supernets that classify, and the section `[space]` of their searches.

use anyhow::{Result, ensure};
use nas_core::nn::{Linear, Mode, VarBuilder};
use nas_core::space::Architecture;
use nas_core::space::{ChoiceSpace, Mixture, Supernet, WeightSharing};
use nas_core::task::TaskSpace;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::cells::CellSpace;
use crate::chain::ChainSpace;
use crate::classifier::pixel_mean;
use crate::drawing;
use crate::mobile::MobileSpace;
use crate::model::{ModelConfig, NasBench201Model, SearchedModel};
use crate::nasbench201::{NasBench201, NasBench201Nets};
use crate::task::{Classification, Net};

/// A space with a supernet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

impl TaskSpace<Classification> for SpaceConfig {
    fn choices(&self) -> Result<Box<dyn ChoiceSpace>> {
        Ok(self.build()?)
    }

    fn shared(&self) -> Result<Box<dyn WeightSharing>> {
        self.build()
    }

    /// In the space's own size: `[model]` has no part in it.
    fn derive(&self, model: Option<&ModelConfig>, arch: &Architecture) -> Result<ModelConfig> {
        ensure!(model.is_none(), "model: networks of this space come in the space's own size; leave the section out");
        self.build()?.validate(arch)?;
        match self {
            Self::Nasbench201(NasBench201Nets { channels, cells }) => {
                let (arch, channels, cells) = (arch.clone(), *channels, *cells);
                Ok(ModelConfig::Nasbench201(NasBench201Model { arch, channels, cells }))
            }
            Self::Cells(space) => Ok(ModelConfig::Cells(space.network(arch)?)),
            Self::Chain(_) | Self::Mobile(_) => {
                Ok(ModelConfig::Searched(SearchedModel { arch: arch.clone(), space: self.clone() }))
            }
        }
    }

    fn supernet(
        &self,
        space: &dyn WeightSharing,
        _model: Option<&ModelConfig>,
        vb: &VarBuilder,
        num_classes: usize,
    ) -> Result<Net> {
        Ok(Net::Shared(SearchNet::new(vb, space, num_classes as i64)))
    }

    fn notation(&self, arch: &Architecture) -> Result<String> {
        Ok(match self {
            Self::Nasbench201(_) => NasBench201::notation(arch),
            Self::Cells(space) => space.genotype(arch)?.to_string(),
            Self::Chain(_) | Self::Mobile(_) => arch.to_string(),
        })
    }

    fn parse(&self, notation: &str) -> Result<Architecture> {
        match self {
            Self::Nasbench201(_) if notation.contains('|') => Ok(NasBench201::parse(notation)?),
            _ => Ok(notation.parse()?),
        }
    }

    fn drawing(&self, arch: &Architecture) -> Result<Option<String>> {
        Ok(match self {
            Self::Nasbench201(_) => Some(drawing::nasbench201(arch)),
            Self::Cells(space) => Some(drawing::genotype(&space.genotype(arch)?)),
            Self::Chain(_) | Self::Mobile(_) => None,
        })
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
