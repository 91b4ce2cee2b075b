"""What the app refuses: files that nobody uploaded, a machine without gradio, a port in use."""

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mobile_sam.app.images import AppImage, example_images
from mobile_sam.app.predictor_cache import PredictorCache
from mobile_sam.app.serving import serve_page
from mobile_sam.config.run import RunConfig
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import UserError
from tests.helpers.commands import verb


def test_only_files_that_were_uploaded_are_read(
    predictors: PredictorCache, image: AppImage, tmp_path: Path
) -> None:
    from mobile_sam.app.handlers import Handlers

    assert image.record is not None
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    handlers = Handlers(predictors, [], uploads)
    (uploads / "a.png").write_bytes(image.record.path.read_bytes())
    (uploads / "link.png").symlink_to(image.record.path)
    for path in (image.record.path, uploads / ".." / "x.png", uploads / "link.png", None):
        event = SimpleNamespace(_data={"path": path and str(path), "name": "x.png"})
        with pytest.raises(UserError, match="path: not a file that was uploaded"):
            next(handlers.open_upload(["start"], event))
    event = SimpleNamespace(_data={"path": str(uploads / "a.png"), "name": "mine.png"})
    session, canvas, _ = next(handlers.open_upload(["start"], event))
    assert (session.image.name, session.image.key) == ("mine", image.key)
    assert (canvas["title"], canvas["width"], canvas["boxes"]) == ("mine", 64, [])


def test_a_prompt_on_a_picture_that_is_gone_is_not_answered(
    predictors: PredictorCache, trained: RunConfig, tmp_path: Path
) -> None:
    from mobile_sam.app.handlers import Handlers

    handlers = Handlers(predictors, example_images(trained), tmp_path)
    *_, (session, _, _) = handlers.open_example(["start"], SimpleNamespace(_data={"number": 1}))
    said = {"points": [[1, 2, 1]], "box": None, "request": 2}
    for number, steps in ((session.number, 1), (session.number - 1, 0)):
        event = SimpleNamespace(_data=said | {"number": number})
        assert len(list(handlers.predict(session, ["start"], False, event))) == steps
    for turn, steps in ((4, 1), (3, 0)):  # in another order than they were sent
        event = SimpleNamespace(_data=said | {"number": session.number, "request": turn})
        assert len(list(handlers.predict(session, ["start"], False, event))) == steps
    handlers.supersede(session, SimpleNamespace(_data={"request": 6}))
    event = SimpleNamespace(_data=said | {"number": session.number, "request": 5})
    assert list(handlers.predict(session, ["start"], False, event)) == []
    assert len(list(handlers.predict_again(session, ["start"], False))) == 1


def test_a_wrong_file_is_called_by_the_name_it_was_given(
    predictors: PredictorCache, tmp_path: Path
) -> None:
    from mobile_sam.app.handlers import Handlers

    (tmp_path / "9f3c.png").write_text("no image")
    event = SimpleNamespace(_data={"path": str(tmp_path / "9f3c.png"), "name": "mine.png"})
    with pytest.raises(UserError, match=r"^mine\.png: the image cannot be read"):
        next(Handlers(predictors, [], tmp_path).open_upload(["start"], event))


def test_without_gradio_a_sentence_says_what_to_install(
    predictors: PredictorCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    for module in ("page", "handlers"):
        monkeypatch.delitem(sys.modules, f"mobile_sam.app.{module}", raising=False)
    context = serve_page(predictors, [], "tiny")
    with pytest.raises(UserError, match=r"needs gradio.*pip install -e '\.\[app\]'"), context:
        pass


def test_a_port_in_use_is_one_line(trained: RunConfig) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = verb("app", "--run", RunPaths(trained).run, "--port", port)
    assert result.returncode == 1
    assert f"--port {port}: in use by another program" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_run_is_one_line(tmp_path: Path) -> None:
    result = verb("app", "--run", "no_such_run", cwd=tmp_path)
    assert result.returncode == 1
    assert "run: there is no 'no_such_run' in results/mobile_sam" in result.stderr
    assert "Traceback" not in result.stderr
