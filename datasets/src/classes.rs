//! Names of classes, by which a network and a data set, or two splits, are matched.

use std::collections::HashSet;

/// The first name that stands in the list for a second time.
pub(crate) fn twin(names: &[String]) -> Option<&String> {
    let mut seen = HashSet::new();
    names.iter().find(|name| !seen.insert(*name))
}

/// Refuses two lists of class names that are not the same in the same order: an index would mean another class. `place` and
/// `other_place` say whose they are, such as `the run` and `val.json`.
///
/// # Errors
/// The first difference and both lists.
pub fn require_same_classes(
    place: &str,
    names: &[String],
    other_place: &str,
    others: &[String],
) -> Result<(), ClassesDiffer> {
    if names == others {
        return Ok(());
    }
    let class = (0..).find(|i| names.get(*i) != others.get(*i)).unwrap_or_default();
    let told = |names: &[String]| names.get(class).map_or("missing".into(), |name| format!("{name:?}"));
    let list = |names: &[String]| names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    Err(ClassesDiffer(format!(
        "the classes differ: class {class} is {} in {place}, {} in {other_place}; {place}: {}; {other_place}: {}",
        told(names),
        told(others),
        list(names),
        list(others),
    )))
}

/// What differs between two lists of classes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClassesDiffer(String);

impl ClassesDiffer {
    pub(crate) fn new(message: String) -> Self {
        Self(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_and_both_lists_are_told() {
        let lists =
            ["sky road car", "road sky car", "sky road"].map(|l| l.split(' ').map(String::from).collect::<Vec<_>>());
        assert!(require_same_classes("the run", &lists[0], "data", &lists[0]).is_ok());
        let error = require_same_classes("the run", &lists[0], "data2", &lists[1]).unwrap_err().to_string();
        assert!(error.contains("class 0 is \"sky\" in the run, \"road\" in data2"), "{error}");
        assert!(error.ends_with("data2: \"road\", \"sky\", \"car\""), "{error}");
        let error = require_same_classes("the run", &lists[0], "data", &lists[2]).unwrap_err().to_string();
        assert!(error.contains("class 2 is \"car\" in the run, missing in data"), "{error}");
    }
}
