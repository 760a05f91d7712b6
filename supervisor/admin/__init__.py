"""The control plane: HTTP API, metrics and a status page. Reads reports and posts requests; decides nothing."""
