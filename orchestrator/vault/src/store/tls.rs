//! Connections: TLS, the authorities that are trusted, and the proxy that the environment names.

use std::time::Duration;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::config::Proxy;
use crate::error::VaultError;

/// Connections that wait for a request are closed before most stores and balancers close them.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// What connections are made with. Where no proxy is named, `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the
/// environment count, in either case.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    tls: TlsContext,
    proxy: ProxyConfig,
}

impl Connections {
    /// With these authorities (PEM) besides the system's, through this proxy.
    ///
    /// # Errors
    /// [`VaultError::BadConfig`]: there is no certificate in the text, or one cannot be read; or the proxy is none.
    pub(super) fn new(ca_bundle: Option<&str>, proxy: Option<&Proxy>) -> Result<Connections, VaultError> {
        let mut trusted = TrustStore::default();
        if let Some(pem) = ca_bundle {
            check_bundle(pem).map_err(|reason| VaultError::BadConfig { reason })?;
            trusted = trusted.with_pem_certificate(pem.as_bytes());
        }
        let bad = |e: aws_smithy_http_client::HttpClientError| VaultError::BadConfig { reason: format!("TLS: {e}") };
        let tls = TlsContext::builder().with_trust_store(trusted).build().map_err(bad)?;
        let proxy = proxy.map_or_else(|| Ok(ProxyConfig::from_env()), through)?;
        Ok(Connections { tls, proxy })
    }

    /// A client for the SDK, which brings its own time-outs.
    pub(super) fn client(&self) -> SharedHttpClient {
        let connections = self.clone();
        let builder = Builder::new().pool_idle_timeout(POOL_IDLE);
        builder.build_with_connector_fn(move |settings, components| {
            let mut builder = Connector::builder();
            builder.set_connector_settings(settings.cloned());
            if let Some(components) = components {
                builder.set_sleep_impl(components.sleep_impl());
            }
            connections.finish(builder)
        })
    }

    /// A connector of its own, without time-outs.
    pub(super) fn connector(&self) -> Connector {
        self.finish(Connector::builder())
    }

    fn finish(&self, mut builder: ConnectorBuilder) -> Connector {
        builder.set_pool_idle_timeout(Some(Some(POOL_IDLE)));
        builder
            .enable_tcp_nodelay(true)
            .proxy_config(self.proxy.clone())
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .tls_context(self.tls.clone())
            .build()
    }
}

fn through(proxy: &Proxy) -> Result<ProxyConfig, VaultError> {
    let through = ProxyConfig::all(proxy.url.as_str())
        .map_err(|e| VaultError::BadConfig { reason: format!("the proxy {}: {e}", proxy.url) })?;
    Ok(through.no_proxy(proxy.no_proxy.join(",")))
}

/// What the TLS library would only find out by a panic.
fn check_bundle(pem: &str) -> Result<(), String> {
    let (mut roots, mut count) = (RootCertStore::empty(), 0);
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        count += 1;
        let broken = |why: String| format!("certificate {count} of the CA bundle cannot be read ({why})");
        let certificate = certificate.map_err(|e| broken(e.to_string()))?;
        roots.add(certificate).map_err(|e| broken(e.to_string()))?;
    }
    if count == 0 {
        return Err("the CA bundle holds no certificate: it begins with -----BEGIN CERTIFICATE-----".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_bundle_is_refused_and_does_not_panic() {
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let torn = "-----BEGIN CERTIFICATE-----\nnot base64 !\n-----END CERTIFICATE-----\n";
        for (pem, part) in [("", "no certificate"), ("hello", "no certificate"), (broken, "1 of"), (torn, "1 of")] {
            let error = Connections::new(Some(pem), None).unwrap_err();
            assert_eq!(error.reason(), "BadConfig");
            assert!(error.to_string().contains(part), "{part} in {error}");
        }
        Connections::new(None, None).unwrap();
    }
}
