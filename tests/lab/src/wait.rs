//! Waiting for what a cluster does on its own time.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::error::{LabError, Result};

/// Asks every 100 ms until there is an answer. An `Err` says what was seen instead, for the message
/// when the time is over.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut ask: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    let mut last = "nothing yet".to_owned();
    loop {
        let left = limit.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, ask()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen,
            Err(_) => {}
        }
        if start.elapsed() >= limit {
            return Err(LabError::Timeout { what: what.to_owned(), after: limit, last });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A client that gives up soon: the lab's sites lose power and network.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client> {
    let what = || format!("read {}", kubeconfig.display());
    let config =
        Kubeconfig::read_from(kubeconfig).map_err(|error| LabError::State(format!("could not {}: {error}", what())))?;
    let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .map_err(|error| LabError::State(format!("could not {}: {error}", what())))?;
    config.connect_timeout = Some(Duration::from_secs(2));
    Client::try_from(config).map_err(|source| LabError::Kubernetes { what: what(), source: Box::new(source) })
}

/// Until the API server says that it is ready.
pub(crate) async fn api_ready(kubeconfig: &Path, limit: Duration) -> Result<()> {
    let client = client(kubeconfig).await?;
    until("the API server", limit, || {
        let client = client.clone();
        async move {
            let request = http_get("/readyz").map_err(|error| error.to_string())?;
            client.request_text(request).await.map(drop).map_err(|error| error.to_string())
        }
    })
    .await
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>, http::Error> {
    http::Request::get(path).body(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_timeout_tells_what_was_waited_for_and_what_was_there() {
        let error =
            until::<(), _, _>("rain", Duration::from_millis(1), || async { Err("sun".into()) }).await.unwrap_err();
        assert!(error.to_string().ends_with("for rain; last seen: sun"), "{error}");
    }

    #[tokio::test]
    async fn a_question_that_hangs_is_cut_off() {
        let limit = Duration::from_millis(1);
        let error = until::<(), _, _>("rain", limit, std::future::pending).await.unwrap_err();
        assert!(matches!(error, LabError::Timeout { .. }));
    }
}
