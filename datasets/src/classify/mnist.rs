//! MNIST (LeCun et al. 1998) and sets in its layout, such as Fashion-MNIST: idx files of bytes, gzipped or plain.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::{ClassifyDataset, InMemory};
use crate::error::{DataError, Problem};
use crate::files;
use crate::split::Split;

/// Opens one split: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...`, each with or without `.gz`. Grey
/// becomes RGB; classes are the digits `0` to `9`.
pub fn open(root: &Path, split: Split) -> Result<impl ClassifyDataset + use<>, DataError> {
    let prefix = if split == Split::Train { "train" } else { "t10k" };
    let images = read(root, &format!("{prefix}-images-idx3-ubyte"), 3)?;
    let labels = read(root, &format!("{prefix}-labels-idx1-ubyte"), 1)?;
    if labels.dims[0] != images.dims[0] {
        let expected = format!("{}, one for each image", images.dims[0]);
        return Err(Problem::new(&labels.path, format!("{} labels", labels.dims[0]), expected).into());
    }
    if let Some((i, label)) = labels.values.iter().enumerate().find(|(_, label)| **label > 9) {
        return Err(Problem::new(&labels.path, format!("label {label} at position {i}"), "a class 0..=9").into());
    }
    Ok(InMemory {
        files: vec![(prefix.to_owned(), images.dims[0])],
        size: (images.dims[1] as u32, images.dims[2] as u32),
        pixels: images.values.iter().flat_map(|grey| [*grey; 3]).collect(),
        labels: labels.values.iter().map(|label| u16::from(*label)).collect(),
        classes: (0..10).map(|digit| digit.to_string()).collect(),
    })
}

/// An array of bytes.
struct Idx {
    path: PathBuf,
    dims: Vec<usize>,
    values: Vec<u8>,
}

/// Largest idx file, unpacked; EMNIST's has 547 MB.
const MAX_BYTES: u64 = 1 << 30;

/// Most bytes that a packed byte may become. Digits stay below 10; gzip ends at 1032, with nothing but zeros.
const MAX_RATIO: u64 = 200;

fn read(root: &Path, name: &str, rank: usize) -> Result<Idx, DataError> {
    let (plain, packed) = (root.join(name), root.join(format!("{name}.gz")));
    let path = if packed.exists() && !plain.exists() { packed } else { plain };
    let expected = format!("an idx file of bytes with {rank} dimensions");
    let bytes = files::read_data(&path, MAX_BYTES, &expected)?;
    let parsed = if files::has_extension(&path, &["gz"]) {
        let limit = MAX_BYTES.min(MAX_RATIO * bytes.len() as u64);
        parse(GzDecoder::new(&bytes[..]), rank, limit)
    } else {
        parse(&bytes[..], rank, MAX_BYTES)
    };
    match parsed {
        Ok((dims, values)) => Ok(Idx { values, dims, path }),
        Err(found) => Err(Problem::new(&path, found, expected).into()),
    }
}

/// Dimensions and values: the magic number is `0 0 8 rank`, then one big-endian u32 per dimension. No more is read than the
/// header says, and no more than `limit` bytes.
fn parse(mut file: impl Read, rank: usize, limit: u64) -> Result<(Vec<usize>, Vec<u8>), String> {
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::UnexpectedEof => "a file too short for its header".to_owned(),
        _ => format!("no gzip data ({error})"),
    };
    let mut magic = [0; 4];
    file.read_exact(&mut magic).map_err(unreadable)?;
    if magic != [0, 0, 8, rank as u8] {
        return Err(format!("magic number {magic:?}"));
    }
    let mut dims = Vec::new();
    for _ in 0..rank {
        let mut dim = [0; 4];
        file.read_exact(&mut dim).map_err(unreadable)?;
        dims.push(u32::from_be_bytes(dim) as usize);
    }
    let total = dims.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim as u64));
    let total = total.filter(|total| *total <= limit).ok_or_else(|| {
        format!("dimensions {dims:?}, more values than the {limit} that are taken of a file of this size,")
    })?;
    let mut values = Vec::new();
    file.take(total + 1).read_to_end(&mut values).map_err(unreadable)?;
    if values.len() as u64 != total || values.is_empty() {
        let more = if values.len() as u64 > total { " or more" } else { "" };
        return Err(format!("{} values{more} for dimensions {dims:?}", values.len()));
    }
    Ok((dims, values))
}
