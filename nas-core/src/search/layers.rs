//! A table of layers: how long each takes on a device. The time of a network is the sum over its layers and a fixed part, whatever
//! its space, as in the tables of blocks of ProxylessNAS and FBNet (arXiv 1812.00332, 1812.03443) and the kernels of nn-Meter
//! (Zhang et al., MobiSys 2021).

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::table::open;
use crate::nn::layers::Layer;

/// What a network takes.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTable {
    fixed: f64,
    layers: HashMap<Layer, f64>,
}

/// A row of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// As [`Layer`] is written; empty for the fixed part.
    pub layer: String,
    /// Its part of a network's milliseconds.
    pub millis: f64,
    /// The milliseconds of the layer on its own, which nothing is computed from.
    #[serde(default)]
    pub alone: Option<f64>,
}

impl LayerTable {
    /// A table of measured layers.
    pub fn new(fixed: f64, layers: HashMap<Layer, f64>) -> Self {
        Self { fixed, layers }
    }

    /// Reads a CSV file with the columns `layer` and `millis`, and any others; a row without a layer is the fixed part of every
    /// network. Errors name the file and the line.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_csv(path).with_context(|| path.display().to_string())
    }

    fn read_csv(path: &Path) -> Result<Self> {
        let (mut fixed, mut layers) = (None, HashMap::new());
        for row in csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(open(path)?).into_deserialize() {
            let Row { layer, millis, .. } = row?;
            let mut add = || -> Result<()> {
                ensure!(millis >= 0.0 && millis.is_finite(), "millis = {millis}; expected 0 or more");
                let before = match layer.as_str() {
                    "" => fixed.replace(millis),
                    text => layers.insert(text.parse::<Layer>()?, millis),
                };
                ensure!(before.is_none(), "the layer appears a second time");
                Ok(())
            };
            add().with_context(|| if layer.is_empty() { "the fixed part".into() } else { layer.clone() })?;
        }
        ensure!(!layers.is_empty(), "no layer; expected rows of `layer` and `millis`");
        Ok(Self { fixed: fixed.unwrap_or(0.0), layers })
    }

    /// The milliseconds of a network of these layers. One that was not measured takes what the most similar one does, times the ratio
    /// of their multiply-adds.
    pub fn millis(&self, layers: &[Layer]) -> f64 {
        layers.iter().map(|layer| self.layer(layer)).sum::<f64>() + self.fixed
    }

    fn layer(&self, layer: &Layer) -> f64 {
        if let Some(millis) = self.layers.get(layer) {
            return *millis;
        }
        let scaled = |(like, millis): (&Layer, &f64)| millis * layer.work() / like.work();
        let alike = self.layers.iter().filter_map(|entry| Some((layer.distance(entry.0)?, entry)));
        // Of two equally far the order of a hash map decides nothing.
        let nearest = alike.min_by(|(a, (x, _)), (b, (y, _))| a.total_cmp(b).then_with(|| x.cmp(y)));
        let by_work = || {
            let distance = |other: &Layer| (layer.work() / other.work()).ln().abs();
            self.layers.iter().min_by(|(a, _), (b, _)| distance(a).total_cmp(&distance(b)).then_with(|| a.cmp(b)))
        };
        nearest.map(|(_, entry)| entry).or_else(by_work).map_or(0.0, scaled)
    }
}

/// Fixed part and factor by which sums over layers become times of whole networks, from `(sum, time)` of some: least squares of
/// the relative errors, neither part below 0.
pub fn calibrate(pairs: &[(f64, f64)]) -> (f64, f64) {
    // With u = 1 / time and v = sum / time: fixed * u + factor * v is to be 1.
    let mut sums = [0.0; 5];
    for (sum, time) in pairs {
        let (u, v) = (1.0 / time, sum / time);
        for (of, value) in sums.iter_mut().zip([u * u, u * v, v * v, u, v]) {
            *of += value;
        }
    }
    let [uu, uv, vv, u, v] = sums;
    let determinant = uu * vv - uv * uv;
    let (fixed, factor) = ((u * vv - v * uv) / determinant, (v * uu - u * uv) / determinant);
    match fixed >= 0.0 && factor >= 0.0 {
        true => (fixed, factor),
        // Also where all sums are equal, or there is one.
        false if vv > 0.0 => (0.0, v / vv),
        false => (if uu > 0.0 { u / uu } else { 0.0 }, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rows: &str) -> Result<LayerTable> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("layer,millis,alone\n{rows}")).unwrap();
        LayerTable::read(file.path())
    }

    const ROWS: &str = ",0.5,\nconv 4>8 1x1 s1x1 d1 g1 8x8,2,1.5\nconv 16>16 1x1 s1x1 d1 g1 8x8,6,\nnorm 8 8x8,0.25,\n";

    #[test]
    fn a_network_takes_what_its_layers_and_the_fixed_part_take() {
        let table = read(ROWS).unwrap();
        let layers = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Layer>>();
        let known = layers(&["conv 4>8 1x1 s1x1 d1 g1 8x8", "norm 8 8x8", "norm 8 8x8"]);
        assert_eq!(table.millis(&known), 3.0);
        // Twice the multiply-adds of the nearest; one that resembles none by its own.
        assert_eq!(table.millis(&layers(&["conv 4>16 1x1 s1x1 d1 g1 8x8"])), 4.5);
        assert_eq!(table.millis(&layers(&["linear 64>64"])), 0.5 + 2.0 * 4096.0 / 2048.0);
        assert!(!table.layers.contains_key(&layers(&["norm 9 8x8"])[0]));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let error = |rows: &str| format!("{:#}", read(rows).unwrap_err());
        assert!(error(&format!("{ROWS}norm 8 8x8,1,\n")).contains("norm 8 8x8: the layer appears a second time"));
        assert!(error("pool 8,1,\n").contains("\"pool 8\" is no layer"));
        assert!(error("norm 8 8x8,-1,\n").contains("millis = -1; expected 0 or more"));
        assert!(error("norm 8 8x8,fast,\n").contains("line: 2"), "{}", error("norm 8 8x8,fast,\n"));
        assert!(error("").contains("no layer"));
    }

    #[test]
    fn a_calibration_finds_the_line_or_the_best_one_without_a_negative_part() {
        let line: Vec<(f64, f64)> = [1.0, 2.0, 5.0].map(|sum| (sum, 0.5 + 1.25 * sum)).to_vec();
        let (fixed, factor) = calibrate(&line);
        assert!((fixed - 0.5).abs() < 1e-9 && (factor - 1.25).abs() < 1e-9, "{fixed} {factor}");
        let (fixed, factor) = calibrate(&[(1.0, 0.5), (2.0, 3.0)]);
        assert!(fixed == 0.0 && (0.5..1.5).contains(&factor), "{fixed} {factor}");
        assert_eq!(calibrate(&[(2.0, 3.0)]), (0.0, 1.5));
    }
}
