use std::collections::HashMap;
use std::path::Path;

use nas_core::estimator::inheritance::{Lineage, inherit};
use nas_core::nn::{Activation, BnConfig, Cost, Mode, Shape, VarBuilder};
use nas_core::space::ChoiceSpace;
use nas_core::train::{all_variables, copy_into, read_tensors};
use serde_json::Value;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::block::{Block, BlockStyle, Place};
use super::*;
use crate::model::{ModelConfig, SegNet};

const GOLDEN: &str = include_str!("../../../tests/golden/squeezenas/forward.json");

fn golden() -> Value {
    serde_json::from_str(GOLDEN).unwrap()
}

fn preset(name: &str) -> MobileSegConfig {
    presets().into_iter().find(|(known, _)| *known == name).unwrap().1
}

fn cost(config: &MobileSegConfig, num_classes: i64, size: (i64, i64)) -> Cost {
    config.build(&VarBuilder::dry(), num_classes).unwrap().cost(size)
}

fn built(config: &MobileSegConfig, num_classes: i64) -> (VarStore, SegNet) {
    let vs = VarStore::new(Device::Cpu);
    let net = config.build(&VarBuilder::new(&vs), num_classes).unwrap();
    (vs, net)
}

/// Place of a tensor in the state dict of the authors' network: part, block, layer, tensor.
fn state_dict_key(name: &str) -> (usize, usize, usize, usize) {
    const PARTS: [&str; 14] = [
        "encoder.conv1.",
        "encoder.residuals.",
        "encoder.last_conv.",
        "decoder._1x1_TL.",
        "decoder._1x1_BL.",
        "decoder._1x1_TR.",
        "decoder._1x1_BR.",
        "decoder._1x1_1_conv.",
        "decoder._3x3_1_conv.",
        "decoder._3x3_2_conv.",
        "decoder._3x3_3_conv.",
        "decoder._1x1_2_conv.",
        "lowlevel1x1.",
        "logits",
    ];
    const TENSORS: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];
    let part = if name.starts_with("op.") { 1 } else { PARTS.iter().position(|part| name.starts_with(part)).unwrap() };
    let words: Vec<&str> = name.split('.').collect();
    let numbers: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let (block, layer) = match (name.starts_with("encoder.residuals"), &numbers[..]) {
        (true, [block, layer]) => (*block, *layer),
        (_, [layer]) => (0, *layer),
        _ => (0, usize::from(words.contains(&"bn"))),
    };
    let half = if words.contains(&"conv_2") { 10 } else { 0 };
    let block = if words[0] == "logits3" { 1 } else { block };
    (part, block, half + layer, TENSORS.iter().position(|tensor| *tensor == *words.last().unwrap()).unwrap())
}

/// Fills the tensors by the golden's rule and returns the length of the state dict.
fn fill(vs: &VarStore) -> usize {
    let mut tensors: Vec<(String, Tensor)> = vs.variables().into_iter().collect();
    tensors.sort_by_key(|(name, _)| state_dict_key(name));
    let mut position = 0;
    for (name, tensor) in tensors {
        let numel = tensor.numel() as i64;
        let s = (Tensor::arange(numel, (Kind::Double, Device::Cpu)) * 0.3 + position as f64).sin();
        let values = match tensor.dim() {
            _ if name.ends_with("running_var") => s.square() * 0.1 + 1.0,
            1 if name.ends_with("weight") => s * 0.1 + 1.0,
            1 => s * 0.05,
            _ => s * (2.0 / (numel / tensor.size()[0]) as f64).sqrt(),
        };
        tch::no_grad(|| tensor.shallow_clone().copy_(&values.reshape(tensor.size())));
        // Every norm has a counter after its variance, which is not here.
        position += if name.ends_with("running_var") { 2 } else { 1 };
    }
    position
}

fn flat_wave(shape: &[i64]) -> Tensor {
    let i = Tensor::arange(shape.iter().product::<i64>(), (Kind::Double, Device::Cpu));
    ((&i * 0.01).sin() + (&i * 0.0037).cos() * 0.5).reshape(shape).to_kind(Kind::Float)
}

/// The golden's street-like wave, `[1, 3, h, w]`.
fn wave(h: i64, w: i64) -> Tensor {
    let axis = |n: i64, at: [i64; 3]| Tensor::arange(n, (Kind::Double, Device::Cpu)).reshape(at);
    let (c, h, w) = (axis(3, [3, 1, 1]), axis(h, [1, -1, 1]), axis(w, [1, 1, -1]));
    let slow = ((&c * 7.0 + &h * 3.0 + &w * 5.0) * 0.01).sin();
    let fast = (&h * 0.9 + &c * 0.4).sin() * (&w * 0.7).cos();
    (slow + fast * 0.5).unsqueeze(0).to_kind(Kind::Float)
}

fn assert_values(logits: &Tensor, values: &Value, case: &str) {
    for value in values.as_array().unwrap() {
        let at: Vec<i64> = (0..3).map(|i| value[i].as_i64().unwrap()).collect();
        let (found, expected) = (logits.double_value(&[0, at[0], at[1], at[2]]), value[3].as_f64().unwrap());
        assert!((found - expected).abs() < 1e-4, "{case} at {at:?}: {found}, expected {expected}");
    }
}

#[test]
fn squeezenas_networks_have_the_authors_counts() {
    let golden = golden();
    for name in ["mac_small", "lat_small", "mac_large", "lat_large", "mac_xlarge", "lat_xlarge"] {
        let (config, counts) = (preset(&format!("squeezenas_{name}")), &golden["counts"][name]);
        for (h, w) in [(1024, 2048), (512, 1024), (256, 512)] {
            let found = cost(&config, 19, (h, w));
            assert_eq!(found.params, counts["params"].as_u64().unwrap(), "{name}");
            assert_eq!(found.macs, counts[format!("macs_{h}x{w}")]["total"].as_u64().unwrap(), "{name} at {h}x{w}");
        }
    }
}

/// All six networks, without the authors' weights.
#[test]
fn squeezenas_networks_compute_what_they_should_under_closed_form_weights() {
    let golden = golden();
    for (name, case) in golden["closed_form"].as_object().unwrap() {
        let (vs, net) = built(&preset(&format!("squeezenas_{name}")), 19);
        assert_eq!(fill(&vs) as u64, case["state_dict_len"].as_u64().unwrap(), "{name}");
        let shape: Vec<i64> = serde_json::from_value(case["input_shape"].clone()).unwrap();
        let logits = tch::no_grad(|| net.forward(&flat_wave(&shape), Mode::EVAL));
        assert_values(&logits, &case["values"], name);
        let (norm, expected) = (logits.to_kind(Kind::Double).norm().double_value(&[]), case["norm"].as_f64().unwrap());
        assert!((norm / expected - 1.0).abs() < 1e-5, "{name}: {norm}, expected {expected}");
    }
}

#[test]
fn the_authors_weights_give_the_authors_logits() {
    let Some(root) = std::env::var_os("NAS_DATA") else { return eprintln!("skipped: NAS_DATA is not set") };
    let golden = golden();
    for name in ["mac_small", "lat_small", "mac_large"] {
        let (vs, net) = built(&preset(&format!("squeezenas_{name}")), 19);
        let weights = read_tensors(&Path::new(&root).join(format!("squeezenas/{name}.safetensors"))).unwrap();
        assert_eq!(weights.len(), vs.len(), "{name}");
        copy_into(&all_variables(&vs), &weights).unwrap();
        for (size, (h, w)) in [("1040x1104", (1040, 1104)), ("256x512 (our small-input rule)", (256, 512))] {
            let logits = tch::no_grad(|| net.forward(&wave(h, w), Mode::EVAL));
            assert_values(&logits, &golden["trained"][name][size]["values"], &format!("{name} {size}"));
        }
    }
}

#[test]
fn squeezenas_operators_compute_count_and_name_what_the_authors_do() {
    let golden = golden();
    let (style, operators) = (
        BlockStyle { names: Names::Squeezenas, activation: Activation::Relu, bn: BnConfig::default() },
        Operator::squeezenas(),
    );
    for case in golden["ops"].as_array().unwrap() {
        let number = |key: &str| case[key].as_i64().unwrap();
        let place = Place { channels: (number("c_in"), number("c_out")), stride: number("stride") };
        let operator = operators[number("op") as usize];
        let vs = VarStore::new(Device::Cpu);
        let block = Block::new(&VarBuilder::new(&vs).sub("op"), operator, place, style);
        let mut found: Vec<String> = vs.variables().into_keys().collect();
        found.sort_by_key(|name| state_dict_key(name));
        let names = case["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
        let names: Vec<&str> = names.filter(|name| !name.ends_with("num_batches_tracked")).collect();
        assert_eq!(found, names, "{operator} {place:?}");
        fill(&vs);
        let ys = tch::no_grad(|| block.forward(&flat_wave(&[2, place.channels.0, 12, 14]), Mode::EVAL).1);
        let mut cost = Cost::default();
        let shape = block.cost(Shape::new(place.channels.0, 12, 14), &mut cost).1;
        assert_eq!(cost.macs as i64, number("macs_per_image"), "{operator} {place:?}");
        assert_eq!(ys.size(), [2, shape.c, shape.h, shape.w], "{operator} {place:?}");
        let (norm, expected) = (ys.to_kind(Kind::Double).norm().double_value(&[]), case["norm"].as_f64().unwrap());
        assert!(
            (norm - expected).abs() < 1e-4 * expected.max(1.0),
            "{operator} {place:?}: {norm}, expected {expected}"
        );
    }
}

/// The networks of `configs/segment/camvid_compare.toml`.
fn reference(blocks: usize) -> ModelConfig {
    let text = format!(
        "kind = 'deeplabv3plus'
        bn = {{ momentum = 0.1, eps = 1e-5 }}
        backbone = {{ kind = 'mobilenet_v2', blocks = {blocks} }}
        [head]
        channels = 64
        rates = [3, 6, 9]
        separable = true
        bn = {{ momentum = 0.1, eps = 1e-5 }}
        decoder = {{ low_level_channels = 32, channels = 64 }}"
    );
    nas_core::run::config::from_table(text.parse().unwrap(), "test").unwrap()
}

/// Names, counts and function; even the initial weights of a seed, so that trainings are the same too.
#[test]
fn deeplabv3plus_is_a_point_of_the_space() {
    for blocks in [11, 13] {
        let reference = reference(blocks);
        let build = |config: &ModelConfig| {
            tch::manual_seed(7);
            let vs = VarStore::new(Device::Cpu);
            let net = config.build(&VarBuilder::new(&vs), 11).unwrap();
            (vs, net)
        };
        let point = ModelConfig::MobileSeg(preset(&format!("mobile_seg_deeplabv3plus_{blocks}")));
        let ((vs, net), (point_vs, point)) = (build(&reference), build(&point));
        assert_eq!(net.cost((360, 480)), point.cost((360, 480)));
        let (expected, found) = (vs.variables(), point_vs.variables());
        assert_eq!(expected.len(), found.len());
        expected.iter().for_each(|(name, tensor)| assert_eq!(found[name], *tensor, "{name}"));
        let images = flat_wave(&[2, 3, 75, 96]);
        for mode in [Mode::train(0.5), Mode::EVAL] {
            let logits = |net: &SegNet| {
                tch::manual_seed(1);
                tch::no_grad(|| net.forward(&images, mode))
            };
            assert_eq!(logits(&net), logits(&point));
        }
    }
}

/// 0.440 G and 0.234 M, 0.463 G and 0.289 M at 360x480 in the recipe that made them, without the last norm's scale there.
#[test]
fn hand_made_networks_have_their_counts() {
    let counts = ["mobile_seg_hand_c", "mobile_seg_hand_a"].map(|name| cost(&preset(name), 11, (360, 480)));
    let rounded =
        counts.map(|cost| (format!("{:.3}", cost.macs as f64 / 1e9), format!("{:.3}", cost.params as f64 / 1e6)));
    assert_eq!(rounded, [("0.440".into(), "0.234".into()), ("0.463".into(), "0.289".into())]);
}

#[test]
fn every_network_counts_what_it_allocates_and_survives_toml() {
    for (name, config) in presets() {
        let (vs, net) = built(&config, 5);
        let allocated: usize = vs.trainable_variables().iter().map(Tensor::numel).sum();
        assert_eq!(net.cost((64, 96)).params, allocated as u64, "{name}");
        let model = ModelConfig::MobileSeg(config);
        let text = nas_core::run::config::to_toml(&model);
        let read: ModelConfig = nas_core::run::config::from_table(text.parse().unwrap(), "test").unwrap();
        assert_eq!(read, model, "{text}");
    }
}

#[test]
fn dilation_makes_up_for_strides_that_are_left_out() {
    let stage = |stride, plain, blocks| StageConfig {
        channels: 16,
        stride,
        plain_stride: Some(plain),
        blocks: vec![Operator::inverted(3, 2); blocks],
    };
    let head = HeadConfig::Pooling { channels: 8, decoder: Vec::new() };
    let stages = vec![stage(2, 1, 1), stage(2, 2, 2), stage(1, 2, 2), stage(1, 2, 2), stage(1, 1, 1)];
    let config = MobileSegConfig { stages, head, ..preset("mobile_seg_hand_a") };
    let dilations = config.blocks().into_iter().map(|block| match block.operator {
        Operator::Bottleneck(form) => form.dilation,
        Operator::Skip => 0,
    });
    // Plain strides 2, 4, 8, 16, 16 after the stages, of which the first is reached earlier and the last two are not.
    assert_eq!(dilations.collect::<Vec<_>>(), [1, 1, 1, 1, 1, 1, 2, 2]);
    assert_eq!(config.output_stride(), 8);
}

/// Against the layers one after the other; its counts by hand.
#[test]
fn a_fused_block_is_a_full_convolution_and_a_projection() {
    let style = BlockStyle { names: Names::Torchvision, activation: Activation::Relu, bn: BnConfig::default() };
    for (operator, stride, dilation) in [(Operator::fused(3, 2), 2, 1), (Operator::fused(3, 2).dilated(2), 1, 2)] {
        tch::manual_seed(3);
        let vs = VarStore::new(Device::Cpu);
        let place = Place { channels: (8, 8), stride };
        let block = Block::new(&VarBuilder::new(&vs), operator, place, style);
        let weights = vs.variables();
        let xs = Tensor::randn([2, 8, 12, 14], (Kind::Float, Device::Cpu));
        let conv = |xs: &Tensor, name: &str, stride: i64, padding: i64| {
            xs.conv2d(&weights[name], None::<&Tensor>, [stride, stride], [padding, padding], [dilation, dilation], 1)
        };
        let norm = 1.0 / (1.0 + BnConfig::default().eps).sqrt();
        let hidden = (conv(&xs, "0.0.weight", stride, dilation) * norm).relu();
        let expected = conv(&hidden, "1.weight", 1, 0) * norm
            + if stride == 1 { xs.shallow_clone() } else { 0.0 * &hidden.slice(1, 0, 8, 1) };
        let (tapped, found) = tch::no_grad(|| block.forward(&xs, Mode::EVAL));
        assert!((tapped.unwrap() - hidden).abs().max().double_value(&[]) < 1e-5);
        assert!((found - expected).abs().max().double_value(&[]) < 1e-5, "{operator}");
        let mut cost = Cost::default();
        block.cost(Shape::new(8, 12, 14), &mut cost);
        let pixels = 12 * 14 / (stride * stride) as u64;
        assert_eq!(cost.macs, pixels * (9 * 8 * 16 + 16 * 8), "{operator}");
        assert_eq!(cost.params, 9 * 8 * 16 + 16 * 8 + 2 * (16 + 8), "{operator}");
    }
}

#[test]
fn config_mistakes_are_named() {
    let base = nas_core::run::config::to_toml(&ModelConfig::MobileSeg(preset("mobile_seg_hand_a")));
    let model = |from: &str, to: &str| -> anyhow::Result<SegNet> {
        let text = base.replacen(from, to, 1);
        assert_ne!(text, base, "{from}");
        let model: ModelConfig = nas_core::run::config::from_table(text.parse()?, "test")?;
        model.build(&VarBuilder::dry(), 11)
    };
    for (from, to, expected) in [
        ("stem = 16", "stem = 0", "model.stem"),
        ("stem = 16", "stem = 16\nwidth = 2", "width"),
        ("ib_k3_e3", "ib_k3", "ib_k3"),
        ("ib_k3_e3", "ffn_e3", "block 0"),
        ("ib_k3_e3", "ib_k3_e3_g5", "groups"),
        ("stride = 2", "stride = 3", "model.stages[0].stride"),
        ("stride = 4", "stride = 16", "stride 16"),
        ("convs = 1", "convs = 0", "convs"),
        ("dropout = 0.1", "dropout = 1.0", "model.dropout"),
    ] {
        let error = format!("{:#}", model(from, to).unwrap_err());
        assert!(error.contains(expected), "{from} -> {to}: {error}");
    }
    let head = HeadConfig::SeparableAspp { rates: [1, 0, 2], channels: 8, decoder: Vec::new() };
    let error = MobileSegConfig { head, ..preset("mobile_seg_hand_a") }.validate().unwrap_err().to_string();
    assert!(error.contains("rates"), "{error}");
}

#[test]
fn a_child_that_grew_computes_what_its_parent_does() {
    tch::manual_seed(4);
    let randomised = |config: &MobileSegConfig| {
        let (mut vs, net) = built(config, 5);
        vs.double();
        tch::no_grad(|| {
            let is_norm = |(name, variable): &(String, Tensor)| variable.dim() == 1 && !name.starts_with("head.logits");
            for (_, variable) in all_variables(&vs).into_iter().filter(is_norm) {
                variable.shallow_clone().copy_(&(variable.rand_like() + 0.5));
            }
        });
        (vs, net)
    };
    let xs = Tensor::randn([2, 3, 64, 96], (Kind::Double, Device::Cpu));
    let forward = |net: &SegNet| tch::no_grad(|| net.forward(&xs, Mode::EVAL));
    let difference = |a: &Tensor, b: &Tensor| ((a - b).abs().max() / b.abs().max()).double_value(&[]);
    let mut parent = preset("mobile_seg_hand_c");
    parent.stages[2].blocks[1] = Operator::inverted(5, 3).squeezing();
    let (parent_vs, parent_net) = randomised(&parent);
    let theirs: HashMap<String, Tensor> = all_variables(&parent_vs).into_iter().collect();
    type Change = fn(&mut MobileSegConfig);
    let children: [(&str, Change); 5] = [
        ("an expansion", |config| config.stages[1].blocks[1] = Operator::inverted(5, 6)),
        ("a kernel", |config| config.stages[3].blocks[0] = Operator::inverted(7, 6)),
        ("a block", |config| config.stages[1].blocks.push(Operator::inverted(3, 3))),
        ("the last stage's width", |config| config.stages[3].channels = 80),
        ("a squeezed expansion", |config| config.stages[2].blocks[1] = Operator::inverted(5, 6).squeezing()),
    ];
    for (what, grow) in children {
        let mut child = parent.clone();
        grow(&mut child);
        let (vs, net) = randomised(&child);
        let lineage = Lineage::of_blocks(&child.parts(), &parent.parts());
        let variables = all_variables(&vs);
        // As a network begins, whose norms' shifts are 0.
        let branches: Vec<String> = lineage.silent.iter().map(|name| name.replace("weight", "bias")).collect();
        let is_branch = |(name, _): &&(String, Tensor)| branches.contains(name);
        tch::no_grad(|| {
            variables.iter().filter(is_branch).for_each(|(_, tensor)| drop(tensor.shallow_clone().zero_()))
        });
        let count = inherit(&variables, &theirs, &lineage, &|_, _| None);
        assert!(count.whole > 100, "{what}: {count:?}");
        let error = difference(&forward(&net), &forward(&parent_net));
        assert!(error < 1e-10, "{what}: off by {error}");
    }
}

#[test]
fn every_decision_and_choice_has_a_name() {
    let forms = [SpacePreset::MobilenetV2, SpacePreset::SqueezenasSmall, SpacePreset::SqueezenasXlarge];
    for space in forms.map(MobileSegSpace::from) {
        let names = space.names();
        let options: Vec<u16> = names.iter().map(|decision| decision.choices.len() as u16).collect();
        assert_eq!(options, space.decisions());
        let mut distinct: Vec<&str> = names.iter().map(|decision| decision.name.as_str()).collect();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), names.len());
    }
}
