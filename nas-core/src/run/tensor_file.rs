//! Tensors with names as safetensors, and what is known about them in the file's own metadata: what a network's outputs are, how
//! images reach it, what made it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Take};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nas_datasets::open_regular;
use safetensors::tensor::{Dtype, View, serialize_to_file};
use serde_json::Value;
use tch::Tensor;

use super::run_dir::write_atomic_with;
use crate::optim::Named;

/// The one entry of the metadata, as JSON: the format keeps no order of several.
const KEY: &str = "nas";

/// Longest header that is read, as the format's own readers have it.
const MAX_HEADER: u64 = 100_000_000;

/// Writes tensors, atomically, in the order of their names.
pub fn write_tensors(path: &Path, tensors: Vec<Named>) -> Result<()> {
    write_tensors_about(path, tensors, None)
}

/// As [`write_tensors`], with what is known about them.
pub fn write_tensors_about(path: &Path, mut tensors: Vec<Named>, about: Option<&Value>) -> Result<()> {
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let views = tensors.into_iter().map(|(name, tensor)| {
        let view = Bytes::of(&tensor).with_context(|| format!("{}: tensor {name}", path.display()))?;
        Ok((name, view))
    });
    let views: Vec<(String, Bytes)> = views.collect::<Result<_>>()?;
    let metadata = about.map(|about| HashMap::from([(KEY.to_string(), about.to_string())]));
    write_atomic_with(path, |temporary| {
        serialize_to_file(views.iter().map(|(name, view)| (name, view)), &metadata, temporary)
    })
}

/// What is known about the tensors of a file; none where it says nothing.
pub fn read_about(path: &Path) -> Result<Option<Value>> {
    let file = open_regular(path).with_context(|| format!("{}: cannot read", path.display()))?;
    header(file).with_context(|| format!("{}: cannot read it as safetensors", path.display()))
}

fn header(mut file: File) -> Result<Option<Value>> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    ensure!(length <= MAX_HEADER, "a header of {length} bytes");
    let text: Take<File> = file.take(length);
    let header: Value = serde_json::from_reader(std::io::BufReader::new(text))?;
    let about = header.get("__metadata__").and_then(|metadata| metadata.get(KEY)).and_then(Value::as_str);
    Ok(about.map(serde_json::from_str).transpose()?)
}

/// A tensor on the CPU, as the format takes it.
struct Bytes {
    tensor: Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Bytes {
    fn of(tensor: &Tensor) -> Result<Self> {
        let tensor = tensor.to_device(tch::Device::Cpu).contiguous();
        let shape = tensor.size().into_iter().map(|side| side as usize).collect();
        Ok(Self { dtype: Dtype::try_from(tensor.kind())?, shape, tensor })
    }
}

impl View for &Bytes {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0; self.data_len()];
        self.tensor.copy_data_u8(&mut bytes, self.tensor.numel());
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn tensors_come_back_with_what_is_known_about_them() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("w.safetensors");
        let tensors = || {
            let floats = Tensor::arange(6, (Kind::Float, Device::Cpu)).reshape([2, 3]).transpose(0, 1);
            vec![("b.weight".to_string(), floats), ("a.count".to_string(), Tensor::from(7i64))]
        };
        let about = json!({"classes": ["cat", "dog"], "command": ["nas-x", "train"]});
        write_tensors_about(&path, tensors(), Some(&about)).unwrap();
        assert_eq!(read_about(&path).unwrap(), Some(about.clone()));
        let bytes = std::fs::read(&path).unwrap();
        write_tensors_about(&path, tensors(), Some(&about)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        let read: HashMap<String, Tensor> = Tensor::read_safetensors(&path).unwrap().into_iter().collect();
        assert!(read.len() == 2 && tensors().iter().all(|(name, tensor)| read[name] == *tensor));
        write_tensors(&path, tensors()).unwrap();
        assert_eq!(read_about(&path).unwrap(), None);
        // What libtorch's binding writes has the same bytes.
        let plain = temp.path().join("plain.safetensors");
        let contiguous: Vec<Named> = tensors().into_iter().map(|(name, tensor)| (name, tensor.contiguous())).collect();
        Tensor::write_safetensors(&contiguous, &plain).unwrap();
        assert_eq!(std::fs::read(&plain).unwrap(), std::fs::read(&path).unwrap());
    }

    #[test]
    fn a_file_that_is_none_is_an_error_with_its_name() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("w.safetensors");
        for bytes in [&b"x"[..], &[0xff; 9], b"\x02\0\0\0\0\0\0\0{x"] {
            std::fs::write(&path, bytes).unwrap();
            let error = format!("{:#}", read_about(&path).unwrap_err());
            assert!(error.contains("w.safetensors: cannot read it"), "{error}");
        }
    }
}
