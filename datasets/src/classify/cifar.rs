//! CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in their official binary layout (<https://www.cs.toronto.edu/~kriz/cifar.html>):
//! a record is one label (CIFAR-100: coarse and fine) and 3 x 32 x 32 bytes, planes of red, green and blue.

use std::path::{Path, PathBuf};

use super::{ClassifyDataset, InMemory};
use crate::error::{DataError, Problem};
use crate::files;
use crate::names;
use crate::split::Split;

/// Largest batch file; the official ones have 30 MB (CIFAR-100: 154 MB).
const MAX_BYTES: u64 = 1 << 30;

const SIDE: u32 = 32;
const PLANE: usize = (SIDE * SIDE) as usize;

/// Where a variant keeps what.
struct Layout {
    folder: &'static str,
    names: &'static str,
    num_classes: usize,
    /// Label bytes of a record; the last one is the class.
    label_bytes: usize,
}

/// Opens one split of CIFAR-10. The train split is `data_batch_1.bin` and all batches that follow it.
pub fn open10(root: &Path, split: Split) -> Result<impl ClassifyDataset + use<>, DataError> {
    let layout = Layout { folder: "cifar-10-batches-bin", names: "batches.meta.txt", num_classes: 10, label_bytes: 1 };
    let folder = folder(root, &layout);
    let files = match split {
        Split::Train => {
            let batch = |i: usize| folder.join(format!("data_batch_{i}.bin"));
            let last = (1..=5).rev().find(|i| batch(*i).exists()).unwrap_or(1);
            (1..=last).map(batch).collect()
        }
        Split::Val | Split::Test => vec![folder.join("test_batch.bin")],
    };
    read(&layout, &folder, &files)
}

/// Opens one split of CIFAR-100, with its 100 fine classes.
pub fn open100(root: &Path, split: Split) -> Result<impl ClassifyDataset + use<>, DataError> {
    let layout = Layout { folder: "cifar-100-binary", names: "fine_label_names.txt", num_classes: 100, label_bytes: 2 };
    let folder = folder(root, &layout);
    let file = if split == Split::Train { "train.bin" } else { "test.bin" };
    read(&layout, &folder, &[folder.join(file)])
}

/// The folder of the files: below the root, or the root itself.
fn folder(root: &Path, layout: &Layout) -> PathBuf {
    let below = root.join(layout.folder);
    if !below.exists() && root.join(layout.names).exists() { root.to_owned() } else { below }
}

fn read(layout: &Layout, folder: &Path, paths: &[PathBuf]) -> Result<InMemory, DataError> {
    let names = folder.join(layout.names);
    let expected = format!("{} class names, one per line", layout.num_classes);
    let text = files::read_text(&names, &expected)?;
    let classes: Vec<String> =
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    if classes.len() != layout.num_classes {
        return Err(Problem::new(&names, format!("{} names", classes.len()), expected).into());
    }
    let mut set = InMemory { files: Vec::new(), size: (SIDE, SIDE), pixels: Vec::new(), labels: Vec::new(), classes };
    paths.iter().try_for_each(|path| append(layout, path, &mut set))?;
    Ok(set)
}

fn append(layout: &Layout, path: &Path, set: &mut InMemory) -> Result<(), DataError> {
    let record = layout.label_bytes + 3 * PLANE;
    let expected = format!("records of {record} bytes");
    let bytes = files::read_data(path, MAX_BYTES, &expected)?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        return Err(Problem::new(path, format!("{} bytes", bytes.len()), expected).into());
    }
    for (i, record) in bytes.chunks_exact(record).enumerate() {
        let (labels, planes) = record.split_at(layout.label_bytes);
        let label = labels[layout.label_bytes - 1];
        if usize::from(label) >= layout.num_classes {
            let expected = format!("a class 0..={}", layout.num_classes - 1);
            return Err(Problem::new(path, format!("label {label} in record {i}"), expected).into());
        }
        set.labels.push(label.into());
        set.pixels.extend((0..PLANE).flat_map(|i| [planes[i], planes[PLANE + i], planes[2 * PLANE + i]]));
    }
    let stem = names::stem(path);
    set.files.push((stem, bytes.len() / record));
    Ok(())
}
