//! Whole models against independent ones, and the search for their translations.

mod beam_search;
mod blocks;
mod buffers;
mod compositions;
mod drop_net;
mod golden;
mod mask_predict;
mod soft_labels;
mod support;
mod waits;
mod warm_start;
