//! The epochs of a run folder, and their curves.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::plot::{Series, curves};
use crate::train::Metrics;

/// The lines of a run's `metrics.jsonl`; none where there is no file.
pub fn read_metrics(run: &Path) -> Result<Vec<Metrics>> {
    let path = run.join("metrics.jsonl");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("{}: cannot read", path.display()))?;
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}: line {}", path.display(), i + 1))
    };
    text.lines().enumerate().map(parse).collect()
}

/// A metric over the epochs that have it.
pub fn series(metrics: &[Metrics], name: &str) -> Series {
    let point = |line: &Metrics| Some((line.get("epoch")?.as_f64()?, line.get(name)?.as_f64()?));
    Series { name: name.to_string(), points: metrics.iter().filter_map(point).collect() }
}

/// Draws the metrics `names` into `curves.svg` where there are epochs to draw; returns its path.
pub fn draw_curves(run: &Path, metrics: &[Metrics], names: &[&str]) -> Result<Option<String>> {
    if metrics.is_empty() {
        return Ok(None);
    }
    let path = run.join("curves.svg");
    let series: Vec<Series> = names.iter().map(|name| series(metrics, name)).collect();
    curves(&path, &run.display().to_string(), &series)?;
    Ok(Some(path.display().to_string()))
}
