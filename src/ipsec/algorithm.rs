//! Algorithms by the names of policy files and of the kernel.

/// What RFC 8221 thinks of an algorithm, as far as it matters to who writes a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// To be taken.
    Good,
    /// For peers that have nothing better; used with a warning.
    Discouraged,
    /// Broken, no protection, or of no RFC: refused unless the policy says `legacy = true`.
    Legacy,
}

/// Encryption algorithms (RFC 8221 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encryption {
    /// AES in CBC mode; key of 16, 24 or 32 octets. Kernel name `cbc(aes)`.
    AesCbc,
    /// AES-GCM with a 16-octet ICV, an AEAD; key of 16, 24 or 32 octets and 4 octets of salt. Kernel name `rfc4106(gcm(aes))`.
    #[serde(rename = "aes-gcm-16")]
    AesGcm16,
    /// ChaCha20 with Poly1305 (RFC 7634), an AEAD; key of 32 octets and 4 octets of salt. Kernel name
    /// `rfc7539esp(chacha20,poly1305)`.
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20Poly1305,
    /// Triple DES in CBC mode (RFC 2451); key of 24 octets; legacy. Kernel name `cbc(des3_ede)`.
    #[serde(rename = "3des-cbc")]
    TripleDesCbc,
    /// DES in CBC mode (RFC 2405); key of 8 octets; legacy, anyone can break it. Kernel name `cbc(des)`.
    DesCbc,
    /// No encryption (RFC 2410); no key; legacy. Kernel name `ecb(cipher_null)`.
    Null,
}

impl Encryption {
    /// Every algorithm, in the order in which messages list them.
    pub const ALL: [Self; 6] =
        [Self::AesCbc, Self::AesGcm16, Self::ChaCha20Poly1305, Self::TripleDesCbc, Self::DesCbc, Self::Null];

    /// The name in policy files.
    pub fn name(self) -> &'static str {
        match self {
            Self::AesCbc => "aes-cbc",
            Self::AesGcm16 => "aes-gcm-16",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::TripleDesCbc => "3des-cbc",
            Self::DesCbc => "des-cbc",
            Self::Null => "null",
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
            Self::ChaCha20Poly1305 => "rfc7539esp(chacha20,poly1305)",
            Self::TripleDesCbc => "cbc(des3_ede)",
            Self::DesCbc => "cbc(des)",
            Self::Null => "ecb(cipher_null)",
        }
    }

    /// Whether it protects integrity too, and so goes without a separate integrity algorithm.
    pub fn is_aead(self) -> bool {
        self.icv_bits().is_some()
    }

    /// Whether two packets under one key and one counter give the plaintexts away, so that a key must serve one SA only
    /// (RFC 4106 §2, RFC 7634 §2).
    pub fn is_counter_mode(self) -> bool {
        self.is_aead()
    }

    /// Length of the ICV in bits, of an AEAD (`alg_icv_len` of `struct xfrm_algo_aead`).
    pub fn icv_bits(self) -> Option<u32> {
        match self {
            Self::AesGcm16 | Self::ChaCha20Poly1305 => Some(128),
            Self::AesCbc | Self::TripleDesCbc | Self::DesCbc | Self::Null => None,
        }
    }

    /// Octets of salt at the end of the keying material (RFC 4106 §8.1, RFC 7634 §2).
    pub fn salt_octets(self) -> usize {
        if self.is_aead() { 4 } else { 0 }
    }

    /// Lengths that the keying material may have, salt included, in octets, shortest first; just 0 when there is none.
    pub fn key_octets(self) -> &'static [usize] {
        match self {
            Self::AesCbc => &[16, 24, 32],
            Self::AesGcm16 => &[20, 28, 36],
            Self::ChaCha20Poly1305 => &[36],
            Self::TripleDesCbc => &[24],
            Self::DesCbc => &[8],
            Self::Null => &[0],
        }
    }

    /// The length of keying material to generate, in octets.
    pub fn generated_key_octets(self) -> usize {
        self.key_octets().last().copied().unwrap_or(0)
    }

    /// What to think of it: RFC 8221 §5 forbids DES, advises against Triple DES, and NULL hides nothing.
    pub fn standing(self) -> Standing {
        match self {
            Self::AesCbc | Self::AesGcm16 | Self::ChaCha20Poly1305 => Standing::Good,
            Self::TripleDesCbc | Self::DesCbc | Self::Null => Standing::Legacy,
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
    /// HMAC-SHA2-384 with a 192-bit ICV; key of 48 octets. Kernel name `hmac(sha384)`.
    #[serde(rename = "hmac-sha384-192")]
    HmacSha384,
    /// HMAC-SHA2-512 with a 256-bit ICV; key of 64 octets. Kernel name `hmac(sha512)`.
    #[serde(rename = "hmac-sha512-256")]
    HmacSha512,
    /// HMAC-SHA1 with a 96-bit ICV; key of 20 octets; for peers that have nothing better. Kernel name `hmac(sha1)`.
    #[serde(rename = "hmac-sha1-96")]
    HmacSha1,
    /// HMAC-MD5 with a 96-bit ICV; key of 16 octets; legacy. Kernel name `hmac(md5)`.
    #[serde(rename = "hmac-md5-96")]
    HmacMd5,
    /// HMAC-SHA2-256 with a 96-bit ICV; key of 32 octets; legacy: of no RFC, and yet what `setkey` makes of `hmac-sha256` on
    /// Linux. Kernel name `hmac(sha256)`.
    #[serde(rename = "hmac-sha256-96")]
    HmacSha256Short,
}

impl Integrity {
    /// Every algorithm, in the order in which messages list them.
    pub const ALL: [Self; 6] =
        [Self::HmacSha256, Self::HmacSha384, Self::HmacSha512, Self::HmacSha1, Self::HmacMd5, Self::HmacSha256Short];

    /// The name in policy files.
    pub fn name(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256-128",
            Self::HmacSha384 => "hmac-sha384-192",
            Self::HmacSha512 => "hmac-sha512-256",
            Self::HmacSha1 => "hmac-sha1-96",
            Self::HmacMd5 => "hmac-md5-96",
            Self::HmacSha256Short => "hmac-sha256-96",
        }
    }

    /// The algorithm of a name in a policy file.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The name under which the kernel's crypto API knows it (`alg_name` of `struct xfrm_algo_auth`).
    pub fn kernel_name(self) -> &'static str {
        match self {
            Self::HmacSha256 | Self::HmacSha256Short => "hmac(sha256)",
            Self::HmacSha384 => "hmac(sha384)",
            Self::HmacSha512 => "hmac(sha512)",
            Self::HmacSha1 => "hmac(sha1)",
            Self::HmacMd5 => "hmac(md5)",
        }
    }

    /// Length of the ICV in bits (`alg_trunc_len` of `struct xfrm_algo_auth`). The kernel's own default for `hmac(sha256)` is
    /// 96 bits, which no RFC knows, so this must always be said.
    pub fn icv_bits(self) -> u32 {
        match self {
            Self::HmacSha256 => 128,
            Self::HmacSha384 => 192,
            Self::HmacSha512 => 256,
            Self::HmacSha1 | Self::HmacMd5 | Self::HmacSha256Short => 96,
        }
    }

    /// Length of the key in octets (RFC 4868 §2.1.1, RFC 2404 §3, RFC 2403 §3).
    pub fn key_octets(self) -> usize {
        match self {
            Self::HmacSha256 | Self::HmacSha256Short => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
            Self::HmacSha1 => 20,
            Self::HmacMd5 => 16,
        }
    }

    /// What to think of it: RFC 8221 §6 keeps HMAC-SHA1 as MUST- with the advice to move on, and forbids HMAC-MD5.
    pub fn standing(self) -> Standing {
        match self {
            Self::HmacSha256 | Self::HmacSha384 | Self::HmacSha512 => Standing::Good,
            Self::HmacSha1 => Standing::Discouraged,
            Self::HmacMd5 | Self::HmacSha256Short => Standing::Legacy,
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

    /// What comes back from the kernel names one algorithm, never two.
    #[test]
    fn kernel_forms_are_distinct() {
        let encryption: Vec<_> = Encryption::ALL.iter().map(|one| (one.kernel_name(), one.icv_bits())).collect();
        let integrity: Vec<_> = Integrity::ALL.iter().map(|one| (one.kernel_name(), one.icv_bits())).collect();
        assert!(
            (0..6).all(|at| !encryption[..at].contains(&encryption[at]) && !integrity[..at].contains(&integrity[at]))
        );
    }
}
