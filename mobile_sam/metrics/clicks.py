"""Number of clicks: how many clicks a user needs to reach a given IoU."""

from collections.abc import Sequence


def number_of_clicks(ious: Sequence[float], target: float, max_clicks: int = 20) -> int:
    """Return the clicks until the IoU first reaches the target, or `max_clicks` if it never does.

    ious: after 1, 2, ... clicks of one session, at most `max_clicks`; fewer if the session ended
        earlier. NoC@90 is the mean over objects for a target of 0.9 (Xu et al. 2016,
        arXiv:1603.04042; counted as in f-BRS, arXiv:2001.10331, and RITM, arXiv:2102.06583).
    Raises ValueError for more than `max_clicks` clicks.
    """
    if len(ious) > max_clicks:
        raise ValueError(f"the session has {len(ious)} clicks; give the first {max_clicks}")
    return next((n for n, iou in enumerate(ious, start=1) if iou >= target), max_clicks)
