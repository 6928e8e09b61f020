//! `[space]` of a search by trials: the task's space and, in `[space.recipe]`, keys of the recipe that are choices too.

use std::borrow::Cow;

use anyhow::{Context, Result};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, json};
use toml::{Table, Value};

use super::around::{AROUND, AroundSpace};
use super::experiment::Recipe;
use super::handed_down::Source;
use super::schema::objects;
use super::supervised::cost_of;
use super::{CostFunction, Task, TaskModel, TaskSpace, sizes};
use crate::nn::Shape;
use crate::run::config;
use crate::search::analysis::vocabulary::Decision;
use crate::space::recipe::{Override, RecipeConfig, RecipeSpace};
use crate::space::{Architecture, ChoiceSpace};

/// Key of the choices of the recipe in `[space]`.
const RECIPE: &str = "recipe";

/// What a search by trials decides on. Its architectures are those of the task's space, followed by a choice for every key of
/// the recipe.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchedSpace<T: Task> {
    /// What networks are.
    pub space: NetworkSpace<T>,
    /// Values by key of `[train]`.
    pub recipe: RecipeConfig,
}

/// A space of networks.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkSpace<T: Task> {
    /// One of the task's.
    OfTask(T::Space),
    /// That around a network.
    Around(AroundSpace),
}

impl<T: Task> NetworkSpace<T> {
    /// The decisions. See [`TaskSpace::choices`].
    pub fn choices(&self) -> Result<Box<dyn ChoiceSpace>> {
        match self {
            Self::OfTask(space) => space.choices(),
            Self::Around(space) => {
                space.check()?;
                Ok(Box::new(space.clone()))
            }
        }
    }

    fn derive(&self, model: Option<&T::Model>, arch: &Architecture) -> Result<T::Model> {
        match self {
            Self::OfTask(space) => space.derive(model, arch),
            Self::Around(space) => {
                let model = model.context("model: the section is missing; expected the network to go around")?;
                model.clone().with_stages(space.sizes(arch)?)
            }
        }
    }

    fn costs(&self, model: Option<&T::Model>, num_classes: usize, input: Shape) -> Result<CostFunction> {
        match self {
            Self::OfTask(space) => space.costs(model, num_classes, input),
            Self::Around(_) => {
                let (this, model) = (self.clone(), model.cloned());
                Ok(Box::new(move |arch| {
                    Ok(sizes(cost_of::<T>(&this.derive(model.as_ref(), arch)?, num_classes, input)?))
                }))
            }
        }
    }

    fn notation(&self, arch: &Architecture) -> Result<String> {
        match self {
            Self::OfTask(space) => space.notation(arch),
            Self::Around(space) => space.notation(arch),
        }
    }

    /// The architecture of a notation. See [`TaskSpace::parse`].
    pub fn parse(&self, text: &str) -> Result<Architecture> {
        match self {
            Self::OfTask(space) => space.parse(text),
            Self::Around(space) => space.parse(text),
        }
    }

    /// Names of the decisions and of their choices. See [`TaskSpace::names`].
    pub fn names(&self) -> Result<Vec<Decision>> {
        match self {
            Self::OfTask(space) => space.names(),
            Self::Around(space) => Ok(space.names()),
        }
    }

    fn label(&self, label: u16) -> String {
        match self {
            Self::OfTask(space) => space.label(label),
            Self::Around(_) => label.to_string(),
        }
    }

    fn drawing(&self, arch: &Architecture) -> Result<Option<String>> {
        match self {
            Self::OfTask(space) => space.drawing(arch),
            Self::Around(space) => Ok(Some(space.drawing(arch)?)),
        }
    }

    fn table(&self) -> Result<Table, toml::ser::Error> {
        match self {
            Self::OfTask(space) => Table::try_from(space),
            Self::Around(space) => {
                let mut table = Table::try_from(space)?;
                table.insert("kind".into(), Value::String(AROUND.into()));
                Ok(table)
            }
        }
    }

    fn read(mut table: Table) -> Result<Self, toml::de::Error> {
        if table.get("kind").and_then(Value::as_str) != Some(AROUND) {
            return Ok(Self::OfTask(T::Space::deserialize(Value::Table(table))?));
        }
        table.remove("kind");
        Ok(Self::Around(AroundSpace::deserialize(Value::Table(table))?))
    }
}

impl<T: Task> Serialize for SearchedSpace<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut table = self.space.table().map_err(serde::ser::Error::custom)?;
        if !self.recipe.is_empty() {
            table.insert(RECIPE.into(), Value::Table(self.recipe.0.clone()));
        }
        table.serialize(serializer)
    }
}

impl<'de, T: Task> Deserialize<'de> for SearchedSpace<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = Table::deserialize(deserializer)?;
        let recipe = match table.remove(RECIPE) {
            None => RecipeConfig::default(),
            Some(Value::Table(recipe)) => RecipeConfig(recipe),
            Some(other) => {
                return Err(D::Error::custom(format!("{RECIPE} = {other}; expected lists by key of [train]")));
            }
        };
        let space = NetworkSpace::read(table).map_err(|error| D::Error::custom(error.message()))?;
        Ok(Self { space, recipe })
    }
}

impl<T: Task> JsonSchema for SearchedSpace<T> {
    fn schema_name() -> Cow<'static, str> {
        "SearchedSpace".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = T::Space::json_schema(generator).to_value();
        let mut around = AroundSpace::json_schema(generator).to_value();
        let mut properties = Map::from_iter([("kind".to_string(), json!({ "type": "string", "const": AROUND }))]);
        properties.extend(around["properties"].as_object().cloned().unwrap_or_default());
        (around["properties"], around["required"]) = (properties.into(), json!(["kind"]));
        schema["oneOf"].as_array_mut().into_iter().for_each(|spaces| spaces.push(around.clone()));
        let recipe = json!({
            "type": "object",
            "description": "Keys of `[train]` that are choices too, dotted or nested: lists of the values to choose from.",
            "additionalProperties": { "anyOf": [{ "type": "array", "minItems": 1 }, { "type": "object" }] },
        });
        for space in objects(&mut schema) {
            space["properties"][RECIPE] = recipe.clone();
        }
        Schema::try_from(schema).unwrap_or_default()
    }
}

impl<T: Task> SearchedSpace<T> {
    /// A space of the task without choices of a recipe.
    pub fn of_task(space: T::Space) -> Self {
        Self { space: NetworkSpace::OfTask(space), recipe: RecipeConfig::default() }
    }

    /// What trainings of its networks start from: the run that the search goes around.
    pub fn source(&self) -> Result<Option<Source<T>>> {
        let NetworkSpace::Around(AroundSpace { run: Some(run), .. }) = &self.space else { return Ok(None) };
        Source::by_importance(run).map(Some).context("space.run")
    }

    fn joint(&self) -> Result<RecipeSpace<Box<dyn ChoiceSpace>>> {
        RecipeSpace::new(self.space.choices()?, &self.recipe)
    }

    fn split(&self, arch: &Architecture) -> Result<(Architecture, Vec<Override>)> {
        if self.recipe.is_empty() {
            return Ok((arch.clone(), Vec::new()));
        }
        let joint = self.joint()?;
        joint.validate(arch)?;
        Ok(joint.split(arch))
    }

    /// The task's part of an architecture, without the choices of the recipe.
    pub fn network_of(&self, arch: &Architecture) -> Result<Architecture> {
        Ok(self.split(arch)?.0)
    }

    /// The decisions. See [`TaskSpace::choices`].
    pub fn choices(&self) -> Result<Box<dyn ChoiceSpace>> {
        if self.recipe.is_empty() { self.space.choices() } else { Ok(Box::new(self.joint()?)) }
    }

    /// The network of an architecture. See [`TaskSpace::derive`].
    pub fn derive(&self, model: Option<&T::Model>, arch: &Architecture) -> Result<T::Model> {
        self.space.derive(model, &self.split(arch)?.0)
    }

    /// What an architecture alone decides. See [`TaskSpace::costs`].
    pub fn costs(&self, model: Option<&T::Model>, num_classes: usize, input: Shape) -> Result<CostFunction> {
        let (this, costs) = (self.clone(), self.space.costs(model, num_classes, input)?);
        Ok(Box::new(move |arch| costs(&this.split(arch)?.0)))
    }

    /// `recipe` with the values that `arch` chooses.
    pub fn recipe(&self, recipe: &Recipe<T>, arch: &Architecture) -> Result<Recipe<T>> {
        self.split(arch)?
            .1
            .into_iter()
            .try_fold(recipe.clone(), |recipe, (key, value)| with_value(&recipe, &key, value))
    }

    /// The values that `arch` chooses, by key of `[train]`.
    pub fn overrides(&self, arch: &Architecture) -> Result<Vec<Override>> {
        Ok(self.split(arch)?.1)
    }

    /// Says which value `recipe` cannot take.
    pub fn check(&self, recipe: &Recipe<T>, eval: &T::Eval) -> Result<()> {
        for (key, values) in self.recipe.choices().context("space.recipe")? {
            for value in values {
                let place = || format!("space.recipe.{key} = {value}");
                with_value(recipe, &key, value.clone())
                    .and_then(|recipe| recipe.check("train", eval))
                    .with_context(place)?;
            }
        }
        self.choices().context("space").map(drop)
    }

    /// An architecture in the literature's notation, and its recipe.
    pub fn notation(&self, arch: &Architecture) -> Result<String> {
        let (inner, recipe) = self.split(arch)?;
        let notation = self.space.notation(&inner)?;
        Ok(recipe.into_iter().fold(notation, |text, (key, value)| format!("{text} {key}={value}")))
    }

    /// The architecture of a notation or a name; with the first value of every key of the recipe.
    pub fn parse(&self, text: &str) -> Result<Architecture> {
        let whole = text.parse().ok().filter(|arch| self.choices().is_ok_and(|space| space.validate(arch).is_ok()));
        if let Some(arch) = whole {
            return Ok(arch);
        }
        let inner = self.space.parse(text)?;
        let recipe = vec![0; self.recipe.choices()?.len()];
        Ok(Architecture::new([inner.choices(), &recipe].concat()))
    }

    /// Names of the decisions and of their choices; those of the recipe are its keys and values.
    pub fn names(&self) -> Result<Vec<Decision>> {
        let recipe = self
            .recipe
            .choices()?
            .into_iter()
            .map(|(name, values)| Decision { name, choices: values.iter().map(Value::to_string).collect() });
        Ok(self.space.names()?.into_iter().chain(recipe).collect())
    }

    /// As [`TaskSpace::label`].
    pub fn label(&self, label: u16) -> String {
        self.space.label(label)
    }

    /// An architecture as SVG.
    pub fn drawing(&self, arch: &Architecture) -> Result<Option<String>> {
        self.space.drawing(&self.split(arch)?.0)
    }
}

/// `recipe` with another value of a key, dotted where it is nested.
fn with_value<T: Task>(recipe: &Recipe<T>, key: &str, value: Value) -> Result<Recipe<T>> {
    let mut table = Table::try_from(recipe)?;
    config::apply_all(&mut table, &[format!("{key}={value}")])?;
    Ok(config::from_table(table, "train")?)
}
