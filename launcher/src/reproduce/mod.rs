//! The paper's tables and figures, compared with the runs that reproduce them.
//!
//! - [`table`] reads the definition of a table, [`results`] the results of a run. [`difference`] compares
//!   two runs' BLEU; [`shortage`] reports a run that had too little back-translated text.
//! - [`speed`] measures the speed of untrained models.
//! - [`page`] writes the comparison as Markdown and HTML, with the figures of [`chart`].

pub(crate) mod chart;
pub(crate) mod difference;
pub(crate) mod page;
pub(crate) mod results;
pub(crate) mod shortage;
pub(crate) mod speed;
pub(crate) mod table;
