//! The JSON schema (draft 2020-12) of a task's experiment files: what serde reads, with the descriptions of the fields, their defaults and
//! the ranges of [`ranges`]. Editors complete and check experiment files by it, and the config reference is written from it.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::experiment::{
    CompareExperiment, Experiment, OF_WEIGHTS, OneShotExperiment, SearchExperiment, TrainExperiment,
};
use super::{Task, TaskModel};
use crate::run::ranges;

/// A line that tells editors which schema the TOML file below it has.
pub const DIRECTIVE: &str = "#:schema ./schema.json\n";

/// The schema as editors take it: what is wrong is said of the alternative that `kind` names, not that no alternative fits.
pub fn schema<T: Task>() -> Value {
    let mut root = alternatives::<T>();
    let mut defs = root["$defs"].take().as_object().cloned().unwrap_or_default();
    let mut parts = Map::new();
    by_kind("", &mut root, &mut parts);
    for (name, def) in &mut defs {
        by_kind(&format!("{name}."), def, &mut parts);
    }
    defs.extend(parts);
    root["$defs"] = defs.into();
    root
}

/// The schema as a file.
pub fn text<T: Task>() -> String {
    format!("{}\n", schema::<T>())
}

/// The schema with its alternatives as `oneOf` of the root and of sections, each with its `kind`.
pub fn alternatives<T: Task>() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let kinds = [
        experiment::<TrainExperiment<T>>(&mut generator),
        experiment::<CompareExperiment<T>>(&mut generator),
        experiment::<SearchExperiment<T>>(&mut generator),
        experiment::<OneShotExperiment<T>>(&mut generator),
    ];
    let mut defs = generator.take_definitions(false);
    if let Some(model) = defs.get_mut(&*T::Model::schema_name()) {
        let presets: Vec<&str> = T::Model::presets().into_iter().map(|(name, _)| name).collect();
        objects(model).into_iter().for_each(|model| or_preset(model, &presets));
    }
    let mut root = json_schema!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("Experiment files of {}", T::PROGRAM),
        "oneOf": kinds,
        "$defs": defs,
    });
    RecursiveTransform(tidy).transform(&mut root);
    let mut root = root.to_value();
    ranges::annotate(&mut root);
    root
}

/// An experiment, whose `kind` is its own, or left out.
fn experiment<E: Experiment + JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = E::json_schema(generator);
    if let Some(kind) = schema.pointer_mut("/properties/kind") {
        *kind = json!({ "const": E::KIND.name() });
    }
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|key| key != "kind");
    }
    schema
}

/// The alternatives of a schema, or the schema itself where it has none.
pub(super) fn objects(schema: &mut Value) -> Vec<&mut Map<String, Value>> {
    if schema.get("oneOf").is_none() {
        return schema.as_object_mut().into_iter().collect();
    }
    schema["oneOf"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut).collect()
}

/// Adds the keys that [`super::experiment::load`] takes out of a model: `preset`, besides which no other key is required, and weights.
fn or_preset(model: &mut Map<String, Value>, presets: &[&str]) {
    let Some(properties) = model["properties"].as_object_mut() else { return };
    let preset = json!({
        "description": "A network by name, an experiment file with a section `model`, or a run folder: the keys beside it replace its own.",
        "anyOf": [{ "enum": presets }, { "type": "string" }],
    });
    properties.insert("preset".into(), preset);
    for key in OF_WEIGHTS {
        let text = format!("As `{key}` of `[train]`, or of `[one_shot]`.");
        properties.insert(key.into(), json!({ "type": "string", "description": text }));
    }
    if let Some(required) = model.shift_remove("required") {
        let alone = json!([{ "required": ["preset"] }, { "propertyNames": { "enum": OF_WEIGHTS } }]);
        model.insert("if".into(), json!({ "anyOf": alone }));
        model.insert("else".into(), json!({ "required": required }));
    }
}

/// Takes out what TOML does not have (null) or what says nothing to people (formats of numbers, links between Rust's names).
fn tidy(schema: &mut Schema) {
    let is_null = |value: &Value| *value == json!("null") || value["type"] == "null";
    let Some(object) = schema.as_object_mut() else { return };
    object.retain(|key, value| key != "format" && (key != "default" || !value.is_null()));
    if let Some(default) = object.get_mut("default") {
        tidy_default(default);
    }
    for key in ["type", "enum", "anyOf"] {
        let Some(Value::Array(values)) = object.get_mut(key) else { continue };
        values.retain(|value| !value.is_null() && !is_null(value));
        if let [only] = &mut values[..] {
            let only = only.take();
            match (key, only) {
                ("anyOf", Value::Object(only)) => {
                    object.shift_remove(key);
                    only.into_iter().for_each(|(key, value)| _ = object.entry(key).or_insert(value));
                }
                ("type", only) => _ = object.insert(key.into(), only),
                (_, only) => _ = object.insert(key.into(), json!([only])),
            }
        }
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.retain(|_, value| !is_null(value) && value["not"] != json!({}));
    }
    if let Some(Value::String(text)) = object.get_mut("description") {
        let code = text.find("```").unwrap_or(text.len());
        *text = text[..code].trim().replace("[`", "`").replace("`]", "`").replace('\n', " ");
    }
}

/// Leaves out what has no value, and the digits that single precision does not have.
fn tidy_default(value: &mut Value) {
    match value {
        Value::Object(section) => {
            section.retain(|_, value| !value.is_null());
            section.values_mut().for_each(tidy_default);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy_default),
        Value::Number(number) => {
            let single = number.as_f64().filter(|_| number.is_f64()).map(|number| (number, number as f32));
            if let Some((_, short)) = single.filter(|(number, single)| f64::from(*single) == *number) {
                *value = short.to_string().parse::<f64>().map_or(Value::Null, Value::from);
            }
        }
        _ => {}
    }
}

/// Turns alternatives by `kind` into conditions, and puts them into `defs`, their names after `prefix`.
fn by_kind(prefix: &str, schema: &mut Value, defs: &mut Map<String, Value>) {
    let kind = |variant: &Value| variant["properties"]["kind"]["const"].as_str().map(String::from);
    let Some(kinds) = schema["oneOf"].as_array().and_then(|all| all.iter().map(kind).collect::<Option<Vec<_>>>())
    else {
        return;
    };
    let variants = schema["oneOf"].take();
    let optional = |variant: &Value| !variant["required"].as_array().is_some_and(|keys| keys.contains(&json!("kind")));
    let optional = variants.as_array().is_some_and(|all| all.iter().all(optional));
    let refs: Vec<Value> = kinds.iter().map(|kind| json!({ "$ref": format!("#/$defs/{prefix}{kind}") })).collect();
    let conditions = kinds.iter().zip(&refs).map(
        |(kind, of)| json!({ "if": { "required": ["kind"], "properties": { "kind": { "const": kind } } }, "then": of }),
    );
    let mut conditions: Vec<Value> = conditions.collect();
    if optional {
        conditions.push(json!({ "if": { "required": ["kind"] }, "else": { "anyOf": refs } }));
    } else {
        schema["required"] = json!(["kind"]);
    }
    schema["type"] = json!("object");
    schema["properties"] = json!({ "kind": { "enum": kinds } });
    // Taplo does not look into conditions for what it completes, but into alternatives, the first of which always holds.
    schema["anyOf"] = [json!(true)].into_iter().chain(refs).collect();
    schema["allOf"] = conditions.into();
    if let Some(schema) = schema.as_object_mut() {
        schema.shift_remove("oneOf");
    }
    let Value::Array(variants) = variants else { return };
    defs.extend(kinds.into_iter().map(|kind| format!("{prefix}{kind}")).zip(variants));
}
