//! Pascal VOC (Everingham et al. 2010) and other sets in its layout: `Annotations/NAME.xml`, `JPEGImages/NAME.jpg`,
//! lists of names in `ImageSets/Main/SPLIT.txt`.
//!
//! The files' corners are pixels counted from 1 that belong to the box; here `xmin - 1` is the left edge and `xmax` the
//! right one.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use roxmltree::{Document, Node};

use super::file_set::{FileSet, Item};
use super::{DetClasses, DetDataset, Object, xml};
use crate::classes::twin;
use crate::error::{DataError, Problem};
use crate::files::{self, IMAGE_EXTENSIONS, Stems};
use crate::names;
use crate::split::Split;
use crate::tally::Tally;

/// Opens one split of the set below `root`. Without `classes` they are the names in all files of `Annotations`, in
/// alphabetical order, the same for every split.
pub fn open(root: &Path, split: Split, classes: Option<&[String]>) -> Result<impl DetDataset + use<>, DataError> {
    let list = root.join(format!("ImageSets/Main/{split}.txt"));
    let text = files::read_text(&list, "a list of image names")?;
    let mut named =
        Named { root, images: Stems::new(&IMAGE_EXTENSIONS), again: Tally::default(), seen: HashSet::new() };
    let lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty());
    let samples = lines.map(|(number, line)| {
        let refused = |found| Problem::new(&list, format!("line {number}: {found}"), names::EXPECTED);
        named.sample(line).map_err(refused)
    });
    let samples: Vec<Sample> = samples.filter_map(Result::transpose).collect::<Result<_, Problem>>()?;
    if samples.is_empty() {
        return Err(Problem::new(&list, "an empty list", "one image name per line").into());
    }
    let classes = match classes {
        Some(names) => DetClasses::numbered(names.iter().cloned()),
        None => DetClasses::numbered(find_classes(&root.join("Annotations"))?),
    };
    if let Some(name) = twin(classes.names()) {
        return Err(Problem::new("data.classes".as_ref(), format!("{name:?} twice"), "every class once").into());
    }
    let item = |(i, sample): (usize, &Sample)| item(root, i, sample, &classes);
    let items = samples.par_iter().enumerate().map(item).collect();
    let mut warnings = Vec::new();
    named.again.report("samples are listed a second time and were left out there", &mut warnings);
    Ok(FileSet::new(classes.clone(), items, warnings))
}

/// The files of the names of a list.
struct Named<'a> {
    root: &'a Path,
    images: Stems,
    again: Tally,
    seen: HashSet<PathBuf>,
}

/// A name of a list with its files.
struct Sample {
    name: String,
    annotation: PathBuf,
    /// Images of the name, whatever their endings, and the one that there should be.
    images: Vec<PathBuf>,
    usual: PathBuf,
}

impl Named<'_> {
    /// The sample of a line; nothing if it stands there for a second time.
    fn sample(&mut self, line: &str) -> Result<Option<Sample>, String> {
        let file = |name: &str, folder: &str, ending: &str| {
            names::below(&self.root.join(folder), name).map(|path| with_ending(path, ending))
        };
        // VOC's own lists of a class have a mark behind the name: `2008_000008 -1`.
        let mut name = line;
        let marked = line.rsplit_once(char::is_whitespace).filter(|(_, mark)| matches!(*mark, "1" | "0" | "-1"));
        if let Some((bare, _)) = marked.filter(|_| file(line, "Annotations", ".xml").is_ok_and(|path| !path.exists())) {
            name = bare.trim_end();
        }
        let (annotation, usual) = (file(name, "Annotations", ".xml")?, file(name, "JPEGImages", ".jpg")?);
        if !self.seen.insert(annotation.clone()) {
            self.again.add(|| name.to_owned());
            return Ok(None);
        }
        let images = self.images.find(&names::below(&self.root.join("JPEGImages"), name)?).to_vec();
        Ok(Some(Sample { name: name.replace(['/', '\\'], "_"), annotation, images, usual }))
    }
}

fn with_ending(path: PathBuf, ending: &str) -> PathBuf {
    let mut path = path.into_os_string();
    path.push(ending);
    path.into()
}

fn item(root: &Path, i: usize, sample: &Sample, classes: &DetClasses) -> Item {
    let Sample { name, annotation: source, images, usual } = sample;
    let parsed = read(source).and_then(|annotation| Ok((annotation.objects(classes, source)?, annotation)));
    let (size, listed, mut objects) = match parsed {
        Ok((objects, annotation)) => (annotation.size, annotation.file_name, Ok(objects)),
        Err(problem) => (None, None, Err(problem)),
    };
    let folder = root.join("JPEGImages");
    let listed = listed.and_then(|listed| names::below(&folder, &listed).ok()).filter(|path| path.is_file());
    let image = match &images[..] {
        _ if images.contains(usual) => usual.clone(),
        [] => listed.unwrap_or_else(|| usual.clone()),
        [image] => image.clone(),
        _ if listed.as_ref().is_some_and(|listed| images.contains(listed)) => listed.unwrap_or_default(),
        [image, twin, ..] => {
            let same = format!("the same stem as {}", image.display());
            objects = objects.and(Err(Problem::new(twin, same, "one image of a name, or its <filename>")));
            image.clone()
        }
    };
    Item { name: name.clone(), image_id: (i as i64 + 1).into(), image, source: source.clone(), size, objects }
}

/// The names of objects in a folder of annotations; broken files are left to those who list them.
fn find_classes(folder: &Path) -> Result<BTreeSet<String>, DataError> {
    let mut files = files::list(folder, "a folder of VOC annotations")?;
    files.retain(|path| files::has_extension(path, &["xml"]));
    let annotations = files.par_iter().filter_map(|path| read(path).ok());
    let names: BTreeSet<String> = annotations.flat_map_iter(|a| a.boxes.into_iter().map(|b| b.name)).collect();
    if names.is_empty() {
        return Err(Problem::new(folder, "no objects in its files", "at least one, or data.classes").into());
    }
    Ok(names)
}

/// What an annotation file says.
struct Annotation {
    file_name: Option<String>,
    /// Width and height.
    size: Option<(u32, u32)>,
    boxes: Vec<VocBox>,
}

struct VocBox {
    name: String,
    difficult: bool,
    /// xmin, ymin, xmax, ymax.
    corners: [f64; 4],
}

impl Annotation {
    fn objects(&self, classes: &DetClasses, path: &Path) -> Result<Vec<Object>, Problem> {
        let objects = self.boxes.iter().zip(1..).map(|(VocBox { name, difficult, corners }, number)| {
            let unknown = || {
                let expected = format!("one of {}", classes.names().join(", "));
                Problem::new(path, format!("object {number} of class {name:?}"), expected)
            };
            let class = classes.names().iter().position(|class| class == name).ok_or_else(unknown)?;
            // Some tools leave a box that was drawn from the lower right as it was drawn.
            let [xmin, ymin] = [0, 1].map(|axis: usize| corners[axis].min(corners[axis + 2]));
            let [xmax, ymax] = [0, 1].map(|axis: usize| corners[axis].max(corners[axis + 2]));
            // Annotation tools leave equal corners where somebody clicked without dragging: no box of one pixel.
            let left = |min: f64, max: f64| if min < max { min - 1.0 } else { max };
            let bbox = [left(xmin, xmax), left(ymin, ymax), xmax, ymax];
            let area = (bbox[2] - bbox[0]) * (bbox[3] - bbox[1]);
            Ok(Object { bbox, class, area, crowd: false, difficult: *difficult })
        });
        objects.collect()
    }
}

fn read(path: &Path) -> Result<Annotation, Problem> {
    const EXPECTED: &str = "a VOC annotation";
    let text = xml::read(path, EXPECTED)?;
    let document = Document::parse(&text).map_err(|error| Problem::new(path, format!("no XML ({error})"), EXPECTED))?;
    parse(document.root_element()).map_err(|(found, expected)| Problem::new(path, found, expected))
}

/// `Err` is what was found and what was expected.
fn parse(root: Node) -> Result<Annotation, (String, &'static str)> {
    if !root.has_tag_name("annotation") {
        return Err((format!("<{}> as outermost tag", root.tag_name().name()), "<annotation>"));
    }
    let side =
        |name| child(root, "size").and_then(|size| text(size, name)?.parse::<u32>().ok()).filter(|side| *side > 0);
    let objects = root.children().filter(|node| node.has_tag_name("object")).zip(1..);
    let boxes = objects.map(|(object, number)| parse_box(object, number)).collect::<Result<_, _>>()?;
    let file_name = text(root, "filename").map(str::to_owned);
    Ok(Annotation { file_name, size: side("width").zip(side("height")), boxes })
}

fn parse_box(object: Node, number: usize) -> Result<VocBox, (String, &'static str)> {
    let missing = |tag: &str| format!("object {number} without <{tag}>");
    let name = text(object, "name").ok_or_else(|| (missing("name"), "the object's class"))?.to_owned();
    let bounds = child(object, "bndbox").ok_or_else(|| (missing("bndbox"), "the object's box"))?;
    let mut corners = [0.0; 4];
    for (corner, tag) in corners.iter_mut().zip(["xmin", "ymin", "xmax", "ymax"]) {
        let value = text(bounds, tag).ok_or_else(|| (missing(tag), "four corners of the box"))?;
        let finite = value.parse().ok().filter(|value: &f64| value.is_finite());
        *corner = finite.ok_or_else(|| (format!("object {number} with <{tag}> {value:?}"), "a number"))?;
    }
    let difficult = match text(object, "difficult") {
        None | Some("0" | "") => false,
        Some("1") => true,
        Some(other) => return Err((format!("object {number} with <difficult> {other:?}"), "0 or 1")),
    };
    Ok(VocBox { name, difficult, corners })
}

fn child<'a>(node: Node<'a, 'a>, tag: &str) -> Option<Node<'a, 'a>> {
    node.children().find(|child| child.has_tag_name(tag))
}

/// The text of a child, without spaces around it.
fn text<'a>(node: Node<'a, 'a>, tag: &str) -> Option<&'a str> {
    child(node, tag).map(|child| child.text().unwrap_or_default().trim())
}
