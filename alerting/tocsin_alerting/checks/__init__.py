"""What `lint` looks for, one module per part of the configuration; each yields findings."""
