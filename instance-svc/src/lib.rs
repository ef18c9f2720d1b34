//! instance-svc
