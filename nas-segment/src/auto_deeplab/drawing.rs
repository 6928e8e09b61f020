//! A genotype as a picture: its path through the trellis, and the cell of all its layers.

use nas_core::run::drawing::{Diagram, Picture};

use super::decode::{LEVELS, target};
use super::genotype::Genotype;

const STEP: i64 = 56;
const MARGIN: (i64, i64) = (90, 44);
const RADIUS: i64 = 8;

/// The picture as an SVG document.
pub fn svg(genotype: &Genotype) -> String {
    trellis(&genotype.path).above(&cell(genotype).picture()).document()
}

/// Strides downwards, layers to the right: every way that a path can take in grey, the chosen one in blue.
fn trellis(path: &[usize]) -> Picture {
    let at = |layer: usize, level: usize| (MARGIN.0 + layer as i64 * STEP, MARGIN.1 + level as i64 * STEP);
    let size = (2 * MARGIN.0 + path.len() as i64 * STEP, 2 * MARGIN.1 + (LEVELS as i64 - 1) * STEP);
    let mut picture = Picture { size, ..Default::default() };
    let strides: Vec<String> = path.iter().map(|level| (4 << level).to_string()).collect();
    picture.add(format_args!(
        "<text x=\"{}\" y=\"18\" font-size=\"13\" font-weight=\"bold\">strides {}</text>",
        MARGIN.0 - RADIUS,
        strides.join(" ")
    ));
    for level in 0..LEVELS {
        let (x, y) = at(0, level);
        picture.add(format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">stride {}</text>",
            x - 16,
            y + 4,
            4 << level
        ));
    }
    // The stem gives stride 4, so that a level is reached after as many layers.
    let reached = |layer: usize| (0..LEVELS).filter(move |level| *level <= layer);
    let chosen: Vec<usize> = std::iter::once(0).chain(path.iter().copied()).collect();
    for (layer, step) in chosen.windows(2).enumerate() {
        for (from, to) in
            reached(layer).flat_map(|from| (0..3).filter_map(move |step| Some((from, target(from, step)?))))
        {
            let ((x1, y1), (x2, y2)) = (at(layer, from), at(layer + 1, to));
            let style = match step == [from, to] {
                true => "stroke=\"#1565c0\" stroke-width=\"4\"",
                false => "stroke=\"#cfd8dc\"",
            };
            picture.add(format_args!("<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" {style}/>"));
        }
    }
    for (layer, at_level) in chosen.iter().enumerate() {
        for level in reached(layer) {
            let (x, y) = at(layer, level);
            let name = if layer == 0 { "stem".to_string() } else { format!("layer {layer}") };
            let color = if *at_level == level { "#1565c0" } else { "#cfd8dc" };
            picture.add(format_args!(
                "<circle cx=\"{x}\" cy=\"{y}\" r=\"{RADIUS}\" fill=\"{color}\"><title>{name}, stride {}</title></circle>",
                4 << level
            ));
        }
    }
    picture
}

/// The cell: its inputs, blocks with an operator for each of their two, and the concatenation of all.
fn cell(genotype: &Genotype) -> Diagram {
    let mut nodes = vec!["H[l-1]".to_string(), "H[l-2]".to_string()];
    nodes.extend((0..genotype.cell.len()).map(|block| format!("block {block}")));
    nodes.push("H[l]".to_string());
    let output = nodes.len() - 1;
    let inputs = genotype.cell.iter().enumerate();
    let inputs = inputs.flat_map(|(block, edges)| edges.map(|edge| (edge.state, 2 + block, edge.op.to_string())));
    let concat = (2..output).map(|block| (block, output, String::new()));
    Diagram { title: "cell".into(), nodes, arrows: inputs.chain(concat).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_path_and_cell_are_drawn_among_all_ways() {
        let genotype = Genotype::published();
        let drawn = svg(&genotype);
        let lines: Vec<&str> = drawn.lines().filter(|line| line.starts_with("<line")).collect();
        // Of 12 layers the first reaches 2 states, the second 3, the others 4, from 1, 2, 3, 4 states: 2 + 5 + 8 + 9 x 10 ways.
        assert_eq!(lines.len(), 2 + 5 + 8 + 9 * 10);
        assert_eq!(lines.iter().filter(|line| line.contains("#1565c0")).count(), 12);
        assert_eq!(drawn.matches("<circle").count(), 1 + 2 + 3 + 10 * 4);
        assert_eq!(
            drawn.matches("<path d=\"M").count() - 1,
            2 * 5 + 5,
            "operators and concatenation, without the arrow head"
        );
        assert!(
            drawn.contains("strides 4 4 4 8 16 8 16 16 32 32 16 8") && drawn.contains(">atrous_conv_5x5<"),
            "{drawn}"
        );
    }
}
