"""Parameters, FLOPs, memory, hardware: one profiler for all arms. Importing this package imports no torch."""
