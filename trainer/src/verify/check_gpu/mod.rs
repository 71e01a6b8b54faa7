//! Whether a GPU computes what the CPU does, and how fast it is: no files, no other ranks, seconds.
//!
//! [`subject`] is the model that is compared, [`mod@compare`] decides what agrees, [`measure`] takes the
//! times, [`system`] describes the machine.

pub(crate) mod compare;
pub(crate) mod measure;
pub(crate) mod subject;
pub(crate) mod system;

use std::fmt::Display;

use anyhow::{Context, ensure};
use tandem_cluster::run::gpu_report::{Check, GpuReport, Measurement};
use tch::{Cuda, Device, Kind};

use crate::device::precision::Kinds;
use compare::{BF16, F32, compare};
use subject::{Subject, replayed};

/// The visible GPU of this number.
///
/// # Errors
/// It is not there, or libtorch cannot use it.
pub(crate) fn device(index: usize) -> anyhow::Result<Device> {
    crate::device::cuda::load().map_err(|reason| {
        anyhow::anyhow!("libtorch cannot use CUDA: {reason}; fetch it with `make setup TORCH=cuda`")
    })?;
    let count = Cuda::device_count().max(0) as usize;
    ensure!(
        index < count,
        "there is no GPU {index}: libtorch sees {count}; compare with what `nvidia-smi` lists, and \
         look at CUDA_VISIBLE_DEVICES"
    );
    Ok(Device::Cuda(index))
}

/// Compares `device` with the CPU and measures it; each line is printed as soon as it is known.
///
/// # Errors
/// The driver does not answer.
pub(crate) fn run(device: Device, tell: &dyn Fn(&dyn Display)) -> anyhow::Result<GpuReport> {
    // Several would wait for each other most of the time, in a model so small.
    tch::set_num_threads(1);
    let system = system::look(device)?;
    tell(&system);
    let mut report = GpuReport { system, ..GpuReport::default() };
    let mut check = |check: Check| {
        tell(&check);
        report.checks.push(check);
    };
    check(compare::products(device));
    // Nothing here calls `native::tune_cpu`, which would round products of f32: to TF32 on a GPU,
    // and to bf16 on some CPUs.
    let f32 = Kinds { frozen: Kind::Float, compute: Kind::Float };
    let expected = Subject::new(Device::Cpu, f32)?.numbers(F32.steps)?;
    let found = Subject::new(device, f32)?.numbers(F32.steps)?;
    compare(&F32, &found, &expected).into_iter().for_each(&mut check);
    let steps = &expected.gradients;
    let (weights, of_cpu) = (replayed(device, steps)?, replayed(Device::Cpu, steps)?);
    check(compare::weights(steps.len(), &weights, &of_cpu));
    let bf16 = Kinds { frozen: Kind::BFloat16, compute: Kind::BFloat16 };
    let rounded = Subject::new(device, bf16)?.numbers(BF16.steps)?;
    compare(&BF16, &rounded, &expected).into_iter().for_each(&mut check);

    let mut measured = |measurement: Measurement| {
        tell(&measurement);
        report.measurements.push(measurement);
    };
    measured(compare::decoded_alike(&rounded, &expected));
    measure::all(device, &mut measured).context("cannot measure the speed")?;
    Ok(report)
}

#[cfg(test)]
mod tests;
