use nas_core::space::Architecture;
use nas_core::space::ChoiceSpace;
use serde_json::json;
use tch::nn::VarStore;
use tch::{Device, Kind};

use super::*;

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

fn features() -> Vec<FeatureInfo> {
    [(6, 4), (10, 8), (12, 16), (14, 32)].map(|(channels, stride)| FeatureInfo { channels, stride }).into()
}

fn shapes((h, w): (i64, i64)) -> Vec<Shape> {
    let side = |n: i64, stride: i64| (n - 1) / stride + 1;
    features().iter().map(|info| Shape::new(info.channels, side(h, info.stride), side(w, info.stride))).collect()
}

fn maps(size: (i64, i64)) -> Vec<Tensor> {
    shapes(size).iter().map(|shape| Tensor::randn([2, shape.c, shape.h, shape.w], FLOAT)).collect()
}

fn build(config: &NeckConfig) -> (VarStore, Box<dyn Neck>) {
    let vs = VarStore::new(Device::Cpu);
    let neck = config.build(&VarBuilder::new(&vs), &features()).unwrap();
    (vs, neck)
}

fn fpn(levels: Levels, extra: ExtraInput) -> NeckConfig {
    NeckConfig::Fpn(FpnConfig { channels: 8, levels, extra })
}

fn all() -> Vec<NeckConfig> {
    let levels = |min, max| Levels { min, max };
    let bifpn = |levels: Levels, fusion, inputs| {
        let nodes = vec![BiFpnNode { fusion, inputs }; 2 * (levels.count() - 1)];
        NeckConfig::Bifpn(BiFpnConfig { channels: 8, levels, cells: 2, nodes, ..Default::default() })
    };
    let nas_fpn =
        |gate, pool| NeckConfig::NasFpn(NasFpnConfig { channels: 8, stacks: 2, gate, pool, ..Default::default() });
    vec![
        fpn(levels(3, 7), ExtraInput::P5),
        fpn(levels(2, 6), ExtraInput::C5),
        fpn(levels(3, 5), ExtraInput::P5),
        NeckConfig::Bifpn(BiFpnConfig { channels: 8, ..Default::default() }),
        bifpn(levels(3, 7), Fusion::Sum, NodeInputs::TopDown),
        bifpn(levels(2, 5), Fusion::Softmax, NodeInputs::Input),
        bifpn(levels(4, 6), Fusion::Fast, NodeInputs::Both),
        nas_fpn(Gate::Coarse, GatePool::Max),
        nas_fpn(Gate::Second, GatePool::Avg),
    ]
}

#[test]
fn every_neck_counts_what_it_allocates_and_gives_the_shapes_it_says() {
    for config in all() {
        let (vs, neck) = build(&config);
        for size in [(128, 256), (100, 75)] {
            if size.0 % config.divisor() != 0 {
                continue;
            }
            let outputs = neck.forward(&maps(size), Mode::train(0.0));
            let mut cost = Cost::default();
            let shapes = neck.cost(&shapes(size), &mut cost);
            assert_eq!(outputs.len(), config.levels().count());
            for ((ys, shape), stride) in outputs.iter().zip(&shapes).zip(config.levels().strides()) {
                assert_eq!(ys.size(), [2, shape.c, shape.h, shape.w], "{config:?}");
                assert_eq!((shape.c, shape.h), (8, (size.0 - 1) / stride + 1), "{config:?}");
            }
            let allocated: usize = vs.trainable_variables().iter().map(Tensor::numel).sum();
            assert_eq!(cost.params, allocated as u64, "{config:?}");
        }
    }
}

#[test]
fn every_weight_of_a_neck_reaches_its_output() {
    for config in all() {
        let (vs, neck) = build(&config);
        let outputs = neck.forward(&maps((128, 128)), Mode::EVAL);
        let parameters = nas_core::optim::named_parameters(&vs);
        let total = outputs.iter().map(|ys| ys.sum(Kind::Float)).reduce(|a, b| a + b).unwrap();
        for ((name, _), grad) in parameters.iter().zip(nas_core::optim::gradients(&total, &parameters)) {
            assert!(grad.defined(), "{name} of {config:?} is not used");
        }
        let mut norms: Vec<*const BatchNorm> = neck.norms().into_iter().map(|norm| norm as *const _).collect();
        norms.sort();
        norms.dedup();
        let expected = vs.variables().keys().filter(|name| name.ends_with("running_mean")).count();
        assert_eq!(norms.len(), expected, "{config:?}");
    }
}

#[test]
fn fpn_adds_from_coarse_to_fine() {
    let (vs, neck) = build(&fpn(Levels::default(), ExtraInput::P5));
    // laterals of ones, outputs that copy: every map is the sum of what lies at and above its level
    tch::no_grad(|| {
        for (name, mut tensor) in vs.variables() {
            let _ = tensor.zero_();
            if name.contains("inner_blocks") && name.ends_with("weight") {
                let _ = tensor.fill_(1.0);
            } else if name.ends_with("weight") {
                (0..8).for_each(|c| _ = tensor.get(c).get(c).get(1).get(1).fill_(1.0));
            }
        }
    });
    let ones: Vec<Tensor> = shapes((128, 64)).iter().map(|s| Tensor::ones([1, s.c, s.h, s.w], FLOAT)).collect();
    let outputs = neck.forward(&ones, Mode::EVAL);
    let value = |ys: &Tensor| (ys.min().double_value(&[]), ys.max().double_value(&[]));
    let expected = [36.0, 26.0, 14.0, 14.0, 14.0];
    outputs.iter().zip(expected).for_each(|(ys, sum)| assert_eq!(value(ys), (sum, sum)));
}

#[test]
fn fast_fusion_is_a_mean_at_first() {
    let config = |fusion| {
        let nodes = vec![BiFpnNode { fusion, inputs: NodeInputs::Both }; 8];
        NeckConfig::Bifpn(BiFpnConfig { channels: 8, cells: 1, nodes, ..Default::default() })
    };
    let [fast, softmax] = [Fusion::Fast, Fusion::Softmax].map(|fusion| build(&config(fusion)));
    tch::no_grad(|| {
        let from = fast.0.variables();
        softmax.0.variables().into_iter().for_each(|(name, mut tensor)| tensor.copy_(&from[&name]));
    });
    let xs = maps((128, 128));
    let outputs = [fast.1.forward(&xs, Mode::EVAL), softmax.1.forward(&xs, Mode::EVAL)];
    for (a, b) in outputs[0].iter().zip(&outputs[1]) {
        let error = (a - b).abs().max().double_value(&[]) / b.abs().max().double_value(&[]);
        assert!(error > 0.0 && error < 1e-3, "the quotient has 1e-4 in its denominator: {error}");
    }
}

/// One cell of each kind by hand: gate and pooling of the authors and of mmcv, and what output cells take up.
#[test]
fn merging_cells_are_the_formulas() {
    let levels = Levels { min: 3, max: 5 };
    let cell = |level, op, inputs| MergingCell { level, op, inputs };
    let cells = [cell(4, MergeOp::Attention, [0, 2]), cell(5, MergeOp::Sum, [0, 3]), cell(3, MergeOp::Sum, [3, 4])];
    for (gate, pool) in [(Gate::Coarse, GatePool::Max), (Gate::Second, GatePool::Avg)] {
        let inputs = if gate == Gate::Coarse { [0, 2] } else { [2, 0] };
        let cells = [vec![cell(4, MergeOp::Attention, inputs)], cells[1..].to_vec()].concat();
        let config = NasFpnConfig { channels: 8, levels, stacks: 1, cells, pool, gate, ..Default::default() };
        let (vs, neck) = build(&NeckConfig::NasFpn(config));
        let xs = maps((64, 64));
        let outputs = neck.forward(&xs, Mode::EVAL);
        let v = vs.variables();
        let scale = 1.0 / (1.0f64 + 1e-5).sqrt();
        let conv = |xs: &Tensor, name: &str, padding: i64| {
            xs.conv2d::<Tensor>(&v[&format!("{name}.conv.weight")], None, 1, padding, 1, 1) * scale
        };
        let lateral = |i: usize| conv(&xs[i + 1], &format!("laterals.{i}"), 0);
        let (p3, p4, p5) = (lateral(0), lateral(1), lateral(2));
        let down = |xs: &Tensor, n: i64| xs.max_pool2d([n, n], [n, n], [0, 0], [1, 1], false);
        let up = |xs: &Tensor, n: i64| xs.repeat_interleave_self_int(n, 2, None).repeat_interleave_self_int(n, 3, None);
        let (fine, coarse) = (down(&p3, 2), up(&p5, 2));
        // in the second pass the inputs are (coarse, fine), so that the gate is the fine map
        let (gate_map, other) = if gate == Gate::Coarse { (&coarse, &fine) } else { (&fine, &coarse) };
        let pooled = match pool {
            GatePool::Max => gate_map.amax([2i64, 3], true),
            GatePool::Avg => gate_map.mean_dim([2i64, 3].as_slice(), true, Kind::Float),
        };
        // P4 is of its level and unused
        let sum = gate_map + other * pooled.sigmoid() + &p4;
        let n4 = conv(&sum.relu(), "stacks.0.0", 1);
        let n5 = conv(&(down(&p3, 4) + down(&n4, 2)).relu(), "stacks.0.1", 1);
        let n3 = conv(&(up(&n4, 2) + up(&n5, 4)).relu(), "stacks.0.2", 1);
        for (found, expected) in outputs.iter().zip([n3, n4, n5]) {
            let error = (found - &expected).abs().max().double_value(&[]) / expected.abs().max().double_value(&[]);
            assert!(error < 1e-5, "{gate:?}: {error}");
        }
    }
}

#[test]
fn the_published_cells_take_up_p5_and_p7() {
    let (space, arch) = NasFpnSpace::published();
    assert_eq!(space.cells(&arch).unwrap(), NasFpnConfig::default().cells);
    assert_eq!(NasFpnConfig::default().taken_up(), [vec![], vec![], vec![], vec![], vec![2], vec![4], vec![]]);
    let count: f64 = space.decisions().iter().map(|options| f64::from(*options)).product();
    // output levels are a permutation: 5! of 5^5
    let count = count * 120.0 / 3125.0;
    assert_eq!(format!("{count:.3e}"), "3.018e15");
}

#[test]
fn samples_mutants_and_neighbors_of_nas_fpn_are_valid() {
    let mut rng = nas_datasets::rng::stream(0, "nas_fpn", 0);
    for space in [NasFpnSpace::published().0, NasFpnSpace::new(Levels { min: 3, max: 5 }, 1).unwrap()] {
        let mut arch = space.sample(&mut rng);
        for _ in 0..200 {
            space.validate(&arch).unwrap();
            let cells = space.cells(&arch).unwrap();
            assert_eq!(space.encode(&cells).unwrap(), arch);
            let config = NasFpnConfig { levels: space.levels(), cells, ..Default::default() };
            config.check().unwrap();
            let child = space.mutate(&arch, &mut rng);
            let changed = arch.choices().iter().zip(child.choices()).filter(|(a, b)| a != b).count();
            assert!((1..=2).contains(&changed), "{arch} -> {child}");
            assert!(space.neighbors(&arch).contains(&child), "{arch} -> {child}");
            arch = child;
        }
        let neighbors = space.neighbors(&arch);
        neighbors.iter().for_each(|neighbor| space.validate(neighbor).unwrap());
        assert!(!neighbors.contains(&arch));
    }
    let (space, arch) = NasFpnSpace::published();
    let mut twice = arch.choices().to_vec();
    twice[6] = twice[9];
    let error = space.validate(&Architecture::new(twice)).unwrap_err().to_string();
    assert!(error.contains("level 3"), "{error}");
}

#[test]
fn architectures_of_bifpn_are_necks() {
    let space = BiFpnSpace::new(Levels::default()).unwrap();
    assert_eq!(space.decisions(), [4, 4, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3]);
    let config = space.config(&"2-1-0-1-0-0-0-0-0-0-1-2-0".parse().unwrap()).unwrap();
    assert_eq!((config.cells, config.channels, config.nodes.len()), (3, 64, 8));
    assert_eq!(config.nodes[1].fusion, Fusion::Sum);
    let inputs: Vec<NodeInputs> = config.nodes.iter().map(|node| node.inputs).collect();
    let both = NodeInputs::Both;
    assert_eq!(inputs, [both, both, both, both, NodeInputs::TopDown, NodeInputs::Input, both, both]);
    let mut rng = nas_datasets::rng::stream(0, "bifpn", 0);
    for _ in 0..20 {
        let config = space.config(&space.sample(&mut rng)).unwrap();
        config.check().unwrap();
        NeckConfig::Bifpn(config).build(&VarBuilder::dry(), &features()).unwrap();
    }
    assert!(space.config(&"0-0".parse().unwrap()).is_err());
}

#[test]
fn configs_that_no_neck_can_be_made_of_name_the_key() {
    let error = |config: serde_json::Value| match serde_json::from_value::<NeckConfig>(config) {
        Ok(config) => format!("{:#}", config.build(&VarBuilder::dry(), &features()).unwrap_err()),
        Err(error) => error.to_string(),
    };
    let cells = json!([{"level": 9, "op": "sum", "inputs": [0, 1]}]);
    for (config, part) in [
        (json!({"kind": "fpn", "channels": 0}), "model.neck.channels = 0"),
        (json!({"kind": "fpn", "levels": {"min": 3, "max": 8}}), "model.neck.levels.max = 8"),
        (json!({"kind": "fpn", "level": 3}), "unknown field `level`"),
        (json!({"kind": "bifpn", "cells": 0}), "model.neck.cells = 0"),
        (json!({"kind": "bifpn", "nodes": [{"fusion": "sum"}]}), "1 nodes, expected 8 or none"),
        (json!({"kind": "nas_fpn", "stacks": 0}), "model.neck.stacks = 0"),
        (json!({"kind": "nas_fpn", "cells": cells}), "expected at least one for each of 5 levels"),
    ] {
        let found = error(config);
        assert!(found.contains(part), "{found}");
    }
    let narrow = &features()[2..];
    let error = NeckConfig::Fpn(FpnConfig::default()).build(&VarBuilder::dry(), narrow).unwrap_err().to_string();
    assert!(error.contains("no map of stride 8"), "{error}");
}
