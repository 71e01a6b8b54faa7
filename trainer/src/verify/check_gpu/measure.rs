//! How fast a device is: products, copies, training steps. Every time ends when the device is done.

use std::time::{Duration, Instant};

use tandem_cluster::run::gpu_report::Measurement;
use tch::{Device, Kind, Tensor, no_grad};

use super::subject::Subject;
use crate::device::cuda::synchronize;
use crate::device::precision::Kinds;

/// How long a measurement lasts at least, after shorter ones that warm the device up.
const LONG_ENOUGH: Duration = Duration::from_millis(100);
/// Training steps before those that are timed, and those; a CPU stands in for a GPU in tests only.
fn steps_of(device: Device) -> (u32, u32) {
    if device == Device::Cpu { (0, 1) } else { (5, 30) }
}

/// Takes all measurements and passes each to `measured`.
///
/// # Errors
/// As [`Subject::step`].
pub(crate) fn all(device: Device, measured: &mut dyn FnMut(Measurement)) -> anyhow::Result<()> {
    let mut say = |name: &str, value: f64, unit: &str| {
        measured(Measurement { name: name.into(), value, unit: unit.into() });
    };
    let (size, bytes) = match device {
        Device::Cpu => (512, 1 << 20),
        _ => (8192, 256 << 20),
    };
    for (name, kind) in [("bf16", Kind::BFloat16), ("f32", Kind::Float)] {
        let teraflops = product(device, size, kind);
        say(&format!("matrix product of {size}^3, {name}"), teraflops, "TFLOP/s");
    }
    no_grad(|| {
        let host = Tensor::zeros([bytes], (Kind::Uint8, Device::Cpu));
        let own = Tensor::zeros([bytes], (Kind::Uint8, device));
        say("copy from main memory", copy(device, &own, &host), "GB/s");
        if let Ok(pinned) = host.f_internal_pin_memory(device) {
            say("copy from pinned main memory", copy(device, &own, &pinned), "GB/s");
        }
        // Each byte is read and written.
        let within = 2.0 * copy(device, &own.empty_like(), &own);
        say("copy within the device, read and written", within, "GB/s");
    });
    let kinds = Kinds { frozen: Kind::BFloat16, compute: Kind::BFloat16 };
    say("training steps of the small model, bf16", steps(device, kinds)?, "steps/s");
    Ok(())
}

/// TFLOP/s of products of `[size, size]` matrices.
fn product(device: Device, size: i64, kind: Kind) -> f64 {
    let matrix = || Tensor::randn([size, size], (Kind::Float, device)).to_kind(kind);
    let (a, b) = (matrix(), matrix());
    let seconds = seconds(device, || drop(a.matmul(&b)));
    2.0 * (size as f64).powi(3) / seconds / 1e12
}

/// GB/s that are written.
fn copy(device: Device, to: &Tensor, from: &Tensor) -> f64 {
    let seconds = seconds(device, || to.shallow_clone().copy_(from));
    from.numel() as f64 / seconds / 1e9
}

/// Training steps in a second.
fn steps(device: Device, kinds: Kinds) -> anyhow::Result<f64> {
    let mut subject = Subject::new(device, kinds)?;
    let (before, timed) = steps_of(device);
    (0..before).try_for_each(|_| subject.step())?;
    synchronize(device);
    let started = Instant::now();
    (0..timed).try_for_each(|_| subject.step())?;
    synchronize(device);
    Ok(f64::from(timed) / started.elapsed().as_secs_f64())
}

/// Seconds of one piece of work, on average of as many as take long enough.
fn seconds(device: Device, mut work: impl FnMut()) -> f64 {
    let mut repeats = 1;
    loop {
        synchronize(device);
        let started = Instant::now();
        (0..repeats).for_each(|_| work());
        synchronize(device);
        let elapsed = started.elapsed();
        if elapsed >= LONG_ENOUGH && repeats > 1 {
            return elapsed.as_secs_f64() / f64::from(repeats);
        }
        repeats *= 2;
    }
}
