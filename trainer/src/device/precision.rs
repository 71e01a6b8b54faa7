//! Which kinds of numbers a precision means on a device.

use tandem_config::schema::training::Precision;
use tch::{Device, Kind};

use super::native;

/// Kinds of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    /// What frozen weights are held in.
    pub frozen: Kind,
    /// What is computed in.
    pub compute: Kind,
}

impl Kinds {
    /// The kinds that `precision` means on `device`. From here on, products of f32 are rounded as it says.
    ///
    /// A CPU without AVX-512 has no bf16 products: emulated they take 10 to 70 times as long as
    /// f32's. There frozen weights are held in bf16, and turned into f32 as they are used.
    pub fn new(precision: Precision, device: Device) -> Self {
        if device.is_cuda() {
            native::use_tf32(precision == Precision::Tf32);
        }
        let both = |kind| Self { frozen: kind, compute: kind };
        match precision {
            Precision::F32 | Precision::Tf32 => both(Kind::Float),
            Precision::Bf16 if device != Device::Cpu || multiplies_bf16() => both(Kind::BFloat16),
            Precision::Bf16 => Self { frozen: Kind::BFloat16, compute: Kind::Float },
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn multiplies_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bw")
}

#[cfg(not(target_arch = "x86_64"))]
fn multiplies_bf16() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_holds_frozen_weights_in_bf16_everywhere() {
        for device in [Device::Cpu, Device::Cuda(0)] {
            assert_eq!(Kinds::new(Precision::Bf16, device).frozen, Kind::BFloat16);
        }
        assert_eq!(Kinds::new(Precision::Bf16, Device::Cuda(0)).compute, Kind::BFloat16);
        let f32 = Kinds { frozen: Kind::Float, compute: Kind::Float };
        for precision in [Precision::F32, Precision::Tf32] {
            assert_eq!(Kinds::new(precision, Device::Cpu), f32);
        }
    }
}
