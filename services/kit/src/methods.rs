//! Which methods a server has, as its descriptor sets tell; and reflection over the same sets.

use std::collections::HashMap;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic_reflection::server::Builder;

use crate::routes::Routes;

/// The sets that belong to the server itself: health, reflection, and the details of errors.
const OWN_SETS: [&[u8]; 4] = [
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    tonic_types::pb::FILE_DESCRIPTOR_SET,
];

/// The services that every server has.
const OWN_SERVICES: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Paths by whether either side streams.
#[derive(Debug, Default)]
pub(crate) struct Methods(HashMap<String, bool>);

impl Methods {
    /// Reads them out of encoded descriptor sets, the server's own included.
    pub(crate) fn read(sets: &[&[u8]]) -> Result<Self, prost::DecodeError> {
        let mut methods = HashMap::new();
        for set in sets.iter().chain(&OWN_SETS) {
            for file in FileDescriptorSet::decode(*set)?.file {
                for service in &file.service {
                    for method in &service.method {
                        let path =
                            format!("/{}.{}/{}", file.package(), service.name(), method.name());
                        methods
                            .insert(path, method.client_streaming() || method.server_streaming());
                    }
                }
            }
        }
        Ok(Self(methods))
    }

    pub(crate) fn is_streaming(&self, path: &str) -> bool {
        self.0.get(path).copied().unwrap_or(false)
    }

    /// Whether the path belongs to health or reflection.
    pub(crate) fn is_own(path: &str) -> bool {
        path.starts_with("/grpc.health.") || path.starts_with("/grpc.reflection.")
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Adds reflection, v1 and the v1alpha that older clients ask for. It lists `services` and the
/// server's own; what else the sets describe is described, but not listed as being here.
pub(crate) fn add_reflection(
    routes: Routes,
    sets: &[&'static [u8]],
    services: &[&'static str],
) -> Result<Routes, tonic_reflection::server::Error> {
    let builder = || {
        let described = sets.iter().chain(&OWN_SETS).fold(
            Builder::configure().include_reflection_service(false),
            |builder, set| builder.register_encoded_file_descriptor_set(set),
        );
        let listed = services.iter().chain(&OWN_SERVICES);
        listed.fold(described, |builder, name| builder.with_service_name(*name))
    };
    Ok(routes
        .add_service(builder().build_v1()?)
        .add_service(builder().build_v1alpha()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_known_by_path_and_by_whether_they_stream() {
        let methods = Methods::read(&[]).expect("valid sets");
        assert!(methods.is_streaming("/grpc.health.v1.Health/Watch"));
        assert!(
            methods
                .paths()
                .any(|path| path == "/grpc.health.v1.Health/Check")
        );
        assert!(!methods.is_streaming("/grpc.health.v1.Health/Check"));
        assert!(Methods::is_own(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        ));
    }
}
