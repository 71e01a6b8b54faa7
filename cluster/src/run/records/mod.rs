//! The records that launcher and worker exchange, on the control channel or in the run's files.
//!
//! Those that files hold are read by later versions, too: a field that comes anew has a default, and
//! one that gets another name keeps the old one as an alias.

mod data;
mod evaluation;
mod latency;
mod memory;
pub(crate) mod number;
mod preflight;
mod training;
mod translation;

pub use data::{DataReport, Example, Problem, ProblemCount, shorten};
pub use evaluation::{EvaluationSums, TranslationSums};
pub use latency::Latency;
pub use memory::{GpuMemory, Memory};
pub use preflight::{Disk, PreflightStage, Probe};
pub use training::{StepTime, TrainingMetrics};
pub use translation::Translation;
