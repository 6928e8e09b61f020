//! `nas-classify analyse`: the spaces that it knows by name.

use std::path::Path;

use anyhow::Result;
use nas_core::run::config;
use nas_core::search::analysis::vocabulary::Vocabulary;
use nas_core::task::commands::analyse::Spaces;
use serde::Deserialize;

use crate::nasbench201::NasBench201;
use crate::search_net::SpaceConfig;

/// The spaces of classification.
#[derive(Clone, Copy, Debug)]
pub struct ClassifySpaces;

/// What is read of an experiment file of any kind.
#[derive(Deserialize)]
struct Section {
    #[serde(default)]
    space: Option<SpaceConfig>,
}

impl Spaces for ClassifySpaces {
    fn of_config(&self, config: &Path) -> Result<Option<Box<dyn Vocabulary>>> {
        let section: Section = config::load(config, &[])?;
        Ok(match section.space {
            Some(SpaceConfig::Nasbench201(_)) => Some(Box::new(NasBench201)),
            _ => None,
        })
    }

    fn of_notation(&self, arch: &str) -> Option<Box<dyn Vocabulary>> {
        arch.trim().starts_with('|').then_some(Box::new(NasBench201))
    }
}
