//! `init`: from a folder of data to a search, a training and a comparison, in the three tools.

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use nas_tests::{CLASSIFY, DETECT, SEGMENT, Tool};

fn succeeds(tool: Tool, folder: &Path, line: &str) -> String {
    let output = tool.shell(folder, line);
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs what `init` prints, small, and looks for the rows of the comparison.
fn go_through(tool: Tool, name: &str, folder: &Path, layout: &str, models: &[&str]) {
    let printed = succeeds(tool, folder, &format!("{name} init --data data --out here"));
    assert!(printed.starts_with(layout), "{printed}");
    let schema = succeeds(tool, folder, &format!("{name} schema"));
    assert_eq!(fs::read_to_string(folder.join("here/schema.json")).unwrap(), schema);
    assert!(fs::read_to_string(folder.join("here/train.toml")).unwrap().starts_with("#:schema ./schema.json\n"));
    let small = "--threads 1 --set train.epochs=1 --set train.batch_size=4";
    for line in printed.lines().filter(|line| line.trim().starts_with(name)) {
        let search = if line.contains(" search ") { "--set num_trials=2 --set retrain.epochs=1" } else { "" };
        let stdout = succeeds(tool, folder, &format!("{line} {small} {search}"));
        if line.contains(" compare ") {
            assert!(models.iter().all(|model| stdout.contains(model)), "{stdout}");
        }
    }
    let again = tool.shell(folder, &format!("{name} init --data data --out here"));
    let stderr = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.code() == Some(1) && stderr.contains("search.toml: is there already"), "{stderr}");
    let empty = tool.shell(folder, &format!("mkdir -p empty; {name} init --data empty --out other"));
    let stderr = String::from_utf8_lossy(&empty.stderr);
    assert!(empty.status.code() == Some(1) && stderr.contains("no layout that is known"), "{stderr}");
    assert!(!folder.join("other").exists());
}

fn picture(i: u32, (w, h): (u32, u32)) -> RgbImage {
    RgbImage::from_fn(w, h, |x, y| Rgb([(x * 3 + i * 40) as u8, (y * 5) as u8, (x * y + i) as u8]))
}

#[test]
fn streets() {
    let temp = tempfile::tempdir().unwrap();
    succeeds(SEGMENT, temp.path(), "nas-segment data synth --out data --images 8 --size 64x96");
    go_through(
        SEGMENT,
        "nas-segment",
        temp.path(),
        "cityscapes: 8 training and 2",
        &["searched", "start", "deeplabv3plus"],
    );
}

#[test]
fn folders_of_images() {
    let temp = tempfile::tempdir().unwrap();
    for (split, count) in [("train", 6), ("val", 3)] {
        for (c, class) in ["cat", "dog"].into_iter().enumerate() {
            let folder = temp.path().join("data").join(split).join(class);
            fs::create_dir_all(&folder).unwrap();
            for i in 0..count {
                picture(i + 100 * c as u32, (24, 24)).save(folder.join(format!("{i}.png"))).unwrap();
            }
        }
    }
    go_through(CLASSIFY, "nas-classify", temp.path(), "folder: 12 training and 6", &["searched", "resnet20"]);
}

#[test]
fn boxes() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    for folder in ["Annotations", "JPEGImages", "ImageSets/Main"] {
        fs::create_dir_all(data.join(folder)).unwrap();
    }
    for i in 0..12u32 {
        picture(i, (96, 64)).save(data.join(format!("JPEGImages/{i:03}.jpg"))).unwrap();
        let object = "<object><name>thing</name><bndbox><xmin>10</xmin><ymin>10</ymin><xmax>50</xmax><ymax>40</ymax></bndbox></object>";
        let text = format!(
            "<annotation><filename>{i:03}.jpg</filename><size><width>96</width><height>64</height><depth>3</depth></size>{object}</annotation>"
        );
        fs::write(data.join(format!("Annotations/{i:03}.xml")), text).unwrap();
    }
    let list = |range: std::ops::Range<u32>| range.map(|i| format!("{i:03}\n")).collect::<String>();
    fs::write(data.join("ImageSets/Main/train.txt"), list(0..8)).unwrap();
    fs::write(data.join("ImageSets/Main/val.txt"), list(8..12)).unwrap();
    go_through(DETECT, "nas-detect", temp.path(), "voc: 8 training and 4", &["searched", "shufflenet"]);
}

/// Every network would be right everywhere.
#[test]
fn masks_of_0_and_255_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    for split in ["train", "val"] {
        for folder in ["images", "masks"] {
            fs::create_dir_all(data.join(folder).join(split)).unwrap();
        }
        for i in 0..3u32 {
            picture(i, (32, 24)).save(data.join(format!("images/{split}/{i}.png"))).unwrap();
            let mask = |high: u8| image::GrayImage::from_fn(32, 24, |x, _| image::Luma([if x > 9 { high } else { 0 }]));
            mask(255).save(data.join(format!("masks/{split}/{i}.png"))).unwrap();
            mask(1).save(temp.path().join(format!("{i}.png"))).unwrap();
        }
    }
    fs::write(data.join("classes.txt"), "back\nthing\nrest\n").unwrap();
    let check = "nas-segment data check --set data.kind=folder --set data.root=data";
    let refused = |line: &str| {
        let output = SEGMENT.shell(temp.path(), line);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1), "{stderr}");
        assert!(
            stderr.contains("of class \"back\" (0) or of none (255)") && stderr.contains("are to hold 0 and 1"),
            "{stderr}"
        );
    };
    refused(check);
    fs::write(temp.path().join("train.toml"), "kind = 'train'\nmodel = { preset = 'mobile_seg_hand_a' }\n").unwrap();
    refused("nas-segment train --config train.toml --out run --set data.kind=folder --set data.root=data");
    assert!(!temp.path().join("run").join("metrics.jsonl").exists());
    for split in ["train", "val"] {
        (0..3).for_each(|i| {
            fs::copy(temp.path().join(format!("{i}.png")), data.join(format!("masks/{split}/{i}.png"))).unwrap();
        });
    }
    let said = succeeds(SEGMENT, temp.path(), &format!("{check} --pictures seen"));
    assert!(said.contains("warning: no training sample has rest") && said.contains("24x32 to 24x32"), "{said}");
    let counts: Vec<f64> =
        said.lines().filter_map(|line| line.trim_end().strip_suffix(" %")?.rsplit(' ').next()?.parse().ok()).collect();
    // Ten columns of 32 are the first class.
    assert_eq!(counts, [31.25, 68.75, 0.0, 31.25, 68.75, 0.0], "{said}");
    let seen = temp.path().join("seen/val");
    let sheet = image::open(seen.join("2.png")).unwrap();
    assert!(sheet.width() > 64 && sheet.height() == 24, "the photo, and its truth beside it");
    assert!(fs::read_to_string(seen.join("classes.svg")).unwrap().contains("thing"));
}
