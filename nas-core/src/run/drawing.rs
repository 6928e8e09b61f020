//! Drawings of networks as SVG: graphs with names on nodes and arrows, and rows of boxes as wide as their channels.

use std::fmt::{Arguments, Write};

const COLUMN: i64 = 190;
const ROW: i64 = 84;
const MARGIN: i64 = 60;
const BOX: (i64, i64) = (72, 30);
/// Width of a character of a title, at most.
const TITLE_CHAR: i64 = 9;

/// A part of a drawing, from the upper left corner on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// Elements of SVG.
    pub shapes: String,
    /// Width and height that they take.
    pub size: (i64, i64),
}

impl Picture {
    /// Adds an element.
    pub fn add(&mut self, element: Arguments) {
        writeln!(self.shapes, "{element}").expect("a string takes everything");
    }

    /// The same with another picture below it.
    pub fn above(mut self, other: &Picture) -> Self {
        let ((width, height), (other_width, other_height)) = (self.size, other.size);
        self.add(format_args!("<g transform=\"translate(0 {height})\">\n{}</g>", other.shapes));
        Self { size: (width.max(other_width), height + other_height), ..self }
    }

    /// As a file.
    pub fn document(&self) -> String {
        let (width, height) = self.size;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<defs><marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" \
             markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0 8 4 0 8z\" fill=\"#555\"/></marker></defs>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
            self.shapes
        )
    }
}

/// A graph: nodes stand in columns by their distance from the sources, the last one behind all others.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagram {
    /// Stands above it.
    pub title: String,
    /// Names.
    pub nodes: Vec<String>,
    /// From, to (`from < to`), name.
    pub arrows: Vec<(usize, usize, String)>,
}

impl Diagram {
    /// Column and row of every node: the column is the longest way from a source.
    fn places(&self) -> Vec<(i64, i64)> {
        let mut columns = vec![0; self.nodes.len()];
        for node in 0..self.nodes.len() {
            let before = self.arrows.iter().filter(|(_, to, _)| *to == node).map(|(from, ..)| columns[*from] + 1);
            columns[node] = before.max().unwrap_or(0);
        }
        let output = self.nodes.len() - 1;
        columns[output] = 1 + columns[..output].iter().copied().max().unwrap_or(0);
        let rows =
            (0..columns.len()).map(|node| columns[..node].iter().filter(|column| **column == columns[node]).count());
        columns.iter().copied().zip(rows.map(|row| row as i64)).collect()
    }

    /// The drawing.
    pub fn picture(&self) -> Picture {
        let places = self.places();
        let most = |of: fn(&(i64, i64)) -> i64| places.iter().map(of).max().unwrap_or(0);
        let title_width = 2 * MARGIN + TITLE_CHAR * self.title.chars().count() as i64;
        let width = (most(|place| place.0) * COLUMN + BOX.0 + 2 * MARGIN).max(title_width);
        let mut picture =
            Picture { size: (width, (most(|place| place.1) + 1) * ROW + 2 * MARGIN), ..Default::default() };
        picture.add(format_args!(
            "<text x=\"{MARGIN}\" y=\"{}\" font-size=\"13\" font-weight=\"bold\">{}</text>",
            MARGIN / 2,
            escape(&self.title)
        ));
        // Every second column is half a row lower, so that arrows over several columns pass between nodes.
        let center = |node: usize| {
            let (column, row) = places[node];
            let x = MARGIN + BOX.0 / 2 + column * COLUMN;
            (x, MARGIN + ROW / 3 + row * ROW + column % 2 * ROW / 2)
        };
        for (i, (from, to, name)) in self.arrows.iter().enumerate() {
            let ((x1, y1), (x2, y2)) = (center(*from), center(*to));
            let (x1, x2) = (x1 + BOX.0 / 2, x2 - BOX.0 / 2);
            // Arrows between the same two nodes bend apart, and longer ones pass above shorter ones.
            let parallel = self.arrows[..i].iter().filter(|(a, b, _)| (a, b) == (from, to)).count() as i64;
            let span = (places[*to].0 - places[*from].0 - 1).clamp(0, 4);
            let bend = (y1 + y2) / 2 + parallel * ROW / 2 - span * ROW / 4;
            let middle = (x1 + x2) / 2;
            picture.add(format_args!(
                "<path d=\"M{x1} {y1}Q{middle} {bend} {x2} {y2}\" fill=\"none\" stroke=\"#555\" marker-end=\"url(#head)\"/>"
            ));
            if name.is_empty() {
                continue;
            }
            // Labels follow the arrow at a share of its length of their own, so that those into one node do not collide.
            let share = [40, 58, 30, 68][i % 4];
            let (u, v) = (100 - share, share);
            let x = (u * u * x1 + 2 * u * v * middle + v * v * x2) / 10_000;
            let y = (u * u * y1 + 2 * u * v * bend + v * v * y2) / 10_000;
            picture.add(format_args!(
                "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" stroke=\"white\" stroke-width=\"4\" paint-order=\"stroke\" \
                 fill=\"#036\">{}</text>",
                y + 4,
                escape(name)
            ));
        }
        for (node, name) in self.nodes.iter().enumerate() {
            let ((x, y), (w, h)) = (center(node), BOX);
            picture.add(format_args!(
                "<rect x=\"{}\" y=\"{}\" width=\"{w}\" height=\"{h}\" rx=\"6\" fill=\"#e8eef6\" stroke=\"#357\"/>",
                x - w / 2,
                y - h / 2
            ));
            picture.add(format_args!("<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{}</text>", y + 4, escape(name)));
        }
        picture
    }
}

/// A network as a row of boxes, each as wide as its channels and as high as its map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Boxes {
    picture: Picture,
    x: f64,
}

impl Boxes {
    /// Height of the image; a map of stride `s` is `1 / (1 + log2 s)` of it.
    const IMAGE: f64 = 160.0;
    /// Height of the largest map.
    const TALLEST: f64 = Self::IMAGE / 2.0;
    const MARGIN: f64 = 12.0;
    const GAP: f64 = 4.0;

    /// Adds a box behind the others. What stands before the first comma of `title` is written below it, all of it is shown when a
    /// pointer rests there.
    pub fn add(&mut self, channels: i64, stride: i64, color: &str, title: &str) {
        let (width, height) =
            (4.0 + channels as f64 / 4.0, Self::IMAGE / (2.0 + (stride as f64 / 2.0).log2().max(0.0)));
        let (x, y) = (Self::MARGIN + self.x, Self::MARGIN + (Self::TALLEST - height) / 2.0);
        let title = escape(title);
        self.picture.add(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{color}\"><title>{title}</title></rect>"
        ));
        let (middle, below) = (x + width / 2.0, Self::MARGIN + Self::TALLEST + 12.0);
        self.picture.add(format_args!(
            "<text x=\"{middle:.1}\" y=\"{below:.1}\" font-size=\"9\" transform=\"rotate(60 {middle:.1} {below:.1})\">{}</text>",
            title.split(',').next().unwrap_or_default()
        ));
        // Labels need room where boxes are narrow.
        self.x += width.max(10.0) + Self::GAP;
    }

    /// The drawing.
    pub fn picture(self) -> Picture {
        let width = self.x + 2.0 * Self::MARGIN + 60.0;
        Picture { size: (width.ceil() as i64, (Self::TALLEST + 130.0) as i64), ..self.picture }
    }
}

/// A text within an element.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagram(title: &str, nodes: usize, arrows: &[(usize, usize)]) -> Diagram {
        let arrows = arrows.iter().map(|(from, to)| (*from, *to, "a<b".to_string())).collect();
        Diagram { title: title.into(), nodes: (0..nodes).map(|node| node.to_string()).collect(), arrows }
    }

    #[test]
    fn nodes_do_not_overlap_arrows_go_right_and_titles_have_room() {
        let long = "x".repeat(300);
        let diagram = diagram(&long, 6, &[(0, 2), (1, 2), (0, 3), (2, 3), (2, 4), (1, 4), (3, 5)]);
        let places = diagram.places();
        for (i, place) in places.iter().enumerate() {
            assert!(!places[..i].contains(place), "{places:?}");
        }
        assert!(diagram.arrows.iter().all(|(from, to, _)| places[*from].0 < places[*to].0), "{places:?}");
        let picture = diagram.picture();
        assert!(picture.size.0 >= 300 * TITLE_CHAR, "{:?}", picture.size);
        assert!(picture.shapes.contains(">a&lt;b<") && !picture.shapes.contains("a<b"));
    }

    #[test]
    fn pictures_stand_one_below_the_other() {
        let (a, b) = (diagram("a", 2, &[(0, 1)]).picture(), diagram("b", 4, &[(0, 1), (1, 2), (2, 3)]).picture());
        let both = a.clone().above(&b);
        assert_eq!(both.size, (b.size.0, a.size.1 + b.size.1));
        assert!(both.document().contains(&format!("translate(0 {})", a.size.1)));
    }

    #[test]
    fn boxes_shrink_with_their_maps_and_grow_with_their_channels() {
        let mut boxes = Boxes::default();
        [(16, 2), (32, 4), (64, 32)].into_iter().for_each(|(c, stride)| boxes.add(c, stride, "red", "k3 e6, wide"));
        let text = boxes.picture().document();
        let of = |key: &str| -> Vec<f64> {
            let key = format!(" {key}=\"");
            text.split(&key).skip(1).filter_map(|rest| rest.split('"').next()?.parse().ok()).collect()
        };
        let boxes = text.lines().filter(|line| line.contains("<title>k3 e6, wide</title>")).count();
        assert_eq!((boxes, text.matches(">k3 e6</text>").count()), (3, 3));
        let (heights, widths) = (of("height"), of("width"));
        assert!(heights[1..].windows(2).all(|pair| pair[0] > pair[1]), "{heights:?}");
        assert!(widths[1..].windows(2).all(|pair| pair[0] < pair[1]), "{widths:?}");
    }
}
