"""``flexiast train``: a flexible checkpoint from sounds in folders, a CSV or shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexiast.extras import require
from flexiast.storage import parse_place
from flexiast_cli.commands.train.options import Execution, Sources
from flexiast_cli.options.validators import positive, worker_count


def train(
    data: Annotated[
        str,
        typer.Argument(
            help="Folder of folders named by label, a CSV (path,label,split|fold), or shards, which may be a URL."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run: best checkpoint, metrics, state to resume.")
    ],
    config: Annotated[
        Path | None, typer.Option("--config", help="Recipe (TOML) with everything below and more; options override it.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="pico, nano, tiny, small, base; or a teacher: convnet, convnet-wide.", show_default="nano"
        ),
    ] = None,
    patch_sizes: Annotated[
        str | None,
        typer.Option(
            "--patch-sizes",
            help="Sizes to train, e.g. 8,16,16x32; 16:2 is drawn twice as often.",
            show_default="8 … 48, as fit",
        ),
    ] = None,
    base_patch: Annotated[
        str | None,
        typer.Option("--base-patch", help="Size at which kernel and positions are stored.", show_default="16"),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(
            "--window",
            callback=positive,
            help="Seconds of audio classified at once.",
            show_default="the median clip; 5 where that lasts more than 10",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            min=1,
            help="Passes over the training clips.",
            show_default="about 4 minutes on two cores; from scratch 100, or as many as make 3,000 steps",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Clips in a step.", show_default="32")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Highest learning rate of the run.", show_default="0.001")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            help="Checkpoint or shipped model to start from; `none` trains from scratch.",
            show_default="the shipped model that suits the clips best; `none` where --config is given",
        ),
    ] = None,
    teachers: Annotated[
        list[Path] | None,
        typer.Option(
            "--teacher",
            help="Checkpoint on the same labels whose scores are learnt too; of several, their mean. Or a .tflite or "
            ".onnx model of waveform → scores, whose embedding is learnt too.",
        ),
    ] = None,
    teacher_labels: Annotated[
        Path | None,
        typer.Option(
            "--teacher-labels",
            help="Labels of a .tflite or .onnx teacher, a CSV (display_name) or lines: then DATA is any folder of "
            "recordings without labels, and its scores are learnt.",
        ),
    ] = None,
    teacher_rate: Annotated[
        int | None,
        typer.Option(
            "--teacher-rate",
            min=1_000,
            max=192_000,
            help="Sample rate in Hz of such a teacher, where it does not state it.",
        ),
    ] = None,
    background: Annotated[
        list[Path] | None,
        typer.Option(
            "--background",
            help="Recordings of any length in which none of the labels sounds, a file or a folder; may be repeated.",
        ),
    ] = None,
    val_fold: Annotated[
        str | None,
        typer.Option("--val-fold", help="Fold that validates, for a CSV with folds.", show_default="the last"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Of everything that is random.", show_default="0")
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", min=0, callback=worker_count, help="Processes that prepare batches ahead, if cores are free."
        ),
    ] = 0,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the blocks first, a minute or two; worth it on a GPU only.")
    ] = False,
    bf16: Annotated[
        bool | None,
        typer.Option(
            "--bf16/--no-bf16",
            help="Compute in bfloat16 or in float32 on a CPU.",
            show_default="bfloat16 where the processor has AVX-512 BF16 or AMX",
        ),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write events for TensorBoard too.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the output folder, to the same weights.")
    ] = False,
) -> None:
    """Train a flexible checkpoint on your own sounds.

    Training starts at one patch size; then each step draws one of all. The validation split is measured at all sizes,
    and OUTPUT/checkpoint.safetensors keeps the best mean. Under torchrun, every process takes its share of each step.
    """
    from flexiast_cli.commands.train.recipe import compose_recipe

    recipe = compose_recipe(
        config,
        model=model,
        patch_sizes=patch_sizes,
        base_patch=base_patch,
        window_s=window,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    require("torch", "train")
    if tensorboard:
        require("tensorboard", "tensorboard")

    from flexiast_cli.commands.train.run import run

    sources = Sources(
        parse_place(data),
        val_fold,
        init,
        tuple(teachers or ()),
        tuple(background or ()),
        config is not None,
        teacher_labels,
        teacher_rate,
    )
    run(sources, output, recipe, Execution(workers, compiled, bf16, resume, tensorboard))
