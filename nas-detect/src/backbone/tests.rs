//! Against torchvision 0.28 (tests/golden/det/backbones.py).

use nas_core::nn::{Mode, VarBuilder};
use serde_json::Value;
use tch::Device;
use tch::nn::VarStore;

use super::*;
use crate::testing::{assert_described, fill, wave};

#[test]
fn maps_are_torchvisions_under_its_names() {
    tch::set_num_threads(1);
    let golden: Value = serde_json::from_str(include_str!("../../../tests/golden/det/backbones.json")).unwrap();
    let resnet = |depth, frozen_norms| BackboneConfig::Resnet(ResNetConfig { depth, frozen_norms, stages: Vec::new() });
    for (name, config) in [
        ("shufflenet_v2_x0_5", BackboneConfig::ShufflenetV2 { width: ShuffleNetWidth::X0_5, stages: Vec::new() }),
        ("shufflenet_v2_x1_0", BackboneConfig::ShufflenetV2 { width: ShuffleNetWidth::X1_0, stages: Vec::new() }),
        ("resnet18", resnet(ResNetDepth::R18, false)),
        ("resnet50", resnet(ResNetDepth::R50, false)),
        ("resnet50", resnet(ResNetDepth::R50, true)),
        ("mobilenet_v2", BackboneConfig::MobilenetV2 { stages: Vec::new() }),
    ] {
        let mut vs = VarStore::new(Device::Cpu);
        let net = config.build(&VarBuilder::new(&vs)).unwrap();
        fill(&mut vs, |name, _| name.len() as i64);
        let features = tch::no_grad(|| net.features(&wave(&[1, 3, 65, 96], 1), Mode::EVAL));
        for (i, (ys, golden)) in features.iter().zip(golden[name].as_array().unwrap()).enumerate() {
            assert_described(ys, golden, 1e-9, &format!("{name}, map {i}"));
        }
    }
}

#[test]
fn frozen_norms_have_no_parameters_and_stay() {
    let vs = VarStore::new(Device::Cpu);
    let config = ResNetConfig { depth: ResNetDepth::R18, frozen_norms: true, stages: Vec::new() };
    let net = ResNet::new(&VarBuilder::new(&vs), &config.config().unwrap());
    let is_kernel = |tensor: &tch::Tensor| tensor.dim() == 4;
    assert!(vs.variables().values().all(|tensor| tensor.requires_grad() == is_kernel(tensor)));
    let before = vs.variables()["bn1.running_mean"].copy();
    net.features(&wave(&[2, 3, 33, 33], 0).to_kind(tch::Kind::Float), Mode::train(0.0));
    assert_eq!(vs.variables()["bn1.running_mean"], before);
}
