use tch::Device;

use super::*;
use crate::run::export::onnx::fold_batch_norms;
use crate::run::export::onnx::interpreter::Interpreter;
use crate::run::export::onnx::proto::{INT8, INT32, UINT8};

#[test]
fn a_range_has_255_steps_and_zero_is_one_of_them() {
    // -0.5 / (1.5 / 255) = -85 steps; ranges on one side of zero are widened to it.
    assert_eq!(Affine::of((-0.5, 1.0)), Affine { scale: 1.5 / 255.0, zero_point: 85 });
    assert_eq!(Affine::of((0.25, 5.1)), Affine { scale: 5.1 / 255.0, zero_point: 0 });
    assert_eq!(Affine::of((-5.1, -3.0)), Affine { scale: 5.1 / 255.0, zero_point: 255 });
    // Zero points of 0.5 and 1.5 go to the even neighbour.
    assert_eq!(Affine::of((-0.5, 254.5)), Affine { scale: 1.0, zero_point: 0 });
    assert_eq!(Affine::of((-1.5, 253.5)), Affine { scale: 1.0, zero_point: 2 });
    assert_eq!(Affine::of((0.0, 0.0)), Affine { scale: 1.0, zero_point: 0 });
    assert_eq!(Affine::of((0.0, 1e-30)).scale, LEAST_SCALE);
}

#[test]
fn weights_have_a_scale_by_channel_and_keep_its_largest() {
    let weights = Tensor::from_slice(&[1.27f32, -0.635, 0.015, 0.025, -254.0, 1.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        .reshape([3, 2, 1, 2]);
    let Channels { bytes, scales } = Channels::of(&weights, &[0.0; 3], WeightBits::Eight).unwrap();
    assert_eq!(scales, [1.27 / 127.0, 2.0, 1.0]);
    assert_eq!((bytes.kind(), bytes.size()), (Kind::Int8, vec![3, 2, 1, 2]));
    // 0.015 / 0.01 and 0.5, 1.5 steps: half to even, as far as floats have the halves.
    let steps = Vec::<i8>::try_from(bytes.reshape([-1])).unwrap();
    assert_eq!(steps[..2], [127, -64]);
    assert_eq!(steps[4..], [-127, 0, 2, 0, 0, 0, 0, 0]);
    // A scale that a bias asks for.
    assert_eq!(Channels::of(&weights, &[0.0, 4.0, 0.0], WeightBits::Eight).unwrap().scales[1], 4.0);
    // Two products of a byte without and one with a sign fit 16 bits.
    let Channels { bytes, scales } = Channels::of(&weights, &[0.0; 3], WeightBits::Seven).unwrap();
    assert_eq!((bytes.min().int64_value(&[]), bytes.max().int64_value(&[])), (-63, 63));
    assert_eq!(scales[1], 254.0 / 63.0);
    assert!(2 * 255 * 63 <= i16::MAX.into());
}

#[test]
fn biases_fit_their_bits_even_of_channels_without_weights() {
    assert_eq!(bias_steps(&[0.5, -1.5, 2.5, 0.74], &[1.0, 1.0, 1.0, 0.5]), [0, -2, 2, 1]);
    let input = Affine { scale: 0.125, zero_point: 3 };
    let (bias, weights) = ([3.0f32, 1e9, 0.0], Tensor::zeros([3, 1, 1, 1], (Kind::Float, Device::Cpu)));
    let channels = Channels::of(&weights, &least_scales(&bias, input), WeightBits::Eight).unwrap();
    let scales: Vec<f32> = channels.scales.iter().map(|scale| scale * input.scale).collect();
    for ((steps, bias), scale) in bias_steps(&bias, &scales).into_iter().zip(bias).zip(scales) {
        assert!(f64::from(steps).abs() <= MOST_BIAS_STEPS + 64.0, "{steps}");
        assert!((steps as f32 * scale - bias).abs() <= bias * 1e-6, "{steps} of {scale} for {bias}");
    }
}

fn node(op: &str, input: &[&str], output: &str) -> NodeProto {
    NodeProto {
        input: input.iter().map(|name| name.to_string()).collect(),
        output: vec![output.to_string()],
        name: Some(output.to_string()),
        op_type: Some(op.to_string()),
        attribute: Vec::new(),
    }
}

fn evaluated(nodes: Vec<NodeProto>, tensors: &[(&str, Tensor)], input: &Tensor) -> Tensor {
    let initializer = tensors.iter().map(|(name, tensor)| tensor_proto(name, tensor).unwrap()).collect();
    let graph = GraphProto { node: nodes, initializer, ..Default::default() };
    let mut values = Interpreter::new(&graph).unwrap().run(input).unwrap();
    values.remove("y").unwrap()
}

/// Numbers of the examples in ONNX' description of the operators (`test_quantizelinear`, `test_quantizelinear_axis`,
/// `test_dequantizelinear`, `test_dequantizelinear_axis`), and halves.
#[test]
fn the_interpreter_rounds_as_onnx_says() {
    let scalar = |x: f32| Tensor::from(x);
    let byte = |x: u8| Tensor::from_slice(&[x]).reshape([1i64; 0]);
    let quantize = |x: &[f32], scale: f32, zero: Tensor| {
        let y = evaluated(
            vec![node("QuantizeLinear", &[INPUT, "s", "z"], "y")],
            &[("s", scalar(scale)), ("z", zero)],
            &Tensor::from_slice(x),
        );
        Vec::<i64>::try_from(y.to_kind(Kind::Int64)).unwrap()
    };
    assert_eq!(quantize(&[0.0, 2.0, 3.0, 1000.0, -254.0, -1000.0], 2.0, byte(128)), [128, 129, 130, 255, 1, 0]);
    assert_eq!(
        quantize(&[1.0, 3.0, 5.0, -1.0, -3.0], 2.0, byte(10)),
        [10, 12, 12, 10, 8],
        "halves to even, then the zero point"
    );
    let signed = Tensor::from_slice(&[-10i8]).reshape([1i64; 0]);
    assert_eq!(quantize(&[0.0, 300.0, -300.0], 1.0, signed), [-10, 127, -128]);

    let x = Tensor::from_slice(&[
        -162f32, 10., -100., 232., -20., -50., -76., 0., 0., 252., 32., -44., 245., -485., -960., -270., -375., -470.,
    ]);
    let (scales, zeros) = (Tensor::from_slice(&[2f32, 4., 5.]), Tensor::from_slice(&[84u8, 24, 196]));
    let by_axis = |op: &str| NodeProto { attribute: vec![int("axis", 1)], ..node(op, &[INPUT, "s", "z"], "y") };
    let parameters = [("s", scales), ("z", zeros)];
    let bytes = evaluated(vec![by_axis("QuantizeLinear")], &parameters, &x.reshape([1, 3, 3, 2]));
    let expected = [3u8, 89, 34, 200, 74, 59, 5, 24, 24, 87, 32, 13, 245, 99, 4, 142, 121, 102];
    assert_eq!((bytes.kind(), Vec::<u8>::try_from(bytes.reshape([-1])).unwrap()), (Kind::Uint8, expected.to_vec()));
    let back = evaluated(vec![by_axis("DequantizeLinear")], &parameters, &bytes);
    assert_eq!(back.reshape([-1]), x, "all are multiples of their scales");
}

/// conv, norm, ReLU, a sum with what came in, and a linear layer; two convolutions share their weights.
fn small_network() -> GraphProto {
    tch::manual_seed(3);
    let float = (Kind::Float, Device::Cpu);
    let conv = |input: &[&str], output: &str| NodeProto {
        attribute: ["strides", "dilations", "pads"]
            .into_iter()
            .map(|name| super::super::proto::AttributeProto {
                name: Some(name.into()),
                ints: if name == "pads" { vec![1; 4] } else { vec![1; 2] },
                r#type: Some(7),
                ..Default::default()
            })
            .collect(),
        ..node("Conv", input, output)
    };
    let gemm = NodeProto { attribute: vec![int("transB", 1)], ..node("Gemm", &["f", "g", "h"], "logits") };
    let nodes = vec![
        conv(&[INPUT, "a", "b"], "c1"),
        node("BatchNormalization", &["c1", "scale", "shift", "mean", "var"], "n"),
        node("Relu", &["n"], "r"),
        conv(&["r", "w"], "c2"),
        conv(&["c2", "w"], "c3"),
        node("Add", &["c3", "r"], "s"),
        node("GlobalAveragePool", &["s"], "p"),
        node("Flatten", &["p"], "f"),
        gemm,
    ];
    let tensors = [
        ("a", Tensor::randn([6, 3, 3, 3], float)),
        ("b", Tensor::randn([6], float)),
        ("scale", Tensor::rand([6], float) + 0.5),
        ("shift", Tensor::randn([6], float)),
        ("mean", Tensor::randn([6], float)),
        ("var", Tensor::rand([6], float) * 20 + 1.0),
        ("w", Tensor::randn([6, 6, 3, 3], float) * 0.2),
        ("g", Tensor::randn([4, 6], float)),
        ("h", Tensor::randn([4], float)),
        ("unused", Tensor::randn([4], float)),
    ];
    let initializer = tensors.iter().map(|(name, tensor)| tensor_proto(name, tensor).unwrap()).collect();
    let output = vec![super::super::value_info("logits", &[])];
    GraphProto { node: nodes, initializer, output, ..Default::default() }
}

fn outputs(graph: &GraphProto, images: &Tensor, see: &mut dyn FnMut(&str, &Tensor)) -> Tensor {
    Interpreter::new(graph).unwrap().outputs(images, see).unwrap().remove(0)
}

fn ops(graph: &GraphProto) -> Vec<&str> {
    graph.node.iter().map(|node| node.op_type()).collect()
}

#[test]
fn a_norm_becomes_part_of_its_convolution_and_changes_nothing() {
    let graph = small_network();
    let folded = fold_batch_norms(&graph).unwrap();
    assert_eq!(ops(&folded), ["Conv", "Relu", "Conv", "Conv", "Add", "GlobalAveragePool", "Flatten", "Gemm"]);
    let kept: Vec<&str> = folded.initializer.iter().map(|tensor| tensor.name()).collect();
    assert_eq!(kept, ["w", "g", "h", "n/weight", "n/bias"]);
    let images = Tensor::randn([2, 3, 8, 9], (Kind::Float, Device::Cpu));
    let [expected, found] = [&graph, &folded].map(|graph| outputs(graph, &images, &mut |_, _| {}));
    assert!(expected.allclose(&found, 1e-5, 1e-5, false));
}

#[test]
fn layers_compute_between_bytes_and_stay_within_a_few_steps() {
    let graph = fold_batch_norms(&small_network()).unwrap();
    let images = Tensor::randn([16, 3, 8, 9], (Kind::Float, Device::Cpu));
    let mut ranges = Ranges::asked_for(&graph);
    let expected = outputs(&graph, &images, &mut |name, value| ranges.see(name, value));
    // The sum is float: only a pool reads it. What a ReLU or nothing bounds has one place, not two.
    let rounded: Vec<&str> = ranges.0.keys().map(String::as_str).collect();
    assert_eq!(rounded, ["c2", "c3", "f", INPUT, "logits", "r"]);

    let quantized = quantize(&graph, &ranges, WeightBits::Eight).unwrap();
    let kind = |name: &str| quantized.initializer.iter().find(|tensor| tensor.name() == name).unwrap().data_type;
    assert_eq!(kind("w/steps"), Some(INT8));
    assert_eq!(kind("logits/bias/steps"), Some(INT32));
    assert_eq!(kind("r/zero_point"), Some(UINT8));
    let shared = quantized.node.iter().filter(|node| node.op_type() == "Conv" && node.input[1] == "w/dequantized");
    assert_eq!(shared.count(), 2, "weights that are shared stand in the file once");
    assert!(!quantized.initializer.iter().any(|tensor| tensor.name() == "w"), "nor as floats");
    assert_eq!(ops(&quantized).iter().filter(|op| **op == "QuantizeLinear").count(), 6);

    let found = outputs(&quantized, &images, &mut |name, value| {
        // Where the bytes are, no range is passed by: both ends are used by the images that gave them.
        if name == "c2/int8" {
            assert_eq!((value.min().int64_value(&[]), value.max().int64_value(&[])), (0, 255));
        }
    });
    let step = f64::from(Affine::of(ranges.of("logits").unwrap()).scale);
    let steps = (expected - found).abs().max().double_value(&[]) / step;
    assert!(steps > 0.01 && steps < 6.0, "{steps} steps");
}

#[test]
fn a_value_without_a_range_and_a_range_without_numbers_are_named() {
    let graph = fold_batch_norms(&small_network()).unwrap();
    let error = quantize(&graph, &Ranges::default(), WeightBits::Seven).unwrap_err();
    assert!(format!("{error:#}").contains("has no range"), "{error:#}");
    let mut ranges = Ranges::asked_for(&graph);
    let images = Tensor::full([1, 3, 8, 9], f64::NAN, (Kind::Float, Device::Cpu));
    let _ = outputs(&graph, &images, &mut |name, value| ranges.see(name, value));
    let error = quantize(&graph, &ranges, WeightBits::Seven).unwrap_err();
    assert!(format!("{error:#}").contains("calibration"), "{error:#}");
}
