//! Programs in Python, which read with other software's own readers what Tandem writes.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::expect_code;

/// What a program of `tests/python` prints about its argument: one JSON object.
///
/// # Panics
/// If it fails.
pub fn read(program: &str, argument: impl AsRef<OsStr>) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("../.deps/venv/bin/python");
    assert!(python.is_file(), "{} is missing: run `make setup-test`", python.display());
    let mut command = Command::new(python);
    expect_code(command.arg(root.join("python").join(program)).arg(argument), 0).json()
}
