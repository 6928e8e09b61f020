//! `[space]` of a search by trials: the task's space and, in `[space.recipe]`, keys of the recipe that are choices too.

use std::borrow::Cow;

use anyhow::{Context, Result};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;
use toml::{Table, Value};

use super::experiment::Recipe;
use super::schema::objects;
use super::{CostFunction, Task, TaskSpace};
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
    /// The task's space.
    pub space: T::Space,
    /// Values by key of `[train]`.
    pub recipe: RecipeConfig,
}

impl<T: Task> Serialize for SearchedSpace<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.recipe.is_empty() {
            return self.space.serialize(serializer);
        }
        let mut table = Table::try_from(&self.space).map_err(serde::ser::Error::custom)?;
        table.insert(RECIPE.into(), Value::Table(self.recipe.0.clone()));
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
        let space = T::Space::deserialize(Value::Table(table)).map_err(|error| D::Error::custom(error.message()))?;
        Ok(Self { space, recipe })
    }
}

impl<T: Task> JsonSchema for SearchedSpace<T> {
    fn schema_name() -> Cow<'static, str> {
        "SearchedSpace".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = T::Space::json_schema(generator).to_value();
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
