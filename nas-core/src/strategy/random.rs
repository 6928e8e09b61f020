//! Random search (Li and Talwalkar, arXiv 1902.07638): every architecture is drawn anew.

use rand_chacha::ChaCha8Rng;

use super::{Asking, Observation, SearchStrategy};
use crate::space::ChoiceSpace;
use crate::space::trial::Proposal;

#[derive(Debug)]
pub(super) struct RandomSearch;

impl SearchStrategy for RandomSearch {
    fn ask(&self, asking: &Asking, rng: &mut ChaCha8Rng) -> Option<Proposal> {
        Some(asking.space.sample(rng).into())
    }

    fn tell(&mut self, _: &dyn ChoiceSpace, _: &Observation, _: &mut ChaCha8Rng) {}
}
