"""`POST /predict`: output lengths for those who keep their own router."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from irouter._core import IrouterError
from irouter.prediction.distribution import LENGTH_LEVELS, LengthDistribution
from irouter.prediction.requests import Requests
from irouter.serving.foresight import is_front
from irouter.serving.openai import error_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from irouter.serving.foresight import Predictor, PredictorFront

PREDICT: Final = "/predict"
"""Where it is asked."""

MOST_PROMPTS: Final = 256
"""Most prompts of one call: as many as may wait for a model."""

_FIELDS: Final = ("prompts", "tasks", "apps")
_MOST_BODY_BYTES: Final = 16 << 20


def predict_route(choose: Callable[[str | None], Predictor | PredictorFront]) -> web.RouteDef:
    """The route, for any application of aiohttp.

    The body is an object with `prompts`, a list of at most `MOST_PROMPTS` texts, and maybe `tasks` and `apps`, a name
    or null for each, and `model`, the name of who is to answer. The answer has `levels`, and in `predictions` for each
    prompt:

    * `expected_output_tokens`: the expected length as a whole number of tokens, of at least 1: what Dynamo takes in a
      request of its `SelectionService`, and over HTTP as `nvext.agent_hints.osl`.
    * `quantiles`: the lengths in tokens at `levels`.
    * `source`: who said it: `model`, `cache` or `fallback`.

    Bad input is answered with status 400 and an error as the OpenAI API has it, which names the field.

    Args:
        choose: Who is asked about a model, None where the body names none; a front answers within its budget.
    """

    async def handler(request: web.Request) -> web.Response:
        try:
            model, asked = _read(await request.read())
        except IrouterError as error:
            return web.json_response(error_body(str(error)), status=400)
        # A model that there is not is for who has several to answer.
        predictor = choose(model)
        try:
            lengths, sources = await _answers(predictor, asked)
        except IrouterError as error:
            return web.json_response(error_body(str(error)), status=400)
        tokens = lengths.expected_output_tokens
        rows = [
            {
                "expected_output_tokens": tokens[row],
                "quantiles": lengths.quantiles[row].tolist(),
                "source": source,
            }
            for row, source in enumerate(sources)
        ]
        return web.json_response({"levels": LENGTH_LEVELS, "predictions": rows})

    return web.post(PREDICT, handler)


def predict_app(predictor: Predictor | PredictorFront) -> web.Application:
    """An application that does nothing else, but for `GET /health`."""

    async def health(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(client_max_size=_MOST_BODY_BYTES)
    app.add_routes([predict_route(lambda _model: predictor), web.get("/health", health)])
    return app


def _read(raw: bytes) -> tuple[str | None, Requests]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise IrouterError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise IrouterError(f"the body is a {type(body).__name__}, expected an object")
    model = body.pop("model", None)
    if model is not None and not isinstance(model, str):
        raise IrouterError(f"`model` is {model!r:.60}, expected text")
    for name, value in body.items():
        if name not in _FIELDS:
            raise IrouterError(f"unknown field `{name:.60}`, expected {', '.join((*_FIELDS, 'model'))}")
        if not isinstance(value, list) and not (value is None and name != "prompts"):
            raise IrouterError(f"`{name}` is {value!r:.60}, expected a list")
    prompts = body.get("prompts", [])
    if not 1 <= len(prompts) <= MOST_PROMPTS:
        raise IrouterError(f"`prompts` has {len(prompts)} texts, expected 1 to {MOST_PROMPTS}")
    return model, Requests.check(prompts, body.get("tasks"), body.get("apps"))


async def _answers(
    predictor: Predictor | PredictorFront, asked: Requests
) -> tuple[LengthDistribution, list[str]]:
    """What the predictor says, and who said it."""
    # What a caller does not say is not handed on: a predictor of prompts alone need not take it.
    known = [
        {name: value for name, value in (("task", task), ("app", app)) if value is not None}
        for task, app in zip(asked.tasks, asked.apps, strict=True)
    ]
    if is_front(predictor):
        ask: Callable[..., Awaitable[Any]] = predictor.answer_async
        answers = await asyncio.gather(
            *(ask(prompt, **names) for prompt, names in zip(asked.prompts, known, strict=True))
        )
        lengths = LengthDistribution.concatenate([answer.lengths for answer in answers])
        return lengths, [answer.source for answer in answers]
    columns = {
        f"{name}s": [names.get(name) for names in known]
        for name in ("task", "app")
        if any(name in names for names in known)
    }
    predict: Callable[..., Any] = predictor.predict
    return LengthDistribution(predict(asked.prompts, **columns).quantiles), ["model"] * len(asked)
