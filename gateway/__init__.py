"""The request path: Envoy, tenant routing and the tenant KV API."""
