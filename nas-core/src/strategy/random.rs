//! Random search (Li and Talwalkar, arXiv 1902.07638): every architecture is drawn anew.

use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Asking, SearchStrategy, StrategyDef, StrategyInfo};
use crate::space::trial::Proposal;
use crate::space::{ChoiceSpace, Observation};

/// Random search has no parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomConfig {}

impl StrategyDef for RandomConfig {
    fn info(&self) -> StrategyInfo {
        // It looks at none of them.
        StrategyInfo { multi_objective: true, ..StrategyInfo::new("random", "Li and Talwalkar 2019, arXiv 1902.07638") }
    }

    fn build(&self, _: &dyn ChoiceSpace, _: &mut ChaCha8Rng) -> Box<dyn SearchStrategy> {
        Box::new(RandomSearch)
    }
}

#[derive(Debug)]
pub(super) struct RandomSearch;

impl SearchStrategy for RandomSearch {
    fn ask(&self, asking: &Asking, rng: &mut ChaCha8Rng) -> Option<Proposal> {
        Some(asking.space.sample(rng).into())
    }

    fn tell(&mut self, _: &dyn ChoiceSpace, _: &Observation, _: &mut ChaCha8Rng) {}
}
