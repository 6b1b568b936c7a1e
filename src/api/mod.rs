//! Floor 4: requests come in, the engine's answers go out. Wire types stop here.

pub mod grpc;
