//! Through the instance: the same service, with a credential or a token. HEAD_TO_HEAD row 16.

use std::sync::{Arc, Mutex};

use postern_proto::Reason;
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::completion_service_client::CompletionServiceClient;
use postern_proto::gateway::v1::completion_service_server::{CompletionService, CompletionServiceServer};
use postern_proto::instance::v1 as instance;
use postern_proto::instance::v1::fleet_service_client::FleetServiceClient;
use postern_tests::{FakeModel, Forge, Stack, chunk, reason, soon, sse_head};
use tonic::{Request, Response, Status};

async fn ask(stack: &Stack, bearer: &str) -> Result<String, Status> {
    let request = Stack::request(pb::ChatRequest { chat: Some(Stack::chat("hi")) }, bearer);
    let answer = CompletionServiceClient::new(stack.at_instance()).chat(request).await?.into_inner();
    Ok(answer.completion.unwrap().choices[0].text.clone())
}

#[tokio::test]
async fn the_relay_takes_a_credential_and_a_token_alike() {
    let model = FakeModel::saying(&["re", "layed"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    assert_eq!(ask(&stack, &stack.user).await.unwrap(), "relayed");
    assert_eq!(ask(&stack, &stack.token().await).await.unwrap(), "relayed");
}

#[tokio::test]
async fn failures_come_through_the_relay_as_they_are() {
    let model = FakeModel::playing([vec![sse_head(), chunk("half")]]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    let request = Stack::request(pb::StreamChatRequest { chat: Some(Stack::chat("hi")) }, &stack.user);
    let mut events = CompletionServiceClient::new(stack.at_instance()).stream_chat(request).await.unwrap().into_inner();
    let mut delivered = 0;
    let status = loop {
        match soon("an event", events.message()).await {
            Ok(Some(_)) => delivered += 1,
            Ok(None) => panic!("the stream ended as if it were whole"),
            Err(status) => break status,
        }
    };
    assert_eq!((delivered, reason(&status)), (2, Reason::ModelStreamTruncated));
    let expired = Forge::instance().sign(&{
        let mut claims = stack.claims();
        claims["exp"] = (claims["iat"].as_u64().unwrap() - 100).into();
        claims["iat"] = claims["exp"].clone();
        claims
    });
    assert_eq!(reason(&ask(&stack, &expired).await.unwrap_err()), Reason::TokenExpired);
    assert_eq!(reason(&ask(&stack, "postern_pat_wrong").await.unwrap_err()), Reason::CredentialInvalid);
}

#[tokio::test]
async fn an_administrators_credential_is_not_for_inference() {
    let model = FakeModel::saying(&["ok"]).await;
    let stack = Stack::builder().model("demo", &model).start().await;
    assert_eq!(reason(&ask(&stack, &stack.admin).await.unwrap_err()), Reason::AudienceDenied);
    assert!(model.requests().is_empty());
}

/// A gateway that keeps the tokens it is shown.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<Vec<String>>>);

type Nothing<T> = tokio_stream::Empty<Result<T, Status>>;

#[tonic::async_trait]
impl CompletionService for Keeper {
    type StreamChatStream = Nothing<pb::StreamChatResponse>;
    type StreamCompleteCodeStream = Nothing<pb::StreamCompleteCodeResponse>;
    type StreamRunPromptStream = Nothing<pb::StreamRunPromptResponse>;

    async fn run_prompt(&self, _: Request<pb::RunPromptRequest>) -> Result<Response<pb::RunPromptResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn stream_run_prompt(
        &self,
        _: Request<pb::StreamRunPromptRequest>,
    ) -> Result<Response<Self::StreamRunPromptStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn embed(&self, _: Request<pb::EmbedRequest>) -> Result<Response<pb::EmbedResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn chat(&self, request: Request<pb::ChatRequest>) -> Result<Response<pb::ChatResponse>, Status> {
        let shown = request.metadata().get("authorization").unwrap().to_str().unwrap();
        self.0.lock().unwrap().push(shown.strip_prefix("Bearer ").unwrap().to_owned());
        Ok(Response::new(pb::ChatResponse {
            completion: Some(postern_proto::completion::v1::Completion {
                choices: vec![postern_proto::completion::v1::Choice::default()],
                ..Default::default()
            }),
        }))
    }

    async fn stream_chat(&self, _: Request<pb::StreamChatRequest>) -> Result<Response<Self::StreamChatStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn complete_code(
        &self,
        _: Request<pb::CompleteCodeRequest>,
    ) -> Result<Response<pb::CompleteCodeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn stream_complete_code(
        &self,
        _: Request<pb::StreamCompleteCodeRequest>,
    ) -> Result<Response<Self::StreamCompleteCodeStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_models(&self, _: Request<pb::ListModelsRequest>) -> Result<Response<pb::ListModelsResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tokio::test]
async fn row_16_the_user_is_a_signed_subject_and_the_instance_a_signed_actor() {
    let stack = Stack::builder().start().await;
    let keeper = Keeper::default();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(CompletionServiceServer::new(keeper.clone()))
            .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)),
    );
    // Its name sorts before the real gateway's, so the relay uses it.
    let gateway = instance::fleet_member::Gateway { audience: String::new(), address, managed: false };
    let message = instance::CreateFleetMemberRequest {
        name: "a-keeper".to_owned(),
        kind: Some(instance::create_fleet_member_request::Kind::Gateway(gateway)),
        ..Default::default()
    };
    let request = stack.administer(message).await;
    FleetServiceClient::new(stack.at_instance()).create_fleet_member(request).await.unwrap();

    ask(&stack, &stack.user).await.unwrap();
    let own = stack.exchange(&stack.user, "postern-gateway:a-keeper", &["feature:chat"]).await.unwrap();
    ask(&stack, &own).await.unwrap();
    let shown = keeper.0.lock().unwrap().clone();
    let (minted, user) = (Forge::claims(&shown[0]), Forge::claims(&own));
    assert_eq!(minted["sub"], user["sub"]);
    assert!(minted["sub"].as_str().unwrap().starts_with("usr_"));
    assert_eq!(minted["act"]["sub"], minted["postern_instance"]);
    assert_eq!((&minted["aud"], &minted["scope"]), (&"postern-gateway:a-keeper".into(), &"feature:chat".into()));
    assert_eq!(shown[1], own, "an access token goes on untouched");
    assert!(shown.iter().all(|token| !token.contains("postern_pat_")));
    serving.abort();
}
