//! Every one-shot method on a toy whose best operators are known. In a binary of its own, one test at a time: the methods
//! draw from libtorch's generator, which all tests of a process share.

mod gradients;
mod toy;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use nas_core::nn::Shape;
use nas_core::one_shot::{
    AsngConfig, BignasConfig, CostOf, CostTermConfig, DartsConfig, DdpnasConfig, DrnasConfig, EnasConfig, FbnetConfig,
    GdasConfig, MdenasConfig, OneShotConfig, Order, PDartsConfig, PcDartsConfig, ProxylessNasConfig, RandomNasWsConfig,
    SnasConfig, SposConfig, extremes,
};
use nas_core::optim::{AdamConfig, Decay, Named, OptimizerConfig, Schedule, SgdConfig};
use nas_core::search::goals::{Constraint, Restricted};
use nas_core::space::{Architecture, SearchSpace};
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

/// Sets the fields that concern rates: a toy of a few steps needs larger ones.
macro_rules! quick {
    ($config:ident { $($field:ident: $value:expr),* }) => {
        $config { $($field: $value,)* weights: weights(), schedule: constant(), ..Default::default() }
    };
}

/// All methods, DARTS in both orders.
fn methods() -> Vec<OneShotConfig> {
    let second = OneShotConfig::Darts(quick!(DartsConfig { arch: arch(0.05), order: Order::Second }));
    OneShotConfig::all().into_iter().map(quick).chain([second]).collect()
}

/// A method at rates for the toy. They were chosen on other seeds than those that the test reports. What is not about rates is
/// the method's own.
fn quick(method: OneShotConfig) -> OneShotConfig {
    use OneShotConfig::*;
    let cost = CostTermConfig::LogPower { alpha: 1.0, beta: 0.1, reference: Some(2000.0), of: CostOf::Macs };
    match method {
        Darts(_) => Darts(quick!(DartsConfig { arch: arch(0.05) })),
        PcDarts(_) => PcDarts(quick!(PcDartsConfig { arch: arch(0.05) })),
        PDarts(_) => PDarts(quick!(PDartsConfig { arch: arch(0.05), keep: vec![3, 2] })),
        Snas(_) => Snas(quick!(SnasConfig { arch: arch(0.05) })),
        Gdas(_) => Gdas(quick!(GdasConfig { arch: arch(0.05) })),
        Drnas(_) => Drnas(quick!(DrnasConfig { arch: arch(0.05) })),
        ProxylessNas(_) => ProxylessNas(quick!(ProxylessNasConfig {
            arch: proxyless(0.1),
            arch_every: 1,
            arch_start_epoch: 2,
            cost: cost
        })),
        Fbnet(_) => Fbnet(quick!(FbnetConfig { arch: arch(0.05), arch_start_epoch: 2, cost: cost })),
        Enas(_) => Enas(quick!(EnasConfig { arch_start_epoch: 2, controller_lr: 0.02 })),
        Mdenas(_) => Mdenas(quick!(MdenasConfig { arch_start_epoch: 40, lr: 0.003 })),
        Ddpnas(_) => Ddpnas(quick!(DdpnasConfig { arch_start_epoch: 20, rounds: 20 })),
        Asng(_) => Asng(quick!(AsngConfig { arch_start_epoch: 10 })),
        Spos(_) => Spos(quick!(SposConfig { num_trials: 200 })),
        Bignas(_) => Bignas(quick!(BignasConfig { num_trials: 200 })),
        RandomNasWs(_) => RandomNasWs(quick!(RandomNasWsConfig { num_trials: 3000 })),
    }
}

fn proxyless(lr: f64) -> OptimizerConfig {
    OptimizerConfig::Adam(AdamConfig { lr, beta1: 0.0, ..Default::default() })
}

/// Steps within which a method has to find the best: 300; 600 for those that train one path per step, whose operators are
/// trained every fifth step; 1500 where moreover operators are compared by single samples.
fn steps(config: &OneShotConfig) -> usize {
    match config {
        OneShotConfig::Mdenas(_) | OneShotConfig::Ddpnas(_) => 1500,
        OneShotConfig::Asng(_) | OneShotConfig::Spos(_) | OneShotConfig::RandomNasWs(_) => 600,
        _ => 300,
    }
}

fn finds(config: &OneShotConfig, seed: u64) -> bool {
    // Edge weights on half of the seeds, and always where the method needs them.
    let connections = seed.is_multiple_of(2) || matches!(config, OneShotConfig::PcDarts(_));
    let mut search = Search::new(config, connections, seed);
    search.run(0, steps(config), steps(config));
    let found = match config.second_stage() {
        Some(stage) => search.second_stage(&stage),
        None => search.method.derive().unwrap(),
    };
    found == search.best
}

#[test]
fn every_method_finds_the_best_operators_on_nine_of_ten_seeds() {
    let _alone = alone();
    let mut failed = Vec::new();
    for config in methods() {
        let started = std::time::Instant::now();
        let (kind, found) = (config.info().kind, (10..20).filter(|seed| finds(&config, *seed)).count());
        eprintln!("{kind}: {found} of 10 in {:.1} s", started.elapsed().as_secs_f64());
        failed.extend((found < 9).then(|| format!("{kind}: {found} of 10")));
    }
    assert!(failed.is_empty(), "{}", failed.join(", "));
}

/// The toy within bounds of its multiply-adds.
fn within<T>(lower: f64, upper: f64, run: impl FnOnce(&Restricted) -> T) -> T {
    let toy = toy::Toy { connections: false };
    let bound = Constraint { metric: "macs".into(), lower: Some(lower), upper: Some(upper) };
    run(&Restricted::new(&toy, &[bound], &|arch| [("macs".into(), macs(arch))].into()).unwrap())
}

fn macs(arch: &Architecture) -> f64 {
    toy::Toy { connections: false }.cost(arch, Shape::new(1, 1, 1)).unwrap().macs as f64
}

/// By brute force over all 625 architectures: none that is as far inside is more probable.
#[test]
fn under_a_bound_the_most_probable_architecture_inside_is_found() {
    let _alone = alone();
    let config = OneShotConfig::Fbnet(quick!(FbnetConfig {}));
    let options = toy::OPS as u16;
    let all = || (0..options.pow(4)).map(|i| Architecture::new((0..4).map(|e| i / options.pow(e) % options).collect()));
    let (mut outside, mut inside) = (0, 0);
    for seed in 0..20 {
        let search = Search::new(&config, false, seed);
        let (_, mut raw) = search.method.arch_parameters().remove(0);
        let _ = tch::no_grad(|| raw.normal_(0.0, 1.0));
        let logits = Vec::<Vec<f64>>::try_from(&raw).unwrap();
        let score = |arch: &Architecture| {
            (0..).zip(arch.choices()).map(|(e, op): (usize, _)| logits[e][*op as usize]).sum::<f64>()
        };
        let plain = search.method.derive().unwrap();
        for (lower, upper) in [(0.0, 300.0), (0.0, 700.0), (900.0, 1600.0), (1300.0, 1600.0)] {
            let found = within(lower, upper, |space| search.method.derive_within(space)).unwrap();
            let cost = macs(&found);
            assert!((lower..=upper).contains(&cost), "{found}: {cost}, seed {seed}");
            if (lower..=upper).contains(&macs(&plain)) {
                inside += 1;
                assert_eq!(found, plain);
                continue;
            }
            outside += 1;
            let as_far = all().filter(|arch| if lower > 0.0 { macs(arch) >= cost } else { macs(arch) <= cost });
            let best = as_far.map(|arch| score(&arch)).fold(f64::NEG_INFINITY, f64::max);
            assert!((score(&found) - best).abs() < 1e-6, "{found}: {} and {best}, seed {seed}", score(&found));
        }
        // So narrow that most prices lead past it.
        let found = within(800.0, 800.0, |space| search.method.derive_within(space)).unwrap();
        assert_eq!(macs(&found), 800.0);
    }
    assert!(outside >= 10 && inside >= 10, "{outside} of the architectures are outside, {inside} inside");
}

#[test]
fn every_method_that_learns_probabilities_keeps_bounds() {
    let _alone = alone();
    let mut kept = Vec::new();
    for config in methods().into_iter().filter(|config| config.second_stage().is_none()) {
        let mut search = Search::new(&config, matches!(config, OneShotConfig::PcDarts(_)), 3);
        search.run(0, 50, 50);
        let plain = macs(&search.method.derive().unwrap());
        for (lower, upper) in [(0.0, plain - 1.0), (plain + 1.0, 1600.0)].into_iter().filter(|(low, up)| low <= up) {
            let found = within(lower, upper, |space| search.method.derive_within(space));
            let found = found.unwrap_or_else(|| panic!("{}: nothing from {lower} to {upper}", config.info().kind));
            assert!((lower..=upper).contains(&macs(&found)), "{}: {found}", config.info().kind);
        }
        kept.push(config.info().kind);
    }
    assert_eq!(kept.len(), 13, "{kept:?}");
}

#[test]
fn the_sandwich_is_made_of_the_networks_of_fewest_and_most_multiply_adds() {
    let toy = toy::Toy { connections: false };
    let [smallest, largest] = extremes(&toy, Shape::new(1, 1, 1)).unwrap();
    assert_eq!(smallest, Architecture::new(vec![0; toy::EDGES]));
    assert_eq!(largest, Architecture::new(vec![toy::OPS as u16 - 1; toy::EDGES]));
}

/// By FairNAS every operator of every edge is trained in every step; by uniform paths one is.
#[test]
fn fair_paths_train_every_operator_in_every_step() {
    let _alone = alone();
    let touched = |fair: bool| {
        let config = OneShotConfig::Spos(quick!(SposConfig { fair: fair }));
        let mut search = Search::new(&config, false, 5);
        let scales = |search: &Search| all_variables(&search.vs)[0].1.detach().copy();
        let before = scales(&search);
        search.run(0, 1, 1);
        let moved = (scales(&search) - before).ne(0.0).to_kind(tch::Kind::Int64);
        Vec::<i64>::try_from(moved.sum_dim_intlist(-1, false, tch::Kind::Int64)).unwrap()
    };
    // All but the operator that is zero, which has no gradient.
    assert_eq!(touched(true), vec![toy::OPS as i64 - 1; toy::EDGES]);
    assert!(touched(false).iter().all(|operators| *operators <= 1));
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
        // Other weights and states: what is not restored would show.
        let mut after = Search::new(config, true, 3);
        after.run(0, 3, 40);
        after.method.restore_form(&mut after.data, &json).unwrap();
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
