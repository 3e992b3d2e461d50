//! Takes out of a text what must not be shown again: a key that someone wrote where the name of its file belongs, and characters
//! that drive terminals.

/// From this many hexadecimal digits on, a run of them is taken for a key: one more than a MAC address without colons has.
const DIGITS_OF_A_KEY: usize = 13;

/// Names of values that are secret whatever they look like.
const SECRET_NAMES: [&str; 5] = ["key", "secret", "psk", "password", "salt"];

/// The text with keys and control characters replaced; as long in octets as before, so that places in it stay the same.
pub(super) fn redact(text: &str) -> String {
    let mut shown: Vec<u8> = Vec::with_capacity(text.len());
    for character in text.chars() {
        let mut buffer = [0; 4];
        let encoded = character.encode_utf8(&mut buffer).as_bytes();
        let direction =
            matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if direction || character.is_control() && character != '\n' && character != '\t' {
            shown.extend(encoded.iter().map(|_| if character == '\r' { b' ' } else { b'?' }));
        } else {
            shown.extend(encoded);
        }
    }
    hide_hexadecimal_runs(&mut shown);
    hide_named_secrets(&mut shown);
    // Only whole characters were replaced, and by ASCII.
    String::from_utf8(shown).unwrap_or_default()
}

fn hide_hexadecimal_runs(text: &mut [u8]) {
    let mut start = 0;
    while start < text.len() {
        let length = text[start..].iter().take_while(|octet| octet.is_ascii_hexdigit()).count();
        if length >= DIGITS_OF_A_KEY {
            text[start..start + length].fill(b'*');
        }
        start += length.max(1);
    }
}

/// Hides what follows `key =`, up to the end of the line; of a table, `key = {`, what follows the secret names in it.
fn hide_named_secrets(text: &mut [u8]) {
    let is_name = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'_' | b'-');
    let mut at = 0;
    while at < text.len() {
        let length = text[at..].iter().take_while(|octet| is_name(octet)).count();
        if length == 0 {
            at += 1;
            continue;
        }
        let name = text[at..at + length].to_ascii_lowercase();
        at += length;
        if !SECRET_NAMES.iter().any(|secret| secret.as_bytes() == name) {
            continue;
        }
        let blanks = |text: &[u8]| text.iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
        let equals = at + blanks(&text[at..]);
        if text.get(equals) != Some(&b'=') || text.get(equals + 1 + blanks(&text[equals + 1..])) == Some(&b'{') {
            continue;
        }
        let length = text[equals + 1..].iter().take_while(|octet| **octet != b'\n').count();
        text[equals + 1..equals + 1 + length].fill(b'*');
        at = equals + 1 + length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_hidden_and_addresses_are_not() {
        assert_eq!(redact("key_file = \"0x000102030405060708090a0b0c0d0e0f\"").matches('*').count(), 32);
        assert_eq!(redact("{ key = \"s3cret!\" }\nspi = 1"), "{ key =************\nspi = 1");
        assert_eq!(redact("psk='ü'"), "psk=****");
        assert_eq!(redact("key = { credential = \"vm1\" }"), "key = { credential = \"vm1\" }");
        assert_eq!(redact("key = { key = \"s3cret\" }"), "key = { key =***********");
        let harmless = "address = \"2001:0db8:2000:0000:0000:0000:0000:0010\"\nmac = \"52:54:00:00:00:10\" # key file";
        assert_eq!(redact(harmless), harmless);
        assert_eq!(redact("a\u{202e}b"), "a???b");
        assert_eq!(redact("a\u{1b}[31mb\r\n"), "a?[31mb \n");
    }

    proptest! {
        #[test]
        fn places_stay(text in any::<String>()) {
            prop_assert_eq!(redact(&text).len(), text.len());
        }
    }
}
