//! `[space]` of a search: what parts of a detector can be searched.

use anyhow::{Context, Result, bail};
use nas_core::nn::{Shape, VarBuilder};
use nas_core::search::analysis::vocabulary::Decision;
use nas_core::space::{Architecture, ChoiceSpace, WeightSharing};
use nas_core::task::supervised::cost_of;
use nas_core::task::{CostFunction, TaskSpace, sizes};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::BackboneConfig;
use crate::detnas::DetNasConfig;
use crate::model::ModelConfig;
use crate::neck::{BiFpnSpace, Levels, NasFpnConfig, NasFpnSpace, NeckConfig};
use crate::task::{Detection, Net};

/// What takes the place of a part of `[model]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SpaceConfig {
    /// The backbone: DetNAS' blocks (Chen et al. 2019, arXiv 1903.10979). Its `arch` is not used.
    Detnas(DetNasConfig),
    /// The neck: merging cells of NAS-FPN (Ghiasi et al. 2019, arXiv 1904.07392).
    NasFpn {
        /// Levels of the neck.
        levels: Levels,
        /// Cells before those that give the output.
        intermediate: usize,
        /// Channels of every level.
        channels: i64,
        /// How often the cells are repeated.
        stacks: usize,
    },
    /// The neck: depth, width, fusions and connections of BiFPN (Tan et al. 2020, arXiv 1911.09070).
    Bifpn {
        /// Levels of the neck.
        levels: Levels,
    },
}

/// The metric of a DetNAS backbone's multiply-adds, stem and blocks alone.
pub const BACKBONE_MACS: &str = "backbone_macs";

impl SpaceConfig {
    fn neck(&self, arch: &Architecture) -> Result<Option<NeckConfig>> {
        Ok(match *self {
            Self::Detnas(_) => None,
            Self::NasFpn { levels, intermediate, channels, stacks } => {
                let cells = NasFpnSpace::new(levels, intermediate)?.cells(arch)?;
                Some(NeckConfig::NasFpn(NasFpnConfig { channels, levels, stacks, cells, ..NasFpnConfig::default() }))
            }
            Self::Bifpn { levels } => Some(NeckConfig::Bifpn(BiFpnSpace::new(levels)?.config(arch)?)),
        })
    }
}

fn template(model: Option<&ModelConfig>) -> Result<&ModelConfig> {
    model.context("model: the section is missing; expected the detector that the searched part is for")
}

impl TaskSpace<Detection> for SpaceConfig {
    fn choices(&self) -> Result<Box<dyn ChoiceSpace>> {
        Ok(match self {
            Self::Detnas(config) => Box::new(config.space()?),
            Self::NasFpn { levels, intermediate, .. } => Box::new(NasFpnSpace::new(*levels, *intermediate)?),
            Self::Bifpn { levels } => Box::new(BiFpnSpace::new(*levels)?),
        })
    }

    fn shared(&self) -> Result<Box<dyn WeightSharing>> {
        match self {
            Self::Detnas(config) => Ok(Box::new(config.space()?)),
            Self::NasFpn { .. } | Self::Bifpn { .. } => {
                bail!("space.kind: necks have no supernet; search them by trials, kind = \"search\"")
            }
        }
    }

    fn derive(&self, model: Option<&ModelConfig>, arch: &Architecture) -> Result<ModelConfig> {
        self.choices()?.validate(arch)?;
        let model = template(model)?.clone();
        Ok(match self {
            Self::Detnas(config) => {
                let backbone = DetNasConfig { arch: Some(arch.clone()), ..config.clone() };
                ModelConfig { backbone: BackboneConfig::Detnas(backbone), ..model }
            }
            _ => ModelConfig { neck: self.neck(arch)?.unwrap_or_else(|| model.neck.clone()), ..model },
        })
    }

    fn supernet(
        &self,
        _space: &dyn WeightSharing,
        model: Option<&ModelConfig>,
        vb: &VarBuilder,
        num_classes: usize,
    ) -> Result<Net> {
        let Self::Detnas(config) = self else { bail!("space.kind: necks have no supernet") };
        let model = ModelConfig { backbone: BackboneConfig::Detnas(config.clone()), ..template(model)?.clone() };
        Ok(Net::Shared(Box::new(model.build_supernet(vb, num_classes as i64)?)))
    }

    fn inherits(&self) -> bool {
        matches!(self, Self::Detnas(_))
    }

    /// Of DetNAS also [`BACKBONE_MACS`].
    fn costs(&self, model: Option<&ModelConfig>, num_classes: usize, input: Shape) -> Result<CostFunction> {
        let backbone = match self {
            Self::Detnas(config) => Some(config.space()?.macs_table(input)),
            _ => None,
        };
        let (space, model) = (self.clone(), model.cloned());
        Ok(Box::new(move |arch| {
            let mut values = sizes(cost_of::<Detection>(&space.derive(model.as_ref(), arch)?, num_classes, input)?);
            values.extend(backbone.iter().map(|table| (BACKBONE_MACS.to_string(), table.macs(arch) as f64)));
            Ok(values)
        }))
    }

    fn names(&self) -> Result<Vec<Decision>> {
        Ok(match self {
            Self::Detnas(config) => config.space()?.names(),
            Self::NasFpn { levels, intermediate, .. } => NasFpnSpace::new(*levels, *intermediate)?.names(),
            Self::Bifpn { levels } => BiFpnSpace::new(*levels)?.names(),
        })
    }

    fn drawing(&self, arch: &Architecture) -> Result<Option<String>> {
        Ok(Some(match (self, self.neck(arch)?) {
            (Self::Detnas(config), _) => config.space()?.drawing(arch)?,
            (_, Some(NeckConfig::NasFpn(neck))) => neck.diagram().picture().document(),
            (_, Some(NeckConfig::Bifpn(neck))) => neck.diagram().picture().document(),
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nas_datasets::rng;

    #[test]
    fn every_space_is_drawn_and_names_its_choices() {
        for (kind, blocks) in [
            ("kind = 'detnas'\nsize = 'tiny'", 1 + 9),
            ("kind = 'nas_fpn'\nlevels = { min = 3, max = 5 }\nintermediate = 2\nchannels = 8\nstacks = 1", 3 + 5),
            ("kind = 'bifpn'\nlevels = { min = 3, max = 6 }", 4 + 6),
        ] {
            let space: SpaceConfig = toml::from_str(kind).unwrap();
            let choices = space.choices().unwrap();
            let counts = |names: Vec<Decision>| names.iter().map(|name| name.choices.len() as u16).collect::<Vec<_>>();
            assert_eq!(counts(space.names().unwrap()), choices.decisions(), "{kind}");
            let arch = choices.sample(&mut rng::stream(0, "test", 0));
            let drawn = space.drawing(&arch).unwrap().unwrap();
            assert_eq!(drawn.matches("<rect x=").count(), blocks, "{drawn}");
        }
        let (space, arch) = NasFpnSpace::published();
        let cells = space.cells(&arch).unwrap();
        let drawn = NasFpnConfig { cells, ..Default::default() }.diagram().picture().document();
        assert_eq!((drawn.matches(">attention<").count(), drawn.matches(">sum<").count()), (2 * 4, 2 * 3));
    }
}
