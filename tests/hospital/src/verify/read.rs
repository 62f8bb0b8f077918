//! Reads every record of a site, a page at a time.

use std::time::Duration;

use crate::load::reason;
use crate::record::{Listed, Page, Service, Site};

const PAGE: usize = 5000;
const TRIES: u32 = 20;

/// A service's records could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the records of {service} at {url}: {detail}")]
pub struct ReadError {
    service: Service,
    url: String,
    detail: String,
}

/// All records of the site's three services, indexed by [`Service::index`].
pub async fn read_site(site: &Site) -> Result<[Vec<Listed>; 3], ReadError> {
    let http = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(2))
        .timeout(Duration::from_secs(20))
        .no_proxy()
        .build()
        .map_err(|error| ReadError {
            service: Service::Registration,
            url: site.to_string(),
            detail: error.to_string(),
        })?;
    let (registration, billing, lab) = futures::try_join!(
        read_service(&http, site, Service::Registration),
        read_service(&http, site, Service::Billing),
        read_service(&http, site, Service::Lab),
    )?;
    Ok([registration, billing, lab])
}

async fn read_service(http: &reqwest::Client, site: &Site, service: Service) -> Result<Vec<Listed>, ReadError> {
    let mut records: Vec<Listed> = Vec::new();
    loop {
        let after = records.last().map_or(0, |record| record.id);
        let url = site.url(service, &format!("records?after={after}&limit={PAGE}"));
        let page = read_page(http, &url).await.map_err(|detail| ReadError { service, url: url.clone(), detail })?;
        let Some(last) = page.records.last() else {
            return Ok(records);
        };
        if last.id <= after {
            return Err(ReadError { service, url, detail: format!("asked for ids above {after}, got {}", last.id) });
        }
        records.extend(page.records);
    }
}

async fn read_page(http: &reqwest::Client, url: &str) -> Result<Page, String> {
    let mut detail = String::new();
    for _ in 0..TRIES {
        match http.get(url).send().await {
            Err(error) => detail = reason(&error),
            Ok(response) if response.status().is_success() => match response.json().await {
                Ok(page) => return Ok(page),
                Err(error) => detail = reason(&error),
            },
            Ok(response) => detail = format!("status {}", response.status()),
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Err(format!("{detail} ({TRIES} tries)"))
}
