"""Worker processes: command line, spawn, readiness, signals, logs. Knows no thresholds."""
