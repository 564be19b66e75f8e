//! The gRPC server every service builds on: guard, health, both reflections, drain.

use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic_health::server::HealthReporter;

use crate::guard::Guard;

/// How long calls under way have to end once the server drains.
const DRAIN: Duration = Duration::from_secs(20);

/// How often a quiet connection is asked whether anybody is there, and how long its answer may take.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A gRPC server in the making.
#[derive(Debug)]
pub struct GrpcServer {
    routes: RoutesBuilder,
    health: HealthReporter,
    services: Vec<&'static str>,
    guard: Guard,
    tls: Option<ServerTlsConfig>,
}

/// A server that can't be built or run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address can't be listened on.
    #[error("can't listen on {0}; is something else there?")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The descriptors don't make a reflection service.
    #[error("reflection can't be built")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("the gRPC server failed")]
    Transport(#[source] tonic::transport::Error),
}

impl GrpcServer {
    /// A server with health and reflection, whose calls pass `guard`.
    pub fn new(guard: Guard, descriptors: &'static [u8]) -> Result<Self, ServerError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        // Python's client speaks v1alpha only.
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(descriptors)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let mut routes = Routes::builder();
        routes.add_service(health_service);
        routes.add_service(builder().build_v1().map_err(ServerError::Reflection)?);
        routes.add_service(builder().build_v1alpha().map_err(ServerError::Reflection)?);
        let guard = guard.measuring(methods(descriptors));
        Ok(Self { routes, health, services: vec![""], guard, tls: None })
    }

    /// Speaks TLS with this certificate and key, as PEM.
    #[must_use]
    pub fn with_tls(mut self, certificate: &str, key: &SecretString) -> Self {
        let identity = Identity::from_pem(certificate, key.expose_secret());
        self.tls = Some(ServerTlsConfig::new().identity(identity));
        self
    }

    /// Adds a service and reports it healthy.
    pub async fn add<S>(&mut self, service: S)
    where
        S: tower::Service<http::Request<tonic::body::Body>, Error = std::convert::Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.health.set_serving::<S>().await;
        self.services.push(S::NAME);
        self.routes.add_service(service);
    }

    /// Serves until cancelled; then reports itself unhealthy and lets calls under way come to their end.
    pub async fn serve(self, listener: TcpListener, cancel: CancellationToken) -> Result<(), ServerError> {
        let (health, services, drain) = (self.health, self.services, cancel.clone());
        let drained = async move {
            drain.cancelled().await;
            for service in services {
                health.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
            }
        };
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let mut server = Server::builder();
        if let Some(tls) = self.tls {
            server = server.tls_config(tls).map_err(ServerError::Transport)?;
        }
        let served = server
            // a peer that is frozen or cut off is noticed within 20 s, and its streams end
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .layer(self.guard)
            .add_routes(self.routes.routes())
            .serve_with_incoming_shutdown(incoming, drained);
        let too_long = async {
            cancel.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            served = served => served.map_err(ServerError::Transport),
            () = too_long => {
                tracing::warn!("some calls did not end in time; leaving them");
                Ok(())
            }
        }
    }
}

/// Listens, or says why not.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|error| ServerError::Listen(address, error))
}

/// The paths of all methods that descriptors tell of.
fn methods(descriptors: &[u8]) -> Vec<String> {
    // reflection has read them already, and refuses what is malformed
    let files = prost_types::FileDescriptorSet::decode(descriptors).unwrap_or_default().file;
    let mut paths = Vec::new();
    for file in &files {
        for service in &file.service {
            let service_name = format!("{}.{}", file.package(), service.name());
            paths.extend(service.method.iter().map(|method| format!("/{service_name}/{}", method.name())));
        }
    }
    paths
}
