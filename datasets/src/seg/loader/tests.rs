use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tch::Kind;

use super::*;
use crate::error::Problem;
use crate::seg::synth::SynthDataset;
use crate::seg::{Classes, Sample};
use crate::size::Size;
use crate::split::Split;

const CONFIG: LoaderConfig = LoaderConfig { batch_size: 4, threads: 2, prefetch: 2, cache_mb: 10 };

fn street(len: usize) -> Arc<SynthDataset> {
    Arc::new(SynthDataset::new(len, Size::new(24, 48), 0, Split::Train).unwrap())
}

fn transform() -> TrainTransform {
    TrainTransform { crop: Size::new(20, 30), color_jitter: 0.3, ..Default::default() }
}

fn loader(config: LoaderConfig, seed: u64, purpose: &str) -> TrainLoader<Pairs> {
    TrainLoader::new(street(18), None, transform(), config, seed, purpose).unwrap()
}

/// Everything a batch holds, comparable bit by bit.
fn contents(batch: Result<Batch, DataError>) -> (Vec<usize>, Vec<f32>, Vec<i64>) {
    let Batch { images, labels, indices } = batch.unwrap();
    let images = Vec::try_from(images.flatten(0, -1)).unwrap();
    (indices, images, Vec::try_from(labels.flatten(0, -1)).unwrap())
}

#[test]
fn batches_have_the_promised_shape_kind_and_memory() {
    let batch = loader(CONFIG, 0, "train").epoch(0, 0).next().unwrap().unwrap();
    assert_eq!((batch.images.size(), batch.images.kind()), (vec![4, 3, 20, 30], Kind::Float));
    assert_eq!(batch.images.stride(), [20 * 30 * 3, 1, 30 * 3, 3]);
    assert_eq!((batch.labels.size(), batch.labels.kind()), (vec![4, 20, 30], Kind::Int64));
    let ids: Vec<i64> = Vec::try_from(batch.labels.flatten(0, -1)).unwrap();
    assert!(ids.iter().all(|id| (0..19).contains(id) || *id == 255));
    assert!(batch.images.isfinite().all().int64_value(&[]) == 1);
}

#[test]
fn batches_do_not_depend_on_threads_prefetch_or_cache() {
    let all = |config| loader(config, 5, "train").epoch(1, 0).map(contents).collect::<Vec<_>>();
    let reference = all(LoaderConfig { threads: 1, prefetch: 0, cache_mb: 0, ..CONFIG });
    assert_eq!(reference.len(), 4);
    for (threads, prefetch, cache_mb) in [(4, 3, 0), (3, 9, 10), (0, 1, 1)] {
        assert_eq!(all(LoaderConfig { threads, prefetch, cache_mb, ..CONFIG }), reference);
    }
}

#[test]
fn a_resumed_epoch_goes_on_with_the_same_bits() {
    let whole: Vec<_> = loader(CONFIG, 5, "train").epoch(2, 0).map(contents).collect();
    for from_batch in 0..=4 {
        let rest: Vec<_> = loader(CONFIG, 5, "train").epoch(2, from_batch).map(contents).collect();
        assert_eq!(rest, whole[from_batch..]);
    }
}

#[test]
fn epochs_seeds_and_purposes_have_their_own_order_and_crops() {
    let first = |seed, purpose, epoch| contents(loader(CONFIG, seed, purpose).epoch(epoch, 0).next().unwrap());
    let reference = first(0, "train_a", 0);
    for other in [first(1, "train_a", 0), first(0, "train_b", 0), first(0, "train_a", 1)] {
        assert_ne!(other.0, reference.0);
        assert_ne!(other.1, reference.1);
    }
}

#[test]
fn an_epoch_visits_no_sample_twice_and_stays_in_its_subset() {
    let subset: Vec<usize> = (0..18).filter(|i| i % 2 == 1).collect();
    let loader = TrainLoader::new(street(18), Some(subset.clone()), transform(), CONFIG, 0, "train").unwrap();
    assert_eq!(loader.batches_per_epoch(), 2);
    let mut ever = HashSet::new();
    for epoch in 0..6 {
        let visited: Vec<usize> = loader.epoch(epoch, 0).flat_map(|batch| batch.unwrap().indices).collect();
        assert_eq!(visited.iter().collect::<HashSet<_>>().len(), 8);
        ever.extend(visited);
    }
    assert_eq!(ever, subset.into_iter().collect()); // another one is left out each time
}

#[test]
fn a_set_smaller_than_a_batch_is_refused_with_both_numbers() {
    let error = TrainLoader::new(street(3), None, transform(), CONFIG, 0, "train").err().unwrap().to_string();
    assert!(error.contains("3 training samples") && error.contains("batch of 4"), "{error}");
}

/// A set that fails on purpose.
struct Moody {
    inner: Arc<SynthDataset>,
    loads: AtomicUsize,
    mood: fn(usize) -> Option<DataError>,
    labels: bool,
}

impl Moody {
    fn new(len: usize, mood: fn(usize) -> Option<DataError>) -> Arc<Self> {
        Arc::new(Self { inner: street(len), loads: AtomicUsize::new(0), mood, labels: true })
    }
}

impl SegDataset for Moody {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn name(&self, i: usize) -> &str {
        self.inner.name(i)
    }

    fn load(&self, i: usize) -> Result<Sample, DataError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        match (self.mood)(i) {
            Some(error) => Err(error),
            None => self.inner.load(i),
        }
    }

    fn classes(&self) -> &Classes {
        self.inner.classes()
    }

    fn has_labels(&self) -> bool {
        self.labels
    }
}

fn broken_and_panicking(i: usize) -> Option<DataError> {
    match i {
        2 => Some(Problem::new("street/two.png".as_ref(), "rubbish", "an image").into()),
        9 => panic!("nine is not for me"),
        _ => None,
    }
}

#[test]
fn broken_and_panicking_samples_become_errors_that_name_them_and_the_rest_goes_on() {
    let config = LoaderConfig { batch_size: 1, ..CONFIG };
    let dataset = Moody::new(12, broken_and_panicking);
    let loader = TrainLoader::new(dataset.clone(), None, transform(), config, 0, "train").unwrap();
    let results: Vec<_> = loader.epoch(0, 0).collect();
    let mut errors: Vec<String> =
        results.iter().filter_map(|batch| batch.as_ref().err()).map(ToString::to_string).collect();
    errors.sort();
    assert_eq!(results.len(), 12);
    let panic = "reading sample synth_000000_000009 panicked: nine is not for me";
    assert_eq!(errors, [panic, "street/two.png: rubbish, expected an image"]);
    let eval = eval_samples(dataset, EvalTransform::like(&transform(), None), 2, 2);
    let broken: Vec<usize> = eval.enumerate().filter(|(_, sample)| sample.is_err()).map(|(i, _)| i).collect();
    assert_eq!(broken, [2, 9]);
}

#[test]
fn unlabelled_sets_cannot_be_trained_on() {
    let inner = street(8);
    let dataset = Arc::new(Moody { inner, loads: AtomicUsize::new(0), mood: |_| None, labels: false });
    let error = TrainLoader::new(dataset, None, transform(), CONFIG, 0, "train").err().unwrap();
    assert!(matches!(error, DataError::Unlabelled { .. }), "{error}");
}

fn slow(_: usize) -> Option<DataError> {
    std::thread::sleep(Duration::from_millis(5));
    None
}

#[test]
fn no_more_than_the_prefetched_batches_are_read_ahead() {
    let dataset = Moody::new(400, |_| None);
    let loader = TrainLoader::new(dataset.clone(), None, transform(), CONFIG, 0, "train").unwrap();
    let mut epoch = loader.epoch(0, 0);
    assert_eq!(dataset.loads.load(Ordering::SeqCst), 0);
    epoch.next().unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(dataset.loads.load(Ordering::SeqCst), (1 + CONFIG.prefetch) * CONFIG.batch_size);
}

#[test]
fn dropping_an_epoch_early_returns_at_once_and_stops_its_threads() {
    let dataset = Moody::new(2000, slow);
    let config = LoaderConfig { prefetch: 400, ..CONFIG };
    let loader = TrainLoader::new(dataset.clone(), None, transform(), config, 0, "train").unwrap();
    let mut epoch = loader.epoch(0, 0);
    epoch.next().unwrap().unwrap();
    let start = Instant::now();
    drop(epoch);
    drop(loader);
    assert!(start.elapsed() < Duration::from_millis(500));
    std::thread::sleep(Duration::from_millis(100));
    let loads = dataset.loads.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(100));
    assert!(loads < 200 && dataset.loads.load(Ordering::SeqCst) == loads, "{loads}");
}

#[test]
fn evaluation_goes_through_the_set_in_order_and_keeps_labels_as_they_are() {
    let dataset = street(7);
    let transform = EvalTransform::like(&TrainTransform::default(), Some(Size::new(12, 20)));
    let samples: Vec<EvalSample> = eval_samples(dataset.clone(), transform, 3, 2).collect::<Result<_, _>>().unwrap();
    assert_eq!(samples.iter().map(|sample| sample.index).collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
    for sample in samples {
        assert_eq!((sample.image.size(), sample.size), (vec![1, 3, 12, 20], (24, 48)));
        assert_eq!(sample.label, dataset.load(sample.index).unwrap().label);
    }
}
