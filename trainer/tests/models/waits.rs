//! The host never waits for the device in a step: it reads nothing that a GPU would still have to compute,
//! and copies nothing to it that is not queued. It would read and copy the same on a CPU.

use tandem_config::schema::cluster::{GradientDtype, Reduction};
use tandem_config::schema::training::Optimizer;
use tandem_trainer::device::calls::Calls;
use tandem_trainer::model::{Block, Pass};
use tandem_trainer::objective::{Objective, Sums};
use tandem_trainer::optim::Adam;
use tandem_trainer::parallel::solo::Solo;
use tandem_trainer::parallel::{Reducer, reducer};
use tandem_trainer::random::{Purpose, stream};
use tandem_trainer::training::update::Updates;
use tch::{Device, Kind};

use crate::blocks::{Model, models};

/// The calls of a whole step, from the micro-batch in main memory to the updated weights.
fn step(model: &Model, updates: &std::cell::RefCell<Updates>, clip_norm: f64) -> Calls {
    let Model { parameters, objective, batch, .. } = model;
    let ((), calls) = Calls::of(|| {
        let make = |block: Block| updates.borrow_mut().make(block, parameters);
        let masks = stream(1, Purpose::Dropout, &[1, 0]);
        let loss = objective.loss(batch, Device::Cpu, &Pass::train(masks).after(&make));
        let sums = loss.losses.with(loss.counts, Kind::Float);
        let mut updates = updates.borrow_mut();
        updates.finish(parameters).expect("one rank");
        updates.reducer.begin(0, &sums);
        loss.surrogate.backward();
        updates.reducer.end(0);
        updates.reducer.send_rest();
        let sums = updates.wait(Reducer::sums).expect("one rank");
        updates.begin(parameters, &sums, clip_norm, |_| 1e-3).expect("one rank");
        updates.finish(parameters).expect("one rank");
    });
    calls
}

#[test]
fn the_host_waits_for_nothing_in_a_step() {
    // The alignments of CTC are computed on the CPU.
    let is_ctc = |model: &Model| matches!(model.objective, Objective::Ctc(_));
    for model in models().into_iter().filter(|model| !is_ctc(model)) {
        for clip_norm in [0.0, 1e-3] {
            let decay = Optimizer::Adam { betas: [0.9, 0.98], eps: 1e-8, weight_decay: 0.1 };
            let settings = reducer::Settings {
                reduction: Reduction::Plain,
                dtype: GradientDtype::F32,
                shards: 1,
                sums: Sums::COUNT,
                bucket_elements: 1000,
                into_forward: clip_norm == 0.0,
            };
            let reducer = Reducer::new(Box::new(Solo), &model.parameters, &settings);
            let adam = Adam::new(&decay, &model.parameters.weights);
            let updates = Updates::new(adam, reducer, &model.parameters).into();
            let calls = step(&model, &updates, clip_norm);
            println!("{}, clipped to {clip_norm}: {calls:?}", model.name);
            assert_eq!(calls.waits, 0, "{}, clipped to {clip_norm}", model.name);
        }
    }
}
