//! Every one-shot method on a toy whose best operators are known. In a binary of its own, one test at a time: the methods
//! draw from libtorch's generator, which all tests of a process share.

mod toy;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use nas_core::arch::Architecture;
use nas_core::one_shot::{DartsConfig, GdasConfig, OneShotConfig, Order, SnasConfig};
use nas_core::optim::{AdamConfig, Decay, Named, OptimizerConfig, Schedule, SgdConfig};
use nas_core::train::{all_variables, copy_into};
use toy::Search;

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn weights() -> OptimizerConfig {
    OptimizerConfig::Sgd(SgdConfig { lr: 0.02, momentum: 0.5, weight_decay: 0.0, nesterov: false })
}

fn arch(lr: f64) -> OptimizerConfig {
    OptimizerConfig::Adam(AdamConfig { lr, beta1: 0.5, ..Default::default() })
}

fn constant() -> Schedule {
    Schedule { warmup_steps: 0, decay: Decay::Constant }
}

/// Methods with rates for a toy of a few steps; other parameters are the methods' own.
fn methods() -> Vec<OneShotConfig> {
    let darts =
        |order| DartsConfig { order, weights: weights(), schedule: constant(), arch: arch(0.05), ..Default::default() };
    vec![
        OneShotConfig::Darts(darts(Order::First)),
        OneShotConfig::Darts(darts(Order::Second)),
        OneShotConfig::Snas(SnasConfig {
            weights: weights(),
            schedule: constant(),
            arch: arch(0.05),
            ..Default::default()
        }),
        OneShotConfig::Gdas(GdasConfig {
            weights: weights(),
            schedule: constant(),
            arch: arch(0.05),
            ..Default::default()
        }),
    ]
}

const STEPS: usize = 300;

fn found(config: &OneShotConfig) -> usize {
    let finds = |seed| {
        let mut search = Search::new(config, seed % 2 == 0, seed);
        search.run(0, STEPS, STEPS);
        search.method.derive().is_some_and(|arch| arch == search.best)
    };
    (0..10).filter(|seed| finds(*seed)).count()
}

#[test]
fn every_method_finds_the_best_operators_on_nine_of_ten_seeds_in_300_steps() {
    let _alone = alone();
    for config in methods() {
        let (found, kind) = (found(&config), config.info().kind);
        eprintln!("{kind}: {found} of 10");
        assert!(found >= 9, "{kind}: {found} of 10");
    }
}

#[test]
fn a_random_choice_does_not_find_them() {
    use nas_core::space::ChoiceSpace;
    let toy = toy::Toy { connections: false };
    let best = Architecture::new(vec![1; toy::EDGES]);
    let hits = (0..10).filter(|seed| toy.sample(&mut nas_datasets::rng::stream(*seed, "random", 0)) == best).count();
    assert!(hits <= 1, "{hits} of 10");
}

fn everything(search: &Search) -> Vec<Named> {
    let mut all = search.method.state().0;
    all.extend(all_variables(&search.vs));
    all.into_iter().map(|(name, tensor)| (name, tensor.detach().copy())).collect()
}

#[test]
fn a_resumed_search_has_the_bits_of_one_that_was_not_interrupted() {
    let _alone = alone();
    for (i, config) in methods().iter().enumerate() {
        let name = config.info().kind;
        let mut straight = Search::new(config, true, 3);
        straight.run(0, 40, 40);
        let stop = 7 + 5 * i % 29;
        let mut before = Search::new(config, true, 3);
        before.run(0, stop, 40);
        let (tensors, json) = before.method.state();
        let json = serde_json::from_str(&json.to_string()).unwrap();
        let mut saved: HashMap<String, tch::Tensor> = tensors.into_iter().map(|(n, t)| (n, t.copy())).collect();
        saved.extend(all_variables(&before.vs).into_iter().map(|(n, t)| (n, t.copy())));
        // Another seed's weights: what is not restored would show.
        let mut after = Search::new(config, true, 3);
        after.run(0, 3, 40);
        copy_into(&all_variables(&after.vs), &saved).unwrap();
        after.method.load_state(&saved, json).unwrap();
        after.run(stop, 40, 40);
        let (straight_all, after_all) = (everything(&straight), everything(&after));
        assert_eq!(straight_all.len(), after_all.len(), "{name}");
        for ((name_a, a), (_, b)) in straight_all.iter().zip(&after_all) {
            assert!(a.equal(b), "{name}: {name_a} differs");
        }
        assert_eq!(straight.method.state().1, after.method.state().1, "{name}");
        assert_eq!(straight.method.derive(), after.method.derive(), "{name}");
    }
}
