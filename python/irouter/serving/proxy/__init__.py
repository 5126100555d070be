"""The reference reverse proxy: the OpenAI API in front of several instances, routed by `irouter.Router`."""

from irouter.serving.proxy.app import Proxy, make_app
from irouter.serving.proxy.config import ApiKey, PoolConfig, ProxyConfig
from irouter.serving.proxy.config_file import read_config

__all__ = ["ApiKey", "PoolConfig", "Proxy", "ProxyConfig", "make_app", "read_config"]
