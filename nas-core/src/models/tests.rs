use super::*;
use crate::nn::{Cost, Shape, VarBuilder};
use crate::space::Backbone;

fn total(net: &dyn Backbone, input: Shape) -> Cost {
    let mut total = Cost::default();
    net.cost_parts(input).0.into_iter().for_each(|(_, part)| total += part);
    total
}

fn strides(net: &dyn Backbone) -> Vec<i64> {
    net.feature_info().iter().map(|info| info.stride).collect()
}

/// Torchvision 0.28's counts (`sum(p.numel() for p in resnet50().parameters())`) without those of the last layer.
#[test]
fn resnets_have_torchvisions_parameters() {
    for (depth, params, channels) in [(ResNetDepth::R18, 11_689_512, 512), (ResNetDepth::R50, 25_557_032, 2048)] {
        let net = ResNet::new(&VarBuilder::dry(), &ResNetConfig::torchvision(depth));
        assert_eq!(total(&net, Shape::new(3, 64, 64)).params, params - 1000 * channels - 1000, "{depth:?}");
        assert_eq!(strides(&net), [4, 8, 16, 32]);
    }
}

#[test]
fn strides_beyond_the_output_stride_become_rates_in_every_network() {
    let xs = Shape::new(3, 97, 128);
    for (stride, expected) in [(8, vec![4, 8]), (16, vec![4, 8, 16]), (32, vec![4, 8, 16, 32])] {
        let resnet = ResNetConfig { output_stride: Some(stride), ..ResNetConfig::torchvision(ResNetDepth::R50) };
        let resnet = ResNet::new(&VarBuilder::dry(), &resnet);
        let layout = Layout { output_stride: Some(stride), ..mobilenet_v2::trunk(1.0, mobilenet_v2::BLOCKS) };
        let mobile = MobileNet::new(&VarBuilder::dry(), &layout);
        for net in [&resnet as &dyn Backbone, &mobile] {
            assert_eq!(strides(net), expected, "{stride}");
            let (_, shapes) = net.cost_parts(xs);
            for (shape, info) in shapes.iter().zip(net.feature_info()) {
                assert_eq!((shape.c, shape.h), (info.channels, (xs.h - 1) / info.stride + 1));
            }
        }
        let plain = ResNet::new(&VarBuilder::dry(), &ResNetConfig::torchvision(ResNetDepth::R50));
        assert_eq!(total(&resnet, xs).params, total(&plain, xs).params);
    }
}

#[test]
fn maps_are_tapped_where_a_stride_ends() {
    let layout = mobilenet_v2::trunk(1.0, mobilenet_v2::BLOCKS);
    assert_eq!(layout.blocks.len(), mobilenet_v2::BLOCKS);
    let net = MobileNet::new(&VarBuilder::dry(), &layout);
    let channels: Vec<i64> = net.feature_info().iter().map(|info| info.channels).collect();
    assert_eq!(channels, [24, 32, 96, 320]);
    let within = Layout { taps: Taps::Within { block: 2 }, ..layout };
    let info = MobileNet::new(&VarBuilder::dry(), &within).feature_info();
    let info: Vec<_> = info.iter().map(|info| (info.channels, info.stride)).collect();
    assert_eq!(info, [(144, 4), (320, 32)]);
}
