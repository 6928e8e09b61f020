//! Hostile files: a reader may refuse them, but it does not take what a header claims. Damaged files of every format are read in
//! `tests/tests/mutations.rs`.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use nas_datasets::classify::ClassifyDataConfig;
use nas_datasets::det::{self, DetDataConfig};
use nas_datasets::{Split, read_image, read_label};

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A PNG header with the given sides and no pixels.
fn lying_png(side: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    let _ = encoder.write_header().unwrap();
    bytes
}

#[test]
fn claims_of_headers_are_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    for side in [8193, 60_000, 1_000_000] {
        put(&path, &lying_png(side));
        let size = format!("{side}x{side} pixels, more than 67108864");
        let label = read_label(&path, "a label map").unwrap_err().to_string();
        let image = read_image(&path).unwrap_err().to_string();
        assert!(
            label.contains(&size) && (image.contains(&size) || image.contains("cannot be decoded")),
            "{label} {image}"
        );
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&[0, 0, 8, 3, 0, 16, 0, 0, 0, 0, 0, 28, 0, 0, 0, 28]).unwrap();
    (0..64).for_each(|_| packed.write_all(&[0; 1 << 20]).unwrap());
    put(&dir.path().join("train-images-idx3-ubyte.gz"), &packed.finish().unwrap());
    let config = ClassifyDataConfig::Mnist { root: dir.path().into(), part: Default::default() };
    let error = config.open(Split::Train).map(drop).unwrap_err().to_string();
    assert!(error.contains("more values than the"), "{error}");
    let attributes: String = (0..20_000).map(|i| format!(" a{i}='1'")).collect();
    put(&dir.path().join("ImageSets/Main/train.txt"), b"a\n");
    put(&dir.path().join("Annotations/a.xml"), format!("<annotation{attributes}></annotation>").as_bytes());
    let classes = Some(vec!["cat".to_owned()]);
    let set = DetDataConfig::Voc { root: dir.path().into(), classes }.open(Split::Train).unwrap();
    assert!(det::check(&*set)[0].to_string().contains("a tag with 20000 attributes"));
}
