//! The gRPC face of the engine.

mod admin_service;
mod answer_layer;
mod batch_service;
mod call;
mod convert;
mod deadline;
mod input_limits;
mod lists;
mod meter_layer;
mod reader;
mod render;
mod request_budget;
mod routes;
mod status;
mod stream_batch;
mod tenancy;
mod violations;
mod watch;

pub use self::admin_service::AdminApi;
pub use self::answer_layer::AnswerLayer;
pub use self::batch_service::BatchApi;
pub use self::input_limits::InputLimits;
pub use self::meter_layer::MeterLayer;
pub use self::request_budget::{RequestBudget, RequestLimits};
pub use self::routes::{
    ADMIN_SERVICE, BATCH_SERVICE, Routes, client_streams, methods, routes, with_reflection,
};
pub use self::tenancy::Tenancy;
