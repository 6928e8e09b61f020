//! Damaged files of every format (`tests/corpus`, changed at random) are refused or read: no reader panics, aborts, hangs, or takes
//! memory that the file does not justify.
//!
//! Every format has a fixed number of cases of a fixed seed, and the rest of its time cases of a seed that changes and is printed.
//! `NAS_SEED` repeats one, `NAS_SECONDS` is the time of each format (default: 4).

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use nas_tests::formats::{Format, architectures, write_checkpoint};
use nas_tests::mutation::{Change, apply, changes};
use nas_tests::root;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

/// Counts what is allocated. A claim that no memory can hold fails at once, as it would for a user.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: the system's allocator, with counters beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(size, Relaxed) + size, Relaxed);
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Cases of the fixed seed, of each format.
const FIXED: u32 = 64;

/// Longest time of one file on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
}

/// What came of a file, if it is no fault.
fn read(format: Format, bytes: &[u8]) -> Result<bool, TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let (before, started) = (LIVE.load(Relaxed), Instant::now());
    PEAK.store(before, Relaxed);
    let read = format.read(bytes, folder.path());
    let (taken, limit) = (PEAK.load(Relaxed).saturating_sub(before), format.limit(bytes.len()));
    prop_assert!(taken <= limit, "{taken} bytes were taken for a file of {}, more than {limit}", bytes.len());
    prop_assert!(started.elapsed() < PATIENCE, "it took {:?}", started.elapsed());
    Ok(read.is_ok())
}

/// A file of the corpus, what is done to it, and whether checksums are mended afterwards.
type Damage = (prop::sample::Index, Vec<Change>, bool);

fn damage(corpus: &[(std::path::PathBuf, Vec<u8>)], format: Format, (file, changes, repair): &Damage) -> Vec<u8> {
    let original = &file.get(corpus).1;
    let mut bytes = apply(original, changes);
    if *repair {
        format.repair(original, &mut bytes);
    }
    bytes
}

/// One format at a time: memory is counted for all threads together.
static ONE: Mutex<()> = Mutex::new(());

fn mutate(format: Format) {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let corpus = format.corpus();
    assert!(corpus.len() >= 3, "{format:?}: a corpus of {} files", corpus.len());
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let changing = number("NAS_SEED").unwrap_or(clock.as_nanos() as u64);
    let (seconds, started) = (number("NAS_SECONDS").unwrap_or(4), Instant::now());
    let strategy = (any::<prop::sample::Index>(), changes(), any::<bool>());
    let (mut cases, mut sound) = (0, 0);
    for (round, seed) in std::iter::once(0).chain((0..).map(|i| changing.wrapping_add(i))).enumerate() {
        if round > 0 && started.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
        let bytes: Vec<u8> = [seed, 0, 0, 0].iter().flat_map(|part| part.to_le_bytes()).collect();
        let config = Config { cases: FIXED, failure_persistence: None, max_shrink_time: 20_000, ..Config::default() };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let counts = std::cell::Cell::new(0);
        let outcome = TestRunner::new_with_rng(config, rng).run(&strategy, |damage| {
            let ok = read(format, &self::damage(&corpus, format, &damage))?;
            counts.set(counts.get() + u32::from(ok));
            Ok(())
        });
        if let Err(TestError::Fail(reason, damage)) = &outcome {
            let (name, path) =
                (&damage.0.get(&corpus).0, root().join("target").join(format!("{}.fault", format.name())));
            fs::write(&path, self::damage(&corpus, format, damage)).unwrap();
            panic!(
                "{format:?}, NAS_SEED={seed}: {reason}: {damage:?} of {}; written to {}",
                name.display(),
                path.display()
            );
        }
        outcome.unwrap();
        (cases, sound) = (cases + FIXED, sound + counts.get());
    }
    println!("{format:?}: {cases} files, {sound} of them accepted; NAS_SEED={changing}");
}

macro_rules! formats {
    ($($test:ident: $format:ident,)*) => {$(
        #[test]
        fn $test() {
            mutate(Format::$format);
        }
    )*};
}

formats! {
    damaged_images: Image,
    damaged_labels: Label,
    damaged_lists: List,
    damaged_coco: Coco,
    damaged_voc: Voc,
    damaged_packed_images: Packed,
    damaged_tables: Table,
    damaged_operator_tables: Operators,
    damaged_trial_logs: TrialLog,
    damaged_checkpoints: Checkpoint,
    damaged_experiments: Experiment,
    damaged_architectures: Architecture,
}

/// A corpus of files that nobody accepts would test the first check of every reader.
#[test]
fn the_corpus_is_accepted() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for format in Format::ALL {
        for (path, bytes) in format.corpus() {
            let folder = tempfile::tempdir().unwrap();
            match format.read(&bytes, folder.path()).map_err(|error| format!("{error:#}")) {
                // A training of what a search has still to find; data and programs of scripts that make golden numbers.
                Err(error) if error.contains("has the search ended?") => {}
                read => assert_eq!(read, Ok(()), "{}", path.display()),
            }
        }
    }
}

#[test]
#[ignore = "writes those files of tests/corpus that are not made by make.py"]
fn write_the_corpus() {
    let put = |name: String, bytes: &[u8]| {
        let path = root().join("tests/corpus").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for (name, text) in architectures().unwrap() {
        put(format!("architecture/{name}.txt"), text.as_bytes());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = write_checkpoint(Path::new(folder.path())).unwrap();
    put("checkpoint/run.safetensors".into(), &fs::read(path).unwrap());
}
