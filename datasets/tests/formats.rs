//! The readers, on tiny sets written to temporary folders, and on the real CamVid where there is one.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use image::{GrayImage, Luma, Rgb, RgbImage};
use nas_datasets::synth::{SynthDataset, write_cityscapes};
use nas_datasets::{DataConfig, IGNORE, SegDataset, Size, Split, check};

fn write_image(path: &Path, width: u32, height: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 90])).save(path).unwrap();
}

fn write_label(path: &Path, width: u32, height: u32, id: impl Fn(u32, u32) -> u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    GrayImage::from_fn(width, height, |x, y| Luma([id(x, y)])).save(path).unwrap();
}

fn write_text(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() * 2 / 3]).unwrap();
}

/// The message of a split that does not open.
fn refusal(config: &DataConfig, split: Split) -> String {
    config.open(split).err().expect("the split should be refused").to_string()
}

fn names(dataset: &dyn SegDataset) -> Vec<&str> {
    (0..dataset.len()).map(|i| dataset.name(i)).collect()
}

mod cityscapes {
    use super::*;

    /// Label id and train id of every class, from cityscapesScripts' labels.py; all other ids are ignored.
    const EVALUATED: [(u8, u8); 19] = [
        (7, 0),
        (8, 1),
        (11, 2),
        (12, 3),
        (13, 4),
        (17, 5),
        (19, 6),
        (20, 7),
        (21, 8),
        (22, 9),
        (23, 10),
        (24, 11),
        (25, 12),
        (26, 13),
        (27, 14),
        (28, 15),
        (31, 16),
        (32, 17),
        (33, 18),
    ];

    fn image(root: &Path, split: &str, base: &str) -> std::path::PathBuf {
        root.join(format!("leftImg8bit/{split}/ulm/{base}_leftImg8bit.png"))
    }

    fn label(root: &Path, split: &str, base: &str, kind: &str) -> std::path::PathBuf {
        root.join(format!("gtFine/{split}/ulm/{base}_gtFine_{kind}.png"))
    }

    fn config(root: &Path) -> DataConfig {
        DataConfig::Cityscapes { root: root.into() }
    }

    #[test]
    fn all_34_label_ids_and_the_licence_plate_map_to_train_ids() {
        let dir = tempfile::tempdir().unwrap();
        let ids = |x: u32| if x == 34 { 255 } else { x as u8 };
        write_image(&image(dir.path(), "train", "ulm_0_0"), 35, 1);
        write_label(&label(dir.path(), "train", "ulm_0_0", "labelIds"), 35, 1, |x, _| ids(x));
        let train = config(dir.path()).open(Split::Train).unwrap();
        let decoded = train.load(0).unwrap().label.unwrap();
        for x in 0..35 {
            let expected = EVALUATED.iter().find(|(id, _)| *id == ids(x)).map_or(IGNORE, |(_, train_id)| *train_id);
            assert_eq!(decoded.get_pixel(x, 0)[0], expected, "label id {}", ids(x));
        }
        let classes = train.classes();
        assert_eq!(classes.file_ids, EVALUATED.map(|(id, _)| id));
        assert_eq!((&*classes.names[0], &*classes.names[13], classes.colors[13]), ("road", "car", [0, 0, 142]));
    }

    #[test]
    fn ready_train_ids_are_preferred() {
        let dir = tempfile::tempdir().unwrap();
        write_image(&image(dir.path(), "val", "ulm_0_0"), 2, 1);
        write_label(&label(dir.path(), "val", "ulm_0_0", "labelIds"), 2, 1, |_, _| 7);
        write_label(&label(dir.path(), "val", "ulm_0_0", "labelTrainIds"), 2, 1, |x, _| [18, 255][x as usize]);
        let val = config(dir.path()).open(Split::Val).unwrap();
        assert_eq!(val.load(0).unwrap().label.unwrap().as_raw(), &[18, 255]);
        assert!(val.has_labels());
    }

    #[test]
    fn the_dummy_labels_of_the_test_split_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        write_image(&image(dir.path(), "test", "ulm_0_0"), 2, 1);
        write_label(&label(dir.path(), "test", "ulm_0_0", "labelIds"), 2, 1, |_, _| 99);
        let test = config(dir.path()).open(Split::Test).unwrap();
        assert!(!test.has_labels() && test.load(0).unwrap().label.is_none() && check(&*test).is_empty());
    }

    #[test]
    fn every_kind_of_broken_sample_is_reported_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let image = |base| image(dir.path(), "train", base);
        let label = |base| label(dir.path(), "train", base, "labelIds");
        for base in ["a_good", "b_lonely", "c_size", "d_cut_image", "e_cut_label", "f_range", "g_text"] {
            write_image(&image(base), 40, 30);
            write_label(&label(base), 40, 30, |x, _| (x % 34) as u8);
        }
        fs::remove_file(label("b_lonely")).unwrap();
        write_label(&label("c_size"), 20, 15, |_, _| 7);
        truncate(&image("d_cut_image"));
        truncate(&label("e_cut_label"));
        write_label(&label("f_range"), 40, 30, |x, y| if (x, y) == (3, 5) { 34 } else { 7 });
        fs::write(image("g_text"), "no image").unwrap();
        write_label(&label("h_orphan"), 40, 30, |_, _| 7);

        let problems: Vec<String> =
            check(&*config(dir.path()).open(Split::Train).unwrap()).iter().map(ToString::to_string).collect();
        let expected = [
            ("b_lonely_gtFine_labelIds.png", "missing"),
            ("c_size_gtFine_labelIds.png", "20x15 pixels, expected 40x30 pixels"),
            ("d_cut_image_leftImg8bit.png", "cannot be decoded"),
            ("e_cut_label_gtFine_labelIds.png", "cannot be decoded"),
            ("f_range_gtFine_labelIds.png", "label value 34 at x=3 y=5, expected a Cityscapes label id 0..=33 or 255"),
            ("g_text_leftImg8bit.png", "cannot be decoded"),
            ("h_orphan_gtFine_labelIds.png", "a label without image"),
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, (file, what)) in problems.iter().zip(expected) {
            assert!(problem.contains(file) && problem.contains(what), "{problem}");
            assert!(problem.starts_with(dir.path().to_str().unwrap()), "{problem}");
        }
    }

    #[test]
    fn missing_folders_and_empty_splits_say_what_was_expected_where() {
        let dir = tempfile::tempdir().unwrap();
        let missing = refusal(&config(dir.path()), Split::Train);
        assert!(missing.contains("leftImg8bit/train: missing") && missing.contains("per city"), "{missing}");
        fs::create_dir_all(dir.path().join("leftImg8bit/train/ulm")).unwrap();
        let empty = refusal(&config(dir.path()), Split::Train);
        assert!(empty.contains("no image") && empty.contains("CITY/*_leftImg8bit.png"), "{empty}");
    }

    #[test]
    fn a_written_synthetic_set_reads_back_as_the_samples_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        write_cityscapes(dir.path(), 3, 2, (40, 72), 9).unwrap();
        for (split, len) in [(Split::Train, 3), (Split::Val, 2)] {
            let read = config(dir.path()).open(split).unwrap();
            let memory = SynthDataset::new(len, Size::new(40, 72), 9, split).unwrap();
            assert_eq!(names(&*read), names(&memory));
            assert_eq!(read.classes(), memory.classes());
            for i in 0..len {
                assert_eq!(read.load(i).unwrap(), memory.load(i).unwrap());
            }
            assert!(check(&*read).is_empty());
        }
    }
}

mod camvid {
    use super::*;

    #[test]
    fn listed_paths_keep_their_last_folder_and_void_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        write_image(&dir.path().join("train/a.png"), 13, 1);
        write_label(&dir.path().join("trainannot/a.png"), 13, 1, |x, _| x.min(11) as u8);
        write_text(&dir.path().join("train.txt"), "/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png\n\n");
        let train = DataConfig::Camvid { root: dir.path().into() }.open(Split::Train).unwrap();
        assert_eq!((names(&*train), train.classes().len()), (vec!["a"], 11));
        let label = train.load(0).unwrap().label.unwrap();
        assert_eq!(label.as_raw(), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255, 255]);
    }

    #[test]
    fn malformed_and_empty_lists_are_refused_with_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let config = DataConfig::Camvid { root: dir.path().into() };
        assert!(refusal(&config, Split::Val).contains("val.txt: missing"));
        write_text(&dir.path().join("val.txt"), "\n");
        assert!(refusal(&config, Split::Val).contains("an empty list"));
        write_text(&dir.path().join("val.txt"), "val/a.png valannot/a.png\nval/b.png\n");
        let message = refusal(&config, Split::Val);
        assert!(message.contains("val.txt: line 2 is \"val/b.png\""), "{message}");
    }

    #[test]
    fn the_real_set_has_367_and_101_sound_pairs() {
        let Ok(data) = std::env::var("NAS_DATA") else {
            println!("skipped: NAS_DATA not set");
            return;
        };
        // Tests run in the crate's folder; the variable is relative to the repository.
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(data).join("camvid");
        let config = DataConfig::Camvid { root };
        for (split, len, first) in [(Split::Train, 367, "0001TP_006690"), (Split::Val, 101, "0016E5_07959")] {
            let dataset = config.open(split).unwrap();
            assert_eq!((dataset.len(), dataset.name(0)), (len, first));
            assert_eq!(check(&*dataset), []);
            let sample = dataset.load(0).unwrap();
            assert_eq!(sample.image.dimensions(), (480, 360));
        }
    }
}

mod folder {
    use super::*;

    fn open(root: &Path, split: Split) -> Arc<dyn SegDataset> {
        DataConfig::Folder { root: root.into() }.open(split).unwrap()
    }

    fn write_pair(root: &Path, image: &str, mask: &str) {
        write_image(&root.join("images").join(image), 8, 6);
        write_label(&root.join("masks").join(mask), 8, 6, |x, _| (x % 3) as u8);
    }

    #[test]
    fn sub_folders_make_splits_and_jpeg_images_are_read() {
        let dir = tempfile::tempdir().unwrap();
        write_text(&dir.path().join("classes.txt"), "field\nforest 0 90 10\nopen water\t0 0 200\n");
        write_pair(dir.path(), "train/b.jpg", "train/b.png");
        write_pair(dir.path(), "train/a.PNG", "train/a.png");
        write_pair(dir.path(), "val/c.jpeg", "val/c.png");
        write_image(&dir.path().join("images/test/d.png"), 8, 6);
        write_text(&dir.path().join("images/train/notes.md"), "not an image");
        let (train, val, test) =
            (open(dir.path(), Split::Train), open(dir.path(), Split::Val), open(dir.path(), Split::Test));
        assert_eq!((names(&*train), names(&*val), names(&*test)), (vec!["a", "b"], vec!["c"], vec!["d"]));
        assert_eq!(train.classes().names, ["field", "forest", "open water"]);
        assert_eq!(train.classes().colors[1..], [[0, 90, 10], [0, 0, 200]]);
        assert_eq!(train.classes().file_ids, [0, 1, 2]);
        assert_eq!(train.load(1).unwrap().label.unwrap().as_raw()[..4], [0, 1, 2, 0]);
        assert!(train.has_labels() && !test.has_labels());
        assert!([train, val, test].iter().all(|dataset| check(&**dataset).is_empty()));
    }

    #[test]
    fn lists_of_stems_make_splits_too() {
        let dir = tempfile::tempdir().unwrap();
        write_text(&dir.path().join("classes.txt"), "a\nb\nc\n");
        write_pair(dir.path(), "one.jpg", "one.png");
        write_pair(dir.path(), "deep/two.png", "deep/two.png");
        write_text(&dir.path().join("train.txt"), "one\ndeep/two\nthree\n");
        write_text(&dir.path().join("val.txt"), "one\none\n");
        let train = open(dir.path(), Split::Train);
        assert_eq!(names(&*train), ["one", "deep/two", "three"]);
        let problems = check(&*train);
        assert!(problems.len() == 1 && problems[0].path.ends_with("images/three.png"), "{problems:?}");
        let val = open(dir.path(), Split::Val);
        assert_eq!((names(&*val), val.warnings().len()), (vec!["one"], 1));
        assert!(val.warnings()[0].starts_with("1 samples are listed a second time"), "{:?}", val.warnings());
        for name in ["/etc/passwd", "../one", "a/../../one"] {
            write_text(&dir.path().join("val.txt"), name);
            let refused = refusal(&DataConfig::Folder { root: dir.path().into() }, Split::Val);
            assert!(refused.contains("val.txt: line 1: the name") && refused.contains(name), "{refused}");
        }
    }

    #[test]
    fn broken_masks_and_lost_partners_are_reported_with_their_file() {
        let dir = tempfile::tempdir().unwrap();
        write_text(&dir.path().join("classes.txt"), "a\nb\n");
        write_pair(dir.path(), "train/range.png", "train/range.png");
        write_pair(dir.path(), "train/colour.png", "train/colour.png");
        write_image(&dir.path().join("masks/train/colour.png"), 8, 6);
        write_pair(dir.path(), "train/cut.jpg", "train/cut.png");
        truncate(&dir.path().join("images/train/cut.jpg"));
        write_image(&dir.path().join("images/train/typo.png"), 8, 6);
        write_label(&dir.path().join("masks/train/tpyo.png"), 8, 6, |_, _| 0);
        let problems: Vec<String> = check(&*open(dir.path(), Split::Train)).iter().map(ToString::to_string).collect();
        let expected = [
            ("masks/train/colour.png", "a PNG of 8-bit Rgb pixels"),
            ("images/train/cut.jpg", "a JPEG that ends in the middle"),
            ("masks/train/range.png", "label value 2 at x=2 y=0, expected a class id 0..=1 or 255 (ignore)"),
            ("masks/train/typo.png", "missing"),
            ("masks/train/tpyo.png", "a mask without image"),
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, (file, what)) in problems.iter().zip(expected) {
            assert!(problem.contains(file) && problem.contains(what), "{problem}");
        }
    }

    #[test]
    fn missing_classes_empty_splits_and_twin_stems_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = DataConfig::Folder { root: dir.path().into() };
        assert!(refusal(&config, Split::Train).contains("classes.txt: missing"));
        write_text(&dir.path().join("classes.txt"), "\n");
        assert!(refusal(&config, Split::Train).contains("0 classes"));
        write_text(&dir.path().join("classes.txt"), "a\nb\nc\n");
        let missing = refusal(&config, Split::Train);
        assert!(missing.contains("images/train: missing") && missing.contains("train.txt"), "{missing}");
        fs::create_dir_all(dir.path().join("images/train")).unwrap();
        assert!(refusal(&config, Split::Train).contains("images/train: no image"));
        write_pair(dir.path(), "train/a.png", "train/a.png");
        write_image(&dir.path().join("images/train/a.jpg"), 8, 6);
        assert!(refusal(&config, Split::Train).contains("same stem"));
    }
}

mod config {
    use super::*;

    #[test]
    fn a_kind_and_its_keys_choose_the_set() {
        let camvid: DataConfig = toml::from_str("kind = \"camvid\"\nroot = \"/data/camvid\"").unwrap();
        assert_eq!(camvid, DataConfig::Camvid { root: "/data/camvid".into() });
        let synth = "kind = \"synth\"\nnum_images = 6\nnum_val = 2\nheight = 16\nwidth = 32\nseed = 1";
        let synth: DataConfig = toml::from_str(synth).unwrap();
        assert_eq!((synth.open(Split::Train).unwrap().len(), synth.open(Split::Val).unwrap().len()), (6, 2));
        assert!(refusal(&synth, Split::Test).contains("the test split has none"));
        let stray = toml::from_str::<DataConfig>("kind = \"camvid\"\nroot = \"x\"\nseed = 1").unwrap_err().to_string();
        assert!(stray.contains("unknown field `seed`"), "{stray}");
        let unknown = toml::from_str::<DataConfig>("kind = \"ade\"").unwrap_err().to_string();
        assert!(unknown.contains("ade") && unknown.contains("cityscapes"), "{unknown}");
    }
}
