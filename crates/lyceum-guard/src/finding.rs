//! What is found, where, and how sure it is.

use crate::GuardError;
use std::fmt;
use std::str::FromStr;

/// What a kind is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// Says something about a person.
    Pii,
    /// Opens something.
    Secrets,
    /// Is read by a model and not by people.
    HiddenUnicode,
    /// Carries a text away.
    DataExfiltration,
}

impl Category {
    pub fn as_str(self) -> &'static str {
        match self {
            Category::Pii => "pii",
            Category::Secrets => "secrets",
            Category::HiddenUnicode => "hidden_unicode",
            Category::DataExfiltration => "data_exfiltration",
        }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $category:ident;)+) => {
        /// What a finding is. Names are Presidio's where it has one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $variant,)+
        }

        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Kind::$variant => $name,)+
                }
            }

            pub fn category(self) -> Category {
                match self {
                    $(Kind::$variant => Category::$category,)+
                }
            }
        }
    };
}

kinds! {
    /// Digits of a known issuer and length, with Luhn's check digit.
    CreditCard = "CREDIT_CARD", Pii;
    /// ISO 13616: length by country, mod 97.
    Iban = "IBAN_CODE", Pii;
    Email = "EMAIL_ADDRESS", Pii;
    /// IPv4 and IPv6.
    IpAddress = "IP_ADDRESS", Pii;
    MacAddress = "MAC_ADDRESS", Pii;
    Phone = "PHONE_NUMBER", Pii;
    DateOfBirth = "DATE_OF_BIRTH", Pii;
    /// Bitcoin (Base58Check, Bech32) and Ethereum (EIP-55).
    Crypto = "CRYPTO", Pii;
    UsSsn = "US_SSN", Pii;
    UkNino = "UK_NINO", Pii;
    UkNhs = "UK_NHS", Pii;
    /// Steuer-Identifikationsnummer: ISO 7064 MOD 11, 10.
    DeTaxId = "DE_TAX_ID", Pii;
    /// Numéro d'inscription au répertoire: 97 minus the number mod 97.
    FrNir = "FR_NIR", Pii;
    EsNif = "ES_NIF", Pii;
    EsNie = "ES_NIE", Pii;
    ItFiscalCode = "IT_FISCAL_CODE", Pii;
    PlPesel = "PL_PESEL", Pii;
    /// Burgerservicenummer: the eleven test.
    NlBsn = "NL_BSN", Pii;
    BrCpf = "BR_CPF", Pii;
    /// Verhoeff's check digit.
    InAadhaar = "IN_AADHAAR", Pii;
    /// A name of a person; this and the next four take a model that knows names.
    Person = "PERSON", Pii;
    Location = "LOCATION", Pii;
    Organization = "ORGANIZATION", Pii;
    /// Nationality, religion or politics.
    Nrp = "NRP", Pii;
    DateTime = "DATE_TIME", Pii;
    /// A URL that carries a password.
    UrlCredentials = "URL_CREDENTIALS", Secrets;
    AwsAccessKey = "AWS_ACCESS_KEY", Secrets;
    AwsSecretKey = "AWS_SECRET_KEY", Secrets;
    GithubToken = "GITHUB_TOKEN", Secrets;
    SlackToken = "SLACK_TOKEN", Secrets;
    /// `sk-…` of OpenAI, Anthropic and those who write theirs alike.
    ApiKey = "API_KEY", Secrets;
    GoogleApiKey = "GOOGLE_API_KEY", Secrets;
    StripeKey = "STRIPE_KEY", Secrets;
    Jwt = "JWT", Secrets;
    PrivateKey = "PRIVATE_KEY", Secrets;
    /// Looks random, and what stands before it says that it is a secret.
    Secret = "SECRET", Secrets;
    /// Invisible twins of ASCII characters.
    TagCharacters = "TAG_CHARACTERS", HiddenUnicode;
    /// Characters without width inside of words, or many of them.
    ZeroWidth = "ZERO_WIDTH", HiddenUnicode;
    /// Changes the order in which characters are shown.
    BidiControl = "BIDI_CONTROL", HiddenUnicode;
    VariationSelectors = "VARIATION_SELECTORS", HiddenUnicode;
    /// Letters of another script that look like those around them.
    Homoglyphs = "HOMOGLYPHS", HiddenUnicode;
    /// An address with data in it, in a place that is fetched.
    ExfiltrationUrl = "EXFILTRATION_URL", DataExfiltration;
}

impl Kind {
    /// What no rule finds: a model that knows names must be named.
    pub const OF_MODELS: &'static [Kind] =
        &[Kind::Person, Kind::Location, Kind::Organization, Kind::Nrp, Kind::DateTime];

    pub fn takes_a_model(self) -> bool {
        Kind::OF_MODELS.contains(&self)
    }

    /// Personal data or a secret: what may be asked for by name, masked and brought back.
    pub fn is_private(self) -> bool {
        matches!(self.category(), Category::Pii | Category::Secrets)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = GuardError;

    fn from_str(text: &str) -> Result<Self, GuardError> {
        let found = Kind::ALL.iter().copied().find(|kind| kind.is_private() && kind.as_str() == text);
        found.ok_or_else(|| GuardError::UnknownKind { name: text.chars().take(64).collect() })
    }
}

/// Something that was found in a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub kind: Kind,
    /// The first unicode character of it, and the one behind its last.
    pub start: usize,
    pub end: usize,
    /// The same place in bytes.
    pub bytes: std::ops::Range<usize>,
    /// 0 to 1. 1: form and checksum agree and hardly anything else has both.
    pub score: f32,
    /// What spoke for it, in words; never the text itself.
    pub why: &'static str,
}
