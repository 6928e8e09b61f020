//! `[space]` of a search: what segmentation networks can be searched.

use anyhow::{Context, Result, bail};
use nas_core::nn::VarBuilder;
use nas_core::optim::Named;
use nas_core::search::analysis::vocabulary::Decision;
use nas_core::space::{Architecture, ChoiceSpace, WeightSharing};
use nas_core::task::TaskSpace;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::auto_deeplab::{self, AutoDeepLabConfig, AutoDeepLabSpace, SearchNet};
use crate::mobile_seg::{self, MobileSegSpace, MobileSegSupernet};
use crate::model::ModelConfig;
use crate::task::{Net, Segmentation};

/// A space of segmentation networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "there are few of them")]
pub enum SpaceConfig {
    /// Auto-DeepLab's two levels: a path through strides, and a cell.
    AutoDeeplab(AutoDeepLabSpace),
    /// Inverted residuals: strides, widths, depths, operators, head and decoder.
    MobileSeg(MobileSegSpace),
}

impl TaskSpace<Segmentation> for SpaceConfig {
    fn choices(&self) -> Result<Box<dyn ChoiceSpace>> {
        Ok(self.shared()?)
    }

    fn shared(&self) -> Result<Box<dyn WeightSharing>> {
        match self {
            Self::AutoDeeplab(space) => {
                space.check()?;
                Ok(Box::new(space.clone()))
            }
            Self::MobileSeg(space) => {
                space.check()?;
                Ok(Box::new(space.clone()))
            }
        }
    }

    fn derive(&self, model: Option<&ModelConfig>, arch: &Architecture) -> Result<ModelConfig> {
        match self {
            Self::AutoDeeplab(space) => {
                space.validate(arch)?;
                let AutoDeepLabSpace { layers, filters, stem, .. } = *space;
                let of_space = AutoDeepLabConfig { arch: arch.clone(), layers, filters, stem, ..Default::default() };
                match model {
                    None => Ok(ModelConfig::AutoDeeplab(of_space)),
                    Some(ModelConfig::AutoDeeplab(config)) => Ok(ModelConfig::AutoDeeplab(AutoDeepLabConfig {
                        arch: arch.clone(),
                        stages: Vec::new(),
                        ..config.clone()
                    })),
                    Some(_) => bail!("model: an architecture of this space needs kind = \"auto_deeplab\""),
                }
            }
            Self::MobileSeg(space) => match model {
                None => Ok(ModelConfig::MobileSeg(space.decode(arch)?)),
                Some(_) => {
                    bail!("model: an architecture of the space mobile_seg is a whole network; expected no section")
                }
            },
        }
    }

    fn supernet(
        &self,
        _space: &dyn WeightSharing,
        _model: Option<&ModelConfig>,
        vb: &VarBuilder,
        num_classes: usize,
    ) -> Result<Net> {
        match self {
            Self::AutoDeeplab(space) => Ok(Net::AutoDeeplab(SearchNet::new(vb, space, num_classes as i64))),
            Self::MobileSeg(space) => Ok(Net::MobileSeg(MobileSegSupernet::new(vb, space, num_classes as i64))),
        }
    }

    fn path_weights(&self, net: &Net, arch: &Architecture) -> Result<Option<Vec<Named>>> {
        match net {
            Net::MobileSeg(supernet) => Ok(Some(supernet.weights_of(arch)?)),
            _ => Ok(None),
        }
    }

    fn parse(&self, text: &str) -> Result<Architecture> {
        match self {
            Self::AutoDeeplab(_) => Ok(text.parse()?),
            Self::MobileSeg(space) => space.parse(text),
        }
    }

    fn notation(&self, arch: &Architecture) -> Result<String> {
        match self {
            Self::AutoDeeplab(space) => Ok(space.genotype(arch).context("space")?.to_string()),
            Self::MobileSeg(space) => Ok(space.decode(arch).context("space")?.to_string()),
        }
    }

    fn names(&self) -> Result<Vec<Decision>> {
        Ok(match self {
            Self::AutoDeeplab(space) => space.names(),
            Self::MobileSeg(space) => space.names(),
        })
    }

    fn drawing(&self, arch: &Architecture) -> Result<Option<String>> {
        match self {
            Self::AutoDeeplab(space) => Ok(Some(auto_deeplab::svg(&space.genotype(arch)?))),
            Self::MobileSeg(space) => Ok(Some(mobile_seg::svg(&space.decode(arch)?))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nas_datasets::rng;

    #[test]
    fn every_space_is_drawn_and_names_its_choices() {
        for kind in ["kind = 'auto_deeplab'\nlayers = 4\nblocks = 2\nfilters = 4", "kind = 'mobile_seg'"] {
            let space: SpaceConfig = toml::from_str(kind).unwrap();
            let choices = space.choices().unwrap();
            let counts = |names: Vec<Decision>| names.iter().map(|name| name.choices.len() as u16).collect::<Vec<_>>();
            assert_eq!(counts(space.names().unwrap()), choices.decisions(), "{kind}");
            let arch = choices.sample(&mut rng::stream(0, "test", 0));
            assert!(space.drawing(&arch).unwrap().unwrap().contains("<title>"), "{kind}");
        }
    }
}
