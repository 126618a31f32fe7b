"""Which runtime and precision are fastest for a model on this CPU, among those that find the same people."""
