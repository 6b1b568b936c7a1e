//! The services of each port, put together.

use std::collections::HashSet;

use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use tonic::server::NamedService;
pub use tonic::service::Routes;
use tonic_reflection::server::Builder;

use super::admin_service::AdminApi;
use super::batch_service::BatchApi;
use crate::wire;
use crate::wire::admin_service_server::AdminServiceServer;
use crate::wire::batch_service_server::BatchServiceServer;

/// A name under which health is told.
pub const ADMIN_SERVICE: &str = <AdminServiceServer<AdminApi> as NamedService>::NAME;

/// The name under which health is told to those who submit and read.
pub const BATCH_SERVICE: &str = <BatchServiceServer<BatchApi> as NamedService>::NAME;

/// `BatchService`, `AdminService`, and reflection in both versions that clients ask for.
///
/// # Panics
/// If the descriptors that were built in cannot be read.
pub fn routes(batches: BatchApi, admin: AdminApi, message_bytes_max: usize) -> Routes {
    let batches = BatchServiceServer::new(batches).max_decoding_message_size(message_bytes_max);
    let admin = AdminServiceServer::new(admin).max_decoding_message_size(message_bytes_max);
    with_reflection(Routes::new(batches).add_service(admin))
}

/// The same routes with reflection, which describes all services of this program on each port.
///
/// # Panics
/// If the descriptors that were built in cannot be read.
pub fn with_reflection(routes: Routes) -> Routes {
    let descriptors = || {
        DESCRIPTORS[..2]
            .iter()
            .fold(Builder::configure(), |builder, set| {
                builder.register_encoded_file_descriptor_set(set)
            })
    };
    let broken = "the built-in descriptors are sound";
    routes
        .add_service(descriptors().build_v1().expect(broken))
        .add_service(descriptors().build_v1alpha().expect(broken))
}

/// The names of all methods that are served, as `package.Service/Method`.
///
/// # Panics
/// If the descriptors that were built in cannot be read.
pub fn methods() -> HashSet<String> {
    methods_that(|_| true)
}

/// The names of those whose requests are streams of messages.
///
/// # Panics
/// If the descriptors that were built in cannot be read.
pub fn client_streams() -> HashSet<String> {
    methods_that(MethodDescriptorProto::client_streaming)
}

fn methods_that(are_so: impl Fn(&MethodDescriptorProto) -> bool) -> HashSet<String> {
    let sets = DESCRIPTORS
        .map(|set| FileDescriptorSet::decode(set).expect("the built-in descriptors are sound"));
    let services = sets.iter().flat_map(|set| {
        let files = set.file.iter();
        files.flat_map(|file| file.service.iter().map(move |service| (file, service)))
    });
    let names = services.flat_map(|(file, service)| {
        let path = format!("{}.{}", file.package(), service.name());
        let methods = service.method.iter().filter(|method| are_so(method));
        methods.map(move |method| format!("{path}/{}", method.name()))
    });
    names.collect()
}

/// What reflection tells of, and then reflection itself.
const DESCRIPTORS: [&[u8]; 4] = [
    wire::DESCRIPTORS,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_known_by_its_path() {
        let methods = methods();
        for name in [
            "sooner.v1.AdminService/ListDeadLetters",
            "sooner.v1.BatchService/SubmitBatch",
            "grpc.health.v1.Health/Check",
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(methods.contains(name), "{methods:?}");
        }
    }

    #[test]
    fn calls_whose_requests_are_streams_are_known() {
        let streams = client_streams();
        for name in [
            "sooner.v1.BatchService/StreamBatch",
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(streams.contains(name), "{streams:?}");
        }
        assert_eq!(streams.len(), 3, "{streams:?}");
    }
}
