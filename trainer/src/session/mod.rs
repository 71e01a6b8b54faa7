//! One rank at work: [`worker`] is who it is and whom it talks to, [`corpora`] its tokenizers and
//! texts, [`weights`] its model's tensors, [`trained`] a checkpoint's model opened for use, [`preflight`]
//! what it measures before, [`blame`] the samples that a thread works on, [`build_id`] the build of this
//! program.

pub mod blame;
pub mod build_id;
pub mod corpora;
pub(crate) mod preflight;
pub mod trained;
pub mod weights;
pub mod worker;
