//! The paper's tables and figures, compared with the runs that reproduce them.
//!
//! - [`table`] reads the definition of a table, [`results`] the results of a run. [`difference`] compares
//!   two runs' BLEU; [`shortage`] reports a run that had too little back-translated text.
//! - [`speed`] measures the speed of untrained models.
//! - [`page`] writes the comparison as Markdown and HTML, with the figures of [`chart`].

pub mod chart;
pub mod difference;
pub mod page;
pub mod results;
pub mod shortage;
pub mod speed;
pub mod table;
