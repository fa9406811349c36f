//! Turns `proto/` into Rust, without protoc.
//!
//! Owns: the choice of what is generated. Never: changes a message; `proto/` says what is on the wire.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use protox::prost_reflect::{DescriptorPool, MessageDescriptor};

const FILES: [&str; 6] =
    ["csi.proto", "admin.proto", "link.proto", "news.proto", "transfer.proto", "pluginregistration.proto"];

#[allow(clippy::disallowed_methods, reason = "what is generated can be generated again")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    let pool = compiler.descriptor_pool();
    let silent = silent_messages(&pool)?;
    let services: Vec<_> = pool.services().collect();
    let methods: Vec<_> = services.iter().flat_map(|service| service.methods()).collect();
    let names: Vec<&str> = methods.iter().map(|method| method.name()).collect();
    fs::write(Path::new(&env::var("OUT_DIR")?).join("methods.rs"), format!("&{names:?}"))?;
    tonic_prost_build::configure()
        // One order of map entries, so that equal messages have equal bytes.
        .btree_map(".")
        .skip_debug(silent)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// The messages that get no `Debug`, so that the compiler refuses the log line which would print a secret: requests
/// with a `csi_secret` field, with such a request inside, a token or a volume context (kubelet puts tokens into that), and mount options.
fn silent_messages(pool: &DescriptorPool) -> Result<Vec<String>, Box<dyn Error>> {
    let mark = pool.get_extension_by_name("csi.v1.csi_secret").ok_or("csi.proto has no csi_secret")?;
    let is_secret = |message: &MessageDescriptor| {
        message.fields().any(|field| {
            field.options().has_extension(&mark)
                || ["mount_flags", "token", "create_request"].contains(&field.name())
                || (field.name() == "volume_context" && message.name().ends_with("Request"))
        })
    };
    let silent: Vec<String> =
        pool.all_messages().filter(is_secret).map(|message| format!(".{}", message.full_name())).collect();
    if silent.is_empty() {
        return Err("no message of csi.proto holds a secret: the marks were lost".into());
    }
    Ok(silent)
}
