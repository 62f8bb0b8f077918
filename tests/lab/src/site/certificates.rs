//! A certificate authority for one site, and what it signs.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::error::{IoContext, LabError, Result};
use crate::machine::write_file;
use crate::site::Site;

/// Who a certificate is for.
struct Subject {
    file: &'static str,
    organization: Option<&'static str>,
    common_name: String,
    names: Vec<String>,
    /// A user of the API gets a kubeconfig of this certificate.
    kubeconfig: bool,
}

/// Writes `<folder>/pki/*` and `<folder>/<user>.kubeconfig`.
pub(crate) fn write(site: Site, folder: &Path) -> Result<()> {
    let pki = folder.join("pki");
    fs::create_dir_all(&pki).doing(|| format!("create {}", pki.display()))?;
    let authority = authority(site, &pki).map_err(generating)?;
    for subject in subjects(site) {
        sign(&authority, &pki, &subject)?;
        if subject.kubeconfig {
            let file = folder.join(format!("{}.kubeconfig", subject.file));
            write_file(&file, kubeconfig(site, &pki, subject.file))?;
        }
    }
    let accounts = KeyPair::generate().map_err(generating)?;
    write_file(&pki.join("sa.key"), accounts.serialize_pem())?;
    write_file(&pki.join("sa.pub"), accounts.public_key_pem())
}

fn subjects(site: Site) -> Vec<Subject> {
    let user = |file, organization, common_name: &str| Subject {
        file,
        organization,
        common_name: common_name.to_owned(),
        names: Vec::new(),
        kubeconfig: true,
    };
    let node = format!("system:node:{site}");
    vec![
        Subject { names: api_server_names(site), kubeconfig: false, ..user("apiserver", None, "kube-apiserver") },
        Subject { names: vec![site.ip(), site.name().to_owned()], ..user("kubelet", Some("system:nodes"), &node) },
        Subject { kubeconfig: false, ..user("kubelet-client", Some("system:masters"), "apiserver-kubelet-client") },
        user("admin", Some("system:masters"), "admin"),
        user("kcm", None, "system:kube-controller-manager"),
        user("scheduler", None, "system:kube-scheduler"),
        user("proxy", None, "system:kube-proxy"),
    ]
}

fn api_server_names(site: Site) -> Vec<String> {
    let mut names = vec![site.ip(), "127.0.0.1".to_owned(), site.api_service()];
    names.extend(
        ["", ".default", ".default.svc", ".default.svc.cluster.local"].map(|suffix| format!("kubernetes{suffix}")),
    );
    names
}

fn authority(site: Site, pki: &Path) -> Result<Issuer<'static, KeyPair>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name = name(None, &format!("{site}-ca"));
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    // A failure to write shows as a missing file right after.
    let _ = fs::write(pki.join("ca.crt"), certificate.pem());
    Ok(Issuer::new(params, key))
}

fn sign(authority: &Issuer<'static, KeyPair>, pki: &Path, subject: &Subject) -> Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(subject.organization, &subject.common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    for alternative in &subject.names {
        params.subject_alt_names.push(match alternative.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(alternative.as_str().try_into().map_err(generating)?),
        });
    }
    let key = KeyPair::generate().map_err(generating)?;
    let certificate = params.signed_by(&key, authority).map_err(generating)?;
    write_file(&pki.join(format!("{}.crt", subject.file)), certificate.pem())?;
    write_file(&pki.join(format!("{}.key", subject.file)), key.serialize_pem())
}

fn name(organization: Option<&str>, common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn kubeconfig(site: Site, pki: &Path, user: &str) -> String {
    let ip = site.ip();
    let pki = pki.display();
    format!(
        "apiVersion: v1\nkind: Config\n\
         clusters: [{{name: {site}, cluster: {{server: \"https://{ip}:6443\", certificate-authority: \"{pki}/ca.crt\"}}}}]\n\
         users: [{{name: {user}, user: {{client-certificate: \"{pki}/{user}.crt\", client-key: \"{pki}/{user}.key\"}}}}]\n\
         contexts: [{{name: {site}, context: {{cluster: {site}, user: {user}}}}}]\n\
         current-context: {site}\n"
    )
}

fn generating(error: rcgen::Error) -> LabError {
    LabError::State(format!("could not make the site's certificates: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_gets_a_kubeconfig_that_names_existing_files() {
        let folder = tempfile::tempdir().unwrap();
        write(Site::Standby, folder.path()).unwrap();
        for user in ["admin", "kcm", "scheduler", "kubelet", "proxy"] {
            let config = kube::config::Kubeconfig::read_from(folder.path().join(format!("{user}.kubeconfig"))).unwrap();
            let cluster = config.clusters[0].cluster.as_ref().unwrap();
            assert_eq!(cluster.server.as_deref(), Some("https://10.77.0.12:6443"));
            assert!(Path::new(cluster.certificate_authority.as_ref().unwrap()).is_file());
            let user = config.auth_infos[0].auth_info.as_ref().unwrap();
            assert!(Path::new(user.client_certificate.as_ref().unwrap()).is_file());
            assert!(Path::new(user.client_key.as_ref().unwrap()).is_file());
        }
        assert!(!folder.path().join("apiserver.kubeconfig").exists());
        assert!(folder.path().join("pki/sa.pub").is_file());
    }
}
