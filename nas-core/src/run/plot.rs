//! Curves and clouds of points as SVG.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::run::run_dir::write_atomic;

/// A named line through points of (x, y), such as (epoch, value).
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points from left to right.
    pub points: Vec<(f64, f64)>,
    /// Half the height of the band around each point; empty for none.
    pub spread: Vec<f64>,
}

impl Series {
    /// A line without a band.
    pub fn new(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, spread: Vec::new() }
    }

    /// Lower or upper (`sign` of -1 or 1) edge of the band.
    fn edge(&self, sign: f64) -> impl DoubleEndedIterator<Item = (f64, f64)> {
        self.points.iter().zip(&self.spread).map(move |(point, spread)| (point.0, point.1 + sign * spread))
    }
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A line through the points.
    Line,
    /// A dot at every point.
    Dots,
}

/// Which far values may stretch an axis; others are drawn at its edge, as triangles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All.
    All,
    /// Large ones: those are the good ones.
    High,
    /// Small ones.
    Low,
}

/// An axis.
#[derive(Clone, Copy, Debug)]
pub struct Axis<'a> {
    /// What it shows.
    pub name: &'a str,
    /// What it has room for.
    pub keep: Keep,
}

impl<'a> Axis<'a> {
    /// An axis with room for all values.
    pub fn all(name: &'a str) -> Self {
        Self { name, keep: Keep::All }
    }
}

type Drawn = Result<(), Box<dyn std::error::Error + Send + Sync>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const TITLE: u32 = 20;
/// Lines of up to so many points show them.
const SHOWN_POINTS: usize = 30;
/// Apart from each other, and dark enough on white.
const COLORS: [RGBColor; 8] = [
    RGBColor(31, 99, 178),
    RGBColor(208, 86, 32),
    RGBColor(36, 132, 82),
    RGBColor(132, 72, 172),
    RGBColor(158, 118, 16),
    RGBColor(12, 130, 150),
    RGBColor(190, 50, 110),
    RGBColor(70, 78, 90),
];
/// Lengths of dash and gap of the first eight series, the second and the third.
const DASHES: [Option<(u32, u32)>; 3] = [None, Some((8, 4)), Some((2, 4))];

/// The path of a picture on a command line: what is written is SVG, so the name must say so.
pub fn svg_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let is_svg = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg"));
    if is_svg { Ok(path) } else { Err("expected a name that ends in .svg: pictures are written as SVG".into()) }
}

/// Draws each series that has points into a panel of its own, one below the other, all over the same axis of epochs.
pub fn curves(path: &Path, title: &str, series: &[Series]) -> Result<()> {
    const WIDTH: u32 = 720;
    let drawn: Vec<&Series> = series.iter().filter(|series| !series.points.is_empty()).collect();
    ensure!(!drawn.is_empty(), "{}: there is nothing to draw", path.display());
    let x = range(drawn.iter().flat_map(|series| &series.points).map(|p| p.0), Keep::All);
    draw(path, (WIDTH, 40 + 240 * drawn.len() as u32), |root| {
        let root = root.titled(&fitting(title, WIDTH, TITLE), ("sans-serif", TITLE))?;
        for (panel, series) in root.split_evenly((drawn.len(), 1)).iter().zip(&drawn) {
            let y = range(series.points.iter().map(|p| p.1), Keep::All);
            let mut chart = ChartBuilder::on(panel)
                .margin(12)
                .x_label_area_size(36)
                .y_label_area_size(64)
                .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
            chart.configure_mesh().x_desc("epoch").y_desc(series.name.as_str()).draw()?;
            chart.draw_series(LineSeries::new(series.points.iter().copied(), COLORS[0].stroke_width(2)))?;
            if series.points.len() <= SHOWN_POINTS {
                let dots = series.points.iter().map(|point| Circle::new(*point, 3, COLORS[0].filled()));
                chart.draw_series(dots)?;
            }
        }
        Ok(())
    })
}

/// Draws a bar for each name, one below the other, with its number behind it.
pub fn bars(path: &Path, title: &str, bars: &[(String, f64)]) -> Result<()> {
    const WIDTH: u32 = 720;
    const ROW: i32 = 24;
    ensure!(!bars.is_empty(), "{}: there is nothing to draw", path.display());
    let longest = bars.iter().map(|(name, _)| name.chars().count() as i32).max().unwrap_or(0);
    let (left, top) = ((20 + 8 * longest).min(WIDTH as i32 / 2), 48);
    let room = f64::from(WIDTH as i32 - left - 120);
    let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    draw(path, (WIDTH, top as u32 + ROW as u32 * bars.len() as u32 + 12), |root| {
        root.draw(&Text::new(fitting(title, WIDTH, TITLE), (12, 12), ("sans-serif", TITLE)))?;
        for (i, (name, value)) in bars.iter().enumerate() {
            let (y, end) = (top + ROW * i as i32, left + (room * value / most).round() as i32);
            root.draw(&Text::new(fitting(name, left as u32, 15), (12, y), ("sans-serif", 15)))?;
            root.draw(&Rectangle::new([(left, y), (end.max(left + 1), y + ROW - 6)], COLORS[0].filled()))?;
            root.draw(&Text::new(value.to_string(), (end + 8, y), ("sans-serif", 15)))?;
        }
        Ok(())
    })
}

/// Draws all series as lines into one panel with a legend beside it.
pub fn lines(path: &Path, title: &str, x_desc: &str, y_desc: &str, series: &[Series]) -> Result<()> {
    let marked: Vec<(Mark, &Series)> = series.iter().map(|series| (Mark::Line, series)).collect();
    chart(path, title, (Axis::all(x_desc), Axis::all(y_desc)), &marked)
}

/// Draws all series into one panel, later ones over earlier ones, with a legend beside it in the order of their ends.
pub fn chart(path: &Path, title: &str, axes: (Axis, Axis), series: &[(Mark, &Series)]) -> Result<()> {
    const WIDTH: u32 = 960;
    const HEIGHT: u32 = 600;
    let all = || series.iter().flat_map(|(_, series)| &series.points).copied();
    ensure!(all().next().is_some(), "{}: there is nothing to draw", path.display());
    let edges = series.iter().flat_map(|(_, series)| series.edge(-1.0).chain(series.edge(1.0)));
    let x = range(all().map(|p| p.0), axes.0.keep);
    let y = range(all().chain(edges).map(|p| p.1), axes.1.keep);
    let clamp = |point: (f64, f64)| (point.0.clamp(x.0, x.1), point.1.clamp(y.0, y.1));
    let longest = series.iter().map(|(_, series)| series.name.chars().count() as u32).max().unwrap_or(0);
    let legend_width = (60 + 8 * longest).min(WIDTH / 2);
    draw(path, (WIDTH + legend_width, HEIGHT), |root| {
        let root = root.titled(&fitting(title, WIDTH + legend_width, TITLE), ("sans-serif", TITLE))?;
        let (panel, side) = root.split_horizontally(WIDTH);
        let mut chart = ChartBuilder::on(&panel)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
        chart.configure_mesh().max_light_lines(0).x_desc(axes.0.name).y_desc(axes.1.name).draw()?;
        for (i, (_, series)) in series.iter().enumerate().filter(|(_, (_, series))| !series.spread.is_empty()) {
            let outline: Vec<(f64, f64)> = series.edge(1.0).chain(series.edge(-1.0).rev()).map(clamp).collect();
            chart.draw_series([Polygon::new(outline, color(i).mix(0.15))])?;
        }
        for (i, (mark, series)) in series.iter().enumerate().map(|(i, one)| (first_of_name(series, i), one)) {
            let points: Vec<(f64, f64)> = series.points.iter().copied().map(clamp).collect();
            if *mark == Mark::Line {
                let style = color(i).stroke_width(2);
                match dash(i) {
                    None => _ = chart.draw_series(LineSeries::new(points.iter().copied(), style))?,
                    Some((on, off)) => {
                        _ = chart.draw_series(DashedLineSeries::new(points.iter().copied(), on, off, style))?
                    }
                }
            }
            // A line through one point is none.
            if *mark == Mark::Dots || points.len() == 1 {
                let (far, near): (Vec<_>, Vec<_>) =
                    series.points.iter().zip(&points).partition(|(point, shown)| point != shown);
                chart.draw_series(near.into_iter().map(|(_, at)| Circle::new(*at, 3, color(i).filled())))?;
                chart.draw_series(far.into_iter().map(|(_, at)| TriangleMarker::new(*at, 6, color(i).filled())))?;
            }
        }
        legend(&side, series)
    })
}

/// Names beside the picture, those of lines that end higher first.
fn legend(area: &Area, series: &[(Mark, &Series)]) -> Drawn {
    const ROW: i32 = 22;
    let end = |i: &usize| series[*i].1.points.last().map_or(f64::NEG_INFINITY, |point| point.1);
    let mut order: Vec<usize> = (0..series.len()).collect();
    order.retain(|i| first_of_name(series, *i) == *i);
    order.sort_by(|a, b| end(b).total_cmp(&end(a)));
    for (row, i) in order.into_iter().enumerate() {
        let y = 24 + ROW * row as i32;
        let (mark, series) = series[i];
        match (mark, dash(i)) {
            (Mark::Dots, _) => area.draw(&Circle::new((15, y), 4, color(i).filled()))?,
            (Mark::Line, None) => area.draw(&PathElement::new([(4, y), (28, y)], color(i).stroke_width(3)))?,
            (Mark::Line, Some((on, off))) => {
                for x in (4..28).step_by((on + off) as usize) {
                    let to = (x + on as i32).min(28);
                    area.draw(&PathElement::new([(x, y), (to, y)], color(i).stroke_width(3)))?;
                }
            }
        }
        area.draw(&Text::new(series.name.clone(), (36, y - 8), ("sans-serif", 15)))?;
    }
    Ok(())
}

/// A name that stands twice, as a line and as its dots, has one colour.
fn first_of_name(series: &[(Mark, &Series)], i: usize) -> usize {
    series.iter().position(|(_, other)| other.name == series[i].1.name).unwrap_or(i)
}

fn color(i: usize) -> RGBColor {
    COLORS[i % COLORS.len()]
}

fn dash(i: usize) -> Option<(u32, u32)> {
    DASHES[i / COLORS.len() % DASHES.len()]
}

/// Makes a picture of a size by `content` and writes it.
fn draw(path: &Path, size: (u32, u32), content: impl FnOnce(Area) -> Drawn) -> Result<()> {
    let mut svg = String::new();
    let make = |svg| -> Drawn {
        let root = SVGBackend::with_string(svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        content(root.clone())?;
        root.present()?;
        Ok(())
    };
    make(&mut svg).map_err(|error| anyhow!("{}: cannot draw: {error}", path.display()))?;
    write_atomic(path, svg.as_bytes())
}

/// The end of a text as long as there is room for: of a path it tells the most.
fn fitting(text: &str, width: u32, size: u32) -> String {
    // Letters are about half as wide as high, wide ones 0.6.
    let room = (width / (size * 6 / 10)) as usize - 1;
    let length = text.chars().count();
    match length > room {
        true => std::iter::once('…').chain(text.chars().skip(length + 1 - room)).collect(),
        false => text.to_string(),
    }
}

/// Smallest and largest value, apart even when they are equal. What lies further from the middle half than three times its width is
/// left out, but on the side to keep, where that spares a good part of the picture.
fn range(values: impl Iterator<Item = f64>, keep: Keep) -> (f64, f64) {
    const FAR: f64 = 3.0;
    const SPARED: f64 = 0.7;
    let mut sorted: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (Some(low), Some(high)) = (sorted.first().copied(), sorted.last().copied()) else { return (-0.5, 0.5) };
    let at = |part: f64| sorted[(part * (sorted.len() - 1) as f64).round() as usize];
    let (first, third) = (at(0.25), at(0.75));
    let reach = FAR * (third - first);
    let inner = match keep {
        Keep::All => (low, high),
        Keep::High => (low.max(first - reach), high),
        Keep::Low => (low, high.min(third + reach)),
    };
    let (low, high) = if reach > 0.0 && inner.1 - inner.0 < SPARED * (high - low) { inner } else { (low, high) };
    if high > low { (low, high) } else { (low - 0.5, high + 0.5) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svg(draw: impl FnOnce(&Path) -> Result<()>) -> String {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.svg");
        draw(&path).unwrap();
        std::fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn a_curve_of_one_point_is_a_dot_and_none_is_an_error() {
        let series = |points| [Series::new("loss", points)];
        let drawn = svg(|path| curves(path, "run", &series(vec![(1.0, 0.5)])));
        assert!(drawn.contains("loss") && drawn.matches("<circle").count() == 1, "{drawn}");
        let drawn = svg(|path| lines(path, "run", "x", "y", &series(vec![(1.0, 0.5)])));
        assert_eq!(drawn.matches("<circle").count(), 1);
        let error = curves(Path::new("curves.svg"), "run", &series(vec![])).unwrap_err().to_string();
        assert!(error.contains("curves.svg"));
    }

    #[test]
    fn bars_are_as_long_as_their_numbers() {
        let drawn =
            svg(|path| bars(path, "pixels", &[("road".into(), 30.0), ("car".into(), 10.0), ("pole".into(), 0.0)]));
        let widths: Vec<f64> = drawn
            .lines()
            .filter(|line| line.contains("<rect") && line.contains("#1F63B2"))
            .map(|line| line.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert!((widths[0] / widths[1] - 3.0).abs() < 0.02 && widths[2] <= 1.0, "{widths:?}");
        assert!(["road", "car", "pole"].iter().all(|name| drawn.contains(name)));
    }

    #[test]
    fn panels_share_their_axis_and_none_is_empty() {
        let series = [
            Series::new("loss", (1..=40).map(|epoch| (f64::from(epoch), 1.0)).collect()),
            Series::new("miou", vec![(40.0, 0.5)]),
            Series::new("never", vec![]),
        ];
        let drawn = svg(|path| curves(path, "run", &series));
        assert!(!drawn.contains("never"));
        for tick in ["10.0", "20.0", "30.0", "40.0"] {
            assert_eq!(drawn.lines().filter(|line| line.trim() == tick).count(), 2, "{tick} on both panels");
        }
        assert_eq!(drawn.matches("<circle").count(), 1, "the one point of the second panel");
    }

    #[test]
    fn titles_end_within_the_picture() {
        assert_eq!(fitting("runs/a", 720, 20), "runs/a");
        let long = format!("{}/the_end", "folder/".repeat(30));
        let short = fitting(&long, 720, 20);
        assert!(short.starts_with('…') && short.ends_with("/the_end") && short.chars().count() * 12 <= 720, "{short}");
    }

    #[test]
    fn what_is_far_on_the_bad_side_does_not_flatten_the_rest() {
        let mut values: Vec<f64> = (0..20).map(|i| 0.9 + f64::from(i) / 1000.0).collect();
        values.push(0.1);
        assert_eq!(range(values.iter().copied(), Keep::All), (0.1, 0.919));
        let (low, high) = range(values.iter().copied(), Keep::High);
        assert!(low > 0.85 && high == 0.919, "{low}");
        assert_eq!(range(values.iter().copied(), Keep::Low), (0.1, 0.919), "the far one may be the best");
        let points: Vec<(f64, f64)> = values.iter().enumerate().map(|(i, y)| (i as f64, *y)).collect();
        let cloud = Series::new("trials", points);
        let axes = (Axis::all("macs"), Axis { name: "acc", keep: Keep::High });
        let drawn = svg(|path| chart(path, "front", axes, &[(Mark::Dots, &cloud)]));
        // One circle is the legend's.
        assert_eq!((drawn.matches("<circle").count(), drawn.matches("<polygon").count()), (20 + 1, 1), "{drawn}");
    }

    #[test]
    fn many_lines_can_be_told_apart_and_have_bands_and_names() {
        let one = |i: usize| Series {
            name: format!("strategy {i}"),
            points: vec![(0.0, i as f64), (1.0, i as f64 + 0.5), (2.0, i as f64 + 1.0)],
            spread: vec![0.1; 3],
        };
        let all: Vec<Series> = (0..17).map(one).collect();
        let drawn = svg(|path| lines(path, "bench", "x", "y", &all));
        let names =
            drawn.lines().filter(|line| line.trim().starts_with("strategy ")).map(str::trim).collect::<Vec<_>>();
        assert_eq!(names.len(), 17);
        assert_eq!((names[0], names[16]), ("strategy 16", "strategy 0"), "in the order of their ends");
        assert_eq!(drawn.matches("<polygon").count(), 17);
        let styles: std::collections::HashSet<_> =
            (0..17).map(|i| (color(i), dash(i))).map(|s| format!("{s:?}")).collect();
        assert_eq!(styles.len(), 17);
    }

    #[test]
    fn a_line_and_its_dots_have_one_colour_and_one_name() {
        let front = Series::new("front", vec![(0.0, 0.0), (1.0, 1.0)]);
        let other = Series::new("trials", vec![(0.5, 0.5)]);
        let marked = [(Mark::Dots, &other), (Mark::Line, &front), (Mark::Dots, &front)];
        let drawn = svg(|path| chart(path, "x", (Axis::all("a"), Axis::all("b")), &marked));
        assert_eq!(drawn.lines().filter(|line| line.trim() == "front").count(), 1);
        assert!(drawn.contains("#D05620") && !drawn.contains("#248452"), "the second colour, not the third: {drawn}");
    }

    #[test]
    fn a_picture_that_is_no_svg_is_refused_by_its_name() {
        assert_eq!(svg_path("a/b.SVG").unwrap(), PathBuf::from("a/b.SVG"));
        assert!(svg_path("x.png").unwrap_err().contains("ends in .svg"));
        assert!(svg_path("svg").is_err());
    }
}
