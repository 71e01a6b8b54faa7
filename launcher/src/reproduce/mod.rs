//! The paper's tables and figures: their rows, the runs behind them, and both told side by side.
//!
//! - [`table`] reads what a table is; [`results`] what a run has reached, and [`difference`] compares
//!   it with another; [`shortage`] tells of text that it lacked.
//! - [`speed`] times untrained models.
//! - [`page`] writes it all as Markdown and as HTML, with [`chart`]'s drawings.

pub mod chart;
pub mod difference;
pub mod page;
pub mod results;
pub mod shortage;
pub mod speed;
pub mod table;
