//! Tenants and operators, told apart by their tokens. The one's token opens nothing of the other's.

use std::sync::Arc;

use async_trait::async_trait;
use molecule_domain::error::{Error, ErrorReason, Result};
use molecule_service_kit::auth::Authenticator;
use molecule_service_kit::token;
use molecule_store_postgres::accounts::{Accounts, Holder};
use subtle::ConstantTimeEq;

/// Everybody who may call.
#[derive(Debug)]
pub(crate) struct Callers {
    accounts: Accounts,
    operators: Vec<(String, Vec<u8>)>,
}

/// An operator, by name.
#[derive(Clone, Debug)]
pub(crate) struct Operator(pub(crate) String);

enum Caller {
    Tenant(Holder),
    Operator(Operator),
}

impl Callers {
    pub(crate) const fn new(accounts: Accounts, operators: Vec<(String, Vec<u8>)>) -> Self {
        Self { accounts, operators }
    }

    /// Asked anew at every call, so that a revoked token is worth nothing at once.
    async fn identify(&self, token: &str) -> Result<Caller> {
        let hash = token::hash(token);
        let known = self.operators.iter().find(|(_, known)| bool::from(known.ct_eq(&hash)));
        if let Some((name, _)) = known {
            return Ok(Caller::Operator(Operator(name.clone())));
        }
        let holder = self.accounts.holder(&hash).await?;
        holder.map(Caller::Tenant).ok_or_else(|| {
            Error::new(ErrorReason::Unauthenticated, "the token is not known, or has been revoked")
        })
    }
}

/// Lets tenants in.
#[derive(Debug)]
pub(crate) struct TenantsOnly(pub(crate) Arc<Callers>);

#[async_trait]
impl Authenticator for TenantsOnly {
    type Identity = Holder;

    async fn identify(&self, token: &str) -> Result<Holder> {
        match self.0.identify(token).await? {
            Caller::Tenant(holder) => Ok(holder),
            Caller::Operator(_) => Err(Error::new(
                ErrorReason::PermissionDenied,
                "this is an operator's token; the tenants' API is for tenants' tokens",
            )),
        }
    }

    fn hint(&self) -> &'static str {
        "a tenant's, as `molecule admin tokens issue` prints it"
    }
}

/// Lets operators in.
#[derive(Debug)]
pub(crate) struct OperatorsOnly(pub(crate) Arc<Callers>);

#[async_trait]
impl Authenticator for OperatorsOnly {
    type Identity = Operator;

    async fn identify(&self, token: &str) -> Result<Operator> {
        match self.0.identify(token).await? {
            Caller::Operator(operator) => Ok(operator),
            Caller::Tenant(_) => Err(Error::new(
                ErrorReason::PermissionDenied,
                "this is a tenant's token; the operators' API is for operators' tokens",
            )),
        }
    }

    fn hint(&self) -> &'static str {
        "an operator's, from CONTROLPLANE_OPERATOR_TOKENS_FILE"
    }
}
