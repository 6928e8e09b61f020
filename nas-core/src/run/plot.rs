//! Training curves as SVG.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use plotters::prelude::*;

use crate::run::run_dir::write_atomic;

/// A named line through points of (epoch, value).
#[derive(Clone, Debug)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points from left to right.
    pub points: Vec<(f64, f64)>,
}

/// Draws each series into a panel of its own, one below the other, over a common axis of epochs.
pub fn curves(path: &Path, title: &str, series: &[Series]) -> Result<()> {
    let drawn: Vec<&Series> = series.iter().filter(|series| !series.points.is_empty()).collect();
    ensure!(!drawn.is_empty(), "{}: there is nothing to draw", path.display());
    let height = 40 + 240 * drawn.len() as u32;
    let mut svg = String::new();
    let draw = |svg| -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let root = SVGBackend::with_string(svg, (720, height)).into_drawing_area().titled(title, ("sans-serif", 20))?;
        root.fill(&WHITE)?;
        for (panel, series) in root.split_evenly((drawn.len(), 1)).iter().zip(&drawn) {
            let (x, y) = (range(series.points.iter().map(|p| p.0)), range(series.points.iter().map(|p| p.1)));
            let mut chart = ChartBuilder::on(panel)
                .margin(12)
                .x_label_area_size(36)
                .y_label_area_size(64)
                .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
            chart.configure_mesh().x_desc("epoch").y_desc(series.name.as_str()).draw()?;
            chart.draw_series(LineSeries::new(series.points.iter().copied(), BLUE.stroke_width(2)))?;
        }
        root.present()?;
        Ok(())
    };
    draw(&mut svg).map_err(|error| anyhow!("{}: cannot draw: {error}", path.display()))?;
    write_atomic(path, svg.as_bytes())
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A line through the points.
    Line,
    /// A dot at every point.
    Dots,
}

/// Draws all series as lines into one panel with a legend.
pub fn lines(path: &Path, title: &str, x_desc: &str, y_desc: &str, series: &[Series]) -> Result<()> {
    let marked: Vec<(Mark, &Series)> = series.iter().map(|series| (Mark::Line, series)).collect();
    chart(path, title, x_desc, y_desc, &marked)
}

/// Draws all series into one panel with a legend, later ones over earlier ones.
pub fn chart(path: &Path, title: &str, x_desc: &str, y_desc: &str, series: &[(Mark, &Series)]) -> Result<()> {
    let all = || series.iter().flat_map(|(_, series)| &series.points);
    ensure!(all().next().is_some(), "{}: there is nothing to draw", path.display());
    let mut svg = String::new();
    let draw = |svg| -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let root = SVGBackend::with_string(svg, (960, 600)).into_drawing_area();
        root.fill(&WHITE)?;
        let (x, y) = (range(all().map(|p| p.0)), range(all().map(|p| p.1)));
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
        chart.configure_mesh().x_desc(x_desc).y_desc(y_desc).draw()?;
        for (i, (mark, series)) in series.iter().enumerate() {
            let (color, points) = (Palette99::pick(i).to_rgba(), series.points.iter().copied());
            let drawn = match mark {
                Mark::Line => chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?,
                Mark::Dots => chart.draw_series(points.map(|point| Circle::new(point, 3, color.filled())))?,
            };
            let legend = move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2));
            drawn.label(&series.name).legend(legend);
        }
        let position = SeriesLabelPosition::LowerRight;
        chart
            .configure_series_labels()
            .position(position)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        root.present()?;
        Ok(())
    };
    draw(&mut svg).map_err(|error| anyhow!("{}: cannot draw: {error}", path.display()))?;
    write_atomic(path, svg.as_bytes())
}

/// Smallest and largest value, apart even when they are equal.
fn range(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    if high > low { (low, high) } else { (low - 0.5, high + 0.5) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_of_one_point_is_drawn_and_none_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("curves.svg");
        let series = |points| [Series { name: "loss".into(), points }];
        curves(&path, "run", &series(vec![(1.0, 0.5)])).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("loss"));
        assert!(curves(&path, "run", &series(vec![])).unwrap_err().to_string().contains("curves.svg"));
    }
}
