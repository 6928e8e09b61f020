use nas_core::optim::gradients;
use nas_core::space::Architecture;
use nas_core::space::{ArchParameter, ChoiceSpace, WeightSharing};
use nas_core::train::{all_variables, copy_into};
use std::collections::HashMap;
use tch::nn::VarStore;

use super::*;
use crate::auto_deeplab::decode::target;
use crate::auto_deeplab::{AutoDeepLabConfig, Network, Wiring};
use nas_core::space::Backbone;

fn tiny(layers: usize, blocks: usize) -> AutoDeepLabSpace {
    AutoDeepLabSpace { layers, blocks, filters: 4, stem: [4, 4, 8], ..Default::default() }
}

fn images(size: i64) -> Tensor {
    tch::manual_seed(5);
    Tensor::randn([2, 3, size, size], (Kind::Float, Device::Cpu))
}

fn parameters(space: &AutoDeepLabSpace, scale: f64) -> Vec<Tensor> {
    tch::manual_seed(11);
    let random = |parameter: ArchParameter| Tensor::randn(parameter.dims, (Kind::Float, Device::Cpu)) * scale;
    space.arch_parameters().into_iter().map(random).collect()
}

/// The variables of the derived network, cut out of the supernet's.
fn inherited(supernet: &VarStore, space: &AutoDeepLabSpace, arch: &Architecture) -> HashMap<String, Tensor> {
    let genotype = space.genotype(arch).unwrap();
    let mut derived = HashMap::new();
    let shared = supernet.variables();
    let mut take = |from: String, to: String, part: Option<(i64, i64)>| {
        for (name, tensor) in shared.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(&from)?, tensor))) {
            let tensor = match part {
                Some((start, length)) => tensor.narrow(0, start, length),
                None => tensor.shallow_clone(),
            };
            derived.insert(format!("{to}{name}"), tensor);
        }
    };
    take("stem.".into(), "stem.".into(), None);
    let mut from = 0;
    for (layer, level) in genotype.path.iter().enumerate() {
        let node = format!("layers.{layer}.{level}");
        let cell = format!("cells.{layer}");
        take(format!("{node}.from.{from}."), format!("{cell}.preprocess.0."), None);
        take(format!("{node}.before."), format!("{cell}.preprocess.1."), None);
        let channels = space.filters << level;
        for (block, inputs) in genotype.cell.iter().enumerate() {
            for (input, edge) in inputs.iter().enumerate() {
                let to = format!("{cell}.blocks.{block}.{input}.");
                let start = (block - edge.state.saturating_sub(1)) as i64 * channels;
                let (name, to, part) = match edge.op.to_string().as_str() {
                    pool @ ("max_pool_3x3" | "avg_pool_3x3") => (pool[..8].to_string(), format!("{to}bn."), None),
                    op => (op[..op.len() - 2].to_string(), to, Some((start, channels))),
                };
                take(format!("{node}.cells.0.{}.{name}.", edge.state), to, part);
            }
        }
        from = *level;
    }
    derived
}

fn derived(space: &AutoDeepLabSpace, arch: &Architecture, supernet: &VarStore) -> (VarStore, Network) {
    let vs = VarStore::new(Device::Cpu);
    let bn = BnConfig { momentum: 0.1, eps: 1e-5, affine: true };
    let config = AutoDeepLabConfig {
        arch: arch.clone(),
        layers: space.layers,
        filters: space.filters,
        stem: space.stem,
        wiring: Wiring::Search,
        bn,
        ..Default::default()
    };
    let net = Network::new(&VarBuilder::new(&vs), &space.genotype(arch).unwrap(), &config);
    let saved = inherited(supernet, space, arch);
    // Cells of the supernet learn no scale and shift: the derived network keeps its initial 1 and 0.
    let learned = |name: &str| name.starts_with("cells") && (name.ends_with("bn.weight") || name.ends_with("bn.bias"));
    let variables: Vec<_> = all_variables(&vs).into_iter().filter(|(name, _)| !learned(name)).collect();
    copy_into(&variables, &saved).unwrap();
    (vs, net)
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

#[test]
fn one_path_of_the_supernet_is_the_derived_network() {
    let space = tiny(5, 3);
    let vs = VarStore::new(Device::Cpu);
    tch::manual_seed(1);
    let trellis = Trellis::new(&VarBuilder::new(&vs), &space);
    let mut rng = nas_datasets::rng::stream(0, "one path", 0);
    let images = images(65);
    for _ in 0..8 {
        let arch = space.sample(&mut rng);
        let (_vs, net) = derived(&space, &arch, &vs);
        let expected = &trellis.features(&images, Mixture::Path(&arch), Mode::train(0.5))[0].relu();
        let found = &net.features(&images, Mode::train(0.5))[1];
        assert!(difference(expected, found) < 1e-4, "{arch}: {}", difference(expected, found));
    }
}

/// Raw parameters of +-40 make probabilities of 1 and 0 to the last bit of f32. Nodes off the path send what they have to
/// coarser ones, away from those that the path looks back at.
#[test]
fn one_hot_alpha_and_beta_are_the_derived_network() {
    let space = tiny(4, 2);
    let vs = VarStore::new(Device::Cpu);
    tch::manual_seed(2);
    let trellis = Trellis::new(&VarBuilder::new(&vs), &space);
    let arch: Architecture = "0-1-1-0-0-4-1-7-1-1-2-3".parse().unwrap();
    let genotype = space.genotype(&arch).unwrap();
    let alpha = Tensor::full([space.num_edges(), 8].map(|n| n as i64), -40.0, (Kind::Float, Device::Cpu));
    for (edge, op) in [(0, 4), (1, 7), (3, 1), (4, 3)] {
        let _ = alpha.get(edge).get(op).fill_(40.0);
    }
    // The edge from state 0 to block 1 is not part of the cell.
    let _ = alpha.get(2).get(0).fill_(40.0);
    let beta = Tensor::full([space.layers as i64, 4, 3], -40.0, (Kind::Float, Device::Cpu));
    let mut on_path = 0;
    for (layer, to) in genotype.path.iter().enumerate() {
        for level in 0..LEVELS {
            let wanted = if level == on_path { vec![*to] } else { (0..LEVELS).filter(|other| other != to).collect() };
            let step =
                (0..3).rev().find(|step| target(level, *step).is_some_and(|target| wanted.contains(&target))).unwrap();
            let _ = beta.get(layer as i64).get(level as i64).get(step as i64).fill_(40.0);
        }
        on_path = *to;
    }
    let weights = space.softmax(&[alpha, beta]);
    assert_eq!(space.discretize(&weights), arch);
    let (_vs, net) = derived(&space, &arch, &vs);
    let images = images(65);
    let maps = trellis.features(&images, Mixture::Weights(&weights), Mode::train(0.5));
    let found = &net.features(&images, Mode::train(0.5))[1];
    assert!(difference(&maps[on_path].relu(), found) < 1e-4, "{}", difference(&maps[on_path].relu(), found));
}

/// Central differences in double precision, on every alpha and every beta that has an edge.
#[test]
fn gradients_of_alpha_and_beta_equal_finite_differences() {
    for share_cell_weights in [true, false] {
        let space = AutoDeepLabSpace { filters: 2, share_cell_weights, ..tiny(3, 2) };
        let mut vs = VarStore::new(Device::Cpu);
        tch::manual_seed(3);
        let net = SearchNet::new(&VarBuilder::new(&vs), &space, 3);
        vs.double();
        let images = images(33).to_kind(Kind::Double);
        let parameters: Vec<Tensor> =
            parameters(&space, 0.5).iter().map(|p| p.to_kind(Kind::Double).set_requires_grad(true)).collect();
        let weight = Tensor::randn([2, 3, 33, 33], (Kind::Double, Device::Cpu));
        let loss = |parameters: &[Tensor]| {
            let logits = net.forward(&images, Mixture::Weights(&space.softmax(parameters)), Mode::train(0.0));
            (logits * &weight).tanh().mean(Kind::Double)
        };
        let value = |parameters: &[Tensor]| tch::no_grad(|| loss(parameters).double_value(&[]));
        let named: Vec<_> = parameters.iter().map(|p| (String::new(), p.shallow_clone())).collect();
        let grads = gradients(&loss(&parameters), &named);
        let mut checked = 0;
        for (which, grad) in grads.iter().enumerate() {
            for i in 0..grad.numel() as i64 {
                let shifted = |offset: f64| {
                    let moved: Vec<Tensor> = parameters.iter().map(|p| p.detach().copy()).collect();
                    let _ = moved[which].view(-1).get(i).g_add_scalar_(offset);
                    value(&moved)
                };
                let numeric = |step: f64| (shifted(step) - shifted(-step)) / (2.0 * step);
                let analytic = grad.view(-1).double_value(&[i]);
                // Tests beside this one draw from the same generator: a rectifier's kink may lie within a step, hardly within both.
                let fits = |step: f64| (numeric(step) - analytic).abs() < 1e-7 + 1e-4 * analytic.abs();
                assert!(fits(1e-5) || fits(1e-7), "{which} {i}: {} {analytic}", numeric(1e-5));
                checked += usize::from(analytic != 0.0);
            }
        }
        // 5 edges of 8 operators, and betas of layers of 2, 5 and 8 edges.
        assert_eq!(checked, 5 * 8 + 15);
    }
}

#[test]
fn weights_of_every_node_that_exists_sum_to_one() {
    let space = AutoDeepLabSpace::default();
    let weights = space.softmax(&parameters(&space, 1.0));
    let Transitions::Soft(layers) = Transitions::soft(&weights[1]) else { panic!("soft") };
    for (layer, nodes) in layers.iter().enumerate() {
        let mut sums = [0.0; LEVELS];
        for (level, shares) in nodes.iter().enumerate() {
            let shares = Vec::<f64>::try_from(shares).unwrap();
            sources(layer, level).zip(shares).for_each(|(source, share)| sums[source] += share);
        }
        assert!(sums[..LEVELS.min(layer + 1)].iter().all(|sum| (sum - 1.0).abs() < 1e-6), "{layer}: {sums:?}");
    }
}

#[test]
fn the_mixed_operators_have_the_sizes_of_the_spec() {
    let weights = |share_cell_weights| -> usize {
        let space = AutoDeepLabSpace { share_cell_weights, ..Default::default() };
        let vs = VarStore::new(Device::Cpu);
        let _net = Trellis::new(&VarBuilder::new(&vs), &space);
        let cells = vs.variables().into_iter().filter(|(name, p)| name.contains(".cells.") && p.requires_grad());
        cells.map(|(_, p)| p.numel()).sum()
    };
    let millions = [true, false].map(|share| format!("{:.2}", weights(share) as f64 / 1e6));
    assert_eq!(millions, ["44.35", "93.96"]);
}
