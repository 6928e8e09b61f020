//! Strategies against what their papers report.

use nas_datasets::rng::stream;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::search::Searcher;
use crate::search::goals::{Goal, Goals, Objective};
use crate::search::pareto::{Point, fronts, hypervolume};
use crate::space::InvalidArchitecture;
use crate::space::trial::{Budget, Outcome, Record, Values};
use crate::stats::{mean_and_deviation, normal_quantile};

/// Every list of choices is valid.
#[derive(Debug)]
struct Grid(Vec<u16>);

impl ChoiceSpace for Grid {
    fn name(&self) -> &str {
        "grid"
    }

    fn decisions(&self) -> Vec<u16> {
        self.0.clone()
    }

    fn validate(&self, _: &Architecture) -> Result<(), InvalidArchitecture> {
        Ok(())
    }
}

fn search(
    space: &Grid,
    strategy: &StrategyConfig,
    goals: Goals,
    num_trials: u64,
    seed: u64,
    mut evaluate: impl FnMut(&Architecture) -> Outcome,
) -> Vec<Record> {
    let mut searcher = Searcher::new(space, strategy, goals, Budget::default(), seed);
    let mut records = Vec::new();
    while (records.len() as u64) < num_trials
        && let Some(trial) = searcher.ask()
    {
        let outcome = evaluate(&trial.arch);
        let record = Record { trial, outcome };
        searcher.tell(&record);
        records.push(record);
    }
    records
}

fn values<const N: usize>(values: [(&str, f64); N]) -> Outcome {
    Outcome::Metrics(Values::from(values.map(|(name, value)| (name.to_string(), value))))
}

/// True ones of the architecture with the best noisy value, on the toy of Real et al. (arXiv 1802.01548).
fn one_max(strategy: &StrategyConfig, seed: u64) -> f64 {
    const NOISE: f64 = 0.01;
    let ones = |arch: &Architecture| f64::from(arch.choices().iter().sum::<u16>());
    let mut rng = stream(seed, "noise", 0);
    let noise = |rng: &mut ChaCha8Rng| NOISE * normal_quantile(rng.random_range(1e-12..1.0 - 1e-12));
    let evaluate = |arch: &Architecture| values([("value", ones(arch) / 100.0 + noise(&mut rng))]);
    let records = search(&Grid(vec![2; 100]), strategy, Goals::maximize("value"), 1000, seed, evaluate);
    let value = |record: &&Record| record.metric("value").unwrap();
    ones(&records.iter().max_by(|a, b| value(a).total_cmp(&value(b))).unwrap().trial.arch)
}

#[test]
fn regularized_evolution_solves_the_toy_of_its_paper() {
    // specs/strategies.md: 300 seeds, 1000 cycles, population 100, sample 10: 89.3 ± 2.1; random search 66.1 ± 2.0.
    const SEEDS: u64 = 60;
    let evolution = RegularizedEvolutionConfig { population_size: 100, sample_size: 10 };
    let cases = [
        (StrategyConfig::RegularizedEvolution(evolution), 89.3, 2.1),
        (StrategyConfig::Random(RandomConfig {}), 66.1, 2.0),
    ];
    for (strategy, expected, deviation) in cases {
        let found: Vec<f64> = (0..SEEDS).map(|seed| one_max(&strategy, seed)).collect();
        let (mean, _) = mean_and_deviation(&found);
        let error = deviation * (1.0 / SEEDS as f64 + 1.0f64 / 300.0).sqrt();
        assert!((mean - expected).abs() < 3.0 * error, "{}: {mean}, expected {expected}", strategy.info().kind);
    }
}

#[test]
fn nsga2_finds_the_front_of_zdt1() {
    // ZDT1 (Zitzler, Deb and Thiele 2000) on a grid: five variables in 21 steps. Its front is f2 = 1 - sqrt(f1).
    const STEPS: u16 = 21;
    let space = Grid(vec![STEPS; 5]);
    let x = |arch: &Architecture, i: usize| f64::from(arch.choices()[i]) / f64::from(STEPS - 1);
    let zdt1 = |arch: &Architecture| {
        let f1 = x(arch, 0);
        let g = 1.0 + 9.0 * (1..5).map(|i| x(arch, i)).sum::<f64>() / 4.0;
        (f1, g * (1.0 - (f1 / g).sqrt()))
    };
    let objective = |metric: &str| Objective { metric: metric.into(), goal: Goal::Minimize };
    let goals = Goals { objectives: vec![objective("f1"), objective("f2")], constraints: vec![] };
    let volume = |points: &[Point]| hypervolume(&points.iter().collect::<Vec<_>>(), &[-1.1, -1.1]);
    let front: Vec<Point> = (0..STEPS)
        .map(|step| f64::from(step) / f64::from(STEPS - 1))
        .map(|f1| Point::feasible(vec![-f1, -(1.0 - f1.sqrt())]))
        .collect();
    let found = |strategy: &StrategyConfig, seed| {
        let evaluate = |arch: &Architecture| {
            let (f1, f2) = zdt1(arch);
            values([("f1", f1), ("f2", f2)])
        };
        let records = search(&space, strategy, goals.clone(), 1000, seed, evaluate);
        let point = |record: &Record| Point::feasible(goals.observe(record).values.unwrap());
        let points: Vec<Point> = records.iter().map(point).collect();
        let best = fronts(&points.iter().collect::<Vec<_>>()).remove(0);
        volume(&best.into_iter().map(|i| points[i].clone()).collect::<Vec<_>>()) / volume(&front)
    };
    for seed in 0..5 {
        let nsga2 = found(&StrategyConfig::Nsga2(Nsga2Config::default()), seed);
        let random = found(&StrategyConfig::Random(RandomConfig {}), seed);
        assert!(nsga2 > 0.95 && nsga2 <= 1.0 && random < 0.7, "seed {seed}: {nsga2} of the volume, random {random}");
    }
}

/// Good where choices are small; one in seven fails.
fn with_failures(arch: &Architecture) -> Outcome {
    let sum: u16 = arch.choices().iter().sum();
    match sum % 7 {
        3 => Outcome::Failed("out of memory".into()),
        _ => values([("value", 1.0 - f64::from(sum) / 20.0)]),
    }
}

#[test]
fn every_strategy_is_a_function_of_the_seed_and_lives_with_failures() {
    let space = Grid(vec![5, 3, 4, 2, 5]);
    for strategy in StrategyConfig::all() {
        let run = |seed| search(&space, &strategy, Goals::maximize("value"), 60, seed, with_failures);
        let records = run(7);
        assert_eq!(records.len(), 60, "{strategy:?}");
        assert_eq!(records, run(7), "{strategy:?}");
        assert_ne!(records, run(8), "{strategy:?}");
    }
}

#[test]
fn replaying_the_log_restores_every_strategy() {
    let space = Grid(vec![5, 3, 4, 2, 5]);
    for strategy in StrategyConfig::all() {
        let records = search(&space, &strategy, Goals::maximize("value"), 60, 3, with_failures);
        let mut restored = Searcher::new(&space, &strategy, Goals::maximize("value"), Budget::default(), 3);
        for record in &records[..37] {
            restored.tell(record);
        }
        for record in &records[37..] {
            assert_eq!(restored.ask().as_ref(), Some(&record.trial), "{strategy:?}");
            restored.tell(record);
        }
    }
}

#[test]
fn parallel_workers_get_different_ids_and_every_strategy_goes_on() {
    let space = Grid(vec![5, 3, 4, 2, 5]);
    for strategy in StrategyConfig::all() {
        let mut searcher = Searcher::new(&space, &strategy, Goals::maximize("value"), Budget::default(), 0);
        let mut ended = 0;
        while ended < 100 {
            while searcher.running().len() < 3 && searcher.ask().is_some() {}
            // The youngest ends first.
            let trial = searcher.running().last().expect("a strategy proposes while nothing runs").clone();
            let outcome = with_failures(&trial.arch);
            searcher.tell(&Record { trial, outcome });
            ended += 1;
        }
    }
}

#[test]
fn every_strategy_is_read_by_the_name_that_it_gives_itself() {
    for strategy in StrategyConfig::all() {
        let json = serde_json::to_value(&strategy).unwrap();
        assert_eq!(json["kind"], strategy.info().kind);
        strategy.check().unwrap();
    }
}
