"""The command line. Each command is a few lines; the work stands where it belongs.

What imports torch is imported by the command that needs it: `--help` answers at once, and the
daemon's own process never holds it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from typer._click.exceptions import ClickException, NoArgsIsHelpError

import clearline
from daemon import console

app = typer.Typer(
    name="clearline",
    help="Watches production lines through cameras and says of every part whether its surface "
    "is good. Begin with: clearline demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Data = Annotated[
    Path,
    typer.Argument(
        help="Folder in the MVTec AD layout: train/good, test/<kind>, ground_truth/<kind>."
    ),
]
BundleFile = Annotated[Path, typer.Argument(help="A bundle made by clearline train.")]
CalibrationFile = Annotated[
    Path | None, typer.Option("--calibration", help="Where it is not beside the bundle.")
]
Device = Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object, last on standard output.")]
Config = Annotated[Path, typer.Argument(help="A configuration file (TOML).")]


Source = Literal["kafka", "outbox", "jsonl"]
Type = Literal["defect", "camera", "line"]


@app.command()
def demo(
    frames: Annotated[
        int | None,
        typer.Option(min=1, help="End after so many. Endless on a terminal, else 300."),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Leave data, bundle, calibration, events and pictures in this folder."),
    ] = None,
    json: Json = False,
) -> None:
    """Train on a simulated product, calibrate, and inspect a simulated line live."""
    from daemon.demo import run_demo

    endless = sys.stdout.isatty() and not json
    run_demo(frames or (0 if endless else 300), keep, as_json=json)


@app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="The bundle to write, NAME.safetensors.")],
    natural: Annotated[
        Path | None,
        typer.Option(help="Folder of photographs for artificial anomalies; else procedural."),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(help="TOML with [model] and [training] tables; see docs/training.md."),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="A ceiling for the whole training.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Learn a surface from the normal images in DATA/train/good.

    A fifth of them is left for `calibrate` (calibration_share). A training that was killed goes on
    from its last checkpoint when the same command is given again.
    """
    with console.working("loading torch"):
        from training.commands import train_to

    with console.progress() as bars:
        report = train_to(
            data, out, natural, settings, minutes, seed, device, console.TrainingBars(bars),
            bars.watch,
        )  # fmt: skip
    if json:
        console.print_json(report)
    else:
        console.print_table(f"{out}", report["summary"])


@app.command()
def calibrate(
    bundle: BundleFile,
    data: Data,
    false_reject_rate: Annotated[
        float, typer.Option(help="The budget: the share of good images that may be rejected.")
    ],
    out: Annotated[Path | None, typer.Option(help="Beside the bundle where not given.")] = None,
    camera: Annotated[str, typer.Option(help="Whose images these are; for the record.")] = "any",
    recipe: Annotated[str, typer.Option(help="For the record.")] = "default",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Set the threshold from normal images that did not train the bundle."""
    with console.working("loading torch"):
        from training.commands import calibrate_to

    with console.progress() as bars:
        report = calibrate_to(
            bundle, data, false_reject_rate, out, camera, recipe, dtype, device, bars.watch
        )
    if json:
        console.print_json(report)
    else:
        console.print_table(f"{report['file']}", report)


@app.command()
def evaluate(
    bundle: BundleFile,
    data: Data,
    calibration: CalibrationFile = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Write each test image with its heat map and regions here."),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure a bundle on test images with masks."""
    with console.working("loading torch"):
        from training.commands import evaluate_on, evaluation_table

    with console.progress() as bars:
        evaluation = evaluate_on(bundle, data, calibration, pictures, device, bars.watch)
    if json:
        console.print_json(evaluation.as_json())
    else:
        for title, rows in evaluation_table(evaluation):
            console.print_table(title, rows)


@app.command()
def inspect(
    bundle: BundleFile,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    calibration: CalibrationFile = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Write each image with its heat map and regions here.")
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Say of each image whether its surface is good."""
    with console.working("loading torch"):
        from training.commands import inspect_images

    with console.progress() as bars:
        inspected = inspect_images(bundle, images, calibration, pictures, device, bars.watch)
    if json:
        console.print_json({"images": inspected})
        return
    for one in inspected:
        colour = {"ok": "green", "defect": "red"}.get(str(one["outcome"]), "yellow")
        ratio, regions = one["score_ratio"], one["regions"]
        console.results.print(
            f"[{colour}]{one['outcome']:<11}[/] {ratio:8.3f} x threshold  {len(regions):2d} regions"
            f"  {one['image']}",
            soft_wrap=True,
            highlight=False,
        )


@app.command()
def run(
    config: Config,
    watch: Annotated[bool, typer.Option(help="Show the line on the terminal.")] = False,
) -> None:
    """Inspect a line until SIGTERM or Ctrl-C, or until every camera has shown its last frame."""
    from daemon.running import run_line

    run_line(config, watch=watch)


@app.command()
def check(config: Config, json: Json = False) -> None:
    """Say whether a configuration can be run here: opens the cameras, measures the machine."""
    from daemon.checking import check_line

    with console.working("opening the cameras and measuring the machine"):
        checked = check_line(config)
    if json:
        console.print_json(checked)
    else:
        console.print_table(f"{config} can be run", checked)


@app.command()
def ledger(
    state_dir: Annotated[Path, typer.Argument(help="A line's state folder.")], json: Json = False
) -> None:
    """Show what became of every frame, also while the line runs."""
    from daemon.records.ledger import Ledger, report

    told = report(Ledger(state_dir / "ledger", writable=False))
    if json:
        console.print_json(told)
    else:
        for camera, counts in told["cameras"].items():
            console.print_table(f"camera {camera}", counts)


@app.command()
def events(
    config: Config,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    source: Annotated[
        Source | None,
        typer.Option("--from", help="Kafka where the line has it, else its outbox."),
    ] = None,
    type_: Annotated[Type | None, typer.Option("--type", help="Of one topic only.")] = None,
    camera: Annotated[str | None, typer.Option(help="About one camera only.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="defect, up, down, gap, uninspected, summary, shed, …")
    ] = None,
    last: Annotated[int, typer.Option(min=0, help="So many of what is there already.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="One CloudEvent a line.")] = False,
) -> None:
    """Show what the plant is told, from Kafka, the outbox or the line's files; changes nothing.

    For example: clearline events line.toml --follow --type defect --camera left
    """
    from daemon.watch.follow import Filter, show_events

    where = Filter(type_, camera, kind)
    show_events(config, source, follow=follow, last=last, where=where, as_json=json)


@app.command()
def outbox(
    state_dir: Annotated[Path, typer.Argument(help="A line's state folder.")],
    requeue: Annotated[
        str | None,
        typer.Option(metavar="ID|all", help="Send a dead letter again, or all of them."),
    ] = None,
    json: Json = False,
) -> None:
    """Show which events wait, for whom and how long there is room, also while the line runs.

    A dead letter is an event that its receiver refused for good: too large, or not allowed. Mend
    the reason, then put it back with --requeue.
    """
    from daemon.records import outbox_report

    if requeue is not None:
        count = outbox_report.requeue(state_dir, outbox_report.letter(requeue))
        done = f"{count} put back; the line sends them within seconds"
        console.remarks.print(done if count else "no dead letters of a sink that the line has")
    told = outbox_report.report(state_dir)
    if json:
        console.print_json(told)
    else:
        for title, rows in outbox_report.tables(told):
            console.print_table(title, rows)


@app.command()
def reproduce(
    event_id: Annotated[str, typer.Argument(help="Of a defect event: LINE/CAMERA/EPOCH/SEQUENCE.")],
    config: Config,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Score a defect's stored frame again, and say whether the score is the same.

    Exit code 1 where it is not.
    """
    from daemon.reproducing import reproduce_event

    with console.working("loading torch"):
        told = reproduce_event(event_id, config, device)
    if json:
        console.print_json(told)
    else:
        console.print_table(event_id, told)
    if not told["same"]:
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit codes: 0 done, 1 the work failed, 2 wrong usage or configuration."""
    try:
        sys.exit(app(args=arguments, prog_name="clearline", standalone_mode=False) or 0)
    except NoArgsIsHelpError as error:
        sys.stdout.write(f"{error.format_message()}\n")
        sys.exit(2)
    except ClickException as error:
        _end(f"{error.format_message()} (see clearline --help)", 2)
    except clearline.Error as error:
        _end(str(error), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _end("interrupted", 1)


def _end(line: str, exit_code: int) -> NoReturn:
    sys.stderr.write(f"clearline: {line}\n")
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
