//! How a command ends.

pub(crate) use tandem_cluster::run::exit::Exit;

/// What was asked for cannot be done as asked; the error of commands that end with [`Exit::Usage`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub String);
