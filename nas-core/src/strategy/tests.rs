//! Strategies against what their papers report.

use nas_datasets::rng::stream;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::search::Searcher;
use crate::search::goals::{Constraint, Goal, Goals, Objective};
use crate::search::pareto::{Point, fronts, hypervolume};
use crate::search::start::Start;
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
fn one_max(strategy: &StrategyConfig, num_trials: u64, seed: u64) -> f64 {
    const NOISE: f64 = 0.01;
    let ones = |arch: &Architecture| f64::from(arch.choices().iter().sum::<u16>());
    let mut rng = stream(seed, "noise", 0);
    let noise = |rng: &mut ChaCha8Rng| NOISE * normal_quantile(rng.random_range(1e-12..1.0 - 1e-12));
    let evaluate = |arch: &Architecture| values([("value", ones(arch) / 100.0 + noise(&mut rng))]);
    let records = search(&Grid(vec![2; 100]), strategy, Goals::maximize("value"), num_trials, seed, evaluate);
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
        let found: Vec<f64> = (0..SEEDS).map(|seed| one_max(&strategy, 1000, seed)).collect();
        let (mean, _) = mean_and_deviation(&found);
        let error = deviation * (1.0 / SEEDS as f64 + 1.0f64 / 300.0).sqrt();
        assert!((mean - expected).abs() < 3.0 * error, "{}: {mean}, expected {expected}", strategy.info().kind);
    }
}

#[test]
fn in_wide_spaces_a_process_needs_candidates_around_the_most_promising() {
    let found = |climbs| {
        let process = GaussianProcessConfig { climbs, ..Default::default() };
        let found: Vec<f64> =
            (0..4).map(|seed| one_max(&StrategyConfig::GaussianProcess(process.clone()), 80, seed)).collect();
        mean_and_deviation(&found).0
    };
    let [without, with] = [0, 3].map(found);
    assert!(with > without + 5.0, "{with} ones of 100, {without} without");
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

/// Large where choices are large, but what costs more than half of the most does not run at all.
fn bounded(arch: &Architecture) -> Outcome {
    let sum = |choices: &[u16]| f64::from(choices.iter().sum::<u16>());
    let value = ("value", sum(arch.choices()) / 24.0);
    let cost = sum(&arch.choices()[..3]);
    if cost > 9.0 { values([value]) } else { values([value, ("latency", cost)]) }
}

/// The best value among trials of a latency of at most 4, which 40 % of the architectures have.
#[test]
fn every_strategy_keeps_a_bound_on_a_measured_metric_and_beats_random_search_under_it() {
    const SEEDS: u64 = 40;
    let space = Grid(vec![5; 6]);
    let mut goals = Goals::maximize("value");
    goals.constraints.push(Constraint { metric: "latency".into(), upper: Some(4.0), lower: None });
    let run = |strategy: &StrategyConfig, seed| {
        let records = search(&space, strategy, goals.clone(), 150, seed, bounded);
        let observed: Vec<Observation> = records.iter().map(|record| goals.observe(record)).collect();
        let feasible: Vec<&Observation> = observed.iter().filter(|o| o.violation == 0.0).collect();
        let best = feasible.iter().filter_map(|o| o.value()).fold(0.0, f64::max);
        (best, feasible.len() as f64 / records.len() as f64)
    };
    let mean = |strategy: &StrategyConfig, seeds: u64| {
        let runs: Vec<(f64, f64)> = (0..seeds).map(|seed| run(strategy, seed)).collect();
        let of = |values: Vec<f64>| mean_and_deviation(&values).0;
        (of(runs.iter().map(|run| run.0).collect()), of(runs.iter().map(|run| run.1).collect()))
    };
    let random = mean(&StrategyConfig::Random(RandomConfig {}), SEEDS);
    for strategy in StrategyConfig::all() {
        let info = strategy.info();
        assert!(info.measured_constraints, "{}", info.kind);
        let slow = matches!(strategy, StrategyConfig::Bananas(_) | StrategyConfig::GaussianProcess(_));
        let found = mean(&strategy, if slow { 2 } else { SEEDS });
        let is_random = matches!(strategy, StrategyConfig::Random(_));
        // Halving spends most trials on architectures at few epochs; they are compared by their bound like the others.
        let beats = is_random || info.multi_fidelity || (found.0 > random.0 && found.1 > 1.1 * random.1);
        assert!(beats, "{}: {found:?}, random search {random:?}", info.kind);
    }
}

/// f1 is to be large and f2 small; a trial of few epochs sees both through noise that more epochs take away.
fn two_objectives(trial: &crate::space::trial::Trial) -> Outcome {
    let choices = trial.arch.choices();
    let x = |range: std::ops::Range<usize>| {
        f64::from(choices[range.clone()].iter().sum::<u16>()) / (9.0 * range.len() as f64)
    };
    let waste = x(3..6);
    let mut rng = stream(u64::from(choices.iter().fold(0u32, |hash, c| hash * 10 + u32::from(*c))), "noise", 0);
    let noise = 0.1 / f64::from(trial.budget.epochs.unwrap_or(27));
    let mut noisy = |value: f64| value + noise * rng.random_range(-1.0..1.0);
    values([("f1", noisy(x(0..3) - waste)), ("f2", noisy(x(0..3).powi(2) + waste))])
}

#[test]
fn halving_promotes_by_domination_and_beats_random_search_at_equal_cost() {
    let space = Grid(vec![10; 6]);
    let objective = |metric: &str, goal| Objective { metric: metric.into(), goal };
    let objectives = vec![objective("f1", Goal::Maximize), objective("f2", Goal::Minimize)];
    let goals = Goals { objectives, constraints: vec![] };
    let rungs = HyperbandConfig { min_epochs: 1, max_epochs: 27, eta: 3.0 };
    let volume = |strategy: &StrategyConfig, seed| {
        let mut searcher = Searcher::new(&space, strategy, goals.clone(), Budget::default(), seed);
        let (mut epochs, mut points) = (0, Vec::new());
        while epochs < 27 * 40 {
            let trial = searcher.ask().unwrap();
            let full = trial.budget.epochs.unwrap_or(27);
            epochs += full - if trial.parent.is_some() { full / 3 } else { 0 };
            let record = Record { outcome: two_objectives(&trial), trial };
            if full == 27 {
                points.push(Point::feasible(goals.observe(&record).values.unwrap()));
            }
            searcher.tell(&record);
        }
        hypervolume(&points.iter().collect::<Vec<_>>(), &[-1.0, -2.0])
    };
    let mean =
        |strategy: &StrategyConfig| mean_and_deviation(&(0..40).map(|seed| volume(strategy, seed)).collect::<Vec<_>>());
    let (random, deviation) = mean(&StrategyConfig::Random(RandomConfig {}));
    let strategies = [
        StrategyConfig::SuccessiveHalving(SuccessiveHalvingConfig(rungs.clone())),
        StrategyConfig::Hyperband(rungs.clone()),
        StrategyConfig::Asha(AshaConfig(rungs)),
    ];
    for strategy in strategies {
        let info = strategy.info();
        assert!(info.multi_objective, "{}", info.kind);
        let (found, other) = mean(&strategy);
        let error = ((deviation.powi(2) + other.powi(2)) / 40.0).sqrt();
        assert!(found > random + 3.0 * error, "{}: {found}, random search {random} + 3 x {error}", info.kind);
    }
}

#[test]
fn every_strategy_learns_from_trials_that_it_did_not_propose_and_is_restored_with_them() {
    let space = Grid(vec![5, 3, 4, 2, 5]);
    let goals = Goals::maximize("value");
    let archs = |seed| -> Vec<Architecture> {
        let mut rng = stream(seed, "archs", 0);
        (0..25).map(|_| space.sample(&mut rng)).collect()
    };
    let earlier = |(id, arch): (u64, Architecture)| {
        let outcome = with_failures(&arch);
        let trial = crate::space::trial::Trial { id, arch, budget: Budget::default(), parent: None };
        Observation { origin: Origin::Earlier, ..goals.observe(&Record { trial, outcome }) }
    };
    let earlier: Vec<Observation> = (1000..).zip(archs(0)).map(earlier).collect();
    for strategy in StrategyConfig::all() {
        for (given, earlier) in
            [(archs(1), vec![]), (vec![], earlier.clone()), (archs(1)[..3].to_vec(), earlier.clone())]
        {
            let start = Start { given: given.clone(), earlier };
            let fresh = || Searcher::new(&space, &strategy, goals.clone(), Budget::default(), 5).starting_from(&start);
            let mut searcher = fresh();
            let mut records = Vec::new();
            while records.len() < 70 {
                // Three workers, whose trials do not end in their order.
                while searcher.running().len() < 3 && searcher.ask().is_some() {}
                let trial = searcher.running()[records.len() % searcher.running().len()].clone();
                let record = Record { outcome: with_failures(&trial.arch), trial };
                searcher.tell(&record);
                records.push(record);
            }
            let mut by_id = records.clone();
            by_id.sort_by_key(|record| record.trial.id);
            let first: Vec<&Architecture> = by_id.iter().map(|record| &record.trial.arch).take(given.len()).collect();
            assert_eq!(first, given.iter().collect::<Vec<_>>(), "{strategy:?}");
            // A process that dies after any number of trials goes on in the same way.
            let mut restored = fresh();
            for (i, record) in records.iter().enumerate() {
                while restored.running().len() < 3 && restored.ask().is_some() {}
                let there = restored.running().iter().find(|trial| trial.id == record.trial.id);
                assert_eq!(there, Some(&record.trial), "{strategy:?}, record {i}");
                restored.tell(record);
            }
        }
    }
}

#[test]
fn an_earlier_search_makes_strategies_that_learn_better() {
    let space = Grid(vec![2; 40]);
    let ones = |arch: &Architecture| values([("value", f64::from(arch.choices().iter().sum::<u16>()))]);
    let evolution = StrategyConfig::RegularizedEvolution(Default::default());
    let records = search(&space, &evolution, Goals::maximize("value"), 300, 0, ones);
    let observe = |record: &Record| Observation { origin: Origin::Earlier, ..Goals::maximize("value").observe(record) };
    let start = Start { given: Vec::new(), earlier: records.iter().map(observe).collect() };
    for kind in
        ["regularized_evolution", "genetic", "nsga2", "tpe", "sng", "reinforce", "local_search", "gaussian_process"]
    {
        let strategy: StrategyConfig = serde_json::from_value(serde_json::json!({ "kind": kind })).unwrap();
        let first = |start: &Start| {
            let mut searcher =
                Searcher::new(&space, &strategy, Goals::maximize("value"), Budget::default(), 1).starting_from(start);
            let archs =
                (0..8).map_while(|_| searcher.ask()).map(|trial| f64::from(trial.arch.choices().iter().sum::<u16>()));
            mean_and_deviation(&archs.collect::<Vec<_>>()).0
        };
        let (with, without) = (first(&start), first(&Start::default()));
        assert!(with > without + 2.0, "{kind}: {with} ones with an earlier search, {without} without");
    }
}
