//! COCO (Lin et al. 2014, <https://arxiv.org/abs/1405.0312>) and other sets in its JSON format.

use std::collections::HashMap;
use std::path::Path;

use super::coco_json::{self, CocoAnnotation, CocoCategory, CocoFile, CocoId, CocoImage};
use super::file_set::{FileSet, Item};
use super::{DetClasses, DetDataset, Object};
use crate::classes::twin;
use crate::error::{DataError, Problem};
use crate::names;
use crate::tally::Tally;

/// Opens the images of an annotation file; file names in it are relative to `images`.
pub fn open(annotations: &Path, images: &Path) -> Result<impl DetDataset + use<>, DataError> {
    let file = coco_json::read_annotations(annotations)?;
    let invalid = |found: String, expected: &str| DataError::from(Problem::new(annotations, found, expected));
    if file.images.is_empty() {
        return Err(invalid("no images".into(), "at least one"));
    }
    let classes = DetClasses::new(file.categories.into_iter().map(|category| (category.id, category.name)));
    let classes = classes.map_err(|id| invalid(format!("category id {id} twice"), "every id once"))?;
    if classes.is_empty() {
        return Err(invalid("no categories".into(), "at least one"));
    }
    let mut items = Vec::new();
    for (i, CocoImage { id, width, height, file_name }) in file.images.into_iter().enumerate() {
        let Some(file_name) = file_name else {
            return Err(invalid(format!("images[{i}] without file_name"), "a file below the folder of images"));
        };
        let image = names::below(images, &file_name);
        let image = image.map_err(|found| invalid(format!("images[{i}].file_name: {found}"), names::EXPECTED))?;
        items.push(Item {
            name: names::flat(&file_name),
            image_id: id,
            image,
            source: annotations.to_owned(),
            size: width.zip(height).filter(|(w, h)| *w > 0 && *h > 0),
            objects: Ok(Vec::new()),
        });
    }
    items.sort_by(|a, b| a.image_id.cmp(&b.image_id));
    if let Some(pair) = items.windows(2).find(|pair| pair[0].image_id == pair[1].image_id) {
        return Err(invalid(format!("image id {} twice", pair[0].image_id), "every id once"));
    }
    let mut warnings = distribute(&file.annotations, &classes, &mut items);
    if let Some(name) = twin(classes.names()) {
        warnings.push(format!("two categories are called {name:?}; they count as two classes"));
    }
    Ok(FileSet::new(classes, items, warnings))
}

/// Gives every image its boxes; returns warnings about those that belong to none.
fn distribute(annotations: &[CocoAnnotation], classes: &DetClasses, items: &mut [Item]) -> Vec<String> {
    let places: HashMap<CocoId, usize> =
        items.iter().enumerate().map(|(place, item)| (item.image_id.clone(), place)).collect();
    let (mut lost, mut zero, mut warnings) = (Tally::default(), Tally::default(), Vec::new());
    for (i, annotation) in annotations.iter().enumerate() {
        let CocoAnnotation { id, image_id, category_id, bbox: [x, y, w, h], iscrowd: crowd, .. } = annotation;
        let (Some(place), Some(class)) = (places.get(image_id), classes.index(category_id)) else {
            lost.add(|| format!("annotations[{i}] with image_id {image_id} and category_id {category_id}"));
            continue;
        };
        if *id == Some(CocoId::Number(0)) {
            zero.add(|| format!("annotations[{i}]"));
        }
        let difficult = annotation.difficult || annotation.ignore;
        let object = Object { bbox: [*x, *y, x + w, y + h], class, area: annotation.area(), crowd: *crowd, difficult };
        items[*place].objects.as_mut().expect("no item is broken yet").push(object);
    }
    lost.report("annotations of an unknown image or category were left out", &mut warnings);
    zero.report("annotations have id 0, which pycocotools never counts as found", &mut warnings);
    warnings
}

/// The annotation file of any set; `file_name` gives the image file of a sample's name. Reads every sample.
pub fn annotations(dataset: &dyn DetDataset, file_name: impl Fn(&str) -> String) -> Result<CocoFile, DataError> {
    let classes = dataset.classes();
    let mut file = CocoFile::default();
    for i in 0..dataset.len() {
        let sample = dataset.load(i)?;
        let (image_id, (width, height)) = (dataset.image_id(i), sample.image.dimensions());
        let file_name = Some(file_name(dataset.name(i)));
        file.images.push(CocoImage { id: image_id.clone(), width: Some(width), height: Some(height), file_name });
        for Object { bbox: [x0, y0, x1, y1], class, area, crowd, difficult } in sample.objects {
            file.annotations.push(CocoAnnotation {
                id: Some((file.annotations.len() as i64 + 1).into()),
                image_id: image_id.clone(),
                category_id: classes.ids()[class].clone(),
                bbox: [x0, y0, x1 - x0, y1 - y0],
                area: Some(area),
                iscrowd: crowd,
                difficult,
                ignore: false,
            });
        }
    }
    let categories = classes.ids().iter().zip(classes.names());
    file.categories = categories.map(|(id, name)| CocoCategory { id: id.clone(), name: name.clone() }).collect();
    Ok(file)
}
