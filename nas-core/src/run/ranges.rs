//! The range of every number of an experiment file, by its key: a key means the same in every section that has it. Sections
//! whose numbers depend on one another say so themselves; this is what no value may leave.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, bail};
use serde::Serialize;
use toml::{Table, Value};

/// Values of a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Smallest.
    pub from: f64,
    /// Whether the smallest is one of them.
    pub open: bool,
    /// Largest, which is one of them.
    pub to: f64,
}

impl Range {
    const fn new(from: f64, to: f64) -> Self {
        Self { from, open: false, to }
    }

    const fn above(from: f64, to: f64) -> Self {
        Self { from, open: true, to }
    }

    /// The range that holds both.
    fn or(self, other: Self) -> Self {
        let open = [self, other].into_iter().all(|range| range.open || range.from > self.from.min(other.from));
        Self { from: self.from.min(other.from), open, to: self.to.max(other.to) }
    }

    /// Whether `value` is one of the range; NaN is of none.
    pub fn contains(self, value: f64) -> bool {
        value <= self.to && (value > self.from || (!self.open && value == self.from))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let least = if self.open { "more than" } else { "at least" };
        write!(f, "{least} {} and at most {}", self.from, self.to)
    }
}

/// What a number without an entry of its own may be: finite, and a count that no machine can hold is none.
const ANY: Range = Range::new(-1e15, 1e15);

const FRACTION: Range = Range::new(0.0, 1.0);
/// A decay or a probability of dropping; 1 would leave nothing.
const BELOW_ONE: Range = Range::new(0.0, 1.0 - 1e-9);
/// Up to what single precision holds; a run whose loss then explodes says so.
const RATE: Range = Range::new(0.0, 1e38);
const COUNT: Range = Range::new(1.0, 1e9);
const COUNT_OR_NONE: Range = Range::new(0.0, 1e9);
/// Images that are drawn; each has a name in memory.
const IMAGES: Range = Range::new(1.0, 1e6);
const CHANNELS: Range = Range::new(1.0, 65536.0);
const PIXELS: Range = Range::new(1.0, 65536.0);
const MANY: Range = Range::new(0.0, 1e6);
const POSITIVE: Range = Range::above(0.0, 1e9);
const NOT_NEGATIVE: Range = Range::new(0.0, 1e9);

/// Ranges by key, or by the section's and its own where the key alone says too little; the first that fits counts.
const RANGES: &[(&[&str], Range)] = &[
    (&["seed", "seeds"], Range::new(0.0, 1e15)),
    (&["space.widths", "backbone.width"], Range::above(0.0, 16.0)),
    (&["shallower", "deeper"], Range::new(0.0, 64.0)),
    (&["budget.channels", "budget.cells", "budget.data", "budget.image"], Range::above(0.0, 1.0)),
    (&["bn.momentum"], FRACTION),
    (&["augment.scale", "crop.scale", "ratio", "scales", "ratios"], Range::above(0.0, 64.0)),
    (&["lr", "arch_lr"], RATE),
    (&["min_lr"], Range::new(0.0, 1e3)),
    (&["momentum", "beta1", "beta2", "ema", "baseline_decay", "dropout", "skip_dropout", "label_smoothing"], BELOW_ONE),
    (&["drop_path_keep"], Range::above(0.0, 1.0)),
    (&["eps"], Range::above(0.0, 1.0)),
    (&["weight_decay"], Range::new(0.0, 100.0)),
    (&["power"], Range::new(0.0, 100.0)),
    (&["decay.end"], Range::above(0.0, 1.0)),
    (&["flip", "color_jitter", "mutation_probability", "crossover_probability", "random_part", "jaccard"], FRACTION),
    (&["teacher.weight"], FRACTION),
    (&["teacher.temperature"], Range::above(0.0, 1e3)),
    (&["held_out", "end_of_sequences", "good_part", "fraction"], Range::above(0.0, 1.0)),
    (&["temperature", "class_weights"], NOT_NEGATIVE),
    (&["aux_weight", "entropy", "mixup"], Range::new(0.0, 1e3)),
    (&["grad_clip"], Range::new(0.0, 1e12)),
    (&["epochs", "batch_size", "accumulate", "num_trials", "verify", "top"], COUNT),
    (&["layers", "repeats", "workers"], Range::new(1.0, 1e4)),
    (&["blocks", "cells", "stacks", "convs", "hidden_layers", "octaves", "max_depth"], Range::new(0.0, 1e4)),
    (&["levels.min", "levels.max"], Range::new(0.0, 16.0)),
    // Numbers of things that are held in memory at once.
    (&["candidates", "pool", "batch", "walkers", "trees", "networks", "ensemble", "hidden"], MANY),
    (&["samples"], Range::new(1.0, MANY.to)),
    (&["max_paths", "max_points", "rounds", "burn_in", "finalists", "parents", "mutations", "crossovers"], MANY),
    (&["population_size", "sample_size", "startup", "best"], MANY),
    (&["climbs"], Range::new(0.0, 100.0)),
    (&["num_images"], IMAGES),
    (&["num_val"], Range::new(0.0, IMAGES.to)),
    // Strategies say what they need, here and above.
    (&["min_epochs", "max_epochs"], COUNT_OR_NONE),
    (&["eta"], Range::above(1.0, 1e6)),
    (&["every", "eval_every", "warmup_steps", "pictures", "recalibration_batches", "arch_start_epoch"], COUNT_OR_NONE),
    (&["prefetch"], Range::new(0.0, 4096.0)),
    (&["cache_mb", "memory_mib"], Range::new(0.0, 1e9)),
    (&["time_secs"], POSITIVE),
    (&["channels", "filters", "low_level_channels", "decoder_channels", "last_channels", "intermediate"], CHANNELS),
    (&["crop", "resize", "size", "long", "short", "cost_size", "height", "width", "side", "image"], PIXELS),
    (&["padding", "cutout"], Range::new(0.0, 65536.0)),
    // 0 is that of a preset.
    (&["space.stem_stride"], Range::new(0.0, 64.0)),
    (&["output_stride", "stride", "stem_stride", "plain_stride"], Range::new(1.0, 64.0)),
    (&["kernels", "rates", "expansions"], Range::new(1.0, 1024.0)),
    (&["std"], Range::above(0.0, 1e3)),
];

/// The range of the number at `keys`, the names of the sections above it and its own.
pub fn range_of(keys: &[&str]) -> Range {
    let fits = |entry: &str| entry.split('.').rev().zip(keys.iter().rev()).all(|(a, b)| a == *b);
    let deep_enough = |entry: &str| entry.split('.').count() <= keys.len();
    let found = RANGES.iter().find(|(entries, _)| entries.iter().any(|entry| deep_enough(entry) && fits(entry)));
    found.map_or(ANY, |(_, range)| *range)
}

/// Says which number of a config is not of its range: key, value and range.
pub fn check<C: Serialize>(config: &C) -> Result<()> {
    walk(&Value::Table(Table::try_from(config)?), &mut Vec::new())
}

fn walk<'a>(value: &'a Value, keys: &mut Vec<&'a str>) -> Result<()> {
    let number = match value {
        Value::Table(table) => {
            for (key, value) in table {
                keys.push(key);
                walk(value, keys)?;
                keys.pop();
            }
            return Ok(());
        }
        Value::Array(values) => return values.iter().try_for_each(|value| walk(value, keys)),
        Value::Integer(number) => *number as f64,
        Value::Float(number) => *number,
        _ => return Ok(()),
    };
    let range = range_of(keys);
    if !range.contains(number) {
        bail!("{} = {value}; expected {range}", keys.join("."));
    }
    Ok(())
}

/// Writes the ranges of all numbers into the schema of an experiment file. A section that stands in several places has the widest of
/// its ranges there.
pub fn annotate(schema: &mut serde_json::Value) {
    let mut found = BTreeMap::new();
    collect(schema, schema, String::new(), &mut Vec::new(), &mut found);
    for (place, range) in found {
        let Some(number) = schema.pointer_mut(&place).and_then(serde_json::Value::as_object_mut) else { continue };
        let least = number.get("minimum").and_then(serde_json::Value::as_f64);
        let lower = if range.open { "exclusiveMinimum" } else { "minimum" };
        if least.is_none_or(|least| least <= range.from) && range.from > ANY.from {
            number.shift_remove("minimum");
            number.insert(lower.into(), written(range.from));
        }
        if range.to < ANY.to {
            number.insert("maximum".into(), written(range.to));
        }
    }
}

/// Whole numbers without a point.
fn written(bound: f64) -> serde_json::Value {
    if bound.fract() == 0.0 && bound.abs() < 1e15 { (bound as i64).into() } else { bound.into() }
}

/// The range of every number below `schema`, which stands at `keys`, by the JSON pointer `place` of its type.
fn collect<'a>(
    root: &'a serde_json::Value,
    schema: &'a serde_json::Value,
    place: String,
    keys: &mut Vec<&'a str>,
    found: &mut BTreeMap<String, Range>,
) {
    if let Some(name) = schema["$ref"].as_str().and_then(|to| to.strip_prefix("#/$defs/")) {
        collect(root, &root["$defs"][name], format!("/$defs/{name}"), keys, found);
    }
    if ["integer", "number"].map(Some).contains(&schema["type"].as_str()) && schema.get("enum").is_none() {
        let range = range_of(keys);
        found.entry(place.clone()).and_modify(|known| *known = known.or(range)).or_insert(range);
    }
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        keys.push(key);
        collect(root, value, format!("{place}/properties/{key}"), keys, found);
        keys.pop();
    }
    for list in ["oneOf", "anyOf", "prefixItems"] {
        for (i, value) in schema[list].as_array().into_iter().flatten().enumerate() {
            collect(root, value, format!("{place}/{list}/{i}"), keys, found);
        }
    }
    if let Some(items) = schema.get("items") {
        collect(root, items, format!("{place}/items"), keys, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> Option<String> {
        check(&text.parse::<Table>().unwrap()).err().map(|error| error.to_string())
    }

    #[test]
    fn the_defaults_of_strategies_and_methods_are_of_their_ranges() {
        for strategy in crate::strategy::StrategyConfig::all() {
            check(&strategy).unwrap_or_else(|error| panic!("{}: {error}", strategy.info().kind));
        }
        for method in crate::one_shot::OneShotConfig::all() {
            check(&method).unwrap_or_else(|error| panic!("{}: {error}", method.info().kind));
        }
    }

    #[test]
    fn a_number_out_of_its_range_is_named_with_it() {
        for (text, expected) in [
            ("[train.optimizer]\nlr = -0.1", "train.optimizer.lr = -0.1; expected at least 0 and at most 1"),
            (
                "[train.optimizer]\nmomentum = 1.5",
                "train.optimizer.momentum = 1.5; expected at least 0 and at most 0.999999999",
            ),
            ("[loss]\nclass_weights = [1.0, nan]", "loss.class_weights = nan"),
            ("[[constraints]]\nupper = inf", "constraints.upper = inf; expected at least"),
            ("[train]\nepochs = 0", "train.epochs = 0; expected at least 1"),
            ("[budget]\nchannels = 2.0", "budget.channels = 2.0; expected more than 0 and at most 1"),
            ("[model]\nchannels = -3", "model.channels = -3"),
        ] {
            let error = error(text).unwrap();
            assert!(error.starts_with(expected), "{error}");
        }
        for sound in [
            "[model.bn]\nmomentum = 1.0",
            "[model]\nchannels = 16",
            "[model.backbone]\nwidth = 0.5",
            "[budget]\nchannels = 0.5",
            "seed = 0",
        ] {
            assert_eq!(error(sound), None, "{sound}");
        }
    }
}
