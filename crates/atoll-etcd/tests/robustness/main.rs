//! The seventeen bugs that etcd's robustness suite names, each as a scenario against our gRPC API
//! over the embedded store: what was wrong there must not be wrong here.
//!
//! | etcd issue | what went wrong | test |
//! |---|---|---|
//! | #13766 | a kill under load left members apart | `kills::bug_13766_members_agree_after_kills_under_load_with_snapshots_every_100_entries` |
//! | #14370 | one member acknowledged what it lost when it died before its log was written | `kills::bug_14370_one_member_killed_before_or_after_its_log_is_written_loses_no_acknowledged_write`, `kills::bug_14370_power_lost_at_any_write_to_the_disk_loses_no_acknowledged_write` |
//! | #14571 | authentication under load left members apart | `agreement::bug_14571_auth_calls_under_load_are_answered_as_without_authentication_and_members_agree` |
//! | #14685 | a kill during defragmentation left members apart | `kills::bug_14685_a_member_killed_while_it_defragments_agrees_with_the_others` |
//! | #15220 | progress was told ahead of events | `watches::bug_15220_progress_never_overtakes_events` |
//! | #15271 | a watch went back after its member got a snapshot | `snapshots::bug_15271_a_watch_never_goes_back_when_its_member_gets_a_snapshot` |
//! | #17247 | an event of a transaction came twice | `watches::bug_17247_events_of_a_transaction_come_once_and_together` |
//! | #17529 | events were lost to a slow client | `watches::bug_17529_a_client_that_reads_slowly_loses_no_event` |
//! | #17780 | the revision fell when a compaction was not marked as finished | `kills::bug_17780_the_revision_never_falls_when_a_compaction_is_cut_off` |
//! | #18055 | two snapshots in quick succession broke the receiver | `snapshots::bug_18055_snapshots_in_quick_succession_leave_members_the_same` |
//! | #18089 | a deletion at the compacted revision was lost to a watch that was behind | `watches::bug_18089_a_deletion_at_the_compacted_revision_is_not_lost_to_a_watch_behind` |
//! | #18667 | a transaction that reads what is compacted left members apart | `agreement::bug_18667_a_transaction_that_reads_what_is_compacted_does_nothing_anywhere` |
//! | #19179 | a watch at the compacted revision lost events | `watches::bug_19179_a_watch_at_the_compacted_revision_sees_all_that_follows` |
//! | #20221 | a watch on the future was notified before | `snapshots::bug_20221_a_watch_on_the_future_is_not_notified_before` |
//! | #20221 | and brought what was before | `snapshots::bug_20221_a_watch_on_the_future_brings_nothing_older` |
//! | #20271 | a snapshot arrived during defragmentation | `snapshots::bug_20271_a_snapshot_that_arrives_during_defragmentation_is_taken_whole` |
//! | #20418 | a leader that had been paused served a stale read | `agreement::bug_20418_a_leader_that_was_cut_off_serves_no_stale_read` |
//!
//! Authentication is never enabled here, so #14571 is about its calls. Crashes at every write of
//! several members, with snapshots and changes of members in between, are the simulation's.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics; numbers of a run are printed"
)]

mod agreement;
mod kills;
mod load;
#[path = "../surroundings/raw.rs"]
#[allow(dead_code, reason = "shared with other suites")]
mod raw;
#[path = "../surroundings/served.rs"]
#[allow(dead_code, reason = "shared with other suites")]
mod served;
mod snapshots;
mod stream;
mod watches;
