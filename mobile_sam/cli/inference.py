"""Commands that use a model: the final weights of a run, or any others."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobile_sam.cli.command import DATA, DEVICE, OUT, Arguments, Command, data_options, number, path
from mobile_sam.config.load import load_settings
from mobile_sam.download.files import fetched_weights
from mobile_sam.system.atomic_files import file_digest
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.outputs import check_beside, check_output, claim_output
from mobile_sam.system.paths import (
    existing_directory,
    existing_file,
    existing_path,
    output_directory,
)
from mobile_sam.system.process import end_with_parent

if TYPE_CHECKING:
    from mobile_sam.data.record import Record
    from mobile_sam.inference.mask_sources import MaskSource
    from mobile_sam.models.sam import Sam

# Imports of torch are inside the commands, so that the other commands start faster.


def export(args: Arguments) -> None:
    config = load_settings(args.config) if args.config else None
    directory = args.onnx or args.web
    if args.stage and (directory or config is None):
        raise ConfigError("--stage needs --config, and neither --onnx nor --web")
    if args.runtime and not args.web:
        raise ConfigError("--runtime needs --web DIRECTORY")
    if args.images:
        existing_directory(args.images, "--images")
    if args.runtime:
        existing_file(args.runtime, "--runtime")
    if directory:
        output_directory(directory, "--onnx" if args.onnx else "--web")
        from mobile_sam.export.command import WebOptions, export_bundle

        web = WebOptions(args.runtime) if args.web else None
        precisions = [name for name in ("float16", "int8") if getattr(args, name)]
        weights = fetched_weights(args.weights, "--weights") if args.weights else None
        print(
            export_bundle(
                directory,
                config,
                weights,
                args.img_size,
                args.model_type,
                precisions,
                args.images,
                args.calibration_images,
                web,
            )
        )
    elif config is None or args.float16 or args.int8 or args.images:
        raise ConfigError(
            "--weights, --float16, --int8 and --images need --onnx DIRECTORY or --web DIRECTORY"
        )
    else:
        from mobile_sam.training.export import export_stage, export_weights

        end_with_parent()
        if args.stage:
            export_stage(config, args.stage)
        else:
            export_weights(config)


def predict(args: Arguments) -> None:
    from mobile_sam.inference.prediction_files import is_prediction_file
    from mobile_sam.inference.prompt import build_prompts

    existing_file(args.image, "--image")
    output_directory(args.out, "--out")
    check_beside(args.out, "--out", args.image)
    check_output(args.out, "--out", is_prediction_file)
    prompts = build_prompts(args.box, args.point, args.background)
    model, source = _model(args)
    from mobile_sam.inference.prediction import predict_files

    for written in predict_files(model, args.image, prompts, args.out, source, args.multimask):
        print(written)


def segment(args: Arguments) -> None:
    from mobile_sam.data.index.table import DatasetError
    from mobile_sam.data.records import find_unlabelled
    from mobile_sam.inference.folder import OutputFolder, segment_directory

    existing_directory(args.images, "--images")
    if args.boxes:
        existing_path(args.boxes, "--boxes")
    output_directory(args.out, "--out")
    check_beside(args.out, "--out", args.images)
    if args.out.is_dir():  # earlier versions wrote no mark; its files must not be read as images
        claim_output(args.out, "--out", OutputFolder(args.out).is_own)
    images = find_unlabelled(args.images)
    if not images.records:
        raise DatasetError("\n".join(images.problems))
    mask_source = _mask_source(args, images.records)
    model, source = _model(args)
    tile = getattr(model.image_options, "tile", None)
    source["tile"] = None if tile is None else tile.model_dump()
    if args.boxes and tile is not None:
        raise ConfigError(
            "--boxes: boxes are in whole images, and data.tile cuts them; give --data "
            "'{\"tile\": null}' to resize whole images"
        )
    print(segment_directory(model, images, args.out, mask_source, source, args.overlays))


def _mask_source(args: Arguments, images: list["Record"]) -> "MaskSource":
    """Return the source of masks: automatic masks, or the boxes of a file."""
    from mobile_sam.data.formats.boxes import read_boxes
    from mobile_sam.inference.mask_sources import AutomaticSource, BoxSource
    from mobile_sam.inference.proposals import AutomaticOptions

    options = {name: getattr(args, name) for name in AUTOMATIC}
    if args.boxes:
        changed = [name for name in AUTOMATIC if options[name] != AUTOMATIC[name][1]]
        if changed:
            option = f"--{changed[0].replace('_', '-')}"
            raise ConfigError(f"{option} is an option of automatic masks; leave out --boxes")
        return BoxSource(read_boxes(args.boxes, images))
    try:
        return AutomaticSource(AutomaticOptions(points_per_batch=None, **options))
    except ValueError as error:
        raise ConfigError(f"segment: {error}") from error


def _model(args: Arguments) -> tuple["Sam", dict[str, Any]]:
    """Return the requested model on its device, and the values that identify it in outputs."""
    from mobile_sam.inference.loading import build_sam, weights_of_run  # isort: skip
    from mobile_sam.data.index.table import options_metadata
    from mobile_sam.models.device import given_device

    device = given_device(args.device)
    weights = weights_of_run(args.run) if args.run else fetched_weights(args.weights, "--weights")
    model = build_sam(weights, args.img_size).to(device)
    if args.mask_threshold is not None:
        model.mask_threshold = args.mask_threshold
    if args.data is not None:
        model.image_options = data_options(args.data)
    source = {
        "weights": str(weights),
        "sha256": file_digest(weights),
        "img_size": model.img_size,
        "mask_threshold": model.mask_threshold,
        **options_metadata(model.image_options),
    }
    return model, source


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    source = model.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", type=path, help="run.json of a finished run")
    source.add_argument("--weights", help="weight file or known name; needs --onnx or --web")
    model.add_argument(
        "--img-size",
        type=int,
        default=1024,
        help="input size for --weights, in pixels; default: 1024",
    )
    model.add_argument(
        "--model-type", help="architecture of --weights; default: detected from the tensors"
    )
    model.add_argument(
        "--stage", help="write the weights after a stage, NN_name, not the final ones"
    )
    output = parser.add_argument_group("output")
    target = output.add_mutually_exclusive_group()
    directory: dict[str, Any] = {"type": path, "metavar": "DIRECTORY"}
    target.add_argument("--onnx", **directory, help="write an ONNX bundle to DIRECTORY")
    target.add_argument("--web", **directory, help="write a web page with the bundle to DIRECTORY")
    add = output.add_argument
    add(
        "--runtime",
        type=path,
        metavar="FILE",
        help="archive of onnxruntime-web; default: fetched with npm",
    )
    add("--float16", action="store_true", help="add 16-bit files to the bundle")
    add("--int8", action="store_true", help="add 8-bit files to the bundle")
    add("--images", type=path, help="images for calibration and comparison; default: the run's")
    add(
        "--calibration-images",
        type=int,
        default=32,
        help="maximum number of these images; default: %(default)s",
    )


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    source = model.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", help="name of a finished run, or path of its directory")
    source.add_argument(
        "--weights", help="weight file or known name; MobileSAM's and SAM's work too"
    )
    add = model.add_argument
    add("--img-size", type=int, help="input size in pixels; default: the run's, or 1024")
    add("--mask-threshold", type=number, help="threshold of mask logits; default: the run's, or 0")
    add("--device", help=DEVICE)


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    _model_arguments(parser)
    files = parser.add_argument_group("input and output").add_argument
    files("--image", type=path, required=True, help="image file: PNG, JPEG, TIFF, BMP or WebP")
    files("--data", metavar="JSON", help=f"{DATA}; default: the run's")
    files("--out", type=path, default=Path("prediction"), help=OUT)
    add = parser.add_argument_group("prompts").add_argument
    box, point = ("X0", "Y0", "X1", "Y1"), ("X", "Y")
    repeatable: dict[str, Any] = {"type": number, "action": "append", "default": []}
    add(
        "--box",
        nargs=4,
        metavar=box,
        help="box around an object, in pixels; repeatable",
        **repeatable,
    )
    add("--point", nargs=2, metavar=point, help="point on the object; repeatable", **repeatable)
    add(
        "--background",
        nargs=2,
        metavar=point,
        help="point on the background; repeatable",
        **repeatable,
    )
    add("--multimask", action="store_true", help="write three masks for each prompt")


# Options of automatic masks, named as in the API: type, default and help of each.
AUTOMATIC: dict[str, tuple[Callable[[str], float], float | None, str]] = {
    "points_per_side": (int, 32, "grid points along each side"),
    "pred_iou_thresh": (number, 0.88, "minimum predicted IoU of a mask; 0 keeps all masks"),
    "stability_score_thresh": (
        number,
        0.95,
        "minimum stability score of a mask; 0 keeps all masks",
    ),
    "box_nms_thresh": (number, 0.7, "maximum IoU between the boxes of two masks"),
    "crop_n_layers": (int, 0, "layers of image crops that are segmented as well"),
    "min_mask_region_area": (int, 0, "holes and islands below this area, in pixels, are removed"),
    "coarse_points_per_side": (
        int,
        None,
        "points per side of a coarse first grid; unset: no such grid",
    ),
}


def _segment_arguments(parser: argparse.ArgumentParser) -> None:
    _model_arguments(parser)
    files = parser.add_argument_group("input and output").add_argument
    files("--images", type=path, required=True, help="directory of images; subdirectories included")
    files("--data", metavar="JSON", help=f"{DATA}; default: the run's")
    files(
        "--boxes", type=path, metavar="PATH", help="segment these boxes: a COCO file or YOLO labels"
    )
    files("--out", type=path, default=Path("segmentation"), help=OUT)
    files(
        "--no-overlays", dest="overlays", action="store_false", help="do not write overlay images"
    )
    add = parser.add_argument_group("automatic masks, without --boxes").add_argument
    for name, (parse, default, text) in AUTOMATIC.items():
        option, meaning = f"--{name.replace('_', '-')}", f"{text}; default: %(default)s"
        add(option, type=parse, default=default, metavar="N", help=meaning)


COMMANDS = {
    "export": Command(
        export,
        "write weights.pt for the original code, a bundle of ONNX files, or a web page",
        "export --config results/mobile_sam/my_run/run.json --onnx bundle --int8",
        _export_arguments,
    ),
    "predict": Command(
        predict,
        "segment objects of one image, given boxes or points",
        "predict --run my_run --image photo.jpg --box 40 30 200 180 --out prediction",
        _predict_arguments,
    ),
    "segment": Command(
        segment,
        "segment all objects in the images of a directory, or those in given boxes",
        "segment --run my_run --images photos --out segmentation --pred-iou-thresh 0.7",
        _segment_arguments,
    ),
}
