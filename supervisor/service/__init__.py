"""What a service manager (systemd) and we have to do with each other: its word, its sockets, its reloads, its stops."""
