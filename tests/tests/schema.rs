//! The schema of the experiment files of each tool, as a validator of other people sees it, and what is written from it. The validator
//! is PyPI's jsonschema in the Python of the variable `NAS_PYTHON` (`cargo xtask test` makes one).

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nas_classify::task::Classification;
use nas_core::task::Task;
use nas_core::task::experiment::{self, CompareExperiment, Kind, OneShotExperiment, SearchExperiment, TrainExperiment};
use nas_core::task::schema::schema;
use nas_detect::task::Detection;
use nas_segment::task::Segmentation;
use nas_tests::{reference, root};
use serde_json::json;
use toml::{Table, Value};

/// Which of the documents fit the schema of a task; `None` without a validator.
fn fit<T: Task>(documents: &[Table]) -> Option<Vec<bool>> {
    let python = std::env::var_os("NAS_PYTHON").filter(|python| {
        let import = Command::new(python).args(["-c", "import jsonschema"]).output();
        import.is_ok_and(|output| output.status.success())
    });
    let Some(python) = python else {
        eprintln!("skipped: NAS_PYTHON names no Python with jsonschema (`cargo xtask test` makes one)");
        return None;
    };
    let mut validator = Command::new(python)
        .arg(root().join("tests/schema/validate.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let asked = json!({ "schema": schema::<T>(), "documents": documents });
    validator.stdin.take().unwrap().write_all(asked.to_string().as_bytes()).unwrap();
    let output = validator.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", T::PROGRAM);
    let fits: Vec<bool> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(fits.len(), documents.len());
    Some(fits)
}

/// What the tools say of a file.
fn load<T: Task>(path: &Path) -> Result<(), String> {
    let result = match experiment::kind_at(path, &[]) {
        Ok(Some(Kind::Train)) => experiment::load::<TrainExperiment<T>>(path, &[]).map(drop),
        Ok(Some(Kind::Compare)) => experiment::load::<CompareExperiment<T>>(path, &[]).map(drop),
        Ok(Some(Kind::Search)) => experiment::load::<SearchExperiment<T>>(path, &[]).map(drop),
        Ok(Some(Kind::OneShot)) => experiment::load::<OneShotExperiment<T>>(path, &[]).map(drop),
        Ok(None) => Err(anyhow::anyhow!("no kind")),
        Err(error) => Err(error),
    };
    result.map_err(|error| format!("{error:#}"))
}

/// The sections of a config and the keys of each, as dotted paths; lists of sections by number.
fn keys(value: &Value, above: &[String], found: &mut Vec<Vec<String>>) {
    let entries: Vec<(String, &Value)> = match value {
        Value::Table(table) => table.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(list) if list.iter().all(Value::is_table) => {
            list.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    for (key, value) in entries {
        let path = [above, &[key]].concat();
        keys(value, &path, found);
        found.push(path);
    }
}

/// The value at `path`, and the section that it stands in.
fn parent<'a>(root: &'a mut Value, path: &[String]) -> &'a mut Value {
    path[..path.len() - 1].iter().fold(root, |value, key| match value {
        Value::Array(list) => &mut list[key.parse::<usize>().unwrap()],
        table => &mut table[key.as_str()],
    })
}

/// A config with one mistake or one number that may be one, and what was done to it.
struct Changed {
    document: Table,
    what: String,
    /// Whether it is wrong for certain.
    wrong: bool,
    /// What else is the same change: of a key in a section of the same kind.
    like: String,
}

fn changes(config: &Table) -> Vec<Changed> {
    let config = Value::Table(config.clone());
    let mut paths = Vec::new();
    keys(&config, &[], &mut paths);
    let unknown = Value::Table("no_such_key = 1".parse().unwrap());
    let mut changed = Vec::new();
    for path in paths.iter().filter(|path| !path.contains(&"recipe".to_string())) {
        let (mut whole, last) = (config.clone(), path.last().unwrap());
        let Value::Table(section) = parent(&mut whole, path) else { continue };
        let value = section[last].clone();
        let kinds = format!("{} {:?}", config["kind"], section.get("kind"));
        let mut change = |what: String, wrong: bool, edit: &dyn Fn(&mut Table)| {
            let mut whole = whole.clone();
            edit(parent(&mut whole, path).as_table_mut().unwrap());
            let Value::Table(document) = whole else { unreachable!("a config is a table") };
            let what = format!("{}: {what}", path.join("."));
            let like = format!("{kinds} {what}");
            changed.push(Changed { document, what, wrong, like });
        };
        change("an unknown key".into(), true, &|section| _ = section.insert(format!("{last}_x"), value.clone()));
        change("without".into(), false, &|section| _ = section.remove(last));
        let others: &[&str] = match value {
            Value::Integer(_) | Value::Float(_) => &["-1", "0", "0.5", "1", "1e12"],
            _ => &["7.5"],
        };
        for other in others {
            let other: Table = format!("value = {other}").parse().unwrap();
            change(format!("{}", other["value"]), false, &|section| {
                _ = section.insert(last.clone(), other["value"].clone())
            });
        }
        change("a section".into(), true, &|section| _ = section.insert(last.clone(), unknown.clone()));
    }
    changed
}

fn configs(folder: &str) -> Vec<(PathBuf, Table)> {
    let files = fs::read_dir(root().join("configs").join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.map(|path| (path.clone(), fs::read_to_string(path).unwrap().parse().unwrap())).collect();
    files.sort_by(|a: &(PathBuf, Table), b| a.0.cmp(&b.0));
    files
}

/// All configs of the repository fit; what the schema refuses the tool refuses too, and certain mistakes are refused by both.
fn agree<T: Task>(folder: &str) {
    let configs = configs(folder);
    let whole: Vec<Table> = configs.iter().map(|(_, table)| table.clone()).collect();
    let Some(fits) = fit::<T>(&whole) else { return };
    for ((path, _), fits) in configs.iter().zip(fits) {
        assert!(fits, "{} does not fit the schema", path.display());
    }
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("changed.toml");
    let mut seen = HashSet::new();
    let changed: Vec<Changed> = configs
        .iter()
        // Some need the result of a search.
        .filter(|(path, _)| load::<T>(path).is_ok())
        .flat_map(|(_, table)| changes(table))
        .filter(|changed| seen.insert(changed.like.clone()))
        .collect();
    let documents: Vec<Table> = changed.iter().map(|changed| changed.document.clone()).collect();
    let fits = fit::<T>(&documents).unwrap();
    let mut refused = 0;
    for (Changed { document, what, wrong, .. }, fits) in changed.iter().zip(fits) {
        let text = toml::to_string(document).unwrap();
        fs::write(&file, &text).unwrap();
        let loaded = load::<T>(&file);
        assert!(fits || loaded.is_err(), "{what}: only the schema refuses\n{text}");
        assert!(
            !wrong || (!fits && loaded.is_err()),
            "{what}: the schema takes it: {fits}, the tool: {loaded:?}\n{text}"
        );
        refused += usize::from(!fits);
    }
    assert!(refused > 500, "{refused} of {} are refused", changed.len());
}

#[test]
fn schemas_and_tools_agree_on_classification() {
    agree::<Classification>("classify");
}

#[test]
fn schemas_and_tools_agree_on_segmentation() {
    agree::<Segmentation>("segment");
}

#[test]
fn schemas_and_tools_agree_on_detection() {
    agree::<Detection>("detect");
}

#[test]
fn mistakes_do_not_fit_and_what_a_command_adds_is_not_asked_for() {
    let sound = "seed = 1\nmodel = { preset = 'resnet20' }\ndata = { kind = 'cifar10', root = 'x' }\n";
    let texts = [
        sound.into(),
        format!("kind = 'train'\n{sound}"),
        format!("kind = 'train'\n{sound}loss = {{ label_smoothing = 0.1 }}\n"),
        // From here on wrong.
        format!("kind = 'training'\n{sound}"),
        format!("kind = 'compare'\n{sound}"),
        format!("kind = 'train'\n{sound}epochs = 3\n"),
        format!("kind = 'train'\n{sound}train = {{ epochs = 'many' }}\n"),
        format!("kind = 'train'\n{sound}train = {{ epochs = 0 }}\n"),
        format!("kind = 'train'\n{sound}train = {{ optimizer = {{ kind = 'lion' }} }}\n"),
        format!("kind = 'train'\n{sound}loss = {{ label_smoothing = 1.0 }}\n"),
        sound.replace("preset", "presets"),
        sound.replace("'cifar10'", "'cifar11'"),
    ];
    let documents: Vec<Table> = texts.iter().map(|text| text.parse().unwrap()).collect();
    let Some(fits) = fit::<Classification>(&documents) else { return };
    for (i, (text, fits)) in texts.iter().zip(fits).enumerate() {
        assert_eq!(fits, i < 3, "{text}");
    }
}

/// A key that is left out is one that fits.
#[test]
fn defaults_are_in_their_ranges() {
    fn check(schema: &serde_json::Value, path: &str) {
        let within = |key: &str, fits: fn(f64, f64) -> bool| {
            let bound = schema.get(key).and_then(serde_json::Value::as_f64);
            bound.zip(schema.get("default")?.as_f64()).map(|(bound, default)| fits(default, bound))
        };
        let fits = [
            within("minimum", |default, least| default >= least),
            within("exclusiveMinimum", |default, least| default > least),
            within("maximum", |default, most| default <= most),
        ];
        assert!(!fits.contains(&Some(false)), "{path}: {schema}");
        match schema {
            serde_json::Value::Object(parts) => {
                parts.iter().for_each(|(key, part)| check(part, &format!("{path}.{key}")))
            }
            serde_json::Value::Array(parts) => parts.iter().for_each(|part| check(part, path)),
            _ => {}
        }
    }
    check(&schema::<Segmentation>(), "nas-segment");
    check(&schema::<Classification>(), "nas-classify");
    check(&schema::<Detection>(), "nas-detect");
}

#[test]
fn the_reference_is_what_the_schemas_say() {
    let path = root().join("docs/config.md");
    let text = reference::of_all_tools();
    if std::env::var_os("NAS_WRITE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(text.lines()).position(|(old, new)| old != new);
    assert!(
        written == text,
        "docs/config.md is not of these schemas from line {} on; this writes it anew:\n  \
         NAS_WRITE=1 cargo test --release -p nas-tests --test schema the_reference",
        1 + differs.unwrap_or(written.lines().count().min(text.lines().count()))
    );
}

/// Numbers of things and of pixels are whole; a factor of the same name was once held in their range.
#[test]
fn no_factor_is_held_in_the_range_of_a_count() {
    let text = reference::of_all_tools();
    let held: Vec<&str> = text.lines().filter(|line| line.contains("| float, 1 to ")).collect();
    assert!(held.is_empty(), "{held:#?}");
}
