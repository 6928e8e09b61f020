//! `bench`: search strategies on a table of trained networks, which may be the log of a finished search.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use crate::run::cli::{Format, print};
use crate::run::interrupt::{self, Interrupted};
use crate::run::plot::{self, Series};
use crate::run::progress::Progress;
use crate::run::{config, ranges};
use crate::search::Searcher;
use crate::search::goals::{Constraint, Goal, Goals, Objective};
use crate::search::pareto::{Point, hypervolume};
use crate::search::rows::Rows;
use crate::search::table::Table;
use crate::space::trial::{Budget, Outcome, Record, Trial, Values};
use crate::space::{Architecture, ChoiceSpace};
use crate::stats::mean_and_deviation;
use crate::strategy::StrategyConfig;
use crate::task::Task;
use crate::task::experiment::load_section;
use crate::task::searched::SearchedSpace;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nas_datasets::rng::stream;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde::Serialize;

/// Run search strategies on a table of trained networks, many seeds each
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-classify bench --table nasbench201.csv.gz --valid cifar10_valid_200 --test cifar10_test_200 \\
      --strategy regularized_evolution --set strategy.population_size=10 --num-trials 500 --seeds 100
  nas-classify bench --table nasbench201.csv.gz --valid cifar100_valid_200 --test cifar100_test_200 --strategy all \\
      --low-fidelity cifar100_test_12 --plot strategies.svg
  nas-classify bench --table nasbench201.csv.gz --table hardware.csv.gz --valid cifar10_valid_200 --test cifar10_test_200 \\
      --bound 'edgetpu_latency_ms<=1' --strategy random,regularized_evolution
  nas-classify bench --table nasbench201.csv.gz --table hardware.csv.gz --valid cifar10_valid_200 --test cifar10_test_200 \\
      --minimize pixel3_latency_ms --strategy random,nsga2
  nas-segment bench --table runs/search/trials.jsonl --valid miou --strategy all --num-trials 20")]
pub struct BenchArgs {
    /// None: what people look for here is another command
    #[arg(hide = true, value_name = "NETWORK", value_parser = no_network)]
    network: Option<String>,
    /// CSV file (.gz or plain) with a column `arch`, or the trials.jsonl of a search; may be repeated, to join the columns of
    /// more files. An empty cell or a negative number means that the network does not run there
    #[arg(long, value_name = "FILE", required = true)]
    table: Vec<PathBuf>,
    /// The space of the table: the kind of one that needs no parameters, such as nasbench201, or an experiment file with a
    /// section `space`. Not needed beside the log of a run
    #[arg(long, value_name = "KIND|FILE")]
    space: Option<String>,
    /// Column, a fraction or in percent, that the strategies search on
    #[arg(long, value_name = "COLUMN")]
    valid: String,
    /// Column that is reported for the best by `--valid`; the same one where it is not given
    #[arg(long, value_name = "COLUMN")]
    test: Option<String>,
    /// A bound that holds for what is found, known after the trial only, such as `edgetpu_latency_ms<=1.5`; may be repeated
    #[arg(long, value_name = "COLUMN<=VALUE")]
    bound: Vec<String>,
    /// A column to make small beside making `--valid` large; what is reported then is the hypervolume of all found, as a part
    /// of the whole table's
    #[arg(long, value_name = "COLUMN")]
    minimize: Option<String>,
    /// Kinds separated by commas, or `all`
    #[arg(long, value_name = "KIND", value_delimiter = ',', required = true)]
    strategy: Vec<String>,
    /// Replace a parameter, such as strategy.population_size=10; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Full evaluations of each search
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    num_trials: u64,
    /// Searches of each strategy
    #[arg(long, default_value_t = 100, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    seeds: u64,
    /// Column after --low-epochs epochs, for strategies that choose the epochs of their trials
    #[arg(long, value_name = "COLUMN")]
    low_fidelity: Option<String>,
    /// Epochs behind --low-fidelity
    #[arg(long, default_value_t = 12, value_name = "EPOCHS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    low_epochs: u32,
    /// Epochs behind --valid and --test
    #[arg(long, default_value_t = 200, value_name = "EPOCHS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    full_epochs: u32,
    /// Draw the mean curves of all strategies, with bands of their standard errors
    #[arg(long, value_name = "FILE.svg", value_parser = plot::svg_path)]
    plot: Option<PathBuf>,
    /// How to print the table
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Says which command takes a network.
fn no_network(network: &str) -> Result<String, String> {
    Err(format!(
        "`bench` runs search strategies on a table; how long a network takes is measured by the command \
         `latency {network}`"
    ))
}

/// Test value of the best by validation after some evaluations, or the hypervolume, over the seeds.
#[derive(Clone, Debug, Serialize)]
struct Row {
    strategy: String,
    num_trials: u64,
    seeds: u64,
    mean: f64,
    std: f64,
    /// By seed.
    values: Vec<f64>,
    /// Largest value that the table allows.
    optimum: f64,
    /// Seconds of all seeds of the strategy, on all cores.
    secs: f64,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Report {
    rows: Vec<Row>,
    #[serde(skip)]
    measure: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Some(first) = self.rows.first() else { return Ok(()) };
        writeln!(f, "{}, mean and deviation over {} seeds", self.measure, first.seeds)?;
        for of_one in self.rows.chunk_by(|a, b| a.strategy == b.strategy) {
            write!(f, "{:<22}", of_one[0].strategy)?;
            of_one.iter().try_for_each(|row| write!(f, "  {:>5}: {:.3} ± {:.3}", row.num_trials, row.mean, row.std))?;
            writeln!(f, "  {:6.1} s", of_one[0].secs)?;
        }
        write!(f, "{:<22}  {:.3}", "optimum of the table", first.optimum)
    }
}

/// What searches are run on.
struct Bench {
    table: Table,
    space: Box<dyn ChoiceSpace>,
    valid: usize,
    /// What makes a fraction of the columns searched on.
    unit: f64,
    test: usize,
    low: Option<usize>,
    minimize: Option<usize>,
    /// Bounds by column.
    bounds: Vec<(usize, Constraint)>,
    goals: Goals,
    /// The worst value of each objective in the table, in the orientation of the goals.
    reference: Vec<f64>,
    /// Hypervolume of the table, where there are two objectives.
    whole: f64,
    /// What the best search could reach.
    optimum: f64,
}

const VALID: &str = "valid";

impl Bench {
    fn open<T: Task>(args: &BenchArgs) -> Result<Self> {
        let searched: SearchedSpace<T> = space_of(args)?;
        let space = searched.choices().context("space")?;
        let parse = |text: &str| {
            let arch = searched.parse(text)?;
            space.validate(&arch)?;
            Ok(arch)
        };
        let table = Table::read(&args.table, &parse)?.without_negatives(&[])?;
        table.archs().iter().try_for_each(|arch| space.validate(arch)).context("--table")?;
        let scored = |name: &String| -> Result<usize> {
            let column = table.column(name)?;
            require_percent(&table, column)?;
            Ok(column)
        };
        let valid = scored(&args.valid)?;
        let test = args.test.as_ref().map_or(Ok(valid), scored)?;
        let low = args.low_fidelity.as_ref().map(scored).transpose()?;
        let largest = table.archs().iter().filter_map(|arch| table.get(arch, valid)).fold(0.0, f64::max);
        let unit = if largest > 1.0 { 0.01 } else { 1.0 };
        let minimize = args.minimize.as_ref().map(|name| table.column(name)).transpose()?;
        let bound = |text: &String| -> Result<(usize, Constraint)> {
            let constraint = parse_bound(text).with_context(|| format!("--bound {text}"))?;
            Ok((table.column(&constraint.metric).with_context(|| format!("--bound {text}"))?, constraint))
        };
        let bounds: Vec<(usize, Constraint)> = args.bound.iter().map(bound).collect::<Result<_>>()?;
        let mut goals = Goals::maximize(VALID);
        goals
            .objectives
            .extend(args.minimize.iter().map(|metric| Objective { metric: metric.clone(), goal: Goal::Minimize }));
        goals.constraints = bounds.iter().map(|(_, constraint)| constraint.clone()).collect();
        let mut bench = Self {
            table,
            space,
            valid,
            unit,
            test,
            low,
            minimize,
            bounds,
            goals,
            reference: Vec::new(),
            whole: 1.0,
            optimum: 1.0,
        };
        let points: Vec<(Architecture, Point)> = bench.feasible().collect();
        ensure!(!points.is_empty(), "--bound: no network of the table keeps all of {}", args.bound.join(", "));
        let worst = |i: usize| points.iter().map(|(_, point)| point.values[i]).fold(f64::INFINITY, f64::min);
        bench.reference = (0..bench.goals.objectives.len()).map(worst).collect();
        if bench.minimize.is_some() {
            let mut front = Vec::new();
            points.into_iter().for_each(|(_, point)| insert(&mut front, point));
            bench.whole = bench.volume(&front);
        } else {
            let tests = points.iter().filter_map(|(arch, _)| bench.table.get(arch, bench.test));
            bench.optimum = tests.fold(0.0, f64::max);
        }
        Ok(bench)
    }

    /// What a trial on `column` in the place of the validation ends in.
    fn metrics(&self, arch: &Architecture, column: usize) -> Values {
        let others = self.minimize.iter().chain(self.bounds.iter().map(|(column, _)| column));
        let other = |column: &usize| Some((self.table.columns()[*column].clone(), self.table.get(arch, *column)?));
        let value = self.table.get(arch, column).map(|value| (VALID.to_string(), value * self.unit));
        others.filter_map(other).chain(value).collect()
    }

    /// Objectives and violation of a trial; `None` where an objective is missing.
    fn point(&self, record: &Record) -> Option<Point> {
        let observation = self.goals.observe(record);
        Some(Point { values: observation.values?, violation: observation.violation })
    }

    /// All networks of the table that keep the bounds.
    fn feasible(&self) -> impl Iterator<Item = (Architecture, Point)> {
        let record = |(id, arch): (u64, Architecture)| {
            let outcome = Outcome::Metrics(self.metrics(&arch, self.valid));
            Record { trial: Trial { id, arch, budget: Budget::default(), parent: None }, outcome }
        };
        let records = (0..).zip(self.table.archs().iter().cloned()).map(record);
        let point = |record: Record| self.point(&record).map(|point| (record.trial.arch, point));
        records.filter_map(point).filter(|(_, point)| point.violation == 0.0)
    }

    /// Hypervolume of points of two objectives.
    fn volume(&self, points: &[Point]) -> f64 {
        hypervolume(&points.iter().collect::<Vec<_>>(), &self.reference)
    }

    fn measure(&self) -> String {
        let kept = match self.bounds.len() {
            0 => String::new(),
            _ => " that keeps the bounds".into(),
        };
        match self.minimize {
            None => format!("test value of the best by validation{kept}"),
            Some(_) => format!("part of the table's hypervolume of what was found{kept}"),
        }
    }
}

/// The space of the tables: what the command line says, the experiment of the first log's run, or the task's own benchmark.
fn space_of<T: Task>(args: &BenchArgs) -> Result<SearchedSpace<T>> {
    let beside = args.table[0].with_file_name("config.toml");
    match &args.space {
        Some(name) if Path::new(name).is_file() => load_section(Path::new(name), &[], "space"),
        Some(name) => of_kind(name).with_context(|| format!("--space {name}: no experiment file, and")),
        None if is_log(&args.table[0]) && beside.is_file() => load_section(&beside, &[], "space"),
        None => {
            let kind = T::BENCHMARK.context("--space is missing; expected KIND or FILE")?;
            of_kind(kind)
        }
    }
}

fn of_kind<T: Task>(kind: &str) -> Result<SearchedSpace<T>> {
    let space = toml::Table::from_iter([("kind".to_string(), toml::Value::from(kind))]);
    Ok(config::from_table(space, "space")?)
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jsonl")
}

/// Fails when a column holds what is no percentage, or nothing for an architecture.
fn require_percent(table: &Table, column: usize) -> Result<()> {
    let name = &table.columns()[column];
    for arch in table.archs() {
        let value = table.get(arch, column).with_context(|| format!("column {name}: {arch} has no value"))?;
        ensure!((0.0..=100.0).contains(&value), "column {name}: {value} is no percentage");
    }
    Ok(())
}

/// Whether a table holds all that can be proposed, as far as a thousand draws tell.
fn is_complete(table: &Table, space: &dyn ChoiceSpace) -> bool {
    let mut rng = stream(0, "complete", 0);
    (0..1000).all(|_| table.values(&space.sample(&mut rng)).is_ok())
}

/// Adds a point to those that no other dominates.
fn insert(front: &mut Vec<Point>, point: Point) {
    if front.iter().any(|other| other == &point || other.dominates(&point)) {
        return;
    }
    front.retain(|other| !point.dominates(other));
    front.push(point);
}

/// `COLUMN<=VALUE` or `COLUMN>=VALUE`.
fn parse_bound(text: &str) -> Result<Constraint> {
    let split = |sign: &str| text.split_once(sign).map(|(metric, bound)| (metric.trim(), bound.trim()));
    let number = |bound: &str| bound.parse::<f64>().with_context(|| format!("{bound:?} is no number"));
    let constraint = match (split("<="), split(">=")) {
        (Some((metric, bound)), None) => Constraint { metric: metric.into(), upper: Some(number(bound)?), lower: None },
        (None, Some((metric, bound))) => Constraint { metric: metric.into(), upper: None, lower: Some(number(bound)?) },
        _ => bail!("expected COLUMN<=VALUE or COLUMN>=VALUE"),
    };
    constraint.check()?;
    Ok(constraint)
}

/// Runs the command.
pub fn run<T: Task>(args: &BenchArgs) -> Result<()> {
    ensure!(
        args.low_epochs < args.full_epochs,
        "--low-epochs {} must be less than --full-epochs {}",
        args.low_epochs,
        args.full_epochs
    );
    let strategies = strategies(args)?;
    let bench = Bench::open::<T>(args)?;
    let rows = Rows::new(&*bench.space, bench.table.archs().to_vec());
    let space: &dyn ChoiceSpace = if is_complete(&bench.table, &*bench.space) { &*bench.space } else { &rows };
    for (name, strategy) in &strategies {
        let columns = bench.table.columns().iter().map(String::as_str).chain([VALID]).collect::<Vec<_>>();
        bench.goals.check(&strategy.info(), &columns, &[]).with_context(|| format!("--strategy {name}"))?;
    }
    tch::set_num_threads(1);
    let mut rows = Vec::new();
    let mut curves = Vec::new();
    let total = strategies.len() * args.seeds as usize;
    let progress = Mutex::new(Progress::new("bench", total, 0, None)?);
    for (name, strategy) in &strategies {
        let started = Instant::now();
        let search = |seed| {
            let curve = search(args, &bench, space, strategy, seed);
            progress.lock().expect("no search panics while it holds the lock").step(|| name.clone());
            curve
        };
        let searches: Vec<Vec<f64>> = (0..args.seeds).into_par_iter().map(search).collect::<Result<_>>()?;
        let secs = started.elapsed().as_secs_f64();
        let at = |n: u64| -> Vec<f64> { searches.iter().map(|curve| curve[n as usize - 1]).collect() };
        let mut checkpoints = vec![args.num_trials.div_ceil(5), (2 * args.num_trials).div_ceil(5), args.num_trials];
        checkpoints.dedup();
        rows.extend(checkpoints.into_iter().map(|num_trials| {
            let values = at(num_trials);
            let (mean, std) = mean_and_deviation(&values);
            let optimum = bench.optimum;
            Row { strategy: name.clone(), num_trials, seeds: args.seeds, mean, std, values, optimum, secs }
        }));
        let drawn = first_drawn(args.num_trials)..=args.num_trials;
        let of = |n: u64| mean_and_deviation(&at(n));
        curves.push(Series {
            name: name.clone(),
            points: drawn.clone().map(|n| (n as f64, of(n).0)).collect(),
            spread: drawn.map(|n| of(n).1 / (args.seeds as f64).sqrt()).collect(),
        });
    }
    if let Some(path) = &args.plot {
        let test = args.test.as_ref().unwrap_or(&args.valid);
        let title =
            format!("{} of the best by {}, mean of {} seeds and its standard error", test, args.valid, args.seeds);
        let title = if bench.minimize.is_some() { bench.measure() } else { title };
        plot::lines(path, &title, "full evaluations", test, &curves)?;
    }
    print(&Report { rows, measure: bench.measure() }, args.format)
}

/// The first evaluations, in which all strategies leap, are left out where there are many.
fn first_drawn(num_trials: u64) -> u64 {
    (num_trials / 10).clamp(1, 10)
}

/// The strategies by name, with the options of the command line.
fn strategies(args: &BenchArgs) -> Result<Vec<(String, StrategyConfig)>> {
    let all = StrategyConfig::all();
    let kinds: Vec<&str> = all.iter().map(|strategy| strategy.info().kind).collect();
    let named = |name: &String| -> Result<(String, StrategyConfig)> {
        let known = all.iter().find(|strategy| strategy.info().kind == name);
        let known =
            known.with_context(|| format!("--strategy {name}: unknown; expected all or {}", kinds.join(", ")))?;
        let mut section = toml::Table::from_iter([("kind".to_string(), name.clone().into())]);
        if known.info().multi_fidelity {
            ensure!(
                args.low_fidelity.is_some(),
                "--strategy {name} chooses the epochs of its trials; it needs --low-fidelity COLUMN"
            );
            // The table knows two numbers of epochs: the rungs are these.
            section.insert("min_epochs".into(), i64::from(args.low_epochs).into());
            section.insert("max_epochs".into(), i64::from(args.full_epochs).into());
            section.insert("eta".into(), (f64::from(args.full_epochs) / f64::from(args.low_epochs)).into());
        }
        let mut table = toml::Table::from_iter([("strategy".to_string(), section.into())]);
        config::apply_all(&mut table, &args.sets)?;
        let Sections { strategy } = config::from_table(table, &format!("--strategy {name}"))?;
        strategy.check()?;
        ranges::check(&strategy)?;
        Ok((name.clone(), strategy))
    };
    let is_all = args.strategy.iter().any(|name| name == "all");
    let served = |strategy: &&StrategyConfig| args.low_fidelity.is_some() || !strategy.info().multi_fidelity;
    let served =
        |strategy: &&StrategyConfig| served(strategy) && (args.minimize.is_none() || strategy.info().multi_objective);
    match is_all {
        true => all.iter().filter(served).map(|strategy| named(&strategy.info().kind.to_string())).collect(),
        false => args.strategy.iter().map(named).collect(),
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Sections {
    strategy: StrategyConfig,
}

/// The best so far of one search.
#[derive(Default)]
struct Best {
    /// Whether it had all epochs, its validation, its test value.
    one: Option<(bool, f64, f64)>,
    /// Those that no other dominates, for two objectives.
    front: Vec<Point>,
}

impl Best {
    fn add(&mut self, bench: &Bench, arch: &Architecture, is_full: bool, point: Point) {
        if point.violation > 0.0 {
            return;
        }
        let found = (is_full, point.values[0], bench.table.get(arch, bench.test).unwrap_or_default());
        // Values of few epochs count until there is a full one.
        if self.one.is_none_or(|best| (found.0, found.1) > (best.0, best.1)) {
            self.one = Some(found);
        }
        if is_full && bench.minimize.is_some() {
            insert(&mut self.front, point);
        }
    }

    /// 0 before anything was found.
    fn value(&self, bench: &Bench) -> f64 {
        match bench.minimize {
            None => self.one.map_or(0.0, |(_, _, test)| test),
            Some(_) => bench.volume(&self.front) / bench.whole,
        }
    }
}

/// One search: after each full evaluation's worth of epochs, the value of the best so far.
fn search(
    args: &BenchArgs,
    bench: &Bench,
    space: &dyn ChoiceSpace,
    strategy: &StrategyConfig,
    seed: u64,
) -> Result<Vec<f64>> {
    let mut searcher = Searcher::new(space, strategy, bench.goals.clone(), Budget::default(), seed);
    let mut best = Best::default();
    let mut curve: Vec<f64> = Vec::new();
    let mut epochs = 0u64;
    let full = u64::from(args.full_epochs);
    while curve.len() < args.num_trials as usize {
        if interrupt::requested() {
            return Err(Interrupted.into());
        }
        let Some(trial) = searcher.ask() else {
            // Nothing is left to evaluate.
            let last = *curve.last().context("the strategy proposed nothing")?;
            curve.resize(args.num_trials as usize, last);
            break;
        };
        let (is_full, column) = match trial.budget.epochs {
            None => (true, bench.valid),
            Some(n) if n == args.full_epochs => (true, bench.valid),
            Some(n) if n == args.low_epochs => (false, bench.low.expect("checked when the strategy was read")),
            Some(n) => bail!("the table knows {} and {} epochs, not {n}", args.low_epochs, args.full_epochs),
        };
        let parent_epochs = if trial.parent.is_some() { args.low_epochs } else { 0 };
        epochs += u64::from(trial.budget.epochs.unwrap_or(args.full_epochs) - parent_epochs);
        let outcome = Outcome::Metrics(bench.metrics(&trial.arch, column));
        let record = Record { trial, outcome };
        if let Some(point) = bench.point(&record) {
            best.add(bench, &record.trial.arch, is_full, point);
        }
        while curve.len() < ((epochs / full) as usize).min(args.num_trials as usize) {
            curve.push(best.value(bench));
        }
        searcher.tell(&record);
    }
    Ok(curve)
}
