//! The average of the newest checkpoints: the model that is evaluated and exported.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, View};

use super::{ADAPTERS, AVERAGE, Checkpoint, MappedTensors, Store, StoreError, write_tensors};
use crate::run::io_error::IoContext;

impl Store {
    /// Averages the adapters of the newest `count` good checkpoints into `average`; see
    /// [`Self::average_into`].
    ///
    /// # Errors
    /// As [`Self::average_into`].
    pub fn average(
        &self,
        count: usize,
        extra: &[u64],
        attempt: u64,
    ) -> Result<Checkpoint, StoreError> {
        let folder = self.folder().join(format!("{AVERAGE}.tmp-{attempt}"));
        let found = self.average_into(&folder, count, extra, attempt)?;
        let published = self.replace(&folder, AVERAGE)?;
        Ok(found.moved_to(published))
    }

    /// Averages the adapters of the newest `count` good checkpoints into a folder that holds nothing
    /// else. Those of the steps in `extra` are left out, unless there are no others: then it is the
    /// newest of them.
    ///
    /// Each weight is summed in 64 bits and stored in 32; one tensor at a time is in memory. With
    /// fewer checkpoints the average is over those that there are.
    ///
    /// # Errors
    /// No good checkpoint, checkpoints of different models, or where the file system refuses.
    pub fn average_into(
        &self,
        folder: &Path,
        count: usize,
        extra: &[u64],
        attempt: u64,
    ) -> Result<Checkpoint, StoreError> {
        let (extra, counted): (Vec<u64>, Vec<u64>) =
            self.steps()?.into_iter().rev().partition(|step| extra.contains(step));
        let good = |steps: Vec<u64>, count| -> Result<Vec<Checkpoint>, StoreError> {
            let found = steps.into_iter().filter_map(|step| self.good(step).transpose());
            found.take(count).collect()
        };
        let mut checkpoints = good(counted, count.max(1))?;
        if checkpoints.is_empty() {
            checkpoints = good(extra, 1)?;
        }
        let Some(newest) = checkpoints.first() else {
            let (name, folder) = (AVERAGE.into(), self.folder().to_owned());
            return Err(StoreError::Absent { name, folder, present: Vec::new() });
        };
        let bases = newest.bases().to_vec();
        for checkpoint in &checkpoints {
            if checkpoint.bases() != bases {
                let reason = format!("it stands on other BERTs than step {}", newest.step());
                let path = checkpoint.folder().to_owned();
                return Err(StoreError::Average { path, reason });
            }
        }
        let steps: Vec<u64> = checkpoints.iter().rev().map(Checkpoint::step).collect();
        let step = newest.step();

        let draft = super::Draft::create(folder.to_owned(), step, attempt)
            .tried("make the folder", folder)?;
        let inputs: Vec<PathBuf> =
            checkpoints.iter().map(|checkpoint| checkpoint.path(ADAPTERS)).collect();
        average_files(&inputs, &draft.path(ADAPTERS))?;
        draft.finish(bases, steps)?;
        Checkpoint::verify(folder)
    }
}

/// Writes the element-wise mean of safetensors files with equal names, shapes and 32-bit floats.
fn average_files(inputs: &[PathBuf], output: &Path) -> Result<(), StoreError> {
    let maps: Vec<MappedTensors> =
        inputs.iter().cloned().map(MappedTensors::open).collect::<Result<_, _>>()?;
    let mut files = Vec::new();
    for map in &maps {
        files.push(map.tensors().map_err(|error| unfit(map.path(), error.to_string()))?);
    }
    let names = |file: &SafeTensors| {
        let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    };
    let Some(first) = files.first() else { return Ok(()) };
    let mut means = Vec::new();
    for name in names(first) {
        means.push((name, Mean { terms: Vec::new(), shape: Vec::new() }));
    }
    for (path, file) in inputs.iter().zip(&files) {
        if file.len() != means.len() {
            let reason = format!("it has {} tensors instead of {}", file.len(), means.len());
            return Err(unfit(path, reason));
        }
        for (name, mean) in &mut means {
            let tensor = file.tensor(name).map_err(|error| unfit(path, error.to_string()))?;
            if tensor.dtype() != Dtype::F32 {
                let reason = format!("{name} holds {:?}, not 32-bit floats", tensor.dtype());
                return Err(unfit(path, reason));
            }
            if mean.terms.is_empty() {
                mean.shape = tensor.shape().to_vec();
            } else if mean.shape != tensor.shape() {
                let (shape, other) = (tensor.shape(), &mean.shape);
                return Err(unfit(path, format!("{name} is {shape:?} and elsewhere {other:?}")));
            }
            mean.terms.push(tensor.data());
        }
    }
    Ok(write_tensors(means, None, output)?)
}

fn unfit(path: &Path, reason: String) -> StoreError {
    StoreError::Average { path: path.to_owned(), reason }
}

/// The mean of tensors of one shape, computed when it is written.
struct Mean<'a> {
    terms: Vec<&'a [u8]>,
    shape: Vec<usize>,
}

impl View for Mean<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let count = self.terms.len() as f64;
        let mut sums = vec![0_f64; self.data_len() / 4];
        for term in &self.terms {
            for (sum, bytes) in sums.iter_mut().zip(term.chunks_exact(4)) {
                *sum += f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
            }
        }
        let mean = sums.iter().flat_map(|sum| ((sum / count) as f32).to_le_bytes()).collect();
        Cow::Owned(mean)
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * 4
    }
}
