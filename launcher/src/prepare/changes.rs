//! Differences between two configs of one run, and which of them matter.

use std::fmt;

use serde_json::Value;
use tandem_config::RunConfig;

/// Keys that may change between two launches of a run, since they do not change what is learnt.
const FREE_KEYS: [&str; 9] = [
    "data.allow_changed",
    "data.max_bad",
    "run",
    "cluster",
    "checkpoints",
    "evaluation",
    "decoding",
    "training.steps",
    "training.log_every",
];

/// Free keys that nevertheless change a run's scores: which model is scored, on what, and how.
const SCORED_KEYS: [&str; 5] = [
    "decoding",
    "checkpoints.every",
    "checkpoints.average",
    "evaluation.lowercase",
    "evaluation.sentences",
];

/// Free keys that change how fast a run translates.
const TIMED_KEYS: [&str; 6] = [
    "decoding",
    "cluster.workers",
    "cluster.workers_per_gpu",
    "cluster.device",
    "cluster.threads",
    "evaluation.latency_sentences",
];

/// A key with different values in two configs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    pub key: String,
    /// Its value in the older config.
    pub was: Value,
    /// Its value in the newer one.
    pub is: Value,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "`{}` {}, not {}", self.key, self.was, self.is)
    }
}

/// The first key that differs and may not, because it changes what is learnt.
pub(crate) fn bound(old: &RunConfig, new: &RunConfig) -> Option<Change> {
    difference("", &value(old), &value(new), &FREE_KEYS)
}

/// The first key that differs and makes it necessary to score the run again.
pub(crate) fn scored(old: &RunConfig, new: &RunConfig) -> Option<Change> {
    among(&SCORED_KEYS, old, new)
}

/// The first key that differs and changes the model or its speed.
pub(crate) fn timed(old: &RunConfig, new: &RunConfig) -> Option<Change> {
    bound(old, new).or_else(|| among(&TIMED_KEYS, old, new))
}

/// Whether teachers would write the same training pairs for both configs.
pub(crate) fn has_same_pairs(old: &RunConfig, new: &RunConfig) -> bool {
    let data = |config| value(config)["data"].take();
    difference("data", &data(old), &data(new), &FREE_KEYS).is_none()
}

fn among(keys: &[&str], old: &RunConfig, new: &RunConfig) -> Option<Change> {
    let (old, new) = (value(old), value(new));
    keys.iter().find_map(|key| {
        let at = |config: &Value| {
            let pointer = format!("/{}", key.replace('.', "/"));
            config.pointer(&pointer).cloned().unwrap_or(Value::Null)
        };
        difference(key, &at(&old), &at(&new), &[])
    })
}

/// Whether a key changes what a run learns or how it is scored.
pub(crate) fn is_decisive(key: &str) -> bool {
    let is_below = |key: &str, other: &str| {
        key.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let is_free = FREE_KEYS.iter().any(|free| is_below(key, free));
    !is_free
        || key == "training.steps"
        || SCORED_KEYS.iter().any(|scored| is_below(key, scored) || is_below(scored, key))
}

fn value(config: &RunConfig) -> Value {
    serde_json::to_value(config).unwrap_or_default()
}

/// The first key at or below `path` that differs, except for keys at or below one of `free`.
fn difference(path: &str, old: &Value, new: &Value, free: &[&str]) -> Option<Change> {
    if free.contains(&path) || old == new {
        return None;
    }
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            let keys = before.keys().chain(after.keys().filter(|key| !before.contains_key(*key)));
            keys.into_iter().find_map(|key| {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let of = |map: &serde_json::Map<String, Value>| {
                    map.get(key).cloned().unwrap_or(Value::Null)
                };
                difference(&below, &of(before), &of(after), free)
            })
        }
        _ => Some(Change { key: path.to_owned(), was: old.clone(), is: new.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_key_that_may_not_change_is_named() {
        let found = |old: &Value, new: &Value| {
            difference("", old, new, &FREE_KEYS).map(|change| change.to_string())
        };
        let old =
            json!({"seed": 1, "cluster": {"workers": 1}, "training": {"steps": 5, "clip": 1}});
        let free =
            json!({"seed": 1, "cluster": {"workers": 2}, "training": {"steps": 9, "clip": 1}});
        assert_eq!(found(&old, &free), None);
        let other =
            json!({"seed": 1, "cluster": {"workers": 1}, "training": {"steps": 5, "clip": 2}});
        assert_eq!(found(&old, &other).unwrap(), "`training.clip` 1, not 2");
        let more =
            json!({"seed": 1, "cluster": {}, "training": {"steps": 5, "clip": 1, "x": true}});
        assert_eq!(found(&old, &more).unwrap(), "`training.x` null, not true");
    }

    #[test]
    fn some_free_keys_change_the_score() {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/paper/iwslt14-de-en.yaml");
        let config = |set: &str| tandem_config::read(&file, &[set.into()]).unwrap().0;
        let old = config("training.log_every=10");
        let found = |set: &str| scored(&old, &config(set)).map(|change| change.key);
        for key in ["decoding.mask_predict.iterations", "checkpoints.average"] {
            assert_eq!(found(&format!("{key}=3")).as_deref(), Some(key));
        }
        for set in ["cluster.workers=3", "checkpoints.keep_last=3", "evaluation.samples=3"] {
            assert_eq!((found(set), bound(&old, &config(set))), (None, None));
        }
        assert_eq!(bound(&old, &config("seed=7")).unwrap().to_string(), "`seed` 1, not 7");
    }

    #[test]
    fn a_key_is_decisive_if_one_below_it_is() {
        for key in ["seed", "training", "training.steps", "decoding.beam_search", "evaluation"] {
            assert!(is_decisive(key), "{key}");
        }
        for key in ["cluster", "cluster.workers", "run.folder", "checkpoints.keep_last"] {
            assert!(!is_decisive(key), "{key}");
        }
    }
}
