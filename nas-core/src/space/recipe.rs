//! The recipe of a training as further choices: a search decides on learning rate, weight decay and the like together with the
//! architecture.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use toml::Value;

use super::{Architecture, ChoiceSpace, Graph, InvalidArchitecture};

/// `[space.recipe]`: values to choose from, by key of the training's section. Keys are dotted (`"optimizer.lr"`) or nested.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecipeConfig(pub toml::Table);

/// A key of the training's section, dotted where it is nested, and its value.
pub type Override = (String, Value);

impl RecipeConfig {
    /// No key is a choice.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values of every key, by key in alphabetical order. Fails at what is no list of at least one value, at a value that
    /// stands twice, and at a key that is part of another.
    pub fn choices(&self) -> Result<BTreeMap<String, Vec<Value>>> {
        let mut choices = BTreeMap::new();
        flatten(&self.0, "", &mut choices).context("space.recipe")?;
        for (key, values) in &choices {
            ensure!(!values.is_empty(), "space.recipe.{key} is empty; expected a list of values to choose from");
            let twice = (0..values.len()).find(|i| values[..*i].contains(&values[*i]));
            ensure!(
                twice.is_none(),
                "space.recipe.{key} has {} twice",
                twice.map_or(String::new(), |i| values[i].to_string())
            );
        }
        let total: usize = choices.values().map(Vec::len).sum();
        ensure!(total <= usize::from(u16::MAX / 4), "space.recipe has {total} values; expected fewer");
        let mut keys = choices.keys().zip(choices.keys().skip(1));
        let nested = keys.find(|(short, long)| long.starts_with(&format!("{short}.")));
        ensure!(nested.is_none(), "space.recipe: {:?} is a part of another key", nested.map_or("", |(short, _)| short));
        Ok(choices)
    }
}

fn flatten(table: &toml::Table, above: &str, choices: &mut BTreeMap<String, Vec<Value>>) -> Result<()> {
    for (key, value) in table {
        let path = format!("{above}{key}");
        ensure!(!path.split('.').any(str::is_empty), "{path:?} is no key");
        match value {
            Value::Table(inner) => flatten(inner, &format!("{path}."), choices)?,
            Value::Array(values) => {
                let first = choices.insert(path.clone(), values.clone()).is_none();
                ensure!(first, "{path} stands twice, dotted and nested");
            }
            other => anyhow::bail!("{path} = {other}; expected a list of values to choose from"),
        }
    }
    Ok(())
}

/// A space with one more decision per key of a recipe, behind those of the architecture.
#[derive(Clone)]
pub struct RecipeSpace<S> {
    space: S,
    recipe: Vec<(String, Vec<Value>)>,
}

impl<S> fmt::Debug for RecipeSpace<S>
where
    S: Deref<Target: ChoiceSpace>,
{
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("RecipeSpace").field("space", &&*self.space).field("recipe", &self.recipe).finish()
    }
}

impl<S> RecipeSpace<S>
where
    S: Deref<Target: ChoiceSpace>,
{
    /// `space` with the decisions of `config`.
    pub fn new(space: S, config: &RecipeConfig) -> Result<Self> {
        Ok(Self { space, recipe: config.choices()?.into_iter().collect() })
    }

    /// The space of architectures alone.
    pub fn inner(&self) -> &S::Target {
        &self.space
    }

    /// The architecture proper, and the values of the recipe's keys. `arch` is of this space.
    pub fn split(&self, arch: &Architecture) -> (Architecture, Vec<Override>) {
        let (inner, recipe) = self.parts(arch);
        let value = |((key, values), choice): (&(String, Vec<Value>), &u16)| {
            (key.clone(), values[usize::from(*choice)].clone())
        };
        (inner, self.recipe.iter().zip(recipe).map(value).collect())
    }

    /// Choices of the architecture and of the recipe.
    fn parts<'a>(&self, arch: &'a Architecture) -> (Architecture, &'a [u16]) {
        let choices = arch.choices();
        let (inner, recipe) = choices.split_at(choices.len().saturating_sub(self.recipe.len()));
        (Architecture::new(inner.to_vec()), recipe)
    }

    fn options(&self) -> impl Iterator<Item = u16> {
        self.recipe.iter().map(|(_, values)| values.len() as u16)
    }
}

fn join(inner: &Architecture, recipe: &[u16]) -> Architecture {
    Architecture::new([inner.choices(), recipe].concat())
}

impl<S> ChoiceSpace for RecipeSpace<S>
where
    S: Deref<Target: ChoiceSpace> + Send + Sync,
{
    fn name(&self) -> &str {
        self.space.name()
    }

    fn decisions(&self) -> Vec<u16> {
        self.space.decisions().into_iter().chain(self.options()).collect()
    }

    fn validate(&self, arch: &Architecture) -> Result<(), InvalidArchitecture> {
        let wrong = |reason| self.invalid(arch, reason);
        let (found, expected) = (arch.choices().len(), self.decisions().len());
        if found != expected {
            let keys: Vec<&str> = self.recipe.iter().map(|(key, _)| key.as_str()).collect();
            let reason = format!("{found} choices, expected {expected}, the last of them for {}", keys.join(", "));
            return Err(wrong(reason));
        }
        let (inner, recipe) = self.parts(arch);
        let mut choices = self.recipe.iter().zip(recipe);
        if let Some(((key, values), choice)) =
            choices.find(|((_, values), choice)| usize::from(**choice) >= values.len())
        {
            return Err(wrong(format!("{key} has choice {choice}, expected less than {}", values.len())));
        }
        self.space.validate(&inner)
    }

    fn sample(&self, rng: &mut ChaCha8Rng) -> Architecture {
        let inner = self.space.sample(rng);
        let recipe: Vec<u16> = self.options().map(|options| rng.random_range(0..options)).collect();
        join(&inner, &recipe)
    }

    /// Every decision with more than one choice is equally likely to change; the space of architectures knows how its own do.
    fn mutate(&self, parent: &Architecture, rng: &mut ChaCha8Rng) -> Architecture {
        let (inner, recipe) = self.parts(parent);
        let of_inner = self.space.decisions().iter().filter(|options| **options > 1).count();
        let options: Vec<u16> = self.options().collect();
        let open: Vec<usize> = (0..options.len()).filter(|i| options[*i] > 1).collect();
        assert!(of_inner + open.len() > 0, "the space {} has one architecture and one recipe", self.name());
        match rng.random_range(0..of_inner + open.len()).checked_sub(of_inner) {
            None => join(&self.space.mutate(&inner, rng), recipe),
            Some(i) => {
                let mut recipe = recipe.to_vec();
                let (choice, options) = (&mut recipe[open[i]], options[open[i]]);
                *choice = (*choice + rng.random_range(1..options)) % options;
                join(&inner, &recipe)
            }
        }
    }

    fn neighbors(&self, arch: &Architecture) -> Vec<Architecture> {
        let (inner, recipe) = self.parts(arch);
        let mut neighbors: Vec<Architecture> =
            self.space.neighbors(&inner).iter().map(|neighbor| join(neighbor, recipe)).collect();
        for (i, options) in self.options().enumerate() {
            for choice in (0..options).filter(|choice| *choice != recipe[i]) {
                let mut recipe = recipe.to_vec();
                recipe[i] = choice;
                neighbors.push(join(&inner, &recipe));
            }
        }
        neighbors
    }

    fn traits(&self, arch: &Architecture) -> Vec<u16> {
        let (inner, recipe) = self.parts(arch);
        [&self.space.traits(&inner), recipe].concat()
    }

    /// The architecture's graph with a node for each key of the recipe between input and output. Its label stands for key and
    /// value; labels are counted down from the largest, where no operator has one.
    fn graph(&self, arch: &Architecture) -> Option<Graph> {
        let (inner, recipe) = self.parts(arch);
        let Graph { mut labels, mut edges } = self.space.graph(&inner)?;
        let (last, output) = (labels.len() - 1, labels.pop()?);
        let moved = last + self.recipe.len();
        edges.iter_mut().filter(|(_, to)| *to == last).for_each(|(_, to)| *to = moved);
        let mut free = u16::MAX;
        for (i, (options, choice)) in self.options().zip(recipe).enumerate() {
            labels.push(free - choice);
            free -= options;
            edges.extend([(0, last + i), (last + i, moved)]);
        }
        labels.push(output);
        Some(Graph { labels, edges })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use nas_datasets::rng::stream;

    use super::*;

    /// Three decisions, the second of which must not be larger than the first.
    #[derive(Debug)]
    struct Cell;

    impl ChoiceSpace for Cell {
        fn name(&self) -> &str {
            "cell"
        }

        fn decisions(&self) -> Vec<u16> {
            vec![3, 3, 2]
        }

        fn validate(&self, arch: &Architecture) -> Result<(), InvalidArchitecture> {
            let choices = arch.choices();
            let of_space = choices.len() == 3 && choices.iter().zip([3, 3, 2]).all(|(c, n)| *c < n);
            let wrong = || InvalidArchitecture { space: "cell".into(), arch: arch.to_string(), reason: "no".into() };
            (of_space && choices[1] <= choices[0]).then_some(()).ok_or_else(wrong)
        }

        fn graph(&self, arch: &Architecture) -> Option<Graph> {
            let label = 2 + arch.choices()[0];
            Some(Graph { labels: vec![0, label, 1], edges: vec![(0, 1), (1, 2)] })
        }
    }

    fn config(text: &str) -> RecipeConfig {
        toml::from_str(text).unwrap()
    }

    fn space() -> RecipeSpace<Box<dyn ChoiceSpace>> {
        let config = config("lr = [0.1, 0.05]\noptimizer.weight_decay = [0, 1e-4, 5e-4]\n");
        RecipeSpace::new(Box::new(Cell) as Box<dyn ChoiceSpace>, &config).unwrap()
    }

    #[test]
    fn an_architecture_is_split_into_choices_and_overrides() {
        let space = space();
        assert_eq!(space.decisions(), [3, 3, 2, 2, 3]);
        let (arch, recipe) = space.split(&"2-1-0-1-2".parse().unwrap());
        let expected = [("lr", Value::Float(0.05)), ("optimizer.weight_decay", Value::Float(5e-4))];
        assert_eq!((arch.to_string(), recipe), ("2-1-0".into(), expected.map(|(k, v)| (k.to_string(), v)).to_vec()));
        let error = |arch: &str| space.validate(&arch.parse().unwrap()).unwrap_err().to_string();
        assert!(error("2-1-0").contains("3 choices, expected 5, the last of them for lr, optimizer.weight_decay"));
        assert!(error("2-1-0-2-0").contains("lr has choice 2, expected less than 2"));
        assert!(error("0-1-0-0-0").contains("0-1-0 is not of the space cell"));
        assert!(error("0").contains("1 choices"));
    }

    #[test]
    fn samples_mutants_and_neighbors_are_those_of_the_space_and_of_the_recipe() {
        let space = space();
        let mut rng = stream(0, "recipe", 0);
        let all: HashSet<Architecture> = (0..5000).map(|_| space.sample(&mut rng)).collect();
        assert_eq!(all.len(), 6 * 2 * 2 * 3);
        assert!(all.iter().all(|arch| space.validate(arch).is_ok()));
        let parent: Architecture = "1-1-0-0-0".parse().unwrap();
        let neighbors = space.neighbors(&parent);
        // 2-1, 1-0 and the third decision; then one other rate and two other decays.
        assert_eq!(neighbors.len(), 3 + 1 + 2);
        let mut counts = [0; 5];
        for _ in 0..5000 {
            let child = space.mutate(&parent, &mut rng);
            let changed: Vec<usize> = (0..5).filter(|i| child.choices()[*i] != parent.choices()[*i]).collect();
            assert!(neighbors.contains(&child) && changed.len() == 1);
            counts[changed[0]] += 1;
        }
        assert!(counts[3..].iter().all(|count| (*count as f64 - 1000.0).abs() < 150.0), "{counts:?}");
    }

    #[test]
    fn a_graph_tells_recipes_apart() {
        let space = space();
        let graph = |arch: &str| space.graph(&arch.parse().unwrap()).unwrap();
        let expected = Graph {
            labels: vec![0, 4, u16::MAX - 1, u16::MAX - 2, 1],
            edges: vec![(0, 1), (1, 4), (0, 2), (2, 4), (0, 3), (3, 4)],
        };
        assert_eq!(graph("2-1-0-1-0"), expected);
        let labels = |arch: &str| graph(arch).labels;
        assert_ne!(labels("2-1-0-1-0"), labels("2-1-0-0-0"));
        assert_ne!(labels("2-1-0-1-0"), labels("2-1-0-1-2"));
    }

    #[test]
    fn every_strategy_searches_it() {
        use crate::search::Searcher;
        use crate::search::goals::Goals;
        use crate::space::trial::{Budget, Outcome, Record};
        let space = space();
        for strategy in crate::strategy::StrategyConfig::all() {
            let mut searcher = Searcher::new(&space, &strategy, Goals::maximize("value"), Budget::default(), 0);
            for _ in 0..40 {
                let Some(trial) = searcher.ask() else { break };
                space.validate(&trial.arch).unwrap();
                let value = f64::from(trial.arch.choices().iter().sum::<u16>());
                let outcome = Outcome::Metrics([("value".to_string(), value)].into());
                searcher.tell(&Record { trial, outcome });
            }
        }
    }

    #[test]
    fn what_is_no_list_of_values_is_refused_by_its_key() {
        let error = |text: &str| format!("{:#}", config(text).choices().unwrap_err());
        assert!(error("lr = 0.1").contains("space.recipe: lr = 0.1; expected a list"));
        assert!(error("optimizer.lr = []").contains("space.recipe.optimizer.lr is empty"));
        assert!(error("lr = [1, 2, 1]").contains("space.recipe.lr has 1 twice"));
        assert!(error("a = [{b = 1}]\n'a.b' = [2]").contains("\"a\" is a part of another key"));
        assert!(error("a.b = [1]\n'a.b' = [2]").contains("stands twice"));
        assert!(error("'' = [1]").contains("is no key"));
        assert!(config("").is_empty());
    }
}
