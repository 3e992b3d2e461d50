//! Algorithms by the names of policy files and of the kernel.

/// Encryption algorithms (RFC 8221 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encryption {
    /// AES in CBC mode; key of 16, 24 or 32 octets. Kernel name `cbc(aes)`.
    AesCbc,
    /// AES-GCM with a 16-octet ICV, an AEAD; key of 16, 24 or 32 octets and 4 octets of salt. Kernel name `rfc4106(gcm(aes))`.
    #[serde(rename = "aes-gcm-16")]
    AesGcm16,
}

/// Integrity algorithms (RFC 8221 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Integrity {
    /// HMAC-SHA2-256 with a 128-bit ICV; key of 32 octets. Kernel name `hmac(sha256)`.
    #[serde(rename = "hmac-sha256-128")]
    HmacSha256,
    /// HMAC-SHA1 with a 96-bit ICV; key of 20 octets; for peers that have nothing better. Kernel name `hmac(sha1)`.
    #[serde(rename = "hmac-sha1-96")]
    HmacSha1,
}
