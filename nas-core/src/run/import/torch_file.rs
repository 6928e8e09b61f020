//! Files of `torch.save`, read without Python, in both of its formats: the zip archive that it writes since 1.6, and the old
//! one of pickles one after another with the storages behind them.
//!
//! Nothing in such a file is trusted: names outside of an allow-list are refused (see [`super::pickle`]), and a storage or
//! tensor takes memory only after its size was found in the file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use nas_datasets::open_regular;
use tch::{Kind, Tensor};
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, Id, Pickle, StorageRef, TensorRef, Value};
use crate::optim::Named;

/// Starts every file of the old format: a pickle of torch's magic number.
const LEGACY_MAGIC: [u8; 15] = [0x80, 2, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];

/// The old format's own version.
const LEGACY_PROTOCOL: i64 = 1001;

/// Most bytes of a pickle; that of a network with 10,000 tensors has about 2 MB.
const MAX_PICKLE: u64 = 64 << 20;

/// Tensors may share a storage, but all of them together not be larger than this many files.
const MAX_SHARING: u64 = 16;

/// Whether a file begins like one of `torch.save`.
pub fn is_torch_file(start: &[u8]) -> bool {
    start.starts_with(b"PK\x03\x04") || start.starts_with(&LEGACY_MAGIC)
}

/// The tensors of one dictionary of a file.
#[derive(Debug)]
pub struct StateDict {
    /// Where it lies in the file, such as `state_dict`; empty for the file's own dictionary.
    pub key: String,
    /// Its tensors, contiguous and on the CPU, in the file's order.
    pub tensors: Vec<Named>,
    /// Entries that are no tensors.
    pub others: Vec<String>,
}

/// Reads the state dict of a file of `torch.save`: the dictionary at `key`, or without one the only dictionary that holds
/// tensors.
pub fn read_state_dict(path: &Path, key: Option<&str>) -> Result<StateDict> {
    let read = || -> Result<StateDict> {
        let mut file = BufReader::new(open_regular(path).context("cannot open")?);
        let length = file.get_ref().metadata()?.len();
        let mut start = [0; LEGACY_MAGIC.len()];
        file.read_exact(&mut start).context("too short for a file of torch.save")?;
        file.rewind()?;
        match start.starts_with(b"PK\x03\x04") {
            true => read_zip(file, length, key),
            false => read_legacy(file, length, key),
        }
    };
    read().with_context(|| path.display().to_string())
}

fn read_zip(file: BufReader<File>, length: u64, key: Option<&str>) -> Result<StateDict> {
    let mut archive = ZipArchive::new(file).context("a damaged zip archive")?;
    let pickled = archive.file_names().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let pickled = pickled.context("a zip archive without data.pkl: not a file of torch.save")?.to_string();
    let folder = pickled.trim_end_matches("data.pkl").to_string();
    ensure!(
        archive.file_names().all(|name| name != format!("{folder}constants.pkl")),
        "a TorchScript archive: its program is refused. Save the `state_dict()` of the module"
    );
    if let Ok(mut order) = archive.by_name(&format!("{folder}byteorder")) {
        let mut text = String::new();
        order.by_ref().take(16).read_to_string(&mut text)?;
        ensure!(text == "little", "numbers in the byte order {text:?}, expected \"little\"");
    }
    let bytes = stored(&mut archive, &pickled, length.min(MAX_PICKLE))?;
    let pickle = pickle::read(&bytes)?;
    let mut storage = |storage: &StorageRef| {
        let name = format!("{folder}data/{}", storage.key);
        let bytes = stored(&mut archive, &name, length)?;
        whole(&bytes, storage).context(name)
    };
    Extraction { pickle: &pickle, length }.run(key, &mut storage)
}

/// An uncompressed entry of at most `limit` bytes.
fn stored(archive: &mut ZipArchive<BufReader<File>>, name: &str, limit: u64) -> Result<Vec<u8>> {
    let entry = archive.by_name(name).with_context(|| format!("{name}: missing in the archive"))?;
    ensure!(entry.compression() == CompressionMethod::Stored, "{name}: compressed, which torch never does");
    let size = entry.size();
    ensure!(size <= limit, "{name}: {size} bytes, more than there can be ({limit})");
    let mut bytes = Vec::new();
    entry.take(limit).read_to_end(&mut bytes).with_context(|| format!("{name}: damaged"))?;
    ensure!(bytes.len() as u64 == size, "{name}: {} of {size} bytes found", bytes.len());
    Ok(bytes)
}

fn read_legacy(mut file: BufReader<File>, length: u64, key: Option<&str>) -> Result<StateDict> {
    let mut head = Vec::new();
    file.by_ref().take(MAX_PICKLE).read_to_end(&mut head)?;
    ensure!(head.starts_with(&LEGACY_MAGIC), "not a file of torch.save: it begins with {:02x?}", &head[..8]);
    let mut at = LEGACY_MAGIC.len();
    let mut next = |what: &str| -> Result<Pickle> {
        let pickle = pickle::read(&head[at..]).context(what.to_string())?;
        at += pickle.length;
        Ok(pickle)
    };
    let protocol = next("version")?;
    match protocol.values[protocol.root] {
        Value::Int(LEGACY_PROTOCOL) => {}
        ref other => bail!("version {other:?} of the old format, expected {LEGACY_PROTOCOL}"),
    }
    let system = next("system")?;
    ensure!(is_little_endian(&system), "numbers that are not little endian");
    let (object, keys) = (next("object")?, next("list of storages")?);
    file.seek(SeekFrom::Start(at as u64))?;
    let bytes = legacy_storages(&mut file, length - at as u64, &object, &keys)?;
    let mut storage = |storage: &StorageRef| {
        let bytes = bytes.get(&storage.key).with_context(|| format!("storage {}: missing", storage.key))?;
        whole(bytes, storage).with_context(|| format!("storage {}", storage.key))
    };
    Extraction { pickle: &object, length }.run(key, &mut storage)
}

fn is_little_endian(system: &Pickle) -> bool {
    let Value::Dict(entries) = &system.values[system.root] else { return false };
    entries.iter().any(|(key, value)| {
        matches!(&system.values[*key], Value::Str(key) if &**key == "little_endian")
            && matches!(system.values[*value], Value::Bool(true))
    })
}

/// The bytes of every storage: each stands after its count, in the order of the list of keys.
fn legacy_storages(
    file: &mut impl Read,
    mut left: u64,
    object: &Pickle,
    keys: &Pickle,
) -> Result<HashMap<Rc<str>, Vec<u8>>> {
    let kinds: HashMap<Rc<str>, Kind> = object
        .values
        .iter()
        .filter_map(|value| match value {
            Value::Storage(storage) => Some((storage.key.clone(), storage.kind)),
            _ => None,
        })
        .collect();
    let Value::List(list) = &keys.values[keys.root] else { bail!("no list of storages") };
    let mut found = HashMap::new();
    for id in list {
        let Value::Str(key) = &keys.values[*id] else { bail!("a storage whose key is no text") };
        let kind = *kinds.get(key).with_context(|| format!("storage {key} belongs to no tensor"))?;
        ensure!(left >= 8, "the file ends before storage {key}");
        let mut count = [0; 8];
        file.read_exact(&mut count)?;
        left -= 8;
        let bytes = u64::from_le_bytes(count).checked_mul(kind.elt_size_in_bytes() as u64);
        let bytes = bytes.filter(|bytes| *bytes <= left);
        let bytes = bytes.with_context(|| {
            format!("storage {key} has {} numbers, but {left} bytes are left in the file", u64::from_le_bytes(count))
        })?;
        let mut content = vec![0; usize::try_from(bytes)?];
        file.read_exact(&mut content)?;
        left -= bytes;
        found.insert(key.clone(), content);
    }
    Ok(found)
}

/// The numbers of a storage as a tensor of one dimension.
fn whole(bytes: &[u8], storage: &StorageRef) -> Result<Tensor> {
    let expected = storage.numel.checked_mul(storage.kind.elt_size_in_bytes());
    ensure!(
        expected == Some(bytes.len()),
        "{} bytes found, expected {} numbers of type {:?}",
        bytes.len(),
        storage.numel,
        storage.kind
    );
    Ok(Tensor::f_from_data_size(bytes, &[i64::try_from(storage.numel)?], storage.kind)?)
}

/// Finds the state dict among what a pickle holds.
struct Extraction<'a> {
    pickle: &'a Pickle,
    length: u64,
}

impl Extraction<'_> {
    fn run(&self, key: Option<&str>, storage: &mut dyn FnMut(&StorageRef) -> Result<Tensor>) -> Result<StateDict> {
        let (key, entries) = self.choose(key)?;
        let mut cache: HashMap<Rc<str>, Tensor> = HashMap::new();
        let (mut tensors, mut others, mut bytes) = (Vec::new(), Vec::new(), 0u64);
        for (name, value) in entries {
            let Value::Tensor(view) = &self.pickle.values[value] else {
                others.push(name);
                continue;
            };
            let key = &view.storage.key;
            if !cache.contains_key(key) {
                cache.insert(key.clone(), storage(&view.storage)?);
            }
            let (numbers, size) = (&cache[key], view_bytes(view).with_context(|| format!("tensor {name}"))?);
            bytes += size;
            ensure!(bytes / MAX_SHARING <= self.length, "tensors of over {bytes} bytes in a file of {}", self.length);
            tensors.push((name, numbers.f_as_strided(&view.size, &view.stride, view.offset)?.contiguous().copy()));
        }
        Ok(StateDict { key, tensors, others })
    }

    /// The entries of the dictionary at `key`, or of the only one with tensors.
    fn choose(&self, key: Option<&str>) -> Result<(String, Vec<(String, Id)>)> {
        let mut found = self.dictionaries();
        let names = |found: &[(String, Vec<(String, Id)>)]| {
            let quoted: Vec<String> = found.iter().map(|(key, _)| format!("{key:?}")).collect();
            quoted.join(", ")
        };
        if let Some(key) = key {
            let known = names(&found);
            let chosen = found.into_iter().find(|(place, _)| place == key);
            return chosen.with_context(|| format!("no tensors at the key {key:?}; there are some at {known}"));
        }
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => bail!("no dictionary of tensors in the file"),
            _ => bail!("tensors at several keys; choose one by --key: {}", names(&found)),
        }
    }

    /// Every dictionary that has tensors under texts, not deeper than three dictionaries, by its path of keys.
    fn dictionaries(&self) -> Vec<(String, Vec<(String, Id)>)> {
        const MAX_DEPTH: usize = 3;
        const MAX_SEEN: usize = 10_000;
        let mut found = Vec::new();
        let mut waiting = vec![(String::new(), self.pickle.root, 0)];
        let mut seen = 0;
        while let Some((path, id, depth)) = waiting.pop() {
            let Value::Dict(entries) = &self.pickle.values[id] else { continue };
            seen += 1;
            let entries = self.named(entries);
            if entries.iter().any(|(_, value)| matches!(self.pickle.values[*value], Value::Tensor(_))) {
                found.push((path, entries));
            } else if depth < MAX_DEPTH && seen < MAX_SEEN {
                let below = |(key, value): (String, Id)| match path.as_str() {
                    "" => (key, value, depth + 1),
                    path => (format!("{path}.{key}"), value, depth + 1),
                };
                waiting.extend(entries.into_iter().take(MAX_SEEN).map(below));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// The entries whose keys are texts; of equal keys the last value at the first place, as in Python.
    fn named(&self, entries: &[(Id, Id)]) -> Vec<(String, Id)> {
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut named: Vec<(String, Id)> = Vec::new();
        for (key, value) in entries {
            let Value::Str(key) = &self.pickle.values[*key] else { continue };
            match places.get(&**key) {
                Some(place) => named[*place].1 = *value,
                None => {
                    places.insert(key, named.len());
                    named.push((key.to_string(), *value));
                }
            }
        }
        named
    }
}

/// Bytes of a view, which must lie in its storage and not be larger than it.
fn view_bytes(view: &TensorRef) -> Result<u64> {
    let TensorRef { storage, offset, size, stride } = view;
    let describe =
        || format!("shape {size:?}, stride {stride:?}, offset {offset} in a storage of {} numbers", storage.numel);
    let check = || -> Option<u64> {
        let fits = size.len() == stride.len() && *offset >= 0 && size.iter().chain(stride).all(|n| *n >= 0);
        let numel = size.iter().try_fold(1i64, |product, n| product.checked_mul(*n))?;
        let reach =
            size.iter().zip(stride).try_fold(*offset, |at, (n, step)| at.checked_add((n - 1).checked_mul(*step)?));
        let inside = numel == 0 || u64::try_from(reach?).ok()? < storage.numel as u64;
        let numel = u64::try_from(numel).ok()?;
        (fits && inside && numel <= storage.numel as u64).then_some(numel * storage.kind.elt_size_in_bytes() as u64)
    };
    check().with_context(|| format!("it does not lie in the file: {}", describe()))
}

/// The program and the constants of a TorchScript archive that this process made itself.
pub(crate) fn read_trace(path: &Path) -> Result<(String, Vec<Tensor>)> {
    let file = BufReader::new(File::open(path)?);
    let length = file.get_ref().metadata()?.len();
    let mut archive = ZipArchive::new(file)?;
    let name = |ending: &str, archive: &ZipArchive<BufReader<File>>| {
        let found = archive.file_names().find(|name| name.ends_with(ending)).map(str::to_string);
        found.with_context(|| format!("a trace without {ending}"))
    };
    let mut text = String::new();
    let code = name(".py", &archive)?;
    archive.by_name(&code)?.read_to_string(&mut text)?;
    let constants = name("constants.pkl", &archive)?;
    let folder = constants.trim_end_matches(".pkl").to_string();
    let pickle = pickle::read(&stored(&mut archive, &constants, length)?)?;
    let Value::Tuple(ids) = &pickle.values[pickle.root] else { bail!("constants that are no tuple") };
    let mut tensors = Vec::new();
    for id in ids {
        let Value::Tensor(view) = &pickle.values[*id] else { bail!("a constant that is no tensor") };
        let numbers = whole(&stored(&mut archive, &format!("{folder}/{}", view.storage.key), length)?, &view.storage)?;
        view_bytes(view)?;
        tensors.push(numbers.f_as_strided(&view.size, &view.stride, view.offset)?.contiguous().copy());
    }
    Ok((text, tensors))
}
