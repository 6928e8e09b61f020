//! Ground truth and detections from anybody's COCO JSON files.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nas_datasets::det::CocoId;
use nas_datasets::det::coco_json::{self, CocoFile, CocoResult};
use nas_datasets::tally::Tally;
use serde::{Deserialize, Serialize};

use super::{Detection, Truth};

/// A class as the ground truth names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Category {
    /// Id in the files.
    pub id: CocoId,
    /// Name.
    pub name: String,
}

/// What two files say, with images and classes as indices in the order of their ids.
#[derive(Clone, Debug, Default)]
pub struct EvalFiles {
    /// Image ids.
    pub images: Vec<CocoId>,
    /// Classes.
    pub categories: Vec<Category>,
    /// True boxes.
    pub truths: Vec<Truth>,
    /// Detections.
    pub detections: Vec<Detection>,
    /// What was left out or looks like a mistake, one sentence each.
    pub warnings: Vec<String>,
}

/// Reads an annotation file and a results file.
///
/// # Errors
/// If a file is not what it should be, ids of images or classes are given twice, or a detection's image is unknown.
pub fn read(gt: &Path, dt: &Path) -> Result<EvalFiles> {
    let (truths, found) = rayon::join(|| coco_json::read_annotations(gt), || coco_json::read_results(dt));
    let mut files = EvalFiles::default();
    files.add_truths(truths?).with_context(|| gt.display().to_string())?;
    files.add_detections(&found?).with_context(|| dt.display().to_string())?;
    Ok(files)
}

impl EvalFiles {
    /// Images, truths and detections of several parts of a set, one after the other; numbers of images are those of the whole.
    pub fn joined(
        parts: impl IntoIterator<Item = (Vec<CocoId>, Vec<Truth>, Vec<Detection>)>,
        categories: Vec<Category>,
    ) -> Self {
        let mut files = Self { categories, ..Self::default() };
        for (images, truths, detections) in parts {
            files.images.extend(images);
            files.truths.extend(truths);
            files.detections.extend(detections);
        }
        files
    }

    fn add_truths(&mut self, file: CocoFile) -> Result<()> {
        self.images = sorted_once("image", file.images.iter().map(|image| image.id.clone()))?;
        sorted_once("category", file.categories.iter().map(|category| category.id.clone()))?;
        self.categories = file.categories.into_iter().map(|c| Category { id: c.id, name: c.name }).collect();
        self.categories.sort_by(|a, b| a.id.cmp(&b.id));
        let (images, classes) = self.indices();
        let mut seen = HashSet::new();
        let (mut lost, mut empty, mut zero, mut repeated) = <(Tally, Tally, Tally, Tally)>::default();
        for (i, annotation) in file.annotations.iter().enumerate() {
            let (image_id, category_id) = (&annotation.image_id, &annotation.category_id);
            let (Some(image), Some(class)) = (images.get(image_id), classes.get(category_id)) else {
                lost.add(|| format!("annotations[{i}] with image_id {image_id} and category_id {category_id}"));
                continue;
            };
            let [.., w, h] = annotation.bbox;
            if !(w > 0.0 && h > 0.0) {
                empty.add(|| format!("annotations[{i}] with width {w} and height {h}"));
            }
            match &annotation.id {
                Some(CocoId::Number(0)) => zero.add(|| format!("annotations[{i}]")),
                Some(id) if !seen.insert(id) => repeated.add(|| format!("annotations[{i}] with id {id}")),
                _ => {}
            }
            self.truths.push(Truth {
                image: *image,
                class: *class,
                bbox: annotation.bbox,
                area: annotation.area(),
                crowd: annotation.iscrowd,
                difficult: annotation.difficult || annotation.ignore,
            });
        }
        if let Some(warning) = in_shares("true", self.truths.iter().map(|truth| truth.bbox)) {
            self.warnings.push(warning);
        }
        lost.report("annotations of an unknown image or category were left out", &mut self.warnings);
        empty.report("true boxes have no size: no detection can match them, they count as missed", &mut self.warnings);
        zero.report(
            "annotations have id 0, which pycocotools never counts as found; here they count like others",
            &mut self.warnings,
        );
        repeated
            .report("annotation ids are given again; each annotation counts as a box of its own", &mut self.warnings);
        Ok(())
    }

    fn add_detections(&mut self, results: &[CocoResult]) -> Result<()> {
        let (images, classes) = self.indices();
        let mut unknown = Tally::default();
        for (i, CocoResult { image_id, category_id, bbox, score }) in results.iter().enumerate() {
            let Some(&image) = images.get(image_id) else {
                bail!("[{i}].image_id: {image_id} found, expected the id of an image of the ground truth");
            };
            let Some(&class) = classes.get(category_id) else {
                unknown.add(|| format!("[{i}] with category_id {category_id}"));
                continue;
            };
            self.detections.push(Detection { image, class, bbox: *bbox, score: *score });
        }
        let ids = self.categories.iter().map(|category| &category.id);
        let range = ids.clone().min().zip(ids.max()).map_or("none".into(), |(low, high)| format!("{low}..={high}"));
        let what = format!("detections of an unknown category were left out; the ground truth's ids are {range}");
        unknown.report(&what, &mut self.warnings);
        if let Some(warning) = in_shares("found", results.iter().map(|found| found.bbox)) {
            self.warnings.push(warning);
        }
        if results.is_empty() {
            self.warnings.push("there are no detections at all".into());
        }
        Ok(())
    }

    fn indices(&self) -> (HashMap<CocoId, usize>, HashMap<CocoId, usize>) {
        let images = self.images.iter().enumerate().map(|(i, id)| (id.clone(), i)).collect();
        (images, self.categories.iter().enumerate().map(|(i, category)| (category.id.clone(), i)).collect())
    }
}

/// A warning when no box reaches beyond the first pixel.
fn in_shares(what: &str, mut boxes: impl Iterator<Item = [f64; 4]> + Clone) -> Option<String> {
    let any = boxes.clone().next().is_some();
    let all = boxes.all(|[x, y, w, h]| x + w <= 1.0 && y + h <= 1.0 && w > 0.0 && h > 0.0);
    let sentence = || format!("all {what} boxes lie within 0..1, as shares of the image's sides; expected pixels");
    (any && all).then(sentence)
}

/// Ids in order, none of them twice.
fn sorted_once(what: &str, ids: impl Iterator<Item = CocoId>) -> Result<Vec<CocoId>> {
    let mut ids: Vec<CocoId> = ids.collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => bail!("{what} id {} found twice, expected once", pair[0]),
        None => Ok(ids),
    }
}
