"""The HTTP data plane: gate, dispatcher, pass-through, refusals. Knows no processes."""
