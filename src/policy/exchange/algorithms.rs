//! Algorithms by the names of `setkey` and of `ip xfrm`.

use crate::ipsec::{Encryption, Integrity};

/// What `setkey` calls an encryption algorithm (first the name that is written). AEADs have none on Linux: its interface,
/// PF_KEY, does not know them.
const SETKEY_ENCRYPTION: [(&str, Encryption); 6] = [
    ("aes-cbc", Encryption::AesCbc),
    ("rijndael-cbc", Encryption::AesCbc),
    ("3des-cbc", Encryption::TripleDesCbc),
    ("des-cbc", Encryption::DesCbc),
    ("null", Encryption::Null),
    ("simple", Encryption::Null),
];

/// What `setkey` calls an integrity algorithm. Through PF_KEY a Linux kernel gives `hmac-sha256` its own default of 96 bits.
const SETKEY_INTEGRITY: [(&str, Integrity); 8] = [
    ("hmac-sha1", Integrity::HmacSha1),
    ("hmac-md5", Integrity::HmacMd5),
    ("hmac-sha256", Integrity::HmacSha256Short),
    ("hmac-sha2-256", Integrity::HmacSha256Short),
    ("hmac-sha384", Integrity::HmacSha384),
    ("hmac-sha2-384", Integrity::HmacSha384),
    ("hmac-sha512", Integrity::HmacSha512),
    ("hmac-sha2-512", Integrity::HmacSha512),
];

/// Names under which kernels know algorithms beside their own.
const KERNEL_ALIASES: [(&str, &str); 9] = [
    ("aes", "cbc(aes)"),
    ("des3_ede", "cbc(des3_ede)"),
    ("des", "cbc(des)"),
    ("cipher_null", "ecb(cipher_null)"),
    ("sha1", "hmac(sha1)"),
    ("md5", "hmac(md5)"),
    ("sha256", "hmac(sha256)"),
    ("sha384", "hmac(sha384)"),
    ("sha512", "hmac(sha512)"),
];

pub(super) fn setkey_encryption(name: &str) -> Option<Encryption> {
    SETKEY_ENCRYPTION.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}

pub(super) fn setkey_integrity(name: &str) -> Option<Integrity> {
    SETKEY_INTEGRITY.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}

pub(super) fn setkey_encryption_name(algorithm: Encryption) -> Option<&'static str> {
    SETKEY_ENCRYPTION.iter().find(|(_, known)| *known == algorithm).map(|(name, _)| *name)
}

pub(super) fn setkey_integrity_name(algorithm: Integrity) -> Option<&'static str> {
    SETKEY_INTEGRITY.iter().find(|(_, known)| *known == algorithm).map(|(name, _)| *name)
}

pub(super) fn setkey_encryption_names() -> Vec<&'static str> {
    SETKEY_ENCRYPTION.iter().map(|(name, _)| *name).collect()
}

pub(super) fn setkey_integrity_names() -> Vec<&'static str> {
    SETKEY_INTEGRITY.iter().map(|(name, _)| *name).collect()
}

fn canonical(name: &str) -> &str {
    KERNEL_ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, canonical)| *canonical)
}

/// The encryption algorithm of a kernel name; `icv_bits` of an AEAD.
pub(super) fn kernel_encryption(name: &str, icv_bits: Option<u32>) -> Option<Encryption> {
    let name = canonical(name);
    Encryption::ALL.into_iter().find(|known| known.kernel_name() == name && known.icv_bits() == icv_bits)
}

/// The integrity algorithm of a kernel name; without its length, the kernel's default.
pub(super) fn kernel_integrity(name: &str, icv_bits: Option<u32>) -> Option<Integrity> {
    let name = canonical(name);
    let default = if ["hmac(sha384)", "hmac(sha512)"].contains(&name) { None } else { Some(96) };
    let bits = icv_bits.or(default);
    Integrity::ALL
        .into_iter()
        .find(|known| known.kernel_name() == name && bits.is_none_or(|bits| known.icv_bits() == bits))
}
