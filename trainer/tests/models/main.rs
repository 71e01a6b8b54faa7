//! Whole models against independent ones, and the search for their translations.

mod beam_search;
mod golden;
mod support;
mod warm_start;
