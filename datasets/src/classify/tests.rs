use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use flate2::write::GzEncoder;
use tch::{Kind, Tensor};

use super::*;
use crate::loader::LoaderConfig;
use crate::split::Split;

const CONFIG: LoaderConfig = LoaderConfig { batch_size: 4, threads: 2, prefetch: 2, cache_mb: 10 };

fn synth(num_images: usize, part: Part) -> ClassifyDataConfig {
    ClassifyDataConfig::Synth { num_images, num_val: 10, side: 16, seed: 1, part }
}

fn refusal(config: &ClassifyDataConfig, split: Split) -> String {
    config.open(split).err().expect("the split should be refused").to_string()
}

/// A record of CIFAR: labels, then planes of which byte `i` of plane `p` is `i * 3 + p`, modulo 256.
fn record(labels: &[u8]) -> Vec<u8> {
    let planes = (0..3u32).flat_map(|plane| (0..1024u32).map(move |i| (i * 3 + plane) as u8));
    labels.iter().copied().chain(planes).collect()
}

fn write_cifar10(root: &Path, batches: &[(&str, &[u8])]) {
    let folder = root.join("cifar-10-batches-bin");
    fs::create_dir_all(&folder).unwrap();
    let names: Vec<String> = (0..10).map(|i| format!("class {i}")).collect();
    fs::write(folder.join("batches.meta.txt"), names.join("\n") + "\n\n").unwrap();
    for (name, labels) in batches {
        let bytes: Vec<u8> = labels.iter().flat_map(|label| record(&[*label])).collect();
        fs::write(folder.join(name), bytes).unwrap();
    }
}

#[test]
fn cifar10_reads_planes_labels_and_all_its_batches() {
    let dir = tempfile::tempdir().unwrap();
    write_cifar10(dir.path(), &[("data_batch_1.bin", &[3, 9]), ("data_batch_2.bin", &[0]), ("test_batch.bin", &[5])]);
    let config = |root: &Path| ClassifyDataConfig::Cifar10 { root: root.to_owned(), part: Part::default() };
    for root in [dir.path(), &dir.path().join("cifar-10-batches-bin")] {
        let train = config(root).open(Split::Train).unwrap();
        assert_eq!((0..train.len()).map(|i| train.label(i)).collect::<Vec<_>>(), [3, 9, 0]);
        assert_eq!((train.name(1), train.name(2)), ("data_batch_1/00001".into(), "data_batch_2/00000".into()));
        let image = train.image(2).unwrap();
        assert_eq!((image.dimensions(), image.get_pixel(1, 1).0), ((32, 32), [99, 100, 101]));
        assert_eq!(config(root).open(Split::Val).unwrap().label(0), 5);
    }
    write_cifar10(dir.path(), &[("data_batch_4.bin", &[10])]);
    assert!(refusal(&config(dir.path()), Split::Train).contains("data_batch_3.bin: missing"));
    write_cifar10(dir.path(), &[("data_batch_1.bin", &[3, 10])]);
    let error = refusal(&config(dir.path()), Split::Train);
    assert!(error.contains("data_batch_1.bin: label 10 in record 1, expected a class 0..=9"), "{error}");
    fs::write(dir.path().join("cifar-10-batches-bin/test_batch.bin"), [0; 3000]).unwrap();
    let error = refusal(&config(dir.path()), Split::Val);
    assert!(error.contains("3000 bytes") && error.contains("records of 3073"), "{error}");
}

#[test]
fn cifar100_takes_the_fine_label() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cifar-100-binary");
    fs::create_dir_all(&folder).unwrap();
    let names: Vec<String> = (0..100).map(|i| format!("fine {i}")).collect();
    fs::write(folder.join("fine_label_names.txt"), names.join("\n")).unwrap();
    fs::write(folder.join("train.bin"), [record(&[3, 77]), record(&[19, 0])].concat()).unwrap();
    let set = ClassifyDataConfig::Cifar100 { root: dir.path().to_owned(), part: Part::default() };
    let set = set.open(Split::Train).unwrap();
    assert_eq!((set.len(), set.label(0), set.label(1), &*set.classes()[77]), (2, 77, 0, "fine 77"));
    assert_eq!(set.image(1).unwrap().get_pixel(0, 0).0, [0, 1, 2]);
}

#[test]
fn the_real_part_of_cifar10_is_balanced_and_sound() {
    let Some(root) = std::env::var_os("NAS_DATA").map(|root| Path::new(&root).join("cifar10")) else {
        return eprintln!("skipped: NAS_DATA has no cifar10");
    };
    let config = ClassifyDataConfig::Cifar10 { root, part: Part::default() };
    for (split, len) in [(Split::Train, 10_000), (Split::Val, 2_000)] {
        let set = config.open(split).unwrap();
        assert_eq!((set.len(), &*set.classes()[0]), (len, "airplane"));
        let of_class = |class| (0..len).filter(|i| set.label(*i) == class).count();
        assert!((0..10).all(|class| of_class(class) == len / 10));
        assert!(check(&*set).is_empty());
    }
}

fn idx(rank: u8, dims: &[u32], values: &[u8]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|dim| dim.to_be_bytes()).collect();
    [&[0, 0, 8, rank], &dims[..], values].concat()
}

#[test]
fn mnist_reads_plain_and_gzipped_files_and_names_the_broken_one() {
    let dir = tempfile::tempdir().unwrap();
    let gz = |name: &str, bytes: &[u8]| {
        let mut encoder = GzEncoder::new(fs::File::create(dir.path().join(name)).unwrap(), Default::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap();
    };
    gz("train-images-idx3-ubyte.gz", &idx(3, &[2, 2, 3], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]));
    fs::write(dir.path().join("train-labels-idx1-ubyte"), idx(1, &[2], &[7, 0])).unwrap();
    let config = ClassifyDataConfig::Mnist { root: dir.path().to_owned(), part: Part::default() };
    let set = config.open(Split::Train).unwrap();
    assert_eq!((set.len(), set.label(0), set.name(1)), (2, 7, "train/00001".into()));
    let image = set.image(1).unwrap();
    assert_eq!((image.dimensions(), image.get_pixel(2, 1).0), ((3, 2), [11; 3]));
    assert!(refusal(&config, Split::Val).contains("t10k-images-idx3-ubyte: missing"));
    fs::write(dir.path().join("train-labels-idx1-ubyte"), idx(1, &[3], &[7, 0, 1])).unwrap();
    assert!(refusal(&config, Split::Train).contains("3 labels, expected 2"));
    fs::write(dir.path().join("train-labels-idx1-ubyte"), idx(1, &[3], &[7, 0])).unwrap();
    assert!(refusal(&config, Split::Train).contains("2 values for dimensions [3]"));
    fs::write(dir.path().join("train-labels-idx1-ubyte"), idx(3, &[2], &[7, 0])).unwrap();
    assert!(refusal(&config, Split::Train).contains("magic number"));
}

#[test]
fn folders_are_classes_and_strays_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::new(5, 4).save(path).unwrap();
    };
    ["train/dog/b.png", "train/cat/a.jpg", "train/cat/c.png", "val/dog/x.png"].into_iter().for_each(write);
    fs::write(dir.path().join("train/cat/notes.txt"), "").unwrap();
    fs::write(dir.path().join("train/dog/z.png"), "rubbish").unwrap();
    let config = ClassifyDataConfig::Folder { root: dir.path().to_owned(), part: Part::default() };
    let set = config.open(Split::Train).unwrap();
    assert_eq!(set.classes(), ["cat", "dog"]);
    let samples: Vec<_> = (0..set.len()).map(|i| (set.name(i).into_owned(), set.label(i))).collect();
    let expected = [("cat/a.jpg", 0), ("cat/c.png", 0), ("dog/b.png", 1), ("dog/z.png", 1)];
    assert_eq!(samples, expected.map(|(name, label)| (name.to_owned(), label)));
    let problems: Vec<String> = check(&*set).iter().map(ToString::to_string).collect();
    assert!(problems[0].contains("dog/z.png: cannot be decoded") && problems[1].contains("notes.txt"), "{problems:?}");
    assert_eq!(config.open(Split::Val).unwrap().label(0), 1);
    write("val/bird/y.png");
    assert!(refusal(&config, Split::Val).contains("bird: an unknown class"));
}

#[test]
fn parts_are_balanced_disjoint_and_of_the_seed() {
    let part = |fraction, hold_out, seed| Part { fraction, hold_out, seed };
    let names = |part: Part, split| {
        let set = synth(200, part).open(split).unwrap();
        (0..set.len()).map(|i| set.name(i).into_owned()).collect::<Vec<_>>()
    };
    let half = synth(200, part(0.5, 0.0, 0)).open(Split::Train).unwrap();
    assert!((0..10).all(|class| (0..half.len()).filter(|i| half.label(*i) == class).count() == 10));
    let (train, val) = (names(part(1.0, 0.25, 0), Split::Train), names(part(1.0, 0.25, 0), Split::Val));
    assert_eq!((train.len(), val.len()), (150, 50));
    assert!(val.iter().all(|name| !train.contains(name)));
    assert_ne!(names(part(0.5, 0.0, 0), Split::Train), names(part(0.5, 0.0, 1), Split::Train));
    // Less data for training leaves what is validated on as it is.
    assert_eq!(names(part(0.1, 0.25, 0), Split::Val), val);
    assert_eq!(names(part(0.1, 0.25, 0), Split::Test), names(Part::default(), Split::Test));
    assert!(refusal(&synth(200, part(0.0, 0.0, 0)), Split::Train).contains("data.part.fraction = 0"));
    assert!(refusal(&synth(200, part(1.0, 1.0, 0)), Split::Val).contains("data.part.hold_out = 1"));
    assert!(refusal(&synth(20, part(0.01, 0.0, 0)), Split::Train).contains("a train split with samples"));
}

#[test]
fn shapes_follow_from_seed_split_and_index() {
    let image = |seed, split, i| {
        let config = ClassifyDataConfig::Synth { num_images: 20, num_val: 20, side: 16, seed, part: Part::default() };
        config.open(split).unwrap().image(i).unwrap()
    };
    let first = image(0, Split::Train, 3);
    assert_eq!(first, image(0, Split::Train, 3));
    for other in [image(1, Split::Train, 3), image(0, Split::Val, 3), image(0, Split::Train, 13)] {
        assert_ne!(first, other);
    }
}

fn contents(batch: Result<ClassifyBatch, DataError>) -> (Vec<usize>, Vec<f32>, Vec<f32>) {
    let ClassifyBatch { images, mixed, indices, .. } = batch.unwrap();
    let flat = |tensor: Tensor| Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap();
    (indices, flat(images), mixed.map(flat).unwrap_or_default())
}

#[test]
fn batches_do_not_depend_on_threads_prefetch_or_cache_and_resume_inside_an_epoch() {
    let dataset = synth(18, Part::default()).open(Split::Train).unwrap();
    let transform = ClassifyTransform { size: crate::Size::new(16, 16), mixup: 0.4, cutout: 4, ..Default::default() };
    let all = |config: LoaderConfig, from| {
        let loader = train_loader(dataset.clone(), None, transform.clone(), config, 5, "train").unwrap();
        loader.epoch(1, from).map(contents).collect::<Vec<_>>()
    };
    let reference = all(LoaderConfig { threads: 1, prefetch: 0, cache_mb: 0, ..CONFIG }, 0);
    assert_eq!(reference.len(), 4);
    assert_eq!(all(LoaderConfig { threads: 3, prefetch: 5, cache_mb: 1, ..CONFIG }, 0), reference);
    assert_eq!(all(CONFIG, 2), reference[2..]);
    assert_ne!(reference[0].1, reference[1].1);
}

#[test]
fn a_mixed_batch_blends_images_and_labels_by_the_same_share() {
    let dataset = synth(40, Part::default()).open(Split::Train).unwrap();
    let plain = ClassifyTransform { size: crate::Size::new(16, 16), ..Default::default() };
    let load = |mixup| {
        let transform = ClassifyTransform { mixup, ..plain.clone() };
        let config = LoaderConfig { batch_size: 8, ..CONFIG };
        train_loader(dataset.clone(), None, transform, config, 5, "train").unwrap().epoch(0, 0).next().unwrap().unwrap()
    };
    let (plain, mixed) = (load(0.0), load(1.0));
    assert_eq!(plain.images.stride(), [16 * 16 * 3, 1, 16 * 3, 3]);
    assert_eq!((plain.labels.kind(), plain.indices.clone()), (Kind::Int64, mixed.indices));
    let shares = mixed.mixed.unwrap();
    assert_eq!(shares.size(), [8, 10]);
    assert!(f64::try_from((shares.sum_dim_intlist(1, false, None) - 1.0).abs().max()).unwrap() < 1e-6);
    // The share of the own label, from a row whose two labels differ; every image must be that blend with some other.
    let own: Vec<f64> = (0..8).map(|i| shares.double_value(&[i, plain.labels.int64_value(&[i])])).collect();
    let share = own.iter().copied().find(|own| *own < 1.0).expect("labels that differ");
    for i in 0..8 {
        let blends = (0..8).map(|j| plain.images.get(i) * share + plain.images.get(j) * (1.0 - share));
        let distance = |blend: Tensor| f64::try_from((blend - mixed.images.get(i)).abs().max()).unwrap();
        assert!(blends.map(distance).any(|distance| distance < 1e-5), "image {i}");
    }
}

#[test]
fn parts_of_a_mixed_batch_are_the_batch() {
    let dataset = synth(40, Part::default()).open(Split::Train).unwrap();
    let transform = ClassifyTransform { size: crate::Size::new(16, 16), mixup: 1.0, ..Default::default() };
    let load = |part: Option<(usize, usize)>, batch_size| {
        let config = LoaderConfig { batch_size, ..CONFIG };
        let loader = train_loader(dataset.clone(), None, transform.clone(), config, 5, "train").unwrap();
        let loader = part.map_or_else(|| loader.whole(), |(index, of)| loader.whole().part(index, of).unwrap());
        contents(loader.epoch(0, 0).nth(1).unwrap())
    };
    let whole = load(None, 8);
    let (a, b) = (load(Some((0, 2)), 8), load(Some((1, 2)), 8));
    assert_eq!(([a.0, b.0].concat(), [a.1, b.1].concat(), [a.2, b.2].concat()), whole);
    // No image of an odd number is left alone.
    let (indices, _, shares) = load(None, 7);
    let labels: Vec<usize> = indices.iter().map(|index| dataset.label(*index)).collect();
    for (i, share) in shares.chunks(10).enumerate() {
        let other = [1, 0, 3, 2, 5, 6, 4][i];
        assert!(share[labels[other]] > 0.0 && (share[labels[i]] < 1.0 || labels[other] == labels[i]), "image {i}");
    }
}

#[test]
fn evaluation_goes_through_the_set_in_order_with_a_smaller_last_batch() {
    let dataset = synth(10, Part::default()).open(Split::Val).unwrap();
    let transform = ClassifyTransform { size: crate::Size::new(12, 12), ..Default::default() };
    let eval = ClassifyEvalTransform::like(&transform, None).unwrap();
    let batches = eval_batches(Arc::clone(&dataset), eval, &CONFIG).unwrap();
    let batches: Vec<ClassifyEvalBatch> = batches.collect::<Result<_, _>>().unwrap();
    assert_eq!(batches.iter().map(|batch| batch.images.size()[0]).collect::<Vec<_>>(), [4, 4, 2]);
    assert_eq!(batches.iter().flat_map(|batch| batch.indices.clone()).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert_eq!(batches[2].labels, Tensor::from_slice(&[8i64, 9]));
}

#[test]
fn class_folders_have_names_of_text() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    for name in [&b"cat"[..], b"c\xff"] {
        fs::create_dir_all(dir.path().join("train").join(std::ffi::OsStr::from_bytes(name))).unwrap();
    }
    let config = ClassifyDataConfig::Folder { root: dir.path().into(), part: Part::default() };
    assert!(refusal(&config, Split::Train).contains("a name that is no UTF-8"));
}
