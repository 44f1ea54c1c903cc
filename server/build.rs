//! Makes the protocol's messages and its service from `proto/`.

use tonic_prost_build::configure;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let protocol = protox::compile(["proto/inference.proto"], ["proto"])?;
    configure()
        .bytes(".")
        .build_client(false)
        .build_transport(false)
        .compile_fds(protocol)?;
    Ok(())
}
