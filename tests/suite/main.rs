//! The tests of the program and the library from outside, as one binary: a file a subject.

mod attacked;
mod classifier_models;
mod command_line;
mod common;
mod docs;
mod emulator;
mod evaluate;
mod exports;
mod failing_devices;
mod golden_dip;
mod held_outputs;
mod imports;
mod inputs;
mod interrupted_runs;
mod large_runs;
mod limits;
mod overlaps;
mod pipeline;
mod purifier;
mod report;
mod schedules;
mod several_devices;
mod sidecars;
mod toy;
