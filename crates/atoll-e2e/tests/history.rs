//! What clients are told by three servers, while all kinds of faults befall them, is what one
//! store could have said. `cargo xtask history` does the same for as long as one likes.
//!
//! The seed is printed; `ATOLL_HISTORY_SEED` repeats its faults.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]
#![allow(clippy::print_stdout, reason = "the seed and the numbers of a run")]

use atoll_e2e::{
    cluster::binary,
    history::{Fault, Options, Plan, run},
    is_root,
};
use std::time::Duration;

fn options(plan: Plan) -> Options {
    let named = std::env::var("ATOLL_HISTORY_SEED").ok();
    let seed = named.map_or_else(rand::random, |text| text.parse().unwrap());
    println!("ATOLL_HISTORY_SEED={seed}");
    Options {
        seed,
        servers: 3,
        clients: 12,
        think_ms: 5,
        program: binary(),
        plan,
        piece: Duration::from_secs(20),
        is_lying: false,
        with_leases: false,
    }
}

#[test]
fn what_clients_are_told_under_all_faults_fits_one_order_of_writes() {
    if !is_root("history") {
        return;
    }
    let kinds = Fault::ALL.to_vec();
    let plan = Plan::Faults { kinds, operations: 3000, ms_min: 500, ms_max: 1500 };
    let report = run(&options(plan), |_| {});
    println!("{report}");
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    assert_eq!(report.faults.len(), Fault::ALL.len(), "{:?}", report.faults);
    let without_answer = report.unknown + report.refused;
    assert!(without_answer < report.operations * 2 / 3, "too little happened: {report}");
    assert!(report.changes > 500 && report.batches > 100, "too little happened: {report}");
}

/// Without it, nobody would know that the checker looks at all.
#[test]
fn stale_reads_that_pass_for_fresh_ones_are_found() {
    if !is_root("history") {
        return;
    }
    let kinds = vec![Fault::Cut];
    let plan = Plan::Faults { kinds, operations: 30_000, ms_min: 2000, ms_max: 3000 };
    let options = Options { is_lying: true, piece: Duration::from_secs(6), ..options(plan) };
    let report = run(&options, |_| {});
    println!("{report}");
    let stale = |problem: &String| problem.contains("was known before this was asked");
    assert!(report.violations.iter().any(stale), "{report}: {:?}", report.violations);
}
