//! The data set behind every format on disk: image files with boxes that are known from the start.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{CocoId, DetClasses, DetDataset, DetSample, Object};
use crate::error::{DataError, Problem};
use crate::images;
use crate::names::{self, Unique};
use crate::tally::Tally;

/// An image file and what is known about it.
pub struct Item {
    pub name: String,
    pub image_id: CocoId,
    pub image: PathBuf,
    /// Where the boxes come from.
    pub source: PathBuf,
    /// Width and height that the source tells.
    pub size: Option<(u32, u32)>,
    /// The objects, or what is wrong with the source.
    pub objects: Result<Vec<Object>, Problem>,
}

/// Samples on disk.
pub struct FileSet {
    classes: DetClasses,
    items: Vec<Item>,
    warnings: Vec<String>,
}

impl FileSet {
    /// Leaves out boxes that cannot be used and numbers samples of one name, with a warning.
    pub fn new(classes: DetClasses, mut items: Vec<Item>, mut warnings: Vec<String>) -> Self {
        if let Some(place) = in_shares(&items) {
            warnings.push(format!(
                "all boxes lie within 0..1, as shares of the image's sides; expected pixels (first: {place})"
            ));
        }
        number_names(&mut items, &mut warnings);
        let (mut flat, mut outside, mut beyond) = <(Tally, Tally, Tally)>::default();
        for Item { name, size, objects, .. } in &mut items {
            let Ok(objects) = objects else { continue };
            objects.retain(|object| {
                let place = || format!("{name}, box {:?}", object.bbox);
                if !object.has_size() {
                    flat.add(place);
                } else if size.is_some_and(|(w, h)| !object.is_inside(w, h)) {
                    outside.add(place);
                } else {
                    if size.is_some_and(|size| reaches_out(&object.bbox, size)) {
                        beyond.add(place);
                    }
                    return true;
                }
                false
            });
        }
        flat.report("boxes have no width or no height and were left out", &mut warnings);
        outside.report("boxes lie outside their image and were left out", &mut warnings);
        beyond.report("boxes reach out of their image by more than a pixel; training clips them", &mut warnings);
        Self { classes, items, warnings }
    }
}

/// The first box, if none of the set reaches beyond the first pixel.
fn in_shares(items: &[Item]) -> Option<String> {
    let all = || items.iter().flat_map(|item| item.objects.iter().flatten().map(move |object| (item, object.bbox)));
    let (item, bbox) = all().next()?;
    let is_share = |bbox: [f64; 4]| bbox.iter().all(|edge| *edge <= 1.0) && bbox[2] > 0.0 && bbox[3] > 0.0;
    all().all(|(_, bbox)| is_share(bbox)).then(|| format!("{}, box {bbox:?}", item.name))
}

fn number_names(items: &mut [Item], warnings: &mut Vec<String>) {
    let (mut names, mut numbered) = (Unique::default(), Tally::default());
    for item in items {
        let name = names.claim(&item.name);
        if name != item.name {
            numbered.add(|| format!("{} as {name}", item.image.display()));
            item.name = name;
        }
    }
    numbered.report("samples have the name of another one and got a number", warnings);
}

/// Image files without boxes, their ids from 1 in this order.
///
/// # Errors
/// If there is none, or two would have the same name.
pub fn unlabelled(classes: DetClasses, images: &[PathBuf]) -> Result<impl DetDataset + use<>, DataError> {
    let mut items: Vec<Item> = Vec::new();
    let mut places: HashMap<String, &PathBuf> = HashMap::new();
    for (image, image_id) in images.iter().zip(1..) {
        let name = names::stem(image);
        if let Some(other) = places.insert(name.clone(), image) {
            let expected = format!("another name than {}", other.display());
            return Err(Problem::new(image, format!("a second image called {name}"), expected).into());
        }
        items.push(Item {
            name,
            image_id: CocoId::Number(image_id),
            image: image.clone(),
            source: image.clone(),
            size: None,
            objects: Ok(vec![]),
        });
    }
    if items.is_empty() {
        return Err(Problem::new("images".as_ref(), "none", "at least one").into());
    }
    Ok(FileSet::new(classes, items, Vec::new()))
}

/// Files count pixels from 0 or from 1 and round: a pixel too far is usual.
fn reaches_out([x0, y0, x1, y1]: &[f64; 4], (w, h): (u32, u32)) -> bool {
    *x0 < -1.0 || *y0 < -1.0 || *x1 > f64::from(w) + 1.0 || *y1 > f64::from(h) + 1.0
}

impl DetDataset for FileSet {
    fn len(&self) -> usize {
        self.items.len()
    }

    fn name(&self, i: usize) -> &str {
        &self.items[i].name
    }

    fn image_id(&self, i: usize) -> CocoId {
        self.items[i].image_id.clone()
    }

    fn load(&self, i: usize) -> Result<DetSample, DataError> {
        let Item { image, source, size, objects, .. } = &self.items[i];
        let objects = objects.as_ref().map_err(Clone::clone)?;
        let read = images::read_turned(image).map_err(|error| add_source(error, source))?;
        let (w, h) = read.image.dimensions();
        if let Some((told_w, told_h)) = size.filter(|size| *size != (w, h)) {
            let expected = format!("{told_w}x{told_h} pixels as in {}", source.display());
            return Err(Problem::new(image, read.size(), expected).into());
        }
        let objects = objects.iter().filter(|object| object.is_inside(w, h)).copied().collect();
        Ok(DetSample { image: read.image, objects })
    }

    fn classes(&self) -> &DetClasses {
        &self.classes
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn image_path(&self, i: usize) -> Option<&Path> {
        Some(&self.items[i].image)
    }
}

/// Says which file lists the image.
fn add_source(error: DataError, source: &std::path::Path) -> DataError {
    match error {
        DataError::Invalid(problem) if problem.path != source => {
            let expected = format!("{} that {} lists", problem.expected, source.display());
            Problem { expected, ..problem }.into()
        }
        other => other,
    }
}
