//! The service over loopback: what it answers, what it refuses, and how it lives and ends.

mod common;
mod decoders;
mod docs;
mod life;
mod malformed;
mod protocol;
mod queueing;
