//! The store's trait in its own process, beside etcd by gRPC.
//!
//! The store runs in a program of its own, the example `embedded` of atoll-store, since this one
//! is built without any of Atoll.

use std::process::Command;
use std::time::Duration;

use crate::load::{Figures, Kind, connect, figures, measure};
use crate::sides::Name;
use crate::{Outcome, Settings, print};

pub async fn run(settings: &Settings) -> Outcome<()> {
    let program = settings.embedded.as_ref().ok_or(
        "`embedded` needs --embedded PROGRAM: build it by `cargo build --release -p atoll-store --example embedded`",
    )?;
    let etcd = settings.side(Name::Etcd, "embedded").await?;
    for (name, kind) in [("get", Kind::Get), ("txn", Kind::Txn)] {
        for clients in [1, 32, 256] {
            let what = format!("embedded {name} ×{clients}");
            if !what.contains(&settings.only) {
                continue;
            }
            let connections = connect(&etcd.endpoints, clients).await?;
            // What the gets ask for.
            measure(&connections, Kind::Put, clients, Duration::from_millis(500)).await?;
            let mut found = [Vec::new(), Vec::new()];
            for round in 0..settings.rounds {
                let folder = settings.folder.join(format!("embedded/{name}-{clients}-{round}"));
                let seconds = settings.time.as_secs_f64().to_string();
                let ran = Command::new(program)
                    .arg(folder)
                    .args([name, &clients.to_string(), &seconds])
                    .output()?;
                found[0].push(read(&String::from_utf8(ran.stdout)?)?);
                let before = etcd.cpu()?;
                let taken = measure(&connections, kind, clients, settings.time).await?;
                let cpu = etcd.cpu()?.saturating_sub(before);
                found[1].push(figures(taken, settings.time, cpu));
            }
            print(&what, &found);
        }
    }
    Ok(())
}

/// What the program prints: per second, p50, p99 and CPU in microseconds.
fn read(line: &str) -> Outcome<Figures> {
    let numbers: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [per_second, p50_micros, p99_micros, cpu_micros] = numbers[..] else {
        return Err(format!("the embedded store said {line:?}").into());
    };
    Ok(Figures { per_second, p50_micros, p99_micros, cpu_micros })
}
