//! For every space: one-hot weights of the supernet are the derived network with the same weights, and candidates that are
//! not active do not count.

use nas_core::nn::Shape;
use nas_core::space::Architecture;
use nas_core::space::{Backbone, ChoiceSpace, SearchSpace};
use nas_core::task::TaskSpace;
use nas_core::train::all_variables;
use nas_datasets::rng::stream;
use rand::Rng;
use tch::nn::VarStore;
use tch::{Device, Kind};

use super::*;
use crate::cells::{CellForm, NetworkConfig, Share, Trunk};
use crate::mobile::{MobilePreset, Stage};
use crate::model::ModelConfig;

/// Chains of norms in training mode make single precision's rounding visible.
const CPU: (Kind, Device) = (Kind::Double, Device::Cpu);

fn images(side: i64) -> Tensor {
    let n = 2 * 3 * side * side;
    (Tensor::arange(n, CPU) * 0.37).sin().view([2, 3, side, side])
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

/// Gives the variables of `derived` the values of the supernet's that `source` names, and of them the input channels that it
/// lists. Scales and shifts of norms, which relaxed cells do not learn, keep their 1 and 0.
fn inherit(derived: &VarStore, supernet: &VarStore, source: impl Fn(&str) -> (String, Option<Vec<i64>>)) {
    let shared = supernet.variables();
    for (name, variable) in all_variables(derived) {
        let (from, channels) = source(&name);
        let Some(found) = shared.get(&from) else {
            assert!(variable.dim() == 1 && variable.requires_grad(), "{name}: the supernet has no {from}");
            continue;
        };
        let value = match channels {
            Some(channels) if found.size() != variable.size() => found.index_select(1, &Tensor::from_slice(&channels)),
            // A narrower layer has the first of the channels.
            _ => (0..).zip(variable.size()).fold(found.shallow_clone(), |found, (dim, n)| found.narrow(dim, 0, n)),
        };
        tch::no_grad(|| variable.shallow_clone().copy_(&value));
    }
}

/// Weights of 1 where `chosen` says so and 0 elsewhere.
fn one_hot(space: &dyn WeightSharing, chosen: &[Vec<(i64, i64)>]) -> Vec<Tensor> {
    let parameters = space.arch_parameters().into_iter().zip(chosen);
    let tensor = |(parameter, entries): (nas_core::space::ArchParameter, &Vec<(i64, i64)>)| {
        let weights = Tensor::zeros(&parameter.dims[..], CPU);
        entries.iter().for_each(|(row, column)| {
            let _ = weights.get(*row).get(*column).fill_(1.0);
        });
        weights
    };
    parameters.map(tensor).collect()
}

/// Random weights with random candidates left out: `Sampled` equals `Weights` with zeros.
fn assert_inactive_candidates_do_not_count(space: &dyn WeightSharing, supernet: &dyn Supernet, keep: f64, side: i64) {
    let mut rng = stream(1, "inactive", 0);
    let (mut weights, mut active) = (Vec::new(), Vec::new());
    for parameter in space.arch_parameters() {
        let n: i64 = parameter.dims.iter().product();
        let width = parameter.dims[parameter.dims.len() - 1];
        // The first option of a row stays, so that no row is empty.
        let flags: Vec<bool> = (0..n).map(|i| i % width == 0 || rng.random::<f64>() < keep).collect();
        let values: Vec<f64> = flags.iter().map(|flag| if *flag { rng.random() } else { 0.0 }).collect();
        weights.push(Tensor::from_slice(&values).view(&parameter.dims[..]));
        active.push(flags);
    }
    let last = |mixture| supernet.features(&images(side), mixture, Mode::train(0.0)).pop().unwrap();
    let all = last(Mixture::Weights(&weights));
    let sampled = last(Mixture::Sampled { weights: &weights, active: &active, skip_dropout: 0.0, undrawn: false });
    let difference = difference(&all, &sampled);
    assert!(difference < 1e-9 * f64::max(1.0, all.abs().max().double_value(&[])), "{}: {difference}", space.name());
}

/// Weights of operators that are not drawn are terms of their edges' maps, zero in value: the gradient is that of differences, and
/// on the first edge, whose source is the cell's input, also where `none` is drawn.
#[test]
fn undrawn_weights_of_nasbench201_have_the_gradient_of_their_sum() {
    let space = NasBench201Nets { channels: 4, cells: 1 };
    assert!(space.adds_undrawn() && !CellSpace::default().adds_undrawn());
    let mut vs = VarStore::new(Device::Cpu);
    let supernet = space.supernet(&VarBuilder::new(&vs));
    vs.double();
    let drawn = [0, 3, 1, 2, 0, 4];
    let hot: Vec<f64> = drawn.iter().flat_map(|op| (0..5).map(move |i| f64::from(u8::from(i == *op)))).collect();
    let active = [hot.iter().map(|value| *value > 0.0).collect::<Vec<_>>()];
    let weights = Tensor::from_slice(&hot).view([6, 5]).set_requires_grad(true);
    let (xs, up) = (images(16), (Tensor::arange(32, CPU) * 0.7).cos().view([2, 16, 1, 1]));
    let value = |weights: &Tensor, undrawn: bool| {
        let weights = [weights.shallow_clone()];
        let mixture = Mixture::Sampled { weights: &weights, active: &active, skip_dropout: 0.0, undrawn };
        let map = supernet.features(&xs, mixture, Mode::train(0.0)).pop().unwrap();
        (map.mean_dim([2i64, 3].as_slice(), true, None) * &up).sum(Kind::Double)
    };
    let (with, without) = (value(&weights, true), value(&weights, false));
    assert!((&with - &without).abs().double_value(&[]) < 1e-12);
    let gradient = Tensor::run_backward(&[with], &[&weights], false, false).remove(0);
    for (edge, op) in [(0, 1), (0, 4), (1, 0), (3, 4), (5, 0)] {
        let moved = |by: f64| {
            let weights = weights.detach().copy();
            let _ = weights.get(edge).get(op).fill_(by);
            value(&weights, true).double_value(&[])
        };
        let (found, expected) = (gradient.double_value(&[edge, op]), (moved(1e-5) - moved(-1e-5)) / 2e-5);
        assert!(
            (found - expected).abs() < 1e-4 * expected.abs().max(1e-3),
            "{edge}, {op}: {found}, expected {expected}"
        );
        assert!(expected.abs() > 1e-7, "{edge}, {op}");
    }
}

#[test]
fn one_hot_nasbench201_is_the_derived_network() {
    let space = NasBench201Nets { channels: 4, cells: 1 };
    let mut vs = VarStore::new(Device::Cpu);
    let supernet = space.supernet(&VarBuilder::new(&vs));
    vs.double();
    for arch in ["3-0-1-2-4-3", "1-0-0-3-0-2", "0-0-0-0-0-0"] {
        let arch: Architecture = arch.parse().unwrap();
        let mut derived = VarStore::new(Device::Cpu);
        let net = space.build(&VarBuilder::new(&derived), &arch).unwrap();
        derived.double();
        inherit(&derived, &vs, |name| {
            let mut parts: Vec<String> = name.split('.').map(String::from).collect();
            if parts.get(2).is_some_and(|part| part == "layers") {
                let edge: usize = parts[3].parse().unwrap();
                parts.insert(4, arch.choices()[edge].to_string());
            }
            (parts.join("."), None)
        });
        let chosen = arch.choices().iter().enumerate().map(|(edge, op)| (edge as i64, i64::from(*op))).collect();
        let weights = one_hot(&space, &[chosen]);
        assert_eq!(space.discretize(&weights), arch);
        let xs = images(8);
        let expected = net.features(&xs, Mode::train(0.0)).pop().unwrap();
        for mixture in [Mixture::Weights(&weights), Mixture::Path(&arch)] {
            let found = supernet.features(&xs, mixture, Mode::train(0.0)).pop().unwrap();
            assert!(difference(&found, &expected) < 1e-9, "{arch}: {}", difference(&found, &expected));
        }
    }
    assert_inactive_candidates_do_not_count(&space, supernet.as_ref(), 0.5, 8);
}

fn cell_space(form: CellForm, share: Share) -> CellSpace {
    CellSpace { form, share, layers: 4, channels: 4, partial_channels: 1, ..Default::default() }
}

/// Number of the edge from `state` into input `slot` of `node`.
fn edge_number(form: CellForm, node: usize, slot: usize, state: usize) -> usize {
    let first = node * (node + 3) / 2;
    match form {
        CellForm::Darts | CellForm::PcDarts => first + state,
        _ => 2 * first + slot * (2 + node) + state,
    }
}

fn assert_one_hot_cells(form: CellForm, share: Share, seed: u64) {
    let space = cell_space(form, share);
    let darts = matches!(form, CellForm::Darts | CellForm::PcDarts);
    let mut vs = VarStore::new(Device::Cpu);
    let supernet = space.supernet(&VarBuilder::new(&vs));
    vs.double();
    let arch = space.sample(&mut stream(seed, "one hot", 0));
    let genotype = space.genotype(&arch).unwrap();
    assert_eq!(space.architecture(&genotype).unwrap(), arch);
    let config = NetworkConfig { pool_norm: true, ..space.network(&arch).unwrap() };
    let mut derived = VarStore::new(Device::Cpu);
    let net = Trunk::new(&VarBuilder::new(&derived), &config).unwrap();
    derived.double();
    let places = config.frame().places();
    let cell = |layer: usize| genotype.cell(places[layer]).unwrap();
    inherit(&derived, &vs, |name| {
        let mut parts: Vec<String> = name.split('.').map(String::from).collect();
        if parts[0] != "cells" {
            return (name.to_string(), None);
        }
        let layer: usize = parts[1].parse().unwrap();
        if parts[2] == "nodes" {
            let [node, slot] = [3, 4].map(|i| parts[i].parse::<usize>().unwrap());
            let edge = cell(layer).nodes[node][slot];
            let number = edge_number(form, node, slot, edge.state);
            parts.splice(2..5, ["edges".to_string(), number.to_string(), edge.op.to_string()]);
            return (parts.join("."), None);
        }
        let before = if parts[2] == "preprocess_0" { layer.wrapping_sub(2) } else { layer.wrapping_sub(1) };
        let channels = places.get(before).map(|place| {
            let blocks = cell(before).concat.iter().map(|state| (state - 2) as i64 * place.channels);
            blocks.flat_map(|start| start..start + place.channels).collect()
        });
        (name.to_string(), channels)
    });
    let none = i64::from(darts);
    let mut chosen = vec![Vec::new(); space.arch_parameters().len()];
    let groups = genotype.cells.len();
    for (group, (_, cell)) in genotype.cells.iter().enumerate() {
        for (node, slot) in (0..cell.nodes.len()).flat_map(|node| [(node, 0), (node, 1)]) {
            let edge = cell.nodes[node][slot];
            let op = form.ops().iter().position(|op| *op == edge.op).unwrap() as i64;
            chosen[group].push((edge_number(form, node, slot, edge.state) as i64, none + op));
            if form != CellForm::Darts {
                let bank = if darts { node } else { 2 * node + slot };
                chosen[groups + group].push((bank as i64, edge.state as i64));
            }
        }
    }
    let weights = one_hot(&space, &chosen);
    assert_eq!(space.discretize(&weights), arch, "{form:?}");
    let xs = images(16);
    let expected = net.features(&xs, Mode::train(0.0)).pop().unwrap();
    let last = &places[3];
    let concat: Vec<i64> = cell(3)
        .concat
        .iter()
        .flat_map(|state| {
            let start = (*state as i64 - 2) * last.channels;
            start..start + last.channels
        })
        .collect();
    for mixture in [Mixture::Weights(&weights), Mixture::Path(&arch)] {
        let found = supernet.features(&xs, mixture, Mode::train(0.0)).pop().unwrap();
        let found = found.index_select(1, &Tensor::from_slice(&concat));
        assert!(difference(&found, &expected) < 1e-9, "{form:?} {share:?}: {}", difference(&found, &expected));
    }
    assert_inactive_candidates_do_not_count(&space, supernet.as_ref(), 0.3, 16);
}

#[test]
fn one_hot_darts_cells_are_the_derived_network() {
    assert_one_hot_cells(CellForm::Darts, Share::All, 0);
    assert_one_hot_cells(CellForm::Darts, Share::Stage, 1);
    assert_one_hot_cells(CellForm::PcDarts, Share::None, 2);
}

#[test]
fn one_hot_cells_of_nasnets_form_are_the_derived_network() {
    assert_one_hot_cells(CellForm::Enas, Share::All, 3);
    assert_one_hot_cells(CellForm::Amoebanet, Share::Stage, 4);
    assert_one_hot_cells(CellForm::Nasnet, Share::All, 5);
}

/// Identity on every edge: the part that is computed and the part that is not are put together and interleaved.
#[test]
fn partial_channels_pass_around_the_operators() {
    let space = CellSpace { partial_channels: 2, ..cell_space(CellForm::PcDarts, Share::All) };
    let mut vs = VarStore::new(Device::Cpu);
    let supernet = space.supernet(&VarBuilder::new(&vs));
    vs.double();
    let skip = 1 + CellForm::PcDarts.ops().iter().position(|op| *op == nas_core::nn::Op::SkipConnect).unwrap() as i64;
    let weights = |skip_weight: f64| {
        let shapes = space.arch_parameters();
        let weights: Vec<Tensor> = shapes.iter().map(|parameter| Tensor::zeros(&parameter.dims[..], CPU)).collect();
        for group in 0..2 {
            let _ = weights[group].select(1, skip).fill_(skip_weight);
            let _ = weights[2 + group].select(1, 0).fill_(1.0);
        }
        weights
    };
    let xs = images(8);
    let map = |weights: &[Tensor]| supernet.features(&xs, Mixture::Weights(weights), Mode::EVAL).remove(0);
    // Every node of the one cell of the first stage is the interleaved first input; without the operator its first half,
    // which lands on even channels, is zero.
    let (with, without) = (map(&weights(1.0)), map(&weights(0.0)));
    for channel in 0..16 {
        let [a, b] = [&with, &without].map(|map| map.select(1, channel));
        let zero = b.abs().max().double_value(&[]) == 0.0;
        assert_eq!(zero, channel % 2 == 0, "channel {channel}");
        assert_eq!(a == b, channel % 2 == 1, "channel {channel}");
    }
}

#[test]
fn one_hot_chains_are_the_derived_network() {
    let space = ChainSpace { layers: 6, channels: 4 };
    let mut vs = VarStore::new(Device::Cpu);
    let supernet = space.supernet(&VarBuilder::new(&vs));
    vs.double();
    let mut rng = stream(0, "chain", 0);
    for _ in 0..4 {
        let arch = space.sample(&mut rng);
        let mut derived = VarStore::new(Device::Cpu);
        let net = space.build(&VarBuilder::new(&derived), &arch).unwrap();
        derived.double();
        let mut chosen = vec![Vec::new(), Vec::new()];
        let mut ops = Vec::new();
        let mut choices = arch.choices().iter().map(|choice| i64::from(*choice));
        for to in 0..6 {
            ops.push(choices.next().unwrap() as usize);
            chosen[0].push((to, ops[to as usize] as i64));
            chosen[1].extend((0..to).map(|from| (to * (to - 1) / 2 + from, choices.next().unwrap())));
        }
        let names = ["conv_3x3", "conv_5x5", "sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3"];
        inherit(&derived, &vs, |name| {
            let parts: Vec<&str> = name.split('.').collect();
            match parts[2] {
                "op" => {
                    let op = names[ops[parts[1].parse::<usize>().unwrap()]];
                    (format!("layers.{}.ops.{op}.{}", parts[1], parts[3..].join(".")), None)
                }
                _ => (name.to_string(), None),
            }
        });
        let weights = one_hot(&space, &chosen);
        assert_eq!(space.discretize(&weights), arch);
        let xs = images(16);
        let maps = net.features(&xs, Mode::train(0.0));
        let (parts, shapes) = net.cost_parts(Shape::new(3, 16, 16));
        for (map, shape) in maps.iter().zip(&shapes) {
            assert_eq!(map.size(), [2, shape.c, shape.h, shape.w]);
        }
        let allocated: usize = derived.trainable_variables().iter().map(Tensor::numel).sum();
        assert_eq!(parts.iter().map(|(_, cost)| cost.params).sum::<u64>(), allocated as u64);
        for mixture in [Mixture::Weights(&weights), Mixture::Path(&arch)] {
            let found = supernet.features(&xs, mixture, Mode::train(0.0)).pop().unwrap();
            assert!(difference(&found, &maps[2]) < 1e-9, "{arch}: {}", difference(&found, &maps[2]));
        }
    }
    assert_inactive_candidates_do_not_count(&space, supernet.as_ref(), 0.5, 16);
}

fn stage(channels: &[i64], layers: usize, stride: i64, shared: bool) -> Stage {
    Stage {
        channels: channels.to_vec(),
        layers,
        stride,
        kernels: vec![3, 5],
        expansions: vec![2, 3],
        squeeze: vec![false, true],
        activations: vec![nas_core::nn::Activation::Relu, nas_core::nn::Activation::Hswish],
        skip: true,
        shared,
    }
}

fn assert_one_hot_mobile(stages: Vec<Stage>, additive: bool) {
    let space = MobileSpace { preset: MobilePreset::Tiny, stages, last: 24, ..Default::default() };
    space.check().unwrap();
    let mut vs = VarStore::new(Device::Cpu);
    let supernet = space.supernet(&VarBuilder::new(&vs));
    vs.double();
    let leaders = [0, if space.stages[0].shared { 0 } else { 1 }, 2, 3, 4];
    let mut rng = stream(0, "mobile", 0);
    for _ in 0..4 {
        let arch = space.sample(&mut rng);
        let choice = |layer: usize| arch.choices()[layer];
        let mut derived = VarStore::new(Device::Cpu);
        let net = space.build(&VarBuilder::new(&derived), &arch).unwrap();
        derived.double();
        // A layer after a stage's first has a last choice that leaves it out.
        let options = space.decisions();
        let present: Vec<usize> = (0..5).filter(|l| [0, 2].contains(l) || choice(*l) + 1 < options[*l]).collect();
        inherit(&derived, &vs, |name| {
            let (index, rest) = name.strip_prefix("features.").unwrap().split_once('.').unwrap();
            let index: usize = index.parse().unwrap();
            match index {
                0 => (format!("features.stem.{rest}"), None),
                index if index > present.len() => (format!("features.last.{rest}"), None),
                index => {
                    let layer = present[index - 1];
                    (format!("layers.{layer}.{}.{rest}", choice(leaders[layer])), None)
                }
            }
        });
        let rows = |choices: &[u16]| (0..).zip(choices).map(|(row, i)| (row, i64::from(*i))).collect();
        let (layers, widths) = arch.choices().split_at(5);
        let weights = one_hot(&space, &[rows(layers), rows(widths)]);
        assert_eq!(space.discretize(&weights), arch);
        let xs = images(16);
        let expected = net.features(&xs, Mode::train(0.0)).pop().unwrap();
        for mixture in [Mixture::Weights(&weights), Mixture::Path(&arch)] {
            let found = supernet.features(&xs, mixture, Mode::train(0.0)).pop().unwrap();
            assert!(difference(&found, &expected) < 1e-9, "{arch}: {}", difference(&found, &expected));
        }
        let input = Shape::new(3, 32, 32);
        let table = space.macs_table(input);
        assert_eq!(table.is_some(), additive);
        if let Some((fixed, table)) = table {
            let sum: f64 =
                layers.iter().enumerate().map(|(l, i)| table[0][l * table[0].len() / 5 + usize::from(*i)]).sum();
            assert_eq!(fixed + sum as u64, space.cost(&arch, input).unwrap().macs);
        }
    }
    assert_inactive_candidates_do_not_count(&space, supernet.as_ref(), 0.5, 16);
}

#[test]
fn one_hot_mobile_blocks_are_the_derived_network() {
    assert_one_hot_mobile(vec![stage(&[8], 2, 1, false), stage(&[12], 3, 2, false)], true);
}

#[test]
fn one_hot_widths_and_shared_blocks_are_the_derived_network() {
    assert_one_hot_mobile(vec![stage(&[8, 4], 2, 1, true), stage(&[8, 12, 16], 3, 2, false)], false);
}

#[test]
fn tables_of_multiply_adds_add_up_to_the_cost() {
    let input = Shape::new(3, 32, 32);
    let mut rng = stream(0, "table", 0);
    let darts = CellSpace { layers: 6, channels: 8, ..Default::default() };
    let nasbench = NasBench201Nets::default();
    for _ in 0..5 {
        let arch = nasbench.sample(&mut rng);
        let (fixed, table) = nasbench.macs_table(input).unwrap();
        let sum: f64 = arch.choices().iter().enumerate().map(|(edge, op)| table[0][edge * 5 + usize::from(*op)]).sum();
        assert_eq!(fixed + sum as u64, nasbench.cost(&arch, input).unwrap().macs);
        let arch = darts.sample(&mut rng);
        let (fixed, table) = darts.macs_table(input).unwrap();
        let cells = darts.genotype(&arch).unwrap().cells;
        let edges = cells.iter().enumerate().flat_map(|(group, (_, cell))| {
            let nodes = cell.nodes.iter().enumerate();
            nodes.flat_map(move |(node, edges)| edges.map(|edge| (group, node, edge)))
        });
        let entry = |(group, node, edge): (usize, usize, crate::cells::Edge)| {
            let op = CellForm::Darts.ops().iter().position(|op| *op == edge.op).unwrap();
            table[group][edge_number(CellForm::Darts, node, 0, edge.state) * 8 + 1 + op]
        };
        assert_eq!(fixed + edges.map(entry).sum::<f64>() as u64, darts.cost(&arch, input).unwrap().macs);
    }
}

#[test]
fn configs_build_classify_and_derive() {
    let parse = |text: &str| serde_json::from_str::<SpaceConfig>(text).unwrap();
    for text in [
        r#"{"kind": "nasbench201", "channels": 4, "cells": 1}"#,
        r#"{"kind": "cells", "layers": 3, "channels": 4}"#,
        r#"{"kind": "cells", "form": "pc_darts", "layers": 3, "channels": 4}"#,
        r#"{"kind": "cells", "form": "enas", "layers": 3, "channels": 4, "share": "none"}"#,
        r#"{"kind": "chain", "layers": 3, "channels": 4}"#,
        r#"{"kind": "mobile", "preset": "tiny"}"#,
        r#"{"kind": "mobile", "preset": "mnasnet"}"#,
    ] {
        let config = parse(text);
        let space = config.build().unwrap();
        let mut vs = VarStore::new(Device::Cpu);
        let net = SearchNet::new(&VarBuilder::new(&vs), space.as_ref(), 10);
        vs.double();
        let arch = space.sample(&mut stream(0, "configs", 0));
        assert_eq!(net.forward(&images(16), Mixture::Path(&arch), Mode::EVAL).size(), [2, 10], "{text}");
        let derived = config.derive(None, &arch).unwrap();
        let read: ModelConfig = serde_json::from_value(serde_json::to_value(&derived).unwrap()).unwrap();
        assert_eq!(read, derived);
        assert_eq!(derived.clone().with_arch(arch.clone()).unwrap(), derived, "{text}");
        let net = derived.build(&VarBuilder::dry(), 10).unwrap();
        let trunk = space.cost(&arch, Shape::new(3, 16, 16)).unwrap();
        assert!(net.cost(Shape::new(3, 16, 16)).params > trunk.params, "{text}");
    }
    let error = |text: &str| parse(text).build().unwrap_err().to_string();
    assert!(error(r#"{"kind": "cells", "form": "pc_darts", "channels": 6}"#).contains("partial_channels"));
    assert!(error(r#"{"kind": "cells", "layers": 1}"#).contains("space.layers = 1: expected 3 to 100"));
}

#[test]
fn p_darts_derives_at_most_two_identities_in_a_normal_cell() {
    use nas_core::one_shot::{OneShotConfig, PDartsConfig, Problem};
    use std::rc::Rc;
    let space = CellSpace { layers: 3, channels: 4, ..Default::default() };
    let input = Shape::new(3, 16, 16);
    let method = |config: PDartsConfig, space: &CellSpace| {
        let space: Rc<dyn WeightSharing> = Rc::new(space.clone());
        OneShotConfig::PDarts(config).build(Problem {
            space,
            weights: Vec::new(),
            input,
            latency: None,
            amp: false,
            seed: 0,
        })
    };
    let search = method(PDartsConfig::default(), &space).unwrap();
    // Identities lead everywhere, the later the edge the more; 5x5 separable convolutions follow.
    let ops = CellForm::Darts.ops();
    let column = |op| 1 + ops.iter().position(|known| *known == op).unwrap() as i64;
    let [skip, second] = [nas_core::nn::Op::SkipConnect, nas_core::nn::Op::SepConv5x5].map(column);
    let ramp = Tensor::arange(14, CPU) * 0.1;
    tch::no_grad(|| {
        for (_, raw) in search.arch_parameters() {
            raw.select(1, skip).copy_(&(&ramp + 3.0));
            let _ = raw.select(1, second).fill_(1.0);
        }
    });
    let genotype = space.genotype(&search.derive().unwrap()).unwrap();
    let identities = |cell: usize| {
        let edges =
            genotype.cells[cell].1.nodes.iter().enumerate().flat_map(|(n, node)| node.iter().map(move |e| (n, e)));
        edges.filter(|(_, e)| e.op == nas_core::nn::Op::SkipConnect).map(|(n, e)| (n, e.state)).collect::<Vec<_>>()
    };
    assert_eq!(identities(0), [(3, 3), (3, 4)], "those of the largest weights");
    assert_eq!(identities(1).len(), 8, "reductions have no limit");
    // A stage of a depth that no network has, a structure for each cell, and a space without layers.
    let refused = |config, space: &CellSpace| method(config, space).err().unwrap().to_string();
    let shallow = PDartsConfig { layers: vec![5, 2, 7], ..Default::default() };
    assert!(refused(shallow, &space).contains("method.layers = 2"));
    let each = CellSpace { share: Share::None, ..space.clone() };
    assert!(refused(PDartsConfig::default(), &each).contains("does not have the same choices at method.layers = 5"));
    let nasbench = OneShotConfig::PDarts(PDartsConfig::default());
    assert!(nasbench.check(&NasBench201Nets::default(), input).is_err());
    let unequal = PDartsConfig { keep: vec![5], ..Default::default() };
    assert!(refused(unequal, &space).contains("expected 2 numbers in keep, found 1"));
}

/// Dropout behind identities changes a training pass that has identities, and no other.
#[test]
fn dropout_of_identities_is_on_identities_of_training_passes() {
    let space = CellSpace { layers: 3, channels: 4, ..Default::default() };
    let mut vs = VarStore::new(Device::Cpu);
    let supernet = space.supernet(&VarBuilder::new(&vs));
    vs.double();
    let weights: Vec<Tensor> = space.arch_parameters().iter().map(|p| Tensor::full(&p.dims[..], 0.125, CPU)).collect();
    let skip = 1 + CellForm::Darts.ops().iter().position(|op| *op == nas_core::nn::Op::SkipConnect).unwrap();
    let map = |skips: bool, skip_dropout: f64, mode: Mode| {
        let active: Vec<Vec<bool>> =
            weights.iter().map(|w| (0..w.numel()).map(|i| skips || i % 8 != skip).collect()).collect();
        supernet
            .features(
                &images(16),
                Mixture::Sampled { weights: &weights, active: &active, skip_dropout, undrawn: false },
                mode,
            )
            .remove(0)
    };
    let train = Mode::train(0.0);
    assert!(difference(&map(true, 0.5, train), &map(true, 0.0, train)) > 1e-3);
    assert_eq!(map(false, 0.5, train), map(false, 0.0, train));
    assert_eq!(map(true, 0.5, Mode::EVAL), map(true, 0.0, Mode::EVAL));
}
