//! `postern.instance.v1.PromptService`.

use std::sync::Arc;

use postern_proto::Failure;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::prompt_service_server::PromptService;
use postern_runtime::grpc::refuse;
use tonic::{Request, Response, Status};

use super::acted;
use crate::prompts::Prompts;

/// The door.
pub struct PromptDoor {
    /// The domain behind it.
    pub prompts: Arc<Prompts>,
}

/// A prompt as the contract says it.
pub(crate) fn prompt((name, text): (String, String)) -> pb::Prompt {
    pb::Prompt { name, text }
}

#[tonic::async_trait]
impl PromptService for PromptDoor {
    async fn put_prompt(
        &self,
        request: Request<pb::PutPromptRequest>,
    ) -> Result<Response<pb::PutPromptResponse>, Status> {
        let given = request.into_inner().prompt.ok_or_else(|| refuse(Failure::field("prompt", "is missing")))?;
        let template = self.prompts.put(&given.name, given.text).await.map_err(refuse)?;
        tracing::info!(prompt.name = template.name(), "prompt put");
        Ok(acted(template.name(), pb::PutPromptResponse {}))
    }

    async fn list_prompts(
        &self,
        _: Request<pb::ListPromptsRequest>,
    ) -> Result<Response<pb::ListPromptsResponse>, Status> {
        let prompts = self.prompts.all().await.map_err(refuse)?.into_iter().map(prompt).collect();
        Ok(Response::new(pb::ListPromptsResponse { prompts }))
    }

    async fn remove_prompt(
        &self,
        request: Request<pb::RemovePromptRequest>,
    ) -> Result<Response<pb::RemovePromptResponse>, Status> {
        let name = request.into_inner().name;
        self.prompts.remove(&name).await.map_err(refuse)?;
        tracing::info!(prompt.name = name, "prompt removed");
        Ok(acted(name, pb::RemovePromptResponse {}))
    }
}
