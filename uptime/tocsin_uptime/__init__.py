"""The prober: looks at services from the outside, and tells a router when they are down."""
