"""A cluster on one machine: emulated engines, the proxy with a pool for each of two policies, and a load on both."""
