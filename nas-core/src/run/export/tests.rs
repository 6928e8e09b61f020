use tch::nn::VarStore;

use super::*;
use crate::nn::{
    Activation, BnConfig, Conv2d, ConvConfig, Linear, Mode, Module, Op, OpConfig, VarBuilder, channels_last, conv_bn,
    resize_bilinear,
};
use crate::train::all_variables;

/// Every operator of the cell spaces at both strides, a resize to the image, a pooled branch.
struct Everything {
    stem: Box<dyn Module>,
    ops: Vec<(Box<dyn Module>, Box<dyn Module>)>,
    last: Conv2d,
    classifier: Linear,
}

impl Everything {
    fn new(vs: &VarStore) -> Self {
        let vb = VarBuilder::new(vs);
        let conv = ConvConfig { stride: 2, bias: true, ..Default::default() };
        let stem = conv_bn(&vb.sub("stem"), (3, 6), 3, conv, BnConfig::default(), Activation::Hswish);
        let op = |op: &Op, stride: i64| {
            let config = OpConfig {
                channels: 6,
                stride,
                bn: BnConfig { affine: stride == 2, ..Default::default() },
                pool_bn: true,
            };
            op.build(&vb.sub("ops").sub(op).sub(stride), config)
        };
        Self {
            stem: Box::new(stem),
            ops: Op::ALL.iter().map(|o| (op(o, 2), op(o, 1))).collect(),
            last: Conv2d::depthwise(&vb.sub("last"), 6, 3, ConvConfig { dilation: 2, ..Default::default() }),
            classifier: Linear::new(&vb.sub("classifier"), 6, 4),
        }
    }

    fn forward(&self, xs: &Tensor) -> Vec<Tensor> {
        let (_, _, h, w) = xs.size4().expect("images");
        let stem = self.stem.forward(&channels_last(xs), Mode::EVAL);
        let sum = self.ops.iter().map(|(down, same)| same.forward(&down.forward(&stem, Mode::EVAL), Mode::EVAL));
        let sum = sum.reduce(|a, b| a + b).expect("operators");
        let ys = self.last.forward(&Activation::Relu6.apply_(sum), Mode::EVAL);
        let pooled = ys.mean_dim([2i64, 3].as_slice(), false, None).dropout(0.5, false);
        vec![self.classifier.forward(&pooled), resize_bilinear(&ys, (h, w))]
    }
}

/// Statistics and shifts that are not those of a fresh network, where swapped tensors would not show.
fn scatter(vs: &VarStore) {
    tch::manual_seed(5);
    tch::no_grad(|| {
        for (name, mut tensor) in all_variables(vs) {
            let values = tensor.rand_like() * 0.5 + if name.ends_with("running_var") { 0.75 } else { -0.25 };
            tensor.copy_(&values);
        }
    });
}

fn with_network(test: impl FnOnce(&Network, &Path)) {
    let vs = VarStore::new(Device::Cpu);
    let net = Everything::new(&vs);
    scatter(&vs);
    let forward = |xs: &Tensor| net.forward(xs);
    let outputs = vec!["logits".to_string(), "map".to_string()];
    let variables = all_variables(&vs);
    let network =
        Network { variables, forward: &forward, outputs, size: (32, 40), divisor: 1, fixed: None, suppressed: None };
    let dir = tempfile::tempdir().unwrap();
    test(&network, dir.path());
}

#[test]
fn every_operator_at_any_size_and_batch_equals_the_network_in_every_format() {
    with_network(|network, dir| {
        for file in ["m.onnx", "m.pt", "m.py"] {
            let written = write(network, &dir.join(file), &[("classes".into(), "a".into())]).unwrap();
            assert_eq!(written.fixed_size, None, "{:?}", written.fixed_because);
            assert!(written.max_difference.unwrap() < 1e-4, "{file}: {written:?}");
        }
    });
}

#[test]
fn parameters_keep_their_names_and_shapes_in_onnx_and_metadata_is_there() {
    with_network(|network, dir| {
        let path = dir.join("m.onnx");
        write(network, &path, &[("classes".into(), "[\"a\"]".into())]).unwrap();
        let model = onnx::read(&path).unwrap();
        let graph = model.graph.unwrap();
        let trained: Vec<_> = network.variables.iter().filter(|(_, tensor)| tensor.requires_grad()).collect();
        assert!(trained.len() > 50);
        for (name, tensor) in trained {
            let found = graph.initializer.iter().find(|found| found.name.as_ref() == Some(name));
            let found = found.unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(interpreter::from_proto(found).unwrap(), *tensor, "{name}");
        }
        assert_eq!(model.metadata_props[0].key.as_deref(), Some("classes"));
        let dims = |info: &onnx::proto::ValueInfoProto| {
            let shape = info.r#type.clone().unwrap().tensor_type.unwrap().shape.unwrap();
            shape.dim.into_iter().map(|dim| dim.value.unwrap()).collect::<Vec<_>>()
        };
        use onnx::proto::Side::{Free, Known};
        let free = |name: &str| Free(name.into());
        assert_eq!(dims(&graph.input[0]), [free("batch"), Known(3), free("height"), free("width")]);
        assert_eq!(dims(&graph.output[0]), [free("batch"), Known(4)]);
        assert_eq!(dims(&graph.output[1]), [free("batch"), Known(6), free("height"), free("width")]);
    });
}

#[test]
fn a_torchscript_module_can_be_trained() {
    with_network(|network, dir| {
        let path = dir.join("m.pt");
        write(network, &path, &[]).unwrap();
        let mut module = CModule::load(&path).unwrap();
        let parameters = module.named_parameters().unwrap();
        let trained = network.variables.iter().filter(|(_, tensor)| tensor.requires_grad());
        let expected: Vec<&String> = trained.map(|(name, _)| name).collect();
        let mut found: Vec<&String> = parameters.iter().map(|(name, _)| name).collect();
        found.sort();
        assert_eq!(found, expected);
        let images = Tensor::randn([2, 3, 32, 40], (Kind::Float, Device::Cpu));
        let forward = |module: &CModule| {
            outputs_of(module.forward_is(&[IValue::Tensor(images.shallow_clone())]).unwrap()).unwrap()
        };
        let before = forward(&module);
        module.set_train();
        let loss = forward(&module)[0].square().sum(Kind::Float);
        loss.backward();
        let with_gradient = parameters.iter().filter(|(_, tensor)| tensor.grad().defined()).count();
        assert!(with_gradient > expected.len() / 2, "{with_gradient} of {}", expected.len());
        module.set_eval();
        let after = forward(&module);
        assert_ne!(before[0], after[0], "running statistics follow in training");
    });
}

#[test]
fn a_network_that_depends_on_the_size_in_another_way_is_exported_at_its_own() {
    let vs = VarStore::new(Device::Cpu);
    let linear = Linear::new(&VarBuilder::new(&vs), 3, 2);
    let forward =
        |xs: &Tensor| vec![linear.forward(&(xs.mean_dim([2i64, 3].as_slice(), false, None) * (xs.size()[2] as f64)))];
    let variables = all_variables(&vs);
    let network = Network {
        variables,
        forward: &forward,
        outputs: vec!["logits".into()],
        size: (8, 9),
        divisor: 1,
        fixed: None,
        suppressed: None,
    };
    let dir = tempfile::tempdir().unwrap();
    let written = write(&network, &dir.path().join("m.onnx"), &[]).unwrap();
    assert_eq!(written.fixed_size, Some((8, 9)));
    assert!(written.fixed_because.unwrap().contains("another way at another size"));
    assert_eq!(written.compared, [[1, 3, 8, 9], [2, 3, 8, 9]]);
}
