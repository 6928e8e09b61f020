use nas_core::nn::Cost;
use nas_core::nn::{Shape, VarBuilder};
use nas_core::space::Architecture;
use nas_core::space::ChoiceSpace;

use super::*;
use crate::backbone::{BackboneConfig, Classifier, total};

const IMAGE: Shape = Shape { c: 3, h: 224, w: 224 };

fn space(size: DetNasSize) -> DetNasSpace {
    DetNasConfig::new(size).space().unwrap()
}

/// Costs of the backbone and of the whole classifier into 1000 classes.
fn classifier(config: DetNasConfig) -> (Cost, Cost) {
    let net = Classifier::new(&VarBuilder::dry(), &BackboneConfig::Detnas(config), 1000).unwrap();
    let [backbone, head] = net.cost_parts(IMAGE).map(|parts| total(&parts));
    let mut all = backbone;
    all += head;
    (backbone, all)
}

#[test]
fn released_architectures_count_as_published() {
    let expected = [
        ("coco_fpn_300m", 288_082_368, 321_219_008, 3_533_112),
        ("coco_retinanet_300m", 291_205_824, 324_342_464, 3_725_320),
        ("voc_fpn_300m", 316_387_904, 349_524_544, 3_651_128),
        ("coco_fpn_1.3g", 1_269_181_536, 1_318_374_496, 10_426_328),
        // published as 3.8 G and 29.5 M: not reproduced by the released files, neither here nor by DetNAS' own code
        ("coco_fpn_3.8g", 3_937_832_864, 4_085_874_080, 31_444_596),
    ];
    for (point, (name, backbone_macs, macs, params)) in released().into_iter().zip(expected) {
        let config = DetNasConfig { arch: Some(point.arch.clone()), ..DetNasConfig::new(point.size) };
        let (backbone, all) = classifier(config);
        assert_eq!((point.name, backbone.macs, all.macs, all.params), (name, backbone_macs, macs, params));
        assert_eq!(space(point.size).macs_table(IMAGE).macs(&point.arch), backbone_macs, "{name}");
    }
}

#[test]
fn block_costs_of_the_300m_space_are_those_of_the_authors_table() {
    let table = space(DetNasSize::Mega300).macs_table(IMAGE);
    let stages = [
        ([13396992, 15805440, 19418112, 13146112], [7325696, 8931328, 11339776, 12343296], 4),
        ([26304768, 28111104, 30820608, 20296192], [10599680, 11603200, 13108480, 16746240], 4),
        ([30670080, 31673600, 33178880, 21199360], [10317440, 10819200, 11571840, 15899520], 8),
        ([30387840, 30889600, 31642240, 20634880], [10176320, 10427200, 10803520, 15476160], 4),
    ];
    let blocks = stages.iter().flat_map(|(first, other, blocks)| {
        std::iter::once(*first).chain(std::iter::repeat_n(*other, blocks - 1)).collect::<Vec<[u64; 4]>>()
    });
    assert_eq!(table, MacsTable { stem: 5_419_008, blocks: blocks.collect() });
}

#[test]
fn extremes_of_the_spaces_are_those_of_the_specification() {
    let range = |size| space(size).macs_table(IMAGE).range();
    assert_eq!(range(DetNasSize::Mega300), (237_222_720, 365_472_576));
    assert_eq!(range(DetNasSize::Giga1_3), (966_770_784, 1_485_603_168));
    assert_eq!(range(DetNasSize::Giga3_8), (3_042_758_880, 4_614_242_976));
}

#[test]
fn one_operator_everywhere_counts_as_in_the_specification() {
    let all = |size, op| {
        let arch = Architecture::new(vec![op; space(size).num_blocks()]);
        classifier(DetNasConfig { arch: Some(arch), ..DetNasConfig::new(size) }).1.macs
    };
    let counts = |size| [0, 1, 2, 3].map(|op| all(size, op));
    assert_eq!(counts(DetNasSize::Mega300), [295_842_496, 313_654_976, 340_373_696, 358_825_920]);
    assert_eq!(counts(DetNasSize::Giga1_3), [1_085_874_592, 1_136_978_848, 1_213_635_232, 1_440_424_480]);
}

/// 69 % of 2000 samples in the specification; five standard deviations of 4000 are 3.7 %.
#[test]
fn most_architectures_keep_the_limit_of_300_million() {
    let space = space(DetNasSize::Mega300);
    let table = space.macs_table(IMAGE);
    let mut rng = nas_datasets::rng::stream(0, "detnas", 0);
    let macs: Vec<u64> = (0..4000).map(|_| table.macs(&space.sample(&mut rng))).collect();
    let share = macs.iter().filter(|macs| **macs <= 300_000_000).count() as f64 / macs.len() as f64;
    assert!((share - 0.69).abs() < 0.05, "{share}");
}
