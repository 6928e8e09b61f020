//! What every one-shot method says of itself beside its algorithm.

use std::fmt;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{CostOf, OneShot, OneShotConfig, Problem, SecondStage};
use crate::nn::Shape;
use crate::space::{Choice, WeightSharing};

/// Parameters of a one-shot method, which know what it is, what it cannot serve, and how it starts.
pub trait OneShotDef: fmt::Debug {
    /// Name and paper.
    fn info(&self) -> OneShotInfo;

    /// Says which parameter cannot be served, or why the method cannot serve `space` on images of `input`.
    fn check(&self, space: &dyn WeightSharing, input: Shape) -> Result<()>;

    /// The method at its start, its architecture parameters drawn from libtorch's generator. The config was checked.
    fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>>;

    /// The search over the trained supernet that follows, for methods that leave the choice to one.
    fn second_stage(&self) -> Option<SecondStage> {
        None
    }

    /// What the cost of an architecture is counted in, where it is a part of the loss.
    fn cost_of(&self) -> Option<CostOf> {
        None
    }

    /// Whether a step runs single architectures only, so that spaces without architecture parameters can be served.
    fn runs_paths(&self) -> bool {
        false
    }
}

/// What the registry knows of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OneShotInfo {
    /// Name, as configs spell it.
    pub kind: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
}

impl OneShotConfig {
    /// Name and paper.
    pub fn info(&self) -> OneShotInfo {
        self.def().info()
    }

    /// The search over the trained supernet that follows, for methods that leave the choice to one.
    pub fn second_stage(&self) -> Option<SecondStage> {
        self.def().second_stage()
    }

    /// What the cost of an architecture is counted in, where it is a part of the loss.
    pub fn cost_of(&self) -> Option<CostOf> {
        self.def().cost_of()
    }

    /// Says which parameter cannot be served, or why the method cannot serve `space` on images of `input`.
    pub fn check(&self, space: &dyn WeightSharing, input: Shape) -> Result<()> {
        ensure!(
            self.def().runs_paths() || !space.arch_parameters().is_empty(),
            "method.kind = {:?} mixes candidates, and a supernet of the space {} runs one at a time; spos, bignas, \
             random_nas_ws, enas, mdenas, ddpnas and asng serve it",
            self.info().kind,
            space.name()
        );
        self.def().check(space, input)
    }

    /// The method at its start, its architecture parameters drawn from libtorch's generator.
    pub fn build(&self, problem: Problem) -> Result<Box<dyn OneShot>> {
        self.check(&*problem.space, problem.input)?;
        self.def().build(problem)
    }
}

/// Refuses what is not finite and above 0.
pub(super) fn positive(name: &str, value: f64) -> Result<()> {
    ensure!(value > 0.0 && value.is_finite(), "method.{name} = {value}; expected more than 0");
    Ok(())
}

pub(super) fn has(space: &dyn WeightSharing, choice: Choice) -> bool {
    space.arch_parameters().iter().any(|parameter| parameter.choice == choice)
}

/// Refuses spaces without operators to choose.
pub(super) fn chooses_operators(method: &dyn OneShotDef, space: &dyn WeightSharing) -> Result<()> {
    let (kind, name) = (method.info().kind, space.name());
    ensure!(
        has(space, Choice::Operator),
        "method.kind = {kind:?} chooses operators, and the space {name} has none to choose"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_read_by_the_name_that_it_gives_itself() {
        for method in OneShotConfig::all() {
            assert_eq!(serde_json::to_value(&method).unwrap()["kind"], method.info().kind);
        }
    }
}
