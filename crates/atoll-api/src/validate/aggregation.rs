//! APIService: another server behind ours.
