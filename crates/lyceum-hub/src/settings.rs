//! Where the hub and its cache are, as the environment says it (the names are those of Hugging Face's own tools).

use std::path::PathBuf;

#[derive(Clone)]
pub struct Settings {
    /// `https://huggingface.co`, without a slash at the end.
    pub endpoint: String,
    /// Shown to the endpoint alone.
    pub token: Option<String>,
    /// The folder with `models--org--name`.
    pub cache: PathBuf,
    /// A file of certificates (PEM) that are trusted instead of Mozilla's roots.
    pub roots: Option<PathBuf>,
    /// Nothing is fetched.
    pub offline: bool,
}

impl Settings {
    /// `HF_ENDPOINT`, `HF_TOKEN` (or the file `token` of `HF_HOME`), `HF_HUB_CACHE` or `HF_HOME`, `HF_HUB_OFFLINE`;
    /// `SSL_CERT_FILE` as OpenSSL reads it.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Self {
        let of = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let home = of("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let base = of("XDG_CACHE_HOME").map(PathBuf::from);
            let base = base.or_else(|| of("HOME").map(|home| PathBuf::from(home).join(".cache")));
            base.unwrap_or_else(|| PathBuf::from(".cache")).join("huggingface")
        });
        let token = of("HF_TOKEN").or_else(|| std::fs::read_to_string(home.join("token")).ok());
        let is_on = |value: String| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        Settings {
            endpoint: of("HF_ENDPOINT")
                .map_or("https://huggingface.co".into(), |url| url.trim_end_matches('/').to_owned()),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            cache: of("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            roots: of("SSL_CERT_FILE").map(PathBuf::from),
            offline: of("HF_HUB_OFFLINE").is_some_and(is_on),
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("token", &token)
            .field("cache", &self.cache)
            .field("roots", &self.roots)
            .field("offline", &self.offline)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_as_the_hubs_own_tools_read_it() {
        let of = |all: &'static [(&str, &str)]| {
            Settings::from_env(move |name| all.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        let plain = of(&[("HOME", "/nobody")]);
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!(plain.cache, PathBuf::from("/nobody/.cache/huggingface/hub"));
        assert!(!plain.offline && plain.token.is_none() && plain.roots.is_none());
        assert_eq!(of(&[("SSL_CERT_FILE", "/roots.pem")]).roots, Some(PathBuf::from("/roots.pem")));
        let all = of(&[
            ("HF_HOME", "/h"),
            ("HF_ENDPOINT", "http://m/"),
            ("HF_TOKEN", "hf_secret\n"),
            ("HF_HUB_OFFLINE", "1"),
        ]);
        assert_eq!((all.endpoint.as_str(), all.cache.clone()), ("http://m", PathBuf::from("/h/hub")));
        assert!(all.offline && all.token.as_deref() == Some("hf_secret"));
        assert!(!format!("{all:?}").contains("secret"));
        assert_eq!(of(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]).cache, PathBuf::from("/c"));
    }
}
