//! The generated messages, client and server of `proto/sooner/v1`.
//!
//! Inside the crate only what speaks gRPC may see them. For users of the crate the client is here:
//! `BatchServiceClient` under [`batch_service_client`].

#![expect(
    unused_qualifications,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    clippy::large_enum_variant,
    reason = "generated code"
)]

tonic::include_proto!("sooner.v1");

/// The descriptors of all files, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
