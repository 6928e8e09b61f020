//! Drawings of architectures as SVG.

use nas_core::run::drawing::{Boxes, Diagram};
use nas_core::space::Architecture;

use crate::cells::{Cell, Genotype};
use crate::chain::ChainSpace;
use crate::mobile::{MobileSpace, block_name};
use crate::nasbench201;

/// The cells of a genotype, one below the other.
pub fn genotype(genotype: &Genotype) -> String {
    let pictures = genotype.cells.iter().map(|(name, cell)| of_cell(name, cell).picture());
    pictures.reduce(|above, below| above.above(&below)).unwrap_or_default().document()
}

/// A cell of NAS-Bench-201. Edges of `none` are left out.
pub fn nasbench201(arch: &Architecture) -> String {
    let edges = nasbench201::EDGES.iter().zip(arch.choices()).filter(|(_, op)| **op > 0);
    let arrows = edges.map(|((from, to), op)| (*from, *to, nasbench201::OPS[usize::from(*op)].to_string()));
    let nodes = ["input", "1", "2", "output"].map(String::from).to_vec();
    let title = nasbench201::NasBench201::notation(arch);
    Diagram { title, nodes, arrows: arrows.collect() }.picture().document()
}

/// The layers of a chain: operators on the arrows between them, and what is added from before the last one.
pub fn chain(space: &ChainSpace, arch: &Architecture) -> String {
    let layers = 0..space.layers;
    let steps = layers.clone().map(|layer| (layer, layer + 1, ChainSpace::op_of(arch, layer).to_string()));
    let skips = space.skips(arch).map(|(from, to)| (from, to, String::new()));
    let nodes = std::iter::once("input".to_string()).chain(layers.map(|layer| layer.to_string())).collect();
    Diagram { title: arch.to_string(), nodes, arrows: steps.chain(skips).collect() }.picture().document()
}

/// The blocks of inverted residuals.
pub fn mobile(space: &MobileSpace, arch: &Architecture) -> String {
    let mut boxes = Boxes::default();
    let space = space.resolved();
    let mut stride = space.stem_stride;
    boxes.add(space.stem, stride, "#9e9e9e", &format!("stem, {} channels, stride {stride}", space.stem));
    for block in space.blocks(arch) {
        stride *= block.stride;
        let color = match block.ksize {
            ..=3 => "#1976d2",
            4..=5 => "#2e7d32",
            _ => "#ef6c00",
        };
        let text = format!("{}, {} channels, stride {stride}", block_name(&block), block.channels.1);
        boxes.add(block.channels.1, stride, color, &text);
    }
    boxes.add(space.last, stride, "#6a1b9a", &format!("last, {} channels", space.last));
    boxes.picture().document()
}

fn of_cell(name: &str, cell: &Cell) -> Diagram {
    let mut nodes = vec!["c_{k-2}".to_string(), "c_{k-1}".to_string()];
    nodes.extend((0..cell.nodes.len()).map(|node| node.to_string()));
    nodes.push("c_{k}".to_string());
    let output = nodes.len() - 1;
    let edges = cell
        .nodes
        .iter()
        .enumerate()
        .flat_map(|(node, edges)| edges.map(|edge| (edge.state, 2 + node, edge.op.to_string())));
    let concat = cell.concat.iter().map(|state| (*state, output, String::new()));
    Diagram { title: name.to_string(), nodes, arrows: edges.chain(concat).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::published;
    use nas_core::space::ChoiceSpace;
    use nas_datasets::rng;

    #[test]
    fn a_drawing_has_every_cell_operator_and_output() {
        let drawn = genotype(&published::genotype(published::DARTS_V2));
        assert_eq!(drawn.matches("<path d=\"M").count() - 1, 2 * (8 + 4), "arrows, without the arrow head");
        assert_eq!(drawn.matches("<rect x").count(), 2 * (2 + 4 + 1));
        assert_eq!(drawn.matches(">sep_conv_3x3<").count(), 5);
        assert!(drawn.contains(">normal<") && drawn.contains(">reduce<"));
        let cell = nasbench201(&"3-0-3-1-0-1".parse().unwrap());
        assert_eq!(cell.matches("<path d=\"M").count() - 1, 4, "edges of none are left out");
        assert!(cell.contains("|nor_conv_3x3~0|"));
    }

    #[test]
    fn a_title_has_room() {
        let arch: Architecture = "4-4-4-4-4-4".parse().unwrap();
        let title = nasbench201::NasBench201::notation(&arch);
        let drawn = nasbench201(&arch);
        let width: usize = drawn.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
        assert!(width >= 60 + 9 * title.len(), "{width}");
    }

    #[test]
    fn nodes_do_not_overlap_and_arrows_go_right() {
        for (name, notation) in published::ALL {
            for (_, cell) in published::genotype(notation).cells {
                let drawn = of_cell("x", &cell).picture().shapes;
                let boxes: Vec<&str> = drawn.lines().filter(|line| line.starts_with("<rect")).collect();
                for (i, place) in boxes.iter().enumerate() {
                    assert!(!boxes[..i].contains(place), "{name}: {place}");
                }
                for path in drawn.lines().filter_map(|line| line.strip_prefix("<path d=\"M")) {
                    let numbers: Vec<i64> =
                        path.split(['"', ' ', 'Q']).take(6).map(|number| number.parse().unwrap()).collect();
                    assert!(numbers[0] < numbers[4], "{name}: {path}");
                }
            }
        }
    }

    #[test]
    fn chains_and_mobile_networks_are_drawn_with_what_is_there() {
        let space = ChainSpace { layers: 4, channels: 8 };
        // Operators 0 to 3; the third layer adds the first, the fourth the second (and the third, which it follows anyway).
        let drawn = chain(&space, &"0-1-0-2-1-0-3-0-1-1".parse().unwrap());
        assert_eq!(drawn.matches("<path d=\"M").count() - 1, 4 + 2);
        assert!(drawn.contains(">sep_conv_5x5<") && drawn.contains(">input<"));
        let space = MobileSpace::default();
        let arch = space.sample(&mut rng::stream(0, "test", 0));
        assert_eq!(mobile(&space, &arch).matches("<title>").count(), 2 + space.blocks(&arch).len());
    }
}
