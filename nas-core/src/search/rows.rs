//! A space of which only some architectures are known: those of a table.

use std::collections::HashSet;

use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::space::{Architecture, ChoiceSpace, Graph, InvalidArchitecture};

/// The architectures of a table. Where a strategy changes one, it gets the nearest of the table: the one that differs in the
/// fewest choices.
#[derive(Debug)]
pub struct Rows<'a> {
    space: &'a dyn ChoiceSpace,
    archs: Vec<Architecture>,
    known: HashSet<Architecture>,
}

impl<'a> Rows<'a> {
    /// Those of `archs`, which are of `space`; at least one.
    pub fn new(space: &'a dyn ChoiceSpace, archs: Vec<Architecture>) -> Self {
        assert!(!archs.is_empty(), "a table holds at least one architecture");
        let known = archs.iter().cloned().collect();
        Self { space, archs, known }
    }

    /// Those but `parent` that differ from `from` in the fewest choices.
    fn nearest(&self, from: &Architecture, parent: &Architecture) -> Vec<&Architecture> {
        let distance = |arch: &Architecture| arch.differing(from);
        let others = || self.archs.iter().filter(|arch| *arch != parent);
        let least = others().map(distance).min();
        others().filter(|arch| Some(distance(arch)) == least).collect()
    }
}

impl ChoiceSpace for Rows<'_> {
    fn name(&self) -> &str {
        self.space.name()
    }

    fn decisions(&self) -> Vec<u16> {
        self.space.decisions()
    }

    fn validate(&self, arch: &Architecture) -> Result<(), InvalidArchitecture> {
        self.space.validate(arch)?;
        let wrong = || self.invalid(arch, format!("none of the {} of the table", self.archs.len()));
        self.known.contains(arch).then_some(()).ok_or_else(wrong)
    }

    fn sample(&self, rng: &mut ChaCha8Rng) -> Architecture {
        self.archs.choose(rng).expect("at least one").clone()
    }

    fn mutate(&self, parent: &Architecture, rng: &mut ChaCha8Rng) -> Architecture {
        let mutant = self.space.mutate(parent, rng);
        self.nearest(&mutant, parent).choose(rng).map_or_else(|| parent.clone(), |arch| (*arch).clone())
    }

    fn neighbors(&self, arch: &Architecture) -> Vec<Architecture> {
        self.nearest(arch, arch).into_iter().cloned().collect()
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
    use nas_datasets::rng::stream;

    use super::*;
    use crate::search::Searcher;
    use crate::search::goals::Goals;
    use crate::space::trial::{Budget, Outcome, Record};
    use crate::strategy::StrategyConfig;

    #[derive(Debug)]
    struct Digits;

    impl ChoiceSpace for Digits {
        fn name(&self) -> &str {
            "digits"
        }

        fn decisions(&self) -> Vec<u16> {
            vec![10; 8]
        }
    }

    #[test]
    fn every_strategy_searches_a_sparse_table_and_proposes_its_rows_alone() {
        let mut rng = stream(0, "rows", 0);
        let rows = Rows::new(&Digits, (0..40).map(|_| Digits.sample(&mut rng)).collect());
        for strategy in StrategyConfig::all() {
            let mut searcher = Searcher::new(&rows, &strategy, Goals::maximize("value"), Budget::default(), 0);
            for _ in 0..30 {
                let Some(trial) = searcher.ask() else { break };
                rows.validate(&trial.arch).unwrap_or_else(|error| panic!("{}: {error}", strategy.info().kind));
                let value = f64::from(trial.arch.choices().iter().sum::<u16>());
                let outcome = Outcome::Metrics([("value".to_string(), value)].into());
                searcher.tell(&Record { trial, outcome });
            }
        }
    }

    #[test]
    fn a_mutant_is_the_nearest_row() {
        let archs = ["0-0-0-0-0-0-0-0", "0-0-0-0-0-0-1-1", "9-9-9-9-9-9-9-9"].map(|arch| arch.parse().unwrap());
        let rows = Rows::new(&Digits, archs.to_vec());
        let mut rng = stream(0, "rows", 0);
        assert!((0..50).all(|_| rows.mutate(&archs[0], &mut rng) == archs[1]));
        assert_eq!(rows.neighbors(&archs[2]), archs[..2]);
        let error = rows.validate(&"0-0-0-0-0-0-0-1".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("none of the 3 of the table"), "{error}");
    }
}
