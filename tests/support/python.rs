//! Programs in Python, which read with other software's own readers what Tandem writes.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What a program of `tests/python` prints about its argument: one JSON object.
///
/// # Panics
/// If it fails.
pub fn read(program: &str, argument: impl AsRef<OsStr>) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("../.deps/venv/bin/python");
    let output = Command::new(&python)
        .arg(root.join("python").join(program))
        .arg(argument)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; run `make setup-test`", python.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}
