//! What `tandem-worker check-gpu` finds out about one GPU, for people and for `tandem doctor`.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One GPU: what it is, whether its numbers are right, and how fast it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuReport {
    /// The GPU, and the libraries that it is used with.
    pub system: System,
    /// The comparisons with the CPU.
    pub checks: Vec<Check>,
    /// What was timed.
    pub measurements: Vec<Measurement>,
}

/// A GPU, and the libraries that it is used with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// The GPU; none where the CPU stands in for it, in tests.
    pub card: Option<Card>,
    /// libtorch's version.
    pub libtorch: String,
    /// The CUDA that libtorch was built with, as 1000 · major + 10 · minor; 0 for none.
    pub cuda: i32,
    /// NCCL's version, if it can be used.
    pub nccl: Option<String>,
    /// The file that it was loaded from.
    #[serde(default)]
    pub nccl_file: Option<PathBuf>,
}

/// A GPU and its driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Its name.
    pub name: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Major and minor number of its compute capability.
    pub compute_capability: [i32; 2],
    /// The version of the driver, if the system reports it.
    pub driver: Option<String>,
    /// The newest CUDA that the driver serves, as 1000 · major + 10 · minor.
    pub driver_cuda: i32,
}

/// A comparison.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was compared.
    pub name: String,
    /// Whether the error is within its bound.
    pub ok: bool,
    /// What kind of error it is.
    pub measure: String,
    /// The error; none where it is not finite.
    pub error: Option<f64>,
    /// Where it was found, if what was compared has parts.
    pub place: Option<String>,
    /// The largest error that passes.
    pub bound: f64,
}

/// Something that was timed or counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// What was measured.
    pub name: String,
    /// How much it was.
    pub value: f64,
    /// Of what.
    pub unit: String,
}

impl GpuReport {
    /// The names of the checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &str> {
        self.checks.iter().filter(|check| !check.ok).map(|check| check.name.as_str())
    }
}

impl Check {
    /// The comparison called `name`, with an error that must be finite and at most `bound`.
    pub fn new(name: &str, measure: &str, error: f64, bound: f64) -> Self {
        Self {
            name: name.into(),
            ok: error <= bound,
            measure: measure.into(),
            error: error.is_finite().then_some(error),
            place: None,
            bound,
        }
    }

    /// The same, with where the error was found.
    pub fn at(self, place: impl Into<String>) -> Self {
        Self { place: Some(place.into()), ..self }
    }
}

/// A version of CUDA, from 1000 · major + 10 · minor.
pub fn cuda_version(code: i32) -> String {
    format!("{}.{}", code / 1000, code % 1000 / 10)
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.card {
            Some(card) => writeln!(f, "{card}")?,
            None => writeln!(f, "     card: none, the CPU stands in for it")?,
        }
        let cuda = match self.cuda {
            0 => "without CUDA".into(),
            code => format!("with CUDA {}", cuda_version(code)),
        };
        writeln!(f, "     libtorch: {}, {cuda}", self.libtorch)?;
        write!(f, "     NCCL: {}", self.nccl.as_deref().unwrap_or("none that can be used"))?;
        match &self.nccl_file {
            Some(file) => write!(f, ", {}", file.display()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([major, minor], memory) = (self.compute_capability, self.memory >> 20);
        writeln!(f, "     card: {}, {memory} MiB, compute capability {major}.{minor}", self.name)?;
        let driver = self.driver.as_deref().unwrap_or("of unknown version");
        write!(f, "     driver: {driver}, serves CUDA {}", cuda_version(self.driver_cuda))
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, measure, bound, .. } = self;
        write!(f, "{} {name}: {measure} ", if self.ok { "ok  " } else { "FAIL" })?;
        match self.error {
            Some(error) => write!(f, "{}", short(error))?,
            None => f.write_str("that is not finite")?,
        }
        if let Some(place) = &self.place {
            write!(f, " ({place})")?;
        }
        write!(f, ", bound {}", short(*bound))
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, unit } = self;
        let decimals = match *value {
            value if value == value.trunc() => 0,
            value if value < 10.0 => 2,
            value => usize::from(value < 100.0),
        };
        write!(f, "     {name}: {value:.decimals$} {unit}")
    }
}

/// Two digits of an error.
fn short(error: f64) -> String {
    if error == error.trunc() && error.abs() < 1e6 {
        return format!("{error}");
    }
    format!("{error:.1e}").replace(".0e", "e")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_are_not_finite_fail_and_survive_json() {
        for error in [f64::NAN, f64::INFINITY] {
            let check = Check::new("loss, f32", "relative error", error, 1e-4);
            assert!(!check.ok);
            let text = serde_json::to_string(&check).unwrap();
            assert_eq!(serde_json::from_str::<Check>(&text).unwrap(), check);
        }
    }

    #[test]
    fn lines_tell_all_that_was_found() {
        let check = Check::new("gradients, f32", "largest relative error", 3.24e-6, 1e-4);
        assert_eq!(
            check.at("decoder.layer.1.cross_attention.key.weight").to_string(),
            "ok   gradients, f32: largest relative error 3.2e-6 \
             (decoder.layer.1.cross_attention.key.weight), bound 1e-4"
        );
        let broken = Check::new("loss, f32", "relative error", f64::NAN, 1e-4);
        assert_eq!(
            broken.to_string(),
            "FAIL loss, f32: relative error that is not finite, bound 1e-4"
        );
        let measured = |value| Measurement { name: "x".into(), value, unit: "GB/s".into() };
        assert_eq!(measured(789.6).to_string(), "     x: 790 GB/s");
        assert_eq!(measured(25.04).to_string(), "     x: 25.0 GB/s");
        assert_eq!(measured(4.0).to_string(), "     x: 4 GB/s");
        assert_eq!(measured(2.5).to_string(), "     x: 2.50 GB/s");
    }
}
