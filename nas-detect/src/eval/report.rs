//! Scores as people and programs read them.

use std::fmt;

use nas_core::run::precision_recall::PrecisionRecall;
use nas_core::run::words;
use serde::{Deserialize, Serialize};

use super::files::{Category, EvalFiles};
use super::{coco, voc};

/// COCO's scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CocoReport {
    /// Images of the ground truth.
    pub images: usize,
    /// Average precision over overlaps of 0.50 to 0.95; -1 if there was nothing to find.
    pub ap: f64,
    /// The same at 0.50.
    pub ap50: f64,
    /// The same at 0.75.
    pub ap75: f64,
    /// Names of the numbers in `stats`.
    pub names: Vec<String>,
    /// pycocotools' list.
    pub stats: Vec<f64>,
    /// The same by class, in the order of category ids.
    pub per_class: Vec<CocoClass>,
    /// Why numbers are -1.
    pub notes: Vec<String>,
    /// What was left out or looks like a mistake.
    pub warnings: Vec<String>,
    /// Precision over recall, until [`CocoReport::numbers`] leaves them out.
    #[serde(default, skip_serializing_if = "PrecisionRecall::is_empty")]
    pub curves: PrecisionRecall,
}

/// COCO's scores of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CocoClass {
    /// The class.
    #[serde(flatten)]
    pub category: Category,
    /// AP of the class, -1 if there was nothing to find.
    pub ap: f64,
    /// All numbers in the order of the report's `names`.
    pub stats: Vec<f64>,
}

impl CocoReport {
    /// What is printed: all but the curves.
    pub fn numbers(self) -> Self {
        Self { curves: PrecisionRecall::default(), ..self }
    }

    /// Judges the detections of `files` with `max_dets` detections per image and class.
    pub fn new(files: &EvalFiles, max_dets: &[usize]) -> Self {
        let scores = coco::evaluate(&files.truths, &files.detections, files.categories.len(), max_dets);
        let per_class = files.categories.iter().enumerate().map(|(class, category)| {
            let stats = scores.class_stats(class);
            CocoClass { category: category.clone(), ap: stats[0], stats }
        });
        let mut curves = PrecisionRecall::default();
        for (class, category) in files.categories.iter().enumerate() {
            let Some((recalls, precisions)) = scores.curve(class) else { continue };
            curves.classes.push(category.name.clone());
            curves.precisions.push(precisions);
            curves.recalls = recalls;
        }
        let stats = scores.stats();
        Self {
            images: files.images.len(),
            ap: stats[0],
            ap50: stats[1],
            ap75: stats[2],
            names: scores.names(),
            stats,
            per_class: per_class.collect(),
            notes: scores.explain(),
            warnings: files.warnings.clone(),
            curves,
        }
    }
}

impl fmt::Display for CocoReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (name, value) in self.names.iter().zip(&self.stats) {
            writeln!(f, "{name:<6} {value:.4}")?;
        }
        write!(f, "\n{:<20} {:>7} {:>7} {:>7}", "class", "AP", "AP50", "AP75")?;
        for CocoClass { category, stats, .. } in &self.per_class {
            let cell = |value: f64| if value < 0.0 { "-".into() } else { format!("{value:.4}") };
            let name = words::name(&category.name);
            write!(f, "\n{name:<20} {:>7} {:>7} {:>7}", cell(stats[0]), cell(stats[1]), cell(stats[2]))?;
        }
        write!(f, "\n{} images", self.images)?;
        self.notes.iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}

/// VOC's scores; `null` in JSON where there was nothing to find.
#[derive(Clone, Debug, Serialize)]
pub struct VocReport {
    /// Images of the ground truth.
    pub images: usize,
    /// Mean over classes of AP by area.
    pub area: Option<f64>,
    /// Mean over classes of AP at 11 points.
    pub eleven_point: Option<f64>,
    /// By class, in the order of category ids.
    pub per_class: Vec<VocClass>,
    /// What was left out or looks like a mistake.
    pub warnings: Vec<String>,
}

/// VOC's scores of one class.
#[derive(Clone, Debug, Serialize)]
pub struct VocClass {
    /// The class.
    #[serde(flatten)]
    pub category: Category,
    /// AP by area.
    pub area: Option<f64>,
    /// AP at 11 points.
    pub eleven_point: Option<f64>,
}

impl VocReport {
    /// Judges the detections of `files`.
    pub fn new(files: &EvalFiles) -> Self {
        let scores = voc::evaluate(&files.truths, &files.detections, files.categories.len());
        let per_class = files.categories.iter().zip(&scores.classes).map(|(category, ap)| VocClass {
            category: category.clone(),
            area: ap.map(|ap| ap.area),
            eleven_point: ap.map(|ap| ap.eleven_point),
        });
        let mean = scores.mean();
        Self {
            images: files.images.len(),
            area: mean.map(|ap| ap.area),
            eleven_point: mean.map(|ap| ap.eleven_point),
            per_class: per_class.collect(),
            warnings: files.warnings.clone(),
        }
    }
}

impl fmt::Display for VocReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let cell = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.4}"));
        let mut row =
            |name: &str, area, points| writeln!(f, "{:<20} {:>8} {:>8}", words::name(name), cell(area), cell(points));
        row("mean", self.area, self.eleven_point)?;
        self.per_class.iter().try_for_each(|class| row(&class.category.name, class.area, class.eleven_point))?;
        write!(f, "AP at overlap 0.5: by area, at 11 points; {} images", self.images)
    }
}
