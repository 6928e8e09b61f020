//! The `strategies` commands: what proposes architectures in a search by trials.

use std::fmt;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::run::cli::{Format, print};
use crate::run::config::to_toml;
use crate::strategy::{StrategyConfig, StrategyInfo};

/// List the search strategies with paper, abilities and parameters
#[derive(Clone, Debug, Args)]
pub struct StrategiesArgs {
    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct Entry {
    #[serde(flatten)]
    info: StrategyInfo,
    parameters: StrategyConfig,
}

#[derive(Serialize)]
struct List(Vec<Entry>);

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (i, Entry { info, parameters }) in self.0.iter().enumerate() {
            let line = if i == 0 { "" } else { "\n" };
            write!(f, "{line}{:<22} {}", info.kind, info.paper)?;
            let abilities = [
                (info.multi_fidelity, "chooses the epochs of its trials"),
                (info.multi_objective, "serves several objectives"),
                (info.measured_constraints, "serves bounds on measured metrics"),
            ];
            for (_, ability) in abilities.iter().filter(|(has, _)| *has) {
                write!(f, "\n{:<22} {ability}", "")?;
            }
            let parameters = to_toml(parameters);
            for parameter in parameters.lines().filter(|line| !line.starts_with("kind")) {
                write!(f, "\n{:<22}   {parameter}", "")?;
            }
        }
        Ok(())
    }
}

/// Runs the command.
pub fn run(args: &StrategiesArgs) -> Result<()> {
    let entry = |parameters: StrategyConfig| Entry { info: parameters.info(), parameters };
    print(&List(StrategyConfig::all().into_iter().map(entry).collect()), args.format)
}
