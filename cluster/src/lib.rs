//! Who runs where: topology, engines, control channel, run folder, checkpoint store.
