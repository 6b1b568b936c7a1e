//! The services of one port, put together.

use tonic::server::NamedService;
pub use tonic::service::Routes;
use tonic_reflection::server::Builder;

use super::batch_service::BatchApi;
use crate::wire;
use crate::wire::batch_service_server::BatchServiceServer;

/// The name under which health is told.
pub const BATCH_SERVICE: &str = <BatchServiceServer<BatchApi> as NamedService>::NAME;

/// `BatchService`, and reflection in both versions that clients ask for.
///
/// # Panics
/// If the descriptors that were built in cannot be read.
pub fn routes(batches: BatchApi, message_bytes_max: usize) -> Routes {
    let batches = BatchServiceServer::new(batches).max_decoding_message_size(message_bytes_max);
    let descriptors = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let broken = "the built-in descriptors are sound";
    Routes::new(batches)
        .add_service(descriptors().build_v1().expect(broken))
        .add_service(descriptors().build_v1alpha().expect(broken))
}
