//! MNIST (LeCun et al. 1998) and sets in its layout, such as Fashion-MNIST: idx files of bytes, gzipped or plain.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::{ClassifyDataset, InMemory};
use crate::error::{DataError, Problem};
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

fn read(root: &Path, name: &str, rank: usize) -> Result<Idx, DataError> {
    let (plain, packed) = (root.join(name), root.join(format!("{name}.gz")));
    let path = if packed.exists() && !plain.exists() { packed } else { plain };
    let expected = format!("an idx file of bytes with {rank} dimensions");
    let mut bytes = fs::read(&path).map_err(|error| DataError::unreadable(&path, &error, &expected))?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        let mut unpacked = Vec::new();
        let unpack = GzDecoder::new(&bytes[..]).read_to_end(&mut unpacked);
        unpack.map_err(|error| Problem::new(&path, format!("no gzip data ({error})"), &expected))?;
        bytes = unpacked;
    }
    match parse(&bytes, rank) {
        Ok((dims, values)) => Ok(Idx { values: values.to_vec(), dims, path }),
        Err(found) => Err(Problem::new(&path, found, expected).into()),
    }
}

/// Dimensions and values: the magic number is `0 0 8 rank`, then one big-endian u32 per dimension.
fn parse(bytes: &[u8], rank: usize) -> Result<(Vec<usize>, &[u8]), String> {
    let (magic, rest) = bytes.split_at_checked(4).ok_or("a file too short for a header")?;
    if magic != [0, 0, 8, rank as u8] {
        return Err(format!("magic number {magic:?}"));
    }
    let (header, values) = rest.split_at_checked(4 * rank).ok_or("a file too short for its dimensions")?;
    let dims = header.as_chunks::<4>().0.iter().map(|bytes| u32::from_be_bytes(*bytes) as usize);
    let dims: Vec<usize> = dims.collect();
    let total = dims.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim));
    if total != Some(values.len()) || values.is_empty() {
        return Err(format!("{} values for dimensions {dims:?}", values.len()));
    }
    Ok((dims, values))
}
