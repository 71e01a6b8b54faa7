//! Corpora, prepared as in the papers that Guo et al. compare with: downloaded, verified, cleaned and
//! split.
//!
//! - [`recipe`]: the YAML file of a corpus: its archives, and how they become training data.
//! - [`download`] downloads one file, [`archives`] finds or downloads archives and verifies them,
//!   [`unpack`] extracts their members.
//! - [`texts`] reads sentence pairs from the corpora's formats, [`clean`] drops unsuitable ones.
//! - [`prepare`] does all of this, into a folder that is either complete or absent.

pub(crate) mod archives;
pub(crate) mod clean;
pub(crate) mod download;
pub(crate) mod prepare;
pub(crate) mod recipe;
pub(crate) mod texts;
pub(crate) mod unpack;
