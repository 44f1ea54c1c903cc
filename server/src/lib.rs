//! A service that purifies pictures for other programs: the Open Inference Protocol, over REST and gRPC, before
//! `backstitch`'s continuous batching. See docs/server.md.
//!
//! ```text
//! listen ─► observe ─► intake ─► rest, pictures, jobs, grpc ─► infer ─► queue ─► engines
//! ```

pub mod engines;
pub mod found;
pub mod grpc;
pub mod infer;
pub mod intake;
pub mod jobs;
pub mod keys;
pub mod life;
pub mod listen;
pub mod metrics;
pub mod observe;
pub mod options;
pub mod pictures;
pub mod queue;
pub mod refusal;
pub mod rest;
pub mod routes;
pub mod service;
