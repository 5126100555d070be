"""`irouter predictor`."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from irouter import prediction
from irouter._core import IrouterError
from irouter._extras import require
from irouter.cli import options
from irouter.cli.console import err, out, plain_table, progress, written
from irouter.prediction.benchmark import measure
from irouter.prediction.encoder_training import DEFAULT_ENCODER, EncoderOptions
from irouter.prediction.labelling import Endpoint
from irouter.prediction.labelling import label as label_prompts
from irouter.prediction.metrics import Metrics, Outcomes

EXAMPLES = """[bold]Examples[/bold]

irouter predictor train --data requests.jsonl --backend tfidf --out lengths

irouter predictor eval lengths --data later.jsonl --html lengths.html

irouter predictor serve lengths --port 8090

irouter predictor label --prompts prompts.jsonl --url http://localhost:8000/v1 --model my-model --out requests.jsonl
"""

app = typer.Typer(help="Predictors of output lengths, trained on your own logs.", no_args_is_help=True)

_Folder = Annotated[Path, typer.Argument(help="Folder of a predictor.", metavar="DIR")]
_Data = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Request log (JSONL, Parquet or CSV): [bold]prompt, output_tokens[/bold], and where known "
        "[bold]task, app, finish, group, split[/bold].",
        show_default=False,
    ),
]
_Precision = Annotated[
    str | None,
    typer.Option(help="Weights of an encoder: fp32 or int8; its own choice without it.", show_default=False),
]


@app.command(epilog=EXAMPLES)
def train(
    data: _Data,
    out_folder: Annotated[
        Path, typer.Option("--out", help="Write the predictor to this new folder.", show_default=False)
    ],
    backend: Annotated[str, typer.Option(help="history, tfidf or encoder.")] = "tfidf",
    tasks: Annotated[
        str,
        typer.Option(
            help="log: tasks as the log names them. predict: a classifier learns them there and names them from then "
            "on. DIR: the classifier of an earlier predictor names them.",
            metavar="log|predict|DIR",
        ),
    ] = "log",
    encoder: Annotated[
        str, typer.Option(help="Hugging Face encoder to fine-tune: a name, or a folder.")
    ] = DEFAULT_ENCODER,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the log.")] = EncoderOptions().epochs,
    max_tokens: Annotated[
        int,
        typer.Option(
            min=16, help="Tokens of a prompt that an encoder reads, its two ends where it is longer."
        ),
    ] = EncoderOptions().max_tokens,
    learning_rate: Annotated[
        float, typer.Option(help="Learning rate of an encoder.")
    ] = EncoderOptions().learning_rate,
    bfloat16: Annotated[
        bool,
        typer.Option(
            "--bfloat16",
            help="Fine-tune in 16 bits: twice as fast where the processor has AVX512-BF16 or AMX.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of fine-tuning.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Threads of fine-tuning; 0 leaves them to torch.")] = 0,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the weights, for the card.", show_default=False)
    ] = None,
) -> None:
    """Train a predictor on a request log, calibrate it and judge it on rows that it never saw."""
    settings = EncoderOptions(
        model=encoder,
        epochs=epochs,
        max_tokens=max_tokens,
        learning_rate=learning_rate,
        bfloat16=bfloat16,
        seed=seed,
        threads=threads,
    )
    log = prediction.read_log(data)
    with progress("training") as report:
        trained = prediction.train(
            log, out_folder, backend=backend, tasks=tasks, encoder=settings, licence=licence, progress=report
        )
    _print_metrics(f"{backend} on {log.name}, rows held out", trained.card.metrics)
    found = trained.card.tasks
    if found and found["accuracy"] is not None:
        out.print(
            f"tasks: {found['accuracy']:.1%} of {found['rows']:,} named right ({found['majority']:.1%} by guessing)",
            highlight=False,
        )
    written("predictor", out_folder)


@app.command("eval")
def evaluate(
    folder: _Folder,
    data: _Data,
    split: Annotated[
        str, typer.Option(help="Rows to judge by: train, val, test, or all.", metavar="SPLIT")
    ] = "all",
    json_file: options.JsonFile = None,
    html_file: options.HtmlFile = None,
    precision: _Precision = None,
) -> None:
    """Judge a predictor on a request log."""
    options.need_folders(None if json_file == Path("-") else json_file, html_file)
    trained = _load(folder, precision)
    log = prediction.read_log(data)
    if split != "all":
        log = log.part(split)
    with progress("predicting") as report:
        outcomes = prediction.outcomes(trained, log, progress=report)
    metrics = outcomes.metrics()
    if json_file is not None:
        text = json.dumps(_figures(metrics, outcomes), indent=1, sort_keys=True)
        if json_file == Path("-"):
            typer.echo(text)
        else:
            json_file.write_text(text + "\n", encoding="utf-8")
            written("figures", json_file)
    if json_file != Path("-"):
        _print_metrics(f"{trained.card.backend} on {log.name}", metrics.to_data())
    if html_file is not None:
        from irouter.prediction.page import page  # noqa: PLC0415 - plots load slowly

        html_file.write_text(page(trained.card, log, outcomes, metrics), encoding="utf-8")
        written("page", html_file)


@app.command()
def export(
    folder: _Folder,
    out_folder: Annotated[
        Path,
        typer.Option("--out", help="Write the smaller predictor to this new folder.", show_default=False),
    ],
    precision: Annotated[str, typer.Option(help="The one precision to keep: fp32 or int8.")] = "int8",
) -> None:
    """Write an encoder with weights of one precision, ready to be served."""
    prediction.export(folder, out_folder, precision=precision)
    written("predictor", out_folder)


@app.command()
def bench(
    folder: _Folder,
    tokens: Annotated[str, typer.Option(help="Prompt sizes in tokens, with commas.")] = "32,128,512",
    batches: Annotated[str, typer.Option(help="Batch sizes, with commas.")] = "1,64",
    repeats: Annotated[int, typer.Option(min=3, help="Calls of each kind.")] = 20,
    threads: Annotated[int, typer.Option(min=0, help="Threads of a call; 0 is one per core.")] = 1,
    precision: _Precision = None,
    json_file: options.JsonFile = None,
) -> None:
    """Time a predictor by prompt and batch size."""
    options.need_folders(None if json_file == Path("-") else json_file)
    trained = _load(folder, precision, threads=threads)
    sizes, counts = _whole_numbers("--tokens", tokens), _whole_numbers("--batches", batches)
    with progress("timing") as report:
        timings = measure(trained, sizes, counts, repeats=repeats, progress=report)
    if json_file is not None:
        text = json.dumps([timing.to_data() for timing in timings], indent=1)
        if json_file == Path("-"):
            typer.echo(text)
            return
        json_file.write_text(text + "\n", encoding="utf-8")
        written("figures", json_file)
    table = plain_table(f"{trained.card.backend}, milliseconds per call")
    for heading in ("tokens", "batch", "median", "P99"):
        table.add_column(heading, justify="right")
    for timing in timings:
        table.add_row(
            f"{timing.tokens}", f"{timing.batch}", f"{timing.median_ms:.2f}", f"{timing.p99_ms:.2f}"
        )
    out.print(table)


@app.command()
def serve(
    folder: _Folder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 for a free one.")] = 8090,
    budget_ms: Annotated[
        float, typer.Option(help="Milliseconds that a prompt waits for the model, then its fallback answers.")
    ] = prediction.ServiceOptions().budget_ms,
    precision: _Precision = None,
) -> None:
    """Answer POST /predict on this machine, for a router of your own (docs/learned-predictors.md)."""
    require("aiohttp", extra="serve", purpose="irouter predictor serve")
    from irouter.serving.http_server import run, serve_app  # noqa: PLC0415 - needs the extra
    from irouter.serving.predict import PREDICT, predict_app  # noqa: PLC0415 - needs the extra

    limits = prediction.ServiceOptions(budget_ms=budget_ms)
    trained = _load(folder, precision)

    def ready(url: str) -> None:
        out.print(f"{trained.card.backend} at {url}{PREDICT}", highlight=False, soft_wrap=True)

    with prediction.PredictorService(trained, options=limits) as front:

        async def main() -> None:
            await serve_app(predict_app(front), host="127.0.0.1", port=port, ready=ready)

        run(main())


@app.command()
def label(
    prompts: Annotated[
        Path,
        typer.Option(
            help="Prompts (JSONL, Parquet or CSV): a column [bold]prompt[/bold].", show_default=False
        ),
    ],
    url: Annotated[
        str,
        typer.Option(
            help="OpenAI-compatible endpoint, such as http://localhost:8000/v1.", show_default=False
        ),
    ],
    model: Annotated[str, typer.Option(help="Model that the endpoint serves.", show_default=False)],
    out_file: Annotated[
        Path,
        typer.Option("--out", help="Write the log here (.jsonl), or continue it.", show_default=False),
    ],
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 1024,
    temperature: Annotated[float, typer.Option(min=0.0, help="Temperature of sampling.")] = 0.7,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 16,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1.0, help="Seconds that one answer may take.")
    ] = 600.0,
    key_variable: Annotated[
        str, typer.Option("--api-key-env", help="Environment variable with the endpoint's key.")
    ] = "OPENAI_API_KEY",
) -> None:
    """Send prompts to a served model and record how long its answers are. What is broken off or failed goes on."""
    if out_file.suffix != ".jsonl":
        raise IrouterError(f"--out {out_file}: expected a file that ends in .jsonl")
    options.need_folders(out_file)
    endpoint = Endpoint(
        url=url,
        model=model,
        max_tokens=max_tokens,
        temperature=temperature,
        api_key=os.environ.get(key_variable),
        concurrency=concurrency,
        timeout_s=timeout_s,
    )
    with progress("labelling") as report:
        labelled = label_prompts(prompts, out_file, endpoint, progress=report)
    out.print(f"{labelled.added:,} rows added", highlight=False)
    if labelled.failures:
        err.print(
            f"warning: {len(labelled.failures):,} rows failed and are asked for again by the next run; "
            f"the last one: {labelled.failures[-1]}",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    written("log", out_file)


def _load(folder: Path, precision: str | None, **more: Any) -> prediction.TrainedPredictor:
    """The predictor, with what only an encoder knows where it is one."""
    if prediction.read_card(folder).backend == "encoder":
        return prediction.load(folder, precision=precision, **more)
    if precision is not None:
        raise IrouterError(f"--precision {precision}: {folder} is no encoder")
    return prediction.load(folder)


def _figures(metrics: Metrics, outcomes: Outcomes) -> dict[str, Any]:
    edges = list(outcomes.edges)
    return {**metrics.to_data(), "confusion": {"edges": edges, "counts": outcomes.confusion(edges).tolist()}}


def _print_metrics(title: str, metrics: Any) -> None:
    table = plain_table(title)
    for heading in ("requests", "cut", "tau-b", "error, tokens", "pinball", "80 %", "five buckets"):
        table.add_column(heading, justify="right")
    tau = metrics["kendall_tau"]
    table.add_row(
        f"{metrics['rows']:,}",
        f"{metrics['cut']:,}",
        "-" if tau is None else f"{tau:.3f}",
        f"{metrics['mae_tokens']:,.1f}",
        f"{metrics['pinball_loss']:,.1f}",
        f"{metrics['coverage_80']:.1%}",
        f"{metrics['accuracy_5']:.1%}",
    )
    out.print(table)


def _whole_numbers(name: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise IrouterError(f"{name} {text}: expected whole numbers with commas") from error
    if min(numbers) < 1:
        raise IrouterError(f"{name} {text}: expected numbers of at least 1")
    return numbers
