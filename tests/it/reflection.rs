//! What tools ask a server: what it serves, and whether it does.

use tokio_stream::iter;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use crate::harness::client::next;
use crate::harness::{Server, ServerSetup, within};

const SERVICE: &str = "sooner.v1.BatchService";

const ADMIN: &str = "sooner.v1.AdminService";

async fn channel(server: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    within(endpoint.connect()).await.unwrap()
}

#[tokio::test]
async fn health_tells_of_the_server_and_of_its_service() {
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = HealthClient::new(channel(&server).await);
    for service in ["", SERVICE, ADMIN] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let health = within(client.check(request)).await.unwrap().into_inner();
        assert_eq!(health.status(), ServingStatus::Serving, "{service:?}");
    }
    let request = HealthCheckRequest {
        service: "sooner.v1.Nothing".into(),
    };
    let status = within(client.check(request)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    use v1::server_reflection_client::ServerReflectionClient;
    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = ServerReflectionClient::new(channel(&server).await);
    let ask = |question| v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let questions = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(format!(
            "{SERVICE}.SubmitBatch"
        ))),
    ];
    let answers = within(client.server_reflection_info(iter(questions)))
        .await
        .unwrap();
    let mut answers = answers.into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        next(&mut answers).await.message_response
    else {
        panic!("a list of services");
    };
    let names: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert!(
        [SERVICE, ADMIN, "grpc.health.v1.Health"]
            .iter()
            .all(|service| names.contains(service)),
        "{names:?}"
    );
    let Some(MessageResponse::FileDescriptorResponse(files)) =
        next(&mut answers).await.message_response
    else {
        panic!("the file of the service");
    };
    assert!(!files.file_descriptor_proto.is_empty());
}

#[tokio::test]
async fn older_tools_find_reflection_too() {
    use v1alpha::server_reflection_client::ServerReflectionClient;
    use v1alpha::server_reflection_request::MessageRequest;
    use v1alpha::server_reflection_response::MessageResponse;
    let setup = ServerSetup::echo();
    let server = setup.start();
    let mut client = ServerReflectionClient::new(channel(&server).await);
    let question = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = within(client.server_reflection_info(iter([question])))
        .await
        .unwrap();
    let mut answers = answers.into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        next(&mut answers).await.message_response
    else {
        panic!("a list of services");
    };
    assert!(
        list.service.iter().any(|service| service.name == SERVICE),
        "{list:?}"
    );
}
