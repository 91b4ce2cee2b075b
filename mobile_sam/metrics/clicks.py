"""Number of clicks: how long a person would click until the mask is good enough."""

from collections.abc import Sequence


def number_of_clicks(ious: Sequence[float], target: float, most: int = 20) -> int:
    """The clicks after which the IoU first reached the target; `most` when it never did.

    ious: after 1, 2, ... clicks of one session, up to `most`; less of them where the session ended
        before. NoC@90 is the mean over objects for a target of 0.9 (Xu et al. 2016,
        arXiv:1603.04042; counted as in f-BRS, arXiv:2001.10331, and RITM, arXiv:2102.06583).
    Raises ValueError for more than `most` clicks.
    """
    if len(ious) > most:
        raise ValueError(f"the session has {len(ious)} clicks; give the first {most}")
    return next((n for n, iou in enumerate(ious, start=1) if iou >= target), most)
