//! The tensors of a model, allocated from the one list that configs gives.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use tandem_config::parameters::{Init, Parameter, trained_count};
use tandem_config::pretrained::family::Family;
use tch::{Device, Kind, Tensor, no_grad};

use crate::random::{Purpose, stream};

/// Why the tensors of a model could not be allocated.
#[derive(Debug, thiserror::Error)]
pub enum ParameterError {
    /// A file of weights cannot be read.
    #[error("cannot read weights from {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: tch::TchError,
    },
    /// A head that is not tied to the word embeddings.
    #[error(
        "{path} has a `{name}` that is not its word embeddings; only the tied head is supported"
    )]
    Untied {
        /// The file.
        path: String,
        /// The head's matrix.
        name: String,
    },
    /// A tensor is missing.
    #[error("{path} has no tensor `{name}`")]
    Missing {
        /// The file.
        path: String,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the config says.
    #[error("`{name}` in {path} has shape {found:?}, the model needs {expected:?}")]
    Shape {
        /// The file.
        path: String,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<i64>,
        /// The shape that the config implies.
        expected: Vec<i64>,
    },
}

/// A file of tensors by name.
pub struct Weights {
    path: String,
    tensors: HashMap<String, Tensor>,
}

impl Weights {
    /// Reads a safetensors file.
    ///
    /// # Errors
    /// An unreadable file.
    pub fn read(path: &Path) -> Result<Self, ParameterError> {
        let shown = path.display().to_string();
        let tensors = Tensor::read_safetensors(path)
            .map_err(|source| ParameterError::Read { path: shown.clone(), source })?;
        Ok(Self { path: shown, tensors: tensors.into_iter().collect() })
    }

    /// The tensors' names.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    /// Whether there is a tensor called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The matrix of a head for masked language modelling that is not the word embeddings, of which that
    /// would be a copy; none where it is, or where there is none.
    fn untied_head(&self) -> Option<&str> {
        let mut heads = Family::all().map(|family| family.name("cls.predictions.decoder.weight"));
        let (name, head) = heads.find_map(|head| self.tensors.get_key_value(&head))?;
        let is_words = |name: &str| name.ends_with("embeddings.word_embeddings.weight");
        let (_, words) = self.tensors.iter().find(|(name, _)| is_words(name))?;
        (!head.equal(words)).then_some(name.as_str())
    }

    /// How many tensors there are whose name starts with `prefix`.
    pub fn count(&self, prefix: &str) -> usize {
        self.tensors.keys().filter(|name| name.starts_with(prefix)).count()
    }

    /// The tensor called `name`, which must have this shape.
    ///
    /// # Errors
    /// A missing tensor, or one of another shape.
    pub fn get(&self, name: &str, shape: &[i64]) -> Result<&Tensor, ParameterError> {
        let (path, owned) = (self.path.clone(), name.to_owned());
        let Some(tensor) = self.tensors.get(name) else {
            return Err(ParameterError::Missing { path, name: owned });
        };
        if tensor.size() != shape {
            let (found, expected) = (tensor.size(), shape.to_vec());
            return Err(ParameterError::Shape { path, name: owned, found, expected });
        }
        Ok(tensor)
    }
}

/// The model's tensors: trained ones as views of one flat f32 tensor, frozen ones apart.
#[derive(Debug)]
pub struct Parameters {
    by_name: RefCell<HashMap<String, Tensor>>,
    /// Names of the trained parameters in order.
    pub names: Vec<String>,
    /// The trained parameters in order: leaves that require gradients, views of `weights`.
    pub trained: Vec<Tensor>,
    /// All trained weights, one after another: `[N]`, f32.
    pub weights: Tensor,
    /// What layers hold trained weights in that do not change any more.
    held: Option<Kind>,
}

impl Parameters {
    /// Makes every tensor of `list`: trained ones in f32, frozen ones in `frozen_kind`.
    ///
    /// `pretrained` are files of weights by the first part of their parameters' names, e.g.
    /// `encoder`. Random values are functions of (seed, name), whatever else the model has.
    ///
    /// # Errors
    /// A pre-trained tensor that is missing or has another shape.
    pub fn new(
        list: &[Parameter],
        pretrained: &[(&str, Weights)],
        seed: u64,
        frozen_kind: Kind,
        device: Device,
    ) -> Result<Self, ParameterError> {
        for (side, file) in pretrained {
            let head = format!("{side}.cls.predictions.bias");
            let is_used = list.iter().any(|parameter| parameter.name == head);
            if let Some(name) = file.untied_head().filter(|_| is_used) {
                return Err(ParameterError::Untied { path: file.path.clone(), name: name.into() });
            }
        }
        let weights = Tensor::zeros([trained_count(list) as i64], (Kind::Float, device));
        let (mut by_name, mut names, mut trained) = (HashMap::new(), Vec::new(), Vec::new());
        let mut offset = 0;
        for parameter in list {
            let shape: Vec<i64> = parameter.shape.iter().map(|&size| size as i64).collect();
            let side = parameter.name.split('.').next();
            let file = pretrained.iter().find(|(name, _)| Some(*name) == side);
            let value = initial(parameter, &shape, file.map(|(_, weights)| weights), seed)?;
            let tensor = if parameter.trained {
                let count = parameter.count() as i64;
                let mut view = weights.narrow(0, offset, count).view(shape.as_slice());
                offset += count;
                view.copy_(&value);
                let leaf = view.set_requires_grad(true);
                names.push(parameter.name.clone());
                trained.push(leaf.shallow_clone());
                leaf
            } else {
                value.to_kind(frozen_kind).to_device(device)
            };
            by_name.insert(parameter.name.clone(), tensor);
        }
        Ok(Self { by_name: RefCell::new(by_name), names, trained, weights, held: None })
    }

    /// Models that are made from now on are only used: their layers hold trained weights in `kind`, in
    /// which they compute, instead of turning them into it in each pass.
    pub fn only_used(&mut self, kind: Kind) {
        self.held = Some(kind);
    }

    /// The names below `prefix`.
    pub fn scope(&self, prefix: &str) -> Scope<'_> {
        Scope { parameters: self, prefix: format!("{prefix}.") }
    }

    /// `flat`, which is as long as the weights, cut into the trained parameters' shapes.
    pub fn views<'a>(&'a self, flat: &'a Tensor) -> impl Iterator<Item = (&'a str, Tensor)> {
        let mut offset = 0;
        self.names.iter().zip(&self.trained).map(move |(name, leaf)| {
            let count = leaf.numel() as i64;
            let view = flat.narrow(0, offset, count).view(leaf.size().as_slice());
            offset += count;
            (name.as_str(), view)
        })
    }

    /// Fills `flat` from a file's tensors, whose names have `prefix` before the parameters'.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape: the file is of another model.
    pub fn load(&self, flat: &Tensor, file: &Weights, prefix: &str) -> Result<(), ParameterError> {
        for (name, mut view) in self.views(flat) {
            let stored = file.get(&format!("{prefix}{name}"), &view.size())?;
            no_grad(|| view.copy_(stored));
        }
        Ok(())
    }
}

/// Parameters below one name.
#[derive(Clone)]
pub struct Scope<'a> {
    parameters: &'a Parameters,
    prefix: String,
}

impl Scope<'_> {
    /// The names below `name`.
    pub fn enter(&self, name: &str) -> Self {
        Self { parameters: self.parameters, prefix: format!("{}{name}.", self.prefix) }
    }

    /// Whether there is a parameter called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.parameters.by_name.borrow().contains_key(&self.name(name))
    }

    /// The parameter called `name`.
    ///
    /// # Panics
    /// If the list that the model was made from lacks it: the list and the model must agree.
    pub fn get(&self, name: &str) -> Tensor {
        let name = self.name(name);
        match self.parameters.by_name.borrow().get(&name) {
            Some(tensor) => tensor.shallow_clone(),
            None => panic!("the list of parameters lacks `{name}`"),
        }
    }

    /// Parameters that do not change as one tensor, one behind the other along their first dimension; none
    /// if any of them is trained. Frozen ones are held once: each is a part of the whole from then on.
    ///
    /// # Panics
    /// As [`get`](Self::get).
    pub fn pack(&self, names: &[String]) -> Option<Tensor> {
        let parts: Vec<Tensor> = names.iter().map(|name| self.get_for_layer(name)).collect();
        if parts.iter().any(Tensor::requires_grad) {
            return None;
        }
        let packed = Tensor::cat(&parts, 0);
        let mut by_name = self.parameters.by_name.borrow_mut();
        let mut start = 0;
        for (name, part) in names.iter().zip(&parts) {
            let count = part.size()[0];
            let own = by_name.get_mut(&self.name(name)).filter(|own| !own.requires_grad());
            if let Some(own) = own {
                *own = packed.narrow(0, start, count);
            }
            start += count;
        }
        Some(packed)
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// As [`get`](Self::get), for a layer that computes in the model's kind.
    ///
    /// # Panics
    /// As there.
    pub fn get_for_layer(&self, name: &str) -> Tensor {
        let weight = self.get(name);
        match self.parameters.held {
            Some(kind) if weight.requires_grad() && weight.kind() != kind => {
                weight.detach().to_kind(kind)
            }
            _ => weight,
        }
    }
}

fn initial(
    parameter: &Parameter,
    shape: &[i64],
    pretrained: Option<&Weights>,
    seed: u64,
) -> Result<Tensor, ParameterError> {
    let random = || stream(seed, Purpose::Weights, &[name_hash(&parameter.name)]);
    let from_values = |next: &mut dyn FnMut() -> f64| {
        let values: Vec<f32> = (0..parameter.count()).map(|_| next() as f32).collect();
        Tensor::from_slice(&values).view(shape)
    };
    Ok(match &parameter.init {
        Init::Pretrained(name) => match pretrained {
            Some(pretrained) => pretrained.get(name, shape)?.to_kind(Kind::Float),
            None => panic!("`{}` wants pre-trained weights, and there are none", parameter.name),
        },
        Init::Zeros => Tensor::zeros(shape, (Kind::Float, Device::Cpu)),
        Init::Ones => Tensor::ones(shape, (Kind::Float, Device::Cpu)),
        Init::Normal(deviation) => {
            let mut random = random();
            from_values(&mut || random.normal() * deviation)
        }
        Init::XavierUniform { fan_in, fan_out } => {
            let bound = (6.0 / (fan_in + fan_out) as f64).sqrt();
            let mut random = random();
            from_values(&mut || (2.0 * random.uniform() - 1.0) * bound)
        }
    })
}

/// FNV-1a: a name as a coordinate of randomness, the same on every machine.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use tandem_config::parameters::{frozen_count, mlm};
    use tandem_config::pretrained::bert::{Bert, BertConfig};
    use tandem_config::schema::model::Train;

    use super::*;
    use crate::model::networks::bert;

    #[test]
    fn a_head_of_its_own_is_refused_where_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let made = |head: Tensor| {
            let path = folder.path().join("model.safetensors");
            let words = Tensor::ones([3, 2], (Kind::Float, Device::Cpu));
            let bias = Tensor::zeros([3], (Kind::Float, Device::Cpu));
            let tensors = [
                ("roberta.embeddings.word_embeddings.weight", words),
                ("lm_head.decoder.weight", head),
                ("lm_head.bias", bias),
            ];
            Tensor::write_safetensors(&tensors, &path).unwrap();
            let parameter = Parameter {
                name: "decoder.cls.predictions.bias".into(),
                shape: vec![3],
                trained: false,
                init: Init::Pretrained("lm_head.bias".into()),
            };
            let of = |side: &str| {
                let file = [(side, Weights::read(&path).unwrap())];
                let list = if side == "decoder" { vec![parameter.clone()] } else { Vec::new() };
                Parameters::new(&list, &file, 1, Kind::Float, Device::Cpu).map(drop)
            };
            ["encoder", "decoder"].map(|side| of(side).map_err(|error| error.to_string()))
        };
        let ones = || Tensor::ones([3, 2], (Kind::Float, Device::Cpu));
        assert_eq!(made(ones()), [Ok(()), Ok(())]);
        let [encoder, decoder] = made(ones() * 2.0);
        assert_eq!(encoder, Ok(()), "its head is not used");
        let said = decoder.unwrap_err();
        assert!(
            said.contains("`lm_head.decoder.weight` that is not its word embeddings"),
            "{said}"
        );
    }

    /// The bytes of the frozen parameters, each place in memory counted once.
    fn frozen_bytes(parameters: &Parameters) -> usize {
        let by_name = parameters.by_name.borrow();
        let frozen = by_name.values().filter(|tensor| !tensor.requires_grad());
        let places = frozen.flat_map(|tensor| {
            let start = tensor.data_ptr() as usize;
            start..start + tensor.numel() * tensor.kind().elt_size_in_bytes()
        });
        places.collect::<std::collections::HashSet<_>>().len()
    }

    /// The plan counts every frozen weight once.
    #[test]
    fn frozen_weights_are_held_once() {
        let config: BertConfig = serde_json::from_value(serde_json::json!({
            "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 12, "max_position_embeddings": 6,
        }))
        .unwrap();
        let mut list = mlm(&Bert::new(config.clone()), Train::Frozen);
        list.iter_mut().for_each(|parameter| parameter.trained = false);
        let parameters = Parameters::new(&list, &[], 1, Kind::Float, Device::Cpu).unwrap();
        let scope = parameters.scope("encoder");
        let part = |name: &str| {
            scope.enter("bert.encoder.layer.1.attention.self").get(&format!("{name}.weight"))
        };
        let before = ["query", "key", "value"].map(part);
        let encoder = bert::encoder(&scope, &config, None, None, Kind::Float);

        let after = ["query", "key", "value"].map(part);
        let matrix = 8 * 8 * size_of::<f32>();
        let start = after[0].data_ptr() as usize;
        for (index, (before, after)) in before.iter().zip(&after).enumerate() {
            assert_eq!(before, after);
            assert_eq!(after.data_ptr() as usize, start + index * matrix, "they are apart");
        }
        assert_eq!(frozen_bytes(&parameters), 4 * frozen_count(&list));

        // What the layers hold is what the parameters hold.
        let ids = Tensor::from_slice(&[5i64, 6, 7]).view([1, 3]);
        let real = ids.ne(0);
        let output = || encoder.forward(&ids, &real, &crate::model::Pass::eval()).memory;
        let found = output();
        let _ = after[2].shallow_clone().zero_();
        assert_ne!(output(), found, "another copy computes");
    }
}
