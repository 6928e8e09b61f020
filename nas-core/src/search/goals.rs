//! What a search is for: objectives, and bounds that must hold.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::space::Architecture;
use crate::space::trial::{Outcome, Record, Values};
use crate::space::{ChoiceSpace, Graph, InvalidArchitecture, Observation, Origin};
use crate::strategy::{StrategyConfig, StrategyInfo};

/// Which way a metric is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Larger is better.
    #[default]
    Maximize,
    /// Smaller is better.
    Minimize,
}

/// A metric to be made better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "WrittenObjective")]
#[schemars(!try_from, deny_unknown_fields)]
pub struct Objective {
    /// Name of the metric.
    pub metric: String,
    /// Which way is better. It may be left out where the name is not that of a cost.
    #[schemars(with = "Option<Goal>")]
    pub goal: Goal,
}

/// An objective as an experiment file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenObjective {
    metric: String,
    goal: Option<Goal>,
}

/// What names of costs contain.
const COSTS: [&str; 11] =
    ["params", "macs", "flops", "latency", "energy", "memory", "bytes", "secs", "millis", "loss", "tse"];

impl TryFrom<WrittenObjective> for Objective {
    type Error = String;

    fn try_from(WrittenObjective { metric, goal }: WrittenObjective) -> Result<Self, String> {
        let is_cost = COSTS.iter().any(|cost| metric.contains(cost));
        match goal {
            None if is_cost => Err(format!("metric = {metric:?} without goal; expected \"minimize\" or \"maximize\"")),
            _ => Ok(Self { metric, goal: goal.unwrap_or_default() }),
        }
    }
}

/// Bounds of a metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Constraint {
    /// Name of the metric, such as `params`, `macs`, `latency_millis`.
    pub metric: String,
    /// Largest value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper: Option<f64>,
    /// Smallest value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower: Option<f64>,
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}{}", self.metric, self.bounds())
    }
}

impl Constraint {
    /// Such as ` at least 1 at most 2`.
    pub fn bounds(&self) -> String {
        let bound = |name, bound: Option<f64>| bound.map_or(String::new(), |bound| format!(" {name} {bound}"));
        bound("at least", self.lower) + &bound("at most", self.upper)
    }

    /// Says when there is no bound, or none that a value can keep.
    pub fn check(&self) -> anyhow::Result<()> {
        let Self { metric, upper, lower } = self;
        anyhow::ensure!(upper.is_some() || lower.is_some(), "constraints: {metric} has neither `upper` nor `lower`");
        for (name, bound) in [("upper", upper), ("lower", lower)] {
            let found = bound.unwrap_or_default();
            anyhow::ensure!(found.is_finite(), "constraints: {metric} has {name} = {found}; expected a finite number");
        }
        let (most, least) = (upper.unwrap_or(f64::INFINITY), lower.unwrap_or(f64::NEG_INFINITY));
        anyhow::ensure!(least <= most, "constraints: {metric} has lower = {least} above upper = {most}");
        Ok(())
    }

    /// By how much a value is outside, relative to the bound; 0 inside, infinite where there is no value (or NaN): a network without
    /// a latency does not run there.
    pub fn violation(&self, value: Option<&f64>) -> f64 {
        let Some(value) = value.filter(|value| !value.is_nan()) else { return f64::INFINITY };
        let relative = |excess: f64, bound: f64| excess.max(0.0) / bound.abs().max(f64::MIN_POSITIVE);
        let above = self.upper.map_or(0.0, |upper| relative(value - upper, upper));
        let below = self.lower.map_or(0.0, |lower| relative(lower - value, lower));
        above + below
    }
}

/// Objectives and constraints of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goals {
    /// The main objective first.
    pub objectives: Vec<Objective>,
    /// Bounds.
    pub constraints: Vec<Constraint>,
}

impl Goals {
    /// One metric to be made large.
    pub fn maximize(metric: &str) -> Self {
        let objective = Objective { metric: metric.into(), goal: Goal::Maximize };
        Self { objectives: vec![objective], constraints: Vec::new() }
    }

    /// Says what the strategy cannot serve. `metrics` are all names that a trial ends in, `of_architecture` those that are
    /// known before it runs.
    pub fn check(&self, info: &StrategyInfo, metrics: &[&str], of_architecture: &[&str]) -> anyhow::Result<()> {
        anyhow::ensure!(!self.objectives.is_empty(), "objectives: none is given; expected at least one");
        let named = self.objectives.iter().map(|objective| ("objectives", &objective.metric));
        for (key, metric) in named.chain(self.constraints.iter().map(|constraint| ("constraints", &constraint.metric)))
        {
            let known = metrics.contains(&metric.as_str());
            anyhow::ensure!(known, "{key}: unknown metric {metric:?}; expected one of {}", metrics.join(", "));
        }
        for constraint in &self.constraints {
            constraint.check()?;
            let metric = &constraint.metric;
            let served = info.measured_constraints || of_architecture.contains(&metric.as_str());
            anyhow::ensure!(
                served,
                "constraints: {metric} is known only after a trial, and the strategy {} needs bounds that the architecture \
                 alone decides ({}); strategies that serve it: {}",
                info.kind,
                of_architecture.join(", "),
                StrategyConfig::kinds(|info| info.measured_constraints).join(", ")
            );
        }
        anyhow::ensure!(
            self.objectives.len() == 1 || info.multi_objective,
            "objectives: {} are given, and the strategy {} serves one; strategies that serve several: {}",
            self.objectives.len(),
            info.kind,
            StrategyConfig::kinds(|info| info.multi_objective).join(", ")
        );
        Ok(())
    }

    /// A record as a strategy sees it. An objective that is missing counts as a failure, a bounded metric that is missing as
    /// an infinite violation.
    pub fn observe(&self, record: &Record) -> Observation {
        let Record { trial, outcome } = record;
        let (mut values, mut violation) = (None, 0.0);
        if let Outcome::Metrics(metrics) = outcome {
            values = self.objectives.iter().map(|objective| oriented(objective, metrics)).collect();
            violation = self.constraints.iter().map(|c| c.violation(metrics.get(&c.metric))).sum();
        }
        let (id, arch, epochs, parent) = (trial.id, trial.arch.clone(), trial.budget.epochs, trial.parent);
        Observation { id, arch, epochs, parent, values, violation, origin: Origin::Proposed }
    }
}

fn oriented(objective: &Objective, metrics: &Values) -> Option<f64> {
    let value = *metrics.get(&objective.metric)?;
    Some(match objective.goal {
        Goal::Maximize => value,
        Goal::Minimize => -value,
    })
}

/// Metrics of an architecture that need no trial.
pub type CostOf<'a> = dyn Fn(&Architecture) -> Values + Sync + 'a;

/// A space without the architectures that break a bound.
pub struct Restricted<'a> {
    space: &'a dyn ChoiceSpace,
    constraints: Vec<Constraint>,
    cost: &'a CostOf<'a>,
}

impl std::fmt::Debug for Restricted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Restricted").field("space", &self.space).field("constraints", &self.constraints).finish()
    }
}

impl<'a> Restricted<'a> {
    /// The architectures of `space` that meet those of `constraints` that `cost` knows. Fails when 10,000 random ones have
    /// none among them.
    pub fn new(space: &'a dyn ChoiceSpace, constraints: &[Constraint], cost: &'a CostOf<'a>) -> anyhow::Result<Self> {
        const TRIES: usize = 10_000;
        let mut rng = nas_datasets::rng::stream(0, "restricted", 0);
        let known = cost(&space.sample(&mut rng));
        let constraints: Vec<_> = constraints.iter().filter(|c| known.contains_key(&c.metric)).cloned().collect();
        let restricted = Self { space, constraints, cost };
        let found = (0..TRIES).any(|_| restricted.validate(&space.sample(&mut rng)).is_ok());
        anyhow::ensure!(
            found,
            "constraints: none of {TRIES} random architectures of {} meets {}",
            space.name(),
            restricted.constraints.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
        );
        Ok(restricted)
    }

    /// The space without bounds.
    pub fn unrestricted(&self) -> &dyn ChoiceSpace {
        self.space
    }

    /// What the architecture alone decides, as far as it is known.
    pub fn costs(&self, arch: &Architecture) -> Values {
        let mut costs = (self.cost)(arch);
        costs.retain(|_, value| !value.is_nan());
        costs
    }
}

impl ChoiceSpace for Restricted<'_> {
    fn name(&self) -> &str {
        self.space.name()
    }

    fn decisions(&self) -> Vec<u16> {
        self.space.decisions()
    }

    fn validate(&self, arch: &Architecture) -> Result<(), InvalidArchitecture> {
        self.space.validate(arch)?;
        if self.constraints.is_empty() {
            return Ok(());
        }
        let cost = (self.cost)(arch);
        let broken =
            self.constraints.iter().find(|constraint| constraint.violation(cost.get(&constraint.metric)) > 0.0);
        broken.map_or(Ok(()), |constraint| {
            let metric = &constraint.metric;
            let found = cost.get(metric).filter(|value| !value.is_nan()).map_or("missing".into(), f64::to_string);
            let reason = format!("{metric} is {found}, expected{}", constraint.bounds());
            Err(self.invalid(arch, reason))
        })
    }

    fn standing_for(&self, choices: Vec<u16>) -> Option<Architecture> {
        self.space.standing_for(choices).filter(|arch| self.validate(arch).is_ok())
    }

    fn sample(&self, rng: &mut rand_chacha::ChaCha8Rng) -> Architecture {
        loop {
            let arch = self.space.sample(rng);
            if self.validate(&arch).is_ok() {
                return arch;
            }
        }
    }

    fn mutate(&self, parent: &Architecture, rng: &mut rand_chacha::ChaCha8Rng) -> Architecture {
        // A parent can have no neighbour inside the bounds.
        const TRIES: usize = 1000;
        let mutants = (0..TRIES).map(|_| self.space.mutate(parent, rng));
        let valid = mutants.into_iter().find(|arch| self.validate(arch).is_ok());
        valid.unwrap_or_else(|| self.sample(rng))
    }

    fn neighbors(&self, arch: &Architecture) -> Vec<Architecture> {
        let neighbors = self.space.neighbors(arch);
        neighbors.into_iter().filter(|neighbor| self.validate(neighbor).is_ok()).collect()
    }

    fn traits(&self, arch: &Architecture) -> Vec<u16> {
        self.space.traits(arch)
    }

    fn graph(&self, arch: &Architecture) -> Option<Graph> {
        self.space.graph(arch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_no_objective_without_its_goal() {
        let read = |text: &str| toml::from_str::<Objective>(text).map_err(|error| error.to_string());
        assert_eq!(read("metric = 'miou'").unwrap().goal, Goal::Maximize);
        assert_eq!(read("metric = 'params_m'\ngoal = 'minimize'").unwrap().goal, Goal::Minimize);
        let error = read("metric = 'params_m'").unwrap_err();
        assert!(error.contains("metric = \"params_m\" without goal"), "{error}");
        assert!(read("metric = 'miou'\nway = 'up'").is_err());
    }
    use crate::space::trial::{Budget, Trial};

    fn bound(upper: Option<f64>, lower: Option<f64>) -> Constraint {
        Constraint { metric: "latency".into(), upper, lower }
    }

    #[test]
    fn a_bounded_metric_that_is_missing_is_an_infinite_violation_and_never_a_value() {
        let goals = Goals { constraints: vec![bound(Some(2.0), None)], ..Goals::maximize("valid") };
        let observe = |metrics: &[(&str, f64)]| {
            let trial = Trial { id: 0, arch: Architecture::new(vec![0]), budget: Budget::default(), parent: None };
            let metrics = metrics.iter().map(|(name, value)| (name.to_string(), *value)).collect();
            let Observation { values, violation, .. } = goals.observe(&Record { trial, outcome: Outcome::of(metrics) });
            (values, violation)
        };
        assert_eq!(observe(&[("valid", 0.5), ("latency", 3.0)]), (Some(vec![0.5]), 0.5));
        assert_eq!(observe(&[("valid", 0.5)]), (Some(vec![0.5]), f64::INFINITY));
        assert_eq!(observe(&[("latency", 1.0)]), (None, 0.0));
        assert_eq!(bound(Some(2.0), None).violation(Some(&f64::NAN)), f64::INFINITY);
    }

    #[test]
    fn bounds_that_no_value_keeps_are_refused() {
        let error = |upper, lower| format!("{:#}", bound(upper, lower).check().unwrap_err());
        assert!(error(Some(f64::NAN), None).contains("latency has upper = NaN; expected a finite number"));
        assert!(error(Some(1.0), Some(f64::NEG_INFINITY)).contains("lower = -inf"));
        assert!(error(Some(1.0), Some(2.0)).contains("lower = 2 above upper = 1"));
        assert!(error(None, None).contains("neither"));
        assert_eq!(bound(Some(2.5), Some(1.0)).to_string(), "latency at least 1 at most 2.5");
        bound(Some(2.0), Some(1.0)).check().unwrap();
    }
}
