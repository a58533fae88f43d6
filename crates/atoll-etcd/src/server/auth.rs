//! The Auth service, as an etcd answers whose authentication is not enabled and that has no
//! users and roles. Such an etcd would still keep those it is given; that is refused here.

use tonic::{Request, Response, Status};

use super::{Shared, error};
use crate::proto::etcdserverpb::auth_server::Auth;
use crate::proto::etcdserverpb::*;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Auth for Shared {
    async fn auth_enable(&self, _: Request<AuthEnableRequest>) -> Answer<AuthEnableResponse> {
        Err(error::NO_ROOT.into())
    }

    async fn auth_disable(&self, _: Request<AuthDisableRequest>) -> Answer<AuthDisableResponse> {
        Ok(Response::new(AuthDisableResponse { header: self.current_header().await? }))
    }

    async fn auth_status(&self, _: Request<AuthStatusRequest>) -> Answer<AuthStatusResponse> {
        let header = self.current_header().await?;
        Ok(Response::new(AuthStatusResponse { header, enabled: false, auth_revision: 1 }))
    }

    async fn authenticate(&self, _: Request<AuthenticateRequest>) -> Answer<AuthenticateResponse> {
        Err(error::AUTH_NOT_ENABLED.into())
    }

    async fn user_add(&self, request: Request<AuthUserAddRequest>) -> Answer<AuthUserAddResponse> {
        let refusal =
            if request.get_ref().name.is_empty() { error::USER_EMPTY } else { error::NO_USERS };
        Err(refusal.into())
    }

    async fn user_get(&self, _: Request<AuthUserGetRequest>) -> Answer<AuthUserGetResponse> {
        Err(error::USER_NOT_FOUND.into())
    }

    async fn user_list(&self, _: Request<AuthUserListRequest>) -> Answer<AuthUserListResponse> {
        let header = self.current_header().await?;
        Ok(Response::new(AuthUserListResponse { header, users: Vec::new() }))
    }

    async fn user_delete(
        &self,
        _: Request<AuthUserDeleteRequest>,
    ) -> Answer<AuthUserDeleteResponse> {
        Err(error::USER_NOT_FOUND.into())
    }

    async fn user_change_password(
        &self,
        _: Request<AuthUserChangePasswordRequest>,
    ) -> Answer<AuthUserChangePasswordResponse> {
        Err(error::USER_NOT_FOUND.into())
    }

    async fn user_grant_role(
        &self,
        _: Request<AuthUserGrantRoleRequest>,
    ) -> Answer<AuthUserGrantRoleResponse> {
        Err(error::USER_NOT_FOUND.into())
    }

    async fn user_revoke_role(
        &self,
        _: Request<AuthUserRevokeRoleRequest>,
    ) -> Answer<AuthUserRevokeRoleResponse> {
        Err(error::USER_NOT_FOUND.into())
    }

    async fn role_add(&self, request: Request<AuthRoleAddRequest>) -> Answer<AuthRoleAddResponse> {
        let refusal =
            if request.get_ref().name.is_empty() { error::ROLE_EMPTY } else { error::NO_USERS };
        Err(refusal.into())
    }

    async fn role_get(&self, _: Request<AuthRoleGetRequest>) -> Answer<AuthRoleGetResponse> {
        Err(error::ROLE_NOT_FOUND.into())
    }

    async fn role_list(&self, _: Request<AuthRoleListRequest>) -> Answer<AuthRoleListResponse> {
        let header = self.current_header().await?;
        Ok(Response::new(AuthRoleListResponse { header, roles: Vec::new() }))
    }

    async fn role_delete(
        &self,
        _: Request<AuthRoleDeleteRequest>,
    ) -> Answer<AuthRoleDeleteResponse> {
        Err(error::ROLE_NOT_FOUND.into())
    }

    async fn role_grant_permission(
        &self,
        _: Request<AuthRoleGrantPermissionRequest>,
    ) -> Answer<AuthRoleGrantPermissionResponse> {
        Err(error::ROLE_NOT_FOUND.into())
    }

    async fn role_revoke_permission(
        &self,
        _: Request<AuthRoleRevokePermissionRequest>,
    ) -> Answer<AuthRoleRevokePermissionResponse> {
        Err(error::ROLE_NOT_FOUND.into())
    }
}
