//! The formats that bytes from outside come in, each with the functions that read it: what the mutation tests and the fuzz targets
//! (`fuzz/`) give damaged files to. A reader may refuse them; a panic, an abort or memory that the file does not justify is a fault.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nas_classify::task::Classification;
use nas_core::executor::InProcess;
use nas_core::nn::{Shape, VarBuilder};
use nas_core::optim::Named;
use nas_core::run::import::{is_torch_file, read_state_dict};
use nas_core::run::run_dir::RunDir;
use nas_core::search::analysis::samples::Source;
use nas_core::search::analysis::vocabulary::numbered;
use nas_core::search::goals::Goals;
use nas_core::search::log::TrialStore;
use nas_core::search::operators::OperatorTable;
use nas_core::search::table::Table;
use nas_core::search::{SearchLoop, Searcher};
use nas_core::space::trial::{Budget, Trial, Values};
use nas_core::space::{Architecture, ChoiceSpace, InvalidArchitecture};
use nas_core::strategy::StrategyConfig;
use nas_core::task::experiment::{self, CompareExperiment, Kind, OneShotExperiment, SearchExperiment, TrainExperiment};
use nas_core::task::{Task, TaskSpace};
use nas_core::train::{self, At, Job, LoopConfig, Metrics, Step, read_about, read_tensors};
use nas_datasets::classify::{self, ClassifyDataConfig};
use nas_datasets::det::{self, DetDataConfig};
use nas_datasets::{DataConfig, Split, check, read_image, read_label};
use nas_detect::task::Detection;
use nas_segment::task::Segmentation;
use serde_json::Value;
use tch::nn::{Init, VarStore};
use tch::{Device, Tensor};

use crate::root;

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// PNG and JPEG images.
    Image,
    /// One-channel PNGs of class ids.
    Label,
    /// Lists of samples and of classes.
    List,
    /// COCO's annotations and results.
    Coco,
    /// Pascal VOC's annotations.
    Voc,
    /// MNIST's and CIFAR's files of many images.
    Packed,
    /// CSV tables of trained networks, gzipped or not.
    Table,
    /// CSV tables of operators.
    Operators,
    /// Trial logs, told to every strategy.
    TrialLog,
    /// Checkpoints of runs, and weights of PyTorch.
    Checkpoint,
    /// Experiment files of the three tools.
    Experiment,
    /// Architectures in the notations of all spaces.
    Architecture,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Image,
        Self::Label,
        Self::List,
        Self::Coco,
        Self::Voc,
        Self::Packed,
        Self::Table,
        Self::Operators,
        Self::TrialLog,
        Self::Checkpoint,
        Self::Experiment,
        Self::Architecture,
    ];

    /// The folder of its corpus below `tests/corpus`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Label => "label",
            Self::List => "list",
            Self::Coco => "coco",
            Self::Voc => "voc",
            Self::Packed => "packed",
            Self::Table => "table",
            Self::Operators => "operators",
            Self::TrialLog => "trial_log",
            Self::Checkpoint => "checkpoint",
            Self::Experiment => "experiment",
            Self::Architecture => "architecture",
        }
    }

    /// Valid files, in the order of their names.
    pub fn corpus(self) -> Vec<(PathBuf, Vec<u8>)> {
        let folders = match self {
            Self::Experiment => vec!["configs", "tests/configs"],
            Self::Checkpoint => vec!["tests/corpus/checkpoint", "tests/golden/torch_files"],
            _ => vec![],
        };
        let own = root().join("tests/corpus").join(self.name());
        let mut paths: Vec<PathBuf> = folders.iter().flat_map(|folder| files(&root().join(folder))).collect();
        paths.extend(files(&own).into_iter().filter(|path| !paths.contains(path)).collect::<Vec<_>>());
        // Scripts, and a file whose objects are refused on purpose.
        let left_out =
            |path: &PathBuf| path.ends_with("module.pt") || path.extension().is_some_and(|ending| ending == "py");
        paths.retain(|path| !left_out(path));
        let read = |path: PathBuf| (path.clone(), fs::read(&path).expect("a committed file"));
        paths.into_iter().map(read).collect()
    }

    /// Bytes that reading a file of `length` bytes may take beside what was there before.
    pub fn limit(self, length: usize) -> usize {
        const MIB: usize = 1 << 20;
        match self {
            // 8192 x 8192 pixels of three bytes, twice.
            Self::Image => 420 * MIB,
            // The file, its pixels, and these once more while they are unpacked.
            Self::Label => 160 * MIB,
            // MNIST's and CIFAR's files are bounded by their own length, unpacked at most 200 to 1.
            Self::Packed => 32 * MIB + 250 * length,
            Self::Table | Self::Operators => 200 * MIB,
            _ => 48 * MIB + 40 * length,
        }
    }

    /// Makes damaged bytes pass the checks that would refuse nearly all of them: checksums and lengths of headers.
    pub fn repair(self, original: &[u8], damaged: &mut [u8]) {
        match self {
            Self::Image | Self::Label => repair_png(damaged),
            Self::Checkpoint => repair_safetensors(original, damaged),
            _ => {}
        }
    }

    /// Reads a file of the format in the empty folder `folder`.
    ///
    /// # Errors
    /// What the readers say of it.
    pub fn read(self, bytes: &[u8], folder: &Path) -> Result<()> {
        match self {
            Self::Image => read_images(bytes, folder),
            Self::Label => Ok(read_label(&put(folder, "a.png", bytes)?, "a label map").map(drop)?),
            Self::List => read_lists(bytes, folder),
            Self::Coco => read_coco(bytes, folder),
            Self::Voc => read_voc(bytes, folder),
            Self::Packed => read_packed(bytes, folder),
            Self::Table => read_table(bytes, folder),
            Self::Operators => {
                let decisions = numbered(&[5; 6]);
                OperatorTable::read(&put(folder, "operators.csv", bytes)?, &decisions).map(drop)
            }
            Self::TrialLog => read_log(bytes, folder),
            Self::Checkpoint => read_checkpoint(bytes, folder),
            Self::Experiment => read_experiment(bytes, folder),
            Self::Architecture => read_architecture(bytes),
        }
    }
}

/// All files below a folder, in the order of their names.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
    fs::write(&path, bytes)?;
    Ok(path)
}

/// A sound picture.
const PICTURE: &[u8] = include_bytes!("../corpus/image/rgb.png");

fn read_images(bytes: &[u8], folder: &Path) -> Result<()> {
    Ok(read_image(&put(folder, "a.png", bytes)?).map(drop)?)
}

fn first(problems: Vec<nas_datasets::Problem>) -> Result<()> {
    problems.into_iter().next().map_or(Ok(()), |problem| Err(problem.into()))
}

/// The bytes as every list that there is: of stems, of classes, of CamVid's pairs, of VOC's names.
fn read_lists(bytes: &[u8], folder: &Path) -> Result<()> {
    let classes = put(folder, "classes.txt", b"sky 1 2 3\nroad\n")?;
    put(folder, "images/a.png", PICTURE)?;
    put(folder, "train.txt", bytes)?;
    let listed = (DataConfig::Folder { root: folder.into() }).open(Split::Train).map(|set| names_inside(&*set));
    let pairs = (DataConfig::Camvid { root: folder.into() }).open(Split::Train).map(|set| names_inside(&*set));
    put(folder, "ImageSets/Main/train.txt", bytes)?;
    put(folder, "JPEGImages/a.png", PICTURE)?;
    let named = DetDataConfig::Voc { root: folder.into(), classes: Some(vec!["cat".into()]) }.open(Split::Train);
    let named = named.map(|set| (0..set.len()).for_each(|i| assert_inside(set.name(i))));
    fs::write(classes, bytes)?;
    put(folder, "train.txt", b"a\n")?;
    let of_classes = (DataConfig::Folder { root: folder.into() }).open(Split::Train).map(|set| drop(check(&*set)));
    // Text that is none of these is refused by all of them.
    listed.or(pairs).or(named).or(of_classes).map_err(Into::into)
}

fn names_inside(set: &dyn nas_datasets::SegDataset) {
    (0..set.len()).for_each(|i| assert_inside(set.name(i)));
    check(set);
}

/// Files are called after samples: none may lead out of its folder.
fn assert_inside(name: &str) {
    let inside = Path::new(name)
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir));
    assert!(inside && !name.is_empty(), "the name {name:?} leads out of its folder");
}

fn read_coco(bytes: &[u8], folder: &Path) -> Result<()> {
    put(folder, "annotations/instances_train2017.json", bytes)?;
    put(folder, "train2017/a.png", PICTURE)?;
    let file = folder.join("annotations/instances_train2017.json");
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        let truth = root().join("tests/corpus/coco/annotations.json");
        nas_detect::eval::files::read(&truth, &file).map(|files| score(&files))?;
        return Ok(());
    }
    let set = (DetDataConfig::Coco { root: folder.into() }).open(Split::Train)?;
    (0..set.len()).for_each(|i| assert_inside(set.name(i)));
    let results = root().join("tests/corpus/coco/results.json");
    // Results of other images are refused.
    let _ = nas_detect::eval::files::read(&file, &results).map(|files| score(&files));
    first(det::check(&*set))
}

fn score(files: &nas_detect::eval::files::EvalFiles) {
    use nas_detect::eval::report::{CocoReport, VocReport};
    let _ = CocoReport::new(files, &nas_detect::eval::coco::MAX_DETS).to_string();
    let _ = VocReport::new(files).to_string();
}

fn read_voc(bytes: &[u8], folder: &Path) -> Result<()> {
    put(folder, "ImageSets/Main/train.txt", b"a\n")?;
    put(folder, "Annotations/a.xml", bytes)?;
    put(folder, "JPEGImages/a.png", PICTURE)?;
    let set = (DetDataConfig::Voc { root: folder.into(), classes: None }).open(Split::Train)?;
    (0..set.len()).for_each(|i| assert_inside(set.name(i)));
    first(det::check(&*set))
}

/// MNIST where the bytes begin with zeros or as gzip, else CIFAR-10.
fn read_packed(bytes: &[u8], folder: &Path) -> Result<()> {
    let part = classify::Part::default();
    let config = if bytes.starts_with(&[0x1f, 0x8b]) || bytes.starts_with(&[0, 0]) {
        let ending = if bytes.starts_with(&[0, 0]) { "" } else { ".gz" };
        put(folder, &format!("train-images-idx3-ubyte{ending}"), bytes)?;
        put(folder, "train-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0, 2, 3, 9])?;
        ClassifyDataConfig::Mnist { root: folder.into(), part }
    } else {
        put(folder, "batches.meta.txt", b"a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n")?;
        (1..=5).try_for_each(|i| put(folder, &format!("data_batch_{i}.bin"), bytes).map(drop))?;
        ClassifyDataConfig::Cifar10 { root: folder.into(), part }
    };
    let set = config.open(Split::Train)?;
    first(classify::check(&*set))
}

/// As a table, and as a source of an analysis.
fn read_table(bytes: &[u8], folder: &Path) -> Result<()> {
    let ending = if bytes.starts_with(&[0x1f, 0x8b]) { "csv.gz" } else { "csv" };
    let path = put(folder, &format!("table.{ending}"), bytes)?;
    let parse = |text: &str| -> Result<Architecture> { Ok(text.parse()?) };
    let table = Table::read(&[&path], &parse);
    let source = Source::read(&path, &["valid"]);
    let table = table?.without_negatives(&[])?;
    let arch = table.archs().first().context("a table has rows")?;
    table.values(arch)?;
    source.and_then(|source| source.archs()).map(drop)
}

/// Three decisions of three choices.
#[derive(Debug)]
struct Digits;

impl ChoiceSpace for Digits {
    fn name(&self) -> &str {
        "digits"
    }

    fn decisions(&self) -> Vec<u16> {
        vec![3, 3, 3]
    }

    fn validate(&self, arch: &Architecture) -> Result<(), InvalidArchitecture> {
        let of_space = arch.choices().len() == 3 && arch.choices().iter().all(|choice| *choice < 3);
        let wrong = || InvalidArchitecture { space: "digits".into(), arch: arch.to_string(), reason: "no".into() };
        of_space.then_some(()).ok_or_else(wrong)
    }
}

/// Told to a strategy that the bytes choose, which is then asked for two trials.
fn read_log(bytes: &[u8], folder: &Path) -> Result<()> {
    let path = put(folder, "trials.jsonl", bytes)?;
    let strategies = StrategyConfig::all();
    let sum: usize = bytes.iter().map(|byte| usize::from(*byte)).sum();
    let strategy = &strategies[sum % strategies.len()];
    let (store, records) = TrialStore::open(path)?;
    let searcher = Searcher::new(&Digits, strategy, Goals::maximize("valid"), Budget::default(), 0);
    let num_trials = records.len() as u64 + 2;
    let mut search = SearchLoop::new(searcher, store, records, num_trials)?;
    let evaluate = |trial: &Trial| Ok(Values::from([("valid".to_string(), f64::from(trial.arch.choices()[0]))]));
    search.run(&mut InProcess::new(evaluate), true, Vec::new(), |_| {})
}

/// A job of one number, whose checkpoint a run goes on from.
struct Counter {
    vs: VarStore,
    weight: Tensor,
}

impl Counter {
    fn new() -> Self {
        let vs = VarStore::new(Device::Cpu);
        let weight = vs.root().var("weight", &[2, 3], Init::Const(1.0));
        Self { vs, weight }
    }
}

impl Job for Counter {
    fn steps_per_epoch(&self) -> usize {
        2
    }

    fn start_epoch(&mut self, _epoch: usize, _step: usize) -> Result<()> {
        Ok(())
    }

    fn step(&mut self, _at: At) -> Result<Step> {
        tch::no_grad(|| drop(self.weight.g_add_scalar_(1.0)));
        Ok(Step { loss: 1.0, images: 1, lr: 0.1 })
    }

    fn end_epoch(&mut self, _epoch: usize, _last: bool) -> Result<Metrics> {
        Ok(Metrics::new())
    }

    fn best_metric(&self) -> &'static str {
        "none"
    }

    fn model(&self) -> Vec<Named> {
        train::all_variables(&self.vs)
    }

    fn extra_state(&self) -> (Vec<Named>, Value) {
        (Vec::new(), serde_json::json!({ "count": 1 }))
    }

    fn load_state(&mut self, tensors: HashMap<String, Tensor>, json: Value) -> Result<()> {
        ensure!(json["count"].is_u64(), "count: {} found, expected a number", json["count"]);
        train::copy_into(&self.model(), &tensors)
    }
}

/// Writes the checkpoint of a run of one epoch in three, as the corpus has it.
pub fn write_checkpoint(folder: &Path) -> Result<PathBuf> {
    let dir = RunDir::open(folder, "a = 1\n", false, &"corpus")?;
    train::run(&mut Counter::new(), "corpus", &dir, LoopConfig::new(1, 0))?;
    Ok(folder.join("checkpoints/last.safetensors"))
}

/// Weights of PyTorch, or a checkpoint that a run goes on from.
fn read_checkpoint(bytes: &[u8], folder: &Path) -> Result<()> {
    if is_torch_file(bytes) {
        // Files that hold several dictionaries want one to be chosen.
        return match read_state_dict(&put(folder, "a.pt", bytes)?, None) {
            Err(error) if format!("{error:#}").contains("choose one by --key") => Ok(()),
            read => read.map(drop),
        };
    }
    RunDir::open(folder, "a = 1\n", false, &"corpus").and_then(|dir| dir.record_classes(&["a".into()]))?;
    let path = put(folder, "checkpoints/last.safetensors", bytes)?;
    put(folder, "metrics.jsonl", b"{\"epoch\":1,\"loss\":1.0}\n")?;
    let about = read_about(&path);
    let tensors = read_tensors(&path)?;
    drop(train::require_finite(&tensors.into_iter().collect::<Vec<_>>()));
    let dir = RunDir::open(folder, "a = 1\n", true, &"corpus")?;
    train::run(&mut Counter::new(), "corpus", &dir, LoopConfig::new(2, 0))?;
    about.map(drop)
}

/// An experiment of each of the three tools; networks of the trainings are counted.
fn read_experiment(bytes: &[u8], folder: &Path) -> Result<()> {
    let path = put(folder, "experiment.toml", bytes)?;
    let kind = experiment::kind_at(&path, &[])?.unwrap_or(Kind::Train);
    let loaded =
        [load::<Classification>(kind, &path), load::<Segmentation>(kind, &path), load::<Detection>(kind, &path)];
    let known = loaded.iter().any(Result::is_ok);
    let error = loaded.into_iter().find_map(Result::err);
    if known { Ok(()) } else { error.map_or(Ok(()), Err) }
}

fn load<T: Task>(kind: Kind, path: &Path) -> Result<()> {
    match kind {
        Kind::Train => count::<T>(&experiment::load::<TrainExperiment<T>>(path, &[])?.model),
        Kind::Compare => {
            let experiment = experiment::load::<CompareExperiment<T>>(path, &[])?;
            experiment.models.iter().try_for_each(|named| count::<T>(&named.model))
        }
        Kind::Search => {
            let experiment = experiment::load::<SearchExperiment<T>>(path, &[])?;
            experiment.space.choices().map(drop)
        }
        Kind::OneShot => {
            let experiment = experiment::load::<OneShotExperiment<T>>(path, &[])?;
            experiment.space.shared().map(drop)
        }
    }
}

fn count<T: Task>(model: &T::Model) -> Result<()> {
    let net = T::build(model, &VarBuilder::dry(), 10)?;
    T::cost(&net, Shape::new(3, 64, 64)).map(drop)
}

/// Spaces of all tasks, as sections of experiments.
const SPACES: [(&str, &str); 9] = [
    ("classify", "kind = 'nasbench201'"),
    ("classify", "kind = 'cells'"),
    ("classify", "kind = 'chain'"),
    ("classify", "kind = 'mobile'"),
    ("segment", "kind = 'auto_deeplab'"),
    ("segment", "kind = 'mobile_seg'"),
    ("detect", "kind = 'detnas'\nsize = 'tiny'"),
    ("detect", "kind = 'nas_fpn'\nlevels = { min = 3, max = 7 }\nintermediate = 4\nchannels = 16\nstacks = 1"),
    ("detect", "kind = 'bifpn'\nlevels = { min = 3, max = 7 }"),
];

/// Parsed by every space.
fn read_architecture(bytes: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\n');
    let mut error = None;
    let mut known = false;
    for (task, section) in SPACES {
        let read = match task {
            "classify" => of_space::<Classification>(section, text),
            "segment" => of_space::<Segmentation>(section, text),
            _ => of_space::<Detection>(section, text),
        };
        match read {
            Ok(()) => known = true,
            Err(found) => error = Some(found),
        }
    }
    if known { Ok(()) } else { Err(error.context("there are spaces")?) }
}

fn of_space<T: Task>(section: &str, text: &str) -> Result<()> {
    let space: T::Space = toml::from_str(section)?;
    let arch = space.parse(text)?;
    let choices = space.choices()?;
    choices.validate(&arch)?;
    ensure!(!space.notation(&arch)?.is_empty(), "an empty notation");
    space.drawing(&arch)?;
    let valid = |arch: &Architecture| choices.validate(arch).is_ok();
    let child = choices.mutate(&arch, &mut nas_datasets::rng::stream(0, "child", 0));
    assert!(valid(&child), "the mutant {child} of {arch} is not of the space");
    Ok(())
}

/// Architectures of all spaces in their notations and as choices, as the corpus has them.
pub fn architectures() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (task, section) in SPACES {
        let texts = match task {
            "classify" => texts::<Classification>(section)?,
            "segment" => texts::<Segmentation>(section)?,
            _ => texts::<Detection>(section)?,
        };
        let kind = section.split('\'').nth(1).unwrap_or_default();
        found.extend(texts.into_iter().enumerate().map(|(i, text)| (format!("{kind}_{i}"), text)));
    }
    Ok(found)
}

fn texts<T: Task>(section: &str) -> Result<Vec<String>> {
    let space: T::Space = toml::from_str(section)?;
    let arch = space.choices()?.sample(&mut nas_datasets::rng::stream(0, "corpus", 0));
    let notation = space.notation(&arch)?;
    let mut texts = vec![arch.to_string()];
    if space.parse(&notation).is_ok_and(|read| read == arch) && notation != texts[0] {
        texts.push(notation);
    }
    Ok(texts)
}

/// Writes the right checksum behind every chunk.
fn repair_png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(head) = bytes.get(at..at + 4) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let (start, end) = (at + 4, at.saturating_add(8).saturating_add(length));
        let Some(content) = bytes.get(start..end) else { return };
        let sum = crc32(content).to_be_bytes();
        let Some(place) = bytes.get_mut(end..end + 4) else { return };
        place.copy_from_slice(&sum);
        at = end + 4;
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// Lets the header end where its numbers begin, if these were not damaged.
fn repair_safetensors(original: &[u8], damaged: &mut [u8]) {
    let Some(Ok(length)) = original.get(..8).map(<[u8; 8]>::try_from) else { return };
    let numbers = original.len().checked_sub(8).and_then(|rest| rest.checked_sub(u64::from_le_bytes(length) as usize));
    let header = damaged.len().checked_sub(8).and_then(|rest| rest.checked_sub(numbers?));
    if let (Some(header), Some(place)) = (header, damaged.get_mut(..8)) {
        place.copy_from_slice(&(header as u64).to_le_bytes());
    }
}
