//! A categorical distribution for every decision, the state of reinforcement and distribution learning.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::draw_valid;
use crate::space::Architecture;
use crate::space::ChoiceSpace;

/// Independent probabilities of the choices of each decision.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Distribution(pub Vec<Vec<f64>>);

impl Distribution {
    pub fn uniform(decisions: &[u16]) -> Self {
        Self(decisions.iter().map(|options| vec![1.0 / f64::from(*options); usize::from(*options)]).collect())
    }

    /// Softmax of each decision's logits.
    pub fn softmax(logits: &[Vec<f64>]) -> Self {
        let one = |logits: &Vec<f64>| {
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let exp: Vec<f64> = logits.iter().map(|logit| (logit - max).exp()).collect();
            let total: f64 = exp.iter().sum();
            exp.into_iter().map(|exp| exp / total).collect()
        };
        Self(logits.iter().map(one).collect())
    }

    /// The most probable architecture, or where it is not valid one that is drawn.
    pub fn mode(&self, space: &dyn ChoiceSpace) -> Architecture {
        let mode = Architecture::new(self.0.iter().map(|probabilities| largest(probabilities) as u16).collect());
        mode_of(space, mode, |rng| self.sample(space, rng))
    }

    /// A valid architecture drawn from the distribution.
    pub fn sample(&self, space: &dyn ChoiceSpace, rng: &mut ChaCha8Rng) -> Architecture {
        draw_valid(space, rng, |rng| {
            Architecture::new(self.0.iter().map(|probabilities| draw(probabilities, rng) as u16).collect())
        })
    }
}

/// `arch` if the space accepts it, else the first draw that it accepts.
pub(super) fn mode_of(
    space: &dyn ChoiceSpace,
    arch: Architecture,
    mut draw: impl FnMut(&mut ChaCha8Rng) -> Architecture,
) -> Architecture {
    let mut mode = Some(arch);
    draw_valid(space, &mut nas_datasets::rng::stream(0, "mode", 0), |rng| mode.take().unwrap_or_else(|| draw(rng)))
}

/// Index of the largest weight, the first of equal ones.
pub(super) fn largest(weights: &[f64]) -> usize {
    (0..weights.len()).rev().max_by(|a, b| weights[*a].total_cmp(&weights[*b])).expect("a decision has choices")
}

/// An index drawn with the given weights, which need not sum to 1.
pub(super) fn draw(weights: &[f64], rng: &mut ChaCha8Rng) -> usize {
    let mut point = rng.random::<f64>() * weights.iter().sum::<f64>();
    let found = weights.iter().position(|weight| {
        point -= weight;
        point < 0.0
    });
    // Rounding can leave the point just behind the last weight.
    found.unwrap_or_else(|| weights.iter().rposition(|weight| *weight > 0.0).expect("a weight is positive"))
}
