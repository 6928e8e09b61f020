//! Trials as a journal of Optuna, which its dashboard and its `JournalStorage` open.
//!
//! One line of JSON per operation (`optuna/storages/journal/_storage.py` numbers them): a study for every trial log, its metrics'
//! names, and each trial as it ended, the choices as categorical parameters.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

use super::pages::{Page, Part, Run, TrialRow};
use crate::search::goals::Goal;

/// Numbers of the operations.
const CREATE_STUDY: u8 = 0;
const SET_STUDY_USER_ATTR: u8 = 2;
const SET_STUDY_SYSTEM_ATTR: u8 = 3;
const CREATE_TRIAL: u8 = 4;
/// Numbers of the directions.
const MINIMIZE: u8 = 1;
const MAXIMIZE: u8 = 2;
/// Numbers of the states.
const COMPLETE: u8 = 1;
const FAIL: u8 = 3;

/// The journal of all trial logs of a page.
pub fn journal(page: &Page) -> Result<String> {
    let mut lines = Vec::new();
    let mut studies = 0;
    for run in &page.runs {
        for part in &run.parts {
            study(run, part, studies, &mut lines);
            studies += 1;
        }
    }
    ensure!(studies > 0, "--optuna: no run has trials; expected a search");
    Ok(lines.iter().map(|line| format!("{line}\n")).collect())
}

fn study(run: &Run, part: &Part, id: usize, lines: &mut Vec<Value>) {
    let name = if part.name == "search" { run.name.clone() } else { format!("{} {}", run.name, part.name) };
    let direction = |goal: Goal| if goal == Goal::Maximize { MAXIMIZE } else { MINIMIZE };
    let directions: Vec<u8> = part.objectives.iter().map(|objective| direction(objective.goal)).collect();
    let metrics: Vec<&str> = part.objectives.iter().map(|objective| objective.metric.as_str()).collect();
    let mut add = |operation: u8, fields: Value| {
        let mut line = Map::from_iter([("op_code".into(), operation.into()), ("worker_id".into(), "nas".into())]);
        line.extend(fields.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
        lines.push(line.into());
    };
    add(CREATE_STUDY, json!({ "study_name": name, "directions": directions }));
    add(SET_STUDY_SYSTEM_ATTR, json!({ "study_id": id, "system_attr": { "study:metric_names": metrics } }));
    for (key, value) in [("run", &run.path), ("strategy", &part.strategy)] {
        add(SET_STUDY_USER_ATTR, json!({ "study_id": id, "user_attr": { key: value } }));
    }
    let began = run.meta["started_unix_secs"].as_u64();
    let mut before = 0.0;
    for trial in &part.trials {
        let time = |secs: f64| began.map(|began| iso(began, secs));
        let ended = trial.secs.unwrap_or(before);
        let started = trial.train_secs.map_or(before, |secs| (ended - secs).max(0.0));
        before = ended;
        add(CREATE_TRIAL, trial_of(part, trial, id, time(started), time(ended)));
    }
}

fn trial_of(part: &Part, trial: &TrialRow, study: usize, started: Option<String>, ended: Option<String>) -> Value {
    let (mut distributions, mut parameters) = (Map::new(), Map::new());
    for (decision, choice) in part.decisions.iter().zip(&trial.arch) {
        let attributes = json!({ "choices": decision.choices });
        let distribution = json!({ "name": "CategoricalDistribution", "attributes": attributes });
        distributions.insert(decision.name.clone(), distribution.to_string().into());
        parameters.insert(decision.name.clone(), (*choice).into());
    }
    let values: Option<Vec<f64>> =
        part.objectives.iter().map(|objective| trial.metrics.get(&objective.metric).copied()).collect();
    let values = values.filter(|_| trial.failed.is_none());
    let mut about = Map::new();
    about.insert("architecture".into(), trial.arch.iter().map(u16::to_string).collect::<Vec<_>>().join("-").into());
    about.insert("notation".into(), trial.notation.clone().into());
    about.extend(trial.metrics.iter().map(|(name, value)| (name.clone(), (*value).into())));
    trial.epochs.iter().for_each(|epochs| _ = about.insert("epochs".into(), (*epochs).into()));
    trial.parent.iter().for_each(|parent| _ = about.insert("parent".into(), (*parent).into()));
    trial.failed.iter().for_each(|reason| _ = about.insert("failed".into(), reason.clone().into()));
    // Above 0 where a bound is broken; a metric that is missing breaks it by as much as can be written.
    let violation = |value: f64| if value.is_finite() { value } else { f64::MAX };
    let violations: Vec<f64> = part
        .constraints
        .iter()
        .map(|constraint| violation(constraint.violation(trial.metrics.get(&constraint.metric))))
        .collect();
    let system = if violations.is_empty() { json!({}) } else { json!({ "constraints": violations }) };
    let several = part.objectives.len() > 1;
    json!({
        "study_id": study,
        "datetime_start": started,
        "datetime_complete": ended,
        "state": if values.is_some() { COMPLETE } else { FAIL },
        "value": values.as_ref().filter(|_| !several).map(|values| values[0]),
        "values": values.filter(|_| several),
        "distributions": distributions,
        "params": parameters,
        "user_attrs": about,
        "system_attrs": system,
        "intermediate_values": trial.curve.iter().map(|(epoch, value)| (epoch.to_string(), json!(value))).collect::<Map<_, _>>(),
    })
}

/// A time as Python's `datetime.fromisoformat` reads it.
fn iso(began: u64, secs: f64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(began) + Duration::from_secs_f64(secs.max(0.0));
    humantime::format_rfc3339_micros(time).to_string().replace('Z', "+00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_that_python_reads() {
        assert_eq!(iso(1_795_846_596, 0.25), "2026-11-28T06:16:36.250000+00:00");
    }
}
