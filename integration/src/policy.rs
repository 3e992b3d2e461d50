//! Policies of a scenario: written into its directory, with keys made for this run only.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::failure::{Outcome, While, ensure};

/// The part of a policy file that tshark needs to read ESP.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    guest: Vec<Guest>,
}

#[derive(Deserialize)]
struct Guest {
    #[serde(default)]
    security_association: Vec<Association>,
}

#[derive(Deserialize)]
struct Association {
    spi: u32,
    encryption: Algorithm,
    integrity: Option<Algorithm>,
}

#[derive(Deserialize)]
struct Algorithm {
    algorithm: String,
    key_file: PathBuf,
}

/// Writes `text` to `<directory>/<name>`, has `kagemusha policy keygen` make the keys that are not there yet, and notes
/// them for tshark.
pub(crate) fn write(kagemusha: &Path, directory: &Path, name: &str, text: &str) -> Outcome<PathBuf> {
    let file = directory.join(name);
    std::fs::create_dir_all(directory)?;
    std::fs::write(&file, text).during(|| file.display().to_string())?;
    if text.contains("key_file") {
        let mut command = Command::new(kagemusha);
        command.args(["policy", "keygen"]).arg(&file).stdin(Stdio::null());
        let output = command.output().during(|| "kagemusha policy keygen".into())?;
        ensure(output.status.success(), || {
            format!("kagemusha policy keygen {name}: {}", String::from_utf8_lossy(&output.stderr).trim_end())
        })?;
        note_for_tshark(directory, text)?;
    }
    Ok(file)
}

/// Adds the security associations of a policy to `<directory>/esp_sa`, in the form of Wireshark's table of that name.
fn note_for_tshark(directory: &Path, text: &str) -> Outcome {
    let parsed: File = toml::from_str(text).during(|| "policy".into())?;
    let path = directory.join("esp_sa");
    let mut table = std::fs::read_to_string(&path).unwrap_or_default();
    for association in parsed.guest.iter().flat_map(|guest| &guest.security_association) {
        let key = |algorithm: &Algorithm| -> Outcome<String> {
            let file = directory.join(&algorithm.key_file);
            let text = std::fs::read_to_string(&file).during(|| file.display().to_string())?;
            Ok(format!("0x{}", text.trim().trim_start_matches("0x")))
        };
        let (integrity, integrity_key) = match &association.integrity {
            Some(integrity) => (wireshark_name(&integrity.algorithm), key(integrity)?),
            None => ("NULL", String::new()),
        };
        let mut line = String::new();
        let _ = writeln!(
            line,
            "\"IPv6\",\"*\",\"*\",\"{:#010x}\",\"{}\",\"{}\",\"{integrity}\",\"{integrity_key}\",\"32-bit\"",
            association.spi,
            wireshark_name(&association.encryption.algorithm),
            key(&association.encryption)?
        );
        if !table.contains(&line) {
            table.push_str(&line);
        }
    }
    std::fs::write(&path, table).during(|| path.display().to_string())?;
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, owner_only).during(|| path.display().to_string())
}

fn wireshark_name(algorithm: &str) -> &str {
    match algorithm {
        "aes-cbc" => "AES-CBC [RFC3602]",
        "aes-gcm" | "aes-gcm-16" => "AES-GCM with 16 octet ICV [RFC4106]",
        "hmac-sha1-96" => "HMAC-SHA-1-96 [RFC2404]",
        "hmac-sha256-128" => "HMAC-SHA-256-128 [RFC4868]",
        "hmac-sha384-192" => "HMAC-SHA-384-192 [RFC4868]",
        "hmac-sha512-256" => "HMAC-SHA-512-256 [RFC4868]",
        other => other,
    }
}
