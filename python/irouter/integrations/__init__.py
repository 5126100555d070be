"""The router inside other routers."""
