//! `[start]`: what a search knows before its first trial. Architectures that the user names and the best of an earlier log are
//! its first trials; the strategy learns from the earlier log, where that has the metrics that count here.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::run::config::{self, to_toml};
use crate::run::run_dir::{first_difference, read_json, write_atomic};
use crate::search::goals::{Constraint, Goals, Objective, Restricted};
use crate::search::log;
use crate::search::pareto::{Point, best_first};
use crate::space::trial::Record;
use crate::space::{Architecture, ChoiceSpace, Observation, Origin};

/// Where a search begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StartConfig {
    /// Architectures that are tried first: choices such as `3-0-1`, or what the space names.
    pub archs: Vec<String>,
    /// Trial log of an earlier search on the same choices, of this or another data set or task; or its run folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<PathBuf>,
    /// Best trials of `log` that are tried after `archs`, again or for the first time on these data.
    pub best: usize,
    /// What makes them the best; the objectives of this search where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
    /// The strategy learns from the trials of `log` that have the objectives and bounded metrics of this search. Right where
    /// they mean the same there, which their names cannot tell.
    pub learn: bool,
}

impl Default for StartConfig {
    fn default() -> Self {
        Self { archs: Vec::new(), log: None, best: 0, objective: None, learn: true }
    }
}

/// What a search knows before its first trial.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Architectures of the first trials, each once.
    pub given: Vec<Architecture>,
    /// Trials that the strategy learns from.
    pub earlier: Vec<Observation>,
}

impl Start {
    /// Says what a strategy must not hear of: the file may be damaged.
    fn check(&self, space: &Restricted, goals: &Goals) -> Result<()> {
        let archs = self.given.iter().chain(self.earlier.iter().map(|observation| &observation.arch));
        archs.into_iter().try_for_each(|arch| space.unrestricted().validate(arch))?;
        for Observation { id, values, violation, .. } in &self.earlier {
            let (found, expected) = (values.as_ref().map_or(0, Vec::len), goals.objectives.len());
            ensure!(found == expected, "trial {id} has {found} values; expected one of each of {expected} objectives");
            ensure!(*violation >= 0.0, "trial {id} has the violation {violation}; expected 0 or more");
        }
        Ok(())
    }
}

impl StartConfig {
    /// Says what cannot be served in a search of `num_trials`.
    pub fn check(&self, num_trials: u64) -> Result<()> {
        let Self { archs, log, best, objective, .. } = self;
        ensure!(log.is_some() || *best == 0, "start.best = {best}: there is no start.log to take them from");
        ensure!(objective.is_none() || *best > 0, "start.objective: start.best = 0, so that nothing is ranked by it");
        let given = archs.len().saturating_add(*best) as u64;
        ensure!(given <= num_trials, "start: {given} architectures to begin with, and num_trials = {num_trials}");
        Ok(())
    }

    /// What the run of `log` has for `space`, if that is another than this search's: its choices may mean something else here.
    /// Nothing where there is no run, or of another task.
    pub fn other_space<S: Serialize + DeserializeOwned + PartialEq>(&self, space: &S) -> Option<String> {
        let log = self.log.as_ref()?;
        let config = if log.is_dir() { log.join("config.toml") } else { log.with_file_name("config.toml") };
        let theirs: S = config::section(config::read_table(&config, &[]).ok()?, "space", "").ok()?;
        let difference = || first_difference(&to_toml(&theirs), &to_toml(space));
        (theirs != *space).then(|| {
            format!(
                "start.log: {}: another [space], where a choice may be something else: {}",
                config.display(),
                difference()
            )
        })
    }

    /// What `file` of the run folder holds; at the search's first start what this config says, kept there from then on: a
    /// search that goes on after its end finds the start that it had, whatever became of the earlier log.
    pub fn open_once(
        &self,
        file: &Path,
        space: &Restricted,
        goals: &Goals,
        parse: impl Fn(&str) -> Result<Architecture>,
    ) -> Result<Start> {
        if file.exists() {
            let start: Start = read_json(file).context("no start of a search")?;
            start.check(space, goals).with_context(|| file.display().to_string())?;
            return Ok(start);
        }
        let start = self.open(space, goals, parse)?;
        write_atomic(file, &serde_json::to_vec(&start)?)?;
        Ok(start)
    }

    /// Reads the log and the architectures; `parse` knows the names of the space. An architecture that is not of the space is
    /// an error that names the key, or the log and the line. Trials of the log that break a bound of `space` are left out.
    pub fn open(
        &self,
        space: &Restricted,
        goals: &Goals,
        parse: impl Fn(&str) -> Result<Architecture>,
    ) -> Result<Start> {
        let named = |text: &String| {
            let arch = text.parse().or_else(|_| parse(text)).with_context(|| format!("start.archs: {text:?}"))?;
            space.validate(&arch).with_context(|| format!("start.archs: {text:?}"))?;
            Ok(arch)
        };
        let mut start = Start { given: self.archs.iter().map(named).collect::<Result<_>>()?, earlier: Vec::new() };
        if let Some(path) = &self.log {
            let path = if path.is_dir() { path.join("trials.jsonl") } else { path.clone() };
            let mut records = log::read_of(&path, space.unrestricted()).context("start.log")?;
            records.retain(|record| space.validate(&record.trial.arch).is_ok());
            start.given.extend(self.best_of(&records, goals, &path)?);
            if self.learn {
                start.earlier = records.iter().filter_map(|record| earlier(record, goals, space)).collect();
            }
        }
        let mut seen = HashSet::new();
        start.given.retain(|arch| seen.insert(arch.clone()));
        Ok(start)
    }

    /// Architectures of the best records, each once.
    fn best_of(&self, records: &[Record], goals: &Goals, path: &Path) -> Result<Vec<Architecture>> {
        if self.best == 0 {
            return Ok(Vec::new());
        }
        let objectives = self.objective.as_ref().map_or(goals.objectives.clone(), |one| vec![one.clone()]);
        let names = || objectives.iter().map(|o| o.metric.as_str()).collect::<Vec<_>>().join(" and ");
        let known: Vec<(&Record, Point)> = records
            .iter()
            .filter_map(|record| {
                // Bounds on what was not measured there say nothing.
                let constraints = measured(&goals.constraints, record).cloned().collect();
                let goals = Goals { objectives: objectives.clone(), constraints };
                let Observation { values, violation, .. } = goals.observe(record);
                Some((record, Point { values: values?, violation }))
            })
            .collect();
        ensure!(!known.is_empty(), "start.best: no trial of {} has {}", path.display(), names());
        let mut seen = HashSet::new();
        let best = best_first(&known.iter().map(|(_, point)| point).collect::<Vec<_>>()).into_iter();
        let archs = best.map(|i| &known[i].0.trial.arch).filter(|arch| seen.insert(*arch));
        Ok(archs.take(self.best).cloned().collect())
    }
}

fn measured<'a>(constraints: &'a [Constraint], record: &'a Record) -> impl Iterator<Item = &'a Constraint> {
    constraints.iter().filter(|constraint| record.metric(&constraint.metric).is_some())
}

/// A record of another search as a strategy of this one may learn it: all objectives and all bounded metrics are known, or the
/// architecture alone decides them.
fn earlier(record: &Record, goals: &Goals, space: &Restricted) -> Option<Observation> {
    let costs = space.costs(&record.trial.arch);
    let open: Vec<Constraint> =
        goals.constraints.iter().filter(|constraint| !costs.contains_key(&constraint.metric)).cloned().collect();
    if measured(&open, record).count() < open.len() {
        return None;
    }
    let observation = Goals { objectives: goals.objectives.clone(), constraints: open }.observe(record);
    observation.values.is_some().then_some(Observation { origin: Origin::Earlier, ..observation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::goals::CostOf;
    use crate::space::trial::Values;

    #[derive(Debug)]
    struct Digits;

    impl ChoiceSpace for Digits {
        fn name(&self) -> &str {
            "digits"
        }

        fn decisions(&self) -> Vec<u16> {
            vec![10, 10]
        }
    }

    fn params(arch: &Architecture) -> Values {
        [("params".to_string(), f64::from(arch.choices()[0]))].into()
    }

    fn bound(metric: &str, upper: f64) -> Constraint {
        Constraint { metric: metric.into(), upper: Some(upper), lower: None }
    }

    const LOG: &str = r#"{"id":0,"arch":"1-1","outcome":{"metrics":{"top1":0.7,"latency":1.0}}}
{"id":1,"arch":"2-2","outcome":{"metrics":{"top1":0.9,"latency":9.0}}}
{"id":2,"arch":"3-3","outcome":{"failed":"out of memory"}}
{"id":3,"arch":"4-4","outcome":{"metrics":{"top1":0.8}}}
{"id":4,"arch":"9-9","outcome":{"metrics":{"top1":0.95,"latency":1.0}}}
{"id":5,"arch":"1-1","outcome":{"metrics":{"top1":0.75,"latency":1.0}}}
"#;

    fn opened(config: &StartConfig, goals: &Goals) -> Result<Start> {
        let cost: &CostOf = &params;
        let space = Restricted::new(&Digits, &goals.constraints, cost)?;
        let parse = |name: &str| match name {
            "seven" => Ok(Architecture::new(vec![7, 7])),
            _ => anyhow::bail!("no such point; expected seven"),
        };
        config.open(&space, goals, parse)
    }

    fn archs(archs: &[Architecture]) -> Vec<String> {
        archs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn named_given_and_best_architectures_come_first_and_the_rest_is_learned() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("trials.jsonl"), LOG).unwrap();
        let log = Some(temp.path().to_path_buf());
        let config = StartConfig { archs: vec!["seven".into(), "2-2".into()], log, best: 3, ..Default::default() };
        let start = opened(&config, &Goals::maximize("top1")).unwrap();
        // 2-2 is among the best too.
        assert_eq!(archs(&start.given), ["7-7", "2-2", "9-9", "4-4"]);
        let learned = |start: &Start| start.earlier.iter().map(|o| o.id).collect::<Vec<_>>();
        assert_eq!(learned(&start), [0, 1, 3, 4, 5]);
        assert!(start.earlier.iter().all(|observation| observation.origin == Origin::Earlier));

        // What the architecture decides is bounded by the space, what was measured by the record.
        let constraints = vec![bound("params", 8.0), bound("latency", 2.0)];
        let goals = Goals { constraints, ..Goals::maximize("top1") };
        let start = opened(&config, &goals).unwrap();
        assert_eq!(archs(&start.given), ["7-7", "2-2", "4-4", "1-1"]);
        assert_eq!(learned(&start), [0, 1, 5]);
        assert_eq!(start.earlier.iter().map(|o| o.violation).collect::<Vec<_>>(), [0.0, 3.5, 0.0]);

        // Another metric there: it ranks, and nothing is learned of the one that counts here.
        let objective = Some(Objective { metric: "latency".into(), goal: Default::default() });
        let start = opened(&StartConfig { best: 1, objective, ..config.clone() }, &Goals::maximize("miou")).unwrap();
        assert_eq!((archs(&start.given), start.earlier.len()), (vec!["7-7".into(), "2-2".into()], 0));
        let error = opened(&config, &Goals::maximize("miou")).unwrap_err().to_string();
        assert!(error.contains("start.best: no trial of") && error.contains("has miou"), "{error}");
        let learn = opened(&StartConfig { learn: false, ..config }, &Goals::maximize("top1")).unwrap();
        assert!(learn.earlier.is_empty() && learn.given.len() == 4);
    }

    #[test]
    fn what_cannot_begin_a_search_is_named() {
        let error = |archs: &[&str], constraints: Vec<Constraint>| {
            let config = StartConfig { archs: archs.iter().map(ToString::to_string).collect(), ..Default::default() };
            format!("{:#}", opened(&config, &Goals { constraints, ..Goals::maximize("top1") }).unwrap_err())
        };
        assert!(error(&["eight"], vec![]).contains("start.archs: \"eight\": no such point; expected seven"));
        assert!(error(&["1-2-3"], vec![]).contains("start.archs: \"1-2-3\""));
        assert!(error(&["seven"], vec![bound("params", 5.0)]).contains("params is 7, expected at most 5"));
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("old.jsonl");
        std::fs::write(&log, LOG.replace("4-4", "4-4-4")).unwrap();
        let config = StartConfig { log: Some(log), ..Default::default() };
        let error = format!("{:#}", opened(&config, &Goals::maximize("top1")).unwrap_err());
        assert!(error.contains("start.log: ") && error.contains("old.jsonl: line 4: "), "{error}");
        let check = |config: &StartConfig| config.check(5).unwrap_err().to_string();
        assert!(check(&StartConfig { best: 2, ..Default::default() }).contains("no start.log"));
        assert!(check(&StartConfig { best: 6, ..config.clone() }).contains("6 architectures to begin with"));
        assert!(toml::from_str::<StartConfig>("best = 1\nlogs = 'x'").is_err());
    }

    #[test]
    fn a_start_is_kept_whatever_becomes_of_the_earlier_log() {
        let temp = tempfile::tempdir().unwrap();
        let (log, kept) = (temp.path().join("trials.jsonl"), temp.path().join("start.json"));
        std::fs::write(&log, LOG).unwrap();
        let cost: &CostOf = &params;
        let goals = Goals { constraints: vec![bound("latency", 2.0)], ..Goals::maximize("top1") };
        let space = Restricted::new(&Digits, &goals.constraints, cost).unwrap();
        let config = StartConfig { log: Some(log.clone()), best: 2, ..Default::default() };
        let open = || config.open_once(&kept, &space, &goals, |_| anyhow::bail!("none"));
        let first = open().unwrap();
        std::fs::remove_file(&log).unwrap();
        assert_eq!(open().unwrap(), first);
        let earlier = |values: &str| {
            format!(r#"{{"given":[],"earlier":[{{"id":0,"arch":"1-1","values":{values},"violation":0.0}}]}}"#)
        };
        for (damaged, expected) in [
            (r#"{"given":["1-2-3"],"earlier":[]}"#.to_string(), "1-2-3 is not of the space"),
            (earlier("[]"), "trial 0 has 0 values; expected one of each of 1 objectives"),
            (earlier("null"), "trial 0 has 0 values"),
            (earlier("[0.5, 1.0]"), "trial 0 has 2 values"),
            ("[]".to_string(), "no start of a search"),
        ] {
            std::fs::write(&kept, damaged).unwrap();
            let error = format!("{:#}", open().unwrap_err());
            assert!(error.contains("start.json") && error.contains(expected), "{error}");
        }
    }
}
