use nas_core::nn::Cost;
use nas_core::nn::{Mode, Shape};
use serde_json::Value;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::*;
use crate::head::DecoderConfig;
use crate::model::ModelConfig;

const ALL: [BackboneConfig; 5] = [
    BackboneConfig::Xception41(Stages { stages: Vec::new() }),
    BackboneConfig::Xception65(Stages { stages: Vec::new() }),
    BackboneConfig::Xception71(Stages { stages: Vec::new() }),
    BackboneConfig::Resnet101(Stages { stages: Vec::new() }),
    BackboneConfig::MobilenetV2(MobileNetV2Config { width: 1.0, blocks: 17, stages: Vec::new() }),
];

fn count(config: &DeepLabV3PlusConfig, num_classes: i64, size: (i64, i64)) -> Cost {
    config.build(&VarBuilder::dry(), num_classes).unwrap().cost(size)
}

fn at_stride(output_stride: i64, backbone: BackboneConfig) -> DeepLabV3PlusConfig {
    DeepLabV3PlusConfig { output_stride, ..DeepLabV3PlusConfig::new(backbone) }
}

#[test]
fn parameters_are_those_of_the_paper() {
    let params = ALL.map(|backbone| count(&DeepLabV3PlusConfig::new(backbone), 19, (65, 65)).params);
    assert_eq!(params, [28_108_147, 41_054_899, 43_477_323, 59_467_571, 2_113_043]);
}

#[test]
fn xception_71_at_stride_8_takes_1474_84_billion_multiply_adds() {
    let cost = count(&at_stride(8, ALL[2].clone()), 19, (1024, 2048));
    assert_eq!(format!("{:.2}", cost.macs as f64 / 1e9), "1474.84");
}

/// The published counts are of TensorFlow's profiler, which adds up to 0.5 % for poolings, additions and weight decay.
#[test]
fn multiply_adds_are_just_below_the_published_profiles() {
    let xception_65 = || BackboneConfig::Xception65(Stages { stages: Vec::new() });
    let mobilenet = || ALL[4].clone();
    for (config, num_classes, size, published) in [
        (at_stride(16, xception_65()), 21, (513, 513), 54.17),
        (at_stride(8, xception_65()), 21, (513, 513), 177.10),
        (at_stride(16, mobilenet()), 21, (513, 513), 2.75),
        (at_stride(16, mobilenet()), 19, (1025, 2049), 21.27),
    ] {
        let counted = count(&config, num_classes, size).macs as f64 / 1e9;
        let ratio = counted / published;
        assert!((0.995..1.0).contains(&ratio), "{config:?}: {counted} of {published} G");
    }
}

#[test]
fn every_network_counts_what_it_allocates_and_its_features_have_the_shapes_it_says() {
    for backbone in ALL {
        let config = DeepLabV3PlusConfig::new(backbone);
        let vs = VarStore::new(Device::Cpu);
        let net = config.build(&VarBuilder::new(&vs), 5).unwrap();
        for (h, w) in [(33, 50), (48, 31)] {
            let features = net.backbone.features(&images(1, h, w), Mode::EVAL);
            let (_, shapes) = net.backbone.cost_parts(Shape::new(3, h, w));
            for ((feature, shape), info) in features.iter().zip(shapes).zip(net.backbone.feature_info()) {
                assert_eq!(feature.size(), [1, shape.c, shape.h, shape.w], "{config:?}");
                assert_eq!(info.channels, shape.c, "{config:?}");
                assert_eq!(shape.h, (h - 1) / info.stride + 1, "{config:?}");
            }
            assert_eq!(net.forward(&images(1, h, w), Mode::EVAL).size(), [1, 5, h, w]);
        }
        let allocated: usize = vs.trainable_variables().iter().map(Tensor::numel).sum();
        assert_eq!(net.cost((33, 50)).params, allocated as u64, "{config:?}");
    }
}

#[test]
fn every_backbone_reaches_every_output_stride() {
    for (backbone, stride) in ALL.iter().flat_map(|backbone| [8, 16, 32].map(|stride| (backbone, stride))) {
        let net = at_stride(stride, backbone.clone()).build(&VarBuilder::dry(), 5).unwrap();
        let info = net.backbone.feature_info();
        assert_eq!([info[0].stride, info[1].stride], [4, stride], "{backbone:?}");
        let (_, shapes) = net.backbone.cost_parts(Shape::new(3, 321, 256));
        assert_eq!(shapes[1].size(), (320 / stride + 1, 256 / stride), "{backbone:?}");
    }
}

#[test]
fn strides_beyond_the_output_stride_become_rates() {
    let mut budget = StrideBudget::new(8, 2);
    let layers = [2, 1, 2, 1, 2, 1, 2, 1].map(|stride| budget.next(stride));
    let rates = [(2, 1), (1, 1), (2, 1), (1, 1), (1, 1), (1, 2), (1, 2), (1, 4)];
    assert_eq!(layers, rates);
}

#[test]
fn a_step_reaches_every_weight_at_batch_one() {
    let vs = VarStore::new(Device::Cpu);
    let config = camvid_config();
    let net = config.build(&VarBuilder::new(&vs), 11).unwrap();
    net.forward(&images(1, 65, 50), Mode::train(0.0)).square().mean(Kind::Float).backward();
    for (name, weight) in vs.variables() {
        let trained = weight.requires_grad();
        // Image pooling at batch 1 is normalised by running statistics, see `BatchNorm`; it learns all the same.
        let norm = if trained { weight.grad().norm().double_value(&[]) } else { weight.norm().double_value(&[]) };
        assert!(norm.is_finite() && (!trained || norm > 0.0), "{name}: {norm}");
    }
}

#[test]
fn mobilenet_v2_computes_what_torchvision_computes() {
    let golden: Value =
        serde_json::from_str(include_str!("../../../tests/golden/torchvision/mobilenet_v2.json")).unwrap();
    let vs = VarStore::new(Device::Cpu);
    let net = MobileNetV2Config::default().build(&VarBuilder::new(&vs), 32, BnConfig::default()).unwrap();
    tch::no_grad(|| vs.variables().iter().for_each(|(name, tensor)| fill(name, tensor)));
    let features = net.features(&wave(&[2, 3, 65, 48], 0.0).to_kind(Kind::Float), Mode::EVAL);
    for (name, feature) in ["low_level", "last"].into_iter().zip(features) {
        let golden = &golden[name];
        let feature = feature.to_kind(Kind::Double);
        let pixel = |image, at| feature.select(0, image).select(2, at).select(1, at).sum(Kind::Double);
        for (key, found) in [
            ("mean", feature.mean(Kind::Double)),
            ("stdev", feature.std(false)),
            ("first_pixel", pixel(0, 0)),
            ("last_pixel", pixel(1, -1)),
        ] {
            let (found, expected) = (found.double_value(&[]), golden[key].as_f64().unwrap());
            let tolerance = 1e-4 * expected.abs().max(1.0);
            assert!((found - expected).abs() < tolerance, "{name}.{key}: {found}, expected {expected}");
        }
    }
}

#[test]
fn a_config_survives_toml_with_and_without_a_decoder() {
    for backbone in ALL {
        let config = ModelConfig::Deeplabv3plus(DeepLabV3PlusConfig::new(backbone));
        let text = nas_core::run::config::to_toml(&config);
        assert_eq!(parse(&text).unwrap(), config, "{text}");
    }
}

#[test]
fn a_small_config_is_the_network_that_it_names() {
    let text = "kind = 'deeplabv3plus'
        bn = { momentum = 0.1 }
        backbone = { kind = 'mobilenet_v2', blocks = 13 }
        [head]
        channels = 64
        separable = true
        bn = { momentum = 0.1 }
        decoder = { low_level_channels = 16, channels = 64 }";
    assert_eq!(parse(text).unwrap(), ModelConfig::Deeplabv3plus(camvid_config()));
    assert_eq!(count(&camvid_config(), 11, (180, 240)).params, 611_771);
}

#[test]
fn config_mistakes_are_named() {
    for (text, expected) in [
        ("kind = 'deeplab'", "deeplabv3plus"),
        ("kind = 'deeplabv3plus'", "backbone"),
        ("kind = 'deeplabv3plus'\nbackbone = { kind = 'xception' }", "xception41"),
        ("kind = 'deeplabv3plus'\nbackbone = { kind = 'xception41', width = 2 }", "width"),
        ("kind = 'deeplabv3plus'\nbackbone = { kind = 'xception41' }\nhead = { decoder = { chanels = 3 } }", "chanels"),
        ("kind = 'deeplabv3plus'\nbackbone = { kind = 'xception41' }\nhead = { decoder = 3 }", "decoder"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    for (key, value) in [
        ("model.output_stride", "output_stride = 4\nbackbone = { kind = 'xception41' }"),
        ("model.backbone.blocks", "backbone = { kind = 'mobilenet_v2', blocks = 18 }"),
        ("model.backbone.width", "backbone = { kind = 'mobilenet_v2', width = 0.0 }"),
        ("model.head.rates", "backbone = { kind = 'xception41' }\nhead = { rates = [1, 0, 2] }"),
        ("model.head.channels", "backbone = { kind = 'xception41' }\nhead = { channels = 0 }"),
        ("model.head.dropout", "backbone = { kind = 'xception41' }\nhead = { dropout = 1.0 }"),
    ] {
        let config = parse(&format!("kind = 'deeplabv3plus'\n{value}")).unwrap();
        let error = config.build(&VarBuilder::dry(), 19).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}

fn parse(text: &str) -> Result<ModelConfig, nas_core::run::config::ConfigError> {
    nas_core::run::config::from_table(text.parse().unwrap(), "test")
}

/// The small network that trains on CamVid in minutes.
fn camvid_config() -> DeepLabV3PlusConfig {
    let bn = BnConfig::default();
    let decoder = DecoderConfig { low_level_channels: 16, channels: 64 };
    DeepLabV3PlusConfig {
        output_stride: 16,
        bn,
        backbone: BackboneConfig::MobilenetV2(MobileNetV2Config { blocks: 13, ..Default::default() }),
        head: HeadConfig { channels: 64, separable: true, bn, decoder: Some(decoder), ..Default::default() },
    }
}

fn images(batch: i64, h: i64, w: i64) -> Tensor {
    wave(&[batch, 3, h, w], 0.0).to_kind(Kind::Float)
}

/// `sin(0.7 i + phase)`, as in the script of the golden numbers.
fn wave(size: &[i64], phase: f64) -> Tensor {
    let count = size.iter().product::<i64>();
    (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.7 + phase).sin().reshape(size)
}

fn fill(name: &str, tensor: &Tensor) {
    let size = tensor.size();
    let values = wave(&size, name.len() as f64);
    let values = match size[..] {
        [_, c, h, w] => values * (6.0 / (c * h * w) as f64).sqrt(),
        _ if name.ends_with("weight") || name.ends_with("running_var") => values * 0.2 + 1.0,
        _ => values * 0.2,
    };
    tensor.shallow_clone().copy_(&values);
}
