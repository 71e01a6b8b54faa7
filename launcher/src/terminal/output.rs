//! Standard output of the commands. A closed pipe (`tandem plan my.yaml | head -1`) is not an error, a full
//! disk is one, and neither panics.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use anyhow::Context;

/// Prints a line to standard output, and returns whether it is still being read.
///
/// # Errors
/// Standard output cannot be written, for example because the disk is full.
pub(crate) fn print(text: impl Display) -> anyhow::Result<bool> {
    write(format_args!("{text}\n"))
}

/// Writes text to standard output, and returns whether it is still being read.
///
/// # Errors
/// Standard output cannot be written, for example because the disk is full.
pub(crate) fn write(text: impl Display) -> anyhow::Result<bool> {
    let mut output = io::stdout().lock();
    match write!(output, "{text}").and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}
