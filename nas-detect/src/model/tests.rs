use std::convert::Infallible;

use anyhow::Result;
use nas_core::estimator::batch_norm_recalibration::recalibrate;
use nas_core::optim::{OptimizerConfig, SgdConfig, gradients, named_parameters};
use nas_core::space::ChoiceSpace;
use nas_core::task::TaskModel;
use nas_core::train::{all_variables, copy_into};
use tch::nn::VarStore;
use tch::{Device, Kind};

use super::*;
use crate::backbone::{Classifier, SuperClassifier};
use crate::detnas::path_weights;
use crate::neck::{BiFpnNode, Fusion};
use crate::testing::{assert_described, fill, wave};

fn images(n: i64) -> Tensor {
    let values = Tensor::arange(n * 3 * 64 * 64, (Kind::Float, Device::Cpu));
    ((&values * 0.013).sin() + (values * 0.0037).cos() * 0.5).view([n, 3, 64, 64])
}

fn targets() -> [DetTarget; 2] {
    [DetTarget::new(&[[4.0, 6.0, 30.0, 40.0], [20.0, 20.0, 60.0, 62.0]], &[0, 2]), DetTarget::new(&[], &[])]
}

fn tiny() -> ModelConfig {
    ModelConfig::preset("fcos_detnas_tiny").unwrap()
}

fn arch(text: &str) -> Architecture {
    text.parse().unwrap()
}

const PATHS: [&str; 3] = ["0-1-2-3-0-1-2-3-0", "3-3-3-3-3-3-3-3-3", "2-0-1-1-3-2-0-1-2"];

fn supernet() -> (VarStore, SuperDetector) {
    tch::set_num_threads(1);
    let vs = VarStore::new(Device::Cpu);
    let net = tiny().build_supernet(&VarBuilder::new(&vs), 3).unwrap();
    (vs, net)
}

fn snapshot(vs: &VarStore) -> Vec<(String, Tensor)> {
    let mut all: Vec<_> = vs.variables().into_iter().map(|(name, tensor)| (name, tensor.copy())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn a_path_of_the_supernet_is_the_extracted_network_bit_for_bit() {
    let (vs, net) = supernet();
    // statistics that are not the initial ones
    for path in PATHS {
        net.forward(&images(2), Mixture::Path(&arch(path)), Mode::train(0.0));
    }
    for path in PATHS {
        let arch = arch(path);
        let copy = VarStore::new(Device::Cpu);
        let network = tiny().with_arch(arch.clone()).unwrap().build(&VarBuilder::new(&copy), 3).unwrap();
        copy_into(&all_variables(&copy), &path_weights(&vs.variables(), &arch, "backbone")).unwrap();
        let a = net.forward(&images(2), Mixture::Path(&arch), Mode::EVAL);
        let b = network.forward(&images(2), Mode::EVAL);
        assert_eq!((&a.logits, &a.regression, &a.centerness), (&b.logits, &b.regression, &b.centerness), "{path}");
        let other = PATHS.iter().find(|other| **other != path).unwrap();
        let c = net.forward(&images(2), Mixture::Path(&other.parse().unwrap()), Mode::EVAL);
        assert_ne!(c.regression, b.regression);
        assert_eq!(net.detect(&images(2), &arch), network.detect(&images(2)));
    }
}

#[test]
fn what_does_not_fit_is_not_inherited() {
    let (vs, _) = supernet();
    let copy = VarStore::new(Device::Cpu);
    let _network = tiny().with_arch(arch(PATHS[0])).unwrap().build(&VarBuilder::new(&copy), 3).unwrap();
    let path = path_weights(&vs.variables(), &arch(PATHS[1]), "backbone");
    let error = copy_into(&all_variables(&copy), &path).unwrap_err().to_string();
    assert!(error.contains("backbone.blocks."), "{error}");
}

#[test]
fn a_step_moves_the_sampled_path_alone() {
    let (vs, net) = supernet();
    let config = SgdConfig { lr: 0.1, momentum: 0.9, weight_decay: 0.1, ..Default::default() };
    let mut optimizer = OptimizerConfig::Sgd(config).build(named_parameters(&vs));
    let mut step = |path: &str| {
        let loss = net.loss(&images(2), &targets(), Mixture::Path(&arch(path)), Mode::train(0.0)).total();
        let grads = gradients(&loss, optimizer.parameters());
        optimizer.step(&grads, 0.1);
    };
    // momentum of the first path must not move it in the second step
    step(PATHS[0]);
    let before = snapshot(&vs);
    step(PATHS[1]);
    let choices = arch(PATHS[1]);
    for ((name, before), (_, after)) in before.iter().zip(snapshot(&vs)) {
        let mut parts = name.strip_prefix("backbone.blocks.").unwrap_or("x").split('.');
        let block = parts.next().and_then(|block| block.parse::<usize>().ok());
        let op = parts.next().and_then(|op| op.parse::<u16>().ok());
        let sampled = block.is_none_or(|block| op == Some(choices.choices()[block]));
        if !sampled {
            assert_eq!(*before, after, "{name}: parameters and statistics of other operators stay");
        } else if name.ends_with("conv.weight") {
            assert_ne!(*before, after, "{name}");
        }
    }
}

#[test]
fn recalibrated_statistics_are_those_of_one_pass_in_any_order() {
    let (mut vs, net) = supernet();
    vs.double();
    let path = arch(PATHS[2]);
    let batches: Vec<Tensor> = images(6).to_kind(Kind::Double).chunk(3, 0);
    let run = |batches: &mut dyn Iterator<Item = &Tensor>| {
        recalibrate(&net.norms(&path).unwrap(), batches.map(Tensor::shallow_clone), |xs, mode| {
            net.supernet.features(xs, Mixture::Path(&path), mode);
            Ok::<_, Infallible>(())
        })
        .unwrap();
        snapshot(&vs)
    };
    // the statistics of other paths are not the initial ones, so that a reset would show
    for other in &PATHS[..2] {
        net.forward(&batches[0], Mixture::Path(&arch(other)), Mode::train(0.0));
    }
    let before = snapshot(&vs);
    let forwards = run(&mut batches.iter());
    let backwards = run(&mut batches.iter().rev());
    let mut changed = 0;
    for (((name, before), (_, a)), (_, b)) in before.iter().zip(&forwards).zip(&backwards) {
        let error = (a - b).abs().max().double_value(&[]) / a.abs().max().double_value(&[]).max(1e-300);
        assert!(error < 1e-12, "{name} depends on the order: {error}");
        changed += i64::from(before != a);
    }
    let norms = net.supernet.norms(&path).unwrap().len() as i64;
    assert_eq!(changed, 2 * norms, "the statistics of the path's norms and nothing else");
    // the stem's mean is that of all images at once
    let all = net.supernet.norms(&path).unwrap();
    assert_eq!(all.len() as i64, norms);
    let v = vs.variables();
    let weight = &v["backbone.stem.conv.weight"];
    let ys = images(6).to_kind(Kind::Double).conv2d(weight, Some(&v["backbone.stem.conv.bias"]), 2, 1, 1, 1);
    let mean = ys.mean_dim([0i64, 2, 3].as_slice(), false, Kind::Double);
    let error = (&v["backbone.stem.bn.running_mean"] - mean).abs().max().double_value(&[]);
    assert!(error < 1e-12, "{error}");
}

#[test]
fn a_mixture_with_one_certain_operator_is_its_path() {
    let (_vs, net) = supernet();
    let path = arch(PATHS[0]);
    let weights = Tensor::zeros([9, 4], (Kind::Float, Device::Cpu));
    for (block, op) in path.choices().iter().enumerate() {
        let _ = weights.get(block as i64).get(i64::from(*op)).fill_(1.0);
    }
    let weights = [weights];
    let active = [Vec::<bool>::try_from(&weights[0].view(-1).gt(0.0)).unwrap()];
    let hard = net.forward(&images(1), Mixture::Path(&path), Mode::EVAL);
    for mixture in [
        Mixture::Weights(&weights),
        Mixture::Sampled { weights: &weights, active: &active, skip_dropout: 0.0, undrawn: false },
    ] {
        let found = net.forward(&images(1), mixture, Mode::EVAL);
        assert!((found.logits - &hard.logits).abs().max().double_value(&[]) < 1e-5);
    }
    let BackboneConfig::Detnas(config) = tiny().backbone else { unreachable!() };
    let space = config.space().unwrap();
    use nas_core::space::WeightSharing;
    assert_eq!(space.discretize(&weights), path);
    assert_eq!(space.arch_parameters()[0].dims, [space.num_blocks() as i64, space.decisions()[0].into()]);
}

#[test]
fn every_preset_counts_what_it_allocates() {
    for (name, config) in presets() {
        let vs = VarStore::new(Device::Cpu);
        let net = config.build(&VarBuilder::new(&vs), 4).unwrap();
        let parts = net.cost_parts((128, 128)).concat();
        let params: u64 = parts.iter().map(|(_, part)| part.params).sum();
        let allocated: usize = vs.trainable_variables().iter().map(Tensor::numel).sum();
        assert_eq!(params, allocated as u64, "{name}");
        let toml = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<ModelConfig>(&toml).unwrap(), config, "{name}\n{toml}");
    }
}

#[test]
fn backbones_give_maps_of_the_shapes_they_say() {
    tch::set_num_threads(1);
    for name in ["fcos_detnas_tiny", "fcos_shufflenet_v2_x0_5", "fcos_resnet18_fpn", "fcos_mobilenet_v2_fpn"] {
        let vs = VarStore::new(Device::Cpu);
        let backbone = ModelConfig::preset(name).unwrap().backbone.build(&VarBuilder::new(&vs)).unwrap();
        for (h, w) in [(64, 64), (65, 97)] {
            let xs = Tensor::zeros([1, 3, h, w], (Kind::Float, Device::Cpu));
            let (_, shapes) = backbone.cost_parts(Shape::new(3, h, w));
            for ((ys, shape), info) in
                backbone.features(&xs, Mode::EVAL).iter().zip(shapes).zip(backbone.feature_info())
            {
                assert_eq!(ys.size(), [1, shape.c, shape.h, shape.w], "{name}");
                assert_eq!((shape.c, shape.h), (info.channels, (h - 1) / info.stride + 1), "{name}");
            }
        }
    }
}

#[test]
fn a_detector_learns_two_boxes() {
    tch::set_num_threads(1);
    let vs = VarStore::new(Device::Cpu);
    let net = tiny().build(&VarBuilder::new(&vs), 3).unwrap();
    let config = nas_core::optim::AdamConfig { lr: 3e-3, ..Default::default() };
    let mut optimizer = OptimizerConfig::Adam(config).build(named_parameters(&vs));
    for _ in 0..150 {
        let loss = net.loss(&images(2), &targets(), Mode::train(0.0)).total();
        let grads = gradients(&loss, optimizer.parameters());
        optimizer.step(&grads, 3e-3);
    }
    let found = &net.detect(&images(2))[0];
    let boxes = Tensor::from_slice(found.boxes.as_flattened()).view([-1, 4]);
    let iou = crate::head::boxes::pairwise_iou(&targets()[0].boxes, &boxes);
    // each of the two best detections is one of the objects
    let best = |i: i64| iou.select(1, i).argmax(0, false).int64_value(&[]);
    assert_eq!([best(0), best(1)].iter().copied().collect::<std::collections::BTreeSet<_>>().len(), 2, "{found:?}");
    for i in 0..2 {
        assert!(iou.double_value(&[best(i), i]) > 0.6, "{found:?}");
        assert_eq!(found.labels[i as usize], [0, 2][best(i) as usize], "{found:?}");
    }
}

#[test]
fn configs_that_no_detector_can_be_made_of_name_the_key() {
    let error = |toml: &str| match toml::from_str::<ModelConfig>(toml) {
        Ok(config) => format!("{:#}", config.build(&VarBuilder::dry(), 3).unwrap_err()),
        Err(error) => error.to_string(),
    };
    let model = |backbone: &str, neck: &str, head: &str| {
        error(&format!("backbone = {{ {backbone} }}\nneck = {{ {neck} }}\nhead = {{ {head} }}"))
    };
    let (tiny, fpn, fcos) = ("kind = 'detnas', size = 'tiny'", "kind = 'fpn', channels = 64", "kind = 'fcos'");
    for (found, part) in [
        (model("kind = 'detnas', size = '2g'", fpn, fcos), "unknown variant `2g`"),
        (model(&format!("{tiny}, arch = '0-1'"), fpn, fcos), "2 choices, expected 9"),
        (model(&format!("{tiny}, channels = [16, 30, 64, 96]"), fpn, fcos), "multiples of 4"),
        (model(&format!("{tiny}, repeats = [2, 0, 3, 2]"), fpn, fcos), "model.backbone.repeats"),
        (model("kind = 'resnet', depth = 34", fpn, fcos), "expected 18 or 50"),
        (model(tiny, "kind = 'fpn', channels = 60", fcos), "multiple of 8"),
        (model(tiny, fpn, "kind = 'fcos', radius = 0.0"), "model.head.radius"),
        (model(tiny, fpn, "kind = 'retina', ratios = []"), "model.head.ratios"),
        (
            model(tiny, fpn, "kind = 'fcos', detect = { score = 2.0, per_level = 1, iou = 0.5, max = 1 }"),
            "detect.score",
        ),
    ] {
        assert!(found.contains(part), "{found}");
    }
}

/// As a search takes over what was pre-trained.
fn inherit_backbone(trained: &std::collections::HashMap<String, Tensor>, to: &VarStore) -> Result<()> {
    let mut wanted = all_variables(to);
    wanted.retain(|(name, _)| name.starts_with("backbone."));
    copy_into(&wanted, trained)
}

#[test]
fn a_pretrained_supernet_moves_into_a_detector() {
    let BackboneConfig::Detnas(config) = tiny().backbone else { unreachable!() };
    let pretrained = VarStore::new(Device::Cpu);
    let classifier = SuperClassifier::new(&VarBuilder::new(&pretrained), &config, 7).unwrap();
    let path = arch(PATHS[0]);
    assert_eq!(classifier.forward(&images(2), Mixture::Path(&path), Mode::train(0.0)).size(), [2, 7]);
    let (vs, net) = supernet();
    let features = || net.supernet.features(&images(1), Mixture::Path(&path), Mode::EVAL).pop().unwrap();
    let before = features();
    inherit_backbone(&pretrained.variables(), &vs).unwrap();
    assert_ne!(features(), before);
    let trained = pretrained.variables();
    let copied = snapshot(&vs).into_iter().filter(|(name, _)| name.starts_with("backbone."));
    assert_eq!(copied.map(|(name, tensor)| assert_eq!(tensor, trained[&name], "{name}")).count(), trained.len() - 8);

    // the classifier of one path is the supernet's
    let single = VarStore::new(Device::Cpu);
    let config = BackboneConfig::Detnas(config).with_arch(path.clone()).unwrap();
    let network = Classifier::new(&VarBuilder::new(&single), &config, 7).unwrap();
    copy_into(&all_variables(&single), &path_weights(&pretrained.variables(), &path, "backbone")).unwrap();
    let [a, b] =
        [classifier.forward(&images(2), Mixture::Path(&path), Mode::EVAL), network.forward(&images(2), Mode::EVAL)];
    assert_eq!(a, b);
    let error = inherit_backbone(&single.variables(), &vs).unwrap_err().to_string();
    assert!(error.contains("backbone.blocks.0.0") && error.contains("missing"), "{error}");
}

/// Against torchvision 0.28 (tests/golden/det/tops.py).
#[test]
fn necks_and_heads_are_torchvisions() {
    tch::set_num_threads(1);
    let golden: serde_json::Value = serde_json::from_str(include_str!("../../../tests/golden/det/tops.json")).unwrap();
    let (features, maps) = features_and_maps();
    let retina = |norm| HeadConfig::Retina(RetinaConfig { norm, ..Default::default() });
    for (name, extra, head) in [
        ("fcos", ExtraInput::P5, HeadConfig::Fcos(FcosConfig::default())),
        ("retina", ExtraInput::P5, retina(TowerNorm::None)),
        ("retina_v2", ExtraInput::C5, retina(TowerNorm::Group)),
    ] {
        let mut vs = VarStore::new(Device::Cpu);
        let neck = NeckConfig::Fpn(FpnConfig { channels: 64, extra, ..Default::default() });
        let top = Top::new(&VarBuilder::new(&vs), &neck, &head, &features, 3).unwrap();
        fill(&mut vs, |_, tensor| tensor.numel() as i64 % 11);
        let levels = top.neck.forward(&maps, Mode::EVAL);
        for (i, ys) in levels.iter().enumerate() {
            assert_described(ys, &golden[name]["levels"][i], 1e-9, &format!("{name}, level {i}"));
        }
        let found = top.head.forward(&levels, Mode::EVAL);
        assert_described(&found.logits, &golden[name]["cls_logits"], 1e-5, name);
        assert_described(&found.regression, &golden[name]["bbox_regression"], 1e-5, name);
        if let Some(centerness) = found.centerness {
            assert_described(&centerness.unsqueeze(-1), &golden[name]["bbox_ctrness"], 1e-5, name);
        }
    }
}

/// Against effdet 0.4.1 (tests/golden/det/efficientdet.py).
#[test]
fn bifpn_and_its_heads_are_effdets() {
    tch::set_num_threads(1);
    let golden = include_str!("../../../tests/golden/det/efficientdet.json");
    let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
    let (features, maps) = features_and_maps();
    let head = HeadConfig::Retina(efficientdet_head());
    for (name, fusion) in [("fast", Fusion::Fast), ("softmax", Fusion::Softmax), ("sum", Fusion::Sum)] {
        let mut vs = VarStore::new(Device::Cpu);
        let nodes = vec![BiFpnNode { fusion, ..Default::default() }; 8];
        let neck = NeckConfig::Bifpn(BiFpnConfig { channels: 16, cells: 2, nodes, ..Default::default() });
        let top = Top::new(&VarBuilder::new(&vs), &neck, &head, &features, 3).unwrap();
        fill(&mut vs, |_, tensor| tensor.numel() as i64 % 11);
        let levels = top.neck.forward(&maps, Mode::EVAL);
        for (i, ys) in levels.iter().enumerate() {
            assert_described(ys, &golden[name]["levels"][i], 1e-9, &format!("{name}, level {i}"));
        }
        if fusion == Fusion::Sum {
            let found = top.head.forward(&levels, Mode::EVAL);
            assert_described(&found.logits, &golden["classes"], 1e-5, "classes");
            assert_described(&found.regression, &golden["boxes"], 1e-5, "boxes");
        }
    }
}

/// Maps of a backbone at strides 8, 16, 32 for images of 100x152.
fn features_and_maps() -> ([FeatureInfo; 3], Vec<Tensor>) {
    let features = [(10, 8), (12, 16), (14, 32)].map(|(channels, stride)| FeatureInfo { channels, stride });
    let side = |n: i64, stride: i64| (n - 1) / stride + 1;
    let map = |(i, info): (usize, &FeatureInfo)| {
        wave(&[2, info.channels, side(100, info.stride), side(152, info.stride)], i as i64)
    };
    let maps = features.iter().enumerate().map(map).collect();
    (features, maps)
}

#[test]
fn neck_and_head_are_sized_behind_the_stages_of_the_backbone() {
    let model = tiny();
    let [stages, top] = [model.stages().unwrap(), model.top().into_iter().collect()];
    assert_eq!(top, ["64x2".parse().unwrap()]);
    let same = model.clone().with_stages([&stages[..], &top].concat()).unwrap();
    assert_eq!(same.stages().unwrap(), stages);
    let (HeadConfig::Fcos(head), smaller) =
        (&model.head, model.clone().with_stages([&stages[..], &["48x3".parse().unwrap()]].concat()).unwrap())
    else {
        panic!("{model:?}");
    };
    assert_eq!((smaller.neck.channels(), &smaller.head), (48, &HeadConfig::Fcos(FcosConfig { convs: 3, ..*head })));
    assert_eq!(smaller.backbone, same.backbone);
}
