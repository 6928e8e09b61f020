//! Class-balanced parts of a set: less data for cheap trials, and images of the train split that a search may look at.

use std::sync::Arc;

use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ClassifyDataset;
use crate::error::{DataError, Problem};
use crate::rng;
use crate::split::Split;
use crate::subset::Subset;

/// Which part of a set is used. Every class gives the same share of its samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Part {
    /// Share of the train split, in (0, 1].
    pub fraction: f64,
    /// Share of the train split that becomes the val split, in [0, 1); 0 for the set's own. A search that is to be scored on
    /// the set's own val or test images must not see them. `fraction` is taken from the rest.
    pub hold_out: f64,
    /// Seed of the choice.
    pub seed: u64,
}

impl Default for Part {
    fn default() -> Self {
        Self { fraction: 1.0, hold_out: 0.0, seed: 0 }
    }
}

impl Part {
    /// Says which value is out of range.
    pub(super) fn validate(&self) -> Result<(), DataError> {
        let setting = |key, found: f64, expected| Err(DataError::Setting { key, found: found.to_string(), expected });
        match *self {
            Self { fraction, .. } if !(fraction > 0.0 && fraction <= 1.0) => {
                setting("data.part.fraction", fraction, "more than 0 and at most 1")
            }
            Self { hold_out, .. } if !(0.0..1.0).contains(&hold_out) => {
                setting("data.part.hold_out", hold_out, "at least 0 and less than 1")
            }
            _ => Ok(()),
        }
    }

    /// The split that a part of `split` is taken from.
    pub(super) fn source(&self, split: Split) -> Split {
        if split == Split::Val && self.hold_out > 0.0 { Split::Train } else { split }
    }

    /// The part for `split` of what [`Part::source`] names.
    pub(super) fn apply(
        &self,
        dataset: Arc<dyn ClassifyDataset>,
        split: Split,
    ) -> Result<Arc<dyn ClassifyDataset>, DataError> {
        let whole = match split {
            Split::Train => self.fraction == 1.0 && self.hold_out == 0.0,
            Split::Val => self.hold_out == 0.0,
            Split::Test => true,
        };
        if whole {
            return Ok(dataset);
        }
        let mut of_class = vec![Vec::new(); dataset.classes().len()];
        (0..dataset.len()).for_each(|i| of_class[dataset.label(i)].push(i));
        let mut indices = Vec::new();
        for (class, mut samples) in of_class.into_iter().enumerate() {
            samples.shuffle(&mut rng::stream(self.seed, "part", class as u64));
            let (held_out, rest) = samples.split_at((self.hold_out * samples.len() as f64).round() as usize);
            let share = (self.fraction * rest.len() as f64).round() as usize;
            indices.extend_from_slice(if split == Split::Val { held_out } else { &rest[..share] });
        }
        if indices.is_empty() {
            let found = format!("fraction = {}, hold_out = {}", self.fraction, self.hold_out);
            return Err(Problem::new("data.part".as_ref(), found, format!("a {split} split with samples")).into());
        }
        Ok(Arc::new(Subset::new(dataset, indices)))
    }
}
