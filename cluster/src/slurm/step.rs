//! Whether this process is part of a step of the job.

/// Steps from here on are shells and daemons (SLURM_BATCH_SCRIPT, SLURM_INTERACTIVE_STEP, ...).
const FIRST_SPECIAL_STEP: u32 = 0xffff_fff0;

/// Whether srun started this process for its own sake: the shell of a batch job belongs to no step,
/// that of salloc to none or to one of the numbers that Slurm keeps for itself.
pub(super) fn in_step(variable: &impl Fn(&str) -> Option<String>) -> bool {
    variable("SLURM_STEP_ID")
        .and_then(|step| step.parse::<u32>().ok())
        .is_some_and(|step| step < FIRST_SPECIAL_STEP)
}
