//! Sampling from a categorical distribution that can be differentiated (Jang et al., arXiv 1611.01144; Maddison et al.,
//! arXiv 1611.00712).

use tch::{Kind, Tensor};

use super::relaxed::Parameters;
use crate::space::{ArchParameter, Mixture};

/// Softmax of `(raw + Gumbel noise) / temperature` along every row; 0 for entries that stand for nothing.
pub(super) fn gumbel_softmax(parameter: &ArchParameter, raw: &Tensor, temperature: f64) -> Tensor {
    let noise = tch::no_grad(|| -raw.empty_like().exponential_(1.0).log());
    parameter.softmax(&((raw + noise) / temperature))
}

/// 1 for the largest entry of every row, 0 for the others and for entries that stand for nothing.
pub(super) fn one_hot_of_largest(parameter: &ArchParameter, weights: &Tensor) -> Tensor {
    tch::no_grad(|| {
        let largest = weights.argmax(-1, true);
        let hot = weights.zeros_like().scatter_value(-1, &largest, 1.0);
        parameter.mask(weights).map_or(hot.shallow_clone(), |mask| hot * mask)
    })
}

/// The value of `hard` with the gradient of `soft` (Bengio et al., arXiv 1308.3432).
pub fn straight_through(hard: &Tensor, soft: &Tensor) -> Tensor {
    hard + (soft - soft.detach())
}

/// Weights of which only some count, where a mixture needs them.
#[derive(Debug)]
pub(super) struct Sample {
    pub weights: Vec<Tensor>,
    pub active: Vec<Vec<bool>>,
}

impl Sample {
    /// Operators by `of`, which gives their weights and, as numbers that are not 0, which of them count; connections by softmax.
    pub fn new(parameters: &Parameters, mut of: impl FnMut(&ArchParameter, &Tensor) -> (Tensor, Tensor)) -> Self {
        let mut marks = Vec::new();
        let weights = parameters.weights(|p, raw| {
            let (weights, marked) = of(p, raw);
            marks.push(marked);
            weights
        });
        let mut marks = marks.into_iter();
        let active = parameters.list.iter().map(|p| match p.choice {
            crate::space::Choice::Operator => flags(&marks.next().expect("a mark for every list of operators")),
            crate::space::Choice::Connection if p.exists.is_empty() => {
                vec![true; p.dims.iter().product::<i64>() as usize]
            }
            crate::space::Choice::Connection => p.exists.clone(),
        });
        Self { active: active.collect(), weights: parameters.placed(&weights) }
    }

    pub fn as_mixture(&self) -> Mixture<'_> {
        self.with_undrawn(false)
    }

    /// A mixture with [`Mixture::Sampled`]'s `undrawn`.
    pub fn with_undrawn(&self, undrawn: bool) -> Mixture<'_> {
        Mixture::Sampled { weights: &self.weights, active: &self.active, skip_dropout: 0.0, undrawn }
    }
}

fn flags(marks: &Tensor) -> Vec<bool> {
    let marks = marks.view([-1]).ne(0.0).to_kind(Kind::Bool).to_device(tch::Device::Cpu);
    Vec::<bool>::try_from(marks).expect("a list of flags")
}
