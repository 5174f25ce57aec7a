"""What tocsin does for particular servers and frameworks; one module each."""
