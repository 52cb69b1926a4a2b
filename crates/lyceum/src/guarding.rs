//! The configuration of guards that hold for everybody: who reads for prompt injections, and which hosts answers may
//! tell anything.

use crate::config::{Origin, Setting, default};
use lyceum_service::injection::Guards;
use lyceum_types::ids::ModelRef;

pub const KEYS: [&str; 2] = ["guard_prompt_injection", "guard_trusted_hosts"];
const HOSTS_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarding {
    /// A classifier of the default project, `name@alias`; None: nobody reads.
    pub prompt_injection: Setting<Option<ModelRef>>,
    /// In lower case; one that begins with a dot stands for what lies under it.
    pub trusted_hosts: Setting<Vec<String>>,
}

impl Default for Guarding {
    fn default() -> Self {
        Guarding { prompt_injection: default(None), trusted_hosts: default(Vec::new()) }
    }
}

impl Guarding {
    /// Sets one of [`KEYS`] from its text.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn set(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), String> {
        match key {
            "guard_prompt_injection" => {
                let value = text.parse().map_err(|error| format!("{text:?} names no model: {error}"))?;
                self.prompt_injection = Setting { value: Some(value), origin };
            }
            "guard_trusted_hosts" => {
                let value = text.split(',').map(host).collect::<Result<Vec<_>, _>>()?;
                if value.len() > HOSTS_MAX {
                    return Err(format!("{} hosts are more than {HOSTS_MAX}", value.len()));
                }
                self.trusted_hosts = Setting { value, origin };
            }
            _ => unreachable!("only known keys are set: bug"),
        }
        Ok(())
    }

    /// Each key with its value as text and its origin.
    pub fn rows(&self) -> [(&'static str, String, &Origin); KEYS.len()] {
        let model =
            self.prompt_injection.value.as_ref().map_or_else(|| "none".to_owned(), ModelRef::to_string);
        let hosts = self.trusted_hosts.value.join(",");
        [
            ("guard_prompt_injection", model, &self.prompt_injection.origin),
            (
                "guard_trusted_hosts",
                if hosts.is_empty() { "none".into() } else { hosts },
                &self.trusted_hosts.origin,
            ),
        ]
    }

    pub fn guards(&self) -> Guards {
        Guards::new(self.prompt_injection.value.clone(), self.trusted_hosts.value.clone())
    }
}

/// `example.com` or `.example.com`, without scheme, port and path.
fn host(text: &str) -> Result<String, String> {
    let host = text.trim().to_ascii_lowercase();
    let name = host.strip_prefix('.').unwrap_or(&host);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.is_empty() || !name.split('.').all(is_label) {
        return Err(format!("{text:?} is no host: write example.com, or .example.com for all under it"));
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_wrong_ones_refused() {
        let mut guarding = Guarding::default();
        let mut set = |key: &str, text: &str| guarding.set(key, text, Origin::Default);
        set("guard_prompt_injection", "prompt-injection@prod").unwrap();
        set("guard_trusted_hosts", "Example.com, .cdn.example").unwrap();
        assert!(set("guard_trusted_hosts", "https://example.com").unwrap_err().contains("no host"));
        assert!(set("guard_trusted_hosts", "a,,b").is_err());
        assert!(set("guard_prompt_injection", "no model").is_err());
        assert_eq!(guarding.rows()[0].1, "prompt-injection@prod");
        assert_eq!(guarding.rows()[1].1, "example.com,.cdn.example");
        assert!(guarding.guards().prompt_injection.is_some());
    }
}
