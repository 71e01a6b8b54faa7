//! What agrees: the numbers of a device with those of the CPU in f32.

use tandem_cluster::run::gpu_report::{Check, Measurement};
use tch::{Device, Kind, Tensor};

use super::subject::Numbers;

const LARGEST: &str = "largest relative error";

/// How far numbers of one precision may be off.
pub(crate) struct Bounds {
    /// The precision's name.
    pub precision: &'static str,
    /// How the error of a tensor is taken.
    pub norm: Norm,
    /// Of the tensors that one forward pass makes.
    pub values: f64,
    /// Of the loss.
    pub loss: f64,
    /// Of a gradient.
    pub gradients: f64,
    /// What a gradient may be off besides: that of a key's bias, which softmax ignores, is nothing but
    /// rounding.
    pub absolute: f64,
    /// Of the losses while training.
    pub training: f64,
    /// Steps of training.
    pub steps: usize,
    /// Whether translations must be equal.
    pub decodes_alike: bool,
}

/// What an error is the largest or the sum of, relative to the same of what is expected.
#[derive(Clone, Copy)]
pub(crate) enum Norm {
    /// The largest absolute value.
    Largest,
    /// The square root of the sum of squares.
    Euclidean,
}

/// As between the released code and this program (`parity`). The losses of a training run part
/// sooner: Adam divides each gradient by its own size, and with it what rounding has made of it.
pub(crate) const F32: Bounds = Bounds {
    precision: "f32",
    norm: Norm::Largest,
    values: 1e-4,
    loss: 1e-4,
    gradients: 1e-4,
    absolute: 1e-5,
    training: 1e-3,
    steps: 20,
    decodes_alike: true,
};

/// Against f32. On a CPU, bf16 is off by 8e-3 in the encoder's output, by 3e-4 in the loss, by 6e-2
/// in the worst gradient and by 8e-4 in a loss of training; about twice that is left to other orders
/// of addition, and more to the losses. Where rounding turns a ReLU's sign, single elements of a
/// gradient are wrong altogether, so that the norm is what counts.
pub(crate) const BF16: Bounds = Bounds {
    precision: "bf16",
    norm: Norm::Euclidean,
    values: 2e-2,
    loss: 2e-3,
    gradients: 1e-1,
    absolute: 2e-2,
    training: 5e-3,
    steps: 10,
    decodes_alike: false,
};

/// One check per quantity.
pub(crate) fn compare(bounds: &Bounds, found: &Numbers, expected: &Numbers) -> Vec<Check> {
    let name = |quantity: &str| format!("{quantity}, {}", bounds.precision);
    let tensor = |quantity: &str, found: &Tensor, expected: &Tensor| {
        let error = error(found, expected, bounds.norm, 0.0);
        Check::new(&name(quantity), bounds.norm.measure(), error, bounds.values)
    };
    let relative = |step: usize| (found.losses[step] / expected.losses[step] - 1.0).abs();
    let (step, training) = largest((0..found.losses.len()).map(|step| (step, relative(step))));
    let losses = Check::new(&name("losses of training"), LARGEST, training, bounds.training);
    let mut checks = vec![
        tensor("encoder output", &found.encoder_output, &expected.encoder_output),
        tensor("length log-probabilities", &found.length_log_probs, &expected.length_log_probs),
        Check::new(&name("loss"), "relative error", relative(0), bounds.loss),
        gradients(&name("gradients"), bounds, found, expected),
        losses.at(format!("step {} of {}", step + 1, found.losses.len())),
    ];
    if bounds.decodes_alike {
        let (alike, all) = alike(found, expected);
        let different = (all - alike) as f64;
        let check = Check::new(&name("decoded ids"), "sentences that differ", different, 0.0);
        checks.push(check.at(format!("of {all}")));
    }
    checks
}

/// Every trained parameter's gradient.
fn gradients(name: &str, bounds: &Bounds, found: &Numbers, expected: &Numbers) -> Check {
    let of = |(parameter, range): &(String, std::ops::Range<usize>)| {
        let part = |numbers: &Numbers| {
            numbers.gradients[0].narrow(0, range.start as i64, range.len() as i64)
        };
        let floor = bounds.absolute / bounds.gradients;
        let error = error(&part(found), &part(expected), bounds.norm, floor);
        (parameter.clone(), error)
    };
    let (parameter, error) = largest(expected.names.iter().map(of));
    Check::new(name, bounds.norm.measure(), error, bounds.gradients).at(parameter)
}

/// The weights after so many of Adam's steps, with equal gradients on both devices: here nothing
/// amplifies the rounding of a step, which is half of the last bit of a weight or less.
pub(crate) fn weights(steps: usize, found: &Tensor, expected: &Tensor) -> Check {
    let error = error(found, expected, Norm::Largest, 0.0);
    Check::new(&format!("weights after {steps} steps of Adam, f32"), LARGEST, error, 1e-5)
}

/// Whether products of f32 are made of f32: TF32, which has 10 bits behind the point, drops the 12th
/// of these factors, and with it 5e-4 of the product.
pub(crate) fn products(device: Device) -> Check {
    let factor = 1.0 + 2f64.powi(-12);
    let factors = Tensor::full([256, 16], factor, (Kind::Float, device));
    let found = factors.matmul(&factors.transpose(0, 1)).to_device(Device::Cpu);
    let expected = Tensor::full([256, 256], 16.0 * factor * factor, (Kind::Double, Device::Cpu));
    let error = error(&found, &expected, Norm::Largest, 0.0);
    let check = Check::new("products, f32", LARGEST, error, 1e-5);
    if check.ok {
        return check;
    }
    check.at("TF32 has 4.9e-4: unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE and NVIDIA_TF32_OVERRIDE")
}

/// How many translations are those of the CPU in f32: rounding decides between words that are nearly
/// as probable, so that not all have to be.
pub(crate) fn decoded_alike(found: &Numbers, expected: &Numbers) -> Measurement {
    let (alike, all) = alike(found, expected);
    let name = "sentences decoded in bf16 as in f32".into();
    Measurement { name, value: alike as f64, unit: format!("of {all}") }
}

fn alike(found: &Numbers, expected: &Numbers) -> (usize, usize) {
    let pairs = found.decoded.iter().zip(&expected.decoded);
    (pairs.filter(|(found, expected)| found == expected).count(), expected.decoded.len())
}

impl Norm {
    fn measure(self) -> &'static str {
        match self {
            Self::Largest => LARGEST,
            Self::Euclidean => "relative error of the norm",
        }
    }

    fn of(self, tensor: &Tensor) -> f64 {
        let norm = match self {
            Self::Largest => tensor.abs().max(),
            Self::Euclidean => tensor.norm(),
        };
        norm.double_value(&[])
    }
}

/// The norm of the error, relative to that of what is expected and `floor` together.
fn error(found: &Tensor, expected: &Tensor, norm: Norm, floor: f64) -> f64 {
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    // Equal infinities (the impossible length 0) differ by 0.
    let same = found.eq_tensor(&expected);
    let error = norm.of(&(&found - &expected).masked_fill(&same, 0.0));
    let size = norm.of(&expected.masked_fill(&expected.isinf(), 0.0));
    // Without a sign, so that what is no number is larger than all numbers.
    if error == 0.0 { 0.0 } else { (error / (size + floor)).abs() }
}

/// What has the largest error; one that is not a number is larger than all others.
fn largest<T>(errors: impl Iterator<Item = (T, f64)>) -> (T, f64) {
    errors.max_by(|a, b| f64::total_cmp(&a.1, &b.1)).expect("there are parameters and steps")
}
