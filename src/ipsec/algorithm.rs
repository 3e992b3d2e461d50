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

impl Encryption {
    /// Every algorithm, in the order in which messages list them.
    pub const ALL: [Self; 2] = [Self::AesCbc, Self::AesGcm16];

    /// The name in policy files.
    pub fn name(self) -> &'static str {
        match self {
            Self::AesCbc => "aes-cbc",
            Self::AesGcm16 => "aes-gcm-16",
        }
    }

    /// The algorithm of a name in a policy file.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The name under which the kernel's crypto API knows it (`alg_name` of `struct xfrm_algo`).
    pub fn kernel_name(self) -> &'static str {
        match self {
            Self::AesCbc => "cbc(aes)",
            Self::AesGcm16 => "rfc4106(gcm(aes))",
        }
    }

    /// Whether it protects integrity too, and so goes without a separate integrity algorithm.
    pub fn is_aead(self) -> bool {
        self.icv_bits().is_some()
    }

    /// Whether two packets under one key and one counter give the plaintexts away, so that a key must serve one SA only
    /// (RFC 4106 §2).
    pub fn is_counter_mode(self) -> bool {
        match self {
            Self::AesCbc => false,
            Self::AesGcm16 => true,
        }
    }

    /// Length of the ICV in bits, of an AEAD (`alg_icv_len` of `struct xfrm_algo_aead`).
    pub fn icv_bits(self) -> Option<u32> {
        match self {
            Self::AesCbc => None,
            Self::AesGcm16 => Some(128),
        }
    }

    /// Octets of salt at the end of the keying material (RFC 4106 §8.1).
    pub fn salt_octets(self) -> usize {
        match self {
            Self::AesCbc => 0,
            Self::AesGcm16 => 4,
        }
    }

    /// Lengths that the keying material may have, salt included, in octets, shortest first.
    pub fn key_octets(self) -> &'static [usize] {
        match self {
            Self::AesCbc => &[16, 24, 32],
            Self::AesGcm16 => &[20, 28, 36],
        }
    }

    /// The length of keying material to generate, in octets.
    pub fn generated_key_octets(self) -> usize {
        match self {
            Self::AesCbc => 32,
            Self::AesGcm16 => 36,
        }
    }
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

impl Integrity {
    /// Every algorithm, in the order in which messages list them.
    pub const ALL: [Self; 2] = [Self::HmacSha256, Self::HmacSha1];

    /// The name in policy files.
    pub fn name(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256-128",
            Self::HmacSha1 => "hmac-sha1-96",
        }
    }

    /// The algorithm of a name in a policy file.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The name under which the kernel's crypto API knows it (`alg_name` of `struct xfrm_algo_auth`).
    pub fn kernel_name(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac(sha256)",
            Self::HmacSha1 => "hmac(sha1)",
        }
    }

    /// Length of the ICV in bits (`alg_trunc_len` of `struct xfrm_algo_auth`). The kernel's own default for `hmac(sha256)` is
    /// 96 bits, which no RFC knows, so this must always be said.
    pub fn icv_bits(self) -> u32 {
        match self {
            Self::HmacSha256 => 128,
            Self::HmacSha1 => 96,
        }
    }

    /// Length of the key in octets (RFC 4868 §2.1.1, RFC 2404 §3).
    pub fn key_octets(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha1 => 20,
        }
    }

    /// Whether it is here only for peers that have nothing better (RFC 8221 §6 keeps it as MUST- with the advice to move on).
    pub fn is_legacy(self) -> bool {
        match self {
            Self::HmacSha256 => false,
            Self::HmacSha1 => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_serde() {
        for algorithm in Encryption::ALL {
            assert_eq!(serde_json::to_string(&algorithm).unwrap(), format!("{:?}", algorithm.name()));
            assert_eq!(Encryption::from_name(algorithm.name()), Some(algorithm));
            assert!(algorithm.key_octets().contains(&algorithm.generated_key_octets()));
        }
        for algorithm in Integrity::ALL {
            assert_eq!(serde_json::to_string(&algorithm).unwrap(), format!("{:?}", algorithm.name()));
            assert_eq!(Integrity::from_name(algorithm.name()), Some(algorithm));
        }
        assert_eq!(Encryption::from_name("AES-CBC"), None);
    }
}
