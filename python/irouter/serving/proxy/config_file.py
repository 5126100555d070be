"""Settings of the proxy from a TOML file, the command line and the environment."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from typing import TYPE_CHECKING, Any, Final

from irouter._core import IrouterError
from irouter._names import unknown
from irouter.serving.instances import Instance
from irouter.serving.proxy.addresses import check_engine_url
from irouter.serving.proxy.config import DEFAULT_PROFILE, ApiKey, PoolConfig, ProxyConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_TEXTS: Final = tuple
_EXPECTED: Final[dict[type, str]] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    _TEXTS: "a list of texts",
}
# Tables, and the secrets that are in the environment, by the settings that name the variables.
_TABLES: Final = ("instances", "keys", "models", "dns")
_SECRETS: Final = {"upstream_key_env": "upstream_key", "admin_key_env": "admin_key"}
_INSTANCE: Final = {"url": str, "profile": str, "model": str}
# Of a model, what is else that of the proxy.
_MODEL: Final = {"name": str, "policy": str, "profile": str, "predictor": str, "decision_log": str}
_OF_ALL: Final = ("policy", "profile", "predictor")


def read_config(
    path: Path | None,
    changes: Mapping[str, Any],
    *,
    environment: Mapping[str, str] = os.environ,
    needs_instance: bool = True,
) -> ProxyConfig:
    """Settings from a TOML file, then `changes`, each by the names of `ProxyConfig`.

    `[[instances]]` have `url` and maybe `profile` and `model`; `[[dns]]` have `url` and maybe `model`; `[[models]]`
    have `name` and maybe settings of their own; `[[keys]]` have `name`, `env` (the variable that holds the key) and
    maybe `weight`; `upstream_key_env` and `admin_key_env` name the variables with the key for engines and that of the
    admin API. Without `[[keys]]` the variable `IROUTER_API_KEY` is the only key, where it is set, and without
    `admin_key_env` it is `IROUTER_ADMIN_KEY`. Secrets are not in the file.

    Raises:
        IrouterError: Naming the setting, or for no instance where one is needed: a daemon's may come later.
    """
    data = _read(path) if path is not None else {}
    settings: dict[str, Any] = {}
    for name, value in data.items():
        if name in _TABLES or name in _SECRETS:
            continue
        if name not in _KINDS:
            raise unknown("setting", name, [*_KINDS, *_TABLES, *_SECRETS], "docs/serve.md lists them")
        settings[name] = _checked(name, value, _KINDS[name])
    settings |= {name: value for name, value in changes.items() if value is not None and name not in _TABLES}
    tables = [{"url": url} for url in changes.get("instances") or ()] or _tables(
        data, "instances", _INSTANCE, required=("url",)
    )
    dns = [{"url": url} for url in changes.get("dns") or ()] or _tables(
        data, "dns", {"url": str, "model": str}, required=("url",)
    )
    models = _tables(data, "models", _MODEL, required=("name",))
    if models:
        own = {name: settings[name] for name in _OF_ALL if name in settings}
        settings["models"] = _pools([own | table for table in models], tables, dns)
    else:
        (pool,) = _pools([{"profile": settings.get("profile", DEFAULT_PROFILE)}], tables, dns)
        settings |= {"instances": pool.instances, "dns": pool.dns}
    keys = _tables(data, "keys", {"name": str, "env": str, "weight": float}, required=("name", "env"))
    if not keys and environment.get("IROUTER_API_KEY"):
        keys = [{"name": "default", "env": "IROUTER_API_KEY"}]
    settings["keys"] = tuple(
        ApiKey(table["name"], _secret(table["env"], environment), table.get("weight", 1.0)) for table in keys
    )
    for variable, secret in _SECRETS.items():
        if variable in data:
            settings[secret] = _secret(_checked(variable, data[variable], str), environment)
    settings.setdefault("admin_key", environment.get("IROUTER_ADMIN_KEY") or None)
    config = ProxyConfig(**settings)
    if needs_instance:
        config.check_instances()
    return config


def read_instances(path: Path, pools: Sequence[PoolConfig]) -> dict[str | None, tuple[Instance, ...]]:
    """Instances by model from a file that has nothing but `[[instances]]`, for pools as they are configured.

    Raises:
        IrouterError: Naming what is wrong.
    """
    data = _read(path)
    for name in data:
        if name != "instances":
            raise unknown("table", name, ["instances"], "the file of instances has [[instances]] only")
    found = _tables(data, "instances", _INSTANCE, required=("url",))
    for table in found:
        check_engine_url(table["url"])
    profiles = {pool.model: pool.profile for pool in pools}
    return {
        model: tuple(Instance(table["url"], table.get("profile", profiles[model])) for table in tables)
        for model, tables in _by_model(found, list(profiles)).items()
    }


def _pools(
    models: list[dict[str, Any]], instances: list[dict[str, Any]], dns: list[dict[str, Any]]
) -> tuple[PoolConfig, ...]:
    names = [model.get("name") for model in models]
    engines, addresses = _by_model(instances, names), _by_model(dns, names)
    pools = []
    for model in models:
        name, profile = model.get("name"), model.get("profile", DEFAULT_PROFILE)
        known = {field: value for field, value in model.items() if field != "name"}
        pools.append(
            PoolConfig(
                model=name,
                instances=tuple(
                    Instance(table["url"], table.get("profile", profile)) for table in engines[name]
                ),
                dns=tuple(table["url"] for table in addresses[name]),
                **known,
            )
        )
    return tuple(pools)


def _by_model(
    tables: Iterable[dict[str, Any]], models: Sequence[str | None]
) -> dict[str | None, list[dict[str, Any]]]:
    found: dict[str | None, list[dict[str, Any]]] = {model: [] for model in models}
    for table in tables:
        model = table.get("model")
        if model not in found:
            expected = ", ".join(f"`{name}`" for name in models if name is not None) or "none: no [[models]]"
            raise IrouterError(f"instance {table['url']} has the model {model!r:.60}, expected {expected}")
        found[model].append(table)
    return found


def _kind(annotation: str) -> type:
    kinds: dict[str, type] = {"int": int, "float": float, "bool": bool, "tuple[str, ...]": _TEXTS}
    return kinds.get(annotation, str)


_KINDS: Final = {
    field.name: _kind(str(field.type))
    for field in dataclasses.fields(ProxyConfig)
    if field.name not in {*_TABLES, *_SECRETS.values()}
}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise IrouterError(f"no file {path}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise IrouterError(f"{path.name}: not TOML: {error}") from error


def _checked(name: str, value: Any, kind: type) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if kind is _TEXTS and isinstance(value, list) and all(isinstance(text, str) for text in value):
        return tuple(value)
    if type(value) is not kind:
        raise IrouterError(f"setting `{name}` is {value!r:.60}, expected {_EXPECTED[kind]}")
    return value


def _tables(
    data: dict[str, Any], name: str, kinds: Mapping[str, type], *, required: tuple[str, ...]
) -> list[dict[str, Any]]:
    tables = data.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise IrouterError(f"`{name}` is {tables!r:.60}, expected tables [[{name}]]")
    for table in tables:
        for field, value in table.items():
            if field not in kinds:
                raise unknown(f"setting of [[{name}]]", field, kinds, f"there are {', '.join(kinds)}")
            table[field] = _checked(f"{name}.{field}", value, kinds[field])
        missing = [field for field in required if field not in table]
        if missing:
            raise IrouterError(f"[[{name}]] has no `{missing[0]}`, expected one")
    return tables


def _secret(variable: str, environment: Mapping[str, str]) -> str:
    secret = environment.get(variable)
    if not secret:
        raise IrouterError(f"the environment variable {variable} is not set, expected a key in it")
    return secret
