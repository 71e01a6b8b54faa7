//! The control channel: small messages between the workers and the coordinator of a run.
//!
//! JSON lines over TCP. A worker holds a [`Session`], the coordinator a [`Server`]. Each group of
//! workers has a secret and the number of its attempt; whoever has others is refused, so that a
//! worker left over from an earlier attempt can neither report nor publish. Nothing here carries
//! tensors.

mod message;
mod server;
mod session;

pub use message::{Answer, Phase, Report, Sentence, Translated};
pub use server::{Event, Link, Server};
pub use session::{Invitation, Session, interface, world_size};

use std::io;
use std::time::Duration;

/// Time between two heartbeats.
pub const HEARTBEAT: Duration = Duration::from_millis(500);

/// Where the coordinator listens: addresses with a port, with commas between, of which one is enough.
pub const ADDRESS_VARIABLE: &str = "TANDEM_CONTROL";
/// The group's secret.
pub const SECRET_VARIABLE: &str = "TANDEM_SECRET";
/// The number of the group's attempt.
pub const ATTEMPT_VARIABLE: &str = "TANDEM_ATTEMPT";
/// What the launcher found for the workers to compute on: `cpu` or `cuda`.
pub const DEVICE_VARIABLE: &str = "TANDEM_DEVICE";
/// `1` where ranks are to measure their hosts before they load anything.
pub const PREFLIGHT_VARIABLE: &str = "TANDEM_PREFLIGHT";
/// How many workers the launcher started.
pub const WORLD_SIZE_VARIABLE: &str = "TANDEM_WORLD_SIZE";

/// After so long without a heartbeat or an acknowledgement, the other end counts as gone.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a worker has no coordinator, or lost it.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The launcher's variables are incomplete.
    #[error("{variable} is `{value}`, which is not {expected}; it is set by `tandem launch`")]
    Variable {
        /// Which one.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// Nobody listens.
    #[error("cannot reach the coordinator at {address}: {source}")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The coordinator does not want this worker.
    #[error("the coordinator at {address} refuses this worker: {reason}")]
    Refused {
        /// Where it is.
        address: String,
        /// Its words.
        reason: String,
    },
    /// Something else answered.
    #[error("the server at {address} is not a coordinator: {reason}")]
    Protocol {
        /// Where it is.
        address: String,
        /// What was wrong.
        reason: String,
    },
    /// Reports did not arrive in time.
    #[error("{waiting} reports were not acknowledged within {} s", deadline.as_secs_f64())]
    NotDelivered {
        /// How many.
        waiting: u64,
        /// How long was waited.
        deadline: Duration,
    },
}
