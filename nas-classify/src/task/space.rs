//! `[space]` of experiments: what the frame asks of the spaces of classification networks.

use anyhow::{Result, ensure};
use nas_core::nn::VarBuilder;
use nas_core::search::analysis::vocabulary::{Decision, Vocabulary, numbered};
use nas_core::space::{Architecture, ChoiceSpace, WeightSharing};
use nas_core::task::TaskSpace;

use super::{Classification, Net};
use crate::drawing;
use crate::model::{ModelConfig, NasBench201Model, SearchedModel};
use crate::nasbench201::{NasBench201, NasBench201Nets};
use crate::search_net::{SearchNet, SpaceConfig};

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

    fn names(&self) -> Result<Vec<Decision>> {
        Ok(match self {
            Self::Nasbench201(_) => Vocabulary::decisions(&NasBench201),
            _ => numbered(&self.choices()?.decisions()),
        })
    }

    fn drawing(&self, arch: &Architecture) -> Result<Option<String>> {
        Ok(match self {
            Self::Nasbench201(_) => Some(drawing::nasbench201(arch)),
            Self::Cells(space) => Some(drawing::genotype(&space.genotype(arch)?)),
            Self::Chain(space) => Some(drawing::chain(space, arch)),
            Self::Mobile(space) => Some(drawing::mobile(space, arch)),
        })
    }
}
