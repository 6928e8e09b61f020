//! Experiment files: TOML, with `--set section.key=value` on top. The only module that knows TOML.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nas_datasets::read_utf8;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::ranges;

/// What is wrong with a config. All of it is the user's input.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot read the config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML; the message shows line and column.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// TOML's message.
        message: String,
    },
    /// A key is unknown, missing or has a value of another type.
    #[error("{origin}: key `{key}`: {message}")]
    Key {
        /// The file, and the `--set` options where there were some.
        origin: String,
        /// Dotted path of the key.
        key: String,
        /// What was found and what was expected.
        message: String,
    },
    /// A number that is not of its range.
    #[error("{origin}: {message}")]
    Range {
        /// The file.
        origin: String,
        /// Key, value and range.
        message: String,
    },
    /// A `--set` that is not `key=value`.
    #[error("--set {option}: expected key=value, such as train.epochs=10")]
    Set {
        /// The option's text.
        option: String,
    },
    /// A `--set` that descends into something that is no section.
    #[error("--set {option}: `{part}` is a value, not a section")]
    NotASection {
        /// The option's text.
        option: String,
        /// The part of the key that is a value.
        part: String,
    },
}

/// Largest experiment file.
const MAX_BYTES: u64 = 16 << 20;

/// Most parts of the key of a `--set`.
const MAX_PARTS: usize = 32;

/// Reads `path`, applies `sets` in order and returns the table.
pub fn read_table(path: &Path, sets: &[String]) -> Result<Table, ConfigError> {
    let text = read_utf8(path, MAX_BYTES).map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
    let syntax = |error: toml::de::Error| ConfigError::Syntax { path: path.to_path_buf(), message: error.to_string() };
    let mut table: Table = text.parse().map_err(syntax)?;
    apply_all(&mut table, sets)?;
    Ok(table)
}

/// Applies `--set` options in order.
pub fn apply_all(table: &mut Table, sets: &[String]) -> Result<(), ConfigError> {
    sets.iter().try_for_each(|option| apply(table, option))
}

/// Turns a table into a config; `origin` is named in errors.
pub fn from_table<T: DeserializeOwned>(table: Table, origin: &str) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| ConfigError::Key {
        origin: origin.to_string(),
        key: error.path().to_string(),
        message: error.inner().to_string().trim().to_string(),
    })
}

/// Turns the section `name` of a table into a config, whose numbers are of their ranges; `origin` is named in errors.
pub fn section<T: DeserializeOwned>(mut table: Table, name: &str, origin: &str) -> Result<T, ConfigError> {
    let error = |path: String, message: String| {
        let key = if path == "." { name.to_string() } else { format!("{name}.{path}") };
        ConfigError::Key { origin: origin.to_string(), key, message }
    };
    let value = table.remove(name).ok_or_else(|| error(".".into(), "the section is missing".into()))?;
    let config = serde_path_to_error::deserialize(value.clone())
        .map_err(|found| error(found.path().to_string(), found.inner().to_string().trim().to_string()))?;
    in_range(Table::from_iter([(name.to_string(), value)]), origin)?;
    Ok(config)
}

/// Says which number is not of its range; `origin` is named in errors.
fn in_range(table: Table, origin: &str) -> Result<(), ConfigError> {
    let outside = |error: anyhow::Error| ConfigError::Range { origin: origin.to_string(), message: error.to_string() };
    ranges::check(&table).map_err(outside)
}

/// A config with the first of its `keys` that it has, a whole number, multiplied by `factor` and at least 1.
pub fn scaled<T: Serialize + DeserializeOwned>(config: &T, keys: &[&str], factor: f64) -> anyhow::Result<T> {
    use anyhow::Context;

    let mut table = Table::try_from(config)?;
    let key = keys.iter().find(|key| table.contains_key(**key));
    let key = key.with_context(|| format!("the model has no key {} to reduce", keys.join(" or ")))?;
    let full = table[*key].as_integer().with_context(|| format!("model.{key} is no number"))?;
    table.insert((*key).into(), Value::Integer(((full as f64 * factor).round() as i64).max(1)));
    Value::Table(table).try_into().context("the model at the trial's budget")
}

/// A whole number by which one config differs from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Dotted path of the key.
    pub key: String,
    /// Its value before.
    pub from: u64,
    /// Its value now, which is larger.
    pub to: u64,
}

/// The growth of `key` between two configs that differ in nothing else.
pub fn growth(old: &str, new: &str, key: &str) -> Option<Growth> {
    let [mut old, mut new] = [old, new].map(|text| text.parse::<Table>().ok());
    let take = |table: &mut Option<Table>| {
        let mut parts: Vec<&str> = key.split('.').collect();
        let last = parts.pop()?;
        let section = parts.iter().try_fold(table.as_mut()?, |section, part| section.get_mut(*part)?.as_table_mut())?;
        u64::try_from(section.remove(last)?.as_integer()?).ok()
    };
    let (from, to) = (take(&mut old)?, take(&mut new)?);
    (old == new && from < to).then(|| Growth { key: key.to_string(), from, to })
}

/// Reads a config with its `--set` options, whose numbers are of their ranges.
pub fn load<T: DeserializeOwned>(path: &Path, sets: &[String]) -> Result<T, ConfigError> {
    let origin = match sets.is_empty() {
        true => path.display().to_string(),
        false => format!("{} with --set {}", path.display(), sets.join(" --set ")),
    };
    let table = read_table(path, sets)?;
    let config = from_table(table.clone(), &origin)?;
    in_range(table, &origin)?;
    Ok(config)
}

/// The TOML text of a config, every default written out.
pub fn to_toml<T: Serialize>(config: &T) -> String {
    toml::to_string(config).expect("configs are tables with string keys")
}

/// Dotted keys of a config; numbered where a list holds sections.
pub fn flatten(value: &Value, key: &str, into: &mut BTreeMap<String, String>) {
    let below = |part: &str| if key.is_empty() { part.to_string() } else { format!("{key}.{part}") };
    match value {
        Value::Table(table) => table.iter().for_each(|(part, value)| flatten(value, &below(part), into)),
        Value::Array(list) if list.iter().any(Value::is_table) => {
            list.iter().enumerate().for_each(|(i, value)| flatten(value, &below(&i.to_string()), into));
        }
        Value::String(text) => _ = into.insert(key.to_string(), text.clone()),
        other => _ = into.insert(key.to_string(), other.to_string()),
    }
}

fn apply(table: &mut Table, option: &str) -> Result<(), ConfigError> {
    let (key, text) = option.split_once('=').ok_or_else(|| ConfigError::Set { option: option.to_string() })?;
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts.pop().filter(|last| !last.is_empty() && parts.len() < MAX_PARTS);
    let last = last.ok_or_else(|| ConfigError::Set { option: option.to_string() })?;
    let mut section = table;
    for part in parts {
        let entry = section.entry(part).or_insert_with(|| Value::Table(Table::new()));
        section = entry
            .as_table_mut()
            .ok_or_else(|| ConfigError::NotASection { option: option.to_string(), part: part.to_string() })?;
    }
    section.insert(last.to_string(), parse_value(text));
    Ok(())
}

/// A TOML value, or the text itself where it is none (`data.root=/data/city` needs no quotes).
fn parse_value(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>().ok();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Train {
        epochs: usize,
        #[serde(default)]
        root: String,
    }

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Config {
        train: Train,
    }

    fn parse(text: &str, sets: &[&str]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, text).unwrap();
        load(&path, &sets.iter().map(|set| set.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn a_number_that_grew_is_seen_only_where_all_else_is_equal() {
        let grown = |old: &str, new: &str| growth(old, new, "train.epochs").map(|growth| (growth.from, growth.to));
        let old = "seed = 1\n[train]\nepochs = 2\n";
        assert_eq!(grown(old, "seed = 1\n[train]\nepochs = 5\n"), Some((2, 5)));
        assert_eq!(grown(old, "seed = 2\n[train]\nepochs = 5\n"), None);
        assert_eq!(grown(old, "seed = 1\n[train]\nepochs = 1\n"), None);
        assert_eq!(grown(old, old), None);
        assert_eq!(grown(old, "seed = 1\n"), None);
        assert_eq!(growth("num_trials = 3", "num_trials = 4", "num_trials").map(|growth| growth.to), Some(4));
    }

    #[test]
    fn options_replace_keys_and_need_no_quotes() {
        let config = parse("[train]\nepochs = 1", &["train.epochs=7", "train.root=/data/a b"]).unwrap();
        assert_eq!(config, Config { train: Train { epochs: 7, root: "/data/a b".into() } });
    }

    #[test]
    fn errors_name_the_key_and_what_was_expected() {
        let error = parse("[train]\nepochs = 'x'", &[]).unwrap_err().to_string();
        assert!(error.contains("`train.epochs`") && error.contains("usize"), "{error}");
        let error = parse("[train]\nepochs = 1\nepoch = 2", &[]).unwrap_err().to_string();
        assert!(error.contains("epoch") && error.contains("expected"), "{error}");
        let error = parse("[train]\nepochs = ", &[]).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(parse("[train]\nepochs = 1", &["train"]).unwrap_err().to_string().contains("key=value"));
        assert!(parse("[train]\nepochs = 1", &["train.epochs.x=1"]).unwrap_err().to_string().contains("`epochs`"));
    }

    #[test]
    fn numbers_are_of_their_ranges_in_sections_too() {
        let error = parse("[train]\nepochs = 0", &[]).unwrap_err().to_string();
        assert!(error.contains("x.toml: train.epochs = 0; expected at least 1"), "{error}");
        let table = "[train]\nepochs = 1000000000000".parse().unwrap();
        let error = section::<Train>(table, "train", "x.toml").unwrap_err().to_string();
        assert!(error.contains("x.toml: train.epochs = 1000000000000; expected at least 1 and at most"), "{error}");
    }

    #[test]
    fn what_is_written_reads_back() {
        let config = Config { train: Train { epochs: 3, root: String::new() } };
        assert_eq!(parse(&to_toml(&config), &[]).unwrap(), config);
    }

    #[test]
    fn a_config_becomes_dotted_keys() {
        let table: Table = "seed = 1\nlist = [1, 2]\n[a]\nname = \"<b>\"\n[[m]]\nk = 1\n".parse().unwrap();
        let mut keys = BTreeMap::new();
        flatten(&Value::Table(table), "", &mut keys);
        let keys: Vec<(&str, &str)> = keys.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(keys, [("a.name", "<b>"), ("list", "[1, 2]"), ("m.0.k", "1"), ("seed", "1")]);
    }
}
