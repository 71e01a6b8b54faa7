//! Corpora as the paper's predecessors prepare them: fetched, checked, cleaned and split.
//!
//! - [`recipe`]: what is fetched and what is made of it, a YAML file for each corpus.
//! - [`download`] brings one file here, [`archives`] finds or fetches archives and checks them,
//!   [`unpack`] takes members out of them.
//! - [`texts`] reads sentence pairs out of the corpora's formats, [`clean`] drops what is not worth
//!   training on.
//! - [`prepare`] does all of it, into a folder that is complete or not there.

pub mod archives;
pub mod clean;
pub mod download;
pub mod prepare;
pub mod recipe;
pub mod texts;
pub mod unpack;
