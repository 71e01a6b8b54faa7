//! Builds events, since `tensorboard-rs` lacks texts and hyperparameters.

use std::time::{SystemTime, UNIX_EPOCH};

use protobuf::well_known_types::Value as ProtoValue;
use protobuf::{Message, RepeatedField};
use tensorboard_proto::event::{Event, SessionLog, SessionLog_SessionStatus};
use tensorboard_proto::plugin_hparams::HParamsPluginData;
use tensorboard_proto::summary::{Summary, Summary_Value};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::types::DataType;

/// The tag of a run's hyperparameters.
pub(super) const HPARAMS_TAG: &str = "_hparams_/session_start_info";

/// The first event of every file.
pub(super) fn file_version() -> Event {
    let mut event = event(0);
    event.set_file_version("brain.Event:2".to_owned());
    event
}

/// Makes TensorBoard drop the points from `first_step` on that it has read so far.
pub(super) fn session_start(first_step: u64) -> Event {
    let mut session = SessionLog::new();
    session.set_status(SessionLog_SessionStatus::START);
    let mut event = event(first_step);
    event.set_session_log(session);
    event
}

/// A point of a curve.
pub(super) fn scalar(tag: &str, step: u64, value: f64) -> Event {
    let mut event = event(step);
    event.set_summary(tensorboard_rs::summary::scalar(tag, value as f32));
    event
}

/// A text, shown as Markdown under TEXT.
pub(super) fn text(tag: &str, step: u64, text: &str) -> Event {
    let mut value = Summary_Value::new();
    value.set_tag(tag.to_owned());
    value.mut_metadata().mut_plugin_data().set_plugin_name("text".to_owned());
    let mut tensor = TensorProto::new();
    tensor.set_dtype(DataType::DT_STRING);
    tensor.mut_tensor_shape(); // no dimensions; with one, TensorBoard draws a table around the text
    tensor.mut_string_val().push(text.as_bytes().to_vec());
    value.set_tensor(tensor);
    summary(step, value)
}

/// The keys of a run's config, such as `training.steps`, shown under HPARAMS.
pub(super) fn hparams(yaml: &str) -> Event {
    let mut plugin = HParamsPluginData::new();
    let session = plugin.mut_session_start_info();
    session.set_start_time_secs(wall_time());
    if let Ok(config) = serde_yaml::from_str::<serde_yaml::Value>(yaml) {
        add_keys(&config, "", &mut |key, value| {
            session.mut_hparams().insert(key, value);
        });
    }
    let mut value = Summary_Value::new();
    value.set_tag(HPARAMS_TAG.to_owned());
    let data = value.mut_metadata().mut_plugin_data();
    data.set_plugin_name("hparams".to_owned());
    data.set_content(bytes(&plugin));
    summary(0, value)
}

/// Calls `add` for each leaf under `value`, which is at `path`.
fn add_keys(value: &serde_yaml::Value, path: &str, add: &mut impl FnMut(String, ProtoValue)) {
    let mut proto = ProtoValue::new();
    match value {
        serde_yaml::Value::Mapping(entries) => {
            for (key, value) in entries {
                let key = key.as_str().map_or_else(|| plain(key), str::to_owned);
                let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                add_keys(value, &path, add);
            }
            return;
        }
        serde_yaml::Value::Bool(value) => proto.set_bool_value(*value),
        serde_yaml::Value::Number(value) => proto.set_number_value(value.as_f64().unwrap_or(0.0)),
        serde_yaml::Value::String(value) => proto.set_string_value(value.clone()),
        other => proto.set_string_value(plain(other)),
    }
    add(path.to_owned(), proto);
}

/// Formats a value on one line.
fn plain(value: &serde_yaml::Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn summary(step: u64, value: Summary_Value) -> Event {
    let mut summary = Summary::new();
    summary.set_value(RepeatedField::from_vec(vec![value]));
    let mut event = event(step);
    event.set_summary(summary);
    event
}

fn event(step: u64) -> Event {
    let mut event = Event::new();
    event.set_wall_time(wall_time());
    event.set_step(i64::try_from(step).unwrap_or(i64::MAX));
    event
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64())
}

/// Serializes `message`.
pub(super) fn bytes(message: &impl Message) -> Vec<u8> {
    message.write_to_bytes().expect("proto3 has no required fields, and memory takes all bytes")
}
