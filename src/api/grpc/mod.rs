//! The gRPC face of the engine.

mod answer_layer;
mod batch_service;
mod convert;
mod deadline;
mod reader;
mod render;
mod routes;
mod status;
mod stream_batch;
mod violations;

pub use self::answer_layer::AnswerLayer;
pub use self::batch_service::{BatchApi, InputLimits};
pub use self::routes::{BATCH_SERVICE, Routes, routes};
