use std::path::Path;

use nas_core::optim::{gradients, named_parameters};
use tch::nn::VarStore;
use tch::{Device, Kind};

use super::*;
use nas_core::search::table::Table;

use crate::nasbench201::NasBench201;

const CIFAR: Shape = Shape { c: 3, h: 32, w: 32 };

fn dry(config: &NetworkConfig, arch: [u16; 6]) -> Network {
    Network::new(&VarBuilder::dry(), config, arch).unwrap()
}

fn small() -> NetworkConfig {
    NetworkConfig { channels: 4, cells: 1, num_classes: 3 }
}

/// The benchmark's FLOPs: multiply-adds, and one for each bias of the classifier.
fn flops(config: &NetworkConfig, arch: [u16; 6], input: Shape) -> u64 {
    dry(config, arch).cost(input).macs + config.num_classes as u64
}

#[test]
fn published_flops_of_the_first_architecture_are_met_on_all_three_data_sets() {
    // Values of the benchmark's API for index 0, github.com/D-X-Y/NATS-Bench issue 24.
    let first = [4, 2, 1, 2, 1, 1];
    for (num_classes, side, expected) in [(10, 32, 15_647_370), (100, 32, 15_653_220), (120, 16, 3_919_480)] {
        let config = NetworkConfig { num_classes, ..Default::default() };
        assert_eq!(flops(&config, first, Shape::new(3, side, side)), expected, "{num_classes} classes");
    }
}

#[test]
fn parts_are_counted_and_named_from_input_to_output() {
    let parts = dry(&NetworkConfig::default(), [3; 6]).cost_parts(CIFAR);
    let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["stem", "stage_1", "stage_2", "stage_3", "last_norm", "classifier"]);
    assert_eq!(parts[5].1, Cost { params: 650, macs: 640 });
    assert_eq!(parts[0].1, Cost { params: 27 * 16 + 32, macs: 27 * 16 * 1024 });
}

/// The whole table with the places of `params_m` and `flops_m`, or nothing where it is not at hand.
fn table() -> Option<(Table, usize, usize)> {
    let Ok(data) = std::env::var("NAS_DATA") else {
        println!("skipped: NAS_DATA not set");
        return None;
    };
    // Tests run in the crate's folder; the variable is relative to the repository.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(data).join("nasbench201/nasbench201.csv.gz");
    let table = Table::read(&[path], &|text| Ok(NasBench201::parse(text)?)).unwrap();
    let column = |name| table.column(name).unwrap();
    let (params, flops) = (column("params_m"), column("flops_m"));
    Some((table, params, flops))
}

fn choices(arch: &Architecture) -> [u16; 6] {
    arch.choices().try_into().unwrap()
}

/// Every architecture is compared: counting all 15,625 takes a fraction of a second.
#[test]
fn parameters_of_all_architectures_are_those_of_the_table() {
    let Some((table, params_m, _)) = table() else { return };
    assert_eq!(table.archs().len(), 15_625);
    for arch in table.archs() {
        let params = dry(&NetworkConfig::default(), choices(arch)).cost(CIFAR).params;
        assert_eq!(params, (table.get(arch, params_m).unwrap() * 1e6).round() as u64, "{arch}");
    }
}

/// The table's `flops_m` is not the benchmark's FLOPs: it also counts 9 per output of a pooling operator, 2 per output of a
/// norm and 1 per output of a rectifier, but no bias. What is added outside the cells is the same for all.
#[test]
fn multiply_adds_of_all_architectures_are_those_of_the_table() {
    let Some((table, _, flops_m)) = table() else { return };
    let outputs = 5 * (16 * 32 * 32 + 32 * 16 * 16 + 64 * 8 * 8);
    assert_eq!(table.archs().len(), 15_625);
    for arch in table.archs() {
        let macs = dry(&NetworkConfig::default(), choices(arch)).cost(CIFAR).macs;
        let count = |wanted: &[u16]| arch.choices().iter().filter(|choice| wanted.contains(choice)).count() as u64;
        let outside = 160_832;
        let found = macs + outputs * (3 * count(&[2, 3]) + 9 * count(&[4])) + outside;
        // The table has five decimals of a million.
        let expected = table.get(arch, flops_m).unwrap();
        assert!((found as f64 / 1e6 - expected).abs() < 5.001e-6, "{arch}: {found}, {expected} M");
    }
}

#[test]
fn what_is_counted_is_allocated_and_what_is_said_of_shapes_holds() {
    for arch in [[0, 1, 2, 3, 4, 0], [3; 6], [1, 0, 4, 2, 3, 1]] {
        let vs = VarStore::new(Device::Cpu);
        let net = Network::new(&VarBuilder::new(&vs), &small(), arch).unwrap();
        let allocated: usize = vs.trainable_variables().iter().map(Tensor::numel).sum();
        let input = Shape::new(3, 13, 10);
        assert_eq!(net.cost(input).params, allocated as u64);
        let xs = Tensor::randn([2, 3, 13, 10], (Kind::Float, Device::Cpu));
        let (_, shapes) = net.trunk.cost_parts(input);
        let features = net.trunk.features(&xs, Mode::EVAL);
        for ((ys, shape), info) in features.iter().zip(shapes).zip(net.trunk.feature_info()) {
            assert_eq!(ys.size(), [2, shape.c, shape.h, shape.w]);
            assert_eq!((info.channels, (13 + info.stride - 1) / info.stride), (shape.c, shape.h));
        }
        assert_eq!(net.features(&xs, Mode::EVAL).size(), [2, 16]);
        assert_eq!(net.forward(&xs, Mode::train(0.0)).size(), [2, 3]);
    }
}

#[test]
fn variables_have_the_names_of_the_benchmark() {
    let vs = VarStore::new(Device::Cpu);
    let config = NetworkConfig { cells: 2, ..small() };
    Network::new(&VarBuilder::new(&vs), &config, [3, 0, 1, 4, 2, 0]).unwrap();
    let mut names: Vec<String> = vs.variables().into_keys().filter(|name| !name.contains("running")).collect();
    names.sort();
    let cell = |i: usize| [0, 4].map(|edge| format!("cells.{i}.layers.{edge}.op"));
    let bases =
        |ops: Vec<String>| ops.into_iter().flat_map(|op| [format!("{op}.1"), format!("{op}.2"), format!("{op}.2")]);
    let mut ops: Vec<String> = [0, 1, 3, 4, 6, 7].into_iter().flat_map(cell).collect();
    ops.extend([2, 5].into_iter().flat_map(|i| [format!("cells.{i}.conv_a.op"), format!("cells.{i}.conv_b.op")]));
    let mut expected: Vec<String> = bases(ops)
        .zip(["weight", "weight", "bias"].into_iter().cycle())
        .map(|(base, leaf)| format!("{base}.{leaf}"))
        .collect();
    let others = "stem.0.weight stem.1.weight stem.1.bias cells.2.downsample.1.weight cells.5.downsample.1.weight \
                  lastact.0.weight lastact.0.bias classifier.weight classifier.bias";
    expected.extend(others.split_whitespace().map(String::from));
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn all_weights_have_a_gradient_even_where_nothing_is_connected() {
    tch::manual_seed(3);
    for arch in [[0; 6], [3, 3, 3, 0, 0, 0]] {
        let vs = VarStore::new(Device::Cpu);
        let net = Network::new(&VarBuilder::new(&vs), &small(), arch).unwrap();
        let xs = Tensor::randn([2, 3, 8, 8], (Kind::Float, Device::Cpu));
        let loss = net.forward(&xs, Mode::train(0.0)).cross_entropy_for_logits(&Tensor::from_slice(&[0i64, 2]));
        let parameters = named_parameters(&vs);
        for ((name, _), grad) in parameters.iter().zip(gradients(&loss, &parameters)) {
            assert!(grad.defined(), "{name}");
            let size = grad.abs().max().double_value(&[]);
            let dead = name.starts_with("stem") || name.contains("layers");
            assert!(if dead { size == 0.0 } else { size.is_finite() }, "{name}: {size}");
        }
    }
}

#[test]
fn a_node_is_the_sum_of_its_edges() {
    // Skips on 0->1, 1->2, 0->3 and 2->3 add the input to itself; pooling keeps constant maps as they are.
    let cell = |arch| Cell::new(&VarBuilder::dry(), 2, arch);
    let xs = Tensor::ones([1, 2, 4, 4], (Kind::Float, Device::Cpu));
    for (arch, factor) in
        [([1, 0, 1, 1, 0, 1], 2.0), ([1; 6], 4.0), ([4; 6], 4.0), ([1, 0, 0, 0, 1, 0], 1.0), ([1, 1, 1, 0, 0, 0], 0.0)]
    {
        assert_eq!(cell(arch).forward(&xs, Mode::EVAL), &xs * factor, "{arch:?}");
    }
}

#[test]
fn impossible_networks_are_refused_by_name() {
    let refusal =
        |config: NetworkConfig, arch| Network::new(&VarBuilder::dry(), &config, arch).unwrap_err().to_string();
    assert_eq!(
        refusal(small(), [0, 0, 5, 0, 0, 0]),
        "architecture 0-0-5-0-0-0 is not of the space nasbench201: choice 2 is 5, expected 0 to 4"
    );
    assert!(refusal(NetworkConfig { channels: 0, ..small() }, [0; 6]).starts_with("model.channels = 0"));
    assert!(refusal(NetworkConfig { cells: 0, ..small() }, [0; 6]).starts_with("model.cells = 0"));
    assert!(refusal(NetworkConfig { num_classes: -1, ..small() }, [0; 6]).starts_with("model.num_classes = -1"));
    let unknown = serde_json::from_str::<NetworkConfig>(r#"{"depth": 3}"#).unwrap_err().to_string();
    assert!(unknown.contains("depth"), "{unknown}");
    assert_eq!(serde_json::from_str::<NetworkConfig>("{}").unwrap(), NetworkConfig::default());
}
