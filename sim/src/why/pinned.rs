//! Connections that stay with the endpoint they were given.

use podwire_models::api::{Kind, ObjectRef};
use podwire_models::wire::Action;

use super::{Case, Finding};
use crate::attempt;

/// A connection was made before its Service had all the endpoints it has now, and carries request after request.
pub(super) fn pinned(case: &Case<'_>) -> Option<Finding> {
    let records = case.attempted.trace.records.iter();
    let (record, service) = attempt::chosen(records, case.lab)?;
    let Action::Translated { to, .. } = &record.step.action else {
        return None;
    };
    let server = case.attempted.outcome.server.as_deref();
    let slices = case.lab.slices_of(&service.key);
    let ready = slices
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.is_ready())
        .count();
    let object = ObjectRef::namespaced(Kind::Service, &service.key);
    let name = &service.key;
    let says = format!(
        "the connection was made at {}, and an endpoint of {name} is chosen once for each connection: all its requests went to {} ({}), \
         and of the {ready} endpoints that are ready now those that came later get none of them",
        record.at,
        server.unwrap_or("one endpoint"),
        to.0
    );
    let fix = format!(
        "let clients balance requests themselves (gRPC: a headless Service and round_robin), let the servers of {name} end connections \
         after a while (gRPC: MAX_CONNECTION_AGE), or put a proxy that knows requests in between"
    );
    let see = format!(
        "kubectl -n {} get endpointslices -l kubernetes.io/service-name={}",
        name.namespace, name.name
    );
    let finding = Finding::of(case.attempted.code, &object, service.origin);
    Some(finding.saying(says, fix).shown_by(see))
}
