//! Compiles the proto files without protoc and writes their descriptors for gRPC reflection.

use prost::Message as _;

const PROTOS: [&str; 3] = [
    "proto/sooner/v1/admin.proto",
    "proto/sooner/v1/batch.proto",
    "proto/sooner/v1/types.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    // Comments travel into the generated code and into what reflection tells.
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files(PROTOS)?;
    let descriptors = compiler.file_descriptor_set();
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".sooner.v1.Payload.data")
        .compile_fds(descriptors)?;
    Ok(())
}
