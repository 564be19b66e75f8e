//! The protobuf API of the provisioning pair: messages, clients and servers, generated from the
//! `.proto` files beside this crate.
#![allow(missing_docs, clippy::pedantic, unreachable_pub)] // generated code

/// The nouns that both services share.
pub mod workspace {
    pub mod v1 {
        tonic::include_proto!("molecule.workspace.v1");
    }
}

/// tenant-svc's public API.
pub mod tenant {
    pub mod v1 {
        tonic::include_proto!("molecule.tenant.v1");
    }
}

/// The control plane's APIs: for tenants and for operators.
pub mod controlplane {
    pub mod v1 {
        tonic::include_proto!("molecule.controlplane.v1");
    }
}

/// The encoded `FileDescriptorSet` of everything here, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
