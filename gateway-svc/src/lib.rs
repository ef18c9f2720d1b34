//! gateway-svc
