//! Who calls: the bearer token of every call becomes an identity, or the call ends here.

use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures::future::BoxFuture;
use molecule_domain::error::{Error, ErrorReason, Result};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use crate::status::to_status;
use crate::token;

/// Tells who has a token. What it answers stands in the request's extensions.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Whoever may call.
    type Identity: Clone + Send + Sync + 'static;

    /// The token's holder, or why they may not call.
    async fn identify(&self, token: &str) -> Result<Self::Identity>;

    /// Where a token is to be had, for those who bring none.
    fn hint(&self) -> &'static str;
}

/// A service that only identified callers reach.
#[derive(Debug)]
pub struct Authenticated<S, A> {
    inner: S,
    authenticator: Arc<A>,
}

impl<S, A> Authenticated<S, A> {
    /// Puts `authenticator` before a service.
    pub fn new(inner: S, authenticator: Arc<A>) -> Self {
        Self { inner, authenticator }
    }
}

impl<S: Clone, A> Clone for Authenticated<S, A> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), authenticator: Arc::clone(&self.authenticator) }
    }
}

impl<S: NamedService, A> NamedService for Authenticated<S, A> {
    const NAME: &'static str = S::NAME;
}

impl<S, A> Service<http::Request<Body>> for Authenticated<S, A>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    A: Authenticator,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // the clone that was polled ready is the one to be called
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let authenticator = Arc::clone(&self.authenticator);
        Box::pin(async move {
            let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
            let identified = match header.and_then(token::bearer) {
                Some(token) => authenticator.identify(token).await,
                None => Err(Error::new(
                    ErrorReason::Unauthenticated,
                    format!("a bearer token is needed: {}", authenticator.hint()),
                )),
            };
            match identified {
                Ok(identity) => {
                    request.extensions_mut().insert(identity);
                    inner.call(request).await
                }
                Err(error) => Ok(to_status(&error).into_http()),
            }
        })
    }
}

/// The identity that [`Authenticated`] has put into a request.
///
/// # Errors
/// Where the service stands behind no [`Authenticated`] of this identity: nobody is let in by mistake.
pub fn identity<I: Clone + Send + Sync + 'static>(extensions: &tonic::Extensions) -> Result<I> {
    let found = extensions.get::<I>().cloned();
    found.ok_or_else(|| Error::new(ErrorReason::Unauthenticated, "the call was not authenticated"))
}
