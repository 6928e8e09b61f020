//! What the experiment files of all tasks have in common: how images are read, presets, architectures found by searches.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use nas_datasets::LoaderConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::run::config;
use crate::run::run_dir::read_json;

/// The section `[loader]`: how images are read. None of it changes what is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoaderSection {
    /// Batches that are made ahead of the one in use.
    pub prefetch: usize,
    /// Megabytes of decoded images to keep in memory; 0 for none.
    pub cache_mb: usize,
}

impl Default for LoaderSection {
    fn default() -> Self {
        Self { prefetch: 4, cache_mb: 1024 }
    }
}

impl LoaderSection {
    /// Settings of a loader of `batch_size`.
    pub fn with(&self, batch_size: usize, threads: usize) -> LoaderConfig {
        LoaderConfig { batch_size, threads, prefetch: self.prefetch, cache_mb: self.cache_mb }
    }
}

/// A model of a comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedModel<M> {
    /// Name in the table and in file names.
    pub name: String,
    /// The network.
    pub model: M,
}

/// Whether `epoch` (from 0) is followed by a validation, when there is one every so many epochs and one after the last.
pub fn is_due(every: usize, epoch: usize, last: bool) -> bool {
    last || (every > 0 && (epoch + 1).is_multiple_of(every))
}

/// The keys of an experiment file, with `sets` in the place of the file's own. The path `data.root` becomes absolute. In
/// `model` and in every `models[].model`, `preset` becomes the keys of the network of that name, which the model's other keys
/// replace, and an `arch` there or in a part of the model that names a search's `result.json` (or its run folder) becomes the architecture found there.
pub fn read_table<M: Serialize>(path: &Path, sets: &[String], preset: impl Fn(&str) -> Result<M>) -> Result<Table> {
    let mut table = config::read_table(path, sets)?;
    if let Some(Value::String(root)) = table.get_mut("data").and_then(|data| data.get_mut("root")) {
        *root = absolute(root).context("data.root")?;
    }
    if let Some(model) = table.get_mut("model").and_then(Value::as_table_mut) {
        resolve_model(model, &preset)?;
    }
    let models = table.get_mut("models").and_then(Value::as_array_mut);
    for model in models.into_iter().flatten().filter_map(|entry| entry.get_mut("model")?.as_table_mut()) {
        resolve_model(model, &preset)?;
    }
    Ok(table)
}

/// The experiment of [`read_table`].
pub fn load<T, M>(path: &Path, sets: &[String], preset: impl Fn(&str) -> Result<M>) -> Result<T>
where
    T: DeserializeOwned,
    M: Serialize,
{
    Ok(config::from_table(read_table(path, sets, preset)?, &path.display().to_string())?)
}

/// The network that a command is given by `name`: that of an experiment file with a section `model`, or a preset.
pub fn named_model<M>(name: &str, preset: impl Fn(&str) -> Result<M>) -> Result<M>
where
    M: Serialize + DeserializeOwned,
{
    /// The one section of an experiment that is of interest here.
    #[derive(Deserialize)]
    struct Experiment<M> {
        model: M,
    }
    let path = Path::new(name);
    match preset(name) {
        Err(_) if path.extension().is_some_and(|extension| extension == "toml") || path.is_file() => {
            Ok(load::<Experiment<M>, M>(path, &[], preset)?.model)
        }
        preset => preset.with_context(|| format!("{name}: neither an experiment file nor a preset")),
    }
}

/// A path of an experiment file as one that does not depend on the current folder.
pub fn absolute(path: &str) -> Result<String> {
    let absolute = std::path::absolute(path).with_context(|| format!("{path:?}"))?;
    absolute.into_os_string().into_string().map_err(|path| anyhow!("{path:?} is not UTF-8"))
}

fn resolve_model<M: Serialize>(model: &mut Table, preset: impl Fn(&str) -> Result<M>) -> Result<()> {
    if let Some(name) = model.remove("preset") {
        let Value::String(name) = &name else { bail!("model.preset = {name}: expected a name in quotes") };
        let mut keys = Table::try_from(preset(name)?)?;
        keys.extend(std::mem::take(model));
        *model = keys;
    }
    resolve_arch(model)
}

/// The architecture may be one of the model's own keys, or of a part such as `model.backbone`.
fn resolve_arch(keys: &mut Table) -> Result<()> {
    for (key, value) in keys {
        match value {
            Value::String(arch) if key == "arch" => {
                if let Some(found) = searched_arch(arch)? {
                    *arch = found;
                }
            }
            Value::Table(part) => resolve_arch(part)?,
            _ => {}
        }
    }
    Ok(())
}

/// The best architecture of a search's `result.json`, when `text` is the path of one or of a run folder.
pub fn searched_arch(text: &str) -> Result<Option<String>> {
    if !text.contains('/') && !text.ends_with(".json") && !Path::new(text).is_dir() {
        return Ok(None);
    }
    let mut path = PathBuf::from(text);
    if path.is_dir() {
        path.push("result.json");
    }
    if !path.exists() {
        bail!("arch = {text:?}: there is no {}; has the search ended?", path.display());
    }
    let result: serde_json::Value = read_json(&path)?;
    // One-shot searches end in one architecture, searches by trials in a best one.
    let found = [&result["architecture"], &result["best"]["architecture"]].into_iter().find_map(|value| value.as_str());
    let found = found.with_context(|| format!("{}: no architecture; did the search find any?", path.display()))?;
    Ok(Some(found.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Net {
        arch: String,
        channels: i64,
    }

    #[derive(Debug, Deserialize)]
    struct Experiment {
        model: Net,
        #[serde(default)]
        models: Vec<NamedModel<Net>>,
    }

    fn preset(name: &str) -> Result<Net> {
        if name != "small" {
            bail!("{name:?} is no preset; expected small");
        }
        Ok(Net { arch: "0-1".into(), channels: 4 })
    }

    fn read(text: &str, sets: &[&str]) -> Result<Experiment> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, text).unwrap();
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        load(&path, &sets, preset)
    }

    #[test]
    fn a_preset_is_expanded_and_its_keys_can_be_replaced() {
        let text = "[model]\npreset = 'small'\nchannels = 8\n[[models]]\nname = 'x'\nmodel = { preset = 'small' }";
        let experiment = read(text, &[]).unwrap();
        assert_eq!(experiment.model, Net { arch: "0-1".into(), channels: 8 });
        assert_eq!(experiment.models[0].model, preset("small").unwrap());
        let error = format!("{:#}", read(text, &["model.preset=large"]).unwrap_err());
        assert!(error.contains("large") && error.contains("small"), "{error}");
    }

    #[test]
    fn an_architecture_comes_from_either_kind_of_search_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("[model]\npreset = 'small'\narch = '{}'", dir.path().display());
        for result in [r#"{"architecture": "1-1"}"#, r#"{"best": {"architecture": "1-1"}}"#] {
            std::fs::write(dir.path().join("result.json"), result).unwrap();
            assert_eq!(read(&text, &[]).unwrap().model.arch, "1-1");
        }
        let error = format!("{:#}", read(&text, &["model.arch=nowhere/result.json"]).unwrap_err());
        assert!(error.contains("nowhere/result.json"), "{error}");
        std::fs::write(dir.path().join("result.json"), r#"{"best": null}"#).unwrap();
        assert!(format!("{:#}", read(&text, &[]).unwrap_err()).contains("no architecture"));
    }

    #[test]
    fn paths_of_data_become_absolute() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, "[data]\nroot = 'somewhere'").unwrap();
        let table = read_table(&path, &[], preset).unwrap();
        assert!(Path::new(table["data"]["root"].as_str().unwrap()).is_absolute());
    }
}
