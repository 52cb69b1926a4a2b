//! Every kind: what is one, what nearly is, and where it lies.

use crate::{Analyser, Kind, Wanted};
use proptest::prelude::*;

/// A text with « and » around what must be found, and nothing else.
fn check(kind: Kind, marked: &str) {
    for prefix in ["", "Grüße 漢字 🙂. "] {
        let marked = format!("{prefix}{marked}");
        let (mut text, mut spans, mut start) = (String::new(), Vec::new(), 0);
        for c in marked.chars() {
            match c {
                '«' => start = text.chars().count(),
                '»' => spans.push((start, text.chars().count())),
                c => text.push(c),
            }
        }
        let wanted = Wanted { kinds: None, threshold: 0.5 };
        let found = Analyser::default().analyse(&text, &wanted).unwrap();
        let all: Vec<_> = found.iter().map(|found| (found.kind, found.start, found.end)).collect();
        let expected: Vec<_> = spans.iter().map(|&(start, end)| (kind, start, end)).collect();
        assert_eq!(all, expected, "{text}");
        for found in &found {
            let chars: String = text.chars().skip(found.start).take(found.end - found.start).collect();
            assert_eq!(text[found.bytes.clone()], chars);
            assert!((0.5..=1.0).contains(&found.score));
        }
    }
}

fn all(kind: Kind, marked: &[&str]) {
    marked.iter().for_each(|text| check(kind, text));
}

#[test]
fn credit_cards() {
    all(
        Kind::CreditCard,
        &[
            "pay with «4111 1111 1111 1111» today",
            "«5555-5555-5555-4444»",
            "card «378282246310005», please",
            "«3782 822463 10005»",
            "Visa («4111111111111111») 12/26 123",
            "«6011111111111117» and «3530111333300000»",
            "the card number is «30569309025904».",
            "4111 1111 1111 1112",
            "5555-5555-5555-4445",
            "order 1234567890123456",
            "0.4111111111111111",
            "4111111111111111.5",
            "x4111111111111111",
            "9999 9999 9999 9995",
            "timestamp 1732700000123",
        ],
    );
}

#[test]
fn ibans() {
    all(
        Kind::Iban,
        &[
            "to «GB82 WEST 1234 5698 7654 32», please",
            "IBAN: «DE89370400440532013000».",
            "«FR1420041010050500013M02606»",
            "GB82 WEST 1234 5698 7654 33",
            "DE8937040044053201300",
            "XX89370400440532013000",
        ],
    );
}

#[test]
fn addresses_of_mail() {
    all(
        Kind::Email,
        &[
            "write to «anna.schmidt+tag@mail.example.co.uk».",
            "<«a@b.de»>, «josé@exämple.com»",
            "(«x_y@host.io»)",
            "\"email\":\"«q@z.org»\"",
            "icon@2x.png",
            "git@github.com:owner/repo.git",
            "@decorator.name and a@b",
            "left@pkg@1.2.3",
        ],
    );
}

#[test]
fn addresses_of_networks() {
    all(
        Kind::IpAddress,
        &[
            "from «192.168.1.17» to «8.8.8.8»:53",
            "http://«10.0.0.5»:8080/x",
            "at «2001:db8:85a3::8a2e:370:7334», and «fe80::1ff:fe23:4567:890a».",
            "«2001:0db8:85a3:0000:0000:8a2e:0370:7334»",
            "version 1.2.3.4",
            "v1.2.3.4 is out",
            "256.1.1.1, 1.2.3, 1.2.3.4.5",
            "at 10:15:30, std::vec, 127.0.0.1, ::1",
            "01.02.03.04",
        ],
    );
    all(
        Kind::MacAddress,
        &[
            "mac «00:1B:44:11:3A:B7».",
            "«00-1b-44-11-3a-b7» «001b.4411.3ab7»",
            "00:00:00:00:00:00",
            "00:1B:44:11:3A",
            "00:1B:44:11:3A:B7:99",
        ],
    );
}

#[test]
fn urls_with_passwords() {
    all(
        Kind::UrlCredentials,
        &[
            "psql «postgres://admin:s3cr3t@db.example.com:5432»/app",
            "«https://u:p@host»",
            "https://example.com/a:b@c",
            "https://user@example/x",
            "postgres://app:${PASSWORD}@db/x",
        ],
    );
}

#[test]
fn phones() {
    all(
        Kind::Phone,
        &[
            "call «+49 30 1234567» now",
            "«+1 (415) 555-0123», «+33 6 12 34 56 78»",
            "«(415) 555-0123» or «415-555-2671»",
            "Tel. «030 1234567»",
            "my mobile is «07700 900123»",
            "reach me at «06 12 34 56 78».",
            "«+442079460958»",
            "Handy: «0171/1234567»",
            "phone «555 0199»",
            "order 5550199 and 030 1234567",
            "x = 3 +1234567, 2024-11-27 10:15:30",
            "+49 30 12",
            "115-055-2671",
        ],
    );
}

#[test]
fn dates_of_birth() {
    all(
        Kind::DateOfBirth,
        &[
            "born on «12 March 1980» in Ulm",
            "DOB: «1980-03-12», ok",
            "geb. am «12.03.1980»",
            "née le «3/12/80»",
            "She was born in Berlin on «March 12, 1980».",
            "geboren am «1. März 1975»",
            "the meeting is on 12 March 2024",
            "born on 31.02.1980",
            "He was born there. The meeting is on 12.03.2024",
        ],
    );
}

#[test]
fn numbers_of_persons() {
    all(
        Kind::UsSsn,
        &[
            "SSN «536-90-4399»",
            "social security number «536904399»",
            "«536 90 4399» is not found".trim_start_matches('«').replace('»', "").as_str(),
            "ssn 666-90-4399, 900-90-4399, 536-00-4399, 536-90-0000, 078-05-1120",
            "12-536-90-4399",
        ],
    );
    all(
        Kind::UkNino,
        &["NI number «AB 12 34 56 C»", "«QQ»".trim_matches(['«', '»']), "BG123456C", "AB123456E"],
    );
    all(Kind::UkNhs, &["NHS number «943 476 5919»", "NHS «9434765919»", "NHS 943 476 5918", "943 476 5919"]);
    all(
        Kind::DeTaxId,
        &["Steuer-ID: «86 095 742 719»", "«65929970489»", "Steuer-ID 86095742718", "Steuer-ID 11111111111"],
    );
    all(
        Kind::FrNir,
        &[
            "«1 85 05 78 006 084 36»".replace("36", NIR_KEY).as_str(),
            "numéro de sécurité sociale «269054958815780»",
            "269054958815781",
            "1 85 05 78 006 084 00",
        ],
    );
    all(Kind::EsNif, &["DNI «12345678Z»", "«12345678-Z»", "12345678A", "1234567Z"]);
    all(Kind::EsNie, &["NIE «X1234567L»", "«X-1234567-L»", "X1234567M"]);
    all(Kind::ItFiscalCode, &["CF «RSSMRA85T10A562S»", "RSSMRA85T10A562T", "RSSMRA85T80A562S"]);
    all(Kind::PlPesel, &["PESEL «44051401359»", "44051401358", "PESEL 44131401359"]);
    all(Kind::NlBsn, &["BSN «111222333»", "burgerservicenummer «1112.22.333»", "BSN 111222334", "111222333"]);
    all(Kind::BrCpf, &["«529.982.247-25»", "CPF «52998224725»", "529.982.247-26", "111.111.111-11"]);
    all(
        Kind::InAadhaar,
        &["Aadhaar «2341 2341 2346»", "aadhaar: «234123412346»", "aadhaar 2341 2341 2347", "234123412346"],
    );
}

/// 97 minus 1850578006084 mod 97.
const NIR_KEY: &str = "91";

#[test]
fn wallets() {
    all(
        Kind::Crypto,
        &[
            "send to «1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2»",
            "«bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq»",
            "«0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed»",
            "«0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359»",
            "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN3",
            "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdp",
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD",
        ],
    );
}

#[test]
fn keys_and_tokens() {
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";
    check(Kind::Jwt, &format!("Authorization: Bearer «{jwt}»"));
    check(Kind::Jwt, "eyJhbGciOiJIUzI1NiJ9 and eyJhbGciOiJIUzI1NiJ9.abc.def");
    check(Kind::AwsAccessKey, "id «AKIA2E0A8F3B244C9986» and AKIA2E0A8F3B244C998");
    check(Kind::AwsSecretKey, "aws_secret_access_key = «wJalrXUtnFEMI/K7MDENG/bPxRfiCYzKq8dT2vLm»");
    check(
        Kind::GithubToken,
        "«ghp_16C7e42F292c6912E7710c838347Ae178B4a», ghp_16C7e42F292c6912E7710c838347Ae178B4",
    );
    check(Kind::SlackToken, &format!("«{}-263594206564-FGqddMF8t08v8N7Oq4i57vs1»", "xoxb"));
    check(Kind::ApiKey, "use «sk-proj-Ab12Cd34Ef56Gh78Ij90Kl» or sk-learn-pipeline-with-scaler");
    check(Kind::GoogleApiKey, "key=«AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY»");
    check(Kind::StripeKey, &format!("«{}_4eC39HqLyjWDarjtT1zdp7dc»", "sk_test"));
    let pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\nx+/=\n-----END RSA PRIVATE KEY-----";
    check(Kind::PrivateKey, &format!("here:\n«{pem}»\nthanks"));
    check(Kind::PrivateKey, "-----BEGIN PUBLIC KEY-----\nMIIBIjANBg\n-----END PUBLIC KEY-----");
    check(Kind::Secret, "password: «Tr0ub4dor&3x», user: anna");
    check(Kind::Secret, "{\"api_key\": \"«f8a91bc2d3e4f5061728»\"}");
    check(
        Kind::Secret,
        "max_tokens = 4096, token: word, the password is correct, secret santa 2024party2024",
    );
    check(Kind::Secret, "commit 8f14e45fceea167a5a36dedd4bea2543");
}

#[test]
fn a_long_secret_is_found_to_its_end() {
    let body = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9w\n".repeat(200);
    check(Kind::PrivateKey, "no");
    let key = format!("-----BEGIN PRIVATE KEY-----\n{body}-----END PRIVATE KEY-----");
    let text = format!("a {key} b@c.de");
    let found = Analyser::default().analyse(&text, &Wanted::default()).unwrap();
    let (last, parts) = found.split_last().unwrap();
    assert_eq!((last.kind, &text[last.bytes.clone()]), (Kind::Email, "b@c.de"));
    assert!(parts.len() > 2 && parts.iter().all(|part| part.kind == Kind::PrivateKey));
    assert_eq!((parts[0].bytes.start, parts[parts.len() - 1].bytes.end), (2, 2 + key.len()));
    assert!(parts.windows(2).all(|pair| pair[0].bytes.end == pair[1].bytes.start));
    let jwt = format!("eyJhbGciOiJIUzI1NiJ9.eyJ{}.c2ln", "aZ09".repeat(3000));
    let found = Analyser::default().analyse(&jwt, &Wanted::default()).unwrap();
    assert!(found.iter().all(|part| part.kind == Kind::Jwt));
    assert_eq!(found.iter().map(|part| part.bytes.len()).sum::<usize>(), jwt.len());
}

#[test]
fn kinds_and_thresholds_are_as_wanted() {
    let text = "a@b.de, 943 476 5919";
    let find = |kinds: Option<Vec<Kind>>, threshold| {
        let found = Analyser::default().analyse(text, &Wanted { kinds, threshold }).unwrap();
        found.into_iter().map(|found| found.kind).collect::<Vec<_>>()
    };
    assert_eq!(find(None, 0.3), [Kind::Email, Kind::UkNhs]);
    assert_eq!(find(None, 0.5), [Kind::Email]);
    assert_eq!(find(Some(vec![Kind::UkNhs]), 0.0), [Kind::UkNhs]);
    assert_eq!(find(Some(vec![Kind::Iban]), 0.0), []);
    let known = Analyser::default().kinds();
    let private: Vec<Kind> =
        Kind::ALL.iter().copied().filter(|kind| kind.is_private() && !kind.takes_a_model()).collect();
    assert_eq!(known, private, "every kind has somebody who finds it");
    assert!(
        "EXFILTRATION_URL".parse::<Kind>().is_err(),
        "what no recogniser of these finds is not asked of them"
    );
}

proptest! {
    #[test]
    fn nothing_makes_it_fail(text in "\\PC{0,300}|[0-9a-fA-F:. @/+()-]{0,300}|(-----BEGIN |PRIVATE KEY|-----END|eyJ|\\.|://|sk-|[0-9]{4}[ -]|\n){0,60}") {
        let found = Analyser::default().analyse(&text, &Wanted { kinds: None, threshold: 0.0 }).unwrap();
        prop_assert!(found.windows(2).all(|pair| pair[0].bytes.end <= pair[1].bytes.start));
    }
}
