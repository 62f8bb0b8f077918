//! The network between the places: a bridge that the sites are plugged into, with the cloud's address
//! on it. Sites reach the cloud and not each other, and of the machine nothing but the cloud's ports.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::error::{IoContext, LabError, Result};
use crate::exec::{command, sh};
use crate::site::Site;

/// Where the S3 server listens. Sites know it as `s3.cloud`.
pub const CLOUD_IP: &str = "10.77.0.1";
/// The port of the S3 server.
pub const S3_PORT: u16 = 8333;

const BRIDGE: &str = "hf0";
const TABLE: &str = "holdfast_lab";

/// What is open to the sites: S3, an OTLP receiver, and whatever a test serves on 17000 to 17999.
const OPEN_PORTS: &str = "8333, 4318, 17000-17999";

/// Whose lab is up on this machine: the folder that was given to [`create`].
pub(crate) fn owner() -> Option<String> {
    let alias = std::fs::read_to_string(format!("/sys/class/net/{BRIDGE}/ifalias")).ok()?;
    Some(alias.trim().to_owned()).filter(|owner| !owner.is_empty())
}

/// Makes the bridge and the firewall, and marks them with their owner. The bridge must not exist.
pub(crate) fn create(owner: &Path) -> Result<()> {
    let taken = sh("ip", &["-o", "address", "show", "to", "10.77.0.0/24"])?;
    if !taken.trim().is_empty() {
        return Err(LabError::Machine(format!(
            "the lab needs the network 10.77.0.0/24, but this machine uses it already: {}",
            taken.trim()
        )));
    }
    sh("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
    // The kernel keeps 255 bytes.
    let owner: String = owner.display().to_string().chars().take(250).collect();
    sh("ip", &["link", "set", BRIDGE, "alias", &owner])?;
    let address = format!("{CLOUD_IP}/24");
    sh("ip", &["address", "add", &address, "dev", BRIDGE])?;
    sh("ip", &["link", "set", BRIDGE, "addrgenmode", "none", "up"])?;
    nft(&ruleset())
}

/// Removes both; what is not there is fine.
pub(crate) fn remove() {
    for site in Site::ALL {
        remove_link(site);
    }
    let _ = sh("ip", &["link", "delete", BRIDGE]);
    let _ = sh("nft", &["delete", "table", "inet", TABLE]);
}

pub(crate) fn exists() -> bool {
    Path::new("/sys/class/net").join(BRIDGE).exists() || sh("nft", &["list", "table", "inet", TABLE]).is_ok()
}

fn ruleset() -> String {
    format!(
        "table inet {TABLE} {{
  set without_cloud {{ type ipv4_addr; }}
  chain input {{
    type filter hook input priority -150; policy accept;
    iifname != \"{BRIDGE}\" accept
    ip saddr @without_cloud ct direction original drop
    ct state established,related accept
    ip daddr {CLOUD_IP} tcp dport {{ {OPEN_PORTS} }} accept
    ip daddr {CLOUD_IP} icmp type echo-request accept
    meta l4proto tcp reject with tcp reset
    reject
  }}
  chain forward {{
    type filter hook forward priority -150; policy accept;
    iifname \"{BRIDGE}\" drop
    oifname \"{BRIDGE}\" drop
  }}
}}
"
    )
}

fn nft(script: &str) -> Result<()> {
    let mut child = command("nft", ["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing(|| "start nft".into())?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes()).doing(|| "write to nft".into())?;
    }
    let output = child.wait_with_output().doing(|| "wait for nft".into())?;
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::Command {
        command: "nft -f -".into(),
        status: output.status.to_string(),
        output: crate::exec::tail(&output.stderr),
    })
}

/// Makes a site's link and puts one end on the bridge.
pub(crate) fn make_link(site: Site) -> Result<()> {
    let (link, inner) = (site.link(), site.inner_link());
    remove_link(site);
    sh("ip", &["link", "add", &link, "type", "veth", "peer", "name", &inner])?;
    sh("ip", &["link", "set", &link, "master", BRIDGE, "addrgenmode", "none", "up"])?;
    // Ports that are isolated reach the bridge's own address and not each other.
    sh("ip", &["link", "set", &link, "type", "bridge_slave", "isolated", "on"])?;
    Ok(())
}

/// Moves the other end into the site.
pub(crate) fn plug(site: Site, pid: i32) -> Result<()> {
    let pid = pid.to_string();
    sh("ip", &["link", "set", &site.inner_link(), "netns", &pid, "name", "eth0"]).map(drop)
}

pub(crate) fn remove_link(site: Site) {
    let _ = sh("ip", &["link", "delete", &site.link()]);
}

/// What of its network a site has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// Everything.
    Connected,
    /// Its users, but nothing in the cloud: the vault's bucket is out of reach.
    WithoutCloud,
    /// Nothing and nobody.
    Cut,
}

/// Sets what a running site reaches. Packets of what is cut are dropped, as on a dead line.
pub(crate) fn set_reach(site: Site, reach: Reach) -> Result<()> {
    let link = if reach == Reach::Cut { "down" } else { "up" };
    sh("ip", &["link", "set", &site.link(), link])?;
    let verb = match (reach == Reach::WithoutCloud, is_without_cloud(site)?) {
        (true, false) => "add",
        (false, true) => "delete",
        _ => return Ok(()),
    };
    let ip = site.ip();
    nft(&format!("{verb} element inet {TABLE} without_cloud {{ {ip} }}\n"))
}

pub(crate) fn reach(site: Site) -> Result<Reach> {
    let link = sh("ip", &["-o", "link", "show", "dev", &site.link()])?;
    if !link.split(['<', '>']).nth(1).is_some_and(|flags| flags.split(',').any(|f| f == "UP")) {
        return Ok(Reach::Cut);
    }
    Ok(match is_without_cloud(site)? {
        true => Reach::WithoutCloud,
        false => Reach::Connected,
    })
}

fn is_without_cloud(site: Site) -> Result<bool> {
    let set = sh("nft", &["list", "set", "inet", TABLE, "without_cloud"])?;
    Ok(set.split([' ', ',', '\n']).any(|word| word == site.ip()))
}
