"""A small web shop to watch: `tocsin up --demo` runs it with traffic, `tocsin demo break checkout` breaks it."""
