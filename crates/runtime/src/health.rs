//! `grpc.health.v1` (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>), over tonic-health's store of
//! statuses, with what that leaves out: Watch of an unknown service answers SERVICE_UNKNOWN and stays open, List exists, and
//! a process starts NOT_SERVING.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use postern_proto::health::v1::health_server::{Health, HealthServer};
use postern_proto::health::v1::{HealthListRequest, HealthListResponse};
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_check_response::ServingStatus as WireStatus;
use tonic_health::pb::health_server::Health as TonicHealth;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService as Statuses};

use crate::lifecycle::Lifecycle;
use crate::readiness::Readiness;

/// The health of one process: `""` and each of its services, all following its readiness.
#[derive(Clone)]
pub struct ProcessHealth {
    statuses: Arc<Statuses>,
    names: Arc<[&'static str]>,
}

impl ProcessHealth {
    /// Follows the readiness for as long as the process runs.
    pub async fn follow(readiness: &Readiness, services: &[&'static str], lifecycle: &Lifecycle) -> Self {
        let reporter = HealthReporter::new();
        let names: Arc<[&'static str]> = std::iter::once("").chain(services.iter().copied()).collect();
        set_all(&reporter, &names, false).await;
        let health =
            Self { statuses: Arc::new(Statuses::from_health_reporter(reporter.clone())), names: names.clone() };
        let mut ready = readiness.watch();
        let stopping = lifecycle.stopping().clone();
        lifecycle.spawn(async move {
            loop {
                let now = *ready.borrow_and_update();
                set_all(&reporter, &names, now).await;
                tokio::select! {
                    biased;
                    changed = ready.changed() => if changed.is_err() { break },
                    () = stopping.cancelled() => break,
                }
            }
        });
        health
    }

    /// The service to add to a server.
    #[must_use]
    pub fn service(&self, lifecycle: &Lifecycle) -> HealthServer<impl Health> {
        HealthServer::new(HealthService { health: self.clone(), stopping: lifecycle.stopping().clone() })
    }
}

async fn set_all(reporter: &HealthReporter, names: &[&'static str], ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in names {
        reporter.set_service_status(name, status).await;
    }
}

struct HealthService {
    health: ProcessHealth,
    stopping: tokio_util::sync::CancellationToken,
}

type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = WatchStream;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        TonicHealth::check(&*self.health.statuses, request).await
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let mut statuses = HashMap::new();
        for name in self.health.names.iter() {
            let request = Request::new(HealthCheckRequest { service: (*name).to_owned() });
            statuses.insert((*name).to_owned(), self.check(request).await?.into_inner());
        }
        Ok(Response::new(HealthListResponse { statuses }))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<WatchStream>, Status> {
        // An open watch must not hold up the end of a drain: the last word is NOT_SERVING, then the stream ends.
        let stopped = self.stopping.clone().cancelled_owned();
        if self.health.names.iter().any(|name| *name == request.get_ref().service) {
            let changes = TonicHealth::watch(&*self.health.statuses, request).await?.into_inner();
            let last = futures_util::stream::iter([Ok(HealthCheckResponse { status: WireStatus::NotServing as i32 })]);
            return Ok(Response::new(Box::pin(changes.take_until(stopped).chain(last))));
        }
        // The set of services is fixed at start, so an unknown one stays unknown.
        let unknown = HealthCheckResponse { status: WireStatus::ServiceUnknown as i32 };
        let forever = futures_util::stream::iter([Ok(unknown)]).chain(futures_util::stream::pending());
        Ok(Response::new(Box::pin(forever.take_until(stopped))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DrainConfig;

    fn asked(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.to_owned() })
    }

    #[tokio::test(start_paused = true)]
    async fn health_is_what_an_orchestrator_expects() {
        let readiness = Readiness::default();
        let life = Lifecycle::new(&readiness);
        let health = ProcessHealth::follow(&readiness, &["a.B"], &life).await;
        let service = HealthService { health, stopping: life.stopping().clone() };

        let status = service.check(asked("")).await.unwrap().into_inner().status;
        assert_eq!(status, WireStatus::NotServing as i32, "starts closed");
        assert_eq!(service.check(asked("nobody")).await.unwrap_err().code(), tonic::Code::NotFound);

        let mut unknown = service.watch(asked("nobody")).await.unwrap().into_inner();
        let first = unknown.next().await.unwrap().unwrap().status;
        assert_eq!(first, WireStatus::ServiceUnknown as i32);
        let open = tokio::time::timeout(std::time::Duration::from_secs(3600), unknown.next()).await;
        assert!(open.is_err(), "the watch of an unknown service stays open");

        let mut known = service.watch(asked("a.B")).await.unwrap().into_inner();
        assert_eq!(known.next().await.unwrap().unwrap().status, WireStatus::NotServing as i32);
        life.started();
        assert_eq!(known.next().await.unwrap().unwrap().status, WireStatus::Serving as i32);

        let list = service.list(Request::new(HealthListRequest {})).await.unwrap().into_inner().statuses;
        assert_eq!(list.len(), 2);
        assert!(list.values().all(|s| s.status == WireStatus::Serving as i32));

        life.stop(DrainConfig { notice_seconds: 1, grace_seconds: 1 }, std::future::pending()).await;
        assert_eq!(known.next().await.unwrap().unwrap().status, WireStatus::NotServing as i32);
        assert!(known.next().await.is_none());
    }
}
