//! Training: the loop, and what one step is.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use tandem_cluster::error::with_causes;
use tandem_cluster::run::control::{Phase, Report};
use tandem_cluster::run::records::TrainingMetrics;
use tandem_cluster::run::store::Store;
use tandem_config::schema::transformer::RateSchedule;
use tch::{Kind, Tensor};

use crate::data::batches::Batches;
use crate::data::cache::CacheError;
use crate::data::prefetch::{Prefetch, PrefetchError};
use crate::data::split::Split;
use crate::device::memory;
use crate::device::transfer::Reading;
use crate::inference::evaluate::Evaluator;
use crate::inference::language_model;
use crate::model::{Block, Parameters, Pass};
use crate::objective::{Examples, MicroBatch, Objective, Sums};
use crate::optim::{Adam, is_beside, learning_rate, share};
use crate::parallel::shards::shards_of;
use crate::parallel::{Collective, Reducer, reducer};
use crate::random::{Purpose, stream};
use crate::session::blame;
use crate::session::corpora::Languages;
use crate::session::weights;
use crate::session::worker::{Ending, Worker};
use crate::training::checkpoint::{self, Snapshot, TrainerState};
use crate::training::metrics::{StepTimes, peak_rss_bytes};
use crate::training::micro_batches::MicroBatches;
use crate::training::teacher;
use crate::training::update::Updates;

/// Micro-batches that are prepared ahead.
const PREFETCH: usize = 4;

/// So many non-finite gradients came in a row that more steps would be wasted.
#[derive(Debug, thiserror::Error)]
#[error(
    "the gradient was not finite in {in_a_row} steps in a row, up to step {step}: lower the \
     learning rate, clip the gradient (training.clip_norm), or use f32"
)]
pub struct Diverged {
    in_a_row: u64,
    step: u64,
}

/// Everything that a step needs.
pub struct Trainer<'a> {
    worker: &'a Worker,
    bases: Vec<(String, String)>,
    parameters: Parameters,
    objective: Objective,
    /// The share of the learning rate that a BERT beside the encoder is tuned with.
    beside_rate: Option<RateSchedule>,
    updates: RefCell<Updates>,
    batches: Prefetch<Result<MicroBatch, CacheError>>,
    evaluator: Option<Evaluator>,
    store: Store,
    saving: Option<JoinHandle<anyhow::Result<()>>>,
    /// After the last step whose sums have been read.
    state: TrainerState,
    unread: Option<Unread>,
    /// Whether this rank leaves its share of all further steps out.
    has_given_up: bool,
    times: StepTimes,
}

/// A step whose sums are read when the next one is queued, so that no device waits for its host.
struct Unread {
    step: u64,
    /// [`Sums`], with whether the step was skipped as `not_finite`.
    sums: Reading,
    norm: Norm,
}

/// The norm of a step's gradient, where it is logged.
enum Norm {
    /// It is not.
    Unwanted,
    /// It can be computed once all gradients are there.
    Due,
    /// It is on its way.
    Computed(Reading),
}

impl<'a> Trainer<'a> {
    /// Loads the model and the data, and takes up a checkpoint's state if one is given.
    ///
    /// # Errors
    /// Whatever is missing or does not fit together.
    pub fn new(
        worker: &'a Worker,
        collective: Box<dyn Collective>,
        resume: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let config = &worker.config;
        let languages = Languages::open(worker)?;
        let bases = weights::base_hashes(&languages)?;
        identify(worker, &bases);
        let parameters = weights::allocate(worker, &languages.composition)?;
        let (cls, kind) = (languages.source.special().cls.into(), worker.kinds().compute);
        let composition = &languages.composition;
        let objective = Objective::new(&config.model, composition, cls, &parameters, kind);
        let beside_rate = composition.beside.as_ref().and_then(|beside| beside.settings.rate);
        let mut adam = Adam::new(&config.training.optimizer, &parameters.weights);
        let mut state = TrainerState::new(config.seed, worker.world_size);
        if let Some(folder) = resume {
            let checkpoint = weights::open(folder, &bases)?;
            state = checkpoint::resume(&checkpoint, &parameters, &mut adam)?;
            state.world_size = worker.world_size;
        } else if let Some(init) = &config.model.init {
            weights::warm_start(init, &parameters, &bases)?;
        }
        let corpus = languages.corpus(worker, Split::Train)?.context("data.train is missing")?;
        let data = languages.data_hashes(worker, &corpus)?;
        if let Some(folder) = resume {
            check_data(worker, &state, &data, folder)?;
        }
        state.data = data;
        language_model::prepare(worker, &languages, &corpus, &config.decoding)?;
        let mut examples = languages.examples(worker, Arc::clone(&corpus), Split::Train)?;
        if let (Some(teacher), Examples::Pair(pairs)) = (config.model.soft_labels(), &mut examples)
        {
            let labels = teacher::soft_labels(worker, &languages, teacher, &corpus)?;
            pairs.soft_labels = Some(Arc::new(labels));
        }
        let (max_tokens, line) = (config.training.max_tokens, |sample| corpus.line(sample));
        let lengths = examples.lengths();
        let batches = Batches::new(&lengths, max_tokens, config.seed, line)?;
        let shards = config.training.micro_batches;
        let own = shards_of(worker.rank, worker.world_size, shards);
        let own = own.start as u64..own.end as u64;
        let mut stream = MicroBatches::new(batches, examples, shards as u64, state.position, own);
        if let Some(largest) = stream.largest(&lengths)? {
            rehearse(worker, &objective, &parameters, &largest);
        }
        let evaluator = Evaluator::for_training(worker, languages)?;
        let settings = reducer::Settings {
            reduction: config.cluster.reduction,
            dtype: config.cluster.gradient_dtype,
            shards,
            sums: Sums::COUNT,
            bucket_elements: (config.cluster.bucket_mib * (1 << 18) as f64) as usize,
            // Clipping needs the norm of all gradients.
            into_forward: config.training.clip_norm == 0.0,
        };
        let reducer = Reducer::new(collective, &parameters, &settings);
        let updates = RefCell::new(Updates::new(adam, reducer, &parameters));
        Ok(Self {
            worker,
            bases,
            parameters,
            objective,
            beside_rate,
            updates,
            batches: Prefetch::new(stream, PREFETCH)?,
            evaluator,
            store: worker.run.store(),
            saving: None,
            state,
            unread: None,
            has_given_up: false,
            times: StepTimes::default(),
        })
    }

    /// Trains to the last step, or until the coordinator asks to stop: then there is a checkpoint
    /// of where it stopped. The step that was resumed is evaluated first if `evaluate_first`.
    ///
    /// # Errors
    /// [`Diverged`], a failing communication library, or unreadable data.
    pub fn run(mut self, evaluate_first: bool) -> anyhow::Result<Ending> {
        let config = &self.worker.config;
        let steps = config.training.steps;
        if evaluate_first && self.evaluate()? == Ending::Stopped {
            return self.finish(Ending::Stopped);
        }
        while self.begun() < steps {
            let step = self.begun() + 1;
            self.worker.phase(Phase::Train, step);
            self.times.begin();
            let sums = self.forward_backward(step)?;
            let mut found = self.read()?; // the step before
            self.update(step, &sums)?;
            self.times.end();

            let evaluates = self.evaluator.is_some() && config.evaluation.is_due(step, steps);
            let is_due = evaluates || config.checkpoints.is_due(step, steps);
            let is_asked = found.stop > 0.0 || found.checkpoint > 0.0;
            if is_due || is_asked {
                found += self.read_all()?; // this step as well
                // What is evaluated may turn out to be the best, and may be stopped in the middle.
                self.save()?;
            }
            if found.stop > 0.0 || evaluates && self.evaluate()? == Ending::Stopped {
                return self.finish(Ending::Stopped);
            }
        }
        self.finish(Ending::Done)
    }

    /// The last step that has begun.
    fn begun(&self) -> u64 {
        self.unread.as_ref().map_or(self.state.step, |unread| unread.step)
    }

    /// Adds up the gradients and sums of this rank's micro-batches, then of all ranks. The step before
    /// is finished on the way, at the latest before a gradient takes the place of one of its own.
    fn forward_backward(&mut self, step: u64) -> anyhow::Result<Tensor> {
        let mut flags = Sums {
            stop: f64::from(u8::from(self.worker.stop_requested())),
            checkpoint: f64::from(u8::from(self.worker.checkpoint_requested())),
            ..Sums::default()
        };
        let shards = self.updates.borrow().reducer.shards();
        for (index, shard) in shards.into_iter().enumerate() {
            let waiting = Instant::now();
            blame::works_on(&[]);
            let found = self.wait_for_batch(step);
            let batch = match found {
                Err(PrefetchError::GivenUp) => {
                    // The others are in the step already: they learn of it with the sums.
                    let sums = Sums { stop: 1.0, given_up: 1.0, ..Sums::default() };
                    let sums = sums.to_tensor(Kind::Float, self.worker.device);
                    self.finish_update()?;
                    self.updates.get_mut().reducer.give_up(&sums);
                    break;
                }
                found => found?.context("the stream of batches has ended")??,
            };
            self.times.batch_ready(waiting.elapsed());
            blame::works_on(batch.samples());
            let masks = stream(self.state.seed, Purpose::Dropout, &[step, shard as u64]);
            let weights = |block: Block| self.updates.borrow_mut().make(block, &self.parameters);
            let pass = Pass::train(masks).after(&weights);
            let mut loss = self.objective.loss(&batch, self.worker.device, &pass);
            loss.counts += std::mem::take(&mut flags);
            let sums = loss.losses.with(loss.counts, Kind::Float);
            self.finish_update()?;
            self.updates.get_mut().reducer.begin(index, &sums);
            loss.surrogate.backward();
            self.updates.get_mut().reducer.end(index);
        }
        blame::works_on(&[]);
        self.finish_update()?;
        let updates = self.updates.get_mut();
        updates.reducer.send_rest();
        self.worker.phase(Phase::Reduce, step);
        let sums = updates.wait(Reducer::sums)?;
        self.worker.phase(Phase::Train, step);
        self.times.gradients_ready(updates.take_waited());
        Ok(sums)
    }

    /// The next batch. Where that takes a while the coordinator knows what is waited for.
    fn wait_for_batch(
        &mut self,
        step: u64,
    ) -> Result<Option<Result<MicroBatch, CacheError>>, PrefetchError> {
        if self.has_given_up {
            return Err(PrefetchError::GivenUp);
        }
        let told = Cell::new(false);
        let found = self.batches.next_item(&|| {
            if !told.replace(true) {
                self.worker.phase(Phase::Data, step);
            }
            self.worker.stop_requested()
        });
        if told.get() {
            self.worker.phase(Phase::Train, step);
        }
        self.has_given_up = matches!(found, Err(PrefetchError::GivenUp));
        found
    }

    /// Begins the optimizer's step, which is skipped where the gradient is not finite. To be clipped, all of
    /// it must be there; else the next forward pass begins before.
    fn update(&mut self, step: u64, sums: &Tensor) -> anyhow::Result<()> {
        let training = &self.worker.config.training;
        let lr = learning_rate(&training.schedule, step, training.steps);
        let share = self.beside_rate.map_or(1.0, |schedule| share(&schedule, step));
        let rate = |name: &str| if is_beside(name) { share * lr } else { lr };
        let is_logged = self.is_logged(step);
        let updates = self.updates.get_mut();
        let verdict = updates.begin(&self.parameters, sums, training.clip_norm, rate)?;
        let norm = match &verdict.norm {
            _ if !is_logged => Norm::Unwanted,
            Some(norm) => Norm::Computed(Reading::begin(norm)),
            None => Norm::Due,
        };
        Sums::of(sums).not_finite.copy_(&verdict.skipped);
        self.unread = Some(Unread { step, sums: Reading::begin(sums), norm });
        if let Some((data, compute)) = self.times.pace() {
            let memory = memory::used(self.worker.device);
            self.worker.report(Report::Pace { step, data, compute, memory });
        }
        Ok(())
    }

    /// Finishes the step that has been begun, which must be done before the weights are read.
    fn finish_update(&mut self) -> anyhow::Result<()> {
        let updates = self.updates.get_mut();
        updates.finish(&self.parameters)?;
        self.times.gradients_ready(updates.take_waited());
        if let Some(Unread { norm: norm @ Norm::Due, .. }) = &mut self.unread {
            *norm = Norm::Computed(Reading::begin(&updates.reducer.gradients().norm()));
        }
        Ok(())
    }

    /// Reads the sums of the step that has not been read, and takes it into the state and the log. One that a
    /// rank has given up never was.
    fn read(&mut self) -> anyhow::Result<Sums> {
        let Some(Unread { step, sums, norm }) = self.unread.take() else {
            return Ok(Sums::default());
        };
        let sums = Sums::from_slice(&sums.wait());
        if sums.given_up == 0.0 {
            self.state.step = step;
            self.state.position += self.worker.config.training.micro_batches as u64;
            if sums.not_finite > 0.0 {
                self.skip(step)?;
            } else {
                self.state.skipped_in_a_row = 0;
            }
            self.log(&sums, norm);
        }
        Ok(sums)
    }

    /// Reads the sums of all steps that have begun. They are finished, so that the weights may be used.
    fn read_all(&mut self) -> anyhow::Result<Sums> {
        self.finish_update()?;
        self.updates.get_mut().reducer.complete()?;
        self.read()
    }

    fn skip(&mut self, step: u64) -> anyhow::Result<()> {
        self.state.skipped += 1;
        self.state.skipped_in_a_row += 1;
        let in_a_row = self.state.skipped_in_a_row;
        if self.worker.is_first() {
            self.worker.notice(format!(
                "step {step} is skipped: its gradient is not finite ({in_a_row} in a row)"
            ));
        }
        if in_a_row >= self.worker.config.training.max_non_finite {
            bail!(Diverged { in_a_row, step });
        }
        Ok(())
    }

    /// Whether this rank logs a step.
    fn is_logged(&self, step: u64) -> bool {
        let training = &self.worker.config.training;
        self.worker.is_first()
            && (step.is_multiple_of(training.log_every) || step == training.steps)
    }

    fn log(&mut self, sums: &Sums, norm: Norm) {
        let tokens_per_second = self.times.had(sums.tokens);
        let training = &self.worker.config.training;
        let (step, steps) = (self.state.step, training.steps);
        if !self.is_logged(step) {
            return;
        }
        let mean = |sum: f64, count: f64| (sum > 0.0).then(|| sum / count.max(1.0));
        let metrics = TrainingMetrics {
            steps,
            loss: sums.loss / sums.denominator.max(1.0),
            nll: sums.nll / sums.predicted.max(1.0),
            learning_rate: learning_rate(&training.schedule, step, steps),
            skipped: self.state.skipped,
            length_loss: mean(sums.length_nll, sums.sentences),
            soft_label_loss: mean(sums.soft_nll, sums.predicted),
            distillation_loss: mean(sums.distillation, sums.source_tokens),
            tokens_per_second,
            time: self.times.take_mean(),
            peak_memory: peak_rss_bytes(),
        };
        self.worker.report(Report::Metrics { step, metrics });
        if let Norm::Computed(norm) = norm {
            self.worker.report(Report::GradientNorm { step, norm: norm.wait()[0] });
        }
    }

    /// Starts to write a checkpoint, in the background. Rank 0 writes for all: the others hold
    /// the same bits.
    fn save(&mut self) -> anyhow::Result<()> {
        self.finish_update()?;
        if !self.worker.is_first() {
            return Ok(());
        }
        if let Err(error) = self.saved()? {
            self.worker.notice(format!(
                "no checkpoint was written, the older ones stay and training continues: {}",
                with_causes(error.as_ref())
            ));
        }
        let snapshot =
            Snapshot::take(&self.parameters, &self.updates.get_mut().adam, self.state.clone());
        let (store, bases) = (self.store.clone(), self.bases.clone());
        let (attempt, step) = (self.worker.attempt, self.state.step);
        let session = self.worker.session().cloned();
        let thread = std::thread::Builder::new().name("save".into());
        self.saving = Some(thread.spawn(move || {
            snapshot.write(&store, attempt, bases)?;
            if let Some(session) = session {
                session.report(Report::CheckpointWritten { step });
            }
            Ok(())
        })?);
        Ok(())
    }

    /// Waits for the checkpoint that is being written, and returns whether that succeeded: where it
    /// did not, the older ones stay, and the next may.
    fn saved(&mut self) -> anyhow::Result<anyhow::Result<()>> {
        let Some(thread) = self.saving.take() else { return Ok(Ok(())) };
        self.worker.phase(Phase::Save, self.state.step);
        thread.join().map_err(|_| anyhow!("the thread that writes checkpoints panicked"))
    }

    /// Scores the current step. All ranks stop if any of them gave up: it is to be evaluated by
    /// all of them again.
    fn evaluate(&mut self) -> anyhow::Result<Ending> {
        self.finish_update()?;
        let Some(evaluator) = &self.evaluator else { return Ok(Ending::Done) };
        let step = self.state.step;
        let ending = evaluator.run(self.worker, &self.objective, step)?;
        // A rank with a smaller share waits here for the others, so it is ahead of them.
        self.worker.phase(Phase::Train, step + 1);
        let stopped = f32::from(u8::from(ending == Ending::Stopped));
        let stopped = self.updates.get_mut().reducer.total(stopped)?;
        Ok(if stopped > 0.0 { Ending::Stopped } else { Ending::Done })
    }

    fn finish(mut self, ending: Ending) -> anyhow::Result<Ending> {
        self.finish_update()?;
        self.saved()?.context("the last checkpoint could not be written")?;
        self.worker.phase(Phase::Finish, self.state.step);
        if ending == Ending::Done && self.worker.is_first() {
            crate::training::export::write(self.worker, &self.parameters)?;
        }
        Ok(ending)
    }
}

/// Computes the gradient of the largest micro-batch and keeps nothing of it: memory that does not suffice
/// ends the run before its first step, and not hours later.
fn rehearse(worker: &Worker, objective: &Objective, parameters: &Parameters, largest: &MicroBatch) {
    worker.phase(Phase::Start, 0);
    blame::works_on(largest.samples());
    let pass = Pass::train(stream(worker.config.seed, Purpose::Dropout, &[0, 0]));
    let loss = objective.loss(largest, worker.device, &pass);
    Tensor::run_backward(&[loss.surrogate], &parameters.trained, false, false);
    blame::works_on(&[]);
}

/// Refuses to resume on other texts than the checkpoint's, unless the config allows it.
fn check_data(
    worker: &Worker,
    state: &TrainerState,
    here: &BTreeMap<String, String>,
    checkpoint: &Path,
) -> anyhow::Result<()> {
    let changed = state.changed_data(here);
    if changed.is_empty() {
        return Ok(());
    }
    let splits = changed.iter().map(|split| format!("data.{split}")).collect::<Vec<_>>();
    let what =
        format!("{} changed since {} was written", splits.join(" and "), checkpoint.display());
    if !worker.config.data.allow_changed {
        bail!(weights::Misfit(format!(
            "{what}; put the old text back, set data.allow_changed to resume with this one, or start \
             over with --restart"
        )));
    }
    if worker.is_first() {
        let made = changed.iter().any(|key| ["distillation", "back_translation"].contains(key));
        let made = if made { "; what a teacher made of the old text stays" } else { "" };
        worker.notice(format!("{what}; resuming with it, as data.allow_changed says{made}"));
    }
    Ok(())
}

/// Reports to the coordinator what must be the same on every rank.
fn identify(worker: &Worker, bases: &[(String, String)]) {
    let hash = |(side, hash): &(String, String)| (format!("{side} BERT (SHA-256)"), hash.clone());
    let mut facts: BTreeMap<String, String> = bases.iter().map(hash).collect();
    facts.insert("tandem-worker version".into(), env!("CARGO_PKG_VERSION").into());
    worker.report(Report::Identity { facts });
}
