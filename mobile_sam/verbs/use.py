"""Verbs that use a model: a run's final weights, or any others."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobile_sam.config import ConfigError
from mobile_sam.fetch import fetched_weights
from mobile_sam.files import file_digest
from mobile_sam.process import end_with_parent
from mobile_sam.runs import load_settings
from mobile_sam.verbs.verb import DEVICE, Arguments, Verb

if TYPE_CHECKING:
    from mobile_sam.data.records import Record
    from mobile_sam.inference.requested import Requested
    from mobile_sam.models.sam import Sam

# Imports of torch stay inside the verbs: the others start faster.


def export(args: Arguments) -> None:
    config = load_settings(args.config) if args.config else None
    directory = args.onnx or args.web
    if args.runtime and not args.web:
        raise ConfigError("--runtime goes with --web DIRECTORY")
    if directory:
        from mobile_sam.inference.onnx.verb import Web, export_bundle

        web = Web(args.runtime) if args.web else None
        forms = [form for form in ("float16", "int8") if getattr(args, form)]
        weights = fetched_weights(args.weights) if args.weights else None
        size, kind = args.img_size, args.model_type
        count = args.calibration_images
        given = (directory, config, weights, size, kind, forms, args.images, count)
        print(export_bundle(*given, web))
    elif config is None or args.float16 or args.int8 or args.images:
        raise ConfigError(
            "--weights, --float16, --int8 and --images go with --onnx DIRECTORY or --web DIRECTORY"
        )
    else:
        from mobile_sam.training.export import export_weights

        end_with_parent()
        export_weights(config)


def predict(args: Arguments) -> None:
    from mobile_sam.inference.prediction import predict_files
    from mobile_sam.inference.prompt import prompts_of

    prompts = prompts_of(args.box, args.point, args.background)
    model, source = _model(args)
    for path in predict_files(model, args.image, prompts, args.out, source, args.multimask):
        print(path)


def segment(args: Arguments) -> None:
    from mobile_sam.data.index import DatasetError
    from mobile_sam.data.records import find_unlabelled
    from mobile_sam.inference.folder import segment_directory

    images = find_unlabelled(args.images)
    if not images.records:
        raise DatasetError("\n".join(images.problems))
    requested = _requested(args, images.records)
    model, source = _model(args)
    print(segment_directory(model, images, args.out, requested, source, args.overlays))


def _requested(args: Arguments, images: list["Record"]) -> "Requested":
    """Everything, or what is in the boxes of a file."""
    from mobile_sam.data.boxes import read_boxes
    from mobile_sam.inference.proposals import AutomaticOptions
    from mobile_sam.inference.requested import Everything, InBoxes

    asked = {name: getattr(args, name) for name in AUTOMATIC}
    if args.boxes:
        of_grid = [name for name in AUTOMATIC if asked[name] != AUTOMATIC[name][1]]
        if of_grid:
            raise ConfigError(f"--{of_grid[0].replace('_', '-')} is of a grid; leave out --boxes")
        return InBoxes(read_boxes(args.boxes, images))
    try:
        return Everything(AutomaticOptions(points_per_batch=None, **asked))
    except ValueError as error:
        raise ConfigError(f"segment: {error}") from error


def _model(args: Arguments) -> tuple["Sam", dict[str, Any]]:
    """The model that is asked for, where it is to run, and what tells it from others."""
    from mobile_sam.inference.loading import build_sam, weights_of_run
    from mobile_sam.models.device import given_device

    device = given_device(args.device)
    weights = weights_of_run(args.run) if args.run else fetched_weights(args.weights)
    model = build_sam(weights, args.img_size).to(device)
    if args.mask_threshold is not None:
        model.mask_threshold = args.mask_threshold
    source = {
        "weights": str(weights),
        "sha256": file_digest(weights),
        "img_size": model.img_size,
        "mask_threshold": model.mask_threshold,
    }
    return model, source


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    of = parser.add_mutually_exclusive_group(required=True)
    of.add_argument("--config", type=Path, help="the run.json of a run")
    of.add_argument("--weights", help="a file or known name; only with --onnx, --web")
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group()
    directory: dict[str, Any] = {"type": Path, "metavar": "DIRECTORY"}
    what.add_argument("--onnx", **directory, help="write a bundle there, not weights.pt")
    what.add_argument("--web", **directory, help="write a page there that runs a bundle")
    add("--runtime", type=Path, metavar="FILE", help="onnxruntime-web's archive; default: by npm")
    add("--float16", action="store_true", help="in the bundle, too")
    add("--int8", action="store_true", help="in the bundle, too")
    add("--images", type=Path, help="that calibrate and judge; default: those of the run")
    add("--calibration-images", type=int, default=32, help="at most; default: %(default)s")
    add("--img-size", type=int, default=1024, help="of --weights, in pixels; default: 1024")
    add("--model-type", help="of --weights; default: as their tensors say")


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    of = parser.add_mutually_exclusive_group(required=True)
    of.add_argument("--run", help="a finished run: its name, or the path of its directory")
    of.add_argument("--weights", help="a file or known name, of MobileSAM or SAM too")
    add = parser.add_argument
    add("--img-size", type=int, help="pixels of the longest side; default: the run's, or 1024")
    add("--mask-threshold", type=float, help="of mask logits; default: the run's, or 0")
    add("--device", help=DEVICE)


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    _model_arguments(parser)
    add = parser.add_argument
    add("--image", type=Path, required=True, help="PNG, JPEG, TIFF, BMP or WebP")
    box, point = ("X0", "Y0", "X1", "Y1"), ("X", "Y")
    several: dict[str, Any] = {"type": float, "action": "append", "default": []}
    add("--box", nargs=4, metavar=box, help="around a thing, in pixels; may be repeated", **several)
    add("--point", nargs=2, metavar=point, help="on the thing; may be repeated", **several)
    add("--background", nargs=2, metavar=point, help="beside it; may be repeated", **several)
    add("--multimask", action="store_true", help="three masks, for a prompt that may mean several")
    add("--out", type=Path, default=Path("prediction"), help="a directory; default: %(default)s")


# Options of automatic masks, as the API has them: type, default and help of each.
AUTOMATIC: dict[str, tuple[type, float | None, str]] = {
    "points_per_side": (int, 32, "points of the grid along each side"),
    "pred_iou_thresh": (float, 0.88, "masks of higher predicted IoU are kept; 0: all"),
    "stability_score_thresh": (float, 0.95, "masks at least as stable are kept; 0: all"),
    "box_nms_thresh": (float, 0.7, "of masks whose boxes overlap more the best is kept"),
    "crop_n_layers": (int, 0, "layers of crops that are searched, too"),
    "min_mask_region_area": (int, 0, "smaller holes and islands are removed, in pixels"),
    "coarse_points_per_side": (int, None, "of a grid that is asked first"),
}


def _segment_arguments(parser: argparse.ArgumentParser) -> None:
    _model_arguments(parser)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="a directory; those below it count, too")
    add("--boxes", type=Path, metavar="PATH", help="ask for these: a COCO file, or YOLO's labels")
    add("--out", type=Path, default=Path("segmentation"), help="default: %(default)s")
    add("--no-overlays", dest="overlays", action="store_false", help="write no pictures")
    for name, (kind, default, text) in AUTOMATIC.items():
        told = f"{text}; default: %(default)s"
        add(f"--{name.replace('_', '-')}", type=kind, default=default, metavar="N", help=told)


VERBS = {
    "export": Verb(
        export,
        "write weights.pt for the original code, a bundle of ONNX files, or a web page",
        "export --config results/mobile_sam/my_run/run.json --onnx bundle --int8",
        _export_arguments,
    ),
    "predict": Verb(
        predict,
        "write the masks of boxes and points on an image",
        "predict --run my_run --image photo.jpg --box 40 30 200 180 --out prediction",
        _predict_arguments,
    ),
    "segment": Verb(
        segment,
        "write the masks of everything in the images of a directory, or of given boxes",
        "segment --run my_run --images photos --out segmentation --pred-iou-thresh 0.7",
        _segment_arguments,
    ),
}
