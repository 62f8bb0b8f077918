//! `holdfast-fault-server`: a strict small S3 in memory that can be told to lie.

use std::net::SocketAddr;

use clap::Parser;
use holdfast_fault_server::{ADMIN, Fault, FaultServer, WRITER};

/// A strict small S3 in memory, with faults and lies that can be switched on.
///
/// While it runs, `curl -X PUT 'ENDPOINT/-/faults?slow-down=0.2&bit-flips'` sets its faults, with a rate each;
/// `curl ENDPOINT/-/faults` lists them and `curl -X DELETE ENDPOINT/-/faults` ends them.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8333", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Buckets to make, with versioning and Object Lock.
    #[arg(long, default_value = "vault", value_name = "NAME")]
    bucket: Vec<String>,
    /// A fault to begin with; may be given several times.
    #[arg(long, value_name = "NAME[=RATE]", value_parser = fault)]
    fault: Vec<(Fault, f64)>,
    /// List the faults and end.
    #[arg(long)]
    list: bool,
}

fn fault(text: &str) -> Result<(Fault, f64), String> {
    let (name, rate) = text.split_once('=').unwrap_or((text, "1"));
    let rate = rate.parse().map_err(|_| format!("`{rate}` is no rate between 0 and 1"))?;
    Ok((Fault::by_name(name).ok_or_else(|| format!("there is no fault `{name}`; see --list"))?, rate))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    if arguments.list {
        Fault::ALL.iter().for_each(|info| println!("{:<30} {}", info.name, info.what));
        return Ok(());
    }
    let server = FaultServer::listen(arguments.listen).await?;
    arguments.bucket.iter().for_each(|bucket| server.create_bucket(bucket));
    arguments.fault.iter().for_each(|(fault, rate)| server.faults().set_rate(*fault, *rate));
    println!("{} (administrator {} {}, writer {} {})", server.endpoint(), ADMIN.0, ADMIN.1, WRITER.0, WRITER.1);
    server.forever().await;
    Ok(())
}
