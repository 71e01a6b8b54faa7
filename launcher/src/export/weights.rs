//! model.safetensors: every weight of a model in 32-bit floats, by the names of its parameters.
//!
//! Trained weights come from the checkpoint, frozen ones from the BERTs' folders. Frozen ones in 16 bits
//! become 32: one file has one precision, and no value changes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, View};
use tandem_cluster::run::store::{ADAPTERS, Checkpoint, MappedTensors, write_tensors};
use tandem_config::composition::Composition;
use tandem_config::parameters::{self, Init};

/// The name of the file of a BERT's weights.
const WEIGHTS: &str = "model.safetensors";

/// Writes all weights of the model to `path`.
///
/// # Errors
/// A file that cannot be read, a weight that is missing or of another shape, or where the file system
/// refuses.
pub(super) fn write(
    path: &Path,
    composition: &Composition,
    model: &Checkpoint,
) -> anyhow::Result<()> {
    let trained = MappedTensors::open(model.path(ADAPTERS))?;
    let trained = Weights::of(&trained)?;
    let mut maps = Vec::new();
    for (side, folder) in composition.folders() {
        maps.push((side, MappedTensors::open(folder.join(WEIGHTS))?));
    }
    let mut frozen = HashMap::new();
    for (side, map) in &maps {
        frozen.insert(*side, Weights::of(map)?);
    }
    let mut tensors = Vec::new();
    for parameter in parameters::model(composition) {
        let name = parameter.name.as_str();
        let side = name.split('.').next().unwrap_or_default();
        let tensor = match (parameter.trained, &parameter.init, frozen.get(side)) {
            (true, ..) => trained.get(name, &parameter.shape)?,
            (false, Init::Pretrained(stored), Some(file)) => file.get(stored, &parameter.shape)?,
            _ => bail!("`{name}` is neither trained nor of a BERT"),
        };
        tensors.push((parameter.name, tensor));
    }
    // transformers refuses a file that does not say this.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(write_tensors(tensors, Some(format), path)?)
}

/// The tensors of a file.
struct Weights<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl<'a> Weights<'a> {
    fn of(file: &'a MappedTensors) -> anyhow::Result<Self> {
        let path = file.path();
        let tensors = file
            .tensors()
            .with_context(|| format!("{} is not a safetensors file", path.display()))?;
        Ok(Self { path, tensors })
    }

    /// The weight called `name`, which must have this shape.
    fn get(&self, name: &str, shape: &[usize]) -> anyhow::Result<Single<'a>> {
        let path = self.path.display();
        let tensor =
            self.tensors.tensor(name).with_context(|| format!("{path} has no tensor `{name}`"))?;
        let (found, kind) = (tensor.shape(), tensor.dtype());
        ensure!(
            found == shape,
            "`{name}` in {path} has shape {found:?}, the model needs {shape:?}"
        );
        ensure!(
            matches!(kind, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16),
            "`{name}` in {path} holds {kind:?}, not floats of 16, 32 or 64 bits"
        );
        Ok(Single(tensor))
    }
}

/// A tensor of floats, as 32-bit ones.
struct Single<'a>(TensorView<'a>);

impl View for Single<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = self.0.data();
        match self.0.dtype() {
            Dtype::BF16 => single(bytes, |two| bf16::from_le_bytes(two).to_f32()),
            Dtype::F16 => single(bytes, |two| f16::from_le_bytes(two).to_f32()),
            Dtype::F64 => single(bytes, |eight| f64::from_le_bytes(eight) as f32),
            _ => bytes.into(),
        }
    }

    fn data_len(&self) -> usize {
        self.0.shape().iter().product::<usize>() * size_of::<f32>()
    }
}

/// Numbers of `N` bytes each, as 32-bit floats.
fn single<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Cow<'_, [u8]> {
    let numbers = bytes.as_chunks().0.iter();
    numbers.flat_map(|bytes| number(*bytes).to_le_bytes()).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_float_becomes_32_bits_without_a_change() {
        let values = [1.5_f32, -0.25, 65504.0, 0.0];
        let bytes = |kind: Dtype| -> Vec<u8> {
            let of = |value: &f32| match kind {
                Dtype::BF16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
                Dtype::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
                Dtype::F64 => f64::from(*value).to_le_bytes().to_vec(),
                _ => value.to_le_bytes().to_vec(),
            };
            values.iter().flat_map(of).collect()
        };
        let expected: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        for kind in [Dtype::F64, Dtype::F32, Dtype::F16] {
            let bytes = bytes(kind);
            let tensor = Single(TensorView::new(kind, vec![2, 2], &bytes).unwrap());
            assert_eq!(
                (tensor.data().as_ref(), tensor.data_len()),
                (&expected[..], 16),
                "{kind:?}"
            );
        }
        let bytes = bytes(Dtype::BF16); // which has no 65504
        let tensor = Single(TensorView::new(Dtype::BF16, vec![4], &bytes).unwrap());
        assert_eq!(tensor.data()[..8], expected[..8]);
        assert_eq!(tensor.data()[8..12], 65536_f32.to_le_bytes());
    }
}
