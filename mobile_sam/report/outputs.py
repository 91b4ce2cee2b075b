"""Names of the figures that a report draws, known before any evaluation."""

from collections.abc import Sequence

from mobile_sam.config.run import RunConfig


def report_pictures(config: RunConfig) -> dict[str, str]:
    """Return the figures that a report always draws with these settings: file stems and titles."""
    pictures = {
        "results": "results",
        "differences": "significance of differences",
        "sizes": "by object size",
        "iou_histogram": "distribution of IoU",
        "calibration": "calibration of the predicted IoU",
        "thresholds": "mask threshold",
        "epochs": "training",
        "data": "data",
    }
    if {"clicks", "noc"} & set(config.protocols):
        pictures["clicks"] = "corrective clicks"
    if config.benchmark_repeats:
        pictures["quality_and_cost"] = "accuracy and latency"
    if config.report_examples:
        pictures |= {
            f"gallery_{group}": f"images: {text}"
            for group, text in (
                ("best", "the best"),
                ("median", "the median"),
                ("worst", "the worst"),
                ("worse", "where a stage reduced mean IoU"),
            )
        }
    return pictures


def comparison_pictures(configs: Sequence[RunConfig]) -> dict[str, str]:
    """Return the figures of a report that compares several runs, like `report_pictures`."""
    pictures = {k: v for config in configs for k, v in report_pictures(config).items()}
    gallery = configs[0].report_examples > 0
    return {k: v for k, v in pictures.items() if gallery or not k.startswith("gallery_")}
