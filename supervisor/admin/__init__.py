"""The HTTP control plane and its client. Reads the controller's reports, posts requests; reaches into nothing."""
