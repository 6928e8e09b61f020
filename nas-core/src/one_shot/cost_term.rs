//! The expected cost of a relaxed architecture as a part of its loss.

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::Problem;
use crate::space::WeightSharing;

/// A cost that is a sum over choices: of what is fixed, and of every entry of every architecture parameter, row by row.
pub type CostTable = (f64, Vec<Vec<f64>>);

/// What a cost is counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CostOf {
    /// Multiply-adds.
    #[default]
    Macs,
    /// Microseconds that `latency.predict` of kind `operators` or `layers` predicts.
    Latency,
}

fn is_macs(of: &CostOf) -> bool {
    *of == CostOf::Macs
}

/// How the expected cost `E`, multiply-adds or microseconds, changes the loss `L` of the architecture parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CostTermConfig {
    /// `L`.
    #[default]
    None,
    /// `alpha * L * (ln E / ln reference)^beta`: ProxylessNAS's `mul#log`; FBNet's equation 4 where `reference` is e.
    LogPower {
        /// Factor.
        alpha: f64,
        /// Exponent.
        beta: f64,
        /// Cost at which the power is 1; without it the power is that of `ln E`.
        reference: Option<f64>,
        /// What `E` is.
        #[serde(default, skip_serializing_if = "is_macs")]
        of: CostOf,
    },
    /// `L + lambda * (E / reference - 1)`: ProxylessNAS's `add#linear`.
    Linear {
        /// Weight of the term.
        lambda: f64,
        /// Cost at which it is 0.
        reference: f64,
        /// What `E` is.
        #[serde(default, skip_serializing_if = "is_macs")]
        of: CostOf,
    },
    /// `L + lambda * |E / reference - 1|`: TuNAS's absolute reward (Bender et al. 2020, arXiv 2008.06120). It holds the search at
    /// the cost `reference`, where the others make networks cheaper for as long as that is worth it.
    Absolute {
        /// Weight of the term.
        lambda: f64,
        /// Cost at which it is 0.
        reference: f64,
        /// What `E` is.
        #[serde(default, skip_serializing_if = "is_macs")]
        of: CostOf,
    },
}

impl CostTermConfig {
    /// Says which value cannot be served, or that the space has no table of costs.
    pub(super) fn check(&self, space: &dyn WeightSharing, problem_input: crate::nn::Shape) -> Result<()> {
        let above_one = |name: &str, value: f64| {
            ensure!(value > 1.0 && value.is_finite(), "method.cost.{name} = {value}; expected more than 1");
            Ok(())
        };
        match self {
            Self::None => return Ok(()),
            Self::LogPower { alpha, reference, .. } => {
                ensure!(*alpha > 0.0, "method.cost.alpha = {alpha}; expected more than 0");
                reference.map_or(Ok(()), |reference| above_one("reference", reference))?;
            }
            Self::Linear { reference, .. } => above_one("reference", *reference)?,
            Self::Absolute { lambda, reference, .. } => {
                ensure!(*lambda > 0.0, "method.cost.lambda = {lambda}; expected more than 0");
                above_one("reference", *reference)?;
            }
        }
        let table = space.macs_table(problem_input);
        table.map(drop).with_context(|| {
            format!(
                "method.cost: the cost of the space {} is no sum over its choices; expected cost.kind = \"none\"",
                space.name()
            )
        })
    }

    /// What the cost is counted in; none where there is none.
    pub(super) fn of(self) -> Option<CostOf> {
        match self {
            Self::None => None,
            Self::LogPower { of, .. } | Self::Linear { of, .. } | Self::Absolute { of, .. } => Some(of),
        }
    }

    pub(super) fn open(self, problem: &Problem) -> Result<CostTerm> {
        self.check(&*problem.space, problem.input)?;
        let macs = || problem.space.macs_table(problem.input).map(|(fixed, table)| (fixed as f64, table));
        let table = match self.of() {
            None => None,
            Some(CostOf::Macs) => macs(),
            Some(CostOf::Latency) => {
                Some(problem.latency.clone().context("method.cost.of = \"latency\": it is not known here")?)
            }
        };
        Ok(CostTerm { config: self, table })
    }
}

/// The term over a space's table of costs.
#[derive(Debug)]
pub(super) struct CostTerm {
    config: CostTermConfig,
    table: Option<CostTable>,
}

impl CostTerm {
    /// `loss` with the term, for candidates weighed by `weights`, which are on the CPU.
    pub fn apply(&self, loss: Tensor, weights: &[Tensor]) -> Tensor {
        let Some((fixed, table)) = &self.table else { return loss };
        let one = |(weights, macs): (&Tensor, &Vec<f64>)| {
            let macs = Tensor::from_slice(macs).view(&weights.size()[..]);
            (weights.to_kind(Kind::Double) * macs).sum(Kind::Double)
        };
        let expected = weights.iter().zip(table).map(one).fold(Tensor::from(*fixed), |sum, macs| macs + sum);
        let like_loss = |term: Tensor| term.to_kind(loss.kind()).to_device(loss.device());
        match self.config {
            CostTermConfig::None => loss,
            CostTermConfig::LogPower { alpha, beta, reference, .. } => {
                let power = (expected.log() / reference.map_or(1.0, f64::ln)).pow_tensor_scalar(beta);
                &loss * like_loss(power * alpha)
            }
            CostTermConfig::Linear { lambda, reference, .. } => {
                &loss + like_loss((expected / reference - 1.0) * lambda)
            }
            CostTermConfig::Absolute { lambda, reference, .. } => {
                &loss + like_loss((expected / reference - 1.0).abs() * lambda)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 250 expected: the term, and its gradient by the weight of the candidate that costs 200.
    #[test]
    fn a_price_is_linear_or_the_distance_from_what_it_shall_be() {
        let linear = |reference| CostTermConfig::Linear { lambda: 2.0, reference, of: CostOf::Macs };
        let absolute = |reference| CostTermConfig::Absolute { lambda: 2.0, reference, of: CostOf::Macs };
        for (config, term, slope) in [
            (linear(200.0), 0.5, 2.0),
            (linear(500.0), -1.0, 0.8),
            (absolute(200.0), 0.5, 2.0),
            (absolute(500.0), 1.0, -0.8),
            (absolute(250.0), 0.0, 0.0),
        ] {
            let weights = Tensor::from_slice(&[0.25, 0.75]).set_requires_grad(true);
            let cost = CostTerm { config, table: Some((100.0, vec![vec![0.0, 200.0]])) };
            let loss = cost.apply(Tensor::from(3.0), std::slice::from_ref(&weights));
            let gradient = Tensor::run_backward(&[&loss], &[&weights], false, false).remove(0);
            assert!((loss.double_value(&[]) - 3.0 - term).abs() < 1e-12, "{config:?}");
            assert!((gradient.double_value(&[1]) - slope).abs() < 1e-12, "{config:?}");
        }
    }
}
