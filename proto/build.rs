//! Compiles every `.proto` below this folder with a protoc in Rust, so that building needs no tool.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "molecule/workspace/v1/workspace.proto",
        "molecule/tenant/v1/workspace_service.proto",
        "molecule/controlplane/v1/provisioning_service.proto",
        "molecule/controlplane/v1/organization_service.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    // ordered maps: equal messages are equal bytes
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
