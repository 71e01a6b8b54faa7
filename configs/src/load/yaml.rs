//! A YAML tree with the line and column of every key and value.
//!
//! The structure and the places are from saphyr-parser, the values of scalars from serde_yaml.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};
use serde_json::Value;

use crate::load::problem::{Place, Problem, ProblemKind};

/// The deepest nesting that is accepted; the schema needs a dozen levels.
const MAX_DEPTH: usize = 64;
/// The most nodes that are accepted, since aliases of aliases could otherwise exhaust memory.
const MAX_NODES: usize = 100_000;

/// The key with which a map merges another's entries.
const MERGE: &str = "<<";

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// The start of the value.
    pub place: Place,
    /// The value.
    pub content: Content,
}

/// The content of a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// Null, a boolean, a number or a string.
    Scalar {
        /// The parsed value.
        value: Value,
        /// The text in the file.
        text: String,
    },
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the file.
    Map(Vec<Entry>),
}

/// An entry of a map.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// The key.
    pub key: String,
    /// The place of the key.
    pub place: Place,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// An empty map.
    pub(super) fn map(place: Place) -> Self {
        Self { place, content: Content::Map(Vec::new()) }
    }

    /// Whether the value is null.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { value: Value::Null, .. })
    }

    /// The entry of `key`, if this is a map that has it.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The value without places. Of duplicate keys, the first one counts.
    pub(super) fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar { value, .. } => value.clone(),
            Content::List(items) => items.iter().map(Node::to_value).collect(),
            Content::Map(entries) => {
                let mut map = serde_json::Map::new();
                for entry in entries {
                    if !map.contains_key(&entry.key) {
                        map.insert(entry.key.clone(), entry.value.to_value());
                    }
                }
                Value::Object(map)
            }
        }
    }

    /// The place of the key at a path like `training.betas[1]`, or of the nearest one above it.
    pub(super) fn place_of(&self, path: &str) -> Place {
        let mut node = self;
        let mut place = self.place;
        for key in path.split('.') {
            let (name, indices) = key.split_once('[').unwrap_or((key, ""));
            let Some(entry) = node.entry(name) else { break };
            (node, place) = (&entry.value, entry.place);
            for index in indices.split_terminator(']') {
                let index = index.trim_start_matches('[').parse().unwrap_or(usize::MAX);
                let Content::List(items) = &node.content else { break };
                let Some(item) = items.get(index) else { break };
                (node, place) = (item, item.place);
            }
        }
        place
    }

    /// Moves the whole tree to one place.
    pub(super) fn move_to(&mut self, place: Place) {
        self.place = place;
        match &mut self.content {
            Content::Scalar { .. } => {}
            Content::List(items) => items.iter_mut().for_each(|item| item.move_to(place)),
            Content::Map(entries) => {
                for entry in entries {
                    entry.place = place;
                    entry.value.move_to(place);
                }
            }
        }
    }
}

/// Parses the single document of a text; `None` if it is empty.
///
/// Duplicate keys and the like are added to `problems`.
///
/// # Errors
/// A text that is not YAML, with the place of the error.
pub(super) fn parse(text: &str, problems: &mut Vec<Problem>) -> Result<Option<Node>, Box<Problem>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder { problems, open: Vec::new(), anchors: HashMap::new(), nodes: 0 };
    let mut root = None;
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| {
            let message = format!("not YAML: {}{}", error.info(), hint(text, &error));
            unreadable(*error.marker(), message)
        })?;
        if let Some(node) = builder.event(event, span)? {
            if root.is_some() {
                let message = "a second document, a run file has one".to_owned();
                return Err(unreadable(span.start, message));
            }
            root = Some(node);
        }
    }
    Ok(root)
}

/// A hint on the most common mistakes, if one of them is likely.
fn hint(text: &str, error: &ScanError) -> &'static str {
    let line = text.lines().nth(error.marker().line().saturating_sub(1)).unwrap_or("");
    let indentation = &line[..line.len() - line.trim_start().len()];
    if indentation.contains('\t') {
        ", indent with spaces instead of tabs"
    } else if error.info().contains("quoted scalar") {
        ", is a closing quote missing?"
    } else if error.info().contains("mapping values") {
        ", text with `: ` in it needs quotes"
    } else {
        ""
    }
}

fn place(marker: Marker) -> Place {
    Place::File { line: marker.line(), column: marker.col() + 1 }
}

fn unreadable(marker: Marker, message: String) -> Box<Problem> {
    Box::new(Problem {
        kind: ProblemKind::Unreadable,
        place: place(marker),
        path: String::new(),
        message,
    })
}

/// Builds a tree from the parser's events.
struct Builder<'a> {
    problems: &'a mut Vec<Problem>,
    /// Collections that are not closed yet, outermost first.
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

/// A list or map that is not closed yet.
struct Open {
    node: Node,
    anchor: usize,
    /// A map's key whose value is still to come.
    key: Option<(String, Place)>,
}

impl Builder<'_> {
    /// Processes an event, and returns the document's root when it is complete.
    fn event(&mut self, event: Event, span: Span) -> Result<Option<Node>, Box<Problem>> {
        let (content, anchor, tag) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let nothing = span.is_empty() && style == ScalarStyle::Plain;
                (scalar(if nothing { "" } else { &text }, style), anchor, tag)
            }
            Event::SequenceStart(anchor, tag) => (Content::List(Vec::new()), anchor, tag),
            Event::MappingStart(anchor, tag) => (Content::Map(Vec::new()), anchor, tag),
            Event::SequenceEnd | Event::MappingEnd => {
                self.merge();
                return match self.open.pop() {
                    Some(open) => self.complete(open.node, open.anchor, span),
                    None => Ok(None),
                };
            }
            Event::Alias(anchor) => {
                return match self.anchors.get(&anchor).cloned() {
                    Some(node) => self.complete(node, 0, span),
                    None => {
                        Err(unreadable(span.start, "an alias inside its own anchor".to_owned()))
                    }
                };
            }
            _ => return Ok(None),
        };
        if tag.is_some() {
            let message = "a YAML tag (`!...`), run files have none: write choices as \
                           one-key maps such as `bert: {...}`";
            return Err(unreadable(span.start, message.to_owned()));
        }
        let mut node = Node { place: place(span.start), content };
        if matches!(node.content, Content::Scalar { .. }) {
            // An empty value has no place of its own, so it gets its key's.
            if let Some((_, place)) = self.open.last().and_then(|open| open.key.as_ref())
                && node.is_null()
                && span.is_empty()
            {
                node.place = *place;
            }
            return self.complete(node, anchor, span);
        }
        if self.open.len() == MAX_DEPTH {
            let message = format!("nested deeper than {MAX_DEPTH} levels");
            return Err(unreadable(span.start, message));
        }
        self.open.push(Open { node, anchor, key: None });
        Ok(None)
    }

    /// Merges the entries of a `<<` into the innermost open map, except for keys that it has already.
    fn merge(&mut self) {
        let Some(Open { node: Node { content: Content::Map(entries), .. }, .. }) =
            self.open.last_mut()
        else {
            return;
        };
        let Some(index) = entries.iter().position(|entry| entry.key == MERGE) else { return };
        let Entry { place, value, .. } = entries.remove(index);
        let sources = match value.content {
            Content::List(items) => items,
            _ => vec![value],
        };
        for source in sources {
            let Content::Map(named) = source.content else {
                let message = "must be a map that has a name, as in `<<: *name`, or a list of such";
                let (message, path) = (message.to_owned(), path(&self.open, MERGE));
                self.problems.push(Problem { kind: ProblemKind::Schema, place, path, message });
                return;
            };
            for entry in named {
                if entries.iter().all(|own| own.key != entry.key) {
                    entries.push(entry);
                }
            }
        }
    }

    /// Adds a complete node to the innermost open collection.
    fn complete(
        &mut self,
        node: Node,
        anchor: usize,
        span: Span,
    ) -> Result<Option<Node>, Box<Problem>> {
        self.nodes += size(&node);
        if self.nodes > MAX_NODES {
            return Err(unreadable(span.start, format!("more than {MAX_NODES} values")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else { return Ok(Some(node)) };
        match (&mut open.node.content, open.key.take()) {
            (Content::List(items), _) => items.push(node),
            (Content::Map(entries), Some((key, place))) => {
                if let Some(Place::File { line, .. }) =
                    entries.iter().find(|entry| entry.key == key).map(|entry| entry.place)
                {
                    let path = path(&self.open, &key);
                    let message = format!("given twice, first on line {line}, remove one");
                    self.problems.push(Problem { kind: ProblemKind::Schema, place, path, message });
                } else {
                    entries.push(Entry { key, place, value: node });
                }
            }
            (Content::Map(_), None) => match node.content {
                Content::Scalar { text, .. } => open.key = Some((text, node.place)),
                _ => {
                    let message = "a key that is a list or a map, keys are words".to_owned();
                    return Err(unreadable(span.start, message));
                }
            },
            (Content::Scalar { .. }, _) => unreachable!("only lists and maps are ever open"),
        }
        Ok(None)
    }
}

/// The path of `key` in the innermost open map.
fn path(open: &[Open], key: &str) -> String {
    let mut path = String::new();
    for open in &open[..open.len() - 1] {
        match (&open.node.content, &open.key) {
            (Content::List(items), _) => path += &format!("[{}]", items.len()),
            (_, Some((key, _))) => path = join(&path, key),
            _ => {}
        }
    }
    join(&path, key)
}

/// `path.key`; `path` or `key` alone if the other is empty.
pub(super) fn join(path: &str, key: &str) -> String {
    match (path.is_empty(), key.is_empty()) {
        (true, _) => key.to_owned(),
        (_, true) => path.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

/// A null value.
pub(super) fn nothing(place: Place) -> Node {
    Node { place, content: Content::Scalar { value: Value::Null, text: String::new() } }
}

fn size(node: &Node) -> usize {
    match &node.content {
        Content::Scalar { .. } => 1,
        Content::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Content::Map(entries) => 1 + entries.iter().map(|entry| size(&entry.value)).sum::<usize>(),
    }
}

/// The value of a scalar: quoted ones are strings, plain ones are parsed by serde_yaml.
fn scalar(text: &str, style: ScalarStyle) -> Content {
    let plain = match style {
        ScalarStyle::Plain => serde_yaml::from_str(text).ok(),
        _ => None,
    };
    let value = match plain {
        Some(serde_yaml::Value::Null) => Value::Null,
        Some(serde_yaml::Value::Bool(value)) => Value::Bool(value),
        Some(serde_yaml::Value::Number(number)) => {
            // `.nan` and `.inf` stay strings: no number of a run may be infinite.
            let integer = number.as_u64().map(Value::from).or(number.as_i64().map(Value::from));
            integer.or(number.as_f64().and_then(finite)).unwrap_or_else(|| text.into())
        }
        // serde_yaml does not parse integers beyond 64 bits as numbers.
        None if style == ScalarStyle::Plain => {
            text.parse().ok().and_then(finite).unwrap_or_else(|| text.into())
        }
        _ => text.into(),
    };
    Content::Scalar { value, text: text.to_owned() }
}

fn finite(number: f64) -> Option<Value> {
    serde_json::Number::from_f64(number).map(Value::Number)
}
