//! The operators' API.

use molecule_domain::error::{Error, Result};
use molecule_domain::id::{OrganizationId, TokenId};
use molecule_domain::limits::Standing;
use molecule_domain::{Timestamp, Violations};
use molecule_proto::controlplane::v1 as wire;
use molecule_proto::controlplane::v1::organization_service_server::OrganizationService;
use molecule_provisioner::admission::Account;
use molecule_service_kit::auth::identity;
use molecule_service_kit::{page, token};
use molecule_store_postgres::accounts::{Audit, Changes, Organization};
use secrecy::ExposeSecret;
use tonic::Request;

use super::callers::Operator;
use super::convert::organization_id;
use super::{Answer, Parts, answer, convert, database, orphans};

const MAX_NAME: usize = 80;
const MAX_HOSTS: usize = 32;
const MAX_MESSAGE: usize = 1000;

pub(crate) struct OrganizationApi(pub(super) Parts);

fn audit(operator: Operator, action: &'static str, message: impl Into<String>) -> Audit {
    Audit { actor: operator.0, action, message: message.into() }
}

fn check_name(field: &str, name: &str, v: &mut Violations) {
    let length = name.chars().count();
    v.require((1..=MAX_NAME).contains(&length), field, "must have 1 to 80 characters");
    v.require(!name.chars().any(char::is_control), field, "must not hold control characters");
}

impl OrganizationApi {
    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Checks what an operator may set, by the fields' paths.
    fn check(&self, asked: &wire::Organization, v: &mut Violations) {
        if !asked.plan.is_empty() && self.0.plans.get(&asked.plan).is_none() {
            let known = self.0.plans.names();
            v.add("organization.plan", format!("there is no plan {:?}; known are: {known}", asked.plan));
        }
        if !asked.backend.is_empty() && !self.0.engines.has(&asked.backend) {
            let known = self.0.engines.kinds();
            let problem = format!("there is no backend {:?}; known are: {known}", asked.backend);
            v.add("organization.backend", problem);
        }
        let hosts = &asked.allowed_agent_hosts;
        v.require(hosts.len() <= MAX_HOSTS, "organization.allowed_agent_hosts", "must be at most 32");
        for host in hosts {
            let usable =
                format!("http://{host}/").parse::<http::Uri>().is_ok_and(|uri| uri.host() == Some(host));
            if !usable {
                v.add("organization.allowed_agent_hosts", format!("{host:?} is not a host without a port"));
            }
        }
    }

    async fn create(&self, operator: Operator, asked: wire::Organization) -> Result<wire::Organization> {
        let mut v = Violations::default();
        check_name("organization.name", &asked.name, &mut v);
        self.check(&asked, &mut v);
        let id = match asked.organization_id.as_str() {
            "" => OrganizationId::generate(),
            text => text.parse().unwrap_or_else(|_| {
                v.add("organization.organization_id", format!("{text:?} is not a UUID"));
                OrganizationId::generate()
            }),
        };
        v.into_result()?;
        let (limits, permits) = match asked.limits {
            Some(limits) => convert::limits_from(limits)?,
            None => self.of_plan(&asked.plan),
        };
        let new = Organization {
            id,
            name: asked.name,
            plan: asked.plan,
            backend: asked.backend,
            allowed_agent_hosts: asked.allowed_agent_hosts,
            account: Account { limits, permits, ..Account::default() },
            created_at: self.now(),
        };
        let audit = audit(operator, "create_organization", format!("{} on plan {:?}", new.name, new.plan));
        Ok(convert::organization(&self.0.accounts.create(&new, &audit, self.now()).await?))
    }

    fn of_plan(&self, plan: &str) -> (molecule_domain::limits::Limits, molecule_domain::limits::Permits) {
        let plan = self.0.plans.get(plan).cloned().unwrap_or_default();
        (plan.limits, plan.permits)
    }

    async fn update(
        &self,
        operator: Operator,
        request: wire::UpdateOrganizationRequest,
    ) -> Result<wire::Organization> {
        let asked = request.organization.unwrap_or_default();
        let id = organization_id(&asked.organization_id)?;
        let paths = request.update_mask.unwrap_or_default().paths;
        let mut v = Violations::default();
        v.require(!paths.is_empty(), "update_mask", "must name at least one field");
        self.check(&asked, &mut v);
        let mut changes = Changes::default();
        for path in &paths {
            match path.as_str() {
                "name" => {
                    check_name("organization.name", &asked.name, &mut v);
                    changes.name = Some(asked.name.clone());
                }
                "plan" => changes.plan = Some(asked.plan.clone()),
                "backend" => changes.backend = Some(asked.backend.clone()),
                "allowed_agent_hosts" => {
                    changes.allowed_agent_hosts = Some(asked.allowed_agent_hosts.clone());
                }
                "limits" => {
                    let limits = asked.limits.clone().unwrap_or_default();
                    changes.limits = Some(convert::limits_from(limits)?);
                }
                "standing" => match wire::Standing::try_from(asked.standing) {
                    Ok(wire::Standing::Good) => changes.standing = Some(Standing::Good),
                    Ok(wire::Standing::Grace) => changes.standing = Some(Standing::Grace),
                    _ => v.add(
                        "organization.standing",
                        "can be set to GOOD or GRACE; SuspendOrganization suspends",
                    ),
                },
                other => v.add("update_mask", format!("there is no field {other:?} that can be changed")),
            }
        }
        v.into_result()?;
        if changes.plan.is_some() && changes.limits.is_none() {
            changes.limits = Some(self.of_plan(&asked.plan));
        }
        let audit = audit(operator, "update_organization", paths.join(", "));
        Ok(convert::organization(&self.0.accounts.update(id, &changes, &audit, self.now()).await?))
    }

    async fn issue(
        &self,
        operator: Operator,
        request: wire::IssueTokenRequest,
    ) -> Result<wire::IssueTokenResponse> {
        let id = organization_id(&request.organization_id)?;
        let mut v = Violations::default();
        check_name("name", &request.name, &mut v);
        v.into_result()?;
        let secret = token::generate("org");
        let hash = token::hash(secret.expose_secret());
        let audit = audit(operator, "issue_token", request.name.clone());
        let token = self.0.accounts.issue_token(id, &request.name, &hash, &audit, self.now()).await?;
        let secret = secret.expose_secret().to_owned();
        Ok(wire::IssueTokenResponse { token: Some(convert::token(token)), secret })
    }

    async fn audit_events(
        &self,
        request: wire::ListAuditEventsRequest,
    ) -> Result<wire::ListAuditEventsResponse> {
        let organization = match request.organization_id.as_str() {
            "" => None,
            id => Some(organization_id(id)?),
        };
        let size = page::size(request.page_size)?.min(500);
        let list = format!("audit/{}", request.organization_id);
        let before = page::place(&self.0.key, &list, &request.page_token)?;
        let mut events = self.0.accounts.audit_events(organization, before, size + 1).await?;
        let more = events.len() > size as usize;
        events.truncate(size as usize);
        let next_page_token = match events.last() {
            Some(last) if more => page::token(&self.0.key, &list, &last.id)?,
            _ => String::new(),
        };
        let events = events.into_iter().map(convert::audit_event).collect();
        Ok(wire::ListAuditEventsResponse { events, next_page_token })
    }

    async fn list(&self, request: wire::ListOrganizationsRequest) -> Result<wire::ListOrganizationsResponse> {
        let size = page::size(request.page_size)?.min(500);
        let after = page::place(&self.0.key, "organizations", &request.page_token)?;
        let mut found = self.0.accounts.list(after, size + 1, self.now()).await?;
        let more = found.len() > size as usize;
        found.truncate(size as usize);
        let next_page_token = match found.last() {
            Some(last) if more => page::token(&self.0.key, "organizations", &last.id)?,
            _ => String::new(),
        };
        let organizations = found.iter().map(convert::organization).collect();
        Ok(wire::ListOrganizationsResponse { organizations, next_page_token })
    }
}

#[tonic::async_trait]
impl OrganizationService for OrganizationApi {
    async fn create_organization(
        &self,
        request: Request<wire::CreateOrganizationRequest>,
    ) -> Answer<wire::CreateOrganizationResponse> {
        let result = async {
            let operator = self.0.changing(request.extensions())?;
            let asked = request.into_inner().organization.unwrap_or_default();
            let organization = Some(self.create(operator, asked).await?);
            Ok(wire::CreateOrganizationResponse { organization })
        };
        answer(result.await)
    }

    async fn get_organization(
        &self,
        request: Request<wire::GetOrganizationRequest>,
    ) -> Answer<wire::GetOrganizationResponse> {
        let result = async {
            let _: Operator = identity(request.extensions())?;
            let id = organization_id(&request.into_inner().organization_id)?;
            let found = self.0.accounts.get(id, self.now()).await?;
            Ok(wire::GetOrganizationResponse { organization: Some(convert::organization(&found)) })
        };
        answer(result.await)
    }

    async fn list_organizations(
        &self,
        request: Request<wire::ListOrganizationsRequest>,
    ) -> Answer<wire::ListOrganizationsResponse> {
        let result = async {
            let _: Operator = identity(request.extensions())?;
            self.list(request.into_inner()).await
        };
        answer(result.await)
    }

    async fn update_organization(
        &self,
        request: Request<wire::UpdateOrganizationRequest>,
    ) -> Answer<wire::UpdateOrganizationResponse> {
        let result = async {
            let operator = self.0.changing(request.extensions())?;
            let organization = Some(self.update(operator, request.into_inner()).await?);
            Ok(wire::UpdateOrganizationResponse { organization })
        };
        answer(result.await)
    }

    async fn suspend_organization(
        &self,
        request: Request<wire::SuspendOrganizationRequest>,
    ) -> Answer<wire::SuspendOrganizationResponse> {
        let result = async {
            let operator = self.0.changing(request.extensions())?;
            let request = request.into_inner();
            let id = organization_id(&request.organization_id)?;
            if request.message.len() > MAX_MESSAGE {
                return Err(Error::field("message", "must have at most 1000 bytes"));
            }
            let audit = audit(operator, "suspend_organization", request.message);
            let suspended = self.0.accounts.suspend(id, &audit, self.now()).await?;
            Ok(wire::SuspendOrganizationResponse { organization: Some(convert::organization(&suspended)) })
        };
        answer(result.await)
    }

    async fn resume_organization(
        &self,
        request: Request<wire::ResumeOrganizationRequest>,
    ) -> Answer<wire::ResumeOrganizationResponse> {
        let result = async {
            let operator = self.0.changing(request.extensions())?;
            let id = organization_id(&request.into_inner().organization_id)?;
            let changes = Changes { standing: Some(Standing::Good), ..Changes::default() };
            let audit = audit(operator, "resume_organization", "");
            let resumed = self.0.accounts.update(id, &changes, &audit, self.now()).await?;
            Ok(wire::ResumeOrganizationResponse { organization: Some(convert::organization(&resumed)) })
        };
        answer(result.await)
    }

    async fn delete_organization(
        &self,
        request: Request<wire::DeleteOrganizationRequest>,
    ) -> Answer<wire::DeleteOrganizationResponse> {
        let result = async {
            let operator = self.0.changing(request.extensions())?;
            let id = organization_id(&request.into_inner().organization_id)?;
            self.0.accounts.delete(id, &audit(operator, "delete_organization", ""), self.now()).await?;
            Ok(wire::DeleteOrganizationResponse {})
        };
        answer(result.await)
    }

    async fn issue_token(
        &self,
        request: Request<wire::IssueTokenRequest>,
    ) -> Answer<wire::IssueTokenResponse> {
        let result = async {
            let operator = self.0.changing(request.extensions())?;
            self.issue(operator, request.into_inner()).await
        };
        answer(result.await)
    }

    async fn list_tokens(
        &self,
        request: Request<wire::ListTokensRequest>,
    ) -> Answer<wire::ListTokensResponse> {
        let result = async {
            let _: Operator = identity(request.extensions())?;
            let id = organization_id(&request.into_inner().organization_id)?;
            let tokens = self.0.accounts.tokens(id, self.now()).await?;
            Ok(wire::ListTokensResponse { tokens: tokens.into_iter().map(convert::token).collect() })
        };
        answer(result.await)
    }

    async fn revoke_token(
        &self,
        request: Request<wire::RevokeTokenRequest>,
    ) -> Answer<wire::RevokeTokenResponse> {
        let result = async {
            let operator = self.0.changing(request.extensions())?;
            let request = request.into_inner();
            let id = organization_id(&request.organization_id)?;
            let token: TokenId = request
                .token_id
                .parse()
                .map_err(|_| Error::field("token_id", format!("{:?} is not a UUID", request.token_id)))?;
            let audit = audit(operator, "revoke_token", token.to_string());
            let revoked = self.0.accounts.revoke_token(id, token, &audit, self.now()).await?;
            Ok(wire::RevokeTokenResponse { token: Some(convert::token(revoked)) })
        };
        answer(result.await)
    }

    async fn list_audit_events(
        &self,
        request: Request<wire::ListAuditEventsRequest>,
    ) -> Answer<wire::ListAuditEventsResponse> {
        let result = async {
            let _: Operator = identity(request.extensions())?;
            self.audit_events(request.into_inner()).await
        };
        answer(result.await)
    }

    async fn list_orphans(
        &self,
        request: Request<wire::ListOrphansRequest>,
    ) -> Answer<wire::ListOrphansResponse> {
        let result = async {
            let _: Operator = identity(request.extensions())?;
            orphans::list(&self.0).await
        };
        answer(result.await)
    }

    async fn sweep_orphans(
        &self,
        request: Request<wire::SweepOrphansRequest>,
    ) -> Answer<wire::SweepOrphansResponse> {
        let result = async {
            let operator = self.0.changing(request.extensions())?;
            orphans::sweep(&self.0, operator, &request.into_inner().etag).await
        };
        answer(result.await)
    }

    async fn list_alarms(
        &self,
        request: Request<wire::ListAlarmsRequest>,
    ) -> Answer<wire::ListAlarmsResponse> {
        let result = async {
            let _: Operator = identity(request.extensions())?;
            orphans::list_alarms(&self.0).await
        };
        answer(result.await)
    }

    async fn clear_alarms(
        &self,
        request: Request<wire::ClearAlarmsRequest>,
    ) -> Answer<wire::ClearAlarmsResponse> {
        let result = async {
            let operator = self.0.changing(request.extensions())?;
            orphans::clear_alarms(&self.0, operator, &request.into_inner().etag).await
        };
        answer(result.await)
    }

    async fn get_database_identity(
        &self,
        request: Request<wire::GetDatabaseIdentityRequest>,
    ) -> Answer<wire::GetDatabaseIdentityResponse> {
        let result = async {
            let _: Operator = identity(request.extensions())?;
            database::show(&self.0).await
        };
        answer(result.await)
    }

    async fn adopt_database(
        &self,
        request: Request<wire::AdoptDatabaseRequest>,
    ) -> Answer<wire::AdoptDatabaseResponse> {
        let result = async {
            let operator = identity(request.extensions())?;
            database::adopt(&self.0, operator, request.into_inner()).await
        };
        answer(result.await)
    }
}
