//! The host under which others reach this one.
//!
//! Owns: which texts can be one. Never: asks a name server: a name that nobody knows yet is no wrong name.

use std::net::IpAddr;

use crate::error::{Error, Result};

/// The longest name that a name server has (RFC 1035).
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// Where other nodes send volumes: an address or a name, without a port, since that is the kernel's choice.
///
/// # Errors
/// `Invalid`, naming the flag.
pub fn transfer_address(text: &str) -> Result<String> {
    const FLAG: &str = "--transfer-address";
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() || address.is_multicast() => {
            Err(Error::invalid(FLAG, text, "want the one address under which other nodes reach this one"))
        }
        Ok(_) => Ok(text.to_owned()),
        Err(_) if is_name(text) => Ok(text.to_owned()),
        Err(_) => Err(Error::invalid(
            FLAG,
            text,
            "want a name or an address, without a port, like 192.0.2.7 or fd00::7",
        )),
    }
}

/// Whether a text can be the name of a host. What ends in a number is a broken address: no resolver takes it for a name.
fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let ends_in_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= LONGEST_NAME && name.split('.').all(is_label) && !ends_in_number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_an_address_is_taken_as_it_is() {
        for good in [
            "192.0.2.7",
            "127.0.0.1",
            "fd00::7",
            "node-1",
            "node_1.example",
            "n1.rockpool.svc.cluster.local.",
        ] {
            assert_eq!(transfer_address(good).unwrap(), good);
        }
    }

    #[test]
    fn what_nobody_can_be_reached_under_is_refused_by_name_of_the_flag() {
        let long = format!("{}.example", "a".repeat(64));
        let longer = vec!["a"; 128].join(".");
        for bad in [
            "",
            ".",
            "192.0.2.7:7430",
            "[fd00::7]",
            "[fd00::7]:7430",
            "node-1:7430",
            "https://node-1",
            "node 1",
            "-node",
            "node..example",
            "192.0.2",
            "192.0.2.256",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "fe80::1%eth0",
            "$(POD_IP)",
            &long,
            &longer,
        ] {
            let refused = transfer_address(bad).unwrap_err().to_string();
            assert!(refused.starts_with("--transfer-address `"), "{bad}: {refused}");
        }
    }
}
