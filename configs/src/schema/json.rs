//! The JSON Schema that the types define: what validation reads, and what editors complete from.

use std::sync::LazyLock;

use serde_json::Value;

use crate::RunConfig;

/// The schema of [`RunConfig`], as in `configs/schema.json`.
pub fn schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| schemars::schema_for!(RunConfig).to_value());
    &SCHEMA
}

/// A schema without its references and its "or nothing".
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// What the value must be.
    pub schema: &'a Value,
    /// Whether it may be left empty.
    pub optional: bool,
}

impl<'a> Rule<'a> {
    /// Follows references and takes the one alternative that is not null, if there is one.
    pub fn of(mut schema: &'a Value) -> Self {
        let mut optional = false;
        loop {
            if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
                let name = reference.trim_start_matches("#/$defs/");
                schema = &self::schema()["$defs"][name];
            } else if let Some(Value::Array(alternatives)) = schema.get("anyOf") {
                let some: Vec<&Value> =
                    alternatives.iter().filter(|schema| schema["type"] != "null").collect();
                optional |= some.len() < alternatives.len();
                match some[..] {
                    [one] => schema = one,
                    _ => return Self { schema, optional },
                }
            } else {
                let nullable = schema["type"].as_array();
                optional |= nullable.is_some_and(|types| types.iter().any(|name| name == "null"));
                return Self { schema, optional };
            }
        }
    }

    /// `integer`, `number`, `string`, `boolean`, `array` or `object`; none for a choice.
    pub fn type_name(&self) -> Option<&'a str> {
        match &self.schema["type"] {
            Value::Array(types) => types.iter().filter_map(Value::as_str).find(|&t| t != "null"),
            name => name.as_str(),
        }
    }

    /// What the value may be instead of one thing: a scalar or a map.
    pub fn alternatives(&self) -> impl Iterator<Item = Self> + use<'a> {
        let alternatives = self.schema["anyOf"].as_array().into_iter().flatten();
        alternatives.map(Self::of).filter(|rule| rule.schema["type"] != "null")
    }

    /// The choices: words, and keys of one-key maps with what stands under them.
    pub fn choices(&self) -> Option<Vec<Choice<'a>>> {
        let alternatives = self.schema.get("oneOf")?.as_array()?;
        let choices = alternatives.iter().flat_map(|alternative| {
            let word = alternative["const"].as_str().map(Choice::Word);
            let words = alternative["enum"].as_array().into_iter().flatten();
            let keys = alternative["properties"].as_object().into_iter().flatten();
            word.into_iter()
                .chain(words.filter_map(Value::as_str).map(Choice::Word))
                .chain(keys.map(|(key, schema)| Choice::Key(key, schema)))
        });
        Some(choices.collect())
    }

    /// A struct's keys.
    pub fn properties(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.schema["properties"].as_object().into_iter().flatten()
    }

    /// Whether a struct cannot do without `key`.
    pub fn requires(&self, key: &str) -> bool {
        let required = self.schema["required"].as_array();
        required.is_some_and(|keys| keys.iter().any(|required| required == key))
    }

    /// What is allowed, in words.
    pub fn words(&self) -> String {
        if let Some(choices) = self.choices() {
            let choices: Vec<String> = choices.iter().map(Choice::words).collect();
            return match choices.len() {
                1 => choices.concat(),
                _ => format!("one of {}", choices.join(" | ")),
            };
        }
        let alternatives: Vec<String> = self.alternatives().map(|rule| rule.words()).collect();
        if !alternatives.is_empty() {
            return alternatives.join(", or ");
        }
        match self.type_name() {
            Some("integer") => format!("a whole number{}", self.range()),
            Some("number") => format!("a number{}", self.range()),
            Some("string") => "text".into(),
            Some("boolean") => "true or false".into(),
            Some("array") => {
                let item = Self::of(&self.schema["items"]);
                let count = match &self.schema["minItems"] {
                    Value::Null => String::new(),
                    count => format!("{count} "),
                };
                let items = match item.type_name() {
                    Some("integer") => "whole numbers",
                    Some("number") => "numbers",
                    _ => "values",
                };
                format!("a list of {count}{items}")
            }
            _ => {
                let keys: Vec<&str> = self.properties().map(|(key, _)| key.as_str()).collect();
                format!("a map of {}", keys.join(" | "))
            }
        }
    }

    fn range(&self) -> String {
        let bound = |name: &str| self.schema.get(name).and_then(Value::as_f64);
        match (bound("minimum"), bound("maximum")) {
            (Some(least), Some(most)) => format!(" from {least} to {most}"),
            (Some(least), None) => format!(" of at least {least}"),
            (None, Some(most)) => format!(" of at most {most}"),
            (None, None) => String::new(),
        }
    }
}

/// One of several choices.
#[derive(Debug, Clone, Copy)]
pub enum Choice<'a> {
    /// A word.
    Word(&'a str),
    /// The one key of a map, and the schema of its value.
    Key(&'a str, &'a Value),
}

impl Choice<'_> {
    /// The word or the key.
    pub fn name(&self) -> &str {
        match self {
            Self::Word(name) | Self::Key(name, _) => name,
        }
    }

    /// As it is written.
    pub fn words(&self) -> String {
        match self {
            Self::Word(word) => (*word).into(),
            Self::Key(key, _) => format!("{{{key}: ...}}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Editors read the file; the types are the definition.
    #[test]
    fn the_committed_schema_is_that_of_the_types() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.json");
        let committed = std::fs::read_to_string(path).unwrap();
        assert!(
            committed == format!("{:#}\n", schema()),
            "configs/schema.json is stale; write it anew with\n  \
             cargo run -p tandem-config --example schema > configs/schema.json"
        );
    }

    /// The walk over the schema knows these forms and no others.
    #[test]
    fn the_schema_has_only_forms_that_validation_knows() {
        fn check(schema: &Value) {
            let rule = Rule::of(schema);
            if let Some(choices) = rule.choices() {
                assert!(!choices.is_empty(), "{schema}");
                for choice in choices {
                    if let Choice::Key(_, schema) = choice {
                        check(schema);
                    }
                }
                return;
            }
            if rule.alternatives().next().is_some() {
                let names: Vec<_> = rule.alternatives().map(|rule| rule.type_name()).collect();
                assert!(matches!(names[..], [Some("integer"), Some("object")]), "{schema}");
                rule.alternatives().for_each(|rule| check(rule.schema));
                return;
            }
            match rule.type_name() {
                Some("array") => check(&rule.schema["items"]),
                Some("object") => {
                    assert_eq!(rule.schema["additionalProperties"], false, "{schema}");
                    rule.properties().for_each(|(_, schema)| check(schema));
                }
                Some("integer" | "number" | "string" | "boolean") => {}
                _ => panic!("unknown form: {schema}"),
            }
        }
        check(schema());
    }

    #[test]
    fn every_key_is_explained() {
        fn check(schema: &Value, path: &str) {
            if let Some(properties) = schema["properties"].as_object() {
                for (key, property) in properties {
                    // The key of a choice is explained by the choice.
                    let explained =
                        property.get("description").or_else(|| schema.get("description"));
                    assert!(explained.is_some(), "{path}.{key} has no description");
                    check(property, &format!("{path}.{key}"));
                }
            }
            for (index, choice) in schema["oneOf"].as_array().into_iter().flatten().enumerate() {
                check(choice, &format!("{path}[{index}]"));
            }
            for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
                check(definition, name);
            }
        }
        check(schema(), "");
    }
}
