//! Compares a YAML tree with the schema, and reports all differences at once.

use serde_json::Value;

use crate::load::problem::{Place, Problem, ProblemKind};
use crate::load::yaml::{Content, Entry, Node, join};
use crate::schema::json::{Choice, Rule};

/// Adds everything in `node` that `schema` does not allow to `problems`.
pub(super) fn compare(node: &Node, schema: &Value, problems: &mut Vec<Problem>) {
    Comparison { problems }.value(node, node.place, Rule::of(schema), "");
}

struct Comparison<'a> {
    problems: &'a mut Vec<Problem>,
}

impl Comparison<'_> {
    fn report(&mut self, place: Place, path: &str, message: String) {
        self.problems.push(Problem {
            kind: ProblemKind::Schema,
            place,
            path: path.into(),
            message,
        });
    }

    /// `owner` is the place of the key whose value `node` is; missing keys are reported there.
    fn value(&mut self, node: &Node, owner: Place, rule: Rule, path: &str) {
        if node.is_null() && rule.optional {
            return;
        }
        if let Some(choices) = rule.choices() {
            return self.choice(node, rule, &choices, path);
        }
        let suits = |one: &Rule| match (&node.content, one.type_name()) {
            (Content::Map(_), name) => name == Some("object"),
            (Content::Scalar { value, .. }, Some(name)) => fits(name, value, *one),
            _ => false,
        };
        if let Some(one) = rule.alternatives().find(suits) {
            return self.value(node, owner, one, path);
        }
        match (rule.type_name(), &node.content) {
            (Some("object"), Content::Map(entries)) => self.map(node, entries, owner, rule, path),
            (Some("array"), Content::List(items)) => self.list(node, items, rule, path),
            (Some(name), Content::Scalar { value, .. }) if fits(name, value, rule) => {}
            _ => self.mismatch(node, rule, path),
        }
    }

    /// Reports what was found and what is allowed.
    fn mismatch(&mut self, node: &Node, rule: Rule, path: &str) {
        let meant = match &node.content {
            Content::Scalar { value, text } => {
                let mut rules = std::iter::once(rule).chain(rule.alternatives());
                rules.find_map(|rule| meant(value, text, rule))
            }
            _ => None,
        };
        let message =
            format!("{}, must be {}{}", found(node), rule.words(), did_you_mean(meant.as_deref()));
        self.report(node.place, path, message);
    }

    fn map(&mut self, node: &Node, entries: &[Entry], owner: Place, rule: Rule, path: &str) {
        for entry in entries {
            let path = join(path, &entry.key);
            match rule.properties().find(|(key, _)| **key == entry.key) {
                Some((_, schema)) => self.value(&entry.value, entry.place, Rule::of(schema), &path),
                None => {
                    let keys: Vec<&str> = rule.properties().map(|(key, _)| key.as_str()).collect();
                    let meant = nearest(&entry.key, &keys).map(str::to_owned);
                    let meant = meant.or_else(|| elsewhere(&entry.key));
                    let allowed = keys.join(" | ");
                    let message = format!(
                        "unknown key, allowed: {allowed}{}",
                        did_you_mean(meant.as_deref())
                    );
                    self.report(entry.place, &path, message);
                }
            }
        }
        for (key, schema) in rule.properties() {
            if rule.requires(key) && node.entry(key).is_none() {
                let message = format!("missing, must be {}", Rule::of(schema).words());
                self.report(owner, &join(path, key), message);
            }
        }
    }

    fn list(&mut self, node: &Node, items: &[Node], rule: Rule, path: &str) {
        let count = rule.schema["minItems"].as_u64();
        if count.is_some_and(|count| count != items.len() as u64) {
            self.mismatch(node, rule, path);
        }
        let rule = Rule::of(&rule.schema["items"]);
        for (index, item) in items.iter().enumerate() {
            self.value(item, item.place, rule, &format!("{path}[{index}]"));
        }
    }

    fn choice(&mut self, node: &Node, rule: Rule, choices: &[Choice], path: &str) {
        let names: Vec<&str> = choices.iter().map(Choice::name).collect();
        match &node.content {
            Content::Scalar { value: Value::String(word), .. } => {
                if choices.iter().any(|choice| matches!(choice, Choice::Word(own) if own == word)) {
                    return;
                }
                let meant = nearest(word, &names);
                let meant = choices.iter().find(|choice| Some(choice.name()) == meant);
                let meant = meant.map(Choice::words);
                let message = format!(
                    "found the text `{word}`, must be {}{}",
                    rule.words(),
                    did_you_mean(meant.as_deref())
                );
                self.report(node.place, path, message);
            }
            Content::Map(entries) if entries.len() == 1 => {
                let Entry { key, place, value } = &entries[0];
                let own = choices.iter().find_map(|choice| match choice {
                    Choice::Key(name, schema) if name == key => Some(*schema),
                    _ => None,
                });
                match own {
                    Some(schema) => self.value(value, *place, Rule::of(schema), &join(path, key)),
                    None => {
                        let message = format!(
                            "unknown choice, must be {}{}",
                            rule.words(),
                            did_you_mean(nearest(key, &names))
                        );
                        self.report(*place, &join(path, key), message);
                    }
                }
            }
            Content::Map(entries) if entries.len() > 1 => {
                let (chosen, other) = (&entries[0], &entries[1]);
                let message = match (chosen.place, other.place) {
                    (Place::File { .. }, Place::Override(_)) if names.contains(&&*other.key) => {
                        format!(
                            "`{}` is chosen; to choose `{other}` instead, set all of it: \
                         {path}='{{{other}: {{...}}}}'",
                            chosen.key,
                            other = other.key
                        )
                    }
                    _ => {
                        let keys: Vec<String> =
                            entries.iter().map(|entry| format!("`{}`", entry.key)).collect();
                        let (count, keys) = (keys.len(), keys.join(", "));
                        format!("found {count} choices ({keys}), must be {}", rule.words())
                    }
                };
                self.report(other.place, path, message);
            }
            _ => self.mismatch(node, rule, path),
        }
    }
}

/// Whether a scalar is of the type `name` and in range.
fn fits(name: &str, value: &Value, rule: Rule) -> bool {
    let of_type = match name {
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        _ => false,
    };
    let bound = |name: &str| rule.schema.get(name).and_then(Value::as_f64);
    of_type
        && value.as_f64().is_none_or(|number| {
            bound("minimum").is_none_or(|least| number >= least)
                && bound("maximum").is_none_or(|most| number <= most)
        })
}

/// Describes a value.
fn found(node: &Node) -> String {
    match &node.content {
        Content::Scalar { value: Value::Null, .. } => "found nothing".into(),
        Content::Scalar { value: Value::String(text), .. } => format!("found the text `{text}`"),
        Content::Scalar { text, .. } => format!("found {text}"),
        Content::List(items) if items.is_empty() => "found an empty list".into(),
        Content::List(items) => format!("found a list of {}", items.len()),
        Content::Map(entries) if entries.is_empty() => "found an empty map".into(),
        Content::Map(entries) => {
            let keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
            format!("found a map of {}", keys.join(" | "))
        }
    }
}

/// The value of the right type that was probably intended.
fn meant(value: &Value, text: &str, rule: Rule) -> Option<String> {
    let meant = match (rule.type_name()?, value) {
        ("boolean", Value::String(word)) => match word.to_lowercase().as_str() {
            "yes" | "on" => "true".into(),
            "no" | "off" => "false".into(),
            _ => return None,
        },
        ("integer" | "number", Value::String(text)) => {
            let plain = text.replace(['_', ' '], "");
            let value: Value = serde_yaml::from_str(&plain).ok()?;
            return fits(rule.type_name()?, &value, rule).then_some(plain);
        }
        ("integer", Value::Number(number)) => {
            let number = number.as_f64().filter(|number| number.fract() == 0.0)?;
            let whole = format!("{number}");
            let value = Value::from(whole.parse::<i64>().ok()?);
            return (whole != text && fits("integer", &value, rule)).then_some(whole);
        }
        ("string", Value::Number(_) | Value::Bool(_)) => format!("\"{text}\""),
        // All keys of the section have defaults.
        ("object", Value::Null) if rule.schema["required"].is_null() => "{}".into(),
        _ => return None,
    };
    Some(meant)
}

/// The known word with the smallest edit distance to `word`, if that is less than a third of its letters or one
/// is a prefix of the other.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |word: &str| word.replace(['-', ' '], "_").to_lowercase();
    let word = plain(word);
    let distance = |other: &str| strsim::damerau_levenshtein(&word, &plain(other));
    let close = |other: &&&str| {
        let (short, long) = (word.len().min(other.len()), word.len().max(other.len()));
        let begins = other.starts_with(&word) || word.starts_with(**other);
        3 * distance(other) < long || (begins && short >= 3)
    };
    known.iter().filter(close).min_by_key(|other| distance(other)).copied()
}

/// The full path of a key of this name in another part of the schema.
fn elsewhere(key: &str) -> Option<String> {
    fn search(rule: Rule, key: &str, path: &str) -> Option<String> {
        let keys: Vec<(&str, &Value)> = match rule.choices() {
            Some(choices) => choices
                .iter()
                .filter_map(|choice| match *choice {
                    Choice::Key(name, schema) => Some((name, schema)),
                    Choice::Word(_) => None,
                })
                .collect(),
            None => rule.properties().map(|(name, schema)| (name.as_str(), schema)).collect(),
        };
        if keys.iter().any(|(name, _)| *name == key) {
            return Some(join(path, key));
        }
        keys.iter().find_map(|(name, schema)| search(Rule::of(schema), key, &join(path, name)))
    }
    search(Rule::of(crate::schema::json::schema()), key, "")
}

fn did_you_mean(meant: Option<&str>) -> String {
    meant.map(|meant| format!(", did you mean `{meant}`?")).unwrap_or_default()
}
