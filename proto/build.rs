//! Compiles the contracts without a system protoc, and keeps their descriptors for reflection.

use std::path::{Path, PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir("multiagents/v1")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    println!("cargo:rerun-if-changed=multiagents/v1");
    let descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        Path::new(&out).join("descriptors.bin"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        // The worker service has an RPC named Connect, which the constructor of that name would
        // collide with.
        .build_transport(false)
        .bytes(".")
        .btree_map(".")
        .extern_path(
            ".multiagents.v1.ReadEventsResponse",
            "crate::frame::ReadEventsResponse",
        )
        .compile_fds(descriptors)?;
    Ok(())
}
