//! `docs/config.md`: the reference of experiment files, written from the schemas of the three tools. What they share stands once.

use std::collections::{BTreeMap, VecDeque};

use nas_classify::task::Classification;
use nas_core::task::Task;
use nas_core::task::schema::schema;
use nas_detect::task::Detection;
use nas_segment::task::Segmentation;
use serde_json::{Map, Value};

const HEAD: &str = "\
# Experiment files

Written from the schemas that `nas-segment schema`, `nas-classify schema` and `nas-detect schema` print; `tests/tests/schema.rs` keeps it
so. An experiment file is TOML; its key `kind` says what it is for, and a file without `kind` is what its command takes. Any key can be
replaced on the command line (`--set train.epochs=10`). A key whose default is *required* must be there; a dash stands for none, *its own*
for a section whose keys have theirs. Headings are the places of sections in a file, one of several where a section can stand in several;
`N` numbers the entries of a list. Where the tools differ, the text says whose it is.

In an editor with TOML's language server (Even Better TOML, taplo) the first line `#:schema ./schema.json` completes and checks a file by
the schema beside it; `init` writes both.
";

/// The text for the three tools.
pub fn of_all_tools() -> String {
    fn of<T: Task>() -> Tool {
        Tool::new(T::PROGRAM, schema::<T>())
    }
    text(&[of::<Segmentation>(), of::<Classification>(), of::<Detection>()])
}

/// A tool, and where each of its sections stands first.
struct Tool {
    name: &'static str,
    schema: Value,
    places: BTreeMap<String, String>,
    order: Vec<String>,
}

impl Tool {
    /// Breadth first, so that a section stands at its shortest place.
    fn new(name: &'static str, schema: Value) -> Self {
        let mut tool = Self { name, schema, places: BTreeMap::new(), order: Vec::new() };
        let mut todo = VecDeque::from([(String::new(), tool.schema.clone())]);
        while let Some((place, section)) = todo.pop_front() {
            for object in tool.objects(&section).into_iter().map(|(_, object)| object.clone()).collect::<Vec<_>>() {
                for (key, value) in properties(&object) {
                    for (name, in_list) in tool.sections_in(value) {
                        if tool.places.contains_key(&name) {
                            continue;
                        }
                        let dot = if place.is_empty() { "" } else { "." };
                        let here = format!("{place}{dot}{key}{}", if in_list { ".N" } else { "" });
                        todo.push_back((here.clone(), tool.schema["$defs"][&name].clone()));
                        tool.places.insert(name.clone(), here);
                        tool.order.push(name);
                    }
                }
            }
        }
        tool
    }

    /// The sections that a value may be, and whether it is a list of them.
    fn sections_in(&self, value: &Value) -> Vec<(String, bool)> {
        if let Some(name) = name_of(value) {
            let def = self.follow(value);
            return if is_section(def) { vec![(name.to_string(), false)] } else { self.sections_in(def) };
        }
        let items =
            value.get("items").into_iter().flat_map(|items| self.sections_in(items)).map(|(name, _)| (name, true));
        let either = ["anyOf", "oneOf"].into_iter().flat_map(|key| value[key].as_array().into_iter().flatten());
        items.chain(either.flat_map(|one| self.sections_in(one))).collect()
    }

    fn follow<'a>(&'a self, schema: &'a Value) -> &'a Value {
        name_of(schema).map_or(schema, |name| &self.schema["$defs"][name])
    }

    /// The alternatives of a section by kind; itself where it has none.
    fn objects<'a>(&'a self, section: &'a Value) -> Vec<(Option<&'a str>, &'a Value)> {
        let conditions = section["allOf"].as_array().into_iter().flatten();
        let kinds: Vec<_> = conditions
            .filter_map(|one| {
                Some((Some(one["if"]["properties"]["kind"]["const"].as_str()?), self.follow(&one["then"])))
            })
            .collect();
        if kinds.is_empty() { vec![(None, section)] } else { kinds }
    }

    /// The keys of a section, a row each.
    fn rows(&self, object: &Value) -> Vec<(String, String)> {
        let empty = Vec::new();
        let required = [&object["required"], &object["else"]["required"]].into_iter().find_map(Value::as_array);
        let required = required.unwrap_or(&empty);
        let row = |(key, value): (&String, &Value)| {
            let default = match value.get("default") {
                _ if required.contains(&Value::String(key.clone())) => "*required*".into(),
                None => "–".into(),
                Some(default) if default.is_object() && *default == self.defaults(value) => "*its own*".into(),
                Some(default) => format!("`{}`", toml(default)),
            };
            let meaning = self.meaning(value);
            let cells = [format!("`{key}`"), self.kind(value), default, meaning];
            (key.clone(), format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | ")))
        };
        properties(object).filter(|(key, value)| *key != "kind" || value["const"].is_null()).map(row).collect()
    }

    /// What a section is when it is empty.
    fn defaults(&self, value: &Value) -> Value {
        let defaults = properties(self.follow(value)).map(|(key, value)| (key.clone(), value["default"].clone()));
        defaults.filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>().into()
    }

    /// What is said of a key; of a value that is no section also what is said of its type.
    fn meaning(&self, value: &Value) -> String {
        let own = value["description"].as_str().unwrap_or_default();
        let of_type = self.follow(value);
        let choices = of_type["oneOf"].as_array().into_iter().flatten();
        let choices: Vec<String> = choices
            .filter_map(|one| {
                Some(format!("`{}`: {}", one["const"].as_str()?, one["description"].as_str()?.trim_end_matches('.')))
            })
            .collect();
        let of_type =
            of_type["description"].as_str().filter(|text| own.is_empty() && choices.is_empty() && *text != own);
        let parts = [own, of_type.unwrap_or_default(), &choices.join("; ")];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// The type of a value.
    fn kind(&self, value: &Value) -> String {
        if let Some(name) = name_of(value) {
            return match self.places.get(name) {
                Some(place) => format!("[`{place}`](#{})", anchor(place)),
                None => self.kind(self.follow(value)),
            };
        }
        let list = |key: &str| value[key].as_array();
        if let Some(choices) = list("enum") {
            return choices.iter().map(|choice| format!("`{}`", toml(choice))).collect::<Vec<_>>().join(", ");
        }
        if let Some(choices) = list("oneOf").or(list("anyOf")) {
            let mut kinds: Vec<String> = choices.iter().map(|choice| self.kind(choice)).collect();
            kinds.dedup();
            let joint = if list("oneOf").is_some() { ", " } else { " or " };
            return kinds.join(joint);
        }
        if let Some(only) = value.get("const") {
            return format!("`{}`", toml(only));
        }
        match value["type"].as_str() {
            Some("array") => self.list(value),
            Some("integer") => format!("integer{}", range(value)),
            Some("number") => format!("float{}", range(value)),
            Some("object") if is_section(value) => {
                let keys: Vec<&str> = properties(value).map(|(key, _)| key.as_str()).collect();
                format!("`{{ {} = … }}`", keys.join(" = …, "))
            }
            Some("object") => "table".into(),
            Some(other) => other.into(),
            None => "anything".into(),
        }
    }

    fn list(&self, value: &Value) -> String {
        let items = value["prefixItems"].as_array().and_then(|items| items.first()).unwrap_or(&value["items"]);
        let items = if items.is_object() { self.kind(items) } else { "anything".into() };
        match (value["minItems"].as_u64(), value["maxItems"].as_u64()) {
            (Some(least), Some(most)) if least == most => format!("list of {least}, each {items}"),
            _ => format!("list of {items}"),
        }
    }

    /// A section: what it is, then the keys of all its kinds and those of each.
    fn section(&self, section: &Value) -> String {
        let about = |schema: &Value| schema["description"].as_str().unwrap_or_default().to_string();
        let table = |rows: String| if rows.is_empty() { rows } else { format!("\n{TABLE}{rows}") };
        let kinds: Vec<_> =
            self.objects(section).into_iter().map(|(kind, object)| (kind, object, self.rows(object))).collect();
        let in_all = |row: &&(String, String)| kinds.iter().all(|(_, _, rows)| rows.contains(row));
        let common: String = kinds[0].2.iter().filter(in_all).map(|(_, row)| row.as_str()).collect();
        let mut text = format!("{}\n{}", about(section), table(common));
        for (kind, object, rows) in kinds.iter().filter_map(|(kind, object, rows)| Some(((*kind)?, object, rows))) {
            let own: String = rows.iter().filter(|row| !in_all(row)).map(|(_, row)| row.as_str()).collect();
            text += &format!("\n`kind = \"{kind}\"`: {}\n{}", about(object), table(own));
        }
        text.trim_start().to_string()
    }
}

const TABLE: &str = "| key | value | default | meaning |\n|---|---|---|---|\n";

fn text(tools: &[Tool]) -> String {
    let mut text = HEAD.to_string();
    let names = |of: &[&Tool]| of.iter().map(|tool| tool.name).collect::<Vec<_>>().join(", ");
    for (kind, object) in tools[0].objects(&tools[0].schema) {
        let kind = kind.unwrap_or_default();
        let about = object["description"].as_str().and_then(|text| text.split_once(": ")).unwrap_or_default().1;
        text += &format!("\n## kind = \"{kind}\"\n\nThis is {about}\n\n{TABLE}");
        let mut rows: Vec<(String, Vec<&Tool>)> = Vec::new();
        for tool in tools {
            let object = tool.objects(&tool.schema).into_iter().find(|(name, _)| *name == Some(kind));
            for (_, row) in object.map(|(_, object)| tool.rows(object)).unwrap_or_default() {
                match rows.iter_mut().find(|(known, _)| *known == row) {
                    Some((_, of)) => of.push(tool),
                    None => rows.push((row, vec![tool])),
                }
            }
        }
        for (row, of) in rows {
            let whose = if of.len() == tools.len() { String::new() } else { format!(" ({})", names(&of)) };
            text += &row.replacen("` |", &format!("`{whose} |"), 1);
        }
    }
    text += "\n## Sections\n";
    let mut places: Vec<&String> = Vec::new();
    for place in tools.iter().flat_map(|tool| tool.order.iter().map(|name| &tool.places[name])) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let top = |place: &str| place.split(['.', '[']).next().unwrap_or_default().to_string();
    let tops: Vec<String> = places.iter().map(|place| top(place)).collect();
    places.sort_by_key(|place| tops.iter().position(|other| *other == top(place)));
    for place in places {
        text += &format!("\n### `{place}`\n");
        let mut blocks: Vec<(String, Vec<&Tool>)> = Vec::new();
        for tool in tools {
            let here = tool.order.iter().filter(|name| tool.places[*name] == *place);
            let here: Vec<String> = here.map(|name| tool.section(&tool.schema["$defs"][name])).collect();
            // The space of a search by trials has all keys of one on shared weights.
            let is_part = |block: &String| {
                here.iter().any(|other| other != block && block.lines().all(|line| other.contains(line)))
            };
            for block in here.iter().filter(|block| !is_part(block)).cloned() {
                match blocks.iter_mut().find(|(known, _)| *known == block) {
                    Some((_, of)) => of.push(tool),
                    None => blocks.push((block, vec![tool])),
                }
            }
        }
        let alone = blocks.len() == 1 && blocks[0].1.len() == tools.len();
        for (block, of) in blocks {
            text += &if alone { format!("\n{block}") } else { format!("\n**{}**: {block}", names(&of)) };
        }
    }
    text
}

fn properties(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object["properties"].as_object().into_iter().flatten()
}

fn name_of(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix("#/$defs/")
}

/// Whether it is a table whose keys are known.
fn is_section(schema: &Value) -> bool {
    schema["properties"].is_object()
}

/// GitHub's anchor of a heading.
fn anchor(heading: &str) -> String {
    heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

/// A number, short.
fn number(value: &Value) -> String {
    let float = value.as_f64().unwrap_or_default();
    if float.abs() >= 1e5 || (float != 0.0 && float.abs() < 1e-4) { format!("{float:e}") } else { value.to_string() }
}

fn range(value: &Value) -> String {
    let least = value.get("minimum").map(number);
    let above = value.get("exclusiveMinimum").map(|least| format!("above {}", number(least)));
    // The largest number below 1 that a range names.
    let most = value.get("maximum").map(number).map(|most| most.replace("0.999999999", "below 1"));
    match (above.or(least), most) {
        (Some(least), Some(most)) if least.starts_with("above") => format!(", {least}, at most {most}"),
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (Some(least), None) if least.starts_with("above") => format!(", {least}"),
        (Some(least), None) => format!(", at least {least}"),
        (None, Some(most)) => format!(", at most {most}"),
        (None, None) => String::new(),
    }
}

/// A value as TOML has it in one line.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("[{}]", list.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(table) if table.is_empty() => "{}".into(),
        Value::Object(table) => {
            let entries: Vec<String> = table.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::Number(_) => number(value),
        other => other.to_string(),
    }
}
