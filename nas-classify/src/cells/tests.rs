use nas_core::nn::{Mode, Shape, VarBuilder};
use nas_core::space::Architecture;
use nas_core::space::{Backbone, ChoiceSpace};
use nas_core::task::TaskModel;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::*;
use crate::model::{Classifier, ModelConfig};

fn cost(preset: &str, side: i64, num_classes: i64) -> (u64, u64) {
    let net = ModelConfig::preset(preset).unwrap().build(&VarBuilder::dry(), num_classes).unwrap();
    let cost = net.cost(Shape::new(3, side, side));
    (cost.params, cost.macs)
}

/// Parameters and multiply-adds of the authors' code under torch (`specs/strategies.md`, section 3).
#[test]
fn published_genotypes_have_the_counts_of_the_authors_networks() {
    assert_eq!(cost("darts_v1", 32, 10), (3_169_414, 500_987_520));
    assert_eq!(cost("darts_v2", 32, 10), (3_349_342, 528_359_040));
    assert_eq!(cost("darts_v1_imagenet", 224, 1000), (4_510_432, 505_864_704));
    assert_eq!(cost("darts_v2_imagenet", 224, 1000), (4_718_752, 529_911_552));
    for (preset, params, millions) in [
        ("pc_darts", 3_634_678, "556.7"),
        ("pc_darts_cifar_imagenet", 5_270_560, "571.1"),
        ("pc_darts_imagenet", 5_342_464, "581.6"),
    ] {
        let (side, classes) = if preset == "pc_darts" { (32, 10) } else { (224, 1000) };
        let (found, macs) = cost(preset, side, classes);
        assert_eq!((found, format!("{:.1}", macs as f64 / 1e6).as_str()), (params, millions), "{preset}");
    }
    assert_eq!((cost("nasnet_a", 32, 10).0, cost("nasnet_a_imagenet", 224, 1000).0), (3_830_950, 5_564_320));
    assert_eq!((cost("amoebanet_a", 32, 10).0, cost("amoebanet_a_imagenet", 224, 1000).0), (3_145_078, 4_627_360));
}

fn small(stem: StemKind, notation: &str) -> NetworkConfig {
    let genotype = published::genotype(notation);
    NetworkConfig { genotype, channels: 4, layers: 4, stem, auxiliary: false, ..Default::default() }
}

#[test]
fn networks_allocate_what_they_count_and_give_the_shapes_they_say() {
    for (stem, sides) in [(StemKind::Cifar, [16, 19]), (StemKind::Imagenet, [64, 75])] {
        for (name, notation) in published::ALL {
            let vs = VarStore::new(Device::Cpu);
            let config = small(stem, notation);
            let trunk = Trunk::new(&VarBuilder::new(&vs), &config).unwrap();
            let allocated: usize = vs.trainable_variables().iter().map(Tensor::numel).sum();
            for side in sides {
                let (parts, shapes) = trunk.cost_parts(Shape::new(3, side, side));
                assert_eq!(parts.iter().map(|(_, cost)| cost.params).sum::<u64>(), allocated as u64, "{name}");
                let maps = trunk.features(&Tensor::ones([2, 3, side, side], (Kind::Float, Device::Cpu)), Mode::EVAL);
                for ((map, shape), info) in maps.iter().zip(&shapes).zip(trunk.feature_info()) {
                    assert_eq!(map.size(), [2, shape.c, shape.h, shape.w], "{name} at {side}");
                    assert_eq!((info.channels, (side - 1) / info.stride + 1), (shape.c, shape.h), "{name} at {side}");
                }
                assert_eq!(maps.len(), 3);
            }
        }
    }
}

#[test]
fn the_auxiliary_head_speaks_in_training_only() {
    for (stem, side) in [(StemKind::Cifar, 32), (StemKind::Cifar, 20), (StemKind::Imagenet, 224)] {
        let vs = VarStore::new(Device::Cpu);
        let config = NetworkConfig { auxiliary: true, ..small(stem, published::DARTS_V2) };
        let net = Network::new(&VarBuilder::new(&vs), &config, 7).unwrap();
        let xs = Tensor::ones([2, 3, side, side], (Kind::Float, Device::Cpu));
        let logits = net.forward(&xs, Mode::train(0.5));
        assert_eq!((logits.main.size(), logits.aux.unwrap().size()), (vec![2, 7], vec![2, 7]));
        assert!(net.forward(&xs, Mode::EVAL).aux.is_none());
    }
}

/// At the start of the training nothing is dropped, later some edges of some images are. With 64 images and edges that
/// stay half the time, two passes that drop the same are not to be met.
#[test]
fn paths_are_dropped_more_and_more() {
    let vs = VarStore::new(Device::Cpu);
    let config = NetworkConfig { drop_path: 0.5, ..small(StemKind::Cifar, published::DARTS_V1) };
    let trunk = Trunk::new(&VarBuilder::new(&vs), &config).unwrap();
    let xs = Tensor::linspace(-1.0, 1.0, 64 * 3 * 64, (Kind::Float, Device::Cpu)).view([64, 3, 8, 8]);
    let maps = |progress| trunk.features(&xs, Mode::train(progress)).pop().unwrap();
    assert_eq!(maps(0.0), maps(0.0));
    assert_ne!(maps(1.0), maps(1.0));
}

#[test]
fn a_genotype_with_a_missing_cell_is_refused() {
    let genotype = "Genotype(normal=[('skip_connect', 0), ('skip_connect', 1)], normal_concat=[2])".parse().unwrap();
    let config = NetworkConfig { genotype, ..Default::default() };
    let error = Network::new(&VarBuilder::dry(), &config, 10).unwrap_err().to_string();
    assert!(error.contains("model.genotype: no cell for layer 6: expected cell_6 or reduce_1 or reduce"), "{error}");
}

/// Every node is between the input and the output; two cells have two inputs each and as many operators as edges.
#[test]
fn graphs_have_the_operators_of_all_cells() {
    for form in [CellForm::Darts, CellForm::Nasnet] {
        let space = CellSpace { form, ..Default::default() };
        let arch = Architecture::new(space.decisions().iter().map(|options| options - 1).collect());
        let graph = space.graph(&arch).unwrap();
        let nodes = graph.labels.len();
        assert_eq!(nodes, 2 + 2 * (2 + 2 * form.nodes()), "{form:?}");
        assert!(graph.edges.iter().all(|(from, to)| from < to && *to < nodes));
        assert!((1..nodes).all(|node| graph.edges.iter().any(|(_, to)| *to == node)), "{form:?}");
        let ops = space.genotype(&arch).unwrap().cells.iter().map(|(_, cell)| 2 * cell.nodes.len()).sum::<usize>();
        assert_eq!(nodes - 2 - 4, ops);
    }
}

#[test]
fn darts_published_cells_are_points_of_its_space() {
    let space = CellSpace::default();
    for notation in [published::DARTS_V1, published::DARTS_V2, published::PC_DARTS_CIFAR, published::PC_DARTS_IMAGENET]
    {
        let arch = space.architecture(&published::genotype(notation)).unwrap();
        let again = space.architecture(&space.genotype(&arch).unwrap()).unwrap();
        assert_eq!(again, arch);
        let model = ModelConfig::preset("darts_v1").unwrap().with_arch(arch).unwrap();
        let ModelConfig::Cells(config) = &model else { panic!("darts_v1 is made of cells") };
        let net =
            |config: &NetworkConfig| Network::new(&VarBuilder::dry(), config, 10).unwrap().cost(Shape::new(3, 32, 32));
        let original = NetworkConfig { genotype: published::genotype(notation), ..Default::default() };
        assert_eq!(net(config), net(&original));
    }
    let error = space.architecture(&published::genotype(published::NASNET_A)).unwrap_err();
    assert!(error.contains("sep_conv_7x7") || error.contains("twice"), "{error}");
}
