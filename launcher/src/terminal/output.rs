//! What verbs print. Whoever reads may have had enough (`tandem plan my.yaml | head -1`), which is no
//! failure, and a disk may be full, which is one; neither is a reason to panic.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use anyhow::Context;

/// Prints text and the end of a line to standard output; answers whether anybody still reads.
///
/// # Errors
/// Standard output cannot be written, as on a full disk.
pub fn print(text: impl Display) -> anyhow::Result<bool> {
    write(format_args!("{text}\n"))
}

/// Prints text as it is to standard output; answers whether anybody still reads.
///
/// # Errors
/// Standard output cannot be written, as on a full disk.
pub fn write(text: impl Display) -> anyhow::Result<bool> {
    let mut output = io::stdout().lock();
    match write!(output, "{text}").and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}
