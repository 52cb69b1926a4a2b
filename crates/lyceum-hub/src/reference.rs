//! How people name a model of a hub: `org/name`, `hf.co/org/name:Q4_K_M`.

use crate::HubError;
use std::fmt;
use std::str::FromStr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub organisation: String,
    pub name: String,
    /// The type of the GGUF file, as its name says it, or that file's name.
    pub quant: Option<String>,
}

impl Reference {
    /// `org/name`
    pub fn id(&self) -> String {
        format!("{}/{}", self.organisation, self.name)
    }
}

impl FromStr for Reference {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let bad = |why| HubError::Reference { text: text.chars().take(200).collect(), why };
        let rest = ["https://", "http://"].iter().find_map(|s| text.strip_prefix(s)).unwrap_or(text);
        let rest = ["hf.co/", "huggingface.co/"].iter().find_map(|s| rest.strip_prefix(s)).unwrap_or(rest);
        let (id, quant) = match rest.split_once(':') {
            Some((id, quant)) => (id, Some(quant)),
            None => (rest, None),
        };
        let Some((organisation, name)) = id.trim_end_matches('/').split_once('/') else {
            return Err(bad("it is written org/name or org/name:QUANT"));
        };
        for part in [organisation, name] {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if part.is_empty() || part.len() > 96 || !part.chars().all(plain) {
                return Err(bad("each part has 1 to 96 letters, digits, '.', '_' or '-'"));
            }
            // `--` parts the words of a folder of the cache.
            if part.starts_with(['.', '-']) || part.contains("..") || part.contains("--") {
                return Err(bad("no part begins with '.' or '-', or has '..' or '--' in it"));
            }
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if quant.is_some_and(|quant| quant.is_empty() || quant.len() > 200 || !quant.chars().all(plain)) {
            return Err(bad("after ':' stands the type of a GGUF file, such as Q4_K_M"));
        }
        Ok(Reference {
            organisation: organisation.into(),
            name: name.into(),
            quant: quant.map(str::to_owned),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.quant {
            Some(quant) => write!(f, "hf.co/{}:{quant}", self.id()),
            None => write!(f, "hf.co/{}", self.id()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_reference_is_one() {
        for text in ["a/b-1.2:Q4_K_M", "hf.co/a/b-1.2:Q4_K_M", "https://huggingface.co/a/b-1.2:Q4_K_M"] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.id().as_str(), reference.quant.as_deref()), ("a/b-1.2", Some("Q4_K_M")));
            assert_eq!(reference.to_string(), "hf.co/a/b-1.2:Q4_K_M");
        }
        assert_eq!("a/b".parse::<Reference>().unwrap().quant, None);
        for text in ["", "a", "a/", "a/b/c", "../b", "a/..", "a/b:", "a/b:../c", "a b/c", "a--b/c", "a/b@1"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
