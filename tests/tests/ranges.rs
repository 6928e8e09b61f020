//! Every number of every experiment file at the edges of its type: a config is taken or refused by name, never a panic.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use nas_classify::task::Classification;
use nas_core::task::Task;
use nas_core::task::experiment::{self, CompareExperiment, Kind, OneShotExperiment, SearchExperiment, TrainExperiment};
use nas_detect::task::Detection;
use nas_segment::task::Segmentation;

fn toml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(toml_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Dotted keys of all numbers outside of lists of sections.
fn numbers(table: &toml::Table, above: &str) -> Vec<String> {
    let of = |(key, value): (&String, &toml::Value)| match value {
        toml::Value::Table(section) => numbers(section, &format!("{above}{key}.")),
        toml::Value::Integer(_) | toml::Value::Float(_) => vec![format!("{above}{key}")],
        _ => Vec::new(),
    };
    table.iter().flat_map(of).collect()
}

fn load<T: Task>(kind: Kind, path: &Path, sets: &[String]) -> Result<(), String> {
    let result = match kind {
        Kind::Train => experiment::load::<TrainExperiment<T>>(path, sets).map(drop),
        Kind::Compare => experiment::load::<CompareExperiment<T>>(path, sets).map(drop),
        Kind::Search => experiment::load::<SearchExperiment<T>>(path, sets).map(drop),
        Kind::OneShot => experiment::load::<OneShotExperiment<T>>(path, sets).map(drop),
    };
    result.map_err(|error| format!("{error:#}"))
}

const EDGES: [&str; 12] = [
    "-9223372036854775808",
    "-1",
    "0",
    "1",
    "9223372036854775807",
    "0.0",
    "-0.5",
    "0.5",
    "1e308",
    "-1e308",
    "nan",
    "inf",
];

fn try_edges<T: Task>(folder: &str) -> usize {
    let mut tried = 0;
    for path in toml_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(folder)) {
        let text = fs::read_to_string(&path).unwrap();
        let Ok(Some(kind)) = experiment::kind_at(&path, &[]) else { continue };
        let as_it_is = load::<T>(kind, &path, &[]);
        // Some need the result of a search.
        if as_it_is.as_ref().is_err_and(|error| error.contains("has the search ended?")) {
            continue;
        }
        assert_eq!(as_it_is, Ok(()), "{}", path.display());
        for key in numbers(&text.parse().unwrap(), "") {
            for edge in EDGES {
                let sets = [format!("{key}={edge}")];
                let outcome = catch_unwind(|| load::<T>(kind, &path, &sets));
                let outcome = outcome.unwrap_or_else(|_| panic!("{} with {} panics", path.display(), sets[0]));
                let refused = ["nan", "inf", "1e308", "-1e308", "-9223372036854775808"].contains(&edge);
                assert!(!refused || outcome.is_err(), "{} takes {}", path.display(), sets[0]);
                tried += 1;
            }
        }
    }
    tried
}

#[test]
fn numbers_at_the_edges_of_their_types_are_taken_or_refused() {
    let tried = [
        try_edges::<Classification>("classify"),
        try_edges::<Segmentation>("segment"),
        try_edges::<Detection>("detect"),
    ];
    assert!(tried.iter().all(|tried| *tried > 500), "{tried:?}");
}
