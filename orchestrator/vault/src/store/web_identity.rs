//! Credentials for a token that a cluster gives its pods (AssumeRoleWithWebIdentity): one unsigned POST, whose answer holds
//! keys for an hour. The token is read from its file each time, so that it may rotate.
//!
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::Connector;
use aws_smithy_runtime_api::client::http::HttpConnector;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use jiff::Timestamp;
use url::Url;
use url::form_urlencoded::Serializer;

use super::client::parse_date;
use super::credentials::read_file;
use super::tls::Connections;

/// The whole exchange. The SDK gives a provider of credentials five seconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A session that lives longer than this is renewed when a quarter of its life is left, so that the service may be away meanwhile.
const LONG: Duration = Duration::from_secs(60);
/// How long a session that could not be renewed is used before that is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// The SDK takes credentials for ended so long before they end.
const BUFFER: Duration = Duration::from_secs(10);
/// No answer of STS is longer.
const MAX_ANSWER_LEN: usize = 64 * 1024;
/// So many characters of what a refusal says are passed on.
const MAX_MESSAGE_LEN: usize = 400;
/// How the session is named in the store's own logs.
const SESSION: &str = "holdfast";

/// Trades a token for credentials.
#[derive(Debug)]
pub(super) struct WebIdentity {
    role_arn: String,
    token_file: PathBuf,
    endpoint: String,
    connector: Connector,
    /// What the last exchange gave, with its true end.
    session: Mutex<Option<Credentials>>,
}

/// What came of one exchange.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// Asking again may help.
    Passing(String),
    /// A person has to change something.
    Lasting(String),
}

impl WebIdentity {
    /// Prepares the exchange; sends nothing. What is wrong with the arguments is said without their content.
    pub(super) fn new(
        role_arn: String,
        token_file: PathBuf,
        endpoint: String,
        connections: Connections,
    ) -> Result<WebIdentity, String> {
        read_file(&token_file)?;
        let url: Url = endpoint.parse().map_err(|e| format!("the STS endpoint {endpoint} is not a URL ({e})"))?;
        let endpoint = url.as_str().to_owned();
        Ok(WebIdentity {
            role_arn,
            token_file,
            endpoint,
            connector: connections.connector(),
            session: Mutex::new(None),
        })
    }

    /// One exchange. What is said of a failure names the service and the role.
    async fn exchange(&self) -> Result<Credentials, Refused> {
        let token = read_file(&self.token_file).map_err(Refused::Lasting)?;
        let late = || Refused::Passing("no answer in time".to_owned());
        let outcome = tokio::time::timeout(TIMEOUT, self.ask(&token)).await.unwrap_or_else(|_| Err(late()));
        // What a service says ends up in logs and conditions; a token that it repeats does not.
        let place = |why: String| {
            let why = why.replace(&token, "(the token)");
            format!("the STS {} gave nothing for {}: {why}", self.endpoint, self.role_arn)
        };
        outcome.map_err(|refused| match refused {
            Refused::Passing(why) => Refused::Passing(place(why)),
            Refused::Lasting(why) => Refused::Lasting(place(why)),
        })
    }

    /// Credentials with the time at which the SDK is to ask for others.
    async fn credentials(&self) -> Result<Credentials, Refused> {
        let outcome = self.exchange().await;
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        let left = |keys: &Credentials| keys.expiry().and_then(|end| end.duration_since(now).ok()).unwrap_or_default();
        let (keys, life) = match outcome {
            Ok(keys) => {
                let life = left(&keys);
                (session.insert(keys), if life > LONG { life * 3 / 4 } else { life })
            }
            Err(refused) => {
                let Some(keys) = session.as_mut().filter(|keys| left(keys) > BUFFER) else { return Err(refused) };
                let (Refused::Passing(why) | Refused::Lasting(why)) = &refused;
                tracing::warn!(
                    why,
                    seconds_left = left(keys).as_secs(),
                    "a session could not be renewed yet and is used on"
                );
                let life = left(keys).min(TRY_AGAIN);
                (keys, life)
            }
        };
        let mut keys = keys.clone();
        *keys.expiry_mut() = Some(now + life);
        Ok(keys)
    }

    async fn ask(&self, token: &str) -> Result<Credentials, Refused> {
        let passing = |why: &str| Refused::Passing(why.to_owned());
        let answer = self.connector.call(self.request(token)?).await.map_err(|_| passing("no answer"))?;
        let (status, date) = (answer.status().as_u16(), answer.headers().get("date").and_then(parse_date));
        let (mut body, mut text) = (ByteStream::new(answer.into_body()), Vec::new());
        while let Some(piece) = body.try_next().await.map_err(|_| passing("the answer was cut short"))? {
            if text.len() + piece.len() > MAX_ANSWER_LEN {
                return Err(passing("the answer is too long"));
            }
            text.extend_from_slice(&piece);
        }
        understand(status, date, &String::from_utf8_lossy(&text))
    }

    fn request(&self, token: &str) -> Result<HttpRequest, Refused> {
        let form = Serializer::new(String::new())
            .append_pair("Action", "AssumeRoleWithWebIdentity")
            .append_pair("Version", "2011-06-15")
            .append_pair("RoleArn", &self.role_arn)
            .append_pair("RoleSessionName", SESSION)
            .append_pair("WebIdentityToken", token)
            .finish();
        let mut request = HttpRequest::new(SdkBody::from(form));
        request.set_method("POST").map_err(|_| Refused::Lasting("not a method".to_owned()))?;
        request.set_uri(self.endpoint.as_str()).map_err(|_| Refused::Lasting("not a URL".to_owned()))?;
        request.headers_mut().insert("content-type", "application/x-www-form-urlencoded");
        Ok(request)
    }
}

/// What an answer of that `Date` says.
fn understand(status: u16, date: Option<Timestamp>, answer: &str) -> Result<Credentials, Refused> {
    if status != 200 {
        let code = element(answer, "Code").unwrap_or_default();
        let said = format!("{status} {code} {}", message(answer)).trim_end().to_owned();
        return Err(match (status, code) {
            // The second: the service did not reach the issuer of the token.
            (429 | 500.., _) | (_, "IDPCommunicationError") => Refused::Passing(said),
            _ => Refused::Lasting(said),
        });
    }
    let part = |name| element(answer, name).ok_or_else(|| Refused::Lasting(format!("an answer without {name}")));
    let expires: Timestamp =
        part("Expiration")?.parse().map_err(|_| Refused::Lasting("an answer without a time of expiry".to_owned()))?;
    // By the local clock they end when their life is over, wherever that clock stands: one that is some minutes slow would go
    // on with them for as long after the store refuses them.
    let expires = match date {
        Some(date) => SystemTime::now() + Duration::try_from(expires.duration_since(date)).unwrap_or_default(),
        None => expires.into(),
    };
    let (id, secret, token) = (part("AccessKeyId")?, part("SecretAccessKey")?, part("SessionToken")?);
    Ok(Credentials::new(id, secret, Some(token.to_owned()), Some(expires), "holdfast"))
}

/// What a refusal says beside its code, as plain text.
fn message(answer: &str) -> String {
    let mut text = element(answer, "Message").unwrap_or_default().to_owned();
    for (escaped, plain) in [("&#34;", "\""), ("&quot;", "\""), ("&#39;", "'"), ("&apos;", "'"), ("&amp;", "&")] {
        text = text.replace(escaped, plain);
    }
    text.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE_LEN).collect()
}

/// The text of the first element of that name. Keys, tokens, codes and times hold nothing that XML would escape.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.trim()).filter(|text| !text.is_empty())
}

impl ProvideCredentials for WebIdentity {
    fn provide_credentials<'a>(&'a self) -> provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        provider::future::ProvideCredentials::new(async {
            self.credentials().await.map_err(|refused| match refused {
                Refused::Passing(why) => CredentialsError::provider_error(why),
                Refused::Lasting(why) => CredentialsError::not_loaded(why),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const ANSWER: &str = "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
        <SessionToken>tok/en==</SessionToken><SecretAccessKey>sec/ret+</SecretAccessKey>\
        <Expiration>2026-11-24T13:00:00Z</Expiration><AccessKeyId>ASIAX</AccessKeyId>\
        </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";

    #[test]
    fn answers_are_understood_and_refusals_say_whether_to_ask_again() {
        let keys = understand(200, None, ANSWER).unwrap();
        assert_eq!((keys.access_key_id(), keys.secret_access_key()), ("ASIAX", "sec/ret+"));
        assert_eq!(keys.session_token(), Some("tok/en=="));
        let expiry: Timestamp = keys.expiry().unwrap().try_into().unwrap();
        assert_eq!(expiry.to_string(), "2026-11-24T13:00:00Z");
        let denied = "<Error><Code>AccessDenied</Code><Message>of &#34;x&#34;\n</Message></Error>";
        assert_eq!(
            understand(403, None, denied).unwrap_err(),
            Refused::Lasting("403 AccessDenied of \"x\"".to_owned())
        );
        let unreached = "<Error><Code>IDPCommunicationError</Code></Error>";
        for (status, answer, passing) in
            [(503, "", true), (429, "", true), (400, unreached, true), (400, "", false), (200, "<html>", false)]
        {
            let refused = understand(status, None, answer).unwrap_err();
            assert_eq!(matches!(refused, Refused::Passing(_)), passing, "{status} {refused:?}");
        }
    }

    #[test]
    fn credentials_live_as_long_as_the_sts_says_whatever_the_local_clock_says() {
        let hour = Duration::from_secs(3600);
        for (date, life) in [("2026-11-24T12:00:00Z", hour), ("2026-11-24T13:00:01Z", Duration::ZERO)] {
            let before = SystemTime::now();
            let expiry = understand(200, Some(date.parse().unwrap()), ANSWER).unwrap().expiry().unwrap();
            assert!(before + life <= expiry && expiry <= SystemTime::now() + life, "{date}");
        }
    }

    #[tokio::test]
    async fn a_session_outlives_a_service_that_is_away_when_it_is_to_be_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "x").unwrap();
        let connections = Connections::new(None, None).unwrap();
        let identity = WebIdentity::new("arn".into(), file, "http://127.0.0.1:9".into(), connections).unwrap();
        assert!(identity.credentials().await.is_err(), "nobody is there, and there is no session");
        let session = |life| {
            let end = SystemTime::now() + Duration::from_secs(life);
            *identity.session.lock().unwrap() = Some(Credentials::new("ASIAX", "s", None, Some(end), "test"));
            end
        };
        let end = session(900);
        let keys = identity.credentials().await.unwrap();
        assert!(keys.access_key_id() == "ASIAX" && keys.expiry().unwrap() < end - Duration::from_secs(800), "{keys:?}");
        let end = session(30);
        assert!(identity.credentials().await.unwrap().expiry().unwrap() <= end);
        session(5);
        assert!(matches!(identity.credentials().await, Err(Refused::Passing(_))), "it is as good as over");
    }

    /// Answers each connection once and gives the request's body back.
    async fn sts(answer: &'static str) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (heard, hear) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = vec![0; 4096];
                let mut request = String::new();
                while !request.contains("WebIdentityToken=") {
                    let read = stream.read(&mut buffer).await.unwrap();
                    request += &String::from_utf8_lossy(&buffer[..read]);
                }
                let head = format!(
                    "HTTP/1.1 200 OK\r\ndate: Tue, 24 Nov 2026 12:00:00 GMT\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    answer.len()
                );
                stream.write_all(format!("{head}{answer}").as_bytes()).await.unwrap();
                let _ = heard.send(request);
            }
        });
        (url, hear)
    }

    #[tokio::test]
    async fn the_token_is_read_again_for_each_exchange() {
        let (url, mut heard) = sts(ANSWER).await;
        let dir = std::env::temp_dir().join(format!("holdfast-web-identity-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("token");
        std::fs::write(&file, "first&token\n").unwrap();
        let connections = Connections::new(None, None).unwrap();
        let identity =
            WebIdentity::new("arn:aws:iam::1:role/x".into(), file.clone(), url, connections.clone()).unwrap();
        let keys = identity.provide_credentials().await.unwrap();
        assert_eq!(keys.access_key_id(), "ASIAX");
        // Of the hour a quarter is left when it is to be renewed.
        let life = keys.expiry().unwrap().duration_since(SystemTime::now()).unwrap();
        assert!((2600..=2700).contains(&life.as_secs()), "{life:?}");
        let request = heard.recv().await.unwrap();
        for part in ["POST / HTTP/1.1", "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx", "WebIdentityToken=first%26token"] {
            assert!(request.contains(part), "{part} in {request}");
        }
        std::fs::write(&file, "second").unwrap();
        identity.provide_credentials().await.unwrap();
        assert!(heard.recv().await.unwrap().contains("WebIdentityToken=second"));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(matches!(identity.exchange().await, Err(Refused::Lasting(_))));
        // Nobody there: that passes.
        let nowhere = "http://127.0.0.1:9".to_owned();
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(&file, "x").unwrap();
        let identity = WebIdentity::new("arn".into(), file, nowhere, connections).unwrap();
        let error = identity.exchange().await.unwrap_err();
        assert!(matches!(error, Refused::Passing(_)), "{error:?}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
