//! Drawings of cells as SVG: states in columns by their distance from the inputs, operators on the arrows.

use std::fmt::Write;

use nas_core::space::Architecture;

use crate::cells::{Cell, Genotype};
use crate::nasbench201;

const COLUMN: i64 = 190;
const ROW: i64 = 84;
const MARGIN: i64 = 60;
const BOX: (i64, i64) = (72, 30);
/// Width of a character of a title, at most.
const TITLE_CHAR: i64 = 9;

/// A graph with names on nodes and arrows.
struct Diagram {
    title: String,
    nodes: Vec<String>,
    /// From, to (`from < to`), name.
    arrows: Vec<(usize, usize, String)>,
}

/// The cells of a genotype, one below the other.
pub fn genotype(genotype: &Genotype) -> String {
    let diagrams: Vec<Diagram> = genotype.cells.iter().map(|(name, cell)| of_cell(name, cell)).collect();
    svg(&diagrams)
}

/// A cell of NAS-Bench-201. Edges of `none` are left out.
pub fn nasbench201(arch: &Architecture) -> String {
    let edges = nasbench201::EDGES.iter().zip(arch.choices()).filter(|(_, op)| **op > 0);
    let arrows = edges.map(|((from, to), op)| (*from, *to, nasbench201::OPS[usize::from(*op)].to_string()));
    let nodes = ["input", "1", "2", "output"].map(String::from).to_vec();
    svg(&[Diagram { title: nasbench201::NasBench201::notation(arch), nodes, arrows: arrows.collect() }])
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

/// Column and row of every node: the column is the longest way from a source, the output stands behind all others.
fn places(diagram: &Diagram) -> Vec<(i64, i64)> {
    let mut columns = vec![0; diagram.nodes.len()];
    for node in 0..diagram.nodes.len() {
        let before = diagram.arrows.iter().filter(|(_, to, _)| *to == node).map(|(from, ..)| columns[*from] + 1);
        columns[node] = before.max().unwrap_or(0);
    }
    let output = diagram.nodes.len() - 1;
    columns[output] = 1 + columns[..output].iter().copied().max().unwrap_or(0);
    let rows = (0..columns.len()).map(|node| columns[..node].iter().filter(|column| **column == columns[node]).count());
    columns.iter().copied().zip(rows.map(|row| row as i64)).collect()
}

fn svg(diagrams: &[Diagram]) -> String {
    let placed: Vec<_> = diagrams.iter().map(|diagram| (diagram, places(diagram))).collect();
    let columns = placed.iter().flat_map(|(_, places)| places.iter().map(|(column, _)| *column)).max().unwrap_or(0);
    let height = |places: &[(i64, i64)]| (places.iter().map(|(_, row)| *row).max().unwrap_or(0) + 1) * ROW + 2 * MARGIN;
    let total: i64 = placed.iter().map(|(_, places)| height(places)).sum();
    let longest = diagrams.iter().map(|diagram| diagram.title.chars().count() as i64).max().unwrap_or(0);
    let width = (columns * COLUMN + BOX.0 + 2 * MARGIN).max(2 * MARGIN + TITLE_CHAR * longest);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{total}\" viewBox=\"0 0 {width} {total}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<defs><marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" \
         markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0 8 4 0 8z\" fill=\"#555\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut top = 0;
    for (diagram, places) in &placed {
        draw(&mut text, diagram, places, top);
        top += height(places);
    }
    text.push_str("</svg>\n");
    text
}

fn draw(text: &mut String, diagram: &Diagram, places: &[(i64, i64)], top: i64) {
    let title = escape(&diagram.title);
    let mut line = |content: std::fmt::Arguments| writeln!(text, "{content}").expect("a string takes everything");
    line(format_args!(
        "<text x=\"{MARGIN}\" y=\"{}\" font-size=\"13\" font-weight=\"bold\">{title}</text>",
        top + MARGIN / 2
    ));
    // Every second column is half a row lower, so that arrows over several columns pass between nodes.
    let center = |node: usize| {
        let (column, row) = places[node];
        let x = MARGIN + BOX.0 / 2 + column * COLUMN;
        (x, top + MARGIN + ROW / 3 + row * ROW + column % 2 * ROW / 2)
    };
    for (i, (from, to, name)) in diagram.arrows.iter().enumerate() {
        let ((x1, y1), (x2, y2)) = (center(*from), center(*to));
        let (x1, x2) = (x1 + BOX.0 / 2, x2 - BOX.0 / 2);
        // Arrows between the same two nodes bend apart.
        let parallel = diagram.arrows[..i].iter().filter(|(a, b, _)| (a, b) == (from, to)).count() as i64;
        let bend = (y1 + y2) / 2 + parallel * ROW / 2 - if places[*to].0 - places[*from].0 > 1 { ROW / 4 } else { 0 };
        let middle = (x1 + x2) / 2;
        line(format_args!(
            "<path d=\"M{x1} {y1}Q{middle} {bend} {x2} {y2}\" fill=\"none\" stroke=\"#555\" marker-end=\"url(#head)\"/>"
        ));
        if !name.is_empty() {
            // Labels follow the arrow at a share of its length of their own, so that those into one node do not collide.
            let share = [40, 58, 30, 68][i % 4];
            let (u, v) = (100 - share, share);
            let x = (u * u * x1 + 2 * u * v * middle + v * v * x2) / 10_000;
            let y = (u * u * y1 + 2 * u * v * bend + v * v * y2) / 10_000;
            line(format_args!(
                "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" stroke=\"white\" stroke-width=\"4\" paint-order=\"stroke\" \
                 fill=\"#036\">{}</text>",
                y + 4,
                escape(name)
            ));
        }
    }
    for (node, name) in diagram.nodes.iter().enumerate() {
        let (x, y) = center(node);
        let (w, h) = BOX;
        line(format_args!(
            "<rect x=\"{}\" y=\"{}\" width=\"{w}\" height=\"{h}\" rx=\"6\" fill=\"#e8eef6\" stroke=\"#357\"/>",
            x - w / 2,
            y - h / 2
        ));
        line(format_args!("<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{}</text>", y + 4, escape(name)));
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::published;

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
        let width: i64 = drawn.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
        assert!(width >= MARGIN + TITLE_CHAR * title.len() as i64, "{width}");
    }

    #[test]
    fn nodes_do_not_overlap_and_arrows_go_right() {
        for (name, notation) in published::ALL {
            for (_, cell) in published::genotype(notation).cells {
                let diagram = of_cell("x", &cell);
                let places = places(&diagram);
                for (i, place) in places.iter().enumerate() {
                    assert!(!places[..i].contains(place), "{name}");
                }
                assert!(diagram.arrows.iter().all(|(from, to, _)| places[*from].0 < places[*to].0), "{name}");
            }
        }
    }
}
