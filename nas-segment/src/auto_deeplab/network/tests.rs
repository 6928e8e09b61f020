use std::array::from_fn;

use nas_core::nn::VarBuilder;
use tch::{Device, Kind, nn::VarStore};

use super::*;

fn params(filters: i64) -> Vec<u64> {
    let net = AutoDeepLabConfig::published(filters).build(&VarBuilder::dry(), 19).unwrap();
    net.cost_parts((1025, 2049)).into_iter().map(|(_, cost)| cost.params).collect()
}

/// Spec C and G: figures that reproduce the published totals to every digit.
#[test]
fn parameters_of_every_part_equal_the_published_networks() {
    let s = [
        112_832, 38_240, 38_960, 38_400, 135_200, 512_000, 151_200, 536_000, 536_000, 2_038_400, 2_102_400, 616_000,
        175_200, 1_815_552, 1_296_160, 4_883,
    ];
    let l = [
        112_832, 189_888, 198_336, 203_712, 743_808, 2_879_232, 835_968, 3_017_472, 3_017_472, 11_601_408, 11_970_048,
        3_478_272, 974_208, 3_894_272, 1_302_880, 4_883,
    ];
    assert_eq!(params(20), s);
    assert_eq!(params(48), l);
    assert_eq!([20, 32, 48].map(|f| params(f).iter().sum::<u64>()), [10_147_427, 21_622_451, 44_424_691]);
}

#[test]
fn multiply_adds_equal_the_verified_counts_at_even_and_odd_sizes() {
    let macs = |filters, size| {
        let net = AutoDeepLabConfig::published(filters).build(&VarBuilder::dry(), 19).unwrap();
        format!("{:.2}", net.cost(size).macs as f64 / 1e9)
    };
    assert_eq!([20, 32, 48].map(|f| macs(f, (1024, 2048))), ["317.54", "434.99", "653.58"]);
    assert_eq!([20, 32, 48].map(|f| macs(f, (1025, 2049))), ["320.45", "439.92", "662.42"]);
}

/// TensorFlow's `nas_network_test.py`: 321x321, F = 10.
#[test]
fn maps_have_the_shapes_of_the_reference_test() {
    let vs = VarStore::new(Device::Cpu);
    let config = AutoDeepLabConfig::published(10);
    let net = Network::new(&VarBuilder::new(&vs), &config.genotype().unwrap(), &config);
    let [mut before, mut last] =
        tch::no_grad(|| net.stem.forward(&Tensor::zeros([1, 3, 321, 321], (Kind::Float, Device::Cpu)), Mode::EVAL));
    assert_eq!(last.size(), [1, 128, 81, 81]);
    let sizes = Network::levels((81, 81));
    let expected = [
        (81, 50),
        (81, 50),
        (81, 50),
        (41, 100),
        (21, 200),
        (41, 100),
        (21, 200),
        (21, 200),
        (11, 400),
        (11, 400),
        (21, 200),
        (41, 100),
    ];
    for (cell, (side, channels)) in net.cells.iter().zip(expected) {
        let ys = tch::no_grad(|| cell.forward(&before, &last, &sizes, Wiring::Published, Mode::EVAL));
        assert_eq!(ys.size(), [1, channels, side, side]);
        (before, last) = (last, ys);
    }
}

/// Both wirings, even and odd sizes: what is counted is what is allocated, and shapes are those of a real forward pass.
#[test]
fn counts_equal_allocations_and_shapes_equal_a_forward_pass() {
    for (wiring, (h, w)) in [Wiring::Published, Wiring::Search].into_iter().flat_map(|w| [(w, (65, 97)), (w, (60, 90))])
    {
        let vs = VarStore::new(Device::Cpu);
        let config = AutoDeepLabConfig { filters: 2, stem: [4, 4, 8], wiring, ..Default::default() };
        let net = Network::new(&VarBuilder::new(&vs), &config.genotype().unwrap(), &config);
        let (parts, shapes) = net.cost_parts(Shape::new(3, h, w));
        let allocated: usize = vs.trainable_variables().iter().map(Tensor::numel).sum();
        assert_eq!(parts.iter().map(|(_, cost)| cost.params).sum::<u64>(), allocated as u64);
        let images = Tensor::randn([2, 3, h, w], (Kind::Float, Device::Cpu));
        let features = net.features(&images, Mode::train(0.5));
        for (feature, shape) in features.iter().zip(shapes) {
            assert_eq!(feature.size(), [2, shape.c, shape.h, shape.w]);
        }
    }
}

#[test]
fn low_level_features_are_the_last_leading_cell_at_stride_four() {
    let info = |path: [u16; 4]| {
        let cell = [0, 4, 1, 4];
        let arch = Architecture::new(path.into_iter().chain(cell).collect());
        let config = AutoDeepLabConfig { arch, layers: 4, ..Default::default() };
        let net = Network::new(&VarBuilder::dry(), &config.genotype().unwrap(), &config);
        (net.low_level, net.info.map(|info| (info.channels, info.stride)))
    };
    assert_eq!(info([0, 0, 0, 0]), (LowLevel::Cell(2), [(20, 4), (20, 4)]));
    assert_eq!(info([0, 1, 0, 1]), (LowLevel::Cell(0), [(20, 4), (40, 8)]));
    assert_eq!(info([1, 2, 3, 3]), (LowLevel::Stem, [(128, 4), (160, 32)]));
}

/// The decoder of a re-implementation sees them after the ReLU.
#[test]
fn low_level_features_are_before_their_relu_and_final_ones_after_it() {
    let vs = VarStore::new(Device::Cpu);
    let config = AutoDeepLabConfig { filters: 2, stem: [4, 4, 8], ..Default::default() };
    let net = Network::new(&VarBuilder::new(&vs), &config.genotype().unwrap(), &config);
    let features = net.features(&Tensor::randn([2, 3, 65, 65], (Kind::Float, Device::Cpu)), Mode::train(0.0));
    let negative = |xs: &Tensor| xs.lt(0.0).any().int64_value(&[]) == 1;
    assert_eq!([negative(&features[0]), negative(&features[1])], [true, false]);
}

#[test]
fn drop_path_grows_with_depth_and_progress() {
    let config = AutoDeepLabConfig { drop_path_keep: 0.6, ..Default::default() };
    let net = Network::new(&VarBuilder::dry(), &config.genotype().unwrap(), &config);
    let keep = |cell: usize, progress| net.cells[cell].keep(Mode::train(progress));
    let expected: [f64; 3] = from_fn(|i| 1.0 - [0.0, 0.5, 1.0][i] * 0.4);
    assert_eq!([0.0, 0.5, 1.0].map(|progress| keep(11, progress)), expected);
    assert!((keep(5, 1.0) - 0.8).abs() < 1e-12);
}
